//! How a request can end before its answer does: the client leaves, or the backend does.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::support::app::{App, Stage, stage};
use crate::support::time::{really, soon};
use crate::support::upstream::{Act, Gate, accept_then_silence, gated, raw};

const SECOND: Duration = Duration::from_secs(1);
const CHAT: &str = "POST /ollama/api/chat HTTP/1.1\r\nhost: a\r\n";
const BLOB: &str = "POST /ollama/api/blobs/x HTTP/1.1\r\nhost: a\r\n";
/// Too large to be read before the dial, and no more than the kernel holds: the end of a client that
/// sent more than that stands behind bytes that nobody reads, and cannot be seen before they are.
const LARGE: usize = 66_000;

/// How far a request has come when its client leaves.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    /// The backend has its head.
    Sent,
    /// Its body is being read, before any dial.
    Reading,
    /// A dial that nobody answers; its body waits.
    Dialling,
}

/// The nine states in which a client can leave before the head of its answer. With a body that is
/// read before the dial three of them last only as long as the reading, and are played with one
/// that is too large for that, during a dial.
fn states() -> [(&'static str, String, Until); 11] {
    let get = "GET /ollama/api/tags HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = format!("content-length: {LARGE}\r\n");
    let body = "b".repeat(LARGE);
    let chunked = "transfer-encoding: chunked\r\n";
    let expect = "expect: 100-continue\r\n";
    [
        ("get", get.into(), Until::Sent),
        (
            "get, next request behind",
            format!("{get}{get}"),
            Until::Sent,
        ),
        (
            "get, half a request behind",
            format!("{get}GET /"),
            Until::Sent,
        ),
        ("get, stray CRLF behind", format!("{get}\r\n"), Until::Sent),
        (
            "post, read",
            format!("{CHAT}content-length: 2\r\n\r\n{{}}"),
            Until::Sent,
        ),
        (
            "post, read, next behind",
            format!("{CHAT}content-length: 2\r\n\r\n{{}}{get}"),
            Until::Sent,
        ),
        (
            "post, whole and unread",
            format!("{BLOB}{length}\r\n{body}"),
            Until::Dialling,
        ),
        (
            "post, chunked, whole and unread",
            format!("{BLOB}{chunked}\r\n{LARGE:x}\r\n{body}\r\n0\r\n\r\n"),
            Until::Dialling,
        ),
        (
            "post, partial and unread",
            format!("{BLOB}{length}\r\nb"),
            Until::Dialling,
        ),
        (
            "post, being read",
            format!("{CHAT}content-length: 9\r\n\r\nb"),
            Until::Reading,
        ),
        (
            "post, expects 100, unread",
            format!("{BLOB}{length}{expect}\r\n"),
            Until::Dialling,
        ),
    ]
}

/// No event tells from outside that a request is taken up whose backend hears nothing of it: the
/// app reads what is in its socket within this time.
const TAKEN_UP: Duration = Duration::from_millis(30);

async fn arrived(stage: &Stage, when: Until) {
    match when {
        Until::Sent => drop(stage.macs.ollama[0].requests(1).await),
        Until::Reading | Until::Dialling => really(TAKEN_UP).await,
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_noticed_in_each_of_the_nine_states() {
    for (state, bytes, when) in states() {
        let mut stage =
            stage("timeouts = { connect = \"60s\", wait = \"60s\", head = \"60s\" }").await;
        stage.macs.ollama[0].always(accept_then_silence());
        if when == Until::Dialling {
            stage.macs.ollama[0].black_hole().await;
        }
        let mut client = stage.app.client().await;
        client.send(bytes).await;
        arrived(&stage, when).await;
        drop(client);
        let (line, took) = stage.time.run(stage.app.line()).await;
        assert_eq!(
            (line.end, line.status),
            ("client-abort", 0),
            "{state} {line:?} {took:?}"
        );
        // Nothing is due for a minute: it was the client's end that was seen.
        assert!(took <= 2 * SECOND, "{state}: {took:?}");
        let metrics = stage.app.metrics().await;
        let labels = [("service", "ollama"), ("phase", "before-head")];
        assert_eq!(
            metrics.sum("tailhop_client_aborts_total", &labels),
            1,
            "{state}"
        );
        assert_eq!(metrics.sum("tailhop_requests_in_flight", &[]), 0, "{state}");
        if when == Until::Sent {
            soon(stage.macs.ollama[0].all_closed()).await;
        }
        assert!(stage.app.lines().is_empty(), "{state}: written down twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_mid_answer_with_bytes_behind_its_request_is_noticed() {
    let stage = stage("").await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(gated(&[b"one\n", b"two\n"], &gate));
    let mut client = stage.app.client().await;
    client
        .send(format!(
            "{CHAT}content-length: 2\r\n\r\n{{}}GET /ollama/api/tags HTTP/1.1\r\n"
        ))
        .await;
    gate.pass();
    assert_eq!(client.coming("POST").await.head.word(1), "200");
    drop(client);
    soon(stage.time.run(stage.macs.ollama[0].all_closed())).await;
    assert_eq!(stage.app.line().await.end, "client-abort");
}

/// The two versions of a client, and how each tells that an answer was cut.
async fn cut(app: &App, version: &str) -> (Vec<u8>, bool) {
    let mut client = app.client().await;
    client
        .send(format!(
            "POST /ollama/api/chat HTTP/{version}\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}"
        ))
        .await;
    let got = client.coming("POST").await.whole().await;
    (got.body, got.whole)
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_breaks_never_gives_a_clean_end_whatever_the_framing_and_the_client() {
    let length = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfive.";
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfive.\r\n";
    let within = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nfive.";
    let close = b"HTTP/1.1 200 OK\r\n\r\nfive.";
    let rows: [(&str, Act); 7] = [
        ("length, FIN", raw(length)),
        ("length, RST", raw(length).reset()),
        ("chunks, FIN", raw(chunked)),
        ("chunks, RST", raw(chunked).reset()),
        ("within a chunk, FIN", raw(within)),
        ("within a chunk, RST", raw(within).reset()),
        ("until close, RST", raw(close).reset()),
    ];
    for (fault, act) in rows {
        for version in ["1.0", "1.1"] {
            let stage = stage("").await;
            stage.macs.ollama[0].once(act.clone());
            let (body, whole) = cut(&stage.app, version).await;
            assert!(!whole, "{fault}, HTTP/{version}: {body:?} looks complete");
            let line = stage.app.line().await;
            assert_eq!(
                (line.end, line.status),
                ("broken", 200),
                "{fault}, HTTP/{version}"
            );
            let metrics = stage.app.metrics().await;
            assert_eq!(
                metrics.sum("tailhop_stream_truncations_total", &[]),
                1,
                "{fault}"
            );
            stage.ends_clean().await;
        }
    }
}

/// A close-delimited answer that ends in a FIN is whole: nobody can tell it from one whose backend
/// was killed, as the kernel sends a FIN for it. Such answers come from HTTP/1.0 servers only.
#[tokio::test(start_paused = true)]
async fn an_answer_without_framing_that_ends_in_a_fin_counts_as_whole() {
    let stage = stage("").await;
    for version in ["1.0", "1.1"] {
        stage.macs.ollama[0].once(raw(b"HTTP/1.1 200 OK\r\n\r\nfive."));
        assert_eq!(cut(&stage.app, version).await, (b"five.".to_vec(), true));
    }
}

/// The zero linger reaches the client even with an answer of which it has read nothing yet.
#[tokio::test(start_paused = true)]
async fn an_old_client_that_reads_late_still_sees_the_cut() {
    let stage = stage("").await;
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfive.\r\n";
    stage.macs.ollama[0].once(raw(chunked));
    let mut client = stage.app.client().await;
    client.send("GET /ollama/api/tags HTTP/1.0\r\n\r\n").await;
    assert_eq!(stage.app.line().await.end, "broken");
    let mut all = Vec::new();
    let end = soon(client.io.read_to_end(&mut all)).await;
    assert!(
        end.is_err(),
        "a clean end after {}",
        String::from_utf8_lossy(&all)
    );
}

/// Whoever is refused in mid-upload can read why: its connection is not reset under its answer.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_while_it_still_sends_gets_its_answer() {
    let stage = stage("").await;
    for _ in 0..20 {
        let mut client = stage.app.client().await;
        client
            .send("POST /ollama/../x HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n")
            .await;
        client.send("b".repeat(100_000)).await;
        let got = client.coming("POST").await.whole().await;
        assert_eq!((got.status(), got.reason()), (400, "bad-path"));
        client.send("b".repeat(100_000)).await;
        assert_eq!(client.rest().await, b"");
    }
}
