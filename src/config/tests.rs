//! The whole way from text to snapshot or report: what a person writes, and what comes of it.

mod changes;
mod damage;
mod environment;
mod include;
mod keys;
mod problems;
mod reference;
mod run;
mod secrets;
mod sites;
mod valid;
mod wrong;

use jiff::Timestamp;

use super::snapshot::{BackendId, DialWay, Fallback, HostHeader, ServiceId};
use super::*;
use crate::words::names::Kind;

const MAIN: &str = include_str!("../../config/routing.toml");

const TWO: &str = "\
[backends]
macbook-m1 = {}
mac-dev1 = {}

[services]
ollama = {}
qdrant = {}
";

/// Two backends, a default, and `more` at the end.
fn file(more: &str) -> String {
    format!("{TWO}[schedule]\ndefault = \"macbook-m1\"\n{more}")
}

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Snapshot, Report> {
    load(
        &Source::new("routing.toml", text),
        &Environment::from_pairs(env.iter().copied()),
    )
}

#[track_caller]
fn good(text: &str, env: &[(&str, &str)]) -> Snapshot {
    load_with(text, env).unwrap_or_else(|report| panic!("{}", report.render(false)))
}

#[track_caller]
fn bad(text: &str, env: &[(&str, &str)]) -> Report {
    let report = load_with(text, env).expect_err(text);
    assert!(
        report
            .problems
            .iter()
            .all(|problem| !problem.message.is_empty())
    );
    report
}

/// What is wrong with a file with one mistake: code, line, column, and message with help.
#[track_caller]
fn one(text: &str, env: &[(&str, &str)]) -> (&'static str, Option<(usize, usize)>, String) {
    let report = bad(text, env);
    assert_eq!(report.problems.len(), 1, "{}", report.render(false));
    let problem = &report.problems[0];
    let place = problem
        .place
        .as_ref()
        .map(|place| (place.line, place.column));
    let help = problem.help.clone().unwrap_or_default();
    (problem.code, place, format!("{}; {help}", problem.message))
}

fn warnings(snapshot: &Snapshot) -> Vec<(&'static str, &str)> {
    snapshot
        .warnings
        .iter()
        .map(|problem| (problem.code, problem.message.as_str()))
        .collect()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
