//! What holds, key by key, and where each value comes from.
//!
//! Owns the way back from a snapshot to the keys of the file. Invariant: no value is one of a
//! secret; what is not written stands there as its default.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::defaults::AUTH_KEY;
use super::env::{
    ACTIVE_BACKEND, ADMIN_API_KEY, ADMIN_FUNCTIONS_ENABLED, Environment, K_SERVICE, SWITCH_DATE,
    TAILNET_NAME,
};
use super::moment::show;
use super::problem::{Problems, Report};
use super::raw::IF_NOT_READY;
use super::raw::{self, Table};
use super::snapshot::{
    Backend, BackendId, Credential, HostHeader, Require, Route, Service, ServiceId, Snapshot,
    Timeouts,
};
use super::source::{Source, read};
use super::validate;
use super::whole::Whole;
use crate::api::models::Model;
use crate::words::names::Kind;
use crate::words::units::show_duration;

/// One value that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key, from the top of the file.
    pub key: String,
    /// The value as the file would have it, or in words; a secret as `***`.
    pub value: String,
    /// Where it comes from.
    pub origin: ValueOrigin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from")]
pub enum ValueOrigin {
    /// It is not written anywhere.
    Default,
    /// It stands in a file.
    File {
        /// The file, as it was named.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A variable of the environment says it.
    Environment {
        /// Its name.
        variable: &'static str,
    },
}

impl std::fmt::Display for ValueOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
        }
    }
}

/// Every value of the configuration that `source` and `env` make, in the order of the reference.
///
/// # Errors
/// All problems, if it cannot be used.
pub fn effective(source: &Source, env: &Environment) -> Result<Vec<Setting>, Report> {
    let whole = Whole::gather(source, env, &read);
    let mut problems = Problems::new(&whole);
    let root = raw::read(&whole, env, &mut problems);
    let snapshot = validate::snapshot(&root, &whole, env, &mut problems);
    let mut listing = Listing {
        root: &root,
        env,
        whole: &whole,
        settings: Vec::new(),
    };
    let report = problems.report();
    let Some(snapshot) = snapshot.filter(|_| report.errors() == 0) else {
        return Err(report);
    };
    listing.include();
    listing.listen(&snapshot);
    listing.admin(&snapshot);
    let sample = snapshot.log_sample.to_string();
    listing.of(root.table("log"), "log", "sample", sample);
    listing.tailnet(&snapshot);
    listing.run(&snapshot);
    for backend in &snapshot.backends {
        listing.backend(&snapshot, backend);
    }
    for service in &snapshot.services {
        listing.service(&snapshot, service);
    }
    for route in snapshot.routes.iter() {
        listing.route(&snapshot, route);
    }
    listing.schedule(&snapshot);
    listing.pins(&snapshot);
    listing.emergency(&snapshot);
    Ok(listing.settings)
}

/// The list as it grows.
struct Listing<'a> {
    root: &'a Table,
    env: &'a Environment,
    whole: &'a Whole,
    settings: Vec<Setting>,
}

