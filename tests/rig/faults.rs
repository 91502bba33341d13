//! What the app sees while a Mac sleeps, a path is lost, the relay connection rots, or everything
//! stands still: slowest, p99 and failed of each sort, beside a plain client of tailscaled's proxy.

use std::time::Duration;

use http::Method;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::client::{self, Answer, NoAnswer};
use super::hop::{DATA, Hop, Routing};
use super::mix::{self, Sort, Took, USUAL};
use super::net::Host;
use super::noise::{Times, Watch, timed};
use super::parts::tell;
use super::rig::Rig;
use super::wait::eventually;

/// So many milliseconds.
pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Before a fault, so that everything is as usual.
const USUALLY: Duration = ms(2500);
/// A chat that began so near to the moment of a fault may have been sent before it.
const SENT_WITHIN: Duration = ms(25);
/// A write that was not sent is refused within this.
const REFUSED: Duration = ms(4500);

#[test]
fn a_mac_whose_daemon_stops_costs_a_blink() {
    timed(async |rig, times| {
        asleep(rig, times, "daemon stopped", async |rig| {
            rig.m1.freeze().await;
        })
        .await;
    });
}

#[test]
fn a_mac_whose_link_goes_down_costs_a_blink() {
    timed(async |rig, times| {
        let host = rig.m1.host.clone();
        asleep(rig, times, "link down", async |_| {
            host.link(false).expect("the link goes down");
        })
        .await;
    });
}

/// The first Mac falls asleep under load, and wakes.
async fn asleep(rig: &mut Rig, times: &Times, how: &str, fall_asleep: impl AsyncFnOnce(&mut Rig)) {
    let hop = Hop::start(rig, &Routing::default()).await;
    let load = USUAL.start("m1");
    sleep(USUALLY).await;
    let held = Held::start(rig).await;
    let falls = load.since();
    fall_asleep(rig).await;
    let (slept, fell) = (Instant::now(), load.since());

    let [(chat, chat_after), (write, write_after)] = held.end(slept).await;
    sleep(ms(7000).saturating_sub(slept.elapsed())).await;
    let verdict = hop.verdict("ollama", "macbook-m1").await;
    rig.m1.thaw();
    rig.m1.host.link(true).expect("the link comes up");
    let back = until_served_by(&hop, "m1").await;
    sleep(ms(1500)).await;
    let took = load.end().await;
    rig.mac1.load(false);
    sleep(ms(500)).await;

    let title = format!(
        "Mac asleep, {how}: verdict {verdict:?}; waiting chat answered by {} after {chat_after:?}; \
         sent write {} after {write_after:?}; back {back:?} after it woke",
        chat.mac(),
        write.status
    );
    report(&hop, &took, &title).await;
    let (sent, took) = took.split(|done| {
        let sent = done.began + SENT_WITHIN > falls && done.began < fell + SENT_WITHIN;
        sent && done.sort == Sort::Inference
    });
    bounded(times, &sent, Sort::Inference, (ms(3000), ms(3000)), &hop);
    bounded(times, &took, Sort::Read, (ms(600), ms(300)), &hop);
    bounded(times, &took, Sort::Inference, (ms(600), ms(300)), &hop);
    writes_answered_or_refused(times, &took, &hop);
    assert_eq!(
        (chat.status.as_u16(), chat.mac()),
        (200, "m2"),
        "the waiting chat\n{hop}"
    );
    let late = took.late;
    times.hold(chat_after, ms(3000), late, || format!("the rescue\n{hop}"));
    assert_eq!(write.status, 504, "{}\n{hop}", write.text());
    assert!(write.text().to_lowercase().contains("outcome unknown"));
    times.hold(back, ms(5000), late, || format!("the way back\n{hop}"));
    took.check_writes(&rig.mac1, &rig.mac2);
}

#[test]
fn a_lost_direct_path_moves_reads_at_once_and_no_write() {
    timed(async |rig, times| {
        let mac = rig.m1.host.clone();
        path_lost(rig, times, &mac, true).await;
    });
}

#[test]
fn without_repair_a_lost_direct_path_costs_writes_seconds() {
    timed(async |rig, times| {
        let mac = rig.m1.host.clone();
        path_lost(rig, times, &mac, false).await;
    });
}

#[test]
fn direct_paths_to_all_macs_lost_at_once_are_waited_for() {
    timed(async |rig, times| {
        let container = rig.cr.host.clone();
        path_lost(rig, times, &container, true).await;
    });
}

