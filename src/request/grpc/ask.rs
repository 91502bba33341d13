//! How a candidate is asked by gRPC: a place on a connection, the call, the head of its answer.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{HOST, VIA};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use tokio::time::Instant;

use super::super::attempt::{Ask, JUDGED_MAX, Round, Stand, impatience, only_reads};
use super::super::call::Call;
use super::super::connect::{Speaks, Terms, delivered};
use super::super::record::Record;
use super::body::{Message, upload};
use crate::api::{Answer, grpc};
use crate::config::snapshot::BackendId;
use crate::endpoint::dials::{Dials, Permit};
use crate::endpoint::live::Endpoint;
use crate::endpoint::session::{Lane, Session};
use crate::endpoint::sessions::Sessions;
use crate::health::passive;
use crate::wire::{Place, Stream};
use crate::words::effect::Effect;
use crate::words::outcome::{Failure, Kind, Phase};

/// What we may not offer to a backend whose answer we have to read.
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// A call as it goes upstream, as often as it may.
pub(super) struct Outbound {
    path: PathAndQuery,
    headers: HeaderMap,
    /// `None`: it was sent, and cannot be sent again.
    message: Option<Message>,
    /// Bytes that went upstream of a message that is not held whole.
    passed: Arc<AtomicU64>,
    ready: Instant,
}

/// What is still being sent.
pub(super) type Upload = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The head of an answer, and what follows it.
pub(super) struct Answered {
    pub(super) response: Response<RecvStream>,
    /// What was read of its messages already.
    pub(super) begun: Bytes,
    /// Its trailers, if they were read already.
    pub(super) trailers: Option<HeaderMap>,
    pub(super) upload: Option<Upload>,
    pub(super) lane: Lane,
    pub(super) endpoint: Arc<Endpoint>,
    /// Whom orders and schedule named.
    pub(super) active: BackendId,
    /// When it came.
    pub(super) at: Instant,
}

impl Outbound {
    pub(super) fn new(call: &Call<'_>, uri: Uri, mut headers: HeaderMap, message: Message) -> Self {
        if grpc::is_read_along(call.path) {
            headers.remove(ACCEPT_ENCODING);
        }
        // It would contradict the authority that the backend is asked with (RFC 9113 8.3.1).
        headers.remove(HOST);
        headers.append(VIA, HeaderValue::from_static("2.0 tailhop"));
        let path = uri.into_parts().path_and_query;
        Self {
            path: path.unwrap_or(PathAndQuery::from_static("/")),
            headers,
            message: Some(message),
            passed: Arc::default(),
            ready: Instant::now(),
        }
    }

    /// The count of what goes upstream of a message that is not held whole.
    pub(super) fn passed(&self) -> Option<Arc<AtomicU64>> {
        (!self.is_whole()).then(|| Arc::clone(&self.passed))
    }

    fn is_whole(&self) -> bool {
        matches!(self.message, Some(Message::Whole(_)))
    }

    /// The head of the call, for `endpoint`; `only_reads`: another one is active.
    fn request(
        &self,
        (endpoint, sessions): (&Endpoint, &Sessions),
        only_reads: bool,
    ) -> Result<Request<()>, Failure> {
        let scheme = if sessions.place.tls.is_some() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(sessions.authority.as_bytes())
            .path_and_query(self.path.clone())
            .build()
            .map_err(|error| Failure::unsent(Kind::ClientBody, error.to_string()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        endpoint.inject.put(request.headers_mut(), only_reads);
        Ok(request)
    }

    /// Puts the call on `lane`.
    ///
    /// # Errors
    /// The connection takes none: not one byte of it was sent, and the message is still here.
    fn begin(
        &mut self,
        request: Request<()>,
        lane: &Lane,
    ) -> Result<(ResponseFuture, Option<Upload>), Failure> {
        let unsent = |error: h2::Error| Failure {
            phase: Phase::Unsent,
            kind: Kind::Stale,
            ..lane.failure(&error)
        };
        let mut sender = lane.sender();
        // Ready, or an error: a clone waits for nothing.
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(error)) = ready {
            return Err(unsent(error));
        }
        let bare = matches!(&self.message, Some(Message::Whole(bytes)) if bytes.is_empty());
        let (answer, mut to) = sender.send_request(request, bare).map_err(unsent)?;
        let upload = match self.message.take() {
            Some(Message::Whole(bytes)) => {
                if !bare {
                    // It is in memory anyway: h2 sends it as there is room.
                    to.send_data(bytes.clone(), true).map_err(unsent)?;
                }
                self.message = Some(Message::Whole(bytes));
                None
            }
            Some(Message::Stream { prefix, rest }) => {
                let upload = upload(to, prefix, rest, Arc::clone(&self.passed));
                Some(Box::pin(upload) as Upload)
            }
            None => return Err(Failure::sent(Kind::Broken, "it was sent before")),
        };
        Ok((answer, upload))
    }
}

impl Ask for Outbound {
    type Answered = Answered;

