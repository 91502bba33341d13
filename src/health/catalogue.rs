//! Which models each Ollama has: asked on the control thread, on a connection of its own.
//!
//! Asked when it comes up, after what changes its models, after a freeze, and every [`EVERY`].
//! Invariant: it is no probe. What fails here says nothing about the endpoint, and what was told
//! before holds until something else is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::prober::Prober;
use crate::api::models::{Catalogue, LIST_MAX, PS, TAGS, listed};
use crate::endpoint::connection::{Connection, Outgoing};
use crate::endpoint::live::Endpoint;
use crate::endpoint::lost::Lost;
use crate::endpoint::models::Told;
use crate::wire;
use crate::words::clock::Deadline;
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
    /// It answered something that is no list of models.
    Odd(String),
}

impl Prober {
    /// Keeps up with the models of one endpoint until it is retired.
    pub(super) async fn catalogue(self, endpoint: Arc<Endpoint>) {
        while !endpoint.is_retired() {
            // On a timeout it is due, otherwise somebody asked.
            let _ = timeout(EVERY, endpoint.models.wanted()).await;
            if endpoint.verdict() == Verdict::Up {
                self.learn(&endpoint).await;
                sleep(FLOOR).await;
            }
        }
    }

    /// Asks for its models.
    pub(super) async fn learn(&self, endpoint: &Endpoint) {
        let within = Deadline::after(WITHIN);
        let asked = tokio::select! {
            biased;
            asked = self.lists(endpoint) => asked,
            () = within.passed() => Err(Trouble::Lost(format!("no answer within {WITHIN:?}"))),
        };
        let key = &endpoint.key;
        match asked {
            Ok(catalogue) => {
                let at = self.clock.now();
                self.told(endpoint, Some(Told { catalogue, at }));
            }
            Err(Trouble::Lost(why)) => {
                debug!(service = %key.service, backend = %key.backend, why, "its models were not told");
            }
            Err(Trouble::Odd(why)) => {
                if endpoint.models.told().is_some() {
                    warn!(service = %key.service, backend = %key.backend, why, "its models are not known any more");
                }
                self.told(endpoint, None);
            }
        }
    }

    /// What was kept of a model is not of another one under its name.
    fn told(&self, endpoint: &Endpoint, told: Option<Told>) {
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

    async fn lists(&self, endpoint: &Endpoint) -> Result<Catalogue, Trouble> {
        let lost = |why: String| Trouble::Lost(why);
        let stream = wire::open(&self.tailnet, &endpoint.place, WITHIN).await;
        let stream = stream.map_err(|failure| lost(failure.to_string()))?;
        let opened = Connection::open(stream, &Lost::new()).await;
        let mut connection = opened.map_err(|failure| lost(failure.to_string()))?;
        let (status, body) = ask(&mut connection, endpoint, TAGS).await?;
        let odd = || {
            Trouble::Odd(format!(
                "GET {TAGS} answered {status}, or no list of models"
            ))
        };
        let list = Some(&body).filter(|_| status == StatusCode::OK);
        let models = list.and_then(|body| listed(body)).ok_or_else(odd)?;
        let (status, body) = ask(&mut connection, endpoint, PS).await?;
        // What is in memory is good to know, and nothing depends on it.
        let list = Some(&body).filter(|_| status == StatusCode::OK);
        let loaded = list.and_then(|body| listed(body)).unwrap_or_default();
        Ok(Catalogue::new(models, loaded))
    }
}

/// Asks for one list and reads it whole.
async fn ask(
    connection: &mut Connection,
    endpoint: &Endpoint,
    path: &'static str,
) -> Result<(StatusCode, Bytes), Trouble> {
    let mut request = Request::new(Outgoing::empty());
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(HOST, endpoint.host.clone());
    headers.insert(USER_AGENT, AGENT);
    endpoint.inject.put(headers, true);
    let sent = connection.send(request).await;
    let response = sent.map_err(|error| Trouble::Lost(error.failure.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIST_MAX).collect().await;
    match body {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Trouble::Odd(format!(
            "GET {path} answered more than {LIST_MAX} bytes"
        ))),
        Err(error) => Err(Trouble::Lost(error.to_string())),
    }
}
