//! Models that are loaded before they are asked for, and on which Mac they never are.

use std::time::Duration;

use serde_json::{Value, json};
use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs, Stage, stage};
use crate::support::time::{Held, soon};
use crate::support::upstream::{Request, answer};

const TINY: &[(&str, &str)] = &[("tiny", "aa")];
const PREWARM: &str = "services.ollama.prewarm = [\"tiny\", \"absent\"]";

/// A switch to the second Mac comes in twenty minutes.
async fn before_a_switch() -> Stage {
    let time = Held::hold();
    let macs = Macs::start().await;
    for mac in &macs.ollama {
        mac.models(&[("tiny", "aa"), ("other", "bb")]);
    }
    let toml = macs.toml(&format!(
        "schedule = {{ default = \"m1\", switch = [{{ at = 2025-02-17T00:00:00Z, to = \"m2\" }}] }}\n{PREWARM}"
    ));
    let clock = Clock::starting_at("2025-02-16T23:40:00Z".parse().unwrap());
    let app = App::start_with(&toml, &[], clock).await;
    for backend in ["m1", "m2"] {
        app.judged("ollama", backend, "up").await;
    }
    Stage { app, macs, time }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// What was done on a Mac before it was asked for, as its status tells.
async fn prewarmed(stage: &Stage, place: usize) -> Value {
    let status = stage.app.status().await;
    status["services"][0]["backends"][place]["models"]["prewarmed"].clone()
}

async fn counted(stage: &Stage, backend: &str, result: &str) -> usize {
    let labels = [("backend", backend), ("result", result)];
    let metrics = stage.app.metrics().await;
    metrics.sum("tailhop_prewarms_total", &labels)
}

/// Waits until that was counted.
async fn comes(stage: &Stage, backend: &str, result: &str) {
    soon(async {
        while counted(stage, backend, result).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_loads_its_models_ten_minutes_before_it_becomes_active_and_once() {
    let stage = before_a_switch().await;
    stage.time.pass_long(minutes(9)).await;
    assert!(stage.macs.ollama[1].seen().is_empty());
    stage.time.pass_long(minutes(2)).await;
    let seen = stage.macs.ollama[1].requests(1).await;
    assert_eq!(seen[0].target(), "/api/generate");
    let asked: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(
        asked,
        json!({ "model": "tiny:latest", "keep_alive": "30m" })
    );
    comes(&stage, "m2", "loaded").await;
    let told = prewarmed(&stage, 1).await;
    assert_eq!(told[0]["name"], "tiny:latest");
    assert_eq!(
        (&told[0]["occasion"], &told[0]["result"]),
        (&json!("switch"), &json!("loaded"))
    );
    stage.time.pass_long(minutes(8)).await;
    assert_eq!(stage.macs.ollama[1].seen().len(), 1, "once is enough");
    assert!(
        stage.macs.ollama[0].seen().is_empty(),
        "nothing comes there"
    );
    stage.app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_loaded_on_a_mac_that_serves_until_it_does_not() {
    for ours in [true, false] {
        let stage = before_a_switch().await;
        stage.time.pass_long(minutes(9)).await;
        if ours {
            stage.macs.ollama[0].models(TINY);
            stage.time.pass(Duration::from_secs(20)).await;
        } else {
            // Somebody else's model, or another instance's.
            stage.macs.ollama[1].loaded(&[("other", "bb")]);
        }
        for _ in 0..4 {
            if ours {
                let asks = stage
                    .app
                    .ask("POST", "/ollama/api/chat", b"{\"model\":\"other\"}");
                assert_eq!(asks.await.backend(), "m2");
            }
            stage.time.pass_long(Duration::from_secs(40)).await;
        }
        comes(&stage, "m2", "in-use").await;
        assert_eq!(counted(&stage, "m2", "in-use").await, 1, "told once");
        assert_eq!(prewarmed(&stage, 1).await[0]["result"], "in-use");
        let generates = || {
            let seen = stage.macs.ollama[1].seen();
            seen.iter()
                .filter(|one| one.target() == "/api/generate")
                .count()
        };
        assert_eq!(generates(), 0);
        stage.macs.ollama[1].loaded(&[]);
        stage.time.pass_long(minutes(2)).await;
        comes(&stage, "m2", "loaded").await;
        assert_eq!(generates(), 1);
        stage.app.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_active_mac_loads_its_models_when_it_woke() {
    let mut stage = stage(PREWARM).await;
    for mac in &stage.macs.ollama {
        mac.models(TINY);
    }
    stage.time.pass(Duration::from_secs(20)).await;
    assert!(stage.macs.ollama[0].seen().is_empty(), "a start is no wake");
    for place in [0, 1] {
        let name = ["m1", "m2"][place];
        stage.macs.ollama[place].die().await;
        stage
            .time
            .run(stage.app.judged("ollama", name, "down"))
            .await;
        stage.time.pass(Duration::from_secs(2)).await;
        stage.macs.ollama[place].listen().await;
        stage.time.run(stage.app.judged("ollama", name, "up")).await;
        stage.time.pass(Duration::from_secs(5)).await;
    }
    let seen = stage.macs.ollama[0].requests(1).await;
    assert_eq!((seen.len(), seen[0].target()), (1, "/api/generate"));
    comes(&stage, "m1", "loaded").await;
    assert_eq!(prewarmed(&stage, 0).await[0]["occasion"], "wake");
    assert!(stage.macs.ollama[1].seen().is_empty(), "nobody asks it");
    stage.app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_only_embeds_is_loaded_without_input_and_a_failure_is_tried_again() {
    let stage = before_a_switch().await;
    let mac = &stage.macs.ollama[1];
    mac.once(answer(500, &[], b"{\"error\":\"no\"}"));
    mac.once(answer(
        400,
        &[],
        b"{\"error\":\"tiny does not support generate\"}",
    ));
    stage.time.pass_long(minutes(12)).await;
    let seen = mac.requests(3).await;
    let targets: Vec<_> = seen.iter().map(Request::target).collect();
    assert_eq!(targets, ["/api/generate", "/api/generate", "/api/embed"]);
    let asked: Value = serde_json::from_slice(&seen[2].body).unwrap();
    assert_eq!(asked["input"], json!([]));
    comes(&stage, "m2", "loaded").await;
    assert_eq!(counted(&stage, "m2", "failed").await, 1);
    stage.app.stop().await;
}
