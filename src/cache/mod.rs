//! Embeddings that are kept: found by what made them, forgotten by age, size and order.
//!
//! One cache a service, in memory. Invariants: both limits hold, whatever is kept; what was being
//! asked for when it was emptied is never kept; of those who want the same at the same time one asks
//! and the others wait, and if that one fails, the next of them asks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use moka::notification::RemovalCause;
use moka::sync::Cache;
use prometheus::{Counter, IntCounter};
use tokio::sync::watch;
use tokio::time::Instant;

pub use crate::api::embed::Key;
use crate::config::snapshot::{self, Snapshot};
use crate::metrics::Metrics;
use crate::words::names::ServiceName;

/// What one takes besides its text: its key, its place in two tables, its counts.
const OVERHEAD: usize = 320;
/// Sizes are counted in this many bytes, so that they fit into 32 bits.
const UNIT: u64 = 64;
const MEGABYTE: u64 = 1_000_000;

/// The caches of a snapshot, in the order of its services.
pub type Caches = Vec<Option<Arc<Embeddings>>>;

/// The embeddings of one service.
pub struct Embeddings {
    service: ServiceName,
    limits: snapshot::Cache,
    shelf: ArcSwap<Shelf>,
    counts: Counts,
}

#[derive(Clone)]
struct Counts {
    hit: IntCounter,
    miss: IntCounter,
    shared: IntCounter,
    evicted: IntCounter,
    saved: Counter,
}

/// What is kept. When it is to be emptied another one takes its place.
struct Shelf {
    kept: Cache<Key, Arc<Vector>>,
    bytes: Arc<AtomicU64>,
    coming: Mutex<HashMap<Key, Coming>>,
}

/// Turns into a vector; closed without one: whoever asked for it failed.
type Coming = watch::Receiver<Option<Arc<Vector>>>;

/// A vector that is kept.
#[derive(Debug)]
pub struct Vector {
    /// As the upstream wrote it.
    pub text: Bytes,
    /// What it took to make.
    pub took: Duration,
    /// When it was made.
    born: Instant,
}

/// What became of a key that somebody asked for.
pub enum Found {
    /// It is kept.
    Kept(Arc<Vector>),
    /// Somebody else is asking for it.
    Coming(Wait),
    /// Whoever asked has to find out, and everybody else waits for it.
    Missing(Claim),
}

/// Waits for what somebody else is asking for.
pub struct Wait(Coming);

/// The promise to find out. Dropped: it failed.
pub struct Claim {
    key: Key,
    shelf: Arc<Shelf>,
    tell: watch::Sender<Option<Arc<Vector>>>,
}

/// The caches that a snapshot asks for: those of `before` whose limits are the same, as they are.
pub fn reconcile(snapshot: &Snapshot, before: &Caches, metrics: &Metrics) -> Caches {
    let old = || before.iter().flatten();
    let of = |service: &snapshot::Service| {
        let limits = service.cache?;
        let same = |kept: &&Arc<Embeddings>| kept.service == service.name && kept.limits == limits;
        let new = || Arc::new(Embeddings::new(service.name.clone(), limits, metrics));
        Some(old().find(same).map_or_else(new, Arc::clone))
    };
    snapshot.services.iter().map(of).collect()
}

impl Embeddings {
    fn new(service: ServiceName, limits: snapshot::Cache, metrics: &Metrics) -> Self {
        let name = service.as_str();
        let lookups = |result| metrics.cache_lookups.with_label_values(&[name, result]);
        let counts = Counts {
            hit: lookups("hit"),
            miss: lookups("miss"),
            shared: lookups("shared"),
            evicted: metrics.cache_evictions.with_label_values(&[name]),
            saved: metrics.cache_saved.with_label_values(&[name]),
        };
        Self {
            shelf: ArcSwap::from_pointee(Shelf::new(&limits, &counts.evicted)),
            service,
            limits,
            counts,
        }
    }

