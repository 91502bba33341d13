//! The real thing: two "Macs" and one "container" on a real tailnet, with real faults.
//!
//! See README.md beside this file for what it needs and how to run it. Every test here runs as
//! the app would: on a thread inside the container, with tailhop on 127.0.0.1:8484.

mod admin;
mod check;
mod client;
mod container;
mod cost;
mod dial;
mod direct;
mod faults;
mod hop;
#[path = "../container/image.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests/container uses the rest, and its tests fail by it"
)]
mod image;
mod janitor;
mod load;
mod mac;
mod mix;
mod net;
mod node;
mod noise;
mod parts;
mod process;
mod python;
mod rig;
mod soak;
mod supervise;
mod trap;
mod tunnel;
mod wait;

use std::time::Duration;

use http::Method;
use jiff::ToSpan;

use client::Piece;
use hop::{DATA, Hop, Routing};
use load::{Asked, Load};
use mac::{CHAT_GAP, CHAT_PIECES};
use noise::{Watch, timed};
use parts::tell;
use rig::{PROXY, on_rig};
use trap::Trap;
use wait::eventually;

const CHAT: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;
const UPSERT: &str = r#"{"points":[{"id":1,"vector":[0.1,0.2,0.3,0.4]}]}"#;
const POINTS: &str = "/qdrant/collections/c/points";

#[test]
fn the_rig_itself_carries_http_between_two_macs() {
    on_rig(async |rig| {
        for name in ["m1", "m2"] {
            let by_localapi = dial::localapi(&rig.cr.socket(), name, mac::OLLAMA).await;
            let by_socks5 = dial::socks5(PROXY, name, mac::QDRANT).await;
            let version = client::get_over(by_localapi.expect("a dial"), "/api/version").await;
            let ready = client::get_over(by_socks5.expect("a dial"), "/readyz").await;
            for answer in [version, ready] {
                let answer = answer.expect("an answer");
                assert_eq!((answer.status.as_u16(), answer.mac()), (200, name));
            }
        }
    });
}

#[test]
fn the_rig_itself_breaks_and_mends() {
    on_rig(async |rig| {
        rig.mac1.switch_off().await;
        let refused = dial::localapi(&rig.cr.socket(), "m1", mac::OLLAMA).await;
        let why = refused.expect_err("a closed port").to_string();
        assert!(
            why.starts_with("HTTP/1.1 502"),
            "a closed port is a refusal: {why}"
        );
        rig.mac1.switch_on().await;
        rig.until_reachable("m1").await;

        let host = rig.m1.host.clone();
        host.link(false).expect("the link goes down");
        assert!(!rig.answers("m1").await, "the link is down");
        host.link(true).expect("the link comes up");
        rig.until_reachable("m1").await;

        host.drop_outgoing("ip daddr 10.77.0.0/24")
            .expect("nftables works");
        assert!(!rig.answers("m1").await, "its packets are dropped");
        host.pass_all().expect("nftables works");
        rig.until_reachable("m1").await;

        rig.m1.freeze().await;
        assert!(!rig.answers("m1").await, "its tailscaled is stopped");
        assert!(rig.answers("m2").await, "the other Mac does not notice");
    });
}

#[test]
fn dial_way_localapi_carries_a_stream() {
    a_stream_arrives_piecewise_by("localapi", "localapi");
}

#[test]
fn dial_way_http_connect_carries_a_stream() {
    a_stream_arrives_piecewise_by("http-connect", "http-connect");
}

#[test]
fn dial_way_socks5_carries_a_stream() {
    a_stream_arrives_piecewise_by("socks5", "socks5");
}

#[test]
fn dial_way_auto_carries_a_stream() {
    a_stream_arrives_piecewise_by("auto", "localapi");
}

