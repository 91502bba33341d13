//! The attempt loop: one candidate after the other until one answers.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::Instant;

use super::again::{Again, Standing, again};
use super::call::{Call, Outbound};
use super::connect::{Terms, ask_for_probes_until, connect};
use super::queue;
use super::record::Record;
use super::stream::Coming;
use crate::api::{self, Answer};
use crate::config::snapshot::BackendId;
use crate::endpoint::connection::{Connection, SendError, Sent};
use crate::endpoint::live::Endpoint;
use crate::health::passive;
use crate::plan::candidates::{Candidate, Plan};
use crate::plan::orders::Active;
use crate::plan::reason::{Reason, Refusal};
use crate::words::clock::Deadline;
use crate::words::effect::Effect;
use crate::words::outcome::{Failure, Kind, Phase};

/// Between plans while no candidate can take the request.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_millis(500);
/// A cheap read is answered within this, or another backend is asked: adapted to the endpoint.
const HEDGE_LEAST: Duration = Duration::from_millis(50);
const HEDGE_MOST: Duration = Duration::from_millis(250);
/// A dial through a tunnel that has just come up.
const DIAL_LEAST: Duration = Duration::from_secs(1);
/// An answer that must be read to be judged is longer only if it is something else.
pub(super) const JUDGED_MAX: usize = 64 * 1024;

/// The head of an answer, and the connection that its body comes on.
pub(super) struct Answered {
    pub(super) response: Response<Coming>,
    pub(super) connection: Option<Connection>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Whom orders and schedule named.
    pub(super) active: BackendId,
    /// When it came.
    pub(super) at: Instant,
}

impl Answered {
    /// Whether it switches to the protocol that was asked for.
    pub(super) fn switches(&self) -> bool {
        self.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The plan names nobody.
    Refused { refusal: Refusal, active: Active },
    /// The last attempt failed so.
    Failed {
        failure: Failure,
        endpoint: Option<Arc<Endpoint>>,
        missing: bool,
    },
}

/// How a candidate is asked: by the protocol that its client speaks.
pub(super) trait Ask {
    /// The head of an answer, and what its body comes on.
    type Answered;

    /// When its body had been read as far as it is read before it is sent.
    fn ready(&self) -> Instant;

    /// Whether its body can be sent more than once.
    fn replayable(&self) -> bool;

