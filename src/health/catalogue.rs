//! Which models each Ollama and which collections each Qdrant has: asked on the control thread, on a
//! connection of its own.
//!
//! Asked when it comes up, after what changes that, after a freeze, when another configuration
//! holds, and every 15 s. Invariant: it is no probe. What fails here says nothing about the
//! endpoint, and what was told before holds until something else is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::prober::Prober;
use crate::api::collections::{self, ALIASES, COLLECTIONS, Collections};
use crate::api::models::{Catalogue, LIST_MAX, PS, TAGS, listed};
use crate::config::snapshot::Require;
use crate::endpoint::connection::{Connection, Outgoing};
use crate::endpoint::live::Endpoint;
use crate::endpoint::lost::Lost;
use crate::endpoint::stock::Told;
use crate::tailnet::Tailnet;
use crate::wire;
use crate::words::clock::Deadline;
use crate::words::names::Kind;
use crate::words::outcome::Failure;
use crate::words::verdict::Verdict;

/// Between two times that it is asked while nothing happens.
const EVERY: Duration = Duration::from_secs(15);
/// The same, however much happens.
const FLOOR: Duration = Duration::from_millis(250);
/// One time may take so long: an answer of megabytes over a slow path.
const WITHIN: Duration = Duration::from_secs(10);
/// So that its log tells who asks.
pub(super) const AGENT: HeaderValue = HeaderValue::from_static("tailhop");

/// Why nothing was learned.
enum Trouble {
    /// It was not reached, or its answer broke off.
    Lost(String),
    /// It answered something that is no such list.
    Odd(String),
}

impl Prober {
    /// Keeps up with what one endpoint has until it is retired.
    pub(super) async fn catalogue(self, endpoint: Arc<Endpoint>) {
        while !endpoint.is_retired() {
            // On a timeout it is due, otherwise somebody asked.
            let _ = timeout(EVERY, endpoint.stock_wanted.notified()).await;
            if endpoint.verdict() == Verdict::Up {
                self.learn(&endpoint).await;
                sleep(FLOOR).await;
            }
        }
    }

    /// Asks what it has.
    pub(super) async fn learn(&self, endpoint: &Endpoint) {
        let key = &endpoint.key;
        let at = self.clock.now();
        let trouble = if key.kind == Kind::Qdrant {
            let require = self.require(endpoint);
            match in_time(of_qdrant(&self.tailnet, endpoint, &require)).await {
                Ok(catalogue) => {
                    let told = Told { catalogue, at };
                    endpoint.collections.tell(Some(Arc::new(told)));
                    return;
                }
                Err(trouble) => trouble,
            }
        } else {
            match in_time(of_ollama(&self.tailnet, endpoint)).await {
                Ok(catalogue) => return self.told(endpoint, Some(Told { catalogue, at })),
                Err(trouble) => trouble,
            }
        };
        match trouble {
            Trouble::Lost(why) => {
                debug!(service = %key.service, backend = %key.backend, why, "what it has was not told");
            }
            Trouble::Odd(why) => {
                let known = endpoint.models.told().is_some();
                if known || endpoint.collections.tell(None).is_some() {
                    warn!(service = %key.service, backend = %key.backend, why, "what it has is not known any more");
                }
                self.told(endpoint, None);
            }
        }
    }

    /// What is required of it.
    fn require(&self, endpoint: &Endpoint) -> Require {
        let live = self.store.live();
        let mut services = live.snapshot.services.iter();
        let service = services.find(|service| service.name == endpoint.key.service);
        service.map_or_else(Require::default, |service| service.require.clone())
    }

    /// What was kept of a model is not of another one under its name.
    fn told(&self, endpoint: &Endpoint, told: Option<Told<Catalogue>>) {
        if !endpoint.models.tell(told) {
            return;
        }
        let live = self.store.live();
        let kept = live.snapshot.service_ids().find_map(|service| {
            let named = live.snapshot.service(service).name == endpoint.key.service;
            live.cache(service).filter(|_| named)
        });
        if let Some(cache) = kept {
            cache.clear();
        }
    }
}

