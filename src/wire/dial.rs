//! The only function in the product that opens an upstream connection.
//!
//! Owns the order (admission, way, handshake) and the deadline over all of it. Must not try again:
//! one call is one dial. Invariant: a dial that is dropped or fails leaves no socket and no task;
//! nothing of a request was sent when it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::stream::Stream;
use super::tls::Tls;
use super::{handshake, meaning};
use crate::config::snapshot::DialWay;
use crate::tailnet::trouble::What;
use crate::tailnet::{Admitted, Tailnet, Target};
use crate::words::clock::Deadline;
use crate::words::outcome::{Failure, Kind, Side};
use crate::words::units::show_duration;

/// Where a connection leads, and what it is wrapped in.
#[derive(Debug)]
pub struct Place {
    /// A name or an address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Whether it is dialled from this host, whatever the tailnet's way.
    pub direct: bool,
    /// TLS over it.
    pub tls: Option<Tls>,
}

impl Place {
    /// Host and port, as an authority has them (RFC 3986 3.2.2): an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

/// Opens a connection to `place` within `within`, its TLS handshake included.
///
/// # Errors
/// Always before anything was sent; the kind says what failed, `Silent` that nobody answered the
/// dial in time.
pub async fn open(tailnet: &Tailnet, place: &Place, within: Duration) -> Result<Stream, Failure> {
    let limit = Limit::of(within);
    let stream = if place.direct {
        direct(&Target::of(&place.host)?, place.port, limit).await?
    } else {
        by_tailnet(tailnet, &place.host, place.port, limit).await?
    };
    let Some(tls) = &place.tls else {
        return Ok(stream);
    };
    let shaken = limit.over(tls.shake(&place.host, stream), || {
        "the TLS handshake to end".to_owned()
    });
    // Somebody accepted the connection: that is not the silence of a machine that sleeps.
    shaken
        .await
        .unwrap_or_else(|late| Err(Failure::unsent(Kind::Tls, late.detail)))
}

/// Opens a connection to `port` of `host` within `within`, in the tailnet's way.
///
/// # Errors
/// As [`open`].
pub async fn dial(
    tailnet: &Tailnet,
    host: &str,
    port: u16,
    within: Duration,
) -> Result<Stream, Failure> {
    by_tailnet(tailnet, host, port, Limit::of(within)).await
}

async fn by_tailnet(
    tailnet: &Tailnet,
    host: &str,
    port: u16,
    limit: Limit,
) -> Result<Stream, Failure> {
    let admitted = tailnet.admit(host)?;
    let opened = match admitted.way {
        DialWay::Direct => direct(&admitted.target, port, limit).await,
        DialWay::LocalApi | DialWay::Auto => by_localapi(&admitted, port, limit).await,
        DialWay::HttpConnect | DialWay::Socks5 => by_proxy(&admitted, port, limit).await,
    };
    if let Err(failure) = &opened
        && admitted.way != DialWay::Direct
        && (failure.kind.side() == Side::Tailnet || failure.kind == Kind::Silent)
    {
        // The view did not foretell it, so it may be old.
        tailnet.poke();
    }
    opened
}

async fn by_localapi(admitted: &Admitted, port: u16, limit: Limit) -> Result<Stream, Failure> {
    let socket = admitted.socket();
    let connected = limit.over(UnixStream::connect(socket), || {
        format!("tailscaled's socket {} to accept", socket.display())
    });
    let gate = || format!("tailscaled's socket {}", socket.display());
    let mut wire = connected
        .await?
        .map_err(|error| gate_shut(&gate(), &error))?;
    let target = &admitted.target;
    let shaken = handshake::ts_dial(&mut wire, target, port);
    let early = limit.over(shaken, || answer_of(target, port)).await??;
    Ok(Stream::unix(wire, early))
}

async fn by_proxy(admitted: &Admitted, port: u16, limit: Limit) -> Result<Stream, Failure> {
    let proxy = admitted.proxy();
    let gate = || format!("tailscaled's proxy {proxy}");
    let connected = limit.over(TcpStream::connect(proxy), || {
        format!("{} to accept", gate())
    });
    let mut wire = connected
        .await?
        .map_err(|error| gate_shut(&gate(), &error))?;
    let target = &admitted.target;
    let shaken = async {
        match admitted.way {
            DialWay::Socks5 => handshake::socks5(&mut wire, target, port, admitted.listed)
                .await
                .map(|()| Bytes::new()),
            _ => handshake::connect(&mut wire, target, port).await,
        }
    };
    let early = limit.over(shaken, || answer_of(target, port)).await??;
    over_tcp(wire, early)
}

/// Straight from this host. A name is looked up by the system and all its addresses are tried in
/// order; each but the last gets its share of the time, so that a silent one does not use it up.
async fn direct(target: &Target, port: u16, limit: Limit) -> Result<Stream, Failure> {
    let places: Vec<SocketAddr> = match target {
        Target::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Target::Name(name) => {
            let found = limit.over(lookup_host((name.as_str(), port)), || {
                format!("the address of {name}")
            });
            let found = found.await?;
            found.map_err(|error| unknown_name(name, &error))?.collect()
        }
    };
    let mut failed = Failure::unsent(Kind::UnknownName, format!("{target} has no address"));
    for (tried, place) in places.iter().enumerate() {
        let share = limit.share(places.len() - tried);
        match share
            .over(TcpStream::connect(place), || place.to_string())
            .await
        {
            Ok(Ok(tcp)) => return over_tcp(tcp, Bytes::new()),
            Ok(Err(error)) => {
                let kind = meaning::of_connect(&error);
                failed = telling(failed, Failure::unsent(kind, format!("{place}: {error}")));
            }
            Err(silent) => failed = telling(failed, silent),
        }
    }
    Err(failed)
}

/// Of the failures of two addresses of one host the one to report: a refusal shows that the
/// machine is awake, whatever its other address does.
fn telling(before: Failure, now: Failure) -> Failure {
    if before.kind == Kind::Refused {
        before
    } else {
        now
    }
}

fn over_tcp(tcp: TcpStream, early: Bytes) -> Result<Stream, Failure> {
    Stream::tcp(tcp, early).map_err(|error| Failure::unsent(Kind::Broken, error.to_string()))
}

fn answer_of(target: &Target, port: u16) -> String {
    format!("tailscaled to reach {target}:{port}")
}

fn gate_shut(gate: &str, error: &io::Error) -> Failure {
    let kind = match What::of_connect(error) {
        What::Absent => Kind::DaemonAbsent,
        What::Silent | What::NotReady => Kind::DaemonStarting,
        What::Forbidden | What::Broken => Kind::Tailnet,
    };
    Failure::unsent(kind, format!("{gate}: {error}"))
}

fn unknown_name(name: &str, error: &io::Error) -> Failure {
    Failure::unsent(Kind::UnknownName, format!("{name}: {error}"))
}

/// The time of one dial.
#[derive(Clone, Copy)]
struct Limit {
    deadline: Deadline,
    within: Duration,
}

impl Limit {
    fn of(within: Duration) -> Self {
        Self {
            deadline: Deadline::after(within),
            within,
        }
    }

