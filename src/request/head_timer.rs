//! The timer by which hyper bounds the reading of a head.
//!
//! Invariant: it is never over while something that the client has sent lies unread. When a process
//! that stood still goes on, all its timers are due at once, and a connection may look at its timer
//! before it hears of what came meanwhile: whoever asked on it would get a reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

use crate::words::clock::Alarm;

/// From when a process that stood still looks at the bound to when it is over.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Makes the sleeps of one connection, which come one after the other and are one timer: it stays
/// where it is when a head has come, and moves on to the next one's bound when it fires. To make
/// one and to take it back for each head would cost a request more than the reading of its head.
#[derive(Clone, Debug, Default)]
pub struct HeadTimer(Arc<Mutex<Option<Running>>>);

/// The timer, and when it fires.
#[derive(Debug)]
struct Running {
    alarm: Alarm,
    at: Instant,
}

struct Bound {
    due: Instant,
    timer: HeadTimer,
}

#[expect(clippy::disallowed_types, reason = "hyper's trait speaks of them")]
impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.bound(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.bound(Instant::from_std(deadline))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl HeadTimer {
    fn bound(&self, due: Instant) -> Pin<Box<dyn Sleep>> {
        let timer = self.clone();
        Box::pin(Bound { due, timer })
    }
}

impl Running {
    fn until(at: Instant) -> Self {
        let alarm = Alarm::at(at);
        Self { alarm, at }
    }

    fn set(&mut self, at: Instant) {
        self.alarm.set(at);
        self.at = at;
    }

    /// Ready when it is over for a head that is bound by `due`.
    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let frozen = ready!(self.alarm.poll(cx)).is_some();
            if frozen {
                self.set(due.max(Instant::now() + LAST_LOOK));
            } else if self.at < due {
                self.set(due);
            } else {
                return Poll::Ready(());
            }
        }
    }
}

impl Sleep for Bound {}

impl Future for Bound {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let running = self.timer.0.lock();
        let mut running = running.unwrap_or_else(PoisonError::into_inner);
        let running = running.get_or_insert_with(|| Running::until(self.due));
        running.poll(self.due, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const LENGTH: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time() {
        let began = Instant::now();
        HeadTimer::default().sleep(LENGTH).await;
        assert!(began.elapsed() >= LENGTH && began.elapsed() < LENGTH + LAST_LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_looks_before_it_gives_up_on_a_client() {
        for late in [1, 50, 199, 201, 5_000, 600_000].map(Duration::from_millis) {
            let mut bound = HeadTimer::default().sleep(LENGTH);
            assert!(timeout(LENGTH / 2, &mut bound).await.is_err());
            // Twice: it may stand still again in its last look.
            for _ in 0..2 {
                advance(LENGTH / 2 + late).await;
                let first = poll_fn(|cx| Poll::Ready(bound.as_mut().poll(cx))).await;
                assert!(first.is_pending(), "{late:?}");
            }
            let began = Instant::now();
            bound.await;
            assert!(began.elapsed() <= 2 * LAST_LOOK, "{late:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_of_a_connection_has_its_own_time() {
        let timer = HeadTimer::default();
        for pause in [0, 1, 74, 76, 200].map(Duration::from_secs) {
            let mut came = timer.sleep(LENGTH);
            assert!(timeout(LENGTH / 2, &mut came).await.is_err());
            drop(came);
            advance(pause).await;
            let began = Instant::now();
            timer.sleep(LENGTH).await;
            let took = began.elapsed();
            assert!(took >= LENGTH && took <= LENGTH + 2 * LAST_LOOK, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_of_an_earlier_head_that_fires_late_ends_no_later_one() {
        let timer = HeadTimer::default();
        let mut first = timer.sleep(LENGTH);
        assert!(timeout(LENGTH / 2, &mut first).await.is_err());
        drop(first);
        let (began, mut second) = (Instant::now(), timer.sleep(LENGTH));
        assert!(timeout(LENGTH / 4, &mut second).await.is_err());
        advance(LENGTH / 2).await;
        let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        second.await;
        let took = began.elapsed();
        assert!(took >= LENGTH && took <= LENGTH + LAST_LOOK, "{took:?}");
    }
}
