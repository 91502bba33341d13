//! One endpoint: one service on one backend.
//!
//! Invariant: its verdict is written only through [`Endpoint::judge`], under one lock, so that
//! the atomic copy that requests read, the lost signal and the status page never disagree.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::budget::Budget;
use super::connection::Connection;
use super::dials::Dials;
use super::idle::Idle;
use super::inject::Inject;
use super::lost::Lost;
use super::models::Models;
use super::pace::Pace;
use super::sessions::Sessions;
use super::slots::Slots;
use super::stock::Stock;
use super::work::Work;
use crate::api;
use crate::api::collections::Collections;
use crate::config::snapshot::{Network, Url};
use crate::metrics::Metrics;
use crate::wire::Place;
use crate::wire::tls::Tls;
use crate::words::names::{BackendName, Kind, ServiceName};
use crate::words::verdict::{Evidence, Verdict};

/// What an endpoint is known by: if any of it changes, it is another endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The service.
    pub service: ServiceName,
    /// What we know of the service.
    pub kind: Kind,
    /// The backend.
    pub backend: BackendName,
    /// The host that is dialled.
    pub host: Arc<str>,
    /// The port that is dialled.
    pub port: u16,
    /// The port that is dialled for gRPC, if it speaks it.
    pub grpc_port: Option<u16>,
    /// Which network leads there.
    pub network: Network,
    /// What belongs to its url, if it has one.
    pub url: Option<Arc<Url>>,
}

/// One service on one backend.
pub struct Endpoint {
    /// What it is known by.
    pub key: Key,
    /// Where it is dialled.
    pub place: Place,
    /// Headers that it gets, and nobody else does.
    pub inject: Inject,
    /// The machine it is on.
    pub machine: Arc<Machine>,
    /// Kept-alive connections. Of the data thread only.
    pub idle: Idle,
    /// Dials in progress, shared by all who wait for a connection. Of the data thread only.
    pub dials: Dials<Connection>,
    /// Its connections for gRPC, if it speaks it.
    pub grpc: Option<Sessions>,
    /// How fast it usually is.
    pub pace: Pace,
    /// How many of its requests may be sent again.
    pub budget: Budget,
    /// Tells its connections that the endpoint is lost, and dials that it is not thought able.
    pub lost: Lost,
    /// Its models.
    pub models: Models,
    /// Its collections.
    pub collections: Stock<Collections>,
    /// What they took.
    pub work: Work,
    /// Its places for inference. Of the data thread only, but for looks at how busy it is.
    pub slots: Slots,
    /// Metric handles.
    pub handles: Handles,
    /// Somebody wants it probed.
    pub probe_wanted: Notify,
    /// What it has may have changed: somebody should ask.
    pub stock_wanted: Notify,
    /// The Host that it is asked with.
    pub host: HeaderValue,
    /// The name of its backend, as a header says it.
    pub name: HeaderValue,
    answered: Stamp,
    dialled: Stamp,
    probe_due: Mutex<Option<Instant>>,
    verdict: AtomicU8,
    judgement: Mutex<Judgement>,
    retired: AtomicBool,
}

/// A machine, as far as its endpoints share what is known of it.
pub struct Machine {
    /// Its name.
    pub backend: BackendName,
    /// What is dialled.
    pub host: Arc<str>,
    /// One of its endpoints does not answer dials: somebody should find out why.
    pub alarm: Notify,
    /// Whether tailscaled can be asked about it: then silence alone decides nothing.
    pub examined: AtomicBool,
    /// Counts how often one of its endpoints turned up again: the others are worth a look then.
    pub returns: watch::Sender<u64>,
    heard: Stamp,
}

/// What is known of an endpoint and since when.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Its state.
    pub verdict: Verdict,
    /// Since when, in wall time; `None`: nothing was seen yet.
    pub since: Option<Timestamp>,
    /// What it rests on.
    pub evidence: Evidence,
    /// What the last failure was and how many of its sort came in a row.
    pub failures: Failures,
    /// How often it went away lately.
    pub falls: Falls,
    /// Whether those who wait on its connections were told that it is lost.
    pub lost_told: bool,
    /// The last failure in words, and when.
    pub last_error: Option<(String, Timestamp)>,
}

/// Failures in a row, by sort; anything heard ends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Dials refused.
    pub refused: u32,
    /// Dials that nobody answered.
    pub silent: u32,
    /// Connections that were accepted and then broke or answered wrongly.
    pub wrong: u32,
    /// Since when dials are not answered.
    pub silent_since: Option<Instant>,
}

/// How often an endpoint went away lately: one that flaps is held down for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Falls {
    /// How often in quick succession.
    pub count: u32,
    /// The last time.
    pub last: Option<Instant>,
    /// Until when it is held down.
    pub held_until: Option<Instant>,
}

/// Metric handles of an endpoint, looked up once.
pub struct Handles {
    /// Requests that it is working on.
    pub in_flight: IntGauge,
    /// Time to the head of an answer.
    pub first_byte: Histogram,
    /// Time of a dial that succeeded.
    pub connect_seconds: Histogram,
    /// Dials that succeeded.
    pub connects_ok: IntCounter,
    /// Bytes of request bodies.
    pub request_bytes: IntCounter,
    /// Bytes of answer bodies.
    pub response_bytes: IntCounter,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    ops: Mutex<Vec<Op>>,
}

