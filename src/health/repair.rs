//! Finds out why a machine does not answer dials, and repairs the tunnel where that is why.
//!
//! One task a machine, on the control thread, woken by its alarm, or by `looks`. Owns the I/O of
//! `inquiry` and the counts; decides nothing itself. Invariant: repairs are made only on evidence
//! and within their rates, and for a machine that is known to sleep ever more rarely.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::inquiry::{Done, FIRST, Finding, Inquiry, Ping, Session, Step, next};
use super::judge::Seen;
use super::looks::Looks;
use super::passive::note;
use super::rates::{Leave, Rates, Repair};
use crate::endpoint::live::{Endpoint, Machine};
use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::tailnet::localapi::LocalApi;
use crate::tailnet::trouble::{Trouble, What};
use crate::tailnet::{Tailnet, Users};
use crate::words::clock::Clock;
use crate::words::verdict::Verdict;

/// Between two inquiries about a machine at least.
const PAUSE: Duration = Duration::from_secs(1);
/// For so long after its direct path was lost a machine may go on answering into the dead path: its
/// own end was measured to trust it for up to 6.5 s.
const PATH_TRUSTED: Duration = Duration::from_secs(10);
/// A dial whose machine answers pings again may be answered within this: then no session lacks.
const ANSWERS_COME: Duration = Duration::from_millis(150);
/// An inquiry waits so long for a repair that was made too often, rather than end without a finding.
const WAITED_FOR: Duration = Duration::from_secs(1);
/// Bytes that came over the relay so lately spare a machine that sleeps the repair. Probes of a
/// machine that is awake come every five seconds.
const RELAY_HEARD: Duration = Duration::from_secs(10);

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

/// Why a machine is looked at.
#[derive(Clone, Copy)]
struct Why {
    /// It lost its direct path a moment ago.
    lately: bool,
    /// It counts as asleep, since then; `None`: it is in doubt.
    asleep: Option<Instant>,
}

/// What a look at a machine came to.
struct Found {
    finding: Finding,
    /// The tunnel to it was repaired.
    repaired: bool,
    /// A repair was made too often to be made again before so long.
    spared: Option<Duration>,
}

