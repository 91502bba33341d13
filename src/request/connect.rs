//! A connection to one endpoint: an idle one that still works, else the next one that a dial
//! brings.
//!
//! Nothing is sent here, so every failure is free to try again. Requests race dials, not requests:
//! a dial that is not answered within its head start is joined by fresh ones, as lost SYNs back
//! off and new ones do not.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use crate::endpoint::connection::Connection;
use crate::endpoint::dials::{Dials, Permit};
use crate::endpoint::live::Endpoint;
use crate::health::passive;
use crate::metrics::Metrics;
use crate::tailnet::Tailnet;
use crate::wire;
use crate::wire::Place;
use crate::wire::stream::Stream;
use crate::words::clock::{Clock, Deadline};
use crate::words::effect::Effect;
use crate::words::outcome::{Failure, Kind};
use crate::words::units::show_duration;

/// While a request waits longer than this, its endpoint is probed on a fresh dial: on kept-alive
/// connections nothing else would notice a machine that fell asleep.
const ASK_AFTER: Duration = Duration::from_millis(500);
/// The same where answers usually come so fast that a tenth of a second tells.
const ASK_SOON: Duration = Duration::from_millis(100);
/// How long a dial that used up its time may take to say so.
const LAST_WORD: Duration = Duration::from_millis(100);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A reused connection that dies under a write leaves its outcome unknown, so writes use only
/// those that were busy a moment ago.
const FOR_CHANGES: Duration = Duration::from_secs(2);

/// An inference that another backend could take is sent on a connection in use only while its
/// machine was heard so lately. Once sent it is not moved before the machine is known to sleep; a
/// dial takes a round trip, proves that it is awake, and can be raced.
const FOR_INFERENCE: Duration = Duration::from_millis(20);

/// How an attempt may get its connection.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// When the attempt began.
    pub(super) now: Instant,
    /// Idle connections may be stale: dial.
    pub(super) fresh: bool,
    /// Another candidate could take the request.
    pub(super) others: bool,
    /// What is left of the request's patience.
    pub(super) left: Duration,
}

/// A connection to `endpoint`.
pub(super) async fn connect(
    call: &Call<'_>,
    endpoint: &Arc<Endpoint>,
    terms: Terms,
) -> Result<Connection, Failure> {
    if let Some(younger_than) = reusable(call, endpoint, terms) {
        if let Some(connection) = endpoint.idle.take_fresh(younger_than, terms.now) {
            return Ok(connection);
        }
        if let Some(connection) = Box::pin(endpoint.idle.take(younger_than)).await {
            return Ok(connection);
        }
    }
    // Boxed, so that requests on connections that are there do not carry the room for a dial.
    Box::pin(dial(call, endpoint, terms)).await
}

/// A connection that a dial brings.
async fn dial(
    call: &Call<'_>,
    endpoint: &Arc<Endpoint>,
    terms: Terms,
) -> Result<Connection, Failure> {
    delivered::<Http1>(call, endpoint, terms).await
}

/// What a dial for `S` brings.
pub(super) async fn delivered<S: Speaks>(
    call: &Call<'_>,
    endpoint: &Arc<Endpoint>,
    terms: Terms,
) -> Result<S::Connection, Failure> {
    let dials = S::dials(endpoint)?;
    let able = endpoint.verdict().able();
    let within = bound(call, terms, able);
    // A dial that ends with its own time says more than that the time is over.
    let grace = if within < call.timeouts().connect {
        Duration::ZERO
    } else {
        LAST_WORD
    };
    let mut waiting = endpoint.lost.wait();
    let line = dials.wait();
    let dialler = Dialler::<S>::new(call, endpoint);
    dialler.start(dials.need(S::EACH));
    tokio::select! {
        biased;
        delivery = line => delivery.unwrap_or_else(|_| Err(Failure::unsent(Kind::Lost, "no dial"))),
        () = waiting.unable(), if able && terms.others => Err(Failure::unsent(
            Kind::Lost,
            "it stopped answering while it was dialled",
        )),
        () = Deadline::after(within + grace).passed() => Err(Failure::unsent(
            Kind::Silent,
            format!("no dial was answered within {}", show_duration(within)),
        )),
    }
}