fn a_stream_arrives_piecewise_by(dial: &'static str, way: &str) {
    timed(async |rig, times| {
        let routing = Routing {
            dial,
            ..Routing::default()
        };
        let hop = Hop::start(rig, &routing).await;
        let watch = Watch::start();
        let answer = client::send_for_pieces(DATA, Method::POST, "/ollama/api/chat", CHAT).await;
        let (answer, pieces) = answer.unwrap_or_else(|why| panic!("{}\n{hop}", why.0));
        assert_eq!((answer.status.as_u16(), answer.mac()), (200, "m1"), "{hop}");

        let lines = pieces
            .iter()
            .filter(|piece| piece.bytes.ends_with(b"\n"))
            .count();
        assert_eq!(lines, CHAT_PIECES, "each line came as a piece: {pieces:?}");
        // A busy machine may be late with one piece; a buffer is late with all but the last.
        let apart = |pair: &&[Piece]| pair[1].at.saturating_sub(pair[0].at) > CHAT_GAP / 2;
        let apart = pieces.windows(2).filter(apart).count();
        times.check(apart >= 3, CHAT_GAP, watch.worst(), || {
            format!("held back and sent together: {pieces:?}")
        });
        let status = hop.status().await;
        assert_eq!(
            status["tailnet"]["way"], way,
            "/status names the way: {status}"
        );
    });
}

#[test]
fn active_macs_tailscaled_stopped_reads_and_inference_go_to_the_other() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        assert_eq!(
            hop.get("/ollama/api/version").await.mac(),
            "m1",
            "the active Mac answers"
        );

        rig.m1.freeze().await;
        let read = hop.get("/ollama/api/version").await;
        let inference = hop.send(Method::POST, "/ollama/api/chat", CHAT).await;
        for (what, answer) in [("read", read), ("inference", inference)] {
            tell(&format!(
                "active Mac stopped: {what} answered after {:?}",
                answer.elapsed
            ));
            assert_eq!(
                (answer.status.as_u16(), answer.mac()),
                (200, "m2"),
                "{what}\n{hop}"
            );
            assert!(
                answer.elapsed < Duration::from_secs(10),
                "{what}: {:?}",
                answer.elapsed
            );
        }
    });
}

#[test]
fn active_macs_tailscaled_stopped_an_unsent_write_gets_503_within_4_5_s_naming_the_reason() {
    timed(async |rig, times| {
        let watch = Watch::start();
        let hop = Hop::start(rig, &Routing::default()).await;
        rig.m1.freeze().await;
        let answer = hop.send(Method::PUT, POINTS, UPSERT).await;
        let (elapsed, said) = (answer.elapsed, answer.text());
        tell(&format!(
            "active Mac stopped: unsent write answered after {elapsed:?}: {said}"
        ));

        assert_eq!(answer.status, 503, "{}\n{hop}", answer.text());
        let bound = Duration::from_millis(4500);
        times.hold(elapsed, bound, watch.worst(), || hop.to_string());
        let error = answer.json()["status"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            error.contains("macbook-m1"),
            "the error names who failed and why: {error:?}"
        );
        assert_ne!(
            answer.header("retry-after"),
            "",
            "nothing was sent, so it may come again"
        );
        assert_eq!(rig.mac2.seen(&Method::PUT).len(), 0, "a write never moves");

        rig.m1.thaw();
        rig.until_reachable("m1").await;
        assert_eq!(
            rig.mac1.seen(&Method::PUT).len(),
            0,
            "503 says that nothing was sent"
        );
    });
}

#[test]
fn a_sent_write_whose_answer_is_lost_gets_504_outcome_unknown_and_is_not_repeated() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        rig.mac1.hold(Some(Method::PUT));
        let lose = async {
            rig.mac1
                .until_seen(&Method::PUT, Duration::from_secs(5))
                .await;
            rig.m1.freeze().await;
        };
        let (answer, ()) = tokio::join!(hop.send(Method::PUT, POINTS, UPSERT), lose);
        let (elapsed, said) = (answer.elapsed, answer.text());
        tell(&format!(
            "active Mac stopped: sent write answered after {elapsed:?}: {said}"
        ));

        assert_eq!(answer.status, 504, "{}\n{hop}", answer.text());
        let error = answer.text().to_lowercase();
        assert!(error.contains("outcome unknown"), "{error}");
        assert_eq!(
            answer.header("retry-after"),
            "",
            "a repeated write may happen twice"
        );

        rig.mac1.hold(None);
        rig.m1.thaw();
        rig.until_reachable("m1").await;
        let seen = rig.mac1.seen(&Method::PUT);
        assert_eq!(seen.len(), 1, "sent once, not repeated: {seen:?}");
        let written = (seen[0].port, seen[0].path.as_str(), &seen[0].body[..]);
        assert_eq!(
            written,
            (mac::QDRANT, "/collections/c/points", UPSERT.as_bytes())
        );
        assert_eq!(rig.mac2.seen(&Method::PUT).len(), 0, "a write never moves");
    });
}

