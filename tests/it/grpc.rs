//! gRPC to Qdrant, from outside: what passes, where it goes, and what its client is told.

use bytes::Bytes;
use h2::Reason;

use crate::support::app::{LOCAL, Stage, stage_with};
use crate::support::client::Client;
use crate::support::grpc::{Act, Caller, Server, message};

mod faults;
mod tls;

const READ: &str = "/qdrant.Points/Search";
const WRITE: &str = "/qdrant.Points/Upsert";

/// The usual stage, with a gRPC server on each machine.
struct Scene {
    stage: Stage,
    servers: [Server; 2],
    caller: Caller,
}

async fn scene() -> Scene {
    scene_with("", &[]).await
}

async fn scene_with(more: &str, environment: &[(&str, &str)]) -> Scene {
    let servers = Server::pair();
    let port = servers[0].place().port();
    let own = format!(
        "{more}\nservices.qdrant.listen_grpc = \"127.0.0.1:0\"\nservices.qdrant.grpc_port = {port}"
    );
    let stage = stage_with(&own, environment).await;
    let caller = Caller::connect(stage.app.grpc()).await;
    Scene {
        stage,
        servers,
        caller,
    }
}

impl Scene {
    async fn ends_clean(self) {
        drop(self.caller);
        drop(self.servers);
        let Stage { app, .. } = self.stage;
        app.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_metadata_and_trailers_pass_as_they_came() {
    let scene = scene().await;
    let [mac, other] = &scene.servers;
    let answer = vec![message(b"one"), message(b"two")];
    mac.once(Act::Answer(answer.clone(), "0"));
    // Compressed messages are none of our business: flag 1 and whatever follows.
    let compressed = Bytes::from_static(b"\x01\x00\x00\x00\x03\x1f\x8b\x08");
    let headers = [
        ("grpc-timeout", "5S"),
        ("grpc-encoding", "gzip"),
        ("grpc-accept-encoding", "gzip"),
        ("api-key", "k"),
        ("x-bin-bin", "AAEC"),
        ("user-agent", "grpc-python"),
    ];
    let calling = (scene.caller).begin(READ, &headers, Some(compressed.clone()));
    let reply = calling.await.whole().await.unwrap();
    assert_eq!((reply.head.status().as_u16(), reply.status()), (200, "0"));
    assert_eq!(reply.body, answer.concat());
    assert_eq!(
        (reply.says("x-served"), reply.says("x-usage")),
        ("yes", "3")
    );
    assert_eq!(reply.says("x-tailhop-backend"), "m1");
    assert_eq!(reply.says("x-tailhop-reason"), "active:default");
    let came = &mac.came()[0];
    assert_eq!((came.path.as_str(), &came.body), (READ, &compressed));
    for (name, value) in headers.iter().chain(&[("te", "trailers")]) {
        assert_eq!(came.headers[*name], *value, "{name}");
    }
    assert_eq!(other.counts().calls, 0);
    let line = scene.stage.app.line().await;
    assert_eq!((line.method.as_ref(), line.path.as_ref()), ("POST", READ));
    assert_eq!((line.effect, line.op, line.status), ("read", "search", 200));
    assert_eq!((line.end, line.backend.as_ref()), ("complete", "m1"));
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn calls_share_one_connection() {
    let scene = scene().await;
    for round in 0..5 {
        let calls = (0..20).map(|_| scene.caller.call(READ, b"q"));
        for reply in join_all(calls).await {
            assert_eq!(reply.status(), "0", "{round}");
        }
    }
    let counts = scene.servers[0].counts();
    assert_eq!((counts.opened, counts.calls), (1, 100));
    scene.ends_clean().await;
}

async fn join_all<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        calls.retain_mut(|call| match call.as_mut().poll(cx) {
            std::task::Poll::Ready(reply) => {
                done.push(reply);
                false
            }
            std::task::Poll::Pending => true,
        });
        if calls.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

#[tokio::test(start_paused = true)]
async fn a_message_of_32_megabytes_passes_in_both_directions() {
    let scene = scene().await;
    let large: Vec<u8> = (0..32 << 20)
        .map(|place: u32| place.to_le_bytes()[1])
        .collect();
    let large = message(&large);
    scene.servers[0].once(Act::Answer(vec![large.clone()], "0"));
    let calling = scene.caller.begin(WRITE, &[], Some(large.clone())).await;
    let reply = calling.whole().await.unwrap();
    assert_eq!(reply.status(), "0");
    assert!(reply.body == large, "{} bytes came back", reply.body.len());
    assert!(scene.servers[0].came()[0].body == large);
    let line = scene.stage.app.line().await;
    assert_eq!(line.bytes_in, large.len() as u64);
    assert_eq!(line.bytes_out, large.len() as u64);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_the_call_leaves_goes_to_the_next_if_it_reads() {
    let mut scene = scene().await;
    scene.servers[0].die().await;
    let reply = scene.caller.call(READ, b"q").await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-backend")),
        ("0", "m2")
    );
    assert_eq!(reply.says("x-tailhop-reason"), "fallback:refused");
    let call = scene.caller.call(WRITE, b"w");
    let (reply, took) = scene.stage.time.run(call).await;
    assert_eq!(reply.status(), "14", "{reply:?}");
    assert!(took.as_secs() >= 3, "{took:?}");
    let text = reply.says("grpc-message");
    for words in [
        "a write for qdrant on m1 failed: refused",
        "Nothing was sent",
        "Request ",
    ] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(reply.says("x-tailhop-reason"), "refused");
    assert_eq!(scene.servers[1].counts().calls, 1);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn not_found_from_a_backend_that_is_not_active_is_no_answer() {
    for act in [Act::Only("5", "no such collection"), Act::Bare("5")] {
        let mut scene = scene().await;
        scene.servers[0].die().await;
        scene.servers[1].always(act.clone());
        let call = scene.caller.call(READ, b"q");
        let (reply, _) = scene.stage.time.run(call).await;
        assert_eq!(
            (reply.status(), reply.says("x-tailhop-reason")),
            ("14", "data-missing"),
            "{act:?}"
        );
        // The active one's own word counts.
        scene.servers[0].always(act.clone());
        scene.servers[0].listen().await;
        let call = scene.caller.call(READ, b"q");
        let (reply, _) = scene.stage.time.run(call).await;
        assert_eq!(
            (reply.status(), reply.says("x-tailhop-backend")),
            ("5", "m1"),
            "{act:?}"
        );
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_collection_does_not_exist_is_said_by_the_active_backend_only() {
    const EXISTS: &str = "/qdrant.Collections/CollectionExists";
    let no = Act::Answer(
        vec![message(b"\x0a\x00\x11\x00\x00\x00\x00\x00\x00\x00\x00")],
        "0",
    );
    let yes = Act::Answer(vec![message(b"\x0a\x02\x08\x01")], "0");
    let mut scene = scene().await;
    scene.servers[0].always(no.clone());
    assert_eq!(scene.caller.call(EXISTS, b"c").await.status(), "0");
    scene.servers[0].die().await;
    scene.servers[1].once(yes);
    let reply = scene
        .caller
        .call_with(EXISTS, &[("grpc-accept-encoding", "gzip")], b"c")
        .await;
    assert_eq!(reply.body, message(b"\x0a\x02\x08\x01"));
    assert!(
        !scene.servers[1].came()[0]
            .headers
            .contains_key("grpc-accept-encoding")
    );
    scene.servers[1].once(no);
    let call = scene.caller.call(EXISTS, b"c");
    let (reply, _) = scene.stage.time.run(call).await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-reason")),
        ("14", "data-missing")
    );
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_both_directions_passes_piece_by_piece() {
    const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let scene = scene().await;
    scene.servers[0].always(Act::Echo);
    let calling = scene.caller.begin(REFLECTION, &[], None).await;
    let (head, mut to) = {
        let mut calling = calling;
        calling.to.send_data(message(b"first"), false).unwrap();
        calling.coming().await.unwrap()
    };
    let mut body = head.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), message(b"first"));
    to.send_data(message(b"second"), false).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), message(b"second"));
    to.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_is_told_so() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = scene().await;
    let reply = scene
        .caller
        .call_with(READ, &[("content-type", "application/json")], b"{}")
        .await;
    assert_eq!(reply.head.status().as_u16(), 415);
    assert!(
        reply.says("grpc-message").contains("gRPC calls only"),
        "{reply:?}"
    );
    let mut plain = tokio::net::TcpStream::connect(scene.stage.app.grpc())
        .await
        .unwrap();
    plain
        .write_all(b"GET /collections HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    plain.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 505 "), "{text}");
    assert!(text.contains("gRPC only"), "{text}");
    drop(plain);
    assert_eq!(scene.servers[0].counts().opened, 0);
    let reply = scene.caller.call("/qdrant.Points/Search", b"").await;
    assert_eq!(reply.status(), "0", "the connection goes on");
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_refused_goes_again_to_the_same_backend_even_if_it_writes() {
    let scene = scene().await;
    scene.servers[0].once(Act::Reset(Reason::REFUSED_STREAM));
    let reply = scene.caller.call(WRITE, b"w").await;
    assert_eq!(
        (reply.status(), reply.says("x-tailhop-backend")),
        ("0", "m1")
    );
    assert_eq!(scene.servers[0].counts().calls, 2);
    assert_eq!(scene.servers[1].counts().calls, 0);
    scene.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn explain_and_status_say_what_becomes_of_a_call() {
    let scene = scene().await;
    let app = &scene.stage.app;
    let status = app.status().await;
    let mut services = status["services"].as_array().unwrap().iter();
    let qdrant = services.find(|one| one["name"] == "qdrant").unwrap();
    let address = &qdrant["listen_grpc"];
    assert_eq!(address, "127.0.0.1:0", "as the file says");
    let mut admin = Client::connect(app.admin).await;
    for (path, effect, reason) in [
        (READ, "read", "active:default"),
        (WRITE, "write", "active:default"),
        ("/qdrant.Points/Newer", "admin", "active:default"),
    ] {
        let target = format!("/explain?method=POST&path={path}");
        let said = admin.ask("GET", &target, &[LOCAL], b"").await.json();
        assert_eq!(said["effect"], effect, "{said:#}");
        assert_eq!(
            (&said["service"], &said["grpc"]),
            (&"qdrant".into(), address)
        );
        assert_eq!(said["upstream_path"], path);
        let reply = scene.caller.call(path, b"x").await;
        assert_eq!(
            reply.says("x-tailhop-backend"),
            said["candidates"][0]["backend"]
        );
        assert_eq!(reply.says("x-tailhop-reason"), reason);
        assert_eq!(said["candidates"][0]["reason"], reason);
    }
    scene.ends_clean().await;
}
