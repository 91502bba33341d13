//! `routes`: path prefixes and the services they lead to.
//!
//! Invariant: no path twice. Paths are compared as bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::addresses::is_dns_name;
use super::{Scope, effects, timeouts};
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::paths::Routes;
use crate::config::problem::{Problems, nearest, quote};
use crate::config::raw::{At, Table};
use crate::config::snapshot::{HostHeader, Route, ServiceId};
use crate::words::names::Kind;

pub(super) fn read(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Routes {
    let routes = match scope.root.tables("routes") {
        Some(tables) => written(scope, tables, problems),
        None => each_service(scope),
    };
    routes.into()
}

/// `/<service>` each.
fn each_service(scope: &Scope<'_>) -> Vec<Route> {
    let route = |(index, service): (usize, &super::Service)| Route {
        path: format!("/{}", service.name),
        service: ServiceId(index),
        strip: true,
        host: HostHeader::Upstream,
        upgrade: Vec::new(),
        timeouts: service.timeouts,
        effects: service.whole.effects.clone(),
    };
    scope.services.iter().enumerate().map(route).collect()
}

fn written(scope: &Scope<'_>, tables: &[Table], problems: &mut Problems<'_>) -> Vec<Route> {
    if tables.is_empty() {
        let entry = scope.root.entry("routes");
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(
                codes::VALUE,
                scope.root.span_of("routes"),
                "routes has none",
            )
            .help("add one, or leave the key out for /<service> each")
            .fix(fix);
        return Vec::new();
    }
    let mut lines: HashMap<&str, usize> = HashMap::new();
    let mut routes = Vec::new();
    for table in tables {
        if let Some(At { value, span }) = table.get::<&str>("path") {
            let line = problems.line(span.start);
            if let Some(first) = lines.insert(value, line) {
                let fix = Fix::remove_table(problems.text(), &table.span, table.end());
                problems
                    .at(
                        codes::TWICE,
                        &span,
                        format!("path {} has two routes", quote(value)),
                    )
                    .label(format!("the first is in line {first}"))
                    .help("remove one")
                    .fix(fix);
            }
        }
        routes.extend(route(scope, table, problems));
    }
    unreachable(scope, tables, problems);
    routes
}

fn route(scope: &Scope<'_>, table: &Table, problems: &mut Problems<'_>) -> Option<Route> {
    let path = table
        .get::<&str>("path")
        .and_then(|path| shape(&path, problems));
    let host = table
        .get::<&str>("host")
        .map(|host| header(&host, problems));
    let service = table.get::<&str>("service")?;
    let service = scope.service_named(service.value, &service.span, problems)?;
    let leads_to = &scope.services[service.0];
    let timeouts = timeouts::over(leads_to.timeouts, table.table("timeouts"), problems);
    let effects = effects::read(table, leads_to.kind, problems);
    let upgrade = protocols(table, leads_to.kind, problems);
    Some(Route {
        path: path?,
        service,
        strip: table.get::<bool>("strip").is_none_or(|strip| strip.value),
        host: host.unwrap_or(HostHeader::Upstream),
        upgrade,
        timeouts,
        effects: effects.unwrap_or_else(|| leads_to.whole.effects.clone()),
    })
}

/// The path, if requests can have it as a prefix.
fn shape(path: &At<&str>, problems: &mut Problems<'_>) -> Option<String> {
    let At { value, span } = path;
    let help = if !value.starts_with('/') {
        "begin it with /"
    } else if *value == "/" {
        return Some("/".to_owned());
    } else if value.ends_with('/') {
        "leave the / at its end out: it matches with and without"
    } else if value.contains("//") {
        "write one / at a time"
    } else if value
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        "write the path that it leads to, without . and .."
    } else if value.contains(['?', '#']) {
        "leave ? and # out: a route is a path alone"
    } else if value.contains('%') {
        "leave % out: paths are compared byte by byte, as they are sent"
    } else if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        "use ASCII without blanks: nothing else can stand in a request's path"
    } else {
        return Some((*value).to_owned());
    };
    let fix = tidied(value).map(|path| Fix::string(problems.text(), span, &path));
    problems
        .at(
            codes::VALUE,
            span,
            format!("path cannot be {}", quote(value)),
        )
        .help(help)
        .fix(fix);
    None
}

