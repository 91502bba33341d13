//! Places for requests that an endpoint works on at once, and the line of those who wait for one.
//!
//! Invariants: who came first is let in first; whoever leaves, in the line or at work, gives its
//! place back by being dropped; nobody is let in whose ticket is gone. The limit is the
//! configuration's, which may change while requests wait. Decides nothing: what is said to one that
//! finds the line full is `request`'s.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::pace::Average;
use crate::config::snapshot::Limit;
use crate::plan::known::Busy;

/// The places of one endpoint.
#[derive(Clone, Default)]
pub struct Slots(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// How long one is at work that ends well.
    usual: Average,
}

struct State {
    busy: usize,
    limit: usize,
    line: VecDeque<Waits>,
    /// How many of the line wait for this endpoint first of all.
    own: usize,
    next: u64,
}

struct Waits {
    id: u64,
    /// It stands in the line of another endpoint, too, and counts there.
    beside: bool,
    let_in: oneshot::Sender<()>,
}

/// What came of asking for a place.
pub enum Asked {
    /// There was one.
    Taken(Slot),
    /// There is none yet.
    Waits(Ticket),
    /// So many wait that no more may.
    Full(usize),
}

/// A place at work, given back on drop.
pub struct Slot {
    shared: Arc<Shared>,
    since: Instant,
}

/// A place in the line, given back on drop.
pub struct Ticket {
    shared: Arc<Shared>,
    id: u64,
    let_in: oneshot::Receiver<()>,
    /// Its place when it came, from 1.
    pub position: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            busy: 0,
            limit: usize::MAX,
            line: VecDeque::new(),
            own: 0,
            next: 0,
        }
    }
}

impl Slots {
    /// Asks for a place among those that `limit` allows; `None`: as many as come.
    pub fn ask(&self, limit: Option<&Limit>) -> Asked {
        let mut state = self.0.locked();
        state.limit = limit.map_or(usize::MAX, |limit| limit.in_flight);
        // There may be more places than before.
        state.let_in();
        let waiting = state.own;
        if state.busy < state.limit {
            state.busy += 1;
            return Asked::Taken(self.0.slot());
        }
        if limit.is_some_and(|limit| waiting >= limit.queue) {
            return Asked::Full(waiting);
        }
        Asked::Waits(self.0.stand(&mut state, false))
    }

    /// Stands in the line beside that of another endpoint, where the request counts: whichever has
    /// a place first.
    pub fn ask_beside(&self) -> Ticket {
        let mut state = self.0.locked();
        let ticket = self.0.stand(&mut state, true);
        // There may be a place already.
        state.let_in();
        ticket
    }

    /// How busy it is.
    pub fn busy(&self) -> Busy {
        let state = self.0.locked();
        Busy {
            working: state.busy,
            waiting: state.own,
            usual: self.0.usual.get(),
        }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        // Nothing that panics is done under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand(self: &Arc<Self>, state: &mut State, beside: bool) -> Ticket {
        state.next += 1;
        state.own += usize::from(!beside);
        let (id, (let_in, told)) = (state.next, oneshot::channel());
        state.line.push_back(Waits { id, beside, let_in });
        Ticket {
            shared: Arc::clone(self),
            id,
            let_in: told,
            position: state.own,
        }
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot {
            shared: Arc::clone(self),
            since: Instant::now(),
        }
    }
}

impl State {
    /// Lets in as many of the line as there are places.
    fn let_in(&mut self) {
        while self.busy < self.limit {
            let Some(first) = self.line.pop_front() else {
                return;
            };
            self.own -= usize::from(!first.beside);
            // Its ticket is there as long as it is in the line.
            self.busy += usize::from(first.let_in.send(()).is_ok());
        }
    }

    fn give_back(&mut self) {
        self.busy -= 1;
        self.let_in();
    }
}

impl Slot {
    /// What was done there ended well.
    pub fn ended_well(&self, now: Instant) {
        let took = now.saturating_duration_since(self.since);
        self.shared.usual.add(took);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.locked().give_back();
    }
}

impl Ticket {
    /// A place, when it is its turn.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Slot> {
        // The sender is in the line until then.
        let _ = ready!(Pin::new(&mut self.let_in).poll(cx));
        // The place that came with its turn is the slot's from here on.
        self.id = 0;
        Poll::Ready(self.shared.slot())
    }
}

