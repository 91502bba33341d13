//! `require`: what a backend of a service must have.

use crate::api::models::Model;
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, IF_NOT_READY, Table};
use crate::words::names::Kind;

/// Whether a planned switch waits for a backend that lacks what is required.
pub(super) fn holds_switch(table: &Table, problems: &mut Problems<'_>) -> bool {
    let table = table.table("require");
    let Some(At { value, span }) = table.get::<&str>("if_not_ready") else {
        return true;
    };
    if !table.has("models") {
        let entry = table.entry("if_not_ready");
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(
                codes::VALUE,
                &span,
                "if_not_ready without models says nothing",
            )
            .help("name the models, as in models = [\"medgemma:27b\"]")
            .fix(fix);
    }
    value == IF_NOT_READY[0]
}

/// The models under `require`, each once.
pub(super) fn read(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    models(table.table("require"), "models", kind, problems)
}

/// The models that are loaded before they are asked for.
pub(super) fn prewarm(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    models(table, "prewarm", kind, problems)
}

/// The models that a key names, each once.
fn models(table: &Table, key: &'static str, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    let Some(At { value, span }) = table.get::<&[At<String>]>(key) else {
        return Vec::new();
    };
    if kind != Kind::Ollama || value.is_empty() {
        let (message, help) = if value.is_empty() {
            (
                format!("{key} names none"),
                "name one, or leave the key out",
            )
        } else {
            let message = format!("{key} is of kind ollama, and this is {kind}");
            (
                message,
                "remove it: nobody knows which models that service has",
            )
        };
        let entry = table.entry(key);
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(codes::VALUE, &span, message)
            .help(help)
            .fix(fix);
        return Vec::new();
    }
    let mut models = Vec::new();
    for At { value, span } in value {
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
