//! One HTTP/2 connection to an endpoint, which many calls share.
//!
//! Owns the task that drives it and its pings. Invariants: it ends when its endpoint is lost, or
//! when a ping is not answered; a call that is dropped resets its own stream and nothing else.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{PingPong, Reason};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::lost::{Lost, Waiting};
use crate::wire::Stream;
use crate::wire::heard::{Heard, Telling, watch as watch_pings};
use crate::words::clock::Deadline;
use crate::words::outcome::{Failure, Kind, Phase};

/// What may be on its way to us in one call, and in all of a connection, in bytes. A tailnet over a
/// relay has some 100 ms a round trip: 4 MiB in each is 40 MiB a second.
const WINDOW: u32 = 4 * 1024 * 1024;
const WINDOW_ALL: u32 = 16 * 1024 * 1024;
/// Largest frame that we take.
const FRAME: u32 = 64 * 1024;
/// Bounds what one answer's head may hold in memory.
const HEAD_MAX: u32 = 64 * 1024;
/// How much of a call's message waits for the socket before its sender is held back.
const SEND_BUFFER: usize = 1024 * 1024;

/// A change is sent only where something came so lately, or a ping was answered: what is sent on a
/// connection that is dead without knowing has an outcome that nobody knows.
const FRESH: Duration = Duration::from_secs(2);

type Io = Telling<Stream>;

/// One connection.
pub struct Session {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
    waiting: Waiting,
}

/// What the connection and the task that drives it share.
struct Shared {
    heard: Heard,
    /// Calls on it.
    calls: AtomicUsize,
    /// Whether it ended.
    closed: AtomicBool,
    /// Whether it ended as a ping was not answered.
    silent: AtomicBool,
    /// Somebody wants a ping.
    ask: Notify,
    /// Pings that were answered.
    pongs: watch::Sender<u64>,
    /// When the last call ended.
    idle: watch::Sender<Instant>,
}

/// A place for one call on a connection.
pub struct Lane {
    session: Arc<Session>,
    /// Whether the connection was there before the call came.
    pub reused: bool,
}

impl Session {
    /// Speaks HTTP/2 over `stream`, driven by a task of its own on this thread.
    ///
    /// # Errors
    /// It does not take our preface.
    pub async fn open(stream: Stream, lost: &Lost) -> Result<Self, Failure> {
        let heard = Heard::now();
        let io = Telling::new(stream, heard.clone());
        let (sender, mut connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW_ALL)
            .max_frame_size(FRAME)
            .max_header_list_size(HEAD_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|error| Failure::unsent(Kind::Broken, error.to_string()))?;
        let shared = Arc::new(Shared {
            heard,
            calls: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            ask: Notify::new(),
            pongs: watch::Sender::new(0),
            idle: watch::Sender::new(Instant::now()),
        });
        let pings = connection.ping_pong();
        let ended = Ended(Arc::clone(&shared));
        tokio::spawn(drive(connection, pings, ended, lost.wait()));
        Ok(Self {
            sender,
            shared,
            waiting: lost.wait(),
        })
    }

    /// A place for a call, if it can carry one now.
    pub(super) fn lane(self: &Arc<Self>, reused: bool) -> Option<Lane> {
        let calls = self.shared.calls.load(Ordering::Relaxed);
        (calls < self.sender.current_max_send_streams()).then(|| self.crowded(reused))
    }

    /// A place for a call, which may have to wait there until another one has ended.
    pub(super) fn crowded(self: &Arc<Self>, reused: bool) -> Lane {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        Lane {
            session: Arc::clone(self),
            reused,
        }
    }

    /// Whether a new call may be put on it: it did not end, and was not told to end.
    pub(super) fn is_open(&self) -> bool {
        if self.shared.closed.load(Ordering::Acquire) || self.waiting.is_lost() {
            return false;
        }
        // A clone that waits for nothing is told at once, and of what has ended: an error.
        let ready = self
            .sender
            .clone()
            .poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(())))
    }

    pub(super) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// How long it has carried no call.
    pub(super) fn idle_for(&self) -> Duration {
        if self.calls() > 0 {
            return Duration::ZERO;
        }
        self.shared.idle.borrow().elapsed()
    }
}

