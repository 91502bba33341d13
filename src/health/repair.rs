//! Finds out why a machine does not answer dials, and repairs the tunnel where that is why.
//!
//! One task a machine, on the control thread, woken by its alarm. Owns the I/O of `inquiry` and
//! the counts; decides nothing itself. Invariant: repairs are made only on evidence, within their
//! rates, and never for a machine that is known to sleep.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::inquiry::{Done, FIRST, Finding, Inquiry, Ping, Step, next};
use super::judge::Seen;
use super::passive::note;
use super::rates::{Rates, Repair};
use crate::endpoint::live::{Endpoint, Machine};
use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::tailnet::Tailnet;
use crate::tailnet::localapi::LocalApi;
use crate::tailnet::trouble::{Trouble, What};
use crate::words::clock::Clock;
use crate::words::verdict::Verdict;

/// Between two inquiries about a machine at least.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long after its direct path was lost a machine may go on answering into the dead path: its
/// own end was measured to trust it for up to 6.5 s.
const PATH_TRUSTED: Duration = Duration::from_secs(10);

/// What every inquiry needs.
#[derive(Clone)]
pub struct Medic {
    /// Names the machines.
    pub store: Arc<Store>,
    /// Is asked, and repaired.
    pub tailnet: Arc<Tailnet>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Wall time of verdicts.
    pub clock: Clock,
    /// How often repairs may be made.
    pub rates: Arc<Mutex<Rates>>,
}

