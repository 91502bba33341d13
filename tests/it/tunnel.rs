//! What requests make of a tailscaled that starts, stops, is logged out, or comes back elsewhere.

use std::time::Duration;

use tokio::time::sleep;

use crate::rescue::{machines, tailnet};
use crate::support::app::{App, behind};
use crate::support::tailscaled::Tailscaled;
use crate::support::time::Held;

const WRITE: &str = "/qdrant/collections/c/points";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_tailscaled_is_answered_when_it_appears_within_start() {
    let time = Held::hold();
    // The second row: a tailscaled that is starting has `start`, not `wait`.
    for timeouts in ["", "timeouts = { wait = \"1s\", start = \"10s\" }"] {
        let mut fake = Tailscaled::absent();
        let _macs = machines(&fake).await;
        let app = App::start(&behind(
            &fake,
            &format!("schedule.default = \"m1\"\n{timeouts}"),
        ))
        .await;
        let asked = async {
            tokio::join!(
                app.get("/ollama/api/tags"),
                app.ask("PUT", WRITE, b"{}"),
                async {
                    sleep(2 * SECOND).await;
                    fake.begin().await;
                }
            )
        };
        let ((read, write, ()), took) = time.run(asked).await;
        assert_eq!(
            (read.status(), read.backend()),
            (200, "m1"),
            "{timeouts} {}",
            read.text()
        );
        assert_eq!(
            (write.status(), write.backend()),
            (200, "m1"),
            "{timeouts} {}",
            write.text()
        );
        assert!(took < 4 * SECOND, "{timeouts} {took:?}");
        app.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tailscaled_that_never_appears_costs_start_and_is_named_with_its_remedy() {
    let time = Held::hold();
    let fake = Tailscaled::absent();
    let app = App::start(&behind(&fake, "schedule.default = \"m1\"")).await;
    let (got, took) = time.run(app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!(
        (got.status(), got.reason()),
        (503, "daemon-absent"),
        "{}",
        got.text()
    );
    assert!((3 * SECOND..SECOND * 9 / 2).contains(&took), "{took:?}");
    for part in ["Nothing was sent", "Start tailscaled", "tailnet.socket"] {
        assert!(
            got.text().contains(part),
            "{part:?} is not in {}",
            got.text()
        );
    }
    assert!(got.head.get("retry-after").is_some());
    let status = app.status().await;
    assert_eq!(status["tailnet"]["state"], "starting");
    assert_eq!(app.admin("GET", "/health").await.status(), 503);
    assert_eq!(app.admin("GET", "/live").await.status(), 200);
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_tailscaled_that_waits_for_an_operator_is_named_with_its_remedy() {
    for (state, remedy) in [("NeedsLogin", "tailscale up"), ("Stopped", "tailscale up")] {
        let net = tailnet("timeouts.wait = \"2s\"").await;
        net.fake.backend_state(state);
        net.time.run(off(&net.app)).await;
        let (got, took) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
        assert_eq!(
            (got.status(), got.reason()),
            (503, "not-logged-in"),
            "{state} {}",
            got.text()
        );
        assert!(took <= 2 * SECOND, "{state} {took:?}");
        assert!(
            got.text().contains(state) || got.text().contains(remedy),
            "{}",
            got.text()
        );
        net.fake.backend_state("Running");
        let (got, _) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
        assert_eq!(got.status(), 200, "{state} {}", got.text());
    }
}

async fn off(app: &App) {
    while app.status().await["tailnet"]["state"] != "off" {
        sleep(SECOND / 4).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tailscaled_that_restarts_with_another_address_serves_again_by_itself() {
    let mut net = tailnet("").await;
    assert_eq!(net.app.get("/qdrant/collections").await.status(), 200);
    net.fake.stop().await;
    let restarted = async {
        sleep(SECOND).await;
        net.fake.restart_elsewhere().await;
    };
    let app = &net.app;
    let asked = async {
        tokio::join!(
            app.get("/qdrant/collections"),
            app.ask("PUT", WRITE, b"{}"),
            restarted
        )
    };
    let ((read, write, ()), _) = net.time.run(asked).await;
    assert_eq!(
        (read.status(), write.status()),
        (200, 200),
        "{} {}",
        read.text(),
        write.text()
    );
    assert_eq!(
        net.qdrant[0]
            .seen()
            .iter()
            .filter(|seen| seen.method() == "PUT")
            .count(),
        1
    );
    assert_eq!(
        net.app.verdict("qdrant", "m1").await,
        "up",
        "the tunnel's trouble is no Mac's"
    );
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_when_tailscaled_died_is_repeated_only_if_it_changes_nothing() {
    use crate::support::upstream::accept_then_silence;
    let mut net = tailnet("").await;
    net.qdrant[0].once(accept_then_silence());
    net.qdrant[0].once(accept_then_silence());
    let (mut reader, mut writer) = (net.app.client().await, net.app.client().await);
    writer.request("PUT", WRITE, &[], b"{}").await;
    reader.request("GET", "/qdrant/collections", &[], b"").await;
    net.qdrant[0].requests(2).await;
    let restarted = async {
        net.fake.stop().await;
        sleep(SECOND).await;
        net.fake.begin().await;
    };
    let asked = async {
        tokio::join!(
            async { reader.coming("GET").await.whole().await },
            async { writer.coming("PUT").await.whole().await },
            restarted,
        )
    };
    let ((read, write, ()), _) = net.time.run(asked).await;
    assert_eq!(
        (read.status(), write.status()),
        (200, 504),
        "{} {}",
        read.text(),
        write.text()
    );
    assert_eq!(write.reason(), "outcome-unknown");
    net.ends_clean().await;
}
