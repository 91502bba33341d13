//! What ops load into other programs: alerts and dashboard name only metrics that exist, alerts
//! fire on what they are for, and Prometheus finds nothing to mend in `/metrics`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "processes and real time: there is no runtime here"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tailhop::metrics::Metrics;

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn each_alert_fires_on_what_it_is_for_and_on_nothing_else() {
    promtool(&["check", "rules", "config/alerts.yml"], None);
    promtool(&["test", "rules", "tests/ops/alerts_test.yml"], None);
}

#[test]
fn every_alert_is_tested() {
    let tests = text("tests/ops/alerts_test.yml");
    let rules = text("config/alerts.yml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested: Vec<_> = names
        .filter(|name| {
            let fires = |block: &str| {
                block.starts_with(&format!("{name}\n")) && block.contains("exp_labels")
            };
            !tests.split("- alertname: ").any(fires)
        })
        .collect();
    assert!(untested.is_empty(), "no test makes {untested:?} fire");
}

#[test]
fn alerts_name_only_commands_that_exist() {
    let help = Command::new(env!("CARGO_BIN_EXE_tailhop"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8_lossy(&help.stdout);
    let rules = text("config/alerts.yml");
    let named: BTreeSet<_> = (rules.split("`tailhop ").skip(1))
        .filter_map(|rest| rest.split([' ', '`']).next())
        .collect();
    assert!(named.len() >= 3, "{named:?}");
    for command in named {
        let there = help
            .lines()
            .any(|line| line.split_whitespace().next() == Some(command));
        assert!(there, "`tailhop {command}` is not in\n{help}");
    }
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    for file in ["config/alerts.yml", "config/grafana.json"] {
        let text = text(file);
        let named = metrics_in(&text);
        let unknown: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
        assert!(
            unknown.is_empty(),
            "{file} names {unknown:?}, which do not exist"
        );
        assert!(named.len() > 8, "{file}: {named:?}");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_can_load() {
    let dashboard: Value = serde_json::from_str(&text("config/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        let place = &panel["gridPos"];
        let right = place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap();
        assert!(right <= 24, "{title} stands outside the grid");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$__rate_interval", "5m");
            queries.push(json!({ "record": "a", "expr": query, "labels": { "n": queries.len().to_string() } }));
        }
    }
    // promtool parses what Grafana would send.
    let file = tempfile::NamedTempFile::new().unwrap();
    let rules = json!({ "groups": [{ "name": "panels", "rules": queries }] });
    fs::write(file.path(), rules.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], None);
}

#[test]
fn prometheus_has_nothing_to_mend_in_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let [data, admin] = [unused(), unused()];
    let routing = format!(
        "listen = {{ data = \"{data}\", admin = \"{admin}\" }}\ntailnet.dial = \"direct\"\n\
         [backends]\nm1 = {{ host = \"127.0.0.1\" }}\n[services]\nollama = {{ port = {}, timeouts.wait = \"50ms\" }}\n\
         [schedule]\ntimezone = \"Asia/Tokyo\"\ndefault = \"m1\"\n",
        unused().port()
    );
    let file = folder.path().join("routing.toml");
    fs::write(&file, routing).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailhop"));
    command.env_clear().arg("run").arg("--config").arg(&file);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    let began = Instant::now();
    // One request makes the families of requests appear.
    while !get(data, "/ollama/api/version").is_some_and(|answer| answer.contains("tailhop")) {
        assert!(began.elapsed() < PATIENCE, "it answers");
        thread::sleep(Duration::from_millis(20));
    }
    let answer = get(admin, "/metrics").unwrap();
    let (_, metrics) = answer.split_once("\r\n\r\n").unwrap();
    assert!(metrics.contains("tailhop_requests_total{"), "{metrics}");
    promtool(&["check", "metrics"], Some(metrics));
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `promtool`, which must find nothing wrong; where there is none, says so.
fn promtool(arguments: &[&str], input: Option<&str>) {
    let mut command = Command::new("promtool");
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let required =
                std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
            assert!(!required, "promtool is missing (Debian: prometheus)");
            let _ = writeln!(std::io::stderr(), "skipped: promtool is missing");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(input.unwrap_or_default().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

/// The names of tailhop's metrics in a text; those of recording rules have a colon before them.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !word(c));
    words.filter(|word| word.starts_with("tailhop_")).collect()
}

fn exists(name: &str) -> bool {
    let family = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .unwrap_or(name);
    Metrics::FAMILIES.contains(&family) || Metrics::FAMILIES.contains(&name)
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn text(file: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}
