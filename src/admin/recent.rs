//! How the services did in the last minutes: quantiles, requests and errors.
//!
//! Costs requests nothing: it keeps what the histograms and counters of `/metrics` showed some
//! seconds apart, and subtracts. So a quantile is as exact as their buckets are narrow; between two
//! bounds it is interpolated, and above the last it is the last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounterVec;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// What is told of.
const SPAN: Duration = Duration::from_mins(5);
/// Between two looks.
const APART: Duration = Duration::from_secs(10);
/// Looks that are kept: those of the span, and the one before it.
const LOOKS: usize = 31;

/// One service in the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// The minutes that the numbers are of, in seconds; less after a start.
    pub seconds: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Of them those that failed: 5xx, broken off, or left by the client.
    pub errors: u64,
    /// To the head of an answer.
    pub first_byte: Quantiles,
    /// To its end.
    pub total: Quantiles,
}

/// In seconds; none: nothing was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// Half took no longer.
    pub p50: Option<f64>,
    /// 95 of 100 took no longer.
    pub p95: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99: Option<f64>,
}

/// The latest looks.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Look>>);

#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    services: BTreeMap<String, Counts>,
}

/// Counts since the start.
#[derive(Clone, Debug, Default)]
struct Counts {
    requests: u64,
    errors: u64,
    first_byte: Buckets,
    total: Buckets,
}

/// Cumulative counts by upper bound, in seconds; the last one is without a bound.
#[derive(Clone, Debug, Default)]
struct Buckets(Vec<(f64, u64)>);

impl Recent {
    /// Looks, if the last look was long enough ago.
    pub(super) fn look(&self, metrics: &Metrics) {
        let mut looks = self.locked();
        let now = Instant::now();
        if looks.back().is_some_and(|last| now - last.at < APART) {
            return;
        }
        if looks.len() == LOOKS {
            looks.pop_front();
        }
        looks.push_back(Look::now(metrics));
    }