    /// One try of the first candidate of those who are left.
    fn ask(
        &mut self,
        call: &Call<'_>,
        round: &mut Round<'_>,
        terms: Terms,
        record: &mut Record,
    ) -> impl Future<Output = Result<Box<Self::Answered>, Failure>>;
}

/// Asks one candidate after the other. The only loop that tries again, and `again` decides.
pub(super) async fn answer<A: Ask>(
    call: &Call<'_>,
    outbound: &mut A,
    record: &mut Record,
) -> Result<Box<A::Answered>, Unanswered> {
    let mut now = outbound.ready();
    let mut patience = Patience::begin(call, now);
    call.proxy.look_for_a_freeze(call.wall, call.began);
    let mut round = Round::plan(call, call.wall)?;
    let (mut missing, mut fresh) = (false, false);
    loop {
        let others = round.others();
        let admitted = queue::admit(call, &round.left, others, record).await;
        if let Ok(Some(backend)) = admitted {
            round.prefer(backend);
        }
        let Some(backend) = round.left.front().map(|first| first.backend) else {
            return Err(round.failed(missing));
        };
        if record.waited() {
            // While it stood in line it did not wait for a backend.
            patience.resume(now);
            now = Instant::now();
        }
        let terms = Terms {
            now,
            fresh,
            others,
            left: patience.left_at(now),
        };
        let asked = match admitted {
            Ok(_) => outbound.ask(call, &mut round, terms, record).await,
            Err(failure) => Err(failure),
        };
        let failure = match asked {
            Ok(answered) => return Ok(answered),
            Err(failure) => failure,
        };
        missing |= failure.kind == Kind::NotThere;
        let endpoint = call.live.endpoint(call.route.service, backend);
        let standing = Standing {
            budget: draws(&failure) && endpoint.is_some_and(|endpoint| endpoint.budget.draw()),
            changes: call.meaning.effect.changes(),
            replayable: outbound.replayable(),
            // A hedge may have asked one of them meanwhile.
            others: round.others_now(call),
            tried_fresh: fresh,
            spill: call.spills(),
            missing,
        };
        if failure.phase != Phase::Unsent {
            // While it was with a backend it did not wait for one.
            patience.resume(now);
        }
        let next = again(&failure, standing);
        record.failed(&failure, next != Again::Stop);
        round.last = Some((failure, endpoint));
        fresh = next == Again::Same;
        match next {
            Again::Same => {}
            Again::Next => round.next(call),
            Again::Wait if Box::pin(patience.pause(call, &round)).await => round.replan(call)?,
            Again::Wait | Again::Stop => return Err(round.failed(missing)),
        }
        now = Instant::now();
    }
}

/// Whether trying again after `failure` is a matter of the budget.
fn draws(failure: &Failure) -> bool {
    failure.phase == Phase::Sent && matches!(failure.kind, Kind::Broken | Kind::BadAnswer)
}

/// One plan, and whom it has left.
pub(super) struct Round<'a> {
    pub(super) active: Active,
    pub(super) left: VecDeque<Candidate>,
    /// When it was planned, if those behind the first are still to be.
    unplanned: Option<Timestamp>,
    /// Some backend is no candidate because it lacks the data.
    lacking: bool,
    last: Option<(Failure, Option<&'a Arc<Endpoint>>)>,
}

impl Round<'_> {
    fn plan(call: &Call<'_>, now: Timestamp) -> Result<Self, Unanswered> {
        if let Some(lead) = call.lead_at(now) {
            return Ok(Self {
                active: lead.active,
                left: VecDeque::from([lead.candidate]),
                unplanned: lead.others.then_some(now),
                lacking: false,
                last: None,
            });
        }
        let plan = call.plan_at(now);
        let lacking = plan.lacks_data();
        let Plan {
            active,
            candidates,
            refusal,
            ..
        } = plan;
        match refusal {
            Some(refusal) => Err(Unanswered::Refused { refusal, active }),
            None => Ok(Self {
                active,
                left: candidates.into(),
                unplanned: None,
                lacking,
                last: None,
            }),
        }
    }

    /// Whether somebody is left after the one that is asked now.
    fn others(&self) -> bool {
        self.left.len() > 1 || self.unplanned.is_some()
    }

    /// The same when it matters who they are: one that lacks the data is none.
    fn others_now(&mut self, call: &Call<'_>) -> bool {
        self.plan_others(call);
        self.others()
    }

    /// Plans those behind the first, if that was not needed before.
    fn plan_others(&mut self, call: &Call<'_>) {
        if let (Some(at), Some(first)) = (self.unplanned.take(), self.left.front()) {
            let plan = call.plan_at(at);
            self.lacking = plan.lacks_data();
            self.left.extend(plan.behind(first.backend));
        }
    }

    /// One of those who are left has a place for the request: it is asked first.
    fn prefer(&mut self, backend: BackendId) {
        let place = self.left.iter().position(|one| one.backend == backend);
        if let Some(mut candidate) = place
            .filter(|place| *place > 0)
            .and_then(|place| self.left.remove(place))
        {
            if candidate.reason == Reason::Next {
                candidate.reason = Reason::LeastLoaded;
            }
            self.left.push_front(candidate);
        }
    }

    /// Goes on to the next.
    fn next(&mut self, call: &Call<'_>) {
        self.plan_others(call);
        self.left.pop_front();
    }

    fn replan(&mut self, call: &Call<'_>) -> Result<(), Unanswered> {
        let last = self.last.take();
        *self = Self {
            last,
            ..Self::plan(call, call.proxy.clock.now())?
        };
        Ok(())
    }

    fn failed(self, missing: bool) -> Unanswered {
        let unplanned = || (Failure::unsent(Kind::Lost, "no candidate"), None);
        let (failure, endpoint) = self.last.unwrap_or_else(unplanned);
        Unanswered::Failed {
            // The active one did answer, wrongly: that another lacks the data is not why.
            missing: missing || self.lacking && failure.phase != Phase::Answering,
            failure,
            endpoint: endpoint.cloned(),
        }
    }
}

impl Ask for Outbound {
    type Answered = Answered;

    fn ready(&self) -> Instant {
        self.ready
    }

