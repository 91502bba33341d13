//! Routing and forwarding: which bytes reach the upstream, which reach the client, and when.

use std::time::Duration;

use crate::support::app::stage;
use crate::support::client::Client;
use crate::support::http::{Piece, chunk};
use crate::support::time::{really, soon};
use crate::support::upstream::{Gate, Request, accept_then_silence, answer, flood, gated};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn the_prefix_is_stripped_byte_exact_and_the_query_kept() {
    let stage = stage("").await;
    let rows = [
        ("/ollama/api/tags", "/api/tags"),
        (
            "/ollama/api/tags?x=1&y=%2F%20+%C3%A4",
            "/api/tags?x=1&y=%2F%20+%C3%A4",
        ),
        ("/ollama/api/show?", "/api/show?"),
        (
            "/ollama/v1/models/a%2fb%2Fc;d=e",
            "/v1/models/a%2fb%2Fc;d=e",
        ),
        ("/ollama", "/"),
        ("/ollama/", "/"),
        ("/ollama?a=b", "/?a=b"),
        ("/ollama//api///tags", "/api/tags"),
        ("/ollama//", "/"),
        ("/ollama/api/tags/", "/api/tags/"),
    ];
    for (asked, _) in rows {
        assert_eq!(stage.app.get(asked).await.status(), 200, "{asked}");
    }
    let seen = stage.macs.ollama[0].seen();
    let seen: Vec<_> = seen.iter().map(Request::target).collect();
    assert_eq!(seen, rows.map(|(_, sent)| sent));
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn qdrant_with_and_without_a_slash_means_its_root_and_no_redirect() {
    let stage = stage("").await;
    for asked in ["/qdrant", "/qdrant/", "/qdrant//collections"] {
        assert_eq!(stage.app.get(asked).await.status(), 200, "{asked}");
    }
    let seen = stage.macs.qdrant[0].seen();
    let seen: Vec<_> = seen.iter().map(Request::target).collect();
    assert_eq!(
        seen,
        ["/", "/", "//collections"],
        "only Ollama needs single slashes"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_route_gets_404_and_reaches_nobody() {
    let stage = stage("").await;
    for asked in [
        "/",
        "/ollamax/api/tags",
        "/Ollama/api/tags",
        "/qdrant%2Fcollections",
        "/o",
        "//ollama/api/tags",
    ] {
        let got = stage.app.get(asked).await;
        assert_eq!((got.status(), got.reason()), (404, "no-route"), "{asked}");
        assert!(
            got.json()["error"].as_str().unwrap().contains("/ollama"),
            "{asked}"
        );
    }
    let posted = stage.app.ask("POST", "/nowhere", b"{}").await;
    assert_eq!(posted.status(), 404);
    for upstream in stage.macs.ollama.iter().chain(&stage.macs.qdrant) {
        assert_eq!(upstream.seen().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn host_origin_and_hop_by_hop_fields_are_ours_and_the_rest_passes() {
    let stage = stage("").await;
    let headers = [
        ("origin", "http://evil.example"),
        ("connection", "x-drop, keep-alive"),
        ("x-drop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "gzip"),
        ("upgrade", "websocket"),
        ("authorization", "Bearer t"),
        ("accept", "a"),
        ("accept", "b"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("x-request-id", "mine-1"),
    ];
    let mut client = stage.app.client().await;
    for target in ["/ollama/api/chat", "/qdrant/collections/c/points/query"] {
        client.ask("POST", target, &headers, b"{}").await;
    }
    let (ollama, qdrant) = (
        &stage.macs.ollama[0].seen()[0],
        &stage.macs.qdrant[0].seen()[0],
    );
    let place = stage.macs.qdrant[0].place();
    assert_eq!(ollama.head.get("host"), Some("localhost:11434"));
    assert_eq!(qdrant.head.get("host"), Some(&*place.to_string()));
    assert_eq!(ollama.head.get("origin"), None, "Ollama answers 403 to it");
    assert_eq!(qdrant.head.get("origin"), Some("http://evil.example"));
    for request in [ollama, qdrant] {
        for gone in [
            "connection",
            "x-drop",
            "keep-alive",
            "proxy-authorization",
            "te",
            "upgrade",
        ] {
            assert_eq!(request.head.get(gone), None, "{gone}");
        }
        assert_eq!(request.head.all("accept"), ["a", "b"]);
        assert_eq!(request.head.get("authorization"), Some("Bearer t"));
        assert_eq!(request.head.get("traceparent"), Some(headers[10].1));
        assert_eq!(request.head.get("content-length"), Some("2"));
        assert_eq!(request.body, b"{}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_says_who_gave_it_and_why_and_keeps_what_is_the_upstreams() {
    let stage = stage("").await;
    let headers = [
        ("content-type", "text/x"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("x-tailhop-backend", "forged"),
        ("location", "/api/tags"),
    ];
    stage.macs.ollama[0].once(answer(418, &headers, b"tea"));
    let mut client = stage.app.client().await;
    let got = client
        .ask("GET", "/ollama/api/tags", &[("x-request-id", "abc-1")], b"")
        .await;
    assert_eq!((got.status(), got.text()), (418, "tea"));
    assert_eq!((got.backend(), got.reason()), ("m1", "active:default"));
    assert_eq!(got.head.get("x-request-id"), Some("abc-1"));
    assert_eq!(got.head.get("location"), Some("/ollama/api/tags"));
    assert_eq!(got.head.all("set-cookie"), ["a=1", "b=2"]);
    for gone in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(got.head.get(gone), None, "{gone}");
    }
    let ours = stage.app.get("/ollama/api/tags").await;
    let line = [stage.app.line().await, stage.app.line().await][1].clone();
    assert_eq!(ours.head.get("x-request-id"), Some(&*line.request_id));
}

#[tokio::test(start_paused = true)]
async fn each_piece_of_an_answer_leaves_when_it_comes() {
    let stage = stage("").await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut client = stage.app.client().await;
    client.request("POST", "/ollama/api/chat", &[], b"{}").await;
    let mut coming = client.coming("POST").await;
    for piece in [&b"one\n"[..], b"two\n"] {
        gate.pass();
        assert_eq!(coming.piece().await, Piece::Data(piece.to_vec()));
    }
    gate.pass();
    assert_eq!(coming.piece().await, Piece::End);
    let line = stage.app.line().await;
    assert_eq!(
        (line.end, line.bytes_out, line.status),
        ("complete", 8, 200)
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_upload_leaves_as_it_comes_and_is_sent_once() {
    let stage = stage("").await;
    let body: Vec<u8> = (0..=250).cycle().take(20 * MIB).collect();
    let mut client = stage.app.client().await;
    let head = format!(
        "POST /ollama/api/blobs/sha256:1 HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await;
    client.send(&body[..MIB]).await;
    stage.macs.ollama[0].saw(|counts| counts.heads == 1).await;
    client.send(&body[MIB..]).await;
    assert_eq!(client.coming("POST").await.whole().await.status(), 200);
    let seen = stage.macs.ollama[0].seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].body == body, "the body changed on its way");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_chunked_upload_arrives_whole_whatever_its_size() {
    let stage = stage("").await;
    for size in [0, 1, 64 * 1024, 64 * 1024 + 1, 300 * 1024] {
        let body = vec![b'u'; size];
        let mut client = stage.app.client().await;
        client.send("PUT /qdrant/collections/c/points HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for piece in body.chunks(40_000) {
            client.send(chunk(piece)).await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(
            client.coming("PUT").await.whole().await.status(),
            200,
            "{size}"
        );
        let seen = stage.macs.qdrant[0].seen();
        assert!(seen.last().unwrap().body == body, "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_holds_the_upstream_back() {
    let stage = stage("").await;
    stage.macs.ollama[0].once(flood(256 * MIB));
    let mut client = Client::narrow(stage.app.data).await;
    client.request("GET", "/ollama/api/tags", &[], b"").await;
    let mut coming = client.coming("GET").await;
    assert!(matches!(coming.piece().await, Piece::Data(_)));
    // No event tells that nothing more comes: what the kernel holds on both sides is taken fast.
    let mut before = 0;
    loop {
        really(Duration::from_millis(100)).await;
        let now = stage.macs.ollama[0].counts().flooded;
        if now == before {
            break;
        }
        before = now;
    }
    assert!(
        before < 2 * MIB,
        "{before} bytes were taken from the upstream"
    );
    drop(client);
    stage.macs.ollama[0].all_closed().await;
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_too_large_to_keep_is_not_sent_to_another() {
    let stage = stage("").await;
    let body = vec![b'q'; 64 * 1024 + 1];
    stage.macs.qdrant[0].once(crate::support::upstream::reset_before_head());
    let got = stage
        .app
        .ask("POST", "/qdrant/collections/c/points/query", &body)
        .await;
    assert_eq!((got.status(), got.reason()), (502, "broken"));
    assert_eq!(stage.macs.qdrant[1].seen().len(), 0);
    stage.macs.qdrant[0].once(crate::support::upstream::reset_before_head());
    let got = stage
        .app
        .ask("POST", "/qdrant/collections/c/points/query", &body[1..])
        .await;
    assert_eq!(
        (got.status(), got.backend()),
        (200, "m2"),
        "one byte less is kept"
    );
    assert_eq!(stage.macs.qdrant[1].seen()[0].body.len(), 64 * 1024);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_client_connection_follow_one_another() {
    let stage = stage("").await;
    let mut client = stage.app.client().await;
    client
        .send("GET /ollama/api/tags HTTP/1.1\r\nhost: a\r\n\r\nGET /qdrant/collections HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    for _ in 0..2 {
        assert_eq!(client.coming("GET").await.whole().await.status(), 200);
    }
    let head = client.ask("HEAD", "/ollama/api/tags", &[], b"").await;
    assert_eq!((head.status(), head.body.len()), (200, 0));
    let connections: Vec<_> = stage.macs.ollama[0]
        .seen()
        .iter()
        .map(|seen| seen.connection)
        .collect();
    assert_eq!(
        connections[0], connections[1],
        "the upstream connection is kept"
    );
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_http_costs_no_dial() {
    let stage = stage("").await;
    let before = stage.macs.qdrant[0].counts().opened;
    for (bytes, status) in [
        (
            "PUT /qdrant/collections/c/points HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            Some(400),
        ),
        ("GET / HTTP/9\r\n\r\n", Some(400)),
        ("\x16\x03\x01\x02", Some(400)),
    ] {
        let mut client = stage.app.client().await;
        client.send(bytes).await;
        let rest = String::from_utf8(client.rest().await).unwrap();
        let said = rest.split(' ').nth(1).and_then(|word| word.parse().ok());
        assert_eq!(said, status, "{bytes:?} {rest}");
    }
    assert_eq!(stage.macs.qdrant[0].counts().opened, before);
    stage.ends_clean().await;
}

/// The nine states in which a client can leave before the head of its answer.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_head_closes_the_upstream_at_once() {
    let chat = "POST /ollama/api/chat HTTP/1.1\r\nhost: a\r\n";
    let blob = "POST /ollama/api/blobs/x HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n";
    let states = [
        (
            "get",
            "GET /ollama/api/tags HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        ),
        ("post", format!("{chat}content-length: 2\r\n\r\n{{}}")),
        (
            "post, chunked",
            format!("{chat}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
        ),
        ("upload, half", format!("{blob}{}", "x".repeat(100_000))),
    ];
    for (state, bytes) in states {
        let stage = stage("").await;
        stage.macs.ollama[0].once(accept_then_silence().at_head());
        let mut client = stage.app.client().await;
        client.send(bytes).await;
        stage.macs.ollama[0].saw(|counts| counts.heads == 1).await;
        drop(client);
        soon(stage.macs.ollama[0].all_closed()).await;
        let line = stage.app.line().await;
        assert_eq!((line.end, line.status), ("client-abort", 0), "{state}");
        let metrics = stage.app.metrics().await;
        let labels = [("service", "ollama"), ("phase", "before-head")];
        assert_eq!(
            metrics.sum("tailhop_client_aborts_total", &labels),
            1,
            "{state}"
        );
        assert!(stage.app.lines().is_empty(), "{state}: written down twice");
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_mid_stream_closes_the_upstream_at_once() {
    let stage = stage("").await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut client = stage.app.client().await;
    client.request("POST", "/ollama/api/chat", &[], b"{}").await;
    gate.pass();
    assert_eq!(
        client.coming("POST").await.piece().await,
        Piece::Data(b"one\n".to_vec())
    );
    drop(client);
    stage.macs.ollama[0].all_closed().await;
    let line = stage.app.line().await;
    assert_eq!(
        (line.end, line.status, line.bytes_out),
        ("client-abort", 200, 4)
    );
    let metrics = stage.app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_client_aborts_total", &[("phase", "streaming")]),
        1
    );
    assert_eq!(metrics.sum("tailhop_stream_truncations_total", &[]), 0);
    assert_eq!(
        metrics.sum("tailhop_requests_total", &[("code_class", "abort")]),
        1
    );
    stage.ends_clean().await;
}
