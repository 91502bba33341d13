//! The body that the client reads: piped as it comes, with its end recorded.
//!
//! Invariants: the client sees a clean end only if the upstream gave one; the connection goes
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
    record: Option<Record>,
    watch: Watch,
    peer: Arc<Peer>,
    look: Timer,
}

impl Passing {
    pub(super) fn new(
        body: Coming,
        connection: Option<Connection>,
        endpoint: Arc<Endpoint>,
        record: Record,
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
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self.body.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if let Some(now) = self.watch.progressed() {
                    // A machine whose bytes come is awake, however silent its ports.
                    self.endpoint.machine.hear_at(now);
                }
                if let Some(record) = self.record.as_mut() {
                    record.passed(length);
                }
                if self.body.is_end() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let lost = self.connection.as_ref().is_some_and(Connection::is_lost);
                let kind = if lost { Kind::Lost } else { Kind::Broken };
                Poll::Ready(Some(Err(
                    self.cut(Failure::answering(kind, error.to_string()))
                )))
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
        let Some(record) = self.record.take() else {
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
        drop((self.connection.take(), self.record.take()));
        Failure::answering(Kind::ClientGone, "the client left")
    }

    /// The answer broke off: the client must see that too.
    fn cut(&mut self, failure: Failure) -> Failure {
        drop(self.connection.take());
        if let Some(record) = self.record.take() {
            record.finish(End::Truncated(failure.kind), Instant::now());
        }
        failure
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // hyper does not poll a body whose end is known from its head.
        if self.body.is_end() {
            self.complete();
        }
    }
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Read(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Read(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Read(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(body) => body.size_hint(),
            Self::Read(bytes) => SizeHint::with_exact(bytes.len() as u64),
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
            Self::Passing(passing) => passing.body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
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
