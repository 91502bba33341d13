//! Where reads and writes of a Qdrant go by which collections the Macs have.

use std::time::Duration;

use serde_json::{Value, json};
use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs, Stage, stage_with};
use crate::support::client::Answer;
use crate::support::time::{Held, soon};
use crate::support::upstream::{Act, answer, raw};

const QUERY: &str = "/qdrant/collections/papers/points/query";
const UPSERT: &str = "/qdrant/collections/papers/points";
const REQUIRE: &str = "services.qdrant.require = { collections = [\"papers\"] }";
/// More than the pause between two times that a Mac is asked what it has.
const A_WHILE: Duration = Duration::from_secs(20);
const BEFORE: &str = "2025-02-16T23:59:00Z";
const AFTER: &str = "2025-03-01T00:00:00Z";

/// Both Macs up, with these collections.
async fn knowing(collections: [&[(&str, u64)]; 2], more: &str) -> Stage {
    let stage = stage_with(more, &[]).await;
    for (mac, collections) in stage.macs.qdrant.iter().zip(collections) {
        mac.collections(collections);
    }
    stage.time.pass(A_WHILE).await;
    for place in 0..2 {
        told(&stage, place, |mac| !mac["collections"].is_null()).await;
    }
    stage
}

/// The same around a switch from m1 to m2, by a clock that begins at `now`. A Mac without a list
/// tells nothing.
async fn switching(collections: [Option<&[(&str, u64)]>; 2], more: &str, now: &str) -> Stage {
    let time = Held::hold();
    let macs = Macs::start().await;
    for (mac, collections) in macs.qdrant.iter().zip(collections) {
        if let Some(collections) = collections {
            mac.collections(collections);
        }
    }
    let toml = macs.toml(&format!(
        "schedule = {{ default = \"m1\", switch = [{{ at = 2025-02-17T00:00:00Z, to = \"m2\" }}] }}\n{more}"
    ));
    let app = App::start_with(&toml, &[], Clock::starting_at(now.parse().unwrap())).await;
    let stage = Stage { app, macs, time };
    stage.time.pass(A_WHILE).await;
    for (place, collections) in collections.iter().enumerate() {
        let known = |mac: &Value| mac["collections"].is_null() != collections.is_some();
        told(&stage, place, known).await;
    }
    stage
}

