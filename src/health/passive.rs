//! Brings evidence to an endpoint, from traffic, probes and pings alike, says so when it changes
//! the verdict, and calls for help when an endpoint does not answer dials.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::judge::{Around, Seen, judge};
use crate::endpoint::live::Endpoint;
use crate::words::clock::Clock;
use crate::words::outcome::{Failure, Kind};
use crate::words::verdict::Verdict;

/// An answer's head came from `endpoint` now.
pub fn answered(endpoint: &Endpoint, now: Instant, clock: Clock) {
    endpoint.served(now);
    // The state in which nearly every answer finds it: nothing to judge, no lock to take.
    if endpoint.verdict() != Verdict::Up {
        note(endpoint, Seen::Answered, "", clock);
    }
}

/// `endpoint` accepted a dial.
pub fn dialled(endpoint: &Endpoint, clock: Clock) {
    endpoint.accepted();
    if !endpoint.verdict().able() {
        note(endpoint, Seen::Dialled, "", clock);
    }
}

/// A dial of `endpoint` that began so long ago was not answered within its head start.
pub fn late(endpoint: &Endpoint, ago: Duration, clock: Clock) {
    // It is stuck in what was repaired since: newer ones were answered.
    if endpoint.reached_within(ago) {
        return;
    }
    note(
        endpoint,
        Seen::Late,
        "a dial was not answered within its head start",
        clock,
    );
    endpoint.machine.alarm.notify_one();
    endpoint.want_probe();
}

/// A dial of `endpoint` that began so long ago failed.
pub fn undialled(endpoint: &Endpoint, failure: &Failure, ago: Duration, clock: Clock) {
    if failure.kind != Kind::Silent || !endpoint.reached_within(ago) {
        failed(endpoint, failure, clock);
    }
}

/// A request, or a probe, failed at `endpoint`.
pub fn failed(endpoint: &Endpoint, failure: &Failure, clock: Clock) {
    if let Some(seen) = Seen::of(failure) {
        note(endpoint, seen, &failure.to_string(), clock);
        // Traffic has a doubt: a fresh dial soon tells more.
        endpoint.want_probe();
    }
}

/// Judges `endpoint` by one piece of evidence.
pub fn note(endpoint: &Endpoint, seen: Seen, detail: &str, clock: Clock) {
    if seen == Seen::Answered {
        endpoint.machine.hear();
    }
    let around = Around {
        heard_ago: endpoint.machine.heard_ago(),
        examined: endpoint.machine.examined.load(Ordering::Relaxed),
        wall: clock.now(),
        now: Instant::now(),
    };
    let changed = endpoint.judge(|before| judge(before, seen, detail, around));
    let Some((before, after)) = changed else {
        return;
    };
    if after.able() && !before.able() {
        endpoint.machine.returns.send_modify(|times| *times += 1);
    }
    let (service, backend) = (&endpoint.key.service, &endpoint.key.backend);
    let evidence = endpoint.judgement().evidence;
    if after == Verdict::Up {
        endpoint.want_stock();
        info!(%service, %backend, %before, %after, %evidence, "verdict");
    } else {
        warn!(%service, %backend, %before, %after, %evidence, detail, "verdict");
    }
}
