//! The admin listener: what operators, probes and Prometheus may ask, and the orders they may give.
//!
//! Answers on the control thread, so that nothing asked here stalls a stream. Owns what it observed
//! and told (history, recent times, listeners of events); everything else is made from its owners
//! when it is asked. Invariant: nothing is answered before `guard` let it pass.

pub mod changes;
pub mod children;
pub mod collections;
mod events;
pub mod explain;
mod failures;
mod guard;
pub mod history;
mod identity;
mod metrics;
pub mod models;
pub mod orders;
mod page;
pub mod posts;
mod ready;
pub mod recent;
pub mod shields;
pub mod status;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::metrics::{Metrics, TEXT_FORMAT};
use crate::reload::Inputs;
use crate::reload::store::{Live, Store};
use crate::request::head_timer::HeadTimer;
use crate::tailnet::Tailnet;
use crate::words::clock::Clock;
use events::Events;
use failures::Failures;
use guard::{Caller, Head, Refusal};
use history::History;
use identity::{Connection, Desk};
use recent::Recent;
use shields::Shields;
use status::Status;

/// Connections served at once: more than any scraper and page need, few enough to bound memory.
const CONNECTIONS: usize = 64;
/// A client that sends no request, or half a head, for so long is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// No path of ours needs more.
const READ_BUFFER_MAX: usize = 16 * 1024;
/// How long a probe waits for tailscaled to say who asks. What it is told is no secret.
const PROBE_PATIENCE: Duration = Duration::from_millis(300);

const READS: [&str; 8] = [
    "/", "/live", "/ready", "/health", "/status", "/metrics", "/explain", "/events",
];
const ORDERS: [&str; 6] = [
    "/pin",
    "/unpin",
    "/drain",
    "/undrain",
    "/reload",
    "/cache/clear",
];
const TEXT: &str = "text/plain; charset=utf-8";
/// No page of another site may so much as show what is served here.
const SAME_ORIGIN: (HeaderName, &str) = (
    HeaderName::from_static("cross-origin-resource-policy"),
    "same-origin",
);

/// What is sent back.
type Answer = Response<Either<Full<Bytes>, events::Stream>>;

/// Whom the admin listener asks.
pub struct Admin {
    store: Arc<Store>,
    tailnet: Arc<Tailnet>,
    metrics: Arc<Metrics>,
    clock: Clock,
    instance: String,
    started: Timestamp,
    children: Arc<children::Board>,
    draining: watch::Receiver<bool>,
    inputs: Inputs,
    desk: Desk,
    shields: Shields,
    failures: Mutex<Failures>,
    history: History,
    events: Events,
    recent: Recent,
}

/// What [`Admin`] is made of.
pub struct Parts {
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
    /// The files that orders change.
    pub inputs: Inputs,
}

/// Serves `listener` for ever.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, source)) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    connection(admin, stream, Connection::from(source)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(admin: Arc<Admin>, stream: TcpStream, connection: Connection) {
    let connection = Arc::new(connection);
    let serve = service_fn(move |request| {
        let (admin, connection) = (Arc::clone(&admin), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(admin.answer(&connection, request).await) }
    });
    // An error of the asker's connection is the asker's.
    let _ = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BUFFER_MAX)
        .serve_connection(TokioIo::new(stream), serve)
        .await;
}

