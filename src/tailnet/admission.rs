//! Which hosts may be dialled, and by which exact name: pure.
//!
//! tailscaled's proxies dial whatever is not in the tailnet from their own host, so a name that
//! is merely mistyped would leave the tunnel, and a literal address would reach the host's own
//! loopback. LocalAPI tells us instead of dialling. Hence the rules differ by way.
//!
//! Owns the rules. Must not resolve or ask anything. Invariant: what is admitted for a proxy is an
//! address of the netmap, or a name of the netmap or under the tailnet's suffix.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::peers::{address, plain, under};
use super::view::View;
use crate::config::snapshot::DialWay;
use crate::words::outcome::{Failure, Kind};
use crate::words::verdict::Tunnel;

/// Longest host name in DNS, in bytes.
const NAME_MAX: usize = 253;

/// A host that may be dialled, how, and where that way begins.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The way to dial it.
    pub way: DialWay,
    /// What to ask for.
    pub target: Target,
    /// Whether the netmap has it; `None` when the netmap is not known.
    pub listed: Option<bool>,
    view: Arc<View>,
}

/// What to ask for: exactly this, nothing is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name of ASCII letters, digits, `-`, `_` and `.`, fit for a header.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

impl Admitted {
    /// tailscaled's LocalAPI socket.
    pub fn socket(&self) -> &Path {
        &self.view.settings.socket
    }

    /// tailscaled's proxy port.
    pub fn proxy(&self) -> SocketAddr {
        self.view.settings.proxy
    }
}