/// Returns with the first place that comes of these tickets, and whose it was. The others go.
pub async fn turn(mut tickets: Vec<Ticket>) -> (usize, Slot) {
    poll_fn(|cx| {
        for (which, ticket) in tickets.iter_mut().enumerate() {
            if let Poll::Ready(slot) = ticket.poll_turn(cx) {
                return Poll::Ready((which, slot));
            }
        }
        Poll::Pending
    })
    .await
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.id == 0 {
            return;
        }
        let mut state = self.shared.locked();
        // They stand in the order of their numbers.
        match state.line.binary_search_by_key(&self.id, |one| one.id) {
            Ok(place) => {
                let left = state.line.remove(place);
                state.own -= usize::from(left.is_some_and(|left| !left.beside));
            }
            // It was let in and left before it knew.
            Err(_) => state.give_back(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Limit = Limit {
        in_flight: 2,
        queue: 3,
        wait: Duration::from_secs(1),
        spill: false,
    };

    fn taken(slots: &Slots) -> Slot {
        match slots.ask(Some(&LIMIT)) {
            Asked::Taken(slot) => slot,
            _ => panic!("there is a place"),
        }
    }

    fn waits(slots: &Slots) -> Ticket {
        match slots.ask(Some(&LIMIT)) {
            Asked::Waits(ticket) => ticket,
            _ => panic!("there is a place in the line"),
        }
    }

    async fn its_turn(ticket: Ticket) -> Slot {
        turn(vec![ticket]).await.1
    }

    fn counts(slots: &Slots) -> (usize, usize) {
        let busy = slots.busy();
        (busy.working, busy.waiting)
    }

    #[tokio::test]
    async fn who_came_first_is_let_in_first_and_nobody_beyond_the_line() {
        let slots = Slots::default();
        let (first, second) = (taken(&slots), taken(&slots));
        let [a, b, c] = [(); 3].map(|()| waits(&slots));
        assert_eq!([&a, &b, &c].map(|one| one.position), [1, 2, 3]);
        assert!(matches!(slots.ask(Some(&LIMIT)), Asked::Full(3)));
        drop(first);
        let third = its_turn(a).await;
        assert_eq!(counts(&slots), (2, 2));
        // One in the middle of the line leaves.
        drop(b);
        assert_eq!(counts(&slots), (2, 1));
        drop((second, third));
        let _fourth = its_turn(c).await;
        assert_eq!(counts(&slots), (1, 0));
    }

    #[tokio::test]
    async fn a_thousand_that_leave_while_they_wait_leave_nothing_behind() {
        let slots = Slots::default();
        let wide = Limit {
            queue: 1000,
            ..LIMIT
        };
        let _working = [taken(&slots), taken(&slots)];
        let ask = || match slots.ask(Some(&wide)) {
            Asked::Waits(ticket) => ticket,
            _ => panic!("there is a place in the line"),
        };
        let line: Vec<_> = std::iter::repeat_with(ask).take(1000).collect();
        assert!(matches!(slots.ask(Some(&wide)), Asked::Full(1000)));
        drop(line);
        assert_eq!(counts(&slots), (2, 0));
    }

    #[tokio::test]
    async fn one_that_leaves_on_its_turn_lets_the_next_one_in() {
        let slots = Slots::default();
        let working = [taken(&slots), taken(&slots)];
        let (leaves, stays) = (waits(&slots), waits(&slots));
        let [first, second] = working;
        drop(first);
        // It was let in and does not know yet.
        assert_eq!(counts(&slots), (2, 1));
        drop(leaves);
        assert_eq!(counts(&slots), (2, 0));
        let slot = its_turn(stays).await;
        drop((slot, second));
        assert_eq!(counts(&slots), (0, 0));
    }

    #[tokio::test]
    async fn a_limit_that_is_raised_or_taken_away_lets_the_line_in() {
        let slots = Slots::default();
        let _working = [taken(&slots), taken(&slots)];
        let line = [waits(&slots), waits(&slots)];
        let Asked::Taken(_slot) = slots.ask(None) else {
            panic!("there is no limit");
        };
        assert_eq!(counts(&slots), (5, 0));
        for ticket in line {
            its_turn(ticket).await;
        }
        assert_eq!(counts(&slots), (3, 0));
        assert!(matches!(slots.ask(Some(&LIMIT)), Asked::Waits(_)));
    }

    /// It counts where it stands first of all, and takes the place that comes first.
    #[tokio::test]
    async fn one_that_stands_in_two_lines_counts_in_one_and_takes_one_place() {
        let slots = [Slots::default(), Slots::default()];
        let working = slots.each_ref().map(|slots| [taken(slots), taken(slots)]);
        let (first, beside) = (waits(&slots[0]), slots[1].ask_beside());
        assert_eq!(slots.each_ref().map(counts), [(2, 1), (2, 0)]);
        let [at_first, at_other] = working;
        drop(at_other);
        let (which, slot) = turn(vec![first, beside]).await;
        assert_eq!(which, 1);
        assert_eq!(slots.each_ref().map(counts), [(2, 0), (1, 0)]);
        drop((slot, at_first));
        // Where there is a place at once it is let in at once.
        its_turn(slots[1].ask_beside()).await;
        assert_eq!(slots.each_ref().map(counts), [(0, 0), (0, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_one_would_wait_follows_from_what_was_measured() {
        let slots = Slots::default();
        let working = [taken(&slots), taken(&slots)];
        let _line = [waits(&slots), waits(&slots)];
        assert_eq!(slots.busy().wait(2), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        working[0].ended_well(Instant::now());
        let busy = slots.busy();
        assert_eq!(busy.usual, Some(Duration::from_secs(4)));
        assert_eq!(busy.wait(2), Some(Duration::from_secs(6)));
        assert_eq!(busy.wait(3), Some(Duration::ZERO));
    }
}
