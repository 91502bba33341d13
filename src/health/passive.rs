//! Brings evidence to an endpoint, from traffic and probes alike, and says so when it changes
//! the verdict.

use tracing::{info, warn};

use super::judge::{Seen, judge};
use crate::endpoint::live::Endpoint;
use crate::words::clock::Clock;
use crate::words::outcome::Failure;
use crate::words::verdict::Verdict;

/// An answer's head came from `endpoint`.
pub fn answered(endpoint: &Endpoint, clock: Clock) {
    endpoint.served();
    // The state in which nearly every answer finds it: nothing to judge, no lock to take.
    if endpoint.verdict() != Verdict::Up {
        note(endpoint, Seen::Answered, "", clock);
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
    let heard_ago = endpoint.machine.heard_ago();
    let changed = endpoint.judge(|before| judge(before, seen, detail, heard_ago, clock.now()));
    let Some((before, after)) = changed else {
        return;
    };
    let (service, backend) = (&endpoint.key.service, &endpoint.key.backend);
    if after == Verdict::Up {
        info!(%service, %backend, %before, %after, "verdict");
    } else {
        warn!(%service, %backend, %before, %after, detail, "verdict");
    }
}
