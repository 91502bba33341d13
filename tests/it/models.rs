//! Where requests for models go: to a Mac that has them, and embeddings to the very same model.

use std::time::Duration;

use serde_json::Value;

use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs, Metrics, Stage, stage, stage_with};
use crate::support::client::Answer;
use crate::support::time::{Held, soon};
use crate::support::upstream::{Act, Gate, accept_then_silence, answer, gated, raw};

const CHAT: &str = "/ollama/api/chat";
const EMBED: &str = "/ollama/api/embed";
const TINY: &[u8] = b"{\"model\":\"tiny\"}";
/// More than the pause between two times that a Mac is asked for its models.
const A_WHILE: Duration = Duration::from_secs(20);

/// Both Macs up, with these models; the first one is active.
pub(crate) async fn knowing(models: [&[(&str, &str)]; 2]) -> Stage {
    knowing_with(models, "").await
}

pub(crate) async fn knowing_with(models: [&[(&str, &str)]; 2], more: &str) -> Stage {
    knowing_as(models, more, &[]).await
}

pub(crate) async fn knowing_as(
    models: [&[(&str, &str)]; 2],
    more: &str,
    environment: &[(&str, &str)],
) -> Stage {
    let stage = stage_with(more, environment).await;
    for (mac, models) in stage.macs.ollama.iter().zip(models) {
        mac.models(models);
    }
    stage.time.pass(A_WHILE).await;
    for place in 0..2 {
        told(&stage, place, |models| !models.is_null()).await;
    }
    stage
}

