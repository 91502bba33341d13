//! `/status`: which backend is active, which one serves, and why. Built from the owners each time
//! it is asked; the very shape that `tailhop status --json` prints.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::collections::{self, Collections};
use super::history::Change;
use super::models::{self, Models};
use super::recent::{self, Traffic};
use super::{Admin, shields};
use crate::config::snapshot::{
    Backend as BackendRules, BackendId, Service as ServiceRules, ServiceId, Snapshot,
};
use crate::endpoint::live::Endpoint;
use crate::plan::candidates::refusal;
use crate::plan::known::Stocked;
use crate::plan::orders::{self, Active, Why};
use crate::plan::schedule::next_switch;
use crate::plan::timeline::{What, timeline};
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
    /// Orders in the file, those that have ended too.
    #[serde(default)]
    pub orders: Vec<Order>,
    /// Switches to come, and orders that will end, in order.
    #[serde(default)]
    pub timeline: Vec<Coming>,
    /// The last changes, the latest first.
    #[serde(default)]
    pub history: Vec<Change>,
    /// The processes that it started; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Child>,
    /// What whoever asked may do; none where nobody asked.
    #[serde(default)]
    pub you: Option<You>,
}

/// Whether whoever asks may give orders, and what it would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct You {
    /// Whether they may, as they asked.
    pub may_order: bool,
    /// Under which name their orders stand in the file.
    pub name: Option<String>,
    /// Whether there is a token with which they may.
    pub token: bool,
    /// Why they may not, and what to do.
    pub why: Option<String>,
}

/// A pin, a drain, or `ACTIVE_BACKEND`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// `pin`, `drain` or `active-backend`.
    pub kind: String,
    /// The backend that it is about.
    pub backend: String,
    /// The services that it is for; none: all.
    pub services: Option<Vec<String>>,
    /// When it ends; none: when it is taken back.
    pub until: Option<String>,
    /// The same in seconds from now, for a countdown; 0: it has ended.
    pub seconds_left: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// Who ordered it.
    pub by: Option<String>,
    /// Whether it moves writes of data services.
    pub writes: bool,
    /// Whether writes of data services are refused as long as it holds.
    pub hold_writes: bool,
    /// Whether it holds now.
    pub holds: bool,
}

/// Something that will change by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Coming {
    /// When.
    pub at: String,
    /// `active`, `pin-ends` or `drain-ends`.
    pub kind: String,
    /// The service that it is about, if it is about one.
    pub service: Option<String>,
    /// Which backend was meant until then.
    pub from: Option<String>,
    /// Which one is from then on.
    pub to: Option<String>,
    /// Whether writes move, too.
    pub writes: bool,
    /// What `require` names and the backend that becomes active is known to lack: the switch is to
    /// be held, or, with `if_not_ready = "switch"`, comes all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// The whole in words.
    pub text: String,
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
    /// What was different in the last one that was taken, in words.
    #[serde(default)]
    pub changes: Vec<String>,
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
    /// Whether it lets nothing in from the tailnet; none: not known.
    #[serde(default)]
    pub shields_up: Option<bool>,
    /// What is the matter while it does.
    #[serde(default)]
    pub warning: Option<String>,
    /// Repairs of the tunnel since the start.
    #[serde(default)]
    pub repairs: Vec<Repair>,
    /// By backend that is a machine of the tailnet, while tailscaled says how it is reached.
    #[serde(default)]
    pub machines: Vec<Machine>,
}

/// How a machine is reached, as tailscaled says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The backend.
    pub backend: String,
    /// Whether the control plane has it connected.
    pub online: bool,
    /// Whether by a direct path; otherwise by relay, or not at all.
    pub direct: bool,
}

