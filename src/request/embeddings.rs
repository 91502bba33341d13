//! Embeddings, where they are kept: only those that are not there are asked for.
//!
//! Invariants: whatever is not understood for certain passes as if nothing were kept; an answer has
//! the vectors of one digest; what is promised to others is kept or given up, never left open.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName,
    HeaderValue,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::attempt::{Answered, Unanswered};
use super::call::{Call, Outbound};
use super::flow::{answer_in_time, total_passed};
use super::payload::{Payload, paused};
use super::peer::Peer;
use super::record::{REQUEST_ID, Record};
use super::respond::{self, REASON};
use super::stream::{Coming, Downstream};
use crate::api::embed::{Key, Vectors, Wish};
use crate::cache::{Claim, Embeddings, Found, Vector, Wait};
use crate::endpoint::connection::Outgoing;
use crate::endpoint::live::Endpoint;
use crate::words::outcome::{Failure, Kind};

/// How many inputs were there, and how many were not.
const CACHE: HeaderName = HeaderName::from_static("x-tailhop-cache");
/// Longest answer that is read whole, in bytes: a thousand vectors of a thousand numbers.
const WHOLE: usize = 16 * 1024 * 1024;

/// A request for embeddings of a service that keeps them.
pub(super) struct Asked<'a> {
    cache: &'a Embeddings,
    wish: Wish,
    digest: String,
    /// What each input is known by.
    keys: Vec<Key>,
}

/// The request as it came.
#[derive(Clone, Copy)]
struct Came<'a> {
    parts: &'a Parts,
    payload: &'a Payload,
    peer: &'a Arc<Peer>,
}

/// Inputs that have to be asked for, by their places.
type Claims = Vec<(usize, Claim)>;
/// What others are asking for.
type Waits = Vec<(Key, Wait)>;

/// What was found so far.
#[derive(Default)]
struct Table {
    vectors: HashMap<Key, Arc<Vector>>,
    /// The last answer to a part of it.
    answered: Option<(Box<Answered>, Vectors)>,
    missed: usize,
}

/// What came of asking for a part.
enum Part {
    /// Its vectors.
    Vectors(Box<Answered>, Vectors),
    /// Something else, which is the answer.
    Answer(Box<Answered>),
    /// Something that is of no use for the whole.
    Useless,
}

/// A body that was read.
enum Read {
    Whole(Bytes),
    /// It is longer than what is read whole.
    Begun(Bytes, Incoming),
}

/// What a request asks for; `None`: it has nothing to do with what is kept.
pub(super) fn asked<'a>(call: &Call<'a>, parts: &Parts, payload: &Payload) -> Option<Asked<'a>> {
    let cache = call.live.cache(call.route.service)?;
    let plain = call.meaning.op == "embed" && parts.uri.query().is_none();
    let Outgoing::Whole(body) = &payload.body else {
        return None;
    };
    if !plain || declines(&parts.headers) {
        return None;
    }
    let digest = call.digest()?;
    let wish = Wish::read(call.path, body)?;
    let credentials = parts.headers.get(AUTHORIZATION);
    let credentials = credentials.map_or(&b""[..], HeaderValue::as_bytes);
    Some(Asked {
        keys: wish.keys(&digest, credentials),
        cache,
        wish,
        digest,
    })
}

/// Whether a client wants an answer of its own.
fn declines(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CACHE_CONTROL).iter();
    let mut words = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    words.any(|word| {
        let word = word.trim();
        word.eq_ignore_ascii_case("no-cache") || word.eq_ignore_ascii_case("no-store")
    })
}

