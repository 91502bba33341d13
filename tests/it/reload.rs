//! The file is edited while requests run. In real time, as file events are.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::app::{App, stage};
use crate::support::client::Client;
use crate::support::http::Piece;
use crate::support::time::{really, soon};
use crate::support::upstream::{Gate, gated};

/// What an edit may take to become effective, also where its event is lost.
const EFFECTIVE: Duration = Duration::from_millis(3500);

/// Waits until `/status` says so of the configuration.
async fn config(app: &App, what: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + EFFECTIVE;
    loop {
        let status = app.status().await;
        if what(&status["config"]) {
            return status;
        }
        assert!(Instant::now() < until, "{}", status["config"]);
        really(Duration::from_millis(2)).await;
    }
}

fn moved(text: &str) -> String {
    let (m1, m2) = ("default = \"m1\"", "default = \"m2\"");
    if text.contains(m1) {
        text.replace(m1, m2)
    } else {
        text.replace(m2, m1)
    }
}

/// Asks over and over; how many were answered well, and the first that was not.
async fn load(data: std::net::SocketAddr, ends: Arc<AtomicBool>) -> Result<usize, String> {
    let mut client = Client::connect(data).await;
    let mut answered = 0;
    while !ends.load(Ordering::Relaxed) {
        for (method, target) in [
            ("GET", "/qdrant/collections"),
            ("PUT", "/qdrant/collections/c/points"),
            ("POST", "/ollama/api/chat"),
        ] {
            let got = client.ask(method, target, &[], b"{}").await;
            if got.status() != 200 || !got.whole {
                return Err(format!(
                    "{method} {target}: {}{}",
                    got.head.text,
                    got.text()
                ));
            }
            answered += 1;
        }
    }
    Ok(answered)
}

#[tokio::test]
async fn two_hundred_edits_under_load_fail_no_request() {
    let stage = stage("").await;
    let ends = Arc::new(AtomicBool::new(false));
    let mut loads = JoinSet::new();
    for _ in 0..4 {
        loads.spawn(load(stage.app.data, Arc::clone(&ends)));
    }
    for edit in 0..200_u64 {
        if edit % 2 == 0 {
            stage.app.edit(|text| moved(&text));
        } else {
            stage.app.edit_in_place(|text| moved(&text));
        }
        config(&stage.app, |config| config["generation"] == edit + 2).await;
    }
    ends.store(true, Ordering::Relaxed);
    for answered in loads.join_all().await {
        assert!(answered.unwrap() > 200);
    }
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_config_reloads_total", &[("result", "applied")]),
        201
    );
    assert_eq!(
        metrics.sum("tailhop_config_reloads_total", &[("result", "rejected")]),
        0
    );
    assert_eq!(metrics.sum("tailhop_requests_refused_total", &[]), 0);
    stage.ends_clean().await;
}

