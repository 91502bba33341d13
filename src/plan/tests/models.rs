//! Where a request goes by which models the backends have.

use super::super::candidates::lead;
use super::super::known::{Holds, Known, Load, Stocked};
use super::super::reason::Exclusion::{self, Drained, ModelMissing, ModelUnknown, Unready};
use super::*;
use crate::api::models::Model;

const SHOW: Meaning = READ;

/// What is known of one that is up.
const fn has(holds: Holds) -> Known {
    Known {
        verdict: Up,
        holds,
        stocked: Stocked::Ready,
        lacks: false,
        load: Load {
            full: false,
            wait: std::time::Duration::ZERO,
        },
    }
}

const fn unready(known: Known) -> Known {
    Known {
        stocked: Stocked::Lacks,
        ..known
    }
}

/// What requires the model `tiny`.
fn tiny() -> Require {
    Require {
        models: vec![Model::named("tiny").unwrap()],
        ..Require::default()
    }
}

const fn asleep(known: Known) -> Known {
    Known {
        verdict: Asleep,
        ..known
    }
}

type Row = (
    Meaning,
    [Known; 2],
    &'static [usize],
    &'static str,
    Option<Exclusion>,
);

const UNKNOWN: Known = has(Holds::Unknown);
const LACKS: Known = has(Holds::Lacks);
const NAMED: Known = has(Holds::Named);
const SAME: Known = has(Holds::Same);
const ACTIVE: &str = "active:schedule";

/// The active one is mac-dev1, the second.
const ROWS: &[Row] = &[
    (CHAT, [NAMED, SAME], &[1, 0], ACTIVE, None),
    (CHAT, [UNKNOWN, UNKNOWN], &[1, 0], ACTIVE, None),
    (CHAT, [LACKS, SAME], &[1], ACTIVE, Some(ModelMissing)),
    (
        CHAT,
        [NAMED, LACKS],
        &[0],
        "model-only-there",
        Some(ModelMissing),
    ),
    (
        SHOW,
        [NAMED, LACKS],
        &[0],
        "model-only-there",
        Some(ModelMissing),
    ),
    // Who is known to have it is waited for: the other one's 404 would be a lie.
    (
        CHAT,
        [asleep(NAMED), LACKS],
        &[0],
        "model-only-there",
        Some(ModelMissing),
    ),
    // Nobody is known to have it: the active one says so, and another where that one is silent.
    (CHAT, [LACKS, LACKS], &[1, 0], ACTIVE, None),
    (
        CHAT,
        [LACKS, asleep(LACKS)],
        &[0, 1],
        "fallback:asleep",
        None,
    ),
    (EMBED, [LACKS, LACKS], &[1], ACTIVE, Some(ModelUnknown)),
    (CHAT, [UNKNOWN, LACKS], &[1, 0], ACTIVE, None),
    (
        CHAT,
        [NAMED, asleep(LACKS)],
        &[0],
        "model-only-there",
        Some(ModelMissing),
    ),
    (
        CHAT,
        [LACKS, asleep(SAME)],
        &[1],
        ACTIVE,
        Some(ModelMissing),
    ),
    (
        CHAT,
        [NAMED, asleep(SAME)],
        &[0, 1],
        "fallback:asleep",
        None,
    ),
    // Embeddings move only to the very same model.
    (EMBED, [NAMED, SAME], &[1], ACTIVE, Some(ModelUnknown)),
    (EMBED, [SAME, SAME], &[1, 0], ACTIVE, None),
    (
        EMBED,
        [SAME, asleep(SAME)],
        &[0, 1],
        "fallback:asleep",
        None,
    ),
    (
        EMBED,
        [UNKNOWN, asleep(SAME)],
        &[1],
        ACTIVE,
        Some(ModelUnknown),
    ),
    (EMBED, [NAMED, LACKS], &[1], ACTIVE, Some(ModelUnknown)),
    // `require`, of reads and inference alone.
    (CHAT, [unready(NAMED), SAME], &[1], ACTIVE, Some(Unready)),
    (
        CHAT,
        [NAMED, unready(SAME)],
        &[0],
        "fallback:unready",
        Some(Unready),
    ),
    (
        READ,
        [UNKNOWN, unready(UNKNOWN)],
        &[0],
        "fallback:unready",
        Some(Unready),
    ),
    (ADMIN, [UNKNOWN, unready(UNKNOWN)], &[1], ACTIVE, None),
    (
        CHAT,
        [unready(NAMED), unready(SAME)],
        &[1],
        ACTIVE,
        Some(Unready),
    ),
];

