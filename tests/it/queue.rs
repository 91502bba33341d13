//! The line for a place at a Mac: who is let in when, and what those are told who are not.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::support::app::{Stage, stage};
use crate::support::client::{Answer, Client};
use crate::support::time::soon;
use crate::support::upstream::{Gate, answer};

const CHAT: &str = "/ollama/api/chat";
const TINY: &[u8] = b"{\"model\":\"tiny\"}";
const DONE: &[u8] = b"{\"done\":true}\n";
const WORDS: &str = "server busy, please try again.  maximum pending requests exceeded (tailhop: an inference for \
     ollama on m1 failed: queue-";
const ONE: &str = "services.ollama.limit = { in_flight = 1, queue = 2, wait = \"30s\" }";

/// A stage whose first Mac answers inference only as the gate lets it.
async fn gated(more: &str) -> (Stage, Gate) {
    let stage = stage(more).await;
    let gate = Gate::closed();
    stage.macs.ollama[0].always(answer(200, &[], DONE).behind(&gate));
    (stage, gate)
}

/// Asks beside the test.
fn asks(stage: &Stage, path: &'static str) -> JoinHandle<Answer> {
    let data = stage.app.data;
    tokio::spawn(async move {
        Client::connect(data)
            .await
            .ask("POST", path, &[], TINY)
            .await
    })
}

