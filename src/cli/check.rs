//! `tailhop check`.

use std::path::PathBuf;

use clap::Args;

use super::run::render;
use super::{ConfigArg, NO, json, say};
use crate::config::{Environment, load, read};

/// Arguments of `check`.
#[derive(Args)]
pub(super) struct Check {
    /// The configuration [default: as --config].
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
    /// Print all problems as JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> u8 {
        let path = self.file.clone().unwrap_or_else(|| self.config.path());
        let checked = read(&path).and_then(|source| load(&source, &Environment::from_process()));
        match (checked, self.json) {
            (Ok(snapshot), true) => print_json(&snapshot.warnings, 0),
            (Err(report), true) => print_json(&report.problems, NO),
            (Ok(snapshot), false) => {
                for warning in &snapshot.warnings {
                    eprintln!("warning[{}]: {}", warning.code, warning.message);
                }
                let (services, backends) = (snapshot.services.len(), snapshot.backends.len());
                say(&format!(
                    "{}: valid: {services} services, {backends} backends\n",
                    path.display()
                ));
                0
            }
            (Err(report), false) => {
                eprint!("{}", render(&report));
                NO
            }
        }
    }
}

fn print_json(problems: &impl serde::Serialize, code: u8) -> u8 {
    say(&json(problems));
    code
}
