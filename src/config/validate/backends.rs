//! `[backends]`: machines, and the orders that drain them.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::addresses::is_dns_name;
use super::url::{self, Site};
use super::{Scope, text};
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Table};
use crate::config::snapshot::{Backend, Drain, Network};
use crate::words::names::BackendName;

pub(super) fn read(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Vec<Backend> {
    let backends: Vec<Backend> = scope
        .root
        .table("backends")
        .named()
        .filter_map(|(name, table)| backend(scope, name, table, problems))
        .collect();
    if !backends.is_empty()
        && backends
            .iter()
            .all(|backend| forever(backend.drain.as_ref()))
    {
        problems
            .at(
                codes::ALL_DRAINED,
                scope.root.span_of("backends"),
                "every backend is drained",
            )
            .help("nothing will be answered until one is undrained");
    }
    backends
}

fn forever(drain: Option<&Drain>) -> bool {
    drain.is_some_and(|drain| drain.until.is_none())
}

fn backend(
    scope: &Scope<'_>,
    name: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Option<Backend> {
    let written = match table.get::<&str>("host") {
        None => Some(name.value.clone()),
        Some(At { value, span }) => host(value, &span, problems),
    };
    let site = url::read(scope, name, table, problems);
    let network = network(table, site.is_some());
    if site.is_none() && network == Network::Tailnet {
        in_the_tailnet(scope, table, problems);
    }
    let drain = table.has("drain").then(|| {
        let order = table.table("drain");
        ended(scope, table, problems);
        Drain {
            until: scope.instant(order, "until", problems),
            reason: text(order, "reason"),
            by: text(order, "by"),
        }
    });
    let name = BackendName::new(&name.value)?;
    let (url, host) = match site {
        Some(Site { url, host }) => (Some(Arc::new(url)), Some(host)),
        None => (None, written),
    };
    Some(Backend {
        host: host.unwrap_or_else(|| name.as_str().to_owned()).into(),
        name,
        url,
        network,
        drain,
    })
}

/// Which network leads to it. A url is of the internet, unless it is said to be of the tailnet.
fn network(table: &Table, by_url: bool) -> Network {
    let word = table.get::<&str>("dial").map(|word| word.value);
    let written = Network::WORDS.iter().find(|(name, _)| Some(*name) == word);
    match written {
        Some((_, network)) => *network,
        None if by_url => Network::Direct,
        None => Network::Tailnet,
    }
}

/// What is dialled: an address, or a name without its final dot.
fn host(written: &str, span: &Range<usize>, problems: &mut Problems<'_>) -> Option<String> {
    let host = written.trim_end_matches('.');
    if host.parse::<IpAddr>().is_ok() || is_dns_name(host) && !is_broken_ip(host) {
        return Some(host.to_owned());
    }
    let fix = bare(written).map(|host| Fix::string(problems.text(), span, host));
    problems
        .at(
            codes::VALUE,
            span,
            format!("host cannot be {}", quote(written)),
        )
        .help("write a machine's name or IP address alone: no scheme, no port, no path")
        .fix(fix);
    None
}

/// The host in what looks like a url of one.
fn bare(written: &str) -> Option<&str> {
    let rest = written.split_once("://").map_or(written, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    (is_dns_name(host) && !is_broken_ip(host) || host.parse::<IpAddr>().is_ok()).then_some(host)
}

/// Warns of an address that no machine of a tailnet has.
fn in_the_tailnet(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) {
    let by_tailnet = scope.root.table("tailnet").get::<&str>("dial");
    let Some(At { value, span }) = table.get::<&str>("host") else {
        return;
    };
    let Ok(ip) = value.parse::<IpAddr>() else {
        return;
    };
    if is_of_tailnets(ip) || by_tailnet.is_some_and(|way| way.value == "direct") {
        return;
    }
    let fix = Fix::add_key(problems.text(), &table.span, "dial = \"direct\"");
    problems
        .at(
            codes::OUTSIDE,
            &span,
            format!("{ip} is no address of a tailnet"),
        )
        .label("not in 100.64.0.0/10 or fd7a:115c:a1e0::/48")
        .help(
            "write the machine's name in the tailnet, or dial = \"direct\" if this host reaches \
             it without",
        )
        .fix(fix);
}

/// Whether Tailscale gives out addresses like this one.
fn is_of_tailnets(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// Warns of a drain that has ended.
fn ended(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) {
    let order = table.table("drain");
    // What is wrong with it is reported where it is read.
    let written = order.get::<crate::config::moment::Moment>("until");
    let zone = scope.zone.as_ref();
    let until = written.and_then(|until| until.value.instant(zone?).ok());
    let (Some(until), Some(entry)) = (until, table.entry("drain")) else {
        return;
    };
    if !problems.passed(until) {
        return;
    }
    let text = problems.text();
    let inline = text[order.span.start..].starts_with('{');
    let fix = inline.then(|| Fix::remove_key(text, &entry));
    problems
        .at(
            codes::EXPIRED,
            order.span_of("until"),
            format!("this drain ended at {}", scope.show(until)),
        )
        .help("take it out")
        .fix(fix);
}

/// `100.64.0.256` would be asked of DNS.
pub(super) fn is_broken_ip(host: &str) -> bool {
    host.rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}
