//! What is written down of a request: metrics, and one access line when its body ended.
//!
//! Invariants: every request is recorded exactly once, also one whose client left; nothing of a
//! body, a query or a header but the request id is recorded; writing never holds up a request:
//! lines go to a thread of their own, and are dropped and counted when it cannot keep up.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use prometheus::IntCounter;
use serde::Serialize;
use tokio::time::Instant;

use super::Proxy;
use super::call::Call;
use super::rules::Refusal;
use crate::endpoint::live::Endpoint;
use crate::metrics::Metrics;
use crate::plan::reason::Reason;
use crate::words::outcome::{Failure, Kind, Phase, Side};

/// Lines that may wait for the writer.
const BACKLOG: usize = 4096;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);
/// Longest request id that is taken over from a client, in bytes.
const ID_MAX: usize = 64;

/// How the answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As the upstream ended it.
    Complete,
    /// With an error of ours.
    Refused,
    /// It broke off after its head.
    Truncated(Kind),
    /// The client left.
    Abandoned,
}

/// One request, as it is written down.
pub(super) struct Record {
    began: Instant,
    line: Line,
    kind_known: bool,
    endpoint: Option<Arc<Endpoint>>,
    /// Bytes of its body that were read when it was sent.
    rest: Option<Arc<AtomicU64>>,
    metrics: Arc<Metrics>,
    log: AccessLog,
    ended: bool,
}

/// One access line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// When the request's head had come.
    pub time: Timestamp,
    /// Ties the line to the answer's header.
    pub request_id: Box<str>,
    /// Method.
    pub method: Box<str>,
    /// Path without the query.
    pub path: Box<str>,
    /// Status sent to the client; 0 if it left before.
    pub status: u16,
    /// Service, or `none`.
    pub service: Box<str>,
    /// Effect, or `none`.
    pub effect: &'static str,
    /// Operation, or `none`.
    pub op: &'static str,
    /// The backend asked last, or `none`.
    pub backend: Box<str>,
    /// Why that one, or why there is no answer.
    pub reason: Box<str>,
    /// Attempts made.
    pub attempts: u32,
    /// Bytes of the request body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// To the head of the answer, in milliseconds.
    pub first_byte_ms: Option<f64>,
    /// To the end, in milliseconds.
    pub total_ms: f64,
    /// `complete`, `refused`, `client-abort`, or what broke the answer off.
    pub end: &'static str,
}

impl Record {
    /// A request whose head came now.
    pub(super) fn begin(proxy: &Proxy, id: &HeaderValue, method: &Method, path: &str) -> Self {
        let none = || Box::from("none");
        let line = Line {
            time: proxy.clock.now(),
            request_id: id.to_str().unwrap_or_default().into(),
            method: method.as_str().into(),
            path: path.into(),
            status: 0,
            service: none(),
            effect: "none",
            op: "none",
            backend: none(),
            reason: none(),
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            first_byte_ms: None,
            total_ms: 0.0,
            end: End::Abandoned.as_str(),
        };
        Self {
            began: Instant::now(),
            line,
            kind_known: false,
            endpoint: None,
            rest: None,
            metrics: Arc::clone(&proxy.metrics),
            log: proxy.log.clone(),
            ended: false,
        }
    }

    /// What never became a request was refused.
    pub(super) fn no_request(proxy: &Proxy, refusal: Refusal) {
        let mut record = Self::begin(proxy, &proxy.ids.make(), &Method::GET, "none");
        record.line.method = "none".into();
        record.refused(refusal.status(), refusal.word());
    }

    /// It matched a route.
    pub(super) fn matched(&mut self, call: &Call<'_>) {
        self.line.service = call.service().name.as_str().into();
        self.line.effect = call.meaning.effect.as_str();
        self.line.op = call.meaning.op;
        self.kind_known = true;
    }

    /// So much of its body was read; `rest` counts what is read when it is sent.
    pub(super) fn read(&mut self, bytes: usize, rest: Option<Arc<AtomicU64>>) {
        self.line.bytes_in = bytes as u64;
        self.rest = rest;
    }