#[tokio::test]
async fn an_edit_that_moves_the_active_holds_for_the_next_request() {
    let stage = stage("").await;
    let write = || stage.app.ask("PUT", "/qdrant/collections/c/points", b"{}");
    assert_eq!(write().await.backend(), "m1");
    stage.app.edit(|text| moved(&text));
    config(&stage.app, |config| config["generation"] == 2).await;
    let got = write().await;
    assert_eq!((got.backend(), got.reason()), ("m2", "active:default"));
    assert_eq!(
        stage.app.verdict("qdrant", "m1").await,
        "up",
        "verdicts outlive reloads"
    );
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_but_what_is_told_of_it() {
    let stage = stage("").await;
    let good = std::fs::read_to_string(stage.app.file()).unwrap();
    let broken = [
        ("not TOML", "backends = [".to_owned(), "1"),
        ("an unknown key", format!("pim = 1\n{good}"), "did you mean"),
        (
            "an unknown backend",
            good.replace("default = \"m1\"", "default = \"m9\""),
            "m9",
        ),
        ("empty", String::new(), "empty"),
    ];
    for (round, (fault, text, told)) in broken.into_iter().enumerate() {
        stage.app.edit(|_| text);
        let status = config(&stage.app, |config| !config["rejected"].is_null()).await;
        let rejected = &status["config"]["rejected"];
        assert!(
            rejected["text"].as_str().unwrap().contains(told),
            "{fault}: {rejected}"
        );
        assert_eq!(status["config"]["generation"], 1, "{fault}");
        let got = stage.app.get("/qdrant/collections").await;
        assert_eq!((got.status(), got.backend()), (200, "m1"), "{fault}");
        let metrics = stage.app.metrics().await;
        let rejections = metrics.sum("tailhop_config_rejections_total", &[]);
        assert_eq!(rejections, round + 1, "{fault}");
        assert_eq!(
            metrics.sum("tailhop_config_last_reload_successful", &[]),
            0,
            "{fault}"
        );
        assert_eq!(
            stage.app.admin("GET", "/health").await.json()["status"],
            "degraded",
            "{fault}"
        );
        stage.app.edit(|_| good.clone());
        config(&stage.app, |config| config["rejected"].is_null()).await;
        let metrics = stage.app.metrics().await;
        assert_eq!(
            metrics.sum("tailhop_config_last_reload_successful", &[]),
            1,
            "{fault}"
        );
    }
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_its_return_is_noticed() {
    let stage = stage("").await;
    let good = std::fs::read_to_string(stage.app.file()).unwrap();
    std::fs::remove_file(stage.app.file()).unwrap();
    config(&stage.app, |config| !config["rejected"].is_null()).await;
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    std::fs::write(stage.app.file(), moved(&good)).unwrap();
    config(&stage.app, |config| {
        config["generation"] == 2 && config["rejected"].is_null()
    })
    .await;
    assert_eq!(stage.app.get("/qdrant/collections").await.backend(), "m2");
}

/// Puts a file beside that of `app`, renamed into place.
fn put(app: &App, name: &str, text: &str) {
    let path = app.file().with_file_name(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn of_requests_that_go_well_one_in_so_many_is_logged_and_every_other_is() {
    let stage = stage("log.sample = 5").await;
    let mut client = stage.app.client().await;
    for _ in 0..20 {
        for path in ["/qdrant/collections", "/nowhere"] {
            client.ask("GET", path, &[], b"").await;
        }
    }
    let lines = stage.app.lines_after(24).await;
    let of = |status| lines.iter().filter(|line| line.status == status).count();
    assert_eq!((of(200), of(404), lines.len()), (4, 20, 24));
    // At once without a restart: all of them.
    stage.app.edit(|text| text.replace("log.sample = 5", ""));
    config(&stage.app, |config| config["generation"] == 2).await;
    for _ in 0..3 {
        client.ask("GET", "/qdrant/collections", &[], b"").await;
    }
    assert_eq!(stage.app.lines_after(3).await.len(), 3);
    drop(client);
    stage.ends_clean().await;
}

#[tokio::test]
async fn what_is_included_is_watched_and_is_one_with_the_file() {
    let stage = stage("").await;
    let app = &stage.app;
    let generation = async |number: u64| {
        config(app, |config| {
            config["generation"] == number && config["rejected"].is_null()
        })
        .await
    };
    let rejected = async |words: &str| {
        let told = |config: &Value| {
            config["rejected"]["text"]
                .as_str()
                .unwrap_or("")
                .contains(words)
        };
        config(app, told).await
    };
    let active = async || app.get("/qdrant/collections").await.backend().to_owned();
    // The file names another before that is there: it is looked for until it comes.
    app.edit(|text| {
        format!(
            "include = [\"env/tier.toml\"]\n{}",
            text.replace("schedule.default = \"m1\"\n", "")
        )
    });
    rejected("env/tier.toml does not exist").await;
    assert_eq!(active().await, "m1");
    put(app, "env/tier.toml", "include = [\"who.toml\"]\n");
    rejected("env/who.toml does not exist").await;
    put(app, "env/who.toml", "schedule.default = \"m2\"\n");
    generation(2).await;
    assert_eq!(active().await, "m2");
    // A broken one changes nothing, and is told with its own name.
    put(app, "env/who.toml", "schedule.default = \"m9\"\n");
    rejected("env/who.toml:1:20").await;
    assert_eq!(active().await, "m2");
    std::fs::remove_file(app.file().with_file_name("env/who.toml")).unwrap();
    rejected("env/who.toml does not exist").await;
    assert_eq!(active().await, "m2");
    put(app, "env/who.toml", "schedule.default = \"m1\"\n");
    generation(3).await;
    assert_eq!(active().await, "m1");
    // What is no longer named is no longer of it.
    put(app, "env/tier.toml", "schedule.default = \"m2\"\n");
    generation(4).await;
    put(app, "env/who.toml", "nonsense");
    really(Duration::from_millis(600)).await;
    let status = generation(4).await;
    assert_eq!(status["config"]["rejected"], Value::Null);
    stage.ends_clean().await;
}

#[tokio::test]
async fn an_included_file_that_is_half_written_is_not_taken_for_the_whole() {
    let stage = stage("").await;
    let app = &stage.app;
    put(app, "tier.toml", "timeouts.wait = \"5s\"\n");
    app.edit(|text| format!("include = [\"tier.toml\"]\n{text}"));
    config(app, |config| config["generation"] == 2).await;
    let mut writer = std::fs::File::create(app.file().with_file_name("tier.toml")).unwrap();
    writer.write_all(b"timeouts.wait = \"6s\"\n").unwrap();
    writer.flush().unwrap();
    // The file beside it is settled and read now, and the half of this one with it.
    app.edit(|text| format!("{text}\nservices.qdrant.fallback = \"none\"\n"));
    let status = config(app, |config| config["generation"] == 3).await;
    let changes = status["config"]["changes"].to_string();
    assert!(!changes.contains("6s"), "{changes}");
    writer.write_all(b"timeouts.probe = \"3s\"\n").unwrap();
    drop(writer);
    let status = config(app, |config| config["generation"] == 4).await;
    let changes = status["config"]["changes"].to_string();
    for told in ["wait is 6s instead of 5s", "probe is 3s instead of 2s"] {
        assert!(changes.contains(told), "{changes}");
    }
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_backend_that_is_removed_keeps_what_runs_and_nothing_idle() {
    let stage = stage("").await;
    let [mac, _] = &stage.macs.qdrant;
    let gate = Gate::closed();
    mac.once(gated(&[b"one", b"two"], &gate));
    let mut client = stage.app.client().await;
    client.request("GET", "/qdrant/collections", &[], b"").await;
    gate.pass();
    let mut stream = client.coming("GET").await;
    assert_eq!(stream.piece().await, Piece::Data(b"one".to_vec()));
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    stage
        .app
        .edit(|text| moved(&text).replace("backends.m1.host = \"127.0.0.2\"\n", ""));
    config(&stage.app, |config| config["generation"] == 2).await;
    // One that carries the stream; the idle one goes.
    soon(mac.saw(|counts| counts.opened - counts.closed == 1)).await;
    assert_eq!(stage.app.get("/qdrant/collections").await.backend(), "m2");
    gate.pass();
    gate.pass();
    assert_eq!(stream.piece().await, Piece::Data(b"two".to_vec()));
    assert_eq!(stream.piece().await, Piece::End);
    mac.all_closed().await;
    let status = stage.app.status().await;
    assert_eq!(
        status["services"][0]["backends"].as_array().unwrap().len(),
        1
    );
    stage.ends_clean().await;
}

#[tokio::test]
async fn a_service_that_is_removed_is_no_route_and_lets_its_connections_go() {
    let stage = stage("").await;
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    stage.app.edit(|text| {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("services.qdrant"));
        lines.fold(String::new(), |all, line| all + line + "\n")
    });
    config(&stage.app, |config| config["generation"] == 2).await;
    assert_eq!(
        stage.app.get("/qdrant/collections").await.reason(),
        "no-route"
    );
    stage.macs.qdrant[0].all_closed().await;
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics
            .samples("tailhop_backend_state", &[("service", "qdrant")])
            .len(),
        0
    );
    assert_eq!(stage.app.get("/ollama/api/tags").await.status(), 200);
    stage.ends_clean().await;
}
