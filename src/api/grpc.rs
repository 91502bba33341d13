//! What a gRPC call to Qdrant means, and what an error of ours must look like to its client.
//!
//! Owns the methods of Qdrant v1.19 (lib/api/src/grpc/proto/*.proto) and what we need of gRPC over
//! HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): deadline, status and message. Messages pass untouched; only
//! the answer to "does it exist" is looked into.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Answer, admin, dialect, media_type, read, read_of_one, write};
use crate::words::effect::Meaning;

/// The code of an answer, in its trailers, or in its head when nothing but trailers follows.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What it says for people, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the client waits for the end of its call.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// When, or that it must not, a client repeats a call by itself (gRFC A6, "pushback").
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// As gRFC A6 writes "do not retry": negative.
const NEVER: HeaderValue = HeaderValue::from_static("-1");

const MEDIA_TYPE: &str = "application/grpc";
/// The one read that answers an absence with success.
const EXISTS: &str = "/qdrant.Collections/CollectionExists";

/// What a call of the method at `path` means. The operations are those of REST.
pub fn meaning(path: &str) -> Meaning {
    let known = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    match known {
        Some(("qdrant.Points", method)) => of_points(method),
        Some(("qdrant.Collections", method)) => of_collections(method),
        Some(("qdrant.Snapshots", "List" | "ListFull")) => read_of_one("snapshot"),
        Some(("qdrant.Snapshots", _)) => admin("snapshot"),
        Some(("qdrant.Qdrant", "HealthCheck") | ("grpc.health.v1.Health", "Check")) => {
            read("health")
        }
        // Qdrant does not implement it.
        Some(("grpc.health.v1.Health", "Watch")) => read_of_one("health"),
        Some((
            "qdrant.StorageRead",
            "ListFiles" | "FileExists" | "FileLength" | "ReadBytes" | "ReadBytesStream"
            | "ReadWhole" | "ReadBatch",
        )) => read_of_one("other"),
        Some((
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
            "ServerReflectionInfo",
        )) => read("other"),
        _ => admin("other"),
    }
}

fn of_points(method: &str) -> Meaning {
    match method {
        "Get" => read("retrieve"),
        "Scroll" => read("scroll"),
        "Count" => read("count"),
        "Facet" => read("facet"),
        "Search"
        | "SearchBatch"
        | "SearchGroups"
        | "SearchMatrixPairs"
        | "SearchMatrixOffsets"
        | "Query"
        | "QueryBatch"
        | "QueryGroups" => read("search"),
        "Recommend" | "RecommendBatch" | "RecommendGroups" | "Discover" | "DiscoverBatch" => {
            read("recommend")
        }
        "Upsert" | "UpdateBatch" => write("upsert"),
        "Delete" => write("delete"),
        "UpdateVectors" | "DeleteVectors" => write("vectors"),
        "SetPayload" | "OverwritePayload" | "DeletePayload" | "ClearPayload" => write("payload"),
        "CreateFieldIndex" | "DeleteFieldIndex" => admin("index"),
        "CreateVectorName" | "DeleteVectorName" => admin("vectors"),
        _ => admin("other"),
    }
}

fn of_collections(method: &str) -> Meaning {
    match method {
        "Get"
        | "List"
        | "ListCollectionAliases"
        | "ListAliases"
        | "CollectionExists"
        | "ListShardKeys" => read("collections"),
        "CollectionClusterInfo" => read_of_one("cluster"),
        "UpdateCollectionClusterSetup" | "CreateShardKey" | "DeleteShardKey" => admin("cluster"),
        _ => admin("collections"),
    }
}

/// Whether `path` names a method of the packages that Qdrant serves, known or not.
pub fn names_method(path: &str) -> bool {
    path.starts_with("/qdrant.") || path.starts_with("/grpc.")
}

/// Whether a request or an answer with these headers is one of gRPC. `application/grpc-web` is not.
pub fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(media_type);
    let rest = kind.and_then(|kind| kind.strip_prefix(MEDIA_TYPE));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

/// What the head of an answer says about asking another backend.
///
/// An absence comes without messages, so its code stands in the head ("Trailers-Only").
pub fn answer(meaning: Meaning, path: &str, head: &HeaderMap) -> Answer {
    if meaning.effect.changes() {
        return Answer::Final;
    }
    match head.get(STATUS).map(HeaderValue::as_bytes) {
        Some(b"5") => Answer::NotThere,
        None if path == EXISTS => Answer::MaybeNotThere,
        _ => Answer::Final,
    }
}

