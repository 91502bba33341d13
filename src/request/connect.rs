//! A connection to one endpoint: an idle one that still works, else a fresh dial.
//!
//! Nothing is sent here, so every failure is free to try again.

use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use crate::endpoint::connection::Connection;
use crate::endpoint::live::Endpoint;
use crate::health::passive;
use crate::wire;
use crate::words::clock::Deadline;
use crate::words::outcome::{Failure, Kind};

/// While a request waits longer than this, its endpoint is probed on a fresh dial: on kept-alive
/// connections nothing else would notice a machine that fell asleep.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A reused connection that dies under a write leaves its outcome unknown, so writes use only
/// those that were busy a moment ago.
const FOR_CHANGES: Duration = Duration::from_secs(2);

/// How an attempt may get its connection.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Idle connections may be stale: dial.
    pub(super) fresh: bool,
    /// Another candidate could take the request.
    pub(super) others: bool,
    /// What is left of the request's patience.
    pub(super) left: Duration,
}

/// A connection to `endpoint`.
pub(super) async fn connect(
    call: &Call<'_>,
    endpoint: &Endpoint,
    terms: Terms,
) -> Result<Connection, Failure> {
    if let Some(connection) = idle(call, endpoint, terms).await {
        return Ok(connection);
    }
    let able = endpoint.verdict().able();
    let within = bound(call, terms, able);
    let mut waiting = endpoint.lost.wait();
    tokio::select! {
        biased;
        opened = open(call, endpoint, terms, within) => opened,
        () = waiting.unable(), if able && terms.others => Err(Failure::unsent(
            Kind::Lost,
            "it stopped answering while it was dialled",
        )),
        never = ask_for_probes(endpoint) => never,
    }
}

/// An idle connection that a request may use.
async fn idle(call: &Call<'_>, endpoint: &Endpoint, terms: Terms) -> Option<Connection> {
    if terms.fresh {
        return None;
    }
    let changes = call.meaning.effect.changes();
    endpoint
        .idle
        .take(if changes { FOR_CHANGES } else { Duration::MAX })
        .await
}

/// Dials, as soon as there is a place for one more dial.
async fn open(
    call: &Call<'_>,
    endpoint: &Endpoint,
    terms: Terms,
    within: Duration,
) -> Result<Connection, Failure> {
    let deadline = Deadline::after(within);
    let waits = endpoint.dials.available_permits() == 0;
    let place = tokio::select! {
        biased;
        place = endpoint.dials.acquire() => place,
        () = deadline.passed() => {
            return Err(Failure::unsent(Kind::Silent, "others are dialling it already, in vain"));
        }
    };
    if waits {
        // Meanwhile a connection may have become idle.
        if let Some(connection) = idle(call, endpoint, terms).await {
            return Ok(connection);
        }
    }
    let (began, within) = (Instant::now(), deadline.left());
    let dialled = wire::open(&call.proxy.tailnet, &endpoint.place, within).await;
    drop(place);
    let cut = began.elapsed() >= within;
    record(call, endpoint, began.elapsed(), cut, dialled.as_ref().err());
    Connection::open(dialled?, &endpoint.lost).await
}

/// How long one dial may take. While another candidate is left it does not use up the patience
/// that is left for that one, and an endpoint that is not thought able gets no longer than a probe.
fn bound(call: &Call<'_>, terms: Terms, able: bool) -> Duration {
    let timeouts = call.timeouts();
    match (terms.others, able) {
        (false, _) => timeouts.connect.min(terms.left),
        (true, true) => timeouts.connect.min(terms.left / 2),
        (true, false) => timeouts.connect.min(terms.left / 2).min(timeouts.probe),
    }
}

/// Counts a dial and brings what it says about the endpoint. `cut`: it used up the time that it
/// was given.
fn record(
    call: &Call<'_>,
    endpoint: &Endpoint,
    took: Duration,
    cut: bool,
    failure: Option<&Failure>,
) {
    let Some(failure) = failure else {
        endpoint.handles.connects_ok.inc();
        endpoint.handles.connect_seconds.observe(took.as_secs_f64());
        endpoint.machine.hear();
        return;
    };
    let labels = [endpoint.key.backend.as_str(), failure.kind.as_str()];
    call.proxy.metrics.connects.with_label_values(&labels).inc();
    // A dial that we cut short ourselves says nothing.
    let cut = failure.kind == Kind::Silent || failure.kind == Kind::Tls && cut;
    if !cut || took >= call.timeouts().probe {
        passive::failed(endpoint, failure, call.proxy.clock);
    }
}

/// Asks for probes of `endpoint` for as long as somebody waits on it.
pub(super) async fn ask_for_probes<T>(endpoint: &Endpoint) -> T {
    let mut pause = ASK_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        endpoint.want_probe();
        pause = ASK_AGAIN;
    }
}

/// The same until `bound` has passed.
pub(super) async fn ask_for_probes_until(endpoint: &Endpoint, mut bound: Deadline) {
    let mut pause = ASK_AFTER;
    while !bound.tick(pause).await {
        endpoint.want_probe();
        pause = ASK_AGAIN;
    }
}