impl Medic {
    /// Tends the machines of the configuration in use, for ever.
    pub async fn run(self) {
        let mut changes = self.store.changes();
        let mut tended: Vec<Arc<Machine>> = Vec::new();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            let live = self.store.live();
            let known: Vec<_> = live
                .endpoints
                .iter()
                .flatten()
                .map(|e| &e.machine)
                .collect();
            tended.retain(|machine| known.iter().any(|other| Arc::ptr_eq(machine, other)));
            for machine in known {
                if !tended.iter().any(|other| Arc::ptr_eq(machine, other)) {
                    tended.push(Arc::clone(machine));
                    tasks.spawn(self.clone().tend(Arc::clone(machine)));
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Answers the alarms of one machine until no configuration knows it any more.
    async fn tend(self, machine: Arc<Machine>) {
        let mut path_lost: Option<Instant> = None;
        loop {
            machine.alarm.notified().await;
            let endpoints = self.endpoints(&machine);
            if endpoints.is_empty() {
                return;
            }
            // A sleeping machine is probed, not repaired; one that answers raised a false alarm.
            let doubted = |endpoint: &Arc<Endpoint>| endpoint.verdict() == Verdict::Suspect;
            if endpoints.iter().any(doubted) {
                let lately = path_lost.is_some_and(|then| then.elapsed() < PATH_TRUSTED);
                let (finding, repaired) = self.examine(&machine, lately).await;
                if finding == Finding::PathLost && !lately {
                    path_lost = Some(Instant::now());
                }
                self.conclude(&machine, &endpoints, finding);
                if repaired {
                    // What was dialled or sent into the dead tunnel will not come back soon.
                    for endpoint in &endpoints {
                        endpoint.lost.repaired();
                    }
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// Asks tailscaled, step by step, why `machine` is silent, which `lately` lost its direct path
    /// or did not; and whether the tunnel to it was repaired.
    async fn examine(&self, machine: &Machine, lately: bool) -> (Finding, bool) {
        let found = self.tailnet.peer(&machine.host);
        let asked = found.and_then(|(api, peer)| Some((api, *peer.ips.first()?, peer.direct)));
        let Some((api, ip, direct)) = asked else {
            machine.examined.store(false, Ordering::Relaxed);
            return (Finding::Unknown, false);
        };
        if !self.may_repair() {
            machine.examined.store(false, Ordering::Relaxed);
        }
        let began = Instant::now();
        let mut known = Inquiry {
            had_direct_path: direct || lately,
            ..Inquiry::default()
        };
        loop {
            known.heard = machine.heard_ago().is_some_and(|ago| ago < began.elapsed());
            if known.first == Some(Ping::Silent) && known.relay_break.is_none() {
                known.relay_proven |= self.relay_proven(machine, &api, began).await;
            }
            match next(known) {
                Step::Ping(patience) if known.first.is_none() => {
                    let (pong, direct) = tokio::join!(
                        self.ping(machine, &api, ip, patience),
                        timeout(patience, api.has_direct_path(ip))
                    );
                    known.first = Some(pong);
                    // The view may be older than the path.
                    known.had_direct_path |= matches!(direct, Ok(Ok(true)));
                }
                Step::Ping(patience) => {
                    known.second = Some(self.ping(machine, &api, ip, patience).await);
                }
                Step::Rebind => {
                    known.rebind = Some(self.repair(machine, &api, Repair::Rebind, began).await);
                }
                Step::BreakRelay => {
                    let done = self.repair(machine, &api, Repair::BreakRelay, began).await;
                    // Without the right to repair, pings prove nothing: silence must do.
                    let examined = done != Done::Refused;
                    machine.examined.store(examined, Ordering::Relaxed);
                    known.relay_break = Some(done);
                }
                Step::Conclude(finding) => {
                    if !matches!(finding, Finding::Unknown | Finding::Answers) {
                        machine.examined.store(true, Ordering::Relaxed);
                    }
                    return (finding, known.repaired(finding));
                }
            }
        }
    }

    /// Whether the configuration and tailscaled let us repair. Where they do not, pings prove
    /// nothing, and silence must do.
    fn may_repair(&self) -> bool {
        let wanted = self.store.live().snapshot.tailnet.repair;
        wanted && !self.rates().are_off(Instant::now())
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pings, and notes where that cannot be done: it proves nothing then, so silence must do.
    async fn ping(
        &self,
        machine: &Machine,
        api: &LocalApi,
        ip: IpAddr,
        patience: Duration,
    ) -> Ping {
        let pong = ping(&api.ping(ip, patience).await);
        if pong == Ping::Impossible {
            machine.examined.store(false, Ordering::Relaxed);
        }
        pong
    }

    /// Makes a repair if it is allowed, and counts it.
    async fn repair(
        &self,
        machine: &Machine,
        api: &LocalApi,
        repair: Repair,
        doubt: Instant,
    ) -> Done {
        if !self.may_repair() {
            return Done::Refused;
        }
        let asked = (self.rates()).ask(&machine.backend, repair, doubt, Instant::now());
        if let Some(done) = asked {
            return done;
        }
        let done = match api.debug(repair.action()).await {
            Ok(()) => Done::Made,
            Err(trouble) if trouble.what == What::Forbidden => {
                self.rates().refused(Instant::now());
                Done::Refused
            }
            Err(_) => Done::Spared,
        };
        let result = match done {
            Done::Made => "made",
            Done::Refused => "refused",
            Done::Spared => "failed",
        };
        self.metrics
            .repairs
            .with_label_values(&[repair.action(), result])
            .inc();
        warn!(backend = %machine.backend, repair = repair.action(), result, "tunnel repair");
        done
    }

    /// Brings a finding to every endpoint of the machine.
    fn conclude(&self, machine: &Machine, endpoints: &[Arc<Endpoint>], finding: Finding) {
        let (seen, detail) = match finding {
            Finding::Answers | Finding::Unknown => return,
            Finding::PathLost => (
                Seen::PathLost,
                "a ping is answered by relay: the direct path is lost",
            ),
            Finding::RelayRepaired => (
                Seen::RelayRepaired,
                "the relay connection was dead and is repaired",
            ),
            Finding::Awake => (
                Seen::Awake,
                "a ping is answered: the machine is awake, its port is silent",
            ),
            Finding::Asleep => (
                Seen::Asleep,
                "no ping is answered, by no path: the machine sleeps or is gone",
            ),
        };
        info!(backend = %machine.backend, ?finding, "inquiry");
        self.metrics
            .inquiries
            .with_label_values(&[machine.backend.as_str(), seen.as_str()])
            .inc();
        for endpoint in endpoints {
            note(endpoint, seen, detail, self.clock);
            endpoint.want_probe();
        }
    }

    /// Whether another machine that has no direct path was heard since the question came up at
    /// `began`: what came before came over a relay that may have died since. tailscaled is asked
    /// for the path, as the view may be older than it.
    async fn relay_proven(&self, machine: &Machine, api: &LocalApi, began: Instant) -> bool {
        let live = self.store.live();
        let others = live.endpoints.iter().flatten().map(|e| &e.machine);
        let heard = others.filter(|other| {
            let lately = other.heard_ago().is_some_and(|ago| ago < began.elapsed());
            other.backend != machine.backend && lately
        });
        let peers = heard.filter_map(|other| self.tailnet.peer(&other.host));
        let ips: Vec<_> = peers
            .filter_map(|(_, peer)| peer.ips.first().copied())
            .collect();
        for ip in ips {
            if let Ok(Ok(false)) = timeout(FIRST, api.has_direct_path(ip)).await {
                return true;
            }
        }
        false
    }

    fn endpoints(&self, machine: &Arc<Machine>) -> Vec<Arc<Endpoint>> {
        let live = self.store.live();
        let all = live.endpoints.iter().flatten();
        all.filter(|endpoint| Arc::ptr_eq(&endpoint.machine, machine))
            .cloned()
            .collect()
    }
}

fn ping(answer: &Result<crate::tailnet::localapi::Pong, Trouble>) -> Ping {
    match answer {
        Ok(pong) if pong.endpoint.is_empty() => Ping::Relayed,
        Ok(_) => Ping::Direct,
        Err(Trouble {
            what: What::Silent, ..
        }) => Ping::Silent,
        Err(_) => Ping::Impossible,
    }
}
