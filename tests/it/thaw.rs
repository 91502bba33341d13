//! A process that stood still: nothing that was answered meanwhile is thrown away, nothing that
//! went stale is used.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tailhop::words::clock::Clock;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::repair::{evidence, rests};
use crate::rescue::{Tailnet, tailnet};
use crate::support::app::{App, Macs, stage};
use crate::support::time::Held;
use crate::support::upstream::{Gate, answer};

const WRITE: &str = "/qdrant/collections/c/points";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_with_the_thaw_uses_no_connection_of_before() {
    let stage = stage("").await;
    let mac = &stage.macs.ollama[0];
    let mut client = stage.app.client().await;
    for _ in 0..2 {
        assert_eq!(
            client.ask("GET", "/ollama/api/ps", &[], b"").await.status(),
            200
        );
        stage.time.pass(3 * SECOND).await;
    }
    let seen = mac.seen();
    assert_eq!(
        seen[0].connection, seen[1].connection,
        "awake, it is reused"
    );
    for round in 2..6 {
        // The request lies in the socket when the process goes on; so do the beats of its clocks.
        client.request("GET", "/ollama/api/ps", &[], b"").await;
        stage.time.freeze(20 * SECOND).await;
        assert_eq!(client.coming("GET").await.whole().await.status(), 200);
        let seen = mac.seen();
        assert_ne!(
            seen[round].connection,
            seen[round - 1].connection,
            "round {round}"
        );
        stage.time.pass(SECOND).await;
    }
    stage.ends_clean().await;
}

/// An upstream on threads of its own, which goes on while the test's runtime stands still.
struct Outside {
    place: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    asked: usize,
    answers: bool,
    answered: usize,
}

impl Outside {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for io in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(answers(io.unwrap(), &shared)));
            }
        });
        Self { place, state }
    }

    fn asked(&self) -> usize {
        self.state.0.lock().unwrap().asked
    }

    /// Answers all that asked, and stops this thread until that is done.
    fn answer_while_we_stand_still(&self) {
        let (state, news) = &*self.state;
        let mut state = state.lock().unwrap();
        state.answers = true;
        news.notify_all();
        let done = |state: &mut State| state.answered < state.asked;
        drop(news.wait_while(state, done).unwrap());
    }
}

fn answers(mut io: TcpStream, (state, news): &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 1024];
        match io.read(&mut piece)? {
            0 => return Ok(()),
            n => head.extend(&piece[..n]),
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head);
        let ours = text.contains("user-agent: tailhop\r\n");
        let probe = ours || text.starts_with("GET /readyz") || text.starts_with("GET /api/version");
        head.clear();
        if !probe {
            let mut state = state.lock().unwrap();
            state.asked += 1;
            drop(news.wait_while(state, |state| !state.answers).unwrap());
        }
        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
        if !probe {
            state.lock().unwrap().answered += 1;
            news.notify_all();
        }
    }
}

/// 500 requests with a head bound of 2 s whose answers all came during a freeze of 10 s.
#[tokio::test(start_paused = true)]
async fn no_answer_that_came_during_a_freeze_is_thrown_away() {
    const EACH: usize = 250;
    let time = Held::hold();
    let (ollama, qdrant) = (Outside::start(), Outside::start());
    let app = App::start(&format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"direct\"\n\
         timeouts = {{ head = \"2s\", total = \"5s\" }}\n\
         backends.m1.host = \"127.0.0.1\"\n\
         services.ollama.port = {}\n\
         services.qdrant.port = {}\n",
        ollama.place.port(),
        qdrant.place.port(),
    ))
    .await;
    app.judged("qdrant", "m1", "up").await;
    let mut clients = Vec::new();
    for place in 0..2 * EACH {
        let target = ["/ollama/api/tags", "/qdrant/collections"][place % 2];
        let mut client = app.client().await;
        client.request("GET", target, &[], b"").await;
        clients.push(client);
    }
    crate::support::time::until("all were asked", || {
        ollama.asked() == EACH && qdrant.asked() == EACH
    })
    .await;
    ollama.answer_while_we_stand_still();
    qdrant.answer_while_we_stand_still();
    time.freeze(10 * SECOND).await;
    let mut got = Vec::new();
    for mut client in clients {
        got.push(client.coming("GET").await.whole().await.status());
    }
    let lost = got.iter().filter(|status| **status != 200).count();
    assert_eq!(lost, 0, "of {}", 2 * EACH);
    assert_eq!(
        (ollama.asked(), qdrant.asked()),
        (EACH, EACH),
        "and none was asked for twice"
    );
    app.stop().await;
}

