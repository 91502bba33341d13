//! Another protocol than HTTP: passed on where a route says so, and nowhere else.

use std::time::Duration;

use crate::support::app::{Stage, stage};
use crate::support::client::Client;
use crate::support::time::soon;
use crate::support::upstream::{Gate, Request, Upstream, raw, switches};
use tokio::io::AsyncWriteExt;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const AGREED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n";

async fn web(more: &str) -> (Stage, Upstream) {
    let [web, _other] = Upstream::pair().await;
    let port = web.place().port();
    let stage = stage(&format!(
        "services.web = {{ kind = \"http\", port = {port}, backends = [\"m1\"] }}\n\
         routes = [{{ path = \"/\", service = \"web\", upgrade = [\"websocket\"]{more} }}]"
    ))
    .await;
    stage.app.judged("web", "m1", "up").await;
    web.all_closed().await;
    (stage, web)
}

/// A client whose request was agreed to.
async fn switched(stage: &Stage) -> Client {
    let mut client = stage.app.client().await;
    client.send(ASK).await;
    let head = client.coming("GET").await.head;
    assert_eq!(
        (head.word(1), head.get("upgrade")),
        ("101", Some("websocket")),
        "{}",
        head.text
    );
    assert_eq!(head.get("connection"), Some("upgrade"));
    assert_eq!(head.get("sec-websocket-accept"), Some("a"));
    assert_eq!(head.get("x-tailhop-backend"), Some("m1"));
    client
}

#[tokio::test(start_paused = true)]
async fn bytes_flow_both_ways_after_the_backends_101_and_the_end_of_one_side_reaches_the_other() {
    let (stage, web) = web("").await;
    web.once(switches(AGREED, b"early"));
    let mut client = switched(&stage).await;
    client.send(b"\x81\x00ping").await;
    client.read_until(b"early\x81\x00ping").await;
    client.io.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"");
    let line = stage.app.line().await;
    assert_eq!(
        (line.status, line.end, line.bytes_in, line.bytes_out),
        (101, "complete", 6, 11)
    );
    let seen = &web.seen().pop().unwrap().head;
    assert_eq!(
        (seen.get("upgrade"), seen.get("connection")),
        (Some("websocket"), Some("upgrade"))
    );
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics.sum(
            "tailhop_requests_total",
            &[("service", "web"), ("code_class", "1xx")]
        ),
        1
    );
    assert_eq!(metrics.sum("tailhop_requests_in_flight", &[]), 0);
    web.all_closed().await;
    stage.app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_a_tunnel_before_the_backend_agreed() {
    let (stage, web) = web("").await;
    // It answers 200: what the client sent behind its request is its next request.
    let mut client = stage.app.client().await;
    client
        .send(format!("{ASK}GET /next HTTP/1.1\r\nHost: x\r\n\r\n"))
        .await;
    for _ in 0..2 {
        assert_eq!(client.coming("GET").await.whole().await.status(), 200);
    }
    let seen = web.seen();
    let targets: Vec<_> = seen.iter().map(Request::target).collect();
    assert_eq!(targets[1..], ["/ws", "/next"], "behind the first probe");
}

#[tokio::test(start_paused = true)]
async fn an_agreement_to_what_nobody_asked_for_is_a_broken_answer() {
    let (stage, web) = web("").await;
    let other =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nGET";
    for ask in [ASK, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"] {
        web.once(raw(other));
        let mut client = stage.app.client().await;
        client.send(ask).await;
        let got = client.coming("GET").await.whole().await;
        assert_eq!((got.status(), got.reason()), (502, "bad-answer"), "{ask}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_breaks_for_the_client_when_it_breaks_and_ends_when_the_client_leaves() {
    let (stage, mut web) = web("").await;
    web.once(switches(AGREED, b""));
    let mut client = switched(&stage).await;
    client.send(b"x").await;
    client.read_until(b"x").await;
    drop(client);
    web.all_closed().await;
    assert_eq!(stage.app.line().await.status, 101);
    web.once(switches(AGREED, b"x"));
    let mut client = switched(&stage).await;
    client.read_until(b"x").await;
    web.die().await;
    soon(client.ends()).await;
    assert_eq!(stage.app.line().await.status, 101);
}

#[tokio::test(start_paused = true)]
async fn a_silent_tunnel_ends_after_idle_and_a_drained_one_after_its_goodbye() {
    let (stage, web) = web(", timeouts.idle = \"7s\"").await;
    web.always(switches(AGREED, b""));
    let mut client = switched(&stage).await;
    let (_, took) = stage.time.run(client.ends()).await;
    assert!(
        took >= Duration::from_secs(7) && took < Duration::from_secs(15),
        "{took:?}"
    );
    assert_eq!(stage.app.line().await.end, "idle-late");
    let mut client = switched(&stage).await;
    stage.app.drain();
    client.send(b"bye").await;
    client.read_until(b"bye").await;
    let (_, took) = stage.time.run(client.ends()).await;
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(stage.app.line().await.end, "complete");
}

/// Told to end between the backend's 101 and its way to the client, hyper would say `close`.
#[tokio::test(start_paused = true)]
async fn a_drain_in_the_middle_of_an_upgrade_does_not_spoil_it() {
    let (stage, web) = web("").await;
    let gate = Gate::closed();
    web.once(switches(AGREED, b"").behind(&gate));
    let mut client = stage.app.client().await;
    client.send(ASK).await;
    // The first was the probe.
    web.saw(|counts| counts.heads == 2).await;
    stage.app.drain();
    gate.pass();
    let head = client.coming("GET").await.head;
    assert_eq!(
        (head.word(1), head.get("connection")),
        ("101", Some("upgrade"))
    );
    client.send(b"x").await;
    client.read_until(b"x").await;
}

#[tokio::test(start_paused = true)]
async fn only_routes_that_say_so_pass_it_on() {
    let stage = stage("").await;
    let mut client = stage.app.client().await;
    client.send(ASK.replace("/ws", "/qdrant/ws")).await;
    assert_eq!(client.coming("GET").await.whole().await.status(), 200);
    let seen = &stage.macs.qdrant[0].seen()[0].head;
    assert_eq!((seen.get("upgrade"), seen.get("connection")), (None, None));
}
