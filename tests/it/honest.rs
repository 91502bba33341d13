//! Streams of models: one that is not complete never looks complete, and not one byte is changed.

use crate::support::app::{Stage, stage};
use crate::support::client::{Answer, Client};
use crate::support::http::Piece;
use crate::support::time::soon;
use crate::support::upstream::{Act, Gate, gated_stream, raw, stream};

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const CHAT: &str = "/ollama/api/chat";
const TOKEN: &[u8] = b"{\"message\":{\"content\":\"a\"},\"done\":false}\n";
const LAST: &[u8] = b"{\"message\":{\"content\":\"\"},\"done\":true,\"eval_count\":1}\n";
const ERROR: &[u8] =
    b"{\"error\":\"an error was encountered while running the model: unexpected EOF\"}\n";

async fn asked(act: Act, path: &str) -> (Stage, Answer) {
    let stage = stage("").await;
    stage.macs.ollama[0].once(act);
    let got = stage.app.ask("POST", path, b"{}").await;
    (stage, got)
}

/// What is written down of the one stream there was.
async fn written(stage: &Stage) -> (&'static str, Option<&'static str>) {
    let line = stage.app.line().await;
    let metrics = stage.app.metrics().await;
    let word = line.stream.unwrap_or("none");
    let labels = [("service", "ollama"), ("backend", "m1"), ("end", word)];
    let counted = metrics.sum("tailhop_streams_total", &labels);
    assert_eq!(counted, usize::from(line.stream.is_some()));
    assert_eq!(
        metrics.sum("tailhop_streams_total", &[]),
        counted,
        "{line:?}"
    );
    (line.end, line.stream)
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_each_api_ends_cleanly_only_if_it_says_that_it_is_complete() {
    let chat = "/ollama/v1/chat/completions";
    let delta: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let empty: &[u8] = b"data: {\"choices\":[{\"delta\":{}}],\"model\":\"\"}\n\n";
    let stop: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let failed: &[u8] = b"event: response.failed\ndata: {\"type\":\"response.failed\"}\n\n";
    let rows: [(&str, &str, &[&[u8]], &str); 11] = [
        (CHAT, NDJSON, &[TOKEN, LAST], "complete"),
        (CHAT, NDJSON, &[TOKEN, LAST, TOKEN], "complete"),
        (CHAT, NDJSON, &[TOKEN, TOKEN], "truncated"),
        (CHAT, NDJSON, &[TOKEN, &LAST[..LAST.len() - 3]], "truncated"),
        (CHAT, NDJSON, &[], "truncated"),
        (CHAT, NDJSON, &[TOKEN, ERROR], "error-in-stream"),
        (chat, SSE, &[delta, b"data: [DO", b"NE]\n\n"], "complete"),
        // What Ollama makes of a runner that died.
        (chat, SSE, &[delta, empty], "truncated"),
        ("/ollama/v1/messages", SSE, &[stop], "complete"),
        ("/ollama/v1/messages", SSE, &[], "truncated"),
        ("/ollama/v1/responses", SSE, &[failed], "error-in-stream"),
    ];
    for (path, media, pieces, end) in rows {
        let (stage, got) = asked(stream(media, pieces), path).await;
        let shown = format!("{path} {end}");
        assert_eq!(got.status(), 200, "{shown}");
        assert_eq!(got.body, pieces.concat(), "{shown}: changed or held back");
        assert_eq!(got.whole, end == "complete", "{shown}");
        assert_eq!(got.head.get("x-accel-buffering"), Some("no"));
        assert_eq!(got.head.get("cache-control"), Some("no-cache"));
        assert_eq!(written(&stage).await, (end, Some(end)), "{shown}");
        let metrics = stage.app.metrics().await;
        let labels = [("cause", end)];
        let truncations = metrics.sum("tailhop_stream_truncations_total", &labels);
        assert_eq!(truncations, usize::from(end != "complete"), "{shown}");
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_after_any_of_its_lines_is_broken_off_and_counted() {
    for lines in 0..=3 {
        let pieces = &[TOKEN, TOKEN, LAST][..lines];
        let (stage, got) = asked(stream(NDJSON, pieces).cut(), CHAT).await;
        assert_eq!((got.status(), got.whole), (200, false), "{lines}");
        assert_eq!(written(&stage).await, ("broken", Some("truncated")));
        stage.ends_clean().await;
    }
}

/// Without chunks nothing but a reset tells such a client.
#[tokio::test(start_paused = true)]
async fn an_old_client_sees_an_incomplete_stream_break() {
    for (pieces, whole) in [(&[TOKEN][..], false), (&[TOKEN, LAST], true)] {
        let stage = stage("").await;
        stage.macs.ollama[0].once(stream(NDJSON, pieces));
        let mut client = stage.app.client().await;
        client
            .send("POST /ollama/api/chat HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
            .await;
        assert_eq!(client.coming("POST").await.whole().await.whole, whole);
        stage.ends_clean().await;
    }
}

/// A length that was promised could not be taken back.
#[tokio::test(start_paused = true)]
async fn a_stream_with_a_length_is_passed_on_without_one() {
    for (lines, whole) in [(TOKEN.to_vec(), false), ([TOKEN, LAST].concat(), true)] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {NDJSON}\r\ncontent-length: {}\r\n\r\n",
            lines.len()
        );
        let (stage, got) = asked(raw(&[head.as_bytes(), &lines].concat()), CHAT).await;
        assert_eq!(got.head.get("content-length"), None);
        assert_eq!((got.body, got.whole), (lines, whole));
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_leaves_is_cancelled_unless_it_was_complete() {
    for (first, want) in [(TOKEN, "cancelled"), (LAST, "complete")] {
        let stage = stage("").await;
        let gate = Gate::closed();
        stage.macs.ollama[0].once(gated_stream(NDJSON, &[first], &gate));
        let mut client = stage.app.client().await;
        client.request("POST", CHAT, &[], b"{}").await;
        gate.pass();
        let mut coming = client.coming("POST").await;
        assert_eq!(coming.piece().await, Piece::Data(first.to_vec()));
        drop(client);
        soon(stage.macs.ollama[0].all_closed()).await;
        assert_eq!(written(&stage).await, ("client-abort", Some(want)));
        stage.ends_clean().await;
    }
}

/// The error is in the last line, and hyper throws away what it has not sent when a body fails.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_late_gets_every_line_before_the_break() {
    let stage = stage("").await;
    let long = [b"{\"response\":\"", &vec![b'x'; 3_000_000][..], b"\"}\n"].concat();
    stage.macs.ollama[0].once(stream(NDJSON, &[&long, ERROR]));
    let mut client = Client::narrow(stage.app.data).await;
    client.request("POST", CHAT, &[], b"{}").await;
    let coming = client.coming("POST").await;
    let got = coming.whole().await;
    assert!(!got.whole);
    assert_eq!(got.body.len(), long.len() + ERROR.len());
    assert!(got.body.ends_with(ERROR));
    assert_eq!(
        written(&stage).await,
        ("error-in-stream", Some("error-in-stream"))
    );
    stage.ends_clean().await;
}

/// As long as Ollama's own client takes, over any number of reads.
#[tokio::test(start_paused = true)]
async fn a_line_of_eight_megabytes_passes_as_it_came_and_is_understood() {
    let text = "true,\\\"error\\\"".repeat(8_000_000 / 14);
    for (said, end) in [("true", "complete"), ("false", "truncated")] {
        let line = format!("{{\"response\":\"{text}\",\"done\":{said}}}\n");
        let (stage, got) = asked(stream(NDJSON, &[TOKEN, line.as_bytes()]), CHAT).await;
        assert!(got.body == [TOKEN, line.as_bytes()].concat(), "changed");
        assert_eq!(got.whole, end == "complete");
        assert_eq!(written(&stage).await, (end, Some(end)));
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_of_a_model_passes_as_it_came() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: 3\r\n\r\n{}\n";
    let stage = stage("").await;
    stage.macs.qdrant[0].once(raw(head.as_bytes()));
    let got = stage.app.ask("POST", "/qdrant/api/chat", b"{}").await;
    assert_eq!((got.whole, got.text()), (true, "{}\n"));
    assert_eq!(got.head.get("content-length"), Some("3"));
    assert_eq!(got.head.get("x-accel-buffering"), None);
    assert_eq!(written(&stage).await, ("complete", None));
    stage.ends_clean().await;
}
