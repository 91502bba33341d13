//! Kept-alive connections of one endpoint.
//!
//! Newest first, bounded in count and age. The age stays below the server's own, as a connection
//! that the server closes while we write is the one failure that cannot be told from a lost
//! request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use super::connection::Connection;

/// More idle connections than one app with 80 concurrent requests leaves behind are of no use.
const MOST: usize = 128;

/// A connection idle for longer is checked before it is used: after a freeze the end that the
/// server sent meanwhile still sits in the kernel.
const CHECK_AFTER: Duration = Duration::from_millis(500);

/// How many of the newest are worth a look.
const NEWEST: usize = 4;

/// Kept-alive connections of one endpoint. `None` once the endpoint is retired.
pub struct Idle {
    list: Mutex<Option<Vec<Connection>>>,
    age: Duration,
}

impl Idle {
    pub(super) fn new(age: Duration) -> Self {
        Self {
            list: Mutex::new(Some(Vec::new())),
            age,
        }
    }

    /// One of the newest connections, if it was idle for less than `younger_than` and works for
    /// sure. Costs no turn of the reactor; where it finds none, [`Idle::take`] may.
    pub fn take_fresh(&self, younger_than: Duration, now: Instant) -> Option<Connection> {
        let limit = younger_than.min(self.age).min(CHECK_AFTER);
        let fits = |kept: &Connection| {
            now.saturating_duration_since(kept.idle_since) < limit && kept.is_ready()
        };
        let mut list = self.locked();
        let list = list.as_mut()?;
        // The very newest may not know yet that its answer has ended.
        let newest = list.iter().rev().take(NEWEST).position(fits)?;
        let mut connection = list.remove(list.len() - 1 - newest);
        connection.reused = true;
        Some(connection)
    }

    /// A connection that was idle for less than `younger_than`, if there is one that still works.
    pub async fn take(&self, younger_than: Duration) -> Option<Connection> {
        let limit = younger_than.min(self.age);
        while let Some(mut connection) = self.pop() {
            let idle = connection.idle_since.elapsed();
            if idle >= limit {
                // The newest is too old: so are all others. Those within our own age limit may
                // still serve somebody less choosy.
                self.put_back(connection, idle);
                return None;
            }
            if idle >= CHECK_AFTER || !connection.is_ready() {
                // Lets the reactor run once, so that the connection's own task sees its end.
                yield_now().await;
            }
            if connection.is_ready() {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose answer has ended `now`.
    pub fn put(&self, mut connection: Connection, now: Instant) {
        connection.idle_since = now;
        self.push(connection);
    }

    /// A connection is made although there are idle ones, for a request that trusts none of them:
    /// it takes the place of the oldest, else the pool would grow by one with each such request.
    pub fn make_way(&self) {
        let oldest = match self.locked().as_mut() {
            Some(list) if !list.is_empty() => Some(list.remove(0)),
            _ => None,
        };
        drop(oldest);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.locked().as_ref().map_or(0, Vec::len)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops those that are too old or closed. The data thread calls it now and then, so that an
    /// endpoint without traffic does not hold connections that nobody will use.
    pub fn sweep(&self) {
        let dropped: Vec<_> = match self.locked().as_mut() {
            Some(list) => list
                .extract_if(.., |kept| {
                    kept.is_closed() || kept.idle_since.elapsed() >= self.age
                })
                .collect(),
            None => return,
        };
        drop(dropped);
    }

    /// Drops all of them: they may be dead, or descriptors are used up.
    pub fn clear(&self) {
        let dropped = self.locked().as_mut().map(std::mem::take);
        drop(dropped);
    }

    pub(super) fn close(&self) {
        let dropped = self.locked().take();
        drop(dropped);
    }

    fn pop(&self) -> Option<Connection> {
        self.locked().as_mut().and_then(Vec::pop)
    }

    fn put_back(&self, connection: Connection, idle: Duration) {
        if idle < self.age {
            self.push(connection);
        } else {
            self.clear();
        }
    }

    fn push(&self, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut list = self.locked();
        let dropped = match list.as_mut() {
            None => Some(connection),
            Some(list) => {
                let oldest = (list.len() >= MOST).then(|| list.remove(0));
                list.push(connection);
                oldest
            }
        };
        drop(list);
        drop(dropped);
    }

    fn locked(&self) -> MutexGuard<'_, Option<Vec<Connection>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
