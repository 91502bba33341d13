//! How fast an endpoint usually is: what is late is told from it.
//!
//! Moving averages in microseconds; 0 means that nothing was measured yet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many times the usual is late.
const LATE: u32 = 10;
/// Part of a new value in the average, as a power of two: 1/8.
const WEIGHT: u32 = 3;

/// Late dials within this time tell of one thing: a machine that woke answers all at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The usual times of an endpoint.
#[derive(Debug, Default)]
pub struct Pace {
    /// When a late dial was last counted.
    late: Mutex<Option<Instant>>,
    dial: Average,
    head: Average,
}

/// A moving average.
#[derive(Debug, Default)]
pub(super) struct Average(AtomicU64);

impl Pace {
    /// A dial took so long. A late one tells of a path that is slower now, or of a machine that was
    /// away: it counts as `race` at most, and once for all that are late together.
    pub fn dialled(&self, took: Duration, race: Duration) {
        if took <= self.race(race) || self.is_first_late() {
            self.dial.add(took.min(race));
        }
    }

    fn is_first_late(&self) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let first = late.is_none_or(|then| then.elapsed() >= AT_ONCE);
        if first {
            *late = Some(Instant::now());
        }
        first
    }

    /// The head of an answer to anything but inference took so long.
    pub fn answered(&self, took: Duration) {
        self.head.add(took);
    }

    /// The head start of a dial before another one begins: `race`, and from a quarter to two
    /// times of it as dials turn out faster or slower than that.
    pub fn race(&self, race: Duration) -> Duration {
        self.dial
            .late()
            .map_or(race, |late| late.clamp(race / 4, race * 2))
    }

    /// After how long without a head something may be wrong: `least` to `most`.
    pub fn patience(&self, least: Duration, most: Duration) -> Duration {
        self.head
            .late()
            .map_or(most, |late| late.clamp(least, most))
    }
}

impl Average {
    pub(super) fn add(&self, took: Duration) {
        let took = u64::try_from(took.as_micros())
            .unwrap_or(u64::MAX >> WEIGHT)
            .max(1);
        let before = self.0.load(Ordering::Relaxed);
        let after = if before == 0 {
            took
        } else {
            before - (before >> WEIGHT) + (took >> WEIGHT)
        };
        // Two at once lose one value, which an average can bear.
        self.0.store(after, Ordering::Relaxed);
    }

    /// What it is; `None`: nothing was measured yet.
    pub(super) fn get(&self) -> Option<Duration> {
        let usual = self.0.load(Ordering::Relaxed);
        (usual > 0).then(|| Duration::from_micros(usual))
    }

    fn late(&self) -> Option<Duration> {
        self.get().map(|usual| usual.saturating_mul(LATE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_race_follows_the_dials_of_the_endpoint_within_bounds() {
        let pace = Pace::default();
        assert_eq!(pace.race(ms(250)), ms(250));
        for (dial, race) in [(1, 62), (12, 120), (40, 400), (900, 500)] {
            let pace = Pace::default();
            pace.dialled(ms(dial), ms(250));
            assert_eq!(pace.race(ms(250)).as_millis(), race, "{dial}");
        }
    }

    #[test]
    fn a_machine_that_wakes_does_not_make_its_dials_usually_slow() {
        let pace = Pace::default();
        (0..8).for_each(|_| pace.dialled(ms(1), ms(250)));
        (0..16).for_each(|_| pace.dialled(ms(3000), ms(250)));
        let race = pace.race(ms(250));
        assert!(race < ms(350), "{race:?}");
    }

    #[test]
    fn an_average_forgets() {
        let pace = Pace::default();
        pace.answered(ms(400));
        (0..64).for_each(|_| pace.answered(ms(2)));
        let patience = pace.patience(ms(1), ms(5000));
        assert!((ms(15)..ms(30)).contains(&patience), "{patience:?}");
    }
}
