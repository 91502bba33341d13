//! Races of dials, hedged reads, and the budget of what is sent twice.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::rescue::{Tailnet, tailnet};
use crate::support::app::stage;
use crate::support::client::Client;
use crate::support::upstream::{accept_then_silence, answer, reset_before_head};

const WRITE: &str = "/qdrant/collections/c/points";
const READ: &str = "/qdrant/collections";
const SECOND: Duration = Duration::from_secs(1);
/// Dials of one endpoint at once.
const DIALS: usize = 16;

/// How many clients this process can hold, up to `wanted`: each costs it two descriptors.
fn clients(wanted: usize) -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let held = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    wanted.min(usize::try_from(held / 3).unwrap_or(wanted))
}

/// Clients that asked, of which m1 sleeps for all but the first few.
async fn all_ask(net: &Tailnet, count: usize) -> Vec<(Client, &'static str)> {
    let data = net.app.data;
    let mut sent = Vec::new();
    for place in 0..count {
        let mut client = Client::connect(data).await;
        let read = place % 20 == 0;
        let (method, target) = if read { ("GET", READ) } else { ("PUT", WRITE) };
        if place == count / 50 {
            net.fake.silence("m1");
        }
        client.request(method, target, &[], b"{}").await;
        sent.push((client, method));
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn five_thousand_clients_of_a_mac_that_dies_share_sixteen_dials() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    let count = clients(5000);
    let mut asked = JoinSet::new();
    let sent = all_ask(&net, count).await;
    let before = net.fake.dialled().len();
    for (mut client, method) in sent {
        asked.spawn(async move { (method, client.coming(method).await.whole().await) });
    }
    let mut peak = 0;
    let answers = async {
        let mut open = net.fake.open();
        let mut answers = Vec::new();
        loop {
            tokio::select! {
                answer = asked.join_next() => match answer {
                    Some(answer) => answers.push(answer.unwrap()),
                    None => return answers,
                },
                _ = open.changed() => peak = peak.max(*open.borrow_and_update()),
            }
        }
    };
    let (answers, took) = net.time.run(answers).await;
    assert_eq!(answers.len(), count);
    assert!(took < SECOND * 9 / 2, "{took:?}");
    for (method, got) in &answers {
        match *method {
            "GET" => assert_eq!(got.status(), 200, "{}", got.text()),
            _ => assert!([200, 503, 504].contains(&got.status()), "{}", got.text()),
        }
    }
    let refused = answers
        .iter()
        .filter(|(_, got)| got.status() == 503)
        .count();
    assert!(refused > count / 2, "{refused}");
    let dialled = net.fake.dialled().split_off(before);
    let to =
        |dial: &&String| dial.ends_with("m1.tail1234.ts.net:6333") || dial.ends_with("m1:6333");
    let dialled = dialled.iter().filter(to).count();
    assert!(dialled < 200, "{dialled} dials for {count} requests");
    // Reads on m2, dials to m1, probes.
    assert!(peak < count / 20 + DIALS + 16, "{peak} at once");
    assert_eq!(
        net.qdrant[1]
            .seen()
            .iter()
            .filter(|seen| seen.method() == "PUT")
            .count(),
        0
    );
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_losers_of_a_race_leave_nothing() {
    let mut stage = stage("").await;
    stage.macs.qdrant[0].black_hole().await;
    for _ in 0..5 {
        let (got, took) = stage.time.run(stage.app.get(READ)).await;
        assert_eq!((got.status(), got.backend()), (200, "m2"));
        assert!(took < SECOND / 2, "{took:?}");
    }
    stage.macs.qdrant[0].listen().await;
    stage.time.run(stage.app.judged("qdrant", "m1", "up")).await;
    assert_eq!(stage.app.get(READ).await.backend(), "m1");
    stage.time.pass(11 * SECOND).await;
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn hedges_are_paid_from_the_budget() {
    const ASKED: usize = 20;
    let stage = stage("timeouts.head = \"2s\"").await;
    stage.macs.ollama[0].always(accept_then_silence());
    let mut asked = JoinSet::new();
    for _ in 0..ASKED {
        let mut client = stage.app.client().await;
        client.request("GET", "/ollama/api/tags", &[], b"").await;
        asked.spawn(async move { client.coming("GET").await.whole().await });
    }
    let (answers, _) = stage.time.run(asked.join_all()).await;
    let hedged = answers.iter().filter(|got| got.status() == 200).count();
    // 15 are there at first, each request brings one, a hedge costs five.
    assert_eq!(hedged, (15 + ASKED) / 5);
    let counted = stage.app.metrics().await.sum("tailhop_hedges_total", &[]);
    assert_eq!(counted, hedged);
    assert_eq!(stage.macs.ollama[1].seen().len(), hedged);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn only_cheap_reads_are_hedged() {
    let stage = stage("").await;
    let slow = || answer(200, &[], b"{}").delay_head(SECOND);
    for mac in [&stage.macs.ollama[0], &stage.macs.qdrant[0]] {
        mac.always(slow());
    }
    for (method, target) in [
        ("GET", "/ollama/api/ps"),
        ("POST", "/ollama/api/chat"),
        ("GET", READ),
        ("PUT", WRITE),
    ] {
        let (got, _) = stage.time.run(stage.app.ask(method, target, b"{}")).await;
        assert_eq!((got.status(), got.backend()), (200, "m1"), "{target}");
    }
    assert_eq!(
        stage.macs.ollama[1].seen().len() + stage.macs.qdrant[1].seen().len(),
        0
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn broken_answers_are_repeated_within_the_budget() {
    let stage = stage("").await;
    stage.macs.qdrant[0].always(reset_before_head());
    let mut asked = JoinSet::new();
    for _ in 0..40 {
        let mut client = stage.app.client().await;
        client.request("GET", READ, &[], b"").await;
        asked.spawn(async move { client.coming("GET").await.whole().await });
    }
    let (answers, _) = stage.time.run(asked.join_all()).await;
    let moved = answers.iter().filter(|got| got.status() == 200).count();
    let broken = answers.iter().filter(|got| got.status() == 502).count();
    assert_eq!(moved + broken, 40);
    assert!(moved >= 3, "{moved}");
    assert!(stage.macs.qdrant[1].seen().len() <= 40);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_hedged_read_is_answered_by_the_first_that_can() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    // m2 fell asleep a moment ago and nobody knows; m1 is only slow.
    net.ollama[0].always(answer(200, &[], b"{}").delay_head(SECOND));
    net.fake.silence("m2");
    let (got, took) = net.time.run(net.app.get("/ollama/api/tags")).await;
    assert_eq!((got.status(), got.backend()), (200, "m1"), "{}", got.text());
    assert!(took < 2 * SECOND, "{took:?}");
    net.ends_clean().await;
}

/// How long a read of a machine that fell asleep takes to be answered by the other one, on a fresh
/// dial.
async fn moved_after(net: &Tailnet) -> Duration {
    // The kept-alive connections of Qdrant are used for 4 s.
    net.time.pass(5 * SECOND).await;
    net.fake.silence("m1");
    let (got, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"), "{}", got.text());
    net.fake.wake("m1");
    net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    took
}

#[tokio::test(start_paused = true)]
async fn a_race_follows_the_dials_of_a_machine_that_is_far_and_of_one_that_is_near() {
    // `race` is 250 ms; a machine whose dials take longer gets up to twice that.
    let net = tailnet("").await;
    net.fake.far("m1", SECOND * 2 / 5);
    net.time.pass(60 * SECOND).await;
    let dials = async || {
        let metrics = net.app.metrics().await;
        metrics.sum("tailhop_connects_total", &[("backend", "m1")])
    };
    let before = dials().await;
    let (got, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((got.status(), got.backend()), (200, "m1"));
    assert!(took < SECOND / 2, "{took:?}");
    net.time.pass(SECOND).await;
    assert_eq!(dials().await, before + 1, "no second dial");
    let far = moved_after(&net).await;
    assert!((SECOND * 9 / 20..SECOND).contains(&far), "{far:?}");

    net.fake.far("m1", Duration::ZERO);
    net.time.pass_long(600 * SECOND).await;
    let near = moved_after(&net).await;
    assert!(near < SECOND / 4, "{near:?}");
    net.ends_clean().await;
}
