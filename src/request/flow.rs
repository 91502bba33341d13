//! One request, from its head to its answer's head.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::request::Parts;
use http::{Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::attempt::{Answered, Unanswered, answer};
use super::call::{Call, Outbound};
use super::door::Door;
use super::fields::Fields;
use super::peer::Peer;
use super::record::Record;
use super::rules::{self, Refusal};
use super::stream::Downstream;
use super::{Proxy, embeddings, headers, payload, respond, token, tunnel};
use crate::api::models::{model_of, names_model};
use crate::plan::route::{meaning, upstream_path};
use crate::words::outcome::{Failure, Kind};

/// Serves one request: check -> match -> read effect -> read body -> plan, dial, forward -> stream.
pub(super) async fn serve(
    proxy: &Arc<Proxy>,
    door: &Door,
    peer: &Arc<Peer>,
    request: &mut Parts,
    body: Incoming,
) -> Response<Downstream> {
    let live = proxy.store.live();
    let fields = Fields::of(&request.headers);
    let id = proxy.ids.of(&request.headers, fields);
    let path: Arc<str> = request.uri.path().into();
    let asked = (request.method.clone(), Arc::clone(&path));
    let mut record = Record::begin(proxy, id, Some(asked));
    record.traced(&request.headers);
    if let Err(refusal) = admit(peer, request, fields) {
        peer.refused();
        return respond::refused(refusal, record);
    }
    let route = door.route(&live.snapshot, &path);
    let kind = route.map(|route| live.snapshot.service(route.service).kind);
    let welcome = token::admit(
        &mut request.headers,
        fields,
        kind,
        live.snapshot.token.as_ref(),
    );
    let Some((route, kind)) = route.zip(kind) else {
        return if welcome {
            respond::no_route(&live.snapshot, record)
        } else {
            respond::unauthorized_nowhere(record)
        };
    };
    let upstream = upstream_path(route, kind, &path);
    let (meaning, _) = meaning(route, kind, &request.method, &upstream);
    let mut call = Call::new(
        proxy,
        (&live, route),
        &peer.listed,
        (request, fields),
        (&upstream, meaning),
        &record,
    );
    call.upgrade = tunnel::wanted(route, request);
    // hyper leaves it in every request that asks for an upgrade.
    let on_upgrade = (call.upgrade.as_ref()).and_then(|_| request.extensions.remove::<OnUpgrade>());
    record.matched(&call);
    if !welcome {
        peer.refused();
        return respond::unauthorized(&call, record);
    }
    if fields.has(Fields::VIA) && headers::goes_round(&request.headers) {
        peer.refused();
        return respond::goes_round(&call, record);
    }
    peer.upgrading(on_upgrade.is_some());
    forward(&mut call, peer, (request, body), on_upgrade, record).await
}

/// Whether it may be read at all, by what hyper shows of it and by what hyper hides.
fn admit(peer: &Peer, request: &Parts, fields: Fields) -> Result<(), Refusal> {
    let version = request.version;
    let hidden = peer.next_request(version == Version::HTTP_10);
    let hidden = hidden.map_or(Ok(()), |hidden| Err(Refusal::from(hidden)));
    if hidden != Err(Refusal::LargeHead) {
        hidden?;
    }
    // A head may be too large because its target is, and that has an answer of its own.
    let headers = (&request.headers, fields);
    rules::check(&request.method, &request.uri, version, headers)?;
    hidden
}

/// Reads the body, asks the candidates, and answers with what came of it.
async fn forward(
    call: &mut Call<'_>,
    peer: &Arc<Peer>,
    (request, body): (&mut Parts, Incoming),
    on_upgrade: Option<OnUpgrade>,
    mut record: Box<Record>,
) -> Response<Downstream> {
    let named = names_model(call.service().kind, call.meaning, &request.headers);
    let payload = match payload::read(call, body, named).await {
        Ok(payload) => payload,
        Err(failure) => {
            peer.refused();
            return respond::failed(call, failure, record);
        }
    };
    if peer.is_bad_body() {
        peer.refused();
        let failure = Failure::unsent(Kind::ClientBody, "its chunks do not end as HTTP says");
        return respond::failed(call, failure, record);
    }
    if named {
        call.model = model_of(call.meaning, payload.held_bytes());
        record.asks(call.model.as_ref());
    }
    let call = &*call;
    if payload.is_stream() {
        peer.body_waits();
    }
    record.read(payload.held(), payload.body.passed());
    if let Some(asked) = embeddings::asked(call, request, &payload) {
        // Boxed, so that all others do not carry the room for it.
        return Box::pin(embeddings::serve(
            (call, peer),
            asked,
            request,
            &payload,
            record,
        ))
        .await;
    }
    let mut outbound = Outbound::new(
        call,
        request.method.clone(),
        request.uri.query(),
        std::mem::take(&mut request.headers),
        payload,
    );
    match answer_in_time(call, peer, &mut outbound, &mut record).await {
        Ok(answered) => {
            if let Some(client) = on_upgrade.filter(|_| answered.switches()) {
                return respond::switch(call, peer, answered, client, record);
            }
            peer.upgrading(false);
            respond::pass_on(call, peer, answered, record)
        }
        Err(why) => respond::unanswered(call, why, record),
    }
}

/// The attempt loop within `total`, where there is one, for as long as the client is there.
pub(super) async fn answer_in_time(
    call: &Call<'_>,
    peer: &Peer,
    outbound: &mut Outbound,
    record: &mut Record,
) -> Result<Box<Answered>, Unanswered> {
    let failed = |kind, detail| {
        let failure = if call.sent.load(Ordering::Relaxed) {
            Failure::sent(kind, detail)
        } else {
            Failure::unsent(kind, detail)
        };
        Err(Unanswered::Failed {
            failure,
            endpoint: None,
            missing: false,
        })
    };
    tokio::select! {
        biased;
        answered = answer(call, outbound, record) => answered,
        () = peer.gone() => failed(Kind::ClientGone, "the client left"),
        () = total_passed(call) => failed(Kind::TotalLate, "the whole request took too long"),
    }
}

pub(super) async fn total_passed(call: &Call<'_>) {
    match call.total {
        Some(total) => {
            call.patient().await;
            Box::pin(total.passed()).await;
        }
        None => std::future::pending().await,
    }
}
