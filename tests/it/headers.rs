//! Header fields through the whole product: which Host goes up, what tells of us, and how the
//! upstream's own addresses come back.

use crate::support::app::{Stage, stage};
use crate::support::upstream::answer;

/// A plain route each, and routes to the same Qdrant by every way of the Host.
const ROUTES: &str = r#"
timeouts.wait = "300ms"
routes = [
    { path = "/ollama", service = "ollama" },
    { path = "/qdrant", service = "qdrant" },
    { path = "/own", service = "qdrant", host = "preserve" },
    { path = "/raw", service = "qdrant", host = "preserve", strip = false },
    { path = "/named", service = "qdrant", host = "vectors.example:8080" },
]
"#;

async fn asked(stage: &Stage, target: &str, headers: &[(&str, &str)]) {
    let mut client = stage.app.client().await;
    client.ask("GET", target, headers, b"").await;
}

#[tokio::test(start_paused = true)]
async fn host_and_path_go_up_as_the_route_says() {
    let stage = stage(ROUTES).await;
    let place = stage.macs.qdrant[0].place().to_string();
    let rows = [
        ("/qdrant/a/", &*place, "/a/"),
        ("/qdrant//a", &place, "//a"),
        ("/own/a%2Fb", "app.example", "/a%2Fb"),
        ("/own", "app.example", "/"),
        ("/raw/a//b/?c", "app.example", "/raw/a//b/?c"),
        ("/raw", "app.example", "/raw"),
        ("/named/a+b", "vectors.example:8080", "/a+b"),
    ];
    for (target, host, sent) in rows {
        asked(&stage, target, &[]).await;
        let seen = stage.macs.qdrant[0].seen().pop().unwrap();
        assert_eq!(seen.head.get("host"), Some(host), "{target}");
        assert_eq!(seen.target(), sent, "{target}");
    }
    let mut client = stage.app.client().await;
    client.send("GET /own/old HTTP/1.0\r\n\r\n").await;
    client.rest().await;
    let seen = stage.macs.qdrant[0].seen().pop().unwrap();
    assert_eq!(
        (seen.target(), seen.head.get("host"), seen.head.get("via")),
        ("/old", Some(&*place), Some("1.0 tailhop")),
        "HTTP/1.0 needs no Host, what we write does"
    );
}

#[tokio::test(start_paused = true)]
async fn via_tells_of_us_both_ways_and_the_rest_is_as_the_app_wrote_it() {
    let stage = stage("").await;
    let told = [
        ("via", "1.1 google"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "app.example"),
        ("forwarded", "for=203.0.113.7"),
    ];
    let upstreams = [("via", "1.0 inner"), ("x-request-id", "the-upstreams")];
    for headers in [&told[..], &[]] {
        stage.macs.ollama[0].once(answer(200, &upstreams, b"{}"));
        let mut client = stage.app.client().await;
        let got = client.ask("GET", "/ollama/api/tags", headers, b"").await;
        assert_eq!(got.head.all("via"), ["1.0 inner", "1.1 tailhop"]);
        assert_ne!(got.head.get("x-request-id"), Some("the-upstreams"));
        let seen = stage.macs.ollama[0].seen().pop().unwrap();
        for (name, value) in told {
            let mut want = if headers.is_empty() {
                vec![]
            } else {
                vec![value]
            };
            want.extend((name == "via").then_some("1.1 tailhop"));
            assert_eq!(seen.head.all(name), want, "{name}");
        }
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_of_the_upstreams_own_come_back_as_the_client_must_write_them() {
    let stage = stage(ROUTES).await;
    let place = stage.macs.qdrant[0].place().to_string();
    let rows = [
        ("/qdrant/x", "/a?b#c", "/qdrant/a?b#c"),
        ("/qdrant/x", &*format!("http://{place}/a"), "/qdrant/a"),
        ("/qdrant/x", "http://app.example/a", "http://app.example/a"),
        ("/qdrant/x", "//evil/a", "//evil/a"),
        ("/qdrant/x", "a", "a"),
        ("/own/x", "/a", "/own/a"),
        ("/own/x", "http://app.example/a", "/own/a"),
        ("/raw/x", "/raw/a", "/raw/a"),
        (
            "/raw/x",
            "http://app.example/raw/a",
            "http://app.example/raw/a",
        ),
        ("/named/x", "http://vectors.example:8080/a", "/named/a"),
    ];
    for (target, said, want) in rows {
        let headers = [("location", said), ("content-location", said)];
        stage.macs.qdrant[0].once(answer(307, &headers, b""));
        let got = stage.app.get(target).await;
        assert_eq!(got.head.get("location"), Some(want), "{target} {said}");
        assert_eq!(got.head.get("content-location"), Some(want), "{target}");
    }
    let cookies = [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2; Path=/x; Domain=127.0.0.2"),
    ];
    stage.macs.qdrant[0].once(answer(200, &cookies, b""));
    let got = stage.app.get("/qdrant/x").await;
    assert_eq!(
        got.head.all("set-cookie"),
        ["a=1; Path=/qdrant", "b=2; Path=/qdrant/x"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_round_is_508_and_reaches_nobody() {
    let stage = stage("").await;
    let hops = ["1.1 tailhop, 1.0 tailhop", "1.1 tailhop"];
    for (more, status) in [(None, 200), (Some("1.1 tailhop"), 508)] {
        let headers: Vec<_> = (hops.into_iter().chain(more))
            .map(|hop| ("via", hop))
            .collect();
        let mut client = stage.app.client().await;
        let got = client.ask("GET", "/ollama/api/tags", &headers, b"").await;
        assert_eq!(got.status(), status);
        if status == 508 {
            assert_eq!(got.reason(), "loop");
            let proxy = got.head.get("proxy-status").unwrap();
            assert!(proxy.contains("error=proxy_loop_detected"), "{proxy}");
            let text = got.json()["error"].as_str().unwrap().to_owned();
            assert!(text.contains("leads back to tailhop"), "{text}");
        }
    }
    assert_eq!(stage.macs.ollama[0].seen().len(), 1);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_ours_carries_no_field_of_an_upstream() {
    let mut stage = stage("timeouts.wait = \"300ms\"").await;
    stage.macs.all_refuse(0).await;
    let theirs = [
        ("x-theirs", "1"),
        ("set-cookie", "a=1"),
        ("via", "1.1 inner"),
        ("server", "q"),
    ];
    stage.macs.qdrant[1].once(answer(404, &theirs, b"{}"));
    let got = stage.app.get("/qdrant/collections/c").await;
    assert_eq!((got.status(), got.reason()), (503, "data-missing"));
    for (name, _) in theirs {
        assert_eq!(got.head.get(name), None, "{name}");
    }
}
