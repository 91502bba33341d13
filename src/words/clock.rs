//! Time: the wall clock that schedules are read against, and deadlines that survive a freeze.
//!
//! Wall time is a `jiff::Timestamp`, monotonic time a `tokio::time::Instant` (paused in tests).
//! Nothing below `app` asks the system for the wall time; it asks a `Clock`.

use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that fires this much after its instant tells of a frozen process, not of a busy one.
const FROZEN: Duration = Duration::from_millis(200);
/// Turns of the runtime in which sockets are read and those told who wait for what came.
const LOOKS: usize = 2;
/// The shortest timer there is.
const TURN: Duration = Duration::from_millis(1);

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
/// (measured: 456 of 500). So a deadline that fires late adds the time that was lost, and enough to
/// read what came. And none passes before the reactor ran once more: a freeze may end right after a
/// timer was due.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    /// What may still be added to read what came: a process so starved that all its timers fire
    /// late comes to an end, too.
    spare: Duration,
}

impl Deadline {
    /// `length` from now.
    pub fn after(length: Duration) -> Self {
        Self::since(Instant::now(), length)
    }

    /// `length` from an instant that may lie behind us.
    pub fn since(began: Instant, length: Duration) -> Self {
        Self {
            at: began + length,
            spare: length,
        }
    }

    /// When it is.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// What is left of it, in monotonic time.
    pub fn left(&self) -> Duration {
        self.left_at(Instant::now())
    }

    /// What was left of it at an instant.
    pub fn left_at(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }

    /// The same deadline on a process that was frozen and sees `now` that a timer fired `late`.
    /// The timer may have been of the deadline itself, or not have existed during the freeze:
    /// there is time to read what came in either case.
    #[must_use]
    pub fn thawed(self, now: Instant, late: Duration) -> Self {
        let at = self.at + late;
        let grace = (now + FROZEN).saturating_duration_since(at);
        let grace = grace.min(self.spare);
        Self {
            at: at + grace,
            spare: self.spare.saturating_sub(grace),
        }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    /// Returns when the deadline has passed on a process that was awake for it.
    pub async fn passed(mut self) {
        while !self.until(self.at).await {}
    }

    /// Waits for `at_most`, or until the deadline; whether the deadline has passed.
    pub async fn tick(&mut self, at_most: Duration) -> bool {
        self.until(self.at.min(Instant::now() + at_most)).await
    }

    async fn until(&mut self, due: Instant) -> bool {
        sleep_until(due).await;
        let now = Instant::now();
        let late = now.saturating_duration_since(due);
        if late >= FROZEN {
            *self = self.thawed(now, late);
        }
        if self.at > now {
            return false;
        }
        for _ in 0..LOOKS {
            yield_now().await;
        }
        true
    }
}

/// A timer for those who poll, which fires as a [`Deadline`] does.
#[derive(Debug)]
pub struct Alarm {
    timer: Pin<Box<Sleep>>,
    looked: bool,
}

impl Alarm {
    /// One that fires at an instant.
    pub fn at(due: Instant) -> Self {
        Self {
            timer: Box::pin(sleep_until(due)),
            looked: false,
        }
    }

    /// It fires at an instant instead.
    pub fn set(&mut self, due: Instant) {
        self.timer.as_mut().reset(due);
        self.looked = false;
    }

    /// Ready when it fires: how late, on a process that was frozen across it. On one that was
    /// awake it fires once the reactor ran after it was due.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Duration>> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let late = now.saturating_duration_since(self.timer.deadline());
            if late >= FROZEN {
                return Poll::Ready(Some(late));
            }
            if self.looked {
                return Poll::Ready(None);
            }
            // Whoever wakes itself may be polled before a socket is read; a timer is not.
            self.timer.as_mut().reset(now + TURN);
            self.looked = true;
        }
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn a_freeze_gives_back_what_it_took_and_time_to_read() {
        let ms = Duration::from_millis;
        let began = Instant::now();
        // The deadline, when a timer was due, when it fired: the deadline then.
        let rows = [
            (4000, 1000, 6000, 9000),
            (4000, 3900, 6000, 6200),
            // The timer was its own, or there was none while the process was frozen.
            (4000, 4000, 6000, 6200),
            (4000, 6000, 6000, 6200),
            (2000, 500, 60_000, 61_500),
            (50, 50, 6000, 6050),
        ];
        for (at, due, fired, want) in rows {
            let deadline = Deadline::since(began, ms(at));
            let thawed = deadline.thawed(began + ms(fired), ms(fired - due));
            assert_eq!(thawed.at - began, ms(want), "{at} {due} {fired}");
        }
    }

    #[test]
    fn time_to_read_is_given_for_at_most_the_length_of_a_deadline() {
        let ms = Duration::from_millis;
        let (mut now, length) = (Instant::now(), ms(1000));
        let mut deadline = Deadline::since(now, length);
        let given = std::iter::repeat_with(|| {
            let due = deadline.at;
            now = due + ms(300);
            deadline = deadline.thawed(now, ms(300));
            deadline.left_at(now)
        });
        let given: Vec<_> = given.take_while(|given| !given.is_zero()).collect();
        assert_eq!(given, [ms(200); 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_behind_us_leaves_time_to_read_what_a_freeze_left_in_the_sockets() {
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(6)).await;
        Deadline::since(began, Duration::from_secs(4))
            .passed()
            .await;
        assert_eq!(began.elapsed().as_millis(), 6200);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_tells_a_freeze_and_fires_after_a_look_at_the_sockets() {
        let began = Instant::now();
        let mut alarm = Alarm::at(began + Duration::from_secs(1));
        assert_eq!(poll_fn(|cx| alarm.poll(cx)).await, None);
        assert_eq!(began.elapsed().as_millis(), 1001);
        alarm.set(began + Duration::from_secs(2));
        tokio::time::advance(Duration::from_secs(9)).await;
        let late = poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(late.map(|late| late.as_millis()), Some(8001));
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
