//! What is written down of a request: metrics, and one access line when its body ended.
//!
//! Invariants: every request is recorded exactly once, also one whose client left; nothing of a
//! body, a query or a header but the request id is recorded.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Proxy;
pub use super::access::{AccessLog, Form, Line};
use super::access::{Entry, Millis, Stood};
use super::beat::Beats;
use super::call::Call;
use super::fields::Fields;
use super::queue::Queued;
use super::rules::Refusal;
use super::trace::Trace;
use super::worked::Worked;
use crate::api::changes_stock;
use crate::api::models::Model;
use crate::api::stream::{Ending, Watcher};
use crate::endpoint::live::Endpoint;
use crate::endpoint::slots::Slot;
use crate::endpoint::work::Done;
use crate::metrics::OTHER;
use crate::plan::reason::Reason;
use crate::words::names::ServiceName;
use crate::words::outcome::{Failure, Kind, Phase, Side};

/// Longest request id that is taken over from a client, in bytes.
const ID_MAX: usize = 64;
/// The header with the request id.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What stands for a name that there is not.
const NONE: &str = "none";

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
    proxy: Arc<Proxy>,
    /// When its head had come, by both clocks.
    pub(super) began: Instant,
    pub(super) time: Timestamp,
    id: Id,
    /// `None`: it never became a request.
    asked: Option<(Method, Arc<str>)>,
    status: u16,
    service: Option<ServiceName>,
    effect: &'static str,
    op: &'static str,
    /// The endpoint asked last.
    endpoint: Option<Arc<Endpoint>>,
    /// Why that one, or why there is no answer.
    reason: Cow<'static, str>,
    attempts: u32,
    bytes_in: u64,
    /// Bytes of its body that were read when it was sent.
    rest: Option<Arc<AtomicU64>>,
    bytes_out: u64,
    first_byte: Option<Duration>,
    trace: Option<Trace>,
    /// Of requests that went well, one in so many is logged.
    sample: u16,
    /// How a model's stream stood when it was last looked at.
    stream: Option<Ending>,
    /// The model that it asks for.
    model: Option<Model>,
    /// What a model's answer took.
    work: Option<Box<Work>>,
    /// How it stood in line for a place at the backend.
    queued: Option<Queued>,
    /// Its place there.
    slot: Option<Slot>,
    /// The models or collections of its endpoint may be others afterwards.
    restocks: bool,
    ended: bool,
}

/// What a model's answer took, and when its first piece came.
struct Work {
    first: Option<Instant>,
    /// The name of the model, as it may be shown.
    model: Cow<'static, str>,
    done: Done,
}

impl Record {
    /// A request whose head came now. Boxed, as it is handed on from one to the next.
    pub(super) fn begin(
        proxy: &Arc<Proxy>,
        id: Id,
        asked: Option<(Method, Arc<str>)>,
    ) -> Box<Self> {
        Box::new(Self {
            began: Instant::now(),
            time: proxy.clock.now(),
            proxy: Arc::clone(proxy),
            id,
            asked,
            status: 0,
            service: None,
            effect: NONE,
            op: NONE,
            endpoint: None,
            reason: Cow::Borrowed(NONE),
            attempts: 0,
            bytes_in: 0,
            rest: None,
            bytes_out: 0,
            first_byte: None,
            trace: None,
            sample: 1,
            stream: None,
            model: None,
            work: None,
            queued: None,
            slot: None,
            restocks: false,
            ended: false,
        })
    }

    /// What never became a request was refused.
    pub(super) fn no_request(proxy: &Arc<Proxy>, refusal: Refusal) {
        let record = Self::begin(proxy, proxy.ids.make(), None);
        record.refused(refusal.status(), refusal.word());
    }

    /// Its headers say which trace it belongs to.
    pub(super) fn traced(&mut self, headers: &HeaderMap) {
        if self.proxy.log.traces() {
            self.trace = Trace::of(headers);
        }
    }

    /// It matched a route.
    pub(super) fn matched(&mut self, call: &Call<'_>) {
        self.sample = call.live.snapshot.log_sample;
        self.service = Some(call.service().name.clone());
        self.effect = call.meaning.effect.as_str();
        self.op = call.meaning.op;
        self.restocks = changes_stock(call.service().kind, call.meaning);
    }

    /// So much of its body was read; `rest` counts what is read when it is sent.
    pub(super) fn read(&mut self, bytes: usize, rest: Option<Arc<AtomicU64>>) {
        self.bytes_in = bytes as u64;
        self.rest = rest;
    }

