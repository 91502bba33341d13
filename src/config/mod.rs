//! The configuration: `routing.toml` and four environment variables become one immutable
//! [`Snapshot`], or a [`Report`] of everything that is wrong with them.
//!
//! Owns the shape of the file, its defaults, every check and every problem with its place. Must
//! not watch, swap, serve or ask the clock: [`load`] reads nothing but the secrets and CA files
//! that the text names, and what depends on the time of day is decided by `plan` when a request
//! comes. Invariant: a file that is empty, half-written or
//! wrong in any way never becomes a snapshot; it becomes a report of all its problems at once.

mod codes;
pub mod defaults;
mod diff;
mod env;
mod moment;
pub mod paths;
pub mod problem;
mod raw;
pub mod snapshot;
mod source;
mod validate;

#[cfg(test)]
mod tests;

pub use diff::changes;
pub use env::Environment;
pub use problem::{Place, Problem, Report, Severity};
pub use snapshot::Snapshot;
pub use source::{Source, read};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use problem::Problems;

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
    let mut problems = Problems::new(source);
    let root = raw::read(source, env, &mut problems);
    let snapshot = validate::snapshot(&root, source, env, &mut problems);
    let report = problems.report();
    match snapshot {
        Some(mut snapshot) if report.errors() == 0 => {
            snapshot.warnings = report.problems;
            snapshot.files = report.files;
            Ok(snapshot)
        }
        _ => Err(report),
    }
}
