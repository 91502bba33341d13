//! `tailhop demo`: all of it on this machine, with nothing installed and no tailnet.
//!
//! Two stand-in Macs on loopback, the proxy before them, and a `routing.toml` in a folder of its
//! own, which is removed at the end. The environment of the shell does not reach the proxy: what
//! is shown is what the file says.

mod folder;
mod mac;
mod power;
mod stage;
mod story;

use std::fmt::Write as _;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::log;
use super::{FAILED, NO, say};
use stage::{ACTIVE, Stage};

/// Arguments of `demo`.
#[derive(Args)]
pub(super) struct Demo {
    /// Play the nine steps alone and say what was observed.
    #[arg(long)]
    story: bool,
}

impl Demo {
    pub(super) fn run(self) -> u8 {
        if std::env::var_os("LOG_LEVEL").is_some_and(|level| !level.is_empty()) {
            log::start();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let played = match runtime {
            Ok(runtime) => runtime.block_on(self.play()),
            Err(error) => Err(error.to_string()),
        };
        match played {
            Ok(code) => code,
            Err(error) => {
                eprintln!("error: {error}");
                FAILED
            }
        }
    }

    /// Ends early, and cleans up, when it is told to.
    async fn play(self) -> Result<u8, String> {
        let told = told_to_end()?;
        let stage = Stage::set(!self.story).await?;
        let code = tokio::select! {
            code = self.perform(&stage) => code,
            () = told => u8::from(self.story) * NO,
        };
        stage.strike().await;
        Ok(code)
    }

    async fn perform(&self, stage: &Stage) -> u8 {
        if self.story {
            return if story::tell(stage).await { 0 } else { NO };
        }
        say(&welcome(stage));
        std::future::pending().await
    }
}

/// The first SIGINT or SIGTERM.
fn told_to_end() -> Result<impl Future<Output = ()>, String> {
    let of = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
    let mut terminate = of(SignalKind::terminate())?;
    let mut interrupt = of(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What runs and what to try, in a screenful.
fn welcome(stage: &Stage) -> String {
    let mut text =
        "tailhop demo: two stand-in Macs on this machine, and tailhop before them\n\n".to_owned();
    for mac in &stage.macs {
        let (ollama, qdrant) = (stage.ports.ollama, stage.ports.qdrant);
        let active = if mac.name == ACTIVE { "  active" } else { "" };
        let _ = writeln!(
            text,
            "  {:<10}  {}  ollama :{ollama}  qdrant :{qdrant}{active}",
            mac.name, mac.ip
        );
    }
    let _ = writeln!(
        text,
        "  tailhop     http://{}  admin http://{}",
        stage.data, stage.admin
    );
    let _ = writeln!(text, "  its file    {}", stage.file.display());
    for note in &stage.notes {
        let _ = writeln!(text, "  note        {note}");
    }
    text + &lines_to_try(stage)
}

fn lines_to_try(stage: &Stage) -> String {
    let (data, admin, power) = (stage.data, stage.admin, stage.power);
    let file = stage.file.display();
    // As it was called: `target/debug/tailhop`, or `tailhop` where it is in the PATH.
    let tailhop = std::env::args()
        .next()
        .unwrap_or_else(|| "tailhop".to_owned());
    format!(
        r#"
Ask:
  curl http://{data}/ollama/api/version
  curl -N http://{data}/ollama/api/chat -d '{{"model":"stand-in","messages":[{{"role":"user","content":"hello"}}]}}'
  curl -X POST http://{data}/qdrant/collections/papers/points/query -H 'content-type: application/json' \
    -d '{{"query":[1,0,0],"limit":2,"with_payload":true}}'
  curl -X PUT http://{data}/qdrant/collections/papers/points -H 'content-type: application/json' \
    -d '{{"points":[{{"id":9,"vector":[0.5,0.5,0.1],"payload":{{"title":"mine"}}}}]}}'
Move the active Mac (or edit the file; break it, too):
  sed -i.bak 's/^default.*/default = "mac-dev1"/' {file}
Put a Mac to sleep, switch it off, wake it:
  curl -X POST http://{power}/macbook-m1/sleep
  curl -X POST http://{power}/macbook-m1/off
  curl -X POST http://{power}/macbook-m1/wake
Look:
  {tailhop} status --admin {admin}
  {tailhop} explain PUT /qdrant/collections/papers/points --admin {admin} --config {file}
  curl http://{admin}/metrics

Ctrl-C ends it and removes the file. Below: one line for each request.
"#
    )
}
