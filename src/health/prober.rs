//! Active probes: one task an endpoint, on the control thread, through the same dial path as
//! traffic, on a fresh connection each time, as a kept-alive one hides dial trouble.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::HOST;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::judge::Seen;
use super::passive::note;
use crate::api;
use crate::endpoint::connection::{Connection, Outgoing};
use crate::endpoint::live::Endpoint;
use crate::endpoint::lost::Lost;
use crate::metrics::Metrics;
use crate::reload::store::{Live, Store};
use crate::tailnet::Tailnet;
use crate::wire::open;
use crate::words::clock::{Clock, Deadline};
use crate::words::outcome::Failure;
use crate::words::verdict::Verdict;

/// Between probes of an endpoint that answers.
const CALM: Duration = Duration::from_secs(5);
/// Between probes at most this often, however many ask for one.
const LEAST: Duration = Duration::from_secs(1);
/// Between probes of an endpoint that stays down or asleep, at most.
const MOST: Duration = Duration::from_secs(10);

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
                if !probed.iter().any(|known| Arc::ptr_eq(known, endpoint)) {
                    probed.push(Arc::clone(endpoint));
                    tasks.spawn(self.clone().watch(Arc::clone(endpoint)));
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
        while !endpoint.is_retired() {
            let began = Instant::now();
            let before = endpoint.verdict();
            self.probe(&endpoint).await;
            let after = endpoint.verdict();
            pause = next_pause(after, if after == before { pause } else { LEAST });
            endpoint.next_probe_in(pause);
            // A probe that used up its own time counts towards the pause.
            let rest = |pause: Duration| pause.saturating_sub(began.elapsed());
            sleep(rest(LEAST)).await;
            // On a timeout the pause is over, otherwise somebody asked.
            let _ = timeout(rest(pause), endpoint.probe_wanted.notified()).await;
        }
    }

    /// Probes once and brings the evidence.
    async fn probe(&self, endpoint: &Endpoint) {
        let live = self.store.live();
        let Some(within) = probe_timeout(&live, endpoint) else {
            return;
        };
        let began = Instant::now();
        let (seen, detail) = match self.ask(endpoint, within).await {
            Ok(seen) => seen,
            Err(failure) => match Seen::of(&failure) {
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

    /// Dials and asks for the probe path, each within `within`.
    async fn ask(&self, endpoint: &Endpoint, within: Duration) -> Result<(Seen, String), Failure> {
        let key = &endpoint.key;
        let stream = open(&self.tailnet, &endpoint.place, within).await?;
        // Not the endpoint's own signal: a probe that ends a doubt must not be ended by it.
        let lost = Lost::new();
        let mut connection = Connection::open(stream, &lost).await?;
        let path = api::probe_path(key.kind);
        let mut request = Request::new(Outgoing::empty());
        *request.uri_mut() = http::Uri::from_static(path);
        request.headers_mut().insert(HOST, endpoint.host.clone());
        request
            .headers_mut()
            .extend(endpoint.inject.iter().cloned());
        let answer = tokio::select! {
            biased;
            answer = connection.send(request) => answer.map_err(|error| error.failure)?,
            () = Deadline::after(within).passed() => {
                return Ok((Seen::Slow, format!("no answer to GET {path} in time")));
            }
        };
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

/// What one probe may take; `None`: no configuration knows the endpoint any more.
fn probe_timeout(live: &Live, endpoint: &Endpoint) -> Option<Duration> {
    let services = live.snapshot.services.iter();
    let mut of_name = services.filter(|service| service.name == endpoint.key.service);
    of_name.next().map(|service| service.timeouts.probe)
}

/// Calm while it answers, at once in doubt, ever more slowly when nothing changes.
fn next_pause(verdict: Verdict, last: Duration) -> Duration {
    match verdict {
        Verdict::Up => CALM,
        Verdict::Unknown | Verdict::Suspect => LEAST,
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
