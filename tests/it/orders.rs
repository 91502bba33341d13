//! Orders over HTTP, reloads that are asked for, the history, events.

use std::time::Duration;

use serde_json::{Value, json};
use tailhop::words::clock::Clock;

use crate::support::app::{App, LOCAL, Macs};
use crate::support::client::Client;
use crate::support::http::Piece;
use crate::support::log;
use crate::support::time::{Held, really, soon};
use crate::support::upstream::any_carries;

const TOKEN: &str = "canary-orders-0123456789";
const MORE: &str = "# ours\nschedule.default = \"m1\" # by day\nadmin.tokens.ann = { secret = { env = \"TOKEN\" }, scope = \"orders\" }";

async fn start(environment: &[(&str, &str)]) -> (App, Macs) {
    let macs = Macs::start().await;
    let all = [&[("TOKEN", TOKEN)], environment].concat();
    let app = App::start_with(&macs.toml(MORE), &all, Clock::system()).await;
    for backend in ["m1", "m2"] {
        app.judged("ollama", backend, "up").await;
        app.judged("qdrant", backend, "up").await;
    }
    (app, macs)
}

fn text(app: &App) -> String {
    std::fs::read_to_string(app.file()).unwrap()
}

#[tokio::test]
async fn an_order_is_in_the_file_and_holds_when_it_is_answered() {
    let (app, _macs) = start(&[]).await;
    let before = text(&app);
    let order = async |target: &str, body: &str| {
        let got = app.order(target, TOKEN, body).await;
        assert_eq!(got.status(), 200, "{target}: {}", got.text());
        got.json()
    };
    let pin = r#"{"backend":"m2","for":"2h","reason":"m1 gets an update"}"#;
    let told = order("/pin", pin).await;
    assert_eq!(told["result"], "applied");
    assert_eq!(told["generation"], 2);
    let changed = told["changes"][0].as_str().unwrap();
    assert!(changed.starts_with("a new pin to m2 until "), "{changed}");
    assert!(
        changed.ends_with("by \"ann\" (\"m1 gets an update\")"),
        "{changed}"
    );
    let summary = told["summary"][0].as_str().unwrap();
    assert!(
        summary.starts_with("ollama: m2 is active (pinned by ann until"),
        "{summary}"
    );
    assert!(text(&app).starts_with(&before), "comments and order stay");
    let chat = app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!((chat.backend(), chat.reason()), ("m2", "active:pin"));
    let write = app.ask("PUT", "/qdrant/collections/c/points", b"{}").await;
    assert_eq!(write.backend(), "m1", "writes move only with `writes`");

    let writes = r#"{"backend":"m2","reason":"for good","writes":true}"#;
    let told = order("/pin", writes).await;
    assert_eq!(told["notes"][0], "replaces the pin to m2 by ann");
    let write = app.ask("PUT", "/qdrant/collections/c/points", b"{}").await;
    assert_eq!(write.backend(), "m2");

    order("/unpin", "{}").await;
    assert_eq!(text(&app), before, "nothing of it is left");
    order("/drain", r#"{"backend":"m1","for":"30m"}"#).await;
    let chat = app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!((chat.backend(), chat.reason()), ("m2", "fallback:drained"));
    order("/undrain", r#"{"backend":"m1"}"#).await;
    assert_eq!(app.status().await["orders"], json!([]));
    app.stop().await;
}

#[tokio::test]
async fn writes_that_a_pin_holds_are_refused_at_once_and_nothing_is_sent() {
    let (app, macs) = start(&[]).await;
    let hold =
        r#"{"backend":"m1","for":"2h","reason":"moved","hold-writes":true,"services":["qdrant"]}"#;
    let told = app.order("/pin", TOKEN, hold).await.json();
    assert_eq!(told["result"], "applied", "{told}");
    let summary = told["summary"][1].as_str().unwrap();
    assert!(summary.contains("; writes are refused: "), "{summary}");
    for (method, path) in [
        ("PUT", "/qdrant/collections/c/points"),
        ("POST", "/qdrant/collections/c/points/delete"),
        ("DELETE", "/qdrant/collections/c"),
    ] {
        let got = app.ask(method, path, b"{}").await;
        assert_eq!(got.status(), 503, "{method} {path}");
        assert!(got.head.get("retry-after").is_some());
        assert!(got.text().contains("a pin holds writes"), "{}", got.text());
    }
    for mac in &macs.qdrant {
        assert!(!any_carries(&mac.seen(), "/collections/c"));
    }
    let read = app.ask("POST", "/qdrant/collections/c/points/scroll", b"{}");
    assert_eq!(read.await.backend(), "m1");
    let pull = app.ask("POST", "/ollama/api/pull", b"{}").await;
    assert_eq!(pull.status(), 200, "no data service");
    app.order("/unpin", TOKEN, "{}").await;
    let write = app.ask("PUT", "/qdrant/collections/c/points", b"{}").await;
    assert_eq!((write.status(), write.backend()), (200, "m1"));
    app.stop().await;
}

#[tokio::test]
async fn who_decided_on_an_older_file_is_told_what_was_done_meanwhile() {
    let (app, _macs) = start(&[]).await;
    let seen = app.status().await["config"]["hash"].clone();
    let order = async |backend: &str, base: &Value| {
        let body = json!({"backend": backend, "for": "1h", "reason": "x", "base": base});
        app.order("/pin", TOKEN, &body.to_string()).await
    };
    assert_eq!(order("m2", &seen).await.status(), 200);
    let second = order("m1", &seen).await;
    assert_eq!(second.status(), 409, "{}", second.text());
    let told = second.json();
    assert_eq!(told["result"], "stale");
    assert!(
        told["changes"][0].as_str().unwrap().contains("by \"ann\""),
        "{told}"
    );
    // Somebody's editor, which nobody was told of yet.
    let seen = app.status().await["config"]["hash"].clone();
    let port = "services.ollama.port";
    let edited = format!("services.ollama.fallback = \"none\"\n{port}");
    app.edit_in_place(|text| text.replace(port, &edited));
    let third = order("m1", &seen).await.json();
    assert_eq!(
        third["changes"],
        json!(["route /ollama: nothing may fall back any more"])
    );
    app.stop().await;
}

#[tokio::test]
async fn who_asks_for_the_status_is_told_whether_they_may_give_orders() {
    let (app, _macs) = start(&[]).await;
    let here = app.status().await["you"].clone();
    assert_eq!(
        (&here["may_order"], &here["token"]),
        (&json!(false), &json!(true))
    );
    assert!(
        here["why"].as_str().unwrap().contains("present a token"),
        "{here}"
    );
    let mut client = Client::connect(app.admin).await;
    let token = [LOCAL, ("x-tailhop-token", TOKEN)];
    let ann = client.ask("GET", "/status", &token, b"").await.json();
    let may = json!({"may_order": true, "name": "ann", "token": true, "why": null});
    assert_eq!(ann["you"], may);
    app.stop().await;
}

#[tokio::test]
async fn a_reload_answers_with_what_is_different_or_with_the_problems() {
    let (app, _macs) = start(&[]).await;
    let reload = async || app.order("/reload", TOKEN, "").await;
    assert_eq!(reload().await.json()["result"], "unchanged");
    app.edit_in_place(|text| text + "services.qdrant.fallback = \"none\"\n");
    let told = reload().await;
    assert_eq!(
        (told.status(), &told.json()["result"]),
        (200, &json!("applied"))
    );
    assert_eq!(
        told.json()["changes"],
        json!(["route /qdrant: nothing may fall back any more"])
    );
    let good = text(&app);
    app.edit_in_place(|text| text + "nonsense = 1\n");
    let told = reload().await;
    assert_eq!(
        (told.status(), &told.json()["result"]),
        (422, &json!("invalid"))
    );
    assert_eq!(told.json()["details"][0]["code"], "E011");
    let pin = r#"{"backend":"m2","for":"1h","reason":"x"}"#;
    let refused = app.order("/pin", TOKEN, pin).await;
    assert_eq!(
        (refused.status(), &refused.json()["result"]),
        (422, &json!("invalid"))
    );
    assert!(text(&app).ends_with("nonsense = 1\n"));
    app.edit_in_place(|_| good);
    assert_eq!(reload().await.json()["result"], "unchanged");
    app.stop().await;
}

#[tokio::test]
async fn an_order_that_active_backend_beats_says_so() {
    let (app, _macs) = start(&[("ACTIVE_BACKEND", "m1")]).await;
    let pin = r#"{"backend":"m2","for":"1h","reason":"x"}"#;
    let told = app.order("/pin", TOKEN, pin).await.json();
    let note = told["notes"][0].as_str().unwrap();
    assert!(
        note.starts_with("ACTIVE_BACKEND=m1 beats every pin"),
        "{told}"
    );
    let orders = app.status().await["orders"].clone();
    assert_eq!(orders[0]["kind"], "active-backend");
    assert_eq!(orders[1]["kind"], "pin");
    app.stop().await;
}

async fn until_told(app: &App, kind: &str, to: &str) -> Value {
    soon(async {
        loop {
            let status = app.status().await;
            let history = status["history"].as_array().unwrap().clone();
            let mut found = history
                .iter()
                .filter(|one| one["kind"] == kind && one["to"] == to);
            if let Some(found) = found.next() {
                return found.clone();
            }
            really(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_history_tells_who_changed_what_and_why_and_so_do_log_and_metrics() {
    let (app, mut macs) = start(&[]).await;
    log::listen();
    let pin = r#"{"backend":"m2","for":"1h","reason":"m1 is slow","services":["ollama"]}"#;
    assert_eq!(app.order("/pin", TOKEN, pin).await.status(), 200);
    let told = until_told(&app, "active", "m2").await;
    for (field, value) in [
        ("service", "ollama"),
        ("from", "m1"),
        ("cause", "pin"),
        ("by", "ann"),
        ("reason", "m1 is slow"),
        ("text", "active ollama: m1 -> m2 (pin by ann): m1 is slow"),
    ] {
        assert_eq!(told[field], value, "{told}");
    }
    assert_eq!(app.get("/qdrant/collections").await.backend(), "m1");
    until_told(&app, "serving", "m1").await;
    macs.qdrant[0].die().await;
    assert_eq!(app.get("/qdrant/collections").await.backend(), "m2");
    until_told(&app, "serving", "m1, m2").await;
    assert_eq!(
        app.order("/drain", TOKEN, r#"{"backend":"m2"}"#)
            .await
            .status(),
        200
    );
    until_told(&app, "drain", "drained").await;
    assert_eq!(
        app.order("/undrain", TOKEN, r#"{"backend":"m2"}"#)
            .await
            .status(),
        200
    );
    assert_eq!(until_told(&app, "drain", "").await["cause"], "taken-back");
    let heard = log::heard();
    let line = heard
        .lines()
        .find(|line| line.contains("active backend changed"));
    let line = line.unwrap();
    for word in [
        "from=m1",
        "to=m2",
        "cause=\"pin\"",
        "by=\"ann\"",
        "m1 is slow",
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let metrics = app.metrics().await;
    let labels = [("service", "ollama"), ("cause", "pin")];
    assert_eq!(metrics.sum("tailhop_switches_total", &labels), 1);
    assert!(metrics.sum("tailhop_serving_changes_total", &[("service", "qdrant")]) >= 2);
    app.stop().await;
}

#[tokio::test]
async fn events_tell_of_each_change_and_their_listeners_are_bounded() {
    let (app, mut macs) = start(&[]).await;
    let mut listeners = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(app.admin).await;
        client.request("GET", "/events", &[LOCAL], b"").await;
        listeners.push(client);
    }
    let mut coming = listeners[0].coming("GET").await;
    assert_eq!(coming.head.get("content-type"), Some("text/event-stream"));
    let mut heard = String::new();
    let hears =
        async |coming: &mut crate::support::client::Coming<'_>, heard: &mut String, words: &str| {
            while !heard.contains(words) {
                match coming.piece().await {
                    Piece::Data(data) => heard.push_str(std::str::from_utf8(&data).unwrap()),
                    end => panic!("{end:?} before {words}: {heard}"),
                }
            }
        };
    hears(&mut coming, &mut heard, "event: hello\ndata: {").await;
    let pin = r#"{"backend":"m2","for":"1h","reason":"x"}"#;
    assert_eq!(app.order("/pin", TOKEN, pin).await.status(), 200);
    hears(
        &mut coming,
        &mut heard,
        "\"text\":\"active ollama: m1 -> m2 (pin by ann): x\"",
    )
    .await;
    hears(&mut coming, &mut heard, "\"kind\":\"config\"").await;
    macs.qdrant[1].die().await;
    app.get("/qdrant/collections").await;
    hears(&mut coming, &mut heard, "\"kind\":\"verdict\"").await;
    // Those before it are accepted by now.
    for listener in &mut listeners[1..] {
        assert_eq!(listener.coming("GET").await.head.word(1), "200");
    }
    assert_eq!(app.admin("GET", "/events").await.status(), 503);
    assert_eq!(app.status().await["config"]["generation"], 2);
    drop(listeners);
    soon(async {
        loop {
            let mut client = Client::connect(app.admin).await;
            client.request("GET", "/events", &[LOCAL], b"").await;
            if client.coming("GET").await.head.word(1) == "200" {
                return;
            }
        }
    })
    .await;
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_listener_hears_a_beat() {
    let time = Held::hold();
    let macs = Macs::start().await;
    let app = App::start(&macs.toml("schedule.default = \"m1\"")).await;
    let mut client = Client::connect(app.admin).await;
    client.request("GET", "/events", &[LOCAL], b"").await;
    let mut coming = client.coming("GET").await;
    let beat = async {
        loop {
            if let Piece::Data(data) = coming.piece().await
                && data == b": beat\n\n"
            {
                return;
            }
        }
    };
    let ((), took) = time.run(beat).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn status_tells_how_services_did_lately_and_what_comes() {
    let (app, _macs) = start(&[]).await;
    for _ in 0..20 {
        app.get("/ollama/api/tags").await;
    }
    let status = app.status().await;
    let recent = &status["services"][0]["recent"];
    assert_eq!(
        (&recent["requests"], &recent["errors"]),
        (&json!(20), &json!(0))
    );
    assert!(recent["total"]["p50"].as_f64().unwrap() < 1.0, "{recent}");
    assert_eq!(status["timeline"], json!([]));
    let pin = r#"{"backend":"m2","until":"2099-01-01","reason":"x"}"#;
    assert_eq!(app.order("/pin", TOKEN, pin).await.status(), 200);
    let status = app.status().await;
    let coming = &status["timeline"][0];
    assert_eq!(coming["text"], "ollama: m2 -> m1 (default)");
    assert!(status["orders"][0]["seconds_left"].as_u64() > Some(86_400));
    app.stop().await;
}
