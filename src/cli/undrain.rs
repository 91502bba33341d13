//! `tailhop undrain`.

use clap::Args;

use super::order::Common;
use crate::admin::orders::Order;

/// Arguments of `undrain`.
#[derive(Args)]
pub(super) struct Undrain {
    /// The backend that gets work again.
    backend: String,
    #[command(flatten)]
    common: Common,
}

impl Undrain {
    pub(super) fn run(self) -> u8 {
        let backend = self.backend;
        self.common.carry_out(|_, _| Ok(Order::Undrain { backend }))
    }
}
