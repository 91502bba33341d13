//! `policy` and `limit`: who takes how much work. Of kind `ollama` alone, which is known to queue
//! without telling.

use std::time::Duration;

use crate::config::codes;
use crate::config::defaults;
use crate::config::fix::Fix;
use crate::config::problem::Problems;
use crate::config::raw::{At, Table};
use crate::config::snapshot::{Limit, Policy};
use crate::words::names::Kind;

/// Whom inference prefers.
pub(super) fn policy(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Policy {
    of_ollama(table, "policy", kind, problems);
    let word = table.get::<&str>("policy").map(|word| word.value);
    let mut words = Policy::WORDS.iter();
    let said = words.find(|(known, _)| Some(*known) == word);
    said.map_or(Policy::Active, |(_, policy)| *policy)
}

/// How many inferences a backend works on at once.
pub(super) fn limit(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Option<Limit> {
    of_ollama(table, "limit", kind, problems);
    let table = table.table("limit");
    // One without it was reported.
    let in_flight = table.get::<u16>("in_flight")?.value;
    let queue = table.get::<u16>("queue").map(|queue| queue.value);
    let wait = table.get::<Duration>("wait").map(|wait| wait.value);
    Some(Limit {
        in_flight: in_flight.into(),
        queue: queue.map_or(defaults::QUEUE, usize::from),
        wait: wait.unwrap_or(defaults::QUEUE_WAIT),
        spill: table.get("spill").is_some_and(|At { value, .. }| value),
    })
}

/// Reports a key of another kind's service.
fn of_ollama(table: &Table, key: &'static str, kind: Kind, problems: &mut Problems<'_>) {
    if kind == Kind::Ollama || !table.has(key) {
        return;
    }
    let entry = table.entry(key);
    let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
    let message = format!("{key} is of kind ollama, and this is {kind}");
    problems
        .at(codes::VALUE, table.span_of(key), message)
        .help("remove it: nobody knows which of its requests are inference")
        .fix(fix);
}