/// Whether `body`, the answer of `CollectionExists`, says that it does not.
///
/// A compressed message cannot be read, and counts as none that says so: whoever asks for this must
/// not offer `grpc-accept-encoding` upstream.
pub fn says_not_there(body: &[u8]) -> bool {
    // The prefix of a message: whether it is compressed, and its length.
    let Some(([0, length @ ..], message)) = body.split_first_chunk::<5>() else {
        return false;
    };
    let length = u32::from_be_bytes(*length) as usize;
    // collections_service.proto: CollectionExistsResponse { result = 1: { exists = 1: bool } }.
    // Fields are written in order, and `false` is not written at all.
    message.len() == length && matches!(message, [0x0a, 0, ..] | [0x0a, 2, 0x08, 0, ..])
}

/// The status by which HTTP would have said what an answer ends with, for logs and metrics: as the
/// gateways that translate between them have it (google/rpc/code.proto). `None`: it went well, or says
/// nothing.
pub fn status(trailers: &HeaderMap) -> Option<StatusCode> {
    let status = match trailers.get(STATUS)?.as_bytes() {
        b"0" => return None,
        b"1" => 499,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"12" => 501,
        b"14" => 503,
        b"16" => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).ok()
}

/// Whether a client that calls the method at `path` sends one message, and only then reads: all that
/// Qdrant has, but for reflection. What is not known may be anything.
pub fn sends_one_message(path: &str) -> bool {
    path.starts_with("/qdrant.") || path.starts_with("/grpc.health.v1.Health/")
}

/// Whether a backend must not compress what it answers, as we have to read it.
pub fn is_read_along(path: &str) -> bool {
    path == EXISTS
}

/// Follows the messages of one direction, to know whether the last one is whole.
#[derive(Debug, Default)]
pub struct Messages {
    /// Bytes of the prefix of the next message that came.
    prefix: [u8; 5],
    came: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Messages {
    /// More of it came.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            while let [first, rest @ ..] = bytes
                && self.left == 0
            {
                self.prefix[self.came] = *first;
                self.came += 1;
                bytes = rest;
                if let [_, length @ ..] = self.prefix
                    && self.came == 5
                {
                    self.left = u32::from_be_bytes(length) as usize;
                    self.came = 0;
                }
            }
        }
    }

    /// Whether it may end here.
    pub const fn is_whole(&self) -> bool {
        self.left == 0 && self.came == 0
    }
}

/// The codes that errors of ours use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "gRPC's own names")]
pub enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// The code of an error of ours that over HTTP is answered with `status`; `full`: because the
    /// line for the backend is.
    ///
    /// Clients with a retry policy repeat `UNAVAILABLE` by themselves: it says that nothing was sent.
    /// Gateways say it for 502 and 504 too; we must not, as those may be of a request that was
    /// executed. An unknown outcome is `DEADLINE_EXCEEDED`, which by its definition "may be returned
    /// even if the operation has completed successfully" (grpc/doc/statuscodes.md); `UNKNOWN` is what
    /// servers say for a handler that threw, and what some policies therefore repeat.
    pub fn of(status: StatusCode, full: bool) -> Self {
        match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS if full => {
                Self::ResourceExhausted
            }
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Self::DeadlineExceeded,
            StatusCode::UNAUTHORIZED => Self::Unauthenticated,
            StatusCode::NOT_FOUND => Self::Unimplemented,
            StatusCode::PAYLOAD_TOO_LARGE => Self::ResourceExhausted,
            // No repeating helps until somebody corrects the configuration.
            StatusCode::LOOP_DETECTED => Self::FailedPrecondition,
            _ if status.is_client_error() => Self::InvalidArgument,
            _ => Self::Internal,
        }
    }
}

/// The head of an error of ours: one without messages, under HTTP status 200. `after`: when to ask
/// again; `None`: never by itself, whatever the client's retry policy says.
pub fn refusal(code: Code, message: &str, after: Option<Duration>) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(5);
    head.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    head.insert(STATUS, HeaderValue::from(code as u16));
    head.insert(MESSAGE, encode(message));
    let Some(after) = after else {
        head.insert(PUSHBACK, NEVER);
        return head;
    };
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    // What qdrant-client reads beside RESOURCE_EXHAUSTED (qdrant_client/connection.py).
    head.insert(RETRY_AFTER, HeaderValue::from(seconds));
    head.insert(PUSHBACK, HeaderValue::from(seconds.saturating_mul(1000)));
    head
}

/// A text as `grpc-message` takes it: printable ASCII but `%`, the rest as `%XX`.
fn encode(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for &byte in dialect::shorten(message).as_bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static(""))
}

/// The deadline that a client gave its call; `None`: none, or one that is no timeout.
///
/// At most 8 digits and a unit, so it always fits. What breaks the rule passes on, for the server to
/// judge.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(value * 3600)),
        b'M' => Some(Duration::from_secs(value * 60)),
        b'S' => Some(Duration::from_secs(value)),
        b'm' => Some(Duration::from_millis(value)),
        b'u' => Some(Duration::from_micros(value)),
        b'n' => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
