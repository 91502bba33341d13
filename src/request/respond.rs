//! Answers to the client: the upstream's passed on, and errors of ours in the service's dialect.
//!
//! An error says what failed, where, why, and what to do. 502: a broken answer. 503: cannot be
//! served now and nothing was done. 504: a deadline of ours, or an outcome that is not known.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;

use super::attempt::{Answered, Unanswered};
use super::call::Call;
use super::headers;
use super::peer::Peer;
use super::queue;
use super::record::{REQUEST_ID, Record, failure_word};
use super::rules::Refusal;
use super::stream::{Downstream, Passing, Watch};
use super::tunnel::{self, Tunnel};
use crate::api::dialect;
use crate::api::stream::Watcher;
use crate::config::snapshot::{BackendId, Snapshot};
use crate::endpoint::live::Endpoint;
use crate::words::names::Kind as ServiceKind;
use crate::words::outcome::{Failure, Kind, Phase, Side};
use crate::words::units::show_duration;

const BACKEND: HeaderName = HeaderName::from_static("x-tailhop-backend");
/// What nginx and others take for an order not to hold a stream back.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
pub(super) const REASON: HeaderName = HeaderName::from_static("x-tailhop-reason");
/// How it stood in line for the backend.
const QUEUE: HeaderName = HeaderName::from_static("x-tailhop-queue");
/// RFC 6750.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"tailhop\"");
/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_mins(1);
/// So many routes a 404 tells: who has a thousand is not helped by all of them.
const ROUTES_TOLD: usize = 50;

/// Passes an upstream's answer on.
pub(super) fn pass_on(
    call: &Call<'_>,
    peer: &Arc<Peer>,
    answered: Box<Answered>,
    mut record: Box<Record>,
) -> Response<Downstream> {
    let Answered {
        response,
        connection,
        endpoint,
        active,
        at,
    } = *answered;
    let (mut parts, body) = response.into_parts();
    record.answered(parts.status, name(&call.live.snapshot, active), at);
    headers::for_client(&mut parts.headers, parts.version, &call.view(&endpoint));
    sign(&mut parts.headers, &endpoint, &record);
    let watch = Watch::new(call.idle_bound(), call.total, at);
    let watcher = watcher(call, parts.status, &mut parts.headers);
    let peer = Arc::clone(peer);
    let body = Passing::new(body, connection, endpoint, record, watch, peer).watched(watcher);
    Response::from_parts(parts, Downstream::Passing(Box::new(body)))
}

/// What reads a model's answer along, and what a stream of one says of itself: nobody on its way may
/// keep it or hold it back, and it has no length, as its end may have to be broken off.
fn watcher(call: &Call<'_>, status: StatusCode, headers: &mut HeaderMap) -> Option<Box<Watcher>> {
    let kind = call.service().kind;
    let watcher = Watcher::of(kind, call.meaning, call.path, status, headers)?;
    if watcher.is_stream() {
        headers.remove(CONTENT_LENGTH);
        let cache = headers.entry(CACHE_CONTROL);
        cache.or_insert(HeaderValue::from_static("no-cache"));
        headers.insert(BUFFERING, HeaderValue::from_static("no"));
    }
    Some(Box::new(watcher))
}

/// Says in an answer of the upstream's who answered and why, and by which id it is in our log.
pub(super) fn sign(headers: &mut HeaderMap, endpoint: &Endpoint, record: &Record) {
    headers.insert(BACKEND, endpoint.name.clone());
    headers.insert(REASON, record.reason());
    if let Some(queue) = record.queue() {
        headers.insert(QUEUE, queue);
    }
    // Ours wins over the upstream's: it is the one in our log, and in what the client sent.
    headers.insert(REQUEST_ID, record.id());
}