    /// An attempt at `endpoint` begins.
    pub(super) fn at(&mut self, endpoint: &Arc<Endpoint>, reason: &Reason) {
        self.line.attempts += 1;
        let same = self
            .endpoint
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, endpoint));
        if !same {
            self.leave();
            endpoint.handles.in_flight.inc();
            endpoint.handles.request_bytes.inc_by(self.line.bytes_in);
            self.line.backend = endpoint.key.backend.as_str().into();
            self.endpoint = Some(Arc::clone(endpoint));
        }
        // Behind the first candidate, what failed before says more than that it failed.
        let follows = *reason == Reason::Next && &*self.line.reason != "none";
        if !follows {
            self.line.reason = reason.word().into();
        }
    }

    /// An attempt failed; `again` tells whether another follows.
    pub(super) fn failed(&mut self, proxy: &Proxy, failure: &Failure, again: bool) {
        self.line.reason = format!("fallback:{}", failure.kind.as_str()).into();
        if again {
            let labels = [&*self.line.service, failure.kind.as_str()];
            proxy.metrics.retries.with_label_values(&labels).inc();
        }
    }

    /// Why the backend that answers was asked.
    pub(super) fn reason(&self) -> &str {
        &self.line.reason
    }

    /// The head of an upstream's answer goes to the client.
    pub(super) fn answered(&mut self, status: StatusCode, active: Option<&str>) {
        self.line.status = status.as_u16();
        let took = self.began.elapsed().as_secs_f64();
        self.line.first_byte_ms = Some(millis(took));
        if let Some(endpoint) = &self.endpoint {
            endpoint.handles.first_byte.observe(took);
        }
        if let Some(active) = active.filter(|active| **active != *self.line.backend) {
            let why = self
                .line
                .reason
                .strip_prefix("fallback:")
                .unwrap_or("order")
                .to_owned();
            let labels = [
                &*self.line.service,
                active,
                &*self.line.backend,
                why.as_str(),
            ];
            self.metrics.fallbacks.with_label_values(&labels).inc();
        }
    }

    /// An error of ours goes to the client.
    pub(super) fn refused(mut self, status: StatusCode, reason: &str) {
        self.line.status = status.as_u16();
        self.line.reason = reason.into();
        self.metrics
            .refused
            .with_label_values(&[&*self.line.service, reason])
            .inc();
        self.finish(End::Refused);
    }

    /// A piece of the answer passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.line.bytes_out += bytes as u64;
    }

    /// It ended.
    pub(super) fn finish(mut self, end: End) {
        self.write(end);
    }

    fn write(&mut self, end: End) {
        self.ended = true;
        self.add_rest();
        self.line.end = end.as_str();
        let took = self.began.elapsed().as_secs_f64();
        self.line.total_ms = millis(took);
        self.count(end, took);
        self.leave();
        self.log.write(self.line.clone());
    }

    fn add_rest(&mut self) {
        let rest = self.rest.take();
        let bytes = rest.map_or(0, |rest| rest.load(Ordering::Relaxed));
        self.line.bytes_in += bytes;
        if let Some(endpoint) = &self.endpoint {
            endpoint.handles.request_bytes.inc_by(bytes);
        }
    }

    fn count(&self, end: End, took: f64) {
        let line = &self.line;
        let labels = [&*line.service, &*line.backend, line.op];
        let class = code_class(line.status, end);
        let counted = [labels[0], labels[1], labels[2], class];
        self.metrics.requests.with_label_values(&counted).inc();
        self.metrics
            .request_seconds
            .with_label_values(&labels)
            .observe(took);
        if let Some(endpoint) = &self.endpoint {
            endpoint.handles.response_bytes.inc_by(line.bytes_out);
        }
        match end {
            End::Truncated(cause) => {
                let labels = [labels[0], labels[1], cause.as_str()];
                self.metrics.truncations.with_label_values(&labels).inc();
            }
            End::Abandoned => {
                let phase = if line.status == 0 {
                    "before-head"
                } else {
                    "streaming"
                };
                self.metrics
                    .client_aborts
                    .with_label_values(&[labels[0], phase])
                    .inc();
            }
            End::Complete | End::Refused => {}
        }
    }

    fn leave(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.handles.in_flight.dec();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.write(End::Abandoned);
        }
    }
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::Truncated(cause) => cause.as_str(),
            Self::Abandoned => "client-abort",
        }
    }
}

