//! `tailhop status`.

use std::fmt::Write as _;

use clap::Args;

use super::{AdminArg, COULD_NOT_ASK, ask, block_on, say};
use crate::admin::status::{Child, Service, Status};

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
    let mut text = status.summary.join("\n") + "\n";
    for service in &status.services {
        text += &render_service(service);
    }
    text + &footer(status)
}

fn render_service(service: &Service) -> String {
    let places: Vec<_> = (service.routes.iter())
        .chain(&service.listen)
        .map(String::as_str)
        .collect();
    let mut text = format!("\n{} ({})\n", service.name, places.join(", "));
    for backend in &service.backends {
        let roles = [
            (backend.name == service.active.backend, "active"),
            (service.serving.contains(&backend.name), "serving"),
            (backend.drained, "drained"),
        ];
        let roles: Vec<_> = (roles.iter())
            .filter_map(|(has, role)| has.then_some(*role))
            .collect();
        let since = backend.since.as_deref().unwrap_or("-");
        let verdict = format!("{} since {since}", backend.verdict);
        let line = format!("  {:<20} {verdict:<40} {}", backend.name, roles.join(", "));
        text = text + line.trim_end() + "\n";
        if let Some(url) = &backend.url {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "    url {url}");
        }
        if let Some(error) = &backend.last_error {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "    last error {}: {}", error.at, error.text);
        }
    }
    if let Some(next) = &service.next_switch {
        let _ = writeln!(text, "  next switch {} to {}", next.at, next.to);
    }
    text
}

fn render_child(child: &Child) -> String {
    let pid = child
        .pid
        .map(|pid| format!(" pid {pid}"))
        .unwrap_or_default();
    let mut text = format!(
        "child    {} {} since {}{pid}, {} restarts\n",
        child.name, child.state, child.since, child.restarts
    );
    if !child.note.is_empty() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "         {}", child.note);
    }
    if let Some(exit) = &child.last_exit {
        let _ = writeln!(text, "         ended {}: {}", exit.at, exit.reason);
    }
    text
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
        let _ = writeln!(
            text,
            "         REJECTED at {}: the file on disk has {} problems\n{}",
            rejected.at, rejected.count, rejected.text
        );
    }
    let tailnet = &status.tailnet;
    let _ = writeln!(
        text,
        "tailnet  {} way {} suffix {} {}",
        tailnet.state,
        tailnet.way.as_deref().unwrap_or("-"),
        tailnet.suffix.as_deref().unwrap_or("-"),
        tailnet.detail
    );
    for child in &status.children {
        text += &render_child(child);
    }
    text + &format!(
        "instance {} tailhop {} {}\n",
        status.instance, status.version, status.time
    )
}