/// UDP of a machine is lost after direct paths were in use: of the Mac, so that only its own path
/// is gone, or of the container, so that all are. In the second case reads wait too: each Mac
/// trusts its own end of a path for up to 6.5 s after the last pong, and answers into it.
async fn path_lost(rig: &mut Rig, times: &Times, host: &Host, repair: bool) {
    let all = host.name == "cr";
    let hop = start(rig, repair).await;
    let load = USUAL.start("m1");
    sleep(USUALLY).await;
    for name in ["m1", "m2"] {
        rig.until_direct(name).await;
    }
    let held = Held::start(rig).await;
    host.lose(&["meta l4proto udp"]).expect("nftables works");
    let lost = Instant::now();
    let mut verdicts = Vec::new();
    while lost.elapsed() < ms(8000) {
        let verdict = hop.verdict("ollama", "macbook-m1").await;
        if verdicts.last() != Some(&verdict) {
            verdicts.push(verdict);
        }
        sleep(ms(20)).await;
    }
    rig.mac1.load(false);
    let [(chat, _), (write, _)] = held.end(lost).await;
    let took = load.end().await;

    let title = format!(
        "direct path lost, all of them: {all}, repair {repair}: verdicts {verdicts:?}; waiting chat \
         answered by {}; sent write {}",
        chat.mac(),
        write.status
    );
    report(&hop, &took, &title).await;
    took.check_writes(&rig.mac1, &rig.mac2);
    if !repair {
        return;
    }
    writes_answered_or_refused(times, &took, &hop);
    if !all {
        bounded(times, &took, Sort::Read, (ms(500), ms(500)), &hop);
        bounded(times, &took, Sort::Inference, (ms(500), ms(500)), &hop);
    }
    assert_eq!(took.numbers(Sort::Inference).failed, 0, "{hop}");
    assert_eq!(
        (chat.status.as_u16(), chat.mac()),
        (200, "m1"),
        "it stays\n{hop}"
    );
    assert_eq!(
        (write.status.as_u16(), write.mac()),
        (200, "m1"),
        "it stays\n{hop}"
    );
    let is = |verdict: &str, evidence: &str| (verdict.to_owned(), evidence.to_owned());
    assert!(
        verdicts.contains(&is("suspect", "path-lost")),
        "{verdicts:?}\n{hop}"
    );
    assert!(
        verdicts.iter().all(|(verdict, _)| verdict != "asleep"),
        "{verdicts:?}\n{hop}"
    );
}

#[test]
fn a_dead_relay_connection_is_repaired_before_anybody_fails() {
    timed(async |rig, times| {
        relay_dead(rig, times, true).await;
    });
}

#[test]
fn without_repair_a_dead_relay_connection_fails_most() {
    timed(async |rig, times| {
        relay_dead(rig, times, false).await;
    });
}

/// The connections of the container's tailscaled to relay and control die silently; only the relay
/// leads to the Macs.
async fn relay_dead(rig: &mut Rig, times: &Times, repair: bool) {
    let host = rig.cr.host.clone();
    host.lose(&["meta l4proto udp"]).expect("nftables works");
    rig.until_relayed().await;
    let hop = start(rig, repair).await;
    let load = USUAL.start("m1");
    sleep(USUALLY).await;
    let forgotten = host.forget_connections().expect("nftables works");
    assert!(forgotten >= 2, "relay and control: {forgotten}");
    sleep(ms(if repair { 8000 } else { 5000 })).await;
    let took = load.end_within(ms(5000)).await;

    let title = format!("relay and control connections dead, repair {repair}");
    report(&hop, &took, &title).await;
    took.check_writes(&rig.mac1, &rig.mac2);
    if !repair {
        let reads = took.numbers(Sort::Read);
        assert!(
            reads.failed * 2 > reads.asked,
            "without repair most fail\n{hop}"
        );
        return;
    }
    for sort in [Sort::Read, Sort::Inference, Sort::Write] {
        bounded(times, &took, sort, (ms(1000), ms(1000)), &hop);
    }
    let made = hop
        .metric("tailhop_tunnel_repairs_total", "result=\"made\"")
        .await;
    assert!(made <= 3.0, "{made} repairs for one fault\n{hop}");
}

#[test]
fn after_a_freeze_the_first_request_is_answered_within_two_seconds() {
    let seconds = std::env::var("TAILHOP_RIG_FREEZE").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(10);
    let length = Duration::from_secs(seconds);
    timed(async |rig, times| freeze(rig, times, length, false).await);
}

#[test]
fn after_a_freeze_that_cost_the_relay_connection_the_first_request_is_answered() {
    timed(async |rig, times| freeze(rig, times, Duration::from_secs(5), true).await);
}