    fn replayable(&self) -> bool {
        self.replayable
    }

    fn ask(
        &mut self,
        call: &Call<'_>,
        round: &mut Round<'_>,
        terms: Terms,
        record: &mut Record,
    ) -> impl Future<Output = Result<Box<Answered>, Failure>> {
        attempt(call, round, terms, self, record)
    }
}

/// One try of the first candidate of those who are left.
async fn attempt(
    call: &Call<'_>,
    round: &mut Round<'_>,
    terms: Terms,
    outbound: &mut Outbound,
    record: &mut Record,
) -> Result<Box<Answered>, Failure> {
    let first = round.left.front();
    let Some((candidate, endpoint)) = first.and_then(|first| {
        let endpoint = call.live.endpoint(call.route.service, first.backend)?;
        Some((first, endpoint))
    }) else {
        return Err(Failure::unsent(Kind::Lost, "no endpoint"));
    };
    record.at(endpoint, &candidate.reason);
    let backend = candidate.backend;
    // As the plan saw it: who fell into doubt while it was dialled is left at once.
    let able = endpoint.verdict().able();
    let mut connection = connect(call, endpoint, terms).await?;
    let stand = Stand {
        backend,
        active: round.active.backend,
        movable: terms.others && outbound.replayable,
        repeatable: call.meaning.effect == Effect::Read && outbound.replayable,
        able,
        sent: sent(&connection, terms),
    };
    call.sent.store(true, Ordering::Relaxed);
    // Pinned here, so that nobody who waits for it carries it along.
    let request = outbound.request(
        call.route,
        endpoint,
        only_reads(call, stand.backend, stand.active),
    );
    let mut sending = pin!(connection.begin(request));
    let mut first = pin!(exchange(
        call,
        endpoint,
        connection,
        sending.as_mut(),
        stand
    ));
    let asked = if stand.movable && api::is_cheap(endpoint.key.kind, call.meaning) {
        tokio::select! {
            biased;
            asked = &mut first => asked,
            () = hedge(call, endpoint) => {
                // Boxed, so that those that are answered at once do not carry the room for it.
                Box::pin(hedged(call, first, terms, (round, outbound, record))).await
            }
        }
    } else {
        first.await
    };
    asked.map_err(|SendError { failure, request }| {
        // What failed is known to have, and is told with the failure.
        call.sent.store(false, Ordering::Relaxed);
        if let Some(request) = request {
            outbound.take_back(*request);
        }
        failure
    })
}

/// When a request goes out on a connection: one that was there already took no time to get.
fn sent(connection: &Connection, terms: Terms) -> Instant {
    if connection.reused {
        terms.now
    } else {
        Instant::now()
    }
}

/// What an answer is judged by.
#[derive(Clone, Copy)]
pub(super) struct Stand {
    pub(super) backend: BackendId,
    /// Whom orders and schedule name.
    pub(super) active: BackendId,
    /// Another candidate may answer as well.
    pub(super) movable: bool,
    /// It costs little and changes nothing: it may be sent again on mere doubt.
    pub(super) repeatable: bool,
    /// The endpoint was thought able when it was chosen.
    pub(super) able: bool,
    /// When it was sent.
    pub(super) sent: Instant,
}

/// Whether it may do nothing but read where it goes.
pub(super) fn only_reads(call: &Call<'_>, backend: BackendId, active: BackendId) -> bool {
    backend != active && call.meaning.effect == Effect::Read
}

/// Waits for what `endpoint` answers on `connection`, and judges it.
async fn exchange(
    call: &Call<'_>,
    endpoint: &Arc<Endpoint>,
    connection: Connection,
    sending: Pin<&mut impl Future<Output = Sent>>,
    stand: Stand,
) -> Result<Box<Answered>, SendError> {
    endpoint.budget.deposit();
    let sent = head(call, endpoint, sending, stand).await;
    let answer = sent.and_then(|sent| connection.answer(sent, call.upgrade.as_ref()));
    let response = answer.inspect_err(|error| {
        passive::failed(endpoint, &error.failure, call.proxy.clock);
    })?;
    let now = Instant::now();
    if call.meaning.effect != Effect::Inference {
        endpoint
            .pace
            .answered(now.saturating_duration_since(stand.sent));
    }
    passive::answered(endpoint, now, call.proxy.clock);
    // Boxed, as it goes through many hands.
    let answered = Box::new(Answered {
        response: response.map(Coming::Stream),
        connection: Some(connection),
        endpoint: Arc::clone(endpoint),
        active: stand.active,
        at: now,
    });
    judge_answer(call, answered, stand).await
}

