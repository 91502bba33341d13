//! What lets a request wait without a timer of its own.
//!
//! Most answers come within milliseconds, and a timer or a place in a list of listeners for each of
//! them costs more than the answer is worth. So a request that waits looks at its deadlines and
//! signals only from the second beat on; until then all it has is a place in one list. Beats come
//! only while somebody waits.
//!
//! Invariant: whoever waits is woken at the next beat.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// Between beats. Nothing that a request waits for has to be seen earlier than after two of them.
const BEAT: Duration = Duration::from_millis(20);
/// No beat.
const NEVER: u64 = u64::MAX;

/// The beats of the data thread.
pub(super) struct Beats {
    count: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    /// Somebody began to wait.
    wanted: Notify,
}

/// Which beat the task of a connection is to be woken at: once is enough for all that it waits for,
/// as the task polls all of it whenever it is woken, and stays the same as long as the connection.
pub(super) struct Listed(AtomicU64);

impl Beats {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            waiting: Mutex::default(),
            wanted: Notify::new(),
        }
    }

    /// Beats for as long as it is polled.
    pub(super) async fn run(&self) {
        loop {
            self.wanted.notified().await;
            sleep(BEAT).await;
            self.count.fetch_add(1, Ordering::Relaxed);
            let waiting = std::mem::take(&mut *self.locked());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// The beat until which somebody who begins to wait now need not look at anything.
    pub(super) fn patience(&self) -> u64 {
        self.count.load(Ordering::Relaxed) + 2
    }

    /// Ready from the beat `until` on. `listed` is of the task that polls.
    pub(super) fn poll(&self, until: u64, listed: &Listed, cx: &mut Context<'_>) -> Poll<()> {
        let count = self.count.load(Ordering::Relaxed);
        if count >= until {
            return Poll::Ready(());
        }
        if listed.0.swap(count, Ordering::Relaxed) != count {
            let mut waiting = self.locked();
            let first = waiting.is_empty();
            waiting.push(cx.waker().clone());
            drop(waiting);
            if first {
                self.wanted.notify_one();
            }
        }
        Poll::Pending
    }

    /// Returns when somebody who began to wait now should look at what it waits for.
    pub(super) async fn patient(&self, listed: &Listed) {
        let until = self.patience();
        poll_fn(|cx| self.poll(until, listed, cx)).await;
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_after_one_to_two_beats() {
        let beats = Arc::new(Beats::new());
        let running = tokio::spawn({
            let beats = Arc::clone(&beats);
            async move { beats.run().await }
        });
        let listed = Listed::new();
        for pause in [0, 5, 30, 1000] {
            sleep(Duration::from_millis(pause)).await;
            let began = Instant::now();
            // Two that wait in one task are woken by one place in the list.
            tokio::join!(beats.patient(&listed), beats.patient(&listed));
            assert!(
                began.elapsed() >= BEAT && began.elapsed() <= 3 * BEAT,
                "{pause}"
            );
        }
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_listed_once_a_beat() {
        let (beats, listed) = (Beats::new(), Listed::new());
        for _ in 0..3 {
            let waits = poll_fn(|cx| Poll::Ready(beats.poll(beats.patience(), &listed, cx)));
            assert!(waits.await.is_pending());
        }
        assert_eq!(beats.locked().len(), 1);
    }
}
