//! One request, matched and understood: what every later step asks of it.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use http_body::Body;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Proxy;
use super::beat::Listed;
use super::fields::Fields;
use super::headers;
use super::payload::Payload;
use super::record::Record;
use super::rewrite::View;
use super::tunnel;
use crate::api;
use crate::api::collections::collection_of;
use crate::api::models::Model;
use crate::config::snapshot::{Policy, Route, Service, Timeouts};
use crate::endpoint::connection::Outgoing;
use crate::endpoint::live::Endpoint;
use crate::plan::candidates::{Lead, Plan, lead, plan};
use crate::plan::known::Known;
use crate::reload::store::{Asked, Live};
use crate::words::clock::Deadline;
use crate::words::effect::{Effect, Meaning};
use crate::words::names::Kind;
use crate::words::verdict::Verdict;

/// As good as never, and far from overflowing an instant.
const UNBOUNDED: Duration = Duration::from_hours(365 * 24);

/// One request, matched and understood.
pub(super) struct Call<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) live: &'a Live,
    pub(super) listed: &'a Listed,
    pub(super) route: &'a Route,
    pub(super) meaning: Meaning,
    /// The path that the upstream sees, without the query.
    pub(super) path: &'a str,
    /// The version that the client spoke.
    version: Version,
    /// Which names its head has.
    fields: Fields,
    /// The Host that the client named.
    host: Option<HeaderValue>,
    /// When its head had come, by both clocks.
    pub(super) began: Instant,
    pub(super) wall: Timestamp,
    /// When the whole request must have ended.
    pub(super) total: Option<Deadline>,
    /// Whether a backend may have read something of it that has no outcome yet.
    pub(super) sent: AtomicBool,
    /// The model that it asks for, as far as that is known.
    pub(super) model: Option<Model>,
    /// The protocol that it asks for instead of HTTP, where its route passes that on.
    pub(super) upgrade: Option<HeaderValue>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        proxy: &'a Proxy,
        (live, route): (&'a Live, &'a Route),
        listed: &'a Listed,
        (request, fields): (&Parts, Fields),
        (path, meaning): (&'a str, Meaning),
        record: &Record,
    ) -> Self {
        let bounded = !api::is_transfer(meaning);
        let total = route
            .timeouts
            .total
            .filter(|_| bounded)
            .map(|total| Deadline::since(record.began, total));
        Self {
            proxy,
            live,
            listed,
            route,
            meaning,
            path,
            version: request.version,
            fields,
            host: request.headers.get(HOST).cloned(),
            began: record.began,
            wall: record.time,
            total,
            sent: AtomicBool::new(false),
            model: None,
            upgrade: None,
        }
    }

    pub(super) fn service(&self) -> &'a Service {
        self.live.snapshot.service(self.route.service)
    }

    pub(super) fn timeouts(&self) -> &'a Timeouts {
        &self.route.timeouts
    }

    /// Whether one that finds a line full may go to another backend.
    pub(super) fn spills(&self) -> bool {
        let service = self.service();
        service.policy == Policy::LeastLoaded || service.limit.is_some_and(|limit| limit.spill)
    }

    /// How its client sees the backend that is asked at `endpoint`.
    pub(super) fn view<'v>(&'v self, endpoint: &'v Endpoint) -> View<'v> {
        let secure = endpoint.place.tls.is_some();
        headers::view(self.route, self.host.as_ref(), &endpoint.host, secure)
    }

    /// Where it may go, as things stand now.
    pub(super) fn plan(&self) -> Plan {
        self.plan_at(self.proxy.clock.now())
    }

    /// The same as things stand at an instant.
    pub(super) fn plan_at(&self, now: Timestamp) -> Plan {
        let service = self.route.service;
        let asked = self.asked(now).of_collection(self.collection());
        let known = self.live.known(service, &asked);
        plan(&self.live.snapshot, service, self.meaning, &known, now)
    }

    /// The collection that it names, where another backend may lack it.
    fn collection(&self) -> Option<Cow<'_, str>> {
        let reads = self.service().kind == Kind::Qdrant && self.meaning.effect == Effect::Read;
        reads.then(|| collection_of(self.path)).flatten()
    }

    /// How that plan begins, if that can be said without all of it.
    pub(super) fn lead_at(&self, now: Timestamp) -> Option<Lead> {
        let service = self.route.service;
        let asked = self.asked(now);
        let known = |backend| {
            let endpoint = self.live.endpoint(service, backend);
            let unknown = || Known::from(Verdict::Unknown);
            endpoint.map_or_else(unknown, |endpoint| {
                self.live.known_of(service, endpoint, &asked)
            })
        };
        lead(&self.live.snapshot, service, self.meaning, known, now)
    }

    /// What its model is, bit by bit, where it would be sent now; or where it would be, if nobody
    /// can be asked.
    pub(super) fn digest(&self) -> Option<String> {
        let (service, model) = (self.route.service, self.model.as_ref()?);
        let plan = self.plan();
        let first = plan.candidates.first();
        let backend = first.map_or(plan.active.backend, |first| first.backend);
        let models = &self.live.endpoint(service, backend)?.models;
        let digest = models.digest(model, |digest| digest.map(str::to_owned));
        digest.flatten().filter(|digest| !digest.is_empty())
    }

    fn asked(&self, now: Timestamp) -> Asked<'_> {
        let model = self.model.as_ref();
        (self.live).asked(self.route.service, self.meaning, model, now)
    }

    /// How long the head of its answer may take from when it was sent.
    pub(super) fn head_bound(&self, sent: Instant) -> Deadline {
        let timeouts = self.timeouts();
        let head = match self.meaning.effect {
            Effect::Inference => Some(timeouts.head_inference),
            Effect::Read => Some(timeouts.head_read),
            Effect::Write | Effect::Admin => timeouts.head_change,
        };
        let head = Deadline::since(sent, head.unwrap_or(UNBOUNDED));
        self.total.map_or(head, |total| total.min(head))
    }

    /// Returns when a request that began to wait now should look at what it waits for: most are
    /// answered before, and have made no timer for it.
    pub(super) async fn patient(&self) {
        self.proxy.beats.patient(self.listed).await;
    }

    /// How long its body may pause, in both directions.
    pub(super) fn idle_bound(&self) -> Duration {
        match self.meaning.effect {
            Effect::Inference => self.timeouts().idle_inference,
            _ => self.timeouts().idle,
        }
    }
}

