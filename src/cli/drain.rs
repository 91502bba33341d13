//! `tailhop drain`.

use clap::Args;

use super::order::Common;
use crate::admin::orders::Order;
use crate::admin::posts::until;

/// Arguments of `drain`.
#[derive(Args)]
pub(super) struct Drain {
    /// The backend that gets no new work.
    backend: String,
    /// For how long, such as 2h or 30m; without it until `undrain`.
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    length: Option<String>,
    /// Until when: a date, or a time, in the schedule's zone unless it has an offset.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why, for those who see it.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl Drain {
    pub(super) fn run(self) -> u8 {
        self.common.carry_out(|snapshot, now| {
            let until = until(self.length.as_deref(), self.until.as_deref(), snapshot, now)?;
            Ok(Order::Drain {
                backend: self.backend.clone(),
                until,
                reason: self.reason.clone(),
            })
        })
    }
}