    /// Looks for a key.
    pub fn find(&self, key: &Key) -> Found {
        let shelf = self.shelf.load_full();
        if let Some(vector) = shelf.get(key, self.limits.ttl) {
            self.counts.hit.inc();
            self.counts.saved.inc_by(vector.took.as_secs_f64());
            return Found::Kept(vector);
        }
        let mut coming = shelf.coming();
        if let Some(known) = coming.get(key) {
            self.counts.shared.inc();
            return Found::Coming(Wait(known.clone()));
        }
        self.counts.miss.inc();
        let (tell, wait) = watch::channel(None);
        coming.insert(*key, wait);
        drop(coming);
        Found::Missing(Claim {
            key: *key,
            shelf,
            tell,
        })
    }

    /// Forgets everything, and whatever is being asked for as well.
    pub fn clear(&self) {
        let empty = Shelf::new(&self.limits, &self.counts.evicted);
        self.shelf.store(Arc::new(empty));
    }

    /// How many are kept, and in how many bytes.
    pub fn size(&self) -> (u64, u64) {
        let shelf = self.shelf.load();
        shelf.kept.run_pending_tasks();
        (
            shelf.kept.entry_count(),
            shelf.bytes.load(Ordering::Relaxed),
        )
    }
}

impl Shelf {
    fn new(limits: &snapshot::Cache, evicted: &IntCounter) -> Self {
        let units = u64::from(limits.megabytes) * MEGABYTE / UNIT;
        // One that is small takes the place of an entry all the same: so one bound holds for both.
        let least = units.div_ceil(u64::from(limits.entries.max(1))).max(1);
        let weigh = move |_: &Key, vector: &Arc<Vector>| {
            let units = vector.bytes().div_ceil(UNIT).max(least);
            u32::try_from(units).unwrap_or(u32::MAX)
        };
        let bytes = Arc::new(AtomicU64::new(0));
        let (left, evicted) = (Arc::clone(&bytes), evicted.clone());
        let gone = move |_: Arc<Key>, vector: Arc<Vector>, cause: RemovalCause| {
            left.fetch_sub(vector.bytes(), Ordering::Relaxed);
            if cause.was_evicted() {
                evicted.inc();
            }
        };
        let kept = Cache::builder()
            .max_capacity(units)
            .weigher(weigh)
            .time_to_live(limits.ttl)
            .eviction_listener(gone)
            .build();
        Self {
            kept,
            bytes,
            coming: Mutex::default(),
        }
    }

    /// By our own clock, too: that of the cache goes on while the process is frozen, or does not.
    fn get(&self, key: &Key, ttl: Duration) -> Option<Arc<Vector>> {
        let vector = self.kept.get(key)?;
        (vector.born.elapsed() < ttl).then_some(vector)
    }

    fn keep(&self, key: Key, vector: Arc<Vector>) {
        self.bytes.fetch_add(vector.bytes(), Ordering::Relaxed);
        self.kept.insert(key, vector);
        // Now, not some time: what does not fit must not be there meanwhile.
        self.kept.run_pending_tasks();
    }

    fn coming(&self) -> MutexGuard<'_, HashMap<Key, Coming>> {
        // Nothing that panics is done under it.
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vector {
    fn bytes(&self) -> u64 {
        (self.text.len() + OVERHEAD) as u64
    }
}

impl Wait {
    /// The vector; `None`: whoever asked for it failed.
    pub async fn vector(mut self) -> Option<Arc<Vector>> {
        let told = self.0.wait_for(Option::is_some).await.ok()?;
        told.clone()
    }
}

impl Claim {
    /// This is it: everybody who waits is told.
    pub fn keep(self, text: Bytes, took: Duration) -> Arc<Vector> {
        let vector = Arc::new(Vector {
            text,
            took,
            born: Instant::now(),
        });
        self.shelf.keep(self.key, Arc::clone(&vector));
        self.tell.send_replace(Some(Arc::clone(&vector)));
        vector
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shelf.coming().remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
