//! A machine that falls asleep takes along what was sent to it, and what is done about that.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::app::{App, behind};
use crate::support::client::Client;
use crate::support::http::Piece;
use crate::support::tailscaled::Tailscaled;
use crate::support::time::{Held, soon};
use crate::support::upstream::{Gate, Upstream, accept_then_silence, gated};

const WRITE: &str = "/qdrant/collections/c/points";
const READ: &str = "/qdrant/collections";
const SECOND: Duration = Duration::from_secs(1);

/// Two machines in a tailnet, both services on each.
pub(crate) struct Tailnet {
    pub(crate) app: App,
    pub(crate) fake: Tailscaled,
    pub(crate) ollama: [Upstream; 2],
    pub(crate) qdrant: [Upstream; 2],
    pub(crate) time: Held,
}

impl Tailnet {
    /// Ends the app and proves that no connection of it is left, to tailscaled and through it: at
    /// once, but for dials that nobody answers, which end by themselves.
    pub(crate) async fn ends_clean(self) {
        self.app.stop().await;
        let mut open = self.fake.open();
        let closed = open.wait_for(|open| *open == 0);
        let (closed, took) = self.time.run(soon(closed)).await;
        closed.unwrap();
        assert!(
            took < 11 * SECOND,
            "a dial outlived its own limit: {took:?}"
        );
        for upstream in self.ollama.iter().chain(&self.qdrant) {
            upstream.all_closed().await;
        }
    }
}

pub(crate) async fn tailnet(more: &str) -> Tailnet {
    let time = Held::hold();
    let fake = Tailscaled::start().await;
    let (ollama, qdrant) = machines(&fake).await;
    let app = App::start(&behind(
        &fake,
        &format!("schedule.default = \"m1\"\n{more}"),
    ))
    .await;
    for (service, backend) in [
        ("ollama", "m1"),
        ("ollama", "m2"),
        ("qdrant", "m1"),
        ("qdrant", "m2"),
    ] {
        time.run(app.judged(service, backend, "up")).await;
    }
    Tailnet {
        app,
        fake,
        ollama,
        qdrant,
        time,
    }
}

pub(crate) async fn machines(fake: &Tailscaled) -> ([Upstream; 2], [Upstream; 2]) {
    let start = || async { [Upstream::start().await, Upstream::start().await] };
    let (ollama, qdrant) = (start().await, start().await);
    for (place, name) in ["m1", "m2"].into_iter().enumerate() {
        fake.serve(name, 11434, ollama[place].place());
        fake.serve(name, 6333, qdrant[place].place());
    }
    (ollama, qdrant)
}

/// Clients that left kept-alive connections upstream, on which no dial will ever fail.
async fn warm(app: &App, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(app.client().await);
    }
    for client in &mut clients {
        client.request("GET", READ, &[], b"").await;
    }
    for client in &mut clients {
        assert_eq!(client.coming("GET").await.whole().await.status(), 200);
    }
    clients
}

#[tokio::test(start_paused = true)]
async fn what_waits_on_a_machine_that_falls_asleep_is_rescued_or_told() {
    let net = tailnet("").await;
    let [mac, other] = &net.qdrant;
    let gate = Gate::closed();
    let mut clients = warm(&net.app, 3).await;
    let opened = mac.counts().opened;
    let [reader, writer, streamer] = &mut clients[..] else {
        panic!("three")
    };
    mac.once(gated(&[b"one\n", b"two\n"], &gate));
    streamer
        .request("POST", "/qdrant/collections/c/points/scroll", &[], b"{}")
        .await;
    gate.pass();
    let mut stream = streamer.coming("POST").await;
    assert_eq!(stream.piece().await, Piece::Data(b"one\n".to_vec()));
    net.time.pass(5 * SECOND).await;

    mac.always(accept_then_silence());
    writer.request("PUT", WRITE, &[], b"{}").await;
    reader.request("GET", READ, &[], b"").await;
    mac.requests(6).await;
    net.fake.silence("m1");
    let (read, write, streamed) = (
        async { reader.coming("GET").await.whole().await },
        async { writer.coming("PUT").await.whole().await },
        stream.whole(),
    );
    let ((read, write, streamed), took) = net
        .time
        .run(async { tokio::join!(read, write, streamed) })
        .await;
    assert!(took < 8 * SECOND, "{took:?}");
    assert_eq!(
        (read.status(), read.backend(), read.reason()),
        (200, "m2", "fallback:lost")
    );
    assert_eq!(
        (write.status(), write.reason()),
        (504, "outcome-unknown"),
        "{}",
        write.text()
    );
    assert_eq!(write.head.get("retry-after"), None);
    assert!(
        !streamed.whole,
        "a stream that has begun is broken, not ended"
    );
    assert_eq!(net.app.verdict("qdrant", "m1").await, "asleep");
    let methods: Vec<_> = other
        .seen()
        .iter()
        .map(|seen| seen.method().to_owned())
        .collect();
    assert_eq!(methods, ["GET"], "the write went nowhere else");
    assert!(mac.counts().opened >= opened, "fresh dials were made");

    mac.always(crate::support::upstream::answer(200, &[], b"{}"));
    net.fake.wake("m1");
    serves_again(&net).await;
    net.ends_clean().await;
}

