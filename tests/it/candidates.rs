//! Where a request may go, and where it never goes.

use serde_json::json;

use crate::support::app::{App, Macs, Stage, stage};
use crate::support::client::Answer;
use crate::support::log;
use crate::support::time::Held;
use crate::support::upstream::{Upstream, answer, any_carries};
use tailhop::words::clock::Clock;

const BUSY: &[u8] =
    br#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#;

/// One row of a table of routes.
struct Row {
    method: String,
    path: String,
    class: String,
    retry: String,
}

fn rows(table: &str) -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('\t').collect();
        let path: Vec<_> = (cells[1].split('/'))
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect();
        Row {
            method: cells[0].to_owned(),
            path: path.join("/"),
            class: cells[2].to_owned(),
            retry: cells[3].to_owned(),
        }
    };
    table.lines().skip(1).map(row).collect()
}

/// Whether another backend's answer would do, by the design's word over the table's.
fn may_move(service: &str, row: &Row) -> bool {
    let embeds = row.path.contains("embed");
    match (service, row.class.as_str()) {
        ("ollama", "R") => !row.path.contains("blobs"),
        ("ollama", "I") => !embeds,
        ("qdrant", "read") => row.retry == "any",
        _ => false,
    }
}

async fn asked(stage: &Stage, row: &Row, service: &str) -> Answer {
    let target = format!("/{service}{}", row.path);
    stage
        .time
        .run(stage.app.ask(&row.method, &target, b"{}"))
        .await
        .0
}

