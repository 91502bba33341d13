//! A byte stream that knows when something last came.
//!
//! Of a connection that many share nothing else tells whether the other side is still there while
//! none of them reads, or the pings that are sent then.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::stream::write_pieces;
use crate::words::clock::Deadline;

/// When something last came.
#[derive(Clone, Debug)]
pub struct Heard {
    base: Instant,
    millis: Arc<AtomicU64>,
}

impl Heard {
    /// Something came now.
    pub fn now() -> Self {
        Self {
            base: Instant::now(),
            millis: Arc::default(),
        }
    }

    /// How long ago something came.
    pub fn ago(&self) -> Duration {
        let then = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.base.elapsed().saturating_sub(then)
    }

    fn touch(&self) {
        let millis = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }
}

/// Silence after which a ping asks whether the other side is still there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long its answer, or any other byte, may take.
const PING_ANSWER: Duration = Duration::from_secs(5);

/// Pings when nothing came for a while, or somebody asks, and counts what is answered; returns when
/// nothing is.
pub async fn watch(
    mut pings: PingPong,
    heard: &Heard,
    (ask, pongs): (&Notify, &watch::Sender<u64>),
) {
    loop {
        let quiet = PING_AFTER.saturating_sub(heard.ago());
        tokio::select! {
            () = ask.notified() => {}
            () = Deadline::after(quiet).passed() => {
                if heard.ago() < PING_AFTER {
                    continue;
                }
            }
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            // The connection is ending by itself.
            return std::future::pending().await;
        }
        tokio::select! {
            biased;
            answered = poll_fn(|cx| pings.poll_pong(cx)) => match answered {
                Ok(_) => pongs.send_modify(|pongs| *pongs += 1),
                Err(_) => return std::future::pending().await,
            },
            () = silence(heard) => return,
        }
    }
}

/// Returns when nothing at all came for as long as a pong may take: behind a large answer it is late.
async fn silence(heard: &Heard) {
    loop {
        Deadline::after(PING_ANSWER).passed().await;
        if heard.ago() >= PING_ANSWER {
            return;
        }
    }
}

/// A stream that tells [`Heard`].
#[derive(Debug)]
pub struct Telling<S> {
    io: S,
    heard: Heard,
}

impl<S> Telling<S> {
    /// `io`, telling `heard`.
    pub const fn new(io: S, heard: Heard) -> Self {
        Self { io, heard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Telling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, into));
        if into.filled().len() > before {
            self.heard.touch();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Telling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        write_pieces(Pin::new(&mut self.io), cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
