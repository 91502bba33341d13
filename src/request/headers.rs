//! Which header fields pass, in both directions.
//!
//! Owns: what is between two neighbours only and goes (RFC 9110 7.6.1); what we add (`Via`); Host;
//! and that the upstream's own addresses come back as the client must write them (`rewrite`). One
//! rule for the fields that tell of a client: tailhop carries the app's own request, so it adds no
//! `X-Forwarded-For`, `-Proto`, `-Host` or `Forwarded`, passes the app's as they are, and believes
//! none. Invariant: nothing is allocated for a message in which nothing has to change.

use http::Version;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LOCATION, EXPECT, Entry, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    UPGRADE, VIA,
};

use super::fields::Fields;
use super::rewrite::View;
use crate::api;
use crate::config::snapshot::{HostHeader, Route};
use crate::words::names::Kind;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// Fields that are between two neighbours only (RFC 9110 7.6.1, 10.1.4, 11.7).
/// `Transfer-Encoding` is hyper's, `Trailer` describes the body.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHENTICATION_INFO,
    PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
];

/// Fields that a `Connection` line may not take away: they are for whoever gets the content, and
/// naming them is an error (RFC 9110 7.6.1). Sorted.
const NEVER_DROPPED: [&str; 18] = [
    "api-key",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "host",
    "location",
    "range",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "via",
    "www-authenticate",
];

/// Our name in `Via`: of the product, not of the instance, so that any ring of them is seen.
const NAME: &[u8] = b"tailhop";
/// A request that was through so many of us is going round. An honest way has one or two.
const PASSES_MOST: usize = 4;

/// Takes from a request what is not for the upstream, and adds us. `spoken` is its own version,
/// `fields` is what of it is there at least.
pub(super) fn for_upstream(
    headers: &mut HeaderMap,
    fields: Fields,
    (spoken, kind, path): (Version, Kind, &str),
) {
    let trailers = fields.has(Fields::TE) && takes_trailers(headers);
    drop_hop_by_hop(headers, fields);
    if trailers {
        // To our neighbour we are the one who takes them, which it must be told both ways.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // hyper answers it itself when the body is first read.
    if fields.has(Fields::EXPECT) {
        headers.remove(EXPECT);
    }
    if fields.has(Fields::ORIGIN) && api::drops_origin(kind) {
        headers.remove(ORIGIN);
    }
    if kind == Kind::Qdrant && path.ends_with("/exists") {
        // We may have to read this answer.
        headers.remove(ACCEPT_ENCODING);
    }
    headers.append(VIA, via(spoken));
}

/// Whether a request has been through us so often that it must be going round (RFC 9110 7.6.3).
pub(super) fn goes_round(headers: &HeaderMap) -> bool {
    let passes = (headers.get_all(VIA).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter(|hop| is_ours(hop))
        .count();
    passes >= PASSES_MOST
}

/// Whether one element of `Via` names us: protocol, then who received it.
fn is_ours(hop: &[u8]) -> bool {
    let mut words = hop
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(NAME))
}

fn via(spoken: Version) -> HeaderValue {
    HeaderValue::from_static(if spoken == Version::HTTP_10 {
        "1.0 tailhop"
    } else {
        "1.1 tailhop"
    })
}

/// The Host that the upstream sees. A client of HTTP/1.0 may send none, an upstream must get one.
pub(super) fn set_host(headers: &mut HeaderMap, route: &Route, upstream: &HeaderValue) {
    let fixed = match &route.host {
        HostHeader::Preserve if headers.contains_key(HOST) => return,
        HostHeader::Preserve | HostHeader::Upstream => None,
        HostHeader::Fixed(host) => HeaderValue::from_str(host).ok(),
    };
    headers.insert(HOST, fixed.unwrap_or_else(|| upstream.clone()));
}

/// How the client of `route` sees an upstream that was asked so: `client` is the Host of the
/// client, `upstream` the endpoint's, `secure` whether by https.
pub(super) fn view<'a>(
    route: &'a Route,
    client: Option<&'a HeaderValue>,
    upstream: &'a HeaderValue,
    secure: bool,
) -> View<'a> {
    let (authority, preserved) = match (&route.host, client) {
        (HostHeader::Preserve, Some(client)) => (client.as_bytes(), true),
        (HostHeader::Preserve | HostHeader::Upstream, _) => (upstream.as_bytes(), false),
        (HostHeader::Fixed(host), _) => (host.as_bytes(), false),
    };
    let stripped = route.strip && route.path != "/";
    View {
        prefix: if stripped { &route.path } else { "" },
        scheme: if secure { "https" } else { "http" },
        authority,
        preserved,
    }
}

