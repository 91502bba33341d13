//! Qdrant's REST routes, as of v1.19 with the older ones that it still serves.
//!
//! Most reads are POST; nine routes write points; everything else that is not a known read is
//! admin. A row says what a request means (src/actix/api/*.rs, docs/redoc openapi.json).

use http::Method;

use super::{Segments, admin, read, read_of_one, write};
use crate::words::effect::Meaning;

pub(super) const OPS: &[&str] = &[
    "cluster",
    "collections",
    "count",
    "delete",
    "facet",
    "health",
    "index",
    "other",
    "payload",
    "recommend",
    "retrieve",
    "scroll",
    "search",
    "snapshot",
    "telemetry",
    "upsert",
    "vectors",
];

/// What a request means. The server trims a trailing slash, so it counts as none.
pub(super) fn meaning(method: &Method, path: &Segments<'_>) -> Meaning {
    match (method, path.as_slice()) {
        (&Method::GET | &Method::HEAD, path) => get(path),
        (_, ["collections", "aliases"]) => admin("collections"),
        (_, ["collections", _, rest @ ..]) => in_collection(method, rest),
        (_, ["snapshots", ..]) => admin("snapshot"),
        (_, ["cluster", ..]) => admin("cluster"),
        _ => admin("other"),
    }
}

fn get(path: &[&str]) -> Meaning {
    match path {
        [] | ["healthz" | "livez" | "readyz"] => read("health"),
        ["aliases"] | ["collections"] => read("collections"),
        ["telemetry" | "metrics"] => read_of_one("telemetry"),
        ["cluster", ..] => read_of_one("cluster"),
        ["issues" | "quotas" | "logger"] => read_of_one("other"),
        ["snapshots", ..] => read_of_one("snapshot"),
        ["dashboard", ..] => read("other"),
        ["collections", _, rest @ ..] => get_in_collection(rest),
        // Among the rest: /debugger, /stacktrace, /profiler/slow_requests, which need manage
        // rights.
        _ => admin("other"),
    }
}

fn get_in_collection(path: &[&str]) -> Meaning {
    match path {
        [] | ["aliases" | "exists" | "shards"] => read("collections"),
        ["points", _] => read("retrieve"),
        ["cluster" | "memory" | "optimizations"] => read_of_one("cluster"),
        ["snapshots", ..] => read_of_one("snapshot"),
        ["shards", _, "snapshot" | "snapshots", ..] => read_of_one("snapshot"),
        // Staging builds: /shards/{id}/wal, /shards/{id}/recovery_point.
        _ => admin("other"),
    }
}

fn in_collection(method: &Method, path: &[&str]) -> Meaning {
    match (method, path) {
        (&Method::POST, path) => post_in_collection(path),
        (&Method::PUT, ["points"]) => write("upsert"),
        (&Method::PUT, ["points", "payload"]) => write("payload"),
        (&Method::PUT, ["points", "vectors"]) => write("vectors"),
        (_, ["index", ..]) => admin("index"),
        (_, ["vectors", ..]) => admin("vectors"),
        (_, ["snapshots", ..] | ["shards", _, "snapshots", ..]) => admin("snapshot"),
        (_, ["cluster" | "shards", ..]) => admin("cluster"),
        _ => admin("collections"),
    }
}

fn post_in_collection(path: &[&str]) -> Meaning {
    match path {
        ["points"] => read("retrieve"),
        ["points", "scroll"] => read("scroll"),
        ["points", "count"] => read("count"),
        ["facet"] => read("facet"),
        ["points", "query" | "search" | "recommend"]
        | [
            "points",
            "query" | "search" | "recommend",
            "batch" | "groups",
        ]
        | ["points", "search", "matrix", "pairs" | "offsets"]
        | ["points", "discover"]
        | ["points", "discover", "batch"] => read(search_op(path)),
        ["shards", _, "points"] => read_of_one("retrieve"),
        ["shards", _, "points", "scroll"] => read_of_one("scroll"),
        ["shards", _, "points", "count"] => read_of_one("count"),
        ["points", "delete"] => write("delete"),
        ["points", "batch"] => write("upsert"),
        ["points", "payload"] | ["points", "payload", "delete" | "clear"] => write("payload"),
        ["points", "vectors", "delete"] => write("vectors"),
        ["snapshots", ..] | ["shards", _, "snapshot" | "snapshots", ..] => admin("snapshot"),
        ["cluster" | "shards", ..] => admin("cluster"),
        _ => admin("other"),
    }
}

fn search_op(path: &[&str]) -> &'static str {
    if matches!(path, [_, "recommend" | "discover", ..]) {
        "recommend"
    } else {
        "search"
    }
}
