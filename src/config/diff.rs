//! What changed between two snapshots, in words, for the log and for `check`.
//!
//! Pure. Compares by names, never by ids: the order of the file may have changed too.

use std::fmt::Display;

use super::moment::show;
use super::snapshot::{
    Backend, DialWay, Drain, Fallback, HostHeader, Network, Pin, Route, Run, Schedule, Scope,
    Service, ServiceId, Snapshot, Switch, Timeouts, Token, Url,
};
use crate::words::units::show_duration;

/// What is different in `new`, one line for each change; empty when nothing is.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let mut changes = Changes(Vec::new());
    listen(old, new, &mut changes);
    admin(old, new, &mut changes);
    tailnet(old, new, &mut changes);
    run(old, new, &mut changes);
    backends(old, new, &mut changes);
    services(old, new, &mut changes);
    routes(old, new, &mut changes);
    schedule(old, new, &mut changes);
    pins(old, new, &mut changes);
    let active = |snapshot: &Snapshot| {
        snapshot
            .active_backend
            .map_or("unset".into(), |id| snapshot.backend(id).name.to_string())
    };
    changes.value("ACTIVE_BACKEND", "", &active(old), &active(new));
    changes.0
}

struct Changes(Vec<String>);

impl Changes {
    fn say(&mut self, line: String) {
        self.0.push(line);
    }

    /// `subject: what old -> new`, if they differ.
    fn value<T: Display + PartialEq>(&mut self, subject: &str, what: &str, old: &T, new: &T) {
        if old != new {
            let blank = if what.is_empty() { "" } else { " " };
            self.say(format!("{subject}: {what}{blank}{old} -> {new}"));
        }
    }