fn code_class(status: u16, end: End) -> &'static str {
    match (end, status / 100) {
        (End::Abandoned | End::Truncated(_), _) => "abort",
        (_, 1) => "1xx",
        (_, 2) => "2xx",
        (_, 3) => "3xx",
        (_, 4) => "4xx",
        _ => "5xx",
    }
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// The word for a failure in headers and metric labels: an outcome that is not known is named as
/// such, whatever made it so.
pub(super) fn failure_word(failure: &Failure, changes: bool) -> &'static str {
    let client = failure.kind.side() == Side::Client;
    if changes && failure.phase == Phase::Sent && !client {
        "outcome-unknown"
    } else {
        failure.kind.as_str()
    }
}

/// Request ids: the client's if it sent a plain one, else ours.
pub(super) struct Ids {
    seed: u64,
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        Self {
            seed: RandomState::new().hash_one(0),
            next: AtomicU64::new(0),
        }
    }

    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        let sent = headers
            .get("x-request-id")
            .filter(|id| !id.is_empty() && id.len() <= ID_MAX && id.as_bytes().iter().all(plain));
        // Copied: a clone would keep the whole read buffer of the connection.
        let copied = sent.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        copied.unwrap_or_else(|| self.make())
    }

    fn make(&self) -> HeaderValue {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{count:x}", self.seed);
        HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
    }
}

/// Where access lines go.
#[derive(Clone)]
pub struct AccessLog {
    to: SyncSender<Line>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Lines to a channel, for whoever wants to read them.
    pub fn channel(metrics: &Metrics) -> (Self, Receiver<Line>) {
        let (to, from) = sync_channel(BACKLOG);
        (
            Self {
                to,
                dropped: metrics.log_dropped.clone(),
            },
            from,
        )
    }

    /// Lines to stdout, by a thread of their own: JSON, or plain text on a terminal. The thread
    /// ends when nobody is left to log.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn stdout(metrics: &Metrics) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (log, from) = Self::channel(metrics);
        let json = !std::io::stdout().is_terminal();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&from, json))?;
        Ok((log, writer))
    }

    fn write(&self, line: Line) {
        if self.to.try_send(line).is_err() {
            self.dropped.inc();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own: nothing else waits for it"
)]
fn write_lines(from: &Receiver<Line>, json: bool) {
    let mut text = String::new();
    while let Ok(first) = from.recv() {
        // One wake-up and one write for all lines of a while, not for each.
        std::thread::sleep(GATHER);
        text.clear();
        for line in std::iter::once(first).chain(from.try_iter().take(BACKLOG)) {
            line.append_to(&mut text, json);
        }
        // Nobody reads: the proxy goes on.
        if std::io::stdout().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

impl Line {
    fn append_to(&self, text: &mut String, json: bool) {
        if json {
            text.push_str(&serde_json::to_string(self).unwrap_or_default());
        } else {
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                "{} {:>3} {} {} -> {} ({}) {}ms {}",
                self.time.strftime("%T"),
                self.status,
                self.method,
                self.path,
                self.backend,
                self.reason,
                self.total_ms,
                self.end,
            );
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_id_of_the_client_is_kept_and_any_other_replaced() {
        let ids = Ids::new();
        let with = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_bytes(value).unwrap());
            ids.of(&headers)
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        for odd in [&b""[..], b"a b", b"\xff", &[b'a'; ID_MAX + 1]] {
            assert_ne!(with(odd).as_bytes(), odd);
        }
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }

    #[test]
    fn a_cut_or_abandoned_answer_never_counts_as_a_success() {
        assert_eq!(code_class(200, End::Complete), "2xx");
        assert_eq!(code_class(200, End::Truncated(Kind::Broken)), "abort");
        assert_eq!(code_class(0, End::Abandoned), "abort");
        assert_eq!(code_class(503, End::Refused), "5xx");
    }
}
