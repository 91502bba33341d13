//! One call, from its head to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::super::attempt::{Unanswered, answer};
use super::super::beat::Listed;
use super::super::call::Call;
use super::super::door::Door;
use super::super::fields::Fields;
use super::super::flow::total_passed;
use super::super::payload::Reserved;
use super::super::record::{End, Record};
use super::super::respond::{Problem, challenge, name, problem_of, round_trip, sign};
use super::super::{Proxy, headers, token};
use super::ask::{Answered, Outbound, sent};
use super::body::{read, send};
use super::respond;
use crate::api::grpc::{self, Messages};
use crate::words::clock::Deadline;
use crate::words::outcome::{Failure, Kind};

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It was answered.
    Nobody,
    /// The client broke it off.
    Client,
}

/// Serves one call: check -> match -> read effect -> read message -> plan, dial, forward -> stream.
pub(super) async fn serve(
    proxy: Arc<Proxy>,
    door: Arc<Door>,
    request: Request<RecvStream>,
    mut to: SendResponse<Bytes>,
) -> Left {
    let (mut request, body) = request.into_parts();
    let fields = Fields::of(&request.headers);
    let live = proxy.store.live();
    let id = proxy.ids.of(&request.headers, fields);
    let path: Arc<str> = request.uri.path().into();
    let asked = (request.method.clone(), Arc::clone(&path));
    let mut record = Record::begin(&proxy, id, Some(asked));
    record.traced(&request.headers);
    if request.method != Method::POST || !grpc::is_call(&request.headers) {
        respond::not_a_call(&mut to, record);
        return Left::Nobody;
    }
    let route = door.route(&live.snapshot, &path);
    let kind = route.map(|route| live.snapshot.service(route.service).kind);
    let welcome = token::admit(
        &mut request.headers,
        fields,
        kind,
        live.snapshot.token.as_ref(),
    );
    let Some(route) = route else {
        respond::refuse(&mut to, &no_service(), record);
        return Left::Nobody;
    };
    let listed = Listed::new();
    let meaning = grpc::meaning(&path);
    let of_path = (&*path, meaning);
    let mut call = Call::new(
        &proxy,
        (&live, route),
        &listed,
        (&request, fields),
        of_path,
        &record,
    );
    let within = grpc::timeout(&request.headers);
    call.total = bound(&call, within);
    record.matched(&call);
    let problem = if !welcome {
        Some(challenge())
    } else if headers::goes_round(&request.headers) {
        Some(round_trip(&call))
    } else {
        None
    };
    if let Some(problem) = problem {
        respond::refuse(&mut to, &problem, record);
        return Left::Nobody;
    }
    forward(&call, (request, body), &mut to, record).await
}

/// The file knows the service no longer; its address goes with a restart.
fn no_service() -> Problem {
    let mut problem = Problem::new(StatusCode::NOT_FOUND, "no-route");
    problem.text += "the service of this address is not in routing.toml any more; the address goes \
                     with a restart.";
    problem
}

/// When a call must have ended: the client's own deadline, or ours.
fn bound(call: &Call<'_>, within: Option<Duration>) -> Option<Deadline> {
    let own = within.map(|within| Deadline::since(call.began, within));
    match (own, call.total) {
        (Some(own), Some(total)) => Some(own.min(total)),
        (own, total) => own.or(total),
    }
}

/// Reads the message, asks the candidates, and answers with what came of it.
async fn forward(
    call: &Call<'_>,
    (parts, body): (Parts, RecvStream),
    to: &mut SendResponse<Bytes>,
    mut record: Box<Record>,
) -> Left {
    let mut reserved = Reserved::none(&call.proxy.budget);
    let asked = async {
        let message = read(call, body, &mut reserved).await.map_err(failed)?;
        let held = message.held();
        let mut outbound = Outbound::new(call, parts.uri, parts.headers, message);
        record.read(held, outbound.passed());
        answer(call, &mut outbound, &mut record).await
    };
    let answered = tokio::select! {
        biased;
        answered = asked => answered,
        _ = poll_fn(|cx| to.poll_reset(cx)) => return Left::Client,
        () = total_passed(call) => Err(failed(late(call))),
    };
    match answered {
        Ok(answered) => pass_on(call, answered, to, record).await,
        Err(why) => {
            let problem = problem_of(call, why);
            respond::refuse(to, &problem, record);
            Left::Nobody
        }
    }
}

fn failed(failure: Failure) -> Unanswered {
    Unanswered::Failed {
        failure,
        endpoint: None,
        missing: false,
    }
}

fn late(call: &Call<'_>) -> Failure {
    let detail = "the whole call took too long";
    if call.sent.load(Ordering::Relaxed) {
        Failure::sent(Kind::TotalLate, detail)
    } else {
        Failure::unsent(Kind::TotalLate, detail)
    }
}