    /// Goes through the things of two lists that have the same key.
    fn each<'s, T, K: PartialEq>(
        &mut self,
        old: &'s [T],
        new: &'s [T],
        key: impl Fn(&'s T) -> K,
        mut seen: impl FnMut(&mut Self, Seen<'s, T>),
    ) {
        for item in old
            .iter()
            .filter(|item| !new.iter().any(|other| key(other) == key(item)))
        {
            seen(self, Seen::Gone(item));
        }
        for item in new {
            match old.iter().find(|other| key(other) == key(item)) {
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
            changes.say(format!("{key} changed: needs a restart ({old} -> {new})"));
        }
    }
    let what = match (&old.token, &new.token) {
        (None, Some(_)) => "asked for from now on",
        (Some(_), None) => "no longer asked for",
        (Some(old), Some(new)) if old != new => "another one",
        _ => return,
    };
    changes.say(format!("listen.token: {what}"));
}

/// Who may ask; of tokens only their names and that they are others.
fn admin(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let shown = |list: &[String]| match list {
        [] => "nobody".to_owned(),
        list => list.join(", "),
    };
    let (old, new) = (&old.admin, &new.admin);
    let [was, is] = [old, new].map(|admin| shown(&admin.tailnet));
    changes.value("admin", "tailnet", &was, &is);
    let [was, is] = [old, new].map(|admin| admin.hosts.join(", "));
    changes.value("admin", "hosts", &was, &is);
    let name = |token: &Token| token.name.clone();
    changes.each(&old.tokens, &new.tokens, name, |changes, seen| match seen {
        Seen::Gone(token) => changes.say(format!("admin token {}: removed", token.name)),
        Seen::Added(token) => {
            let scope = token.scope.as_str();
            changes.say(format!("admin token {}: added, scope {scope}", token.name));
        }
        Seen::Both(before, token) => {
            let subject = format!("admin token {}", token.name);
            let [was, is] = [before.scope, token.scope].map(Scope::as_str);
            changes.value(&subject, "scope", &was, &is);
            if before.secret != token.secret {
                changes.say(format!("{subject}: another one"));
            }
        }
    });
}

fn tailnet(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let suffix = |snapshot: &Snapshot| {
        snapshot
            .tailnet
            .suffix
            .clone()
            .unwrap_or("asked".to_owned())
    };
    changes.value("tailnet", "name", &suffix(old), &suffix(new));
    let (old, new) = (&old.tailnet, &new.tailnet);
    changes.value(
        "tailnet",
        "dial",
        &DialWay::as_str(old.dial),
        &DialWay::as_str(new.dial),
    );
    let [was, is] = [old, new].map(|tailnet| tailnet.socket.display().to_string());
    changes.value("tailnet", "socket", &was, &is);
    changes.value("tailnet", "repair", &old.repair, &new.repair);
    changes.value("tailnet", "proxy", &old.proxy, &new.proxy);
}

/// What is different in how processes start and end; of secrets only where they are kept.
fn run(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let (old, new) = (&old.run, &new.run);
    changes.value(
        "run",
        "stop",
        &show_duration(old.stop),
        &show_duration(new.stop),
    );
    let none = || "none".to_owned();
    let shown = |run: &Run| {
        [
            ("tailscaled", run.tailscaled.to_string()),
            (
                "credential",
                run.login
                    .credential
                    .as_ref()
                    .map_or_else(none, ToString::to_string),
            ),
            ("hostname", run.login.hostname.clone()),
            ("tags", run.login.tags.join(", ")),
            (
                "login_server",
                run.login.server.clone().unwrap_or_else(none),
            ),
        ]
    };
    for ((what, was), (_, is)) in shown(old).into_iter().zip(shown(new)) {
        if was != is {
            changes.say(format!(
                "tailnet: {what} {was} -> {is}, from the next start of tailscaled"
            ));
        }
    }
}

fn backends(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let name = |backend: &Backend| backend.name.clone();
    changes.each(
        &old.backends,
        &new.backends,
        name,
        |changes, seen| match seen {
            Seen::Gone(backend) => changes.say(format!("backend {}: removed", backend.name)),
            Seen::Added(backend) => {
                let at = backend.url.as_ref().map_or_else(
                    || format!("host {}", backend.host),
                    |url| format!("url {}", url.origin()),
                );
                changes.say(format!("backend {}: added, {at}", backend.name));
                drain(backend, None, new, changes);
            }
            Seen::Both(before, backend) => {
                let subject = format!("backend {}", backend.name);
                changes.value(&subject, "host", &before.host, &backend.host);
                let [was, is] = [before.network, backend.network].map(Network::as_str);
                changes.value(&subject, "dial", &was, &is);
                url(
                    &subject,
                    before.url.as_deref(),
                    backend.url.as_deref(),
                    changes,
                );
                drain(backend, before.drain.as_ref(), new, changes);
            }
        },
    );
}

/// What is different in a url and in what belongs to it; of secrets only that they are.
fn url(subject: &str, old: Option<&Url>, new: Option<&Url>, changes: &mut Changes) {
    let shown = |url: Option<&Url>| url.map_or("none".to_owned(), Url::origin);
    changes.value(subject, "url", &shown(old), &shown(new));
    let (Some(old), Some(new)) = (old, new) else {
        return;
    };
    let names = |url: &Url| match url.headers.as_slice() {
        [] => "none".to_owned(),
        headers => {
            let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
            names.join(", ")
        }
    };
    changes.value(subject, "headers", &names(old), &names(new));
    for (name, secret) in &new.headers {
        let before = old.headers.iter().find(|(other, _)| other == name);
        if before.is_some_and(|(_, before)| before != secret) {
            changes.say(format!("{subject}: another secret in header {name}"));
        }
    }
    if old.roots != new.roots {
        let who = |url: &Url| match &url.roots {
            None => "the public roots".to_owned(),
            Some(roots) => format!("{} of its own", roots.len()),
        };
        changes.say(format!("{subject}: ca {} -> {}", who(old), who(new)));
    }
}

fn drain(backend: &Backend, before: Option<&Drain>, new: &Snapshot, changes: &mut Changes) {
    if backend.drain.as_ref() == before {
        return;
    }
    let what = match &backend.drain {
        None => "no longer drained".to_owned(),
        Some(drain) => {
            let until = drain.until.map(|until| show(until, &new.schedule.zone));
            format!(
                "drained{}",
                order(until, drain.reason.as_ref(), drain.by.as_ref())
            )
        }
    };
    changes.say(format!("backend {}: {what}", backend.name));
}

/// ` until .., by ..: reason`.
fn order(until: Option<String>, reason: Option<&String>, by: Option<&String>) -> String {
    let until = until
        .map(|until| format!(" until {until}"))
        .unwrap_or_default();
    let by = by.map(|by| format!(" by {by:?}")).unwrap_or_default();
    let reason = reason
        .map(|reason| format!(", reason {reason:?}"))
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
                changes.say(format!("service {}: removed", service.name));
                own_address(service, &own(service), "none", changes);
            }
            Seen::Added(service) => {
                changes.say(format!(
                    "service {}: added, port {}",
                    service.name, service.port
                ));
                own_address(service, "none", &own(service), changes);
            }
            Seen::Both(before, service) => {
                let subject = format!("service {}", service.name);
                changes.value(&subject, "kind", &before.kind, &service.kind);
                changes.value(&subject, "port", &before.port, &service.port);
                let [was, is] = [before.fallback, service.fallback].map(Fallback::as_str);
                changes.value(&subject, "fallback", &was, &is);
                let [was, is] = [before, service].map(own);
                own_address(service, &was, &is, changes);
                effects(&subject, &before.whole, &service.whole, changes);
                let (was, is) = (offered(old, before), offered(new, service));
                changes.value(&subject, "backends", &was, &is);
                timeouts(&subject, &before.timeouts, &service.timeouts, changes);
            }
        },
    );
}

/// The address of its own, in words.
fn own(service: &Service) -> String {
    service
        .listen
        .map_or("none".to_owned(), |at| at.to_string())
}

