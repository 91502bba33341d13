//! `tailhop pin`.

use clap::Args;

use super::order::Common;
use crate::admin::orders::Order;
use crate::admin::posts::until;

/// Arguments of `pin`.
#[derive(Args)]
pub(super) struct Pin {
    /// The backend that becomes active.
    backend: String,
    /// For how long, such as 2h or 30m.
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    length: Option<String>,
    /// Until when: a date, or a time, in the schedule's zone unless it has an offset.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why, for those who see it.
    #[arg(long)]
    reason: String,
    /// For these services only.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    services: Option<Vec<String>>,
    /// Move writes of data services, too; such a pin has no end.
    #[arg(long, conflicts_with_all = ["length", "until"])]
    writes: bool,
    /// As long as it holds, refuse writes of data services: 503, and nothing is sent.
    #[arg(long)]
    hold_writes: bool,
    #[command(flatten)]
    common: Common,
}

impl Pin {
    pub(super) fn run(self) -> u8 {
        self.common.carry_out(|snapshot, now| {
            let until = until(self.length.as_deref(), self.until.as_deref(), snapshot, now)?;
            if until.is_none() && !self.writes {
                return Err("a pin needs an end: say --for 2h, or --until TIME".to_owned());
            }
            Ok(Order::Pin {
                to: self.backend.clone(),
                until,
                reason: self.reason.clone(),
                services: self.services.clone(),
                writes: self.writes,
                hold_writes: self.hold_writes,
            })
        })
    }
}
