//! The client's end of a connection: its socket, read along by the gate, and what became of it.
//!
//! hyper owns the conversation and this owns the socket, so that a request can still see its client
//! leave when hyper does not look (it reads nothing while a body waits to be read, nor once bytes
//! follow the request), and so that a broken answer can end in a reset.
//!
//! Invariant: everything here is of the data thread; the lock is never contended and never held
//! over an await.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::beat::Listed;
use super::gate::{Hidden, Scanner};
use super::tunnel::Tunnel;
use crate::wire::stream::write_pieces;

/// Between looks at a client whose unread bytes hide that it left.
const LOOK: Duration = Duration::from_millis(250);
/// How long, and how many bytes, a refused client may still send before it is cut off. A close with
/// bytes unread is a reset, which can overtake the answer (RFC 9112 9.6).
const LINGER: Duration = Duration::from_millis(500);
const LINGER_MAX: usize = 256 * 1024;

/// One client connection.
pub(super) struct Peer {
    state: Mutex<State>,
    /// When the task of the connection is woken.
    pub(super) listed: Listed,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each happened or not, by itself"
)]
struct State {
    io: TcpStream,
    scanner: Scanner,
    /// Requests that hyper handed over.
    requests: u64,
    /// hyper does not read the body of the request now; somebody else decides when.
    unread: bool,
    /// It spoke HTTP/1.0: an answer may end with the connection.
    old: bool,
    /// A request was refused, and bytes of it may be unread.
    refused: bool,
    /// A request for another protocol is under way.
    upgrading: bool,
    /// The socket took nothing more when it was last written to.
    full: bool,
    /// Who waits until it does.
    waits: Option<Waker>,
    tunnel: Option<Tunnel>,
}

/// The same for hyper.
pub(super) struct ClientIo(Arc<Peer>);

impl Peer {
    pub(super) fn new(io: TcpStream) -> Arc<Self> {
        let state = State {
            io,
            scanner: Scanner::new(),
            requests: 0,
            unread: false,
            old: false,
            refused: false,
            upgrading: false,
            full: false,
            waits: None,
            tunnel: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            listed: Listed::new(),
        })
    }

    pub(super) fn io(self: &Arc<Self>) -> ClientIo {
        ClientIo(Arc::clone(self))
    }

    /// hyper hands the next request over; what it does not show of it.
    pub(super) fn next_request(&self, old: bool) -> Option<Hidden> {
        let mut state = self.state();
        state.requests += 1;
        state.unread = false;
        state.upgrading = false;
        state.old |= old;
        state.scanner.hidden(state.requests)
    }

    /// Whether the body of the request, which was read, is none, though hyper took it for one.
    pub(super) fn is_bad_body(&self) -> bool {
        let state = self.state();
        state.scanner.is_bad_body(state.requests)
    }

    /// The body of the request waits to be read.
    pub(super) fn body_waits(&self) {
        self.state().unread = true;
    }

    /// The request was refused.
    pub(super) fn refused(&self) {
        self.state().refused = true;
    }

    /// A request for another protocol is under way, or is no more.
    pub(super) fn upgrading(&self, upgrading: bool) {
        self.state().upgrading = upgrading;
    }

    pub(super) fn is_upgrading(&self) -> bool {
        self.state().upgrading
    }

    /// The upstream agreed: once hyper is done, this follows.
    pub(super) fn tunnel(&self, tunnel: Tunnel) {
        let mut state = self.state();
        state.scanner.stop();
        state.tunnel = Some(tunnel);
    }

    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.state().tunnel.take()
    }

    pub(super) fn is_old(&self) -> bool {
        self.state().old
    }

    /// Whether it began a head and did not end it.
    pub(super) fn is_in_head(&self) -> bool {
        self.state().scanner.is_in_head()
    }

    /// Lets the connection end in a reset: whoever reads until its end sees that it broke.
    pub(super) fn reset(&self) {
        // It fails only on a socket that is gone.
        let _ = self.state().io.set_zero_linger();
    }

    /// Sends what fits into the socket's buffer.
    pub(super) fn say(&self, bytes: &[u8]) {
        // A client that reads nothing is not told.
        let _ = self.state().io.try_write(bytes);
    }

    /// Ready when the socket took all that hyper had for it.
    pub(super) fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.full {
            state.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ready when the client left and hyper does not look.
    pub(super) fn poll_gone(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            {
                let state = self.state();
                if !(state.unread || state.scanner.is_ahead_of(state.requests)) {
                    // hyper reads, and drops the request when it sees the end.
                    return Poll::Pending;
                }
                if state.io.poll_read_ready(cx).is_pending() {
                    return Poll::Pending;
                }
                if is_closed(&state.io, cx) {
                    return Poll::Ready(());
                }
            }
            // Unread bytes are before the end, and no event comes for the end alone.
            let sleeping = timer.get_or_insert_with(|| Box::pin(sleep(LOOK)));
            ready!(sleeping.as_mut().poll(cx));
            *timer = None;
        }
    }

    /// Returns when the client left and hyper does not look.
    pub(super) async fn gone(&self) {
        let mut timer = None;
        poll_fn(|cx| self.poll_gone(&mut timer, cx)).await;
    }

    /// Reads what a refused client still sends, within bounds, so that it can read its answer.
    pub(super) async fn linger(&self, draining: &mut watch::Receiver<bool>) {
        let refused = self.state().refused;
        if refused {
            tokio::select! {
                // Boxed: its buffer would be a part of every connection's task.
                () = Box::pin(self.discard()) => {}
                // Whoever sends on after that has its answer, or wants none.
                () = sleep(LINGER) => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        }
    }

    async fn discard(&self) {
        // After CONNECT hyper leaves it to us. It fails only on a socket that is gone.
        let _ = poll_fn(|cx| Pin::new(&mut self.state().io).poll_shutdown(cx)).await;
        let mut buffer = [0; 4096];
        let mut left = LINGER_MAX;
        while left > 0 {
            let read = poll_fn(|cx| {
                let mut into = ReadBuf::new(&mut buffer);
                let mut state = self.state();
                let read = ready!(Pin::new(&mut state.io).poll_read(cx, &mut into));
                Poll::Ready(read.map_or(0, |()| into.filled().len()))
            });
            match read.await {
                0 => return,
                read => left = left.saturating_sub(read),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics is done under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// hyper wrote; whether the socket was full.
    fn wrote(&mut self, full: bool) {
        self.full = full;
        if let Some(waits) = self.waits.take_if(|_| !full) {
            waits.wake();
        }
    }
}

/// The timer of [`Peer::poll_gone`], made when it is first needed.
pub(super) type Timer = Option<Pin<Box<Sleep>>>;

/// Whether a socket that is ready for reading is so because the other side closed it.
fn is_closed(io: &TcpStream, cx: &mut Context<'_>) -> bool {
    match pin!(io.ready(Interest::READABLE)).poll(cx) {
        Poll::Ready(Ok(ready)) => ready.is_read_closed(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.state();
        let before = into.filled().len();
        let read = Pin::new(&mut state.io).poll_read(cx, into);
        state.scanner.scan(&into.filled()[before..]);
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        let written = Pin::new(&mut state.io).poll_write(cx, bytes);
        state.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.state();
        let written = write_pieces(Pin::new(&mut state.io), cx, pieces);
        state.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.state().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.state().io).poll_shutdown(cx)
    }
}
