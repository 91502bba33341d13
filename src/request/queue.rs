//! The line for a place at a backend, for inference: a Mac works on one or a few at once, and lets
//! the others wait without a word.
//!
//! Nothing is sent here, so whatever comes of it may go on elsewhere. Invariants: a request holds at
//! most one place or ticket; it gives it back whenever it is dropped, also as its client left.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::record::Record;
use crate::config::snapshot::{BackendId, Limit, Policy};
use crate::endpoint::live::Endpoint;
use crate::endpoint::slots::{Asked, Slot, Ticket, turn};
use crate::metrics::Metrics;
use crate::plan::candidates::Candidate;
use crate::words::clock::Deadline;
use crate::words::effect::Effect;
use crate::words::names::Kind as ServiceKind;
use crate::words::outcome::{Failure, Kind};
use crate::words::units::show_duration;

/// How a request stood, or stands, in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// Its place when it came, from 1; 0: it did not wait.
    pub(super) position: usize,
    /// How many waited when it came.
    pub(super) depth: usize,
    since: Instant,
    waited: Option<Duration>,
}

impl Queued {
    fn new(position: usize, depth: usize) -> Self {
        Self {
            position,
            depth,
            since: Instant::now(),
            waited: (position == 0).then_some(Duration::ZERO),
        }
    }

    /// It waits no more.
    pub(super) fn ends(&mut self) {
        self.waited = Some(self.wait());
    }

    /// How long it waited, up to now if it still does.
    pub(super) fn wait(&self) -> Duration {
        self.waited.unwrap_or_else(|| self.since.elapsed())
    }
}

/// As `x-tailhop-queue` has it.
impl fmt::Display for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, depth, wait) = (self.position, self.depth, self.wait().as_secs_f64());
        write!(f, "position={position}, depth={depth}, wait={wait:.3}")
    }
}

/// How long one that came now would wait for a place at `endpoint`, if that can be told.
pub(super) fn expected(call: &Call<'_>, endpoint: &Endpoint) -> Option<Duration> {
    let limit = call.service().limit?;
    endpoint.slots.busy().wait(limit.in_flight)
}

/// Gets the request a place at the first of `left`, if it needs one; whom it has one at. Where load
/// decides it waits for those behind it as well, and one of them may have a place first.
pub(super) async fn admit(
    call: &Call<'_>,
    left: &VecDeque<Candidate>,
    others: bool,
    record: &mut Record,
) -> Result<Option<BackendId>, Failure> {
    let inference = call.meaning.effect == Effect::Inference;
    let counts = inference && call.service().kind == ServiceKind::Ollama;
    let first = left.front().filter(|_| counts);
    let Some((backend, endpoint)) = first.and_then(|first| of(call, first)) else {
        return Ok(None);
    };
    if record.has_place_at(endpoint) {
        return Ok(Some(backend));
    }
    record.gives_up_its_place();
    let limit = call.service().limit.as_ref();
    match (endpoint.slots.ask(limit), limit) {
        (Asked::Taken(slot), _) => {
            if limit.is_some() {
                let _count = Count::begin(&call.proxy.metrics, endpoint, 0).placed();
                record.stands(Queued::new(0, 0));
            }
            record.placed(slot);
            Ok(Some(backend))
        }
        (Asked::Waits(ticket), Some(limit)) => {
            let line = Line {
                call,
                at: (backend, endpoint),
                beside: beside(call, endpoint, left),
                limit,
                leaves: others && endpoint.verdict().able(),
            };
            Box::pin(line.wait(ticket, record)).await.map(Some)
        }
        (Asked::Full(depth), _) => {
            record.stands(Queued::new(0, depth));
            let detail = format!("{depth} requests wait for a place there, as many as may");
            Err(Failure::unsent(Kind::QueueFull, detail))
        }
        // Without a limit nobody waits.
        (Asked::Waits(_), None) => Ok(None),
    }
}

type At<'a> = (BackendId, &'a Arc<Endpoint>);

/// Where a candidate is asked.
fn of<'a>(call: &'a Call<'_>, candidate: &Candidate) -> Option<At<'a>> {
    let endpoint = call.live.endpoint(call.route.service, candidate.backend)?;
    Some((candidate.backend, endpoint))
}