async fn serves_again(net: &Tailnet) {
    net.time.run(net.app.judged("qdrant", "m1", "up")).await;
    let back = net.app.get(READ).await;
    assert_eq!(
        (back.status(), back.backend(), back.reason()),
        (200, "m1", "active:default")
    );
}

#[tokio::test(start_paused = true)]
async fn a_dial_into_a_sleeping_machine_does_not_hold_a_read_up_for_long() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    net.fake.silence("m1");
    let (got, took) = net.time.run(net.app.get("/qdrant/telemetry")).await;
    assert_eq!(
        (got.status(), got.reason()),
        (503, "silent"),
        "{}",
        got.text()
    );
    assert!(took < SECOND * 9 / 2, "{took:?}");
    net.time.run(net.app.judged("qdrant", "m1", "asleep")).await;
    for target in [READ, "/ollama/api/tags"] {
        let (got, took) = net.time.run(net.app.get(target)).await;
        assert_eq!((got.status(), got.backend()), (200, "m2"), "{target}");
        assert!(took < 5 * SECOND, "{target} {took:?}");
    }
    let (got, took) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!((got.status(), got.reason()), (503, "silent"));
    assert!(took < SECOND * 9 / 2, "{took:?}");
    assert!(got.text().contains("Wake the machine"), "{}", got.text());
    assert_eq!(net.qdrant[0].seen().len() + net.qdrant[1].seen().len(), 1);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_a_sleeping_machine_is_done_when_it_wakes() {
    let net = tailnet("timeouts.wait = \"10s\"").await;
    net.time.pass(5 * SECOND).await;
    net.fake.silence("m1");
    net.time.run(net.app.judged("qdrant", "m1", "asleep")).await;
    let woken = async {
        sleep(3 * SECOND).await;
        net.fake.wake("m1");
    };
    let ((got, ()), took) = net
        .time
        .run(async { tokio::join!(net.app.ask("PUT", WRITE, b"{}"), woken) })
        .await;
    assert_eq!((got.status(), got.backend()), (200, "m1"), "{}", got.text());
    assert!(took < 4 * SECOND, "{took:?}");
    assert_eq!(net.qdrant[0].seen().len(), 1);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_twice_lets_go_what_waits_on_it() {
    let mut net = tailnet("").await;
    net.ollama[0].always(accept_then_silence());
    let mut client = net.app.client().await;
    client.request("POST", "/ollama/api/chat", &[], b"{}").await;
    net.ollama[0].requests(1).await;
    net.ollama[0].refuse().await;
    let (got, took) = net
        .time
        .run(async { client.coming("POST").await.whole().await })
        .await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
    assert!(took < 4 * SECOND, "{took:?}");
    soon(net.ollama[0].all_closed()).await;
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_head_has_its_endpoint_probed_once_a_second() {
    let net = tailnet("").await;
    let mac = &net.qdrant[0];
    net.time.pass(20 * SECOND).await;
    let calm = mac.counts().probes;
    assert!((3..=6).contains(&calm), "{calm} probes in 20 s");
    mac.once(accept_then_silence());
    let mut client = net.app.client().await;
    client.request("GET", READ, &[], b"").await;
    mac.requests(1).await;
    net.time.pass(10 * SECOND).await;
    let asked = mac.counts().probes - calm;
    assert!((8..=11).contains(&asked), "{asked} probes in 10 s");
    drop(client);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn one_silent_dial_moves_nothing_that_waits() {
    let net = tailnet("").await;
    net.time.pass(5 * SECOND).await;
    let gate = Gate::closed();
    net.ollama[0].once(crate::support::upstream::answer(200, &[], b"{}").behind(&gate));
    let mut client = net.app.client().await;
    client.request("POST", "/ollama/api/chat", &[], b"{}").await;
    net.ollama[0].requests(1).await;
    net.fake.silence("m1");
    net.time
        .run(net.app.judged("ollama", "m1", "suspect"))
        .await;
    net.fake.wake("m1");
    net.time.pass(10 * SECOND).await;
    gate.pass();
    let got = client.coming("POST").await.whole().await;
    assert_eq!((got.status(), got.backend()), (200, "m1"));
    assert_eq!(net.ollama[1].seen().len(), 0);
    net.ends_clean().await;
}
