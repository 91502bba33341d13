//! One request, from its head to its answer's head.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use super::attempt::{Answered, Unanswered, answer};
use super::call::{Call, Outbound};
use super::record::Record;
use super::stream::Downstream;
use super::{Proxy, payload, respond};
use crate::plan::route::{match_route, upstream_path};
use crate::words::outcome::{Failure, Kind};

/// Serves one request: match -> read effect -> read body -> plan, dial, forward -> stream.
pub(super) async fn serve(proxy: Arc<Proxy>, request: Request<Incoming>) -> Response<Downstream> {
    let live = proxy.store.live();
    let id = proxy.ids.of(request.headers());
    let path = request.uri().path().to_owned();
    let mut record = Record::begin(&proxy, &id, request.method(), &path);
    let Some(route) = match_route(&live.snapshot, &path) else {
        return respond::no_route(&live.snapshot, record, id);
    };
    let kind = live.snapshot.service(route.service).kind;
    let upstream = upstream_path(route, kind, &path);
    let call = Call::new(&proxy, &live, route, request.method(), &upstream);
    record.matched(&call);
    forward(&call, request, record, id).await
}

/// Reads the body, asks the candidates, and answers with what came of it.
async fn forward(
    call: &Call<'_>,
    request: Request<Incoming>,
    mut record: Record,
    id: HeaderValue,
) -> Response<Downstream> {
    let (parts, body) = request.into_parts();
    let idle = call.idle_bound();
    let payload = match payload::read(body, call.meaning.effect, idle, &call.proxy.budget).await {
        Ok(payload) => payload,
        Err(failure) => return respond::failed(call, failure, record, id),
    };
    record.read(payload.held(), payload.body.passed());
    let outbound = Outbound::new(
        call,
        parts.method,
        parts.uri.query(),
        parts.headers,
        payload,
    );
    match answer_in_time(call, outbound, &mut record).await {
        Ok(answered) => respond::pass_on(call, answered, record, id),
        Err(why) => respond::unanswered(call, why, record, id),
    }
}

/// The attempt loop within `total`, where there is one.
async fn answer_in_time(
    call: &Call<'_>,
    outbound: Outbound,
    record: &mut Record,
) -> Result<Answered, Unanswered> {
    let Some(total) = call.total else {
        return answer(call, outbound, record).await;
    };
    tokio::select! {
        biased;
        answered = answer(call, outbound, record) => answered,
        () = total.passed() => {
            let detail = "the whole request took too long";
            let failure = if call.sent.load(Ordering::Relaxed) {
                Failure::sent(Kind::TotalLate, detail)
            } else {
                Failure::unsent(Kind::TotalLate, detail)
            };
            Err(Unanswered::Failed { failure, endpoint: None, missing: false })
        }
    }
}