#[test]
fn a_slow_head_alone_moves_no_inference() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        let slow = Duration::from_secs(3);
        rig.mac1.delay_head(Some((Method::POST, slow)));
        let answer = hop.send(Method::POST, "/ollama/api/chat", CHAT).await;
        assert_eq!((answer.status.as_u16(), answer.mac()), (200, "m1"), "{hop}");
        assert!(answer.elapsed >= slow, "{:?}", answer.elapsed);
        assert_eq!(rig.mac1.seen(&Method::POST).len(), 1, "sent once");
        assert_eq!(rig.mac2.seen(&Method::POST).len(), 0, "sent to one Mac");
    });
}

#[test]
fn continued_the_active_mac_serves_again() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        rig.m1.freeze().await;
        until_served_by(&hop, "m2", Duration::from_secs(10)).await;
        rig.m1.thaw();
        let after = until_served_by(&hop, "m1", Duration::from_secs(15)).await;
        tell(&format!(
            "active Mac continued: serves again after {after:?}"
        ));
        assert_eq!(
            hop.send(Method::PUT, POINTS, UPSERT).await.mac(),
            "m1",
            "{hop}"
        );
    });
}

#[test]
fn a_switch_instant_passes_under_load_without_one_failure() {
    on_rig(async |rig| {
        // Whole seconds, as ops would write it.
        let at = (jiff::Timestamp::now() + 5.seconds()).round(jiff::Unit::Second);
        let at = at.expect("an instant of our times");
        let written = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let hop = Hop::start(
            rig,
            &Routing {
                switch_at: written,
                ..Routing::default()
            },
        )
        .await;

        let paths = &["/ollama/api/version", "/qdrant/collections"];
        let requests = Load::each_50_ms(paths).until(at + 3.seconds()).await;
        let failed: Vec<_> = requests.iter().filter(|request| request.failed()).collect();
        assert!(
            failed.is_empty(),
            "{} of {}: {failed:?}\n{hop}",
            failed.len(),
            requests.len()
        );

        let before: Vec<_> = requests
            .iter()
            .filter(|request| request.ended < at)
            .collect();
        let after: Vec<_> = requests
            .iter()
            .filter(|request| request.began >= at)
            .collect();
        for path in paths {
            let asked =
                |part: &[&Asked]| part.iter().filter(|request| request.path == *path).count();
            assert!(
                asked(&before) > 20 && asked(&after) > 20,
                "{path} was asked on both sides"
            );
        }
        let mut strays = before
            .iter()
            .filter(|request| request.mac != "m1")
            .collect::<Vec<_>>();
        strays.extend(after.iter().filter(|request| request.mac != "m2"));
        assert!(
            strays.is_empty(),
            "{} answered by the wrong Mac: {strays:?}",
            strays.len()
        );
        tell(&format!(
            "switch under load: 0 of {} requests failed",
            requests.len()
        ));
    });
}

#[test]
fn containers_tailscaled_killed_and_restarted_service_resumes_by_itself() {
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        until_served_by(&hop, "m1", Duration::from_secs(5)).await;
        for newcomer in [false, true] {
            rig.cr.kill();
            let answer = hop.send(Method::PUT, POINTS, UPSERT).await;
            assert_eq!(
                answer.status,
                503,
                "no tunnel, nothing sent: {}\n{hop}",
                answer.text()
            );
            if newcomer {
                rig.cr.forget();
            }
            rig.cr.start().await;
            let after = until_served_by(&hop, "m1", Duration::from_secs(15)).await;
            let state = if newcomer { "a new state" } else { "its state" };
            tell(&format!(
                "tailscaled back with {state}: served again after {after:?}"
            ));
        }
    });
}

#[test]
fn a_name_outside_the_tailnet_is_not_dialled_by_localapi() {
    a_name_outside_the_tailnet_is_not_dialled("localapi");
}

#[test]
fn a_name_outside_the_tailnet_is_not_dialled_by_http_connect() {
    a_name_outside_the_tailnet_is_not_dialled("http-connect");
}

