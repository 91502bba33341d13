//! Where a request goes by which collections the backends have, and who owns the writes.

use super::super::candidates::lead;
use super::super::known::{Known, Stocked};
use super::super::reason::Exclusion::{self, ChangesStay, DataMissing};
use super::super::timeline::{What, timeline};
use super::*;

const UP: Known = known(Up, Stocked::Ready);
const SHORT: Known = known(Up, Stocked::Lacks);
const AWAITED: Known = known(Up, Stocked::Awaited);
const DEAD: Known = known(Down, Stocked::Ready);
const LACKS: Known = Known { lacks: true, ..UP };
const DEAD_LACKS: Known = Known {
    lacks: true,
    ..DEAD
};
const SCHEDULE: &str = "active:schedule";

const fn known(verdict: Verdict, stocked: Stocked) -> Known {
    Known {
        verdict,
        stocked,
        holds: super::super::known::Holds::Unknown,
        lacks: false,
        load: super::super::known::Load {
            full: false,
            wait: std::time::Duration::ZERO,
        },
    }
}

/// The main system, whose Qdrant requires a collection.
fn requiring() -> Snapshot {
    let mut snapshot = main_system();
    snapshot.services[QDRANT.0].require = Require {
        collections: vec!["papers".to_owned()],
        min_points: 1,
        ..Require::default()
    };
    snapshot
}

fn planned(snapshot: &Snapshot, meaning: Meaning, known: [Known; 2], now: Timestamp) -> Plan {
    let whole = plan(snapshot, QDRANT, meaning, &known, now);
    let first = lead(snapshot, QDRANT, meaning, |id| known[id.0], now);
    let same = first
        .is_none_or(|lead| lead.candidate == whole.candidates[0] && lead.active == whole.active);
    assert!(same, "{known:?}");
    whole
}

/// What is different, and what comes of it.
type Changed<T> = (fn(&mut Snapshot), T);

/// What is known, who is asked in order, why the first one is, and who is not.
type Row = (
    [Known; 2],
    &'static [usize],
    &'static str,
    Option<(usize, Exclusion)>,
);

/// After the switch to mac-dev1, the second: it is held until the data is known to be there.
#[test]
fn reads_wait_at_whom_the_schedule_named_before_until_the_data_is_there() {
    let rows: [Row; 10] = [
        ([UP, UP], &[1, 0], SCHEDULE, None),
        ([UP, SHORT], &[0], "active:held", Some((1, DataMissing))),
        // It did not tell yet: an empty answer would be a lie.
        ([UP, AWAITED], &[0, 1], "active:held", None),
        ([AWAITED, AWAITED], &[0, 1], "active:held", None),
        (
            [AWAITED, SHORT],
            &[0],
            "active:held",
            Some((1, DataMissing)),
        ),
        // Nobody else is better.
        ([SHORT, SHORT], &[1], SCHEDULE, Some((0, DataMissing))),
        ([SHORT, AWAITED], &[1], SCHEDULE, Some((0, DataMissing))),
        ([SHORT, UP], &[1], SCHEDULE, Some((0, DataMissing))),
        // Down or not: no answer without the data.
        ([DEAD, SHORT], &[0], "active:held", Some((1, DataMissing))),
        ([DEAD, AWAITED], &[1, 0], "fallback:down", None),
    ];
    let snapshot = requiring();
    for (place, (known, want, reason, excluded)) in rows.into_iter().enumerate() {
        let plan = planned(&snapshot, READ, known, after());
        assert_eq!(order(&plan), want, "row {place}");
        assert_eq!(plan.candidates[0].reason.word(), reason, "row {place}");
        let excluded: Vec<_> = (excluded.into_iter())
            .map(|(id, why)| (BackendId(id), why))
            .collect();
        assert_eq!(plan.excluded, excluded, "row {place}");
    }
}

/// An order is not held; what it names and lacks the data is passed over by reads.
#[test]
fn a_pin_to_a_backend_without_the_data_moves_no_read_there() {
    let rows: [Changed<&str>; 3] = [
        (
            |snapshot| snapshot.active_backend = Some(DEV1),
            "fallback:data-missing",
        ),
        (
            |snapshot| snapshot.schedule.default = DEV1,
            "fallback:data-missing",
        ),
        (
            |snapshot| snapshot.services[QDRANT.0].holds_switch = false,
            "fallback:data-missing",
        ),
    ];
    for (change, reason) in rows {
        let mut snapshot = requiring();
        change(&mut snapshot);
        let plan = planned(&snapshot, READ, [UP, SHORT], after());
        assert_eq!(
            (order(&plan), plan.candidates[0].reason.word()),
            (vec![0], reason)
        );
    }
}

