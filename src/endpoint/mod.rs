//! The living endpoint: what is dialled, probed and pooled, and what is known of it.
//!
//! Owns everything that must outlive a snapshot: idle connections, verdicts, the lost signal and
//! metric handles. A reload reconciles endpoints, it never restarts them. Decides nothing: what
//! evidence means is `health`'s, where a request goes is `plan`'s.

pub mod budget;
pub mod connection;
pub mod dials;
pub mod idle;
pub mod inject;
pub mod live;
pub mod lost;
pub mod models;
pub mod pace;
pub mod session;
pub mod sessions;
pub mod slots;
pub mod stock;
pub mod work;

use std::sync::Arc;

use crate::config::snapshot::{Service, Snapshot};
use crate::metrics::Metrics;
use crate::words::names::BackendName;
use live::{Endpoint, Key, Machine};

/// The endpoints of a snapshot: one list a service, in the order of the service's backends.
pub type Endpoints = Vec<Vec<Arc<Endpoint>>>;

/// The endpoints that `snapshot` asks for: those of `before` that are still wanted, as they are,
/// and new ones. Those no longer wanted are retired: their requests finish, nothing new begins.
pub fn reconcile(snapshot: &Snapshot, before: &Endpoints, metrics: &Metrics) -> Endpoints {
    let old: Vec<&Arc<Endpoint>> = before.iter().flatten().collect();
    let machines = machines(snapshot, &old);
    let wanted: Endpoints = (snapshot.services.iter())
        .map(|service| {
            let keys = keys(snapshot, service);
            keys.map(|(key, place)| {
                let kept = old.iter().find(|endpoint| endpoint.key == key);
                kept.map_or_else(
                    || Arc::new(Endpoint::new(key, Arc::clone(&machines[place]), metrics)),
                    |kept| Arc::clone(kept),
                )
            })
            .collect()
        })
        .collect();
    for endpoint in old {
        if !wanted
            .iter()
            .flatten()
            .any(|kept| Arc::ptr_eq(kept, endpoint))
        {
            endpoint.retire();
        }
    }
    wanted
}

/// What each endpoint of a service is known by, with the place of its backend.
fn keys<'s>(
    snapshot: &'s Snapshot,
    service: &'s Service,
) -> impl Iterator<Item = (Key, usize)> + 's {
    service.backends.iter().map(|id| {
        let backend = snapshot.backend(*id);
        let key = Key {
            service: service.name.clone(),
            kind: service.kind,
            backend: backend.name.clone(),
            host: Arc::clone(&backend.host),
            port: backend.url.as_ref().map_or(service.port, |url| url.port),
            grpc_port: service.grpc_port,
            network: backend.network,
            url: backend.url.clone(),
        };
        (key, id.0)
    })
}

fn machines(snapshot: &Snapshot, old: &[&Arc<Endpoint>]) -> Vec<Arc<Machine>> {
    let of = |name: &BackendName, host: &Arc<str>| {
        let kept = (old.iter()).find(|old| old.key.backend == *name && old.key.host == *host);
        kept.map_or_else(
            || Arc::new(Machine::new(name.clone(), Arc::clone(host))),
            |kept| Arc::clone(&kept.machine),
        )
    };
    let backends = snapshot.backends.iter();
    backends
        .map(|backend| of(&backend.name, &backend.host))
        .collect()
}
