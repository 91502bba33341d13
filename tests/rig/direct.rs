//! The same faults without a tailnet, `dial = "direct"`: what an ordinary proxy is measured by.

use std::time::Duration;

use http::Method;
use rustix::process::Signal;
use tokio::time::sleep;

use super::client;
use super::faults::{bounded, ms, report};
use super::hop::{DATA, Hop, Routing};
use super::mix::{self, Mix, NOTHING, Sort};
use super::noise::timed;
use super::parts::tell;
use super::rig::{Rig, on_rig};

/// 100 reads a second.
const READS: Mix = Mix {
    reads: 100,
    ..NOTHING
};
const USUALLY: Duration = ms(2000);

#[test]
fn direct_the_active_origins_packets_dropped_for_eight_seconds() {
    timed(async |rig, times| {
        let hop = start(rig).await;
        let load = READS.start("m1");
        sleep(ms(4000)).await;
        let host = rig.m1.host.clone();
        host.lose(&["meta l4proto tcp"]).expect("nftables works");
        sleep(ms(8000)).await;
        host.pass_all().expect("nftables works");
        sleep(ms(4000)).await;
        let took = load.end().await;
        report(
            &hop,
            &took,
            "direct: packets of the active origin dropped for 8 s of 16",
        )
        .await;
        bounded(times, &took, Sort::Read, (ms(1000), ms(300)), &hop);
    });
}

#[test]
fn direct_the_active_origin_killed_costs_a_refusal() {
    timed(async |rig, times| {
        let hop = start(rig).await;
        let load = READS.start("m1");
        sleep(ms(1000)).await;
        rig.mac1.switch_off().await;
        sleep(ms(2000)).await;
        let took = load.end().await;
        let own = hop.slowest_ms();
        let title =
            format!("direct: the active origin killed (refuses); {own} ms by tailhop's own log");
        report(&hop, &took, &title).await;
        bounded(times, &took, Sort::Read, (ms(10), ms(10)), &hop);
    });
}

#[test]
fn direct_a_stall_before_the_head_costs_cheap_reads_half_a_second() {
    timed(async |rig, times| {
        let hop = start(rig).await;
        let load = Mix {
            cheap: 20,
            ..NOTHING
        };
        let load = load.start("m1");
        sleep(USUALLY).await;
        rig.mac1.hold(Some(Method::GET));
        sleep(ms(6000)).await;
        rig.mac1.hold(None);
        sleep(ms(1000)).await;
        let took = load.end().await;
        report(
            &hop,
            &took,
            "direct: the active origin stalls before the head of cheap reads",
        )
        .await;
        bounded(times, &took, Sort::Cheap, (ms(2500), ms(500)), &hop);
    });
}

#[test]
fn direct_a_live_but_slow_mac_keeps_its_requests() {
    timed(async |rig, times| {
        let hop = start(rig).await;
        rig.mac1.delay_head(Some((Method::POST, ms(1500))));
        let load = Mix {
            inference: 10,
            ..NOTHING
        };
        let load = load.start("m1");
        sleep(ms(4000)).await;
        let took = load.end().await;
        rig.mac1.delay_head(Some((Method::GET, ms(400))));
        let cheap = Mix {
            cheap: 20,
            ..NOTHING
        };
        let cheap = cheap.start("m1");
        sleep(ms(3000)).await;
        let cheap = cheap.end().await;
        let hedged = hop.metric("tailhop_hedges_total{", "").await;
        report(&hop, &took, "direct: a live but slow Mac, inference").await;
        report(
            &hop,
            &cheap,
            &format!("direct: the same, cheap reads, {hedged} hedged"),
        )
        .await;

        let asked = took.numbers(Sort::Inference).asked;
        bounded(times, &took, Sort::Inference, (ms(2500), ms(2500)), &hop);
        assert_eq!(
            rig.mac1.seen(&Method::POST).len(),
            asked,
            "not doubled\n{hop}"
        );
        assert_eq!(rig.mac2.seen(&Method::POST).len(), 0, "not moved\n{hop}");
        bounded(times, &cheap, Sort::Cheap, (ms(1000), ms(1000)), &hop);
    });
}

/// 500 requests wait when tailhop is stopped; all are answered while it stands still, for longer than
/// any of them may wait for a head. Deadlines that fire before sockets are read would fail most.
#[test]
fn direct_stopped_with_five_hundred_answers_on_their_way_loses_none() {
    const EACH: usize = 250;
    on_rig(async |rig| {
        let routing = Routing {
            head: Some("4s"),
            ..routing()
        };
        let hop = Hop::start(rig, &routing).await;
        rig.mac1.hold(Some(Method::POST));
        let ask = |place: usize| {
            let (path, body) = match place % 2 {
                0 => ("/ollama/api/chat", mix::chat("tiny")),
                _ => ("/qdrant/collections/c/points/query", "{}".to_owned()),
            };
            tokio::spawn(async move { client::send(DATA, Method::POST, path, &body).await })
        };
        let waiting: Vec<_> = (0..2 * EACH).map(ask).collect();
        rig.mac1.until_seen_so_many(&Method::POST, 2 * EACH).await;
        hop.process().freeze().await;
        rig.mac1.answer_held(2 * EACH).await;
        sleep(ms(6000)).await;
        hop.process().signal(Signal::CONT);
        let mut lost = Vec::new();
        for answer in waiting {
            match answer.await.expect("it runs") {
                Ok(answer) if answer.status == 200 && answer.mac() == "m1" => {}
                other => lost.push(other),
            }
        }
        let (all, failed) = (2 * EACH, lost.len());
        tell(&format!(
            "direct: stopped for 6 s with {all} answers on their way: {failed} lost"
        ));
        assert!(lost.is_empty(), "{failed}: {:?}\n{hop}", lost.first());
        assert_eq!(rig.mac1.seen(&Method::POST).len(), all, "none was repeated");
        assert_eq!(rig.mac2.seen(&Method::POST).len(), 0, "none was moved");
        let freezes = hop.metric("tailhop_freezes_total", "").await;
        assert!(freezes >= 1.0, "it noticed\n{hop}");
    });
}

fn routing() -> Routing {
    Routing {
        dial: "direct",
        hosts: ["10.77.0.11", "10.77.0.12"],
        ..Routing::default()
    }
}

async fn start(rig: &Rig) -> Hop {
    Hop::start(rig, &routing()).await
}
