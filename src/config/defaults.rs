//! Every default, in one place, with its reason.
//!
//! Owns numbers and words only. All durations are real time.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use super::snapshot::{Cache, Fallback, Listen, Timeouts};
use crate::words::names::Kind;

/// The smallest file that is valid: what to write when there is nothing.
pub const SMALLEST: &str = "[backends]\nmacbook-m1 = {}\n\n[services]\nollama = {}\n";

/// Loopback: only the app beside us may ask, and admin needs no token there.
pub const LISTEN: Listen = Listen {
    data: loopback(8484),
    admin: loopback(9484),
};

/// Where tailscaled's packages and its container image put the socket.
pub const SOCKET: &str = "/run/tailscale/tailscaled.sock";

/// The port that Tailscale's own documentation gives to `--socks5-server` and
/// `--outbound-http-proxy-listen`.
pub const PROXY: SocketAddr = loopback(1055);

/// The machine's name in the tailnet: control adds a number where it is taken.
pub const HOSTNAME: &str = "tailhop";

/// Where Tailscale's own container image looks for the auth key.
pub const AUTH_KEY: &str = "TS_AUTHKEY";

/// Cloud Run kills 10 s after SIGTERM.
pub const STOP: Duration = Duration::from_millis(9500);

/// Ten thousand vectors of 600 numbers; a day, as a model is rarely another one under its digest.
pub const CACHE: Cache = Cache {
    entries: 10_000,
    megabytes: 64,
    ttl: Duration::from_hours(24),
};

/// The only zone without surprises.
pub const ZONE: &str = "UTC";

/// What a bare tailnet name is completed with.
pub const SUFFIX: &str = "ts.net";

/// A lost SYN is sent again after a second at the earliest; most dials take a tenth of this.
const RACE: Duration = Duration::from_millis(250);

/// Inferences that wait for a place: more would wait longer than any client.
pub const QUEUE: usize = 100;
/// How long one of them waits: clients give up after a minute or two.
pub const QUEUE_WAIT: Duration = Duration::from_mins(1);

/// One dial. A path that was lost takes 8 s to reach the relay by itself.
const CONNECT: Duration = Duration::from_secs(10);
/// One probe: a healthy Mac answers one in milliseconds, over a relay in less than a second.
const PROBE: Duration = Duration::from_secs(2);
/// An app that asks a model is patient; a Mac needs some seconds to wake.
const WAIT_OLLAMA: Duration = Duration::from_secs(15);
/// qdrant-client gives up at 5 s: our 503 with its reason must come before that.
const WAIT: Duration = Duration::from_secs(4);
/// tailscaled is usually running within 5 s of its start, on a slow day within 10 s.
const START: Duration = Duration::from_secs(15);
/// As for `WAIT`.
const START_QDRANT: Duration = Duration::from_secs(4);
/// Loading a model of 27B from disk takes minutes, and no head comes before it is loaded.
const HEAD_INFERENCE: Duration = Duration::from_mins(10);
/// Reads are answered from memory or not at all.
const HEAD_READ: Duration = Duration::from_secs(30);
/// Qdrant's own bound of a search is 60 s: its error must come before ours.
const HEAD_READ_QDRANT: Duration = Duration::from_secs(65);
/// Between two tokens of a model that swaps.
const IDLE_INFERENCE: Duration = Duration::from_mins(5);
/// Between two pieces of any other body.
const IDLE: Duration = Duration::from_mins(1);
/// Cloud Run cuts a request at 300 s by default with a 504 of its own; our words come before.
const TOTAL_CLOUD_RUN: Duration = Duration::from_secs(290);

/// The shortest timeout accepted, in the file: less is a typo for a larger unit.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The longest: more is a typo for a smaller unit.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// The port that a kind of service has on every machine; plain HTTP has none.
pub const fn port(kind: Kind) -> Option<u16> {
    match kind {
        Kind::Ollama => Some(11_434),
        Kind::Qdrant => Some(6333),
        Kind::Http => None,
    }
}

/// The port of a kind's gRPC on every machine; `None`: it speaks none.
pub const fn grpc_port(kind: Kind) -> Option<u16> {
    match kind {
        Kind::Qdrant => Some(6334),
        Kind::Ollama | Kind::Http => None,
    }
}

/// What may go to a backend that is not the active one. Inference has the same answer wherever
/// the model is; nothing but reads is safe to move for what keeps data.
pub const fn fallback(kind: Kind) -> Fallback {
    match kind {
        Kind::Ollama => Fallback::All,
        Kind::Qdrant | Kind::Http => Fallback::Reads,
    }
}

/// The bounds of a request to a service of this kind.
pub const fn timeouts(kind: Kind, on_cloud_run: bool) -> Timeouts {
    let qdrant = matches!(kind, Kind::Qdrant);
    Timeouts {
        race: RACE,
        connect: CONNECT,
        wait: if matches!(kind, Kind::Ollama) {
            WAIT_OLLAMA
        } else {
            WAIT
        },
        start: if qdrant { START_QDRANT } else { START },
        head_inference: HEAD_INFERENCE,
        head_read: if qdrant { HEAD_READ_QDRANT } else { HEAD_READ },
        head_change: None,
        idle_inference: IDLE_INFERENCE,
        idle: IDLE,
        total: if on_cloud_run {
            Some(TOTAL_CLOUD_RUN)
        } else {
            None
        },
        probe: PROBE,
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