/// The path that was meant, if only its slashes are wrong.
fn tidied(path: &str) -> Option<String> {
    let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let plain = |part: &&str| {
        let fine = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
        !matches!(*part, "." | "..") && part.bytes().all(fine)
    };
    let tidy = !segments.is_empty() && segments.iter().all(plain);
    tidy.then(|| format!("/{}", segments.join("/")))
}

/// Which Host the upstream sees. A typo must not become a host.
fn header(host: &At<&str>, problems: &mut Problems<'_>) -> HostHeader {
    let At { value, span } = host;
    let words = ["upstream", "preserve"];
    let near = nearest(value, words);
    let help = match *value {
        "upstream" => return HostHeader::Upstream,
        "preserve" => return HostHeader::Preserve,
        other => match near {
            Some(near) => format!("did you mean {near:?}?"),
            None if is_host(other) => return HostHeader::Fixed(other.to_owned()),
            None => "write \"upstream\", \"preserve\", or a host such as \"localhost:8080\"".into(),
        },
    };
    let fix = near.map(|near| Fix::string(problems.text(), span, near));
    problems
        .at(
            codes::VALUE,
            span,
            format!("host cannot be {}", quote(value)),
        )
        .help(help)
        .fix(fix);
    HostHeader::Upstream
}

/// The protocols that requests may switch to. Ollama and Qdrant know none.
fn protocols(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Vec<String> {
    let Some(list) = table.get::<&[At<String>]>("upgrade") else {
        return Vec::new();
    };
    if let (true, Some(entry)) = (kind != Kind::Http, table.entry("upgrade")) {
        let fix = Fix::remove_key(problems.text(), &entry);
        problems
            .at(
                codes::VALUE,
                &list.span,
                format!("upgrade is for services of kind \"http\", and this one is {kind}"),
            )
            .help("leave it out")
            .fix(fix);
    }
    for At { value, span } in list.value {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
        if value.is_empty() || !value.bytes().all(token) {
            problems
                .at(
                    codes::VALUE,
                    span,
                    format!("upgrade cannot have {}", quote(value)),
                )
                .help("write a protocol such as \"websocket\"");
        }
    }
    list.value
        .iter()
        .map(|protocol| protocol.value.clone())
        .collect()
}

/// Whether `text` can be a Host header: a name or an address, and perhaps a port.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = bracketed.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    (address || is_dns_name(host)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Warns of services that no route leads to.
fn unreachable(scope: &Scope<'_>, tables: &[Table], problems: &mut Problems<'_>) {
    let leads = |name: &str| {
        let to = |table: &Table| {
            table
                .get::<&str>("service")
                .is_some_and(|to| to.value == name)
        };
        tables.iter().any(to)
    };
    // One that leads to a misspelt name leads to some service.
    let astray = |table: &Table| {
        let to = table.get::<&str>("service");
        to.is_none_or(|to| scope.root.lacks("services", to.value))
    };
    if tables.iter().any(astray) {
        return;
    }
    let lonely: Vec<(Range<usize>, String)> = scope
        .root
        .table("services")
        .named()
        .filter(|(name, table)| {
            !leads(&name.value) && !table.has("listen") && !table.has("listen_grpc")
        })
        .map(|(name, _)| (name.span.clone(), name.value.clone()))
        .collect();
    let written = problems.text();
    let list = scope.root.span_of("routes");
    for (span, name) in lonely {
        let item = format!("{{ path = \"/{name}\", service = \"{name}\" }}");
        let block = format!("[[routes]]\npath = \"/{name}\"\nservice = \"{name}\"");
        let inline = written
            .get(list.clone())
            .is_some_and(|text| !text.starts_with("[["));
        let fix = if inline {
            Fix::add_item(written, list, &item)
        } else {
            Fix::append(written, &block)
        };
        problems
            .at(
                codes::NO_ROUTE,
                &span,
                format!("no route leads to service {}", quote(&name)),
            )
            .help(format!("add {item} to routes"))
            .fix(fix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_is_a_name_or_an_address_with_or_without_a_port() {
        for good in [
            "localhost",
            "localhost:11434",
            "example.com",
            "127.0.0.1:80",
            "[::1]:80",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "", "a b", "http://x", "x/y", "x:", "x:99999", "a@b", "[::1", "日本",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
