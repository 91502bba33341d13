//! The same faults without a tailnet, `dial = "direct"`: what an ordinary proxy is measured by.

use std::time::Duration;

use http::Method;
use tokio::time::sleep;

use super::faults::{bounded, ms, report};
use super::hop::{Hop, Routing};
use super::mix::{Mix, NOTHING, Sort};
use super::rig::{Rig, on_rig};

/// 100 reads a second.
const READS: Mix = Mix {
    reads: 100,
    ..NOTHING
};
const USUALLY: Duration = ms(2000);

#[test]
fn direct_the_active_origins_packets_dropped_for_eight_seconds() {
    on_rig(async |rig| {
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
        bounded(&took, Sort::Read, ms(1000), ms(300), &hop);
    });
}

#[test]
fn direct_the_active_origin_killed_costs_a_refusal() {
    on_rig(async |rig| {
        // A busy machine is late with something now and then: the best of three tells.
        for last in [false, false, true] {
            let hop = start(rig).await;
            let load = READS.start("m1");
            sleep(ms(1000)).await;
            rig.mac1.switch_off().await;
            sleep(ms(2000)).await;
            let took = load.end().await;
            rig.mac1.switch_on().await;
            report(&hop, &took, "direct: the active origin killed (refuses)").await;
            let reads = took.numbers(Sort::Read);
            let worst = took.worst(Sort::Read);
            assert_eq!(reads.failed, 0, "{worst}\n{hop}");
            if reads.slowest <= ms(10) {
                break;
            }
            assert!(!last || reads.p99 <= ms(50), "{reads}{worst}\n{hop}");
        }
    });
}

#[test]
fn direct_a_stall_before_the_head_costs_cheap_reads_half_a_second() {
    on_rig(async |rig| {
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
        bounded(&took, Sort::Cheap, ms(2500), ms(500), &hop);
    });
}

#[test]
fn direct_a_live_but_slow_mac_keeps_its_requests() {
    on_rig(async |rig| {
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
        bounded(&took, Sort::Inference, ms(2500), ms(2500), &hop);
        assert_eq!(
            rig.mac1.seen(&Method::POST).len(),
            asked,
            "not doubled\n{hop}"
        );
        assert_eq!(rig.mac2.seen(&Method::POST).len(), 0, "not moved\n{hop}");
        bounded(&cheap, Sort::Cheap, ms(1000), ms(1000), &hop);
    });
}

async fn start(rig: &Rig) -> Hop {
    let routing = Routing {
        dial: "direct",
        hosts: ["10.77.0.11", "10.77.0.12"],
        ..Routing::default()
    };
    Hop::start(rig, &routing).await
}
