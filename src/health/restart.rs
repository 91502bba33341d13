//! When tailscaled should be restarted: the one fault that nothing else heals. Pure, but for the
//! task that looks.
//!
//! Only what tailscaled says of itself counts: that its LocalAPI is silent, or that its relay stays
//! unreachable after a repair. What machines answer does not, so that a night in which all of them
//! sleep restarts nothing. Restarting is up to whoever supervises tailscaled.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::rates::Repair;
use super::repair::Medic;
use crate::tailnet::View;
use crate::words::verdict::Restart;

/// LocalAPI answers within milliseconds; one that hung for three rounds of questions is dead.
const SILENT: Duration = Duration::from_secs(15);
/// For so long after a repair the relay must stay down. A repair takes a second.
const STAYS_DOWN: Duration = Duration::from_secs(30);
/// Between two restarts.
const PAUSE: Duration = Duration::from_mins(10);

const BEAT: Duration = Duration::from_secs(1);
/// A beat that is later than this tells of a freeze: how long something lasted is not known then.
const LATE: Duration = Duration::from_secs(2);

/// What is known of the tunnel.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// For how long LocalAPI has answered nothing, after it did.
    silent: Option<Duration>,
    /// For how long tailscaled has said that it does not reach its relay.
    relay_down: Option<Duration>,
    /// How long ago the relay connections were last repaired.
    repaired: Option<Duration>,
    /// How long ago a restart was last asked for.
    asked: Option<Duration>,
}

/// Whether tailscaled should be restarted now, and why.
fn wanted(known: Known) -> Option<Restart> {
    let lasts = |span: Option<Duration>, least| span.is_some_and(|span| span >= least);
    if known.asked.is_some_and(|ago| ago < PAUSE) {
        None
    } else if lasts(known.silent, SILENT) {
        Some(Restart::LocalApiDead)
    } else if lasts(known.relay_down, STAYS_DOWN) && lasts(known.repaired, STAYS_DOWN) {
        Some(Restart::RelayDown)
    } else {
        None
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Watched {
    answered: bool,
    silent: Option<Instant>,
    relay_down: Option<Instant>,
    asked: Option<Instant>,
}

impl Watched {
    fn see(&mut self, view: &View, now: Instant) {
        self.answered |= view.answers && !view.version.is_empty();
        let since = |seen: bool, before: Option<Instant>| seen.then(|| before.unwrap_or(now));
        // One that never answered is starting, which its supervisor knows.
        self.silent = since(self.answered && !view.answers, self.silent);
        self.relay_down = since(view.answers && view.relay_down, self.relay_down);
    }

    fn forget(&mut self) {
        (self.silent, self.relay_down) = (None, None);
    }

    fn known(&self, repaired: Option<Instant>, now: Instant) -> Known {
        let ago = |then: Instant| now.saturating_duration_since(then);
        Known {
            silent: self.silent.map(ago),
            relay_down: self.relay_down.map(ago),
            repaired: repaired.map(ago),
            asked: self.asked.map(ago),
        }
    }

    fn is_well(&self) -> bool {
        self.silent.is_none() && self.relay_down.is_none()
    }
}

/// Looks for ever, and asks for a restart where one is wanted.
pub async fn watch(medic: Medic) {
    let mut watched = Watched::default();
    loop {
        let due = Instant::now() + BEAT;
        sleep_until(due).await;
        let now = Instant::now();
        if now - due >= LATE {
            watched.forget();
        }
        watched.see(&medic.tailnet.view(), now);
        let repaired = medic.made(Repair::BreakRelay);
        if watched.is_well() {
            medic.tailnet.want_restart(None);
        } else if let Some(why) = wanted(watched.known(repaired, now)) {
            watched.asked = Some(now);
            warn!(reason = why.as_str(), "tailscaled should be restarted");
            medic.tailnet.want_restart(Some(why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_wanted_where_the_table_says() {
        use Restart::{LocalApiDead, RelayDown};
        // Seconds of a silent LocalAPI, of a relay that is down, since the last repair and since the
        // last restart; then what is wanted.
        let rows = [
            (None, None, None, None, None),
            // All machines asleep all night: repairs are made, and tailscaled has no complaint.
            (None, None, Some(30), None, None),
            (None, None, Some(3600), None, None),
            (Some(14), None, None, None, None),
            (Some(15), None, None, None, Some(LocalApiDead)),
            (Some(15), None, None, Some(599), None),
            (Some(700), None, None, Some(600), Some(LocalApiDead)),
            (None, Some(29), Some(60), None, None),
            (None, Some(60), Some(29), None, None),
            (None, Some(30), Some(30), None, Some(RelayDown)),
            (None, Some(3600), None, None, None),
            (None, Some(700), Some(700), Some(599), None),
            (None, Some(700), Some(700), Some(600), Some(RelayDown)),
            (Some(20), Some(40), Some(40), None, Some(LocalApiDead)),
        ];
        for (silent, relay_down, repaired, asked, want) in rows {
            let [silent, relay_down, repaired, asked] =
                [silent, relay_down, repaired, asked].map(|span| span.map(Duration::from_secs));
            let known = Known {
                silent,
                relay_down,
                repaired,
                asked,
            };
            assert_eq!(wanted(known), want, "{known:?}");
        }
    }
}