/// How young an idle connection must be that a request may use; `None`: it may use none.
fn reusable(call: &Call<'_>, endpoint: &Endpoint, terms: Terms) -> Option<Duration> {
    let heard = || endpoint.machine.heard_before(terms.now);
    match call.meaning.effect {
        _ if terms.fresh => None,
        Effect::Inference if terms.others && heard().is_none_or(|ago| ago >= FOR_INFERENCE) => None,
        effect if effect.changes() => Some(FOR_CHANGES),
        _ => Some(Duration::MAX),
    }
}

/// How long one attempt may wait for a dial. While another candidate is left it does not use up
/// the patience that is left for that one, and an endpoint that is not thought able gets no longer
/// than a probe.
fn bound(call: &Call<'_>, terms: Terms, able: bool) -> Duration {
    let timeouts = call.timeouts();
    match (terms.others, able) {
        (false, _) => timeouts.connect.min(terms.left),
        (true, true) => timeouts.connect.min(terms.left / 2),
        (true, false) => timeouts.connect.min(terms.left / 2).min(timeouts.probe),
    }
}

/// What is spoken on a connection, as far as dialling it is concerned.
pub(super) trait Speaks: Send + Sync + 'static {
    /// What those who wait get.
    type Connection: Send;
    /// How many of them one dial can serve.
    const EACH: usize;

    /// Where it is dialled.
    fn place(endpoint: &Endpoint) -> &Place;

    /// Those who wait for it, and the dials that run.
    ///
    /// # Errors
    /// The endpoint does not speak it.
    fn dials(endpoint: &Endpoint) -> Result<&Dials<Self::Connection>, Failure>;

    /// Opens a connection over what was dialled.
    fn open(
        stream: Stream,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Gives what a dial brought to those who wait.
    fn give(endpoint: &Endpoint, permit: &Permit, opened: Result<Self::Connection, Failure>);

    /// Whether what becomes of its dials tells of the endpoint's health as it is probed.
    fn tells(failure: &Failure) -> bool;
}

/// HTTP/1.1.
struct Http1;

impl Speaks for Http1 {
    type Connection = Connection;
    const EACH: usize = 1;

    fn place(endpoint: &Endpoint) -> &Place {
        &endpoint.place
    }

    fn dials(endpoint: &Endpoint) -> Result<&Dials<Connection>, Failure> {
        Ok(&endpoint.dials)
    }

    async fn open(stream: Stream, endpoint: &Endpoint) -> Result<Connection, Failure> {
        endpoint.idle.make_way();
        Connection::open(stream, &endpoint.lost).await
    }

    fn give(endpoint: &Endpoint, permit: &Permit, opened: Result<Connection, Failure>) {
        if let Some(spare) = endpoint.dials.ended(permit, opened) {
            endpoint.idle.put(spare, Instant::now());
        }
    }

    fn tells(_: &Failure) -> bool {
        true
    }
}

/// Runs dials for whoever waits for one. A task of its own a dial, so that one that outlives its
/// requester serves the next.
struct Dialler<S> {
    endpoint: Arc<Endpoint>,
    tailnet: Arc<Tailnet>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// `race` as configured, and as the dials of the endpoint make of it.
    configured: Duration,
    race: Duration,
    connect: Duration,
    speaks: PhantomData<S>,
}

impl<S> Clone for Dialler<S> {
    fn clone(&self) -> Self {
        Self {
            endpoint: Arc::clone(&self.endpoint),
            tailnet: Arc::clone(&self.tailnet),
            metrics: Arc::clone(&self.metrics),
            ..*self
        }
    }
}