impl Listing<'_> {
    fn put(&mut self, key: impl Into<String>, value: impl Into<String>, origin: ValueOrigin) {
        self.settings.push(Setting {
            key: key.into(),
            value: value.into(),
            origin,
        });
    }

    /// Where `key` of `table` comes from.
    fn origin(&self, table: &Table, key: &str) -> ValueOrigin {
        match table.entry(key) {
            Some(entry) => ValueOrigin::File {
                file: self.whole.part(entry.start).path.clone(),
                line: self.whole.line_in_file(entry.start),
            },
            None => ValueOrigin::Default,
        }
    }

    /// The same, where a variable comes before the file.
    fn origin_or(&self, variable: &'static str, table: &Table, key: &str) -> ValueOrigin {
        match self.env.overlay(variable) {
            Some(_) => ValueOrigin::Environment { variable },
            None => self.origin(table, key),
        }
    }

    /// A key of `table`, which stands at `path`.
    fn of(&mut self, table: &Table, path: &str, key: &str, value: impl Into<String>) {
        let origin = self.origin(table, key);
        self.put(format!("{path}.{key}"), value, origin);
    }

    /// The same, for what has no value unless it is written.
    fn written(&mut self, table: &Table, path: &str, key: &str, value: Option<String>) {
        if table.has(key) {
            self.of(table, path, key, value.unwrap_or_else(|| "none".to_owned()));
        }
    }

    fn include(&mut self) {
        let paths = self.whole.included().iter();
        let paths: Vec<_> = paths.map(|path| quoted(path.display())).collect();
        let origin = self.origin(self.root, "include");
        self.put("include", format!("[{}]", paths.join(", ")), origin);
    }

    fn listen(&mut self, snapshot: &Snapshot) {
        let table = self.root.table("listen");
        self.of(table, "listen", "data", quoted(snapshot.listen.data));
        self.of(table, "listen", "admin", quoted(snapshot.listen.admin));
        let token = snapshot.token.as_ref().map_or("none", |_| "***");
        self.of(table, "listen", "token", token);
    }

    fn admin(&mut self, snapshot: &Snapshot) {
        let table = self.root.table("admin");
        let admin = &snapshot.admin;
        self.of(table, "admin", "tailnet", list(&admin.tailnet));
        let token = if table.has("token") { "***" } else { "none" };
        self.of(table, "admin", "token", token);
        for (name, one) in table.table("tokens").named() {
            let path = format!("admin.tokens.{}", name.value);
            self.of(one, &path, "secret", "***");
            let scope = one.get::<&str>("scope").map_or("read", |word| word.value);
            self.of(one, &path, "scope", quoted(scope));
        }
        self.of(table, "admin", "hosts", list(&admin.hosts));
        for (variable, value) in [
            (ADMIN_API_KEY, "***".to_owned()),
            (ADMIN_FUNCTIONS_ENABLED, admin.functions.to_string()),
        ] {
            if self.env.overlay(variable).is_some() {
                self.put(variable, value, ValueOrigin::Environment { variable });
            }
        }
    }

    fn tailnet(&mut self, snapshot: &Snapshot) {
        let table = self.root.table("tailnet");
        let tailnet = &snapshot.tailnet;
        let name = tailnet.suffix.as_ref().map(quoted);
        let name = name.unwrap_or_else(|| "asked from tailscaled".to_owned());
        let origin = self.origin_or(TAILNET_NAME, table, "name");
        self.put("tailnet.name", name, origin);
        self.of(table, "tailnet", "dial", quoted(tailnet.dial.as_str()));
        self.of(table, "tailnet", "socket", quoted(tailnet.socket.display()));
        self.of(table, "tailnet", "proxy", quoted(tailnet.proxy));
        self.of(table, "tailnet", "repair", tailnet.repair.to_string());
    }

    /// What `run` starts, of secrets only where they are kept, and how it ends.
    fn run(&mut self, snapshot: &Snapshot) {
        let table = self.root.table("tailnet");
        let (run, login) = (&snapshot.run, &snapshot.run.login);
        let program = quoted(&run.tailscaled);
        self.of(table, "tailnet", "tailscaled", program);
        match &login.credential {
            Some(Credential::Identity { client_id, .. }) => {
                self.of(table, "tailnet", "client_id", quoted(client_id));
                let audience = validate::text(table, "audience").map(quoted);
                self.written(table, "tailnet", "audience", audience);
            }
            Some(kept) if table.has("auth_key") => {
                self.of(table, "tailnet", "auth_key", kept.to_string());
            }
            Some(_) => {
                let origin = ValueOrigin::Environment { variable: AUTH_KEY };
                self.put("tailnet.auth_key", "***", origin);
            }
            None => self.of(table, "tailnet", "auth_key", "none"),
        }
        self.of(table, "tailnet", "hostname", quoted(&login.hostname));
        self.of(table, "tailnet", "tags", list(&login.tags));
        let server = login.server.as_ref().map(quoted);
        self.written(table, "tailnet", "login_server", server);
        let table = self.root.table("run");
        self.of(table, "run", "stop", quoted(show_duration(run.stop)));
    }

    fn backend(&mut self, snapshot: &Snapshot, backend: &Backend) {
        let table = self.root.table("backends").table(backend.name.as_str());
        let path = format!("backends.{}", backend.name);
        match &backend.url {
            Some(url) => self.of(table, &path, "url", quoted(url.origin())),
            None => self.of(table, &path, "host", quoted(&backend.host)),
        }
        self.of(table, &path, "dial", quoted(backend.network.as_str()));
        if let Some(url) = &backend.url {
            let read = url.read_headers.as_deref().unwrap_or_default();
            for (key, headers) in [("headers", &*url.headers), ("read_headers", read)] {
                for (header, _) in headers {
                    let origin = self.origin(table, key);
                    self.put(format!("{path}.{key}.{header}"), "***", origin);
                }
            }
        }
        let ca = table.get::<&str>("ca").map(|ca| quoted(ca.value));
        self.written(table, &path, "ca", ca);
        let Some(drain) = &backend.drain else {
            return;
        };
        let (order, path) = (table.table("drain"), format!("{path}.drain"));
        let until = drain.until.map(|until| time(until, snapshot));
        self.of(
            order,
            &path,
            "until",
            until.unwrap_or_else(|| "none".to_owned()),
        );
        self.written(order, &path, "reason", drain.reason.as_ref().map(quoted));
        self.written(order, &path, "by", drain.by.as_ref().map(quoted));
    }

    fn service(&mut self, snapshot: &Snapshot, service: &Service) {
        let table = self.root.table("services").table(service.name.as_str());
        let path = format!("services.{}", service.name);
        self.of(table, &path, "kind", quoted(service.kind.as_str()));
        self.of(table, &path, "port", service.port.to_string());
        self.written(table, &path, "listen", service.listen.map(quoted));
        let grpc = service.listen_grpc.map(quoted);
        self.written(table, &path, "listen_grpc", grpc);
        if let Some(port) = service.grpc_port {
            self.of(table, &path, "grpc_port", port.to_string());
        }
        self.of(table, &path, "fallback", quoted(service.fallback.as_str()));
        self.load(table, &path, service);
        if let Some(cache) = &service.cache {
            let (table, path) = (table.table("cache"), format!("{path}.cache"));
            self.of(table, &path, "entries", cache.entries.to_string());
            self.of(table, &path, "megabytes", cache.megabytes.to_string());
            self.of(table, &path, "ttl", quoted(show_duration(cache.ttl)));
        }
        self.require(table.table("require"), &format!("{path}.require"), service);
        self.of(
            table,
            &path,
            "backends",
            backends(snapshot, &service.backends),
        );
        self.effects(table, &path, &service.whole);
        let tables = [table.table("timeouts"), self.root.table("timeouts")];
        for (key, value) in timeouts(&service.timeouts) {
            let origin = self.timeout(&tables, key);
            self.put(format!("{path}.timeouts.{key}"), value, origin);
        }
    }

    fn require(&mut self, table: &Table, path: &str, service: &Service) {
        let Require {
            models: required,
            collections,
            min_points,
        } = &service.require;
        self.written(table, path, "models", Some(models(required)));
        self.written(table, path, "collections", Some(list(collections)));
        if !collections.is_empty() {
            self.of(table, path, "min_points", min_points.to_string());
        }
        if !service.require.is_empty() {
            let word = IF_NOT_READY[usize::from(!service.holds_switch)];
            self.of(table, path, "if_not_ready", quoted(word));
        }
    }

    fn load(&mut self, table: &Table, path: &str, service: &Service) {
        if service.kind != Kind::Ollama {
            return;
        }
        self.written(table, path, "prewarm", Some(models(&service.prewarm)));
        self.of(table, path, "policy", quoted(service.policy.as_str()));
        let Some(limit) = &service.limit else { return };
        let (table, path) = (table.table("limit"), format!("{path}.limit"));
        for (key, value) in [
            ("in_flight", limit.in_flight.to_string()),
            ("queue", limit.queue.to_string()),
            ("wait", quoted(show_duration(limit.wait))),
            ("spill", limit.spill.to_string()),
        ] {
            self.of(table, &path, key, value);
        }
    }

    fn effects(&mut self, table: &Table, path: &str, route: &Route) {
        if table.has("effects") {
            let rules: Vec<_> = route.effects.iter().map(ToString::to_string).collect();
            self.of(table, path, "effects", rules.join("; "));
        }
    }

    /// Where a bound comes from: the nearest table that has it.
    fn timeout(&self, tables: &[&Table], key: &str) -> ValueOrigin {
        match tables.iter().find(|table| table.has(key)) {
            Some(table) => self.origin(table, key),
            None if key == "total" && self.env.on_cloud_run() => ValueOrigin::Environment {
                variable: K_SERVICE,
            },
            None => ValueOrigin::Default,
        }
    }

    fn route(&mut self, snapshot: &Snapshot, route: &Route) {
        let nothing = Table::default();
        let tables = self.root.tables("routes").unwrap_or_default();
        let is_it = |table: &&Table| {
            let path = table.get::<&str>("path");
            path.is_some_and(|path| path.value == route.path)
        };
        let table = tables.iter().find(is_it).unwrap_or(&nothing);
        let path = format!("routes[{}]", route.path);
        self.of(table, &path, "path", quoted(&route.path));
        let service = &snapshot.service(route.service).name;
        self.of(table, &path, "service", quoted(service));
        self.of(table, &path, "strip", route.strip.to_string());
        let host = match &route.host {
            HostHeader::Upstream => "upstream",
            HostHeader::Preserve => "preserve",
            HostHeader::Fixed(host) => host,
        };
        self.of(table, &path, "host", quoted(host));
        let upgrade: Vec<_> = route.upgrade.iter().map(quoted).collect();
        self.written(
            table,
            &path,
            "upgrade",
            Some(format!("[{}]", upgrade.join(", "))),
        );
        self.effects(table, &path, route);
        let own = table.table("timeouts");
        for (key, value) in timeouts(&route.timeouts) {
            self.written(own, &format!("{path}.timeouts"), key, Some(value));
        }
    }

    fn schedule(&mut self, snapshot: &Snapshot) {
        let table = self.root.table("schedule");
        let schedule = &snapshot.schedule;
        let zone = schedule.zone.iana_name().unwrap_or("UTC");
        self.of(table, "schedule", "timezone", quoted(zone));
        let default = &snapshot.backend(schedule.default).name;
        self.of(table, "schedule", "default", quoted(default));
        let nothing = Table::default();
        let tables = table.tables("switch").unwrap_or_default();
        for (place, switch) in schedule.switches.iter().enumerate() {
            let path = format!("schedule.switch[{place}]");
            // Sorted by time, unlike those of the file.
            let is_it = |table: &&Table| {
                let at = table.get::<super::moment::Moment>("at");
                let at = at.and_then(|at| at.value.instant(&schedule.zone).ok());
                at == Some(switch.at) || tables.len() == 1
            };
            let written = tables.iter().find(is_it).unwrap_or(&nothing);
            let origin = self.origin_or(SWITCH_DATE, written, "at");
            self.put(format!("{path}.at"), time(switch.at, snapshot), origin);
            let to = &snapshot.backend(switch.to).name;
            self.of(written, &path, "to", quoted(to));
            let services = services(snapshot, switch.services.as_ref());
            self.written(written, &path, "services", services);
        }
    }

    fn pins(&mut self, snapshot: &Snapshot) {
        let tables = self.root.tables("pin").unwrap_or_default();
        for (place, (pin, table)) in snapshot.pins.iter().zip(tables).enumerate() {
            let path = format!("pin[{place}]");
            let to = &snapshot.backend(pin.to).name;
            self.of(table, &path, "to", quoted(to));
            let until = pin.until.map(|until| time(until, snapshot));
            self.of(
                table,
                &path,
                "until",
                until.unwrap_or_else(|| "none".to_owned()),
            );
            self.written(table, &path, "reason", pin.reason.as_ref().map(quoted));
            self.written(table, &path, "by", pin.by.as_ref().map(quoted));
            let services = services(snapshot, pin.services.as_ref());
            self.written(table, &path, "services", services);
            self.of(table, &path, "writes", pin.writes.to_string());
            let holds = pin.hold_writes.to_string();
            self.of(table, &path, "hold_writes", holds);
        }
    }

    fn emergency(&mut self, snapshot: &Snapshot) {
        if let Some(id) = snapshot.active_backend {
            let name = quoted(&snapshot.backend(id).name);
            let variable = ACTIVE_BACKEND;
            self.put(ACTIVE_BACKEND, name, ValueOrigin::Environment { variable });
        }
    }
}

