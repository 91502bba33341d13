//! Unary gRPC calls, by HTTP/2 with prior knowledge: the origin that answers them, and a load of them.
//!
//! By h2 alone, as a library of gRPC would cost more than the proxy and measure nothing.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Aim;
use super::load::{Tally, take_one};
use super::ready;

/// A search of usual size, and its answer: what is in a message is nobody's business here.
const MESSAGE: usize = 250;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Answers every call of a connection with one message.
pub(crate) async fn converse(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    // A client may leave as it likes, and without a word.
    let Ok(mut connection) = server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let came = length(request.into_body()).await?.0;
    let code = if came == PREFIX + MESSAGE { "0" } else { "13" };
    let head = Response::builder().header("content-type", "application/grpc");
    let mut answer = respond.send_response(head.body(()).ok()?, false).ok()?;
    answer.send_data(message(), false).ok()?;
    let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static(code))]);
    answer.send_trailers(trailers).ok()
}

/// A message with its prefix, not compressed.
fn message() -> Bytes {
    let length = u32::try_from(MESSAGE).unwrap().to_be_bytes();
    let text = (0..MESSAGE).map(|at| u8::try_from(at).unwrap());
    [0].into_iter().chain(length).chain(text).collect()
}

/// How long a body is, and its trailers; `None`: it broke.
async fn length(mut body: RecvStream) -> Option<(usize, Option<HeaderMap>)> {
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let count = piece.ok()?.len();
        body.flow_control().release_capacity(count).ok()?;
        length += count;
    }
    Some((length, body.trailers().await.ok()?))
}

/// `calls` calls of the method at the aim's target over `connections` connections, on each of which
/// `at_once` are under way.
pub(crate) async fn counted(aim: Aim, connections: usize, at_once: usize, calls: usize) {
    let target = format!("http://{}{}", aim.to, aim.target);
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = open(&aim).await;
        let answered = ask(client.clone(), &target).await;
        answered.expect("the proxy answers with status 0");
        clients.extend(vec![client; at_once]);
    }
    ready();
    let begun = Instant::now();
    let left = Arc::new(AtomicUsize::new(calls));
    let tally = Arc::<Mutex<Tally>>::default();
    let mut running = JoinSet::new();
    for client in clients {
        let (target, left, tally) = (target.clone(), Arc::clone(&left), Arc::clone(&tally));
        running.spawn(async move {
            while take_one(&left) {
                let began = Instant::now();
                let answered = ask(client.clone(), &target).await;
                tally.lock().unwrap().count(began, answered);
            }
        });
    }
    running.join_all().await;
    tally.lock().unwrap().tell(begun.elapsed());
}

async fn open(aim: &Aim) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(aim.to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = client::handshake(stream).await.unwrap();
    // It ends with the last client.
    tokio::spawn(connection);
    client
}

/// Calls once, as the usual clients do; `None`: no answer, or one without a message or status 0.
async fn ask(client: SendRequest<Bytes>, target: &str) -> Option<usize> {
    let request = Request::post(target)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .header("grpc-accept-encoding", "identity, deflate, gzip")
        .header(
            "user-agent",
            "grpc-python/1.85.3 grpc-c/50.0.0 (linux; chttp2)",
        )
        .body(())
        .ok()?;
    let mut client = client.ready().await.ok()?;
    let (answer, mut body) = client.send_request(request, false).ok()?;
    body.send_data(message(), true).ok()?;
    let (came, trailers) = length(answer.await.ok()?.into_body()).await?;
    let well = came == PREFIX + MESSAGE && trailers?.get(STATUS)? == "0";
    well.then_some(came)
}