/// Takes from an answer what is not for the client, adds us, and writes the upstream's own
/// addresses as the client must. `Refresh` passes: no RFC has it and only browsers obey it.
pub(super) fn for_client(headers: &mut HeaderMap, spoken: Version, view: &View<'_>) {
    let fields = Fields::of(headers);
    drop_hop_by_hop(headers, fields);
    // Ours: this one, and what tells who answered.
    headers.reserve(4);
    if fields.has(Fields::ADDRESS) {
        rewrite(headers, LOCATION, |value| view.reference(value));
        rewrite(headers, CONTENT_LOCATION, |value| view.reference(value));
        rewrite(headers, SET_COOKIE, |value| view.cookie(value));
    }
    headers.append(VIA, via(spoken));
}

/// Changes every line of a field for which `change` gives another value.
fn rewrite(headers: &mut HeaderMap, name: HeaderName, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    if !headers.contains_key(&name) {
        return;
    }
    let Entry::Occupied(mut lines) = headers.entry(name) else {
        return;
    };
    for line in lines.iter_mut() {
        let changed = change(line.as_bytes());
        if let Some(Ok(changed)) = changed.map(HeaderValue::try_from) {
            *line = changed;
        }
    }
}

/// Whether the client takes trailers. The other words of `TE` are of our own connection to it.
fn takes_trailers(headers: &HeaderMap) -> bool {
    (headers.get_all(TE).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn drop_hop_by_hop(headers: &mut HeaderMap, fields: Fields) {
    if !fields.has(Fields::HOP_BY_HOP) {
        return;
    }
    if fields.has(Fields::CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    for (place, name) in HOP_BY_HOP.into_iter().enumerate() {
        if fields.has_hop(place) {
            headers.remove(name);
        }
    }
}

/// The fields that any `Connection` line names, read as bytes: a line that is not text must not
/// keep the others from being read. Nothing is collected for the usual words.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let usual = |word: &[u8]| {
        word.eq_ignore_ascii_case(b"keep-alive") || word.eq_ignore_ascii_case(b"close")
    };
    (headers.get_all(CONNECTION).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|word| !usual(word))
        .filter_map(|word| HeaderName::from_bytes(word).ok())
        .filter(|name| NEVER_DROPPED.binary_search(&name.as_str()).is_err())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// Names that are left, without `Via`.
    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.retain(|name| *name != "via");
        names.sort_unstable();
        names
    }

    fn to_upstream(headers: &mut HeaderMap, spoken: Version, kind: Kind, path: &str) {
        let fields = Fields::of(headers);
        for_upstream(headers, fields, (spoken, kind, path));
    }

    fn sent(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut sent = headers(lines);
        to_upstream(&mut sent, Version::HTTP_11, Kind::Http, "/x");
        sent
    }

    #[test]
    fn every_hop_by_hop_field_goes_both_ways() {
        for (place, name) in HOP_BY_HOP.into_iter().enumerate() {
            let mut answer = HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]);
            let fields = Fields::of(&answer);
            assert!(fields.has(Fields::HOP_BY_HOP) && fields.has_hop(place));
            drop_hop_by_hop(&mut answer, fields);
            assert!(answer.is_empty());
        }
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
        to_upstream(&mut sent, Version::HTTP_11, Kind::Ollama, "/api/chat");
        assert_eq!(names(&sent), ["content-length", "x-three"]);
    }

    /// What a `Connection` line takes of a request that has `x-a`, `x-b` and `close`.
    #[test]
    fn odd_connection_lines_take_what_they_name_and_no_more() {
        let rows: [(&[&[u8]], &[&str]); 19] = [
            (&[b""], &["x-a", "x-b"]),
            (&[b","], &["x-a", "x-b"]),
            (&[b"x-a"], &["x-b"]),
            (&[b"X-A"], &["x-b"]),
            (&[b"x-a,x-b"], &[]),
            (&[b" \tx-a\t ,, x-b"], &[]),
            (&[b"x-a", b"x-b"], &[]),
            (&[b"\xff", b"x-a"], &["x-b"]),
            (&[b"\xc3\xa4,x-a"], &["x-b"]),
            (&[b"x-a\xff"], &["x-a", "x-b"]),
            (&[b"\"x-a\""], &["x-a", "x-b"]),
            (&[b"\"q, x-a, q\""], &["x-b"]),
            (&[b"x-a;q=1"], &["x-a", "x-b"]),
            (&[b"x-a x-b"], &["x-a", "x-b"]),
            (&[b"keep-alive, x-a"], &["x-b"]),
            (&[b"close, x-a"], &["x-b"]),
            (&[b"x-missing, x-a"], &["x-b"]),
            (&[b"(x-a)"], &["x-a", "x-b"]),
            (&[b"x-a,x-a,x-a"], &["x-b"]),
        ];
        for (lines, left) in rows {
            let mut all = vec![("x-a", &b"1"[..]), ("x-b", b"2")];
            all.extend(lines.iter().map(|line| ("connection", *line)));
            assert_eq!(names(&sent(&all)), left, "{lines:?}");
        }
    }

    #[test]
    fn no_connection_line_takes_what_is_for_the_recipient() {
        assert!(NEVER_DROPPED.is_sorted());
        for name in NEVER_DROPPED {
            let line = format!("close, {}", name.to_uppercase());
            let mut answer = headers(&[(name, b"v"), ("connection", line.as_bytes())]);
            let fields = Fields::of(&answer);
            drop_hop_by_hop(&mut answer, fields);
            assert_eq!(answer.keys().collect::<Vec<_>>(), [name]);
        }
    }

    #[test]
    fn trailers_are_taken_for_a_client_that_takes_them() {
        let rows: [(&[&[u8]], bool); 8] = [
            (&[b"trailers"], true),
            (&[b"Trailers"], true),
            (&[b"gzip, trailers"], true),
            (&[b"gzip;q=0.5", b" trailers "], true),
            (&[b"gzip"], false),
            (&[b""], false),
            (&[b"xtrailers"], false),
            (&[b"\xff,trailers"], true),
        ];
        for (lines, taken) in rows {
            let mut all = vec![("connection", &b"TE, close"[..]), ("trailer", b"x-t")];
            all.extend(lines.iter().map(|line| ("te", *line)));
            let sent = sent(&all);
            let want: &[&str] = if taken {
                &["connection", "te", "trailer"]
            } else {
                &["trailer"]
            };
            assert_eq!(names(&sent), want, "{lines:?}");
            if taken {
                assert_eq!(
                    (&sent[TE], &sent[CONNECTION]),
                    (
                        &HeaderValue::from_static("trailers"),
                        &HeaderValue::from_static("te")
                    )
                );
            }
        }
    }

    #[test]
    fn what_tells_of_a_client_passes_as_the_app_wrote_it_and_nothing_is_added() {
        let told: [(&str, &[u8]); 5] = [
            ("x-forwarded-for", b"203.0.113.7, 10.0.0.1"),
            ("x-forwarded-proto", b"https"),
            ("x-forwarded-host", b"app.example"),
            ("forwarded", b"for=203.0.113.7;proto=https"),
            ("x-real-ip", b"203.0.113.7"),
        ];
        let with = sent(&told);
        for (name, value) in told {
            let lines: Vec<_> = with.get_all(name).iter().collect();
            assert_eq!(lines, [value], "{name}");
        }
        assert_eq!(names(&sent(&[("accept", b"*/*")])), ["accept"]);
    }

    /// A version, the lines of `Via` before us, and those after us.
    type Told<'a> = (Version, &'a [&'a [u8]], &'a [&'a str]);

    #[test]
    fn we_are_the_last_in_via_with_the_version_that_was_spoken() {
        let rows: [Told<'_>; 3] = [
            (Version::HTTP_11, &[], &["1.1 tailhop"]),
            (Version::HTTP_10, &[], &["1.0 tailhop"]),
            (
                Version::HTTP_11,
                &[b"1.1 google", b"1.0 a (b)"],
                &["1.1 google", "1.0 a (b)", "1.1 tailhop"],
            ),
        ];
        for (version, before, after) in rows {
            let lines: Vec<_> = before.iter().map(|line| ("via", *line)).collect();
            let mut there = headers(&lines);
            to_upstream(&mut there, version, Kind::Http, "/");
            let mut back = headers(&lines);
            for_client(&mut back, version, &some_view());
            for message in [there, back] {
                assert_eq!(message.get_all(VIA).iter().collect::<Vec<_>>(), after);
            }
        }
    }

    #[test]
    fn a_request_that_was_through_us_four_times_goes_round() {
        let rows: [(&[&[u8]], bool); 9] = [
            (&[], false),
            (&[b"1.1 tailhop"], false),
            (&[b"1.1 tailhop, 1.1 tailhop, 1.1 tailhop"], false),
            (
                &[b"1.1 tailhop, 1.1 tailhop", b"1.0 TAILHOP,1.1  tailhop (x)"],
                true,
            ),
            (&[&b"1.1 tailhop"[..]; 4], true),
            (&[&b"1.1 tailhopx"[..]; 9], false),
            (&[&b"tailhop"[..]; 9], false),
            (&[&b"1.1 other (tailhop)"[..]; 9], false),
            (
                &[
                    b"\xff 1.1 tailhop",
                    b"HTTP/1.1 tailhop",
                    b"1.1 tailhop",
                    b"2 tailhop",
                ],
                false,
            ),
        ];
        for (lines, round) in rows {
            let lines: Vec<_> = lines.iter().map(|line| ("via", *line)).collect();
            assert_eq!(goes_round(&headers(&lines)), round, "{lines:?}");
        }
    }

    fn some_view() -> View<'static> {
        View {
            prefix: "/ollama",
            scheme: "http",
            authority: b"localhost:11434",
            preserved: false,
        }
    }

    #[test]
    fn every_line_of_an_answer_that_names_the_upstream_is_rewritten() {
        let mut answer = headers(&[
            ("location", b"/a"),
            ("location", b"x"),
            ("content-location", b"http://localhost:11434/b"),
            ("set-cookie", b"a=1; Path=/"),
            ("set-cookie", b"b=2"),
            ("set-cookie", b"c=3; Domain=localhost"),
            ("refresh", b"1; url=/c"),
            ("proxy-authenticate", b"Basic"),
        ]);
        for_client(&mut answer, Version::HTTP_11, &some_view());
        let lines: Vec<_> = (answer.iter())
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        assert_eq!(
            lines,
            [
                "location: /ollama/a",
                "location: x",
                "content-location: /ollama/b",
                "set-cookie: a=1; Path=/ollama",
                "set-cookie: b=2",
                "set-cookie: c=3",
                "refresh: 1; url=/c",
                "via: 1.1 tailhop",
            ]
        );
    }

    /// Prints what both directions cost a usual message, copying it included and alone.
    #[test]
    #[ignore = "a measurement: cargo test --release --lib -- --ignored --nocapture cost_of"]
    fn cost_of_a_usual_message() {
        let request = headers(&[
            ("host", b"127.0.0.1:8484"),
            ("user-agent", b"python-requests/2.34.2"),
            ("accept-encoding", b"gzip, deflate"),
            ("accept", b"*/*"),
            ("connection", b"keep-alive"),
            ("content-length", b"253"),
            ("content-type", b"application/json"),
        ]);
        let answer = headers(&[
            ("content-type", b"application/json; charset=utf-8"),
            ("date", b"Wed, 21 Oct 2026 07:28:00 GMT"),
            ("content-length", b"251"),
        ]);
        let view = some_view();
        let for_ollama = |headers: &mut HeaderMap| {
            to_upstream(headers, Version::HTTP_11, Kind::Ollama, "/api/chat");
        };
        let to_client = |headers: &mut HeaderMap| for_client(headers, Version::HTTP_11, &view);
        time("a copy of the request", &request, |_| {});
        time("the same and for_upstream", &request, for_ollama);
        time("a copy of the answer", &answer, |_| {});
        time("the same and for_client", &answer, to_client);
    }

    fn time(what: &str, message: &HeaderMap, change: impl Fn(&mut HeaderMap)) {
        let start = tokio::time::Instant::now();
        for _ in 0..1_000_000 {
            let mut copy = std::hint::black_box(message).clone();
            change(&mut copy);
            std::hint::black_box(copy);
        }
        let nanoseconds = start.elapsed().as_nanos() / 1_000_000;
        writeln!(std::io::stderr(), "{nanoseconds} ns {what}").unwrap();
    }
}