/// Passes on that the upstream switches to another protocol, which follows when hyper is done.
pub(super) fn switch(
    call: &Call<'_>,
    peer: &Arc<Peer>,
    mut answered: Box<Answered>,
    client: OnUpgrade,
    record: Box<Record>,
) -> Response<Downstream> {
    let upstream = hyper::upgrade::on(&mut answered.response);
    let Some(connection) = answered.connection.take() else {
        return pass_on(call, peer, answered, record);
    };
    let mut record = record;
    let status = StatusCode::SWITCHING_PROTOCOLS;
    let active = name(&call.live.snapshot, answered.active);
    record.answered(status, active, answered.at);
    let (parts, _) = answered.response.into_parts();
    let spoken = parts.version;
    let mut response = Response::from_parts(parts, Downstream::Own(Bytes::new()));
    let headers = response.headers_mut();
    let protocol = headers.get(UPGRADE).cloned();
    headers::for_client(headers, spoken, &call.view(&answered.endpoint));
    tunnel::announce(headers, protocol.unwrap_or(HeaderValue::from_static("")));
    sign(headers, &answered.endpoint, &record);
    peer.tunnel(Tunnel {
        client,
        upstream,
        connection,
        record,
        idle: call.idle_bound(),
        total: call.total,
    });
    response
}