async fn no_row_moves_but_those_that_may(service: &str, table: &str) {
    let mut stage = stage("timeouts.wait = \"100ms\"").await;
    stage.macs.all_refuse(0).await;
    let other = |stage: &Stage| match service {
        "ollama" => stage.macs.ollama[1].seen().len(),
        _ => stage.macs.qdrant[1].seen().len(),
    };
    for row in rows(table) {
        let before = other(&stage);
        let got = asked(&stage, &row, service).await;
        let what = format!("{} {} is {}", row.method, row.path, got.status());
        // Probes are not recorded, and these two rows ask as probes do.
        let probe = ["/api/version", "/readyz"].contains(&row.path.as_str());
        if may_move(service, &row) {
            assert_eq!((got.status(), got.backend()), (200, "m2"), "{what}");
            assert!(probe || other(&stage) == before + 1, "{what}");
        } else {
            assert_eq!((got.status(), other(&stage)), (503, before), "{what}");
            assert_eq!(got.reason(), "refused", "{what}");
            assert!(got.head.get("retry-after").is_some(), "{what}");
        }
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn writes_never_leave_the_active_backend_of_qdrant() {
    no_row_moves_but_those_that_may("qdrant", include_str!("../facts/qdrant_rest.tsv")).await;
}

#[tokio::test(start_paused = true)]
async fn writes_never_leave_the_active_backend_of_ollama() {
    no_row_moves_but_those_that_may("ollama", include_str!("../facts/ollama_rest.tsv")).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_table_knows_never_leaves_the_active_backend() {
    let mut stage = stage("timeouts.wait = \"100ms\"").await;
    stage.macs.all_refuse(0).await;
    for (method, target) in [
        ("GET", "/ollama/api/new"),
        ("POST", "/ollama/api/chat/x"),
        ("BREW", "/ollama/api/chat"),
        ("GET", "/qdrant/new"),
        ("POST", "/qdrant/collections/c/points/queryx"),
        ("DELETE", "/qdrant/collections/c/points/query"),
        ("PUT", "/qdrant//collections/c/points"),
        ("PUT", "/qdrant/collections/c/points/"),
        ("POST", "/qdrant/collections/%63/points/delete"),
    ] {
        let (got, _) = stage.time.run(stage.app.ask(method, target, b"{}")).await;
        assert_eq!(
            (got.status(), got.reason()),
            (503, "refused"),
            "{method} {target}"
        );
    }
    assert_eq!(
        stage.macs.ollama[1].seen().len() + stage.macs.qdrant[1].seen().len(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_fallback_is_told_in_the_header_the_line_and_the_metric() {
    let mut stage = stage("").await;
    stage.macs.all_refuse(0).await;
    let first = stage.app.get("/qdrant/collections").await;
    assert_eq!(
        (first.status(), first.backend(), first.reason()),
        (200, "m2", "fallback:refused")
    );
    let then = stage.app.get("/qdrant/collections").await;
    assert_eq!((then.backend(), then.reason()), ("m2", "fallback:down"));
    let line = stage.app.line().await;
    assert_eq!(
        (&*line.backend, &*line.reason, line.attempts),
        ("m2", "fallback:refused", 2)
    );
    assert_eq!(
        stage.app.line().await.attempts,
        1,
        "it is not tried again while it is down"
    );
    let metrics = stage.app.metrics().await;
    let labels = [("service", "qdrant"), ("from", "m1"), ("to", "m2")];
    assert_eq!(metrics.sum("tailhop_fallbacks_total", &labels), 2);
    assert_eq!(
        metrics.sum("tailhop_retries_total", &[("reason", "refused")]),
        1
    );
    assert_eq!(
        metrics.sum(
            "tailhop_backend_serving",
            &[("service", "qdrant"), ("backend", "m2")]
        ),
        1
    );
    assert_eq!(
        metrics.sum(
            "tailhop_backend_active",
            &[("service", "qdrant"), ("backend", "m1")]
        ),
        1
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn without_fallback_everything_stays() {
    let more = "timeouts.wait = \"100ms\"\nservices.ollama.fallback = \"none\"\nservices.qdrant.fallback = \"none\"";
    let mut stage = stage(more).await;
    stage.macs.all_refuse(0).await;
    for (method, target) in [
        ("GET", "/ollama/api/tags"),
        ("POST", "/ollama/api/chat"),
        ("GET", "/qdrant/collections"),
    ] {
        let (got, _) = stage.time.run(stage.app.ask(method, target, b"{}")).await;
        assert_eq!((got.status(), got.reason()), (503, "refused"), "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_backend_gets_no_work_and_its_writes_do_not_move() {
    let stage = stage("backends.m1.drain.reason = \"upgrade\"").await;
    for (method, target) in [("GET", "/qdrant/collections"), ("POST", "/ollama/api/chat")] {
        let got = stage.app.ask(method, target, b"{}").await;
        assert_eq!(
            (got.status(), got.backend(), got.reason()),
            (200, "m2", "fallback:drained"),
            "{target}"
        );
    }
    for (method, target) in [
        ("PUT", "/qdrant/collections/c/points"),
        ("POST", "/ollama/api/pull"),
        ("POST", "/ollama/api/embed"),
        ("GET", "/qdrant/telemetry"),
    ] {
        let got = stage.app.ask(method, target, b"{}").await;
        assert_eq!((got.status(), got.reason()), (503, "drained"), "{target}");
        assert!(got.text().contains("undrain it"), "{}", got.text());
    }
    let [first, second] = &stage.macs.qdrant;
    assert_eq!((first.seen().len(), second.seen().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drained_backend_is_not_asked_even_when_the_other_is_down() {
    let mut stage =
        stage("timeouts.wait = \"100ms\"\nbackends.m1.drain.reason = \"upgrade\"").await;
    stage.macs.all_refuse(1).await;
    for _ in 0..3 {
        let (got, _) = stage.time.run(stage.app.get("/qdrant/collections")).await;
        assert_eq!((got.status(), got.reason()), (503, "refused"));
    }
    assert_eq!(stage.macs.qdrant[0].seen().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pin_moves_reads_and_only_where_it_says_so_writes() {
    let rows = [
        ("pin = [{ to = \"m2\" }]", "m2", "m1"),
        ("pin = [{ to = \"m2\", writes = true }]", "m2", "m2"),
        (
            "pin = [{ to = \"m2\", services = [\"ollama\"], writes = true }]",
            "m1",
            "m1",
        ),
        ("pin = [{ to = \"m2\", until = 2020-01-01 }]", "m1", "m1"),
    ];
    for (pin, reads, writes) in rows {
        let stage = stage(pin).await;
        let read = stage.app.get("/qdrant/collections").await;
        let write = stage
            .app
            .ask("PUT", "/qdrant/collections/c/points", b"{}")
            .await;
        assert_eq!((read.backend(), write.backend()), (reads, writes), "{pin}");
    }
}

#[tokio::test(start_paused = true)]
async fn active_backend_moves_everything_and_beats_pins() {
    let time = Held::hold();
    let macs = Macs::start().await;
    let toml = macs.toml("schedule.default = \"m1\"\npin = [{ to = \"m1\", writes = true }]");
    let app = App::start_with(&toml, &[("ACTIVE_BACKEND", "m2")], Clock::system()).await;
    for (method, target) in [
        ("GET", "/qdrant/collections"),
        ("PUT", "/qdrant/collections/c/points"),
        ("POST", "/ollama/api/embed"),
        ("POST", "/ollama/api/pull"),
    ] {
        let got = app.ask(method, target, b"{}").await;
        assert_eq!(
            (got.backend(), got.reason()),
            ("m2", "active:active-backend"),
            "{target}"
        );
    }
    let metrics = app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_active_backend_contradicts_schedule", &[]),
        2
    );
    assert_eq!(
        app.admin("GET", "/health").await.json()["status"],
        "degraded"
    );
    drop(time);
}

#[tokio::test(start_paused = true)]
async fn not_there_is_an_answer_only_from_the_active_backend() {
    let no = answer(404, &[], br#"{"status":{"error":"Not found"}}"#);
    let absent = answer(
        200,
        &[],
        br#"{"result":{"exists":false},"status":"ok","time":0}"#,
    );
    let present = answer(
        200,
        &[],
        br#"{"result":{"exists":true},"status":"ok","time":0}"#,
    );
    let exists = "/qdrant/collections/c/exists";
    let mut stage = stage("timeouts.wait = \"300ms\"").await;
    let rows = [
        ("/qdrant/collections/c", &no, 404),
        (exists, &absent, 200),
        (exists, &present, 200),
    ];
    for (target, act, status) in rows {
        stage.macs.qdrant[0].once(act.clone());
        let got = stage.app.get(target).await;
        assert_eq!((got.status(), got.backend()), (status, "m1"), "{target}");
    }
    stage.macs.all_refuse(0).await;
    for (target, act) in [("/qdrant/collections/c", &no), (exists, &absent)] {
        stage.macs.qdrant[1].once(act.clone());
        let got = stage.app.get(target).await;
        assert_eq!(
            (got.status(), got.reason()),
            (503, "data-missing"),
            "{target}"
        );
        let text = got.json()["status"]["error"].as_str().unwrap().to_owned();
        assert!(text.contains("lacks what was asked for"), "{text}");
    }
    stage.macs.qdrant[1].once(present);
    let got = stage.app.get(exists).await;
    assert_eq!(
        (
            got.status(),
            got.backend(),
            got.json()["result"]["exists"].as_bool()
        ),
        (200, "m2", Some(true))
    );
    stage.macs.ollama[1].once(answer(404, &[], br#"{"error":"model 'x' not found"}"#));
    let got = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!((got.status(), got.reason()), (503, "data-missing"));
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_ollama_hands_on_and_the_last_one_says_so_itself() {
    let stage = stage("").await;
    let [first, second]: &[Upstream; 2] = &stage.macs.ollama;
    first.once(answer(503, &[], BUSY));
    let got = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!(
        (got.status(), got.backend(), got.reason()),
        (200, "m2", "fallback:busy")
    );
    first.once(answer(503, &[], BUSY));
    second.once(answer(503, &[("retry-after", "7")], BUSY));
    let got = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!((got.status(), got.backend(), &*got.body), (503, "m2", BUSY));
    assert_eq!(got.head.get("retry-after"), Some("7"));
    first.once(answer(503, &[], BUSY));
    let got = stage.app.ask("POST", "/ollama/api/pull", b"{}").await;
    assert_eq!((got.status(), got.backend()), (503, "m1"), "a pull stays");
    first.once(answer(503, &[], BUSY));
    let large = vec![b' '; (8 << 20) + 1];
    let got = stage.app.ask("POST", "/ollama/api/chat", &large).await;
    assert_eq!(
        (got.status(), got.backend(), &*got.body),
        (503, "m1", BUSY),
        "what cannot be sent again stays"
    );
    assert_eq!(
        stage.app.verdict("ollama", "m1").await,
        "up",
        "busy is no illness"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_ours_speaks_the_dialect_of_the_api() {
    let mut stage = stage("timeouts.wait = \"100ms\"").await;
    stage.macs.all_refuse(0).await;
    stage.macs.all_refuse(1).await;
    let rows = [
        ("/ollama/api/chat", "an inference", "/error"),
        (
            "/ollama/v1/chat/completions",
            "an inference",
            "/error/message",
        ),
        ("/ollama/v1/messages", "an inference", "/error/message"),
        (
            "/qdrant/collections/c/points/query",
            "a read",
            "/status/error",
        ),
        (
            "/qdrant/collections/c/points/delete",
            "a write",
            "/status/error",
        ),
    ];
    for (target, what, at) in rows {
        let (got, _) = stage.time.run(stage.app.ask("POST", target, b"{}")).await;
        assert_eq!(got.status(), 503, "{target}");
        assert_eq!(
            got.head.get("content-type"),
            Some("application/json"),
            "{target}"
        );
        let proxy_status = got.head.get("proxy-status").unwrap();
        assert_eq!(
            proxy_status, "tailhop; error=connection_refused; details=\"refused\"",
            "{target}"
        );
        let json = got.json();
        let text = json.pointer(at).unwrap().as_str().unwrap();
        let id = got.head.get("x-request-id").unwrap();
        for part in [
            "tailhop: ",
            what,
            " failed: refused",
            "Nothing was sent",
            "Active is m1",
            id,
        ] {
            assert!(text.contains(part), "{target}: {part:?} is not in {text:?}");
        }
    }
    let got = stage
        .time
        .run(stage.app.get("/qdrant/collections"))
        .await
        .0
        .json();
    assert_eq!((&got["result"], &got["time"]), (&json!(null), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn a_stand_in_copy_serves_reads_and_does_not_say_who_owns_the_writes() {
    let time = Held::hold();
    let macs = Macs::start().await;
    let good = macs.toml("schedule.default = \"m1\"");
    let (app, took) = time.run(App::start_on_stand_in("broken", &good, &[])).await;
    assert!(took.as_secs() >= 10, "the file is given {took:?}");
    let write = || app.ask("PUT", "/qdrant/collections/c/points", b"{}");
    let pull = || app.ask("POST", "/ollama/api/pull", b"{}");
    assert_eq!(app.get("/qdrant/collections").await.status(), 200);
    let got = write().await;
    assert_eq!(
        (got.status(), got.reason()),
        (503, "stand-in-config"),
        "{}",
        got.text()
    );
    assert_eq!(pull().await.status(), 200, "a model store is no data");
    let status = app.status().await;
    assert_eq!(status["config"]["stand_in"], true);
    assert_eq!(
        app.admin("GET", "/health").await.json()["status"],
        "degraded"
    );
    assert_eq!(
        app.metrics()
            .await
            .sum("tailhop_config_last_reload_successful", &[]),
        0
    );

    app.edit(|_| good.clone());
    let repaired = async {
        while app.status().await["config"]["stand_in"] == true {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    time.run(repaired).await;
    assert_eq!(write().await.status(), 200);
    let (ordered, _) = time
        .run(App::start_on_stand_in(
            "broken",
            &good,
            &[("ACTIVE_BACKEND", "m2")],
        ))
        .await;
    let got = ordered
        .ask("PUT", "/qdrant/collections/c/points", b"{}")
        .await;
    assert_eq!(
        (got.status(), got.backend()),
        (200, "m2"),
        "ACTIVE_BACKEND says who owns them"
    );
}

#[tokio::test(start_paused = true)]
async fn canaries_never_leave() {
    log::listen();
    let mut stage = stage("timeouts.wait = \"100ms\"").await;
    let canary = "CANARY-7f3a";
    let headers = [
        ("authorization", canary),
        ("api-key", canary),
        ("cookie", canary),
        ("x-any", canary),
    ];
    let target = |path: &str| format!("{path}?key={canary}");
    let body = format!("{{\"prompt\":\"{canary}\"}}");
    let mut errors = Vec::new();
    for refuse in [false, true] {
        if refuse {
            stage.macs.all_refuse(0).await;
            stage.macs.all_refuse(1).await;
        }
        for path in [
            "/ollama/api/chat",
            "/qdrant/collections/c/points",
            "/nowhere",
        ] {
            let asked = async {
                let mut client = stage.app.client().await;
                client
                    .ask("PUT", &target(path), &headers, body.as_bytes())
                    .await
            };
            errors.push(stage.time.run(asked).await.0);
        }
    }
    for upstream in [&stage.macs.ollama[0], &stage.macs.qdrant[0]] {
        assert!(any_carries(&upstream.seen(), canary), "it does go upstream");
    }
    let lines = serde_json::to_string(&stage.app.lines()).unwrap();
    assert!(lines.contains("/nowhere"), "the lines are there");
    let diagnostics = log::heard();
    assert!(
        diagnostics.contains("verdict"),
        "the diagnostics are there: {diagnostics}"
    );
    let mut told = vec![lines, diagnostics];
    told.extend(
        errors
            .iter()
            .map(|error| error.head.text.clone() + error.text()),
    );
    for page in ["/status", "/metrics", "/health"] {
        told.push(stage.app.admin("GET", page).await.text().to_owned());
    }
    for text in told {
        assert!(!text.contains(canary), "{text}");
    }
}
