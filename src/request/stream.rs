//! The body that the client reads: piped as it comes, with its end recorded.
//!
//! Invariants: the client sees a clean end only if the upstream gave one, and if a model's stream said
//! that it is complete; the connection goes
//! back to its endpoint only then; dropping the body (the client left) closes the connection at
//! once, which is the only cancel signal that Ollama knows.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::beat::Beats;
use super::peer::{Peer, Timer};
use super::record::{End, Record};
use crate::api::stream::{Ending, Watcher};
use crate::endpoint::connection::Connection;
use crate::endpoint::live::Endpoint;
use crate::words::clock::{Alarm, Deadline};
use crate::words::outcome::{Failure, Kind};

/// The body of an answer from upstream.
pub(super) enum Coming {
    /// As it comes.
    Stream(Incoming),
    /// Read already.
    Read(Bytes),
    /// Read in part.
    Begun(Bytes, Incoming),
}

/// The body of an answer to the client.
pub(super) enum Downstream {
    /// Ours.
    Own(Bytes),
    /// The upstream's.
    Passing(Box<Passing>),
}

/// An upstream's body on its way through.
pub(super) struct Passing {
    body: Coming,
    connection: Option<Connection>,
    endpoint: Arc<Endpoint>,
    record: Option<Box<Record>>,
    watch: Watch,
    peer: Arc<Peer>,
    look: Timer,
    /// Reads a model's answer along.
    watcher: Option<Box<Watcher>>,
    /// When the first piece of a model's stream came.
    first: Option<Instant>,
    /// Why it is broken off, as soon as what came before was sent.
    breaks: Option<Failure>,
}

impl Passing {
    pub(super) fn new(
        body: Coming,
        connection: Option<Connection>,
        endpoint: Arc<Endpoint>,
        record: Box<Record>,
        watch: Watch,
        peer: Arc<Peer>,
    ) -> Self {
        Self {
            body,
            connection,
            endpoint,
            record: Some(record),
            watch,
            peer,
            look: None,
            watcher: None,
            first: None,
            breaks: None,
        }
    }

    /// Reads it along.
    pub(super) fn watched(mut self, watcher: Option<Box<Watcher>>) -> Self {
        self.watcher = watcher;
        self
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.breaks.is_some() {
            return self.poll_break(cx);
        }
        match self.body.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(watcher), Some(piece)) = (&mut self.watcher, frame.data_ref()) {
                    watcher.see(piece);
                    let begins = self.first.is_none() && watcher.is_stream();
                    if begins && watcher.ending() != Ending::Error {
                        self.first = Some(Instant::now());
                    }
                }
                let length = frame.data_ref().map_or(0, Bytes::len);
                if let Some(now) = self.watch.progressed() {
                    // A machine whose bytes come is awake, however silent its ports.
                    self.endpoint.machine.hear_at(now);
                }
                if let Some(record) = self.record.as_mut() {
                    record.passed(length);
                }
                if self.is_end() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                if let Some(kind) = self.lacks() {
                    let detail = "the stream ended without saying that it is complete";
                    return self.break_off(Failure::answering(kind, detail), cx);
                }
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let lost = self.connection.as_ref().is_some_and(Connection::is_lost);
                let kind = if lost { Kind::Lost } else { Kind::Broken };
                self.break_off(Failure::answering(kind, error.to_string()), cx)
            }
            Poll::Pending => {
                if self.peer.poll_gone(&mut self.look, cx).is_ready() {
                    return Poll::Ready(Some(Err(self.abandon())));
                }
                if let (false, Some(record)) = (self.watch.is_set(), &self.record) {
                    let beats = record.beats();
                    let until = self.watch.patience(beats);
                    ready!(beats.poll(until, &self.peer.listed, cx));
                }
                let late = ready!(self.watch.poll(cx));
                Poll::Ready(Some(Err(self.cut(late))))
            }
        }
    }

    /// The upstream gave a clean end: its connection may carry the next request.
    fn complete(&mut self) {
        let Some(record) = self.close() else {
            return;
        };
        let now = Instant::now();
        if let Some(connection) = self.connection.take() {
            self.endpoint.give_back(connection, now);
        }
        record.finish(End::Complete, now);
    }

    /// The client left: its connection and its record are dropped, which says so.
    fn abandon(&mut self) -> Failure {
        drop((self.connection.take(), self.close()));
        Failure::answering(Kind::ClientGone, "the client left")
    }

    /// The answer broke off: the client must see that too.
    fn cut(&mut self, failure: Failure) -> Failure {
        drop(self.connection.take());
        if let Some(record) = self.close() {
            record.finish(End::Truncated(failure.kind), Instant::now());
        }
        failure
    }

    /// Breaks an answer off, though not at once: hyper throws away what it has not sent of an answer
    /// that fails, which may be its head, or the line that says what failed.
    fn break_off(
        &mut self,
        failure: Failure,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.breaks = Some(failure);
        // It sends when it is told that nothing more is there yet.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let late = if self.peer.poll_sent(cx).is_ready() {
            None
        } else {
            Some(ready!(self.watch.poll(cx)))
        };
        let failure = late.or_else(|| self.breaks.take());
        Poll::Ready(failure.map(|failure| Err(self.cut(failure))))
    }

    fn is_watched(&self) -> bool {
        self.watcher
            .as_ref()
            .is_some_and(|watcher| watcher.is_stream())
    }

    /// What a stream that ends now lacks of being complete.
    fn lacks(&self) -> Option<Kind> {
        let watcher = self.watcher.as_ref().filter(|watcher| watcher.is_stream());
        match watcher?.ending() {
            Ending::Complete => None,
            Ending::Truncated => Some(Kind::Truncated),
            Ending::Error => Some(Kind::ErrorInStream),
        }
    }

    /// Whether nothing more comes, and nothing more has to be found out.
    fn is_end(&self) -> bool {
        self.body.is_end() && self.lacks().is_none()
    }

    /// What is written down of it from now on.
    fn close(&mut self) -> Option<Box<Record>> {
        let mut record = self.record.take()?;
        if let Some(watcher) = &self.watcher {
            record.watched(watcher, self.first);
        }
        Some(record)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // hyper does not poll a body whose end is known from its head.
        if self.is_end() {
            self.complete();
        }
        drop(self.close());
    }
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Read(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Begun(bytes, body) if bytes.is_empty() => Pin::new(body).poll_frame(cx),
            Self::Read(bytes) | Self::Begun(bytes, _) => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Read(bytes) => bytes.is_empty(),
            Self::Begun(bytes, body) => bytes.is_empty() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(body) => body.size_hint(),
            Self::Read(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // The length is in the head, or there is none.
            Self::Begun(..) => SizeHint::default(),
        }
    }
}