/// Refuses a request that breaks a rule.
pub(super) fn refused(refusal: Refusal, record: Box<Record>) -> Response<Downstream> {
    let mut problem = Problem::new(refusal.status(), refusal.word());
    problem.proxy_error = "http_request_error";
    refusal.text().clone_into(&mut problem.text);
    problem.close = true;
    let mut response = write(ServiceKind::Http, "/", &problem, record);
    if let Some(methods) = refusal.allow() {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// The same for a client that hyper does not talk to: all bytes of the answer.
pub(super) fn refused_bare(refusal: Refusal) -> Vec<u8> {
    let (status, word, text) = (refusal.status(), refusal.word(), refusal.text());
    let body = dialect::body(ServiceKind::Http, "/", status, &format!("tailhop: {text}"));
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE {
        "retry-after: 1\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-tailhop-reason: {word}\r\n\
         proxy-status: tailhop; error=http_request_error; details=\"{word}\"\r\n{retry}\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Says why there is no answer.
pub(super) fn unanswered(
    call: &Call<'_>,
    why: Unanswered,
    record: Box<Record>,
) -> Response<Downstream> {
    let problem = problem_of(call, why);
    write(call.service().kind, call.path, &problem, record)
}

/// Why there is no answer, before it is put into a dialect.
pub(super) fn problem_of(call: &Call<'_>, why: Unanswered) -> Problem {
    match why {
        Unanswered::Refused { refusal, active } => {
            let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, refusal.as_str());
            let backend = name(&call.live.snapshot, active.backend);
            problem.text = format!(
                "{} for {} cannot be served now: {}. Nothing was sent. Active is {backend} ({}).",
                a_request(call),
                call.service().name,
                refusal.sentence(),
                active.why.sentence(&call.live.snapshot.schedule.zone),
            );
            problem.retry_after = Some(RETRY_MOST);
            problem
        }
        Unanswered::Failed {
            failure,
            endpoint,
            missing,
        } => of_failure(call, &failure, endpoint.as_ref(), missing),
    }
}

/// Says that the client's own body is at fault, or that the whole request took too long.
pub(super) fn failed(
    call: &Call<'_>,
    failure: Failure,
    record: Box<Record>,
) -> Response<Downstream> {
    unanswered(
        call,
        Unanswered::Failed {
            failure,
            endpoint: None,
            missing: false,
        },
        record,
    )
}

/// Says that the client did not present the token. `Proxy-Authenticate` would be the word of a
/// proxy that the client knows of; it takes us for the service.
pub(super) fn unauthorized(call: &Call<'_>, record: Box<Record>) -> Response<Downstream> {
    let kind = call.service().kind;
    let problem = challenge();
    write(kind, call.path, &problem, record)
}

/// The same where no route matches: what there is, is not told to strangers.
pub(super) fn unauthorized_nowhere(record: Box<Record>) -> Response<Downstream> {
    write(ServiceKind::Http, "/", &challenge(), record)
}

pub(super) fn challenge() -> Problem {
    let mut problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized");
    problem.proxy_error = "http_request_denied";
    problem.close = true;
    problem.text += "this address asks for a token (listen.token in routing.toml): send it as \
                     `x-tailhop-token`, or as `Authorization: Bearer ..`. Nothing was sent.";
    problem
}

/// Says that a backend's address leads back to us (RFC 5842 7.2).
pub(super) fn goes_round(call: &Call<'_>, record: Box<Record>) -> Response<Downstream> {
    write(call.service().kind, call.path, &round_trip(call), record)
}

/// The same before it is put into a dialect.
pub(super) fn round_trip(call: &Call<'_>) -> Problem {
    let mut problem = Problem::new(StatusCode::LOOP_DETECTED, "loop");
    problem.proxy_error = "proxy_loop_detected";
    problem.text = format!(
        "{} for {} has passed through tailhop again and again, as its Via header says: the address of a backend leads back to tailhop itself. Nothing was sent. Correct `host` or `port` in routing.toml.",
        a_request(call),
        call.service().name,
    );
    problem
}

/// Says that no route leads anywhere.
pub(super) fn no_route(snapshot: &Snapshot, record: Box<Record>) -> Response<Downstream> {
    let mut problem = Problem::new(StatusCode::NOT_FOUND, "no-route");
    let paths = snapshot.routes.iter().map(|route| route.path.as_str());
    let some: Vec<_> = paths.take(ROUTES_TOLD).collect();
    let more = match snapshot.routes.len() - some.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    problem.text = format!(
        "no route matches this path; the routes are {}{more}. A route is a path prefix in routing.toml.",
        some.join(", ")
    );
    write(ServiceKind::Http, "/", &problem, record)
}

/// An error of ours before it is put into a dialect.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// The word in `x-tailhop-reason` and the metric.
    pub(super) word: &'static str,
    /// The error type of RFC 9209.
    proxy_error: &'static str,
    pub(super) text: String,
    /// What the service itself would say, before our own words.
    pub(super) words: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
    close: bool,
    /// There is nobody to tell.
    pub(super) gone: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, word: &'static str) -> Self {
        Self {
            status,
            word,
            proxy_error: "destination_unavailable",
            text: String::new(),
            words: None,
            retry_after: None,
            close: false,
            gone: false,
        }
    }
}

fn of_failure(
    call: &Call<'_>,
    failure: &Failure,
    endpoint: Option<&Arc<Endpoint>>,
    missing: bool,
) -> Problem {
    let changes = call.meaning.effect.changes();
    let unknown = changes && failure.phase == Phase::Sent && failure.kind.side() != Side::Client;
    let (status, proxy_error) = if unknown {
        (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout")
    } else {
        status(failure)
    };
    let mut problem = Problem::new(status, failure_word(failure, changes));
    problem.proxy_error = proxy_error;
    problem.close = failure.kind.side() == Side::Client;
    problem.gone = failure.kind == Kind::ClientGone;
    if missing {
        problem.word = "data-missing";
    }
    if matches!(failure.kind, Kind::QueueFull | Kind::QueueLate) {
        problem.words = Some(dialect::BUSY);
        let wait = endpoint.and_then(|endpoint| queue::expected(call, endpoint));
        problem.retry_after = Some(wait.unwrap_or(RETRY_LEAST).clamp(RETRY_LEAST, RETRY_MOST));
    } else if status == StatusCode::SERVICE_UNAVAILABLE {
        let due = endpoint.map_or(RETRY_LEAST, |endpoint| endpoint.probe_due_in());
        problem.retry_after = Some(due.clamp(RETRY_LEAST, RETRY_MOST));
    }
    problem.text = sentence(call, failure, endpoint, missing, unknown);
    problem
}

/// The status of a failure, and its error type in RFC 9209.
fn status(failure: &Failure) -> (StatusCode, &'static str) {
    match failure.kind {
        Kind::ClientBody | Kind::ClientGone => (StatusCode::BAD_REQUEST, "http_request_error"),
        Kind::Refused => (StatusCode::SERVICE_UNAVAILABLE, "connection_refused"),
        Kind::Silent => (StatusCode::SERVICE_UNAVAILABLE, "connection_timeout"),
        Kind::Certificate => (StatusCode::SERVICE_UNAVAILABLE, "tls_certificate_error"),
        Kind::Tls => (StatusCode::SERVICE_UNAVAILABLE, "tls_protocol_error"),
        Kind::UnknownName => (StatusCode::SERVICE_UNAVAILABLE, "dns_error"),
        Kind::NotInTailnet => (StatusCode::SERVICE_UNAVAILABLE, "destination_ip_prohibited"),
        Kind::HeadLate | Kind::IdleLate | Kind::TotalLate => {
            (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout")
        }
        Kind::QueueFull | Kind::QueueLate => {
            (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached")
        }
        Kind::BadAnswer => (StatusCode::BAD_GATEWAY, "http_protocol_error"),
        Kind::Broken | Kind::Stale if failure.phase != Phase::Unsent => {
            (StatusCode::BAD_GATEWAY, "connection_terminated")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable"),
    }
}

fn sentence(
    call: &Call<'_>,
    failure: &Failure,
    endpoint: Option<&Arc<Endpoint>>,
    missing: bool,
    unknown: bool,
) -> String {
    let mut text = format!("{} for {}", a_request(call), call.service().name);
    if let Some(endpoint) = endpoint {
        // Writing into a String cannot fail.
        let _ = write!(text, " on {}", endpoint.key.backend);
    }
    let _ = write!(text, " failed: {failure}.");
    if missing {
        text += " Another backend lacks what was asked for, and the active one gave no answer.";
    }
    text += match (unknown, failure.phase, failure.kind) {
        (true, ..) => {
            " Outcome unknown: it was sent and the answer is lost; it may have been executed, or may still be when the backend wakes. Check before repeating it; it was not sent anywhere else."
        }
        (_, Phase::Unsent, kind) if kind.side() != Side::Client => " Nothing was sent.",
        _ => "",
    };
    text += remedy(failure.kind);
    let active = call.plan().active;
    let zone = &call.live.snapshot.schedule.zone;
    let _ = write!(
        text,
        " Active is {} ({}).",
        name(&call.live.snapshot, active.backend),
        active.why.sentence(zone)
    );
    let waited = failure.kind.side() == Side::Upstream && failure.kind != Kind::Certificate;
    if failure.phase == Phase::Unsent && waited {
        let _ = write!(
            text,
            " Waited up to {}.",
            show_duration(call.timeouts().wait)
        );
    }
    text
}

fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::Refused => " Start the service on that machine, or let it listen on that port.",
        Kind::Silent | Kind::Lost => " Wake the machine, or name another active backend.",
        Kind::UnknownName | Kind::NotInTailnet => {
            " Correct the backend's `host` in routing.toml, or `tailnet.name`."
        }
        Kind::QueueFull | Kind::QueueLate => {
            " Ask again later, ask less at once, or see `limit` of the service in routing.toml."
        }
        Kind::Certificate => {
            " Give the server a certificate that holds, or name its issuer by the backend's `ca` in routing.toml."
        }
        Kind::Tls => " Look at the server's TLS, and at the backend's `url` in routing.toml.",
        Kind::DaemonAbsent => " Start tailscaled, or correct `tailnet.socket` in routing.toml.",
        Kind::NotLoggedIn => " Log tailscaled in.",
        _ => "",
    }
}

fn a_request(call: &Call<'_>) -> &'static str {
    match call.meaning.effect {
        crate::words::effect::Effect::Read => "a read",
        crate::words::effect::Effect::Inference => "an inference",
        crate::words::effect::Effect::Write => "a write",
        crate::words::effect::Effect::Admin => "an admin request",
    }
}

fn write(
    kind: ServiceKind,
    path: &str,
    problem: &Problem,
    record: Box<Record>,
) -> Response<Downstream> {
    let id = record.id();
    let text = format!(
        "tailhop: {} Request {}.",
        problem.text,
        id.to_str().unwrap_or_default()
    );
    let text = match problem.words {
        Some(words) => format!("{words} ({text})"),
        None => text,
    };
    let queue = record.queue();
    let body = dialect::body(kind, path, problem.status, &text);
    if problem.gone {
        // A record that is dropped tells of a client that left.
        drop(record);
    } else {
        record.refused(problem.status, problem.word);
    }
    let mut response = Response::new(Downstream::Own(Bytes::from(body)));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REASON, HeaderValue::from_static(problem.word));
    headers.insert(REQUEST_ID, id);
    let status = format!(
        "tailhop; error={}; details=\"{}\"",
        problem.proxy_error, problem.word
    );
    headers.insert(PROXY_STATUS, value(&status));
    if let Some(queue) = queue {
        headers.insert(QUEUE, queue);
    }
    if let Some(after) = problem.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, CHALLENGE);
    }
    if problem.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

pub(super) fn name(snapshot: &Snapshot, backend: BackendId) -> &str {
    snapshot.backend(backend).name.as_str()
}

/// Our own words are always header values.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
}
