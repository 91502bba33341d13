//! What comes: switches, and orders that end. Pure.
//!
//! At each instant at which something may change it asks who is active just before and then, so it
//! cannot say anything else than what requests will be told.

use jiff::{SignedDuration, Timestamp};

use super::orders::{Active, active};
use crate::config::snapshot::{BackendId, ServiceId, Snapshot};
use crate::words::effect::Effect;

/// One thing to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Coming {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

/// What comes.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Another backend becomes active.
    Active {
        /// For this service.
        service: ServiceId,
        /// It was active until then.
        from: BackendId,
        /// It is from then on, and why.
        to: Active,
        /// Whether writes move, too.
        writes: bool,
    },
    /// A pin ends, and the same backend stays active.
    PinEnds(BackendId),
    /// Work may go to a backend again.
    DrainEnds(BackendId),
}

/// Everything that comes after `now`, in order.
pub fn timeline(snapshot: &Snapshot, now: Timestamp) -> Vec<Coming> {
    let mut coming = Vec::new();
    for at in instants(snapshot, now) {
        let before = coming.len();
        let moves = snapshot
            .service_ids()
            .filter_map(|id| moved(snapshot, id, at));
        coming.extend(moves.map(|what| Coming { at, what }));
        let moved = coming.len() > before;
        let pins = snapshot
            .pins
            .iter()
            .filter(|pin| pin.until == Some(at) && !moved);
        coming.extend(pins.map(|pin| Coming {
            at,
            what: What::PinEnds(pin.to),
        }));
        let drains = drains(snapshot).filter(|(_, until)| *until == at);
        coming.extend(drains.map(|(backend, at)| Coming {
            at,
            what: What::DrainEnds(backend),
        }));
    }
    coming
}

fn instants(snapshot: &Snapshot, now: Timestamp) -> Vec<Timestamp> {
    let switches = snapshot.schedule.switches.iter().map(|switch| switch.at);
    let pins = snapshot.pins.iter().filter_map(|pin| pin.until);
    let all = switches
        .chain(pins)
        .chain(drains(snapshot).map(|(_, at)| at));
    let mut all: Vec<_> = all.filter(|at| *at > now).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn drains(snapshot: &Snapshot) -> impl Iterator<Item = (BackendId, Timestamp)> {
    let backends = snapshot.backends.iter().enumerate();
    backends.filter_map(|(id, backend)| Some((BackendId(id), backend.drain.as_ref()?.until?)))
}

fn moved(snapshot: &Snapshot, service: ServiceId, at: Timestamp) -> Option<What> {
    let just_before = at.checked_sub(SignedDuration::from_nanos(1)).ok()?;
    let named = |effect, at| active(snapshot, service, effect, at);
    let (from, to) = (named(Effect::Read, just_before), named(Effect::Read, at));
    let writes = [just_before, at].map(|at| named(Effect::Write, at).backend);
    let writes = writes[0] != writes[1];
    (from.backend != to.backend || writes).then_some(What::Active {
        service,
        from: from.backend,
        to,
        writes,
    })
}
