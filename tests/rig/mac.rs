//! A scripted Mac: an HTTP server on port 11434 and another on 6333 of its machine, that
//! answer as Ollama and Qdrant would, remember every request, and misbehave when told.
//!
//! Answers carry `x-mac: <name>`, so a test sees which Mac spoke. Switched off, both ports refuse.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::net::Host;

/// Ollama's port.
pub(crate) const OLLAMA: u16 = 11434;
/// Qdrant's port.
pub(crate) const QDRANT: u16 = 6333;
/// The port of its gRPC, where only the stand-in listens.
pub(crate) const QDRANT_GRPC: u16 = 6334;

/// How many pieces a chat stream has, the last one with `done:true`.
pub(crate) const CHAT_PIECES: usize = 6;
/// The silence between two pieces.
pub(crate) const CHAT_GAP: Duration = Duration::from_millis(100);

/// A request that reached the Mac.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) port: u16,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

/// How it behaves.
#[derive(Clone, Debug, Default, PartialEq)]
struct Script {
    /// Whether its ports are open.
    open: bool,
    /// Requests of this method are read and not answered, as long as this holds.
    hold: Option<Method>,
    /// Silence before the head of each answer to this method.
    head_delay: Option<(Method, Duration)>,
    /// The silence between two pieces of a chat, where it is not [`CHAT_GAP`].
    chat_gap: Option<Duration>,
    /// What names the model `large` gets no head, as long as this holds.
    loading: bool,
}

/// One scripted Mac.
#[derive(Clone, Debug)]
pub(crate) struct Mac {
    name: &'static str,
    script: watch::Sender<Script>,
    listening: watch::Sender<bool>,
    seen: watch::Sender<Vec<Seen>>,
    /// How many of them it answered.
    answered: watch::Sender<usize>,
}

impl Mac {
    /// Puts one on `host`, switched off.
    pub(crate) fn on_host(host: &Arc<Host>) -> Self {
        let mac = Self {
            name: host.name,
            script: watch::Sender::default(),
            listening: watch::Sender::default(),
            seen: watch::Sender::default(),
            answered: watch::Sender::default(),
        };
        let server = mac.clone();
        host.run_forever(async move || server.serve_by_script().await);
        mac
    }

    /// Opens both ports; returns when they accept.
    pub(crate) async fn switch_on(&self) {
        self.script.send_modify(|script| script.open = true);
        self.until_listening(true).await;
    }

    /// Closes both ports and every connection; returns when they refuse.
    pub(crate) async fn switch_off(&self) {
        self.script.send_modify(|script| script.open = false);
        self.until_listening(false).await;
    }

    /// Reads requests of `method` and does not answer them, until told otherwise.
    pub(crate) fn hold(&self, method: Option<Method>) {
        self.script.send_modify(|script| script.hold = method);
    }

    /// Is silent before the head of each answer to a method, for so long.
    pub(crate) fn delay_head(&self, delay: Option<(Method, Duration)>) {
        self.script.send_modify(|script| script.head_delay = delay);
    }

    /// Is so long silent between two pieces of a chat.
    pub(crate) fn chat_slowly(&self, gap: Duration) {
        self.script
            .send_modify(|script| script.chat_gap = Some(gap));
    }

    /// Loads the model `large`: whoever asks for it waits until it is told otherwise.
    pub(crate) fn load(&self, loading: bool) {
        self.script.send_modify(|script| script.loading = loading);
    }

    /// How many requests of `method` that name the model `large` reached it.
    pub(crate) fn seen_large(&self, method: &Method) -> usize {
        let all = self.seen(method);
        all.iter().filter(|seen| wants_large(&seen.body)).count()
    }

    /// Forgets what it saw and behaves well again.
    pub(crate) async fn reset(&self) {
        self.script.send_modify(|script| {
            *script = Script {
                open: true,
                ..Script::default()
            }
        });
        self.until_listening(true).await;
        self.seen.send_modify(Vec::clear);
    }

    /// The requests of `method` that reached it.
    pub(crate) fn seen(&self, method: &Method) -> Vec<Seen> {
        self.seen
            .borrow()
            .iter()
            .filter(|seen| seen.method == method)
            .cloned()
            .collect()
    }

    /// Returns when a request of `method` has reached it.
    pub(crate) async fn until_seen(&self, method: &Method, within: Duration) {
        let mut seen = self.seen.subscribe();
        let came = seen.wait_for(|all| all.iter().any(|seen| seen.method == method));
        let came = timeout(within, came).await;
        assert!(
            came.is_ok(),
            "no {method} reached {} within {within:?}",
            self.name
        );
    }

    /// Returns when it has seen so many requests of `method`.
    pub(crate) async fn until_seen_so_many(&self, method: &Method, count: usize) {
        let mut seen = self.seen.subscribe();
        let all = |all: &Vec<Seen>| all.iter().filter(|seen| seen.method == method).count();
        let came = seen.wait_for(|seen| all(seen) == count);
        let came = timeout(Duration::from_secs(20), came).await.is_ok();
        assert!(came, "not {count} {method} reached {}", self.name);
    }

    /// Answers what it held back, and returns when so many were answered.
    pub(crate) async fn answer_held(&self, count: usize) {
        let mut answered = self.answered.subscribe();
        let before = *answered.borrow_and_update();
        self.hold(None);
        let all = answered.wait_for(|answered| *answered >= before + count);
        let all = timeout(Duration::from_secs(20), all).await.is_ok();
        assert!(all, "{} does not answer {count}", self.name);
    }

