//! The token of the data listeners: who may ask, and what becomes of the token.

use std::time::Duration;

use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs};
use crate::support::client::Client;
use crate::support::time::{really, soon};

const TOKEN: &str = "canary-3141592653";
const HEADER: &str = "x-tailhop-token";

/// The app with a token, and the machines that it leads to.
async fn stage(kept: &str) -> (App, Macs) {
    let macs = Macs::start().await;
    let toml = macs
        .toml("schedule.default = \"m1\"\nservices.qdrant.listen = \"127.0.0.1:0\"")
        .replace(
            "admin = \"127.0.0.1:0\" }",
            &format!("admin = \"127.0.0.1:0\", token = {kept} }}"),
        );
    let app = App::start_with(&toml, &[("TOKEN", TOKEN)], Clock::system()).await;
    for (service, backend) in [("ollama", "m1"), ("qdrant", "m1")] {
        app.judged(service, backend, "up").await;
    }
    (app, macs)
}

const BY_ENV: &str = "{ env = \"TOKEN\" }";

#[tokio::test]
async fn without_the_token_nobody_is_asked_and_the_answer_is_in_the_services_words() {
    let (app, macs) = stage(BY_ENV).await;
    for (target, wrong) in [
        ("/ollama/api/chat", "error"),
        ("/ollama/v1/chat/completions", "error"),
        ("/qdrant/collections", "status"),
        ("/nowhere", "error"),
    ] {
        for headers in [
            &[][..],
            &[(HEADER, "wrong")],
            &[("authorization", "Bearer wrong")],
            &[("authorization", TOKEN)],
            &[(HEADER, "")],
        ] {
            let mut client = app.client().await;
            let got = client.ask("POST", target, headers, b"{}").await;
            assert_eq!(
                (got.status(), got.reason()),
                (401, "unauthorized"),
                "{target}"
            );
            assert_eq!(
                got.head.get("www-authenticate"),
                Some("Bearer realm=\"tailhop\"")
            );
            let said = got.json();
            assert!(!said[wrong].is_null(), "{target}: {said}");
            assert!(said.to_string().contains("x-tailhop-token"), "{said}");
            assert!(
                !said.to_string().contains("/ollama,"),
                "strangers are told no routes"
            );
        }
    }
    let openai = app
        .ask("POST", "/ollama/v1/chat/completions", b"{}")
        .await
        .json();
    assert_eq!(openai["error"]["type"], "authentication_error");
    for upstream in macs.ollama.iter().chain(&macs.qdrant) {
        assert_eq!(upstream.seen().len(), 0);
    }
    let metrics = app.metrics().await;
    let refused = [("service", "qdrant"), ("reason", "unauthorized")];
    assert!(metrics.sum("tailhop_requests_refused_total", &refused) >= 5);
    app.stop().await;
}

#[tokio::test]
async fn the_answer_comes_before_the_body_is_read() {
    let (app, _macs) = stage(BY_ENV).await;
    for more in [
        "content-length: 1000000\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        let mut client = app.client().await;
        let head = format!("POST /ollama/api/chat HTTP/1.1\r\nhost: x\r\n{more}\r\n");
        client.send(head).await;
        assert_eq!(client.coming("POST").await.head.word(1), "401");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_token_goes_no_further_and_what_is_the_services_does() {
    let (app, macs) = stage(BY_ENV).await;
    let bearer = format!("Bearer {TOKEN}");
    let rows = [
        (
            "/ollama/api/tags",
            &[("authorization", bearer.as_str())][..],
            None,
            None,
        ),
        ("/ollama/api/tags", &[(HEADER, TOKEN)], None, None),
        (
            "/ollama/api/tags",
            &[(HEADER, TOKEN), ("authorization", "Bearer theirs")],
            Some("Bearer theirs"),
            None,
        ),
        ("/qdrant/collections", &[("api-key", TOKEN)], None, None),
        (
            "/qdrant/collections",
            &[(HEADER, TOKEN), ("api-key", "theirs")],
            None,
            Some("theirs"),
        ),
    ];
    for (target, headers, authorization, key) in rows {
        let mut client = app.client().await;
        assert_eq!(
            client.ask("GET", target, headers, b"").await.status(),
            200,
            "{headers:?}"
        );
        let asked = if target.starts_with("/ollama") {
            &macs.ollama[0]
        } else {
            &macs.qdrant[0]
        };
        let seen = asked.seen().pop().unwrap().head;
        assert!(!seen.text.contains(TOKEN), "{}", seen.text);
        assert!(seen.get(HEADER).is_none());
        assert_eq!(
            (seen.get("authorization"), seen.get("api-key")),
            (authorization, key)
        );
    }
    assert!(!format!("{:?}", app.lines()).contains(TOKEN));
    for page in ["/status", "/metrics", "/health"] {
        assert!(!app.admin("GET", page).await.text().contains(TOKEN));
    }
    app.stop().await;
}

#[tokio::test]
async fn a_services_own_address_asks_for_it_too_and_the_admin_address_does_not() {
    let (app, _macs) = stage(BY_ENV).await;
    let mut own = Client::connect(app.port("qdrant")).await;
    assert_eq!(own.ask("GET", "/collections", &[], b"").await.status(), 401);
    let mut own = Client::connect(app.port("qdrant")).await;
    assert_eq!(
        own.ask("GET", "/collections", &[("api-key", TOKEN)], b"")
            .await
            .status(),
        200
    );
    assert_eq!(app.admin("GET", "/live").await.status(), 200);
    app.stop().await;
}

#[tokio::test]
async fn a_new_token_holds_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "first").unwrap();
    let (app, _macs) = stage(&format!("{{ file = \"{}\" }}", file.display())).await;
    let status = async |token: &str| {
        let mut client = app.client().await;
        client
            .ask("GET", "/ollama/api/tags", &[(HEADER, token)], b"")
            .await
            .status()
    };
    assert_eq!((status("first").await, status("second").await), (200, 401));
    std::fs::write(&file, "second").unwrap();
    soon(async {
        while status("second").await != 200 {
            really(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(status("first").await, 401);
    app.stop().await;
}
