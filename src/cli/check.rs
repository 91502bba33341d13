//! `tailhop check`.

use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::live::{self, Findings};
use super::run::render;
use super::{COULD_NOT_ASK, ConfigArg, NO, json, plural, say};
use crate::config::{self, Environment, Problem, Report, Snapshot, read};

/// Arguments of `check`.
#[derive(Args)]
pub(super) struct Check {
    /// The configuration [default: as --config].
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// Refuse warnings too.
    #[arg(long)]
    strict: bool,
    /// Ask tailscaled and every endpoint too: what is reachable, by which path, in how many ms.
    #[arg(long)]
    live: bool,
    /// Print all problems as JSON, with the edits that mend them.
    #[arg(long)]
    json: bool,
    /// Explain a code, with an example that has the problem and one that has not.
    #[arg(long, value_name = "CODE", conflicts_with_all = ["file", "strict", "live", "json"])]
    explain: Option<String>,
}

/// What was found, for scripts.
#[derive(Serialize)]
struct Output<'a> {
    schema: &'static str,
    file: String,
    /// Whether it may be used; with `--strict` also whether nothing is odd.
    valid: bool,
    errors: usize,
    warnings: usize,
    problems: &'a [Problem],
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<&'a Findings>,
}

impl Check {
    pub(super) fn run(self) -> u8 {
        if let Some(code) = &self.explain {
            return explain(code);
        }
        let path = self.file.clone().unwrap_or_else(|| self.config.path());
        let env = Environment::from_process();
        let (snapshot, report) = match read(&path) {
            Ok(source) => config::check(&source, &env, Timestamp::now()),
            Err(report) => (None, report),
        };
        let valid = snapshot.is_some() && !(self.strict && report.warnings() > 0);
        let live = snapshot.as_ref().filter(|_| self.live).map(live::ask);
        if self.json {
            print_json(&path, valid, &report, live.as_ref());
        } else {
            self.print(&path, snapshot.as_ref(), &report);
            say(&live.as_ref().map(Findings::show).unwrap_or_default());
        }
        let reachable = live.is_none_or(|found| found.good());
        if valid && reachable { 0 } else { NO }
    }

    /// Problems to stderr; what comes of them to where the answer belongs.
    fn print(&self, path: &Path, snapshot: Option<&Snapshot>, report: &Report) {
        if !report.problems.is_empty() {
            eprintln!("{}", render(report));
        }
        let counted = counted(report);
        let path = path.display();
        match snapshot {
            Some(_) if self.strict && !counted.is_empty() => {
                eprintln!("{path}: {counted}, and --strict allows none");
            }
            Some(valid) => {
                let services = plural(valid.services.len(), "service");
                let backends = plural(valid.backends.len(), "backend");
                let but = if counted.is_empty() {
                    counted
                } else {
                    format!(", {counted}")
                };
                say(&format!("{path}: valid: {services}, {backends}{but}\n"));
            }
            None => eprintln!("{path}: {counted}: it would not be used"),
        }
        if let Some(first) = report.problems.first() {
            eprintln!("more about a code: tailhop check --explain {}", first.code);
        }
    }
}

/// `2 errors, 1 warning`.
fn counted(report: &Report) -> String {
    let counts = [(report.errors(), "error"), (report.warnings(), "warning")];
    let told = counts.into_iter().filter(|(count, _)| *count > 0);
    told.map(|(count, what)| plural(count, what))
        .collect::<Vec<_>>()
        .join(", ")
}

fn print_json(path: &Path, valid: bool, report: &Report, live: Option<&Findings>) {
    say(&json(&Output {
        schema: "tailhop/check/v1",
        file: path.display().to_string(),
        valid,
        errors: report.errors(),
        warnings: report.warnings(),
        problems: &report.problems,
        live,
    }));
}

fn explain(code: &str) -> u8 {
    if let Some(text) = config::explain(code) {
        say(&format!("{text}\n"));
        return 0;
    }
    let codes: Vec<_> = config::codes().collect();
    eprintln!("error: there is no code {code:?}");
    eprintln!("help: the codes are {}", codes.join(" "));
    COULD_NOT_ASK
}
