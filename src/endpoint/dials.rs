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

use crate::words::outcome::{Failure, Kind};

/// Dials of one endpoint at once. A machine that falls asleep must not cost a descriptor for every
/// request that waits for it.
pub const MOST: usize = 16;

/// What one who stood in line gets.
pub type Delivery<C> = Result<C, Failure>;

/// Dials in progress, and the line of those who wait for them.
pub struct Dials<C>(Mutex<State<C>>);

struct State<C> {
    line: VecDeque<oneshot::Sender<Delivery<C>>>,
    /// How long the line may become before it is looked through for those who left.
    swept_at: usize,
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

impl<C> Dials<C> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            line: VecDeque::new(),
            swept_at: 0,
            running: VecDeque::new(),
            next: 0,
        }))
    }

    /// Stands in line for a connection.
    pub fn wait(&self) -> oneshot::Receiver<Delivery<C>> {
        let (give, get) = oneshot::channel();
        let mut state = self.locked();
        state.sweep();
        state.line.push_back(give);
        get
    }

    /// The right to start a dial, if more wait than what is dialled now can carry, which is `each` a
    /// connection, and there is a place.
    pub fn need(&self, each: usize) -> Option<Permit> {
        let mut state = self.locked();
        let dial = state.running.len();
        let wanted = dial < MOST && state.more_wait_than(dial * each);
        wanted.then(|| state.begin())
    }

    /// The right to start a fresh dial beside those that run, if all of them run for longer than
    /// `race`: lost SYNs back off, new ones do not. At the limit the oldest one makes room.
    pub fn freshen(&self, race: Duration) -> Option<Permit> {
        let mut state = self.locked();
        if !state.more_wait_than(0) {
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
    /// nobody waits. A failure answers the whole line, unless it says nothing about the dials that
    /// still run: silence, or that one broke off.
    pub fn ended(&self, permit: &Permit, dialled: Delivery<C>) -> Option<C> {
        let (failure, told) = {
            let mut state = self.locked();
            state.running.retain(|dial| dial.id != permit.0);
            match dialled {
                Ok(connection) => {
                    drop(state);
                    return self.offer(connection);
                }
                Err(failure)
                    if matches!(failure.kind, Kind::Silent | Kind::Lost)
                        && !state.running.is_empty() =>
                {
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

    /// A dial broke off without a word: it was aborted to make room, or it panicked. Its place is free,
    /// and nobody waits for it if no other dial runs.
    pub fn broke_off(&self, permit: &Permit) {
        let ours = (self.locked().running.iter()).any(|dial| dial.id == permit.0);
        if ours {
            let failure = Failure::unsent(Kind::Lost, "the dial broke off");
            // A failure leaves no connection over.
            let _ = self.ended(permit, Err(failure));
        }
    }

    /// Gives a connection to the first in line; it comes back if nobody waits.
    pub fn offer(&self, mut connection: C) -> Option<C> {
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

    fn locked(&self) -> MutexGuard<'_, State<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> State<C> {
    /// Whether more than `count` wait. Those in front who left are forgotten on the way, so that
    /// none is looked at often.
    fn more_wait_than(&mut self, count: usize) -> bool {
        let (mut waiting, mut looked_at) = (0, 0);
        for waits in &self.line {
            looked_at += 1;
            waiting += usize::from(!waits.is_closed());
            if waiting > count {
                break;
            }
        }
        if looked_at > 2 * waiting {
            let front: Vec<_> = self.line.drain(..looked_at).collect();
            let still = front.into_iter().filter(|waits| !waits.is_closed());
            still.rev().for_each(|waits| self.line.push_front(waits));
        }
        waiting > count
    }

    /// Forgets those who left, each time the line has doubled: they are kept for as long as nobody
    /// else comes.
    fn sweep(&mut self) {
        const LEAST: usize = 64;
        if self.line.len() >= self.swept_at.max(LEAST) {
            self.line.retain(|waits| !waits.is_closed());
            self.swept_at = 2 * self.line.len();
        }
    }

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

    fn silent() -> Delivery<()> {
        Err(Failure::unsent(Kind::Silent, ""))
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_sixteen_dials_run_however_many_wait() {
        let dials = Dials::<()>::new();
        let _line: Vec<_> = (0..100).map(|_| dials.wait()).collect();
        let permits: Vec<_> = std::iter::from_fn(|| dials.need(1)).collect();
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
        let dials = Dials::<()>::new();
        drop(dials.wait());
        assert!(dials.need(1).is_none());
    }

    #[tokio::test]
    async fn those_who_left_are_forgotten_and_the_order_of_the_others_stays() {
        let dials = Dials::<()>::new();
        let line: Vec<_> = (0..500).map(|_| dials.wait()).collect();
        let mut stay: Vec<_> = (line.into_iter().enumerate())
            .filter_map(|(place, waits)| place.is_multiple_of(50).then_some(waits))
            .collect();
        let permits: Vec<_> = std::iter::from_fn(|| dials.need(1)).collect();
        assert_eq!(permits.len(), 10, "one for each that stayed");
        assert_eq!(dials.locked().line.len(), 10);
        stay.remove(0).close();
        for _ in 0..1000 {
            drop(dials.wait());
        }
        assert!(dials.locked().line.len() < 100);
        dials.ended(&permits[0], Err(Failure::unsent(Kind::Refused, "")));
        assert!(stay.iter_mut().all(|waits| waits.try_recv().is_ok()));
    }

    #[tokio::test]
    async fn a_dial_that_breaks_off_frees_its_place_and_the_last_one_answers_the_line() {
        let dials = Dials::<()>::new();
        let mut waits = dials.wait();
        let mut other = dials.wait();
        let permits = [dials.need(1).unwrap(), dials.need(1).unwrap()];
        dials.broke_off(&permits[0]);
        assert_eq!(dials.locked().running.len(), 1);
        dials.broke_off(&permits[0]);
        assert_eq!(dials.locked().running.len(), 1, "once is enough");
        for waits in [&mut waits, &mut other] {
            assert!(waits.try_recv().is_err(), "the other dial runs");
        }
        dials.broke_off(&permits[1]);
        for waits in [&mut waits, &mut other] {
            assert_eq!(waits.try_recv().unwrap().err().unwrap().kind, Kind::Lost);
        }
    }

    #[tokio::test]
    async fn a_refusal_answers_the_whole_line_and_one_silence_does_not() {
        let dials = Dials::<()>::new();
        let mut line: Vec<_> = (0..3).map(|_| dials.wait()).collect();
        let [first, second] = [dials.need(1).unwrap(), dials.need(1).unwrap()];
        dials.ended(&first, silent());
        assert!(line[0].try_recv().is_err(), "a fresher dial still runs");
        dials.ended(&second, Err(Failure::unsent(Kind::Refused, "")));
        for waits in &mut line {
            assert_eq!(waits.try_recv().unwrap().err().unwrap().kind, Kind::Refused);
        }
        assert!(dials.need(1).is_none());
    }

    #[tokio::test]
    async fn the_last_silence_answers_the_line() {
        let dials = Dials::<()>::new();
        let mut waits = dials.wait();
        let only = dials.need(1).unwrap();
        dials.ended(&only, silent());
        assert_eq!(waits.try_recv().unwrap().err().unwrap().kind, Kind::Silent);
    }
}
