//! `/status`: which backend is active, which one serves, and why. Built from the owners each time
//! it is asked; the very shape that `tailhop status --json` prints.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::config::snapshot::{BackendId, ServiceId, Snapshot};
use crate::endpoint::live::Endpoint;
use crate::plan::orders::{self, Active};
use crate::plan::schedule::next_switch;
use crate::reload::store::{Live, short};
use crate::words::effect::Effect;
use crate::words::verdict::Verdict;

/// A backend serves if it answered a request within this time.
pub(super) const SERVING: Duration = Duration::from_mins(1);

/// The whole answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name and version of this shape; fields are only ever added.
    pub schema: String,
    /// Version of tailhop.
    pub version: String,
    /// Which of several instances this is.
    pub instance: String,
    /// When this answer was made, in the schedule's zone.
    pub time: String,
    /// When the instance started.
    pub started: String,
    /// One sentence a service, for people.
    pub summary: Vec<String>,
    /// The configuration in use.
    pub config: Config,
    /// The way into the tailnet.
    pub tailnet: Tailnet,
    /// By service.
    pub services: Vec<Service>,
    /// The processes that it started; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
}

/// A process that the instance started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Child {
    /// `app` or `tailscaled`.
    pub name: String,
    /// `starting`, `running`, `waiting` for its next start, or `ended`.
    pub state: String,
    /// Its number while it runs.
    pub pid: Option<u32>,
    /// Since when.
    pub since: String,
    /// How often it was started again.
    pub restarts: u64,
    /// What is wrong with it and what to do; empty when nothing is.
    pub note: String,
    /// How it ended the last time.
    pub last_exit: Option<LastExit>,
}

/// How a process ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastExit {
    /// When.
    pub at: String,
    /// Why.
    pub reason: String,
    /// The most memory that it was seen to hold.
    pub peak_memory_bytes: Option<u64>,
    /// The last lines that it wrote.
    pub words: Vec<String>,
}

/// The configuration in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The file.
    pub path: String,
    /// The first eight digits of the hash of its content.
    pub hash: String,
    /// Counts the configurations that were taken into use.
    pub generation: u64,
    /// Whether it is the copy that stands in for an invalid or missing file.
    pub stand_in: bool,
    /// When it was taken into use.
    pub applied_at: String,
    /// Why the one on disk is not in use.
    pub rejected: Option<Rejected>,
    /// What is odd about it and still valid.
    pub warnings: Vec<String>,
}

/// Why the configuration on disk is not in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    /// When it was looked at.
    pub at: String,
    /// How many problems it has.
    pub count: usize,
    /// All of them.
    pub text: String,
}

/// The way into the tailnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tailnet {
    /// `starting`, `up`, `repairing` or `off`.
    pub state: String,
    /// The dial way in use.
    pub way: Option<String>,
    /// tailscaled's own word for its state.
    pub tailscaled: String,
    /// MagicDNS suffix.
    pub suffix: Option<String>,
    /// What is wrong and what to do.
    pub detail: String,
    /// Since when.
    pub since: String,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its path prefixes.
    pub routes: Vec<String>,
    /// The address of its own, without a prefix.
    #[serde(default)]
    pub listen: Option<String>,
    /// Whom orders and schedule name for reads and inference.
    pub active: Named,
    /// Whom they name for writes.
    pub writes: Named,
    /// Who answered in the last 60 s.
    pub serving: Vec<String>,
    /// The next planned switch.
    pub next_switch: Option<NextSwitch>,
    /// Whether `ACTIVE_BACKEND` contradicts the schedule.
    pub contradicts_schedule: bool,
    /// By backend that offers it.
    pub backends: Vec<Backend>,
}

/// A backend that orders or schedule name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The backend.
    pub backend: String,
    /// Who says so: `active-backend`, `pin`, `schedule`, `default` or `only-offer`.
    pub why: String,
    /// The same in a sentence.
    pub sentence: String,
}

/// A planned switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NextSwitch {
    /// When.
    pub at: String,
    /// To which backend.
    pub to: String,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// The backend.
    pub name: String,
    /// Its origin, if it is given by one.
    #[serde(default)]
    pub url: Option<String>,
    /// Its verdict.
    pub verdict: String,
    /// What it rests on.
    #[serde(default)]
    pub evidence: String,
    /// Since when; `None`: nothing was seen of it yet.
    pub since: Option<String>,
    /// The last failure, which may be long over.
    pub last_error: Option<LastError>,
    /// Whether no new work goes to it.
    pub drained: bool,
    /// Requests that it is working on.
    pub in_flight: i64,
}

/// A failure and when it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastError {
    /// What failed.
    pub text: String,
    /// When.
    pub at: String,
}

impl Admin {
    pub(super) fn status(&self) -> Status {
        let live = self.store.live();
        let view = View {
            live: &live,
            now: self.clock.now(),
        };
        let services: Vec<_> = live
            .snapshot
            .service_ids()
            .map(|id| view.service(id))
            .collect();
        Status {
            schema: "tailhop/status/v1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            time: view.show(view.now),
            started: view.show(self.started),
            summary: services.iter().map(sentence).collect(),
            config: self.config(&view),
            tailnet: self.tunnel(&view),
            services,
            children: (self.children.children().into_iter())
                .map(|child| child.show(|at| view.show(at)))
                .collect(),
        }
    }

