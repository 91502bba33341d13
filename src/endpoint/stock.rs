//! What an endpoint has, models or collections, as it told last.
//!
//! Invariant: what was told is replaced whole, and holds until something else is told: a Mac that
//! sleeps has what it had. What it answered that cannot be read makes it unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use super::live::Endpoint;
use crate::api::collections::Collections;
use crate::config::snapshot::Require;
use crate::plan::known::Stocked;
use crate::words::names::Kind;

/// What an endpoint has.
pub struct Stock<T> {
    told: ArcSwapOption<Told<T>>,
    answered: AtomicBool,
}

/// What an endpoint told.
#[derive(Debug)]
pub struct Told<T> {
    /// What it has.
    pub catalogue: T,
    /// When.
    pub at: Timestamp,
}

impl<T> Stock<T> {
    /// What it told last; `None`: nothing, or nothing that can be read.
    pub fn told(&self) -> Option<Arc<Told<T>>> {
        self.told.load_full()
    }

    /// It told this, or something that cannot be read. What it had told before.
    pub fn tell(&self, told: Option<Arc<Told<T>>>) -> Option<Arc<Told<T>>> {
        let before = self.told.swap(told);
        self.answered.store(true, Ordering::Relaxed);
        before
    }

    /// What `read` makes of what it told last.
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> Option<R> {
        let told = self.told.load();
        told.as_ref().map(|told| read(&told.catalogue))
    }
}

impl Stock<Collections> {
    /// Whether it is known to lack a collection.
    pub fn lacks(&self, name: &str) -> bool {
        self.read(|has| !has.has(name)).unwrap_or_default()
    }

    /// Whether it is known to lack something of what is required.
    fn is_short(&self, require: &Require) -> bool {
        let short = |has: &Collections| {
            let mut lacking = has.lacking(&require.collections, require.min_points);
            lacking.next().is_some()
        };
        !require.collections.is_empty() && self.read(short).unwrap_or_default()
    }

    /// Whether it did not answer yet whether it has what is required.
    fn is_awaited(&self, require: &Require) -> bool {
        let untold = |has: &Collections| {
            let mut counts = require.collections.iter().map(|name| has.0.get(name));
            counts.any(|count| count == Some(&None))
        };
        let awaits = || !self.answered.load(Ordering::Relaxed);
        self.read(untold).unwrap_or_else(awaits)
    }

    /// What it is known to lack of what is required, in words.
    fn missing(&self, require: &Require) -> Vec<String> {
        let mut missing = Vec::new();
        self.read(|has| {
            let lacking = has.lacking(&require.collections, require.min_points);
            missing.extend(lacking.map(|lack| lack.to_string()));
        });
        missing
    }
}

impl Endpoint {
    /// What it is known to lack of what is required, in words.
    pub fn missing(&self, require: &Require) -> Vec<String> {
        let mut missing = self.collections.missing(require);
        missing.extend(self.models.missing(&require.models));
        missing
    }

    /// Whether it has what is required.
    pub fn stocked(&self, require: &Require) -> Stocked {
        if require.is_empty() {
            Stocked::Ready
        } else if self.models.lacks(&require.models) || self.collections.is_short(require) {
            Stocked::Lacks
        } else if self.key.kind == Kind::Qdrant && self.collections.is_awaited(require) {
            Stocked::Awaited
        } else {
            Stocked::Ready
        }
    }
}

impl<T> Default for Stock<T> {
    fn default() -> Self {
        Self {
            told: ArcSwapOption::empty(),
            answered: AtomicBool::new(false),
        }
    }
}
