//! `/events`: the status as server-sent events, for the page and for who follows it.
//!
//! Each event is the whole of `/status`, sent when anything in it but the time changed, at most
//! once a second. Invariants: while nobody listens nothing is made; a listener that reads slowly
//! misses states and never gets old ones in a row; listeners are few, and memory is bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::status::Status;

/// Streams at once. Whoever comes later asks `/status` now and then.
const LISTENERS: usize = 16;
/// Between two events at least.
const TICK: Duration = Duration::from_secs(1);
/// Without news a comment is sent this often: who listens knows that the line is alive.
const BEAT: Duration = Duration::from_secs(10);

/// The one source of all event streams.
pub struct Events {
    told: watch::Sender<Bytes>,
    places: Arc<Semaphore>,
}

impl Events {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self {
            told: watch::Sender::new(Bytes::new()),
            places: Arc::new(Semaphore::new(LISTENERS)),
        }
    }

    /// Looks at the status every second while somebody listens, for ever.
    pub async fn run(&self, status: impl Fn() -> Status) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = String::new();
        loop {
            ticks.tick().await;
            if self.told.receiver_count() == 0 {
                last.clear();
                self.told.send_replace(Bytes::new());
                continue;
            }
            let mut status = status();
            let event = event(&status);
            status.time.clear();
            let same = serde_json::to_string(&status).unwrap_or_default();
            if same != last {
                last = same;
                self.told.send_replace(event);
            }
        }
    }

    /// A stream of events that begins with `first`; `None`: there are too many.
    pub fn listen(&self, first: &Status) -> Option<Listener> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let (into, from) = mpsc::channel(1);
        tokio::spawn(tell(event(first), self.told.subscribe(), into, place));
        Some(Listener { from })
    }
}

/// Tells one listener until it leaves.
async fn tell(
    first: Bytes,
    mut told: watch::Receiver<Bytes>,
    into: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    let mut next = first;
    while into.send(next).await.is_ok() {
        next = tokio::select! {
            () = into.closed() => break,
            () = sleep(BEAT) => Bytes::from_static(b": alive\n\n"),
            changed = told.changed() => {
                if changed.is_err() {
                    break;
                }
                told.borrow_and_update().clone()
            }
        };
    }
    drop(place);
}

fn event(status: &Status) -> Bytes {
    let text = serde_json::to_string(status).unwrap_or_default();
    Bytes::from(format!("event: status\ndata: {text}\n\n"))
}

/// The body of one event stream.
#[derive(Debug)]
pub struct Listener {
    from: mpsc::Receiver<Bytes>,
}

impl Body for Listener {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let event = std::task::ready!(self.from.poll_recv(context));
        Poll::Ready(event.map(|bytes| Ok(Frame::data(bytes))))
    }
}
