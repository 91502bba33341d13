//! Why a Mac is silent: each row of the table of evidence, end to end, and how often the tunnel is
//! repaired.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use crate::rescue::{Tailnet, tailnet};
use crate::support::app::App;
use crate::support::client::Client;
use crate::support::http::Piece;
use crate::support::time::soon;
use crate::support::upstream::{Gate, accept_then_silence, answer, gated};

const WRITE: &str = "/qdrant/collections/c/points";
const READ: &str = "/qdrant/collections";
const CHAT: &str = "/ollama/api/chat";
const DIALS: &str = "tailhop_connects_total";
const SECOND: Duration = Duration::from_secs(1);

/// What `/status` says of an endpoint: its verdict, and on what it rests.
pub(crate) async fn evidence(app: &App, service: &str, backend: &str) -> (String, String) {
    let status = app.status().await;
    let named = |list: &Value, name: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|one| one["name"] == name).cloned().unwrap()
    };
    let backend = named(&named(&status["services"], service)["backends"], backend);
    let word = |key: &str| backend[key].as_str().unwrap().to_owned();
    (word("verdict"), word("evidence"))
}

pub(crate) fn rests(verdict: &str, on: &str) -> (String, String) {
    (verdict.to_owned(), on.to_owned())
}

impl Tailnet {
    /// Waits until a verdict rests on this.
    async fn found(&self, backend: &str, verdict: &str, on: &str) {
        let want = rests(verdict, on);
        let wait = async { while evidence(&self.app, "qdrant", backend).await != want {} };
        self.time.run(soon(wait)).await;
    }

    pub(crate) async fn counted(&self, family: &str, labels: &[(&str, &str)]) -> usize {
        self.app.metrics().await.sum(family, labels)
    }

