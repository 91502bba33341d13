//! What is known of a backend when a plan is made: its verdict, and whether it has models and data.
//!
//! What is not known never counts against a backend.

use std::time::Duration;

use crate::config::snapshot::Limit;
use crate::words::effect::{Effect, Meaning};
use crate::words::verdict::Verdict;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its state.
    pub verdict: Verdict,
    /// Whether it has the model that is asked for.
    pub holds: Holds,
    /// Whether it has what `require` names.
    pub stocked: Stocked,
    /// It lacks the collection that is asked for.
    pub lacks: bool,
    /// How much it has to do, where that decides.
    pub load: Load,
}

/// How busy a backend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Requests at work.
    pub working: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// How long one usually is at work; `None`: none ended well yet.
    pub usual: Option<Duration>,
}

impl Busy {
    /// How long one that came now would wait for one of `places`.
    pub fn wait(&self, places: usize) -> Option<Duration> {
        if self.working < places {
            return Some(Duration::ZERO);
        }
        let ahead = u32::try_from(self.waiting + 1).unwrap_or(u32::MAX);
        let places = u32::try_from(places.max(1)).unwrap_or(u32::MAX);
        Some(self.usual?.saturating_mul(ahead) / places)
    }
}

/// How much a backend has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// No more requests may wait there.
    pub full: bool,
    /// How long one that came now would wait until it is begun, about.
    pub wait: Duration,
}

/// A model that is not in memory is loaded first, which costs about this much. One that is warm is
/// preferred until its line is longer.
const COLD: Duration = Duration::from_secs(10);
/// A request takes so long where none ended yet.
const UNKNOWN: Duration = Duration::from_secs(1);

impl Load {
    /// Of a backend so `busy`, which has the model in memory or not (`warm`). Without a limit it is
    /// taken to work on one at once, as Ollama does by itself.
    pub fn of(busy: Busy, limit: Option<&Limit>, warm: bool) -> Self {
        let places = limit.map_or(1, |limit| limit.in_flight);
        let usual = Some(busy.usual.unwrap_or(UNKNOWN));
        let all = match limit {
            Some(_) => busy,
            // Its own line.
            None => Busy {
                working: busy.working.min(1),
                waiting: busy.working.saturating_sub(1),
                ..busy
            },
        };
        let wait = Busy { usual, ..all }.wait(places).unwrap_or(UNKNOWN);
        let full = busy.working >= places;
        Self {
            full: full && limit.is_some_and(|limit| busy.waiting >= limit.queue),
            wait: if warm { wait } else { wait + COLD },
        }
    }
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

/// Whether a backend has what `require` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stocked {
    /// It has, or nothing says that it has not.
    #[default]
    Ready,
    /// It has not told yet, since this instance began: a planned switch waits for its word, as whom
    /// the schedule named before has the data. Nothing else does.
    Awaited,
    /// It has not.
    Lacks,
}

impl Known {
    /// Whether a request of `meaning` may go to it if it is the active one, as far as what it has is
    /// concerned.
    pub(super) fn is_ready(self, meaning: Meaning) -> bool {
        meaning.effect.changes() || self.holds != Holds::Lacks && !self.is_unready(meaning)
    }

    /// Whether what `require` names keeps a request of `meaning` away from it.
    pub(super) fn is_unready(self, meaning: Meaning) -> bool {
        self.stocked == Stocked::Lacks && matches!(meaning.effect, Effect::Read | Effect::Inference)
    }
}

impl From<Verdict> for Known {
    /// Of one of which nobody knows what it has.
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            holds: Holds::Unknown,
            stocked: Stocked::Ready,
            lacks: false,
            load: Load::default(),
        }
    }
}