/// What an endpoint lacks of what is required, asked now, in words.
///
/// # Errors
/// Why that is not known, for people.
pub async fn missing(
    tailnet: &Tailnet,
    endpoint: &Endpoint,
    require: &Require,
) -> Result<Vec<String>, String> {
    let words = |trouble| match trouble {
        Trouble::Lost(why) | Trouble::Odd(why) => why,
    };
    if endpoint.key.kind == Kind::Qdrant {
        let has = in_time(of_qdrant(tailnet, endpoint, require)).await;
        let has = has.map_err(words)?;
        let lacking = has.lacking(&require.collections, require.min_points);
        return Ok(lacking.map(|lack| lack.to_string()).collect());
    }
    let has = in_time(of_ollama(tailnet, endpoint)).await.map_err(words)?;
    let lacking = (require.models.iter()).filter(|model| has.digest(model).is_none());
    Ok(lacking.map(|model| model.as_str().to_owned()).collect())
}

/// What `asked` brings, if it brings it in time.
async fn in_time<T>(asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    let within = Deadline::after(WITHIN);
    tokio::select! {
        biased;
        asked = asked => asked,
        () = within.passed() => Err(Trouble::Lost(format!("no answer within {WITHIN:?}"))),
    }
}

/// The models of an Ollama.
async fn of_ollama(tailnet: &Tailnet, endpoint: &Endpoint) -> Result<Catalogue, Trouble> {
    let mut line = Line::open(tailnet, endpoint).await?;
    let models = line.list(TAGS, listed).await?;
    // What is in memory is good to know, and nothing depends on it.
    let (status, body) = line.ask(PS).await?;
    let list = Some(&body).filter(|_| status == StatusCode::OK);
    let loaded = list.and_then(|body| listed(body)).unwrap_or_default();
    Ok(Catalogue::new(models, loaded))
}

/// The collections of a Qdrant, and how many points those have that are required: what it says by
/// itself in `points_count`, which costs it nothing and may be a little off.
async fn of_qdrant(
    tailnet: &Tailnet,
    endpoint: &Endpoint,
    require: &Require,
) -> Result<Collections, Trouble> {
    let mut line = Line::open(tailnet, endpoint).await?;
    let names = line.list(COLLECTIONS, collections::listed).await?;
    let aliases = line.list(ALIASES, collections::aliases).await?;
    let mut all = Collections(names.into_iter().map(|name| (name, None)).collect());
    all.0
        .extend(aliases.into_iter().map(|one| (one.alias, None)));
    for name in &require.collections {
        let Some(points) = all.0.get_mut(name) else {
            continue;
        };
        let (status, body) = line.ask(&collections::about(name)).await?;
        if status == StatusCode::NOT_FOUND {
            // It was removed meanwhile.
            all.0.remove(name);
        } else if status == StatusCode::OK {
            *points = collections::points(&body);
        }
    }
    Ok(all)
}

/// A connection to ask on.
struct Line<'e> {
    connection: Connection,
    endpoint: &'e Endpoint,
}

impl<'e> Line<'e> {
    async fn open(tailnet: &Tailnet, endpoint: &'e Endpoint) -> Result<Self, Trouble> {
        let lost = |failure: Failure| Trouble::Lost(failure.to_string());
        let stream = wire::open(tailnet, &endpoint.place, WITHIN).await;
        let opened = Connection::open(stream.map_err(lost)?, &Lost::new()).await;
        Ok(Self {
            connection: opened.map_err(lost)?,
            endpoint,
        })
    }

    /// What `read` makes of the answer to `path`.
    async fn list<T>(
        &mut self,
        path: &'static str,
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<T, Trouble> {
        let (status, body) = self.ask(path).await?;
        let list = Some(&body).filter(|_| status == StatusCode::OK);
        let odd = || Trouble::Odd(format!("GET {path} answered {status}, or no such list"));
        list.and_then(|body| read(body)).ok_or_else(odd)
    }

    /// Asks for one path and reads the answer whole.
    async fn ask(&mut self, path: &str) -> Result<(StatusCode, Bytes), Trouble> {
        let mut request = Request::new(Outgoing::empty());
        let uri = Uri::try_from(path);
        *request.uri_mut() = uri.map_err(|error| Trouble::Odd(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.endpoint.host.clone());
        headers.insert(USER_AGENT, AGENT);
        self.endpoint.inject.put(headers, true);
        let sent = self.connection.send(request).await;
        let response = sent.map_err(|error| Trouble::Lost(error.failure.to_string()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LIST_MAX).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Trouble::Odd(
                format!("GET {path} answered more than {LIST_MAX} bytes"),
            )),
            Err(error) => Err(Trouble::Lost(error.to_string())),
        }
    }
}