/// Answers it.
pub(super) async fn serve(
    (call, peer): (&Call<'_>, &Arc<Peer>),
    asked: Asked<'_>,
    parts: &Parts,
    payload: &Payload,
    mut record: Box<Record>,
) -> Response<Downstream> {
    let came = Came {
        parts,
        payload,
        peer,
    };
    let mut table = Table::default();
    loop {
        let (claims, waits) = asked.look(&mut table);
        if !claims.is_empty() {
            table.missed += claims.len();
            match ask(call, &asked, came, claims, &mut table, &mut record).await {
                Err(why) => return respond::unanswered(call, why, record),
                Ok(Part::Vectors(answered, vectors)) => {
                    table.answered = Some((answered, vectors));
                }
                Ok(Part::Answer(answered)) => {
                    return respond::pass_on(call, peer, answered, record);
                }
                Ok(Part::Useless) => return pass(call, came, record).await,
            }
        }
        // After those that others wait for: nobody waits for somebody who waits.
        if let Err(failure) = wait((call, peer), waits, &mut table).await {
            return respond::failed(call, failure, record);
        }
        if let Some(all) = table.all(&asked.keys) {
            return asked.answer((call, peer), table, &all, record);
        }
    }
}

impl Asked<'_> {
    /// Looks for what is still missing: which inputs have to be asked for, and what is coming.
    fn look(&self, table: &mut Table) -> (Claims, Waits) {
        let (mut claims, mut waits) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (place, key) in self.keys.iter().enumerate() {
            if table.vectors.contains_key(key) || !seen.insert(key) {
                continue;
            }
            match self.cache.find(key) {
                Found::Kept(vector) => drop(table.vectors.insert(*key, vector)),
                Found::Coming(wait) => waits.push((*key, wait)),
                Found::Missing(claim) => claims.push((place, claim)),
            }
        }
        (claims, waits)
    }

    /// The answer, all vectors being there.
    fn answer(
        &self,
        (call, peer): (&Call<'_>, &Arc<Peer>),
        table: Table,
        all: &[Bytes],
        record: Box<Record>,
    ) -> Response<Downstream> {
        let (count, missed) = (self.keys.len(), table.missed.min(self.keys.len()));
        let told = format!("hit={}, miss={missed}", count - missed);
        let mut response = match table.answered {
            None => {
                let body = self.wish.answer(all, call.began.elapsed().as_nanos());
                kept(body, record)
            }
            Some((mut answered, vectors)) => {
                if vectors.len() < count {
                    let body = self.wish.instead(&vectors, all);
                    answered.response.headers_mut().remove(CONTENT_LENGTH);
                    *answered.response.body_mut() = Coming::Read(body);
                }
                respond::pass_on(call, peer, answered, record)
            }
        };
        // Digits and words.
        if let Ok(told) = HeaderValue::from_str(&told) {
            response.headers_mut().insert(CACHE, told);
        }
        response
    }
}

impl Table {
    /// The vectors of all keys, if they are there.
    fn all(&self, keys: &[Key]) -> Option<Vec<Bytes>> {
        let text = |key| self.vectors.get(key).map(|vector| vector.text.clone());
        keys.iter().map(text).collect()
    }
}

/// An answer for which nobody was asked.
fn kept(body: Bytes, record: Box<Record>) -> Response<Downstream> {
    let id = record.id();
    record.kept(body.len());
    let mut response = Response::new(Downstream::Own(body));
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    headers.insert(CONTENT_TYPE, json);
    headers.insert(REASON, HeaderValue::from_static("cache"));
    headers.insert(REQUEST_ID, id);
    response
}

/// Asks for the inputs of these claims, and keeps what comes.
async fn ask(
    call: &Call<'_>,
    asked: &Asked<'_>,
    came: Came<'_>,
    claims: Claims,
    table: &mut Table,
    record: &mut Record,
) -> Result<Part, Unanswered> {
    let places: Vec<_> = claims.iter().map(|(place, _)| *place).collect();
    let whole = places.len() == asked.wish.len();
    let began = Instant::now();
    let body = asked.wish.only(&places);
    let mut answered = answer_in_time(call, came.peer, &mut came.with(call, body), record).await?;
    let status = answered.response.status();
    if status != StatusCode::OK || answered.response.headers().contains_key(CONTENT_ENCODING) {
        let usable = whole || status != StatusCode::OK;
        return Ok(if usable {
            Part::Answer(answered)
        } else {
            Part::Useless
        });
    }
    let bytes = match read((call, came.peer), &mut answered).await? {
        Read::Whole(bytes) => {
            // Nobody who is still to ask for what we wait for may wait for our place.
            record.gives_up_its_place();
            bytes
        }
        Read::Begun(bytes, rest) => {
            *answered.response.body_mut() = Coming::Begun(bytes, rest);
            return Ok(if whole {
                Part::Answer(answered)
            } else {
                Part::Useless
            });
        }
    };
    let vectors = asked.wish.vectors(&bytes, places.len());
    *answered.response.body_mut() = Coming::Read(bytes);
    let same = has(&answered.endpoint, call, &asked.digest);
    let Some(vectors) = vectors.filter(|_| same) else {
        return Ok(if whole {
            Part::Answer(answered)
        } else {
            Part::Useless
        });
    };
    let took = began.elapsed() / u32::try_from(places.len()).unwrap_or(u32::MAX);
    for ((place, claim), text) in claims.into_iter().zip(vectors.each()) {
        (table.vectors).insert(asked.keys[place], claim.keep(text, took));
    }
    Ok(Part::Vectors(answered, vectors))
}

/// Whether an endpoint has the model of a request with this digest.
fn has(endpoint: &Endpoint, call: &Call<'_>, digest: &str) -> bool {
    let has = |model| endpoint.models.digest(model, |has| has == Some(digest));
    call.model.as_ref().and_then(has) == Some(true)
}

impl Came<'_> {
    /// The request with this body.
    fn with(self, call: &Call<'_>, body: Bytes) -> Outbound {
        let mut headers = self.parts.headers.clone();
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let payload = self.payload.instead(body);
        Outbound::new(call, self.parts.method.clone(), None, headers, payload)
    }
}

