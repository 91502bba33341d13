//! Which models an endpoint has, as it told last; of kind `ollama` only.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::stock::{Stock, Told};
use crate::api::models::{Catalogue, Model};

/// The models of an endpoint.
#[derive(Default)]
pub struct Models {
    stock: Stock<Catalogue>,
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

impl Models {
    /// What it told last; `None`: nothing, or nothing that can be read.
    pub fn told(&self) -> Option<Arc<Told<Catalogue>>> {
        self.stock.told()
    }

    /// It told this. Whether it has no longer what it had under some name: another model, or none.
    pub fn tell(&self, told: Option<Told<Catalogue>>) -> bool {
        let told = told.map(Arc::new);
        let before = self.stock.tell(told.clone());
        let now = told.as_ref().map(|told| &told.catalogue.models);
        let had = before.iter().flat_map(|told| &told.catalogue.models);
        let gone = |(model, digest)| now.and_then(|now| now.get(model)) != Some(digest);
        had.into_iter().any(gone)
    }

    /// Its digest of a model, `None` if it has none of that name; nothing if that is not known.
    pub fn digest<T>(&self, model: &Model, read: impl FnOnce(Option<&str>) -> T) -> Option<T> {
        self.stock.read(|has| read(has.digest(model)))
    }

    /// Whether it is known to have a model in memory.
    pub fn is_loaded(&self, model: &Model) -> bool {
        let loaded = self.stock.read(|has| has.loaded.contains(model));
        loaded.unwrap_or_default()
    }

    /// Whether it is known to lack one of these.
    pub fn lacks(&self, models: &[Model]) -> bool {
        let lacks = |has: &Catalogue| models.iter().any(|model| has.digest(model).is_none());
        !models.is_empty() && self.stock.read(lacks).unwrap_or_default()
    }

    /// Those of these that it is known to lack.
    pub fn missing(&self, models: &[Model]) -> Vec<String> {
        let lacks = |model: &&Model| self.digest(model, |has| has.is_none()) == Some(true);
        let missing = models.iter().filter(lacks);
        missing.map(|model| model.as_str().to_owned()).collect()
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
}
