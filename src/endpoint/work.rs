//! What the models of an endpoint took: metric handles, looked up once a model.
//!
//! Invariant: a label is the name of a model that the endpoint itself told, and in all there are at
//! most [`crate::metrics::MODELS`] of them: whatever clients ask for, or Macs tell, the number of
//! series is bounded.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramVec, IntCounter};

use super::live::Key;
use crate::api::models::Model;
use crate::api::stream::Usage;
use crate::metrics::{Metrics, OTHER};

/// The handles of an endpoint.
#[derive(Default)]
pub struct Work {
    known: Mutex<Vec<(Option<Model>, Arc<Handles>)>>,
}

/// What a model's answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// From the request's head to the first piece of its stream; `None`: it was no stream, or one
    /// without a token.
    pub first_token: Option<Duration>,
    /// From there to its end.
    pub streamed: Option<Duration>,
    /// What it told.
    pub usage: Usage,
}

struct Handles {
    /// The label.
    name: String,
    first_token: Histogram,
    token: Histogram,
    load: Histogram,
    prompt: Histogram,
    queue: Histogram,
    tokens_in: IntCounter,
    tokens_out: IntCounter,
    rate: Gauge,
}

impl Done {
    /// An output token: as it says itself, else as they passed.
    pub fn token(&self) -> Option<Duration> {
        let tokens = self.usage.tokens_out.filter(|tokens| *tokens > 0)?;
        if let Some(answer) = self.usage.answer {
            return Some(over(answer, tokens));
        }
        // The first one is not among those that were waited for.
        let others = tokens.checked_sub(1).filter(|others| *others > 0)?;
        Some(over(self.streamed?, others))
    }

    /// Output tokens a second.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.token()?.as_secs_f64();
        (seconds > 0.0).then(|| 1.0 / seconds)
    }
}

fn over(span: Duration, parts: u64) -> Duration {
    u32::try_from(parts).map_or(Duration::ZERO, |parts| span / parts)
}

impl Work {
    /// An answer of `model` ended, one that the endpoint `key` has; its label.
    pub fn done(&self, metrics: &Metrics, key: &Key, model: Option<&Model>, done: &Done) -> String {
        let handles = self.handles(metrics, key, model);
        handles.observe(done);
        handles.name.clone()
    }

    /// Output tokens a second of the answer of a model that ended last.
    pub fn rate(&self, model: &Model) -> Option<f64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, handles) = known
            .iter()
            .find(|(known, _)| known.as_ref() == Some(model))?;
        let rate = handles.rate.get();
        (rate > 0.0 && handles.name == model.as_str()).then_some(rate)
    }

    fn handles(&self, metrics: &Metrics, key: &Key, model: Option<&Model>) -> Arc<Handles> {
        let model = model.filter(|model| metrics.models.admits(model.as_str()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handles)) = known.iter().find(|(known, _)| known.as_ref() == model) {
            return Arc::clone(handles);
        }
        let handles = Arc::new(Handles::new(metrics, key, model));
        known.push((model.cloned(), Arc::clone(&handles)));
        handles
    }
}

impl Handles {
    fn new(metrics: &Metrics, key: &Key, model: Option<&Model>) -> Self {
        let name = model.map_or(OTHER, Model::as_str);
        let labels = [key.service.as_str(), key.backend.as_str(), name];
        let of = |family: &HistogramVec| family.with_label_values(&labels);
        let tokens = |way| {
            let [service, backend, name] = labels;
            let labels = [service, backend, name, way];
            metrics.llm_tokens.with_label_values(&labels)
        };
        Self {
            name: name.to_owned(),
            first_token: of(&metrics.llm_first_token_seconds),
            token: of(&metrics.llm_token_seconds),
            load: of(&metrics.llm_load_seconds),
            prompt: of(&metrics.llm_prompt_seconds),
            queue: of(&metrics.llm_queue_seconds),
            tokens_in: tokens("input"),
            tokens_out: tokens("output"),
            rate: metrics.llm_rate.with_label_values(&labels),
        }
    }

    fn observe(&self, done: &Done) {
        let usage = &done.usage;
        for (histogram, took) in [
            (&self.first_token, done.first_token),
            (&self.token, done.token()),
            (&self.load, usage.load),
            (&self.prompt, usage.prompt),
            (&self.queue, usage.queue()),
        ] {
            if let Some(took) = took {
                histogram.observe(took.as_secs_f64());
            }
        }
        self.tokens_in.inc_by(usage.tokens_in.unwrap_or(0));
        self.tokens_out.inc_by(usage.tokens_out.unwrap_or(0));
        if let Some(rate) = done.rate() {
            self.rate.set(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_takes_what_the_model_says_or_else_what_it_took_to_pass() {
        let second = Duration::from_secs(1);
        let done = |tokens_out, answer, streamed| Done {
            first_token: None,
            streamed,
            usage: Usage {
                tokens_out,
                answer,
                ..Usage::default()
            },
        };
        let rows = [
            (done(Some(10), Some(second), None), Some(100)),
            (done(Some(10), Some(second), Some(second * 9)), Some(100)),
            (done(Some(11), None, Some(second)), Some(100)),
            (done(Some(1), None, Some(second)), None),
            (done(Some(0), Some(second), Some(second)), None),
            (done(None, Some(second), Some(second)), None),
            (done(Some(10), None, None), None),
        ];
        for (done, millis) in rows {
            assert_eq!(done.token(), millis.map(Duration::from_millis), "{done:?}");
        }
        let rate = done(Some(10), Some(second), None).rate();
        assert!(rate.is_some_and(|rate| (rate - 10.0).abs() < 1e-9));
    }
}
