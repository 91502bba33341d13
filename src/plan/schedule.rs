//! Who is active by date alone.
//!
//! A pure function of the snapshot and the wall time, asked by every request: no timer that a
//! frozen process could miss. A switch holds from its instant on.

use jiff::Timestamp;

use crate::config::snapshot::{BackendId, ServiceId, Snapshot, Switch};

/// The backend that the schedule names, and the switch that made it so (`None`: the default).
pub fn scheduled(
    snapshot: &Snapshot,
    service: ServiceId,
    now: Timestamp,
) -> (BackendId, Option<&Switch>) {
    let mut passed = of(snapshot, service).take_while(|switch| switch.at <= now);
    let last = passed.by_ref().last();
    (
        last.map_or(snapshot.schedule.default, |switch| switch.to),
        last,
    )
}

/// Whom the schedule named before the switch that holds now, the latest first, the default last.
pub fn before(
    snapshot: &Snapshot,
    service: ServiceId,
    now: Timestamp,
) -> impl Iterator<Item = BackendId> {
    let passed = of(snapshot, service).filter(move |switch| switch.at <= now);
    let passed: Vec<_> = passed.map(|switch| switch.to).collect();
    let before = passed.into_iter().rev().skip(1);
    before.chain([snapshot.schedule.default])
}

/// The next switch of `service` after `now`.
pub fn next_switch(snapshot: &Snapshot, service: ServiceId, now: Timestamp) -> Option<&Switch> {
    of(snapshot, service).find(|switch| switch.at > now)
}

fn of(snapshot: &Snapshot, service: ServiceId) -> impl Iterator<Item = &Switch> {
    snapshot.schedule.switches.iter().filter(move |switch| {
        switch
            .services
            .as_ref()
            .is_none_or(|list| list.contains(&service))
    })
}
