//! `[backends]`: machines, and the orders that drain them.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::addresses::is_dns_name;
use super::url::{self, Site};
use super::{Scope, text};
use crate::config::codes;
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
    let drain = table.has("drain").then(|| {
        let order = table.table("drain");
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
    problems
        .at(
            codes::VALUE,
            span,
            format!("host cannot be {}", quote(written)),
        )
        .help("write a machine's name or IP address alone: no scheme, no port, no path");
    None
}

/// `100.64.0.256` would be asked of DNS.
pub(super) fn is_broken_ip(host: &str) -> bool {
    host.rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}
