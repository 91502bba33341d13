//! Services on addresses of their own: clients that take only host and port work unchanged.

use std::net::SocketAddr;

use tailhop::app::{App as Product, StartError};
use tailhop::config::Environment;
use tailhop::reload::Inputs;
use tailhop::reload::watch::Mode;
use tailhop::words::clock::Clock;

use crate::support::app::{App, Macs, Stage};
use crate::support::client::{Answer, Client};
use crate::support::time::{Held, really, soon};
use crate::support::upstream::answer;

/// The usual stage, with an address of its own for each service.
async fn stage(more: &str) -> (Stage, [SocketAddr; 2]) {
    let time = Held::hold();
    let macs = Macs::start().await;
    let own = "services.ollama.listen = \"127.0.0.1:0\"\nservices.qdrant.listen = \"127.0.0.1:0\"";
    let more = format!("schedule.default = \"m1\"\n{own}\n{more}");
    let app = App::start(&macs.toml(&more)).await;
    for (service, pair) in [("ollama", &macs.ollama), ("qdrant", &macs.qdrant)] {
        for (backend, upstream) in ["m1", "m2"].iter().zip(pair) {
            app.judged(service, backend, "up").await;
            upstream.all_closed().await;
        }
    }
    let own = ["ollama", "qdrant"].map(|service| app.port(service));
    (Stage { app, macs, time }, own)
}

async fn ask(place: SocketAddr, method: &str, target: &str, body: &[u8]) -> Answer {
    let mut client = Client::connect(place).await;
    client.ask(method, target, &[], body).await
}

#[tokio::test(start_paused = true)]
async fn a_service_is_at_the_root_of_its_own_address_byte_for_byte() {
    let (stage, [ollama, qdrant]) = stage("").await;
    let rows = [
        (ollama, "/", "/"),
        (ollama, "/api/tags", "/api/tags"),
        (ollama, "//api//tags", "/api/tags"),
        // A prefix of the main address is none here.
        (ollama, "/ollama/api/tags", "/ollama/api/tags"),
        (qdrant, "/", "/"),
        (qdrant, "/collections?x=%2F", "/collections?x=%2F"),
        (qdrant, "//collections/", "//collections/"),
    ];
    for (place, asked, _) in rows {
        let got = ask(place, "GET", asked, b"").await;
        assert_eq!((got.status(), got.backend()), (200, "m1"), "{asked}");
    }
    let seen = |upstream: &crate::support::upstream::Upstream| {
        let seen = upstream.seen();
        let targets = seen.iter().map(|request| request.target().to_owned());
        targets.collect::<Vec<_>>()
    };
    let want: Vec<_> = rows.iter().map(|(_, _, sent)| *sent).collect();
    assert_eq!(seen(&stage.macs.ollama[0]), want[..4]);
    assert_eq!(seen(&stage.macs.qdrant[0]), want[4..]);
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn errors_and_metrics_are_those_of_the_prefix() {
    let (mut stage, [ollama, qdrant]) = stage("").await;
    stage.macs.all_refuse(0).await;
    stage.macs.all_refuse(1).await;
    let app = &stage.app;
    let asked = [
        ("POST", ollama, "/api/chat", "/ollama/api/chat"),
        (
            "POST",
            ollama,
            "/v1/chat/completions",
            "/ollama/v1/chat/completions",
        ),
        ("GET", qdrant, "/collections", "/qdrant/collections"),
        (
            "PUT",
            qdrant,
            "/collections/c/points",
            "/qdrant/collections/c/points",
        ),
    ];
    for (method, own, short, long) in asked {
        let both = async {
            let (one, other) =
                tokio::join!(ask(own, method, short, b"{}"), app.ask(method, long, b"{}"));
            [one, other]
        };
        let ([one, other], _) = stage.time.run(both).await;
        assert_eq!((one.status(), one.reason()), (503, "refused"), "{short}");
        assert_eq!((other.status(), other.reason()), (503, "refused"), "{long}");
        let shape = |answer: &Answer| {
            let text = answer.text().to_owned();
            let (before, _) = text.split_once("Request ").unwrap();
            let retry = answer.head.get("retry-after").map(str::to_owned);
            (before.to_owned(), retry)
        };
        assert_eq!(shape(&one), shape(&other), "{short}");
    }
    let metrics = app.metrics().await;
    for service in ["ollama", "qdrant"] {
        let counted = metrics.samples(
            "tailhop_requests_total",
            &[("service", service), ("code_class", "5xx")],
        );
        // Two operations of each, both by both ways.
        let counts: Vec<_> = counted.iter().map(|(_, value)| *value).collect();
        assert!(counts.iter().sum::<f64>() >= 4.0, "{service}: {counts:?}");
        assert!(
            counts.iter().all(|count| *count >= 2.0),
            "{service}: {counts:?}"
        );
    }
    let paths: Vec<_> = app.lines().into_iter().map(|line| line.path).collect();
    assert!(paths.contains(&"/api/chat".into()) && paths.contains(&"/ollama/api/chat".into()));
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_passed_as_it_is() {
    let (stage, [_, qdrant]) = stage("").await;
    stage.macs.qdrant[0].always(answer(307, &[("location", "/dashboard/")], b""));
    let got = ask(qdrant, "GET", "/dashboard", b"").await;
    assert_eq!(got.head.get("location"), Some("/dashboard/"));
    let got = stage.app.get("/qdrant/dashboard").await;
    assert_eq!(got.head.get("location"), Some("/qdrant/dashboard/"));
}

#[tokio::test(start_paused = true)]
async fn an_address_stays_until_a_restart_and_leads_nowhere_without_its_service() {
    let (stage, [ollama, qdrant]) = stage("").await;
    let app = &stage.app;
    let generation = async |wanted: u64| {
        soon(async {
            while app.status().await["config"]["generation"] != wanted {
                stage.time.pass(std::time::Duration::from_millis(50)).await;
                really(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    };
    app.edit(|text| text.replace("services.qdrant.listen = \"127.0.0.1:0\"\n", ""));
    generation(2).await;
    assert_eq!(ask(qdrant, "GET", "/collections", b"").await.status(), 200);
    app.edit(|text| {
        let lines = text
            .lines()
            .filter(|line| !line.contains("services.ollama"));
        lines.collect::<Vec<_>>().join("\n")
    });
    generation(3).await;
    let got = ask(ollama, "GET", "/api/tags", b"").await;
    assert_eq!((got.status(), got.reason()), (404, "no-route"));
    assert_eq!(ask(qdrant, "GET", "/collections", b"").await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_where_each_service_is() {
    let (stage, [..]) = stage("").await;
    let status = stage.app.status().await;
    assert_eq!(status["services"][0]["listen"], "127.0.0.1:0");
    assert_eq!(status["services"][0]["routes"][0], "/ollama");
    stage.ends_clean().await;
}

#[tokio::test]
async fn an_address_that_is_taken_stops_the_start_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let truth = folder.path().join("routing.toml");
    let text = format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         backends.m1 = {{}}\nservices.qdrant.listen = \"{address}\"\n"
    );
    std::fs::write(&truth, text).unwrap();
    let inputs = Inputs {
        truth,
        stand_in: None,
        environment: Environment::default(),
        mode: Mode::Poll,
    };
    match Product::build(inputs, Clock::system(), "one".to_owned()).await {
        Err(StartError::Listen {
            key, address: at, ..
        }) => {
            assert_eq!((key.as_str(), at), ("services.qdrant.listen", address));
        }
        Ok(_) => panic!("it started"),
        Err(error) => panic!("{error:?}"),
    }
}
