//! What the app sees when the tunnel's own parts go away, when tailscaled does not let itself be
//! repaired, and when no Mac answers for long: answers within their bounds, a handful of repairs.

use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep};

use super::client;
use super::faults::{bounded, ms, report, writes_answered_or_refused};
use super::hop::{DATA, Hop, Routing};
use super::mix::{self, Mix, NOTHING, Sort, Took, USUAL};
use super::node::CONTROL;
use super::noise::{Times, timed};
use super::rig::on_rig;

/// Before a fault, so that everything is as usual.
const USUALLY: Duration = ms(1500);

#[test]
fn relay_restarted_control_gone_tailscaled_killed_what_the_app_saw() {
    timed(async |rig, times| {
        let host = rig.cr.host.clone();
        host.lose(&["meta l4proto udp"]).expect("nftables works");
        rig.until_relayed().await;
        let hop = Hop::start(rig, &Routing::default()).await;

        let relay = under_load(async || {
            restart_relay(ms(500)).await;
            sleep(ms(4000)).await;
        });
        let took = relay.await;
        report(&hop, &took, "relay restarted, gone for 0.5 s").await;
        took.check_writes(&rig.mac1, &rig.mac2);
        answered_but_for_waits(times, &took, &hop);

        let port = CONTROL.rsplit_once(':').expect("an address").1;
        let control = under_load(async || {
            let hub = rig.hub();
            hub.reject_incoming(&format!("tcp dport {port}"))
                .expect("nftables works");
            sleep(ms(3000)).await;
        });
        let took = control.await;
        report(&hop, &took, "control server gone").await;
        took.check_writes(&rig.mac1, &rig.mac2);
        for sort in [Sort::Read, Sort::Inference, Sort::Write] {
            bounded(times, &took, sort, (ms(1000), ms(500)), &hop);
        }
    });
}

#[test]
fn tailscaled_killed_and_back_after_two_seconds_what_the_app_saw() {
    timed(async |rig, times| {
        let hop = Hop::start(rig, &Routing::default()).await;
        let load = USUAL.start("m1");
        sleep(USUALLY).await;
        rig.cr.kill();
        sleep(ms(2000)).await;
        rig.cr.start().await;
        sleep(ms(4000)).await;
        let took = load.end().await;
        report(&hop, &took, "tailscaled killed, back after 2 s").await;
        took.check_writes(&rig.mac1, &rig.mac2);
        answered_but_for_waits(times, &took, &hop);
    });
}

#[test]
fn while_no_mac_answers_answers_keep_their_bounds_and_repairs_are_few() {
    let seconds = std::env::var("TAILHOP_RIG_SILENT").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(12);
    timed(async |rig, times| {
        let hop = Hop::start(rig, &Routing::default()).await;
        let before = hop.holds();
        let load = USUAL.start("m1");
        sleep(USUALLY).await;
        rig.m1.freeze().await;
        rig.m2.freeze().await;
        sleep(Duration::from_secs(seconds)).await;
        let during = hop.holds();
        rig.m1.thaw();
        rig.m2.thaw();
        let woke = Instant::now();
        while client::get(DATA, "/ollama/api/version")
            .await
            .is_ok_and(|got| got.status != 200)
        {
            assert!(woke.elapsed() < ms(10_000), "not back\n{hop}");
        }
        let back = woke.elapsed();
        let took = load.end().await;
        let repairs = hop.metric("tailhop_tunnel_repairs_total{", "made").await;
        let title = format!(
            "all Macs silent for {seconds} s: back {back:?} after they woke; descriptors and KiB \
             {before:?}, then {during:?}"
        );
        report(&hop, &took, &title).await;
        took.check_writes(&rig.mac1, &rig.mac2);
        writes_answered_or_refused(times, &took, &hop);
        for sort in [Sort::Read, Sort::Inference] {
            times.hold(took.numbers(sort).slowest, ms(18_000), took.late, || {
                format!("{sort:?}{}\n{hop}", took.worst(sort))
            });
        }
        assert!(repairs <= 6.0, "{repairs} repairs\n{hop}");
        assert!(
            during.0 < before.0 + 16 * 4 + 700,
            "descriptors {during:?}\n{hop}"
        );
        assert!(during.1 < before.1 + 16 * 1024, "memory {during:?}\n{hop}");
    });
}

#[test]
fn a_mac_that_flaps_every_three_seconds_fails_no_read() {
    timed(async |rig, times| {
        let hop = Hop::start(rig, &Routing::default()).await;
        let load = USUAL.start("m2");
        sleep(USUALLY).await;
        for _ in 0..2 {
            rig.m1.freeze().await;
            sleep(ms(3000)).await;
            rig.m1.thaw();
            sleep(ms(3000)).await;
        }
        let took = load.end().await;
        report(
            &hop,
            &took,
            "a Mac that sleeps and wakes every 3 s (curl asks the other one)",
        )
        .await;
        took.check_writes(&rig.mac1, &rig.mac2);
        writes_answered_or_refused(times, &took, &hop);
        bounded(times, &took, Sort::Read, (ms(900), ms(900)), &hop);
        bounded(times, &took, Sort::Inference, (ms(3000), ms(3000)), &hop);
    });
}

