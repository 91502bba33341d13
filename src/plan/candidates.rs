//! The plan: the ordered candidates for one request, each with its reason.

use jiff::Timestamp;

use super::known::{Holds, Known, Load, Stocked};
use super::orders::{self, Active, Why};
use super::reason::{Exclusion, Reason, Refusal};
use crate::config::snapshot::{BackendId, Fallback, Policy, ServiceId, Snapshot};
use crate::words::effect::{Effect, Meaning, Reach};
use crate::words::names::Kind;
use crate::words::verdict::Verdict;

/// The ordered candidates for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whom orders and schedule name for this effect.
    pub active: Active,
    /// Best first. Empty only with a refusal.
    pub candidates: Vec<Candidate>,
    /// Who may not be asked, and why.
    pub excluded: Vec<(BackendId, Exclusion)>,
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
    known: impl Fn(BackendId) -> Known,
    now: Timestamp,
) -> Option<Lead> {
    let active = orders::active(snapshot, service, meaning.effect, now);
    let active = orders::held(snapshot, service, active, now, |id| known(id).stocked);
    let takes_work = |id| orders::drain(snapshot, id, now).is_none();
    let first = known(active.backend);
    let leads = takes_work(active.backend)
        && Rank::of(first.verdict) == Rank::Able
        && first.is_ready(meaning)
        && !by_load(snapshot, service, meaning.effect)
        && refusal(snapshot, service, meaning.effect, now).is_none();
    if !leads {
        return None;
    }
    let mut offering = snapshot.service(service).backends.iter();
    let may = |id: BackendId| stays(snapshot, service, meaning, known(id)).is_none();
    let others = offering.any(|id| *id != active.backend && takes_work(*id) && may(*id));
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

/// The plan for a request of `meaning` to `service`. `known` stands in the order of the service's
/// backends.
pub fn plan<K: Copy + Into<Known>>(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    known: &[K],
    now: Timestamp,
) -> Plan {
    let active = orders::active(snapshot, service, meaning.effect, now);
    let unknown = Known::from(Verdict::Unknown);
    let told = known.iter().map(|known| (*known).into());
    let mut offering: Vec<(BackendId, Known)> =
        (snapshot.service(service).backends.iter().copied())
            .zip(told.chain(std::iter::repeat(unknown)))
            .collect();
    // Lists in which nobody has it tell no backend from another, and may be old: the answers say.
    if (offering.iter()).all(|(_, known)| known.holds == Holds::Lacks) {
        for (_, known) in &mut offering {
            known.holds = Holds::Unknown;
        }
    }
    let of = |id| offering.iter().find(|(other, _)| *other == id);
    let stocked = |id| of(id).map_or(Stocked::Ready, |(_, known)| known.stocked);
    let active = orders::held(snapshot, service, active, now, stocked);
    let (order, excluded) = sorted_out(snapshot, service, meaning, (&active, &offering), now);
    if let Some(refusal) = refusal(snapshot, service, meaning.effect, now) {
        return Plan {
            active,
            candidates: Vec::new(),
            excluded,
            refusal: Some(refusal),
        };
    }
    let of_active = offering.iter().find(|(id, _)| *id == active.backend);
    let verdict = of_active.map_or(unknown, |(_, known)| *known).verdict;
    let absent = excluded.iter().find(|(id, _)| *id == active.backend);
    let instead = match absent.map(|(_, why)| why) {
        Some(Exclusion::Drained) => Reason::InsteadOfDrained,
        Some(Exclusion::ModelMissing) => Reason::ModelOnlyThere,
        Some(Exclusion::Unready) => Reason::InsteadOfUnready,
        Some(Exclusion::DataMissing) => Reason::InsteadOfLacking,
        _ if Rank::of(verdict) == Rank::Able && by_load(snapshot, service, meaning.effect) => {
            Reason::LeastLoaded
        }
        _ => Reason::Instead(verdict),
    };
    let candidates: Vec<_> = (in_order(order, active.backend).enumerate())
        .map(|(place, backend)| Candidate {
            backend,
            reason: match place {
                _ if backend == active.backend => Reason::Active(active.why.clone()),
                0 => instead.clone(),
                _ => Reason::Next,
            },
        })
        .collect();
    let refusal = candidates.is_empty().then_some(Refusal::Drained);
    Plan {
        active,
        candidates,
        excluded,
        refusal,
    }
}

/// Best first. A stable sort: among equals the active one first, then the order of the file.
fn in_order(
    mut order: Vec<(Rank, Load, BackendId)>,
    active: BackendId,
) -> impl Iterator<Item = BackendId> {
    let fail_open = order.iter().all(|(rank, ..)| *rank >= Rank::Down);
    order.sort_by_key(|(rank, load, id)| {
        let second = *id != active;
        if fail_open {
            (Rank::Able, Load::default(), second, *rank)
        } else {
            (*rank, *load, second, Rank::Able)
        }
    });
    order.into_iter().map(|(_, _, id)| id)
}

type SortedOut = (Vec<(Rank, Load, BackendId)>, Vec<(BackendId, Exclusion)>);

/// Who may be asked, in the order of the file, and who may not, and why.
fn sorted_out(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    (active, offering): (&Active, &[(BackendId, Known)]),
    now: Timestamp,
) -> SortedOut {
    let (mut order, mut excluded) = (Vec::with_capacity(offering.len()), Vec::new());
    let decides = by_load(snapshot, service, meaning.effect);
    let load = |known: &Known| if decides { known.load } else { Load::default() };
    for (id, known) in offering {
        let why = if orders::drain(snapshot, *id, now).is_some() {
            Some(Exclusion::Drained)
        } else if *id == active.backend {
            unready(snapshot, service, meaning, *known)
        } else {
            stays(snapshot, service, meaning, *known)
        };
        match why {
            None => order.push((Rank::of(known.verdict), load(known), *id)),
            Some(why) => excluded.push((*id, why)),
        }
    }
    // The active one lacks what nobody else is known to have: its own answer says so.
    let there = |id: &BackendId| {
        let known = offering.iter().find(|(other, _)| other == id);
        known.is_some_and(|(_, known)| matches!(known.holds, Holds::Named | Holds::Same))
    };
    let stands = excluded.iter().position(|(id, why)| {
        *id == active.backend
            && match why {
                Exclusion::ModelMissing => !order.iter().any(|(.., id)| there(id)),
                Exclusion::Unready | Exclusion::DataMissing => order.is_empty(),
                _ => false,
            }
    });
    if let Some(place) = stands {
        excluded.remove(place);
        let known = offering.iter().find(|(id, _)| *id == active.backend);
        order.extend(known.map(|(id, known)| (Rank::of(known.verdict), load(known), *id)));
    }
    (order, excluded)
}

/// Why a request of `meaning` does not go to a backend for want of models or data, be it the active
/// one.
fn unready(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    known: Known,
) -> Option<Exclusion> {
    if known.is_unready(meaning) {
        Some(match snapshot.service(service).kind {
            Kind::Qdrant => Exclusion::DataMissing,
            Kind::Ollama | Kind::Http => Exclusion::Unready,
        })
    } else if known.is_ready(meaning) {
        None
    } else {
        Some(Exclusion::ModelMissing)
    }
}

/// Why a request of `meaning` goes to nobody but the active backend; `None`: it may move to one of
/// which so much is known.
fn stays(
    snapshot: &Snapshot,
    service: ServiceId,
    meaning: Meaning,
    known: Known,
) -> Option<Exclusion> {
    let fallback = snapshot.service(service).fallback;
    match (meaning.effect, meaning.reach, fallback) {
        (Effect::Write | Effect::Admin, _, _) => Some(Exclusion::ChangesStay),
        (_, Reach::OneBackend, _) => Some(Exclusion::OneBackend),
        (_, Reach::SameModel, _) if known.holds != Holds::Same => Some(Exclusion::ModelUnknown),
        // Of the active one its own answer says so.
        (Effect::Read, _, Fallback::All | Fallback::Reads) if known.lacks => {
            Some(Exclusion::DataMissing)
        }
        (Effect::Read, _, Fallback::All | Fallback::Reads)
        | (Effect::Inference, _, Fallback::All) => unready(snapshot, service, meaning, known),
        _ => Some(Exclusion::NoFallback),
    }
}

/// Why nothing of `effect` may be sent, whoever is able. The stand-in copy's schedule may be stale,
/// and a stale schedule must not say who owns writes; nor are they sent while a pin holds them.
pub fn refusal(
    snapshot: &Snapshot,
    service: ServiceId,
    effect: Effect,
    now: Timestamp,
) -> Option<Refusal> {
    let may = !effect.changes()
        || !orders::holds_data(snapshot, service)
        || snapshot.active_backend.is_some();
    if may {
        return None;
    }
    let held = || orders::pin(snapshot, service, now).is_some_and(|pin| pin.hold_writes);
    if snapshot.origin.stand_in {
        Some(Refusal::StandIn)
    } else {
        held().then_some(Refusal::WritesHeld)
    }
}

/// Whether how much backends have to do decides between those that are able.
fn by_load(snapshot: &Snapshot, service: ServiceId, effect: Effect) -> bool {
    snapshot.service(service).policy == Policy::LeastLoaded && effect == Effect::Inference
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

    /// Whether a backend is no candidate because it lacks the data.
    pub fn lacks_data(&self) -> bool {
        let lacks = |(_, why): &(BackendId, Exclusion)| *why == Exclusion::DataMissing;
        self.excluded.iter().any(lacks)
    }

    /// Who says which backend is active.
    pub fn why(&self) -> &Why {
        &self.active.why
    }
}
