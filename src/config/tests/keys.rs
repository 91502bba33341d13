//! The table of keys against its documentation and its effect.

use std::collections::BTreeSet;

use tempfile::NamedTempFile;

use super::super::raw::{ROOT, Row, Shape};
use super::*;

#[test]
fn codes_have_one_meaning_and_reasons_are_a_closed_set() {
    let source = include_str!("../codes.rs");
    let ids: Vec<_> = source
        .match_indices("(\"")
        .map(|(at, _)| &source[at + 2..at + 6])
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

/// One value that differs from the default, for each key of the table.
pub(super) fn example(path: &str) -> &'static str {
    let last = path.rsplit('.').next().unwrap();
    match path {
        "listen.data" => "\"127.0.0.1:1\"",
        "include" => "[\"INCLUDED\"]",
        "listen.admin" => "\"127.0.0.1:2\"",
        "tailnet.name" => "\"tail9\"",
        "tailnet.dial" => "\"socks5\"",
        "tailnet.socket" => "\"/run/x.sock\"",
        "tailnet.tailscaled" => "\"off\"",
        "tailnet.auth_key" => "{ env = \"SECRET\" }",
        "tailnet.client_id" | "tailnet.audience" => "\"id-1\"",
        "tailnet.hostname" => "\"web\"",
        "tailnet.tags" => "[\"tag:web\"]",
        "tailnet.login_server" => "\"https://control.example\"",
        "tailnet.proxy" => "\"127.0.0.1:3\"",
        "listen.token" | "admin.token" | "admin.tokens.N.secret" => "{ env = \"SECRET\" }",
        "admin.tailnet" => "[\"tag:ops\"]",
        "admin.hosts" => "[\"tailhop.internal\"]",
        "admin.tokens.N.scope" => "\"orders\"",
        "backends.N.host" => "\"100.64.0.7\"",
        "backends.N.url" => "\"https://other.example\"",
        "backends.N.dial" => "\"tailnet\"",
        "backends.N.headers" => "{ api-key = { env = \"SECRET\" } }",
        "backends.N.read_headers" => "{ api-key = { env = \"SECRET\" } }",
        "backends.N.ca" => "\"CA\"",
        "services.N.listen" => "\"127.0.0.1:4\"",
        "services.N.listen_grpc" => "\"127.0.0.1:5\"",
        "services.N.effects.effect" | "routes.effects.effect" => "\"admin\"",
        _ if last == "methods" => "[\"PUT\"]",
        _ if last == "paths" => "[\"/y\"]",
        "services.N.kind" | "routes.service" => "\"qdrant\"",
        "services.N.port" | "services.N.grpc_port" | "log.sample" => "7",
        "services.N.fallback" => "\"none\"",
        "services.N.cache.entries" | "services.N.cache.megabytes" => "7",
        "services.N.cache.ttl" => "\"5m\"",
        "services.N.prewarm" => "[\"tiny\"]",
        "services.N.policy" => "\"least-loaded\"",
        "services.N.limit.in_flight" | "services.N.limit.queue" => "7",
        "services.N.limit.spill" | "pin.hold_writes" => "true",
        "services.N.require.if_not_ready" => "\"switch\"",
        "services.N.require.models" => "[\"tiny\"]",
        "services.N.require.collections" => "[\"a/b\", \"日本語\"]",
        "services.N.require.min_points" => "70000",
        "services.N.backends" => "[\"N\"]",
        "routes.path" => "\"/other\"",
        "routes.strip" | "pin.writes" | "tailnet.repair" => "false",
        "routes.host" => "\"preserve\"",
        "routes.upgrade" => "[\"websocket\"]",
        "schedule.timezone" => "\"Asia/Tokyo\"",
        "schedule.default" => "\"mac-dev1\"",
        _ if matches!(last, "reason" | "by") => "\"somebody\"",
        _ if last == "services" => "[\"ollama\"]",
        _ if last == "to" => "\"mac-dev1\"",
        _ if matches!(last, "until" | "at") => "2031-01-01",
        _ => "\"7s\"",
    }
}

