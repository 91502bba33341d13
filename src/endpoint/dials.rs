//! Dials in progress of one endpoint, shared by all requests that wait for a connection to it.
//!
//! A request that needs a connection stands in line; dials run on their own and serve the line in
//! order, so a dial that outlives its requester serves the next or warms the pool. Invariants: at
//! most [`MOST`] dials run at once, however many requests wait; a refusal answers the whole line;
//! the tasks are the caller's, this only counts them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::Connection;
use crate::words::outcome::{Failure, Kind};

/// Dials of one endpoint at once. A machine that falls asleep must not cost a descriptor for every
/// request that waits for it.
pub const MOST: usize = 16;

/// What one who stood in line gets.
pub type Delivery = Result<Connection, Failure>;

/// Dials in progress, and the line of those who wait for them.
#[derive(Default)]
pub struct Dials(Mutex<State>);

#[derive(Default)]
struct State {
    line: VecDeque<oneshot::Sender<Delivery>>,
    running: VecDeque<Running>,
    next: u64,
}

struct Running {
    id: u64,
    since: Instant,
    task: Option<AbortHandle>,
}

/// The right to run one dial.
pub struct Permit(u64);

impl Dials {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Stands in line for a connection.
    pub fn wait(&self) -> oneshot::Receiver<Delivery> {
        let (give, get) = oneshot::channel();
        let mut state = self.locked();
        state.line.retain(|waits| !waits.is_closed());
        state.line.push_back(give);
        get
    }

    /// The right to start a dial, if more wait than dial and there is a place.
    pub fn need(&self) -> Option<Permit> {
        let mut state = self.locked();
        state.line.retain(|waits| !waits.is_closed());
        let wanted = state.line.len() > state.running.len() && state.running.len() < MOST;
        wanted.then(|| state.begin())
    }

    /// The right to start a fresh dial beside those that run, if all of them run for longer than
    /// `race`: lost SYNs back off, new ones do not. At the limit the oldest one makes room.
    pub fn freshen(&self, race: Duration) -> Option<Permit> {
        let mut state = self.locked();
        state.line.retain(|waits| !waits.is_closed());
        if state.line.is_empty() {
            return None;
        }
        let young = state.running.iter().any(|dial| dial.since.elapsed() < race);
        if young || state.running.is_empty() {
            return None;
        }
        if state.running.len() >= MOST {
            let oldest = state.running.pop_front();
            if let Some(task) = oldest.and_then(|dial| dial.task) {
                task.abort();
            }
        }
        Some(state.begin())
    }

    /// The task of a dial, so that it can make room.
    pub fn started(&self, permit: &Permit, task: AbortHandle) {
        let mut state = self.locked();
        if let Some(dial) = state.running.iter_mut().find(|dial| dial.id == permit.0) {
            dial.task = Some(task);
        }
    }

    /// A dial ended with `dialled`. A connection is given to the first in line; it comes back if
    /// nobody waits. A failure answers the whole line, unless it is one dial's silence while
    /// fresher ones run.
    pub fn ended(&self, permit: &Permit, dialled: Delivery) -> Option<Connection> {
        let (failure, told) = {
            let mut state = self.locked();
            state.running.retain(|dial| dial.id != permit.0);
            match dialled {
                Ok(connection) => {
                    drop(state);
                    return self.offer(connection);
                }
                Err(failure) if failure.kind == Kind::Silent && !state.running.is_empty() => {
                    return None;
                }
                Err(failure) => (failure, std::mem::take(&mut state.line)),
            }
        };
        for waits in told {
            // Who left needs no answer.
            let _ = waits.send(Err(failure.clone()));
        }
        None
    }

    /// Gives a connection to the first in line; it comes back if nobody waits.
    pub fn offer(&self, mut connection: Connection) -> Option<Connection> {
        loop {
            let Some(waits) = self.locked().line.pop_front() else {
                return Some(connection);
            };
            match waits.send(Ok(connection)) {
                Ok(()) => return None,
                Err(Ok(back)) => connection = back,
                Err(Err(_)) => return None,
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self) -> Permit {
        self.next += 1;
        self.running.push_back(Running {
            id: self.next,
            since: Instant::now(),
            task: None,
        });
        Permit(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Delivery {
        Err(Failure::unsent(Kind::Silent, ""))
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_sixteen_dials_run_however_many_wait() {
        let dials = Dials::new();
        let _line: Vec<_> = (0..100).map(|_| dials.wait()).collect();
        let permits: Vec<_> = std::iter::from_fn(|| dials.need()).collect();
        assert_eq!(permits.len(), MOST);
        assert!(
            dials.freshen(Duration::from_millis(250)).is_none(),
            "all are young"
        );
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(
            dials.freshen(Duration::from_millis(250)).is_some(),
            "the oldest made room"
        );
        assert!(
            dials.freshen(Duration::from_millis(250)).is_none(),
            "one is young again"
        );
    }

    #[tokio::test]
    async fn who_left_needs_no_dial() {
        let dials = Dials::new();
        drop(dials.wait());
        assert!(dials.need().is_none());
    }

    #[tokio::test]
    async fn a_refusal_answers_the_whole_line_and_one_silence_does_not() {
        let dials = Dials::new();
        let mut line: Vec<_> = (0..3).map(|_| dials.wait()).collect();
        let [first, second] = [dials.need().unwrap(), dials.need().unwrap()];
        dials.ended(&first, silent());
        assert!(line[0].try_recv().is_err(), "a fresher dial still runs");
        dials.ended(&second, Err(Failure::unsent(Kind::Refused, "")));
        for waits in &mut line {
            assert_eq!(waits.try_recv().unwrap().err().unwrap().kind, Kind::Refused);
        }
        assert!(dials.need().is_none());
    }

    #[tokio::test]
    async fn the_last_silence_answers_the_line() {
        let dials = Dials::new();
        let mut waits = dials.wait();
        let only = dials.need().unwrap();
        dials.ended(&only, silent());
        assert_eq!(waits.try_recv().unwrap().err().unwrap().kind, Kind::Silent);
    }
}
