//! One upstream connection: hyper's connection types behind one type of ours.
//!
//! Owns the request body type that connections carry, and the task that drives a connection.
//! Invariant: a connection belongs to the thread that opened it, carries one request at a time,
//! and ends when its endpoint is lost or its answer is dropped.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::lost::{Lost, Waiting};
use crate::words::clock::Alarm;
use crate::words::outcome::{Failure, Kind};

/// Bounds what one answer's head may hold in memory. hyper's own default is 408 KiB.
const READ_BUFFER_MAX: usize = 64 * 1024;

/// A request body on its way upstream.
pub enum Outgoing {
    /// Read whole before the first dial; a further attempt sends a clone.
    Whole(Bytes),
    /// The same with the trailers that followed it.
    Trailed {
        /// The body.
        bytes: Bytes,
        /// Its trailers, until they were sent.
        trailers: Option<Box<HeaderMap>>,
    },
    /// What was read of a body too large for that, and the rest as it comes. Sent once.
    Stream {
        /// What was read already.
        prefix: Bytes,
        /// What follows.
        rest: Box<Rest>,
    },
}

/// The rest of a request body, as it comes.
pub struct Rest {
    body: Incoming,
    /// How many bytes of it went upstream.
    passed: Arc<AtomicU64>,
    /// How long it may pause.
    idle: Duration,
    /// Exists only while a piece is waited for.
    timer: Option<Alarm>,
}

/// Why a request body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The client left or broke HTTP.
    Client(hyper::Error),
    /// The client stopped sending it.
    Paused,
}

/// An open connection that carries no request now.
pub struct Connection {
    sender: SendRequest<Outgoing>,
    waiting: Waiting,
    /// Since when it is idle.
    pub(super) idle_since: Instant,
    /// Whether it carried a request before.
    pub reused: bool,
}

/// What hyper says of a request.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

/// A request that failed, and the request itself if not one byte of it was sent.
pub struct SendError {
    /// What failed.
    pub failure: Failure,
    /// The request, unsent.
    pub request: Option<Box<Request<Outgoing>>>,
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            request: None,
        }
    }
}

impl Connection {
    /// Speaks HTTP/1 over `stream`, driven by a task of its own on this thread.
    pub async fn open<S>(stream: S, lost: &Lost) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::unsent(Kind::Broken, error.to_string()))?;
        tokio::spawn(drive(connection.with_upgrades(), lost.wait()));
        let waiting = lost.wait();
        Ok(Self {
            sender,
            waiting,
            idle_since: Instant::now(),
            reused: false,
        })
    }

    /// Sends a request and waits for the head of its answer. Dropping the future, or the answer
    /// before its end, closes the connection.
    pub async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, SendError> {
        let asked = request.headers().get(UPGRADE).cloned();
        let sent = self.begin(request).await;
        self.answer(sent, asked.as_ref())
    }

    /// The same in two steps. The request is handed over here, and not carried along by those who
    /// wait for what becomes of it, for [`Connection::answer`].
    pub fn begin(&mut self, request: Request<Outgoing>) -> impl Future<Output = Sent> + use<> {
        self.sender.try_send_request(request)
    }

    /// What became of a request: its answer, if it is one that was asked for. `asked` is the
    /// protocol that the request asked for.
    pub fn answer(
        &self,
        sent: Sent,
        asked: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, SendError> {
        match sent {
            Ok(answer) if !is_expected(&answer, asked) => Err(SendError {
                failure: Failure::sent(Kind::BadAnswer, "an upgrade that nobody asked for"),
                request: None,
            }),
            Ok(answer) => Ok(answer),
            Err(mut error) => {
                let request = error.take_message().map(Box::new);
                let failure = self.classify(error.error(), request.is_some());
                Err(SendError { failure, request })
            }
        }
    }

    fn classify(&self, error: &hyper::Error, unsent: bool) -> Failure {
        let kind = match error {
            _ if self.waiting.is_lost() => Kind::Lost,
            error if error.is_user() || error.is_body_write_aborted() => of_client_body(error),
            error if error.is_parse() => Kind::BadAnswer,
            _ if self.reused => Kind::Stale,
            _ => Kind::Broken,
        };
        let detail = match kind {
            Kind::Lost => "it stopped answering: fresh probes failed".to_owned(),
            // That there was an error in a body says less than which.
            Kind::ClientBody => error
                .source()
                .map_or_else(|| error.to_string(), ToString::to_string),
            // hyper's texts name conditions, never content.
            _ => error.to_string(),
        };
        if unsent {
            Failure::unsent(kind, detail)
        } else {
            Failure::sent(kind, detail)
        }
    }

    /// Returns when its endpoint is declared lost.
    pub async fn lost(&self) {
        self.waiting.lost().await;
    }

    /// Whether its endpoint was declared lost since it was opened.
    pub fn is_lost(&self) -> bool {
        self.waiting.is_lost()
    }

    /// Whether the other side, or we, closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it can carry a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.waiting.is_lost()
    }
}

