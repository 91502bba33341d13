//! When a request is tried again, how long it waits, and what is never sent twice.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::app::stage;
use crate::support::client::Answer;
use crate::support::http::Piece;
use crate::support::upstream::{
    accept_then_silence, answer, close_before_head, pieces, raw, reset_before_head, stall_after,
};

const WRITE: &str = "/qdrant/collections/c/points";
const SECOND: Duration = Duration::from_secs(1);

/// A write that was sent: its client must not think that it can be repeated.
fn is_outcome_unknown(got: &Answer) {
    assert_eq!(
        (got.status(), got.reason()),
        (504, "outcome-unknown"),
        "{}",
        got.text()
    );
    assert_eq!(got.head.get("retry-after"), None);
    let text = got.json()["status"]["error"].as_str().unwrap().to_owned();
    assert!(text.contains("Outcome unknown"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_starts_within_wait_answers_what_waited_for_it() {
    for (method, target) in [
        ("PUT", WRITE),
        ("GET", "/qdrant/telemetry"),
        ("GET", "/qdrant/collections"),
    ] {
        let mut stage = stage("timeouts.wait = \"3s\"").await;
        stage.macs.all_refuse(0).await;
        stage.macs.all_refuse(1).await;
        let (app, mac) = (&stage.app, &mut stage.macs.qdrant[0]);
        let started = async {
            sleep(SECOND).await;
            mac.listen().await;
        };
        let ((got, ()), took) = stage
            .time
            .run(async { tokio::join!(app.ask(method, target, b"{}"), started) })
            .await;
        assert_eq!(
            (got.status(), got.backend()),
            (200, "m1"),
            "{target} {}",
            got.text()
        );
        assert!(took < 2 * SECOND, "{target} took {took:?}");
        assert_eq!(stage.macs.qdrant[0].seen().len(), 1);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_not_sent_waits_and_then_gets_503_with_its_reason() {
    let mut stage = stage("").await;
    stage.macs.all_refuse(0).await;
    let (got, took) = stage.time.run(stage.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!((got.status(), got.reason()), (503, "refused"));
    assert!(
        (3 * SECOND..SECOND * 9 / 2).contains(&took),
        "{took:?}: qdrant-client gives up at 5 s"
    );
    let after: u64 = got.head.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let json = got.json();
    let text = json["status"]["error"].as_str().unwrap();
    for part in [
        "a write for qdrant on m1 failed: refused",
        "Nothing was sent",
        "Start the service",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(stage.macs.qdrant[1].seen().len(), 0);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_sent_and_then_lost_is_never_repeated() {
    for act in [
        reset_before_head(),
        close_before_head(),
        raw(b"SMTP ready\r\n\r\n"),
    ] {
        let stage = stage("").await;
        stage.macs.qdrant[0].once(act);
        let got = stage.app.ask("PUT", WRITE, b"{}").await;
        is_outcome_unknown(&got);
        let seen: Vec<_> = stage
            .macs
            .qdrant
            .iter()
            .map(|mac| mac.seen().len())
            .collect();
        assert_eq!(seen, [1, 0]);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_late_is_unknown_too() {
    for bound in ["timeouts.head = \"2s\"", "timeouts.total = \"2s\""] {
        let stage = stage(bound).await;
        stage.macs.qdrant[0].once(accept_then_silence());
        let (got, took) = stage.time.run(stage.app.ask("PUT", WRITE, b"{}")).await;
        is_outcome_unknown(&got);
        assert!((2 * SECOND..3 * SECOND).contains(&took), "{bound} {took:?}");
        assert_eq!(stage.macs.qdrant[0].seen().len(), 1);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_beyond_total_was_not_sent_and_is_told_so() {
    let mut stage = stage("timeouts = { total = \"2s\", wait = \"10s\" }").await;
    stage.macs.all_refuse(0).await;
    let (got, took) = stage.time.run(stage.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!(
        (got.status(), got.reason()),
        (504, "total-late"),
        "{}",
        got.text()
    );
    assert!(got.text().contains("Nothing was sent"), "{}", got.text());
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_connection_breaks_goes_to_the_other() {
    for act in [
        reset_before_head(),
        close_before_head(),
        raw(b"SMTP ready\r\n\r\n"),
        raw(&vec![b'x'; 100_000]),
    ] {
        let stage = stage("").await;
        stage.macs.qdrant[0].once(act);
        let got = stage.app.get("/qdrant/collections").await;
        assert_eq!((got.status(), got.backend()), (200, "m2"), "{}", got.text());
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_answer_of_the_last_candidate_is_502() {
    let stage = stage("").await;
    for mac in &stage.macs.qdrant {
        mac.always(raw(b"SMTP ready\r\n\r\n"));
    }
    let got = stage.app.get("/qdrant/collections").await;
    assert_eq!((got.status(), got.reason()), (502, "bad-answer"));
    assert!(
        got.json()["status"]["error"]
            .as_str()
            .unwrap()
            .contains("qdrant on m2"),
        "{}",
        got.text()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_replaced_without_a_word() {
    let stage = stage("").await;
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    // As a server that closes an idle connection in the moment in which we use it.
    stage.macs.qdrant[0].once(close_before_head());
    let got = stage.app.get("/qdrant/collections").await;
    assert_eq!(
        (got.status(), got.backend(), got.reason()),
        (200, "m1", "active:default")
    );
    let seen = stage.macs.qdrant[0].seen();
    let connections: Vec<_> = seen.iter().map(|request| request.connection).collect();
    assert_eq!(connections[0], connections[1]);
    assert_ne!(
        connections[1], connections[2],
        "the second try is on a fresh one"
    );
    assert_eq!(
        stage.app.verdict("qdrant", "m1").await,
        "up",
        "a stale connection is no illness"
    );
    assert_eq!(stage.macs.qdrant[1].seen().len(), 0);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_on_a_connection_that_was_just_closed_is_done_once() {
    let mut stage = stage("").await;
    for round in 1..=20 {
        assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
        stage.macs.qdrant[0].close_connections().await;
        let got = stage.app.ask("PUT", WRITE, b"{}").await;
        assert_eq!(got.status(), 200, "{}", got.text());
        let seen = stage.macs.qdrant[0].seen();
        let writes = seen
            .iter()
            .filter(|request| request.method() == "PUT")
            .count();
        assert_eq!(writes, round);
    }
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 200);
    stage.macs.qdrant[0].once(close_before_head());
    is_outcome_unknown(&stage.app.ask("PUT", WRITE, b"{}").await);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_uses_only_a_connection_that_was_busy_a_moment_ago() {
    let stage = stage("").await;
    for (pause, reused) in [(SECOND, true), (SECOND * 5 / 2, false)] {
        stage.app.get("/qdrant/collections").await;
        stage.time.pass(pause).await;
        assert_eq!(stage.app.ask("PUT", WRITE, b"{}").await.status(), 200);
        let seen = stage.macs.qdrant[0].seen();
        let [.., read, write] = &seen[..] else {
            panic!("two were sent")
        };
        assert_eq!(
            read.connection == write.connection,
            reused,
            "after {pause:?}"
        );
    }
    stage.time.pass(5 * SECOND).await;
    assert_eq!(
        stage.app.get("/qdrant/collections").await.status(),
        200,
        "idle for longer than Qdrant keeps it"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn no_head_in_time_is_504_and_the_upstream_is_let_go() {
    let rows = [
        ("GET", "/qdrant/collections"),
        ("POST", "/ollama/api/chat"),
        ("GET", "/ollama/api/ps"),
    ];
    for (method, target) in rows {
        let stage = stage("timeouts.head = \"2s\"").await;
        for mac in stage.macs.ollama.iter().chain(&stage.macs.qdrant) {
            mac.always(accept_then_silence());
        }
        let (got, took) = stage.time.run(stage.app.ask(method, target, b"{}")).await;
        assert_eq!(
            (got.status(), got.reason(), got.head.get("retry-after")),
            (504, "head-late", None),
            "{target}"
        );
        assert!(
            (2 * SECOND..3 * SECOND).contains(&took),
            "{target} {took:?}"
        );
        assert_eq!(
            stage.macs.ollama[1].seen().len() + stage.macs.qdrant[1].seen().len(),
            0,
            "{target}"
        );
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn slowness_alone_never_sends_an_inference_twice() {
    let stage = stage("").await;
    let [first, second] = &stage.macs.ollama;
    first.once(answer(200, &[], b"{}").delay_head(40 * SECOND));
    // Even its probes get no answer: it is busy, or hanging, and was dialled all the same.
    first.probes(accept_then_silence());
    let (got, took) = stage
        .time
        .run(stage.app.ask("POST", "/ollama/api/chat", b"{}"))
        .await;
    assert_eq!((got.status(), got.backend()), (200, "m1"));
    assert!(took >= 40 * SECOND, "{took:?}");
    assert_eq!((first.seen().len(), second.seen().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_nobody_answers_ends_at_connect() {
    let mut stage = stage("timeouts = { connect = \"1s\", wait = \"4s\" }").await;
    stage.macs.qdrant[0].black_hole().await;
    let (got, took) = stage.time.run(stage.app.get("/qdrant/collections")).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
    assert!(took < 2 * SECOND, "{took:?}");
    let (got, took) = stage.time.run(stage.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!(
        (got.status(), got.reason()),
        (503, "silent"),
        "{}",
        got.text()
    );
    assert!(took < SECOND * 9 / 2, "{took:?}");
    assert_eq!(stage.macs.qdrant[1].seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_nobody_answers_leaves_time_for_the_next() {
    let mut stage = stage("timeouts.wait = \"2s\"").await;
    stage.macs.qdrant[0].black_hole().await;
    let (got, took) = stage.time.run(stage.app.get("/qdrant/collections")).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"), "{}", got.text());
    assert!(took < 2 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn total_breaks_an_answer_that_goes_on_and_no_transfer_of_a_model() {
    let stage = stage("timeouts.total = \"2s\"").await;
    let slow = pieces(&[b"1\n", b"2\n", b"3\n", b"4\n"], SECOND);
    for (target, whole) in [("/ollama/api/chat", false), ("/ollama/api/pull", true)] {
        stage.macs.ollama[0].once(slow.clone());
        let (got, _) = stage.time.run(stage.app.ask("POST", target, b"{}")).await;
        assert_eq!((got.status(), got.whole), (200, whole), "{target}");
    }
    assert_eq!(stage.app.line().await.end, "total-late");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_pauses_for_longer_than_idle_breaks() {
    let stage = stage("timeouts.idle = \"3s\"").await;
    stage.macs.ollama[0].once(pieces(&[b"1\n", b"2\n", b"3\n"], 2 * SECOND));
    let (got, _) = stage
        .time
        .run(stage.app.ask("POST", "/ollama/api/chat", b"{}"))
        .await;
    assert!(got.whole, "pauses shorter than idle are none");
    stage.macs.ollama[0].once(stall_after(5));
    let (got, took) = stage
        .time
        .run(stage.app.ask("POST", "/ollama/api/chat", b"{}"))
        .await;
    assert_eq!((got.whole, got.body.len()), (false, 5));
    assert!((3 * SECOND..4 * SECOND).contains(&took), "{took:?}");
    let ends: Vec<_> = stage.app.lines().iter().map(|line| line.end).collect();
    assert_eq!(ends, ["complete", "idle-late"]);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_sending_its_body_is_told_so_and_costs_no_dial() {
    let stage = stage("timeouts.idle = \"2s\"").await;
    let mut client = stage.app.client().await;
    client
        .send(format!(
            "PUT {WRITE} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345"
        ))
        .await;
    let (got, _) = stage
        .time
        .run(async { client.coming("PUT").await.whole().await })
        .await;
    assert_eq!((got.status(), got.reason()), (400, "client-body"));
    assert_eq!(stage.macs.qdrant[0].counts().heads, 0);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_in_the_midst_of_an_upload_is_told_so_and_frees_the_upstream() {
    let stage = stage("timeouts.idle = \"2s\"").await;
    let mut client = stage.app.client().await;
    let head = "POST /ollama/api/blobs/x HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n";
    client.send(format!("{head}12345")).await;
    stage.macs.ollama[0].saw(|counts| counts.heads == 1).await;
    for _ in 0..3 {
        stage.time.pass(SECOND).await;
        client.send("go on").await;
    }
    let asked = async { client.coming("POST").await.whole().await };
    let (got, took) = stage.time.run(asked).await;
    assert_eq!(
        (got.status(), got.reason()),
        (400, "client-body"),
        "{}",
        got.text()
    );
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    stage.macs.ollama[0].all_closed().await;
    assert_eq!(stage.app.line().await.bytes_in, 20);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_before_the_upload_ended_is_passed_on() {
    let stage = stage("").await;
    stage.macs.ollama[0].once(answer(413, &[("connection", "close")], b"too large").at_head());
    let mut client = stage.app.client().await;
    client
        .send("POST /ollama/api/blobs/x HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n12345")
        .await;
    let mut coming = client.coming("POST").await;
    assert_eq!(coming.head.word(1), "413");
    assert_eq!(coming.piece().await, Piece::Data(b"too large".to_vec()));
    drop(client);
    stage.ends_clean().await;
}