    /// What `step` comes to, or `Silent` with what was waited for.
    async fn over<T>(
        self,
        step: impl Future<Output = T>,
        waited_for: impl FnOnce() -> String,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            came = step => Ok(came),
            () = self.deadline.passed() => {
                let within = show_duration(self.within);
                let detail = format!("waited {within} for {}", waited_for());
                Err(Failure::unsent(Kind::Silent, detail))
            }
        }
    }

    /// An equal part of what is left of it.
    fn share(self, parts: usize) -> Self {
        if parts <= 1 {
            return self;
        }
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        let within = self.deadline.left() / parts;
        Self {
            deadline: Deadline::after(within),
            within,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: Kind) -> Failure {
        Failure::unsent(kind, "")
    }

    #[test]
    fn of_two_addresses_a_refusal_is_told() {
        for (first, second, told) in [
            (Kind::Refused, Kind::Silent, Kind::Refused),
            (Kind::Silent, Kind::Refused, Kind::Refused),
            (Kind::Tailnet, Kind::Silent, Kind::Silent),
        ] {
            assert_eq!(telling(failed(first), failed(second)).kind, told);
        }
    }

    #[test]
    fn an_address_of_ipv6_is_in_brackets_in_an_authority() {
        for (host, authority) in [
            ("mac.tail.ts.net", "mac.tail.ts.net:6334"),
            ("100.64.0.1", "100.64.0.1:6334"),
            ("fd7a:115c::1", "[fd7a:115c::1]:6334"),
        ] {
            let place = Place {
                host: host.into(),
                port: 6334,
                direct: true,
                tls: None,
            };
            assert_eq!(place.authority(), authority);
            let read: http::uri::Authority = authority.parse().unwrap();
            assert_eq!(read.port_u16(), Some(6334));
        }
    }

    #[test]
    fn what_shuts_the_gate_has_its_kind() {
        for (error, kind) in [
            (io::ErrorKind::NotFound, Kind::DaemonAbsent),
            (io::ErrorKind::ConnectionRefused, Kind::DaemonAbsent),
            (io::ErrorKind::NotADirectory, Kind::DaemonAbsent),
            (io::ErrorKind::WouldBlock, Kind::DaemonStarting),
            (io::ErrorKind::PermissionDenied, Kind::Tailnet),
            (io::ErrorKind::AddrNotAvailable, Kind::Tailnet),
        ] {
            assert_eq!(gate_shut("gate", &error.into()).kind, kind, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_but_the_last_gets_its_share_of_the_time() {
        let within = Duration::from_secs(9);
        let limit = Limit {
            deadline: Deadline::after(within),
            within,
        };
        let began = tokio::time::Instant::now();
        for (parts, seconds) in [(3, 3), (2, 6), (1, 9)] {
            let step = limit
                .share(parts)
                .over(std::future::pending::<()>(), || "it".into());
            assert_eq!(step.await.unwrap_err().kind, Kind::Silent);
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
    }

    #[test]
    fn dials_and_streams_may_move_between_threads() {
        fn may_move<T: Send>(_: &T) {}
        fn may_be_moved<T: Send + Unpin>() {}
        may_be_moved::<Stream>();
        let proxy = SocketAddr::from(([127, 0, 0, 1], 1));
        let settings = crate::config::snapshot::Tailnet {
            suffix: None,
            dial: DialWay::Direct,
            socket: "/nowhere".into(),
            proxy,
            repair: true,
        };
        let tailnet = Tailnet::new(settings, crate::words::clock::Clock::system());
        may_move(&dial(&tailnet, "host", 1, Duration::from_secs(1)));
        may_move(&Arc::new(tailnet).watch());
    }
}
