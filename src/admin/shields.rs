//! Whether tailscaled lets nothing in from the tailnet: the only thing that protects listeners on
//! 127.0.0.1 where nobody of the tailnet is named.
//!
//! Asks now and then and warns once a change. Decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::Admin;
use crate::config::snapshot::DialWay;
use crate::words::verdict::Tunnel;

/// Somebody may lower them at any time, and until that is known, who reads is not asked about.
const BETWEEN: Duration = Duration::from_secs(10);
/// While it is not known.
const SOON: Duration = Duration::from_secs(2);

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// What was last heard of them.
#[derive(Debug, Default)]
pub(super) struct Shields(AtomicU8);

impl Shields {
    /// `None`: not known.
    pub(super) fn up(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            UP => Some(true),
            DOWN => Some(false),
            _ => None,
        }
    }
}

/// Asks for ever.
pub async fn watch(admin: Arc<Admin>) {
    loop {
        let live = admin.store.live();
        let direct = live.snapshot.tailnet.dial == DialWay::Direct;
        let heard = if direct {
            None
        } else {
            admin.tailnet.localapi().shields_up().await.ok()
        };
        let now = heard.map_or(UNKNOWN, |up| if up { UP } else { DOWN });
        let before = admin.shields.0.swap(now, Ordering::Relaxed);
        if now == DOWN && before != DOWN && live.snapshot.admin.tailnet.is_empty() {
            warn!("{WARNING}");
        }
        let settled = direct || (heard.is_some() && admin.tailnet.view().state == Tunnel::Up);
        sleep(if settled { BETWEEN } else { SOON }).await;
    }
}

/// What is the matter while they are down.
pub(super) const WARNING: &str = "tailscaled lets the tailnet in: who may reach this machine \
     reaches the data addresses on 127.0.0.1; run `tailscale set --shields-up`, or set \
     admin.tailnet and listen on 127.0.0.2";