#[test]
fn a_request_goes_where_its_model_is_and_embeddings_where_it_is_the_same() {
    let snapshot = main_system();
    for (place, (meaning, known, want, reason, why)) in ROWS.iter().enumerate() {
        let plan = plan(&snapshot, OLLAMA, *meaning, known, after());
        assert_eq!(order(&plan), *want, "row {place}");
        assert_eq!(plan.candidates[0].reason.word(), *reason, "row {place}");
        if meaning.effect.changes() {
            continue;
        }
        let excluded = plan.excluded.first().map(|(_, why)| *why);
        assert_eq!(excluded, *why, "row {place}");
    }
}

#[test]
fn a_model_moves_nothing_that_an_order_or_fallback_keeps() {
    let [lacks, named] = [Holds::Lacks, Holds::Named].map(has);
    let mut snapshot = main_system();
    snapshot.services[0].fallback = Fallback::None;
    let kept = plan(&snapshot, OLLAMA, CHAT, &[named, lacks], after());
    assert_eq!(order(&kept), [1]);
    let mut snapshot = main_system();
    snapshot.backends[0].drain = Some(Drain {
        until: None,
        reason: None,
        by: None,
    });
    let kept = plan(&snapshot, OLLAMA, CHAT, &[named, lacks], after());
    assert_eq!(order(&kept), [1]);
    assert_eq!(kept.excluded, [(M1, Drained)]);
}

/// A switch whose backend is known to lack what is required is held, for every effect; an order is
/// not, and one that lacks it as well is no better.
#[test]
fn a_planned_switch_waits_until_its_backend_has_what_is_required() {
    let (ready, lacks) = (UNKNOWN, unready(UNKNOWN));
    let rows: [(_, _, fn(&mut Snapshot), _, _); 8] = [
        ([ready, lacks], after(), |_| (), &[0][..], "active:held"),
        ([ready, ready], after(), |_| (), &[1, 0], ACTIVE),
        ([lacks, lacks], after(), |_| (), &[1], ACTIVE),
        ([lacks, ready], after(), |_| (), &[1], ACTIVE),
        ([ready, lacks], before(), |_| (), &[0], "active:default"),
        (
            [ready, lacks],
            after(),
            |snapshot| snapshot.services[0].holds_switch = false,
            &[0],
            "fallback:unready",
        ),
        (
            [ready, lacks],
            after(),
            |snapshot| snapshot.active_backend = Some(DEV1),
            &[0],
            "fallback:unready",
        ),
        (
            [ready, lacks],
            after(),
            |snapshot| snapshot.schedule.default = DEV1,
            &[0],
            "fallback:unready",
        ),
    ];
    for (place, (known, now, change, want, reason)) in rows.into_iter().enumerate() {
        let mut snapshot = main_system();
        snapshot.services[0].require = tiny();
        change(&mut snapshot);
        let whole = plan(&snapshot, OLLAMA, CHAT, &known, now);
        assert_eq!(order(&whole), want, "row {place}");
        assert_eq!(whole.candidates[0].reason.word(), reason, "row {place}");
        let known = |id: BackendId| known[id.0];
        let first = lead(&snapshot, OLLAMA, CHAT, known, now);
        let same = first.is_none_or(|lead| lead.candidate == whole.candidates[0]);
        assert!(same, "row {place}");
    }
    let mut snapshot = main_system();
    snapshot.services[0].require = tiny();
    let admin = plan(&snapshot, OLLAMA, ADMIN, &[ready, lacks], after());
    assert_eq!(admin.candidates[0].reason.word(), "active:held");
}
