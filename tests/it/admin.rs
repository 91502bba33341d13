//! The admin listener: shapes, codes, and that nothing hostile becomes a metric.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs, stage};
use crate::support::client::Client;
use crate::support::log;
use crate::support::time::Held;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn each_page_has_its_type_and_what_is_none_is_refused() {
    let stage = stage("").await;
    let json = "application/json";
    let text = "text/plain; charset=utf-8";
    let metrics = "text/plain; version=0.0.4; charset=utf-8";
    let rows = [
        ("GET", "/live", 200, text),
        ("GET", "/ready", 200, text),
        ("GET", "/health", 200, json),
        ("GET", "/status", 200, json),
        ("GET", "/metrics", 200, metrics),
        ("HEAD", "/metrics", 200, metrics),
        ("GET", "/live?x=1", 200, text),
        ("GET", "/", 200, "text/html; charset=utf-8"),
        ("GET", "/?lang=ja", 200, "text/html; charset=utf-8"),
        ("HEAD", "/", 200, "text/html; charset=utf-8"),
        ("GET", "/index.html", 404, text),
        ("GET", "/livez", 404, text),
        ("GET", "/ollama/api/tags", 404, text),
        ("POST", "/status", 405, text),
        ("POST", "/", 405, text),
        ("DELETE", "/live", 405, text),
    ];
    for (method, target, status, kind) in rows {
        let got = stage.app.admin(method, target).await;
        assert_eq!(
            (got.status(), got.head.get("content-type")),
            (status, Some(kind)),
            "{method} {target}"
        );
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(got.head.get(name), Some(value), "{target}");
        }
        let policy = got.head.get("content-security-policy");
        assert_eq!(policy.is_some(), kind.starts_with("text/html"), "{target}");
        let allow = (status == 405).then_some("GET, HEAD");
        assert_eq!(got.head.get("allow"), allow, "{target}");
    }
    assert_eq!(
        stage.app.lines().len(),
        0,
        "the admin listener writes no access lines"
    );
    stage.ends_clean().await;
}

/// Masks what differs from run to run: the file's place and hash, ports, the version, times.
fn masked(mut status: Value, port: u16) -> Value {
    mask(&mut status, &format!(":{port}"));
    status
}

fn mask(value: &mut Value, port: &str) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if ["first_byte", "hash", "path", "total", "version"].contains(&key.as_str()) {
                    *value = json!("MASKED");
                }
                mask(value, port);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask(value, port)),
        Value::String(text) => *text = text.replace(port, ":PORT"),
        _ => {}
    }
}

/// Noon in Tokyo, the day before the switch; m1's Qdrant ended, one read of each service.
#[tokio::test(start_paused = true)]
async fn the_status_of_a_fixed_situation_is_the_golden_file() {
    let time = Held::hold();
    let mut macs = Macs::start().await;
    let more = "schedule = { timezone = \"Asia/Tokyo\", default = \"m1\", switch = [{ at = 2025-02-17, to = \"m2\" }] }\n\
        backends.m2.drain = { reason = \"upgrade\", by = \"ops\", until = 2025-02-16T13:00:00+09:00 }\n\
        pin = [{ to = \"m2\", until = 2025-02-16T18:00:00+09:00, reason = \"trial\", by = \"ops\", services = [\"qdrant\"] }]";
    macs.qdrant[0].die().await;
    let noon: Timestamp = "2025-02-16T03:00:00Z".parse().unwrap();
    let app = App::start_with(&macs.toml(more), &[], Clock::starting_at(noon)).await;
    for (service, backend, verdict) in [
        ("ollama", "m1", "up"),
        ("ollama", "m2", "up"),
        ("qdrant", "m1", "down"),
        ("qdrant", "m2", "up"),
    ] {
        app.judged(service, backend, verdict).await;
    }
    assert_eq!(app.get("/ollama/api/tags").await.status(), 200);
    let status = masked(app.status().await, macs.qdrant[0].place().port());
    let golden: Value = serde_json::from_str(include_str!("golden/status.json")).unwrap();
    assert_eq!(
        status,
        golden,
        "{}",
        serde_json::to_string_pretty(&status).unwrap()
    );
    drop(time);
}