/// The path of every key that takes a value.
pub(super) fn leaves(rows: &[Row], path: &str, into: &mut Vec<String>) {
    for row in rows {
        let here = if path.is_empty() {
            row.key.into()
        } else {
            format!("{path}.{}", row.key)
        };
        match row.shape {
            Shape::Table(inner) | Shape::Tables(inner) => leaves(inner, &here, into),
            Shape::Named(inner) => leaves(inner, &format!("{here}.N"), into),
            _ => into.push(here),
        }
    }
}

#[test]
fn every_key_of_the_table_is_documented_and_does_something() {
    let readme = include_str!("../../../config/README.md");
    let files = Files::new();
    let mut paths = Vec::new();
    leaves(ROOT, "", &mut paths);
    assert!(paths.len() > 40);
    for path in paths {
        let last = path.rsplit('.').next().unwrap();
        assert!(
            readme.contains(&format!("`{last}`")),
            "{path} is not in config/README.md"
        );
        let secret = [("SECRET", "canary")];
        let [base, changed] =
            [None, Some(example(&path))].map(|value| good(&files.base_for(&path, value), &secret));
        let same_value = path == "pin.writes";
        assert!(
            same_value || !changes(&base, &changed).is_empty(),
            "{path} changes nothing"
        );
    }
}

/// The files that the examples name.
pub(super) struct Files {
    authority: NamedTempFile,
    included: NamedTempFile,
}

impl Files {
    pub(super) fn new() -> Self {
        let files = [(); 2].map(|()| NamedTempFile::new().unwrap());
        let [authority, included] = files;
        std::fs::write(&authority, sites::self_signed()).unwrap();
        std::fs::write(&included, "tailnet.repair = false\n").unwrap();
        Self {
            authority,
            included,
        }
    }

    /// A file in which `path` may be written, with and without it.
    pub(super) fn base_for(&self, path: &str, value: Option<&str>) -> String {
        let text = base_for(path, value);
        let of = |file: &NamedTempFile| file.path().to_str().unwrap().to_owned();
        text.replace("INCLUDED", &of(&self.included))
            .replace("CA", &of(&self.authority))
    }
}

fn base_for(path: &str, value: Option<&str>) -> String {
    let key = path.rsplit('.').next().unwrap();
    let table = path.strip_suffix(key).unwrap().trim_end_matches('.');
    let set = value
        .map(|value| format!("{key} = {value}\n"))
        .unwrap_or_default();
    let unless = |this: &str, line: &str| {
        if key == this && value.is_some() {
            String::new()
        } else {
            format!("{line}\n")
        }
    };
    let default = unless("default", "default = \"macbook-m1\"");
    let schedule = if table == "schedule" {
        set.as_str()
    } else {
        ""
    };
    let default = if table == "schedule" {
        default
    } else {
        "default = \"macbook-m1\"\n".into()
    };
    let head = format!("{TWO}[schedule]\n{default}{schedule}");
    if table.is_empty() {
        return set + &head;
    }
    head + &table_for(table, key, value.is_some(), &set)
}