impl<S: Speaks> Dialler<S> {
    fn new(call: &Call<'_>, endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            tailnet: Arc::clone(&call.proxy.tailnet),
            metrics: Arc::clone(&call.proxy.metrics),
            clock: call.proxy.clock,
            configured: call.timeouts().race,
            race: endpoint.pace.race(call.timeouts().race),
            connect: call.timeouts().connect,
            speaks: PhantomData,
        }
    }

    fn start(&self, permit: Option<Permit>) {
        let Some(permit) = permit else { return };
        let endpoint = Arc::clone(&self.endpoint);
        let permit = Arc::new(permit);
        let task = tokio::spawn(self.clone().run(Arc::clone(&permit)));
        if let Ok(dials) = S::dials(&endpoint) {
            dials.started(&permit, task.abort_handle());
        }
    }

    /// One dial, and the next one if more requests wait than dials run.
    async fn run(self, permit: Arc<Permit>) {
        let _place = Running::<S>(&self.endpoint, &permit, PhantomData);
        let began = Instant::now();
        let dialled = self.dial().await;
        self.record(began.elapsed(), dialled.as_ref().err());
        let opened = match dialled {
            Ok(stream) => S::open(stream, &self.endpoint).await,
            Err(failure) => Err(failure),
        };
        S::give(&self.endpoint, &permit, opened);
        if let Ok(dials) = S::dials(&self.endpoint) {
            self.start(dials.need(S::EACH));
        }
    }

    /// Dials; when that is late, or the tunnel was repaired meanwhile, a fresh dial begins beside.
    async fn dial(&self) -> Result<Stream, Failure> {
        let mut waiting = self.endpoint.lost.wait();
        let mut pause = self.race;
        let began = Instant::now();
        let dialling = wire::open(&self.tailnet, S::place(&self.endpoint), self.connect);
        tokio::pin!(dialling);
        loop {
            tokio::select! {
                biased;
                dialled = &mut dialling => return dialled,
                () = waiting.repaired() => self.freshen(Duration::ZERO),
                () = Deadline::after(pause).passed() => {
                    passive::late(&self.endpoint, began.elapsed(), self.clock);
                    self.freshen(self.race);
                    // 250, 550, 950 ms: not a flood.
                    pause += self.race / 5;
                }
            }
        }
    }

    fn freshen(&self, race: Duration) {
        if let Ok(dials) = S::dials(&self.endpoint) {
            self.start(dials.freshen(race));
        }
    }

    /// Counts a dial and brings what it says about the endpoint.
    fn record(&self, took: Duration, failure: Option<&Failure>) {
        let endpoint = &self.endpoint;
        let Some(failure) = failure else {
            endpoint.handles.connects_ok.inc();
            endpoint.handles.connect_seconds.observe(took.as_secs_f64());
            endpoint.pace.dialled(took, self.configured);
            passive::dialled(endpoint, self.clock);
            return;
        };
        let labels = [endpoint.key.backend.as_str(), failure.kind.as_str()];
        self.metrics.connects.with_label_values(&labels).inc();
        if S::tells(failure) {
            passive::undialled(endpoint, failure, took, self.clock);
        }
    }
}

/// The place of a dial among those of its endpoint, which is free again however the dial ends.
struct Running<'d, S: Speaks>(&'d Endpoint, &'d Permit, PhantomData<S>);

impl<S: Speaks> Drop for Running<'_, S> {
    fn drop(&mut self) {
        if let Ok(dials) = S::dials(self.0) {
            dials.broke_off(self.1);
        }
    }
}

/// Asks for probes of `endpoint` for as long as a request waits on it that was `sent` then, until its
/// head is late.
pub(super) async fn ask_for_probes_until(call: &Call<'_>, endpoint: &Endpoint, sent: Instant) {
    let mut bound = call.head_bound(sent);
    let pause = match call.meaning.effect {
        Effect::Inference => ASK_AFTER,
        _ => endpoint.pace.patience(ASK_SOON, ASK_AFTER),
    };
    // It has waited for a beat or two already.
    let mut pause = pause.saturating_sub(sent.elapsed());
    while !bound.tick(pause).await {
        endpoint.want_probe();
        pause = ASK_AGAIN;
    }
}