#[tokio::test(start_paused = true)]
async fn health_tells_degraded_from_unhealthy_and_live_depends_on_nobody() {
    let mut stage = stage("").await;
    let health = stage.app.admin("GET", "/health").await;
    let all = health.json();
    assert_eq!((health.status(), &all["status"]), (200, &json!("healthy")));
    for field in ["version", "instance", "timestamp"] {
        assert!(all[field].is_string(), "{field}");
    }
    let names: Vec<_> = all["checks"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        names,
        ["config", "service:ollama", "service:qdrant", "tailnet"]
    );
    for (machine, backend, status, word) in
        [(0, "m1", 200, "degraded"), (1, "m2", 503, "unhealthy")]
    {
        stage.macs.all_refuse(machine).await;
        stage
            .time
            .run(stage.app.judged("ollama", backend, "down"))
            .await;
        stage
            .time
            .run(stage.app.judged("qdrant", backend, "down"))
            .await;
        let health = stage.app.admin("GET", "/health").await;
        assert_eq!(
            (health.status(), &health.json()["status"]),
            (status, &json!(word))
        );
        assert_eq!(
            health.json()["checks"]["service:ollama"]["ok"],
            json!(false)
        );
        assert_eq!(stage.app.admin("GET", "/live").await.status(), 200);
        assert_eq!(stage.app.admin("GET", "/ready").await.status(), 200);
    }
    assert_eq!(
        stage.app.status().await["services"][0]["backends"][0]["verdict"],
        "down"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn while_draining_it_is_not_ready_and_still_live() {
    let stage = stage("").await;
    stage.app.drain();
    let ready = stage.app.admin("GET", "/ready").await;
    assert_eq!((ready.status(), ready.text()), (503, "draining\n"));
    assert_eq!(stage.app.admin("GET", "/live").await.status(), 200);
}

async fn odd_requests(app: &App, round: usize) {
    let mut client = Client::connect(app.data).await;
    let targets = [
        format!("/x{round}/y"),
        format!("/ollama/api/x{round}"),
        format!("/qdrant/collections/c{round}/points/y{round}"),
        format!("/qdrant/collections/%22%0a{round}/points"),
    ];
    let method = ["GET", "BREW", "PUT", "X-ODD"][round % 4];
    for target in &targets {
        client
            .ask(method, target, &[("x-request-id", target)], b"{}")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_requests_create_no_series_of_their_own() {
    let stage = stage("timeouts.wait = \"100ms\"").await;
    let mut series = Vec::new();
    for round in 0..50 {
        odd_requests(&stage.app, round).await;
        if [3, 49].contains(&round) {
            series.push(stage.app.metrics().await.series());
        }
    }
    assert_eq!(series[0], series[1], "series grow with requests");
    let text = stage.app.admin("GET", "/metrics").await;
    for needle in ["c49", "x49", "BREW", "X-ODD"] {
        assert!(!text.text().contains(needle), "{needle}");
    }
    assert_eq!(
        stage.app.metrics().await.sum("tailhop_requests_total", &[]),
        200
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_switch_passes_under_load_without_one_failure_and_is_counted_once() {
    let time = Held::hold();
    let macs = Macs::start().await;
    let more = "schedule = { timezone = \"Asia/Tokyo\", default = \"m1\", switch = [{ at = 2025-02-17, to = \"m2\" }] }";
    let before: Timestamp = "2025-02-16T14:59:57Z".parse().unwrap();
    let app = App::start_with(&macs.toml(more), &[], Clock::starting_at(before)).await;
    log::listen();
    let began = tokio::time::Instant::now();
    let mut asked = Vec::new();
    let load = async {
        while began.elapsed() < 8 * SECOND {
            let (read, write) = tokio::join!(
                app.ask("POST", "/ollama/api/chat", b"{}"),
                app.ask("PUT", "/qdrant/collections/c/points", b"{}")
            );
            let after = began.elapsed();
            for got in [read, write] {
                assert_eq!(got.status(), 200, "{}", got.text());
                asked.push((after, got.backend().to_owned(), got.reason().to_owned()));
            }
            tokio::time::sleep(SECOND / 20).await;
        }
    };
    time.run(load).await;
    assert!(asked.len() > 200, "{} requests", asked.len());
    for (after, backend, reason) in &asked {
        // The step in which the instant passes may show either.
        let expected = match after.as_millis() {
            ..=2900 => ("m1", "active:default"),
            3100.. => ("m2", "active:schedule"),
            _ => continue,
        };
        assert_eq!((backend.as_str(), reason.as_str()), expected, "{after:?}");
    }
    let heard = log::heard();
    let told = heard
        .lines()
        .filter(|line| line.contains("active backend changed"));
    assert_eq!(told.count(), 2, "one line a service: {heard}");
    let metrics = app.metrics().await;
    for service in ["ollama", "qdrant"] {
        let labels = [("service", service), ("cause", "schedule")];
        assert_eq!(metrics.sum("tailhop_switches_total", &labels), 1);
    }
    assert_eq!(
        metrics.sum("tailhop_requests_total", &[("code_class", "2xx")]),
        asked.len()
    );
    let status = app.status().await;
    assert_eq!(status["services"][0]["active"]["backend"], "m2");
    assert_eq!(status["services"][0]["next_switch"], json!(null));
}
