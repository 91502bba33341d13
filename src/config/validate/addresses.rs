//! `[listen]` and `[tailnet]`: what we accept on, and the way to the tailnet.
//!
//! Owns also the check that no two things claim one address. Port 0 is for tests: the system
//! chooses, so nothing clashes.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Scope, variable};
use crate::config::codes;
use crate::config::defaults;
use crate::config::env::TAILNET_NAME;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Table};
use crate::config::snapshot::{Backend, BackendId, DialWay, Listen, Network, Service, Tailnet};

/// `sun_path` of a Unix socket has 108 bytes with its NUL on Linux, 104 on a Mac.
const SOCKET_MAX: usize = 103;

pub(super) fn listen(root: &Table, problems: &mut Problems<'_>) -> Listen {
    let table = root.table("listen");
    let data = table.get::<SocketAddr>("data");
    let admin = table.get::<SocketAddr>("admin");
    if let Some(At { value, span }) = &data {
        open(root, "listen.data", *value, span, problems);
    }
    Listen {
        data: data.map_or(defaults::LISTEN.data, |data| data.value),
        admin: admin.map_or(defaults::LISTEN.admin, |admin| admin.value),
    }
}

pub(super) fn tailnet(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Tailnet {
    let table = scope.root.table("tailnet");
    let dial = table.get::<&str>("dial").map_or("auto", |word| word.value);
    let dial = DialWay::WORDS.iter().find(|(word, _)| *word == dial);
    Tailnet {
        suffix: suffix(scope, table, problems),
        dial: dial.map_or(DialWay::Auto, |(_, way)| *way),
        socket: socket(table, problems).unwrap_or_else(|| PathBuf::from(defaults::SOCKET)),
        proxy: proxy(table, problems).unwrap_or(defaults::PROXY),
        repair: table
            .get::<bool>("repair")
            .is_none_or(|repair| repair.value),
    }
}

/// The MagicDNS suffix: the variable's, else the file's.
fn suffix(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) -> Option<String> {
    let help = "write the tailnet's MagicDNS name, such as \"tail1234\" or \"tail1234.ts.net\"";
    let written = table.get::<&str>("name");
    let in_file = written.as_ref().and_then(|name| {
        let suffix = complete(name.value);
        if suffix.is_none() {
            let message = format!("tailnet.name cannot be {}", quote(name.value));
            let host = name.value.split_once("://").map(|(_, rest)| rest);
            let host = host.and_then(|rest| rest.split('/').next()?.split(':').next());
            let fix = host.filter(|host| complete(host).is_some());
            let fix = fix.map(|host| Fix::string(problems.text(), &name.span, host));
            problems
                .at(codes::VALUE, &name.span, message)
                .help(help)
                .fix(fix);
        }
        suffix
    });
    let Some(value) = scope.env.overlay(TAILNET_NAME) else {
        return in_file;
    };
    let Some(suffix) = complete(value) else {
        variable(
            codes::TAILNET_NAME,
            TAILNET_NAME,
            value,
            "is no tailnet name",
            help,
            problems,
        );
        return in_file;
    };
    if let (Some(other), Some(written)) = (&in_file, written)
        && *other != suffix
    {
        let message = format!("TAILNET_NAME={value} replaces the tailnet {other} of the file");
        let entry = table.entry("name");
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(codes::REPLACED, &written.span, message)
            .label("not used")
            .help("unset TAILNET_NAME, or remove the key")
            .fix(fix);
    }
    Some(suffix)
}

/// The whole suffix that `name` stands for.
fn complete(name: &str) -> Option<String> {
    let name = name.trim().trim_end_matches('.').to_ascii_lowercase();
    let suffix = if name.contains('.') {
        name
    } else {
        format!("{name}.{}", defaults::SUFFIX)
    };
    is_dns_name(&suffix).then_some(suffix)
}

/// Whether `text` can be a DNS name. Underscores are let pass, as resolvers do.
pub(super) fn is_dns_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn socket(table: &Table, problems: &mut Problems<'_>) -> Option<PathBuf> {
    let At { value, span } = table.get::<&str>("socket")?;
    let help = if value.len() > SOCKET_MAX {
        format!("a socket's path has at most {SOCKET_MAX} bytes")
    } else if Path::new(value).is_absolute() {
        return Some(PathBuf::from(value));
    } else {
        "write the whole path, from /".to_owned()
    };
    let message = format!("tailnet.socket cannot be {}", quote(value));
    problems.at(codes::VALUE, &span, message).help(help);
    None
}

fn proxy(table: &Table, problems: &mut Problems<'_>) -> Option<SocketAddr> {
    let At { value, span } = table.get::<SocketAddr>("proxy")?;
    if value.port() == 0 {
        problems
            .at(codes::VALUE, &span, "tailnet.proxy cannot have port 0")
            .help("write the port that tailscaled's proxy listens on, usually 1055");
    }
    Some(value)
}

/// The dial way: that of the file, or none where no backend needs the tailnet.
pub(super) fn dial_needed(scope: &Scope<'_>, written: DialWay) -> DialWay {
    let direct = |backend: &Backend| backend.network == Network::Direct;
    let none = !scope.backends.is_empty() && scope.backends.iter().all(direct);
    if none && !scope.root.table("tailnet").has("dial") {
        return DialWay::Direct;
    }
    written
}

/// An address that we accept on.
struct Own<'a> {
    key: String,
    address: SocketAddr,
    span: &'a Range<usize>,
    /// Whether it stands in the file.
    written: bool,
}