/// A request as it goes upstream, as often as it may.
pub(super) struct Outbound {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    payload: Payload,
    /// When its body had been read as far as it is read before it is sent.
    pub(super) ready: Instant,
    /// Whether it can be sent more than once.
    pub(super) replayable: bool,
    changes: bool,
    /// The headers were handed over, and come back by [`Outbound::take_back`].
    lent: bool,
}

impl Outbound {
    pub(super) fn new(
        call: &Call<'_>,
        method: Method,
        query: Option<&str>,
        mut headers: HeaderMap,
        payload: Payload,
    ) -> Self {
        let kind = call.service().kind;
        headers::for_upstream(&mut headers, call.fields, (call.version, kind, call.path));
        if call.fields.has(Fields::TRANSFER_ENCODING) {
            frame(&mut headers, &payload.body);
        }
        if let Some(protocol) = &call.upgrade {
            tunnel::announce(&mut headers, protocol.clone());
        }
        let changes = call.meaning.effect.changes();
        let replayable = !payload.is_stream();
        let bare = replayable && payload.body.is_end_stream();
        Self {
            ready: if bare { call.began } else { Instant::now() },
            method,
            uri: uri(call.path, query),
            headers,
            payload,
            replayable,
            changes,
            lent: false,
        }
    }

    /// The request for an attempt at `endpoint`; `only_reads`: another one is active, and this one
    /// is to do nothing but read. What may be sent again is copied, what may not is handed over, and
    /// comes back by [`Outbound::take_back`] if not one byte of it was sent.
    pub(super) fn request(
        &mut self,
        route: &Route,
        endpoint: &Endpoint,
        only_reads: bool,
    ) -> Request<Outgoing> {
        // What an endpoint gets besides must not come back and reach another one.
        let again = !self.changes && self.replayable || !endpoint.inject.is_empty();
        self.lent = !again;
        let body = &mut self.payload.body;
        let body = body
            .again()
            .unwrap_or_else(|| std::mem::replace(body, Outgoing::empty()));
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_11;
        // The copy stays: hyper takes the map that it sent for the answer, and that of the client's
        // connection has room for what is added to one.
        let kept = if again {
            self.headers.clone()
        } else {
            HeaderMap::new()
        };
        *request.headers_mut() = std::mem::replace(&mut self.headers, kept);
        headers::set_host(request.headers_mut(), route, &endpoint.host);
        endpoint.inject.put(request.headers_mut(), only_reads);
        request
    }

    /// Takes a request back that was not sent.
    pub(super) fn take_back(&mut self, request: Request<Outgoing>) {
        let (parts, body) = request.into_parts();
        if self.lent {
            self.headers = parts.headers;
        }
        self.payload.body = body;
    }
}

/// Makes the fields that frame a chunked body those of the body that is sent.
fn frame(headers: &mut HeaderMap, body: &Outgoing) {
    if body.is_end_stream() {
        // hyper would send no chunk for it, and a POST without any length is an error to some.
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    } else {
        // In whatever case it came.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The path and query as they came.
fn uri(path: &str, query: Option<&str>) -> Uri {
    let whole = match query {
        None => path.parse::<PathAndQuery>(),
        Some(query) => format!("{path}?{query}").parse(),
    };
    // A part of a URI that was parsed before parses again.
    whole.map_or_else(|_| Uri::from_static("/"), Uri::from)
}
