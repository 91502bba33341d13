//! `/metrics`: sets the gauges of states from their owners, then prints all families.

use super::Admin;
use super::status::serves;
use crate::config::snapshot::ServiceId;
use crate::metrics::Metrics;
use crate::plan::orders::{self, Why};
use crate::plan::schedule::next_switch;
use crate::reload::store::Live;
use crate::words::effect::Effect;
use crate::words::verdict::{Tunnel, Verdict};
use jiff::Timestamp;

impl Admin {
    pub(super) fn metrics_text(&self) -> String {
        let live = self.store.live();
        // Services and backends that are gone must not linger.
        for gauges in [
            &self.metrics.verdict,
            &self.metrics.backend_up,
            &self.metrics.active,
            &self.metrics.serving,
            &self.metrics.idle_connections,
            &self.metrics.pin_active,
            &self.metrics.pin_contradiction,
            &self.metrics.peer_online,
            &self.metrics.peer_direct,
            &self.metrics.contradiction,
            &self.metrics.llm_loaded,
            &self.metrics.cache_entries,
            &self.metrics.cache_bytes,
            &self.metrics.switch_held,
            &self.metrics.required_missing,
            &self.metrics.queue_depth,
        ] {
            gauges.reset();
        }
        self.metrics.pin_expiry.reset();
        self.metrics.next_switch.reset();
        for service in live.snapshot.service_ids() {
            endpoints(&self.metrics, &live, service, self.clock.now());
            orders_of(&self.metrics, &live, service, self.clock.now());
            kept(&self.metrics, &live, service);
        }
        self.tunnel_gauges(&live);
        for child in self.children.children() {
            let gauge = self.metrics.child_up.with_label_values(&[child.name]);
            gauge.set(i64::from(child.state.is_up()));
        }
        self.metrics.text()
    }

    fn tunnel_gauges(&self, live: &Live) {
        let tunnel = self.tailnet.state();
        for state in Tunnel::ALL {
            let gauge = self.metrics.tunnel.with_label_values(&[state.as_str()]);
            gauge.set(i64::from(*state == tunnel));
        }
        self.metrics
            .key_expiry
            .set(seconds(self.tailnet.view().key_expiry));
        for backend in &live.snapshot.backends {
            if let Some((_, peer)) = self.tailnet.peer(&backend.host) {
                let labels = [backend.name.as_str()];
                let set = |gauges: &prometheus::IntGaugeVec, on: bool| {
                    gauges.with_label_values(&labels).set(i64::from(on));
                };
                set(&self.metrics.peer_online, peer.online);
                set(&self.metrics.peer_direct, peer.direct);
            }
        }
    }
}

fn kept(metrics: &Metrics, live: &Live, service: ServiceId) {
    let Some(cache) = live.cache(service) else {
        return;
    };
    let (entries, bytes) = cache.size();
    let labels = [live.snapshot.service(service).name.as_str()];
    for (gauges, value) in [
        (&metrics.cache_entries, entries),
        (&metrics.cache_bytes, bytes),
    ] {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        gauges.with_label_values(&labels).set(value);
    }
}

fn endpoints(metrics: &Metrics, live: &Live, service: ServiceId, now: Timestamp) {
    let active = live.active(service, Effect::Read, now).backend;
    let active = &live.snapshot.backend(active).name;
    let require = &live.snapshot.service(service).require;
    for endpoint in &live.endpoints[service.0] {
        let labels = [endpoint.key.service.as_str(), endpoint.key.backend.as_str()];
        let verdict = endpoint.verdict();
        if let Some(told) = endpoint.models.told() {
            let loaded = i64::try_from(told.catalogue.loaded.len()).unwrap_or(i64::MAX);
            let gauge = metrics.llm_loaded.with_label_values(&labels);
            gauge.set(loaded);
        }
        if !require.is_empty() {
            let missing = i64::try_from(endpoint.missing(require).len()).unwrap_or(i64::MAX);
            let gauge = metrics.required_missing.with_label_values(&labels);
            gauge.set(missing);
        }
        for state in Verdict::ALL {
            let gauge = metrics
                .verdict
                .with_label_values(&[labels[0], labels[1], state.as_str()]);
            gauge.set(i64::from(*state == verdict));
        }
        let set = |gauges: &prometheus::IntGaugeVec, on: bool| {
            gauges.with_label_values(&labels).set(i64::from(on));
        };
        set(&metrics.backend_up, verdict == Verdict::Up);
        set(&metrics.active, endpoint.key.backend == *active);
        set(&metrics.serving, serves(endpoint));
        let waiting = i64::try_from(endpoint.slots.busy().waiting).unwrap_or(i64::MAX);
        let depth = metrics.queue_depth.with_label_values(&labels);
        depth.set(waiting);
        let idle = [labels[0], labels[1], "idle"];
        let count = i64::try_from(endpoint.idle.len()).unwrap_or(i64::MAX);
        metrics.idle_connections.with_label_values(&idle).set(count);
    }
}

fn orders_of(metrics: &Metrics, live: &Live, service: ServiceId, now: Timestamp) {
    let snapshot = &live.snapshot;
    let labels = [snapshot.service(service).name.as_str()];
    let pin = orders::pin(snapshot, service, now);
    metrics
        .pin_active
        .with_label_values(&labels)
        .set(i64::from(pin.is_some()));
    metrics
        .pin_expiry
        .with_label_values(&labels)
        .set(seconds(pin.and_then(|pin| pin.until)));
    let next = next_switch(snapshot, service, now).map(|switch| switch.at);
    metrics
        .next_switch
        .with_label_values(&labels)
        .set(seconds(next));
    let contradicts = orders::pin_contradicts_schedule(snapshot, service, now);
    metrics
        .pin_contradiction
        .with_label_values(&labels)
        .set(i64::from(contradicts));
    let held = matches!(live.active(service, Effect::Read, now).why, Why::Held(_));
    metrics
        .switch_held
        .with_label_values(&labels)
        .set(i64::from(held));
    let contradicts = orders::contradicts_schedule(snapshot, service, now);
    metrics
        .contradiction
        .with_label_values(&labels)
        .set(i64::from(contradicts));
}

/// Seconds since 1970; 0: never.
fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_duration().as_secs_f64())
}
