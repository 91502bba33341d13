//! The plan: the ordered candidates for one request, each with its reason.

use jiff::Timestamp;

use super::orders::{self, Active, Why};
use super::reason::{Exclusion, Reason, Refusal};
use crate::config::snapshot::{BackendId, Fallback, ServiceId, Snapshot};
use crate::words::effect::{Effect, Meaning, Reach};
use crate::words::verdict::Verdict;

/// The ordered candidates for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whom orders and schedule name for this effect.
    pub active: Active,
    /// Best first. Empty only with a refusal.
    pub candidates: Vec<Candidate>,
    /// Why there is none.
    pub refusal: Option<Refusal>,
}

/// One backend that may be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The backend.
    pub backend: BackendId,
    /// Why it stands here.
    pub reason: Reason,
}

/// The first candidate of a plan whose others nobody needs yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Lead {
    /// Whom orders and schedule name for this effect.
    pub active: Active,
    /// The active one, as a candidate.
    pub candidate: Candidate,
    /// Whether [`plan`] has others behind it.
    pub others: bool,
}

/// How the plan begins, where that can be said without looking at every backend: with the active
/// one, if it is thought able. Almost every request needs no more. `None`: ask [`plan`].
pub fn lead(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    verdict: impl FnOnce(BackendId) -> Verdict,
    now: Timestamp,
) -> Option<Lead> {
    let active = orders::active(snapshot, service, meaning.effect, now);
    let takes_work = |id| orders::drain(snapshot, id, now).is_none();
    let leads = takes_work(active.backend)
        && Rank::of(verdict(active.backend)) == Rank::Able
        && !stand_in_cannot_say(snapshot, service, meaning.effect);
    if !leads {
        return None;
    }
    let mut offering = snapshot.service(service).backends.iter();
    let others = stays(snapshot, service, meaning).is_none()
        && offering.any(|id| *id != active.backend && takes_work(*id));
    let candidate = Candidate {
        backend: active.backend,
        reason: Reason::Active(active.why.clone()),
    };
    Some(Lead {
        active,
        candidate,
        others,
    })
}

/// The plan for a request of `meaning` to `service`. `verdicts` stands in the order of the
/// service's backends.
pub fn plan(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    verdicts: &[Verdict],
    now: Timestamp,
) -> Plan {
    let active = orders::active(snapshot, service, meaning.effect, now);
    if stand_in_cannot_say(snapshot, service, meaning.effect) {
        return Plan {
            active,
            candidates: Vec::new(),
            refusal: Some(Refusal::StandIn),
        };
    }
    let mut order: Vec<(Rank, BackendId)> = (snapshot.service(service).backends.iter())
        .zip(
            verdicts
                .iter()
                .copied()
                .chain(std::iter::repeat(Verdict::Unknown)),
        )
        .filter(|(id, _)| excluded(snapshot, service, meaning, &active, **id, now).is_none())
        .map(|(id, verdict)| (Rank::of(verdict), *id))
        .collect();
    let fail_open = order.iter().all(|(rank, _)| *rank >= Rank::Down);
    // A stable sort: among equals the active one first, then the order of the file.
    order.sort_by_key(|(rank, id)| {
        let second = *id != active.backend;
        if fail_open {
            (Rank::Able, second, *rank)
        } else {
            (*rank, second, Rank::Able)
        }
    });
    let verdict = verdict_of(snapshot, service, verdicts, active.backend);
    let candidates: Vec<_> = (order.iter().enumerate())
        .map(|(place, (_, id))| Candidate {
            backend: *id,
            reason: reason(&active, *id, place, verdict, snapshot, now),
        })
        .collect();
    let refusal = candidates.is_empty().then_some(Refusal::Drained);
    Plan {
        active,
        candidates,
        refusal,
    }
}

/// Why `backend` is no candidate for a request of `meaning`; `None`: it is one.
pub fn excluded(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    active: &Active,
    backend: BackendId,
    now: Timestamp,
) -> Option<Exclusion> {
    if orders::drain(snapshot, backend, now).is_some() {
        return Some(Exclusion::Drained);
    }
    if backend == active.backend {
        return None;
    }
    stays(snapshot, service, meaning)
}

/// Why a request of `meaning` goes to nobody but the active backend; `None`: it may move.
fn stays(snapshot: &Snapshot, service: ServiceId, meaning: Meaning) -> Option<Exclusion> {
    let fallback = snapshot.service(service).fallback;
    match (meaning.effect, meaning.reach, fallback) {
        (Effect::Write | Effect::Admin, _, _) => Some(Exclusion::ChangesStay),
        (_, Reach::OneBackend, _) => Some(Exclusion::OneBackend),
        (_, Reach::SameModel, _) => Some(Exclusion::ModelUnknown),
        (Effect::Read, Reach::Any, Fallback::All | Fallback::Reads)
        | (Effect::Inference, Reach::Any, Fallback::All) => None,
        (_, Reach::Any, _) => Some(Exclusion::NoFallback),
    }
}

/// The stand-in copy's schedule may be stale, and a stale schedule must not say who owns writes.
fn stand_in_cannot_say(snapshot: &Snapshot, service: ServiceId, effect: Effect) -> bool {
    snapshot.origin.stand_in
        && effect.changes()
        && orders::holds_data(snapshot, service)
        && snapshot.active_backend.is_none()
}

/// How willingly an endpoint with a verdict is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Able,
    Suspect,
    Down,
    Asleep,
}

impl Rank {
    fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Unknown | Verdict::Up => Self::Able,
            Verdict::Suspect | Verdict::Returning => Self::Suspect,
            // A refusal comes back at once; a silent machine costs a whole dial.
            Verdict::Down => Self::Down,
            Verdict::Asleep => Self::Asleep,
        }
    }
}

fn verdict_of(
    snapshot: &Snapshot,
    service: ServiceId,
    verdicts: &[Verdict],
    backend: BackendId,
) -> Verdict {
    let place = snapshot.service(service).place_of(backend);
    place
        .and_then(|place| verdicts.get(place))
        .copied()
        .unwrap_or(Verdict::Unknown)
}

fn reason(
    active: &Active,
    backend: BackendId,
    place: usize,
    verdict: Verdict,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Reason {
    if backend == active.backend {
        Reason::Active(active.why.clone())
    } else if place > 0 {
        Reason::Next
    } else if orders::drain(snapshot, active.backend, now).is_some() {
        Reason::InsteadOfDrained
    } else {
        Reason::Instead(verdict)
    }
}

impl Plan {
    /// The candidates behind `lead`, which was asked first.
    pub fn behind(self, lead: BackendId) -> impl Iterator<Item = Candidate> {
        let others = self.candidates.into_iter();
        others
            .filter(move |candidate| candidate.backend != lead)
            .map(|candidate| Candidate {
                reason: Reason::Next,
                ..candidate
            })
    }

    /// Who says which backend is active.
    pub fn why(&self) -> &Why {
        &self.active.why
    }
}
