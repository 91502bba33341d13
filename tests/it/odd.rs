//! Odd clients and odd moments: what is accepted is passed on as one request, and nothing lingers.

use std::time::Duration;

use crate::support::app::stage;
use crate::support::http::Piece;
use crate::support::time::until;
use crate::support::upstream::{Gate, Request, gated, raw};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn odd_targets_are_answered_and_reach_the_service_only_by_a_route() {
    let stage = stage("").await;
    let rows: [(&[u8], &str); 4] = [
        (
            b"GET http://a/ollama/api/tags HTTP/1.1\r\nhost: a\r\n\r\n",
            "200",
        ),
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (b"GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (
            b"GET /ollama/v1/models/\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
            "400",
        ),
    ];
    for (bytes, status) in rows {
        let mut client = stage.app.client().await;
        client.send(bytes).await;
        let coming = client.coming("GET").await;
        assert_eq!(
            coming.head.word(1),
            status,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
    let seen = stage.macs.ollama[0].seen();
    let targets: Vec<_> = seen.iter().map(Request::target).collect();
    assert_eq!(targets, ["/api/tags"]);
    assert_eq!(stage.macs.qdrant[0].seen().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_with_two_framings_is_one_request_upstream_or_none() {
    let rows = [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "content-length: 0\r\ntransfer-encoding: chunked\r\ncontent-length: 0",
    ];
    for framing in rows {
        let stage = stage("").await;
        let mut client = stage.app.client().await;
        let hidden = "PUT /collections/hidden/points HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
        let head =
            format!("PUT /qdrant/collections/c/points HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n");
        client
            .send(format!("{head}{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()))
            .await;
        let status = client.coming("PUT").await.head.word(1).to_owned();
        let seen = stage.macs.qdrant[0].seen();
        match &seen[..] {
            [] => assert_eq!(status, "400", "{framing}"),
            [one] => {
                assert_eq!(
                    (one.target(), &*one.body),
                    ("/collections/c/points", hidden.as_bytes())
                );
                let framings =
                    one.head.all("content-length").len() + one.head.all("transfer-encoding").len();
                assert_eq!(framings, 1, "{framing}: {}", one.head.text);
            }
            more => panic!("{framing}: {} requests", more.len()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_that_nobody_asked_for_is_a_broken_answer() {
    for status in [
        "101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade",
        "199 Odd",
    ] {
        let stage = stage("").await;
        for mac in &stage.macs.qdrant {
            mac.always(raw(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()));
        }
        let got = stage.app.get("/qdrant/collections").await;
        assert_eq!(got.status(), 502, "{status}: {}", got.head.text);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn draining_lets_a_stream_end_and_closes_what_is_idle() {
    let stage = stage("").await;
    let mut idle = stage.app.client().await;
    assert_eq!(
        idle.ask("GET", "/ollama/api/tags", &[], b"").await.status(),
        200
    );
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut client = stage.app.client().await;
    client.request("POST", "/ollama/api/chat", &[], b"{}").await;
    gate.pass();
    let mut stream = client.coming("POST").await;
    assert_eq!(stream.piece().await, Piece::Data(b"one\n".to_vec()));
    stage.app.drain();
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    gate.pass();
    gate.pass();
    assert_eq!(stream.piece().await, Piece::Data(b"two\n".to_vec()));
    assert_eq!(stream.piece().await, Piece::End);
    assert_eq!(client.rest().await, b"");
    until("nobody listens", || {
        std::net::TcpStream::connect(stage.app.data).is_err()
    })
    .await;
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_request_waits_leaves_nothing_behind() {
    let mut stage = stage("timeouts.wait = \"60s\"").await;
    stage.macs.all_refuse(0).await;
    let mut client = stage.app.client().await;
    client
        .request("PUT", "/qdrant/collections/c/points", &[], b"{}")
        .await;
    stage.time.pass(SECOND).await;
    drop(client);
    let line = stage.app.line().await;
    assert_eq!(
        (line.end, line.status, &*line.backend),
        ("client-abort", 0, "m1")
    );
    assert_eq!(
        stage
            .app
            .metrics()
            .await
            .sum("tailhop_requests_in_flight", &[]),
        0
    );
    stage.macs.qdrant[0].listen().await;
    stage.time.pass(5 * SECOND).await;
    assert_eq!(
        stage.macs.qdrant[0].seen().len(),
        0,
        "nothing is sent for who has left"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_expected_body_is_asked_for_and_its_client_noticed_when_it_leaves() {
    let stage = stage("").await;
    let head = "PUT /qdrant/collections/c/points HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    let mut client = stage.app.client().await;
    client.send(head).await;
    assert_eq!(client.coming("HEAD").await.head.word(1), "100");
    client.send("{}").await;
    assert_eq!(client.coming("PUT").await.whole().await.status(), 200);
    assert_eq!(stage.macs.qdrant[0].seen()[0].head.get("expect"), None);
    let _ = stage.app.line().await;
    let mut client = stage.app.client().await;
    client.send(head).await;
    assert_eq!(client.coming("HEAD").await.head.word(1), "100");
    drop(client);
    let line = stage.app.line().await;
    assert_eq!((line.end, line.status), ("client-abort", 0));
    assert_eq!(stage.macs.qdrant[0].seen().len(), 1);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn all_bytes_of_a_body_are_counted_however_it_was_sent() {
    let stage = stage("").await;
    let mut expected = 0;
    for size in [3, 64 * 1024, 200_000] {
        let body = vec![b'x'; size];
        let got = stage
            .app
            .ask("PUT", "/qdrant/collections/c/points", &body)
            .await;
        assert_eq!(got.status(), 200);
        expected += size;
        assert_eq!(stage.app.line().await.bytes_in, size as u64);
        let counted = stage
            .app
            .metrics()
            .await
            .sum("tailhop_request_bytes_total", &[("service", "qdrant")]);
        assert_eq!(counted, expected);
    }
}
