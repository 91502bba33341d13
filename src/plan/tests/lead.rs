//! The short way to a plan's beginning says what the whole plan says.

use jiff::Timestamp;

use super::super::candidates::{lead, plan};
use super::super::known::Known;
use super::super::reason::Reason;
use super::*;

const THIRD: BackendId = BackendId(2);
const MEANINGS: [Meaning; 6] = [CHAT, EMBED, READ, READ_OF_ONE, WRITE, ADMIN];
const VERDICTS: [Verdict; 4] = [Up, Suspect, Down, Asleep];

/// Three backends, each drained or not, under each order, as truth and as stand-in.
fn snapshots() -> impl Iterator<Item = Snapshot> {
    (0..8 * 3 * 4).map(|number: usize| {
        let (drained, orders, more) = (number % 8, number / 8 % 3, number / 24);
        let mut snapshot = main_system();
        let third = Backend {
            name: BackendName::new("third").unwrap(),
            ..snapshot.backend(M1).clone()
        };
        snapshot.backends.push(third);
        for (place, backend) in snapshot.backends.iter_mut().enumerate() {
            backend.drain = (drained >> place & 1 == 1).then_some(Drain {
                until: None,
                reason: None,
                by: None,
            });
        }
        match orders {
            0 => {}
            1 => snapshot.pins = vec![pin(M1, false, None)],
            _ => snapshot.active_backend = Some(THIRD),
        }
        snapshot.origin.stand_in = more & 1 == 1;
        let offering: &[BackendId] = match more & 2 {
            0 => &[M1, DEV1, THIRD],
            _ => &[THIRD, M1],
        };
        for service in &mut snapshot.services {
            service.backends = offering.to_vec();
        }
        snapshot
    })
}

/// Every verdict of every of the three.
fn verdicts() -> impl Iterator<Item = [Verdict; 3]> {
    let of = |number: usize| VERDICTS[number % VERDICTS.len()];
    (0..64).map(move |number| [of(number), of(number / 4), of(number / 16)])
}

fn agree(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    of: [Verdict; 3],
    now: Timestamp,
) -> bool {
    let offering = &snapshot.service(service).backends;
    let verdicts: Vec<_> = offering.iter().map(|id| of[id.0]).collect();
    let whole = plan(snapshot, service, meaning, &verdicts, now);
    let active = whole.active.backend;
    let able = of[active.0] == Up && whole.candidates.iter().any(|one| one.backend == active);
    let known = |id: BackendId| Known::from(of[id.0]);
    let Some(lead) = lead(snapshot, service, meaning, known, now) else {
        assert!(!able, "{meaning:?} {verdicts:?} {whole:?}");
        return false;
    };
    assert!(able, "{meaning:?} {verdicts:?} {whole:?} {lead:?}");
    assert_eq!(lead.active, whole.active);
    assert_eq!(Some(&lead.candidate), whole.candidates.first());
    assert_eq!(lead.others, whole.candidates.len() > 1);
    let candidates = whole.candidates.clone();
    let behind: Vec<_> = whole.behind(lead.candidate.backend).collect();
    assert_eq!(behind, candidates[1..]);
    true
}

#[test]
fn a_plan_begins_as_its_lead_says_whatever_is_ordered_and_judged() {
    let (mut with, mut without) = (0, 0);
    for snapshot in snapshots() {
        for (service, meaning) in MEANINGS
            .into_iter()
            .flat_map(|m| [(OLLAMA, m), (QDRANT, m)])
        {
            for verdicts in verdicts() {
                let leads = agree(&snapshot, service, meaning, verdicts, after());
                *(if leads { &mut with } else { &mut without }) += 1;
            }
        }
    }
    assert!(with > 5000 && without > 5000, "{with} {without}");
}

/// The active one fell into doubt after it was asked: the others follow it and say so.
#[test]
fn who_was_asked_first_is_not_asked_again() {
    let snapshot = main_system();
    let whole = plan(&snapshot, QDRANT, READ, &[Up, Asleep], after());
    assert_eq!(order(&whole), [0, 1]);
    let behind: Vec<_> = whole.behind(DEV1).collect();
    assert_eq!(behind.len(), 1);
    assert_eq!((behind[0].backend, &behind[0].reason), (M1, &Reason::Next));
}