    /// What happened to `service` since the oldest look of the span.
    pub(super) fn traffic(&self, metrics: &Metrics, service: &str) -> Traffic {
        let looks = self.locked();
        let now = Look::now(metrics);
        let Some(then) = looks.iter().find(|look| now.at - look.at <= SPAN) else {
            return Traffic::default();
        };
        let none = Counts::default();
        let of = |look: &Look| look.services.get(service).unwrap_or(&none).clone();
        of(&now).since(&of(then), now.at - then.at)
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    fn now(metrics: &Metrics) -> Self {
        let mut services: BTreeMap<String, Counts> = BTreeMap::new();
        for metric in series(&metrics.requests.collect()) {
            let counts = services.entry(label(metric, "service")).or_default();
            let count = whole(metric.get_counter().get_value());
            counts.requests += count;
            if matches!(label(metric, "code_class").as_str(), "5xx" | "abort") {
                counts.errors += count;
            }
        }
        for metric in series(&metrics.request_seconds.collect()) {
            let counts = services.entry(label(metric, "service")).or_default();
            counts.total.add(metric);
        }
        for metric in series(&metrics.first_byte_seconds.collect()) {
            let counts = services.entry(label(metric, "service")).or_default();
            counts.first_byte.add(metric);
        }
        Self {
            at: Instant::now(),
            services,
        }
    }
}

/// The series of a counter, by their labels.
pub(super) fn counted(
    counter: &IntCounterVec,
) -> impl Iterator<Item = (BTreeMap<String, String>, u64)> {
    let families = counter.collect();
    let counted: Vec<_> = series(&families)
        .map(|metric| {
            let labels = metric.get_label().iter();
            let labels = labels.map(|label| (label.name().to_owned(), label.value().to_owned()));
            (labels.collect(), whole(metric.get_counter().get_value()))
        })
        .collect();
    counted.into_iter()
}

fn series(families: &[MetricFamily]) -> impl Iterator<Item = &Metric> {
    families.iter().flat_map(MetricFamily::get_metric)
}

fn label(metric: &Metric, name: &str) -> String {
    let mut labels = metric.get_label().iter();
    let label = labels.find(|label| label.name() == name);
    label.map_or(String::new(), |label| label.value().to_owned())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter counts whole things up from none"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

impl Counts {
    fn since(&self, then: &Self, span: Duration) -> Traffic {
        Traffic {
            seconds: span.as_secs(),
            requests: self.requests.saturating_sub(then.requests),
            errors: self.errors.saturating_sub(then.errors),
            first_byte: self.first_byte.since(&then.first_byte).quantiles(),
            total: self.total.since(&then.total).quantiles(),
        }
    }
}

impl Buckets {
    fn add(&mut self, metric: &Metric) {
        let histogram = metric.get_histogram();
        let bounded = histogram.get_bucket().iter();
        let all = bounded
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .chain([(f64::INFINITY, histogram.get_sample_count())]);
        for (place, (bound, count)) in all.enumerate() {
            match self.0.get_mut(place) {
                Some(sum) => sum.1 += count,
                None => self.0.push((bound, count)),
            }
        }
    }

    fn since(&self, then: &Self) -> Self {
        let before = then.0.iter().map(|(_, count)| *count);
        let before = before.chain(std::iter::repeat(0));
        let pairs = self.0.iter().zip(before);
        Self(
            pairs
                .map(|((bound, count), before)| (*bound, count.saturating_sub(before)))
                .collect(),
        )
    }

    fn quantiles(&self) -> Quantiles {
        Quantiles {
            p50: self.quantile(0.5),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "requests of five minutes are few enough"
    )]
    fn quantile(&self, part: f64) -> Option<f64> {
        let all = self.0.last()?.1;
        if all == 0 {
            return None;
        }
        let rank = part * all as f64;
        let mut below = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count as f64 >= rank {
                if bound.is_infinite() {
                    return Some(below.0);
                }
                let inside = (rank - below.1 as f64) / (count - below.1) as f64;
                let seconds = below.0 + (bound - below.0) * inside;
                return Some((seconds * 1e4).round() / 1e4);
            }
            below = (*bound, *count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(metrics: &Metrics, seconds: f64, class: &str) {
        let labels = ["s", "m1", "op"];
        metrics
            .requests
            .with_label_values(&["s", "m1", "op", class])
            .inc();
        metrics
            .request_seconds
            .with_label_values(&labels)
            .observe(seconds);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_of_the_last_minutes_and_no_older() {
        let (metrics, recent) = (Metrics::new(), Recent::default());
        assert_eq!(recent.traffic(&metrics, "s"), Traffic::default());
        recent.look(&metrics);
        for _ in 0..90 {
            request(&metrics, 0.02, "2xx");
        }
        for _ in 0..10 {
            request(&metrics, 3.0, "5xx");
        }
        let told = recent.traffic(&metrics, "s");
        assert_eq!((told.requests, told.errors), (100, 10));
        let [p50, p99] = [told.total.p50, told.total.p99].map(Option::unwrap);
        assert!((0.01..0.025).contains(&p50), "{p50}");
        assert!((2.5..5.0).contains(&p99), "{p99}");
        assert_eq!(told.first_byte, Quantiles::default());
        for _ in 0..40 {
            tokio::time::advance(APART).await;
            recent.look(&metrics);
        }
        let told = recent.traffic(&metrics, "s");
        assert_eq!((told.requests, told.seconds), (0, 300));
        assert_eq!(told.total.p50, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_longer_than_the_last_bound_is_told_as_the_last_bound() {
        let (metrics, recent) = (Metrics::new(), Recent::default());
        recent.look(&metrics);
        request(&metrics, 5000.0, "2xx");
        assert_eq!(recent.traffic(&metrics, "s").total.p50, Some(600.0));
    }
}
