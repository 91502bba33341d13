//! The last changes: of who is active and who serves with cause, author and reason, and what else
//! an operator wants to hear of.
//!
//! Owns the list, bounded. Decides nothing: `changes` notices.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Changes that are kept.
const KEPT: usize = 100;

/// One change: a line of the history and an event alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Counts up by one with each of this instance.
    pub id: u64,
    /// When it was noticed, in the schedule's zone.
    pub time: String,
    /// `active`, `writes`, `serving`, `switch` that is held, `verdict`, `tunnel`, `config`, `drain` or
    /// `repair`.
    pub kind: String,
    /// The service that it is about, if one.
    pub service: Option<String>,
    /// The backend that it is about, if one.
    pub backend: Option<String>,
    /// What was before; empty: nothing was known, or nobody.
    pub from: String,
    /// What is now.
    pub to: String,
    /// Why, in a word of a closed set.
    pub cause: String,
    /// Who ordered it.
    pub by: Option<String>,
    /// Why, in the words of who ordered it, or of the evidence.
    pub reason: Option<String>,
    /// The whole in one sentence.
    pub text: String,
}

/// The last changes.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    changes: VecDeque<Change>,
}

impl History {
    /// Keeps a change, if it is of a kind that the history is about, and gives it its number.
    pub(super) fn add(&self, mut change: Change) -> Change {
        let mut kept = self.locked();
        kept.last += 1;
        change.id = kept.last;
        if matches!(
            change.kind.as_str(),
            "active" | "writes" | "serving" | "switch" | "drain"
        ) {
            if kept.changes.len() == KEPT {
                kept.changes.pop_front();
            }
            kept.changes.push_back(change.clone());
        }
        change
    }

    /// The latest first.
    pub(super) fn latest(&self) -> Vec<Change> {
        self.locked().changes.iter().rev().cloned().collect()
    }

    /// The number of the latest change.
    pub(super) fn last(&self) -> u64 {
        self.locked().last
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_are_kept_the_latest_first_and_others_are_only_numbered() {
        let history = History::default();
        for kind in ["active", "verdict"].repeat(120) {
            history.add(Change {
                kind: kind.to_owned(),
                ..Change::default()
            });
        }
        let kept = history.latest();
        assert_eq!((kept.len(), history.last()), (KEPT, 240));
        assert_eq!((kept[0].id, kept[99].id), (239, 41));
    }
}