impl Found {
    const fn nothing() -> Self {
        Self {
            finding: Finding::Unknown,
            repaired: false,
            spared: None,
        }
    }
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
        let mut looks = Looks::default();
        loop {
            let called = tokio::select! {
                biased;
                () = machine.alarm.notified() => true,
                () = looks.due() => false,
            };
            let endpoints = self.endpoints(&machine);
            if endpoints.is_empty() {
                return;
            }
            let any = |verdict| {
                endpoints
                    .iter()
                    .any(|endpoint| endpoint.verdict() == verdict)
            };
            let lately = path_lost.is_some_and(|then| then.elapsed() < PATH_TRUSTED);
            let asleep = looks.asleep_since().filter(|_| !any(Verdict::Suspect));
            let why = Why { lately, asleep };
            // A machine that answers raised a false alarm; one that sleeps is probed, and looked at
            // only when that is due.
            let found = match (any(Verdict::Suspect), any(Verdict::Asleep)) {
                (true, _) => self.examine(&machine, why).await,
                (false, true) if called => {
                    looks.sleeps_unasked(machine.heard_ago(), Instant::now());
                    continue;
                }
                (false, true) if self.may_repair() => self.examine(&machine, why).await,
                (false, true) => Found::nothing(),
                (false, false) => {
                    looks = Looks::default();
                    continue;
                }
            };
            if found.finding == Finding::PathLost && !lately {
                path_lost = Some(Instant::now());
            }
            let heard = machine.heard_ago();
            looks.looked(
                found.finding,
                asleep.is_some(),
                found.spared,
                heard,
                Instant::now(),
            );
            self.conclude(&machine, &endpoints, found.finding);
            if found.repaired {
                // What was dialled or sent into the dead tunnel will not come back soon.
                for endpoint in &endpoints {
                    endpoint.lost.repaired();
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks tailscaled, step by step, why `machine` is silent; and whether the tunnel to it was
    /// repaired.
    async fn examine(&self, machine: &Machine, why: Why) -> Found {
        let found = self.tailnet.peer(&machine.host);
        let asked = found.and_then(|(api, peer)| Some((api, *peer.ips.first()?, peer.direct)));
        let Some((api, ip, direct)) = asked else {
            machine.examined.store(false, Ordering::Relaxed);
            return Found::nothing();
        };
        if !self.may_repair() {
            machine.examined.store(false, Ordering::Relaxed);
        }
        let began = Instant::now();
        let doubt = why.asleep.unwrap_or(began);
        let mut spared = None;
        let mut known = Inquiry {
            had_direct_path: direct || why.lately,
            session: self.session(),
            ..Inquiry::default()
        };
        loop {
            known.heard = machine.heard_ago().is_some_and(|ago| ago < began.elapsed());
            if known.first == Some(Ping::Silent) && known.relay_break.is_none() {
                let since = why.asleep.map_or(began.elapsed(), |_| RELAY_HEARD);
                known.relay_proven |= self.relay_proven(machine, &api, since).await;
            }
            match next(known) {
                Step::Ping(patience) if known.first.is_none() => {
                    let (pong, direct) = self.first_ping(machine, &api, ip, patience).await;
                    known.first = Some(pong);
                    known.had_direct_path |= direct;
                }
                Step::Ping(patience) => {
                    known.second = Some(self.ping(machine, &api, ip, patience).await);
                }
                Step::Rebind => {
                    let (done, _) = self.repair(machine, &api, Repair::Rebind, doubt).await;
                    known.rebind = Some(done);
                }
                Step::BreakRelay => {
                    let (done, rest) = self.repair(machine, &api, Repair::BreakRelay, doubt).await;
                    // Without the right to repair, pings prove nothing: silence must do.
                    (machine.examined).store(done != Done::Refused, Ordering::Relaxed);
                    known.relay_break = Some(done);
                    spared = rest;
                }
                Step::NewSessions => {
                    let done = self.renew(machine, &api, began, doubt).await;
                    known.session = Session::Renewed(done);
                }
                Step::Conclude(finding) => {
                    if !matches!(finding, Finding::Unknown | Finding::Answers) {
                        machine.examined.store(true, Ordering::Relaxed);
                    }
                    return Found {
                        finding,
                        repaired: known.repaired(finding),
                        spared,
                    };
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

    /// The process went on after it stood still for `frozen`.
    pub(super) fn thawed(&self, frozen: Duration) {
        self.rates().thawed(frozen, Instant::now());
    }

    /// Whether sessions may lack, and may be made anew: not where the whole machine uses the tunnel.
    fn session(&self) -> Session {
        let lacks = self.rates().sessions_lack(Instant::now());
        if lacks && self.tailnet.view().users == Users::Dials {
            Session::MayLack
        } else {
            Session::There
        }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a repair was last made.
    pub(super) fn made(&self, repair: Repair) -> Option<Instant> {
        self.rates().made(repair)
    }

    /// Pings, and asks whether there is a direct path, as the view may be older than that.
    async fn first_ping(
        &self,
        machine: &Machine,
        api: &LocalApi,
        ip: IpAddr,
        patience: Duration,
    ) -> (Ping, bool) {
        let (pong, direct) = tokio::join!(
            self.ping(machine, api, ip, patience),
            timeout(patience, api.has_direct_path(ip))
        );
        (pong, matches!(direct, Ok(Ok(true))))
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

    /// Makes the sessions anew, unless the machine was heard since `began`.
    async fn renew(
        &self,
        machine: &Machine,
        api: &LocalApi,
        began: Instant,
        doubt: Instant,
    ) -> Done {
        sleep(ANSWERS_COME).await;
        if machine.heard_ago().is_some_and(|ago| ago < began.elapsed()) {
            return Done::Spared;
        }
        (self.repair(machine, api, Repair::NewSessions, doubt).await).0
    }

    /// Makes a repair if it is allowed, and counts it. One that was spared for longer than an inquiry
    /// waits for it comes with how long.
    async fn repair(
        &self,
        machine: &Machine,
        api: &LocalApi,
        repair: Repair,
        doubt: Instant,
    ) -> (Done, Option<Duration>) {
        let began = Instant::now();
        loop {
            if !self.may_repair() {
                return (Done::Refused, None);
            }
            let leave = (self.rates()).ask(&machine.backend, repair, doubt, Instant::now());
            match leave {
                Leave::Granted => return (self.make(machine, api, repair).await, None),
                Leave::Shared => return (Done::Made, None),
                Leave::In(rest) if began.elapsed() + rest > WAITED_FOR => {
                    return (Done::Spared, Some(rest));
                }
                Leave::In(rest) => sleep(rest).await,
            }
            if machine.heard_ago().is_some_and(|ago| ago < began.elapsed()) {
                // It answers meanwhile.
                return (Done::Spared, None);
            }
        }
    }

    /// Makes a repair, and counts it.
    async fn make(&self, machine: &Machine, api: &LocalApi, repair: Repair) -> Done {
        let done = match repair {
            Repair::Rebind | Repair::BreakRelay => api.debug(repair.as_str()).await,
            Repair::NewSessions => self.tailnet.renew_sessions().await,
        };
        let done = match done {
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
            .with_label_values(&[repair.as_str(), result])
            .inc();
        warn!(backend = %machine.backend, repair = repair.as_str(), result, "tunnel repair");
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
            Finding::SessionRenewed => (
                Seen::SessionRenewed,
                "a ping is answered and no dial since a freeze: its session was over and is made anew",
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

    /// Whether another machine that has no direct path was heard within `since`, which is since the
    /// question came up where that is urgent: what came before came over a relay that may have died
    /// since. tailscaled is asked for the path, as the view may be older than it.
    async fn relay_proven(&self, machine: &Machine, api: &LocalApi, since: Duration) -> bool {
        let live = self.store.live();
        let others = live.endpoints.iter().flatten().map(|e| &e.machine);
        let heard = others.filter(|other| {
            let lately = other.heard_ago().is_some_and(|ago| ago < since);
            other.backend != machine.backend && lately
        });
        let peers = heard.filter_map(|other| self.tailnet.peer(&other.host));
        let ips: BTreeSet<_> = peers
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
