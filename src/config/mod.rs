//! The configuration: `routing.toml` and four environment variables become one immutable
//! [`Snapshot`], or a [`Report`] of everything that is wrong with them.
//!
//! Owns the shape of the file, its defaults, every check and every problem with its place. Must
//! not watch, swap, serve or ask the clock: [`load`] reads nothing but the files that the text
//! includes and the secrets and CA files that it names, and what depends on the time of day is decided by `plan` when a request
//! comes. Invariant: a file that is empty, half-written or
//! wrong in any way never becomes a snapshot; it becomes a report of all its problems at once.

mod canary;
mod codes;
pub mod defaults;
mod diff;
mod effective;
mod env;
mod explain;
mod fix;
mod moment;
pub mod paths;
pub mod problem;
mod raw;
mod schema;
pub mod snapshot;
mod source;
mod validate;
mod whole;

#[cfg(test)]
mod tests;

pub use diff::changes;
pub use effective::{Setting, ValueOrigin, effective};
pub use env::Environment;
pub use explain::{codes, explain};
pub use problem::{Edit, Place, Problem, Report, Severity};
pub use schema::{json_schema, key_tables};
pub use snapshot::Snapshot;
pub use source::{Source, read};

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use problem::Problems;
use whole::Whole;

/// The instant that `text` names, as the file would have it: with its offset, or in `zone`.
///
/// # Errors
/// What is wrong with it and what to write, for people.
pub fn instant(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let moment = moment::Moment::parse(text).ok_or(
        "write a date such as 2025-02-17, or a time such as 2025-02-17T09:00:00+09:00".to_owned(),
    )?;
    moment.instant(zone).map_err(|ambiguous| {
        let (message, help) = ambiguous.message_and_help(text);
        format!("{message}; {help}")
    })
}

/// The configuration that `source` and `env` make together.
///
/// Its `generation` is 0 and its origin no stand-in: who swaps it in sets both.
///
/// # Errors
/// All problems of the file and of the environment, warnings among them.
pub fn load(source: &Source, env: &Environment) -> Result<Snapshot, Report> {
    load_by(source, env, &read)
}

/// The same, with included files as `reader` has them: from a watch, which knows when they hold
/// still.
///
/// # Errors
/// As those of [`load`].
pub fn load_by(
    source: &Source,
    env: &Environment,
    reader: &dyn Fn(&Path) -> Result<Source, Report>,
) -> Result<Snapshot, Report> {
    let whole = Whole::gather(source, env, reader);
    let (snapshot, report) = judge(&whole, env, Problems::new(&whole));
    snapshot.ok_or(report)
}

/// The same for a person who asks at `now`: the snapshot if there is one, and all problems, with
/// warnings of what has passed by then.
pub fn check(source: &Source, env: &Environment, now: Timestamp) -> (Option<Snapshot>, Report) {
    let whole = Whole::gather(source, env, &read);
    judge(&whole, env, Problems::new(&whole).at_time(now))
}

fn judge(
    whole: &Whole,
    env: &Environment,
    mut problems: Problems<'_>,
) -> (Option<Snapshot>, Report) {
    let root = raw::read(whole, env, &mut problems);
    let snapshot = validate::snapshot(&root, whole, env, &mut problems);
    canary::look(&mut problems);
    let report = problems.report();
    let usable = snapshot.filter(|_| report.errors() == 0);
    let snapshot = usable.map(|mut snapshot| {
        snapshot.warnings.clone_from(&report.problems);
        snapshot.files.clone_from(&report.files);
        snapshot
    });
    (snapshot, report)
}
