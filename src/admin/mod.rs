//! The admin listener: what operators, probes and Prometheus may ask.
//!
//! Answers `GET /live /ready /health /status /metrics` on the control thread, so that nothing
//! asked here stalls a stream. Owns no state but the count of what it observed: every answer is
//! made from the owners when it is asked.

pub mod changes;
pub mod children;
mod metrics;
mod ready;
pub mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use crate::metrics::{Metrics, TEXT_FORMAT};
use crate::reload::store::Store;
use crate::tailnet::Tailnet;
use crate::words::clock::Clock;

/// Connections served at once: more than any scraper and page need, few enough to bound memory.
const CONNECTIONS: usize = 64;
/// A client that sends no request, or half a head, for so long is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// No path of ours needs more.
const READ_BUFFER_MAX: usize = 16 * 1024;

/// Whom the admin listener asks.
pub struct Admin {
    /// Configuration, endpoints, reloads.
    pub store: Arc<Store>,
    /// The tunnel.
    pub tailnet: Arc<Tailnet>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Wall time.
    pub clock: Clock,
    /// Which of several instances this is.
    pub instance: String,
    /// When it started.
    pub started: Timestamp,
    /// What it started.
    pub children: Arc<children::Board>,
    /// Whether it is about to end.
    pub draining: watch::Receiver<bool>,
}

/// Serves `listener` for ever.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    connection(admin, stream).await;
                    drop(place);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(admin: Arc<Admin>, stream: TcpStream) {
    let serve = service_fn(move |request| {
        let answer = admin.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    // An error of the asker's connection is the asker's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BUFFER_MAX)
        .serve_connection(TokioIo::new(stream), serve)
        .await;
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let known = ["/live", "/ready", "/health", "/status", "/metrics"];
        let path = request.uri().path();
        if !known.contains(&path) {
            let text = format!("no such page; there are {}\n", known.join(" "));
            return reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "only GET and HEAD\n".to_owned();
            let mut refusal = reply(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain; charset=utf-8",
                text,
            );
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/ready" => self.ready(),
            "/health" => self.health(),
            "/status" => json(StatusCode::OK, &self.status()),
            "/metrics" => reply(StatusCode::OK, TEXT_FORMAT, self.metrics_text()),
            // The process answers: that is what it is asked.
            _ => reply(
                StatusCode::OK,
                "text/plain; charset=utf-8",
                "live\n".to_owned(),
            ),
        }
    }

    fn draining(&self) -> bool {
        *self.draining.borrow() || self.children.is_ending()
    }
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    reply(status, "application/json", text)
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
