//! What breaks: connections, messages, machines, and clients that do not behave.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tailhop::words::clock::Clock;

use super::{READ, WRITE, join_all, scene};
use crate::rescue::tailnet;
use crate::support::app::App;
use crate::support::grpc::{Act, Caller, Server, message};
use crate::support::time::{soon, until};

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_told_as_unknown_and_never_sent_again() {
    for act in [Act::Hang, Act::Reset(Reason::INTERNAL_ERROR)] {
        let scene = scene().await;
        scene.servers[0].once(act.clone());
        let reply = scene.caller.call(WRITE, b"w").await;
        assert_eq!(reply.status(), "4", "{reply:?}");
        assert_eq!(reply.says("x-tailhop-reason"), "outcome-unknown", "{act:?}");
        let text = reply.says("grpc-message");
        assert!(text.contains("Outcome unknown"), "{text}");
        assert_eq!(reply.says("grpc-retry-pushback-ms"), "-1");
        let calls = scene.servers.each_ref().map(|server| server.counts().calls);
        assert_eq!(calls, [1, 0], "{act:?}");
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_connection_breaks_is_answered_all_the_same() {
    for act in [Act::Hang, Act::Reset(Reason::INTERNAL_ERROR)] {
        let scene = scene().await;
        scene.servers[0].always(act.clone());
        let reply = scene.caller.call(READ, b"q").await;
        assert_eq!(
            (reply.status(), reply.says("x-tailhop-backend")),
            ("0", "m2"),
            "{act:?}"
        );
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_never_ends_as_if_it_were_whole() {
    for act in [Act::Cut, Act::EndEarly, Act::NoStatus] {
        let scene = scene().await;
        scene.servers[0].once(act.clone());
        let reply = scene.caller.call(READ, b"q").await;
        assert!(!["0", ""].contains(&reply.status()), "{act:?} {reply:?}");
        let line = scene.stage.app.line().await;
        assert!(
            ["truncated", "broken"].contains(&line.end),
            "{act:?} {line:?}"
        );
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_its_client_cuts_costs_no_dial() {
    let scene = scene().await;
    let half = message(&[7; 100]).slice(..50);
    let calling = scene.caller.begin(WRITE, &[], Some(half)).await;
    let reply = calling.whole().await.unwrap();
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-reason")),
        ("3", "client-body"),
        "{reply:?}"
    );
    assert_eq!(scene.servers[0].counts().opened, 0);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_a_goaway_leaves_out_goes_again_to_the_same_backend() {
    let scene = scene().await;
    scene.servers[0].turn_away();
    let reply = scene.caller.call(WRITE, b"w").await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-backend")),
        ("0", "m1"),
        "{reply:?}"
    );
    let counts = scene.servers[0].counts();
    assert_eq!((counts.opened, counts.calls), (2, 1));
    assert_eq!(scene.servers[1].counts().opened, 0);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_when_a_goaway_comes_ends_and_what_is_new_goes_elsewhere() {
    let scene = scene().await;
    scene.servers[0].once(Act::Echo);
    let calling = scene.caller.begin(REFLECTION, &[], None).await;
    let (head, mut to) = calling.coming().await.unwrap();
    scene.servers[0].go_away();
    let mut body = head.into_body();
    to.send_data(message(b"on"), false).unwrap();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), message(b"on"));
    assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
    assert_eq!(
        scene.servers[0].counts().opened,
        2,
        "a new call, a new connection"
    );
    to.send_data(Bytes::new(), true).unwrap();
    assert!(soon(body.data()).await.is_none());
    assert_eq!(
        soon(body.trailers()).await.unwrap().unwrap()["grpc-status"],
        "0"
    );
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn another_connection_is_opened_when_streams_run_out() {
    let scene = scene().await;
    scene.servers[0].streams(2);
    assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
    scene.servers[0].once(Act::Silence);
    scene.servers[0].once(Act::Silence);
    let waiting = [
        scene.caller.begin(READ, &[], Some(message(b"1"))).await,
        scene.caller.begin(READ, &[], Some(message(b"2"))).await,
    ];
    scene.servers[0].reaches(|counts| counts.calls == 3).await;
    assert_eq!(scene.servers[0].counts().opened, 1);
    assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
    assert_eq!(scene.servers[0].counts().opened, 2);
    drop(waiting);
    scene.servers[0].reaches(|counts| counts.resets == 2).await;
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_resets_its_own_call_and_nothing_else() {
    let scene = scene().await;
    scene.servers[0].once(Act::Silence);
    let calling = scene.caller.begin(READ, &[], Some(message(b"q"))).await;
    scene.servers[0].reaches(|counts| counts.calls == 1).await;
    drop(calling);
    scene.servers[0].reaches(|counts| counts.resets == 1).await;
    assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
    let counts = scene.servers[0].counts();
    assert_eq!((counts.opened, counts.open), (1, 1));
    let ends = scene.stage.app.lines_after(2).await;
    assert!(
        ends.iter().any(|line| line.end == "client-abort"),
        "{ends:?}"
    );
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_ping_is_not_answered_is_given_up() {
    for (path, status, backend) in [(READ, "0", "m2"), (WRITE, "4", "")] {
        let scene = scene().await;
        scene.servers[0].once(Act::Freeze);
        let call = scene.caller.call(path, b"q");
        let (reply, took) = scene.stage.time.run(call).await;
        assert_eq!(
            (reply.status(), reply.says("x-tailhop-backend")),
            (status, backend),
            "{reply:?}"
        );
        assert!(took < 17 * SECOND, "{took:?}");
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_not_put_on_a_connection_that_answers_no_ping() {
    let scene = scene().await;
    scene.servers[0].once(Act::Freeze);
    let lost = scene.caller.begin(READ, &[], Some(message(b"q"))).await;
    scene.servers[0].reaches(|counts| counts.calls == 1).await;
    scene.stage.time.pass(3 * SECOND).await;
    let call = scene.caller.call(WRITE, b"w");
    let (reply, took) = scene.stage.time.run(call).await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-backend")),
        ("0", "m1"),
        "{reply:?}"
    );
    assert!(took < SECOND, "{took:?}");
    assert_eq!(scene.servers[0].counts().opened, 2);
    drop(lost);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_freeze_no_connection_of_before_gets_a_call() {
    let scene = scene().await;
    assert_eq!(scene.caller.call(WRITE, b"w").await.status(), "0");
    scene.stage.time.freeze(20 * SECOND).await;
    assert_eq!(scene.caller.call(WRITE, b"w").await.status(), "0");
    assert_eq!(scene.servers[0].counts().opened, 2);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_machine_that_falls_asleep_are_rescued_or_told() {
    let net = tailnet("services.qdrant.listen_grpc = \"127.0.0.1:0\"").await;
    let servers = [Server::start(), Server::start()];
    for (server, name) in servers.iter().zip(["m1", "m2"]) {
        net.fake.serve(name, 6334, server.place());
    }
    let caller = Caller::connect(net.app.grpc()).await;
    let (first, _) = net.time.run(caller.call(READ, b"q")).await;
    assert_eq!(first.says("x-tailhop-backend"), "m1");
    net.time.pass(5 * SECOND).await;
    servers[0].always(Act::Silence);
    let both = [READ, WRITE].map(|path| caller.call(path, b"x"));
    let told = async {
        servers[0].reaches(|counts| counts.calls == 3).await;
        net.fake.silence("m1");
    };
    let replies = net
        .time
        .run(async { tokio::join!(join_all(both.into_iter()), told) });
    let ((mut replies, ()), took) = replies.await;
    assert!(took < 8 * SECOND, "{took:?}");
    replies.sort_by_key(|reply| reply.status().to_owned());
    let told: Vec<_> = replies
        .iter()
        .map(|reply| (reply.status(), reply.says("x-tailhop-reason")))
        .collect();
    assert_eq!(told, [("0", "fallback:lost"), ("4", "outcome-unknown")]);
    assert_eq!(servers[1].counts().calls, 1, "the write went nowhere else");
    drop((caller, servers));
    net.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_client_ends_its_call() {
    for (path, words) in [(READ, "in time"), (WRITE, "Outcome unknown")] {
        let scene = scene().await;
        scene.servers[0].once(Act::Silence);
        let call = scene
            .caller
            .call_with(path, &[("grpc-timeout", "1500m")], b"x");
        let (reply, took) = scene.stage.time.run(call).await;
        assert_eq!(reply.status(), "4", "{reply:?}");
        assert!(reply.says("grpc-message").contains(words), "{reply:?}");
        assert!((SECOND..2 * SECOND).contains(&took), "{took:?}");
        scene.servers[0].reaches(|counts| counts.resets == 1).await;
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_draining_what_runs_ends_and_nothing_new_begins() {
    let mut scene = scene().await;
    scene.servers[0].once(Act::Echo);
    let calling = scene.caller.begin(REFLECTION, &[], None).await;
    let (head, mut to) = calling.coming().await.unwrap();
    scene.stage.app.drain();
    let place = scene.stage.app.grpc();
    until("it listens no more", || {
        std::net::TcpStream::connect(place).is_err()
    })
    .await;
    let mut body = head.into_body();
    to.send_data(message(b"on"), true).unwrap();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), message(b"on"));
    assert!(soon(body.data()).await.is_none());
    assert_eq!(
        soon(body.trailers()).await.unwrap().unwrap()["grpc-status"],
        "0"
    );
    scene.caller.closed().await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_token_is_asked_for_and_never_goes_upstream() {
    let server = Server::start();
    let toml = format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\", token = {{ env = \"T\" }} }}\n\
         tailnet.dial = \"direct\"\nbackends.m1.host = \"127.0.0.1\"\n\
         services.qdrant = {{ listen_grpc = \"127.0.0.1:0\", grpc_port = {} }}\n",
        server.place().port()
    );
    let app = App::start_with(&toml, &[("T", "canary")], Clock::system()).await;
    let caller = Caller::connect(app.grpc()).await;
    let reply = caller.call(READ, b"q").await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-reason")),
        ("16", "unauthorized")
    );
    assert_eq!(server.counts().opened, 0);
    let reply = caller.call_with(READ, &[("api-key", "canary")], b"q").await;
    assert_eq!(reply.status(), "0");
    assert!(!server.came()[0].headers.contains_key("api-key"));
    drop((caller, server));
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_floods_is_cut_off_and_the_others_are_served() {
    // SETTINGS, PING, and calls that are reset at once.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0].repeat(50_000);
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(50_000);
    for flood in [settings, ping] {
        let scene = scene().await;
        let mut stream = TcpStream::connect(scene.stage.app.grpc()).await.unwrap();
        let mut bytes =
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
        bytes.extend(flood);
        let (mut from, mut to) = stream.split();
        let flooded = async {
            let _ = to.write_all(&bytes).await;
            let mut rest = Vec::new();
            let _ = from.read_to_end(&mut rest).await;
        };
        let served = async {
            for _ in 0..20 {
                assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
            }
        };
        soon(async { tokio::join!(flooded, served) }).await;
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_begins_and_resets_calls_without_end_is_told_to_calm_down() {
    let scene = scene().await;
    scene.servers[0].always(Act::Silence);
    let mut flooding = Caller::connect(scene.stage.app.grpc()).await;
    let mut begun = 0;
    while begun < 5000 {
        let Ok(mut sender) = flooding.sender.clone().ready().await else {
            break;
        };
        let request = http::Request::post(format!("http://x{READ}"))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let Ok((_, mut to)) = sender.send_request(request, false) else {
            break;
        };
        // So that it is looked at before it is reset.
        tokio::task::yield_now().await;
        to.send_reset(Reason::CANCEL);
        begun += 1;
    }
    assert!(begun < 5000, "it was never told");
    flooding.closed().await;
    scene.servers[0].always(Act::Answer(vec![message(b"well")], "0"));
    assert_eq!(scene.caller.call(READ, b"q").await.status(), "0");
    scene.ends_clean().await;
}
