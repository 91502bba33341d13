//! What models took: by name in metrics and in the access line, and never by a name of a client's.

use std::time::Duration;

use crate::models::knowing;
use crate::support::app::Metrics;
use crate::support::upstream::{answer, paced, stream};

const NDJSON: &str = "application/x-ndjson";
const CHAT: &str = "/ollama/api/chat";
const TINY: &[u8] = b"{\"model\":\"Tiny\"}";
const TOKEN: &[u8] = b"{\"message\":{\"content\":\"a\"},\"done\":false}\n";
const LAST: &[u8] = b"{\"done\":true,\"total_duration\":9000000000,\"load_duration\":2000000000,\
    \"prompt_eval_count\":26,\"prompt_eval_duration\":3000000000,\"eval_count\":8,\
    \"eval_duration\":1000000000}\n";
const SECONDS: [&str; 5] = [
    "time_to_first_token",
    "time_per_output_token",
    "load_duration",
    "prompt_duration",
    "queue_duration",
];

/// Sum and count of each histogram under these labels, in milliseconds.
fn told(metrics: &Metrics, model: &str) -> [(u64, usize); 5] {
    let labels = [("service", "ollama"), ("backend", "m1"), ("model", model)];
    SECONDS.map(|what| {
        let family = |end| format!("tailhop_llm_{what}_seconds{end}");
        let sum = metrics.samples(&family("_sum"), &labels);
        let sum = sum
            .first()
            .map_or(Duration::ZERO, |(_, sum)| Duration::from_secs_f64(*sum));
        let millis = u64::try_from(sum.as_millis()).unwrap();
        (millis, metrics.sum(&family("_count"), &labels))
    })
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_what_its_model_took() {
    let stage = knowing([&[("tiny", "aa")], &[]]).await;
    let pause = Duration::from_millis(500);
    let act = paced(NDJSON, &[TOKEN, LAST], pause).delay_head(Duration::from_millis(1500));
    stage.macs.ollama[0].once(act);
    let (got, _) = stage.time.run(stage.app.ask("POST", CHAT, TINY)).await;
    assert!(got.whole);
    let metrics = stage.app.metrics().await;
    let [first, token, load, prompt, queue] = told(&metrics, "tiny:latest");
    assert!((1500..1900).contains(&first.0), "{first:?}");
    assert_eq!(
        [token, load, prompt, queue],
        [(125, 1), (2000, 1), (3000, 1), (3000, 1)]
    );
    let line = stage.app.line().await;
    let work = line.work.unwrap();
    assert_eq!(work.model, "tiny:latest");
    assert_eq!((work.tokens_in, work.tokens_out), (Some(26), Some(8)));
    assert_eq!(work.tokens_per_s, Some(8));
    for (way, tokens) in [("input", 26), ("output", 8)] {
        let labels = [("model", "tiny:latest"), ("type", way)];
        assert_eq!(metrics.sum("tailhop_llm_tokens_total", &labels), tokens);
    }
    let status = stage.app.status().await;
    let model = &status["services"][0]["backends"][0]["models"]["models"][0];
    assert_eq!(model["tokens_per_s"], 8.0, "{status}");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_tells_everything_but_its_first_token() {
    let stage = knowing([&[("tiny", "aa")], &[]]).await;
    let json = [("content-type", "application/json")];
    stage.macs.ollama[0].once(answer(200, &json, LAST));
    stage.app.ask("POST", CHAT, TINY).await;
    let metrics = stage.app.metrics().await;
    let [first, token, ..] = told(&metrics, "tiny:latest");
    assert_eq!((first, token), ((0, 0), (125, 1)));
    // An embedding has no parts: what it took is no wait.
    let vector = b"{\"embeddings\":[[1]],\"total_duration\":9,\"load_duration\":2}";
    stage.macs.ollama[0].once(answer(200, &json, vector));
    stage.app.ask("POST", "/ollama/api/embed", TINY).await;
    let [.., load, prompt, queue] = told(&stage.app.metrics().await, "tiny:latest");
    assert_eq!((load.1, prompt.1, queue.1), (2, 1, 1));
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_clients_call_a_model_is_no_label() {
    let stage = knowing([&[("tiny", "aa")], &[]]).await;
    for name in [
        "",
        "{\"model\":\"what they\\\" like\"}",
        "{\"model\":\"a:b\"}",
    ] {
        stage.macs.ollama[0].once(stream(NDJSON, &[TOKEN, LAST]));
        stage.app.ask("POST", CHAT, name.as_bytes()).await;
        let line = stage.app.line().await;
        assert_eq!(line.work.unwrap().model, "other");
    }
    let metrics = stage.app.metrics().await;
    assert_eq!(told(&metrics, "other")[0].1, 3);
    let all = metrics.sum("tailhop_llm_time_to_first_token_seconds_count", &[]);
    assert_eq!(all, 3);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_twenty_models_have_a_label() {
    let names: Vec<_> = (0..30).map(|number| format!("m{number}")).collect();
    let models: Vec<_> = names.iter().map(|name| (name.as_str(), "aa")).collect();
    let stage = knowing([&models, &[]]).await;
    for name in &names {
        stage.macs.ollama[0].once(stream(NDJSON, &[TOKEN, LAST]));
        let body = format!("{{\"model\":\"{name}\"}}");
        stage.app.ask("POST", CHAT, body.as_bytes()).await;
    }
    let metrics = stage.app.metrics().await;
    let loads = metrics.samples("tailhop_llm_load_duration_seconds_count", &[]);
    assert_eq!(loads.len(), 21);
    assert_eq!(told(&metrics, "other")[2].1, 10);
    stage.ends_clean().await;
}

/// A model that fails at once has said no token.
#[tokio::test(start_paused = true)]
async fn an_error_is_no_first_token() {
    let stage = knowing([&[("tiny", "aa")], &[]]).await;
    let failed: &[u8] = b"{\"error\":\"out of memory\"}\n";
    for pieces in [&[failed][..], &[TOKEN, failed]] {
        stage.macs.ollama[0].once(stream(NDJSON, pieces));
        assert!(!stage.app.ask("POST", CHAT, TINY).await.whole);
    }
    let metrics = stage.app.metrics().await;
    let all = metrics.sum("tailhop_llm_time_to_first_token_seconds_count", &[]);
    assert_eq!(all, 1);
    stage.ends_clean().await;
}

/// Neither a model that is only loaded nor a pull has a first token.
#[tokio::test(start_paused = true)]
async fn what_has_no_token_has_no_time_to_it() {
    let stage = knowing([&[("tiny", "aa")], &[]]).await;
    let load = b"{\"done\":true,\"done_reason\":\"load\"}\n";
    let pull = b"{\"status\":\"success\"}\n";
    for (path, said) in [
        ("/ollama/api/generate", &load[..]),
        ("/ollama/api/pull", pull),
    ] {
        stage.macs.ollama[0].once(stream(NDJSON, &[said]));
        assert!(stage.app.ask("POST", path, TINY).await.whole);
    }
    let metrics = stage.app.metrics().await;
    let all = metrics.sum("tailhop_llm_time_to_first_token_seconds_count", &[]);
    assert_eq!(all, 0);
    stage.ends_clean().await;
}
