//! Which requests are refused before anything is done for them, and with which words. Pure.
//!
//! hyper accepts more than a proxy may pass on: what two servers can read in two ways must not
//! leave here (RFC 9112 11.2). What hyper does not show comes from the [`gate`](super::gate).
//! `Expect: 100-continue` is hyper's: it answers when the body is first read.

use std::borrow::Cow;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::fields::Fields;
use super::gate::Hidden;

/// Longest request target, in bytes: twice what RFC 9110 4.1 asks servers to take.
const TARGET_MAX: usize = 16 * 1024;

/// Fields that frame, address or protect a message: `Connection` may not name them, as the next
/// server would then read another message (RFC 9110 7.6.1).
const NOT_HOP_BY_HOP: [&str; 5] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
];

/// Why a request is refused. The closed set behind `reason` of refusals that are the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RFC 9112 6.3.
    TwoLengths,
    /// RFC 9112 3.2: no form of a request target has a fragment.
    Fragment,
    /// The message before it broke off in a way that leaves its end unknown.
    OutOfStep,
    /// RFC 9112 6.1: a coding that we do not understand is 501.
    Encoding,
    /// RFC 9112 3.2.
    NoHost,
    /// RFC 9112 3.2.
    TwoHosts,
    /// RFC 9110 7.2: a Host is a host and perhaps a port.
    BadHost,
    /// RFC 9112 3.2.2 lets the authority of an absolute target win; whoever routes by the other
    /// one reads another request, so they must be equal.
    OtherHost,
    /// RFC 9112 3.2: not the form that the method takes.
    BadTarget,
    /// A target longer than we read (RFC 9110 15.5.15).
    LongTarget,
    /// A `..` segment, a backslash or a NUL: what a server may resolve to another path.
    BadPath,
    /// `Connection` names a field that is not hop-by-hop.
    NamedByConnection,
    /// CONNECT: we are no forward proxy.
    Connect,
    /// RFC 9110 10.1.1: an expectation that we do not know is 417.
    Expectation,
    /// Not HTTP: hyper answered.
    BadHead,
    /// Too many or too long header fields (RFC 6585 5): hyper answered, or we do.
    LargeHead,
    /// The head did not end in time.
    LateHead,
    /// As many connections as we hold.
    Full,
    /// HTTP/1 at an address for gRPC.
    NotGrpc,
}

impl Refusal {
    /// Its status.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::LateHead => StatusCode::REQUEST_TIMEOUT,
            Self::LongTarget => StatusCode::URI_TOO_LONG,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::LargeHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Encoding => StatusCode::NOT_IMPLEMENTED,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotGrpc => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The word in `x-tailhop-reason`, metric and access line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::TwoLengths => "two-lengths",
            Self::Fragment => "fragment",
            Self::OutOfStep => "out-of-step",
            Self::Encoding => "encoding",
            Self::NoHost => "no-host",
            Self::TwoHosts => "two-hosts",
            Self::BadHost => "bad-host",
            Self::OtherHost => "other-host",
            Self::BadTarget => "bad-target",
            Self::LongTarget => "long-target",
            Self::BadPath => "bad-path",
            Self::NamedByConnection => "named-by-connection",
            Self::Connect => "connect",
            Self::Expectation => "expectation",
            Self::BadHead => "bad-head",
            Self::LargeHead => "large-head",
            Self::LateHead => "late-head",
            Self::Full => "full",
            Self::NotGrpc => "not-grpc",
        }
    }

    /// What to tell.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::TwoLengths => "Content-Length stands beside Transfer-Encoding; send one of them.",
            Self::Fragment => "the request target has a fragment; leave it out, or write # as %23.",
            Self::OutOfStep => "the request before this one did not end as HTTP says.",
            Self::Encoding => "Transfer-Encoding can only be chunked here.",
            Self::NoHost => "an HTTP/1.1 request needs a Host.",
            Self::TwoHosts => "the request has more than one Host.",
            Self::BadHost => "Host is not a host with or without a port.",
            Self::OtherHost => "the request target names another host than Host.",
            Self::BadTarget => "the request target is neither a path nor an http URL.",
            Self::LongTarget => "the request target is longer than 16 KiB.",
            Self::BadPath => "the path has a `..` segment, a backslash or a NUL, encoded or not.",
            Self::NamedByConnection => "Connection names a field that belongs to the whole way.",
            Self::Connect => "CONNECT is for forward proxies; ask for a path of a service.",
            Self::Expectation => "the only expectation that can be met is 100-continue.",
            Self::BadHead => "the request is not HTTP/1.",
            Self::LargeHead => {
                "the request's head is larger than 32 KiB, or has more than 100 fields."
            }
            Self::LateHead => "the request's head did not end in time.",
            Self::NotGrpc => {
                "this address takes gRPC only, by HTTP/2 without TLS (prior knowledge). The HTTP API has another address."
            }
            Self::Full => "no more client connections can be held. Close idle ones, or try again.",
        }
    }

    /// The methods to name in `Allow`, which a 405 must have (RFC 9110 15.5.6).
    pub(super) const fn allow(self) -> Option<&'static str> {
        match self {
            Self::Connect => Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            _ => None,
        }
    }
}

