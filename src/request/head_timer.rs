//! The timer by which hyper bounds the reading of a head.
//!
//! Invariant: it is never over while something that the client has sent lies unread. When a process
//! that stood still goes on, all its timers are due at once, and a connection may look at its timer
//! before it hears of what came meanwhile: whoever asked on it would get a reset.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Timer;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::words::clock::Deadline;

/// From when the time is over to when the connection is: enough for a turn of the reactor.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Makes the sleeps of one connection.
#[derive(Clone, Copy, Debug)]
pub struct HeadTimer;

pin_project! {
    struct Bound {
        #[pin]
        sleep: Sleep,
        is_last_look: bool,
    }
}

#[expect(clippy::disallowed_types, reason = "hyper's trait speaks of them")]
impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        bound(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        bound(Instant::from_std(deadline))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

fn bound(deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
    Box::pin(Bound {
        sleep: sleep_until(deadline),
        is_last_look: false,
    })
}

impl hyper::rt::Sleep for Bound {}

impl Future for Bound {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            ready!(this.sleep.as_mut().poll(cx));
            let late = this.sleep.deadline().elapsed();
            if *this.is_last_look && !Deadline::is_frozen(late) {
                return Poll::Ready(());
            }
            *this.is_last_look = true;
            this.sleep.as_mut().reset(Instant::now() + LAST_LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const LENGTH: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_and_one_last_look() {
        let began = Instant::now();
        HeadTimer.sleep(LENGTH).await;
        assert_eq!(began.elapsed(), LENGTH + LAST_LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_stood_still_looks_before_it_gives_up_on_a_client() {
        for late in [1, 50, 199, 201, 5_000, 600_000].map(Duration::from_millis) {
            let mut bound = HeadTimer.sleep(LENGTH);
            assert!(timeout(LENGTH / 2, &mut bound).await.is_err());
            // Twice: it may stand still again in its last look.
            for _ in 0..2 {
                advance(LENGTH / 2 + late).await;
                let first = poll_fn(|cx| Poll::Ready(bound.as_mut().poll(cx))).await;
                assert!(first.is_pending(), "{late:?}");
            }
            let began = Instant::now();
            bound.await;
            assert_eq!(began.elapsed(), LAST_LOOK, "{late:?}");
        }
    }
}
