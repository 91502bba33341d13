//! When a file that has changed is taken to hold still. Pure: the time is an argument.
//!
//! A writer may be caught in the middle of its work, and half of a `routing.toml` may be valid.
//! So what is new must be read twice, some time apart; a short time when the writer has said that
//! it is done. Errors always take the long time: between two steps of an editor that renames the
//! old file away, it is missing.

use std::time::Duration;

use tokio::time::Instant;

use super::Seen;

/// After a close or a rename: against the next writer, who may have begun already.
const WHOLE: Duration = Duration::from_millis(15);
/// When nothing says that the writer is done: longer than a pause in a write.
const HALF: Duration = Duration::from_millis(500);
/// A file that changes all the time is taken after this, at a moment when a writer was done.
const PATIENCE: Duration = Duration::from_secs(2);
/// And after this at any moment.
const PATIENCE_END: Duration = Duration::from_secs(5);

/// What one look at a file came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is as it was told.
    Same,
    /// It has changed and may still be changing: look again then.
    Again(Instant),
    /// It has changed, and this is told now.
    Settled,
}

/// One file.
#[derive(Debug)]
pub(super) struct Settle {
    told: Seen,
    candidate: Option<(Seen, Instant)>,
    /// Since when it has differed from what was told.
    unsettled: Option<Instant>,
}

impl Settle {
    pub(super) fn new(told: Seen) -> Self {
        Self {
            told,
            candidate: None,
            unsettled: None,
        }
    }

    /// Takes note that the file held `found` at `now`; `whole`: its writer was done.
    pub(super) fn look(&mut self, now: Instant, found: Seen, whole: bool) -> Look {
        if found == self.told {
            (self.candidate, self.unsettled) = (None, None);
            return Look::Same;
        }
        let unsettled = *self.unsettled.get_or_insert(now);
        let since = match &self.candidate {
            Some((candidate, since)) if *candidate == found => *since,
            _ => now,
        };
        let readable = matches!(found, Seen::Text(_));
        let still = if whole && readable { WHOLE } else { HALF };
        let waited = now - unsettled;
        let enough = now - since >= still
            || self.told == Seen::Nothing
            || waited >= PATIENCE && whole && readable
            || waited >= PATIENCE_END;
        if enough {
            (self.told, self.candidate, self.unsettled) = (found, None, None);
            return Look::Settled;
        }
        self.candidate = Some((found, since));
        Look::Again(since + still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn text(name: &str) -> Seen {
        Seen::Text(name.to_owned())
    }

    fn missing() -> Seen {
        Seen::Failed("missing".to_owned())
    }

    /// Looks at `(when, what, whole)` and yields when something was told, and what.
    fn told(told: &str, looks: &[(u64, Seen, bool)]) -> Vec<(u64, Seen)> {
        let start = Instant::now();
        let mut settle = Settle::new(text(told));
        looks
            .iter()
            .filter(|(at, found, whole)| {
                settle.look(start + ms(*at), found.clone(), *whole) == Look::Settled
            })
            .map(|(at, found, _)| (*at, found.clone()))
            .collect()
    }

    #[test]
    fn what_is_unchanged_is_never_told() {
        assert_eq!(
            told("a", &[(0, text("a"), false), (600, text("a"), true)]),
            []
        );
    }

    #[test]
    fn what_is_whole_settles_at_the_second_look_and_what_may_be_half_after_500_ms() {
        let b = || text("b");
        assert_eq!(
            told("a", &[(0, b(), true), (14, b(), true), (15, b(), true)]),
            [(15, b())]
        );
        assert_eq!(told("a", &[(0, b(), false), (499, b(), false)]), []);
        assert_eq!(
            told("a", &[(0, b(), false), (500, b(), false)]),
            [(500, b())]
        );
    }

    #[test]
    fn a_half_write_with_a_pause_is_never_told() {
        let looks = [
            (0, text("half"), false),
            (300, text("full"), false),
            (320, text("full"), true),
        ];
        assert_eq!(told("a", &looks), [(320, text("full"))]);
    }

    #[test]
    fn a_file_that_is_missing_for_a_moment_is_not_told_and_one_that_stays_missing_once() {
        let back = [
            (0, missing(), true),
            (100, text("a"), true),
            (900, text("a"), true),
        ];
        assert_eq!(told("a", &back), []);
        let gone = [
            (0, missing(), true),
            (500, missing(), true),
            (2000, missing(), false),
        ];
        assert_eq!(told("a", &gone), [(500, missing())]);
    }

    #[test]
    fn a_file_that_changes_all_the_time_is_told_now_and_then_and_ends_on_the_last() {
        let mut looks: Vec<_> = (0..500)
            .map(|index| (index * 10, text(&index.to_string()), index % 2 == 0))
            .collect();
        looks.push((5005, text("499"), true));
        let found = told("a", &looks);
        let times: Vec<u64> = found.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [2000, 4020, 5005]);
        assert_eq!(found[2].1, text("499"));
        // Nobody ever says that a writer is done: later, but not never.
        let half = |index: u64| (index * 100, text(&index.to_string()), false);
        let looks: Vec<_> = (0..60).map(half).collect();
        assert_eq!(told("a", &looks), [(5000, text("50"))]);
    }

    #[test]
    fn the_first_look_at_what_nothing_is_known_of_is_told_at_once() {
        let mut settle = Settle::new(Seen::Nothing);
        assert_eq!(settle.look(Instant::now(), missing(), false), Look::Settled);
    }
}