    /// Whether it has a place at `endpoint`.
    pub(super) fn has_place_at(&self, endpoint: &Arc<Endpoint>) -> bool {
        let there = (self.endpoint.as_ref()).is_some_and(|last| Arc::ptr_eq(last, endpoint));
        there && self.slot.is_some()
    }

    /// It stands, or stood, in line so.
    pub(super) fn stands(&mut self, queued: Queued) {
        self.queued = Some(queued);
    }

    /// It stands in line no more.
    pub(super) fn has_waited(&mut self) {
        if let Some(queued) = &mut self.queued {
            queued.ends();
        }
    }

    /// Whether it stood in line.
    pub(super) fn waited(&self) -> bool {
        self.queued.is_some_and(|queued| queued.position > 0)
    }

    /// It goes elsewhere.
    pub(super) fn gives_up_its_place(&mut self) {
        self.slot = None;
    }

    /// How it stood in line, as a header says it.
    pub(super) fn queue(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.queued.as_ref()?.to_string()).ok()
    }

    /// It has a place at the endpoint that it goes to now.
    pub(super) fn placed(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// An attempt at `endpoint` begins.
    pub(super) fn at(&mut self, endpoint: &Arc<Endpoint>, reason: &Reason) {
        self.attempts += 1;
        let same = self
            .endpoint
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, endpoint));
        if !same {
            self.depart();
            endpoint.handles.in_flight.inc();
            endpoint.handles.request_bytes.inc_by(self.bytes_in);
            self.endpoint = Some(Arc::clone(endpoint));
        }
        // Behind the first candidate, what failed before says more than that it failed.
        let follows = *reason == Reason::Next && self.reason != NONE;
        if !follows {
            self.reason = Cow::Borrowed(reason.word());
        }
    }

    /// An attempt failed; `again` tells whether another follows.
    pub(super) fn failed(&mut self, failure: &Failure, again: bool) {
        self.reason = format!("fallback:{}", failure.kind.as_str()).into();
        if again {
            let labels = [self.service(), failure.kind.as_str()];
            let retries = &self.proxy.metrics.retries;
            retries.with_label_values(&labels).inc();
        }
    }

    /// Why the backend that answers was asked, as a header says it.
    pub(super) fn reason(&self) -> HeaderValue {
        match self.reason {
            Cow::Borrowed(reason) => HeaderValue::from_static(reason),
            // Our own words are always header values.
            Cow::Owned(ref reason) => {
                HeaderValue::from_str(reason).unwrap_or(HeaderValue::from_static(NONE))
            }
        }
    }

    /// The request id, as a header says it.
    pub(super) fn id(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.id.as_bytes()).unwrap_or(HeaderValue::from_static(NONE))
    }

    /// The head of an upstream's answer goes to the client.
    pub(super) fn answered(&mut self, status: StatusCode, active: &str, now: Instant) {
        self.status = status.as_u16();
        let took = now.saturating_duration_since(self.began);
        self.first_byte = Some(took);
        if let Some(endpoint) = &self.endpoint {
            endpoint.handles.first_byte.observe(took.as_secs_f64());
        }
        let backend = self.backend();
        if active != backend {
            let other = self.reason.strip_prefix("fallback:");
            let why = match self.reason.as_ref() {
                own @ ("model-only-there" | "least-loaded") => own,
                _ => other.unwrap_or("order"),
            };
            let labels = [self.service(), active, backend, why];
            let fallbacks = &self.proxy.metrics.fallbacks;
            fallbacks.with_label_values(&labels).inc();
        }
    }

    /// An error of ours goes to the client.
    pub(super) fn refused(mut self: Box<Self>, status: StatusCode, reason: &'static str) {
        self.status = status.as_u16();
        self.reason = Cow::Borrowed(reason);
        let labels = [self.service(), reason];
        let refused = &self.proxy.metrics.refused;
        refused.with_label_values(&labels).inc();
        self.write(End::Refused, Instant::now());
    }

    /// It is answered with what is kept.
    pub(super) fn kept(mut self: Box<Self>, bytes: usize) {
        let now = Instant::now();
        self.status = StatusCode::OK.as_u16();
        self.reason = Cow::Borrowed("cache");
        self.first_byte = Some(now.saturating_duration_since(self.began));
        self.bytes_out = bytes as u64;
        self.write(End::Complete, now);
    }

    /// The answer says, behind its head, what a status would say in HTTP.
    pub(super) fn turned_out(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// A piece of the answer passed.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// It asks for this model.
    pub(super) fn asks(&mut self, model: Option<&Model>) {
        self.model = model.cloned();
    }

    /// What was read along of its answer, whose first piece came then.
    pub(super) fn watched(&mut self, watcher: &Watcher, first: Option<Instant>) {
        self.stream = watcher.is_stream().then(|| watcher.ending());
        if !watcher.is_answer() {
            return;
        }
        let (usage, first) = (watcher.usage(), first.filter(|_| !watcher.is_bare()));
        self.work = Some(Box::new(Work {
            first,
            model: Cow::Borrowed(OTHER),
            done: Done {
                first_token: first.map(|first| first.saturating_duration_since(self.began)),
                streamed: None,
                usage,
            },
        }));
    }

    /// It ended.
    pub(super) fn finish(mut self: Box<Self>, end: End, now: Instant) {
        self.write(end, now);
    }

    /// What lets its answer wait without a timer.
    pub(super) fn beats(&self) -> &Beats {
        &self.proxy.beats
    }

    fn service(&self) -> &str {
        self.service.as_ref().map_or(NONE, ServiceName::as_str)
    }

    fn backend(&self) -> &str {
        let endpoint = self.endpoint.as_ref();
        endpoint.map_or(NONE, |endpoint| endpoint.key.backend.as_str())
    }

    fn write(&mut self, end: End, now: Instant) {
        self.ended = true;
        self.add_rest();
        if let (true, Some(endpoint)) = (self.restocks, &self.endpoint) {
            // Half a pull may have left something, too.
            endpoint.want_stock();
        }
        let took = now.saturating_duration_since(self.began);
        self.add_work(now);
        self.count(end, took);
        let well = end == End::Complete && self.status < 400;
        if let (true, Some(slot)) = (well, &self.slot) {
            slot.ended_well(now);
        }
        if !well || self.proxy.log.is_due(self.sample) {
            self.proxy.log.write(&self.line(end, took));
        }
        self.leave();
    }

    fn line(&self, end: End, took: Duration) -> Entry<'_> {
        let asked = self.asked.as_ref();
        Entry {
            time: self.time,
            request_id: Cow::Borrowed(self.id.as_str()),
            method: Cow::Borrowed(asked.map_or(NONE, |(method, _)| method.as_str())),
            path: Cow::Borrowed(asked.map_or(NONE, |(_, path)| path)),
            status: self.status,
            service: Cow::Borrowed(self.service()),
            effect: self.effect,
            op: self.op,
            backend: Cow::Borrowed(self.backend()),
            reason: Cow::Borrowed(&self.reason),
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            first_byte_ms: self.first_byte.map(Millis::of),
            total_ms: Millis::of(took),
            end: end.as_str(),
            queue: self.queued.map(|queued| Stood {
                position: queued.position,
                depth: queued.depth,
                ms: Millis::of(queued.wait()),
            }),
            stream: self.stream.map(|stream| stream_word(stream, end)),
            work: self
                .work
                .as_ref()
                .map(|work| Worked::of(&work.model, &work.done)),
            trace: self.trace,
        }
    }

    fn add_rest(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        let bytes = rest.load(Ordering::Relaxed);
        self.bytes_in += bytes;
        if let Some(endpoint) = &self.endpoint {
            endpoint.handles.request_bytes.inc_by(bytes);
        }
    }

    /// Counts what its model took, under a name that its endpoint told.
    fn add_work(&mut self, now: Instant) {
        let (Some(work), Some(endpoint)) = (&mut self.work, &self.endpoint) else {
            return;
        };
        let since = |first| now.saturating_duration_since(first);
        work.done.streamed = work.first.map(since);
        let has = |model: &&Model| {
            let there = endpoint.models.digest(model, |digest| digest.is_some());
            there == Some(true)
        };
        let model = self.model.as_ref().filter(has);
        let metrics = &self.proxy.metrics;
        let label = (endpoint.work).done(metrics, &endpoint.key, model, &work.done);
        work.model = Cow::Owned(label);
    }

    fn count(&self, end: End, took: Duration) {
        let class = code_class(self.status, end);
        let metrics = &self.proxy.metrics;
        if let Some(endpoint) = &self.endpoint {
            let handles = &endpoint.handles;
            handles.ended(&endpoint.key, self.op, class, took.as_secs_f64());
            handles.response_bytes.inc_by(self.bytes_out);
        } else {
            let labels = [self.service(), NONE, self.op, class];
            metrics.requests.with_label_values(&labels).inc();
            let seconds = metrics.request_seconds.with_label_values(&labels[..3]);
            seconds.observe(took.as_secs_f64());
        }
        if let Some(stream) = self.stream {
            let labels = [self.service(), self.backend(), stream_word(stream, end)];
            metrics.streams.with_label_values(&labels).inc();
        }
        match end {
            End::Truncated(cause) => {
                let labels = [self.service(), self.backend(), cause.as_str()];
                metrics.truncations.with_label_values(&labels).inc();
            }
            End::Abandoned => {
                let phase = if self.status == 0 {
                    "before-head"
                } else {
                    "streaming"
                };
                let labels = [self.service(), phase];
                metrics.client_aborts.with_label_values(&labels).inc();
            }
            End::Complete | End::Refused => {}
        }
    }

    fn leave(&mut self) {
        self.depart();
        self.slot = None;
    }

    fn depart(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.handles.in_flight.dec();
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.write(End::Abandoned, Instant::now());
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

/// How a model's stream ended, by what it said itself and by what became of its bytes.
fn stream_word(stream: Ending, end: End) -> &'static str {
    match (stream, end) {
        // A client may leave when it has all it wants.
        (Ending::Complete, End::Complete | End::Abandoned) => "complete",
        (_, End::Abandoned) => "cancelled",
        (Ending::Error, _) => "error-in-stream",
        _ => "truncated",
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

/// A request id: kept in place, as every request has one.
pub(super) struct Id {
    length: usize,
    bytes: [u8; ID_MAX],
}

impl Id {
    fn as_str(&self) -> &str {
        // They are plain characters.
        std::str::from_utf8(self.as_bytes()).unwrap_or(NONE)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The same, if it is one that may be taken over.
    fn plain(sent: &[u8]) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if sent.is_empty() || !sent.iter().all(plain) {
            return None;
        }
        let mut bytes = [0; ID_MAX];
        bytes.get_mut(..sent.len())?.copy_from_slice(sent);
        Some(Self {
            length: sent.len(),
            bytes,
        })
    }
}

/// Request ids: the client's if it sent a plain one, else ours.
pub(super) struct Ids {
    /// 16 hexadecimal digits and a dash.
    seed: [u8; 17],
    next: AtomicU64,
}

impl Ids {
    pub(super) fn new() -> Self {
        let mut seed = [b'-'; 17];
        hex(RandomState::new().hash_one(0), &mut seed[..16]);
        Self {
            seed,
            next: AtomicU64::new(0),
        }
    }

    pub(super) fn of(&self, headers: &HeaderMap, fields: Fields) -> Id {
        let sent = (fields
            .has(Fields::REQUEST_ID)
            .then(|| headers.get(REQUEST_ID)))
        .flatten();
        sent.and_then(|id| Id::plain(id.as_bytes()))
            .unwrap_or_else(|| self.make())
    }

    /// One of ours.
    pub(super) fn make(&self) -> Id {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let digits = (u64::BITS - count.leading_zeros()).div_ceil(4).max(1) as usize;
        let length = self.seed.len() + digits;
        let mut bytes = [0; ID_MAX];
        bytes[..self.seed.len()].copy_from_slice(&self.seed);
        hex(count, &mut bytes[self.seed.len()..length]);
        Id { length, bytes }
    }
}

/// The last digits of `value` in hexadecimal.
fn hex(value: u64, into: &mut [u8]) {
    for (place, digit) in into.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * place) & 15) as usize];
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
            ids.of(&headers, Fields::of(&headers)).as_str().to_owned()
        };
        assert_eq!(with(b"abc-1"), "abc-1");
        assert_eq!(with(&[b'a'; ID_MAX]), "a".repeat(ID_MAX));
        for odd in [&b""[..], b"a b", b"\xff", &[b'a'; ID_MAX + 1]] {
            assert_ne!(with(odd).as_bytes(), odd);
        }
        let [one, other] = [(); 2].map(|()| ids.make());
        assert_ne!(one.as_str(), other.as_str());
    }

    #[test]
    fn our_ids_count_in_hexadecimal_behind_a_seed() {
        let ids = Ids::new();
        for count in [0_u64, 1, 15, 16, 255, 256, 0xdead_beef, u64::MAX] {
            ids.next.store(count, Ordering::Relaxed);
            let id = ids.make();
            let (seed, rest) = id.as_str().split_once('-').unwrap();
            assert_eq!(rest, format!("{count:x}"));
            assert_eq!(seed.len(), 16);
        }
    }

    #[test]
    fn a_cut_or_abandoned_answer_never_counts_as_a_success() {
        assert_eq!(code_class(200, End::Complete), "2xx");
        assert_eq!(code_class(200, End::Truncated(Kind::Broken)), "abort");
        assert_eq!(code_class(0, End::Abandoned), "abort");
        assert_eq!(code_class(503, End::Refused), "5xx");
    }
}
