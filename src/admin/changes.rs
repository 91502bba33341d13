//! Notes when the active backend changes: one log line and one count a change.
//!
//! Decides nothing: requests read the schedule themselves, and this only tells of it. So a tick
//! that comes late, after a freeze, still tells of each change once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use crate::config::snapshot::ServiceId;
use crate::metrics::Metrics;
use crate::plan::orders;
use crate::reload::store::{Live, Store};
use crate::words::clock::Clock;
use crate::words::effect::Effect;
use crate::words::names::{BackendName, ServiceName};

const TICK: Duration = Duration::from_secs(1);

/// Who is active for a service, and by whose word.
type Named = (ServiceName, BackendName, &'static str);

/// Watches for ever.
pub async fn watch(store: Arc<Store>, metrics: Arc<Metrics>, clock: Clock) {
    let mut known: Vec<Named> = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reloads = store.changes();
    loop {
        let live = store.live();
        let now: Vec<_> = live
            .snapshot
            .service_ids()
            .map(|service| named(&live, service, clock))
            .collect();
        for (service, backend, cause) in &now {
            let before = known.iter().find(|(known, ..)| known == service);
            if let Some((_, from, _)) = before.filter(|(_, from, _)| from != backend) {
                info!(%service, %from, to = %backend, cause, "active backend changed");
                metrics
                    .switches
                    .with_label_values(&[service.as_str(), cause])
                    .inc();
            }
        }
        known = now;
        tokio::select! {
            _ = ticks.tick() => {}
            _ = reloads.changed() => {}
        }
    }
}

fn named(live: &Live, service: ServiceId, clock: Clock) -> Named {
    let active = orders::active(&live.snapshot, service, Effect::Read, clock.now());
    let backend = live.snapshot.backend(active.backend).name.clone();
    (
        live.snapshot.service(service).name.clone(),
        backend,
        active.why.as_str(),
    )
}
