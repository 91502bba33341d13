//! A small HTTP/1.1 client: whole answers or their pieces as they come, one request a connection,
//! or on kept-alive ones.
//!
//! Which of the two is the caller's choice, so that a test knows what was fresh. Every call is
//! bounded.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Longer than anything a test expects, so that a hang fails with the client's words.
const PATIENCE: Duration = Duration::from_secs(30);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From before the connect to the last byte.
    pub(crate) elapsed: Duration,
}

/// One piece of a body.
#[derive(Debug)]
pub(crate) struct Piece {
    /// When it came, counted from before the connect.
    pub(crate) at: Duration,
    pub(crate) bytes: Bytes,
}

/// No answer, in words.
#[derive(Debug)]
pub(crate) struct NoAnswer(pub(crate) String);

/// Asks `GET path`.
pub(crate) async fn get(to: SocketAddr, path: &str) -> Result<Answer, NoAnswer> {
    send(to, Method::GET, path, "").await
}

/// Sends one request and reads the whole answer.
pub(crate) async fn send(
    to: SocketAddr,
    method: Method,
    path: &str,
    body: &str,
) -> Result<Answer, NoAnswer> {
    let (mut answer, pieces) = send_for_pieces(to, method, path, body).await?;
    answer.body = pieces
        .iter()
        .fold(BytesMut::new(), |mut all, piece| {
            all.extend_from_slice(&piece.bytes);
            all
        })
        .freeze();
    Ok(answer)
}

/// Sends one request and reads the answer piece by piece; the answer's own `body` stays empty.
pub(crate) async fn send_for_pieces(
    to: SocketAddr,
    method: Method,
    path: &str,
    body: &str,
) -> Result<(Answer, Vec<Piece>), NoAnswer> {
    let started = Instant::now();
    let exchange = async {
        let stream = TcpStream::connect(to).await?;
        exchange(stream, request(method, path, body), started).await
    };
    bounded(exchange).await
}

/// Asks `GET path` over a stream that leads to the server already.
pub(crate) async fn get_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<Answer, NoAnswer> {
    let started = Instant::now();
    let (mut answer, pieces) =
        bounded(exchange(stream, request(Method::GET, path, ""), started)).await?;
    answer.body = pieces.into_iter().flat_map(|piece| piece.bytes).collect();
    Ok(answer)
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn bounded<T>(exchange: impl Future<Output = Result<T, AnyError>>) -> Result<T, NoAnswer> {
    match timeout(PATIENCE, exchange).await {
        Ok(ended) => ended.map_err(|error| NoAnswer(format!("no answer: {error:?}"))),
        Err(_) => Err(NoAnswer(format!("no answer within {PATIENCE:?}"))),
    }
}

fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    let request = match body {
        "" => request,
        _ => request.header(header::CONTENT_TYPE, "application/json"),
    };
    request
        .body(Full::from(body.to_owned()))
        .expect("a valid request")
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    started: Instant,
) -> Result<(Answer, Vec<Piece>), AnyError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let pieces = pieces(body, started).await?;
    connection.abort();
    let (status, headers) = (head.status, head.headers);
    Ok((
        Answer {
            status,
            headers,
            body: Bytes::new(),
            elapsed: started.elapsed(),
        },
        pieces,
    ))
}

async fn pieces(mut body: Incoming, started: Instant) -> Result<Vec<Piece>, hyper::Error> {
    let mut pieces = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            pieces.push(Piece {
                at: started.elapsed(),
                bytes,
            });
        }
    }
    Ok(pieces)
}

/// Kept-alive connections to one place, as a client library keeps them.
#[derive(Debug)]
pub(crate) struct Kept {
    to: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Kept {
    /// None yet.
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self {
            to,
            idle: Mutex::default(),
        }
    }

    /// Sends one request, on a connection that is idle if there is one, and reads the whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<Answer, NoAnswer> {
        let started = Instant::now();
        let exchange = async {
            let mut sender = match self.take() {
                Some(sender) => sender,
                None => self.open().await?,
            };
            let answer = sender.send_request(request(method, path, body)).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            self.locked().push(sender);
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                elapsed: started.elapsed(),
            })
        };
        bounded(exchange).await
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.locked();
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, AnyError> {
        let stream = TcpStream::connect(self.to).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    /// A header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The name of the Mac that answered.
    pub(crate) fn mac(&self) -> &str {
        self.header("x-mac")
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body {:?}", self.body))
    }
}