/// Passes the request on as if nothing were kept.
async fn pass(call: &Call<'_>, came: Came<'_>, mut record: Box<Record>) -> Response<Downstream> {
    let body = Bytes::copy_from_slice(came.payload.held_bytes());
    match answer_in_time(call, came.peer, &mut came.with(call, body), &mut record).await {
        Ok(answered) => respond::pass_on(call, came.peer, answered, record),
        Err(why) => respond::unanswered(call, why, record),
    }
}

/// Waits for what others are asking for. What failed is still missing.
async fn wait(
    (call, peer): (&Call<'_>, &Peer),
    waits: Waits,
    table: &mut Table,
) -> Result<(), Failure> {
    for (key, wait) in waits {
        let vector = tokio::select! {
            biased;
            vector = wait.vector() => vector,
            failure = gone_or_late(call, peer) => return Err(failure),
        };
        if let Some(vector) = vector {
            table.vectors.insert(key, vector);
        }
    }
    Ok(())
}

/// Reads an answer, up to what is read whole. Its connection is free then.
async fn read(
    (call, peer): (&Call<'_>, &Peer),
    answered: &mut Answered,
) -> Result<Read, Unanswered> {
    let empty = Coming::Read(Bytes::new());
    let mut body = match std::mem::replace(answered.response.body_mut(), empty) {
        Coming::Read(bytes) => return Ok(Read::Whole(bytes)),
        Coming::Begun(bytes, body) => return Ok(Read::Begun(bytes, body)),
        Coming::Stream(body) => body,
    };
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            failure = gone_or_late(call, peer) => return Err(broken(answered, failure)),
            () = paused(call) => {
                let failure = Failure::answering(Kind::IdleLate, "the answer paused for too long");
                return Err(broken(answered, failure));
            }
        };
        match frame {
            None => break,
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(error)) => {
                let failure = Failure::answering(Kind::Broken, error.to_string());
                return Err(broken(answered, failure));
            }
        }
        if bytes.len() > WHOLE {
            return Ok(Read::Begun(bytes.freeze(), body));
        }
    }
    if let Some(connection) = answered.connection.take() {
        answered.endpoint.give_back(connection, Instant::now());
    }
    Ok(Read::Whole(bytes.freeze()))
}

fn broken(answered: &Answered, failure: Failure) -> Unanswered {
    Unanswered::Failed {
        failure,
        endpoint: Some(Arc::clone(&answered.endpoint)),
        missing: false,
    }
}

/// Why nothing is waited for any longer.
async fn gone_or_late(call: &Call<'_>, peer: &Peer) -> Failure {
    tokio::select! {
        biased;
        () = peer.gone() => Failure::answering(Kind::ClientGone, "the client left"),
        () = total_passed(call) => {
            Failure::answering(Kind::TotalLate, "the whole request took too long")
        }
    }
}