/// Handles of one operation that it was asked for. Made when it first was, as a family shows only
/// what there was.
struct Op {
    word: &'static str,
    seconds: Histogram,
    classes: Vec<(&'static str, IntCounter)>,
}

impl Endpoint {
    pub(super) fn new(key: Key, machine: Arc<Machine>, metrics: &Metrics) -> Self {
        Self {
            handles: Handles::new(&key, metrics),
            idle: Idle::new(Duration::from_secs(api::idle_keep_seconds(key.kind))),
            host: host(&key),
            // A name needs no quoting.
            name: HeaderValue::from_str(key.backend.as_str())
                .unwrap_or(HeaderValue::from_static("none")),
            dials: Dials::new(),
            pace: Pace::default(),
            budget: Budget::default(),
            place: place_of(&key),
            grpc: Sessions::of(&key),
            inject: Inject::of(key.url.as_deref()),
            key,
            machine,
            lost: Lost::new(),
            models: Models::default(),
            collections: Stock::default(),
            work: Work::default(),
            slots: Slots::default(),
            probe_wanted: Notify::new(),
            stock_wanted: Notify::new(),
            answered: Stamp::never(),
            dialled: Stamp::never(),
            probe_due: Mutex::new(None),
            verdict: AtomicU8::new(number_of(Verdict::Unknown)),
            judgement: Mutex::new(Judgement::unknown()),
            retired: AtomicBool::new(false),
        }
    }

    /// Its verdict now.
    pub fn verdict(&self) -> Verdict {
        Verdict::ALL[usize::from(self.verdict.load(Ordering::Relaxed))]
    }

    /// All that is known of it.
    pub fn judgement(&self) -> Judgement {
        self.locked().clone()
    }

    /// Replaces what is known of it by what `rule` makes of it, and tells who waits: those with
    /// a dial if it is no longer thought able, those on its connections if `rule` calls it lost.
    /// Returns the verdict before and after if it changed.
    pub fn judge(
        &self,
        rule: impl FnOnce(&Judgement) -> (Judgement, bool),
    ) -> Option<(Verdict, Verdict)> {
        let mut judgement = self.locked();
        let before = judgement.verdict;
        let (after, lost) = rule(&judgement);
        self.verdict
            .store(number_of(after.verdict), Ordering::Relaxed);
        self.lost.verdict(after.verdict);
        if lost {
            self.lost.declare();
            self.forget_connections();
        }
        *judgement = after;
        (before != judgement.verdict).then_some((before, judgement.verdict))
    }

    /// A connection carries no request any more, since `now`: the next one that waits takes it,
    /// else it is kept.
    pub fn give_back(&self, connection: Connection, now: Instant) {
        if let Some(connection) = self.dials.offer(connection) {
            self.idle.put(connection, now);
        }
    }

    /// Idle connections may be dead without knowing, or descriptors are used up: none is used for
    /// what is new.
    pub fn forget_connections(&self) {
        self.idle.clear();
        if let Some(grpc) = &self.grpc {
            grpc.clear();
        }
    }

    /// Drops connections that nobody will use. The data thread calls it now and then.
    pub fn sweep(&self) {
        self.idle.sweep();
        if let Some(grpc) = &self.grpc {
            grpc.sweep();
        }
    }

    /// It answered `now`: its machine is heard, and it serves.
    pub fn served(&self, now: Instant) {
        self.answered.touch_at(now);
        self.machine.heard.touch_at(now);
    }

    /// It accepted a dial: its machine is heard.
    pub fn accepted(&self) {
        self.dialled.touch();
        self.machine.heard.touch();
    }

    /// Whether it accepted a dial or answered within this time: an older dial that is stuck says
    /// nothing about it then.
    pub fn reached_within(&self, span: Duration) -> bool {
        let within = |stamp: &Stamp| stamp.age().is_some_and(|age| age < span);
        within(&self.dialled) || within(&self.answered)
    }

    /// How long ago it last answered a request.
    pub fn served_ago(&self) -> Option<Duration> {
        self.answered.age()
    }

    /// The prober says when it will look again.
    pub fn next_probe_in(&self, pause: Duration) {
        let due = Instant::now() + pause;
        *self
            .probe_due
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(due);
    }

    /// How long until the next probe.
    pub fn probe_due_in(&self) -> Duration {
        let due = *self
            .probe_due
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        due.map_or(Duration::ZERO, |due| {
            due.saturating_duration_since(Instant::now())
        })
    }

    /// Asks for a probe on a fresh dial, soon.
    pub fn want_probe(&self) {
        self.probe_wanted.notify_one();
    }

    /// Says that the models or collections that it has may have changed.
    pub fn want_stock(&self) {
        self.stock_wanted.notify_one();
    }

    /// No configuration wants it any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.idle.close();
        if let Some(grpc) = &self.grpc {
            grpc.close();
        }
    }

