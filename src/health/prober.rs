//! Active probes: one task an endpoint, on the control thread, through the same dial path as
//! traffic, on a fresh connection each time, as a kept-alive one hides dial trouble.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::HOST;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::judge::Seen;
use super::passive::{self, note};
use crate::api;
use crate::endpoint::connection::{Connection, Outgoing};
use crate::endpoint::live::Endpoint;
use crate::endpoint::lost::Lost;
use crate::metrics::Metrics;
use crate::reload::store::{Live, Store};
use crate::tailnet::Tailnet;
use crate::wire;
use crate::wire::stream::Stream;
use crate::words::clock::{Clock, Deadline};
use crate::words::names::Kind;
use crate::words::outcome::Failure;
use crate::words::verdict::Verdict;

/// Between probes of an endpoint that answers.
const CALM: Duration = Duration::from_secs(5);
/// Between probes of an endpoint in doubt.
const LEAST: Duration = Duration::from_secs(1);
/// Between probes at least, however many ask for one: who waits for a machine that fell asleep just
/// after a probe waits this much longer.
const FLOOR: Duration = Duration::from_millis(250);
/// Between probes of an endpoint that stays down or asleep, at most.
const MOST: Duration = Duration::from_secs(10);

/// An answer to a probe that takes longer than this, and much longer than answers usually do, is a
/// doubt already before the probe's time is over.
const HEAD_LEAST: Duration = Duration::from_millis(500);

/// What every probe needs.
#[derive(Clone)]
pub struct Prober {
    /// Names the endpoints.
    pub store: Arc<Store>,
    /// The way to them.
    pub tailnet: Arc<Tailnet>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Wall time of verdicts.
    pub clock: Clock,
}

