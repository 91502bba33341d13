//! What the values of the file mean together with the environment: the way to a [`Snapshot`].
//!
//! Owns the checks that need more than one value; those of one value are in `raw`. Reports every
//! problem it can see and goes on with what is left. Invariant: a snapshot comes out only where
//! its parts are whole; whether it may be used, the caller decides by the errors reported.

mod addresses;
mod admin;
mod backends;
mod cache;
mod effects;
mod load;
mod orders;
mod require;
mod routes;
mod run;
mod schedule;
mod secrets;
mod services;
mod timeouts;
mod url;

use std::ops::Range;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::codes::{self, Code};
use super::defaults;
use super::env::Environment;
use super::fix::Fix;
use super::moment::{Moment, show};
use super::problem::{Hint, Problems, list, quote, suggest};
use super::raw::{At, Table};
use super::snapshot::{Backend, BackendId, Origin, Service, ServiceId, Snapshot};
use super::whole::Whole;

/// What the checks share. Filled from top to bottom, as each part needs those before it.
struct Scope<'a> {
    root: &'a Table,
    env: &'a Environment,
    /// `None`: unknown, and reported. Then times without an offset mean nothing.
    zone: Option<TimeZone>,
    backends: Vec<Backend>,
    services: Vec<Service>,
}

/// The snapshot that the tables of the file and the environment make.
pub(super) fn snapshot(
    root: &Table,
    whole: &Whole,
    env: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Snapshot> {
    not_nothing(root, problems);
    let zone = schedule::zone(root, problems);
    let mut scope = Scope {
        root,
        env,
        zone,
        backends: Vec::new(),
        services: Vec::new(),
    };
    let listen = addresses::listen(root, problems);
    let token = secrets::token(&scope, problems);
    let mut tailnet = addresses::tailnet(&scope, problems);
    scope.backends = backends::read(&scope, problems);
    scope.services = services::read(&scope, problems);
    tailnet.dial = addresses::dial_needed(&scope, tailnet.dial);
    addresses::clashes(&scope, listen, &tailnet, problems);
    let admin = admin::read(&scope, problems);
    admin::exposure(&scope, &admin, listen, problems);
    let run = run::read(&scope, &admin, problems);
    let routes = routes::read(&scope, problems);
    let active_backend = orders::active_backend(&scope, problems);
    let pins = orders::pins(&scope, problems);
    let schedule = schedule::read(&scope, active_backend, problems)?;
    let origin = Origin {
        path: whole.path().to_owned(),
        hash: whole.hash().to_owned(),
        stand_in: false,
    };
    let sample = root.table("log").get::<u16>("sample");
    Some(Snapshot {
        generation: 0,
        origin,
        log_sample: sample.map_or(1, |sample| sample.value),
        listen,
        token,
        admin,
        tailnet,
        run,
        backends: scope.backends,
        services: scope.services,
        routes,
        schedule,
        pins,
        active_backend,
        warnings: Vec::new(),
        files: Vec::new(),
    })
}

/// A file without machines or without services is half of one, or another file.
fn not_nothing(root: &Table, problems: &mut Problems<'_>) {
    let parts = [
        ("backends", "machines", "macbook-m1 = {}"),
        ("services", "services", "ollama = {}"),
    ];
    let lacks = |key: &str| {
        let table = root.get::<&Table>(key);
        !root.has(key) || table.is_some_and(|table| table.value.is_empty())
    };
    let all = parts.iter().all(|(key, ..)| lacks(key));
    for (key, what, example) in parts.into_iter().filter(|(key, ..)| lacks(key)) {
        let message = format!("no {what}: [{key}] is missing or empty");
        let help = if all {
            format!("the smallest valid file is\n\n{}", defaults::SMALLEST)
        } else {
            format!("add them to [{key}], as in {example}")
        };
        let (text, span) = (problems.text(), root.span_of(key));
        if root.has(key) {
            let fix = Fix::add_key(text, span, example);
            problems
                .at(codes::MISSING, span, message)
                .help(help)
                .fix(fix);
        } else {
            let fix = Fix::append(text, &format!("[{key}]\n{example}"));
            problems
                .outside(codes::MISSING, message)
                .help(help)
                .fix(fix);
        }
    }
}

impl Scope<'_> {
    /// The instant under `key`.
    fn instant(&self, table: &Table, key: &str, problems: &mut Problems<'_>) -> Option<Timestamp> {
        let At { value, span } = table.get::<Moment>(key)?;
        match value.instant(self.zone.as_ref()?) {
            Ok(instant) => Some(instant),
            Err(ambiguous) => {
                let (message, help) = ambiguous.message_and_help(key);
                // As most programs read it: by the offset before the change.
                let [earlier, later] = &ambiguous.candidates;
                let meant = if ambiguous.skipped { later } else { earlier };
                problems
                    .at(codes::NO_INSTANT, &span, message)
                    .help(help)
                    .fix(Fix::replace(&span, meant));
                None
            }
        }
    }

    /// `instant` in the zone of the schedule.
    fn show(&self, instant: Timestamp) -> String {
        show(instant, self.zone.as_ref().unwrap_or(&TimeZone::UTC))
    }

    /// The backend under `key`.
    fn backend(
        &self,
        table: &Table,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> Option<At<BackendId>> {
        let At { value, span } = table.get::<&str>(key)?;
        let id = self.backend_named(value, &span, problems)?;
        Some(At { value: id, span })
    }

    /// The backend that is named at `span`.
    fn backend_named(
        &self,
        name: &str,
        span: &Range<usize>,
        problems: &mut Problems<'_>,
    ) -> Option<BackendId> {
        let found = self
            .backends
            .iter()
            .position(|backend| backend.name.as_str() == name);
        // What is defined and wrong was reported there.
        if found.is_none() && self.root.lacks("backends", name) {
            let Hint { help, meant } = suggest(name, self.backend_names());
            let fix = meant.map(|meant| Fix::string(problems.text(), span, &meant));
            problems
                .at(
                    codes::REFERENCE,
                    span,
                    format!("backend {} is not defined", quote(name)),
                )
                .label("not in [backends]")
                .help(help)
                .fix(fix);
        }
        found.map(BackendId)
    }

    /// The service that is named at `span`.
    fn service_named(
        &self,
        name: &str,
        span: &Range<usize>,
        problems: &mut Problems<'_>,
    ) -> Option<ServiceId> {
        let found = self
            .services
            .iter()
            .position(|service| service.name.as_str() == name);
        if found.is_none() && self.root.lacks("services", name) {
            let names = self.services.iter().map(|service| service.name.as_str());
            let Hint { help, meant } = suggest(name, names);
            let fix = meant.map(|meant| Fix::string(problems.text(), span, &meant));
            problems
                .at(
                    codes::REFERENCE,
                    span,
                    format!("service {} is not defined", quote(name)),
                )
                .label("not in [services]")
                .help(help)
                .fix(fix);
        }
        found.map(ServiceId)
    }

    /// The services that an order or a switch is for; `None` for all.
    ///
    /// A backend that does not offer one of them can do nothing for it.
    fn services_of(
        &self,
        table: &Table,
        to: Option<&At<BackendId>>,
        problems: &mut Problems<'_>,
    ) -> Option<Vec<ServiceId>> {
        let Some(At { value: names, span }) = table.get::<&[At<String>]>("services") else {
            let help = "name the services it is for, in services = [..], if the rest is not meant";
            self.offered_by(to, help, problems);
            return None;
        };
        if names.is_empty() {
            let entry = table.entry("services");
            let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
            problems
                .at(codes::VALUE, &span, "services names none")
                .help("name one, or leave the key out for all services")
                .fix(fix);
        }
        let mut ids = Vec::new();
        for name in names {
            let Some(id) = self.service_named(&name.value, &name.span, problems) else {
                continue;
            };
            if ids.contains(&id) {
                twice(&name.value, &name.span, problems);
            } else {
                ids.push(id);
            }
            let Some(to) = to else { continue };
            if !self.services[id.0].backends.contains(&to.value) {
                let backend = &self.backends[to.value.0].name;
                let message = format!("backend {backend} does not offer service {}", name.value);
                let offering = self.root.table("services").table(&name.value);
                let list = offering
                    .has("backends")
                    .then(|| offering.span_of("backends"));
                let item = format!("\"{backend}\"");
                let fix = list.map(|list| Fix::add_item(problems.text(), list, &item));
                problems
                    .at(codes::REFERENCE, &name.span, message)
                    .help(format!("add {backend} to services.{}.backends", name.value))
                    .fix(fix);
            }
        }
        Some(ids)
    }

    /// Warns of services that a backend does not offer and is made active for.
    fn offered_by(
        &self,
        to: Option<&At<BackendId>>,
        help: impl Into<String>,
        problems: &mut Problems<'_>,
    ) {
        let Some(to) = to else { return };
        if let Some(without) = self.not_offered(to.value) {
            problems
                .at(
                    codes::NOT_OFFERED,
                    &to.span,
                    self.not_offered_message(to.value, &without),
                )
                .help(help);
        }
    }

    /// The port of a service on a backend.
    fn port(&self, service: &Service, id: BackendId) -> u16 {
        self.backends[id.0]
            .url
            .as_ref()
            .map_or(service.port, |url| url.port)
    }

    /// Whether each of `ids`, of which there is one, is given by its url.
    fn all_by_url(&self, ids: &[BackendId]) -> bool {
        !ids.is_empty() && ids.iter().all(|id| self.backends[id.0].url.is_some())
    }

    /// The services that `backend` does not offer, as a list in words.
    fn not_offered(&self, backend: BackendId) -> Option<String> {
        let without: Vec<&str> = self
            .services
            .iter()
            // One without any was reported.
            .filter(|service| !service.backends.is_empty())
            .filter(|service| !service.backends.contains(&backend))
            // One that is not on the machines does not move with them.
            .filter(|service| !self.all_by_url(&service.backends))
            .map(|service| service.name.as_str())
            .collect();
        (!without.is_empty()).then(|| list(without))
    }

    fn not_offered_message(&self, backend: BackendId, without: &str) -> String {
        let name = &self.backends[backend.0].name;
        format!("backend {name} is made active for every service, and does not offer {without}")
    }

    fn backend_names(&self) -> impl Iterator<Item = &str> {
        self.backends.iter().map(|backend| backend.name.as_str())
    }
}

/// Reports a word that stands in a list for the second time.
fn twice(name: &str, span: &Range<usize>, problems: &mut Problems<'_>) {
    let fix = Fix::remove_item(problems.text(), span);
    problems
        .at(
            codes::TWICE,
            span,
            format!("{} is listed twice", quote(name)),
        )
        .help("list it once")
        .fix(fix);
}

/// A text under `key`, for people.
pub(super) fn text(table: &Table, key: &str) -> Option<String> {
    table.get::<&str>(key).map(|text| text.value.to_owned())
}

/// Reports what a variable of the environment holds.
fn variable(
    code: Code,
    name: &str,
    value: &str,
    what: &str,
    help: impl Into<String>,
    problems: &mut Problems<'_>,
) {
    let message = format!("the environment variable {name}={} {what}", quote(value));
    problems.outside(code, message).help(help);
}
