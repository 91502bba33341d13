//! How much is asked for at a time, how long one waits before trying again, and how long it takes.
//!
//! Pure: what happened goes in, what to do comes out.

use std::time::Duration;

use crate::words::units::show_duration;

/// How many points the first page has: of what size they are is not known yet.
const FIRST: usize = 8;
/// More points than this are never asked for at once, however small they are.
const MOST: usize = 2_000;
/// How many bytes a page should have.
const GOAL: usize = 2 * 1024 * 1024;
/// By how much a page may grow over the one before.
const GROWTH: usize = 4;
/// Good pages until one tries larger ones again after they were too large.
const CALM: u32 = 16;
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// How many points the next page has.
#[derive(Clone, Debug)]
pub struct Pages {
    points: usize,
    /// What was too large or too slow, until enough pages went well.
    ceiling: usize,
    good: u32,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            points: FIRST,
            ceiling: MOST,
            good: 0,
        }
    }
}

impl Pages {
    /// How many points to ask for.
    pub fn points(&self) -> usize {
        self.points
    }

    /// A page of `points` came in `bytes`.
    pub fn came(&mut self, points: usize, bytes: usize) {
        self.good += 1;
        if self.good >= CALM {
            self.good = 0;
            self.ceiling = (self.ceiling * 2).min(MOST);
        }
        let each = (bytes / points.max(1)).max(1);
        let fit = (GOAL / each).max(1);
        self.points = fit.min(self.points * GROWTH).min(self.ceiling);
    }

    /// A page was too large, or took too long. Gives whether a smaller one is possible.
    pub fn was_too_much(&mut self) -> bool {
        if self.points == 1 {
            return false;
        }
        self.points /= 2;
        self.ceiling = self.points;
        self.good = 0;
        true
    }
}

/// How long to go on trying.
#[derive(Clone, Debug)]
pub struct Patience {
    left: Duration,
    next: Duration,
}

impl Patience {
    /// Tries again for this long, all in all, until something goes well.
    pub fn of(all: Duration) -> Self {
        Self {
            left: all,
            next: SHORTEST,
        }
    }

    /// How long to wait before the next try, after one that failed and took `took`; `None`: it has
    /// been tried for long enough. `asked`: what the other side wants waited.
    pub fn pause(&mut self, took: Duration, asked: Option<Duration>) -> Option<Duration> {
        self.left = self.left.saturating_sub(took);
        let pause = asked.unwrap_or(self.next).max(SHORTEST);
        self.next = (self.next * 2).min(LONGEST);
        self.left = self.left.checked_sub(pause)?;
        Some(pause)
    }
}

/// A line that says how far it is.
pub fn line(what: &str, done: u64, all: u64, since: Duration, in_that_time: u64) -> String {
    let share = if all == 0 {
        100
    } else {
        u128::from(done.min(all)) * 100 / u128::from(all)
    };
    let millis = since.as_millis().max(1);
    let rate = u64::try_from(u128::from(in_that_time) * 1000 / millis).unwrap_or(u64::MAX);
    let mut line = format!("{what}: {done} of {all} ({share} %), {rate}/s");
    if rate > 0 && done < all {
        let left = Duration::from_secs((all - done).div_ceil(rate));
        line += &format!(", {} left", show_duration(left));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_to_their_goal_and_no_further() {
        for (bytes_of_one, steps) in [
            (4_000, [32, 128, 512, 524, 524]),
            (40, [32, 128, 512, 2_000, 2_000]),
            (1_000_000, [2, 2, 2, 2, 2]),
            (9_000_000, [1, 1, 1, 1, 1]),
        ] {
            let mut pages = Pages::default();
            let seen = steps.map(|_| {
                pages.came(pages.points(), pages.points() * bytes_of_one);
                pages.points()
            });
            assert_eq!(seen, steps, "{bytes_of_one}");
        }
    }

    #[test]
    fn what_was_too_much_is_halved_and_tried_again_only_after_a_calm() {
        let mut pages = Pages::default();
        for _ in 0..5 {
            pages.came(pages.points(), pages.points() * 40);
        }
        assert!(pages.was_too_much());
        assert_eq!(pages.points(), 1_000);
        for _ in 0..CALM - 1 {
            pages.came(pages.points(), pages.points() * 40);
            assert_eq!(pages.points(), 1_000);
        }
        pages.came(pages.points(), pages.points() * 40);
        assert_eq!(pages.points(), 2_000);
        while pages.was_too_much() {}
        assert_eq!(pages.points(), 1);
    }

    #[test]
    fn an_empty_page_breaks_nothing() {
        let mut pages = Pages::default();
        pages.came(0, 0);
        assert!(pages.points() >= FIRST);
    }

    #[test]
    fn patience_doubles_its_pauses_and_ends() {
        let mut patience = Patience::of(Duration::from_secs(2));
        let pauses: Vec<_> =
            std::iter::from_fn(|| patience.pause(Duration::from_millis(100), None))
                .map(|pause| pause.as_millis())
                .collect();
        assert_eq!(pauses, [200, 400, 800]);
        let mut patience = Patience::of(Duration::from_secs(30));
        let asked = Some(Duration::from_secs(7));
        assert_eq!(patience.pause(Duration::ZERO, asked), asked);
        let asked = Some(Duration::from_mins(1));
        assert_eq!(patience.pause(Duration::ZERO, asked), None);
    }

    #[test]
    fn a_line_says_how_far_it_is_and_how_long_it_takes() {
        let second = Duration::from_secs(1);
        for (done, all, since, came, want) in [
            (
                50,
                100,
                second,
                25,
                "copying c: 50 of 100 (50 %), 25/s, 2s left",
            ),
            (100, 100, second, 25, "copying c: 100 of 100 (100 %), 25/s"),
            (0, 0, Duration::ZERO, 0, "copying c: 0 of 0 (100 %), 0/s"),
            (0, 9, Duration::ZERO, 0, "copying c: 0 of 9 (0 %), 0/s"),
            (12, 9, second, 12, "copying c: 12 of 9 (100 %), 12/s"),
        ] {
            assert_eq!(line("copying c", done, all, since, came), want);
        }
    }
}
