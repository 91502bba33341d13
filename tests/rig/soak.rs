//! Load with a random fault every few seconds: no wrong answer, no write twice or elsewhere,
//! descriptors and memory back to the start.
//!
//! `TAILHOP_RIG_SOAK` is its length in seconds, `TAILHOP_RIG_SEED` repeats one that failed.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::client;
use super::faults::{ms, report};
use super::hop::{DATA, Hop, Routing};
use super::mix::{Done, Sort, Took, USUAL};
use super::rig::{Rig, on_rig};
use super::tunnel::restart_relay;

#[test]
fn soak_a_fault_every_few_seconds_leaves_nothing_behind() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = number("TAILHOP_RIG_SOAK").unwrap_or(30);
    let seed = number("TAILHOP_RIG_SEED").unwrap_or(u64::from(std::process::id()));
    on_rig(async |rig| {
        let hop = Hop::start(rig, &Routing::default()).await;
        // Warm: pools and buffers as under the usual load.
        let load = USUAL.start("m1");
        sleep(ms(3000)).await;
        let warm = load.end().await;
        let (before, kept_before) = (hop.holds(), kept(&hop).await);
        let load = USUAL.start("m1");
        let (started, mut dice, mut faults) = (Instant::now(), Dice(seed | 1), Vec::new());
        let (length, mut half) = (Duration::from_secs(seconds), None);
        while started.elapsed() < length {
            // Before, pools and buffers still grow to what the faults make of them.
            if length >= LONG && started.elapsed() >= length / 2 {
                half = half.or(Some(hop.holds().1));
            }
            let began = started.elapsed();
            let what = fault(rig, &hop, &mut dice).await;
            faults.push(format!(
                "{what} {:.1}-{:.1}",
                began.as_secs_f32(),
                started.elapsed().as_secs_f32()
            ));
            mend(rig, &hop);
            sleep(ms(500 + dice.below(2000))).await;
        }
        // Some faults heal only by themselves.
        until_answered(&hop).await;
        let took = load.end().await;
        sleep(ms(3000)).await;
        let (after, kept_after) = (hop.holds(), kept(&hop).await);
        let title = format!(
            "soak of {seconds} s, seed {seed}: {faults:?}; descriptors and KiB {before:?}, then \
             {after:?}, of which kept-alive {kept_before}, then {kept_after}; KiB at half time {half:?}"
        );
        report(&hop, &took, &title).await;
        warm.check_writes(&rig.mac1, &rig.mac2);
        took.check_writes(&rig.mac1, &rig.mac2);
        nothing_wrong(&took, &hop);
        nothing_left((before, kept_before), (after, kept_after), &took, &hop);
        if let Some(half) = half {
            let grown = grown(half, after.1);
            assert!(grown <= 3.0 * 1024.0, "{grown} KiB since half time\n{hop}");
        }
    });
}

/// What a kept-alive connection holds, in KiB: hyper's buffers for the most part.
const KEPT: f64 = 40.0;
/// A soak that is long enough for its second half to show whether memory grows.
const LONG: Duration = Duration::from_mins(4);

fn grown(before: usize, after: usize) -> f64 {
    f64::from(u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX))
}

/// Kept-alive upstream connections.
async fn kept(hop: &Hop) -> f64 {
    hop.metric("tailhop_pool_connections{", "").await
}

/// Descriptors and KiB, and kept-alive connections among them, are what they were. Those who waited for
/// the slowest at once had a connection each, which is kept a while.
fn nothing_left(
    (before, kept_before): ((usize, usize), f64),
    (after, kept_after): ((usize, usize), f64),
    took: &Took,
    hop: &Hop,
) {
    let ours = took.all.iter().filter(|done| done.sort != Sort::Plain);
    let slowest = ours.map(|done| done.elapsed).max().unwrap_or_default();
    let at_once = (slowest.as_secs_f64() * USUAL.rate()).ceil();
    assert!(
        kept_after <= kept_before + at_once + 8.0,
        "kept-alive {kept_before} {kept_after}, slowest {slowest:?}\n{hop}"
    );
    let more = grown(before.0, after.0);
    let more_kept = (kept_after - kept_before).max(0.0);
    assert!(
        more <= more_kept + 8.0,
        "descriptors {before:?} {after:?}, of which {more_kept} more kept-alive\n{hop}"
    );
    assert!(
        grown(before.1, after.1) <= 8.0 * 1024.0 + more_kept * KEPT,
        "memory {before:?} {after:?}, of which {more_kept} more kept-alive\n{hop}"
    );
}

/// Every answer is right; what failed got an error of tailhop's.
fn nothing_wrong(took: &Took, hop: &Hop) {
    let may = |done: &Done| {
        done.outcome.as_ref().is_ok_and(|said| match said.status {
            200 => said.right,
            503 => true,
            504 => done.sort == Sort::Write,
            _ => false,
        })
    };
    let ours = took.all.iter().filter(|done| done.sort != Sort::Plain);
    let wrong: Vec<_> = ours.filter(|done| !may(done)).collect();
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}\n{hop}", wrong.len());
}

/// Breaks something for a while; what it was.
async fn fault(rig: &mut Rig, hop: &Hop, dice: &mut Dice) -> &'static str {
    let length = ms(500 + dice.below(3500));
    let container = rig.cr.host.clone();
    let nftables = "nftables works";
    let what = match dice.below(8) {
        0 => {
            rig.m1.freeze().await;
            "active asleep"
        }
        1 => {
            rig.m2.freeze().await;
            "other asleep"
        }
        2 => {
            rig.m1.host.link(false).expect("the link goes down");
            "active unplugged"
        }
        3 => {
            container.lose(&["meta l4proto udp"]).expect(nftables);
            "UDP lost"
        }
        4 => {
            container.forget_connections().expect(nftables);
            "connections forgotten"
        }
        5 => {
            restart_relay(length).await;
            "relay restarted"
        }
        6 => {
            rig.mac1.switch_off().await;
            sleep(length).await;
            rig.mac1.switch_on().await;
            "active refuses"
        }
        _ => {
            hop.process().freeze().await;
            rig.cr.freeze().await;
            "all frozen"
        }
    };
    sleep(length).await;
    what
}

/// Takes back what can be taken back.
fn mend(rig: &Rig, hop: &Hop) {
    for node in [&rig.m1, &rig.m2, &rig.cr] {
        node.thaw();
        node.host.link(true).expect("the link comes up");
        node.host.pass_all().expect("nftables works");
    }
    hop.process().signal(Signal::CONT);
}

async fn until_answered(hop: &Hop) {
    let started = Instant::now();
    while client::get(DATA, "/qdrant/collections")
        .await
        .is_ok_and(|got| got.mac() != "m1")
    {
        assert!(started.elapsed() < ms(30_000), "not back\n{hop}");
        sleep(ms(100)).await;
    }
}

/// Xorshift: the same faults for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