/// Those behind the first candidate, `endpoint`, that are as good where load decides: able, and with
/// the model in memory if the first one has it there.
fn beside<'a>(call: &'a Call<'_>, endpoint: &Endpoint, left: &VecDeque<Candidate>) -> Vec<At<'a>> {
    if call.service().policy != Policy::LeastLoaded {
        return Vec::new();
    }
    let model = call.model.as_ref();
    let warm = |one: &Endpoint| model.is_none_or(|model| one.models.is_loaded(model));
    let as_good = |one: &Endpoint| one.verdict().able() && (warm(one) || !warm(endpoint));
    let behind = left
        .iter()
        .skip(1)
        .filter_map(|candidate| of(call, candidate));
    behind.filter(|(_, one)| as_good(one)).collect()
}

/// What a request stands in line for.
struct Line<'a, 'c> {
    call: &'a Call<'c>,
    /// Where it counts.
    at: At<'a>,
    /// Where it would go as well.
    beside: Vec<At<'a>>,
    limit: &'a Limit,
    /// It goes elsewhere if the endpoint falls into doubt.
    leaves: bool,
}

impl Line<'_, '_> {
    /// Waits until it is its turn; where.
    async fn wait(self, ticket: Ticket, record: &mut Record) -> Result<BackendId, Failure> {
        let (_, endpoint) = self.at;
        let position = ticket.position;
        record.stands(Queued::new(position, position - 1));
        let count = Count::begin(&self.call.proxy.metrics, endpoint, position);
        let turned = self.turn(ticket).await;
        record.has_waited();
        let (backend, slot) = turned?;
        still_takes(self.call, backend)?;
        drop(count.placed());
        record.placed(slot);
        Ok(backend)
    }

    async fn turn(&self, ticket: Ticket) -> Result<(BackendId, Slot), Failure> {
        let (backend, endpoint) = self.at;
        let beside = self.beside.iter().map(|(_, one)| one.slots.ask_beside());
        let tickets = std::iter::once(ticket).chain(beside).collect();
        let mut health = endpoint.lost.wait();
        let wait = self.limit.wait;
        tokio::select! {
            biased;
            (which, slot) = turn(tickets) => {
                let other = which.checked_sub(1).and_then(|which| self.beside.get(which));
                Ok((other.map_or(backend, |(other, _)| *other), slot))
            }
            () = health.unable(), if self.leaves => Err(Failure::unsent(
                Kind::Lost,
                "it stopped answering while the request waited for a place there",
            )),
            () = Deadline::after(wait).passed() => Err(Failure::unsent(
                Kind::QueueLate,
                format!("no place became free there within {}", show_duration(wait)),
            )),
        }
    }
}

/// What a backend has may have changed while a request waited for it.
fn still_takes(call: &Call<'_>, backend: BackendId) -> Result<(), Failure> {
    let candidates = call.plan().candidates;
    if candidates.iter().any(|one| one.backend == backend) {
        Ok(())
    } else {
        let detail = "it does not take the request any more, which waited for a place there";
        Err(Failure::unsent(Kind::Lost, detail))
    }
}

/// Counts one that waits, however that ends.
struct Count<'m> {
    metrics: &'m Metrics,
    endpoint: &'m Endpoint,
    since: Instant,
    result: &'static str,
}

impl<'m> Count<'m> {
    fn begin(metrics: &'m Metrics, endpoint: &'m Endpoint, position: usize) -> Self {
        let key = &endpoint.key;
        let labels = [key.service.as_str(), key.backend.as_str()];
        let positions = metrics.queue_position.with_label_values(&labels);
        // A line has at most as many places as a `u16` counts.
        positions.observe(f64::from(u32::try_from(position).unwrap_or(u32::MAX)));
        Self {
            metrics,
            endpoint,
            since: Instant::now(),
            result: "left",
        }
    }

    fn placed(mut self) -> Self {
        self.result = "placed";
        self
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        let key = &self.endpoint.key;
        let labels = [key.service.as_str(), key.backend.as_str(), self.result];
        let waits = &self.metrics.queue_wait_seconds;
        let wait = self.since.elapsed().as_secs_f64();
        waits.with_label_values(&labels).observe(wait);
    }
}
