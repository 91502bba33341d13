//! Many requests at once, and what is left behind: nothing.

use std::process::Command;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::app::{App, Stage, stage};
use crate::support::client::Client;
use crate::support::time::until;
use crate::support::upstream::{Gate, answer};

/// The cap on idle connections of one endpoint.
const IDLE_MOST: usize = 128;

async fn all_at_once(stage: &Stage, count: usize) {
    let gate = Gate::closed();
    stage.macs.ollama[0].always(answer(200, &[], b"{}").behind(&gate));
    let mut asked = JoinSet::new();
    for _ in 0..count {
        let data = stage.app.data;
        asked.spawn(async move {
            let mut client = Client::connect(data).await;
            client
                .ask("POST", "/ollama/api/chat", &[], b"{}")
                .await
                .status()
        });
    }
    stage.macs.ollama[0]
        .saw(|counts| counts.requests % count == 0 && counts.requests > 0)
        .await;
    let in_flight = stage
        .app
        .metrics()
        .await
        .sum("tailhop_requests_in_flight", &[]);
    assert_eq!(in_flight, count);
    (0..count).for_each(|_| gate.pass());
    for status in asked.join_all().await {
        assert_eq!(status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_at_once_leave_no_more_than_the_cap_behind() {
    let stage = stage("").await;
    all_at_once(&stage, 200).await;
    let metrics = stage.app.metrics().await;
    assert_eq!(metrics.sum("tailhop_requests_in_flight", &[]), 0);
    let idle = metrics.sum(
        "tailhop_pool_connections",
        &[("service", "ollama"), ("backend", "m1")],
    );
    assert!(idle > 0 && idle <= IDLE_MOST, "{idle} idle");
    until("the others close", || {
        stage.macs.ollama[0].open() <= IDLE_MOST
    })
    .await;
    stage.time.pass(Duration::from_secs(70)).await;
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_pool_connections", &[]),
        0,
        "they are swept in the end"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn kept_alive_connections_are_reused_and_not_multiplied() {
    let stage = stage("").await;
    let before = stage.macs.qdrant[0].counts().opened;
    for _ in 0..300 {
        assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    }
    assert_eq!(stage.macs.qdrant[0].counts().opened, before + 1);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn inference_that_dials_afresh_does_not_grow_the_pool() {
    let stage = stage("").await;
    let chat = || stage.app.ask("POST", "/ollama/api/chat", b"{}");
    stage.macs.ollama[0].saw(|counts| counts.lists == 1).await;
    // Those of probes, and that.
    let before = stage.macs.ollama[0].counts().opened;
    for n in 1..=20 {
        assert_eq!(chat().await.status(), 200);
        let opened = stage.macs.ollama[0].counts().opened;
        assert_eq!(opened, before + n, "each dials");
        // Its machine was not heard for so long that a dial is the safer way.
        stage.time.pass(Duration::from_millis(100)).await;
    }
    let idle = stage.app.metrics().await;
    assert_eq!(
        idle.sum("tailhop_pool_connections", &[("service", "ollama")]),
        1
    );
    until("the others close", || stage.macs.ollama[0].open() == 1).await;
    stage.ends_clean().await;
}

/// Runs alone in a process of its own, as descriptors are counted by process.
#[test]
fn descriptors_are_back_at_the_start_after_load_and_faults() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "many::descriptors_of_this_process",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
#[ignore = "run by descriptors_are_back_at_the_start_after_load_and_faults"]
async fn descriptors_of_this_process() {
    // Whatever is opened once and kept is opened by the first round.
    round().await;
    let before = descriptors();
    for _ in 0..3 {
        round().await;
    }
    until("descriptors are given back", || descriptors() <= before).await;
}

async fn round() {
    let mut stage = stage("timeouts.wait = \"100ms\"").await;
    all_at_once(&stage, 50).await;
    let app: &App = &stage.app;
    for _ in 0..10 {
        let mut client = app.client().await;
        client.request("POST", "/ollama/api/chat", &[], b"{}").await;
        drop(client);
    }
    stage.macs.all_refuse(0).await;
    for _ in 0..10 {
        stage
            .time
            .run(stage.app.ask("PUT", "/qdrant/collections/c/points", b"{}"))
            .await;
        stage.time.run(stage.app.get("/qdrant/collections")).await;
    }
    stage.ends_clean().await;
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