/// A cheap read that is late is asked of the next candidate, too; whoever answers first answers.
/// Neither waits for the other one's failure, and the next candidate is not asked again.
async fn hedged(
    call: &Call<'_>,
    mut first: Pin<&mut impl Future<Output = Result<Box<Answered>, SendError>>>,
    terms: Terms,
    (round, outbound, record): (&mut Round<'_>, &mut Outbound, &mut Record),
) -> Result<Box<Answered>, SendError> {
    round.plan_others(call);
    let next = round.left.remove(1);
    let found = next.and_then(|next| {
        let endpoint = call.live.endpoint(call.route.service, next.backend)?;
        Some((next, endpoint))
    });
    let Some((next, other)) = found else {
        return first.await;
    };
    let hedges = &call.proxy.metrics.hedges;
    hedges
        .with_label_values(&[other.key.service.as_str()])
        .inc();
    let (backend, active) = (next.backend, round.active.backend);
    let request = outbound.request(call.route, other, only_reads(call, backend, active));
    let terms = Terms {
        now: Instant::now(),
        fresh: false,
        others: false,
        ..terms
    };
    let second = async {
        let mut connection = connect(call, other, terms).await?;
        let stand = Stand {
            backend,
            active,
            movable: false,
            repeatable: false,
            able: false,
            sent: sent(&connection, terms),
        };
        let sending = pin!(connection.begin(request));
        exchange(call, other, connection, sending, stand).await
    };
    tokio::pin!(second);
    let asked = tokio::select! {
        biased;
        asked = &mut first => match asked {
            Ok(answered) => return Ok(answered),
            Err(_) => second.await,
        },
        asked = &mut second => match asked {
            Ok(answered) => Ok(answered),
            Err(_) => return first.await,
        },
    };
    let late = Failure::sent(Kind::Hedged, "it did not answer a cheap read at once");
    record.failed(&late, true);
    record.at(other, &next.reason);
    asked
}

/// Waits for what becomes of a request, as long as that makes sense.
async fn head(
    call: &Call<'_>,
    endpoint: &Endpoint,
    mut sending: Pin<&mut impl Future<Output = Sent>>,
    stand: Stand,
) -> Result<Sent, SendError> {
    let repairs = endpoint.lost.repairs();
    tokio::select! {
        biased;
        sent = &mut sending => Ok(sent),
        () = call.patient() => {
            // Boxed, so that those that are answered at once do not carry the room for it.
            let impatience = Box::pin(impatience(call, endpoint, stand, repairs));
            tokio::select! {
                biased;
                sent = &mut sending => Ok(sent),
                failure = impatience => Err(SendError::from(failure)),
            }
        }
    }
}

/// Why a request is not waited for any longer. Slowness alone is no reason but for `head`.
pub(super) async fn impatience(
    call: &Call<'_>,
    endpoint: &Endpoint,
    stand: Stand,
    repairs: u64,
) -> Failure {
    let others = || call.plan().candidates.len() > 1;
    let leaves = stand.repeatable && stand.movable && stand.able && others();
    let mut waiting = endpoint.lost.wait();
    let mut tunnel = endpoint.lost.wait();
    tokio::select! {
        biased;
        () = waiting.unable(), if leaves => {
            Failure::sent(Kind::Lost, "it stopped answering dials while a read waited")
        }
        // What was lost on the way is sent again ever more slowly on the connection it was sent on.
        () = tunnel.repaired_since(repairs), if stand.repeatable => {
            Failure::sent(Kind::Lost, "the tunnel was repaired while a read waited")
        }
        () = ask_for_probes_until(call, endpoint, stand.sent) => {
            Failure::sent(Kind::HeadLate, "the head of the answer did not come in time")
        }
    }
}

/// Returns when a cheap read had its time and the budget allows to ask another backend.
async fn hedge(call: &Call<'_>, endpoint: &Endpoint) {
    let began = Instant::now();
    call.patient().await;
    Box::pin(hedge_is_due(endpoint, began)).await;
}

async fn hedge_is_due(endpoint: &Endpoint, began: Instant) {
    let usual = endpoint.pace.patience(HEDGE_LEAST, HEDGE_MOST);
    Deadline::since(began, usual).passed().await;
    // Those that find the budget spent wait until the endpoint is known to be slow.
    endpoint.want_probe();
    if !endpoint.budget.draw() {
        std::future::pending::<()>().await;
    }
}

/// Whether an answer is one: from a backend that is not the active one "not there" is none, and
/// one that is full hands on to the next where the request can be sent again.
async fn judge_answer(
    call: &Call<'_>,
    answered: Box<Answered>,
    stand: Stand,
) -> Result<Box<Answered>, SendError> {
    let kind = call.service().kind;
    let active = stand.backend == stand.active;
    let failure = match api::answer(kind, call.meaning, call.path, answered.response.status()) {
        Answer::NotThere if !active => {
            Failure::answering(Kind::NotThere, "404 from a backend that is not active")
        }
        Answer::MaybeNotThere if !active => {
            let read = Box::pin(read_exists(answered)).await;
            return read.map_err(SendError::from);
        }
        Answer::Busy if stand.movable => Failure::answering(Kind::Busy, "server busy"),
        _ => return Ok(answered),
    };
    Err(SendError::from(failure))
}

/// Reads a short answer to see whether it says `exists: false`.
async fn read_exists(mut answered: Box<Answered>) -> Result<Box<Answered>, Failure> {
    let empty = Coming::Read(Bytes::new());
    let bytes = match std::mem::replace(answered.response.body_mut(), empty) {
        Coming::Read(bytes) => bytes,
        Coming::Stream(body) | Coming::Begun(_, body) => whole(body).await?,
    };
    if api::says_not_there(&bytes) {
        return Err(Failure::answering(
            Kind::NotThere,
            "exists:false from a backend that is not active",
        ));
    }
    *answered.response.body_mut() = Coming::Read(bytes);
    Ok(answered)
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let read = Limited::new(body, JUDGED_MAX).collect().await;
    // A cut answer to a read is as good as none: the next candidate may be asked.
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::sent(Kind::Broken, error.to_string()))
}