#[test]
fn a_fallback_that_lacks_the_collection_is_not_asked_and_the_active_one_is() {
    let rows: [Row; 5] = [
        ([LACKS, UP], &[1], SCHEDULE, Some((0, DataMissing))),
        ([LACKS, DEAD], &[1], SCHEDULE, Some((0, DataMissing))),
        // Its own answer says so.
        ([UP, LACKS], &[1, 0], SCHEDULE, None),
        ([UP, DEAD_LACKS], &[0, 1], "fallback:down", None),
        ([LACKS, LACKS], &[1], SCHEDULE, Some((0, DataMissing))),
    ];
    let snapshot = main_system();
    for (place, (known, want, reason, excluded)) in rows.into_iter().enumerate() {
        let plan = plan(&snapshot, QDRANT, READ, &known, after());
        assert_eq!(order(&plan), want, "row {place}");
        assert_eq!(plan.candidates[0].reason.word(), reason, "row {place}");
        let excluded: Vec<_> = (excluded.into_iter())
            .map(|(id, why)| (BackendId(id), why))
            .collect();
        assert_eq!(plan.excluded, excluded, "row {place}");
    }
}

/// The owner of the writes, and why before and after the switch.
const OWNERS: [Changed<(BackendId, &str, &str)>; 5] = [
    (|_| (), (M1, "active:default", "active:writes-stay")),
    // Back and forth: the switches still move reads alone.
    (
        |snapshot| {
            let back = Switch {
                at: after(),
                to: M1,
                services: None,
            };
            snapshot.schedule.switches.push(back);
        },
        (M1, "active:default", "active:default"),
    ),
    (
        |snapshot| snapshot.schedule.default = DEV1,
        (DEV1, "active:default", "active:default"),
    ),
    (
        |snapshot| snapshot.active_backend = Some(DEV1),
        (DEV1, "active:active-backend", "active:active-backend"),
    ),
    (
        |snapshot| snapshot.services[QDRANT.0].backends = vec![DEV1],
        (DEV1, "active:only-offer", "active:only-offer"),
    ),
];

/// Every pair of what may be known of the two.
fn pairs() -> impl Iterator<Item = [Known; 2]> {
    let all = [UP, SHORT, AWAITED, DEAD, LACKS];
    all.into_iter()
        .flat_map(move |one| all.map(|other| [one, other]))
}

fn long_after() -> Timestamp {
    at("2031-01-01T00:00:00Z")
}

/// Instances that know different things, or nothing, name the same owner at any time.
#[test]
fn who_owns_the_writes_follows_from_the_file_alone() {
    for (place, (change, (owner, earlier, later))) in OWNERS.into_iter().enumerate() {
        let mut snapshot = requiring();
        change(&mut snapshot);
        let offered = snapshot.services[QDRANT.0].backends.len();
        for (now, reason) in [(before(), earlier), (after(), later), (long_after(), later)] {
            for (known, meaning) in pairs().flat_map(|one| [(one, WRITE), (one, ADMIN)]) {
                let plan = plan(&snapshot, QDRANT, meaning, &known[..offered], now);
                assert_eq!(order(&plan), [owner.0], "row {place} {known:?}");
                assert_eq!(plan.candidates[0].reason.word(), reason, "row {place}");
                let stay = |(_, why): &(BackendId, Exclusion)| *why == ChangesStay;
                assert!(plan.excluded.iter().all(stay));
            }
        }
    }
}

/// At once and for good.
#[test]
fn a_pin_moves_writes_if_it_says_so() {
    for (writes, owner) in [(false, M1), (true, DEV1)] {
        let mut snapshot = requiring();
        snapshot.pins = vec![Pin {
            to: DEV1,
            until: None,
            reason: None,
            by: None,
            services: Some(vec![QDRANT]),
            writes,
            hold_writes: false,
        }];
        for (now, known) in [before(), after(), long_after()]
            .into_iter()
            .flat_map(|now| pairs().map(move |known| (now, known)))
        {
            assert_eq!(order(&planned(&snapshot, WRITE, known, now)), [owner.0]);
        }
    }
}

/// Without a hold, and without collections, the schedule moves both, as ever.
#[test]
fn a_switch_that_is_not_held_moves_writes_too() {
    let changes: [fn(&mut Snapshot); 2] = [
        |snapshot| snapshot.services[QDRANT.0].holds_switch = false,
        |snapshot| snapshot.services[QDRANT.0].require = Require::default(),
    ];
    for change in changes {
        let mut snapshot = requiring();
        change(&mut snapshot);
        let plan = planned(&snapshot, WRITE, [UP, UP], after());
        assert_eq!(
            (order(&plan), plan.candidates[0].reason.word()),
            (vec![1], SCHEDULE)
        );
        let moves_writes = |snapshot: &Snapshot| {
            let coming = timeline(snapshot, before());
            coming.iter().any(|one| {
                matches!(
                    one.what,
                    What::Active {
                        service: QDRANT,
                        writes: true,
                        ..
                    }
                )
            })
        };
        assert!(moves_writes(&snapshot));
        assert!(!moves_writes(&requiring()));
    }
}
