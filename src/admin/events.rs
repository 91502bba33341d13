//! `GET /events`: changes as they happen, as server-sent events.
//!
//! Owns the listeners; their number and what waits for each is bounded. A listener that falls
//! behind is told to look at `/status` again, never buffered for.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Either;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval_at};

use super::history::Change;
use super::{Admin, Answer, TEXT, reply};

/// Pages that listen at once; connections are more, so that a page more does not lock others out.
const LISTENERS: usize = 16;
/// Changes that wait for a slow listener.
const BACKLOG: usize = 64;
/// Proxies close what is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Who listens.
#[derive(Debug)]
pub(super) struct Events {
    changes: broadcast::Sender<Arc<Change>>,
    places: Arc<Semaphore>,
}

/// The body of an answer that goes on.
#[derive(Debug)]
pub(super) struct Stream {
    pieces: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            changes: broadcast::Sender::new(BACKLOG),
            places: Arc::new(Semaphore::new(LISTENERS)),
        }
    }

    pub(super) fn tell(&self, change: Change) {
        // Without a listener it is no news to anybody.
        let _ = self.changes.send(Arc::new(change));
    }

    /// Whether anybody listens.
    pub(super) fn are_heard(&self) -> bool {
        self.changes.receiver_count() > 0
    }
}

impl Admin {
    pub(super) fn listen(&self) -> Answer {
        let Ok(place) = Arc::clone(&self.events.places).try_acquire_owned() else {
            let text = format!("{LISTENERS} listen already\n");
            return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
        };
        let (to, pieces) = mpsc::channel(BACKLOG);
        let hello = serde_json::json!({
            "instance": self.instance,
            "generation": self.store.live().snapshot.generation,
            "id": self.history.last(),
        });
        let hello = format!("retry: 2000\nevent: hello\ndata: {hello}\n\n");
        tokio::spawn(feed(self.events.changes.subscribe(), to, hello));
        let stream = Stream {
            pieces,
            _place: place,
        };
        let mut answer = Response::new(Either::Right(stream));
        let kind = HeaderValue::from_static("text/event-stream");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }
}

/// Passes changes on until the listener is gone, or takes nothing for a whole heartbeat.
async fn feed(
    mut changes: broadcast::Receiver<Arc<Change>>,
    to: mpsc::Sender<Bytes>,
    hello: String,
) {
    let mut next = hello;
    let mut beats = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if to.send_timeout(next.into(), HEARTBEAT).await.is_err() {
            return;
        }
        next = tokio::select! {
            change = changes.recv() => match change {
                Ok(change) => event(&change),
                Err(RecvError::Lagged(_)) => "event: missed\ndata: {}\n\n".to_owned(),
                Err(RecvError::Closed) => return,
            },
            _ = beats.tick() => ": beat\n\n".to_owned(),
            () = to.closed() => return,
        };
    }
}

fn event(change: &Change) -> String {
    // One line, as JSON has no line's end in its strings.
    let data = serde_json::to_string(change).unwrap_or_default();
    format!("id: {}\nevent: change\ndata: {data}\n\n", change.id)
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
