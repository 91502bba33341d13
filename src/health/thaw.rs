//! Notices that the process, or the whole machine, stood still, and takes back what was believed
//! before. Idle connections are the data thread's own, which looks for itself.

use tokio::time::sleep;
use tracing::warn;

use super::judge::Seen;
use super::passive::note;
use super::repair::Medic;
use crate::words::clock::Pulse;

/// Watches for ever.
pub async fn watch(medic: Medic) {
    let pulse = Pulse::new(medic.clock);
    loop {
        sleep(Pulse::BEAT).await;
        if let Some(frozen) = pulse.beat() {
            let seconds = frozen.as_secs_f64();
            warn!(seconds, "thaw: the process stood still");
            medic.metrics.freezes.inc();
            medic.metrics.freeze_seconds.inc_by(seconds);
            medic.thawed(frozen);
            take_back(&medic);
        }
    }
}

/// The tunnel may be dead without knowing: let fresh dials tell.
fn take_back(medic: &Medic) {
    medic.tailnet.poke();
    for endpoint in medic.store.live().endpoints.iter().flatten() {
        note(endpoint, Seen::Thawed, "", medic.clock);
        endpoint.want_probe();
        endpoint.want_stock();
    }
}
