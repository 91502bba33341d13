//! Dials against a fake tailscaled: what each way makes of what can happen to it.
//!
//! Addresses outside the tailnet are loopback ones only: a wrong dial must not leave the machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tailhop::config::snapshot::{DialWay, Tailnet as Settings};
use tailhop::tailnet::Tailnet;
use tailhop::wire::{Stream, dial};
use tailhop::words::clock::Clock;
use tailhop::words::outcome::{Failure, Kind, Phase};
use tailhop::words::verdict::Tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::support::tailscaled::{Proxy, SUFFIX, Tailscaled};

const WAYS: [DialWay; 3] = [DialWay::LocalApi, DialWay::HttpConnect, DialWay::Socks5];

/// Longer than anything that is expected to end.
const AMPLE: Duration = Duration::from_secs(10);

/// Short, and long enough for a busy machine to have asked.
const SHORT: Duration = Duration::from_millis(300);

// What a dial comes to, for each way.

#[tokio::test]
async fn every_way_carries_bytes_both_ways() {
    for way in WAYS {
        let mac = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        let own = watched(&fake, way).await;
        let full = format!("MacBook-M1.{SUFFIX}.");
        for host in ["macbook-m1", &full, "100.64.0.11"] {
            let stream = dial(&own.tailnet, host, 11434, AMPLE).await.unwrap();
            assert_eq!(echoed(stream, b"ask").await, "ask", "{way:?} {host}");
        }
        let asked = fake.dialled();
        let name = format!("{} macbook-m1.{SUFFIX}:11434", way.as_str());
        let ip = format!("{} 100.64.0.11:11434", way.as_str());
        assert_eq!(asked, [name.clone(), name, ip]);
    }
}

#[tokio::test]
async fn a_closed_port_is_a_refusal() {
    for (way, said) in [
        (
            DialWay::LocalApi,
            "502 dial failure: connect tcp 100.64.0.11:11434: connection was refused",
        ),
        (
            DialWay::HttpConnect,
            "500 connect tcp 100.64.0.11:11434: connection was refused",
        ),
        (DialWay::Socks5, "answered 1"),
    ] {
        let fake = Tailscaled::start().await;
        fake.refuse("macbook-m1");
        let failure = failed(&watched(&fake, way).await, "macbook-m1", AMPLE).await;
        assert_eq!(failure.kind, Kind::Refused, "{way:?}");
        assert!(failure.detail.ends_with(said), "{way:?} {failure}");
    }
}

#[tokio::test]
async fn a_name_that_tailscaled_does_not_know_is_unknown() {
    for (way, said) in [
        (
            DialWay::LocalApi,
            "502 resolve failure: lookup nosuch on 10.0.0.2:53: no such host",
        ),
        (
            DialWay::HttpConnect,
            "500 lookup nosuch.tail1234.ts.net on 10.0.0.2:53: no such host",
        ),
        (DialWay::Socks5, "answered 1"),
    ] {
        let fake = Tailscaled::start().await;
        fake.refuse("macbook-m1");
        fake.unknown("macbook-m1");
        let failure = failed(&watched(&fake, way).await, "nosuch", AMPLE).await;
        assert_eq!(failure.kind, Kind::UnknownName, "{way:?}");
        assert!(failure.detail.ends_with(said), "{way:?} {failure}");
    }
}

#[tokio::test]
async fn nothing_outside_the_tailnet_is_ever_dialled() {
    for way in WAYS {
        let outside = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.outside("elsewhere", outside.place.ip());
        fake.outside("elsewhere.example", outside.place.ip());
        let own = watched(&fake, way).await;
        for host in [
            "127.0.0.1",
            "localhost",
            "::ffff:127.0.0.1",
            "[::1]",
            "elsewhere.example",
        ] {
            let port = outside.place.port();
            let failure = dial(&own.tailnet, host, port, AMPLE).await.unwrap_err();
            assert_eq!(failure.kind, Kind::NotInTailnet, "{way:?} {host}");
        }
        assert_eq!(outside.met.load(Ordering::SeqCst), 0, "{way:?}");
        assert!(fake.left_by_host().is_empty(), "{way:?}");
        // LocalAPI may be asked, as it tells; the proxies would have dialled.
        let asked = fake.dialled();
        match way {
            DialWay::LocalApi => {
                let name = format!("localapi elsewhere.example:{}", outside.place.port());
                assert_eq!(asked, [name]);
            }
            _ => assert!(asked.is_empty(), "{asked:?}"),
        }
    }
}

