//! What is known of the processes that we started, for `/status`, `/ready` and `/metrics`.
//!
//! Owns the board only: `supervise` writes it, the answers read it. Without children it is empty,
//! and nothing is said of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::status;

/// One process that we keep.
#[derive(Clone, Debug)]
pub struct Child {
    /// `app` or `tailscaled`.
    pub name: &'static str,
    /// Whether it runs.
    pub state: State,
    /// Its number while it runs.
    pub pid: Option<u32>,
    /// Since when the state holds.
    pub since: Timestamp,
    /// How often it was started again.
    pub restarts: u64,
    /// What is wrong with it, for people; empty when nothing is.
    pub note: String,
    /// How it ended the last time.
    pub last_exit: Option<LastExit>,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, and has not said yet that it can work.
    Starting,
    /// It runs.
    Running,
    /// It ended, and will be started again.
    Waiting,
    /// It ended for good.
    Ended,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct LastExit {
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
    /// The most memory that it was seen to hold, in bytes.
    pub peak_memory: Option<u64>,
    /// The last lines that it wrote, if they came to us.
    pub words: Vec<String>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    children: Vec<Child>,
    /// Whether a tunnel of our own was up once; `None`: it is not ours.
    tunnel: Option<bool>,
    ending: bool,
}

impl Board {
    /// Puts up what is known of a child, in place of what was.
    pub fn put(&self, child: Child) {
        let mut known = self.known();
        match known.children.iter_mut().find(|old| old.name == child.name) {
            Some(old) => *old = child,
            None => known.children.push(child),
        }
    }

    /// All children.
    pub fn children(&self) -> Vec<Child> {
        self.known().children.clone()
    }

    /// The tunnel is of a tailscaled that we start: it has to be up once before we are ready.
    pub fn expect_tunnel(&self) {
        self.known().tunnel.get_or_insert(false);
    }

    /// The tunnel was up.
    pub fn tunnel_was_up(&self) {
        if let Some(up) = &mut self.known().tunnel {
            *up = true;
        }
    }

    /// Whether a tunnel of ours was not up yet.
    pub fn waits_for_tunnel(&self) -> bool {
        self.known().tunnel == Some(false)
    }

    /// The end has begun, although requests are still taken.
    pub fn end(&self) {
        self.known().ending = true;
    }

    /// Whether the end has begun.
    pub fn is_ending(&self) -> bool {
        self.known().ending
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Child {
    /// A child that was never started.
    pub const fn new(name: &'static str, now: Timestamp) -> Self {
        Self {
            name,
            state: State::Waiting,
            pid: None,
            since: now,
            restarts: 0,
            note: String::new(),
            last_exit: None,
        }
    }

    /// The same for `/status`.
    pub(super) fn show(self, show: impl Fn(Timestamp) -> String) -> status::Child {
        status::Child {
            name: self.name.to_owned(),
            state: self.state.as_str().to_owned(),
            pid: self.pid,
            since: show(self.since),
            restarts: self.restarts,
            note: self.note,
            last_exit: self.last_exit.map(|exit| status::LastExit {
                at: show(exit.at),
                reason: exit.reason,
                peak_memory_bytes: exit.peak_memory,
                words: exit.words,
            }),
        }
    }
}

impl State {
    /// The word for it in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Ended => "ended",
        }
    }

    /// Whether there is a process.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_that_is_not_ours_is_waited_for_by_nobody() {
        let board = Board::default();
        board.tunnel_was_up();
        assert!(!board.waits_for_tunnel());
        board.expect_tunnel();
        assert!(board.waits_for_tunnel());
        board.tunnel_was_up();
        // Once is enough: what breaks later is repaired, not waited for.
        board.expect_tunnel();
        assert!(!board.waits_for_tunnel());
    }

    #[test]
    fn a_child_has_one_place_on_the_board() {
        let board = Board::default();
        let child = Child::new("app", Timestamp::UNIX_EPOCH);
        board.put(child.clone());
        board.put(Child {
            state: State::Running,
            ..child
        });
        let children = board.children();
        assert_eq!((children.len(), children[0].state), (1, State::Running));
    }
}
