//! The request flow, top-down: accept -> match route -> read effect -> plan -> dial -> forward ->
//! stream -> record.
//!
//! Runs on the data thread. Invariants: a request holds the snapshot it began with; `again` is
//! the only place that decides to try again; a body, a query or a secret never leaves towards a
//! log, a metric or an error text.

pub mod accept;
mod access;
pub mod again;
mod attempt;
mod beat;
#[doc(hidden)]
pub mod bench;
mod call;
mod cloud;
mod connect;
pub mod door;
mod embeddings;
mod fields;
mod flow;
mod gate;
mod grpc;
pub mod head_timer;
mod headers;
mod payload;
mod peer;
mod places;
mod queue;
pub mod record;
mod respond;
mod rewrite;
mod rules;
mod stream;
mod token;
mod trace;
mod tunnel;
mod worked;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::tailnet::Tailnet;
use crate::words::clock::{Clock, Pulse};
use payload::Budget;
use record::AccessLog;

/// What all requests share.
pub struct Proxy {
    store: Arc<Store>,
    tailnet: Arc<Tailnet>,
    metrics: Arc<Metrics>,
    log: AccessLog,
    clock: Clock,
    budget: Budget,
    ids: record::Ids,
    pulse: Pulse,
    beats: beat::Beats,
}

impl Proxy {
    /// A proxy over these owners.
    pub fn new(
        store: Arc<Store>,
        tailnet: Arc<Tailnet>,
        metrics: Arc<Metrics>,
        log: AccessLog,
        clock: Clock,
    ) -> Self {
        let (budget, ids) = (Budget::new(), record::Ids::new());
        Self {
            store,
            tailnet,
            metrics,
            log,
            clock,
            budget,
            ids,
            pulse: Pulse::new(clock),
            beats: beat::Beats::new(),
        }
    }

    /// Beats for those who wait, for as long as it is polled. Once on the data thread.
    pub async fn beat(&self) {
        self.beats.run().await;
    }

    /// After a freeze idle connections may be dead without knowing: drops them. Whoever comes
    /// first after it, a request or the beat of the data thread, sees to it.
    fn look_for_a_freeze(&self, wall: Timestamp, now: Instant) {
        if self.pulse.beat_at(wall, now).is_some() {
            for endpoint in self.store.live().endpoints.iter().flatten() {
                endpoint.forget_connections();
            }
        }
    }
}