#[tokio::test]
async fn the_fake_leaks_as_the_real_one_does() {
    let outside = Mac::start().await;
    let fake = Tailscaled::start().await;
    let place = outside.place;
    let mut io = tokio::net::TcpStream::connect(fake.settings(DialWay::Auto).proxy)
        .await
        .unwrap();
    let ask = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
    io.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(
        (&answer, fake.left_by_host()),
        (b"HTTP/1.1 200 OK", vec![place])
    );
}

#[tokio::test]
async fn a_mac_that_is_asleep_is_silence_at_our_deadline() {
    for way in WAYS {
        let fake = Tailscaled::start().await;
        fake.silence("macbook-m1");
        let own = watched(&fake, way).await;
        let began = Instant::now();
        let failure = failed(&own, "macbook-m1", SHORT).await;
        assert_eq!(failure.kind, Kind::Silent, "{way:?}");
        assert!(began.elapsed() >= SHORT, "{way:?}");
        let detail = format!("waited 300ms for tailscaled to reach macbook-m1.{SUFFIX}:11434");
        assert_eq!(failure.detail, detail, "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_mac_ends_a_socks_dial_after_5_s_and_no_other() {
    for (way, seconds) in [
        (DialWay::LocalApi, 10),
        (DialWay::HttpConnect, 10),
        (DialWay::Socks5, 5),
    ] {
        let fake = Tailscaled::start().await;
        fake.silence("macbook-m1");
        let own = watched(&fake, way).await;
        let began = Instant::now();
        assert_eq!(
            failed(&own, "macbook-m1", AMPLE).await.kind,
            Kind::Silent,
            "{way:?}"
        );
        assert_eq!(began.elapsed().as_secs(), seconds, "{way:?}");
    }
}

#[tokio::test]
async fn a_dial_that_waits_while_the_mac_wakes_succeeds() {
    for way in WAYS {
        let mac = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        fake.silence("macbook-m1");
        let own = watched(&fake, way).await;
        let mut open = fake.open();
        let (stream, ()) = tokio::join!(dial(&own.tailnet, "macbook-m1", 11434, AMPLE), async {
            open.wait_for(|open| *open == 1).await.unwrap();
            fake.wake("macbook-m1");
        });
        assert_eq!(echoed(stream.unwrap(), b"ask").await, "ask", "{way:?}");
    }
}

#[tokio::test]
async fn bytes_that_come_with_the_answer_are_delivered_first() {
    for way in WAYS {
        let mac = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        fake.greet("macbook-m1", b"hello ");
        let own = watched(&fake, way).await;
        let stream = dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
            .await
            .unwrap();
        assert_eq!(echoed(stream, b"ask").await, "hello ask", "{way:?}");
    }
}

#[tokio::test]
async fn a_dropped_dial_leaves_no_connection() {
    for way in WAYS {
        let fake = Tailscaled::start().await;
        fake.silence("macbook-m1");
        let own = watched(&fake, way).await;
        let mut open = fake.open();
        {
            let mut waiting = Box::pin(dial(&own.tailnet, "macbook-m1", 11434, AMPLE));
            tokio::select! {
                _ = &mut waiting => panic!("a silent Mac answered"),
                begun = open.wait_for(|open| *open == 1) => drop(begun.unwrap()),
            }
        }
        ended(open.wait_for(|open| *open == 0)).await.unwrap();
    }
}

#[tokio::test]
async fn a_dropped_stream_leaves_no_connection() {
    for way in WAYS {
        let mac = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        let own = watched(&fake, way).await;
        let mut open = fake.open();
        drop(
            dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
                .await
                .unwrap(),
        );
        ended(open.wait_for(|open| *open == 0)).await.unwrap();
    }
}

// What becomes of tailscaled.

#[tokio::test]
async fn a_tailscaled_that_is_absent_at_start_is_told_and_found_when_it_comes() {
    for way in WAYS {
        let mac = Mac::start().await;
        let mut fake = Tailscaled::absent();
        fake.serve("macbook-m1", 11434, mac.place);
        let own = Own::watch(fake.settings(way));
        own.until_told("nobody listens on").await;
        let failure = failed(&own, "macbook-m1", AMPLE).await;
        assert_eq!(failure.kind, Kind::DaemonAbsent, "{way:?} {failure}");
        fake.begin().await;
        own.until(Tunnel::Up).await;
        let stream = dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
            .await
            .unwrap();
        assert_eq!(echoed(stream, b"ask").await, "ask", "{way:?}");
    }
}

#[tokio::test]
async fn a_socket_that_is_present_but_dead_is_an_absent_tailscaled() {
    for way in WAYS {
        let mut fake = Tailscaled::start().await;
        fake.refuse("macbook-m1");
        let own = watched(&fake, way).await;
        fake.stop().await;
        // The first dial finds out, the poke spreads it.
        assert_eq!(
            failed(&own, "macbook-m1", AMPLE).await.kind,
            Kind::DaemonAbsent,
            "{way:?}"
        );
        own.until(Tunnel::Starting).await;
        assert_eq!(
            failed(&own, "macbook-m1", AMPLE).await.kind,
            Kind::DaemonAbsent,
            "{way:?}"
        );
        // Dead from the start is the same.
        let late = Own::watch(fake.settings(way));
        late.until_told("nobody listens on").await;
        assert_eq!(
            failed(&late, "macbook-m1", AMPLE).await.kind,
            Kind::DaemonAbsent,
            "{way:?}"
        );
    }
}

#[tokio::test]
async fn a_tailscaled_that_waits_for_an_operator_is_off_and_the_remedy_is_told() {
    for way in WAYS {
        for (state, remedy) in [
            ("NeedsLogin", "run `tailscale up`"),
            ("NeedsMachineAuth", "approve it in the admin console"),
            ("Stopped", "run `tailscale up`"),
        ] {
            let fake = Tailscaled::start().await;
            fake.backend_state(state);
            let own = Own::watch(fake.settings(way));
            own.until(Tunnel::Off).await;
            let failure = failed(&own, "macbook-m1", AMPLE).await;
            assert_eq!(failure.kind, Kind::NotLoggedIn, "{way:?} {state}");
            assert!(failure.detail.contains(remedy), "{failure}");
            assert!(failure.detail.contains(state), "{failure}");
            assert!(fake.dialled().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_and_a_logout_are_noticed_within_a_round() {
    let fake = Tailscaled::start().await;
    fake.refuse("macbook-m1");
    fake.backend_state("NeedsLogin");
    let own = Own::watch(fake.settings(DialWay::LocalApi));
    own.until(Tunnel::Off).await;
    fake.backend_state("Starting");
    own.until(Tunnel::Starting).await;
    assert_eq!(
        failed(&own, "macbook-m1", AMPLE).await.kind,
        Kind::DaemonStarting
    );
    fake.backend_state("Running");
    own.until(Tunnel::Up).await;
    let began = Instant::now();
    fake.backend_state("Stopped");
    own.until(Tunnel::Off).await;
    assert!(
        began.elapsed() <= Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_tailscaled_that_restarts_with_another_address_is_used_again() {
    for way in WAYS {
        let mac = Mac::start().await;
        let mut fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        let own = watched(&fake, way).await;
        assert_eq!(own.tailnet.view().self_ips[0].to_string(), "100.64.0.3");
        fake.restart_elsewhere().await;
        let stream = dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
            .await
            .unwrap();
        assert_eq!(echoed(stream, b"ask").await, "ask", "{way:?}");
        own.tailnet.poke();
        own.until_view(|view| view.self_ips[0].to_string() == "100.64.0.77")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_localapi_that_hangs_hangs_nobody() {
    let fake = Tailscaled::start().await;
    fake.refuse("macbook-m1");
    fake.hang_status(true);
    let own = Own::watch(fake.settings(DialWay::LocalApi));
    own.until_told("does not answer").await;
    assert_eq!(
        failed(&own, "macbook-m1", AMPLE).await.kind,
        Kind::DaemonStarting
    );
    fake.hang_status(false);
    own.until(Tunnel::Up).await;
    // A tunnel that was up outlives two silent rounds: dials work meanwhile.
    fake.hang_status(true);
    let began = Instant::now();
    own.until(Tunnel::Starting).await;
    assert!(
        began.elapsed() > Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn failing_dials_do_not_make_a_storm_of_questions() {
    let fake = Tailscaled::start().await;
    let own = watched(&fake, DialWay::LocalApi).await;
    let before = fake.statuses();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(failed(&own, "nosuch", AMPLE).await.kind, Kind::UnknownName);
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let asked = fake.statuses() - before;
    assert!((1..=4).contains(&asked), "{asked}");
}

// Which way is taken.

#[tokio::test]
async fn auto_takes_localapi_else_http_connect_else_socks5() {
    for (socket, proxy, way) in [
        (true, Proxy::Both, DialWay::LocalApi),
        (false, Proxy::Both, DialWay::HttpConnect),
        (false, Proxy::Http, DialWay::HttpConnect),
        (false, Proxy::Socks, DialWay::Socks5),
    ] {
        let mac = Mac::start().await;
        let fake = Tailscaled::start().await;
        fake.serve("macbook-m1", 11434, mac.place);
        fake.proxy_speaks(proxy);
        if !socket {
            fake.hide_socket();
        }
        let own = Own::watch(Settings {
            suffix: Some(SUFFIX.into()),
            ..fake.settings(DialWay::Auto)
        });
        own.until(Tunnel::Up).await;
        assert_eq!(own.tailnet.view().way, Some(way));
        let stream = dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
            .await
            .unwrap();
        assert_eq!(echoed(stream, b"ask").await, "ask", "{way:?}");
        assert!(
            fake.dialled()[0].starts_with(way.as_str()),
            "{:?}",
            fake.dialled()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_port_that_accepts_and_says_nothing_is_not_ready() {
    let fake = Tailscaled::start().await;
    fake.proxy_speaks(Proxy::Nothing);
    fake.hide_socket();
    for way in [DialWay::HttpConnect, DialWay::Socks5] {
        fake.proxy_speaks(Proxy::Nothing);
        let own = Own::watch(fake.settings(way));
        own.until_told("no answer to").await;
        assert_eq!(
            failed(&own, "macbook-m1", AMPLE).await.kind,
            Kind::DaemonStarting,
            "{way:?}"
        );
        fake.proxy_speaks(Proxy::Both);
        own.until(Tunnel::Up).await;
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_the_other_protocol_is_told_with_the_flag_that_is_missing() {
    for (way, proxy, flag) in [
        (
            DialWay::HttpConnect,
            Proxy::Socks,
            "--outbound-http-proxy-listen",
        ),
        (DialWay::Socks5, Proxy::Http, "--socks5-server"),
    ] {
        let fake = Tailscaled::start().await;
        fake.proxy_speaks(proxy);
        let own = Own::watch(fake.settings(way));
        own.until_told(flag).await;
        assert_eq!(failed(&own, "macbook-m1", AMPLE).await.kind, Kind::Tailnet);
    }
}

#[tokio::test]
async fn without_localapi_and_suffix_a_proxy_is_asked_for_nothing() {
    for way in [DialWay::HttpConnect, DialWay::Socks5] {
        let fake = Tailscaled::start().await;
        fake.refuse("macbook-m1");
        fake.hide_socket();
        let own = watched(&fake, way).await;
        let failure = failed(&own, "macbook-m1", AMPLE).await;
        assert_eq!(failure.kind, Kind::NotInTailnet);
        assert!(failure.detail.contains("set tailnet.name"), "{failure}");
        assert!(own.tailnet.view().detail.contains("set tailnet.name"));
        assert!(fake.dialled().is_empty());
    }
}

#[tokio::test]
async fn new_settings_replace_the_way_and_equal_ones_change_nothing() {
    let mac = Mac::start().await;
    let fake = Tailscaled::start().await;
    fake.serve("macbook-m1", 11434, mac.place);
    let own = Own::watch(fake.settings(DialWay::Direct));
    assert_eq!(own.tailnet.view().state, Tunnel::Up);
    for way in [DialWay::LocalApi, DialWay::Socks5, DialWay::HttpConnect] {
        own.tailnet.reconfigure(fake.settings(way));
        own.until_view(|view| view.way == Some(way)).await;
        dial(&own.tailnet, "macbook-m1", 11434, AMPLE)
            .await
            .unwrap();
    }
    let (view, statuses) = (own.tailnet.view(), fake.statuses());
    own.tailnet.reconfigure(fake.settings(DialWay::HttpConnect));
    tokio::task::yield_now().await;
    assert!(Arc::ptr_eq(&view, &own.tailnet.view()));
    assert_eq!(fake.statuses(), statuses);
    own.tailnet.reconfigure(fake.settings(DialWay::Direct));
    own.until_view(|view| view.way == Some(DialWay::Direct))
        .await;
}

// Without a tailnet.

#[tokio::test]
async fn direct_needs_no_tailscaled_and_tries_every_address_of_a_name() {
    let mac = Mac::start().await;
    let fake = Tailscaled::absent();
    let tailnet = Tailnet::new(fake.settings(DialWay::Direct), Clock::system());
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let stream = dial(&tailnet, host, mac.place.port(), AMPLE).await.unwrap();
        assert_eq!(echoed(stream, b"ask").await, "ask", "{host}");
    }
}

#[tokio::test]
async fn direct_tells_a_refusal_from_an_unknown_name() {
    let fake = Tailscaled::absent();
    let tailnet = Tailnet::new(fake.settings(DialWay::Direct), Clock::system());
    let closed = fake.settings(DialWay::Direct).proxy;
    // An empty label is no name to any resolver, so nothing is asked outside of this machine.
    for (host, kind) in [
        ("127.0.0.1", Kind::Refused),
        ("localhost", Kind::Refused),
        ("no..such", Kind::UnknownName),
        ("not a host", Kind::UnknownName),
    ] {
        let failure = dial(&tailnet, host, closed.port(), AMPLE)
            .await
            .unwrap_err();
        assert_eq!(
            (failure.kind, failure.phase),
            (kind, Phase::Unsent),
            "{host}: {failure}"
        );
    }
}

// Support.

/// A Mac's service on loopback that sends back what it gets, and counts who came.
struct Mac {
    place: SocketAddr,
    met: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Mac {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        let task = tokio::spawn(async move {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (mut from, mut to) = io.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        Self { place, met, task }
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A tailnet handle with its watching task, which ends with it.
struct Own {
    tailnet: Arc<Tailnet>,
    task: JoinHandle<()>,
}

impl Own {
    fn watch(settings: Settings) -> Self {
        let tailnet = Arc::new(Tailnet::new(settings, Clock::system()));
        let task = tokio::spawn(Arc::clone(&tailnet).watch());
        Self { tailnet, task }
    }

    async fn until(&self, state: Tunnel) {
        let mut changes = self.tailnet.changes();
        ended(changes.wait_for(|now| *now == state)).await.unwrap();
    }

    async fn until_told(&self, text: &str) {
        self.until_view(|view| view.detail.contains(text)).await;
    }

    /// There is no event for a view that changes within a state: looked at often.
    async fn until_view(&self, is: impl Fn(&tailhop::tailnet::View) -> bool) {
        ended(async {
            while !is(&self.tailnet.view()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watched(fake: &Tailscaled, way: DialWay) -> Own {
    let own = Own::watch(fake.settings(way));
    own.until(Tunnel::Up).await;
    own
}

async fn failed(own: &Own, host: &str, within: Duration) -> Failure {
    let failure = dial(&own.tailnet, host, 11434, within).await.unwrap_err();
    assert_eq!(failure.phase, Phase::Unsent);
    failure
}

/// Sends `text` and reads until as much came back as both sides have said.
async fn echoed(mut stream: Stream, text: &[u8]) -> String {
    stream.write_all(text).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(text) {
        assert_ne!(ended(stream.read_buf(&mut got)).await.unwrap(), 0);
    }
    String::from_utf8(got).unwrap()
}

async fn ended<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), event)
        .await
        .expect("the event came")
}