/// Repairs of one kind with one result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// `rebind`, `break-derp-conns` or `down-up`.
    pub repair: String,
    /// What came of it.
    pub result: String,
    /// How many.
    pub count: u64,
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
    /// The address of its gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_grpc: Option<String>,
    /// Whom orders and schedule name for reads and inference.
    pub active: Named,
    /// Whom they name for writes.
    pub writes: Named,
    /// Why writes are refused now, whoever owns them; none: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_refused: Option<String>,
    /// Who answered in the last 60 s.
    pub serving: Vec<String>,
    /// The next planned switch.
    pub next_switch: Option<NextSwitch>,
    /// Whether `ACTIVE_BACKEND` contradicts the schedule.
    pub contradicts_schedule: bool,
    /// Whom the switch names that is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_to: Option<String>,
    /// By backend that offers it.
    pub backends: Vec<Backend>,
    /// Requests that backends are working on.
    #[serde(default)]
    pub in_flight: i64,
    /// How it did in the last minutes.
    #[serde(default)]
    pub recent: Traffic,
    /// Models that are not the same on all backends that have one of that name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models_differ: Vec<String>,
}

/// A backend that orders or schedule name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The backend.
    pub backend: String,
    /// Who says so: `active-backend`, `pin`, `schedule`, `held`, `writes-stay`, `default` or
    /// `only-offer`.
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
    /// What `require` names and it is known to lack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
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
    /// Its models, of kind ollama; left out: it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Models>,
    /// Its collections, of kind qdrant; left out: it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collections: Option<Collections>,
    /// What `require` names and it is known to lack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// It did not tell yet whether it has what `require` names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaited: bool,
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
            .map(|id| self.service(&view, id))
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
            orders: view.orders(),
            timeline: comings(&live.snapshot, view.now, |service, to| {
                view.lacks(service, to)
            }),
            history: self.history.latest(),
            you: None,
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
            rejected: reloads.rejected.as_ref().map(|rejection| Rejected {
                at: view.show(rejection.at),
                count: rejection.count,
                text: rejection.text.clone(),
            }),
            warnings: view
                .live
                .snapshot
                .warnings
                .iter()
                .map(|w| w.message.clone())
                .collect(),
            changes: reloads
                .applied
                .back()
                .map_or(Vec::new(), |last| last.changes.clone()),
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
            shields_up: self.shields.up(),
            warning: (self.shields.up() == Some(false)
                && view.live.snapshot.admin.tailnet.is_empty())
            .then(|| shields::WARNING.to_owned()),
            repairs: self.repairs(),
            machines: self.machines(&view.live.snapshot),
        }
    }

    fn machines(&self, snapshot: &Snapshot) -> Vec<Machine> {
        let known = |backend: &BackendRules| {
            let (_, peer) = self.tailnet.peer(&backend.host)?;
            Some(Machine {
                backend: backend.name.to_string(),
                online: peer.online,
                direct: peer.direct,
            })
        };
        snapshot.backends.iter().filter_map(known).collect()
    }

    pub(super) fn repairs(&self) -> Vec<Repair> {
        let mut repairs: Vec<_> = recent::counted(&self.metrics.repairs)
            .map(|(labels, count)| Repair {
                repair: labels.get("repair").cloned().unwrap_or_default(),
                result: labels.get("result").cloned().unwrap_or_default(),
                count,
            })
            .collect();
        repairs
            .sort_by(|one, other| (&one.repair, &one.result).cmp(&(&other.repair, &other.result)));
        repairs
    }

    fn service(&self, view: &View<'_>, id: ServiceId) -> Service {
        let name = view.live.snapshot.service(id).name.as_str();
        Service {
            recent: self.recent.traffic(&self.metrics, name),
            ..view.service(id)
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
        let named = |effect| self.named(&self.live.active(id, effect, self.now));
        let endpoints = &self.live.endpoints[id.0];
        let routes = snapshot.routes.iter().filter(|route| route.service == id);
        Service {
            name: service.name.to_string(),
            kind: service.kind.to_string(),
            routes: routes.map(|route| route.path.clone()).collect(),
            listen: service.listen.map(|address| address.to_string()),
            listen_grpc: service.listen_grpc.map(|address| address.to_string()),
            active: named(Effect::Read),
            writes: named(Effect::Write),
            writes_refused: refusal(snapshot, id, Effect::Write, self.now)
                .map(|why| why.sentence().to_owned()),
            serving: endpoints
                .iter()
                .filter(|e| serves(e))
                .map(|e| e.key.backend.to_string())
                .collect(),
            next_switch: next_switch(snapshot, id, self.now).map(|switch| NextSwitch {
                at: self.show(switch.at),
                to: snapshot.backend(switch.to).name.to_string(),
                lacks: self.lacks(id, switch.to),
            }),
            contradicts_schedule: orders::contradicts_schedule(snapshot, id, self.now),
            held_to: self.held_to(id),
            backends: (service.backends.iter().zip(endpoints))
                .map(|(backend, endpoint)| self.backend(service, *backend, endpoint))
                .collect(),
            in_flight: endpoints.iter().map(|e| e.handles.in_flight.get()).sum(),
            recent: Traffic::default(),
            models_differ: models::differ(endpoints),
        }
    }

    /// `ACTIVE_BACKEND` first, as it beats the others.
    fn orders(&self) -> Vec<Order> {
        let snapshot = &self.live.snapshot;
        let name = |id: BackendId| snapshot.backend(id).name.to_string();
        let emergency = snapshot.active_backend.map(|id| Order {
            kind: "active-backend".to_owned(),
            writes: true,
            ..self.order("active-backend", name(id), None)
        });
        let pins = snapshot.pins.iter().map(|pin| {
            let named = |id: &ServiceId| snapshot.service(*id).name.to_string();
            Order {
                services: (pin.services.as_ref()).map(|ids| ids.iter().map(named).collect()),
                reason: pin.reason.clone(),
                by: pin.by.clone(),
                writes: pin.writes,
                hold_writes: pin.hold_writes,
                ..self.order("pin", name(pin.to), pin.until)
            }
        });
        let drains = snapshot.backends.iter().filter_map(|backend| {
            let drain = backend.drain.as_ref()?;
            Some(Order {
                reason: drain.reason.clone(),
                by: drain.by.clone(),
                ..self.order("drain", backend.name.to_string(), drain.until)
            })
        });
        emergency.into_iter().chain(pins).chain(drains).collect()
    }

    fn order(&self, kind: &str, backend: String, until: Option<Timestamp>) -> Order {
        let left = until.map(|until| until.duration_since(self.now).as_secs());
        Order {
            kind: kind.to_owned(),
            backend,
            services: None,
            until: until.map(|until| self.show(until)),
            seconds_left: left.map(|left| u64::try_from(left).unwrap_or(0)),
            reason: None,
            by: None,
            writes: false,
            hold_writes: false,
            holds: until.is_none_or(|until| self.now < until),
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

    fn backend(&self, service: &ServiceRules, id: BackendId, endpoint: &Endpoint) -> Backend {
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
            models: models::of(endpoint, |at| self.show(at)),
            collections: collections::of(endpoint, |at| self.show(at)),
            lacks: endpoint.missing(&service.require),
            awaited: endpoint.stocked(&service.require) == Stocked::Awaited,
        }
    }

    /// Whom the switch names that is held, if one is.
    fn held_to(&self, service: ServiceId) -> Option<String> {
        let snapshot = &self.live.snapshot;
        let held = self.live.active(service, Effect::Read, self.now);
        let to = orders::by_schedule(snapshot, service, self.now).backend;
        matches!(held.why, Why::Held(_)).then(|| snapshot.backend(to).name.to_string())
    }

    /// What `require` names and a backend is known to lack.
    fn lacks(&self, service: ServiceId, backend: BackendId) -> Vec<String> {
        let require = &self.live.snapshot.service(service).require;
        let endpoint = self.live.endpoint(service, backend);
        endpoint.map_or_else(Vec::new, |endpoint| endpoint.missing(require))
    }

    fn show(&self, at: Timestamp) -> String {
        show_time(&self.live.snapshot, at)
    }
}

/// What comes, in words; `lacks` has what a backend is known to lack of what a service requires.
pub fn comings(
    snapshot: &Snapshot,
    now: Timestamp,
    lacks: impl Fn(ServiceId, BackendId) -> Vec<String>,
) -> Vec<Coming> {
    let name = |id: BackendId| snapshot.backend(id).name.to_string();
    let coming = timeline(snapshot, now).into_iter().map(|one| {
        let nothing = Coming {
            at: show_time(snapshot, one.at),
            kind: String::new(),
            service: None,
            from: None,
            to: None,
            writes: false,
            lacks: Vec::new(),
            text: String::new(),
        };
        match one.what {
            What::Active {
                service,
                from,
                to,
                writes,
            } => {
                let planned = matches!(to.why, Why::Schedule(_));
                let lacks = if planned {
                    lacks(service, to.backend)
                } else {
                    Vec::new()
                };
                let rules = snapshot.service(service);
                let service = rules.name.to_string();
                let (from, to, why) = (name(from), name(to.backend), to.why.as_str());
                let moved = if writes { "" } else { ", writes stay" };
                let but = match (lacks.is_empty(), rules.holds_switch) {
                    (true, _) => String::new(),
                    (_, true) => format!("; to be held: {to} lacks {}", lacks.join(", ")),
                    (_, false) => format!("; {to} lacks {}", lacks.join(", ")),
                };
                Coming {
                    kind: "active".to_owned(),
                    text: format!("{service}: {from} -> {to} ({why}{moved}){but}"),
                    lacks,
                    service: Some(service),
                    from: Some(from),
                    to: Some(to),
                    writes,
                    ..nothing
                }
            }
            What::PinEnds(to) => Coming {
                kind: "pin-ends".to_owned(),
                text: format!("the pin to {} ends, and it stays active", name(to)),
                to: Some(name(to)),
                ..nothing
            },
            What::DrainEnds(to) => Coming {
                kind: "drain-ends".to_owned(),
                text: format!("{} takes work again", name(to)),
                to: Some(name(to)),
                ..nothing
            },
        }
    });
    coming.collect()
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

impl Service {
    /// Which switch is held since its date or moves reads alone, and what is to be done.
    pub fn waits(&self) -> Option<String> {
        let named = |name: &str| self.backends.iter().find(|backend| backend.name == name);
        let (active, writes) = (&self.active, &self.writes);
        if active.why == "held" {
            let to = self.held_to.as_ref()?;
            let target = named(to)?;
            let what = if target.lacks.is_empty() {
                format!("{to} did not tell yet what it has")
            } else {
                format!("{to} lacks {}", target.lacks.join(", "))
            };
            return Some(match writes.why.as_str() {
                "writes-stay" => format!(
                    "{what}: `tailhop migrate --from {} --to {to} --pin` moves the data, then the writes",
                    writes.backend
                ),
                _ => what,
            });
        }
        (writes.why == "writes-stay").then(|| {
            format!(
                "reads moved to {to}, and {from} owns the writes until an order moves them: \
                 `tailhop migrate --from {from} --to {to} --pin`",
                to = active.backend,
                from = writes.backend
            )
        })
    }
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
    if let Some(next) = service
        .next_switch
        .as_ref()
        .filter(|next| !next.lacks.is_empty())
    {
        let (to, lacks) = (&next.to, next.lacks.join(", "));
        text += &format!(
            "; the switch of {} comes to {to}, which lacks {lacks}",
            next.at
        );
    }
    if let Some(waits) = service.waits() {
        text += &format!("; {waits}");
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
    if let Some(why) = &service.writes_refused {
        text += &format!("; writes are refused: {why}");
    }
    text
}
