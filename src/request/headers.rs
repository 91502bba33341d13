//! Which header fields pass, in both directions.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, UPGRADE,
};

use crate::api;
use crate::config::snapshot::{HostHeader, Route};
use crate::words::names::Kind;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that are between two neighbours only (RFC 9110 7.6.1). `Transfer-Encoding` is hyper's,
/// `Trailer` describes the body.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    UPGRADE,
];

/// Fields that a `Connection` line may not take away from the message.
const NEVER_DROPPED: [&str; 5] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "authorization",
];

/// Takes from a request what is not for the upstream.
pub(super) fn for_upstream(headers: &mut HeaderMap, kind: Kind, path: &str) {
    drop_hop_by_hop(headers);
    // hyper answers it itself when the body is first read.
    headers.remove(EXPECT);
    if headers
        .get(TE)
        .is_some_and(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers"))
    {
        headers.remove(TE);
    }
    if api::drops_origin(kind) {
        headers.remove(ORIGIN);
    }
    if kind == Kind::Qdrant && path.ends_with("/exists") {
        // We may have to read this answer.
        headers.remove(ACCEPT_ENCODING);
    }
}

/// The Host that the upstream sees.
pub(super) fn set_host(headers: &mut HeaderMap, route: &Route, upstream: &HeaderValue) {
    match &route.host {
        HostHeader::Preserve => {}
        HostHeader::Upstream => {
            headers.insert(HOST, upstream.clone());
        }
        HostHeader::Fixed(host) => {
            if let Ok(host) = HeaderValue::from_str(host) {
                headers.insert(HOST, host);
            }
        }
    }
}

/// Takes from an answer what is not for the client, and gives a redirect its prefix back.
pub(super) fn for_client(headers: &mut HeaderMap, route: &Route) {
    drop_hop_by_hop(headers);
    if !route.strip || route.path == "/" {
        return;
    }
    if let Some(prefixed) = headers
        .get(LOCATION)
        .and_then(|at| with_prefix(at, &route.path))
    {
        headers.insert(LOCATION, prefixed);
    }
}

/// A redirect to a path of the upstream's own, as the client must follow it.
fn with_prefix(location: &HeaderValue, prefix: &str) -> Option<HeaderValue> {
    let path = location.to_str().ok()?;
    let own = path.starts_with('/') && !path.starts_with("//");
    own.then(|| HeaderValue::from_str(&format!("{prefix}{path}")).ok())
        .flatten()
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The fields that any `Connection` line names, read as bytes: a line that is not text must not
/// keep the others from being read.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    (headers.get_all(CONNECTION).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !NEVER_DROPPED.contains(&name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_fields_go_by_every_connection_line() {
        let mut sent = headers(&[
            ("connection", b"x-one, close"),
            ("connection", b"\xff, x-two ,Content-Length"),
            ("x-one", b"1"),
            ("x-two", b"2"),
            ("x-three", b"3"),
            ("keep-alive", b"timeout=5"),
            ("te", b"gzip"),
            ("upgrade", b"h2c"),
            ("content-length", b"0"),
            ("expect", b"100-continue"),
            ("origin", b"http://evil.example"),
        ]);
        for_upstream(&mut sent, Kind::Ollama, "/api/chat");
        assert_eq!(names(&sent), ["content-length", "x-three"]);
    }

    #[test]
    fn a_redirect_gets_its_prefix_back() {
        let rows = [
            ("/api/tags", Some("/ollama/api/tags")),
            ("http://elsewhere/x", None),
            ("//elsewhere/x", None),
        ];
        for (location, want) in rows {
            let got = with_prefix(&HeaderValue::from_static(location), "/ollama");
            assert_eq!(
                got.as_ref().map(|value| value.to_str().unwrap()),
                want,
                "{location}"
            );
        }
    }
}
