//! Why a candidate is in a plan, why a backend is not, and why there is no plan at all.

use super::orders::Why;
use crate::words::verdict::Verdict;

/// Why a backend is a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// It is the active one.
    Active(Why),
    /// It stands in for the active one, which is not thought able.
    Instead(Verdict),
    /// It stands in for the active one, which is drained.
    InsteadOfDrained,
    /// It has the model, and the active one has not.
    ModelOnlyThere,
    /// It stands in for the active one, which lacks what `require` names.
    InsteadOfUnready,
    /// It stands in for the active one, which lacks the data that `require` names.
    InsteadOfLacking,
    /// It will begin with it before the active one.
    LeastLoaded,
    /// It is asked if those before it fail.
    Next,
}

/// Why a backend that offers the service is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// An order says that no new work goes to it.
    Drained,
    /// The request changes something: it never leaves the active backend.
    ChangesStay,
    /// The answer describes one backend.
    OneBackend,
    /// Embeddings of two backends agree only if their models do, which is not known.
    ModelUnknown,
    /// It is known to lack the model that is asked for.
    ModelMissing,
    /// It is known to lack a model that `require` names.
    Unready,
    /// It is known to lack the collection that is asked for, or data that `require` names.
    DataMissing,
    /// `fallback` does not let this effect move.
    NoFallback,
}

/// Why a request cannot go anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Every backend that it may go to is drained.
    Drained,
    /// The configuration is the stand-in copy, which does not say who owns the writes.
    StandIn,
    /// A pin holds writes.
    WritesHeld,
}

impl Reason {
    /// The word for it in `x-tailhop-reason`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Active(Why::ActiveBackend) => "active:active-backend",
            Self::Active(Why::Pin(_)) => "active:pin",
            Self::Active(Why::Schedule(_)) => "active:schedule",
            Self::Active(Why::Held(_)) => "active:held",
            Self::Active(Why::WritesStay(_)) => "active:writes-stay",
            Self::Active(Why::Default) => "active:default",
            Self::Active(Why::OnlyOffer) => "active:only-offer",
            Self::Instead(Verdict::Unknown) => "fallback:unknown",
            Self::Instead(Verdict::Up) => "fallback:up",
            Self::Instead(Verdict::Suspect) => "fallback:suspect",
            Self::Instead(Verdict::Asleep) => "fallback:asleep",
            Self::Instead(Verdict::Down) => "fallback:down",
            Self::Instead(Verdict::Returning) => "fallback:returning",
            Self::InsteadOfDrained => "fallback:drained",
            Self::ModelOnlyThere => "model-only-there",
            Self::InsteadOfUnready => "fallback:unready",
            Self::InsteadOfLacking => "fallback:data-missing",
            Self::LeastLoaded => "least-loaded",
            Self::Next => "fallback",
        }
    }
}

impl Exclusion {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::ChangesStay => "changes-stay",
            Self::OneBackend => "one-backend",
            Self::ModelUnknown => "model-unknown",
            Self::ModelMissing => "model-missing",
            Self::Unready => "unready",
            Self::DataMissing => "data-missing",
            Self::NoFallback => "no-fallback",
        }
    }

    /// The reason, for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Drained => "drained: no new work goes to it",
            Self::ChangesStay => {
                "not active: what changes something never leaves the active backend"
            }
            Self::OneBackend => "not active: the answer describes one backend",
            Self::ModelUnknown => {
                "not active: embeddings may move only where the model is known to be the same"
            }
            Self::ModelMissing => "it lacks the model that is asked for",
            Self::Unready => "it lacks a model that `require` names",
            Self::DataMissing => {
                "it lacks the collection that is asked for, or data that `require` names"
            }
            Self::NoFallback => "not active: `fallback` keeps this effect on the active backend",
        }
    }
}

impl Refusal {
    /// The word for it in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::StandIn => "stand-in-config",
            Self::WritesHeld => "writes-held",
        }
    }

    /// The reason and what to do, for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Drained => {
                "the backend it must go to is drained; undrain it, or name another active backend"
            }
            Self::StandIn => {
                "the configuration in use is the stand-in copy, whose schedule may be stale: repair the first --config file, or say who owns the writes with ACTIVE_BACKEND"
            }
            Self::WritesHeld => {
                "a pin holds writes, as while data is moved: try again when it has ended; `tailhop status` says who ordered it and why"
            }
        }
    }
}
