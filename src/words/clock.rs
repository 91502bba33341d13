//! Time: the wall clock that schedules are read against, and deadlines that survive a freeze.
//!
//! Wall time is a `jiff::Timestamp`, monotonic time a `tokio::time::Instant` (paused in tests).
//! Nothing below `app` asks the system for the wall time; it asks a `Clock`.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

/// A timer that fires this much after its instant tells of a frozen process, not of a busy one.
const FROZEN: Duration = Duration::from_millis(200);

/// Where the wall time comes from.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that reads `wall` now and then runs with tokio's time, for tests with paused time.
    pub fn starting_at(wall: Timestamp) -> Self {
        Self(Some((wall, Instant::now())))
    }

    /// The wall time now.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some((wall, start)) => wall.checked_add(start.elapsed()).unwrap_or(wall),
        }
    }
}

/// A point in time after which we stop waiting.
///
/// When the process was frozen across it (SIGSTOP, Cloud Run between requests, a suspended VM),
/// its timer fires before sockets are read: what was answered meanwhile would be thrown away
/// (measured: 456 of 500). So a deadline that fires late adds the time that was lost, at most its
/// own length, and waits again.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    length: Duration,
}

impl Deadline {
    /// `length` from now.
    pub fn after(length: Duration) -> Self {
        Self {
            at: Instant::now() + length,
            length,
        }
    }

    /// What is left of it, in monotonic time.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether a timer that fires so `late` tells of a frozen process.
    pub fn is_frozen(late: Duration) -> bool {
        late >= FROZEN
    }

    /// The same deadline on a process that was frozen for `late`.
    #[must_use]
    pub fn extended(self, late: Duration) -> Self {
        Self {
            at: self.at + late.min(self.length),
            length: self.length,
        }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    /// Returns when the deadline has passed on a process that was awake for it.
    pub async fn passed(mut self) {
        while !self.tick(self.length).await {}
    }

    /// Waits for `at_most`, or until the deadline; whether the deadline has passed.
    pub async fn tick(&mut self, at_most: Duration) -> bool {
        let due = self.at.min(Instant::now() + at_most);
        sleep_until(due).await;
        if let Some(more) = granted(due.elapsed(), self.length) {
            self.at += more;
        }
        self.at <= Instant::now()
    }
}

/// What a deadline of `length` gets on top when its timer fires `late`.
fn granted(late: Duration, length: Duration) -> Option<Duration> {
    (late >= FROZEN).then(|| late.min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_deadline_gets_back_what_a_freeze_took_but_not_more_than_its_length() {
        let ms = Duration::from_millis;
        assert_eq!(granted(ms(20), ms(2000)), None);
        assert_eq!(granted(ms(700), ms(2000)), Some(ms(700)));
        assert_eq!(granted(ms(60_000), ms(2000)), Some(ms(2000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_in_an_awake_process_passes_on_time() {
        let began = Instant::now();
        Deadline::after(Duration::from_secs(2)).passed().await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_clock_runs_with_paused_time() {
        let start: Timestamp = "2025-02-16T14:59:59Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now().to_string(), "2025-02-16T15:00:00Z");
    }
}