/// The bounds as the file would have them; those that differ by effect in words.
fn timeouts(bounds: &Timeouts) -> [(&'static str, String); 8] {
    let length = |length: Duration| quoted(show_duration(length));
    let total = bounds.total.map_or_else(|| quoted("none"), length);
    let change = bounds
        .head_change
        .map_or_else(|| "total".to_owned(), length);
    let (inference, read) = (length(bounds.head_inference), length(bounds.head_read));
    let head = if inference == read && read == change {
        inference
    } else {
        format!("inference {inference}, reads {read}, writes {change}")
    };
    let (inference, other) = (length(bounds.idle_inference), length(bounds.idle));
    let idle = if inference == other {
        other
    } else {
        format!("inference {inference}, else {other}")
    };
    [
        ("race", length(bounds.race)),
        ("connect", length(bounds.connect)),
        ("wait", length(bounds.wait)),
        ("start", length(bounds.start)),
        ("head", head),
        ("idle", idle),
        ("total", total),
        ("probe", length(bounds.probe)),
    ]
}

/// `["tiny:latest"]`: their names as they are compared.
fn models(models: &[Model]) -> String {
    let names: Vec<_> = models.iter().map(|model| quoted(model.as_str())).collect();
    format!("[{}]", names.join(", "))
}

fn backends(snapshot: &Snapshot, ids: &[BackendId]) -> String {
    let names: Vec<_> = ids
        .iter()
        .map(|id| quoted(&snapshot.backend(*id).name))
        .collect();
    format!("[{}]", names.join(", "))
}

fn services(snapshot: &Snapshot, ids: Option<&Vec<ServiceId>>) -> Option<String> {
    let names = ids?.iter().map(|id| quoted(&snapshot.service(*id).name));
    Some(format!("[{}]", names.collect::<Vec<_>>().join(", ")))
}

fn time(at: Timestamp, snapshot: &Snapshot) -> String {
    show(at, &snapshot.schedule.zone)
}

fn list(items: &[String]) -> String {
    let items: Vec<_> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("{:?}", text.to_string())
}