/// Waits until so many wait for the first Mac.
async fn waiting(stage: &Stage, count: usize) {
    soon(async {
        while depth(stage).await != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn depth(stage: &Stage) -> usize {
    let labels = [("service", "ollama"), ("backend", "m1")];
    let metrics = stage.app.metrics().await;
    metrics.sum("tailhop_queue_depth", &labels)
}

async fn waited(stage: &Stage, result: &str) -> usize {
    let labels = [("backend", "m1"), ("result", result)];
    let metrics = stage.app.metrics().await;
    metrics.sum("tailhop_queue_wait_seconds", &labels)
}

fn queue(got: &Answer) -> &str {
    got.head.get("x-tailhop-queue").unwrap_or("none")
}

fn went(got: &Answer) -> (u16, &str, &str) {
    (got.status(), got.backend(), got.reason())
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_place_in_the_order_in_which_they_came() {
    let (stage, gate) = gated(ONE).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let mut line = Vec::new();
    for place in 1..=2 {
        line.push(asks(&stage, CHAT));
        waiting(&stage, place).await;
    }
    // What is no inference does not wait.
    let tags = stage.app.get("/ollama/api/version").await;
    assert_eq!((tags.status(), queue(&tags)), (200, "none"));
    stage.time.pass(Duration::from_secs(2)).await;
    assert_eq!(stage.macs.ollama[0].seen().len(), 1);
    gate.pass();
    let got = soon(first).await.unwrap();
    assert_eq!(queue(&got), "position=0, depth=0, wait=0.000");
    for (place, waits) in line.into_iter().enumerate() {
        stage.macs.ollama[0].requests(place + 2).await;
        gate.pass();
        let got = soon(waits).await.unwrap();
        assert_eq!(went(&got), (200, "m1", "active:default"));
        let want = format!("position={}, depth={place}, wait=2.0", place + 1);
        assert!(queue(&got).starts_with(&want), "{}", queue(&got));
    }
    assert_eq!(waited(&stage, "placed").await, 3);
    let metrics = stage.app.metrics().await;
    assert_eq!(metrics.sum("tailhop_queue_position", &[]), 3);
    let lines = stage.app.lines_after(4).await;
    let stood = lines.iter().filter(|line| line.path == CHAT);
    let stood: Vec<_> = stood.map(|line| line.queue).collect();
    let places: Vec<_> = stood.iter().map(|one| one.unwrap().position).collect();
    assert_eq!(places, [0, 1, 2]);
    assert!(stood[2].unwrap().ms.as_f64() >= 2000.0);
    stage.ends_clean().await;
}

/// Each API reads it in its own shape, and when to come again follows from how long requests take.
#[tokio::test(start_paused = true)]
async fn who_finds_the_line_full_is_told_in_the_words_of_an_ollama() {
    let (stage, gate) = gated(ONE).await;
    let measured = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    stage.time.pass(Duration::from_secs(4)).await;
    gate.pass();
    soon(measured).await.unwrap();
    let mut held = vec![asks(&stage, CHAT)];
    stage.macs.ollama[0].requests(2).await;
    for place in 1..=2 {
        held.push(asks(&stage, CHAT));
        waiting(&stage, place).await;
    }
    let shapes = [
        ("/ollama/api/chat", "/error", None),
        (
            "/ollama/v1/chat/completions",
            "/error/message",
            Some("api_error"),
        ),
        (
            "/ollama/v1/messages",
            "/error/message",
            Some("overloaded_error"),
        ),
    ];
    stage.app.lines();
    for (path, place, kind) in shapes {
        let got = stage.app.ask("POST", path, TINY).await;
        assert_eq!(went(&got), (503, "none", "queue-full"));
        let text = got.json();
        let text = text.pointer(place).unwrap().as_str().unwrap();
        assert!(text.starts_with(WORDS), "{text}");
        assert_eq!(got.json()["error"]["type"].as_str(), kind);
        // One at work and two in the line, 4 s each.
        assert_eq!(got.head.get("retry-after"), Some("12"));
        assert_eq!(queue(&got), "position=0, depth=2, wait=0.000");
        let line = stage.app.line().await;
        assert_eq!((line.status, line.reason.as_ref()), (503, "queue-full"));
        assert_eq!(line.queue.unwrap().depth, 2);
        assert_eq!(line.attempts, 0, "nobody was asked");
    }
    let labels = [("service", "ollama"), ("reason", "queue-full")];
    let metrics = stage.app.metrics().await;
    assert_eq!(metrics.sum("tailhop_requests_refused_total", &labels), 3);
    assert!(stage.macs.ollama[1].seen().is_empty());
    for (place, one) in held.into_iter().enumerate() {
        stage.macs.ollama[0].requests(place + 2).await;
        gate.pass();
        assert_eq!(soon(one).await.unwrap().status(), 200);
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_so_and_gives_its_place_back() {
    let (stage, gate) = gated(ONE).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let (got, took) = stage.time.run(stage.app.ask("POST", CHAT, TINY)).await;
    assert_eq!(went(&got), (503, "none", "queue-late"));
    assert!(
        got.text().contains("no place became free there within 30s"),
        "{}",
        got.text()
    );
    assert!((30..32).contains(&took.as_secs()), "{took:?}");
    assert!(
        queue(&got).starts_with("position=1, depth=0, wait=30."),
        "{}",
        queue(&got)
    );
    assert_eq!((depth(&stage).await, waited(&stage, "left").await), (0, 1));
    gate.pass();
    assert_eq!(soon(first).await.unwrap().status(), 200);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_finds_the_line_full_spills_where_that_is_said() {
    let limit = "services.ollama.limit = { in_flight = 1, queue = 1, spill = true }";
    let (stage, gate) = gated(limit).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let second = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m2", "fallback:queue-full"));
    assert_eq!(stage.macs.ollama[1].seen()[0].body, TINY);
    let metrics = stage.app.metrics().await;
    let labels = [("from", "m1"), ("to", "m2"), ("reason", "queue-full")];
    assert_eq!(metrics.sum("tailhop_fallbacks_total", &labels), 1);
    // An embedding goes nowhere without knowing that the model is the same.
    let got = stage.app.ask("POST", "/ollama/api/embed", TINY).await;
    assert_eq!(went(&got), (503, "none", "queue-full"));
    for (place, one) in [first, second].into_iter().enumerate() {
        stage.macs.ollama[0].requests(place + 1).await;
        gate.pass();
        assert_eq!(soon(one).await.unwrap().status(), 200);
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_clients_that_leave_the_line_leave_nothing_behind() {
    let limit = "services.ollama.limit = { in_flight = 1, queue = 1000 }";
    let (stage, gate) = gated(limit).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    // A few hundred at once: descriptors of both sides are in one process.
    for _ in 0..5 {
        let mut line = Vec::new();
        for _ in 0..200 {
            let mut client = stage.app.client().await;
            client.request("POST", CHAT, &[], TINY).await;
            line.push(client);
        }
        waiting(&stage, 200).await;
        drop(line);
        waiting(&stage, 0).await;
    }
    assert_eq!(waited(&stage, "left").await, 1000);
    let lines = stage.app.lines_after(1000).await;
    assert!(
        lines
            .iter()
            .all(|line| line.end == "client-abort" && line.queue.is_some())
    );
    let metrics = stage.app.metrics().await;
    let labels = [("service", "ollama"), ("phase", "before-head")];
    assert_eq!(metrics.sum("tailhop_client_aborts_total", &labels), 1000);
    // The next one is the first in line, and gets the place.
    let next = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    gate.pass();
    assert_eq!(soon(first).await.unwrap().status(), 200);
    stage.macs.ollama[0].requests(2).await;
    gate.pass();
    assert_eq!(
        queue(&soon(next).await.unwrap()).split(',').next(),
        Some("position=1")
    );
    stage.ends_clean().await;
}

/// A client that leaves while its answer comes gives the place at work back.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_at_work_lets_the_next_one_in() {
    let (stage, gate) = gated(ONE).await;
    let mut client = stage.app.client().await;
    client.request("POST", CHAT, &[], TINY).await;
    stage.macs.ollama[0].requests(1).await;
    let next = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    drop(client);
    stage.macs.ollama[0].requests(2).await;
    gate.pass();
    assert_eq!(soon(next).await.unwrap().status(), 200);
    stage.ends_clean().await;
}

/// The model went to the other Mac while a request waited: it goes there, too.
#[tokio::test(start_paused = true)]
async fn what_a_mac_has_is_looked_at_again_when_it_is_a_requests_turn() {
    let (stage, gate) = gated(ONE).await;
    for mac in &stage.macs.ollama {
        mac.models(&[("tiny", "aa")]);
    }
    stage.time.pass(Duration::from_secs(16)).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let second = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    stage.macs.ollama[0].models(&[("other", "bb")]);
    stage.time.pass(Duration::from_secs(16)).await;
    soon(async {
        let lacks = |status: serde_json::Value| {
            let backends = &status["services"][0]["backends"];
            backends[0]["models"]["models"][0]["name"] == "other:latest"
        };
        while !lacks(stage.app.status().await) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.pass();
    assert_eq!(soon(first).await.unwrap().status(), 200);
    let (got, _) = stage.time.run(second).await;
    let got = got.unwrap();
    assert_eq!((got.status(), got.backend()), (200, "m2"), "{}", got.text());
    assert_eq!(stage.macs.ollama[0].seen().len(), 1);
    stage.ends_clean().await;
}

/// Who waits for a Mac that falls silent goes on elsewhere at once.
#[tokio::test(start_paused = true)]
async fn a_line_at_a_mac_that_goes_away_goes_on_at_the_other_one() {
    let (mut stage, _gate) = gated(ONE).await;
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let second = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    stage.macs.ollama[0].die().await;
    for one in [first, second] {
        let (got, took) = stage.time.run(one).await;
        let got = got.unwrap();
        assert_eq!((got.status(), got.backend()), (200, "m2"), "{}", got.text());
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    stage.ends_clean().await;
}

/// A model that loads for two minutes is no illness: who waits, waits.
#[tokio::test(start_paused = true)]
async fn a_mac_that_loads_a_model_for_two_minutes_is_well_and_its_line_waits() {
    let limit = "services.ollama.limit = { in_flight = 1, wait = \"5m\" }";
    let stage = stage(limit).await;
    let loads = answer(200, &[], DONE).delay_head(Duration::from_mins(2));
    stage.macs.ollama[0].once(loads);
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let second = asks(&stage, CHAT);
    waiting(&stage, 1).await;
    stage.time.pass_long(Duration::from_secs(110)).await;
    assert_eq!(stage.app.verdict("ollama", "m1").await, "up");
    let (got, _) = stage.time.run(first).await;
    assert_eq!(went(&got.unwrap()), (200, "m1", "active:default"));
    let got = soon(second).await.unwrap();
    assert_eq!(went(&got), (200, "m1", "active:default"));
    assert!(
        queue(&got).starts_with("position=1, depth=0, wait=1"),
        "{}",
        queue(&got)
    );
    assert!(stage.macs.ollama[1].seen().is_empty());
    let metrics = stage.app.metrics().await;
    assert_eq!(metrics.sum("tailhop_retries_total", &[]), 0);
    let lines = stage.app.lines_after(2).await;
    assert!(
        lines
            .iter()
            .all(|line| line.attempts == 1 && line.end == "complete")
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_least_loaded_mac_is_filled_after_the_active_one() {
    let more = "services.ollama.policy = \"least-loaded\"\n\
                services.ollama.limit = { in_flight = 2, queue = 1 }";
    let (stage, gate) = gated(more).await;
    stage.macs.ollama[1].always(answer(200, &[], DONE).behind(&gate));
    let mut held = Vec::new();
    for (mac, count) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        held.push(asks(&stage, CHAT));
        stage.macs.ollama[mac].requests(count).await;
    }
    // Both are at work: one waits at each, and then there is no place at all.
    for _ in 0..2 {
        held.push(asks(&stage, CHAT));
    }
    soon(async {
        let depth = || async { stage.app.metrics().await.sum("tailhop_queue_depth", &[]) };
        while depth().await != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (503, "none", "queue-full"));
    assert_eq!(depth(&stage).await, 1);
    (0..6).for_each(|_| gate.pass());
    let mut reasons = Vec::new();
    for one in held {
        let got = soon(one).await.unwrap();
        reasons.push(format!("{} {}", got.backend(), got.reason()));
    }
    let (active, other) = ("m1 active:default", "m2 least-loaded");
    assert_eq!(reasons[..4], [active, active, other, other]);
    let metrics = stage.app.metrics().await;
    let labels = [("from", "m1"), ("to", "m2"), ("reason", "least-loaded")];
    assert_eq!(metrics.sum("tailhop_fallbacks_total", &labels), 3);
    stage.ends_clean().await;
}

/// The one that has a place first takes the next one in line, also where that stood for the other.
#[tokio::test(start_paused = true)]
async fn no_mac_is_idle_while_one_waits_for_the_other() {
    let more = "services.ollama.policy = \"least-loaded\"\n\
                services.ollama.limit = { in_flight = 1, queue = 5 }";
    let (stage, gate) = gated(more).await;
    let other = Gate::closed();
    stage.macs.ollama[1].always(answer(200, &[], DONE).behind(&other));
    let first = asks(&stage, CHAT);
    stage.macs.ollama[0].requests(1).await;
    let second = asks(&stage, CHAT);
    stage.macs.ollama[1].requests(1).await;
    let mut line = Vec::new();
    for place in 1..=3 {
        line.push(asks(&stage, CHAT));
        soon(async {
            let depth = || async { stage.app.metrics().await.sum("tailhop_queue_depth", &[]) };
            while depth().await != place {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // The first Mac takes minutes for its one; the other one does all the rest, in order.
    other.pass();
    assert_eq!(soon(second).await.unwrap().backend(), "m2");
    for (place, one) in line.into_iter().enumerate() {
        stage.macs.ollama[1].requests(place + 2).await;
        other.pass();
        let got = soon(one).await.unwrap();
        assert_eq!(went(&got), (200, "m2", "least-loaded"));
    }
    assert_eq!(stage.macs.ollama[0].seen().len(), 1);
    assert_eq!(depth(&stage).await, 0);
    gate.pass();
    assert_eq!(soon(first).await.unwrap().backend(), "m1");
    stage.ends_clean().await;
}
