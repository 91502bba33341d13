//! `tailhop reload`.

use clap::Args;

use super::{AdminArg, COULD_NOT_ASK, NO, ask, block_on, say};
use crate::admin::posts::Outcomes;

/// Arguments of `reload`.
#[derive(Args)]
pub(super) struct Reload {
    #[command(flatten)]
    admin: AdminArg,
    /// Print what the instance answers, as JSON.
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn run(self) -> u8 {
        let token = self.admin.token();
        let asked = ask::post(self.admin.address(), "/reload", token.as_ref());
        let (status, text) = match block_on(asked) {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("error: {error}");
                eprintln!("help: start one with `tailhop run`, or name its address with --admin");
                return COULD_NOT_ASK;
            }
        };
        let Ok(outcome) = serde_json::from_str::<Outcomes>(&text) else {
            eprintln!("error: {} {}", status.as_u16(), text.trim_end());
            eprintln!(
                "help: the instance looks at the file by itself every 2 s; see `tailhop status`"
            );
            return COULD_NOT_ASK;
        };
        if self.json {
            say(&text);
        } else {
            show(&outcome);
        }
        if status.is_success() { 0 } else { NO }
    }
}

fn show(outcome: &Outcomes) {
    if let Some(problems) = &outcome.problems {
        eprint!("{problems}");
        eprintln!("generation {} stays in use", outcome.generation);
        return;
    }
    for change in &outcome.changes {
        say(&format!("{change}\n"));
    }
    say(&format!(
        "{}: generation {}\n",
        outcome.result, outcome.generation
    ));
}