impl Body for Downstream {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.get_mut() {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Passing(passing) => passing.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Passing(passing) => passing.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // One that may be broken off at its end is sent in chunks, whatever its length.
            Self::Passing(passing) if passing.is_watched() => SizeHint::default(),
            Self::Passing(passing) => passing.body.size_hint(),
        }
    }
}

/// Watches that a body does not pause for longer than `idle` nor go on beyond `total`.
///
/// Most answers come in one piece with their head, so its timer exists only once a piece was
/// waited for over a beat, and runs on when pieces come: it looks at the time of the last one when
/// it fires.
pub(super) struct Watch {
    idle: Duration,
    total: Option<Deadline>,
    last: Instant,
    /// Until which beat no timer is needed, once a piece was waited for.
    patience: Option<u64>,
    timer: Option<Alarm>,
}

impl Watch {
    /// Watches a body whose head came `now`.
    pub(super) fn new(idle: Duration, total: Option<Deadline>, now: Instant) -> Self {
        Self {
            idle,
            total,
            last: now,
            patience: None,
            timer: None,
        }
    }

    /// A piece came; when, if it was waited for.
    fn progressed(&mut self) -> Option<Instant> {
        let now = self.is_set().then(Instant::now);
        self.last = now.unwrap_or(self.last);
        now
    }

    fn is_set(&self) -> bool {
        self.timer.is_some()
    }

    fn patience(&mut self, beats: &Beats) -> u64 {
        *self.patience.get_or_insert_with(|| beats.patience())
    }

    /// Ready when the body is late.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        loop {
            let due = self.due();
            let timer = self.timer.get_or_insert_with(|| Alarm::at(due));
            let frozen = ready!(timer.poll(cx));
            if let Some(failure) = self.late(frozen) {
                return Poll::Ready(failure);
            }
            let due = self.due();
            if let Some(timer) = self.timer.as_mut() {
                timer.set(due);
            }
        }
    }

    fn due(&self) -> Instant {
        let idle = self.last + self.idle;
        self.total.map_or(idle, |total| idle.min(total.at()))
    }

    /// What a timer that fired tells. One that fires late tells of a frozen process: what came
    /// meanwhile is still in the socket, so the body gets its time anew.
    fn late(&mut self, frozen: Option<Duration>) -> Option<Failure> {
        let now = Instant::now();
        if let Some(late) = frozen {
            self.last = now;
            self.total = self.total.map(|total| total.thawed(now, late));
        }
        if self.total.is_some_and(|total| total.left_at(now).is_zero()) {
            return Some(Failure::answering(
                Kind::TotalLate,
                "the whole request took too long",
            ));
        }
        let idle = now.saturating_duration_since(self.last) >= self.idle;
        idle.then(|| Failure::answering(Kind::IdleLate, "the answer paused for too long"))
    }
}
