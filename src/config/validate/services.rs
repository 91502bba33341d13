//! `[services]`: the APIs that backends offer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;

use super::{Scope, addresses, cache, effects, load, require, timeouts, twice, url};
use crate::config::codes;
use crate::config::defaults;
use crate::config::fix::Fix;
use crate::config::problem::Problems;
use crate::config::raw::{At, Table};
use crate::config::snapshot::{BackendId, Fallback, HostHeader, Route, Service, ServiceId};
use crate::words::names::{Kind, ServiceName};

pub(super) fn read(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Vec<Service> {
    let tables: Vec<_> = scope.root.table("services").named().collect();
    let mut read = 0;
    let services: Vec<(Service, Range<usize>)> = tables
        .into_iter()
        .filter_map(|(name, table)| {
            let service = service(scope, ServiceId(read), name, table, problems)?;
            read += 1;
            let key = if table.has("port") {
                "port"
            } else {
                "backends"
            };
            let span = if table.has(key) {
                table.span_of(key)
            } else {
                &name.span
            };
            Some((service, span.clone()))
        })
        .collect();
    one_address_each(scope, &services, problems);
    url::one_service_each(scope, &services, problems);
    services.into_iter().map(|(service, _)| service).collect()
}

fn service(
    scope: &Scope<'_>,
    id: ServiceId,
    name: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Option<Service> {
    let kind_named = |word: &str| Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
    let kind = match table.get::<&str>("kind") {
        Some(word) => kind_named(word.value)?,
        None => kind_named(&name.value).unwrap_or(Kind::Http),
    };
    let backends = backends(scope, name, table, problems);
    // A url has its port.
    let needed = !scope.all_by_url(&backends);
    let port = port(name, table, kind, needed, problems);
    let fallback = table.get::<&str>("fallback").map(|word| word.value);
    let fallback = Fallback::WORDS
        .iter()
        .find(|(word, _)| Some(*word) == fallback);
    let defaults = timeouts::defaults(scope, kind, problems);
    let timeouts = timeouts::over(defaults, table.table("timeouts"), problems);
    let effects = effects::read(table, kind, problems).unwrap_or_default();
    let listen = listen(scope, name, table, "listen", problems);
    let (listen_grpc, grpc_port) = grpc(scope, name, (kind, table), problems);
    Some(Service {
        name: ServiceName::new(&name.value)?,
        kind,
        // What has no port was reported: this snapshot will not be used.
        port: port.unwrap_or_default(),
        fallback: fallback.map_or(defaults::fallback(kind), |(_, fallback)| *fallback),
        require: require::read(table, kind, problems),
        cache: cache::read(table, kind, problems),
        prewarm: require::prewarm(table, kind, problems),
        policy: load::policy(table, kind, problems),
        limit: load::limit(table, kind, problems),
        holds_switch: require::holds_switch(table, problems),
        timeouts,
        backends,
        listen,
        listen_grpc,
        grpc_port,
        whole: Route {
            path: "/".to_owned(),
            service: id,
            strip: true,
            host: HostHeader::Upstream,
            upgrade: Vec::new(),
            timeouts,
            effects,
        },
    })
}

/// The address of its own under `key`, if it has one.
fn listen(
    scope: &Scope<'_>,
    name: &At<String>,
    table: &Table,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<SocketAddr> {
    let At { value, span } = table.get::<SocketAddr>(key)?;
    let key = format!("services.{}.{key}", name.value);
    addresses::open(scope.root, &key, value, &span, problems);
    Some(value)
}

/// The address for its gRPC, and its gRPC port on the backends.
fn grpc(
    scope: &Scope<'_>,
    name: &At<String>,
    (kind, table): (Kind, &Table),
    problems: &mut Problems<'_>,
) -> (Option<SocketAddr>, Option<u16>) {
    let Some(default) = defaults::grpc_port(kind) else {
        for key in ["listen_grpc", "grpc_port"] {
            let Some(entry) = table.entry(key) else {
                continue;
            };
            let message = format!("gRPC is spoken by kind qdrant, and this is {kind}");
            let fix = Fix::remove_key(problems.text(), &entry);
            problems
                .at(codes::VALUE, &entry, message)
                .help("remove it, or say kind = \"qdrant\" if that is what it is")
                .fix(Some(fix));
        }
        return (None, None);
    };
    let listen = listen(scope, name, table, "listen_grpc", problems);
    let port = table.get::<u16>("grpc_port").map(|port| port.value);
    (listen, Some(port.unwrap_or(default)))
}

fn port(
    name: &At<String>,
    table: &Table,
    kind: Kind,
    needed: bool,
    problems: &mut Problems<'_>,
) -> Option<u16> {
    let port = table
        .get::<u16>("port")
        .map(|port| port.value)
        .or(defaults::port(kind));
    // A kind that cannot be told is why there is no default.
    if needed && port.is_none() && !table.has("port") {
        let help = if table.has("kind") {
            "add its port, as in port = 8080".to_owned()
        } else {
            let kinds = "kind = \"ollama\" or kind = \"qdrant\"";
            format!("add its port, as in port = 8080; or say what it is, as in {kinds}")
        };
        let message = format!(
            "service {} has no port, and kind http has no default",
            name.value
        );
        problems.at(codes::MISSING, &name.span, message).help(help);
    }
    port
}

/// All backends but those with a url, which offer what lists them and nothing else.
fn machines(
    scope: &Scope<'_>,
    name: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Vec<BackendId> {
    let ids = (0..scope.backends.len()).map(BackendId);
    let machines: Vec<_> = ids
        .filter(|id| scope.backends[id.0].url.is_none())
        .collect();
    if machines.is_empty() && !scope.backends.is_empty() && !table.has("backends") {
        let message = format!("no backend offers service {}", name.value);
        let fix = match scope.backends.as_slice() {
            [only] => {
                let entry = format!("backends = [\"{}\"]", only.name);
                Fix::add_key(problems.text(), &table.span, &entry)
            }
            _ => Fix::none(),
        };
        problems
            .at(codes::MISSING, &name.span, message)
            .help(
                "list one, as in backends = [\"cloud\"]: a backend with a url offers only what \
                 lists it",
            )
            .fix(fix);
    }
    machines
}

/// The backends that offer it: all machines, unless they are listed.
fn backends(
    scope: &Scope<'_>,
    name: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Vec<BackendId> {
    let Some(At { value: names, span }) = table.get::<&[At<String>]>("backends") else {
        return machines(scope, name, table, problems);
    };
    if names.is_empty() {
        let entry = table.entry("backends");
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(codes::VALUE, &span, "a service needs at least one backend")
            .help("list one, or leave the key out for all backends")
            .fix(fix);
    }
    let mut ids = Vec::new();
    for name in names {
        let Some(id) = scope.backend_named(&name.value, &name.span, problems) else {
            continue;
        };
        if ids.contains(&id) {
            twice(&name.value, &name.span, problems);
        } else {
            ids.push(id);
        }
    }
    ids
}

/// Reports endpoints that are one: the same port of the same machine.
fn one_address_each(
    scope: &Scope<'_>,
    services: &[(Service, Range<usize>)],
    problems: &mut Problems<'_>,
) {
    let mut taken: HashMap<(String, u16), (&Service, BackendId)> = HashMap::new();
    for (service, span) in services {
        // Nobody is asked by gRPC where no address is for it.
        let grpc = service.listen_grpc.and(service.grpc_port);
        let places = (service.backends.iter())
            .flat_map(|id| [(id, Some(scope.port(service, *id))), (id, grpc)])
            .filter_map(|(id, port)| Some((id, port.filter(|port| *port != 0)?)));
        for (id, port) in places {
            let host = scope.backends[id.0].host.to_ascii_lowercase();
            let address = (host, port);
            let Some((first, on)) = taken.get(&address) else {
                taken.insert(address, (service, *id));
                continue;
            };
            if id == on && scope.backends[id.0].url.is_some() {
                // Told as what it is: a url of two services.
                continue;
            }
            let [here, there] = [*id, *on].map(|id| &scope.backends[id.0].name);
            let (host, port) = address;
            let message = format!(
                "service {} on {here} and service {} on {there} are both {host}:{port}",
                service.name, first.name,
            );
            let help = if first.name == service.name {
                "give each backend a host of its own"
            } else {
                "one service can have several routes; else give each its own port"
            };
            problems.at(codes::CLASH, span, message).help(help);
            break;
        }
    }
}