    /// Whether no configuration wants it any more.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn locked(&self) -> MutexGuard<'_, Judgement> {
        // A judgement is replaced whole, so one that panicked left a whole one behind.
        self.judgement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    pub(super) fn new(backend: BackendName, host: Arc<str>) -> Self {
        Self {
            backend,
            host,
            alarm: Notify::new(),
            examined: AtomicBool::new(false),
            returns: watch::Sender::new(0),
            heard: Stamp::never(),
        }
    }

    /// A byte came from it.
    pub fn hear(&self) {
        self.hear_at(Instant::now());
    }

    /// A byte came from it at an instant.
    pub fn hear_at(&self, now: Instant) {
        self.heard.touch_at(now);
    }

    /// How long ago a byte came from it.
    pub fn heard_ago(&self) -> Option<Duration> {
        self.heard_before(Instant::now())
    }

    /// How long before an instant a byte came from it.
    pub fn heard_before(&self, now: Instant) -> Option<Duration> {
        self.heard.age_at(now)
    }
}

impl Judgement {
    /// Nothing was seen yet.
    pub fn unknown() -> Self {
        Self {
            verdict: Verdict::Unknown,
            since: None,
            evidence: Evidence::Nothing,
            failures: Failures::default(),
            falls: Falls::default(),
            lost_told: false,
            last_error: None,
        }
    }
}

impl Handles {
    fn new(key: &Key, metrics: &Metrics) -> Self {
        let both = [key.service.as_str(), key.backend.as_str()];
        let backend = key.backend.as_str();
        Self {
            in_flight: metrics.in_flight.with_label_values(&both),
            first_byte: metrics.first_byte_seconds.with_label_values(&both),
            connect_seconds: metrics.connect_seconds.with_label_values(&[backend]),
            connects_ok: metrics.connects.with_label_values(&[backend, "ok"]),
            request_bytes: metrics.request_bytes.with_label_values(&both),
            response_bytes: metrics.response_bytes.with_label_values(&both),
            requests: metrics.requests.clone(),
            request_seconds: metrics.request_seconds.clone(),
            ops: Mutex::new(Vec::new()),
        }
    }

    /// A request for `op` ended with this class of status after so many seconds. `key` is the
    /// endpoint's.
    pub fn ended(&self, key: &Key, op: &'static str, class: &'static str, seconds: f64) {
        let labels = [key.service.as_str(), key.backend.as_str(), op];
        let mut ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ops.iter().position(|known| known.word == op);
        let place = known.unwrap_or_else(|| {
            ops.push(Op {
                word: op,
                seconds: self.request_seconds.with_label_values(&labels),
                classes: Vec::new(),
            });
            ops.len() - 1
        });
        let op = &mut ops[place];
        op.seconds.observe(seconds);
        if let Some((_, known)) = op.classes.iter().find(|(known, _)| *known == class) {
            known.inc();
            return;
        }
        let labels = [labels[0], labels[1], labels[2], class];
        let counter = self.requests.with_label_values(&labels);
        counter.inc();
        op.classes.push((class, counter));
    }
}

fn place_of(key: &Key) -> Place {
    let secure = key.url.as_ref().filter(|url| url.secure);
    Place {
        host: Arc::clone(&key.host),
        port: key.port,
        direct: key.network == Network::Direct,
        tls: secure.map(|url| Tls::trusting(url.roots.clone())),
    }
}

/// That of its url; else the Host that an upstream of its kind accepts, else its own address.
fn host(key: &Key) -> HeaderValue {
    if let Some(url) = &key.url {
        return HeaderValue::from_str(&url.authority)
            .unwrap_or(HeaderValue::from_static("localhost"));
    }
    let own = || HeaderValue::from_str(&place_of(key).authority()).ok();
    api::host_header(key.kind)
        .map(HeaderValue::from_static)
        .or_else(own)
        .unwrap_or(HeaderValue::from_static("localhost"))
}

fn number_of(verdict: Verdict) -> u8 {
    let place = Verdict::ALL.iter().position(|other| *other == verdict);
    place
        .and_then(|place| u8::try_from(place).ok())
        .unwrap_or(0)
}

/// The last time something happened, in monotonic milliseconds.
struct Stamp {
    base: Instant,
    millis: AtomicU64,
}

/// Marks a stamp that was never touched.
const NEVER: u64 = u64::MAX;

impl Stamp {
    fn never() -> Self {
        Self {
            base: Instant::now(),
            millis: AtomicU64::new(NEVER),
        }
    }

    fn touch(&self) {
        self.touch_at(Instant::now());
    }

    fn touch_at(&self, now: Instant) {
        self.millis.store(self.millis_at(now), Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        self.age_at(Instant::now())
    }

    fn age_at(&self, now: Instant) -> Option<Duration> {
        match self.millis.load(Ordering::Relaxed) {
            NEVER => None,
            then => Some(Duration::from_millis(
                self.millis_at(now).saturating_sub(then),
            )),
        }
    }

    fn millis_at(&self, now: Instant) -> u64 {
        let span = now.saturating_duration_since(self.base);
        u64::try_from(span.as_millis()).unwrap_or(NEVER - 1)
    }
}
