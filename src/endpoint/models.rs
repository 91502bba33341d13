//! Which models an endpoint has, as it told last; of kind `ollama` only.
//!
//! Invariant: what was told is replaced whole, and holds until something else is told: a Mac that
//! sleeps has the models that it had. What it answered that is no list makes it unknown.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Notify;

use crate::api::models::{Catalogue, Model};

/// The models of an endpoint.
#[derive(Default)]
pub struct Models {
    told: ArcSwapOption<Told>,
    wanted: Notify,
    warmed: Mutex<Vec<Warmed>>,
}

/// What came of loading a model before it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmed {
    /// The model.
    pub model: String,
    /// Why: `switch` or `wake`.
    pub occasion: &'static str,
    /// `loaded`, `failed` or `in-use`.
    pub result: &'static str,
    /// How long it took.
    pub seconds: Option<f64>,
    /// When it had ended.
    pub at: Timestamp,
}

/// What an endpoint told.
#[derive(Debug)]
pub struct Told {
    /// Its models.
    pub catalogue: Catalogue,
    /// When.
    pub at: Timestamp,
}

impl Models {
    /// What it told last; `None`: nothing, or nothing that can be read.
    pub fn told(&self) -> Option<Arc<Told>> {
        self.told.load_full()
    }

    /// It told this. Whether it has no longer what it had under some name: another model, or none.
    pub fn tell(&self, told: Option<Told>) -> bool {
        let told = told.map(Arc::new);
        let before = self.told.swap(told.clone());
        let now = told.as_ref().map(|told| &told.catalogue.models);
        let had = before.iter().flat_map(|told| &told.catalogue.models);
        let gone = |(model, digest)| now.and_then(|now| now.get(model)) != Some(digest);
        had.into_iter().any(gone)
    }

    /// Its digest of a model, `None` if it has none of that name; nothing if that is not known.
    pub fn digest<T>(&self, model: &Model, read: impl FnOnce(Option<&str>) -> T) -> Option<T> {
        let told = self.told.load();
        told.as_ref().map(|told| read(told.catalogue.digest(model)))
    }

    /// Whether it is known to have a model in memory.
    pub fn is_loaded(&self, model: &Model) -> bool {
        let told = self.told.load();
        told.as_ref()
            .is_some_and(|told| told.catalogue.loaded.contains(model))
    }

    /// Whether it is known to lack one of these.
    pub fn lacks(&self, models: &[Model]) -> bool {
        let told = self.told.load();
        let lacks = |told: &Arc<Told>| {
            let digests = models.iter().map(|model| told.catalogue.digest(model));
            digests.into_iter().any(|digest| digest.is_none())
        };
        !models.is_empty() && told.as_ref().is_some_and(lacks)
    }

    /// A model was loaded before it was asked for, or could not be; of each model the last is kept.
    pub fn warmed(&self, warmed: Warmed) {
        let mut all = self.warmed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.model != warmed.model);
        all.push(warmed);
    }

    /// What came of it, by model.
    pub fn prewarmed(&self) -> Vec<Warmed> {
        let all = self.warmed.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }

    /// They may have changed: somebody should ask.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Returns when somebody should ask.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