    fn config(&self, view: &View<'_>) -> Config {
        let reloads = self.store.reloads();
        let origin = &view.live.snapshot.origin;
        Config {
            path: origin.path.display().to_string(),
            hash: short(&origin.hash).to_owned(),
            generation: view.live.snapshot.generation,
            stand_in: origin.stand_in,
            applied_at: view.show(reloads.applied_at),
            rejected: reloads.rejected.map(|rejection| Rejected {
                at: view.show(rejection.at),
                count: rejection.count,
                text: rejection.text,
            }),
            warnings: view
                .live
                .snapshot
                .warnings
                .iter()
                .map(|w| w.message.clone())
                .collect(),
        }
    }

    fn tunnel(&self, view: &View<'_>) -> Tailnet {
        let seen = self.tailnet.view();
        Tailnet {
            state: self.tailnet.state().as_str().to_owned(),
            way: seen.way.map(|way| way.as_str().to_owned()),
            tailscaled: seen.backend_state.clone(),
            suffix: seen.suffix.clone(),
            detail: seen.detail.clone(),
            since: view.show(seen.since),
        }
    }
}

/// One configuration at one instant.
struct View<'a> {
    live: &'a Live,
    now: Timestamp,
}

impl View<'_> {
    fn service(&self, id: ServiceId) -> Service {
        let snapshot = &self.live.snapshot;
        let service = snapshot.service(id);
        let named = |effect| self.named(&orders::active(snapshot, id, effect, self.now));
        let endpoints = &self.live.endpoints[id.0];
        let routes = snapshot.routes.iter().filter(|route| route.service == id);
        Service {
            name: service.name.to_string(),
            kind: service.kind.to_string(),
            routes: routes.map(|route| route.path.clone()).collect(),
            listen: service.listen.map(|address| address.to_string()),
            active: named(Effect::Read),
            writes: named(Effect::Write),
            serving: endpoints
                .iter()
                .filter(|e| serves(e))
                .map(|e| e.key.backend.to_string())
                .collect(),
            next_switch: next_switch(snapshot, id, self.now).map(|switch| NextSwitch {
                at: self.show(switch.at),
                to: snapshot.backend(switch.to).name.to_string(),
            }),
            contradicts_schedule: orders::contradicts_schedule(snapshot, id, self.now),
            backends: (service.backends.iter().zip(endpoints))
                .map(|(backend, endpoint)| self.backend(*backend, endpoint))
                .collect(),
        }
    }

    fn named(&self, active: &Active) -> Named {
        let snapshot = &self.live.snapshot;
        Named {
            backend: snapshot.backend(active.backend).name.to_string(),
            why: active.why.as_str().to_owned(),
            sentence: active.why.sentence(&snapshot.schedule.zone),
        }
    }

    fn backend(&self, id: BackendId, endpoint: &Endpoint) -> Backend {
        let judgement = endpoint.judgement();
        Backend {
            name: endpoint.key.backend.to_string(),
            url: endpoint.key.url.as_ref().map(|url| url.origin()),
            verdict: judgement.verdict.to_string(),
            evidence: judgement.evidence.to_string(),
            since: judgement.since.map(|since| self.show(since)),
            last_error: judgement.last_error.map(|(text, at)| LastError {
                text,
                at: self.show(at),
            }),
            drained: orders::drain(&self.live.snapshot, id, self.now).is_some(),
            in_flight: endpoint.handles.in_flight.get(),
        }
    }

    fn show(&self, at: Timestamp) -> String {
        show_time(&self.live.snapshot, at)
    }
}

/// An instant in the schedule's zone, to the second.
pub fn show_time(snapshot: &Snapshot, at: Timestamp) -> String {
    in_zone(&snapshot.schedule.zone, at)
}

fn in_zone(zone: &TimeZone, at: Timestamp) -> String {
    at.to_zoned(zone.clone())
        .strftime("%Y-%m-%dT%H:%M:%S%:z")
        .to_string()
}

pub(super) fn serves(endpoint: &Endpoint) -> bool {
    endpoint.served_ago().is_some_and(|ago| ago < SERVING)
}

/// Which backend is active, and what is the matter if it does not serve.
fn sentence(service: &Service) -> String {
    let Named {
        backend, sentence, ..
    } = &service.active;
    let mut text = format!("{}: {backend} is active ({sentence})", service.name);
    let active = service.backends.iter().find(|other| other.name == *backend);
    if active.is_some_and(|active| active.drained) {
        text += "; it is drained";
    }
    if let Some(active) = active.filter(|active| active.verdict != Verdict::Up.as_str()) {
        text += &format!("; it is {}", active.verdict);
        if let Some(error) = &active.last_error {
            text += &format!(" ({})", error.text);
        }
    }
    let others: Vec<_> = service
        .serving
        .iter()
        .filter(|name| *name != backend)
        .cloned()
        .collect();
    if !others.is_empty() {
        text += &format!("; {} answered in the last minute", others.join(", "));
    }
    if service.writes.backend != *backend {
        text += &format!(
            "; writes go to {} ({})",
            service.writes.backend, service.writes.sentence
        );
    }
    text
}
