//! The models of backends as `/status` shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::live::Endpoint;

/// So much of a digest tells models apart, as Ollama shows them.
const DIGITS: usize = 12;

/// The models of a backend, as it told last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// When.
    pub at: String,
    /// By name.
    pub models: Vec<Model>,
    /// What was loaded before it was asked for, or could not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prewarmed: Vec<Prewarmed>,
}

/// A model that was to be loaded before it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prewarmed {
    /// Its name, with its tag.
    pub name: String,
    /// Why: before a `switch`, after a `wake`.
    pub occasion: String,
    /// `loaded`, `failed`, or `in-use`: the Mac serves, and is left alone.
    pub result: String,
    /// How long it took.
    pub seconds: Option<f64>,
    /// When.
    pub at: String,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name, with its tag.
    pub name: String,
    /// What it is, bit by bit: the beginning of that.
    pub digest: String,
    /// Whether it is in memory.
    pub loaded: bool,
    /// Output tokens a second of its last answer; left out: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
}

/// What an endpoint told.
pub(super) fn of(endpoint: &Endpoint, show: impl Fn(Timestamp) -> String) -> Option<Models> {
    let told = endpoint.models.told()?;
    let catalogue = &told.catalogue;
    let models = catalogue.models.iter().map(|(model, digest)| Model {
        name: model.as_str().to_owned(),
        digest: digest.chars().take(DIGITS).collect(),
        loaded: catalogue.loaded.contains(model),
        tokens_per_s: endpoint.work.rate(model).map(tenths),
    });
    Some(Models {
        at: show(told.at),
        models: models.collect(),
        prewarmed: (endpoint.models.prewarmed().into_iter())
            .map(|one| Prewarmed {
                name: one.model,
                occasion: one.occasion.to_owned(),
                result: one.result.to_owned(),
                seconds: one.seconds,
                at: show(one.at),
            })
            .collect(),
    })
}

/// As exact as people want it.
fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// The names under which these endpoints have different models.
pub(super) fn differ(endpoints: &[Arc<Endpoint>]) -> Vec<String> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut differ = Vec::new();
    for told in endpoints
        .iter()
        .filter_map(|endpoint| endpoint.models.told())
    {
        for (model, digest) in &told.catalogue.models {
            let name = model.as_str().to_owned();
            let known = first.entry(name.clone()).or_insert_with(|| digest.clone());
            if known != digest && !differ.contains(&name) {
                differ.push(name);
            }
        }
    }
    differ
}

impl Models {
    /// For people.
    pub fn show(&self) -> String {
        let loaded = self.models.iter().filter(|model| model.loaded);
        let loaded: Vec<_> = loaded
            .map(|model| match model.tokens_per_s {
                Some(rate) => format!("{} ({rate} tokens/s)", model.name),
                None => model.name.clone(),
            })
            .collect();
        let loaded = if loaded.is_empty() {
            "none".to_owned()
        } else {
            loaded.join(", ")
        };
        let ahead = self.prewarmed.iter().map(|one| {
            let Prewarmed {
                name,
                occasion,
                result,
                at,
                ..
            } = one;
            format!("; prewarm of {name} ({occasion}): {result} at {at}")
        });
        let ahead: String = ahead.collect();
        format!("{} models, in memory: {loaded}{ahead}", self.models.len())
    }
}
