//! `tailhop demo`.

use clap::Args;

/// Arguments of `demo`.
#[derive(Args)]
pub(super) struct Demo {
    /// Play the nine steps alone.
    #[arg(long)]
    story: bool,
}

impl Demo {
    pub(super) fn run(self) -> u8 {
        u8::from(self.story)
    }
}
