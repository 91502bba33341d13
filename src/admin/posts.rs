//! `POST /pin /unpin /drain /undrain /reload /cache/clear`: orders over HTTP, by the functions that
//! the command line calls.
//!
//! Who gives an order is who the guard found, whatever the body says.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::guard::BODY_MAX;
use super::orders::{Giver, Order, Prepared, Refused, Wrong, prepare};
use super::{Admin, Answer, json};
use crate::config::{self, Problem, Snapshot};
use crate::reload::Outcome;
use crate::words::units::parse_duration;

/// A body of some hundred bytes takes no longer.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

/// The body of an order; each uses its own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Body {
    /// The backend.
    backend: Option<String>,
    /// How long it holds, such as `2h`.
    r#for: Option<String>,
    /// Until when it holds, as `routing.toml` takes it.
    until: Option<String>,
    reason: Option<String>,
    services: Option<Vec<String>>,
    writes: bool,
    hold_writes: bool,
    /// The beginning of the hash of the file that whoever asks has seen.
    base: Option<String>,
}

/// What became of an order or a reload.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcomes {
    /// `applied`, `unchanged`, or why not: `wrong`, `invalid`, `stale`, `read-only`, `failed`.
    pub result: String,
    /// What is wrong, in a sentence.
    pub error: Option<String>,
    /// What is different now; of `stale` what somebody else changed.
    pub changes: Vec<String>,
    /// What whoever asked should know.
    pub notes: Vec<String>,
    /// The generation in use.
    pub generation: u64,
    /// One sentence a service.
    pub summary: Vec<String>,
    /// All problems of the file, for people.
    pub problems: Option<String>,
    /// The same, each with its code and place.
    #[serde(skip_deserializing)]
    pub details: Vec<Problem>,
    /// The change of a file that cannot be written, to be made elsewhere.
    pub edit: Option<String>,
}

impl Admin {
    pub(super) async fn order(&self, by: &str, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let body = match body(request).await {
            Ok(body) => body,
            Err((status, why)) => return self.told(status, "wrong", Some(why)),
        };
        if path == "/reload" {
            return self.reload(by);
        }
        if path == "/cache/clear" {
            return self.clear(by, &body);
        }
        let live = self.store.live();
        let order = match order(&path, &body, &live.snapshot, self.clock.now()) {
            Ok(order) => order,
            Err(why) => return self.told(StatusCode::UNPROCESSABLE_ENTITY, "wrong", Some(why)),
        };
        let giver = Giver {
            path: &self.inputs.truth,
            environment: &self.inputs.environment,
            by,
            now: self.clock.now(),
            base: body.base.as_deref(),
        };
        let prepared = prepare(&order, &giver);
        match prepared.and_then(|ready| ready.commit(&self.inputs.environment)) {
            Ok(done) => self.done(by, &path, &done),
            Err(refused) => self.undone(refused, body.base.as_deref()),
        }
    }

    fn done(&self, by: &str, path: &str, done: &Prepared) -> Answer {
        info!(by, order = path, changes = done.changes.join("; "), "order");
        // Not by waiting for the watch: whoever asked is to hear what holds now.
        let _ = self.inputs.now(&self.store);
        let mut outcome = self.outcome("applied");
        outcome.changes.clone_from(&done.changes);
        outcome.notes.clone_from(&done.notes);
        json(StatusCode::OK, &outcome)
    }

