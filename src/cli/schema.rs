//! `tailhop schema` and `tailhop completions`: what other programs want to know of us.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, json, say};
use crate::config;

/// Arguments of `schema`.
#[derive(Args)]
pub(super) struct Schema {
    /// Print the tables of `config/README.md` instead, with the marks they stand between.
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(self) -> u8 {
        if self.markdown {
            for (name, table) in config::key_tables() {
                say(&format!("<!-- keys: {name} -->\n{table}<!-- /keys -->\n\n"));
            }
        } else {
            say(&json(&config::json_schema()));
        }
        0
    }
}

/// Arguments of `completions`.
#[derive(Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> u8 {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tailhop", &mut script);
        say(&String::from_utf8_lossy(&script));
        0
    }
}