fn own_address(service: &Service, was: &str, is: &str, changes: &mut Changes) {
    if was != is {
        let name = &service.name;
        changes.say(format!(
            "services.{name}.listen changed: needs a restart ({was} -> {is})"
        ));
    }
}

fn effects(subject: &str, old: &Route, new: &Route, changes: &mut Changes) {
    let shown = |route: &Route| match route.effects.as_slice() {
        [] => "by method".to_owned(),
        rules => {
            let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
            rules.join("; ")
        }
    };
    changes.value(subject, "effects", &shown(old), &shown(new));
}

fn offered(snapshot: &Snapshot, service: &Service) -> String {
    let names: Vec<_> = service
        .backends
        .iter()
        .map(|id| snapshot.backend(*id).name.as_str())
        .collect();
    names.join(", ")
}

fn timeouts(subject: &str, old: &Timeouts, new: &Timeouts, changes: &mut Changes) {
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
        changes.value(subject, what, &show_duration(old), &show_duration(new));
    }
    let bound = |bound: Option<_>, none: &str| bound.map_or(none.to_owned(), show_duration);
    let [was, is] = [old.head_change, new.head_change].map(|head| bound(head, "total"));
    changes.value(subject, "head of writes", &was, &is);
    let [was, is] = [old.total, new.total].map(|total| bound(total, "none"));
    changes.value(subject, "total", &was, &is);
}

fn routes(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let path = |route: &Route| route.path.clone();
    changes.each(&old.routes, &new.routes, path, |changes, seen| match seen {
        Seen::Gone(route) => changes.say(format!("route {}: removed", route.path)),
        Seen::Added(route) => {
            let service = &new.service(route.service).name;
            changes.say(format!("route {}: added, to service {service}", route.path));
        }
        Seen::Both(before, route) => {
            let subject = format!("route {}", route.path);
            let (from, to) = (old.service(before.service), new.service(route.service));
            changes.value(&subject, "service", &from.name, &to.name);
            changes.value(&subject, "strip", &before.strip, &route.strip);
            changes.value(&subject, "host", &host(before), &host(route));
            let upgrade = |route: &Route| route.upgrade.join(", ");
            changes.value(&subject, "upgrade", &upgrade(before), &upgrade(route));
            // What a route has from its service was said there.
            if before.effects != from.whole.effects || route.effects != to.whole.effects {
                effects(&subject, before, route, changes);
            }
            let own = before.timeouts != from.timeouts || route.timeouts != to.timeouts;
            if own && from.name == to.name {
                timeouts(&subject, &before.timeouts, &route.timeouts, changes);
            }
        }
    });
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
    changes.value(
        "schedule",
        "timezone",
        &zone(&old.schedule),
        &zone(&new.schedule),
    );
    let default = |snapshot: &Snapshot| snapshot.backend(snapshot.schedule.default).name.clone();
    changes.value("schedule", "default", &default(old), &default(new));
    let lines = |snapshot: &Snapshot| -> Vec<String> {
        snapshot
            .schedule
            .switches
            .iter()
            .map(|one| switch(snapshot, one, new))
            .collect()
    };
    added_and_removed("switch", &lines(old), &lines(new), changes);
}

/// `at .. to .. for ..`; times in the zone of the new snapshot, so that equal ones look equal.
fn switch(snapshot: &Snapshot, switch: &Switch, new: &Snapshot) -> String {
    let at = show(switch.at, &new.schedule.zone);
    let services = services_of(snapshot, switch.services.as_ref());
    format!("at {at} to {}{services}", snapshot.backend(switch.to).name)
}

fn pins(old: &Snapshot, new: &Snapshot, changes: &mut Changes) {
    let lines = |snapshot: &Snapshot| -> Vec<String> {
        snapshot
            .pins
            .iter()
            .map(|one| pin(snapshot, one, new))
            .collect()
    };
    added_and_removed("pin", &lines(old), &lines(new), changes);
}

fn pin(snapshot: &Snapshot, pin: &Pin, new: &Snapshot) -> String {
    let until = pin.until.map(|until| show(until, &new.schedule.zone));
    let services = services_of(snapshot, pin.services.as_ref());
    let writes = if pin.writes { " with writes" } else { "" };
    let order = order(until, pin.reason.as_ref(), pin.by.as_ref());
    format!(
        "to {}{services}{writes}{order}",
        snapshot.backend(pin.to).name
    )
}

fn services_of(snapshot: &Snapshot, services: Option<&Vec<ServiceId>>) -> String {
    let Some(ids) = services else {
        return String::new();
    };
    let names: Vec<_> = ids
        .iter()
        .map(|id| snapshot.service(*id).name.as_str())
        .collect();
    format!(" for {}", names.join(", "))
}

fn added_and_removed(subject: &str, old: &[String], new: &[String], changes: &mut Changes) {
    for line in old.iter().filter(|line| !new.contains(line)) {
        changes.say(format!("{subject} {line}: removed"));
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        changes.say(format!("{subject} {line}: added"));
    }
}
