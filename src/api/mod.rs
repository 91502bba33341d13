//! What a request means and what an error must look like, by kind of service.
//!
//! Owns the knowledge about the upstreams' APIs. Pure: bytes in, words out; no I/O, no
//! configuration, no time.

pub mod collections;
pub mod dialect;
pub mod embed;
pub mod grpc;
mod http;
mod json;
pub mod models;
mod ollama;
mod qdrant;
pub mod rules;
pub mod stream;

use ::http::{HeaderValue, Method, StatusCode};

use crate::words::effect::{Effect, Meaning, Reach};
use crate::words::names::Kind;

/// What a request to a service of `kind` means. `path` is what the upstream will see, without
/// the query.
pub fn meaning(kind: Kind, method: &Method, path: &str) -> Meaning {
    match kind {
        Kind::Http => http::meaning(method),
        Kind::Ollama => ollama::meaning(method, &Segments::of(path)),
        Kind::Qdrant => qdrant::meaning(method, &Segments::of(path)),
    }
}

/// Every operation word that `meaning` can give for `kind`: the closed set of a metric label.
pub const fn ops(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Http => http::OPS,
        Kind::Ollama => ollama::OPS,
        Kind::Qdrant => qdrant::OPS,
    }
}

/// The path that a probe asks for: the cheapest one that proves the service answers.
pub const fn probe_path(kind: Kind) -> &'static str {
    match kind {
        Kind::Http => "/",
        Kind::Ollama => "/api/version",
        Kind::Qdrant => "/readyz",
    }
}

/// Whether a probe's answer proves a working service. Of an unknown API any answer does that is
/// not a server error; `429` is an answer.
pub fn probe_passes(kind: Kind, status: StatusCode) -> bool {
    match kind {
        Kind::Http => !status.is_server_error(),
        Kind::Ollama | Kind::Qdrant => {
            status.is_success() || status == StatusCode::TOO_MANY_REQUESTS
        }
    }
}

/// The Host that an upstream of `kind` accepts whatever it listens on; `None`: its own address.
///
/// Ollama on a loopback listener answers 403 to foreign host names; `localhost:11434` always
/// passes (ollama server/routes.go, `allowedHostsMiddleware`).
pub const fn host_header(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Ollama => Some("localhost:11434"),
        Kind::Qdrant | Kind::Http => None,
    }
}

/// Whether an upstream of `kind` refuses requests for their `Origin` (Ollama: 403).
pub const fn drops_origin(kind: Kind) -> bool {
    matches!(kind, Kind::Ollama)
}

/// How long the upstream keeps an idle connection, as far as it is known to close them.
///
/// Qdrant (actix) closes after 5 s, so ours must go earlier; Ollama never does.
pub const fn idle_keep_seconds(kind: Kind) -> u64 {
    match kind {
        Kind::Qdrant => 4,
        Kind::Ollama => 60,
        Kind::Http => 30,
    }
}

/// Whether a request costs its backend next to nothing, so that asking a second one is no loss.
pub fn is_cheap(kind: Kind, meaning: Meaning) -> bool {
    kind == Kind::Ollama
        && meaning.effect == Effect::Read
        && matches!(meaning.op, "version" | "tags")
}

/// Whether a request moves whole models or snapshots: it may take hours, so no bound on the whole
/// request holds for it.
pub fn is_transfer(meaning: Meaning) -> bool {
    matches!(
        meaning.op,
        "pull" | "push" | "create" | "blobs" | "snapshot"
    )
}

/// Whether a request that went well may have changed which models or collections its backend has.
pub fn changes_stock(kind: Kind, meaning: Meaning) -> bool {
    models::changes_models(kind, meaning) || collections::changes_collections(kind, meaning)
}

/// What the head of an answer says about asking another backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Pass it on.
    Final,
    /// From a backend that is not the active one this is no answer: it merely lacks the data.
    NotThere,
    /// As `NotThere` if the body says `exists: false`; it must be read first.
    MaybeNotThere,
    /// The backend is full: the next one may have room.
    Busy,
}

/// What the head of an answer says about asking another backend.
pub fn answer(kind: Kind, meaning: Meaning, path: &str, status: StatusCode) -> Answer {
    if meaning.effect.changes() {
        return Answer::Final;
    }
    match (kind, status) {
        (Kind::Ollama, StatusCode::SERVICE_UNAVAILABLE) => Answer::Busy,
        (Kind::Ollama | Kind::Qdrant, StatusCode::NOT_FOUND) => Answer::NotThere,
        (Kind::Qdrant, StatusCode::OK) if path.ends_with("/exists") => Answer::MaybeNotThere,
        _ => Answer::Final,
    }
}

/// Whether the body of Qdrant's `GET /collections/{c}/exists` says that it does not.
pub fn says_not_there(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|answer| answer["result"]["exists"] == serde_json::Value::Bool(false))
}

/// The media type that a `Content-Type` names, without its parameters. In the case that Ollama
/// writes it in.
fn media_type(value: &HeaderValue) -> Option<&str> {
    let value = value.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

/// The longest path that any table knows has this many segments and a few to spare.
const MOST: usize = 10;

/// A path cut at its slashes, without copying. Empty segments are dropped, as both upstreams
/// merge slashes and ignore a trailing one.
struct Segments<'a> {
    parts: [&'a str; MOST],
    count: usize,
}

impl<'a> Segments<'a> {
    fn of(path: &'a str) -> Self {
        let mut cut = Self {
            parts: [""; MOST],
            count: 0,
        };
        let mut rest = path;
        while !rest.is_empty() {
            // A byte by byte look is the fastest at parts of a few bytes.
            let end = rest.bytes().position(|byte| byte == b'/');
            let (part, after) = end.map_or((rest, ""), |end| (&rest[..end], &rest[end + 1..]));
            rest = after;
            if part.is_empty() {
                continue;
            }
            if cut.count == MOST {
                // Longer than anything known: no table matches what is not a route.
                return Self {
                    parts: ["\0"; MOST],
                    count: MOST,
                };
            }
            cut.parts[cut.count] = part;
            cut.count += 1;
        }
        cut
    }

    fn as_slice(&self) -> &[&'a str] {
        &self.parts[..self.count]
    }
}

const fn means(effect: Effect, reach: Reach, op: &'static str) -> Meaning {
    Meaning { effect, reach, op }
}

/// A read that any backend may answer.
const fn read(op: &'static str) -> Meaning {
    means(Effect::Read, Reach::Any, op)
}

/// A read whose answer describes the backend that gives it.
const fn read_of_one(op: &'static str) -> Meaning {
    means(Effect::Read, Reach::OneBackend, op)
}

const fn write(op: &'static str) -> Meaning {
    means(Effect::Write, Reach::OneBackend, op)
}

const fn admin(op: &'static str) -> Meaning {
    means(Effect::Admin, Reach::OneBackend, op)
}

#[cfg(test)]
mod tests;
