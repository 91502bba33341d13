//! `tailhop health`.

use clap::Args;
use http::StatusCode;

use super::{AdminArg, NO, ask, block_on, say};

/// Arguments of `health`.
#[derive(Args)]
pub(super) struct Health {
    #[command(flatten)]
    admin: AdminArg,
    /// Ask whether traffic may come, not only whether the process lives.
    #[arg(long)]
    ready: bool,
}

impl Health {
    pub(super) fn run(self) -> u8 {
        let path = if self.ready { "/ready" } else { "/live" };
        match block_on(ask::get(self.admin.address(), path)) {
            Ok((StatusCode::OK, text)) => {
                say(&text);
                0
            }
            Ok((status, text)) => {
                eprint!("{} {text}", status.as_u16());
                NO
            }
            Err(error) => {
                eprintln!("error: {error}");
                NO
            }
        }
    }
}
