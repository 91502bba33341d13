//! Which route a path matches, and what the upstream sees of the path.
//!
//! The longest prefix wins, by whole segments, over the bytes as they came: nothing is decoded,
//! so nothing can be decoded twice.

use std::borrow::Cow;

use http::Method;

use crate::api;
use crate::api::rules::by_rules;
use crate::config::snapshot::{Route, Snapshot};
use crate::words::effect::Meaning;
use crate::words::names::Kind;

/// The route of `path`, if any. `path` has no query.
pub fn match_route<'s>(snapshot: &'s Snapshot, path: &str) -> Option<&'s Route> {
    snapshot.routes.longest(path)
}

/// The path that the upstream sees: without the prefix if the route strips, byte for byte
/// otherwise. `/qdrant` and `/qdrant/` both mean `/`. For Ollama runs of slashes become one, as
/// it answers them with a redirect that turns a POST into a GET.
pub fn upstream_path<'p>(route: &Route, kind: Kind, path: &'p str) -> Cow<'p, str> {
    let rest = match route.path.as_str() {
        prefix if route.strip && prefix != "/" => path.get(prefix.len()..).unwrap_or(""),
        _ => path,
    };
    match kind {
        _ if rest.is_empty() => Cow::Borrowed("/"),
        Kind::Ollama if rest.contains("//") => Cow::Owned(single_slashes(rest)),
        _ => Cow::Borrowed(rest),
    }
}

/// What a request on `route` means, `path` being what the upstream will see, and by which of the
/// route's rules, from 0, if by one.
pub fn meaning(route: &Route, kind: Kind, method: &Method, path: &str) -> (Meaning, Option<usize>) {
    match by_rules(&route.effects, method, path) {
        Some((rule, meaning)) => (meaning, Some(rule)),
        None => (api::meaning(kind, method, path), None),
    }
}

fn single_slashes(path: &str) -> String {
    let mut single = String::with_capacity(path.len());
    for piece in path.chars() {
        if piece != '/' || !single.ends_with('/') {
            single.push(piece);
        }
    }
    single
}
