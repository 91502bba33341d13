//! A client's byte stream, cut off when nothing comes on it but frames that cost us an answer.
//!
//! Of SETTINGS and PING each wants an acknowledgement (RFC 9113 10.5), and h2 gives it. They are
//! counted as they come, against the frames that carry calls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How HTTP/2 begins: no frame (RFC 9113 3.4).
const PREFACE: usize = 24;
/// Of a frame: its length, type, flags and stream (RFC 9113 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
/// So many at once, and so many a second: clients ping to measure the way, and to see who is there.
const AT_ONCE: u32 = 1000;
const A_SECOND: u32 = 100;

/// Frames that carry nothing, as they come.
struct Frames {
    head: [u8; HEAD],
    came: usize,
    /// Bytes that belong to no frame's head.
    skip: usize,
    left: u32,
    since: Instant,
}

impl Frames {
    fn new() -> Self {
        Self {
            head: [0; HEAD],
            came: 0,
            skip: PREFACE,
            left: AT_ONCE,
            since: Instant::now(),
        }
    }

    /// More came; whether that is still fair.
    fn see(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEAD - self.came).min(bytes.len());
            self.head[self.came..self.came + wanted].copy_from_slice(&bytes[..wanted]);
            self.came += wanted;
            bytes = &bytes[wanted..];
            if self.came == HEAD {
                self.came = 0;
                let [high, middle, low, kind, ..] = self.head;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                if !self.allows(kind) {
                    return false;
                }
            }
        }
        true
    }

    fn allows(&mut self, kind: u8) -> bool {
        match kind {
            HEADERS => self.left = (self.left + 1).min(AT_ONCE),
            DATA if self.skip > 0 => self.left = (self.left + 1).min(AT_ONCE),
            WINDOW_UPDATE => {}
            _ => {
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.refill();
                }
            }
        }
        self.left > 0
    }

    fn refill(&mut self) {
        let more = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        self.left = more.saturating_mul(A_SECOND).min(AT_ONCE);
        self.since = Instant::now();
    }
}

/// A stream that ends when its client floods it.
pub(super) struct Fair<S> {
    io: S,
    frames: Frames,
}

impl<S> Fair<S> {
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            frames: Frames::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fair<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, into));
        if self.frames.see(&into.filled()[before..]) {
            Poll::Ready(read)
        } else {
            let text = "too many frames that carry nothing";
            Poll::Ready(Err(io::Error::other(text)))
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fair<S> {
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
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
        frame.resize(HEAD + usize::from(length), 7);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_are_counted_wherever_they_are_cut() {
        for cut in [1, 7, 4096] {
            let mut frames = Frames::new();
            assert!(frames.see(&[0; PREFACE]));
            let fair = [
                frame(4, 6),
                frame(HEADERS, 40),
                frame(DATA, 200),
                frame(6, 8),
            ]
            .concat();
            for _ in 0..10_000 {
                assert!(fair.chunks(cut).all(|piece| frames.see(piece)), "{cut}");
            }
            let flood = frame(4, 0).repeat(AT_ONCE as usize);
            assert!(!flood.chunks(cut).all(|piece| frames.see(piece)), "{cut}");
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(frames.see(&frame(6, 8)), "time heals it");
        }
    }
}
