//! `tailhop run`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing::error;

use super::{ConfigArg, FAILED, INVALID_CONFIG, log};
use crate::app::{self, Besides, StartError};
use crate::config::{Environment, Report};
use crate::reload::Inputs;
use crate::reload::watch::Mode;
use crate::supervise::{App, find};

/// Arguments of `run`.
#[derive(Args)]
pub(super) struct Run {
    /// The configuration; given twice, the second one is the copy that stands in for the first
    /// while that is invalid or missing [default: `TAILHOP_CONFIG`, else config/routing.toml,
    /// else /etc/tailhop/routing.toml].
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// How changes of the configuration are noticed: events and polling, or polling alone.
    #[arg(long, value_enum, default_value_t = Watch::Auto)]
    watch: Watch,
    /// The app to start beside it, with its arguments: it gets our signals, and we leave with its
    /// code. A tailscaled is started, too, where a backend needs one and it is on PATH; see
    /// `tailnet.tailscaled`.
    #[arg(last = true, value_name = "APP")]
    app: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Watch {
    Auto,
    Poll,
}

impl Run {
    pub(super) fn run(self) -> u8 {
        let environment = Environment::from_process();
        log::start();
        let cloud = environment.on_cloud_run();
        let mut files = self.config.into_iter();
        let truth = files
            .next()
            .unwrap_or_else(|| ConfigArg { config: None }.path());
        let stand_in = files.next();
        if files.next().is_some() {
            eprintln!("error: --config can be given twice: the file, and the copy that stands in");
            return super::COULD_NOT_ASK;
        }
        let mode = match self.watch {
            Watch::Auto => Mode::Auto,
            Watch::Poll => Mode::Poll,
        };
        let besides = match Besides::of(self.app) {
            Ok(besides) => besides,
            Err(code) => return code,
        };
        match app::run(
            Inputs {
                truth,
                stand_in,
                environment,
                mode,
            },
            instance(),
            besides,
        ) {
            Ok(code) => code,
            Err(error) => {
                let (told, code) = explain(&error);
                // A line of text would be an entry of its own there.
                if cloud {
                    error!("{}", told.trim_end());
                } else {
                    eprint!("{told}");
                }
                code
            }
        }
    }
}

impl Besides {
    /// The app that `line` calls.
    fn of(line: Vec<OsString>) -> Result<Self, u8> {
        let Some(called) = line.first() else {
            return Ok(Self::default());
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        match find(called, &path) {
            Ok(program) => Ok(Self {
                app: Some(App { program, line }),
            }),
            Err(why) => {
                let (name, what) = (called.display(), why.what());
                eprintln!("error: cannot start {name}: it {what}");
                Err(why.code())
            }
        }
    }
}

/// What kept it from starting or ended it, in words, and the exit code for it.
pub(super) fn explain(error: &StartError) -> (String, u8) {
    match error {
        StartError::Config(report) => (render(report), INVALID_CONFIG),
        StartError::Listen {
            key,
            address,
            error,
        } => {
            let told = format!(
                "error: {key}: cannot listen on {address}: {error}\n\
                 help: end what listens there, or set another `{key}` in routing.toml\n"
            );
            (told, FAILED)
        }
        StartError::Port { key, address } => {
            let port = address.port();
            let told = format!(
                "error: PORT={port} tells the app to listen where tailhop does: {key} is {address}\n\
                 help: set another `{key}` in routing.toml\n"
            );
            (told, INVALID_CONFIG)
        }
        StartError::Machine(error) => (format!("error: {error}\n"), FAILED),
    }
}

/// A report for a terminal, or without colour elsewhere.
pub(super) fn render(report: &Report) -> String {
    report.render(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
}

/// A name that tells instances apart: the revision or host, and a random part, as all instances
/// of a Cloud Run revision share both.
fn instance() -> String {
    use std::hash::{BuildHasher, RandomState};
    let revision = std::env::var("K_REVISION")
        .ok()
        .filter(|revision| !revision.is_empty());
    let host = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    let random = RandomState::new().hash_one(std::process::id()) & 0xffff_ffff;
    format!("{}-{random:08x}", revision.unwrap_or_else(host))
}