/// The beats and timers of a process that goes on come before it has read its sockets.
#[tokio::test(start_paused = true)]
async fn an_answer_is_read_that_came_during_a_freeze_which_ended_after_its_bound() {
    let ms = Duration::from_millis;
    let stage = stage("timeouts.head = \"2s\"\n").await;
    // For how long it had waited, and how long the freeze was: it had no timer yet, its bound was
    // long over, it was about to give up.
    let rows = [
        (ms(30), ms(2500)),
        (ms(30), ms(60_000)),
        (ms(1900), ms(1000)),
    ];
    for (waited, frozen) in rows {
        let gate = Gate::closed();
        let mac = &stage.macs.qdrant[0];
        let before = mac.seen().len();
        mac.once(answer(200, &[], b"{}").behind(&gate));
        let mut waits = stage.app.client().await;
        waits.request("PUT", WRITE, &[], b"{}").await;
        mac.requests(before + 1).await;
        stage.time.pass(waited).await;
        stage.time.freeze(frozen).await;
        // Three beats.
        stage.time.pass(ms(60)).await;
        gate.pass();
        let answer = waits.coming("PUT").await.whole().await;
        assert_eq!(answer.status(), 200, "{waited:?} {frozen:?}");
        stage.time.pass(SECOND).await;
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_requests_after_a_freeze_wait_for_the_repair() {
    for frozen in [30, 130, 600] {
        let net = tailnet("").await;
        assert_eq!(net.app.get("/qdrant/collections").await.status(), 200);
        net.time.pass(6 * SECOND).await;
        net.fake.relay_dead();
        net.time.freeze(frozen * SECOND).await;
        let (read, write) = (
            net.app.get("/qdrant/collections"),
            net.app.ask("PUT", WRITE, b"{}"),
        );
        let ((read, write), took) = net.time.run(async { tokio::join!(read, write) }).await;
        assert_eq!(read.status(), 200, "{}", read.text());
        assert_eq!(
            (write.status(), write.backend()),
            (200, "m1"),
            "{}",
            write.text()
        );
        assert!(took < 2 * SECOND, "{frozen} {took:?}");
        assert_eq!(net.fake.repairs(), ["break-derp-conns"], "{frozen}");
        let metrics = net.app.metrics().await;
        assert_eq!(metrics.sum("tailhop_freezes_total", &[]), 1);
        net.ends_clean().await;
    }
}

/// What becomes of a read and a write that come with the thaw while no session is left.
async fn after_sessions_ended(net: &Tailnet, frozen: Duration) -> [(u16, Duration); 2] {
    assert_eq!(net.app.get("/qdrant/collections").await.status(), 200);
    net.time.pass(6 * SECOND).await;
    net.fake.sessions_over();
    net.time.freeze(frozen).await;
    let began = Instant::now();
    let read = async {
        let read = net.app.get("/qdrant/collections").await;
        (read.status(), began.elapsed())
    };
    let write = async {
        let write = net.app.ask("PUT", WRITE, b"{}").await;
        (write.status(), began.elapsed())
    };
    let ((read, write), _) = net.time.run(async { tokio::join!(read, write) }).await;
    [read, write]
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ended_in_a_freeze_are_made_anew_and_nothing_fails() {
    for frozen in [62, 200, 600] {
        let net = tailnet("").await;
        for (status, took) in after_sessions_ended(&net, frozen * SECOND).await {
            assert_eq!(status, 200);
            assert!(took < SECOND, "{frozen} {took:?}");
        }
        assert_eq!(net.fake.repairs(), ["down", "up"], "{frozen}: once for all");
        let found = [("finding", "session-renewed")];
        let found = net.counted("tailhop_tunnel_inquiries_total", &found).await;
        assert!((1..=2).contains(&found), "{found}");
        net.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_while_tailscaled_is_down_waits_for_it() {
    let net = tailnet("").await;
    net.time.pass(6 * SECOND).await;
    net.fake.sessions_over();
    // It takes three attempts until tailscaled is up again.
    net.fake.fail_ups(2);
    net.time.freeze(200 * SECOND).await;
    let began = Instant::now();
    let mut asked = JoinSet::new();
    for place in 0..100_u32 {
        let mut client = net.app.client().await;
        asked.spawn(async move {
            let asked = began + place * Duration::from_millis(10);
            sleep_until(asked).await;
            (client.ask("PUT", WRITE, &[], b"{}").await, asked.elapsed())
        });
    }
    let (answers, _) = net.time.run(asked.join_all()).await;
    for (answer, took) in answers {
        assert_eq!(answer.status(), 200, "{}", answer.text());
        // Three attempts, 0.2 s apart, and what a request waits at most.
        assert!(took < 4 * SECOND, "{took:?}");
    }
    assert_eq!(net.fake.repairs(), ["down", "up", "up", "up"]);
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_the_whole_machine_uses_is_not_taken_down() {
    let net = tailnet("").await;
    net.fake.has_interface();
    // The next look at tailscaled.
    net.time.pass(6 * SECOND).await;
    let [(_, read), (status, _)] = after_sessions_ended(&net, 200 * SECOND).await;
    assert!(read > SECOND, "{read:?}");
    assert_eq!(status, 503, "the write");
    assert_eq!(net.fake.repairs(), [""; 0]);
    net.fake.sessions_back();
    net.app.judged("qdrant", "m1", "up").await;
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_tailscaled_that_may_not_be_changed_is_asked_once() {
    let net = tailnet("").await;
    net.fake.forbid_debug();
    let [_, (status, _)] = after_sessions_ended(&net, 200 * SECOND).await;
    assert_eq!(status, 503, "the write");
    assert_eq!(net.fake.repairs(), ["down"]);
    net.fake.sessions_back();
    net.app.judged("qdrant", "m1", "up").await;
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn macs_that_woke_during_a_freeze_behind_a_dead_relay_are_found() {
    let net = tailnet("").await;
    net.fake.silence("m1");
    net.fake.silence("m2");
    net.time.pass_long(60 * SECOND).await;
    assert_eq!(
        evidence(&net.app, "qdrant", "m1").await,
        rests("asleep", "ping-silent")
    );
    net.fake.relay_dead();
    net.fake.wake("m1");
    net.fake.wake("m2");
    net.time.freeze(600 * SECOND).await;
    let (write, took) = net.time.run(net.app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!(
        (write.status(), write.backend()),
        (200, "m1"),
        "{}",
        write.text()
    );
    assert!(took < 2 * SECOND, "{took:?}");
    net.ends_clean().await;
}

/// Sets the clock of a running app by an hour; requests, their bounds, probes and the schedule go on.
async fn a_clock_set_by(seconds: i64, freezes: usize) {
    static OFFSETS: [AtomicI64; 2] = [AtomicI64::new(0), AtomicI64::new(0)];
    let offset = &OFFSETS[usize::from(seconds > 0)];
    let noon = "2026-03-10T12:00:00Z".parse().unwrap();
    let time = Held::hold();
    let mut macs = Macs::start().await;
    // Half an hour ago and in half an hour: either way an hour passes one of them.
    let toml = macs.toml(
        "timeouts.total = \"5s\"\n\
         schedule.default = \"m1\"\n\
         schedule.timezone = \"UTC\"\n\
         schedule.switch = [\n\
           { at = 2026-03-10T11:30:00Z, to = \"m2\" },\n\
           { at = 2026-03-10T12:30:00Z, to = \"m1\" },\n\
         ]\n",
    );
    let app = App::start_with(&toml, &[], Clock::set_by(noon, offset)).await;
    for backend in ["m1", "m2"] {
        app.judged("qdrant", backend, "up").await;
    }
    assert_eq!(app.get("/qdrant/collections").await.backend(), "m2");
    let gate = Gate::closed();
    macs.qdrant[1].once(answer(200, &[], b"{}").behind(&gate));
    let mut waits = app.client().await;
    waits.request("GET", "/qdrant/collections", &[], b"").await;
    macs.qdrant[1].requests(2).await;

    offset.store(seconds, Ordering::Relaxed);
    time.pass(3 * SECOND).await;
    gate.pass();
    let answer = time.run(async { waits.coming("GET").await.whole().await });
    let answer = answer.await.0;
    assert_eq!(
        (answer.status(), answer.backend()),
        (200, "m2"),
        "it stayed"
    );
    let read = app.get("/qdrant/collections").await;
    assert_eq!((read.status(), read.backend()), (200, "m1"), "the schedule");
    let metrics = app.metrics().await;
    assert_eq!(metrics.sum("tailhop_freezes_total", &[]), freezes);
    // Bounds are of monotonic time.
    macs.all_refuse(0).await;
    let refused = time.run(app.ask("PUT", WRITE, b"{}")).await;
    assert_eq!(refused.0.status(), 503);
    let took = refused.1;
    assert!((3 * SECOND..SECOND * 9 / 2).contains(&took), "{took:?}");
    time.run(app.judged("qdrant", "m1", "down")).await;
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_an_hour_changes_the_schedule_alone() {
    a_clock_set_by(-3600, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_an_hour_looks_like_a_machine_that_was_suspended() {
    a_clock_set_by(3600, 1).await;
}