impl Target {
    /// What `host` is, for a dial that does not use the tailnet.
    ///
    /// # Errors
    /// It is no host name.
    pub fn of(host: &str) -> Result<Self, Failure> {
        target(host)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// Whether `host` may be dialled now, and how.
pub(super) fn admit(view: &Arc<View>, host: &str) -> Result<Admitted, Failure> {
    let way = match view.way {
        Some(way) if view.state == Tunnel::Up => way,
        _ => return Err(Failure::unsent(view.blocked, view.detail.clone())),
    };
    let target = target(host)?;
    let listed = view.peers.as_ref().map(|peers| peers.find(host).is_some());
    let target = match way {
        DialWay::Direct => target,
        DialWay::LocalApi if tells_what_is_outside(&view.version) => {
            for_localapi(view, target, listed)?
        }
        _ => for_proxy(view, target)?,
    };
    Ok(Admitted {
        way,
        target,
        listed,
        view: Arc::clone(view),
    })
}

/// The host, if it is one. It goes into headers and request lines: nothing else may get there.
fn target(host: &str) -> Result<Target, Failure> {
    if let Some(ip) = address(host) {
        return Ok(Target::Ip(ip));
    }
    let name = plain(host);
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(fit) {
        return Err(Failure::unsent(
            Kind::UnknownName,
            format!("{host:?} is no host name"),
        ));
    }
    Ok(Target::Name(name))
}

/// tailscaled itself tells what is outside the tailnet (`Dial-Self`), so names are its business.
/// What names this very machine is refused without asking.
fn for_localapi(view: &View, target: Target, listed: Option<bool>) -> Result<Target, Failure> {
    match &target {
        _ if listed == Some(true) => Ok(named_in_full(view, target)),
        Target::Ip(_) if listed == Some(false) => Err(not_in_tailnet(view, &target)),
        Target::Name(name) if is_this_host(name) => Err(not_in_tailnet(view, &target)),
        Target::Ip(_) | Target::Name(_) => Ok(target),
    }
}

/// Whether LocalAPI of this version answers `Dial-Self`; before 1.98 it dialled from the host as
/// the proxies do. What is no version is taken for an old one.
fn tells_what_is_outside(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (1, 98),
        _ => false,
    }
}

fn for_proxy(view: &View, target: Target) -> Result<Target, Failure> {
    if view
        .peers
        .as_ref()
        .is_some_and(|peers| peers.find(&target.to_string()).is_some())
    {
        return Ok(named_in_full(view, target));
    }
    let (Target::Name(name), Some(suffix)) = (&target, &view.suffix) else {
        return Err(not_in_tailnet(view, &target));
    };
    if under(name, suffix).is_some() {
        return Ok(target);
    }
    if !name.contains('.') && !is_this_host(name) {
        return Ok(Target::Name(format!("{name}.{suffix}")));
    }
    Err(not_in_tailnet(view, &target))
}

/// A machine of the netmap by its full name, which no search domain can lead elsewhere.
fn named_in_full(view: &View, target: Target) -> Target {
    let Target::Name(name) = &target else {
        return target;
    };
    match view.peers.as_ref().and_then(|peers| peers.find(name)) {
        Some(peer) if !peer.name.is_empty() => Target::Name(peer.name.clone()),
        _ => target,
    }
}

fn is_this_host(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn not_in_tailnet(view: &View, target: &Target) -> Failure {
    let why = match (&view.peers, &view.suffix) {
        (None, None) => {
            "neither the tailnet's name nor its machines are known: set tailnet.name, or make \
             tailscaled's socket readable"
                .to_owned()
        }
        (None, Some(suffix)) => format!(
            "only names under {suffix} are known to be in it: use one, or make tailscaled's \
             socket readable"
        ),
        (Some(_), _) => {
            "it is no machine of the tailnet: use the name that `tailscale status` shows, or \
             tailnet.dial = \"direct\" if it shall be reached without the tailnet"
                .to_owned()
        }
    };
    Failure::unsent(
        Kind::NotInTailnet,
        format!("{target} is not dialled: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::snapshot::Tailnet as Settings;
    use crate::tailnet::localapi::{Node, Status};
    use crate::tailnet::trouble::{Trouble, What};
    use crate::tailnet::view::{Keeper, Round};

    const ALL: [DialWay; 3] = [DialWay::LocalApi, DialWay::HttpConnect, DialWay::Socks5];
    const PROXIES: &[DialWay] = &[DialWay::HttpConnect, DialWay::Socks5];

    fn view(way: DialWay, suffix: Option<&str>, netmap: bool) -> Arc<View> {
        view_of(way, suffix, netmap, "1.102.3-tabc")
    }

    fn view_of(way: DialWay, suffix: Option<&str>, netmap: bool, version: &str) -> Arc<View> {
        let settings = Arc::new(Settings {
            suffix: suffix.map(str::to_owned),
            dial: way,
            socket: "/nowhere".into(),
            proxy: "127.0.0.1:1".parse().unwrap(),
            repair: true,
        });
        let mac = Node {
            direct_path: String::new(),
            key_expiry: None,
            dns_name: "macbook-m1.tail1234.ts.net.".into(),
            ips: vec!["100.64.0.1".parse().unwrap()],
            online: true,
        };
        let status = Status {
            version: version.into(),
            backend_state: "Running".into(),
            suffix: "tail1234.ts.net".into(),
            peers: [("nodekey:1".into(), mac)].into(),
            ..Status::default()
        };
        let round = if way == DialWay::Direct {
            None
        } else {
            let unknown = Trouble::new(What::Absent, "no socket");
            let status = if netmap { Ok(status) } else { Err(unknown) };
            Some(Round {
                status,
                proxy: Some(Ok(way)),
            })
        };
        let first = View::first(Arc::clone(&settings), Timestamp::UNIX_EPOCH);
        Arc::new(first.next(&settings, round, &Keeper::Nothing, Timestamp::UNIX_EPOCH))
    }

    fn asked(view: &Arc<View>, host: &str) -> Result<String, Kind> {
        admit(view, host)
            .map(|it| it.target.to_string())
            .map_err(|failure| failure.kind)
    }

    #[test]
    fn machines_of_the_netmap_are_asked_for_by_their_full_name_or_address() {
        for way in ALL {
            let view = view(way, None, true);
            for (host, target) in [
                ("macbook-m1", "macbook-m1.tail1234.ts.net"),
                ("MACBOOK-M1.tail1234.ts.net.", "macbook-m1.tail1234.ts.net"),
                ("100.64.0.1", "100.64.0.1"),
                ("[::ffff:100.64.0.1]", "100.64.0.1"),
            ] {
                assert_eq!(asked(&view, host), Ok(target.to_owned()), "{way:?} {host}");
            }
        }
    }

    #[test]
    fn nothing_around_the_tailnet_is_admitted() {
        let this_host = [
            "127.0.0.1",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "localhost",
            "LOCALHOST.",
        ];
        for way in ALL {
            for host in this_host {
                let got = asked(&view(way, None, true), host);
                assert_eq!(got, Err(Kind::NotInTailnet), "{way:?} {host}");
            }
        }
        for way in PROXIES {
            for host in [
                "example.com",
                "127.1",
                "a.localhost",
                "eviltail1234.ts.net",
                "169.254.169.254",
            ] {
                for netmap in [true, false] {
                    let got = asked(&view(*way, Some("tail1234.ts.net"), netmap), host);
                    assert_eq!(got, Err(Kind::NotInTailnet), "{way:?} {host} {netmap}");
                }
            }
        }
    }

    #[test]
    fn without_a_netmap_only_names_under_the_suffix_reach_a_proxy() {
        for way in PROXIES {
            let view = view(*way, Some("tail1234.ts.net"), false);
            for (host, target) in [
                ("macbook-m1", Ok("macbook-m1.tail1234.ts.net")),
                ("2130706433", Ok("2130706433.tail1234.ts.net")),
                ("Mac-Dev1.tail1234.ts.net.", Ok("mac-dev1.tail1234.ts.net")),
                ("100.64.0.1", Err(Kind::NotInTailnet)),
            ] {
                assert_eq!(
                    asked(&view, host),
                    target.map(str::to_owned),
                    "{way:?} {host}"
                );
            }
        }
    }

    #[test]
    fn with_neither_suffix_nor_netmap_a_proxy_is_asked_for_nothing_and_the_remedy_is_told() {
        for way in PROXIES {
            let failure = admit(&view(*way, None, false), "macbook-m1").unwrap_err();
            assert_eq!(failure.kind, Kind::NotInTailnet);
            assert!(failure.detail.contains("set tailnet.name"), "{failure}");
        }
    }

    #[test]
    fn localapi_is_asked_for_any_name_as_it_tells_what_is_outside() {
        let view = view(DialWay::LocalApi, None, true);
        assert_eq!(asked(&view, "new-mac"), Ok("new-mac".to_owned()));
        assert_eq!(asked(&view, "example.com"), Ok("example.com".to_owned()));
    }

    #[test]
    fn a_localapi_that_would_dial_around_the_tailnet_is_asked_for_no_more_than_a_proxy() {
        for version in ["1.96.4", "1.80.0-t1-g2", "0.100.0", "", "dev"] {
            let view = view_of(DialWay::LocalApi, None, true, version);
            assert_eq!(
                asked(&view, "example.com"),
                Err(Kind::NotInTailnet),
                "{version}"
            );
            assert!(asked(&view, "macbook-m1").is_ok(), "{version}");
        }
        for version in ["1.98.0", "1.103.0-dev20260822", "2.0.0"] {
            let view = view_of(DialWay::LocalApi, None, true, version);
            assert!(asked(&view, "example.com").is_ok(), "{version}");
        }
    }

    #[test]
    fn what_is_no_host_name_never_gets_into_a_header() {
        let long = "x".repeat(NAME_MAX + 1);
        for host in [
            "",
            ".",
            "a b",
            "a\r\nDial-Host: b",
            "日本",
            "a:80",
            "a/b",
            long.as_str(),
        ] {
            for way in [
                DialWay::LocalApi,
                DialWay::HttpConnect,
                DialWay::Socks5,
                DialWay::Direct,
            ] {
                let got = asked(&view(way, Some("tail1234.ts.net"), true), host);
                assert_eq!(got, Err(Kind::UnknownName), "{way:?} {host:?}");
            }
        }
    }

    #[test]
    fn direct_admits_every_host() {
        let view = view(DialWay::Direct, None, false);
        for host in ["127.0.0.1", "localhost", "example.com"] {
            assert_eq!(asked(&view, host), Ok(host.to_owned()));
        }
    }
}