#[test]
fn a_mac_that_accepts_and_never_answers_keeps_its_inference() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        let load = Mix {
            reads: 20,
            ..NOTHING
        };
        let load = load.start("m1");
        sleep(USUALLY).await;
        rig.mac1.hold(Some(Method::GET));
        rig.mac1.load(true);
        let chat = mix::chat("large");
        let waiting = async { client::send(DATA, Method::POST, "/ollama/api/chat", &chat).await };
        let release = async {
            sleep(ms(5000)).await;
            rig.mac1.hold(None);
            rig.mac1.load(false);
        };
        let (answer, ()) = tokio::join!(waiting, release);
        let took = load.end().await;
        report(&hop, &took, "a Mac that accepts and never answers GET").await;
        let answer = answer.unwrap_or_else(|why| panic!("{}\n{hop}", why.0));
        assert_eq!(
            (answer.status.as_u16(), answer.mac()),
            (200, "m1"),
            "it stays\n{hop}"
        );
        assert_eq!(rig.mac2.seen_large(&Method::POST), 0, "sent to one Mac");
        let made = hop.metric("tailhop_tunnel_repairs_total{", "made").await;
        assert!(made < 1.0, "nothing is wrong with the tunnel\n{hop}");
    });
}

#[test]
fn where_tailscaled_refuses_repairs_a_sleeping_mac_is_told_by_its_silence() {
    timed(async |rig, times| {
        let routing = Routing {
            user: Some(65_534),
            ..Routing::default()
        };
        // Bytes from the other Mac over the relay would prove that the relay lives.
        for name in ["m1", "m2"] {
            rig.until_direct(name).await;
        }
        let hop = Hop::start(rig, &routing).await;
        let load = USUAL.start("m1");
        sleep(USUALLY).await;
        rig.mac1.load(true);
        let chat = tokio::spawn(async {
            let body = mix::chat("large");
            client::send(DATA, Method::POST, "/ollama/api/chat", &body).await
        });
        sleep(ms(500)).await;
        rig.m1.freeze().await;
        let slept = Instant::now();
        let chat = chat.await.expect("it runs");
        let moved = slept.elapsed();
        let chat = chat.unwrap_or_else(|why| panic!("{}\n{hop}", why.0));
        let verdict = hop.verdict("ollama", "macbook-m1").await;
        rig.m1.thaw();
        sleep(ms(1500)).await;
        let took = load.end().await;
        let refused = hop.metric("tailhop_tunnel_repairs_total{", "refused").await;
        let title = format!(
            "Mac asleep, tailscaled refuses repairs ({refused} asked): verdict {verdict:?}, waiting \
             chat answered by {} after {moved:?}",
            chat.mac()
        );
        report(&hop, &took, &title).await;
        took.check_writes(&rig.mac1, &rig.mac2);
        writes_answered_or_refused(times, &took, &hop);
        bounded(times, &took, Sort::Read, (ms(600), ms(300)), &hop);
        assert_eq!((chat.status.as_u16(), chat.mac()), (200, "m2"), "{hop}");
        assert!(moved > ms(9000), "too little evidence: {moved:?}\n{hop}");
        times.hold(moved, ms(16_000), took.late, || {
            format!("the rescue\n{hop}")
        });
        assert_eq!(verdict.0, "asleep", "{hop}");
        assert!(refused >= 1.0, "{hop}");
    });
}

/// The usual load while `fault` happens.
async fn under_load(fault: impl AsyncFnOnce()) -> Took {
    let load = USUAL.start("m1");
    sleep(USUALLY).await;
    fault().await;
    load.end().await
}

/// Nothing but answers and 503 after the patience that their kind has, and no inference fails.
fn answered_but_for_waits(times: &Times, took: &Took, hop: &Hop) {
    writes_answered_or_refused(times, took, hop);
    let inference = took.numbers(Sort::Inference);
    assert_eq!(
        inference.failed,
        0,
        "{inference}{}\n{hop}",
        took.worst(Sort::Inference)
    );
    for read in took.of(Sort::Read).filter(|read| read.failed()) {
        let waited = read.elapsed > ms(3500) && read.status() == Some(503);
        assert!(waited, "{read:?}\n{hop}");
    }
}

/// Ends every connection of the relay, and lets it come back after `pause`.
pub(crate) async fn restart_relay(pause: Duration) {
    let to = CONTROL.parse().expect("an address");
    let path = format!("/rig/restart-relay?pause={}ms", pause.as_millis());
    let answer = client::send(to, Method::POST, &path, "").await;
    let answer = answer.unwrap_or_else(|why| panic!("{}", why.0));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
