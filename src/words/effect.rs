//! What a request may do to a backend, and how far its answer is tied to one backend.
//!
//! Owns the words only; `api` says which request has which, `plan` what follows from it.

use std::fmt;

use serde::Serialize;

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Changes nothing.
    Read,
    /// One of Ollama's stateless POSTs: changes nothing that outlives it, costs much.
    Inference,
    /// Changes the data of a service.
    Write,
    /// Changes schema, model store, cluster or account, or is unknown.
    Admin,
}

impl Effect {
    /// Every effect, the harmless first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Inference, Self::Write, Self::Admin];

    /// The word for it in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Inference => "inference",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Whether it changes something that outlives it: such a request never changes its backend.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Admin)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose answer would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Any backend that offers the service.
    Any,
    /// Only backends whose model is known to be the same, bit by bit: embeddings of other
    /// weights cannot be compared. As long as nobody told its digest, this is the active one.
    SameModel,
    /// Only the backend that was asked: the answer describes that machine, or changes it.
    OneBackend,
}

/// What a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// What it may do.
    pub effect: Effect,
    /// Whose answer would do.
    pub reach: Reach,
    /// Its operation: a word of a closed set, fit for a metric label.
    pub op: &'static str,
}
