//! Embeddings that are kept: what is there is not asked for, and every vector is as it came.

use std::time::Duration;

use serde_json::{Value, json};

use crate::models::knowing_with;
use crate::support::app::Stage;
use crate::support::client::Answer;
use crate::support::time::soon;
use crate::support::upstream::{Act, Gate, answer, reset_mid_body};

const EMBED: &str = "/ollama/api/embed";
const OPENAI: &str = "/ollama/v1/embeddings";
const JSON: [(&str, &str); 1] = [("content-type", "application/json; charset=utf-8")];
const CACHE: &str = "services.ollama.cache = {}";
const A_WHILE: Duration = Duration::from_secs(20);
const TINY: [&[(&str, &str)]; 2] = [&[("tiny", "aa")], &[("tiny", "aa")]];

async fn keeping() -> Stage {
    knowing_with(TINY, CACHE).await
}

/// As no printer would write it.
fn vector(of: &str) -> String {
    let number = of.bytes().map(u32::from).sum::<u32>();
    format!("[{number}.50, -1.0E-3]")
}

fn native(inputs: &[&str]) -> Act {
    let vectors: Vec<_> = inputs.iter().map(|input| vector(input)).collect();
    let vectors = vectors.join(", ");
    let body = format!(
        "{{\"model\":\"tiny\",\"embeddings\":[{vectors}],\"total_duration\":5,\"prompt_eval_count\":7}}"
    );
    answer(200, &JSON, body.as_bytes())
}

fn openai(inputs: &[&str]) -> Act {
    let row = |(place, input): (usize, &&str)| {
        let vector = vector(input);
        format!("{{\"object\":\"embedding\",\"embedding\":{vector},\"index\":{place}}}")
    };
    let rows: Vec<_> = inputs.iter().enumerate().map(row).collect();
    let rows = rows.join(",");
    let body = format!(
        "{{\"object\":\"list\",\"data\":[{rows}],\"model\":\"tiny\",\"usage\":{{\"prompt_tokens\":3,\"total_tokens\":3}}}}"
    );
    answer(200, &JSON, body.as_bytes())
}

fn body(inputs: &[&str]) -> Vec<u8> {
    json!({ "model": "tiny", "input": inputs })
        .to_string()
        .into_bytes()
}

async fn embed(stage: &Stage, inputs: &[&str]) -> Answer {
    stage.app.ask("POST", EMBED, &body(inputs)).await
}

/// The inputs of each request that came to the active Mac.
fn asked(stage: &Stage) -> Vec<Value> {
    let seen = stage.macs.ollama[0].seen();
    let inputs = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["input"].clone();
    seen.iter().map(|request| inputs(&request.body)).collect()
}

async fn lookups(stage: &Stage, result: &str) -> usize {
    let metrics = stage.app.metrics().await;
    metrics.sum("tailhop_cache_lookups_total", &[("result", result)])
}

