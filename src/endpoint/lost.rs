//! The signal by which those who wait for an endpoint learn that waiting is no use.
//!
//! Two sorts wait. A request that was sent waits on a connection: the task that drives the
//! connection ends it when the endpoint is *lost*. A request that dials may prefer another
//! candidate as soon as the endpoint is not thought *able*.

use tokio::sync::watch;

use crate::words::verdict::Verdict;

/// The sending side, on the living endpoint.
pub struct Lost(watch::Sender<State>);

/// The receiving side.
#[derive(Clone)]
pub struct Waiting {
    state: watch::Receiver<State>,
    joined: u64,
}

#[derive(Clone, Copy)]
struct State {
    verdict: Verdict,
    times_lost: u64,
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
        Self(watch::Sender::new(State {
            verdict: Verdict::Unknown,
            times_lost: 0,
            repairs: 0,
        }))
    }

    /// Joins those who wait.
    pub fn wait(&self) -> Waiting {
        let state = self.0.subscribe();
        let joined = state.borrow().times_lost;
        Waiting { state, joined }
    }

    /// How often the tunnel to it was repaired.
    pub fn repairs(&self) -> u64 {
        self.0.borrow().repairs
    }

    pub(super) fn declare(&self) {
        self.0.send_modify(|state| state.times_lost += 1);
    }

    /// The tunnel to it was repaired: what was dialled before will not come back soon.
    pub fn repaired(&self) {
        self.0.send_modify(|state| state.repairs += 1);
    }

    pub(super) fn verdict(&self, verdict: Verdict) {
        self.0.send_if_modified(|state| {
            let changed = state.verdict != verdict;
            state.verdict = verdict;
            changed
        });
    }
}

impl Waiting {
    /// Returns when the endpoint was declared lost since we joined.
    pub async fn lost(&mut self) {
        let joined = self.joined;
        if self
            .state
            .wait_for(|state| state.times_lost != joined)
            .await
            .is_err()
        {
            // The endpoint is gone with its configuration; whoever waits on a connection that
            // still works goes on.
            std::future::pending::<()>().await;
        }
    }

    /// Whether something was said that nobody looked at yet: a look at nothing but a number.
    pub fn has_news(&self) -> bool {
        // Who is gone with its configuration says nothing more.
        self.state.has_changed().unwrap_or(false)
    }

    /// What was said until now is no news any more.
    pub fn look(&mut self) {
        self.state.mark_unchanged();
    }

    /// Whether the endpoint was declared lost since we joined.
    pub fn is_lost(&self) -> bool {
        self.state.borrow().times_lost != self.joined
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
