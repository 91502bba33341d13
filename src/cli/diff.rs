//! `tailhop diff`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::run::render;
use super::{COULD_NOT_ASK, ConfigArg, NO, json, plural, say};
use crate::config::{Environment, Report, Snapshot, changes, load, read};

/// Arguments of `diff`.
#[derive(Args)]
pub(super) struct Diff {
    /// The configuration that would be used instead.
    file: PathBuf,
    #[command(flatten)]
    config: ConfigArg,
    /// Print the changes as JSON.
    #[arg(long)]
    json: bool,
}

/// What would change, for scripts.
#[derive(Serialize)]
struct Output {
    schema: &'static str,
    used: String,
    file: String,
    changes: Vec<String>,
}

impl Diff {
    pub(super) fn run(self) -> u8 {
        let used = self.config.path();
        let [old, new] = [&used, &self.file].map(|path| loaded(path));
        let (old, new) = match (old, new) {
            (Ok(old), Ok(new)) => (old, new),
            (old, new) => {
                for (path, read) in [(&used, old), (&self.file, new)] {
                    if let Err(report) = read {
                        eprintln!("{}", render(&report));
                        eprintln!("{}: cannot be compared", path.display());
                    }
                }
                return COULD_NOT_ASK;
            }
        };
        let changes = changes(&old, &new);
        let code = if changes.is_empty() { 0 } else { NO };
        if self.json {
            say(&json(&Output {
                schema: "tailhop/diff/v1",
                used: used.display().to_string(),
                file: self.file.display().to_string(),
                changes,
            }));
        } else if changes.is_empty() {
            say("nothing would change\n");
        } else {
            say(&(changes.join("\n") + "\n"));
            eprintln!("{} would change", plural(changes.len(), "thing"));
        }
        code
    }
}

fn loaded(path: &Path) -> Result<Snapshot, Report> {
    load(&read(path)?, &Environment::from_process())
}
