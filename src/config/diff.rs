//! What changes between two snapshots, in sentences: for the log, `POST /reload` and `tailhop diff`.
//!
//! Pure. Compares by names, never by ids: the order of the file may have changed too. Of secrets
//! it says only that they are others. Invariant: snapshots that hold in the same way have no
//! sentence between them, and others have at least one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::net::SocketAddr;

use http::HeaderName;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::snapshot::{
    Backend, Cache, DialWay, Drain, Fallback, HostHeader, Network, Pin, Require, Route, Run,
    Schedule, Scope, Service, ServiceId, Snapshot, Timeouts, Token, Url,
};
use crate::api::models::Model;
use crate::words::secret::Secret;
use crate::words::units::show_duration;

/// What is different in `new`, a sentence for each change, without a full stop; empty when nothing
/// is.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let mut changes = Changes(Vec::new());
    listen(old, new, &mut changes);
    admin(old, new, &mut changes);
    changes.value(
        "of requests that go well, one is logged in",
        &old.log_sample,
        &new.log_sample,
    );
    tailnet(old, new, &mut changes);
    run(old, new, &mut changes);
    backends(old, new, &mut changes);
    services(old, new, &mut changes);
    routes(old, new, &mut changes);
    schedule(old, new, &mut changes);
    pins(old, new, &mut changes);
    emergency(old, new, &mut changes);
    changes.0
}

struct Changes(Vec<String>);

