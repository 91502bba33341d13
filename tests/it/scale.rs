//! A large configuration, and many reloads: correctness. What they cost is measured by
//! `benches/side_by_side`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::app::{App, Macs};
use crate::support::client::Client;
use crate::support::time::{really, soon};

const ROUTES: usize = 1000;
const BACKENDS: usize = 100;

/// Both machines and 98 more, which nobody answers for; 998 routes and the two usual ones.
fn large(macs: &Macs) -> String {
    let mut text = macs.toml("schedule.default = \"m1\"");
    for number in 3..=BACKENDS {
        text += &format!("backends.m{number}.host = \"127.0.1.{number}\"\n");
    }
    for number in 0..ROUTES - 2 {
        let service = ["ollama", "qdrant"][number % 2];
        text += &format!("[[routes]]\npath = \"/team-{number}\"\nservice = \"{service}\"\n");
    }
    for service in ["ollama", "qdrant"] {
        text += &format!("[[routes]]\npath = \"/{service}\"\nservice = \"{service}\"\n");
    }
    text
}

#[tokio::test]
async fn each_of_a_thousand_routes_leads_where_it_says() {
    let macs = Macs::start().await;
    let app = App::start(&large(&macs)).await;
    let mut client = app.client().await;
    // Where the numbers get longer a prefix of bytes would be another's: `/team-9` and `/team-99`.
    for number in (0..ROUTES - 2).filter(|n| n % 37 == 0 || [9, 10, 99, 100, 997].contains(n)) {
        let upstream = [&macs.ollama[0], &macs.qdrant[0]][number % 2];
        let before = upstream.counts().requests;
        let target = format!("/team-{number}/collections");
        let got = client.ask("GET", &target, &[], b"").await;
        assert_eq!((got.status(), got.backend()), (200, "m1"), "{target}");
        assert!(upstream.counts().requests > before, "{target}");
    }
    for stranger in ["/team-998/x", "/team-1x", "/team-", "/teams"] {
        let got = client.ask("GET", stranger, &[], b"").await;
        assert_eq!(got.reason(), "no-route", "{stranger}");
    }
    app.stop().await;
}

/// Asks over and over on one connection; how many were answered well, and the first that was not.
async fn load(data: std::net::SocketAddr, ends: Arc<AtomicBool>) -> Result<usize, String> {
    let mut client = Client::connect(data).await;
    let mut answered = 0;
    while !ends.load(Ordering::Relaxed) {
        let got = client.ask("GET", "/qdrant/collections", &[], b"").await;
        if got.status() != 200 || !got.whole {
            return Err(format!("{}{}", got.head.text, got.text()));
        }
        answered += 1;
    }
    Ok(answered)
}

/// Asks until `backend` is the active one.
async fn until_active(client: &mut Client, backend: &str) {
    soon(async {
        loop {
            let got = client.ask("GET", "/qdrant/collections", &[], b"").await;
            if got.backend() == backend {
                return;
            }
            really(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_thousand_reloads_under_load_fail_no_request() {
    let macs = Macs::start().await;
    let app = App::start(&macs.toml("schedule.default = \"m1\"")).await;
    let ends = Arc::new(AtomicBool::new(false));
    let mut loads = JoinSet::new();
    for _ in 0..2 {
        loads.spawn(load(app.data, Arc::clone(&ends)));
    }
    let mut client = app.client().await;
    for edit in 0..1000 {
        let [from, to] = if edit % 2 == 0 {
            ["m1", "m2"]
        } else {
            ["m2", "m1"]
        };
        app.edit(|text| {
            text.replace(
                &format!("default = \"{from}\""),
                &format!("default = \"{to}\""),
            )
        });
        until_active(&mut client, to).await;
    }
    ends.store(true, Ordering::Relaxed);
    for answered in loads.join_all().await {
        assert!(answered.unwrap() > 1000);
    }
    let metrics = app.metrics().await;
    assert_eq!(
        metrics.sum("tailhop_config_reloads_total", &[("result", "applied")]),
        1001
    );
    app.stop().await;
}