#[test]
fn a_name_outside_the_tailnet_is_not_dialled_by_socks5() {
    a_name_outside_the_tailnet_is_not_dialled("socks5");
}

/// Loopback addresses only: tailscaled hands an unknown tailnet address to the host's network.
fn a_name_outside_the_tailnet_is_not_dialled(dial: &'static str) {
    on_rig(async |rig| {
        let traps = [Trap::set(mac::OLLAMA).await, Trap::set(mac::QDRANT).await];
        for hosts in [["127.0.0.1", "localhost"], ["localhost", "127.0.0.1"]] {
            let routing = Routing {
                dial,
                hosts,
                ..Routing::default()
            };
            let hop = Hop::start(rig, &routing).await;
            let read = hop.get("/ollama/api/version").await;
            let write = hop.send(Method::PUT, POINTS, UPSERT).await;
            for answer in [read, write] {
                assert_eq!(answer.status, 503, "{hosts:?}: {}\n{hop}", answer.text());
            }
            let touched: usize = traps.iter().map(Trap::connections).sum();
            assert_eq!(touched, 0, "one of {hosts:?} was dialled by {dial}\n{hop}");
        }
    });
}

/// The real servers in place of the scripted ones.
async fn real_services(rig: &mut rig::Rig) -> Result<python::Services, parts::Missing> {
    rig.mac1.switch_off().await;
    rig.mac2.switch_off().await;
    python::Services::start(rig)
}

#[test]
fn python_clients_work_over_the_tailnet() {
    on_rig(async |rig| {
        let services = match real_services(rig).await {
            Ok(services) => services,
            Err(missing) => return parts::skip(&missing),
        };
        let routing = Routing {
            own_addresses: true,
            store: true,
            ..Routing::default()
        };
        let hop = Hop::start(rig, &routing).await;
        let tests = services.run_pytest(rig).await;
        tell(&tests.said);
        assert!(tests.passed, "pytest failed\n{hop}");
    });
}

/// Ollama itself ends such an answer cleanly.
#[test]
fn a_chat_whose_runner_is_killed_never_ends_cleanly() {
    on_rig(async |rig| {
        let services = match real_services(rig).await {
            Ok(services) => services,
            Err(missing) => return parts::skip(&missing),
        };
        let hop = Hop::start(rig, &Routing::default()).await;
        let chat = r#"{"model":"slow","messages":[{"role":"user","content":"hi"}],
            "options":{"num_predict":400}}"#;
        for (path, body) in [
            ("/ollama/api/chat", chat.to_owned()),
            (
                "/ollama/v1/chat/completions",
                chat.replace(
                    "\"options\":{\"num_predict\":400}",
                    "\"max_tokens\":400,\"stream\":true",
                ),
            ),
        ] {
            let heads = "tailhop_response_first_byte_seconds_count";
            let before = hop.metric(heads, "ollama").await;
            let answer = client::send_for_pieces(DATA, Method::POST, path, &body);
            let killed = eventually("it streams", Duration::from_secs(30), async || {
                let streams = hop.metric(heads, "ollama").await > before;
                (streams && services.kill_runner()).then_some(())
            });
            let (answer, ()) = tokio::join!(answer, killed);
            let why = answer
                .map(|(answer, _)| answer.status)
                .expect_err("no clean end");
            tell(&format!("{path}: {}", why.0));
        }
        let ends = "tailhop_streams_total";
        let bad = hop.metric(ends, "truncated").await + hop.metric(ends, "error-in-stream").await;
        assert!((bad - 2.0).abs() < 0.1, "{bad} of 2\n{hop}");
        assert!(hop.metric(ends, "complete").await < 0.1, "{hop}");
    });
}

/// Returns when a cheap read is answered by this Mac, and how long that took.
async fn until_served_by(hop: &Hop, mac: &str, within: Duration) -> Duration {
    let started = tokio::time::Instant::now();
    eventually(format_args!("{mac} serves\n{hop}"), within, async || {
        let answer = client::get(DATA, "/ollama/api/version").await.ok()?;
        (answer.status == 200 && answer.mac() == mac).then_some(())
    })
    .await;
    started.elapsed()
}