    async fn until_listening(&self, on: bool) {
        let mut listening = self.listening.subscribe();
        let patience = Duration::from_secs(5);
        let reached = timeout(patience, listening.wait_for(|is| *is == on)).await;
        assert!(
            reached.is_ok(),
            "{}: its ports do not switch to {on}",
            self.name
        );
    }
}

/// The server side, on a thread inside the Mac's namespace.
impl Mac {
    async fn serve_by_script(&self) {
        let mut script = self.script.subscribe();
        loop {
            let _ = script.wait_for(|script| script.open).await;
            let (ollama, qdrant) = (listen(OLLAMA).await, listen(QDRANT).await);
            self.listening.send_replace(true);
            tokio::select! {
                _ = script.wait_for(|script| !script.open) => {}
                () = self.accept(&ollama, OLLAMA) => {}
                () = self.accept(&qdrant, QDRANT) => {}
            }
            drop((ollama, qdrant));
            self.listening.send_replace(false);
        }
    }

    /// Accepts for ever; dropped, it takes its connections along.
    async fn accept(&self, listener: &TcpListener, port: u16) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let mac = self.clone();
            connections.spawn(async move {
                let answer = service_fn(|request| mac.answer(port, request));
                // A client that leaves early is an error here and none for a test.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(&self, port: u16, request: Request<Incoming>) -> Result<Reply, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (method, path) = (head.method, head.uri.path().to_owned());
        let seen = Seen {
            port,
            method: method.clone(),
            path: path.clone(),
            body: body.clone(),
        };
        self.seen.send_modify(|all| all.push(seen));

        self.obey(&method, &body).await;
        let mut reply = match port {
            OLLAMA => {
                let gap = self.script.borrow().chat_gap.unwrap_or(CHAT_GAP);
                ollama(&method, &path, &body, gap)
            }
            _ => qdrant(&method, &path),
        };
        reply
            .headers_mut()
            .insert("x-mac", self.name.parse().expect("a header value"));
        self.answered.send_modify(|count| *count += 1);
        Ok(reply)
    }

    async fn obey(&self, method: &Method, body: &[u8]) {
        let mut script = self.script.subscribe();
        let delay = script.borrow().head_delay.clone();
        if let Some((_, delay)) = delay.filter(|(delayed, _)| delayed == method) {
            sleep(delay).await;
        }
        let held = |script: &Script| script.hold.as_ref() == Some(method);
        let _ = script.wait_for(|script| !held(script)).await;
        if wants_large(body) {
            let _ = script.wait_for(|script| !script.loading).await;
        }
    }
}

async fn listen(port: u16) -> TcpListener {
    // tailscaled asks on 127.0.0.1; without a tailnet the machine's own address is asked.
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address)
        .await
        .expect("the port is free in this namespace")
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn ollama(method: &Method, path: &str, body: &[u8], gap: Duration) -> Reply {
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/") => text("Ollama is running"),
        ("GET" | "HEAD", "/api/version") => json(&json!({ "version": "0.24.0" })),
        ("GET" | "HEAD", "/api/tags") => json(&json!({ "models": [model()] })),
        ("GET", "/api/ps") => json(&json!({ "models": [] })),
        ("POST", "/api/chat" | "/api/generate") if wants_stream(body) => chat_stream(gap),
        ("POST", "/api/chat" | "/api/generate") => json(&chat_piece(CHAT_PIECES)),
        _ => not_found(),
    }
}

fn qdrant(method: &Method, path: &str) -> Reply {
    let result = match (method.as_str(), path) {
        ("GET", "/") => return json(&json!({ "title": "qdrant", "version": "1.19.0" })),
        ("GET", "/readyz") => return text("all shards are ready"),
        ("GET", "/healthz" | "/livez") => return text("healthz check passed"),
        ("GET", "/collections") => json!({ "collections": [{ "name": "c" }] }),
        ("PUT", "/collections/c/points") => json!({ "operation_id": 1, "status": "completed" }),
        ("POST", "/collections/c/points/query") => json!({ "points": [] }),
        _ => return not_found(),
    };
    json(&json!({ "result": result, "status": "ok", "time": 0.0 }))
}

fn model() -> serde_json::Value {
    json!({ "name": "tiny:latest", "model": "tiny:latest", "size": 1, "digest": "0".repeat(64) })
}

fn wants_stream(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|body: serde_json::Value| body["stream"] != false)
}

fn wants_large(body: &[u8]) -> bool {
    serde_json::from_slice(body).is_ok_and(|body: serde_json::Value| body["model"] == "large")
}

fn chat_piece(number: usize) -> serde_json::Value {
    json!({
        "model": "tiny:latest",
        "message": { "role": "assistant", "content": format!("{number} ") },
        "done": number == CHAT_PIECES,
    })
}

/// A stream as Ollama writes it: one line a piece, each flushed, with silence between them.
fn chat_stream(gap: Duration) -> Reply {
    let (pieces, body) = mpsc::channel(1);
    tokio::spawn(async move {
        for number in 1..=CHAT_PIECES {
            if pieces
                .send(Bytes::from(format!("{}\n", chat_piece(number))))
                .await
                .is_err()
            {
                return;
            }
            sleep(gap).await;
        }
    });
    let reply = Response::builder().header("content-type", "application/x-ndjson");
    reply
        .body(Pieces(body).boxed_unsync())
        .expect("a valid answer")
}

fn json(value: &serde_json::Value) -> Reply {
    let reply = Response::builder().header("content-type", "application/json");
    reply
        .body(Full::from(value.to_string()).boxed_unsync())
        .expect("a valid answer")
}

fn text(words: &'static str) -> Reply {
    Response::new(Full::from(words).boxed_unsync())
}

fn not_found() -> Reply {
    let mut reply = text("404 page not found");
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply
}

/// A body of unknown length, fed by a channel.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}