impl Prober {
    /// Probes the endpoints of the configuration in use, for ever.
    pub async fn run(self) {
        let mut changes = self.store.changes();
        let mut probed: Vec<Arc<Endpoint>> = Vec::new();
        let mut tasks = JoinSet::new();
        loop {
            changes.borrow_and_update();
            let live = self.store.live();
            probed.retain(|endpoint| !endpoint.is_retired());
            for endpoint in live.endpoints.iter().flatten() {
                // What is asked for depends on what is required.
                endpoint.want_stock();
                if !probed.iter().any(|known| Arc::ptr_eq(known, endpoint)) {
                    probed.push(Arc::clone(endpoint));
                    tasks.spawn(self.clone().watch(Arc::clone(endpoint)));
                    if endpoint.key.kind != Kind::Http {
                        tasks.spawn(self.clone().catalogue(Arc::clone(endpoint)));
                    }
                    if endpoint.key.kind == Kind::Ollama {
                        tasks.spawn(self.clone().prewarm(Arc::clone(endpoint)));
                    }
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Probes one endpoint until it is retired.
    async fn watch(self, endpoint: Arc<Endpoint>) {
        let mut pause = LEAST;
        let mut returns = endpoint.machine.returns.subscribe();
        while !endpoint.is_retired() {
            let began = Instant::now();
            let before = endpoint.verdict();
            self.probe(&endpoint).await;
            let after = endpoint.verdict();
            pause = next_pause(after, if after == before { pause } else { LEAST });
            endpoint.next_probe_in(pause);
            // A probe that used up its own time counts towards the pause.
            let rest = |pause: Duration| pause.saturating_sub(began.elapsed());
            sleep(rest(FLOOR)).await;
            // On a timeout the pause is over, otherwise somebody asked.
            let _ = timeout(rest(pause), wanted(&endpoint, &mut returns)).await;
        }
    }

    /// Probes once and brings the evidence.
    async fn probe(&self, endpoint: &Endpoint) {
        let live = self.store.live();
        let Some((within, race)) = timeouts(&live, endpoint) else {
            return;
        };
        let began = Instant::now();
        let (seen, detail) = match self.ask(endpoint, within, race).await {
            Ok(seen) => seen,
            Err(failure) => match Seen::of(&failure) {
                // This dial was stuck in what was repaired since: newer ones were answered.
                Some(Seen::Silent) if endpoint.reached_within(began.elapsed()) => return,
                Some(seen) => (seen, failure.to_string()),
                // The tunnel's trouble is shown with the tunnel.
                None => return,
            },
        };
        let labels = [endpoint.key.service.as_str(), endpoint.key.backend.as_str()];
        let counted = [labels[0], labels[1], seen.as_str()];
        self.metrics.probes.with_label_values(&counted).inc();
        if seen == Seen::Answered {
            let seconds = began.elapsed().as_secs_f64();
            self.metrics
                .probe_seconds
                .with_label_values(&labels)
                .observe(seconds);
        }
        note(endpoint, seen, &detail, self.clock);
    }

    /// Dials, and tells when that is late.
    async fn dial(
        &self,
        endpoint: &Endpoint,
        within: Duration,
        race: Duration,
    ) -> Result<Stream, Failure> {
        let began = Instant::now();
        let dialling = wire::open(&self.tailnet, &endpoint.place, within);
        tokio::pin!(dialling);
        let dialled = tokio::select! {
            biased;
            dialled = &mut dialling => dialled,
            () = Deadline::after(endpoint.pace.race(race)).passed() => {
                passive::late(endpoint, began.elapsed(), self.clock);
                dialling.await
            }
        };
        if dialled.is_ok() {
            // So that the first request after a pause knows how far the machine is.
            endpoint.pace.dialled(began.elapsed(), race);
        }
        dialled
    }

    /// Dials and asks for the probe path, each within `within`.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        within: Duration,
        race: Duration,
    ) -> Result<(Seen, String), Failure> {
        let key = &endpoint.key;
        let stream = self.dial(endpoint, within, race).await?;
        passive::dialled(endpoint, self.clock);
        // Not the endpoint's own signal: a probe that ends a doubt must not be ended by it.
        let lost = Lost::new();
        let mut connection = Connection::open(stream, &lost).await?;
        let path = api::probe_path(key.kind);
        let mut request = Request::new(Outgoing::empty());
        *request.uri_mut() = http::Uri::from_static(path);
        request.headers_mut().insert(HOST, endpoint.host.clone());
        endpoint.inject.put(request.headers_mut(), true);
        let slow = || (Seen::Slow, format!("no answer to GET {path} in time"));
        let answering = connection.send(request);
        tokio::pin!(answering);
        let (usual, whole) = (
            endpoint.pace.patience(HEAD_LEAST, within),
            Deadline::after(within),
        );
        let answer = tokio::select! {
            biased;
            answer = &mut answering => answer,
            () = Deadline::after(usual).passed() => {
                let (seen, detail) = slow();
                note(endpoint, seen, &detail, self.clock);
                tokio::select! {
                    biased;
                    answer = answering => answer,
                    () = whole.passed() => return Ok(slow()),
                }
            }
        };
        let answer = answer.map_err(|error| error.failure)?;
        let status = answer.status();
        if api::probe_passes(key.kind, status) {
            Ok((Seen::Answered, String::new()))
        } else {
            Ok((
                Seen::Wrong,
                format!("GET {path} answered {}", status.as_u16()),
            ))
        }
    }
}

/// Returns when somebody wants `endpoint` probed, or when its machine turned up again while it is
/// not known to serve.
async fn wanted(endpoint: &Endpoint, returns: &mut watch::Receiver<u64>) {
    let returned = async {
        // The sender is the machine's own, which outlives this.
        while returns.changed().await.is_ok() && endpoint.verdict() == Verdict::Up {}
    };
    tokio::select! {
        () = endpoint.probe_wanted.notified() => {}
        () = returned => {}
    }
}

/// What one probe and its dial's head start may take; `None`: no configuration knows the endpoint any more.
fn timeouts(live: &Live, endpoint: &Endpoint) -> Option<(Duration, Duration)> {
    let services = live.snapshot.services.iter();
    let mut of_name = services.filter(|service| service.name == endpoint.key.service);
    of_name
        .next()
        .map(|service| (service.timeouts.probe, service.timeouts.race))
}

/// Calm while it answers, at once in doubt, ever more slowly when nothing changes.
fn next_pause(verdict: Verdict, last: Duration) -> Duration {
    match verdict {
        Verdict::Up => CALM,
        Verdict::Unknown | Verdict::Suspect | Verdict::Returning => LEAST,
        Verdict::Down | Verdict::Asleep if last >= CALM => MOST,
        Verdict::Down | Verdict::Asleep => (last * 3 / 2).clamp(LEAST, MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_come_at_once_in_doubt_and_ever_more_slowly_at_rest() {
        assert_eq!(next_pause(Verdict::Up, MOST), CALM);
        assert_eq!(next_pause(Verdict::Suspect, CALM), LEAST);
        let mut pause = LEAST;
        let pauses: Vec<_> = std::iter::repeat_with(|| {
            pause = next_pause(Verdict::Asleep, pause);
            pause.as_millis()
        })
        .take(7)
        .collect();
        assert_eq!(pauses, [1500, 2250, 3375, 5062, 10_000, 10_000, 10_000]);
    }
}
