//! The configuration in use, with its endpoints: one swap, one owner.
//!
//! Invariant: snapshot and endpoints are swapped together, so a request that loaded once sees
//! both of one generation to its end. A rejected configuration changes nothing but what
//! [`Store::reloads`] says.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::models::Model;
use crate::cache::{self, Caches, Embeddings};
use crate::config::snapshot::{BackendId, Policy, ServiceId, Snapshot};
use crate::config::{self, Report};
use crate::endpoint::live::Endpoint;
use crate::endpoint::{Endpoints, reconcile};
use crate::metrics::Metrics;
use crate::plan::known::{Holds, Known, Load, Stocked};
use crate::plan::orders::{self, Active};
use crate::words::clock::Clock;
use crate::words::effect::{Effect, Meaning};
use crate::words::names::Kind;

/// Configurations whose changes are remembered.
const REMEMBERED: usize = 16;

/// A snapshot and its endpoints.
pub struct Live {
    /// What holds.
    pub snapshot: Snapshot,
    /// By service, in the order of the service's backends.
    pub endpoints: Endpoints,
    /// By service, where embeddings are kept.
    pub caches: Caches,
}

/// The configuration in use.
pub struct Store {
    live: ArcSwap<Live>,
    changes: watch::Sender<u64>,
    reloads: Mutex<Reloads>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// What became of the latest configurations.
#[derive(Clone, Debug)]
pub struct Reloads {
    /// When the one in use was taken.
    pub applied_at: Timestamp,
    /// Why the one on disk is not in use; `None`: it is.
    pub rejected: Option<Rejection>,
    /// The latest that were taken, the first of this process not among them; oldest first.
    pub applied: VecDeque<Applied>,
}

/// A configuration that took the place of another.
#[derive(Clone, Debug)]
pub struct Applied {
    /// When.
    pub at: Timestamp,
    /// Its generation.
    pub generation: u64,
    /// The hash of the one before it.
    pub before: String,
    /// What is different, in words.
    pub changes: Vec<String>,
}

/// A configuration that was not taken.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// When it was looked at.
    pub at: Timestamp,
    /// All its problems, for people.
    pub text: String,
    /// How many there are.
    pub count: usize,
}

/// What a request asks for.
#[derive(Debug, Default)]
pub struct Asked<'m> {
    /// The model.
    model: Option<&'m Model>,
    /// What the active backend has under that name.
    digest: Option<String>,
    /// The collection, where others than the active backend are looked at.
    collection: Option<Cow<'m, str>>,
}

impl<'m> Asked<'m> {
    /// The same of a request that names this collection, if one.
    #[must_use]
    pub fn of_collection(self, collection: Option<Cow<'m, str>>) -> Self {
        Self { collection, ..self }
    }
}

impl Live {
    /// The embeddings of a service that are kept.
    pub fn cache(&self, service: ServiceId) -> Option<&Arc<Embeddings>> {
        self.caches.get(service.0)?.as_ref()
    }

    /// The endpoint of `service` on `backend`, which offers it.
    pub fn endpoint(&self, service: ServiceId, backend: BackendId) -> Option<&Arc<Endpoint>> {
        let place = self.snapshot.service(service).place_of(backend)?;
        self.endpoints.get(service.0)?.get(place)
    }

    /// The active backend of a service for an effect: whom orders and schedule name, or whom they
    /// named before a switch that is held.
    pub fn active(&self, service: ServiceId, effect: Effect, now: Timestamp) -> Active {
        let active = orders::active(&self.snapshot, service, effect, now);
        let require = &self.snapshot.service(service).require;
        let stocked = |backend| {
            let endpoint = self.endpoint(service, backend);
            endpoint.map_or(Stocked::Ready, |endpoint| endpoint.stocked(require))
        };
        orders::held(&self.snapshot, service, active, now, stocked)
    }

    /// What is known of a service's endpoints for a request, in the order of its backends.
    pub fn known(&self, service: ServiceId, asked: &Asked<'_>) -> Vec<Known> {
        let endpoints = self.endpoints.get(service.0).map_or(&[][..], Vec::as_slice);
        let known = endpoints
            .iter()
            .map(|endpoint| self.known_of(service, endpoint, asked));
        known.collect()
    }

    /// What is known of an endpoint of a service for a request.
    pub fn known_of(&self, service: ServiceId, endpoint: &Endpoint, asked: &Asked<'_>) -> Known {
        let verdict = endpoint.verdict();
        let stocked = endpoint.stocked(&self.snapshot.service(service).require);
        if endpoint.key.kind != Kind::Ollama {
            let lacks = |name: &Cow<'_, str>| endpoint.collections.lacks(name);
            return Known {
                stocked,
                lacks: asked.collection.as_ref().is_some_and(lacks),
                ..Known::from(verdict)
            };
        }
        let holds = |model| {
            let holds = |digest: Option<&str>| match digest {
                None => Holds::Lacks,
                Some(digest) if !digest.is_empty() && asked.digest.as_deref() == Some(digest) => {
                    Holds::Same
                }
                Some(_) => Holds::Named,
            };
            endpoint.models.digest(model, holds).unwrap_or_default()
        };
        Known {
            verdict,
            holds: asked.model.map_or(Holds::Unknown, holds),
            stocked,
            lacks: false,
            load: self.load(service, endpoint, asked.model),
        }
    }

