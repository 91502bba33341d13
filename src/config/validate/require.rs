//! `require`: what a backend of a service must have.

use crate::api::models::Model;
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, IF_NOT_READY, Table};
use crate::config::snapshot::Require;
use crate::words::names::Kind;

use super::twice;

/// Whether a planned switch waits for a backend that lacks what is required.
pub(super) fn holds_switch(table: &Table, problems: &mut Problems<'_>) -> bool {
    let table = table.table("require");
    let word = table.get::<&str>("if_not_ready");
    if word.is_some() && !table.has("models") && !table.has("collections") {
        let help = "name what is required, as in models = [\"medgemma:27b\"] or collections = \
                    [\"papers\"]";
        let message = "if_not_ready without models or collections says nothing";
        refuse(table, "if_not_ready", message, help, problems);
    }
    word.is_none_or(|word| word.value == IF_NOT_READY[0])
}

/// What stands under `require`, each once.
pub(super) fn read(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Require {
    let table = table.table("require");
    Require {
        models: models(table, "models", kind, problems),
        collections: collections(table, kind, problems),
        min_points: min_points(table, problems),
    }
}

/// The models that are loaded before they are asked for.
pub(super) fn prewarm(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    models(table, "prewarm", kind, problems)
}

/// The models that a key names, each once.
fn models(table: &Table, key: &'static str, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    let mut models = Vec::new();
    for At { value, span } in named(table, key, (Kind::Ollama, kind), problems) {
        match Model::named(value) {
            None => {
                let message = format!("{} is no name of a model", quote(value));
                let help = "write it as `ollama list` shows it, as in \"medgemma:27b\"";
                problems.at(codes::VALUE, span, message).help(help);
            }
            // Said twice, it is still required once.
            Some(model) if models.contains(&model) => {}
            Some(model) => models.push(model),
        }
    }
    models
}

/// The collections that are named, each once. Whatever is no empty name may be one.
fn collections(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<String> {
    let mut collections = Vec::new();
    for At { value, span } in named(table, "collections", (Kind::Qdrant, kind), problems) {
        if value.is_empty() {
            let message = "a collection has a name";
            let help = "write it as `GET /collections` shows it, as in \"papers\"";
            problems.at(codes::VALUE, span, message).help(help);
        } else if collections.contains(value) {
            twice(value, span, problems);
        } else {
            collections.push(value.clone());
        }
    }
    collections
}

/// An empty collection answers every search with nothing, so one point is the least.
fn min_points(table: &Table, problems: &mut Problems<'_>) -> u64 {
    let points = table.get::<u64>("min_points");
    if points.is_some() && !table.has("collections") {
        let message = "min_points without collections says nothing";
        let help = "name the collections, as in collections = [\"papers\"]";
        refuse(table, "min_points", message, help, problems);
    }
    points.map_or(1, |points| points.value)
}

/// The names under a key that services of one kind have, if this one is of it.
fn named<'t>(
    table: &'t Table,
    key: &'static str,
    (of, kind): (Kind, Kind),
    problems: &mut Problems<'_>,
) -> &'t [At<String>] {
    let Some(At { value, .. }) = table.get::<&[At<String>]>(key) else {
        return &[];
    };
    if value.is_empty() {
        let (message, help) = (
            format!("{key} names none"),
            "name one, or leave the key out",
        );
        refuse(table, key, &message, help, problems);
    } else if kind != of {
        let message = format!("{key} is of kind {of}, and this is {kind}");
        let help = match of {
            Kind::Qdrant => "remove it: nobody knows which collections that service has",
            _ => "remove it: nobody knows which models that service has",
        };
        refuse(table, key, &message, help, problems);
    } else {
        return value;
    }
    &[]
}

/// Reports a key that cannot stand where it stands.
fn refuse(table: &Table, key: &str, message: &str, help: &str, problems: &mut Problems<'_>) {
    let Some(entry) = table.entry(key) else {
        return;
    };
    let fix = Fix::remove_key(problems.text(), &entry);
    let span = table.span_of(key);
    problems
        .at(codes::VALUE, span, message)
        .help(help)
        .fix(Some(fix));
}