impl Admin {
    /// One that has seen nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            store: parts.store,
            tailnet: parts.tailnet,
            metrics: parts.metrics,
            clock: parts.clock,
            instance: parts.instance,
            started: parts.started,
            children: parts.children,
            draining: parts.draining,
            inputs: parts.inputs,
            desk: Desk::new(),
            shields: Shields::default(),
            failures: Mutex::new(Failures::new()),
            history: History::default(),
            events: Events::new(),
            recent: Recent::default(),
        }
    }

    async fn answer(&self, connection: &Connection, request: Request<Incoming>) -> Answer {
        let live = self.store.live();
        let answer = match self.admitted(&live, connection, &request).await {
            Ok(caller) => self.routed(&live, &caller, request).await,
            Err(refusal) => Err(refusal),
        };
        let mut answer = answer.unwrap_or_else(|refusal| {
            let labels = [refusal.word()];
            self.metrics.admin_refused.with_label_values(&labels).inc();
            refused(&refusal)
        });
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        let (name, value) = SAME_ORIGIN;
        headers.insert(name, HeaderValue::from_static(value));
        answer
    }

    /// Who asks, once nothing speaks against an answer.
    async fn admitted(
        &self,
        live: &Live,
        connection: &Connection,
        request: &Request<Incoming>,
    ) -> Result<Caller, Refusal> {
        let head = Head {
            method: request.method(),
            version: request.version(),
            target: request.uri().authority().map(http::uri::Authority::as_str),
            headers: request.headers(),
        };
        self.well_formed(&live.snapshot.admin, &head)?;
        let asked = self.caller(&live.snapshot, connection, request.headers());
        if !matches!(request.uri().path(), "/live" | "/ready") {
            let caller = asked.await?;
            caller.may_read()?;
            return Ok(caller);
        }
        // A probe must not depend on tailscaled; whom it knows and nobody named is told nothing.
        match timeout(PROBE_PATIENCE, asked).await {
            Ok(Err(Refusal::Unknown(_))) | Err(_) => Ok(Caller::Stranger),
            Ok(caller) => caller,
        }
    }

    async fn routed(
        &self,
        live: &Live,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        let orders = live.snapshot.admin.functions;
        if orders && ORDERS.contains(&path) {
            if request.method() != Method::POST {
                return Ok(not_allowed("POST"));
            }
            let by = caller.may_order(&live.snapshot.admin)?.to_owned();
            guard::json(request.headers())?;
            return Ok(self.order(&by, request).await);
        }
        if !READS.contains(&path) {
            let orders = if orders { &ORDERS[..] } else { &[] };
            let text = format!(
                "no such page; there are {}\n",
                [&READS[..], orders].concat().join(" ")
            );
            return Ok(reply(StatusCode::NOT_FOUND, TEXT, text));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(not_allowed("GET, HEAD"));
        }
        if path == "/status" {
            let you = Some(caller.you(&live.snapshot.admin));
            let status = self.status();
            return Ok(json(StatusCode::OK, &Status { you, ..status }));
        }
        Ok(self.read(caller, path, request.uri().query()))
    }

    fn read(&self, caller: &Caller, path: &str, query: Option<&str>) -> Answer {
        match path {
            "/" => page::answer(),
            "/ready" => self.ready(caller.may_read().is_ok()),
            "/health" => self.health(),
            "/metrics" => reply(StatusCode::OK, TEXT_FORMAT, self.metrics_text()),
            "/explain" => self.explained(query.unwrap_or_default()),
            "/events" => self.listen(),
            // The process answers: that is what it is asked.
            _ => reply(StatusCode::OK, TEXT, "live\n".to_owned()),
        }
    }

    fn draining(&self) -> bool {
        *self.draining.borrow() || self.children.is_ending()
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(refusal: &Refusal) -> Answer {
    let text = refusal.sentence() + "\n";
    let mut answer = reply(refusal.status(), TEXT, text);
    let headers = answer.headers_mut();
    match refusal {
        Refusal::NoToken | Refusal::WrongToken => {
            let realm = HeaderValue::from_static("Bearer realm=\"tailhop\"");
            headers.insert(WWW_AUTHENTICATE, realm);
        }
        Refusal::TooMany(left) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(left.as_secs() + 1));
        }
        // Nothing that follows on the connection is read as a request.
        Refusal::Framing | Refusal::Large | Refusal::Unknown(_) => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    answer
}

fn not_allowed(methods: &'static str) -> Answer {
    let text = format!("only {}\n", methods.replace(", ", " and "));
    let mut answer = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    let methods = HeaderValue::from_static(methods);
    answer.headers_mut().insert(ALLOW, methods);
    answer
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Answer {
    let mut text = serde_json::to_string_pretty(body).unwrap_or_default();
    text.push('\n');
    reply(status, "application/json", text)
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
