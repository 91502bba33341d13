//! The line for a place at a backend, for inference: a Mac works on one or a few at once, and lets
//! the others wait without a word.
//!
//! Nothing is sent here, so whatever comes of it may go on elsewhere. Invariants: a request holds at
//! most one place or ticket; it gives it back whenever it is dropped, also as its client left.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::record::Record;
use crate::config::snapshot::{BackendId, Limit};
use crate::endpoint::live::Endpoint;
use crate::endpoint::slots::{Asked, Slot, Ticket};
use crate::metrics::Metrics;
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

/// Gets the request a place at `endpoint`, if it needs one. `others`: another backend could take it.
pub(super) async fn admit(
    call: &Call<'_>,
    (backend, endpoint): (BackendId, &Arc<Endpoint>),
    others: bool,
    record: &mut Record,
) -> Result<(), Failure> {
    let inference = call.meaning.effect == Effect::Inference;
    let counts = inference && call.service().kind == ServiceKind::Ollama;
    if !counts || record.has_place_at(endpoint) {
        return Ok(());
    }
    record.gives_up_its_place();
    let limit = call.service().limit.as_ref();
    let queued = |position, depth| limit.map(|_| Queued::new(position, depth));
    match (endpoint.slots.ask(limit), limit) {
        (Asked::Taken(slot), _) => {
            if let Some(queued) = queued(0, 0) {
                let _count = Count::begin(&call.proxy.metrics, endpoint, 0).placed();
                record.stands(queued);
            }
            record.placed(slot);
            Ok(())
        }
        (Asked::Waits(ticket), Some(limit)) => {
            let position = ticket.position;
            record.stands(Queued::new(position, position - 1));
            let leaves = others && endpoint.verdict().able();
            let count = Count::begin(&call.proxy.metrics, endpoint, position);
            let slot = Box::pin(turn(ticket, endpoint, limit, leaves)).await;
            record.has_waited();
            let slot = slot?;
            still_takes(call, backend)?;
            drop(count.placed());
            record.placed(slot);
            Ok(())
        }
        (Asked::Full(depth), _) => {
            record.stands(Queued::new(0, depth));
            let detail = format!("{depth} requests wait for a place there, as many as may");
            Err(Failure::unsent(Kind::QueueFull, detail))
        }
        // Without a limit nobody waits.
        (Asked::Waits(_), None) => Ok(()),
    }
}

/// Waits until it is its turn.
async fn turn(
    ticket: Ticket,
    endpoint: &Endpoint,
    limit: &Limit,
    leaves: bool,
) -> Result<Slot, Failure> {
    let mut health = endpoint.lost.wait();
    tokio::select! {
        biased;
        slot = ticket.turn() => Ok(slot),
        () = health.unable(), if leaves => Err(Failure::unsent(
            Kind::Lost,
            "it stopped answering while the request waited for a place there",
        )),
        () = Deadline::after(limit.wait).passed() => Err(Failure::unsent(
            Kind::QueueLate,
            format!("no place became free there within {}", show_duration(limit.wait)),
        )),
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