    /// How much an endpoint has to do, where that decides.
    fn load(&self, service: ServiceId, endpoint: &Endpoint, model: Option<&Model>) -> Load {
        let service = self.snapshot.service(service);
        if service.policy != Policy::LeastLoaded {
            return Load::default();
        }
        let warm = model.is_none_or(|model| endpoint.models.is_loaded(model));
        Load::of(endpoint.slots.busy(), service.limit.as_ref(), warm)
    }

    /// What a request for a model asks for: the very one that the active backend has.
    pub fn asked<'m>(
        &self,
        service: ServiceId,
        meaning: Meaning,
        model: Option<&'m Model>,
        now: Timestamp,
    ) -> Asked<'m> {
        let digest = model.and_then(|model| {
            let active = self.active(service, meaning.effect, now).backend;
            let told = &self.endpoint(service, active)?.models;
            told.digest(model, |digest| digest.map(str::to_owned))?
        });
        Asked {
            model,
            digest,
            collection: None,
        }
    }
}

impl Store {
    /// A store whose first generation is `snapshot`.
    pub fn new(mut snapshot: Snapshot, metrics: Arc<Metrics>, clock: Clock) -> Self {
        snapshot.generation = 1;
        let endpoints = reconcile(&snapshot, &Vec::new(), &metrics);
        let caches = cache::reconcile(&snapshot, &Vec::new(), &metrics);
        let reloads = Reloads {
            applied_at: clock.now(),
            rejected: None,
            applied: VecDeque::new(),
        };
        let store = Self {
            live: ArcSwap::from_pointee(Live {
                snapshot,
                endpoints,
                caches,
            }),
            changes: watch::Sender::new(1),
            reloads: Mutex::new(reloads),
            metrics,
            clock,
        };
        store.count_applied();
        store
    }

    /// What is in use now.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Tells of every new generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What became of the latest configurations.
    pub fn reloads(&self) -> Reloads {
        self.locked().clone()
    }

    /// Takes `snapshot` into use; what is different, in words. Requests that run go on with the one
    /// they began with.
    pub fn apply(&self, mut snapshot: Snapshot) -> Vec<String> {
        let before = self.live();
        snapshot.generation = before.snapshot.generation + 1;
        let changes = config::changes(&before.snapshot, &snapshot);
        for warning in &snapshot.warnings {
            warn!(code = warning.code, "{}", warning.message);
        }
        if snapshot.origin.stand_in {
            error!(
                path = %snapshot.origin.path.display(),
                "the stand-in configuration is in use; writes of data services are refused"
            );
        }
        info!(
            generation = snapshot.generation,
            hash = short(&snapshot.origin.hash),
            changes = changes.join("; "),
            "configuration in use"
        );
        let generation = snapshot.generation;
        let endpoints = reconcile(&snapshot, &before.endpoints, &self.metrics);
        let caches = cache::reconcile(&snapshot, &before.caches, &self.metrics);
        self.live.store(Arc::new(Live {
            snapshot,
            endpoints,
            caches,
        }));
        self.remember(&before.snapshot, generation, changes.clone());
        self.count_applied();
        self.changes.send_replace(generation);
        changes
    }

    fn remember(&self, before: &Snapshot, generation: u64, changes: Vec<String>) {
        let at = self.clock.now();
        let mut reloads = self.locked();
        reloads.applied_at = at;
        reloads.rejected = None;
        if reloads.applied.len() == REMEMBERED {
            reloads.applied.pop_front();
        }
        reloads.applied.push_back(Applied {
            at,
            generation,
            before: before.origin.hash.clone(),
            changes,
        });
    }

    /// The configuration on disk is the one in use again.
    pub fn unchanged(&self) {
        self.locked().rejected = None;
        self.metrics
            .config_reloads
            .with_label_values(&["unchanged"])
            .inc();
        self.metrics.config_ok.set(1);
        self.touch_attempt();
    }

    /// Leaves the configuration in use as it is and remembers why the one on disk is not taken.
    pub fn reject(&self, report: &Report) {
        let text = report.render(false);
        let in_use = self.live().snapshot.generation;
        error!(
            in_use,
            reason = report.reason(),
            "configuration rejected, the last good one stays in use\n{text}"
        );
        let count = report.problems.len();
        self.locked().rejected = Some(Rejection {
            at: self.clock.now(),
            text,
            count,
        });
        self.metrics
            .config_rejections
            .with_label_values(&[report.reason()])
            .inc();
        self.metrics
            .config_reloads
            .with_label_values(&["rejected"])
            .inc();
        self.metrics.config_ok.set(0);
        self.touch_attempt();
    }

    fn count_applied(&self) {
        let live = self.live();
        let source = if live.snapshot.origin.stand_in {
            "stand-in"
        } else {
            "file"
        };
        self.metrics.config_info.reset();
        let labels = [short(&live.snapshot.origin.hash), source];
        self.metrics.config_info.with_label_values(&labels).set(1);
        self.metrics
            .config_reloads
            .with_label_values(&["applied"])
            .inc();
        self.metrics
            .config_ok
            .set(i64::from(!live.snapshot.origin.stand_in));
        self.metrics
            .config_success_time
            .set(seconds(self.clock.now()));
        self.touch_attempt();
    }

    fn touch_attempt(&self) {
        self.metrics
            .config_attempt_time
            .set(seconds(self.clock.now()));
    }

    fn locked(&self) -> MutexGuard<'_, Reloads> {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Enough of a hash to tell two configurations apart by eye.
pub fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