/// Passes an answer on, piece by piece, up to its trailers.
async fn pass_on(
    call: &Call<'_>,
    mut answered: Box<Answered>,
    to: &mut SendResponse<Bytes>,
    mut record: Box<Record>,
) -> Left {
    let active = name(&call.live.snapshot, answered.active);
    record.answered(answered.response.status(), active, answered.at);
    let mut head = Response::new(());
    *head.status_mut() = answered.response.status();
    *head.headers_mut() = std::mem::take(answered.response.headers_mut());
    sign(head.headers_mut(), &answered.endpoint, &record);
    if let Some(status) = grpc::status(head.headers()) {
        record.turned_out(status);
    }
    let ended = answered.begun.is_empty()
        && answered.trailers.is_none()
        && answered.response.body().is_end_stream();
    let Ok(mut stream) = to.send_response(head, ended) else {
        return Left::Client;
    };
    if ended {
        record.finish(End::Complete, Instant::now());
        return Left::Nobody;
    }
    match pieces(call, &mut answered, &mut stream, &mut record).await {
        Ok(trailers) => {
            if let Some(status) = grpc::status(&trailers) {
                record.turned_out(status);
            }
            let _ = stream.send_trailers(trailers);
            record.finish(End::Complete, Instant::now());
            Left::Nobody
        }
        Err(None) => Left::Client,
        Err(Some(failure)) => {
            let kind = failure.kind;
            let words = respond::trailers(call, (&answered.endpoint, failure), &record);
            let _ = stream.send_trailers(words);
            record.finish(End::Truncated(kind), Instant::now());
            Left::Nobody
        }
    }
}

/// Passes the messages of an answer on; its trailers. `None`: the client left.
async fn pieces(
    call: &Call<'_>,
    answered: &mut Answered,
    to: &mut SendStream<Bytes>,
    record: &mut Record,
) -> Result<HeaderMap, Option<Failure>> {
    let mut messages = Messages::default();
    let begun = std::mem::take(&mut answered.begun);
    messages.see(&begun);
    record.passed(begun.len());
    send(to, begun).await.map_err(|_| None)?;
    if let Some(trailers) = answered.trailers.take() {
        return Ok(trailers);
    }
    loop {
        let piece = next(call, answered, to).await?;
        let Some(piece) = piece else { break };
        let length = piece.len();
        messages.see(&piece);
        record.passed(length);
        // A machine whose bytes come is awake, however silent its ports.
        answered.endpoint.machine.hear();
        send(to, piece).await.map_err(|_| None)?;
        let flow = answered.response.body_mut().flow_control();
        let _ = flow.release_capacity(length);
    }
    let trailers = answered.response.body_mut().trailers().await;
    let trailers = trailers.map_err(|error| Some(broken(answered, &error)))?;
    match trailers {
        Some(trailers) if messages.is_whole() => Ok(trailers),
        Some(_) => Err(Some(cut("it ended in the middle of a message"))),
        None => Err(Some(cut("it ended without its status"))),
    }
}

fn cut(detail: &'static str) -> Failure {
    Failure::answering(Kind::Truncated, detail)
}

fn broken(answered: &Answered, error: &h2::Error) -> Failure {
    let failure = answered.lane.failure(error);
    Failure::answering(failure.kind, failure.detail)
}

/// The next piece of an answer.
async fn next(
    call: &Call<'_>,
    answered: &mut Answered,
    to: &mut SendStream<Bytes>,
) -> Result<Option<Bytes>, Option<Failure>> {
    let began = Instant::now();
    loop {
        let body = answered.response.body_mut();
        tokio::select! {
            biased;
            piece = body.data() => return match piece {
                Some(Ok(piece)) => Ok(Some(piece)),
                None => Ok(None),
                Some(Err(error)) => Err(Some(broken(answered, &error))),
            },
            uploaded = sent(&mut answered.upload) => {
                answered.upload = None;
                // That its client sends no more is no reason not to tell it the answer.
                drop(uploaded);
            }
            _ = poll_fn(|cx| to.poll_reset(cx)) => return Err(None),
            failure = paused(call, began) => return Err(Some(failure)),
        }
    }
}

/// Why an answer is not waited for any longer.
async fn paused(call: &Call<'_>, began: Instant) -> Failure {
    call.patient().await;
    let idle = Box::pin(Deadline::since(began, call.idle_bound()).passed());
    tokio::select! {
        () = idle => Failure::answering(Kind::IdleLate, "the answer paused for too long"),
        () = total_passed(call) => Failure::answering(Kind::TotalLate, "the whole call took too long"),
    }
}
