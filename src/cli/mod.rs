//! The command line: arguments, exit codes, printing.
//!
//! Answers go to stdout, diagnostics to stderr. Exit codes: 0 yes, 1 no, 2 wrong usage or could
//! not ask; `health` only 0 or 1; `run` the app's own code, 78 for an invalid configuration, 125 when
//! tailhop itself failed, 126 and 127 for an app that cannot be started.
#![expect(clippy::print_stderr, reason = "diagnostics are what it is for")]

mod ask;
mod check;
mod config;
mod demo;
mod diff;
mod drain;
mod explain;
mod health;
mod init;
mod live;
mod log;
mod migrate;
mod order;
mod pin;
mod reload;
mod run;
mod schema;
mod status;
mod undrain;
mod unpin;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Environment, Snapshot, load, read};
use crate::supervise::become_child;
use crate::words::secret::Secret;

/// `run`: the configuration is invalid (`EX_CONFIG` of sysexits).
const INVALID_CONFIG: u8 = 78;
/// `run`: tailhop itself failed.
const FAILED: u8 = 125;
const NO: u8 = 1;
const COULD_NOT_ASK: u8 = 2;

/// Where the configuration is looked for without `--config` and `TAILHOP_CONFIG`.
const PLACES: [&str; 2] = ["config/routing.toml", "/etc/tailhop/routing.toml"];
/// Where an instance is asked if no configuration says where it listens.
const ADMIN: &str = "127.0.0.1:9484";

/// One local address for the models and vectors on your tailnet.
#[derive(Parser)]
#[command(name = "tailhop", version = env!("TAILHOP_VERSION"), about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve: the proxy on `listen.data`, metrics, health and status on `listen.admin`.
    #[command(
        after_help = "Examples:\n  tailhop run --config /mnt/ops/routing.toml --config /etc/tailhop/routing.toml\n  tailhop run -- gunicorn --bind :8080 app:app    # starts tailscaled and the app, too\n\nExit: the app's own code, or 128 and its signal; 78 the configuration is invalid, 125 tailhop\nfailed, 126 the app is not executable, 127 it is not there. Without an app: 0."
    )]
    Run(run::Run),
    /// Check a configuration: every problem at once, with its place and remedy.
    #[command(
        after_help = "Example:\n  tailhop check config/routing.toml --strict && echo fine\n\nExit: 0 valid (with --live: and all reachable), 1 not, 2 wrong usage."
    )]
    Check(check::Check),
    /// Print the configuration that holds, each value with its origin; secrets as ***.
    #[command(after_help = "Example:\n  tailhop config tailnet\n\nExit: 0 valid, 1 not.")]
    Config(config::Config),
    /// Say in words what another file would change.
    #[command(
        after_help = "Example:\n  tailhop diff new.toml --config config/routing.toml\n\nExit, as of diff: 0 nothing would change, 1 something would, 2 a file is invalid."
    )]
    Diff(diff::Diff),
    /// Write a first routing.toml, from what the environment says already.
    #[command(
        after_help = "Example:\n  TAILNET_NAME=tail1234 tailhop init --backend macbook-m1 --backend mac-dev1\n\nExit: 0 written, 1 there already or not valid, 2 it cannot be written."
    )]
    Init(init::Init),
    /// Print the JSON Schema of routing.toml, for editors.
    #[command(
        after_help = "Example:\n  tailhop schema > routing.schema.json    # and `#:schema ./routing.schema.json` on top of routing.toml"
    )]
    Schema(schema::Schema),
    /// Print the completions for a shell.
    #[command(after_help = "Example:\n  tailhop completions bash > /etc/bash_completion.d/tailhop")]
    Completions(schema::Completions),
    /// Say where a request would go, and why.
    #[command(
        after_help = "Example:\n  tailhop explain POST /qdrant/collections/c/points/query --at 2025-02-17T00:00:00+09:00\n\nExit: 0 it has a candidate, 1 it has none, 2 the configuration is invalid."
    )]
    Explain(explain::Explain),
    /// Say which backend is active and why, as the running instance sees it.
    #[command(
        after_help = "Example:\n  tailhop status --json | jq .services[].active.backend\n\nExit: 0 answered, 2 no instance answers."
    )]
    Status(status::StatusArgs),
    /// Make a backend active for a while, whatever the schedule says: edits the file.
    #[command(
        after_help = "Example:\n  tailhop pin mac-dev1 --for 2h --reason 'macbook-m1 gets an update'\n\nExit: 0 the instance confirms it, 1 refused, or the file cannot be written (then the edit is printed), 2 wrong usage, or no instance confirms it."
    )]
    Pin(pin::Pin),
    /// Take a pin back: the schedule holds again.
    #[command(
        after_help = "Example:\n  tailhop unpin --services ollama\n\nExit: as of `tailhop pin`."
    )]
    Unpin(unpin::Unpin),
    /// Send no new work to a backend; what it works on it finishes.
    #[command(
        after_help = "Example:\n  tailhop drain macbook-m1 --for 30m --reason reboot\n\nExit: as of `tailhop pin`."
    )]
    Drain(drain::Drain),
    /// Send work to a backend again.
    #[command(after_help = "Example:\n  tailhop undrain macbook-m1\n\nExit: as of `tailhop pin`.")]
    Undrain(undrain::Undrain),
    /// Move collections from one Qdrant to another, and prove that both are the same.
    #[command(
        after_help = "Examples:\n  tailhop migrate --from macbook-m1 --to mac-dev1 --pin\n  tailhop migrate --from http://127.0.0.1:6333 --to https://qdrant.example.com:6333 \\\n      --to-api-key-env QDRANT_KEY --collection docs\n  tailhop migrate --from macbook-m1 --to mac-dev1 --verify-only\n\nNothing is ever changed at the source. Ctrl-C, a crash or a full disk lose nothing: --resume goes\non. The last pass compares both sides and copies again what was written at the source meanwhile,\nuntil a whole pass finds nothing.\n\nExit: 0 both sides are the same, 1 they are not or it was refused, 2 wrong usage or a side does not\nanswer."
    )]
    Migrate(migrate::Migrate),
    /// Make the running instance look at its file now, and say what is different.
    #[command(
        after_help = "Example:\n  tailhop reload\n\nIt presents TAILHOP_TOKEN, else ADMIN_API_KEY, else the token of the configuration.\n\nExit: 0 taken or unchanged, 1 the file has problems, 2 could not ask."
    )]
    Reload(reload::Reload),
    /// Probe the running instance, for HEALTHCHECK: liveness, or with --ready readiness.
    #[command(
        after_help = "Example:\n  HEALTHCHECK CMD [\"tailhop\", \"health\"]\n\nExit: 0 yes, 1 no."
    )]
    Health(health::Health),
    /// Show it all on this machine: two stand-in Macs on loopback and the proxy before them.
    #[command(
        after_help = "Examples:\n  tailhop demo            # serves until Ctrl-C; prints lines to try\n  tailhop demo --story    # plays the nine steps alone; exit 0 if each went right"
    )]
    Demo(demo::Demo),
}