impl Changes {
    fn say(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    /// `subject new instead of old`, if they differ.
    fn value<T: Display + PartialEq>(&mut self, subject: &str, old: &T, new: &T) {
        if old != new {
            self.say(format!("{subject} {new} instead of {old}"));
        }
    }

    /// Goes through the things of two lists that have the same key.
    fn each<'s, T, K: Eq + Hash>(
        &mut self,
        old: &'s [T],
        new: &'s [T],
        key: impl Fn(&'s T) -> K,
        mut seen: impl FnMut(&mut Self, Seen<'s, T>),
    ) {
        let stay: HashSet<K> = new.iter().map(&key).collect();
        for item in old.iter().filter(|item| !stay.contains(&key(item))) {
            seen(self, Seen::Gone(item));
        }
        let before: HashMap<K, &T> = old.iter().map(|item| (key(item), item)).collect();
        for item in new {
            match before.get(&key(item)) {
                None => seen(self, Seen::Added(item)),
                Some(before) => seen(self, Seen::Both(before, item)),
            }
        }
    }
}

enum Seen<'s, T> {
    Gone(&'s T),
    Added(&'s T),
    Both(&'s T, &'s T),
}

fn listen(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    for (key, old, new) in [
        ("listen.data", old.listen.data, new.listen.data),
        ("listen.admin", old.listen.admin, new.listen.admin),
    ] {
        if old != new {
            changes.say(format!(
                "{key} is {new} instead of {old}: this needs a restart"
            ));
        }
    }
    let what = match (&old.token, &new.token) {
        (None, Some(_)) => "clients have to present a token from now on",
        (Some(_), None) => "clients no longer have to present a token",
        (Some(old), Some(new)) if old != new => "clients have to present another token",
        _ => return,
    };
    changes.say(what);
}

/// Who may ask; of tokens only their names and that they are others.
fn admin(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let shown = |list: &[String], none: &str| match list {
        [] => none.to_owned(),
        list => list.join(", "),
    };
    let (old, new) = (&old.admin, &new.admin);
    let [was, is] = [old, new].map(|admin| shown(&admin.tailnet, "nobody"));
    changes.value("over the tailnet, admin answers", &was, &is);
    let [was, is] = [old, new].map(|admin| shown(&admin.hosts, "none"));
    changes.value("further names of admin are", &was, &is);
    let name = |token: &Token| token.name.clone();
    let may = |token: &Token| match token.scope {
        Scope::Read => "may read",
        Scope::Orders => "may read and give orders",
    };
    changes.each(&old.tokens, &new.tokens, name, |changes, seen| match seen {
        Seen::Gone(token) => changes.say(format!("the admin token {} is gone", token.name)),
        Seen::Added(token) => {
            let (name, may) = (&token.name, may(token));
            changes.say(format!("the admin token {name} is new and {may}"));
        }
        Seen::Both(before, token) => {
            let subject = format!("the admin token {}", token.name);
            let (was, is) = (may(before), may(token));
            changes.value(&subject, &was, &is);
            if before.secret != token.secret {
                changes.say(format!("{subject} is another one"));
            }
        }
    });
    match (old.functions, new.functions) {
        (false, true) => changes.say("admin takes orders from now on"),
        (true, false) => changes.say("admin takes no orders any more"),
        _ => {}
    }
}

fn tailnet(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let (old, new) = (&old.tailnet, &new.tailnet);
    let suffix = |suffix: &Option<String>| suffix.clone().unwrap_or("what tailscaled says".into());
    changes.value(
        "the tailnet's name is",
        &suffix(&old.suffix),
        &suffix(&new.suffix),
    );
    let [was, is] = [old.dial, new.dial].map(DialWay::as_str);
    changes.value("the tailnet is dialled by", &was, &is);
    let [was, is] = [old, new].map(|tailnet| tailnet.socket.display().to_string());
    changes.value("tailscaled's socket is", &was, &is);
    changes.value("tailscaled's proxy is", &old.proxy, &new.proxy);
    match (old.repair, new.repair) {
        (false, true) => changes.say("the tunnel may be repaired from now on"),
        (true, false) => changes.say("the tunnel is no longer repaired"),
        _ => {}
    }
}

/// What is different in how processes start and end; of secrets only where they are kept.
fn run(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let (old, new) = (&old.run, &new.run);
    let [was, is] = [old, new].map(|run| show_duration(run.stop));
    changes.value("from SIGTERM to the end there are", &was, &is);
    let none = || "none".to_owned();
    let shown = |run: &Run| {
        let login = &run.login;
        let credential = login.credential.as_ref();
        let credential = credential.map_or_else(none, ToString::to_string);
        [
            ("its program is", run.tailscaled.to_string()),
            ("it is admitted by", credential),
            ("its machine is called", login.hostname.clone()),
            ("its tags are", login.tags.join(", ")),
            (
                "its control server is",
                login.server.clone().unwrap_or_else(none),
            ),
        ]
    };
    for ((what, was), (_, is)) in shown(old).into_iter().zip(shown(new)) {
        let subject = format!("from the next start of tailscaled {what}");
        changes.value(&subject, &was, &is);
    }
}

fn backends(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let name = |backend: &Backend| backend.name.clone();
    changes.each(
        &old.backends,
        &new.backends,
        name,
        |changes, seen| match seen {
            Seen::Gone(backend) => changes.say(format!("backend {} is removed", backend.name)),
            Seen::Added(backend) => {
                changes.say(format!(
                    "backend {} is added, at {}",
                    backend.name,
                    site(backend)
                ));
                drain(backend, None, new, changes);
            }
            Seen::Both(before, backend) => {
                let name = &backend.name;
                let [was, is] = [before, backend].map(site);
                changes.value(&format!("{name} is reached at"), &was, &is);
                let [was, is] = [before.network, backend.network].map(Network::as_str);
                changes.value(&format!("the network to {name} is"), &was, &is);
                url(backend, before.url.as_deref(), changes);
                drain(backend, before.drain.as_ref(), new, changes);
            }
        },
    );
}

/// What is different in the headers that `whom` gets.
fn headers(whom: &str, [old, new]: [&[(HeaderName, Secret)]; 2], changes: &mut Changes) {
    for (header, secret) in new {
        match old.iter().find(|(other, _)| other == header) {
            None => changes.say(format!("{whom} gets the header {header}")),
            Some((_, before)) if before != secret => {
                changes.say(format!("{whom} gets another secret in the header {header}"));
            }
            Some(_) => {}
        }
    }
    for (header, _) in old {
        if !new.iter().any(|(other, _)| other == header) {
            changes.say(format!("{whom} no longer gets the header {header}"));
        }
    }
}

/// Where a backend is.
fn site(backend: &Backend) -> String {
    let host = || backend.host.to_string();
    backend.url.as_ref().map_or_else(host, |url| url.origin())
}

/// What is different in what belongs to a url.
fn url(backend: &Backend, before: Option<&Url>, changes: &mut Changes) {
    let (Some(old), Some(new)) = (before, backend.url.as_deref()) else {
        return;
    };
    let name = &backend.name;
    headers(name.as_str(), [&old.headers, &new.headers], changes);
    let read = |url: &Url| url.read_headers.clone().unwrap_or_default();
    let reads = format!("{name}, for reads while it is not the active one,");
    headers(&reads, [&read(old), &read(new)], changes);
    if old.read_headers.is_some() && new.read_headers.is_none() {
        changes.say(format!("{reads} gets the headers of all requests"));
    }
    if old.roots != new.roots {
        let who = |url: &Url| match &url.roots {
            None => "the public roots".to_owned(),
            Some(roots) => format!("{} of its own", roots.len()),
        };
        let (was, is) = (who(old), who(new));
        changes.say(if was == is {
            format!("{name} is trusted by other roots")
        } else {
            format!("{name} is trusted by {is} instead of {was}")
        });
    }
}

fn drain(backend: &Backend, before: Option<&Drain>, new: &Snapshot, changes: &mut Changes) {
    if backend.drain.as_ref() == before {
        return;
    }
    let name = &backend.name;
    changes.say(match &backend.drain {
        None => format!("{name} is no longer drained: work goes to it again"),
        Some(drain) => {
            let until = drain.until.map(|until| date(until, &new.schedule.zone));
            let order = order(until, drain.reason.as_ref(), drain.by.as_ref());
            format!("{name} is drained{order}: no new work goes to it")
        }
    });
}

/// ` until .., by .. (reason)`.
fn order(until: Option<String>, reason: Option<&String>, by: Option<&String>) -> String {
    let until = until
        .map(|until| format!(" until {until}"))
        .unwrap_or_default();
    let by = by.map(|by| format!(", by {by:?}")).unwrap_or_default();
    let reason = reason
        .map(|reason| format!(" ({reason:?})"))
        .unwrap_or_default();
    format!("{until}{by}{reason}")
}

fn services(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let name = |service: &Service| service.name.clone();
    changes.each(
        &old.services,
        &new.services,
        name,
        |changes, seen| match seen {
            Seen::Gone(service) => {
                changes.say(format!("service {} is removed", service.name));
                own_addresses(service, Some(service), None, changes);
            }
            Seen::Added(service) => {
                let on = names(new, &service.backends);
                changes.say(format!("service {} is added, on {on}", service.name));
                own_addresses(service, None, Some(service), changes);
            }
            Seen::Both(before, service) => {
                let subject = subject(new, service);
                let at = |what: &str| format!("{subject}: {what}");
                changes.value(&at("its kind is"), &before.kind, &service.kind);
                changes.value(&at("its port is"), &before.port, &service.port);
                fallback(&subject, before.fallback, service.fallback, changes);
                required(&subject, before, service, changes);
                let [was, is] = [before, service].map(|service| names_of(&service.prewarm));
                changes.value(&at("it loads ahead"), &was, &is);
                changes.value(
                    &at("inference goes to the backend that is"),
                    &before.policy.as_str(),
                    &service.policy.as_str(),
                );
                changes.value(&at("its limit is"), &limit(before), &limit(service));
                holds_switch(&subject, before, service, changes);
                changes.value(&at("its cache has"), &kept(before), &kept(service));
                let port = |service: &Service| {
                    let port = service.grpc_port;
                    port.map_or("none".to_owned(), |port| port.to_string())
                };
                changes.value(&at("its gRPC port is"), &port(before), &port(service));
                own_addresses(service, Some(before), Some(service), changes);
                effects(&subject, &before.whole, &service.whole, changes);
                offered(&subject, (old, before), (new, service), changes);
                timeouts(&subject, &before.timeouts, &service.timeouts, changes);
            }
        },
    );
}

/// A service as those know it who ask for it: by the routes that lead to it, if there are some.
fn subject(snapshot: &Snapshot, service: &Service) -> String {
    let leads = |route: &&Route| snapshot.service(route.service).name == service.name;
    let paths: Vec<_> = snapshot.routes.iter().filter(leads).collect();
    let paths: Vec<_> = paths.iter().map(|route| route.path.as_str()).collect();
    match paths.as_slice() {
        [] => format!("service {}", service.name),
        [one] => format!("route {one}"),
        several => format!("routes {}", several.join(", ")),
    }
}

fn fallback(subject: &str, old: Fallback, new: Fallback, changes: &mut Changes) {
    let what = match (old, new) {
        (Fallback::None, Fallback::Reads) => "reads may now fall back",
        (Fallback::None, Fallback::All) => "reads and inference may now fall back",
        (Fallback::Reads, Fallback::All) => "inference may now fall back too",
        (Fallback::All, Fallback::Reads) => "inference may no longer fall back",
        (Fallback::All | Fallback::Reads, Fallback::None) => "nothing may fall back any more",
        _ => return,
    };
    changes.say(format!("{subject}: {what}"));
}

fn required(subject: &str, old: &Service, new: &Service, changes: &mut Changes) {
    let said = format!("{subject}: it requires");
    let [was, is] = [old, new].map(|service| names_of(&service.require.models));
    changes.value(&said, &was, &is);
    let [was, is] = [old, new].map(|service| collections(&service.require));
    changes.value(&said, &was, &is);
    let [was, is] = [old, new].map(Service::switches_move_reads_alone);
    if was != is {
        changes.say(format!(
            "{subject}: a planned switch {} writes",
            if is { "no longer moves" } else { "now moves" }
        ));
    }
}

/// Collections in words.
fn collections(require: &Require) -> String {
    let Require {
        collections,
        min_points,
        ..
    } = require;
    let what = match collections.as_slice() {
        [] => return "no collection".to_owned(),
        [one] => format!("collection {one}"),
        several => format!("collections {}", several.join(", ")),
    };
    match min_points {
        0 | 1 => what,
        least => format!("{what} with {least} points"),
    }
}

/// Models in words.
fn names_of(models: &[Model]) -> String {
    let models: Vec<_> = models.iter().map(Model::as_str).collect();
    if models.is_empty() {
        "no model".to_owned()
    } else {
        models.join(", ")
    }
}

/// The embeddings that are kept, in words.
fn kept(service: &Service) -> String {
    service.cache.map_or("nothing".to_owned(), |cache| {
        let Cache {
            entries, megabytes, ..
        } = cache;
        let ttl = show_duration(cache.ttl);
        format!("{entries} embeddings in {megabytes} MB for {ttl}")
    })
}

/// How many inferences it works on, in words.
fn limit(service: &Service) -> String {
    let Some(limit) = &service.limit else {
        return "none".to_owned();
    };
    let spill = if limit.spill { ", then another" } else { "" };
    format!(
        "{} at once, {} wait up to {}{spill}",
        limit.in_flight,
        limit.queue,
        show_duration(limit.wait)
    )
}

fn holds_switch(subject: &str, old: &Service, new: &Service, changes: &mut Changes) {
    if old.holds_switch != new.holds_switch {
        let what = if new.holds_switch {
            "waits for"
        } else {
            "no longer waits for"
        };
        changes.say(format!(
            "{subject}: a planned switch {what} what it requires"
        ));
    }
}

/// The addresses of its own, which are bound at the start only.
fn own_addresses(
    service: &Service,
    was: Option<&Service>,
    is: Option<&Service>,
    changes: &mut Changes,
) {
    type Own = fn(&Service) -> Option<SocketAddr>;
    let keys: [(&str, Own); 2] = [
        ("listen", |service| service.listen),
        ("listen_grpc", |service| service.listen_grpc),
    ];
    for (key, own) in keys {
        let [was, is] = [was, is].map(|service| {
            let own = service.and_then(own);
            own.map_or("none".to_owned(), |at| at.to_string())
        });
        if was != is {
            let name = &service.name;
            changes.say(format!(
                "services.{name}.{key} is {is} instead of {was}: this needs a restart"
            ));
        }
    }
}

fn effects(subject: &str, old: &Route, new: &Route, changes: &mut Changes) {
    let shown = |route: &Route| match route.effects.as_slice() {
        [] => "those of the methods".to_owned(),
        rules => {
            let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
            rules.join("; ")
        }
    };
    let what = format!("{subject}: its effects are");
    changes.value(&what, &shown(old), &shown(new));
}

/// Who offers a service now, and who no longer.
fn offered(
    subject: &str,
    (old, before): (&Snapshot, &Service),
    (new, service): (&Snapshot, &Service),
    changes: &mut Changes,
) {
    let of = |snapshot: &Snapshot, service: &Service| -> Vec<String> {
        let ids = service.backends.iter();
        ids.map(|id| snapshot.backend(*id).name.to_string())
            .collect()
    };
    let (was, is) = (of(old, before), of(new, service));
    for name in is.iter().filter(|name| !was.contains(name)) {
        changes.say(format!("{subject}: {name} offers it too"));
    }
    for name in was.iter().filter(|name| !is.contains(name)) {
        changes.say(format!("{subject}: {name} no longer offers it"));
    }
    let stayed = |those: &[String], others: &[String]| -> Vec<String> {
        let both = those.iter().filter(|name| others.contains(name));
        both.cloned().collect()
    };
    if stayed(&was, &is) != stayed(&is, &was) {
        changes.say(format!(
            "{subject}: its backends come in the order {}",
            is.join(", ")
        ));
    }
}

fn timeouts(subject: &str, old: &Timeouts, new: &Timeouts, changes: &mut Changes) {
    let mut value = |what: &str, old: String, new: String| {
        changes.value(&format!("{subject}: {what} is"), &old, &new);
    };
    for (what, old, new) in [
        ("race", old.race, new.race),
        ("connect", old.connect, new.connect),
        ("wait", old.wait, new.wait),
        ("start", old.start, new.start),
        ("head of inference", old.head_inference, new.head_inference),
        ("head of reads", old.head_read, new.head_read),
        ("idle of inference", old.idle_inference, new.idle_inference),
        ("idle", old.idle, new.idle),
        ("probe", old.probe, new.probe),
    ] {
        // Rounded for people: two lengths that look equal are told exactly.
        let [was, is] = [old, new].map(show_duration);
        let exact = was == is && old != new;
        let [was, is] = if exact {
            [old, new].map(|length| format!("{length:?}"))
        } else {
            [was, is]
        };
        value(what, was, is);
    }
    let bound = |bound: Option<_>, none: &str| bound.map_or(none.to_owned(), show_duration);
    let [was, is] = [old.head_change, new.head_change].map(|head| bound(head, "total"));
    value("head of writes", was, is);
    let [was, is] = [old.total, new.total].map(|total| bound(total, "none"));
    value("total", was, is);
}

fn routes(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let path = |route: &Route| route.path.clone();
    changes.each(&old.routes, &new.routes, path, |changes, seen| match seen {
        Seen::Gone(route) => changes.say(format!("route {} is removed", route.path)),
        Seen::Added(route) => {
            let service = &new.service(route.service).name;
            changes.say(format!(
                "route {} is added and leads to {service}",
                route.path
            ));
        }
        Seen::Both(before, route) => route_of_both((old, before), (new, route), changes),
    });
}

fn route_of_both(
    (old, before): (&Snapshot, &Route),
    (new, route): (&Snapshot, &Route),
    changes: &mut Changes,
) {
    let subject = format!("route {}", route.path);
    let (from, to) = (old.service(before.service), new.service(route.service));
    changes.value(&format!("{subject} leads to"), &from.name, &to.name);
    match (before.strip, route.strip) {
        (true, false) => changes.say(format!("{subject}: the prefix stays on")),
        (false, true) => changes.say(format!("{subject}: the prefix is taken off")),
        _ => {}
    }
    changes.value(
        &format!("{subject}: its host is"),
        &host(before),
        &host(route),
    );
    let upgrade = |route: &Route| match route.upgrade.join(", ") {
        none if none.is_empty() => "nothing".to_owned(),
        some => some,
    };
    let what = format!("{subject}: requests may switch to");
    changes.value(&what, &upgrade(before), &upgrade(route));
    // What a route has from its service was said there.
    if before.effects != from.whole.effects || route.effects != to.whole.effects {
        effects(&subject, before, route, changes);
    }
    let own = before.timeouts != from.timeouts || route.timeouts != to.timeouts;
    if own && from.name == to.name {
        timeouts(&subject, &before.timeouts, &route.timeouts, changes);
    }
}

fn host(route: &Route) -> &str {
    match &route.host {
        HostHeader::Upstream => "upstream",
        HostHeader::Preserve => "preserve",
        HostHeader::Fixed(host) => host,
    }
}

fn schedule(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let zone = |schedule: &Schedule| schedule.zone.iana_name().unwrap_or("UTC").to_owned();
    let [was, is] = [&old.schedule, &new.schedule].map(zone);
    changes.value("the schedule's time zone is", &was, &is);
    let mut told: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for service in &new.services {
        let Some(before) = old.service_named(&service.name) else {
            continue;
        };
        let (was, is) = (timeline(old, before), timeline(new, service));
        if was != is {
            let words = [was, is].map(|line| in_words(&line, &new.schedule.zone));
            let [was, is] = words;
            told.entry((was, is))
                .or_default()
                .push(service.name.to_string());
        }
    }
    for ((was, is), services) in told {
        let all = services.len() == new.services.len();
        let subject = if all {
            String::new()
        } else {
            format!("{}: ", services.join(", "))
        };
        changes.say(format!("{subject}{is} (before: {was})"));
    }
}

/// Who is active from when on, for one service, as the schedule says it.
fn timeline(snapshot: &Snapshot, service: &Service) -> Vec<(Option<Timestamp>, String)> {
    let name = |id| snapshot.backend(id).name.to_string();
    let mut line = vec![(None, name(snapshot.schedule.default))];
    for switch in &snapshot.schedule.switches {
        let own = |ids: &Vec<ServiceId>| {
            ids.iter()
                .any(|id| snapshot.service(*id).name == service.name)
        };
        if switch.services.as_ref().is_none_or(own) {
            line.push((Some(switch.at), name(switch.to)));
        }
    }
    line
}

/// `macbook-m1 is active until 17 February 2025, then mac-dev1`.
fn in_words(line: &[(Option<Timestamp>, String)], zone: &TimeZone) -> String {
    let mut words = String::new();
    for (place, (_, name)) in line.iter().enumerate() {
        words += &match place {
            0 => format!("{name} is active"),
            _ => format!(", then {name}"),
        };
        if let Some((Some(until), _)) = line.get(place + 1) {
            words += &format!(" until {}", date(*until, zone));
        }
    }
    words
}

/// `17 February 2025`, with the time if it is not midnight.
fn date(at: Timestamp, zone: &TimeZone) -> String {
    let at = at.to_zoned(zone.clone());
    let midnight = at.time() == jiff::civil::Time::midnight();
    let form = if midnight {
        "%-d %B %Y"
    } else {
        "%-d %B %Y, %H:%M:%S %:z"
    };
    at.strftime(form).to_string().replace(":00 ", " ")
}

fn pins(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let lines = |snapshot: &Snapshot| -> Vec<String> {
        let pins = snapshot.pins.iter();
        pins.map(|one| pin(snapshot, one, new)).collect()
    };
    let (was, is) = (lines(old), lines(new));
    for line in was.iter().filter(|line| !is.contains(line)) {
        changes.say(format!("the pin {line} is gone"));
    }
    for line in is.iter().filter(|line| !was.contains(line)) {
        changes.say(format!("a new pin {line}"));
    }
}

/// `to .. for .. until .., by .. (reason)`; times in the zone of the new snapshot, so that equal
/// ones look equal.
fn pin(snapshot: &Snapshot, pin: &Pin, new: &Snapshot) -> String {
    let until = pin.until.map(|until| date(until, &new.schedule.zone));
    let services = match &pin.services {
        None => String::new(),
        Some(ids) => {
            let names = ids.iter().map(|id| snapshot.service(*id).name.as_str());
            format!(" for {}", names.collect::<Vec<_>>().join(", "))
        }
    };
    let writes = match (pin.writes, pin.hold_writes) {
        (false, false) => "",
        (true, false) => ", writes too,",
        (false, true) => ", writes held,",
        (true, true) => ", writes too, but held,",
    };
    let order = order(until, pin.reason.as_ref(), pin.by.as_ref());
    let to = &snapshot.backend(pin.to).name;
    format!("to {to}{services}{writes}{order}")
        .trim_end_matches(',')
        .to_owned()
}

fn emergency(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let active = |snapshot: &Snapshot| {
        let id = snapshot.active_backend;
        id.map_or("unset".into(), |id| snapshot.backend(id).name.to_string())
    };
    changes.value("ACTIVE_BACKEND is", &active(old), &active(new));
}

fn names(snapshot: &Snapshot, ids: &[super::snapshot::BackendId]) -> String {
    let names: Vec<_> = ids
        .iter()
        .map(|id| snapshot.backend(*id).name.as_str())
        .collect();
    names.join(", ")
}
