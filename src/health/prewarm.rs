//! Loads models before they are asked for: before a planned switch, and after a Mac woke.
//!
//! Each model once for each occasion, one after the other, on the control thread. Invariant: nothing
//! is loaded on a Mac that serves, whoever asks it: what it has in memory could be evicted for it. So
//! one that answered a request of ours lately, or has another model in memory, is left alone until
//! it has not. What fails here says nothing about the endpoint.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::catalogue::AGENT;
use super::prober::Prober;
use crate::api::models::{Catalogue, Model};
use crate::config::snapshot::{Policy, Service, ServiceId};
use crate::endpoint::connection::{Connection, Outgoing};
use crate::endpoint::live::Endpoint;
use crate::endpoint::lost::Lost;
use crate::endpoint::models::Warmed;
use crate::plan::schedule::next_switch;
use crate::reload::store::Live;
use crate::wire;
use crate::words::clock::Deadline;
use crate::words::effect::Effect;
use crate::words::verdict::Verdict;

/// Between looks whether there is an occasion.
const LOOK: Duration = Duration::from_secs(1);
/// So long before a switch its models are loaded: a large one takes minutes.
const AHEAD: Duration = Duration::from_mins(10);
/// For so long after it woke a Mac that is busy is looked at again.
const AFTER: Duration = Duration::from_mins(10);
/// After one that failed, or a Mac that was in use.
const AGAIN: Duration = Duration::from_secs(30);
/// A Mac that answered a request within this time serves.
const SERVES: Duration = Duration::from_mins(1);
/// A dial.
const DIAL: Duration = Duration::from_secs(10);
/// Until the switch, and some time after it: by itself an Ollama keeps a model for five minutes.
const KEEP: &str = "30m";

/// Why models are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// A switch to the Mac comes then.
    Switch(Timestamp),
    /// It woke then.
    Wake(Instant),
}

/// What was done for an occasion.
struct Done {
    occasion: Occasion,
    models: Vec<Model>,
    again_at: Instant,
    in_use_told: bool,
}

/// What came of asking for a model to be loaded.
enum Loaded {
    Yes,
    No(String),
}

impl Occasion {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Switch(_) => "switch",
            Self::Wake(_) => "wake",
        }
    }
}

impl Prober {
    /// Loads the models of one endpoint when there is an occasion, until it is retired.
    pub(super) async fn prewarm(self, endpoint: Arc<Endpoint>) {
        let (mut away, mut woke, mut done) = (false, None, None::<Done>);
        while !endpoint.is_retired() {
            sleep(LOOK).await;
            match endpoint.verdict() {
                Verdict::Asleep | Verdict::Down => away = true,
                Verdict::Up if away => (away, woke) = (false, Some(Instant::now())),
                _ => {}
            }
            let live = self.store.live();
            let Some(id) = service_of(&live, &endpoint) else {
                continue;
            };
            let now = self.clock.now();
            let Some(occasion) = occasion(&live, id, &endpoint, now, woke) else {
                continue;
            };
            if done.as_ref().is_none_or(|done| done.occasion != occasion) {
                done = Some(Done {
                    occasion,
                    models: Vec::new(),
                    again_at: Instant::now(),
                    in_use_told: false,
                });
            }
            let due = done.as_mut().filter(|done| done.again_at <= Instant::now());
            if let (Some(done), Verdict::Up) = (due, endpoint.verdict()) {
                self.warm(&endpoint, live.snapshot.service(id), done).await;
            }
        }
    }

    /// Loads the next model that is not in memory, if the Mac is free.
    async fn warm(&self, endpoint: &Endpoint, service: &Service, done: &mut Done) {
        let left = || {
            service
                .prewarm
                .iter()
                .filter(|model| !done.models.contains(model))
        };
        if left().next().is_none() {
            return;
        }
        self.learn(endpoint).await;
        let Some(told) = endpoint.models.told() else {
            done.again_at = Instant::now() + AGAIN;
            return;
        };
        let next = left()
            .find(|model| is_wanted(&told.catalogue, model))
            .cloned();
        let Some(model) = next else {
            // They are there, or will never be.
            done.models.clone_from(&service.prewarm);
            return;
        };
        if serves(endpoint) || !is_free(&told.catalogue, &service.prewarm) {
            done.again_at = Instant::now() + AGAIN;
            if !std::mem::replace(&mut done.in_use_told, true) {
                self.tell(endpoint, &model, done.occasion, "in-use", None);
            }
            return;
        }
        let began = Instant::now();
        let within = service.timeouts.head_inference;
        match self.load(endpoint, &model, within).await {
            Loaded::Yes => {
                let took = began.elapsed();
                self.tell(endpoint, &model, done.occasion, "loaded", Some(took));
                done.models.push(model);
                endpoint.want_stock();
            }
            Loaded::No(why) => {
                let (service, backend) = (&endpoint.key.service, &endpoint.key.backend);
                warn!(%service, %backend, model = model.as_str(), why, "a model was not loaded ahead");
                self.tell(endpoint, &model, done.occasion, "failed", None);
                done.again_at = Instant::now() + AGAIN;
            }
        }
    }