/// Drives a connection until it ends or its endpoint is lost. This task is polled for every piece:
/// it is listed among those who are told once, and looks at a number from then on. Unconstrained, as
/// a busy task whose turn is used up would be told to wait without being listed.
async fn drive(connection: impl Future, until: Waiting) {
    let mut connection = pin!(connection);
    let mut lost = pin!(unconstrained(until.lost()));
    let mut listed = false;
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() || until.is_lost() {
            return Poll::Ready(());
        }
        if listed {
            return Poll::Pending;
        }
        listed = true;
        lost.as_mut().poll(cx)
    })
    .await;
}

/// Whether an answer that switches protocols (RFC 9110 15.2.2) was asked to switch to this one:
/// nobody could make anything of another.
fn is_expected(answer: &Response<Incoming>, asked: Option<&HeaderValue>) -> bool {
    let to = || answer.headers().get(UPGRADE).map(HeaderValue::as_bytes);
    let as_asked =
        |asked: &HeaderValue| to().is_some_and(|to| to.eq_ignore_ascii_case(asked.as_bytes()));
    !answer.status().is_informational() || asked.is_some_and(as_asked)
}

/// Whether a request's body broke off because its client left, or because the client broke HTTP.
pub fn of_client_body(error: &hyper::Error) -> Kind {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let http = error.downcast_ref::<hyper::Error>();
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if http.is_some_and(hyper::Error::is_incomplete_message)
            || matches!(
                io,
                Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
            )
        {
            return Kind::ClientGone;
        }
        cause = error.source();
    }
    Kind::ClientBody
}

impl Outgoing {
    /// Nothing.
    pub const fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// What was read of a body, and the rest of it, which may pause for `idle`.
    pub fn stream(prefix: Bytes, body: Incoming, idle: Duration) -> Self {
        let rest = Box::new(Rest {
            body,
            passed: Arc::default(),
            idle,
            timer: None,
        });
        Self::Stream { prefix, rest }
    }

    /// The count of what goes upstream of a body that is not held whole.
    pub fn passed(&self) -> Option<Arc<AtomicU64>> {
        match self {
            Self::Whole(_) | Self::Trailed { .. } => None,
            Self::Stream { rest, .. } => Some(Arc::clone(&rest.passed)),
        }
    }

    /// A copy, if it can be sent more than once.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Trailed { bytes, trailers } => Some(Self::Trailed {
                bytes: bytes.clone(),
                trailers: trailers.clone(),
            }),
            Self::Stream { .. } => None,
        }
    }
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.poll_pause(cx));
            return Poll::Ready(Some(Err(BodyError::Paused)));
        };
        self.timer = None;
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Client)))
    }

    /// Ready when it paused for too long on a process that was awake for it.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let idle = self.idle;
            let timer = self
                .timer
                .get_or_insert_with(|| Alarm::at(Instant::now() + idle));
            if ready!(timer.poll(cx)).is_none() {
                return Poll::Ready(());
            }
            self.timer = None;
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Paused => f.write_str("the client stopped sending its body"),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::Paused => None,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes)
            | Self::Trailed { bytes, .. }
            | Self::Stream { prefix: bytes, .. }
                if !bytes.is_empty() =>
            {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            Self::Whole(_) => Poll::Ready(None),
            Self::Trailed { trailers, .. } => {
                let trailers = trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(*trailers)));
                Poll::Ready(trailers)
            }
            Self::Stream { rest, .. } => rest.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Trailed { bytes, trailers } => bytes.is_empty() && trailers.is_none(),
            Self::Stream { prefix, rest, .. } => prefix.is_empty() && rest.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // Only chunks carry trailers, so its length is not told.
            Self::Trailed { .. } => SizeHint::new(),
            Self::Stream { prefix, rest, .. } => after(prefix.len() as u64, &rest.body.size_hint()),
        }
    }
}

fn after(prefix: u64, rest: &SizeHint) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(rest.lower().saturating_add(prefix));
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper.saturating_add(prefix));
    }
    hint
}

#[cfg(test)]
mod tests {
    use tokio::task::coop::has_budget_remaining;

    use super::*;
    use crate::words::verdict::Verdict;

    /// A connection that uses up the whole turn of its task each time it is polled.
    async fn busy() {
        poll_fn(|cx| {
            while has_budget_remaining() {
                let mut turn = pin!(tokio::task::coop::consume_budget());
                if turn.as_mut().poll(cx).is_pending() {
                    break;
                }
            }
            Poll::<()>::Pending
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_always_busy_ends_when_its_endpoint_is_lost() {
        let lost = Lost::new();
        let driven = tokio::spawn(drive(busy(), lost.wait()));
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        lost.declare();
        let ended = tokio::time::timeout(Duration::from_secs(1), driven).await;
        assert!(ended.is_ok(), "it never heard");
    }

    /// What is told by another thread falls anywhere between a look and the next.
    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_ends_whenever_its_endpoint_is_lost() {
        for round in 0..5_000 {
            let lost = Arc::new(Lost::new());
            let driven = tokio::spawn(drive(std::future::pending::<()>(), lost.wait()));
            tokio::task::yield_now().await;
            let teller = std::thread::spawn(move || {
                lost.verdict(Verdict::Suspect);
                lost.verdict(Verdict::Asleep);
                lost.declare();
                lost
            });
            let ended = tokio::time::timeout(Duration::from_secs(5), driven).await;
            assert!(ended.is_ok(), "it never heard, in round {round}");
            drop(teller.join().unwrap());
        }
    }
}