impl From<Hidden> for Refusal {
    fn from(hidden: Hidden) -> Self {
        match hidden {
            Hidden::TwoLengths => Self::TwoLengths,
            Hidden::Fragment => Self::Fragment,
            Hidden::OutOfStep => Self::OutOfStep,
            Hidden::LargeHead => Self::LargeHead,
        }
    }
}

/// Whether a request may be read at all.
///
/// # Errors
/// The first rule that it breaks.
pub(super) fn check(
    method: &Method,
    uri: &Uri,
    version: Version,
    (headers, fields): (&HeaderMap, Fields),
) -> Result<(), Refusal> {
    framing(headers, fields)?;
    if *method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let host = host(version, headers)?;
    target(method, uri, host)?;
    path(uri.path())?;
    let expect = fields.has(Fields::EXPECT).then(|| headers.get(EXPECT));
    match expect.flatten() {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refusal::Expectation)
        }
        _ => Ok(()),
    }
}

fn framing(headers: &HeaderMap, fields: Fields) -> Result<(), Refusal> {
    if !fields.has(Fields::TRANSFER_ENCODING) && !fields.has(Fields::CONNECTION) {
        return Ok(());
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || encodings.next().is_some() {
            return Err(Refusal::Encoding);
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::TwoLengths);
        }
    }
    let named = (headers.get_all(CONNECTION).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|token| {
            (NOT_HOP_BY_HOP.iter()).any(|name| token.eq_ignore_ascii_case(name.as_bytes()))
        });
    if named {
        return Err(Refusal::NamedByConnection);
    }
    Ok(())
}

/// The Host. One of HTTP/1.0 may be missing.
fn host(version: Version, headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return match version {
            Version::HTTP_10 => Ok(None),
            _ => Err(Refusal::NoHost),
        };
    };
    if hosts.next().is_some() {
        return Err(Refusal::TwoHosts);
    }
    let host = host.as_bytes();
    if is_host(host) {
        Ok(Some(host))
    } else {
        Err(Refusal::BadHost)
    }
}

/// A host and perhaps a port (RFC 3986 3.2.2), as far as it cannot be read as something else: no
/// blank, no user, no path, no list.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host.ends_with(b"]") => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let address = name
        .strip_prefix(b"[")
        .and_then(|name| name.strip_suffix(b"]"));
    let fits = match address {
        Some(address) => {
            let fits = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            !address.is_empty() && address.iter().all(fits)
        }
        None => !name.is_empty() && name.iter().copied().all(is_name_byte),
    };
    fits && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)
}

/// A path, `*` for OPTIONS, or an http URL of this very host.
fn target(method: &Method, uri: &Uri, host: Option<&[u8]>) -> Result<(), Refusal> {
    let whole = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if whole > TARGET_MAX {
        return Err(Refusal::LongTarget);
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) if uri.path() == "*" && *method != Method::OPTIONS => Err(Refusal::BadTarget),
        (None, None) => Ok(()),
        (Some("http"), Some(authority)) => {
            let authority = authority.as_str().as_bytes();
            let same = host.is_none_or(|host| same_host(host, authority));
            match is_host(authority) {
                true if same => Ok(()),
                true => Err(Refusal::OtherHost),
                false => Err(Refusal::BadTarget),
            }
        }
        _ => Err(Refusal::BadTarget),
    }
}

fn same_host(one: &[u8], other: &[u8]) -> bool {
    let plain = |host: &'_ [u8]| {
        host.strip_suffix(b":80")
            .unwrap_or(host)
            .to_ascii_lowercase()
    };
    plain(one) == plain(other)
}

/// Looks at a path as a server would that decodes it once. It is sent as it came.
fn path(path: &str) -> Result<(), Refusal> {
    let bytes = path.as_bytes();
    if memchr::memchr3(b'%', b'\\', b'.', bytes).is_none() {
        return Ok(());
    }
    let decoded = decoded(bytes);
    let bad = decoded.iter().any(|byte| matches!(byte, b'\\' | 0))
        || (decoded.split(|byte| *byte == b'/')).any(|segment| segment == b"..");
    if bad { Err(Refusal::BadPath) } else { Ok(()) }
}