impl Lane {
    /// Makes sure that the other side is there, as far as that can be known: something came lately,
    /// or a ping is answered `within`. Whether it is.
    pub async fn prove(&self, within: Duration) -> bool {
        let shared = &self.session.shared;
        if shared.heard.ago() < FRESH {
            return true;
        }
        let mut pongs = shared.pongs.subscribe();
        shared.ask.notify_one();
        tokio::select! {
            biased;
            answered = pongs.changed() => answered.is_ok() && self.session.is_open(),
            () = Deadline::after(within).passed() => false,
        }
    }

    /// A place on a connection that was opened for it.
    pub fn first(session: Session) -> Self {
        Arc::new(session).crowded(false)
    }

    /// The connection.
    pub(super) fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }

    /// What requests are sent by.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.session.sender.clone()
    }

    /// What an error on it means. The request had been sent, as far as we know.
    pub fn failure(&self, error: &h2::Error) -> Failure {
        let (kind, phase) = self.meaning(error);
        let detail = match kind {
            Kind::Lost if self.session.waiting.is_lost() => {
                "it stopped answering: fresh probes failed".to_owned()
            }
            Kind::Lost => "a ping on the connection was not answered".to_owned(),
            // h2's texts name conditions, never content, but for what the other side sends along.
            _ => error.reason().map_or_else(
                || "the connection broke".to_owned(),
                |reason| format!("HTTP/2: {}", reason.description()),
            ),
        };
        Failure {
            kind,
            phase,
            detail: detail.into(),
        }
    }

    fn meaning(&self, error: &h2::Error) -> (Kind, Phase) {
        let shared = &self.session.shared;
        if self.session.waiting.is_lost() || shared.silent.load(Ordering::Acquire) {
            return (Kind::Lost, Phase::Sent);
        }
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        // h2 gives this error to streams above the last one of a GOAWAY, and to those that come
        // after it: neither was, nor will be, processed (RFC 9113 6.8, 8.7).
        let gone = error.is_go_away();
        if error.is_remote() && (refused || gone) {
            return (Kind::Stale, Phase::Unsent);
        }
        let kind = match error.reason() {
            Some(
                Reason::PROTOCOL_ERROR
                | Reason::FRAME_SIZE_ERROR
                | Reason::COMPRESSION_ERROR
                | Reason::FLOW_CONTROL_ERROR,
            ) if !error.is_remote() => Kind::BadAnswer,
            None if self.reused => Kind::Stale,
            _ => Kind::Broken,
        };
        (kind, Phase::Sent)
    }

    /// Whether its endpoint was declared lost since it was opened.
    pub fn is_lost(&self) -> bool {
        self.session.waiting.is_lost() || self.session.shared.silent.load(Ordering::Acquire)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let shared = &self.session.shared;
        if shared.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.idle.send_replace(Instant::now());
        }
    }
}

/// Says that the connection ended, however it did.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        // Who waits for a pong looks again.
        self.0.pongs.send_modify(|_| {});
    }
}

/// Drives a connection until it ends, its endpoint is lost, or a ping is not answered.
async fn drive(
    connection: Connection<Io, Bytes>,
    pings: Option<PingPong>,
    ended: Ended,
    until: Waiting,
) {
    let shared = &ended.0;
    let watch = async {
        match pings {
            Some(pings) => watch_pings(pings, &shared.heard, (&shared.ask, &shared.pongs)).await,
            None => std::future::pending().await,
        }
    };
    let (connection, lost, watch) = (pin!(connection), pin!(until.lost()), pin!(watch));
    tokio::select! {
        biased;
        // How it ended is told to those who are on it.
        _ = connection => {}
        () = lost => {}
        () = watch => shared.silent.store(true, Ordering::Release),
    }
}
