//! `tailhop unpin`.

use clap::Args;

use super::order::Common;
use crate::admin::orders::Order;

/// Arguments of `unpin`.
#[derive(Args)]
pub(super) struct Unpin {
    /// For these services only.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    services: Option<Vec<String>>,
    #[command(flatten)]
    common: Common,
}

impl Unpin {
    pub(super) fn run(self) -> u8 {
        let services = self.services;
        self.common.carry_out(|_, _| Ok(Order::Unpin { services }))
    }
}