    /// A chat that m1 has, and for which it has no answer until the gate opens.
    async fn chat(&self, gate: &Gate) -> Client {
        self.ollama[0].once(answer(200, &[], b"{}").behind(gate));
        let mut client = self.app.client().await;
        client.request("POST", CHAT, &[], b"{}").await;
        self.ollama[0].requests(1).await;
        client
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_down_and_asks_nothing_of_tailscaled() {
    let mut net = tailnet("").await;
    net.qdrant[0].refuse().await;
    let (got, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
    assert!(took < SECOND / 4, "{took:?}");
    let now = evidence(&net.app, "qdrant", "m1").await;
    assert_eq!(now, rests("down", "refused"));
    net.time.pass(3 * SECOND).await;
    assert_eq!((net.fake.pinged().len(), net.fake.repairs().len()), (0, 0));
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_path_is_rebound_and_costs_a_blink() {
    let net = tailnet("").await;
    net.fake.direct("m1");
    net.time.pass(6 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.fake.path_lost("m1");
    let asked = async { tokio::join!(net.app.get(READ), net.app.ask("PUT", WRITE, b"{}")) };
    let ((read, write), took) = net.time.run(asked).await;
    assert_eq!(read.status(), 200);
    assert_eq!(
        (write.status(), write.backend()),
        (200, "m1"),
        "{}",
        write.text()
    );
    assert!(took < SECOND, "{took:?}");
    assert_eq!(net.fake.repairs(), ["rebind"]);
    net.found("m1", "up", "answered").await;
    gate.pass();
    let chat = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await
        .0;
    assert_eq!((chat.status(), chat.backend()), (200, "m1"), "it stayed");
    let found = [("backend", "m1"), ("finding", "path-lost")];
    assert_eq!(
        net.counted("tailhop_tunnel_inquiries_total", &found).await,
        1
    );
    let made = [("repair", "rebind"), ("result", "made")];
    assert_eq!(net.counted("tailhop_tunnel_repairs_total", &made).await, 1);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_path_that_the_mac_still_trusts_is_suspect_and_never_asleep() {
    let net = tailnet("").await;
    net.fake.direct("m1");
    net.time.pass(6 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.fake.path_lost_there("m1");
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND / 2, "{took:?}");
    net.found("m1", "suspect", "path-lost").await;
    let found = async {
        sleep(3 * SECOND).await;
        net.fake.path_found("m1");
    };
    let asked = async { tokio::join!(net.app.ask("PUT", WRITE, b"{}"), found) };
    let ((write, ()), took) = net.time.run(asked).await;
    assert_eq!(
        (write.status(), write.backend()),
        (200, "m1"),
        "{}",
        write.text()
    );
    assert!(took < 4 * SECOND, "{took:?}");
    gate.pass();
    let chat = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await
        .0;
    assert_eq!((chat.status(), chat.backend()), (200, "m1"), "it stayed");
    let asleep = [("backend", "m1"), ("finding", "asleep")];
    assert_eq!(
        net.counted("tailhop_tunnel_inquiries_total", &asleep).await,
        0
    );
    assert!(!net.fake.repairs().contains(&"break-derp-conns".to_owned()));
    assert_eq!(net.qdrant[1].seen().len(), 1, "the read alone");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_relay_is_repaired_once_for_all_and_nothing_fails() {
    let net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.fake.relay_dead();
    let asked = async {
        tokio::join!(
            net.app.get(READ),
            net.app.ask("PUT", WRITE, b"{}"),
            net.app.get("/ollama/api/ps"),
        )
    };
    let ((read, write, other), took) = net.time.run(asked).await;
    for got in [&read, &write, &other] {
        assert_eq!(got.status(), 200, "{}", got.text());
    }
    assert_eq!(write.backend(), "m1");
    assert!(took < SECOND * 5 / 4, "{took:?}");
    net.found("m1", "up", "answered").await;
    net.found("m2", "up", "answered").await;
    // Dials that are still stuck in what was repaired cast no doubt on what answers by now.
    for _ in 0..50 {
        let (got, _) = net.time.run(net.app.get(READ)).await;
        assert_eq!((got.status(), got.backend()), (200, "m1"));
        net.time.pass(SECOND / 10).await;
    }
    assert_eq!(net.fake.repairs(), ["break-derp-conns"]);
    gate.pass();
    let chat = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await
        .0;
    assert_eq!((chat.status(), chat.backend()), (200, "m1"), "it stayed");
    // Whose inquiry comes first is a matter of milliseconds; the other one may find it repaired.
    let found = [("finding", "relay-repaired")];
    let found = net.counted("tailhop_tunnel_inquiries_total", &found).await;
    assert!((1..=2).contains(&found), "{found}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_that_answers_no_ping_also_after_a_repair_is_asleep() {
    let net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.fake.silence("m1");
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND / 2, "{took:?}");
    let (chat, took) = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await;
    assert_eq!((chat.status(), chat.backend()), (200, "m2"), "rescued");
    assert!(took < 3 * SECOND, "{took:?}");
    for service in ["ollama", "qdrant"] {
        let now = evidence(&net.app, service, "m1").await;
        assert_eq!(now, rests("asleep", "ping-silent"), "{service}");
    }
    net.time.pass_long(120 * SECOND).await;
    let repairs = net.fake.repairs();
    assert!(repairs.len() <= 1, "{repairs:?}: m2 proves the relay");
    assert_eq!(net.fake.pinged().len(), 4, "two, and two after a minute");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_of_another_mac_over_the_relay_spare_it_the_repair() {
    let more = "pin = [{ to = \"m2\", services = [\"ollama\"], writes = true }]";
    let net = tailnet(more).await;
    net.time.pass(6 * SECOND).await;
    net.fake.silence("m1");
    // Bytes of m2 come all the while.
    let busy = async {
        loop {
            assert_eq!(net.app.get("/ollama/api/ps").await.backend(), "m2");
            sleep(SECOND / 10).await;
        }
    };
    let asleep = net.app.judged("qdrant", "m1", "asleep");
    let found = async {
        tokio::select! {
            () = busy => {}
            (read, ()) = async { tokio::join!(net.app.get(READ), asleep) } => {
                assert_eq!(read.backend(), "m2");
            }
        }
    };
    net.time.run(Box::pin(found)).await;
    net.found("m1", "asleep", "ping-silent").await;
    assert_eq!(net.fake.repairs(), [""; 0]);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_silent_on_a_mac_that_is_awake_is_suspect_alone() {
    let mut net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    net.qdrant[0].close_connections().await;
    net.qdrant[0].black_hole().await;
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND / 2, "{took:?}");
    net.found("m1", "suspect", "port-silent").await;
    net.time.pass(20 * SECOND).await;
    assert_eq!(evidence(&net.app, "qdrant", "m1").await.0, "suspect");
    assert_eq!(net.app.get("/ollama/api/ps").await.backend(), "m1");
    assert_eq!(net.fake.repairs(), [""; 0]);
    drop(net);
}

/// Without the right to repair: silence alone decides, and slowly.
async fn two_silent_probes_are_sleep(net: Tailnet, most_repairs: usize) {
    // So that what is heard of it proves nothing of the relay.
    net.fake.direct("m2");
    net.time.pass(6 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.fake.silence("m1");
    let rescued = net
        .time
        .run(async { chat.coming("POST").await.whole().await });
    let (chat, took) = rescued.await;
    assert_eq!((chat.status(), chat.backend()), (200, "m2"));
    assert!((10 * SECOND..16 * SECOND).contains(&took), "{took:?}");
    let now = evidence(&net.app, "ollama", "m1").await;
    assert_eq!(now, rests("asleep", "probes-silent"));
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND, "{took:?}");
    net.time.pass_long(60 * SECOND).await;
    assert!(
        net.fake.repairs().len() <= most_repairs,
        "{:?}",
        net.fake.repairs()
    );
    net.fake.wake("m1");
    let ((), took) = net.time.run(net.app.judged("ollama", "m1", "up")).await;
    assert!(took < 11 * SECOND, "{took:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn where_repairs_are_switched_off_silence_is_the_evidence() {
    let net = tailnet("tailnet.repair = false").await;
    two_silent_probes_are_sleep(net, 0).await;
}

#[tokio::test(start_paused = true)]
async fn where_debug_is_forbidden_silence_is_the_evidence() {
    let net = tailnet("").await;
    net.fake.forbid_debug();
    two_silent_probes_are_sleep(net, 1).await;
}

#[tokio::test(start_paused = true)]
async fn where_debug_is_not_built_in_silence_is_the_evidence() {
    let net = tailnet("").await;
    net.fake.no_debug();
    two_silent_probes_are_sleep(net, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_night_in_which_all_macs_sleep_costs_a_handful_of_repairs() {
    let net = tailnet("").await;
    net.fake.silence("m1");
    net.fake.silence("m2");
    net.time.pass_hours(Duration::from_hours(8)).await;
    for backend in ["m1", "m2"] {
        let now = evidence(&net.app, "qdrant", backend).await;
        assert_eq!(now, rests("asleep", "ping-silent"), "{backend}");
    }
    // One when they fell asleep, and one for both at each look: after a minute, two, four, .. two
    // hours.
    let (repairs, pinged) = (net.fake.repairs(), net.fake.pinged().len());
    assert!((5..=13).contains(&repairs.len()), "{repairs:?}");
    assert!(pinged <= 48, "{pinged}");
    let status = net.app.status().await;
    assert_eq!(status["tailnet"]["state"], "up", "no reason to restart it");
    net.fake.wake("m1");
    let ((), took) = net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    assert!(took < 11 * SECOND, "{took:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_dies_again_and_again_is_repaired_at_a_rate_that_backs_off() {
    let net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    for _ in 0..120 {
        net.fake.relay_dead();
        net.time.pass(SECOND).await;
    }
    let times = net.fake.repair_times();
    assert!(
        (4..=14).contains(&times.len()),
        "{} in two minutes",
        times.len()
    );
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= SECOND, "{:?}", pair[1] - pair[0]);
    }
    net.fake.relay_back();
    let ((), took) = net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    assert!(took < 15 * SECOND, "{took:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn pings_that_hang_do_not_hold_a_read_up() {
    let net = tailnet("").await;
    net.fake.hang_ping();
    net.time.pass(6 * SECOND).await;
    net.fake.silence("m1");
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND / 2, "{took:?}");
    net.fake.wake("m1");
    let (write, _) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!((write.status(), write.backend()), (200, "m1"));
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_tailscaled_that_dies_of_a_repair_is_waited_for() {
    let mut net = tailnet("timeouts.start = \"10s\"").await;
    net.time.pass(6 * SECOND).await;
    net.fake.die_in_repair();
    net.fake.relay_dead();
    let again = async {
        sleep(3 * SECOND).await;
        net.fake.begin().await;
        net.fake.relay_back();
    };
    let app = &net.app;
    let asked = async { tokio::join!(app.get(READ), app.ask("PUT", WRITE, b"{}"), again) };
    let ((read, write, ()), took) = net.time.run(asked).await;
    assert_eq!(read.status(), 200, "{}", read.text());
    assert_eq!(
        (write.status(), write.backend()),
        (200, "m1"),
        "{}",
        write.text()
    );
    assert!(took < 7 * SECOND, "{took:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_takes_long_delays_neither_requests_nor_evidence() {
    let net = tailnet("").await;
    net.fake.slow_status(SECOND * 19 / 10);
    net.time.pass(12 * SECOND).await;
    net.fake.silence("m1");
    let (read, took) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND / 2, "{took:?}");
    net.found("m1", "asleep", "ping-silent").await;
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_was_sent_leaves_at_suspect_and_inference_does_not() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.qdrant[0].always(accept_then_silence());
    let mut reader = net.app.client().await;
    reader.request("GET", READ, &[], b"").await;
    net.qdrant[0].requests(1).await;
    net.fake.silence("m1");
    let (read, took) = net
        .time
        .run(async { reader.coming("GET").await.whole().await })
        .await;
    assert_eq!((read.status(), read.backend()), (200, "m2"));
    assert!(took < SECOND * 3 / 2, "{took:?}");
    net.fake.wake("m1");
    net.time.pass(5 * SECOND).await;
    gate.pass();
    let chat = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await
        .0;
    assert_eq!(
        (chat.status(), chat.backend()),
        (200, "m1"),
        "one lost packet moves nothing"
    );
    assert_eq!(net.ollama[1].seen().len(), 0);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_loads_for_minutes_on_a_live_mac_is_left_alone() {
    let net = tailnet("").await;
    let gate = Gate::closed();
    let mut chat = net.chat(&gate).await;
    net.time.pass_long(8 * 60 * SECOND).await;
    gate.pass();
    let chat = net
        .time
        .run(async { chat.coming("POST").await.whole().await })
        .await
        .0;
    assert_eq!((chat.status(), chat.backend()), (200, "m1"));
    assert_eq!(
        (net.ollama[0].seen().len(), net.ollama[1].seen().len()),
        (1, 0)
    );
    assert_eq!((net.fake.pinged().len(), net.fake.repairs().len()), (0, 0));
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_answered_dial_ends_a_doubt_and_its_sibling_is_probed_at_once() {
    let net = tailnet("").await;
    net.fake.silence("m1");
    net.time.pass_long(60 * SECOND).await;
    assert_eq!(net.app.verdict("ollama", "m1").await, "asleep");
    net.fake.wake("m1");
    let got = net.app.ask("POST", "/ollama/api/pull", b"{}").await;
    assert_eq!((got.status(), got.backend()), (200, "m1"));
    assert_eq!(net.app.verdict("ollama", "m1").await, "up");
    let ((), took) = net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    assert!(took <= SECOND, "{took:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_that_flaps_is_held_down_for_a_while_and_never_for_writes() {
    let mut net = tailnet("").await;
    for _ in 0..4 {
        net.qdrant[0].refuse().await;
        net.time.run(net.app.judged("qdrant", "m1", "down")).await;
        net.qdrant[0].listen().await;
        let back = async {
            while net.app.verdict("qdrant", "m1").await == "down" {
                crate::support::time::really(Duration::from_millis(1)).await;
            }
        };
        net.time.run(soon(back)).await;
    }
    assert_eq!(net.app.verdict("qdrant", "m1").await, "returning");
    assert_eq!(net.app.get(READ).await.backend(), "m2");
    let write = net.app.ask("PUT", WRITE, b"{}").await;
    assert_eq!((write.status(), write.backend()), (200, "m1"));
    let ((), took) = net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    assert!(took < 32 * SECOND, "{took:?}");
    assert_eq!(net.app.get(READ).await.backend(), "m1");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_outlives_its_requester_warms_the_pool() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    net.fake.silence("m1");
    let (read, _) = net.time.run(net.app.get(READ)).await;
    assert_eq!(read.backend(), "m2");
    net.fake.wake("m1");
    let idle = [("service", "qdrant"), ("backend", "m1")];
    let warm = async { while net.counted("tailhop_pool_connections", &idle).await == 0 {} };
    net.time.run(soon(warm)).await;
    // Those of requests; probes are not counted there.
    let dials = [("backend", "m1")];
    let before = net.counted(DIALS, &dials).await;
    let write = net.app.ask("PUT", WRITE, b"{}").await;
    assert_eq!((write.status(), write.backend()), (200, "m1"));
    let now = net.counted(DIALS, &dials).await;
    assert_eq!(now, before, "it went on a connection that was there");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_mac_whose_bytes_still_come_is_not_asleep_however_silent_its_ports() {
    let mut net = tailnet("tailnet.repair = false").await;
    let gate = Gate::closed();
    net.ollama[0].once(gated(&[b"{}\n".as_slice(); 30], &gate));
    let mut client = net.app.client().await;
    client.request("POST", CHAT, &[], b"{}").await;
    let mut stream = client.coming("POST").await;
    net.ollama[0].black_hole().await;
    net.qdrant[0].black_hole().await;
    for _ in 0..30 {
        gate.pass();
        assert_eq!(stream.piece().await, Piece::Data(b"{}\n".to_vec()));
        assert_ne!(net.app.verdict("ollama", "m1").await, "asleep");
        net.time.pass(SECOND).await;
    }
    gate.pass();
    assert!(stream.whole().await.whole);
    // Nor when they end: it answers pings.
    net.found("m1", "suspect", "port-silent").await;
    drop(net);
}

#[tokio::test(start_paused = true)]
async fn macs_that_woke_behind_a_relay_that_died_meanwhile_are_found_without_a_thaw() {
    let net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    net.fake.silence("m1");
    net.fake.silence("m2");
    net.found("m1", "asleep", "ping-silent").await;
    net.found("m2", "asleep", "ping-silent").await;
    net.fake.relay_dead();
    net.fake.wake("m1");
    net.fake.wake("m2");
    net.time.pass_long(30 * SECOND).await;
    assert_eq!(evidence(&net.app, "qdrant", "m1").await.0, "asleep");
    net.time.pass_long(35 * SECOND).await;
    for backend in ["m1", "m2"] {
        let ((), took) = net.time.run(net.app.judged("qdrant", backend, "up")).await;
        assert!(took < 5 * SECOND, "{backend} {took:?}");
    }
    let repairs = net.fake.repairs();
    assert!(repairs.len() <= 3, "{repairs:?}");
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_dies_again_at_once_is_repaired_as_soon_as_the_rate_allows() {
    let net = tailnet("timeouts.wait = \"8s\"").await;
    // m2 has no part in it: a repair for one machine is one for all.
    net.fake.direct("m2");
    net.time.pass(6 * SECOND).await;
    for _ in 0..2 {
        net.fake.relay_dead();
        let (write, _) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
        let said = (write.status(), write.backend());
        assert_eq!(said, (200, "m1"), "{}", write.text());
    }
    let times = net.fake.repair_times();
    assert_eq!(times.len(), 2, "{times:?}");
    let apart = times[1] - times[0];
    assert!(
        (5 * SECOND..SECOND * 11 / 2).contains(&apart),
        "{apart:?}: each kind every 5 s a machine"
    );
    net.found("m1", "up", "answered").await;
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn repairs_that_a_reload_allows_are_made_and_those_it_forbids_are_not() {
    let net = tailnet("tailnet.repair = false").await;
    net.time.pass(6 * SECOND).await;
    let switch = async |from: &str, to: &str| {
        let before = net.app.status().await["config"]["generation"].clone();
        let line = |allowed: &str| format!("tailnet.repair = {allowed}");
        net.app.edit(|text| text.replace(&line(from), &line(to)));
        let taken = async {
            while net.app.status().await["config"]["generation"] == before {
                sleep(SECOND / 20).await;
            }
        };
        net.time.run(taken).await;
    };
    net.fake.relay_dead();
    let (read, _) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), net.fake.repairs().len()), (503, 0));
    switch("false", "true").await;
    let ((), _) = net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    assert_eq!(net.fake.repairs(), ["break-derp-conns"]);
    switch("true", "false").await;
    net.fake.relay_dead();
    let (read, _) = net.time.run(net.app.get(READ)).await;
    assert_eq!((read.status(), net.fake.repairs().len()), (503, 1));
    net.fake.relay_back();
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_localapi_that_is_dead_makes_the_tunnel_repairing_until_it_answers() {
    let net = tailnet("").await;
    net.fake.hang_status(true);
    let state = async |want: &str| {
        let wait = async {
            while net.app.status().await["tailnet"]["state"] != want {
                sleep(SECOND / 20).await;
            }
        };
        net.time.run(wait).await.1
    };
    let took = state("repairing").await;
    assert!((15 * SECOND..25 * SECOND).contains(&took), "{took:?}");
    let held = [("state", "repairing")];
    assert_eq!(net.counted("tailhop_tunnel_state", &held).await, 1);
    net.fake.hang_status(false);
    assert!(state("up").await < 5 * SECOND);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stays_down_after_a_repair_makes_the_tunnel_repairing() {
    const COMPLAINT: &str = "Tailscale could not connect to any relay server. Check your Internet \
                             connection.";
    let net = tailnet("").await;
    let state = async || {
        net.app.status().await["tailnet"]["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    net.fake.complain(&[COMPLAINT]);
    net.time.pass(60 * SECOND).await;
    assert_eq!(state().await, "up", "nothing was repaired yet");
    net.fake.silence("m1");
    net.fake.silence("m2");
    net.found("m1", "asleep", "ping-silent").await;
    assert_eq!(net.fake.repairs().len(), 1);
    net.time.pass(20 * SECOND).await;
    assert_eq!(state().await, "up");
    net.time.pass(12 * SECOND).await;
    assert_eq!(state().await, "repairing");
    net.fake.complain(&[]);
    net.time.pass(10 * SECOND).await;
    assert_eq!(state().await, "up");
    net.ends_clean().await;
}
