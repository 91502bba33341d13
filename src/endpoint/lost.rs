//! The signal by which those who wait for an endpoint learn that waiting is no use.
//!
//! Two sorts wait. A request that was sent waits on a connection: the task that drives the
//! connection ends it when the endpoint is *lost*. A request that dials may prefer another
//! candidate as soon as the endpoint is not thought *able*.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::words::verdict::Verdict;

/// The sending side, on the living endpoint.
pub struct Lost {
    state: watch::Sender<State>,
    losses: Arc<Losses>,
}

/// The receiving side.
#[derive(Clone)]
pub struct Waiting {
    state: watch::Receiver<State>,
    losses: Arc<Losses>,
    joined: u64,
}

/// How often the endpoint was declared lost. Apart from the rest, so that a task that is polled for
/// every piece looks at a number, and is woken by nothing else.
#[derive(Default)]
struct Losses {
    count: AtomicU64,
    told: Notify,
}

#[derive(Clone, Copy)]
struct State {
    verdict: Verdict,
    repairs: u64,
}

impl Default for Lost {
    fn default() -> Self {
        Self::new()
    }
}

impl Lost {
    /// A signal that nothing was said on.
    pub fn new() -> Self {
        Self {
            state: watch::Sender::new(State {
                verdict: Verdict::Unknown,
                repairs: 0,
            }),
            losses: Arc::default(),
        }
    }

    /// Joins those who wait.
    pub fn wait(&self) -> Waiting {
        Waiting {
            state: self.state.subscribe(),
            losses: Arc::clone(&self.losses),
            joined: self.losses.count.load(Ordering::Acquire),
        }
    }

    /// How often the tunnel to it was repaired.
    pub fn repairs(&self) -> u64 {
        self.state.borrow().repairs
    }

    pub(super) fn declare(&self) {
        self.losses.count.fetch_add(1, Ordering::AcqRel);
        self.losses.told.notify_waiters();
    }

    /// The tunnel to it was repaired: what was dialled before will not come back soon.
    pub fn repaired(&self) {
        self.state.send_modify(|state| state.repairs += 1);
    }

    pub(super) fn verdict(&self, verdict: Verdict) {
        self.state.send_if_modified(|state| {
            let changed = state.verdict != verdict;
            state.verdict = verdict;
            changed
        });
    }
}

impl Waiting {
    /// Returns when the endpoint was declared lost since we joined. Not when it is gone with its
    /// configuration: whoever waits on a connection that still works goes on.
    pub async fn lost(&self) {
        let mut told = pin!(self.losses.told.notified());
        // Listed before the look: what is declared after it wakes us.
        told.as_mut().enable();
        if !self.is_lost() {
            told.await;
        }
    }

    /// Whether the endpoint was declared lost since we joined: a look at a number.
    pub fn is_lost(&self) -> bool {
        self.losses.count.load(Ordering::Acquire) != self.joined
    }

    /// Returns when the tunnel to the endpoint is repaired.
    pub async fn repaired(&mut self) {
        let before = self.state.borrow().repairs;
        self.repaired_since(before).await;
    }

    /// Returns when the tunnel to the endpoint was repaired more than `before` times.
    pub async fn repaired_since(&mut self, before: u64) {
        if self
            .state
            .wait_for(|state| state.repairs != before)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when the endpoint is not, or no longer, thought able.
    pub async fn unable(&mut self) {
        if self
            .state
            .wait_for(|state| !state.verdict.able())
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }
}
