//! What the words and codes of a failed dial mean: pure.
//!
//! tailscaled reports errors of Go and of its network stack as text; only parts of it are stable.
//! Owns the tables from those to [`Kind`]. Must not do I/O nor build sentences.

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::words::outcome::Kind;

/// tailscaled gives up a SOCKS5 dial after 5 s and answers it with the same code as a refusal;
/// an answer later than this is its deadline, not a word of the Mac.
const SOCKS_SILENCE: Duration = Duration::from_secs(4);

/// What tailscaled's error text means. The first row that matches holds: a name that could not be
/// resolved may mention the refusal or the silence of its *resolver*, which says nothing of a Mac.
const TEXTS: [(&str, Kind); 20] = [
    ("resolve failure", Kind::UnknownName),
    ("lookup ", Kind::UnknownName),
    ("no such host", Kind::UnknownName),
    ("connection was refused", Kind::Refused),
    ("connection refused", Kind::Refused),
    ("operation timed out", Kind::Silent),
    ("connection timed out", Kind::Silent),
    ("i/o timeout", Kind::Silent),
    ("deadline exceeded", Kind::Silent),
    ("no route to host", Kind::Silent),
    ("host is unreachable", Kind::Silent),
    ("host is down", Kind::Silent),
    ("connection reset", Kind::Broken),
    ("needslogin", Kind::NotLoggedIn),
    ("needsmachineauth", Kind::NotLoggedIn),
    ("logged out", Kind::NotLoggedIn),
    ("stopped", Kind::NotLoggedIn),
    ("backend not ready", Kind::DaemonStarting),
    ("not running", Kind::DaemonStarting),
    ("nostate", Kind::DaemonStarting),
];

/// What tailscaled's text about a dial means.
pub(super) fn of_text(text: &str) -> Kind {
    let text = text.to_ascii_lowercase();
    TEXTS
        .iter()
        .find(|(part, _)| text.contains(part))
        .map_or(Kind::Tailnet, |(_, kind)| *kind)
}

/// What a SOCKS5 reply other than 0 means (RFC 1928 section 6). tailscaled has one code, 1, for
/// whatever went wrong: the time it took and the netmap tell the cases apart.
pub(super) fn of_socks_reply(code: u8, took: Duration, listed: Option<bool>) -> Kind {
    match code {
        1 if took >= SOCKS_SILENCE => Kind::Silent,
        1 if listed == Some(false) => Kind::UnknownName,
        1 | 5 => Kind::Refused,
        4 | 6 => Kind::Silent,
        _ => Kind::Tailnet,
    }
}

/// What a failed connect straight from this host means.
pub(super) fn of_connect(error: &io::Error) -> Kind {
    match error.kind() {
        ErrorKind::ConnectionRefused => Kind::Refused,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable => Kind::Silent,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Kind::Broken,
        _ => Kind::Tailnet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_tailscaled_has_its_kind() {
        for (text, kind) in [
            (
                "connect tcp 100.64.0.1:9999: connection was refused",
                Kind::Refused,
            ),
            (
                "dial failure: connect tcp 100.64.0.1:9999: connection was refused\n",
                Kind::Refused,
            ),
            (
                "dial tcp 127.0.0.1:9: connect: connection refused",
                Kind::Refused,
            ),
            (
                "lookup nosuch on 10.0.0.2:53: no such host",
                Kind::UnknownName,
            ),
            (
                "resolve failure: lookup nosuch on 10.0.0.2:53: no such host\n",
                Kind::UnknownName,
            ),
            (
                "connect tcp 100.64.0.1:11434: operation timed out",
                Kind::Silent,
            ),
            ("dial failure: context deadline exceeded", Kind::Silent),
            (
                "connect tcp 100.64.0.1:11434: no route to host",
                Kind::Silent,
            ),
            (
                "read tcp 100.64.0.3:1->100.64.0.1:2: connection reset by peer",
                Kind::Broken,
            ),
            ("unexpected state: NeedsLogin", Kind::NotLoggedIn),
            ("Tailscale is stopped.", Kind::NotLoggedIn),
            ("Logged out.", Kind::NotLoggedIn),
            ("{\"error\":\"backend not ready\"}", Kind::DaemonStarting),
            ("context canceled", Kind::Tailnet),
            ("network is unreachable", Kind::Tailnet),
            ("", Kind::Tailnet),
        ] {
            assert_eq!(of_text(text), kind, "{text}");
        }
    }

    #[test]
    fn a_resolver_that_refuses_or_is_silent_says_nothing_of_the_mac() {
        for text in [
            "lookup macbook-m1 on 127.0.0.1:53: read udp 127.0.0.1:1: read: connection refused",
            "resolve failure: lookup macbook-m1 on 127.0.0.1:53: i/o timeout",
        ] {
            assert_eq!(of_text(text), Kind::UnknownName, "{text}");
        }
    }

    #[test]
    fn the_one_code_of_socks_is_told_apart_by_time_and_netmap() {
        let (soon, late) = (Duration::from_millis(1), Duration::from_secs(5));
        for (code, took, listed, kind) in [
            (1, soon, Some(true), Kind::Refused),
            (1, soon, Some(false), Kind::UnknownName),
            (1, soon, None, Kind::Refused),
            (1, Duration::from_millis(3999), Some(true), Kind::Refused),
            (1, late, Some(true), Kind::Silent),
            (1, late, Some(false), Kind::Silent),
            (1, late, None, Kind::Silent),
            (2, soon, None, Kind::Tailnet),
            (3, soon, None, Kind::Tailnet),
            (4, soon, None, Kind::Silent),
            (5, soon, Some(false), Kind::Refused),
            (6, soon, None, Kind::Silent),
            (7, soon, None, Kind::Tailnet),
            (8, soon, None, Kind::Tailnet),
            (255, soon, None, Kind::Tailnet),
        ] {
            assert_eq!(
                of_socks_reply(code, took, listed),
                kind,
                "{code} {took:?} {listed:?}"
            );
        }
    }

    #[test]
    fn a_failed_connect_of_our_own_has_its_kind() {
        for (error, kind) in [
            (ErrorKind::ConnectionRefused, Kind::Refused),
            (ErrorKind::HostUnreachable, Kind::Silent),
            (ErrorKind::TimedOut, Kind::Silent),
            (ErrorKind::NetworkUnreachable, Kind::Tailnet),
            (ErrorKind::ConnectionReset, Kind::Broken),
        ] {
            assert_eq!(of_connect(&error.into()), kind, "{error}");
        }
    }
}
