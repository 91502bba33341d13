//! What the last minutes brought: requests, errors and durations, by service.
//!
//! Owns a ring of samples of the counters that `/metrics` prints, taken on the control thread, so
//! that a request pays nothing for it. Durations are as exact as the buckets of the histogram, as
//! everywhere in Prometheus: a quantile is interpolated inside its bucket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::Metric;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::Metrics;

const TICK: Duration = Duration::from_secs(10);
/// With one sample a tick: five minutes.
const SAMPLES: usize = 31;

/// The last minutes of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lately {
    /// How many seconds this covers: up to 300, fewer after a start.
    pub seconds: f64,
    /// Requests that ended.
    pub requests: u64,
    /// Those of them that were answered with 5xx.
    pub errors: u64,
    /// Those that broke off, by either side.
    pub aborted: u64,
    /// Seconds that half of them took at most; `None`: there were none.
    pub p50: Option<f64>,
    /// The same of 95 of 100.
    pub p95: Option<f64>,
    /// The same of 99 of 100.
    pub p99: Option<f64>,
}

/// The samples.
pub struct Recent {
    metrics: Arc<Metrics>,
    ring: Mutex<VecDeque<Sample>>,
}

struct Sample {
    at: Instant,
    services: BTreeMap<String, Counts>,
}

/// Totals since the start.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    requests: u64,
    errors: u64,
    aborted: u64,
    /// Upper bounds in seconds, and how many requests took no longer.
    buckets: Vec<(f64, u64)>,
}

impl Recent {
    /// Counts from now on.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let first = sample(&metrics);
        Self {
            metrics,
            ring: Mutex::new(VecDeque::from([first])),
        }
    }

    /// Takes samples for ever.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let sample = sample(&self.metrics);
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.len() == SAMPLES {
                ring.pop_front();
            }
            ring.push_back(sample);
        }
    }

    /// The last minutes, by the name of the service; services without any request are left out.
    pub fn by_service(&self) -> BTreeMap<String, Lately> {
        let now = sample(&self.metrics);
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(oldest) = ring.front() else {
            return BTreeMap::new();
        };
        let seconds = now.at.saturating_duration_since(oldest.at).as_secs_f64();
        let lately = |(service, counts): (String, Counts)| {
            let none = Counts::default();
            let before = oldest.services.get(&service).unwrap_or(&none);
            let lately = counts.since(before).lately(seconds);
            (service, lately)
        };
        now.services.into_iter().map(lately).collect()
    }
}

/// Reads the counters.
fn sample(metrics: &Metrics) -> Sample {
    let mut services: BTreeMap<String, Counts> = BTreeMap::new();
    for family in metrics.requests.collect() {
        for metric in family.get_metric() {
            let counts = services.entry(label(metric, "service")).or_default();
            let count = whole(metric.get_counter().get_value());
            counts.requests += count;
            match label(metric, "code_class").as_str() {
                "5xx" => counts.errors += count,
                "abort" => counts.aborted += count,
                _ => {}
            }
        }
    }
    for family in metrics.request_seconds.collect() {
        for metric in family.get_metric() {
            let counts = services.entry(label(metric, "service")).or_default();
            let buckets = metric.get_histogram().get_bucket();
            counts.buckets.resize(buckets.len(), (0.0, 0));
            for (sum, bucket) in counts.buckets.iter_mut().zip(buckets) {
                *sum = (bucket.upper_bound(), sum.1 + bucket.cumulative_count());
            }
        }
    }
    Sample {
        at: Instant::now(),
        services,
    }
}

fn label(metric: &Metric, name: &str) -> String {
    let mut labels = metric.get_label().iter();
    let found = labels.find(|label| label.name() == name);
    found.map_or_else(String::new, |label| label.value().to_owned())
}

/// A counter of whole numbers, as the library gives it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, not negative and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

impl Counts {
    fn since(&self, before: &Self) -> Self {
        let earlier = |index: usize| before.buckets.get(index).map_or(0, |(_, count)| *count);
        let buckets = self.buckets.iter().enumerate();
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            aborted: self.aborted.saturating_sub(before.aborted),
            buckets: buckets
                .map(|(index, (bound, count))| (*bound, count.saturating_sub(earlier(index))))
                .collect(),
        }
    }

    fn lately(&self, seconds: f64) -> Lately {
        Lately {
            seconds,
            requests: self.requests,
            errors: self.errors,
            aborted: self.aborted,
            p50: self.quantile(0.5),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
        }
    }

    /// Seconds that this share of the requests took at most; beyond the last finite bound, that
    /// bound.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.buckets.last().filter(|(_, count)| *count > 0)?.1;
        let rank = share * all as f64;
        let mut below = (0.0, 0);
        for &(bound, count) in &self.buckets {
            if count as f64 >= rank {
                if bound.is_infinite() || count == below.1 {
                    return Some(below.0);
                }
                let within = (rank - below.1 as f64) / (count - below.1) as f64;
                return Some(below.0 + (bound - below.0) * within);
            }
            below = (bound, count);
        }
        Some(below.0)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        type Row<'a> = (&'a [(f64, u64)], f64, Option<f64>);
        let rows: [Row<'_>; 7] = [
            (&[], 0.5, None),
            (&[(1.0, 0), (2.0, 0)], 0.5, None),
            (&[(1.0, 10)], 0.5, Some(0.5)),
            (&[(1.0, 0), (2.0, 10)], 0.5, Some(1.5)),
            (&[(1.0, 90), (2.0, 100)], 0.95, Some(1.5)),
            (&[(1.0, 100), (2.0, 100)], 0.99, Some(0.99)),
            (&[(1.0, 1), (f64::INFINITY, 100)], 0.99, Some(1.0)),
        ];
        for (buckets, share, want) in rows {
            let counts = Counts {
                buckets: buckets.to_vec(),
                ..Counts::default()
            };
            assert_eq!(counts.quantile(share), want, "{buckets:?} {share}");
        }
    }

    fn ended(metrics: &Metrics, class: &str, seconds: f64) {
        let labels = ["ollama", "m1", "chat", class];
        metrics.requests.with_label_values(&labels).inc();
        let labels = ["ollama", "m1", "chat"];
        let histogram = metrics.request_seconds.with_label_values(&labels);
        histogram.observe(seconds);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_five_minutes_is_forgotten() {
        let metrics = Arc::new(Metrics::new());
        let recent = Arc::new(Recent::new(Arc::clone(&metrics)));
        let running = tokio::spawn(Arc::clone(&recent).run());
        assert!(recent.by_service().is_empty());
        ended(&metrics, "5xx", 40.0);
        ended(&metrics, "2xx", 0.004);
        let now = recent.by_service().remove("ollama").unwrap();
        assert_eq!((now.requests, now.errors, now.aborted), (2, 1, 0));
        assert!(now.p50.is_some_and(|p50| p50 <= 0.005), "{now:?}");
        assert!(now.p99.is_some_and(|p99| p99 > 30.0), "{now:?}");
        for _ in 0..40 {
            advance(TICK).await;
            tokio::task::yield_now().await;
        }
        ended(&metrics, "abort", 0.3);
        let later = recent.by_service().remove("ollama").unwrap();
        assert_eq!((later.requests, later.errors, later.aborted), (1, 0, 1));
        assert!((299.0..=310.0).contains(&later.seconds), "{later:?}");
        running.abort();
    }
}
