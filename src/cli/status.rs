//! `tailhop status`.

use clap::Args;

use super::{AdminArg, COULD_NOT_ASK, ask, block_on, say};
use crate::admin::status::Status;

/// Arguments of `status`.
#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArg,
    /// Print what the instance answers, as JSON.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) fn run(self) -> u8 {
        let answer = block_on(ask::get(self.admin.address(), "/status"));
        match answer.and_then(|(_, text)| self.show(&text)) {
            Ok(text) => {
                say(&text);
                0
            }
            Err(error) => {
                eprintln!("error: {error}");
                eprintln!("help: start one with `tailhop run`, or name its address with --admin");
                COULD_NOT_ASK
            }
        }
    }

    fn show(&self, text: &str) -> Result<String, String> {
        if self.json {
            return Ok(text.to_owned());
        }
        let status: Status = serde_json::from_str(text)
            .map_err(|error| format!("the instance speaks another version: {error}"))?;
        Ok(render(&status))
    }
}

/// For people: one sentence a service first, then the details.
fn render(status: &Status) -> String {
    let mut text = String::new();
    for sentence in &status.summary {
        text += &format!("{sentence}\n");
    }
    for service in &status.services {
        text += &format!("\n{} ({})\n", service.name, service.routes.join(", "));
        for backend in &service.backends {
            let active = if backend.name == service.active.backend {
                "active"
            } else {
                ""
            };
            let serving = if service.serving.contains(&backend.name) {
                "serving"
            } else {
                ""
            };
            let since = backend.since.as_deref().unwrap_or("-");
            let drained = if backend.drained { " drained" } else { "" };
            text += &format!(
                "  {:<20} {:<8} {active:<6} {serving:<7} since {since}{drained}\n",
                backend.name, backend.verdict
            );
            if let Some(error) = &backend.last_error {
                text += &format!("    last error {}: {}\n", error.at, error.text);
            }
        }
        if let Some(next) = &service.next_switch {
            text += &format!("  next switch {} to {}\n", next.at, next.to);
        }
    }
    text + &footer(status)
}

fn footer(status: &Status) -> String {
    let config = &status.config;
    let mut text = format!(
        "\nconfig   {} {} generation {} since {}\n",
        config.path, config.hash, config.generation, config.applied_at
    );
    if config.stand_in {
        text += "         the stand-in copy: writes of data services are refused\n";
    }
    if let Some(rejected) = &config.rejected {
        text += &format!(
            "         REJECTED at {}: the file on disk has {} problems\n{}\n",
            rejected.at, rejected.count, rejected.text
        );
    }
    let tailnet = &status.tailnet;
    text += &format!(
        "tailnet  {} way {} suffix {} {}\n",
        tailnet.state,
        tailnet.way.as_deref().unwrap_or("-"),
        tailnet.suffix.as_deref().unwrap_or("-"),
        tailnet.detail
    );
    text + &format!(
        "instance {} tailhop {} {}\n",
        status.instance, status.version, status.time
    )
}