/// Reports addresses that two things claim.
pub(super) fn clashes(
    scope: &Scope<'_>,
    listen: Listen,
    tailnet: &Tailnet,
    problems: &mut Problems<'_>,
) {
    let all = own(scope, listen);
    for (place, one) in all.iter().enumerate() {
        let shared = all[..place]
            .iter()
            .find(|other| clash(other.address, one.address));
        if let Some(other) = shared {
            // At the one that was written, else at the later one.
            let at = if one.written { one } else { other };
            let what = format!("{} and {} cannot share it", other.key, one.key);
            report(at, one.address, &what, problems);
        }
        if clash(one.address, tailnet.proxy) && tailnet.dial != DialWay::Direct {
            report(one, one.address, "tailnet.proxy is there", problems);
        }
        for service in &scope.services {
            if let Some(id) = leads_back(scope, service, one.address, tailnet.dial) {
                let backend = &scope.backends[id.0].name;
                let what = format!(
                    "service {} on {backend} would lead back to it",
                    service.name
                );
                report(one, one.address, &what, problems);
            }
        }
    }
}

fn own<'a>(scope: &Scope<'a>, listen: Listen) -> Vec<Own<'a>> {
    let table = scope.root.table("listen");
    let of_listen = [("data", listen.data), ("admin", listen.admin)];
    let listed = of_listen.into_iter().map(|(key, address)| Own {
        key: format!("listen.{key}"),
        address,
        span: table.span_of(key),
        written: table.has(key),
    });
    let services = scope.root.table("services");
    let ports = scope.services.iter().flat_map(move |service| {
        let own = [
            ("listen", service.listen),
            ("listen_grpc", service.listen_grpc),
        ];
        own.into_iter().filter_map(move |(key, address)| {
            Some(Own {
                key: format!("services.{}.{key}", service.name),
                address: address?,
                span: services.table(service.name.as_str()).span_of(key),
                written: true,
            })
        })
    });
    listed.chain(ports).collect()
}

fn report(own: &Own<'_>, address: SocketAddr, other: &str, problems: &mut Problems<'_>) {
    let port = address.port().checked_add(10);
    let next = port.map(|port| SocketAddr::new(address.ip(), port).to_string());
    let next = next.filter(|_| own.written);
    let fix = next.map(|next| Fix::string(problems.text(), own.span, &next));
    problems
        .at(
            codes::CLASH,
            own.span,
            format!("{} is {address}: {other}", own.key),
        )
        .help("use another port")
        .fix(fix);
}

/// The backend whose endpoint of `service` is `address` itself, reached from this host.
fn leads_back(
    scope: &Scope<'_>,
    service: &Service,
    address: SocketAddr,
    dial: DialWay,
) -> Option<BackendId> {
    let itself = |id: &&BackendId| {
        let backend = &scope.backends[id.0];
        let direct = dial == DialWay::Direct || backend.network == Network::Direct;
        let ip = if &*backend.host == "localhost" {
            Some(IpAddr::from([127, 0, 0, 1]))
        } else {
            backend.host.parse().ok()
        };
        let ports = [Some(scope.port(service, **id)), service.grpc_port];
        let leads = |port| ip.is_some_and(|ip| clash(address, SocketAddr::new(ip, port)));
        direct && ports.into_iter().flatten().any(leads)
    };
    service.backends.iter().find(itself).copied()
}

/// Whether a host is this very machine.
pub(super) fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Warns of a data address that other machines reach, unless they have to present a token.
pub(super) fn open(
    root: &Table,
    key: &str,
    address: SocketAddr,
    span: &Range<usize>,
    problems: &mut Problems<'_>,
) {
    if address.ip().is_loopback() || root.table("listen").has("token") {
        return;
    }
    let token = "token = { env = \"TAILHOP_TOKEN\" }";
    let text = problems.text();
    let fix = if root.has("listen") {
        Fix::add_key(text, root.span_of("listen"), token)
    } else {
        Fix::append(text, &format!("[listen]\n{token}"))
    };
    problems
        .at(
            codes::OPEN_DATA,
            span,
            format!("{key}: {address} is open to other machines"),
        )
        .label("not loopback")
        .help(
            "right when the app is in another container: let it present a token, with \
             listen.token; else use 127.0.0.1",
        )
        .fix(fix);
}

fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let all = |address: SocketAddr| address.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || all(one) && local(other) || all(other) && local(one))
}

/// Whether an unspecified address of the same port takes this one too.
fn local(address: SocketAddr) -> bool {
    address.ip().is_loopback() || address.ip().is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tailnet_name_is_completed_only_when_it_has_no_dot() {
        for (name, suffix) in [
            ("tail1234", Some("tail1234.ts.net")),
            ("tail1234.ts.net", Some("tail1234.ts.net")),
            ("Tail1234.TS.net.", Some("tail1234.ts.net")),
            ("rig.ts.net", Some("rig.ts.net")),
            ("example.com", Some("example.com")),
            ("", None),
            (".", None),
            ("https://tail1234.ts.net", None),
            ("tail 1234", None),
            ("a..b", None),
        ] {
            assert_eq!(complete(name).as_deref(), suffix, "{name}");
        }
    }

    #[test]
    fn addresses_clash_when_one_socket_would_take_the_others_connections() {
        for (one, other, clashes) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "100.64.0.1:1", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(clash(one, other), clashes, "{one} {other}");
        }
    }
}