    fn undone(&self, refused: Refused, base: Option<&str>) -> Answer {
        let (status, word) = match &refused {
            Refused::Wrong(_) => (StatusCode::UNPROCESSABLE_ENTITY, "wrong"),
            Refused::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Refused::Stale { .. } => (StatusCode::CONFLICT, "stale"),
            Refused::ReadOnly { .. } => (StatusCode::CONFLICT, "read-only"),
            Refused::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        let mut outcome = self.outcome(word);
        match refused {
            Refused::Wrong(Wrong { message, help }) => {
                outcome.error = Some(message);
                outcome.notes.extend((!help.is_empty()).then_some(help));
            }
            Refused::Invalid(report) => {
                outcome.error = Some("the file is invalid, or would be".to_owned());
                outcome.problems = Some(report.render(false));
                outcome.details = report.problems;
            }
            Refused::Stale { did } => {
                outcome.error = Some("the file is not the one that you saw".to_owned());
                outcome.changes = if did.is_empty() {
                    self.since(base)
                } else {
                    did
                };
            }
            Refused::ReadOnly { why, edit } => {
                outcome.error = Some(why);
                outcome.edit = Some(edit);
            }
            Refused::Failed(why) => outcome.error = Some(why),
        }
        json(status, &outcome)
    }

    /// What was changed since the configuration whose hash begins with `base`, as far as we know.
    fn since(&self, base: Option<&str>) -> Vec<String> {
        // Somebody may have changed it a moment ago.
        if let Outcome::Rejected(_) = self.inputs.now(&self.store) {
            return vec!["the file is invalid now".to_owned()];
        }
        let reloads = self.store.reloads();
        let begins = |applied: &&crate::reload::store::Applied| {
            base.is_some_and(|base| !applied.before.starts_with(base))
        };
        let later = reloads.applied.iter().skip_while(begins);
        later.flat_map(|applied| applied.changes.clone()).collect()
    }

    /// Takes what the files say now.
    fn reload(&self, by: &str) -> Answer {
        info!(by, "reload asked for");
        match self.inputs.now(&self.store) {
            Outcome::Applied(changes) => {
                let mut outcome = self.outcome("applied");
                outcome.changes = changes;
                json(StatusCode::OK, &outcome)
            }
            Outcome::Unchanged => json(StatusCode::OK, &self.outcome("unchanged")),
            Outcome::Rejected(report) => self.undone(Refused::Invalid(Box::new(report)), None),
        }
    }

    /// Forgets the embeddings of some services, or of all.
    fn clear(&self, by: &str, body: &Body) -> Answer {
        let live = self.store.live();
        let named = body.services.as_deref();
        let services = live.snapshot.service_ids().filter_map(|service| {
            let name = live.snapshot.service(service).name.as_str();
            let wanted = named.is_none_or(|named| named.iter().any(|one| one == name));
            let cache = live.cache(service).filter(|_| wanted)?;
            Some((name, cache))
        });
        let mut outcome = self.outcome("unchanged");
        for (name, cache) in services {
            let (entries, _) = cache.size();
            cache.clear();
            "applied".clone_into(&mut outcome.result);
            (outcome.changes).push(format!("{name}: {entries} embeddings are forgotten"));
        }
        info!(by, changes = outcome.changes.join("; "), "cache cleared");
        json(StatusCode::OK, &outcome)
    }

    fn told(&self, status: StatusCode, word: &str, error: Option<String>) -> Answer {
        let mut outcome = self.outcome(word);
        outcome.error = error;
        json(status, &outcome)
    }

    fn outcome(&self, word: &str) -> Outcomes {
        let status = self.status();
        Outcomes {
            result: word.to_owned(),
            error: None,
            changes: Vec::new(),
            notes: Vec::new(),
            generation: status.config.generation,
            summary: status.summary,
            problems: None,
            details: Vec::new(),
            edit: None,
        }
    }
}

/// The body, read whole within its bounds.
async fn body(request: Request<Incoming>) -> Result<Body, (StatusCode, String)> {
    let max = usize::try_from(BODY_MAX).unwrap_or(usize::MAX);
    let read = Limited::new(request.into_body(), max).collect();
    let bytes: Bytes = match timeout(BODY_PATIENCE, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err((StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Err(_) => {
            return Err((
                StatusCode::REQUEST_TIMEOUT,
                "the body took too long".to_owned(),
            ));
        }
    };
    if bytes.is_empty() {
        return Ok(Body::default());
    }
    // What serde says quotes the body; it goes back to who sent it and nowhere else.
    serde_json::from_slice(&bytes).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

fn order(path: &str, body: &Body, snapshot: &Snapshot, now: Timestamp) -> Result<Order, String> {
    let until = until(body.r#for.as_deref(), body.until.as_deref(), snapshot, now)?;
    let backend = || body.backend.clone().ok_or("backend is missing".to_owned());
    let services = body.services.clone();
    Ok(match path {
        "/pin" => Order::Pin {
            to: backend()?,
            until,
            reason: body.reason.clone().ok_or("reason is missing")?,
            services,
            writes: body.writes,
            hold_writes: body.hold_writes,
        },
        "/unpin" => Order::Unpin { services },
        "/drain" => Order::Drain {
            backend: backend()?,
            until,
            reason: body.reason.clone(),
        },
        _ => Order::Undrain {
            backend: backend()?,
        },
    })
}

/// The instant that `length` from `now`, or `until`, is.
///
/// # Errors
/// What is wrong with them, for people.
pub fn until(
    length: Option<&str>,
    until: Option<&str>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Option<Timestamp>, String> {
    match (length, until) {
        (Some(_), Some(_)) => Err("say for how long, or until when, not both".to_owned()),
        (None, None) => Ok(None),
        (None, Some(text)) => config::instant(text, &snapshot.schedule.zone).map(Some),
        (Some(text), None) => {
            let length = parse_duration(text)?;
            let length = SignedDuration::try_from(length).map_err(|_| "that is too long")?;
            let end = now.checked_add(length).map_err(|_| "that is too long")?;
            Ok(Some(end))
        }
    }
}