    fn ready(&self) -> Instant {
        self.ready
    }

    fn replayable(&self) -> bool {
        self.is_whole()
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

/// One try of one candidate.
async fn attempt(
    call: &Call<'_>,
    round: &mut Round<'_>,
    terms: Terms,
    outbound: &mut Outbound,
    record: &mut Record,
) -> Result<Box<Answered>, Failure> {
    let first = round.left.front();
    let Some((candidate, endpoint, sessions)) = first.and_then(|first| {
        let endpoint = call.live.endpoint(call.route.service, first.backend)?;
        Some((first, endpoint, endpoint.grpc.as_ref()?))
    }) else {
        return Err(Failure::unsent(Kind::Lost, "no endpoint"));
    };
    record.at(endpoint, &candidate.reason);
    let able = endpoint.verdict().able();
    let lane = connect(call, (endpoint, sessions), terms).await?;
    let stand = Stand {
        backend: candidate.backend,
        active: round.active.backend,
        movable: terms.others && outbound.is_whole(),
        repeatable: call.meaning.effect == Effect::Read && outbound.is_whole(),
        able,
        sent: Instant::now(),
    };
    let only_reads = only_reads(call, stand.backend, stand.active);
    let request = outbound.request((endpoint, sessions), only_reads)?;
    call.sent.store(true, Ordering::Relaxed);
    let asked = match outbound.begin(request, &lane) {
        Ok(sending) => exchange(call, endpoint, lane, sending, stand).await,
        Err(failure) => Err(failure),
    };
    // What failed is known to have, and is told with the failure.
    asked.inspect_err(|_| call.sent.store(false, Ordering::Relaxed))
}

/// A place on a connection to `endpoint`: on one that is there, else on the next that a dial brings.
async fn connect(
    call: &Call<'_>,
    (endpoint, sessions): (&Arc<Endpoint>, &Sessions),
    terms: Terms,
) -> Result<Lane, Failure> {
    if let Some(lane) = sessions.lane() {
        let within = endpoint.pace.race(call.timeouts().race).min(terms.left);
        if !call.meaning.effect.changes() || lane.prove(within).await {
            return Ok(lane);
        }
    }
    Box::pin(delivered::<Http2>(call, endpoint, terms)).await
}

/// HTTP/2.
struct Http2;

impl Speaks for Http2 {
    type Connection = Lane;
    /// What servers that say nothing are taken to allow at once.
    const EACH: usize = 100;

    fn place(endpoint: &Endpoint) -> &Place {
        endpoint
            .grpc
            .as_ref()
            .map_or(&endpoint.place, |sessions| &sessions.place)
    }

    fn dials(endpoint: &Endpoint) -> Result<&Dials<Lane>, Failure> {
        let sessions = endpoint.grpc.as_ref();
        sessions
            .map(|sessions| &sessions.dials)
            .ok_or_else(|| Failure::unsent(Kind::Lost, "it speaks no gRPC"))
    }

    async fn open(stream: Stream, endpoint: &Endpoint) -> Result<Lane, Failure> {
        let session = Session::open(stream, &endpoint.lost).await?;
        Ok(Lane::first(session))
    }

    fn give(endpoint: &Endpoint, permit: &Permit, opened: Result<Lane, Failure>) {
        if let Some(sessions) = &endpoint.grpc {
            sessions.give(permit, opened);
        }
    }

    /// That the gRPC port refuses says nothing about the other one, which is probed.
    fn tells(failure: &Failure) -> bool {
        failure.kind == Kind::Silent
    }
}

/// Waits for what `endpoint` answers, and judges it.
async fn exchange(
    call: &Call<'_>,
    endpoint: &Arc<Endpoint>,
    lane: Lane,
    (answer, mut upload): (ResponseFuture, Option<Upload>),
    stand: Stand,
) -> Result<Box<Answered>, Failure> {
    endpoint.budget.deposit();
    let head = head(call, endpoint, (&lane, answer), &mut upload, stand).await;
    let response = head.inspect_err(|failure| {
        passive::failed(endpoint, failure, call.proxy.clock);
    })?;
    let now = Instant::now();
    endpoint
        .pace
        .answered(now.saturating_duration_since(stand.sent));
    passive::answered(endpoint, now, call.proxy.clock);
    let answered = Box::new(Answered {
        response,
        begun: Bytes::new(),
        trailers: None,
        upload,
        lane,
        endpoint: Arc::clone(endpoint),
        active: stand.active,
        at: now,
    });
    if stand.backend == stand.active {
        return Ok(answered);
    }
    Box::pin(judge(call, answered)).await
}

/// Waits for the head of an answer, as long as that makes sense.
async fn head(
    call: &Call<'_>,
    endpoint: &Endpoint,
    (lane, answer): (&Lane, ResponseFuture),
    upload: &mut Option<Upload>,
    stand: Stand,
) -> Result<Response<RecvStream>, Failure> {
    let repairs = endpoint.lost.repairs();
    let mut answer = pin!(answer);
    let impatience = async {
        call.patient().await;
        // Boxed, so that those that are answered at once do not carry the room for it.
        Box::pin(impatience(call, endpoint, stand, repairs)).await
    };
    let mut impatience = pin!(impatience);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(|error| lane.failure(&error)),
            sent = sent(upload) => {
                *upload = None;
                sent?;
            }
            failure = &mut impatience => return Err(failure),
        }
    }
}

/// Returns when what is being sent was sent; never, if nothing is.
pub(super) async fn sent(upload: &mut Option<Upload>) -> Result<(), Failure> {
    match upload {
        Some(upload) => upload.await,
        None => std::future::pending().await,
    }
}

/// Whether an answer of a backend that is not the active one is one: "not there" is none.
async fn judge(call: &Call<'_>, mut answered: Box<Answered>) -> Result<Box<Answered>, Failure> {
    let not_there = || {
        let detail = "NOT_FOUND from a backend that is not active";
        Failure::answering(Kind::NotThere, detail)
    };
    let head = answered.response.headers();
    let whole = match grpc::answer(call.meaning, call.path, head) {
        Answer::NotThere => return Err(not_there()),
        Answer::MaybeNotThere => true,
        _ if call.meaning.effect.changes() || head.contains_key(grpc::STATUS) => {
            return Ok(answered);
        }
        _ => false,
    };
    read_on(&mut answered, whole).await?;
    if let Some(trailers) = answered
        .trailers
        .as_ref()
        .filter(|_| answered.begun.is_empty())
        && grpc::answer(call.meaning, call.path, trailers) == Answer::NotThere
    {
        return Err(not_there());
    }
    if whole && grpc::says_not_there(&answered.begun) {
        let detail = "exists:false from a backend that is not active";
        return Err(Failure::answering(Kind::NotThere, detail));
    }
    Ok(answered)
}

/// Reads the first piece of an answer, or all of a short one, and its trailers if nothing follows.
async fn read_on(answered: &mut Answered, whole: bool) -> Result<(), Failure> {
    let lane = &answered.lane;
    let body = answered.response.body_mut();
    let mut read = BytesMut::new();
    loop {
        match body.data().await {
            Some(Ok(piece)) => {
                let _ = body.flow_control().release_capacity(piece.len());
                read.extend_from_slice(&piece);
                if !read.is_empty() && (!whole || read.len() > JUDGED_MAX) {
                    break;
                }
            }
            // A cut answer to a read is as good as none: the next candidate may be asked.
            Some(Err(error)) => return Err(lane.failure(&error)),
            None => {
                let trailers = body.trailers().await;
                answered.trailers = trailers.map_err(|error| lane.failure(&error))?;
                break;
            }
        }
    }
    answered.begun = read.freeze();
    Ok(())
}