/// tailhop and its tailscaled stand still, and meanwhile, perhaps, a NAT forgets them.
async fn freeze(rig: &mut Rig, times: &Times, length: Duration, forgotten: bool) {
    let host = rig.cr.host.clone();
    if forgotten {
        host.lose(&["meta l4proto udp"]).expect("nftables works");
        rig.until_relayed().await;
    }
    let hop = Hop::start(rig, &Routing::default()).await;
    let load = USUAL.start("m1");
    sleep(USUALLY).await;
    let before = load.end().await;
    hop.process().freeze().await;
    rig.cr.freeze().await;
    if forgotten {
        host.forget_connections().expect("nftables works");
    }
    sleep(length).await;
    let watch = Watch::start();
    rig.cr.thaw();
    hop.process().signal(rustix::process::Signal::CONT);
    let (first, after) = (
        hop.get("/ollama/api/version").await,
        // A few seconds of everything: late repairs must not cost anything either.
        USUAL.start("m1"),
    );
    sleep(ms(3000)).await;
    let after = after.end().await;
    let title = format!(
        "frozen for {length:?}, relay connection lost meanwhile: {forgotten}: first request {} \
         after {:?}",
        first.status, first.elapsed
    );
    report(&hop, &after, &title).await;
    assert_eq!(before.numbers(Sort::Read).failed, 0);
    assert_eq!(first.status, 200, "{}\n{hop}", first.text());
    let late = watch.worst();
    times.hold(first.elapsed, ms(2000), late, || {
        format!("the first request\n{hop}")
    });
    for sort in [Sort::Read, Sort::Inference, Sort::Write] {
        bounded(times, &after, sort, (ms(2000), ms(2000)), &hop);
    }
    after.check_writes(&rig.mac1, &rig.mac2);
}

/// A chat with a model that is loading on the first Mac, and a write that it does not answer: both
/// sent, both waiting.
struct Held {
    chat: Waiting,
    write: Waiting,
}

/// One request on its way, and when it ended.
type Waiting = JoinHandle<(Result<Answer, NoAnswer>, Instant)>;

impl Held {
    async fn start(rig: &Rig) -> Self {
        rig.mac1.load(true);
        let write = r#"{"model":"large","points":[{"id":0,"vector":[0.1,0.2,0.3,0.4]}]}"#;
        let held = Self {
            chat: send(Method::POST, "/ollama/api/chat", mix::chat("large")),
            write: send(
                Method::PUT,
                "/qdrant/collections/c/points",
                write.to_owned(),
            ),
        };
        eventually("both reach the Mac", ms(3000), async || {
            let both = [Method::POST, Method::PUT];
            let came = both.iter().all(|method| rig.mac1.seen_large(method) == 1);
            came.then_some(())
        })
        .await;
        held
    }

    /// The answers to chat and write, and how long after `since` each came.
    async fn end(self, since: Instant) -> [(Answer, Duration); 2] {
        [
            ended(self.chat, since).await,
            ended(self.write, since).await,
        ]
    }
}

fn send(method: Method, path: &'static str, body: String) -> Waiting {
    tokio::spawn(async move {
        let answer = client::send(DATA, method, path, &body).await;
        (answer, Instant::now())
    })
}

async fn ended(waiting: Waiting, since: Instant) -> (Answer, Duration) {
    let (answer, at) = waiting.await.expect("it runs");
    let answer = answer.unwrap_or_else(|why| panic!("{}", why.0));
    (answer, at.saturating_duration_since(since))
}

pub(crate) async fn start(rig: &Rig, repair: bool) -> Hop {
    let routing = Routing {
        repair,
        ..Routing::default()
    };
    Hop::start(rig, &routing).await
}

/// How long it takes until a cheap read is answered by this Mac.
async fn until_served_by(hop: &Hop, mac: &str) -> Duration {
    let started = Instant::now();
    let what = format_args!("{mac} serves\n{hop}");
    eventually(what, Duration::from_secs(20), async || {
        let answer = client::get(DATA, "/ollama/api/version").await.ok()?;
        (answer.status == 200 && answer.mac() == mac).then_some(())
    })
    .await;
    started.elapsed()
}

/// Prints the numbers, and what the tunnel cost.
pub(crate) async fn report(hop: &Hop, took: &Took, title: &str) {
    let repairs = hop.metric("tailhop_tunnel_repairs_total{", "made").await;
    let asked = hop.metric("tailhop_tunnel_inquiries_total{", "").await;
    tell(&took.table(&format!("{title}; repairs {repairs}, inquiries {asked}")));
}

/// No failure of a sort, and none later than this.
pub(crate) fn bounded(
    times: &Times,
    took: &Took,
    sort: Sort,
    (slowest, p99): (Duration, Duration),
    hop: &Hop,
) {
    let numbers = took.numbers(sort);
    let words = || format!("{sort:?}: {numbers}{}\n{hop}", took.worst(sort));
    assert_eq!(numbers.failed, 0, "{}", words());
    times.hold(numbers.slowest, slowest, took.late, || {
        format!("the slowest, {}", words())
    });
    times.hold(numbers.p99, p99, took.late, || format!("p99, {}", words()));
}

/// Each write was answered, or refused soon enough with the reason, or its outcome is unknown.
pub(crate) fn writes_answered_or_refused(times: &Times, took: &Took, hop: &Hop) {
    for write in took.of(Sort::Write) {
        let may = matches!(write.status(), Some(200 | 503 | 504));
        assert!(may, "{write:?}\n{hop}");
        if write.status() == Some(503) {
            let words = || format!("a refusal: {write:?}\n{hop}");
            times.hold(write.elapsed, REFUSED, took.late, words);
        }
    }
}
