//! Ollama's routes, as of v0.33 (server/routes.go, `GenerateRoutes`).
//!
//! A row says what a request means. What no row knows is treated as admin: it stays with the
//! active backend and is sent once.

use http::Method;

use super::{Segments, admin, means, read, read_of_one};
use crate::words::effect::{Effect, Meaning, Reach};

pub(super) const OPS: &[&str] = &[
    "account",
    "blobs",
    "chat",
    "copy",
    "create",
    "delete",
    "embed",
    "generate",
    "other",
    "ps",
    "pull",
    "push",
    "root",
    "show",
    "tags",
    "transcribe",
    "version",
];

/// What a request means. Clients reach a trailing slash through a redirect, so it counts as none.
pub(super) fn meaning(method: &Method, path: &Segments<'_>) -> Meaning {
    match *method {
        Method::GET => get(path.as_slice()),
        Method::HEAD => head(path.as_slice()),
        Method::POST => post(path.as_slice()),
        Method::DELETE => delete(path.as_slice()),
        _ => admin("other"),
    }
}

fn get(path: &[&str]) -> Meaning {
    match path {
        [] => read("root"),
        ["api", "version"] => read("version"),
        ["api", "tags"] | ["v1", "models"] => read("tags"),
        ["v1", "models", _] => read("show"),
        ["api", "ps"] => read("ps"),
        ["api", "status"] | ["api", "experimental", "model-recommendations"] => read("other"),
        _ => admin("other"),
    }
}

fn head(path: &[&str]) -> Meaning {
    match path {
        [] => read("root"),
        ["api", "version"] => read("version"),
        ["api", "tags"] => read("tags"),
        ["api", "blobs", _] => read_of_one("blobs"),
        _ => admin("other"),
    }
}

fn post(path: &[&str]) -> Meaning {
    match path {
        ["api", "generate"] | ["v1", "completions"] => inference("generate"),
        ["api", "chat"]
        | ["v1", "chat", "completions"]
        | ["v1", "responses"]
        | ["v1", "messages"] => inference("chat"),
        ["v1", "audio", "transcriptions"] => inference("transcribe"),
        ["api", "embed"] | ["api", "embeddings"] | ["v1", "embeddings"] => {
            means(Effect::Inference, Reach::SameModel, "embed")
        }
        ["api", "show"] => read("show"),
        ["api", "pull"] => admin("pull"),
        ["api", "push"] => admin("push"),
        ["api", "create"] => admin("create"),
        ["api", "copy"] => admin("copy"),
        ["api", "blobs", _] => admin("blobs"),
        ["api", "me"] | ["api", "signout"] => admin("account"),
        // web_search and web_fetch go to the cloud under the account of the Mac that is asked.
        ["api", "experimental", "web_search" | "web_fetch"] => admin("account"),
        _ => admin("other"),
    }
}

fn delete(path: &[&str]) -> Meaning {
    match path {
        ["api", "delete"] => admin("delete"),
        ["api", "user", "keys", _] => admin("account"),
        _ => admin("other"),
    }
}

/// Stateless: may load or evict a model in memory, changes nothing that outlives it.
const fn inference(op: &'static str) -> Meaning {
    means(Effect::Inference, Reach::Any, op)
}
