//! Time: the wall clock that schedules are read against, and deadlines that survive a freeze.
//!
//! Wall time is a `jiff::Timestamp`, monotonic time a `tokio::time::Instant` (paused in tests).
//! Nothing below `app` asks the system for the wall time; it asks a `Clock`.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};

/// A timer that fires this much after its instant tells of a frozen process, not of a busy one.
const FROZEN: Duration = Duration::from_millis(200);

/// Where the wall time comes from.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<Told>);

/// A wall time that a test tells.
#[derive(Clone, Copy, Debug)]
struct Told {
    wall: Timestamp,
    start: Instant,
    /// Seconds by which it was set since, forward or back.
    set_by: &'static AtomicI64,
}

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that reads `wall` now and then runs with tokio's time, for tests with paused time.
    pub fn starting_at(wall: Timestamp) -> Self {
        static NOBODY: AtomicI64 = AtomicI64::new(0);
        Self::set_by(wall, &NOBODY)
    }

    /// The same, and somebody sets it by so many seconds, forward or back.
    pub fn set_by(wall: Timestamp, seconds: &'static AtomicI64) -> Self {
        Self(Some(Told {
            wall,
            start: Instant::now(),
            set_by: seconds,
        }))
    }

    /// The wall time now.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some(told) => {
                let set = SignedDuration::from_secs(told.set_by.load(Ordering::Relaxed));
                let ran = told.wall.checked_add(told.start.elapsed());
                ran.and_then(|now| now.checked_add(set))
                    .unwrap_or(told.wall)
            }
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

    /// `length` from an instant that may lie behind us.
    pub fn since(began: Instant, length: Duration) -> Self {
        Self {
            at: began + length,
            length,
        }
    }

    /// What is left of it, in monotonic time.
    pub fn left(&self) -> Duration {
        self.left_at(Instant::now())
    }

    /// What was left of it at an instant.
    pub fn left_at(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
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

/// Notices that the process, or the whole machine, stood still.
///
/// A stopped process sees no gap between its clocks, only a beat that comes late; a suspended
/// machine shows its wall clock ahead of its monotonic one (measured). Either is a freeze.
#[derive(Debug)]
pub struct Pulse {
    clock: Clock,
    last: Mutex<(Timestamp, Instant)>,
}

impl Pulse {
    /// Between two beats at most.
    pub const BEAT: Duration = Duration::from_secs(1);
    /// A beat that is later than this, or a wall clock that ran ahead by more, tells of a freeze.
    const LATE: Duration = Duration::from_secs(2);

    /// One that beats for the first time now.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            last: Mutex::new((clock.now(), Instant::now())),
        }
    }

    /// Beats; how long the process stood still since the last beat, if it did.
    pub fn beat(&self) -> Option<Duration> {
        self.beat_at(self.clock.now(), Instant::now())
    }

    /// The same for somebody who knows what time it is.
    pub fn beat_at(&self, wall: Timestamp, now: Instant) -> Option<Duration> {
        let now = (wall, now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        stood_still(std::mem::replace(&mut *last, now), now)
    }
}

/// How long the process stood still between two beats that should be at most [`Pulse::BEAT`] apart.
fn stood_still(before: (Timestamp, Instant), now: (Timestamp, Instant)) -> Option<Duration> {
    let ran = now.1.saturating_duration_since(before.1);
    let late = ran.saturating_sub(Pulse::BEAT);
    let wall = Duration::try_from(now.0.duration_since(before.0)).unwrap_or_default();
    let lost = late.max(wall.saturating_sub(ran));
    (lost >= Pulse::LATE).then_some(lost)
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

    #[test]
    fn a_late_tick_and_a_wall_clock_that_ran_ahead_both_tell_of_a_freeze() {
        let (wall, mono) = (Timestamp::UNIX_EPOCH, Instant::now());
        let ms = Duration::from_millis;
        let rows = [
            (1000, 1000, None),
            (2900, 2900, None),
            (31_000, 31_000, Some(30_000)),
            (600_000, 1000, Some(599_000)),
            (0, 1000, None),
            (2900, 1000, None),
        ];
        for (wall_ran, mono_ran, want) in rows {
            let now = (wall + ms(wall_ran), mono + ms(mono_ran));
            let got = stood_still((wall, mono), now).map(|lost| lost.as_millis());
            assert_eq!(got, want, "{wall_ran} {mono_ran}");
        }
        let back = (wall - ms(3_600_000), mono + Pulse::BEAT);
        assert_eq!(
            stood_still((wall, mono), back),
            None,
            "a clock set back is no freeze"
        );
    }
}
