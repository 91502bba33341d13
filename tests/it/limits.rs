//! What a client may cost: its head, its slowness, its number.
//!
//! Descriptors and memory are counted by process, so those tests run alone in one of their own.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::app::stage;
use crate::support::client::Client;
use crate::support::http::Piece;
use crate::support::time::{really, soon};
use crate::support::upstream::{Gate, flood, gated};

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;
/// What a client has for a head, and may be idle before one.
const HEAD: Duration = Duration::from_secs(75);
/// Clients that a descriptor limit of 256 leaves room for.
const PLACES: usize = 96;

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_gets_408_once_and_an_idle_client_is_only_closed() {
    let stage = stage("").await;
    let mut idle = stage.app.client().await;
    let mut slow = stage.app.client().await;
    slow.send("GET /ollama/api/tags HTTP/1.1\r\nhost: a\r\nx-a: ")
        .await;
    for _ in 0..20 {
        stage.time.pass(3 * SECOND).await;
        slow.send("b").await;
    }
    let (got, took) = stage
        .time
        .run(async { slow.coming("GET").await.whole().await })
        .await;
    assert!(
        took + 60 * SECOND <= HEAD + SECOND,
        "bytes that trickle in gain nothing: {took:?}"
    );
    assert_eq!((got.status(), got.reason()), (408, "late-head"));
    assert!(got.json()["error"].is_string());
    assert_eq!(soon(idle.rest()).await, b"");
    let line = stage.app.line().await;
    assert_eq!(
        (line.status, &*line.reason, line.end),
        (408, "late-head", "refused")
    );
    assert!(
        stage.app.lines().is_empty(),
        "one was idle, and broke no rule"
    );
    let metrics = stage.app.metrics().await;
    let labels = [("service", "none"), ("reason", "late-head")];
    assert_eq!(metrics.sum("tailhop_requests_refused_total", &labels), 1);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_one_byte_a_second_is_waited_for() {
    let stage = stage("timeouts.idle = \"5s\"").await;
    for (path, size) in [
        ("collections/c/points", 20),
        ("collections/c/points/upload", 70_000),
    ] {
        let mut client = stage.app.client().await;
        client
            .send(format!(
                "PUT /qdrant/{path} HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n"
            ))
            .await;
        client.send("b".repeat(size - 20)).await;
        for _ in 0..20 {
            stage.time.pass(SECOND).await;
            client.send("b").await;
        }
        assert_eq!(
            client.coming("PUT").await.whole().await.status(),
            200,
            "{size}"
        );
        let seen = stage.macs.qdrant[0].seen().pop().unwrap();
        assert_eq!(seen.body.len(), size);
    }
    stage.ends_clean().await;
}

/// Runs a test of this module in a process of its own.
fn alone(test: &str) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("limits::{test}"),
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let why = String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{why}"
    );
}

#[test]
fn a_slow_reader_of_200_mb_costs_less_than_a_mebibyte() {
    alone("memory_of_a_slow_reader");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by a_slow_reader_of_200_mb_costs_less_than_a_mebibyte"]
async fn memory_of_a_slow_reader() {
    let stage = stage("").await;
    // What is allocated once is allocated by the first answer.
    stage.macs.ollama[0].once(flood(8 * MIB));
    assert_eq!(stage.app.get("/ollama/api/tags").await.body.len(), 8 * MIB);
    let before = resident();
    stage.macs.ollama[0].once(flood(200 * MIB));
    let mut client = Client::narrow(stage.app.data).await;
    client.request("GET", "/ollama/api/tags", &[], b"").await;
    let mut coming = client.coming("GET").await;
    let mut got = 0;
    for _ in 0..5 {
        let Piece::Data(piece) = coming.piece().await else {
            panic!("it ended");
        };
        got += piece.len();
        settled(|| stage.macs.ollama[0].counts().flooded).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < MIB, "{grown} bytes for a client that took {got}");
}

/// Waits until a count stands still: no event tells that nothing more comes.
async fn settled(count: impl Fn() -> usize) {
    let mut before = 0;
    while before != count() {
        before = count();
        really(Duration::from_millis(100)).await;
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[test]
fn with_256_descriptors_new_clients_are_told_and_what_runs_goes_on() {
    alone("clients_beyond_the_places");
}

/// The clients are in this process, too, so the limit holds only while the app looks at it.
#[tokio::test(start_paused = true)]
#[ignore = "run by with_256_descriptors_new_clients_are_told_and_what_runs_goes_on"]
async fn clients_beyond_the_places() {
    let usual = limit(256);
    let stage = stage("").await;
    limit(usual);
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut running = stage.app.client().await;
    running
        .request("POST", "/ollama/api/chat", &[], b"{}")
        .await;
    gate.pass();
    let mut coming = running.coming("POST").await;
    assert_eq!(coming.piece().await, Piece::Data(b"one\n".to_vec()));
    let mut held = Vec::new();
    while held.len() < PLACES - 1 {
        let mut client = stage.app.client().await;
        assert_eq!(
            client
                .ask("GET", "/ollama/api/tags", &[], b"")
                .await
                .status(),
            200
        );
        held.push(client);
    }
    for _ in 0..30 {
        let mut client = stage.app.client().await;
        let got = client.ask("GET", "/ollama/api/tags", &[], b"").await;
        assert_eq!((got.status(), got.reason()), (503, "full"));
        assert_eq!(got.head.get("retry-after"), Some("1"));
        assert_eq!(got.head.get("connection"), Some("close"));
        assert_eq!(client.rest().await, b"");
    }
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_requests_refused_total", &[("reason", "full")]),
        30
    );
    gate.pass();
    assert_eq!(coming.piece().await, Piece::Data(b"two\n".to_vec()));
    gate.pass();
    assert_eq!(coming.piece().await, Piece::End);
    held.clear();
    // They left: there is room again, by itself.
    soon(async { while stage.app.get("/ollama/api/tags").await.status() != 200 {} }).await;
}

#[test]
fn without_a_descriptor_left_what_runs_goes_on_and_who_waits_is_served_later() {
    alone("no_descriptor_left");
}

#[tokio::test(start_paused = true)]
#[ignore = "run by without_a_descriptor_left_what_runs_goes_on_and_who_waits_is_served_later"]
async fn no_descriptor_left() {
    let stage = stage("").await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut running = stage.app.client().await;
    running
        .request("POST", "/ollama/api/chat", &[], b"{}")
        .await;
    gate.pass();
    let mut coming = running.coming("POST").await;
    assert_eq!(coming.piece().await, Piece::Data(b"one\n".to_vec()));
    // One for the client's own end, none for ours.
    let usual = limit(highest_descriptor() + 2);
    let mut waiting = stage.app.client().await;
    waiting.request("GET", "/ollama/api/tags", &[], b"").await;
    stage.time.pass(SECOND).await;
    gate.pass();
    assert_eq!(coming.piece().await, Piece::Data(b"two\n".to_vec()));
    limit(usual);
    let (got, _) = stage
        .time
        .run(async { waiting.coming("GET").await.whole().await })
        .await;
    assert_eq!(got.status(), 200);
}

/// Sets the limit of descriptors; what it was.
fn limit(descriptors: u64) -> u64 {
    let before = getrlimit(Resource::Nofile);
    let changed = Rlimit {
        current: Some(descriptors),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, changed).unwrap();
    before.current.unwrap()
}

fn highest_descriptor() -> u64 {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    numbers.max().unwrap()
}
