//! How fast things go: restarts of what dies, restarts that are asked for, and the end. Pure but for
//! the wait for a stage.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The pause before the first restart.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// And the longest one.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Who lived so long did not die of how it was started.
const LIVED: Duration = Duration::from_mins(1);
/// So many short lives in a row are a crash loop.
const LOOP: u32 = 4;
/// Between two restarts that are asked for: each one logs in anew, and cuts what runs.
const ASKED_APART: Duration = Duration::from_mins(10);
/// What a second signal leaves.
const HURRY: Duration = Duration::from_secs(1);

/// The deaths of one child.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    short_lives: u32,
}

impl Deaths {
    /// It died after it had `lived`; the pause before its restart.
    pub(super) fn next(&mut self, lived: Duration) -> Duration {
        self.short_lives = if lived >= LIVED {
            1
        } else {
            self.short_lives.saturating_add(1)
        };
        let doubled = 1u32 << (self.short_lives - 1).min(16);
        (PAUSE_MIN * doubled).min(PAUSE_MAX)
    }

    /// How often in a row, if that is a crash loop.
    pub(super) fn in_loop(&self) -> Option<u32> {
        (self.short_lives >= LOOP).then_some(self.short_lives)
    }
}

/// Restarts that are asked for on evidence.
#[derive(Debug, Default)]
pub(super) struct Asked(Option<Instant>);

impl Asked {
    /// Whether one may be made now; then it counts as made.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        let may = (self.0).is_none_or(|last| now.saturating_duration_since(last) >= ASKED_APART);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// The stages of the end, in their order. Each is over at a part of the budget, counted from its
/// beginning: what one leaves over, the next ones have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The app ends, and is served meanwhile.
    App,
    /// Other streams end.
    Streams,
    /// This machine leaves the tailnet.
    Logout,
    /// tailscaled ends.
    Tailscaled,
}

impl Stage {
    /// When it is over, in thousandths of the budget.
    const fn share(self) -> u32 {
        match self {
            Self::App => 750,
            Self::Streams => 800,
            Self::Logout => 920,
            Self::Tailscaled => 970,
        }
    }
}

/// The end, since it began.
#[derive(Clone, Debug)]
pub(super) struct End {
    began: Instant,
    budget: Duration,
    /// When a second signal came.
    hurried: watch::Receiver<Option<Instant>>,
}

impl End {
    /// It begins now.
    pub(super) fn begin(budget: Duration, hurried: watch::Receiver<Option<Instant>>) -> Self {
        Self {
            began: Instant::now(),
            budget,
            hurried,
        }
    }

    /// What is left until `stage` is over.
    pub(super) fn left(&self, stage: Stage) -> Duration {
        let over = over(self.began, self.budget, *self.hurried.borrow(), stage);
        over.saturating_duration_since(Instant::now())
    }

    /// Returns when a second signal comes, or has come.
    pub(super) async fn hurried(&self) {
        let mut hurried = self.hurried.clone();
        if hurried.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when `stage` has to be over.
    pub(super) async fn over(&self, stage: Stage) {
        let mut hurried = self.hurried.clone();
        loop {
            let hurry = *hurried.borrow_and_update();
            tokio::select! {
                () = sleep_until(over(self.began, self.budget, hurry, stage)) => return,
                changed = hurried.changed() => if changed.is_err() {
                    // Nobody can hurry it any more.
                    return sleep_until(over(self.began, self.budget, hurry, stage)).await;
                },
            }
        }
    }
}

/// When `stage` has to be over.
fn over(began: Instant, budget: Duration, hurried: Option<Instant>, stage: Stage) -> Instant {
    let share = |length: Duration| length * stage.share() / 1000;
    let usual = began + share(budget);
    hurried.map_or(usual, |then| usual.min(then + share(HURRY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn restarts_slow_down_until_one_lives_for_a_minute() {
        let mut deaths = Deaths::default();
        for (lived, pause, in_loop) in [
            (ms(3_600_000), ms(100), None),
            (ms(5), ms(200), None),
            (ms(5), ms(400), None),
            (ms(59_000), ms(800), Some(4)),
            (ms(5), ms(1600), Some(5)),
            (ms(5), ms(3200), Some(6)),
            (ms(5), ms(6400), Some(7)),
            (ms(5), ms(12_800), Some(8)),
            (ms(5), ms(25_600), Some(9)),
            (ms(5), ms(30_000), Some(10)),
            (ms(60_000), ms(100), None),
        ] {
            assert_eq!(deaths.next(lived), pause, "{deaths:?}");
            assert_eq!(deaths.in_loop(), in_loop, "{deaths:?}");
        }
        deaths.short_lives = u32::MAX;
        assert_eq!(deaths.next(ms(5)), PAUSE_MAX);
    }

    #[test]
    fn a_restart_that_is_asked_for_is_made_every_ten_minutes_at_most() {
        let mut asked = Asked::default();
        let now = Instant::now();
        for (seconds, may) in [
            (0, true),
            (1, false),
            (599, false),
            (600, true),
            (601, false),
        ] {
            assert_eq!(asked.may(now + ms(seconds * 1000)), may, "{seconds} s");
        }
    }

    #[test]
    fn the_stages_of_the_end_fit_into_its_budget() {
        let began = Instant::now();
        let stages = [Stage::App, Stage::Streams, Stage::Logout, Stage::Tailscaled];
        let at = |hurried| {
            stages.map(|stage| {
                let over = over(began, ms(9500), hurried, stage);
                over.saturating_duration_since(began).as_millis()
            })
        };
        assert_eq!(at(None), [7125, 7600, 8740, 9215]);
        // A second signal after 2 s.
        assert_eq!(at(Some(began + ms(2000))), [2750, 2800, 2920, 2970]);
        // It never makes anything later.
        assert_eq!(at(Some(began + ms(9000))), [7125, 7600, 8740, 9215]);
    }
}
