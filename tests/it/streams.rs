//! How answers end: the client sees a clean end only if the upstream gave one.

use crate::support::app::stage;
use crate::support::upstream::{Act, close_mid_body, close_mid_length, raw, reset_mid_body};

fn faults() -> [(&'static str, Act); 3] {
    [
        ("reset", reset_mid_body(5)),
        ("chunks cut", close_mid_body()),
        ("length cut", close_mid_length()),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_cut_answer_never_ends_cleanly() {
    for (fault, act) in faults() {
        let stage = stage("").await;
        stage.macs.ollama[0].once(act);
        let got = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
        assert_eq!((got.status(), got.whole), (200, false), "{fault}");
        assert!(!got.body.is_empty(), "{fault}: what came is passed on");
        let line = stage.app.line().await;
        assert_eq!((line.end, line.status), ("broken", 200), "{fault}");
        let metrics = stage.app.metrics().await;
        let labels = [
            ("service", "ollama"),
            ("backend", "m1"),
            ("cause", "broken"),
        ];
        assert_eq!(
            metrics.sum("tailhop_stream_truncations_total", &labels),
            1,
            "{fault}"
        );
        assert_eq!(
            metrics.sum("tailhop_requests_total", &[("code_class", "abort")]),
            1,
            "{fault}"
        );
        assert_eq!(
            metrics.sum("tailhop_client_aborts_total", &[]),
            0,
            "{fault}"
        );
        stage.ends_clean().await;
    }
}

/// Without chunks nothing but a reset tells such a client that an answer was cut.
#[tokio::test(start_paused = true)]
async fn a_cut_answer_never_ends_cleanly_for_an_old_client_either() {
    for (fault, act) in faults() {
        let stage = stage("").await;
        stage.macs.ollama[0].once(act);
        let mut client = stage.app.client().await;
        client
            .send("POST /ollama/api/chat HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
            .await;
        let got = client.coming("POST").await.whole().await;
        assert!(!got.whole, "{fault}: {}", got.head.text);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_client_gets_a_whole_stream_with_a_clean_end() {
    let stage = stage("").await;
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    stage.macs.ollama[0].once(raw(chunked));
    let mut client = stage.app.client().await;
    client
        .send("POST /ollama/api/chat HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
        .await;
    let got = client.coming("POST").await.whole().await;
    assert_eq!((got.whole, got.text()), (true, "abc"));
}

#[tokio::test(start_paused = true)]
async fn odd_but_valid_answers_pass() {
    let rows: [(&str, &[u8], u16, &str); 5] = [
        ("until close", b"HTTP/1.1 200 OK\r\n\r\nabc", 200, "abc"),
        ("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nabc", 200, "abc"),
        (
            "no reason",
            b"HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nabc",
            200,
            "abc",
        ),
        (
            "100 first",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
            200,
            "abc",
        ),
        ("no body", b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ];
    for (what, bytes, status, body) in rows {
        let stage = stage("").await;
        stage.macs.qdrant[0].once(raw(bytes));
        let got = stage.app.get("/qdrant/collections").await;
        assert_eq!(
            (got.status(), got.whole, got.text()),
            (status, true, body),
            "{what}"
        );
        assert_eq!(stage.app.line().await.end, "complete", "{what}");
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_after_an_answer_are_not_the_next_answer() {
    let stage = stage("").await;
    let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    stage.macs.qdrant[0].once(raw(twice));
    assert_eq!(stage.app.get("/qdrant/collections").await.text(), "abc");
    assert_eq!(stage.app.get("/qdrant/collections").await.text(), "{}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_two_lengths_is_no_answer() {
    let stage = stage("").await;
    for mac in &stage.macs.qdrant {
        mac.always(raw(
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
        ));
    }
    assert_eq!(stage.app.get("/qdrant/collections").await.status(), 502);
}