/// Where the configuration is.
#[derive(Args, Clone)]
struct ConfigArg {
    /// The configuration [default: `TAILHOP_CONFIG`, else config/routing.toml, else
    /// /etc/tailhop/routing.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whom to ask.
#[derive(Args, Clone)]
struct AdminArg {
    #[command(flatten)]
    config: ConfigArg,
    /// The admin address of the instance [default: `listen.admin` of the configuration].
    #[arg(long, value_name = "ADDRESS", env = "TAILHOP_ADMIN")]
    admin: Option<SocketAddr>,
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    // A child of `run` begins as this program: it has arguments of its own.
    if let Some(code) = become_child(std::env::args_os()) {
        return ExitCode::from(code);
    }
    let code = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Config(config) => config.run(),
        Command::Diff(diff) => diff.run(),
        Command::Init(init) => init.run(),
        Command::Schema(schema) => schema.run(),
        Command::Completions(completions) => completions.run(),
        Command::Explain(explain) => explain.run(),
        Command::Status(status) => status.run(),
        Command::Pin(pin) => pin.run(),
        Command::Unpin(unpin) => unpin.run(),
        Command::Drain(drain) => drain.run(),
        Command::Undrain(undrain) => undrain.run(),
        Command::Migrate(migrate) => migrate.run(),
        Command::Reload(reload) => reload.run(),
        Command::Health(health) => health.run(),
        Command::Demo(demo) => demo.run(),
    };
    ExitCode::from(code)
}

impl ConfigArg {
    fn path(&self) -> PathBuf {
        path_of(self.config.as_deref(), std::env::var_os("TAILHOP_CONFIG"))
    }

    /// Whether it was said which file it is.
    fn is_named(&self) -> bool {
        self.config.is_some()
            || std::env::var_os("TAILHOP_CONFIG").is_some_and(|path| !path.is_empty())
    }
}

/// The first that is named, else the first that is there, else the first of all.
fn path_of(argument: Option<&Path>, variable: Option<OsString>) -> PathBuf {
    if let Some(path) = argument {
        return path.to_owned();
    }
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return path.into();
    }
    let there = PLACES.iter().find(|place| Path::new(place).exists());
    there.unwrap_or(&PLACES[0]).into()
}

impl AdminArg {
    fn snapshot(&self) -> Option<Snapshot> {
        let source = read(&self.config.path()).ok()?;
        load(&source, &Environment::from_process()).ok()
    }

    /// The token to present: of the environment, else of the configuration.
    fn token(&self) -> Option<Secret> {
        let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let given = variable("TAILHOP_TOKEN").or_else(|| variable("ADMIN_API_KEY"));
        let configured = || {
            let tokens = self.snapshot()?.admin.tokens;
            let widest = tokens.into_iter().max_by_key(|token| token.scope)?;
            Some(widest.secret)
        };
        given
            .map(|text| Secret::new(text.trim()))
            .or_else(configured)
    }

    /// The address to ask: as given, as configured, or the default.
    fn address(&self) -> SocketAddr {
        let configured = || {
            let address = self.snapshot()?.listen.admin;
            // Everywhere is nowhere to connect to.
            let here = address.ip().is_unspecified();
            Some(if here {
                SocketAddr::from(([127, 0, 0, 1], address.port()))
            } else {
                address
            })
        };
        self.admin.or_else(configured).unwrap_or_else(|| {
            ADMIN
                .parse()
                .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 9484)))
        })
    }
}

/// Writes an answer. A reader that left has read enough: that is no failure.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `1 route`, `2 routes`.
fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// An answer for scripts.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A runtime for a command that asks something and ends.
fn block_on<T>(question: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .map_err(|error| error.to_string())?
        .block_on(question)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_named_configuration_beats_the_variable_and_both_beat_the_usual_places() {
        let named = Path::new("a.toml");
        assert_eq!(path_of(Some(named), Some("b.toml".into())), named);
        assert_eq!(path_of(None, Some("b.toml".into())), Path::new("b.toml"));
        assert_eq!(path_of(None, Some(OsString::new())), path_of(None, None));
    }
}
