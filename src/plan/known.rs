//! What is known of a backend when a plan is made: its verdict, and whether it has the models.
//!
//! What is not known never counts against a backend.

use crate::words::effect::{Effect, Meaning};
use crate::words::verdict::Verdict;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its state.
    pub verdict: Verdict,
    /// Whether it has the model that is asked for.
    pub holds: Holds,
    /// It lacks a model that `require` names.
    pub unready: bool,
}

/// Whether a backend has the model that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    /// It did not tell, or no model is asked for.
    #[default]
    Unknown,
    /// It has not.
    Lacks,
    /// It has one of that name.
    Named,
    /// It has the very one that the active backend has.
    Same,
}

impl Known {
    /// Whether a request of `meaning` may go to it, as far as models are concerned.
    pub(super) fn is_ready(self, meaning: Meaning) -> bool {
        meaning.effect.changes() || self.holds != Holds::Lacks && !self.is_unready(meaning)
    }

    /// Whether what `require` names keeps a request of `meaning` away from it.
    pub(super) fn is_unready(self, meaning: Meaning) -> bool {
        self.unready && matches!(meaning.effect, Effect::Read | Effect::Inference)
    }
}

impl From<Verdict> for Known {
    /// Of one whose models nobody knows.
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            holds: Holds::Unknown,
            unready: false,
        }
    }
}
