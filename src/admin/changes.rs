//! Notices changes and tells of each once: to the history, to listeners, to log and metrics.
//!
//! Decides nothing: requests read the schedule themselves, and this only tells of it. So a tick
//! that comes late, after a freeze, still tells of each change once. What flips there and back
//! between two looks is not told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::info;

use super::Admin;
use super::history::Change;
use super::status::{self, Status};

const LOOK: Duration = Duration::from_secs(1);
/// While a page listens.
const LOOK_WATCHED: Duration = Duration::from_millis(250);

/// What a change is about: its kind, service and backend.
type About = (&'static str, Option<String>, Option<String>);

/// What is so now, and why.
#[derive(Clone, Debug, Default)]
struct Held {
    value: String,
    cause: String,
    by: Option<String>,
    reason: Option<String>,
}

/// Everything of which changes are told.
#[derive(Debug, Default)]
struct Picture(BTreeMap<About, Held>);

/// Watches for ever.
pub async fn watch(admin: Arc<Admin>) {
    let mut known: Option<Picture> = None;
    let (mut reloads, mut tunnel) = (admin.store.changes(), admin.tailnet.changes());
    loop {
        admin.recent.look(&admin.metrics);
        let mut now = Picture::of(&admin.status());
        if let Some(before) = &known {
            now.keep_serving(before);
            for change in now.since(before) {
                admin.tell(change);
            }
        }
        known = Some(now);
        let look = if admin.events.are_heard() {
            LOOK_WATCHED
        } else {
            LOOK
        };
        tokio::select! {
            () = sleep(look) => {}
            _ = reloads.changed() => {}
            _ = tunnel.changed() => {}
        }
    }
}

impl Admin {
    fn tell(&self, mut change: Change) {
        change.time = status::show_time(&self.store.live().snapshot, self.clock.now());
        let Change {
            from, to, cause, ..
        } = &change;
        let service = change.service.as_deref().unwrap_or("none");
        let (by, reason) = (change.by.as_deref(), change.reason.as_deref());
        match change.kind.as_str() {
            "active" => {
                info!(%service, %from, %to, cause, by, reason, "active backend changed");
                let labels = [service, cause];
                self.metrics.switches.with_label_values(&labels).inc();
            }
            "writes" => info!(%service, %from, %to, cause, by, reason, "owner of writes changed"),
            "serving" => {
                info!(%service, %from, %to, cause, "serving backends changed");
                let labels = [service, cause];
                self.metrics
                    .serving_changes
                    .with_label_values(&labels)
                    .inc();
            }
            "switch" => info!(%service, %from, %to, cause, reason, "held switch changed"),
            "drain" => info!(backend = change.backend, %to, by, reason, "drain changed"),
            // Whoever makes these logs them.
            _ => {}
        }
        let change = self.history.add(change);
        self.events.tell(change);
    }
}

impl Picture {
    fn of(status: &Status) -> Self {
        let mut all = Self::default();
        for service in &status.services {
            all.service(status, service);
        }
        for order in status.orders.iter().filter(|order| order.kind == "drain") {
            all.hold(
                ("drain", None, Some(order.backend.clone())),
                Held {
                    value: if order.holds { "drained" } else { "" }.to_owned(),
                    cause: if order.holds { "order" } else { "ended" }.to_owned(),
                    by: order.by.clone(),
                    reason: order.reason.clone(),
                },
            );
        }
        let word = |value: &str, cause: &str, reason: &str| Held {
            value: value.to_owned(),
            cause: cause.to_owned(),
            by: None,
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        };
        let tailnet = &status.tailnet;
        let tunnel = word(&tailnet.state, &tailnet.state, &tailnet.detail);
        all.hold(("tunnel", None, None), tunnel);
        for repair in &tailnet.repairs {
            let about = (
                "repair",
                None,
                Some(repair.repair.clone() + " " + &repair.result),
            );
            all.hold(
                about,
                word(&repair.count.to_string(), &repair.result, &repair.repair),
            );
        }
        let config = match &status.config.rejected {
            Some(rejected) => {
                let problems = format!("{} problems", rejected.count);
                word(&format!("rejected {}", rejected.at), "rejected", &problems)
            }
            None => word(
                &format!("generation {}", status.config.generation),
                "applied",
                &status.config.changes.join("; "),
            ),
        };
        all.hold(("config", None, None), config);
        all
    }

    fn service(&mut self, status: &Status, service: &status::Service) {
        for (kind, named) in [("active", &service.active), ("writes", &service.writes)] {
            let pin = (status.orders.iter()).find(|order| {
                let for_it = |all: &Vec<String>| all.contains(&service.name);
                order.kind == "pin"
                    && order.holds
                    && named.why == "pin"
                    && order.services.as_ref().is_none_or(for_it)
            });
            self.hold(
                (kind, Some(service.name.clone()), None),
                Held {
                    value: named.backend.clone(),
                    cause: named.why.clone(),
                    by: pin.and_then(|pin| pin.by.clone()),
                    reason: pin
                        .and_then(|pin| pin.reason.clone())
                        .or(Some(named.sentence.clone())),
                },
            );
        }
        self.switch(service);
        let active = &service.active.backend;
        let cause = if service.serving.contains(active) {
            "active"
        } else {
            let of_it = service.backends.iter().find(|one| one.name == *active);
            of_it.map_or(
                "none",
                |one| if one.drained { "drained" } else { &one.verdict },
            )
        };
        self.hold(
            ("serving", Some(service.name.clone()), None),
            Held {
                value: service.serving.join(", "),
                cause: cause.to_owned(),
                ..Held::default()
            },
        );
        for backend in &service.backends {
            let about = (
                "verdict",
                Some(service.name.clone()),
                Some(backend.name.clone()),
            );
            let failed = (backend.verdict != "up").then_some(backend.last_error.as_ref());
            self.hold(
                about,
                Held {
                    value: backend.verdict.clone(),
                    cause: backend.evidence.clone(),
                    by: None,
                    reason: failed.flatten().map(|error| error.text.clone()),
                },
            );
        }
    }

    fn switch(&mut self, service: &status::Service) {
        let to = service.held_to.clone().unwrap_or_default();
        self.hold(
            ("switch", Some(service.name.clone()), None),
            Held {
                cause: if to.is_empty() { "released" } else { "held" }.to_owned(),
                reason: service.waits(),
                value: to,
                by: None,
            },
        );
    }

    fn hold(&mut self, about: About, held: Held) {
        self.0.insert(about, held);
    }

    /// Nobody serves while nobody asks: that is no change.
    fn keep_serving(&mut self, before: &Self) {
        for (about, held) in &mut self.0 {
            let idle = about.0 == "serving" && held.value.is_empty();
            if let Some(known) = before.0.get(about).filter(|_| idle) {
                held.value.clone_from(&known.value);
            }
        }
    }

    /// What is different from `before`. A service or backend that is new has no before.
    fn since(&self, before: &Self) -> Vec<Change> {
        let nothing = Held::default();
        let now = self.0.iter().filter_map(|(about, held)| {
            let was = match (before.0.get(about), about.0) {
                (Some(was), _) => was,
                (None, "drain" | "repair") => &nothing,
                (None, _) => return None,
            };
            (was.value != held.value).then(|| change(about, &was.value, held))
        });
        let gone = before.0.iter().filter(|(about, held)| {
            about.0 == "drain" && !held.value.is_empty() && !self.0.contains_key(*about)
        });
        let ended = Held {
            cause: "taken-back".to_owned(),
            ..Held::default()
        };
        now.chain(gone.map(|(about, was)| change(about, &was.value, &ended)))
            .collect()
    }
}

fn change(about: &About, from: &str, held: &Held) -> Change {
    let (kind, service, backend) = about.clone();
    let what: Vec<_> = [service.as_deref(), backend.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let or_none = |text: &str| if text.is_empty() { "none" } else { text }.to_owned();
    let by = held.by.as_ref().map(|by| format!(" by {by}"));
    let reason = held.reason.as_ref().map(|reason| format!(": {reason}"));
    let text = format!(
        "{kind} {}: {} -> {} ({}{}){}",
        what.join(" on "),
        or_none(from),
        or_none(&held.value),
        held.cause,
        by.unwrap_or_default(),
        reason.unwrap_or_default(),
    );
    Change {
        kind: kind.to_owned(),
        service,
        backend,
        from: from.to_owned(),
        to: held.value.clone(),
        cause: held.cause.clone(),
        by: held.by.clone(),
        reason: held.reason.clone(),
        text: text.replace(" :", ":"),
        ..Change::default()
    }
}
