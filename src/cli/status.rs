//! `tailhop status`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::{AdminArg, COULD_NOT_ASK, ask, block_on, json, say};
use crate::admin::status::{Child, Service, Status};
use crate::words::secret::Secret;

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `status`.
#[derive(Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArg,
    /// Print what the instance answers, as JSON.
    #[arg(long)]
    json: bool,
    /// Print the last changes of who is active and who serves, the latest first.
    #[arg(long)]
    history: bool,
    /// Print it again whenever it is different, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

impl StatusArgs {
    pub(super) fn run(self) -> u8 {
        let address = self.admin.address();
        let token = self.admin.token();
        let asked = block_on(async {
            let mut shown: Option<String> = None;
            loop {
                let (text, news) = match self.look(address, token.as_ref()).await {
                    Ok(seen) => seen,
                    // It may be starting anew; but one that never was there is not waited for.
                    Err(why) if self.watch && shown.is_some() => {
                        let gone = format!("no answer: {why}\n");
                        (gone.clone(), gone)
                    }
                    Err(why) => return Err(why),
                };
                if !self.watch {
                    say(&text);
                    return Ok(());
                }
                if shown.as_ref() != Some(&news) {
                    say(&(clear() + &text));
                    shown = Some(news);
                }
                sleep(LOOK).await;
            }
        });
        match asked {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("error: {error}");
                eprintln!("help: start one with `tailhop run`, or name its address with --admin");
                COULD_NOT_ASK
            }
        }
    }

    /// What there is to show, and what of it is news: the time alone is none.
    async fn look(
        &self,
        address: SocketAddr,
        token: Option<&Secret>,
    ) -> Result<(String, String), String> {
        let (code, text) = ask::get_with(address, "/status", token).await?;
        if !code.is_success() {
            return Err(format!("{} {}", code.as_u16(), text.trim_end()));
        }
        let status = parsed(&text)?;
        let text = self.show(&status, &text);
        let news = text.replace(&status.time, "");
        Ok((text, news))
    }

    fn show(&self, status: &Status, text: &str) -> String {
        match (self.json, self.history) {
            (true, true) => json(&status.history),
            (true, false) => text.to_owned(),
            (false, true) => history(status),
            (false, false) => render(status),
        }
    }
}

fn parsed(text: &str) -> Result<Status, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("the instance speaks another version: {error}"))
}

/// Makes room on a terminal.
fn clear() -> String {
    let terminal = std::io::stdout().is_terminal();
    if terminal { "\x1b[H\x1b[2J" } else { "" }.to_owned()
}

fn history(status: &Status) -> String {
    if status.history.is_empty() {
        return format!(
            "nothing has changed since the start at {}\n",
            status.started
        );
    }
    let mut text = String::new();
    for change in &status.history {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}  {}", change.time, change.text);
    }
    text
}

/// For people: one sentence a service first, then the details.
fn render(status: &Status) -> String {
    let mut text = status.summary.join("\n") + "\n";
    for service in &status.services {
        text += &render_service(service);
    }
    text + &orders(status) + &footer(status)
}

fn orders(status: &Status) -> String {
    let held = status.orders.iter().filter(|order| order.holds);
    let lines = held.map(|order| {
        let mut line = format!("{} {}", order.kind, order.backend);
        for (word, text) in [
            ("for", order.services.as_ref().map(|all| all.join(", "))),
            ("until", order.until.clone()),
            ("by", order.by.clone()),
            ("because", order.reason.clone()),
        ] {
            line += &text.map_or(String::new(), |text| format!(" {word} {text}"));
        }
        if order.hold_writes {
            line += "; writes are held";
        }
        line + "\n"
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        format!(
            "\norders   {}",
            lines.replace('\n', "\n         ").trim_end()
        ) + "\n"
    }
}

fn render_service(service: &Service) -> String {
    let grpc = (service.listen_grpc.as_ref()).map(|address| format!("gRPC on {address}"));
    let places: Vec<_> = (service.routes.iter())
        .chain(&service.listen)
        .chain(&grpc)
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
        if let Some(models) = &backend.models {
            let _ = writeln!(text, "    {}", models.show());
        }
        if let Some(collections) = &backend.collections {
            let _ = writeln!(text, "    {}", collections.show());
        }
        if !backend.lacks.is_empty() {
            let _ = writeln!(text, "    LACKS {}", backend.lacks.join(", "));
        }
        if let Some(error) = &backend.last_error {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "    last error {}: {}", error.at, error.text);
        }
    }
    if !service.models_differ.is_empty() {
        let models = service.models_differ.join(", ");
        let _ = writeln!(
            text,
            "  WARNING: not the same on all backends, so embeddings stay: {models}"
        );
    }
    if let Some(waits) = service.waits() {
        let _ = writeln!(text, "  WAITS: {waits}");
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
    if let Some(warning) = &tailnet.warning {
        let _ = writeln!(text, "         WARNING: {warning}");
    }
    for child in &status.children {
        text += &render_child(child);
    }
    text + &format!(
        "instance {} tailhop {} {}\n",
        status.instance, status.version, status.time
    )
}