/// How long a request waits while no candidate can take it.
struct Patience {
    wait: Deadline,
    start: Deadline,
    pause: Duration,
    /// tailscaled was starting when it was last tried: `start` holds, not `wait`.
    starting: bool,
}

impl Patience {
    fn begin(call: &Call<'_>, now: Instant) -> Self {
        let timeouts = call.timeouts();
        Self {
            wait: Deadline::since(now, timeouts.wait),
            start: Deadline::since(now, timeouts.start),
            pause: PAUSE_FIRST,
            starting: false,
        }
    }

    /// Goes on with what was left of `wait` and `start` at an instant.
    fn resume(&mut self, then: Instant) {
        self.wait = Deadline::after(self.wait.left_at(then));
        self.start = Deadline::after(self.start.left_at(then));
    }

    /// What one dial may use of it. Who waited for tailscaled to start has time left to dial.
    fn left_at(&self, now: Instant) -> Duration {
        let wait = self.wait.left_at(now);
        if self.starting {
            wait.max(self.start.left_at(now)).max(DIAL_LEAST)
        } else {
            wait
        }
    }

    /// Pauses until a new plan is worth making; whether there is time for one. A tailscaled that
    /// is starting has `start`, everything else `wait`.
    async fn pause(&mut self, call: &Call<'_>, round: &Round<'_>) -> bool {
        let kind = round.last.as_ref().map(|(failure, _)| failure.kind);
        self.starting = matches!(kind, Some(Kind::DaemonAbsent | Kind::DaemonStarting));
        let deadline = if self.starting {
            &mut self.start
        } else {
            &mut self.wait
        };
        if deadline.left() <= self.pause {
            return false;
        }
        let mut tunnel = call.proxy.tailnet.changes();
        tokio::select! {
            _ = deadline.tick(self.pause) => {}
            _ = tunnel.changed() => {}
        }
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        // A dial without time would fail with a reason of its own and hide the true one.
        self.left_at(Instant::now()) >= PAUSE_FIRST
    }
}