fn has_vectors(got: &Answer, inputs: &[&str]) {
    assert_eq!(got.status(), 200, "{}", got.text());
    let mut rest = got.text();
    for input in inputs {
        let (_, after) = rest
            .split_once(&vector(input))
            .expect("in order, as it came");
        rest = after;
    }
    let length = got.head.get("content-length").unwrap();
    assert_eq!(length, got.body.len().to_string());
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_inputs_of_which_ninety_are_known_ten_are_sent() {
    let stage = keeping().await;
    let all: Vec<_> = (0..100).map(|number| format!("text {number}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let (new, known): (Vec<_>, Vec<_>) = all.iter().partition(|text| text.ends_with('7'));
    stage.macs.ollama[0].once(native(&known));
    let got = embed(&stage, &known).await;
    has_vectors(&got, &known);
    assert_eq!(got.head.get("x-tailhop-cache"), Some("hit=0, miss=90"));
    assert_eq!(got.text().as_bytes(), got.body, "as it came");
    assert_eq!(got.json()["prompt_eval_count"], 7);
    stage.macs.ollama[0].once(native(&new));
    let got = embed(&stage, &all).await;
    has_vectors(&got, &all);
    assert_eq!(got.head.get("x-tailhop-cache"), Some("hit=90, miss=10"));
    assert_eq!((got.backend(), got.reason()), ("m1", "active:default"));
    assert_eq!(asked(&stage), [json!(known), json!(new)]);
    let got = embed(&stage, &all).await;
    has_vectors(&got, &all);
    assert_eq!(got.reason(), "cache");
    assert_eq!(got.json()["embeddings"].as_array().unwrap().len(), 100);
    assert_eq!(asked(&stage).len(), 2);
    let metrics = stage.app.metrics().await;
    let found = (lookups(&stage, "hit").await, lookups(&stage, "miss").await);
    assert_eq!(found, (190, 100));
    assert_eq!(metrics.sum("tailhop_cache_entries", &[]), 100);
    assert!(metrics.sum("tailhop_cache_bytes", &[]) > 100 * 300);
    let lines = stage.app.lines();
    assert_eq!(lines.last().unwrap().reason, "cache");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_there_twice_is_sent_once_and_answered_twice() {
    let stage = keeping().await;
    stage.macs.ollama[0].once(native(&["a", "b"]));
    let inputs = ["a", "b", "a", "a"];
    let got = embed(&stage, &inputs).await;
    has_vectors(&got, &inputs);
    assert_eq!(asked(&stage), [json!(["a", "b"])]);
    // One input alone is the same one.
    let got = stage
        .app
        .ask(
            "POST",
            EMBED,
            b"{\"input\":\"b\",\"model\":\"TINY:latest\"}",
        )
        .await;
    has_vectors(&got, &["b"]);
    assert_eq!(asked(&stage).len(), 1);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_api_of_openai_is_answered_in_its_own_form() {
    let stage = keeping().await;
    stage.macs.ollama[0].once(openai(&["a"]));
    has_vectors(&stage.app.ask("POST", OPENAI, &body(&["a"])).await, &["a"]);
    stage.macs.ollama[0].once(openai(&["b"]));
    let got = stage.app.ask("POST", OPENAI, &body(&["b", "a"])).await;
    has_vectors(&got, &["b", "a"]);
    let got = stage.app.ask("POST", OPENAI, &body(&["a", "b"])).await;
    has_vectors(&got, &["a", "b"]);
    assert_eq!(got.json()["data"][1]["index"], 1);
    assert_eq!(got.json()["usage"]["prompt_tokens"], 0);
    assert_eq!(asked(&stage), [json!(["a"]), json!(["b"])]);
    // Another API is another matter.
    stage.macs.ollama[0].once(native(&["a"]));
    has_vectors(&embed(&stage, &["a"]).await, &["a"]);
    assert_eq!(asked(&stage).len(), 3);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_at_the_same_time_ask_once() {
    let stage = keeping().await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(native(&["a", "b"]).behind(&gate));
    stage.macs.ollama[0].once(native(&["c"]));
    let asking = async {
        let (first, second, third) = tokio::join!(
            embed(&stage, &["a", "b"]),
            embed(&stage, &["b", "c", "a"]),
            async {
                // When the others are there.
                stage.macs.ollama[0].requests(2).await;
                gate.pass();
                embed(&stage, &["b"]).await
            }
        );
        has_vectors(&first, &["a", "b"]);
        has_vectors(&second, &["b", "c", "a"]);
        has_vectors(&third, &["b"]);
    };
    soon(asking).await;
    assert_eq!(asked(&stage), [json!(["a", "b"]), json!(["c"])]);
    assert_eq!(lookups(&stage, "miss").await, 3);
    let others = lookups(&stage, "shared").await + lookups(&stage, "hit").await;
    assert_eq!(others, 3);
    stage.ends_clean().await;
}

/// The one who asks for all may leave, or fail.
#[tokio::test(start_paused = true)]
async fn when_the_one_who_asks_leaves_the_next_one_asks() {
    let stage = keeping().await;
    let gate = Gate::closed();
    stage.macs.ollama[0].once(native(&["a"]).behind(&gate));
    stage.macs.ollama[0].once(native(&["a"]));
    let mut client = stage.app.client().await;
    client.request("POST", EMBED, &[], &body(&["a"])).await;
    stage.macs.ollama[0].requests(1).await;
    let waits = embed(&stage, &["a"]);
    let leaves = async {
        while lookups(&stage, "shared").await == 0 {
            tokio::task::yield_now().await;
        }
        drop(client);
    };
    let (got, ()) = soon(async { tokio::join!(waits, leaves) }).await;
    has_vectors(&got, &["a"]);
    assert_eq!(asked(&stage), [json!(["a"]), json!(["a"])]);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_passed_on_and_not_kept() {
    let stage = keeping().await;
    let error = answer(400, &JSON, b"{\"error\":\"the input length exceeds\"}");
    let few = answer(200, &JSON, b"{\"embeddings\":[[1]]}");
    let html = answer(200, &[("content-type", "text/html")], b"<html>");
    for (act, status) in [(error, 400), (few, 200), (html, 200)] {
        stage.macs.ollama[0].once(act);
        let got = embed(&stage, &["a", "b"]).await;
        assert_eq!(
            (got.status(), got.head.get("x-tailhop-cache")),
            (status, None)
        );
    }
    // One that breaks off is an error, not half an answer.
    stage.macs.ollama[0].once(reset_mid_body(3));
    assert_eq!(embed(&stage, &["a", "b"]).await.status(), 502);
    stage.macs.ollama[0].once(native(&["a", "b"]));
    has_vectors(&embed(&stage, &["a", "b"]).await, &["a", "b"]);
    assert_eq!(asked(&stage).len(), 5);
    // Of a part only an error is the answer; anything else, and all of it is asked for.
    stage.macs.ollama[0].once(answer(200, &JSON, b"{}"));
    stage.macs.ollama[0].once(native(&["a", "c"]));
    has_vectors(&embed(&stage, &["a", "c"]).await, &["a", "c"]);
    assert_eq!(asked(&stage)[5..], [json!(["c"]), json!(["a", "c"])]);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_an_answer_of_their_own_gets_one() {
    let stage = keeping().await;
    let mut client = stage.app.client().await;
    let body = body(&["a"]);
    for headers in [
        &[][..],
        &[("cache-control", "no-cache")],
        &[("cache-control", "max-age=0, No-Store")],
        &[("authorization", "Bearer x")],
        &[("content-encoding", "gzip")],
    ] {
        stage.macs.ollama[0].once(native(&["a"]));
        client.request("POST", EMBED, headers, &body).await;
        assert_eq!(client.coming("POST").await.whole().await.status(), 200);
    }
    assert_eq!(stage.macs.ollama[0].seen().len(), 5);
    client
        .request("POST", EMBED, &[("authorization", "Bearer x")], &body)
        .await;
    assert_eq!(client.coming("POST").await.whole().await.reason(), "cache");
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn another_model_under_the_same_name_is_another_model() {
    let stage = keeping().await;
    stage.macs.ollama[0].once(native(&["a"]));
    embed(&stage, &["a"]).await;
    stage.macs.ollama[0].models(&[("tiny", "bb")]);
    stage.time.pass(A_WHILE).await;
    assert_eq!(
        stage.app.metrics().await.sum("tailhop_cache_entries", &[]),
        0
    );
    stage.macs.ollama[0].once(native(&["a"]));
    embed(&stage, &["a"]).await;
    assert_eq!(asked(&stage).len(), 2);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_answered_while_the_mac_is_down_and_until_it_is_too_old() {
    let more = "services.ollama.cache.ttl = \"1m\"\ntimeouts = { wait = \"100ms\" }";
    let mut stage = knowing_with([&[("tiny", "aa")], &[]], more).await;
    stage.macs.ollama[0].once(native(&["a"]));
    embed(&stage, &["a"]).await;
    stage.macs.ollama[0].refuse().await;
    stage.time.pass(A_WHILE).await;
    has_vectors(&embed(&stage, &["a"]).await, &["a"]);
    let (got, _) = stage.time.run(embed(&stage, &["b"])).await;
    assert_eq!(got.status(), 503);
    stage.time.pass(A_WHILE * 2).await;
    let (got, _) = stage.time.run(embed(&stage, &["a"])).await;
    assert_eq!(got.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_unless_it_is_asked_for_and_known_what_it_is() {
    let unknown: [&[(&str, &str)]; 2] = [&[("tiny", "")], &[]];
    for (models, more) in [(TINY, ""), (unknown, CACHE)] {
        let stage = knowing_with(models, more).await;
        for _ in 0..2 {
            stage.macs.ollama[0].once(native(&["a"]));
            let got = embed(&stage, &["a"]).await;
            assert_eq!(got.head.get("x-tailhop-cache"), None);
        }
        assert_eq!(asked(&stage).len(), 2);
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_empties_it_and_a_reload_does_not() {
    let more = format!("{CACHE}\nadmin.token = {{ env = \"ORDERS\" }}");
    let stage =
        crate::models::knowing_as(TINY, &more, &[("ORDERS", "canary-orders-0123456789")]).await;
    stage.macs.ollama[0].once(native(&["a"]));
    embed(&stage, &["a"]).await;
    stage.app.edit(|text| format!("{text}\nlog.sample = 1\n"));
    let token = "canary-orders-0123456789";
    let got = stage.app.order("/reload", token, "").await;
    assert_eq!(got.status(), 200, "{}", got.text());
    assert_eq!(embed(&stage, &["a"]).await.reason(), "cache");
    let none = stage
        .app
        .order("/cache/clear", token, "{\"services\":[\"qdrant\"]}")
        .await;
    assert_eq!(none.json()["result"], "unchanged");
    let got = stage.app.order("/cache/clear", token, "").await;
    assert_eq!(
        got.json()["changes"],
        json!(["ollama: 1 embeddings are forgotten"])
    );
    assert_eq!(
        stage.app.order("/cache/clear", "wrong", "").await.status(),
        401
    );
    stage.macs.ollama[0].once(native(&["a"]));
    assert_eq!(embed(&stage, &["a"]).await.reason(), "active:default");
    stage.ends_clean().await;
}
