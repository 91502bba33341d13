//! `tailhop config`.

use clap::Args;
use serde::Serialize;

use super::run::render;
use super::{ConfigArg, NO, json, say};
use crate::config::{Environment, Setting, effective, read};

/// Arguments of `config`.
#[derive(Args)]
pub(super) struct Config {
    #[command(flatten)]
    place: ConfigArg,
    /// Only keys that begin with this, such as `tailnet` or `services.ollama`.
    #[arg(value_name = "KEY")]
    under: Option<String>,
    /// Print the settings as JSON.
    #[arg(long)]
    json: bool,
}

/// The settings, for scripts.
#[derive(Serialize)]
struct Output {
    schema: &'static str,
    file: String,
    settings: Vec<Setting>,
}

impl Config {
    pub(super) fn run(self) -> u8 {
        let path = self.place.path();
        let env = Environment::from_process();
        let found = read(&path).and_then(|source| effective(&source, &env));
        let mut settings = match found {
            Ok(settings) => settings,
            Err(report) => {
                eprintln!("{}", render(&report));
                eprintln!("{}: it would not be used", path.display());
                return NO;
            }
        };
        if let Some(under) = &self.under {
            settings.retain(|setting| setting.key.starts_with(under.as_str()));
        }
        if self.json {
            say(&json(&Output {
                schema: "tailhop/config/v1",
                file: path.display().to_string(),
                settings,
            }));
        } else {
            say(&lines(&settings));
        }
        0
    }
}

/// `key = value   # origin`, with the origins below each other as far as values are short.
fn lines(settings: &[Setting]) -> String {
    let line = |setting: &Setting| format!("{} = {}", setting.key, setting.value);
    let width = settings.iter().map(|setting| line(setting).len());
    let width = width.filter(|width| *width <= 60).max().unwrap_or(0);
    let line = |setting| format!("{:width$}  # {}\n", line(setting), setting.origin);
    settings.iter().map(line).collect()
}