/// Waits until what is said of a Mac is as `wanted`.
async fn told(stage: &Stage, place: usize, wanted: impl Fn(&Value) -> bool) {
    let name = ["m1", "m2"][place];
    soon(async {
        loop {
            let qdrant = qdrant(stage).await;
            let backends = qdrant["backends"].as_array().unwrap();
            if wanted(
                backends
                    .iter()
                    .find(|backend| backend["name"] == name)
                    .unwrap(),
            ) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn qdrant(stage: &Stage) -> Value {
    let status = stage.app.status().await;
    let services = status["services"].as_array().unwrap();
    let found = services.iter().find(|service| service["name"] == "qdrant");
    found.unwrap().clone()
}

/// What is said of Qdrant in one sentence.
fn summary(status: &Value) -> &str {
    let lines = status["summary"].as_array().unwrap().iter();
    let mut lines = lines.map(|line| line.as_str().unwrap());
    lines.find(|line| line.starts_with("qdrant:")).unwrap()
}

fn went(got: &Answer) -> (u16, &str, &str) {
    (got.status(), got.backend(), got.reason())
}

async fn asked(stage: &Stage, method: &str, path: &str) -> (u16, String, String) {
    let got = stage.app.ask(method, path, b"{}").await;
    let (status, backend, reason) = went(&got);
    (status, backend.to_owned(), reason.to_owned())
}

fn is(got: &(u16, String, String), want: (u16, &str, &str)) {
    assert_eq!((got.0, got.1.as_str(), got.2.as_str()), want);
}

const SHORT: &str = "collection papers (120 of 1000 points)";
const LEAST: &str = "services.qdrant.require = { collections = [\"papers\"], min_points = 1000 }";

/// Up to the minute before the switch, where m2 has too little.
async fn too_little() -> Stage {
    let has: [Option<&[(&str, u64)]>; 2] = [Some(&[("papers", 1000)]), Some(&[("papers", 120)])];
    switching(has, LEAST, BEFORE).await
}

async fn gauge(stage: &Stage, family: &str) -> usize {
    let metrics = stage.app.metrics().await;
    metrics.sum(family, &[("service", "qdrant")])
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_will_be_held_is_told_before_it_comes() {
    let stage = too_little().await;
    let status = stage.app.status().await;
    let of_it = qdrant(&stage).await;
    assert_eq!(of_it["next_switch"]["lacks"], json!([SHORT]));
    let mac = &of_it["backends"][1];
    assert_eq!(mac["lacks"], json!([SHORT]));
    assert_eq!(mac["collections"]["collections"], json!({ "papers": 120 }));
    let said = summary(&status);
    assert!(
        said.contains(&format!("comes to m2, which lacks {SHORT}")),
        "{said}"
    );
    let coming = status["timeline"].as_array().unwrap();
    let coming = coming
        .iter()
        .find(|one| one["service"] == "qdrant")
        .unwrap();
    assert_eq!(coming["writes"], false);
    assert_eq!(
        coming["text"],
        format!("qdrant: m1 -> m2 (schedule, writes stay); to be held: m2 lacks {SHORT}")
    );
    assert_eq!(gauge(&stage, "tailhop_backend_required_missing").await, 1);
    assert_eq!(gauge(&stage, "tailhop_schedule_switch_held").await, 0);
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "active:default"),
    );
}

/// As `tailhop pin m2 --writes` does.
async fn give_writes_to_m2(stage: &Stage) {
    stage.app.edit(|text| {
        format!("pin = [{{ to = \"m2\", services = [\"qdrant\"], writes = true }}]\n{text}")
    });
    stage.time.pass(Duration::from_secs(3)).await;
    soon(async {
        while qdrant(stage).await["writes"]["backend"] != "m2" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Held at the date, released when the data is there; writes stay all the while.
#[tokio::test(start_paused = true)]
async fn reads_follow_the_data_and_writes_an_order() {
    let stage = too_little().await;
    stage.time.pass(Duration::from_mins(1)).await;
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "active:held"),
    );
    is(
        &asked(&stage, "PUT", UPSERT).await,
        (200, "m1", "active:writes-stay"),
    );
    assert_eq!(gauge(&stage, "tailhop_schedule_switch_held").await, 1);
    let status = stage.app.status().await;
    let what_to_do = "`tailhop migrate --from m1 --to m2 --pin` moves the data";
    let said = summary(&status);
    assert!(
        said.contains(&format!("m2 lacks {SHORT}: {what_to_do}")),
        "{said}"
    );
    let health = stage.app.admin("GET", "/health").await.json();
    assert_eq!(health["checks"]["service:qdrant"]["status"], "degraded");
    let got = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!(went(&got), (200, "m2", "active:schedule"));

    stage.macs.qdrant[1].collections(&[("papers", 1000)]);
    stage.time.pass(A_WHILE).await;
    told(&stage, 1, |mac| mac["lacks"].is_null()).await;
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m2", "active:schedule"),
    );
    is(
        &asked(&stage, "PUT", UPSERT).await,
        (200, "m1", "active:writes-stay"),
    );
    assert_eq!(gauge(&stage, "tailhop_schedule_switch_held").await, 0);
    assert_eq!(gauge(&stage, "tailhop_backend_required_missing").await, 0);
    let status = stage.app.status().await;
    let said = summary(&status);
    assert!(
        said.contains("m1 owns the writes until an order moves them"),
        "{said}"
    );
    let history = status["history"].as_array().unwrap().iter().rev();
    let switches = history.filter(|change| change["kind"] == "switch");
    let causes: Vec<_> = switches
        .map(|change| change["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes, ["held", "released"]);

    give_writes_to_m2(&stage).await;
    is(
        &asked(&stage, "PUT", UPSERT).await,
        (200, "m2", "active:pin"),
    );
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m2", "active:pin"),
    );
}

/// Whatever an instance knows, and whenever it began, it sends writes to the owner that the file
/// names; reads wait there until the other Mac has told.
#[tokio::test(start_paused = true)]
async fn instances_that_began_after_the_date_agree_on_who_owns_the_writes() {
    type Row<'r> = (Option<&'r [(&'r str, u64)]>, (u16, &'r str, &'r str));
    let rows: [Row<'_>; 4] = [
        (Some(&[("papers", 3)]), (200, "m2", "active:schedule")),
        (Some(&[("papers", 0)]), (200, "m1", "active:held")),
        (Some(&[]), (200, "m1", "active:held")),
        (None, (200, "m2", "active:schedule")),
    ];
    for (collections, reads) in rows {
        let stage = switching([Some(&[("papers", 3)]), collections], REQUIRE, AFTER).await;
        is(&asked(&stage, "POST", QUERY).await, reads);
        is(
            &asked(&stage, "PUT", UPSERT).await,
            (200, "m1", "active:writes-stay"),
        );
        let created = asked(&stage, "PUT", "/qdrant/collections/new").await;
        is(&created, (200, "m1", "active:writes-stay"));
    }
}

/// Before it told anything, its empty answers could be lies.
#[tokio::test(start_paused = true)]
async fn a_mac_that_did_not_tell_yet_is_no_reason_to_leave_the_one_with_the_data() {
    let time = Held::hold();
    let mut macs = Macs::start().await;
    macs.qdrant[0].collections(&[("papers", 3)]);
    macs.qdrant[1].collections(&[]);
    macs.qdrant[1].die().await;
    let toml = macs.toml(&format!(
        "schedule = {{ default = \"m1\", switch = [{{ at = 2025-02-17T00:00:00Z, to = \"m2\" }}] }}\n{REQUIRE}"
    ));
    let clock = Clock::starting_at(AFTER.parse().unwrap());
    let app = App::start_with(&toml, &[], clock).await;
    let mut stage = Stage { app, macs, time };
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "active:held"),
    );
    (stage.time)
        .run(stage.app.judged("qdrant", "m2", "down"))
        .await;
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "active:held"),
    );
    // It wakes without the data: not one read finds nothing there.
    stage.macs.qdrant[1].listen().await;
    stage.time.run(stage.app.judged("qdrant", "m2", "up")).await;
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "active:held"),
    );
    assert!(stage.macs.qdrant[1].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_switch_the_date_moves_both_and_reads_pass_over_a_mac_without_the_data() {
    let stage = switching(
        [Some(&[("papers", 3)]), Some(&[])],
        "services.qdrant.require = { collections = [\"papers\"], if_not_ready = \"switch\" }",
        AFTER,
    )
    .await;
    is(
        &asked(&stage, "POST", QUERY).await,
        (200, "m1", "fallback:data-missing"),
    );
    is(
        &asked(&stage, "PUT", UPSERT).await,
        (200, "m2", "active:schedule"),
    );
    let labels = [("from", "m2"), ("to", "m1"), ("reason", "data-missing")];
    assert_eq!(
        stage
            .app
            .metrics()
            .await
            .sum("tailhop_fallbacks_total", &labels),
        1
    );
}

/// Without any `require`: only the path is read, in whatever form it names the collection.
#[tokio::test(start_paused = true)]
async fn a_read_does_not_fall_back_to_a_mac_without_its_collection() {
    let all: &[(&str, u64)] = &[("papers", 3), ("a/b", 1), ("日本語", 1), ("both", 1)];
    let wait = "timeouts = { wait = \"100ms\" }";
    let mut stage = knowing([all, &[("both", 1)]], wait).await;
    stage.macs.qdrant[1].alias("now", "both");
    stage.time.pass(A_WHILE).await;
    told(&stage, 1, |mac| {
        mac["collections"]["collections"]["now"] == Value::Null
    })
    .await;
    told(&stage, 1, |mac| {
        mac["collections"]["collections"].get("now").is_some()
    })
    .await;
    stage.macs.qdrant[0].refuse().await;
    for path in [
        "/papers/points/query",
        "/a%2Fb/points/scroll",
        "/%E6%97%A5%E6%9C%AC%E8%AA%9E/points/count",
        "//papers/points/query/",
    ] {
        let target = format!("/qdrant/collections{path}");
        let (got, _) = stage.time.run(stage.app.ask("POST", &target, b"{}")).await;
        assert_eq!(went(&got), (503, "none", "data-missing"), "{}", got.text());
        assert!(
            got.text().contains("Another backend lacks"),
            "{}",
            got.text()
        );
    }
    assert!(stage.macs.qdrant[1].seen().is_empty());
    for path in ["/both/points/query", "/now/points/query"] {
        let target = format!("/qdrant/collections{path}");
        let (got, _) = stage.time.run(stage.app.ask("POST", &target, b"{}")).await;
        assert_eq!((got.status(), got.backend()), (200, "m2"), "{path}");
    }
    let (got, _) = stage.time.run(stage.app.get("/qdrant/collections")).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
}

/// The active one answers for itself, whatever is known of it.
#[tokio::test(start_paused = true)]
async fn the_active_mac_itself_says_that_there_is_no_such_collection() {
    let stage = knowing([&[], &[("papers", 3)]], "").await;
    stage.macs.qdrant[0].once(answer(404, &[], b"{}"));
    is(
        &asked(&stage, "POST", QUERY).await,
        (404, "m1", "active:default"),
    );
    assert!(stage.macs.qdrant[1].seen().is_empty());
    stage.ends_clean().await;
}

/// What cannot be read says nothing: a switch is not held for it, and a fallback is asked.
#[tokio::test(start_paused = true)]
async fn lists_that_cannot_be_read_make_no_mac_lack_anything() {
    let acts: [(&str, Act); 5] = [
        ("key", answer(401, &[], b"Invalid api-key")),
        ("html", answer(200, &[], b"<html>")),
        ("nothing", answer(200, &[], b"")),
        ("null", answer(200, &[], b"{\"result\":null}")),
        (
            "cut",
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"re"),
        ),
    ];
    for (what, act) in acts {
        let mut stage = knowing([&[("papers", 3)], &[]], "timeouts = { wait = \"100ms\" }").await;
        let breaks = what == "cut";
        stage.macs.qdrant[1].lists(act);
        stage.time.pass(A_WHILE).await;
        stage.macs.qdrant[1].saw(|counts| counts.lists >= 3).await;
        // A connection that broke told nothing: what was told before holds.
        told(&stage, 1, |mac| mac["collections"].is_null() != breaks).await;
        stage.macs.qdrant[0].refuse().await;
        let (got, _) = stage.time.run(stage.app.ask("POST", QUERY, b"{}")).await;
        let want = if breaks { 503 } else { 200 };
        assert_eq!(got.status(), want, "{what}");
    }
}

/// Asked at once after what makes or removes collections, so that nobody waits for the data.
#[tokio::test(start_paused = true)]
async fn a_collection_that_was_made_or_removed_is_known_at_once() {
    let stage = knowing([&[], &[]], REQUIRE).await;
    told(&stage, 0, |mac| {
        mac["lacks"] == json!(["collection papers"])
    })
    .await;
    for (method, path, there) in [
        ("PUT", "/qdrant/collections/papers", true),
        ("DELETE", "/qdrant/collections/papers", false),
        ("POST", "/qdrant/collections/aliases", true),
        ("PUT", "/qdrant/collections/papers/snapshots/recover", false),
    ] {
        let all: &[(&str, u64)] = if there { &[("papers", 7)] } else { &[] };
        stage.macs.qdrant[0].collections(all);
        let got = asked(&stage, method, path).await;
        assert_eq!(got.0, 200);
        stage.time.pass(Duration::from_secs(1)).await;
        told(&stage, 0, |mac| mac["lacks"].is_null() == there).await;
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_is_asked_what_it_has_at_once_after_a_freeze_and_a_new_requirement() {
    let stage = knowing([&[("papers", 3)], &[("papers", 3)]], REQUIRE).await;
    stage.macs.qdrant[0].collections(&[]);
    stage.time.pass(Duration::from_secs(2)).await;
    stage.time.freeze(Duration::from_secs(5)).await;
    let lacks = |mac: &Value| !mac["lacks"].is_null();
    let ((), took) = stage.time.run(told(&stage, 0, lacks)).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    stage
        .app
        .edit(|text| text.replace("[\"papers\"]", "[\"papers\"], min_points = 4"));
    let ((), took) = stage.time.run(told(&stage, 1, lacks)).await;
    assert!(took < Duration::from_secs(6), "{took:?}");
}
