//! `cache`: the embeddings that are kept.

use std::time::Duration;

use crate::config::codes;
use crate::config::defaults;
use crate::config::fix::Fix;
use crate::config::problem::Problems;
use crate::config::raw::Table;
use crate::config::snapshot::Cache;
use crate::words::names::Kind;

/// What `cache` of a service says; `None`: it has none.
pub(super) fn read(service: &Table, kind: Kind, problems: &mut Problems<'_>) -> Option<Cache> {
    let entry = service.entry("cache")?;
    if kind != Kind::Ollama {
        let message = format!("embeddings are kept of kind ollama, and this is {kind}");
        let help = "remove it: nothing of that service could be kept";
        let fix = Fix::remove_key(problems.text(), &entry);
        problems
            .at(codes::VALUE, &entry, message)
            .help(help)
            .fix(Some(fix));
        return None;
    }
    let table = service.table("cache");
    let count = |key, default| table.get::<u16>(key).map_or(default, |count| count.value);
    let default = defaults::CACHE;
    Some(Cache {
        entries: count("entries", default.entries),
        megabytes: count("megabytes", default.megabytes),
        ttl: table
            .get::<Duration>("ttl")
            .map_or(default.ttl, |ttl| ttl.value),
    })
}
