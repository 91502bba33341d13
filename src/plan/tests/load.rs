//! Where inference goes by how much the backends have to do.

use std::time::Duration;

use super::super::candidates::lead;
use super::super::known::{Busy, Known, Load};
use super::*;
use crate::config::snapshot::Limit;

const LIMIT: Limit = Limit {
    in_flight: 2,
    queue: 3,
    wait: Duration::from_mins(1),
    spill: false,
};

const fn busy(working: usize, waiting: usize, millis: u64) -> Busy {
    Busy {
        working,
        waiting,
        usual: Some(Duration::from_millis(millis)),
    }
}

#[test]
fn how_long_one_waits_follows_from_who_is_there_and_how_long_they_take() {
    let unknown = Busy {
        usual: None,
        ..busy(2, 1, 0)
    };
    let rows = [
        (busy(0, 0, 200), Some(LIMIT), true, 0, false),
        (busy(1, 0, 200), Some(LIMIT), true, 0, false),
        (busy(2, 0, 200), Some(LIMIT), true, 100, false),
        (busy(2, 2, 200), Some(LIMIT), true, 300, false),
        (busy(2, 3, 200), Some(LIMIT), true, 400, true),
        (busy(0, 0, 200), Some(LIMIT), false, 10_000, false),
        (unknown, Some(LIMIT), true, 1000, false),
        // Without a limit it has a line of its own, and works on one at once.
        (busy(0, 0, 200), None, true, 0, false),
        (busy(3, 0, 200), None, true, 600, false),
    ];
    for (place, (busy, limit, warm, wait, full)) in rows.into_iter().enumerate() {
        let load = Load::of(busy, limit.as_ref(), warm);
        assert_eq!(
            (load.wait.as_millis(), load.full),
            (wait, full),
            "row {place}"
        );
    }
}

/// macbook-m1 and mac-dev1; the active one is mac-dev1, the second.
#[test]
fn inference_goes_to_who_begins_first_and_to_the_active_one_among_equals() {
    let of = |busy, warm| Known {
        load: Load::of(busy, Some(&LIMIT), warm),
        ..Known::from(Up)
    };
    let (idle, free, line) = (busy(0, 0, 200), busy(1, 0, 200), busy(2, 1, 200));
    let longer = busy(2, 3, 9000);
    let asleep = |known| Known {
        verdict: Asleep,
        ..known
    };
    let rows = [
        ([of(idle, true), of(idle, true)], &[1, 0], "active:schedule"),
        // It is filled before the next one begins.
        ([of(idle, true), of(free, true)], &[1, 0], "active:schedule"),
        ([of(free, true), of(line, true)], &[0, 1], "least-loaded"),
        ([of(line, true), of(line, true)], &[1, 0], "active:schedule"),
        // One that is warm is not swapped for one that is cold, until its line is long.
        (
            [of(idle, false), of(line, true)],
            &[1, 0],
            "active:schedule",
        ),
        ([of(idle, false), of(longer, true)], &[0, 1], "least-loaded"),
        ([of(line, true), of(idle, false)], &[0, 1], "least-loaded"),
        // Both are cold: no difference.
        (
            [of(idle, false), of(idle, false)],
            &[1, 0],
            "active:schedule",
        ),
        // Who is not able is not preferred, however idle.
        (
            [asleep(of(idle, true)), of(line, true)],
            &[1, 0],
            "active:schedule",
        ),
        (
            [of(line, true), asleep(of(idle, true))],
            &[0, 1],
            "fallback:asleep",
        ),
    ];
    let mut snapshot = main_system();
    snapshot.services[0].policy = Policy::LeastLoaded;
    for (place, (known, want, reason)) in rows.iter().enumerate() {
        let whole = plan(&snapshot, OLLAMA, CHAT, known, after());
        assert_eq!(order(&whole), **want, "row {place}");
        assert_eq!(whole.candidates[0].reason.word(), *reason, "row {place}");
        let known = |id: BackendId| known[id.0];
        assert_eq!(lead(&snapshot, OLLAMA, CHAT, known, after()), None);
    }
    // Reads, embeddings of another digest and changes stay where they are.
    let known = [of(idle, true), of(line, true)];
    for (meaning, want) in [(READ, &[1, 0][..]), (EMBED, &[1]), (ADMIN, &[1])] {
        assert_eq!(
            order(&plan(&snapshot, OLLAMA, meaning, &known, after())),
            want
        );
    }
    snapshot.services[0].fallback = Fallback::None;
    assert_eq!(order(&plan(&snapshot, OLLAMA, CHAT, &known, after())), [1]);
}
