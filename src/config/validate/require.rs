//! `require`: what a backend of a service must have.

use crate::api::models::Model;
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Table};
use crate::words::names::Kind;

/// The models under `require`, each once.
pub(super) fn read(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<Model> {
    let table = table.table("require");
    let Some(At { value, span }) = table.get::<&[At<String>]>("models") else {
        return Vec::new();
    };
    if kind != Kind::Ollama || value.is_empty() {
        let (message, help) = if value.is_empty() {
            (
                "models names none".to_owned(),
                "name one, or leave the key out",
            )
        } else {
            let message = format!("models are required of kind ollama, and this is {kind}");
            (
                message,
                "remove it: nobody knows which models that service has",
            )
        };
        let entry = table.entry("models");
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