fn decoded(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let hex = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let two = hex(path.get(at + 1)).zip(hex(path.get(at + 2)));
        let (byte, length) = match two.filter(|_| *byte == b'%') {
            // Two digits of four bits each.
            Some((high, low)) => (u8::try_from(high * 16 + low).unwrap_or_default(), 3),
            None => (*byte, 1),
        };
        decoded.push(byte);
        at += length;
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    type Lines = &'static [(&'static str, &'static str)];

    const X: (&str, &str) = ("host", "x");

    fn of(method: &str, target: &str, fields: &[(&'static str, &'static str)]) -> Option<Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        check(
            &method,
            &target.parse().unwrap(),
            Version::HTTP_11,
            (&headers, Fields::of(&headers)),
        )
        .err()
    }

    #[test]
    fn each_target_is_taken_or_refused_as_the_table_says() {
        use Refusal::{BadPath, BadTarget, Connect, LongTarget, OtherHost};
        let long = format!("/{}", "a".repeat(TARGET_MAX));
        let rows = [
            ("GET", "/a", None),
            ("GET", "/a/...?x=/../", None),
            ("GET", "/a/.b/c..d/..e", None),
            ("GET", "/a%2fb%20c%zz%", None),
            ("GET", "/%252e%252e/", None),
            ("GET", "/a/..", Some(BadPath)),
            ("GET", "/../a", Some(BadPath)),
            ("GET", "/a/%2e%2E/b", Some(BadPath)),
            ("GET", "/a/.%2e/b", Some(BadPath)),
            ("GET", "/a/..%2fb", Some(BadPath)),
            ("GET", "/a%2f..%2Fb", Some(BadPath)),
            ("GET", "/a%00b", Some(BadPath)),
            ("GET", "/a%5cb", Some(BadPath)),
            ("GET", "/a%5C..%5cb", Some(BadPath)),
            ("GET", "http://x/a", None),
            ("GET", "http://X:80/a", None),
            ("GET", "http://x:81/a", Some(OtherHost)),
            ("GET", "http://y/a", Some(OtherHost)),
            ("GET", "http://u@x/a", Some(BadTarget)),
            ("GET", "https://x/a", Some(BadTarget)),
            ("GET", "x:80", Some(BadTarget)),
            ("GET", "*", Some(BadTarget)),
            ("OPTIONS", "*", None),
            ("CONNECT", "x:1", Some(Connect)),
            ("GET", &long, Some(LongTarget)),
            ("GET", &long[..TARGET_MAX], None),
        ];
        for (method, target, want) in rows {
            let start = &target[..target.len().min(40)];
            assert_eq!(
                of(method, target, &[("host", "x")]),
                want,
                "{method} {start}"
            );
        }
    }

    #[test]
    fn each_header_is_taken_or_refused_as_the_table_says() {
        use Refusal::{
            BadHost, Encoding, Expectation, NamedByConnection, NoHost, TwoHosts, TwoLengths,
        };
        let rows: [(Lines, Option<Refusal>); 25] = [
            (&[X], None),
            (&[], Some(NoHost)),
            (&[X, ("host", "x")], Some(TwoHosts)),
            (&[("host", "x.example:8484")], None),
            (&[("host", "[::1]:8484")], None),
            (&[("host", "127.0.0.1")], None),
            (&[("host", "")], Some(BadHost)),
            (&[("host", ":80")], Some(BadHost)),
            (&[("host", "x y")], Some(BadHost)),
            (&[("host", "x, y")], Some(BadHost)),
            (&[("host", "x/y")], Some(BadHost)),
            (&[("host", "u@x")], Some(BadHost)),
            (&[("host", "x:8o")], Some(BadHost)),
            (&[("host", "x:1:2")], Some(BadHost)),
            (&[("host", "[x]")], Some(BadHost)),
            (&[X, ("transfer-encoding", "chunked")], None),
            (&[X, ("transfer-encoding", "Chunked")], None),
            (&[X, ("transfer-encoding", "gzip, chunked")], Some(Encoding)),
            (
                &[
                    X,
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                Some(Encoding),
            ),
            (
                &[X, ("transfer-encoding", "chunked"), ("content-length", "1")],
                Some(TwoLengths),
            ),
            (
                &[X, ("connection", "close, Content-Length")],
                Some(NamedByConnection),
            ),
            (
                &[X, ("connection", "keep-alive"), ("connection", "HOST")],
                Some(NamedByConnection),
            ),
            (&[X, ("connection", "te, x-host")], None),
            (&[X, ("expect", "100-Continue")], None),
            (&[X, ("expect", "200-ok")], Some(Expectation)),
        ];
        for (fields, want) in rows {
            assert_eq!(of("POST", "/a", fields), want, "{fields:?}");
        }
    }

    #[test]
    fn every_refusal_has_a_word_of_its_own_and_ends_in_a_sentence() {
        use Refusal::{
            BadHead, BadHost, BadPath, BadTarget, Connect, Encoding, Expectation, Fragment, Full,
            LargeHead, LateHead, LongTarget, NamedByConnection, NoHost, OtherHost, OutOfStep,
            TwoHosts, TwoLengths,
        };
        let all = [
            TwoLengths,
            Fragment,
            OutOfStep,
            Encoding,
            NoHost,
            TwoHosts,
            BadHost,
            OtherHost,
            BadTarget,
            LongTarget,
            BadPath,
            NamedByConnection,
            Connect,
            Expectation,
            BadHead,
            LargeHead,
            LateHead,
            Full,
        ];
        let mut words: Vec<_> = all.iter().map(|refusal| refusal.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all.len());
        for refusal in all {
            assert!(refusal.text().ends_with('.'), "{refusal:?}");
            assert_eq!(refusal.allow().is_some(), refusal.status() == 405);
        }
    }
}