    fn tell(
        &self,
        endpoint: &Endpoint,
        model: &Model,
        occasion: Occasion,
        result: &'static str,
        took: Option<Duration>,
    ) {
        let (service, backend) = (&endpoint.key.service, &endpoint.key.backend);
        let labels = [
            service.as_str(),
            backend.as_str(),
            occasion.as_str(),
            result,
        ];
        self.metrics.prewarms.with_label_values(&labels).inc();
        let seconds = took.map(|took| took.as_secs_f64());
        let (model, occasion) = (model.as_str(), occasion.as_str());
        info!(%service, %backend, model, occasion, result, seconds, "prewarm");
        endpoint.models.warmed(Warmed {
            model: model.to_owned(),
            occasion,
            result,
            seconds,
            at: self.clock.now(),
        });
    }

    /// Loads one model: an empty prompt, or no input for one that only embeds.
    async fn load(&self, endpoint: &Endpoint, model: &Model, within: Duration) -> Loaded {
        let deadline = Deadline::after(within);
        let name = model.as_str();
        let generate = serde_json::json!({"model": name, "keep_alive": KEEP});
        let embed = serde_json::json!({"model": name, "input": [], "keep_alive": KEEP});
        let asked = async {
            let status = self.post(endpoint, "/api/generate", &generate).await?;
            // So says one that does not generate.
            if status == StatusCode::BAD_REQUEST {
                return self.post(endpoint, "/api/embed", &embed).await;
            }
            Ok(status)
        };
        tokio::select! {
            biased;
            asked = asked => match asked {
                Ok(status) if status.is_success() => Loaded::Yes,
                Ok(status) => Loaded::No(format!("it answered {status}")),
                Err(why) => Loaded::No(why),
            },
            () = deadline.passed() => Loaded::No("it took too long".to_owned()),
        }
    }

    async fn post(
        &self,
        endpoint: &Endpoint,
        path: &'static str,
        body: &serde_json::Value,
    ) -> Result<StatusCode, String> {
        let stream = wire::open(&self.tailnet, &endpoint.place, DIAL).await;
        let stream = stream.map_err(|failure| failure.to_string())?;
        let opened = Connection::open(stream, &Lost::new()).await;
        let mut connection = opened.map_err(|failure| failure.to_string())?;
        let body = Bytes::from(body.to_string());
        let length = HeaderValue::from(body.len());
        let mut request = Request::new(Outgoing::Whole(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, endpoint.host.clone());
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, length);
        endpoint.inject.put(headers, false);
        let sent = connection.send(request).await;
        let answer = sent.map_err(|error| error.failure.to_string())?;
        Ok(answer.status())
    }
}

/// The service of an endpoint, if that has models to load.
fn service_of(live: &Live, endpoint: &Endpoint) -> Option<ServiceId> {
    let mut ids = live.snapshot.service_ids();
    let id = ids.find(|id| live.snapshot.service(*id).name == endpoint.key.service)?;
    (!live.snapshot.service(id).prewarm.is_empty()).then_some(id)
}

/// Why models should be loaded on an endpoint now.
fn occasion(
    live: &Live,
    id: ServiceId,
    endpoint: &Endpoint,
    now: Timestamp,
    woke: Option<Instant>,
) -> Option<Occasion> {
    let snapshot = &live.snapshot;
    let is_it = |backend| snapshot.backend(backend).name == endpoint.key.backend;
    let next = next_switch(snapshot, id, now).filter(|switch| is_it(switch.to));
    let soon = next.filter(|switch| switch.at.duration_since(now).unsigned_abs() <= AHEAD);
    if let Some(switch) = soon {
        return Some(Occasion::Switch(switch.at));
    }
    let woke = woke.filter(|woke| woke.elapsed() <= AFTER)?;
    let asked = is_it(live.active(id, Effect::Inference, now).backend)
        || snapshot.service(id).policy == Policy::LeastLoaded;
    asked.then_some(Occasion::Wake(woke))
}

/// Whether a model is there, and not in memory.
fn is_wanted(catalogue: &Catalogue, model: &Model) -> bool {
    catalogue.digest(model).is_some() && !catalogue.loaded.contains(model)
}

/// Whether nothing is in memory that is not to be loaded anyway.
fn is_free(catalogue: &Catalogue, prewarm: &[Model]) -> bool {
    catalogue.loaded.iter().all(|model| prewarm.contains(model))
}

/// Whether a Mac answers requests of ours.
fn serves(endpoint: &Endpoint) -> bool {
    let lately = endpoint.served_ago().is_some_and(|ago| ago < SERVES);
    lately || endpoint.handles.in_flight.get() > 0
}