/// Waits until what a Mac told is as `wanted`.
async fn told(stage: &Stage, place: usize, wanted: impl Fn(&Value) -> bool) {
    let name = ["m1", "m2"][place];
    soon(async {
        loop {
            let status = stage.app.status().await;
            let services = status["services"].as_array().unwrap();
            let backends = services[0]["backends"].as_array().unwrap();
            let backend = backends.iter().find(|backend| backend["name"] == name);
            if wanted(&backend.unwrap()["models"]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn not_found() -> Act {
    answer(404, &[], b"{\"error\":\"model 'tiny' not found\"}")
}

fn went(got: &Answer) -> (u16, &str, &str) {
    (got.status(), got.backend(), got.reason())
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_to_the_mac_that_alone_has_its_model() {
    let stage = knowing([&[("other:latest", "aa")], &[("Tiny:latest", "bb")]]).await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m2", "model-only-there"));
    let line = stage.app.line().await;
    assert_eq!(
        (line.backend.as_ref(), line.reason.as_ref()),
        ("m2", "model-only-there")
    );
    let metrics = stage.app.metrics().await;
    let labels = [("from", "m1"), ("to", "m2"), ("reason", "model-only-there")];
    assert_eq!(metrics.sum("tailhop_fallbacks_total", &labels), 1);
    let seen = stage.macs.ollama[1].seen();
    assert_eq!(seen[0].body, TINY, "bodies pass as they came");
    let got = stage.app.ask("POST", CHAT, b"{\"model\":\"other\"}").await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_active_mac_itself_says_that_nobody_has_a_model() {
    let stage = knowing([&[], &[]]).await;
    stage.macs.ollama[0].once(not_found());
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (404, "m1", "active:default"));
    assert!(stage.macs.ollama[1].seen().is_empty());
    stage.ends_clean().await;
}

/// Its 404 would tell the app that there is no such model.
#[tokio::test(start_paused = true)]
async fn while_the_mac_with_the_model_is_down_the_answer_is_not_that_there_is_none() {
    let mut stage = knowing_with([&[], &[("tiny", "bb")]], "timeouts = { wait = \"100ms\" }").await;
    stage.macs.ollama[1].refuse().await;
    let (got, _) = stage.time.run(stage.app.ask("POST", CHAT, TINY)).await;
    assert_eq!(got.status(), 503, "{}", got.text());
    assert!(stage.macs.ollama[0].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mac_that_lacks_the_model_is_never_asked_instead() {
    let mut stage = knowing_with([&[("tiny", "aa")], &[]], "timeouts = { wait = \"100ms\" }").await;
    stage.macs.ollama[0].refuse().await;
    let (got, _) = stage.time.run(stage.app.ask("POST", CHAT, TINY)).await;
    assert_eq!(got.status(), 503, "{}", got.text());
    assert!(stage.macs.ollama[1].seen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn embeddings_move_to_the_very_same_model_and_to_no_other() {
    for (other, want) in [("aa", (200, "m2")), ("bb", (503, "none"))] {
        let mut stage = knowing_with(
            [&[("tiny", "aa")], &[("tiny", other)]],
            "timeouts = { wait = \"100ms\" }",
        )
        .await;
        let differ = &stage.app.status().await["services"][0]["models_differ"];
        assert_eq!(differ.is_null(), other == "aa");
        stage.macs.ollama[0].refuse().await;
        let (got, _) = stage.time.run(stage.app.ask("POST", EMBED, TINY)).await;
        assert_eq!((got.status(), got.backend()), want, "{}", got.text());
        // What is no embedding goes to either.
        let (got, _) = stage.time.run(stage.app.ask("POST", CHAT, TINY)).await;
        assert_eq!((got.status(), got.backend()), (200, "m2"));
    }
}

/// Both have one of that name: said in status, and the embedding that cannot move says why.
#[tokio::test(start_paused = true)]
async fn another_model_of_the_same_name_is_told_wherever_one_looks() {
    let mut stage = knowing_with(
        [
            &[("tiny", "aa"), ("same", "cc")],
            &[("tiny", "bb"), ("same", "cc")],
        ],
        "timeouts = { wait = \"100ms\" }",
    )
    .await;
    let status = stage.app.status().await;
    let differ = &status["services"][0]["models_differ"];
    assert_eq!(*differ, serde_json::json!(["tiny:latest"]));
    stage.macs.ollama[0].refuse().await;
    let (got, _) = stage.time.run(stage.app.ask("POST", EMBED, TINY)).await;
    assert_eq!(went(&got), (503, "none", "refused"), "{}", got.text());
    assert!(got.head.get("retry-after").is_some());
    assert!(
        got.json()["error"]
            .as_str()
            .unwrap()
            .contains("Nothing was sent.")
    );
    let line = stage.app.line().await;
    assert_eq!(
        (line.status, line.end, line.reason.as_ref()),
        (503, "refused", "refused")
    );
    assert_eq!((line.effect, line.backend.as_ref()), ("inference", "m1"));
    let (got, _) = stage
        .time
        .run(stage.app.ask("POST", EMBED, b"{\"model\":\"same\"}"))
        .await;
    assert_eq!(got.status(), 200);
    let line = stage.app.line().await;
    assert_eq!((line.status, line.backend.as_ref()), (200, "m2"));
    let metrics = stage.app.metrics().await;
    let labels = [("service", "ollama"), ("reason", "refused")];
    assert_eq!(metrics.sum("tailhop_requests_refused_total", &labels), 1);
    let labels = [("from", "m1"), ("to", "m2")];
    assert_eq!(metrics.sum("tailhop_fallbacks_total", &labels), 1);
    assert_eq!(stage.macs.ollama[1].seen().len(), 1);
}

/// Slow and large, and in the end a list: until then nothing is known, and nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_list_of_five_megabytes_that_comes_slowly_is_read_and_holds_nothing_up() {
    let stage = stage("").await;
    let row = |number: usize| format!("{{\"name\":\"m{number}\",\"digest\":\"{number:0100}\"}}");
    let rows: Vec<_> = (0..40_000).map(row).collect();
    let list = format!("{{\"models\":[{}]}}", rows.join(","));
    assert!(list.len() > 4_900_000);
    let gate = Gate::closed();
    let halves = list.as_bytes().split_at(list.len() / 2);
    stage.macs.ollama[0].lists(gated(&[halves.0, halves.1], &gate));
    stage.macs.ollama[1].models(&[("tiny", "bb")]);
    gate.pass();
    stage.time.pass(A_WHILE).await;
    told(&stage, 0, Value::is_null).await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    (0..64).for_each(|_| gate.pass());
    stage.time.pass(A_WHILE).await;
    told(&stage, 0, |models| {
        models["models"]
            .as_array()
            .is_some_and(|all| all.len() == 40_000)
    })
    .await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m2", "model-only-there"));
}

/// Of a key that is there twice the last one holds, as Ollama reads it; what is encoded is not read.
#[tokio::test(start_paused = true)]
async fn a_model_is_read_as_ollama_reads_it_and_not_out_of_what_is_encoded() {
    let stage = knowing([&[("other", "aa")], &[("tiny", "bb")]]).await;
    let twice = b"{\"model\":\"other\",\"options\":{\"model\":\"x\"},\"model\":\"tiny\"}";
    let got = stage.app.ask("POST", CHAT, twice).await;
    assert_eq!(went(&got), (200, "m2", "model-only-there"));
    let mut client = stage.app.client().await;
    for encoding in ["zstd", "gzip"] {
        let headers = [("content-encoding", encoding)];
        let got = client
            .ask("POST", "/ollama/v1/responses", &headers, TINY)
            .await;
        assert_eq!(went(&got), (200, "m1", "active:default"), "{encoding}");
    }
    drop(client);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_passed_is_known_at_once() {
    let stage = knowing([&[], &[("tiny", "bb")]]).await;
    stage.macs.ollama[0].models(&[("tiny", "bb")]);
    let got = stage.app.ask("POST", "/ollama/api/pull", TINY).await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    stage.time.pass(Duration::from_secs(1)).await;
    told(&stage, 0, |models| models["models"][0]["digest"] == "bb").await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    stage.ends_clean().await;
}

/// What cannot be read says nothing, and costs nobody an answer.
#[tokio::test(start_paused = true)]
async fn lists_that_cannot_be_read_make_no_mac_lack_anything() {
    let large = [b"{\"models\":[\"".to_vec(), vec![b'x'; 9_000_000]].concat();
    let acts = [
        ("html", answer(200, &[], b"<html>")),
        ("error", answer(500, &[], b"{}")),
        ("large", answer(200, &[], &large)),
        (
            "cut",
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"mo"),
        ),
        ("silent", accept_then_silence()),
    ];
    for (what, act) in acts {
        let stage = stage("").await;
        stage.macs.ollama[0].lists(act);
        stage.macs.ollama[1].models(&[("tiny", "bb")]);
        stage.time.pass(A_WHILE).await;
        told(&stage, 1, |models| !models.is_null()).await;
        told(&stage, 0, Value::is_null).await;
        let got = stage.app.ask("POST", CHAT, TINY).await;
        assert_eq!(went(&got), (200, "m1", "active:default"), "{what}");
        stage.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_name_no_model_go_to_the_active_mac_as_they_came() {
    let stage = knowing([&[], &[("tiny", "bb")]]).await;
    let image = [b"{\"images\":[\"".to_vec(), vec![b'A'; 9_000_000]].concat();
    let last = [image, b"\"],\"model\":\"tiny\"}".to_vec()].concat();
    let bodies: [&[u8]; 5] = [b"", b"{}", b"no json", b"{\"model\":7}", &last];
    for body in bodies {
        let got = stage.app.ask("POST", CHAT, body).await;
        assert_eq!(went(&got), (200, "m1", "active:default"));
        let seen = stage.macs.ollama[0].seen();
        assert!(seen.last().unwrap().body == body);
    }
    // One that names it early is sent on as it comes, and still goes where the model is.
    let early = [
        b"{\"model\":\"tiny\",\"images\":[\"".to_vec(),
        vec![b'A'; 9_000_000],
    ]
    .concat();
    let got = stage.app.ask("POST", CHAT, &early).await;
    assert_eq!(went(&got), (200, "m2", "model-only-there"));
    assert!(stage.macs.ollama[1].seen()[0].body == early);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_names_its_model_all_the_same() {
    let stage = knowing([&[], &[("tiny", "bb")]]).await;
    let mut client = stage.app.client().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(head).await;
    for byte in TINY {
        client.send(format!("1\r\n{}\r\n", char::from(*byte))).await;
    }
    client.send("0\r\n\r\n").await;
    let got = client.coming("POST").await.whole().await;
    assert_eq!(went(&got), (200, "m2", "model-only-there"));
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_without_what_is_required_gets_no_reads_and_no_inference() {
    let require = "services.ollama.require.models = [\"tiny\"]";
    let stage = knowing_with([&[], &[("tiny", "bb")]], require).await;
    for (method, path) in [("GET", "/ollama/api/tags"), ("POST", CHAT)] {
        let got = stage.app.ask(method, path, b"").await;
        assert_eq!(went(&got), (200, "m2", "fallback:unready"), "{path}");
    }
    let got = stage.app.ask("POST", "/ollama/api/pull", TINY).await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    stage.macs.ollama[0].models(&[("tiny", "bb")]);
    stage.time.pass(A_WHILE).await;
    told(&stage, 0, |models| {
        models["models"][0]["name"] == "tiny:latest"
    })
    .await;
    let got = stage.app.ask("POST", CHAT, b"").await;
    assert_eq!(went(&got), (200, "m1", "active:default"));
    stage.ends_clean().await;
}

/// The switch is held by what the Mac told, and comes by itself when the model is there.
#[tokio::test(start_paused = true)]
async fn a_planned_switch_is_held_until_the_model_is_there() {
    let time = Held::hold();
    let macs = Macs::start().await;
    macs.ollama[0].models(&[("tiny", "aa")]);
    macs.ollama[1].models(&[]);
    let toml = macs.toml(
        "schedule = { default = \"m1\", switch = [{ at = 2025-02-17T00:00:00Z, to = \"m2\" }] }\n\
         services.ollama.require.models = [\"tiny\"]",
    );
    let clock = Clock::starting_at("2025-02-16T23:59:00Z".parse().unwrap());
    let app = App::start_with(&toml, &[], clock).await;
    let stage = Stage { app, macs, time };
    stage.time.pass(A_WHILE).await;
    for place in 0..2 {
        told(&stage, place, |models| !models.is_null()).await;
    }
    let status = stage.app.status().await;
    let next = &status["services"][0]["next_switch"];
    assert_eq!(next["lacks"], serde_json::json!(["tiny:latest"]));
    assert!(
        status["summary"][0]
            .as_str()
            .unwrap()
            .contains("which lacks tiny:latest")
    );
    stage.time.pass(Duration::from_mins(1)).await;
    for (method, path) in [
        ("POST", CHAT),
        ("GET", "/ollama/api/tags"),
        ("POST", "/ollama/api/copy"),
    ] {
        let got = stage.app.ask(method, path, TINY).await;
        assert_eq!(went(&got), (200, "m1", "active:held"), "{path}");
    }
    let held =
        |metrics: Metrics| metrics.sum("tailhop_schedule_switch_held", &[("service", "ollama")]);
    assert_eq!(held(stage.app.metrics().await), 1);
    let got = stage.app.ask("GET", "/qdrant/collections", b"").await;
    assert_eq!(went(&got), (200, "m2", "active:schedule"));
    stage.macs.ollama[1].models(&[("tiny", "aa")]);
    stage.time.pass(A_WHILE).await;
    told(&stage, 1, |models| {
        models["models"][0]["name"] == "tiny:latest"
    })
    .await;
    let got = stage.app.ask("POST", CHAT, TINY).await;
    assert_eq!(went(&got), (200, "m2", "active:schedule"));
    assert_eq!(held(stage.app.metrics().await), 0);
}

/// What a Mac has may be different after it was away, and after a freeze of ours.
#[tokio::test(start_paused = true)]
async fn a_mac_is_asked_for_its_models_at_once_when_it_woke_and_after_a_freeze() {
    let mut stage = knowing([&[("tiny", "aa")], &[]]).await;
    stage.macs.ollama[0].die().await;
    (stage.time)
        .run(stage.app.judged("ollama", "m1", "down"))
        .await;
    stage.macs.ollama[0].models(&[("tiny", "bb")]);
    stage.macs.ollama[0].listen().await;
    stage.time.run(stage.app.judged("ollama", "m1", "up")).await;
    let digest = |wanted: &'static str| {
        move |models: &Value| models["models"][0]["digest"].as_str() == Some(wanted)
    };
    let at_once = |took: Duration| assert!(took < Duration::from_secs(3), "{took:?}");
    let ((), took) = stage.time.run(told(&stage, 0, digest("bb"))).await;
    at_once(took);
    stage.time.pass(Duration::from_secs(2)).await;
    stage.macs.ollama[0].models(&[("tiny", "cc")]);
    stage.time.freeze(Duration::from_secs(5)).await;
    let ((), took) = stage.time.run(told(&stage, 0, digest("cc"))).await;
    at_once(took);
}
