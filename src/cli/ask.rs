//! Asks over HTTP, one request a connection: a running instance, or what it serves.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::words::secret::Secret;

/// An instance on this machine answers within this, or something is wrong with it.
const WITHIN: Duration = Duration::from_secs(2);
/// More than any page of ours.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// `GET path` at `address`.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    bounded(address, Method::GET, path, None).await
}

/// The same with a token, where one is known.
pub(super) async fn get_with(
    address: SocketAddr,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, String), String> {
    bounded(address, Method::GET, path, token).await
}

/// `POST path` at `address`, without anything more to say.
pub(super) async fn post(
    address: SocketAddr,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, String), String> {
    bounded(address, Method::POST, path, token).await
}

async fn bounded(
    address: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, String), String> {
    match timeout(WITHIN, ask(address, method, path, token)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("no instance answers on {address}: {error}")),
        Err(_) => Err(format!(
            "no instance answers on {address} within {} s",
            WITHIN.as_secs()
        )),
    }
}

async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, String), Trouble> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = path.parse()?;
    *request.method_mut() = method;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(token) = token {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
    }
    let answer = send(address, request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_MAX)
        .collect()
        .await?
        .to_bytes();
    Ok((status, String::from_utf8(body.into())?))
}

/// Why there is no answer.
pub(super) type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request` on a connection of its own; the head of its answer, as soon as it is there.
pub(super) async fn send(
    address: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Trouble> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends by itself when the answer was read or dropped; what it met shows in the answer.
    tokio::spawn(connection);
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(&address.to_string())?);
    Ok(sender.send_request(request).await?)
}