/// The table with `set` in it, and what else it needs to be valid.
#[expect(clippy::too_many_lines, reason = "one arm for each table")]
fn table_for(table: &str, key: &str, is_set: bool, set: &str) -> String {
    let unless = |this: &str, line: &str| {
        if key == this && is_set {
            String::new()
        } else {
            format!("{line}\n")
        }
    };
    match table {
        "schedule" => String::new(),
        // These are of a url, which one service lists.
        "backends.N" if matches!(key, "url" | "dial" | "headers" | "read_headers" | "ca") => {
            let url = unless("url", "url = \"https://one.example\"");
            format!("[backends.N]\n{url}{set}[services.N]\nport = 9\nbackends = [\"N\"]\n")
        }
        "services.N.effects" | "routes.effects" => {
            let [methods, paths, effect] = [
                unless("methods", "methods = [\"POST\"]"),
                unless("paths", "paths = [\"/x\"]"),
                unless("effect", "effect = \"read\""),
            ];
            let place = if table == "routes.effects" {
                "[[routes]]\npath = \"/n\"\nservice = \"N\"\n\
                 [[routes]]\npath = \"/o\"\nservice = \"ollama\"\n\
                 [[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n\
                 [[routes]]\npath = \"/m\"\nservice = \"N\"\n"
            } else {
                ""
            };
            format!("[services.N]\nport = 9\n{place}[[{table}]]\n{methods}{paths}{effect}{set}")
        }
        "backends.N" | "backends.N.drain" => format!("[backends.N]\n[{table}]\n{set}")
            .replace("[backends.N]\n[backends.N]", "[backends.N]"),
        "services.N" if matches!(key, "policy" | "prewarm") => {
            format!("[backends.N]\n[services.N]\nkind = \"ollama\"\nport = 9\n{set}")
        }
        "services.N" if matches!(key, "listen_grpc" | "grpc_port") => {
            format!("[backends.N]\n[services.N]\nkind = \"qdrant\"\nport = 9\n{set}")
        }
        "services.N" | "services.N.timeouts" => {
            let port = if key == "port" && is_set {
                ""
            } else {
                "port = 9\n"
            };
            let inner = if table == "services.N" {
                ""
            } else {
                "[services.N.timeouts]\n"
            };
            format!("[backends.N]\n[services.N]\n{port}{inner}{set}")
        }
        "services.N.cache" => {
            format!("[backends.N]\n[services.N]\nkind = \"ollama\"\nport = 9\n[{table}]\n{set}")
        }
        "services.N.limit" => {
            let in_flight = unless("in_flight", "in_flight = 2");
            format!(
                "[backends.N]\n[services.N]\nkind = \"ollama\"\nport = 9\n[{table}]\n{in_flight}{set}"
            )
        }
        "services.N.require" => {
            let (kind, more) = match key {
                "collections" => ("qdrant", ""),
                "min_points" => ("qdrant", "collections = [\"papers\"]\n"),
                "models" => ("ollama", ""),
                _ => ("ollama", "models = [\"tiny\"]\n"),
            };
            format!(
                "[backends.N]\n[services.N]\nkind = \"{kind}\"\nport = 9\n[{table}]\n{more}{set}"
            )
        }
        "routes" if key == "upgrade" => format!(
            "[backends.N]\n[services.N]\nport = 9\n[[routes]]\npath = \"/x\"\nservice = \"N\"\n{set}"
        ),
        "routes" | "routes.timeouts" => {
            let path = unless("path", "path = \"/x\"");
            let service = unless("service", "service = \"ollama\"");
            let inner = if table == "routes" {
                ""
            } else {
                "[routes.timeouts]\n"
            };
            let rest = "[[routes]]\npath = \"/o\"\nservice = \"ollama\"\n\
                        [[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n";
            format!("{rest}[[routes]]\n{path}{service}{inner}{set}")
        }
        "schedule.switch" => {
            let at = unless("at", "at = 2030-01-01");
            let to = unless("to", "to = \"macbook-m1\"");
            format!("[[schedule.switch]]\n{at}{to}{set}")
        }
        // With the tailnet let in, the data address must not be where it is by default.
        "admin" => format!("[listen]\ndata = \"127.0.0.2:8484\"\n[admin]\n{set}"),
        "admin.tokens.N" if key == "scope" => {
            format!("[{table}]\nsecret = {{ env = \"SECRET\" }}\n{set}")
        }
        "admin.tokens.N" if !is_set => String::new(),
        "pin" => {
            let to = unless("to", "to = \"macbook-m1\"");
            format!("[[pin]]\n{to}{set}")
        }
        // These are of a client with a tag.
        "tailnet" if matches!(key, "client_id" | "audience") => {
            let id = unless("client_id", "client_id = \"id-0\"");
            format!("[tailnet]\ntags = [\"tag:x\"]\n{id}{set}")
        }
        _ => format!("[{table}]\n{set}"),
    }
}
