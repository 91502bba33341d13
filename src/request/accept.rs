//! Accepts the app's connections and speaks HTTP/1 on them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::door::Door;
use super::head_timer::HeadTimer;
use super::peer::Peer;
use super::places::Places;
use super::record::Record;
use super::rules::Refusal;
use super::{Proxy, flow, grpc, respond};
use crate::words::clock::Pulse;

/// A client that began no request for so long is closed, and so is one that does not end its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Bounds what one request's head may hold in memory. hyper's own default is 408 KiB.
const READ_BUFFER_MAX: usize = 64 * 1024;
/// After an accept that failed (descriptors used up): what runs may free some meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between looks at idle upstream connections.
const SWEEP: Duration = Duration::from_secs(5);

/// Serves `listener` until `draining` turns true; returns when the last request has ended. The
/// caller bounds how long that may take.
pub async fn serve(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    door: Door,
    mut draining: watch::Receiver<bool>,
) {
    let door = Arc::new(door);
    let mut connections = JoinSet::new();
    let mut places = Places::new(match *door {
        Door::Grpc(_) => grpc::full(),
        Door::Main | Door::Service(_) => respond::refused_bare(Refusal::Full),
    });
    let ends = draining.clone();
    // Listed once among those who are told, not for each connection.
    let mut over = pin!(told(&mut draining));
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = interval(Pulse::BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if places.has_place(held(&mut connections)) => {
                    let (proxy, door) = (Arc::clone(&proxy), Arc::clone(&door));
                    // Boxed: a task that is begun and ended is moved several times.
                    match *door {
                        Door::Grpc(_) => {
                            connections.spawn(grpc::connection(proxy, door, stream, ends.clone()))
                        }
                        Door::Main | Door::Service(_) => {
                            let served = connection(proxy, door, stream, ends.clone());
                            connections.spawn(Box::pin(served))
                        }
                    };
                }
                Ok((stream, _)) => {
                    Record::no_request(&proxy, Refusal::Full);
                    places.refuse(stream);
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    // Idle connections are the only descriptors that nobody would miss.
                    shed(&proxy);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = sweeps.tick() => {
                sweep(&proxy);
                held(&mut connections);
            }
            _ = beats.tick() => proxy.look_for_a_freeze(proxy.clock.now(), Instant::now()),
            () = &mut over => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// How many connections there are. Those that ended are taken out here, and not whenever one ends,
/// which would wake the acceptor once more for each.
fn held(connections: &mut JoinSet<()>) -> usize {
    while connections.try_join_next().is_some() {}
    connections.len()
}

/// Serves one connection; while draining it ends after the request that it carries. hyper notices a
/// client that leaves at once as long as it reads; otherwise [`Peer::poll_gone`] does.
async fn connection(
    proxy: Arc<Proxy>,
    door: Arc<Door>,
    stream: TcpStream,
    mut draining: watch::Receiver<bool>,
) {
    // Without it a small piece of a stream waits 40 ms for the client's acknowledgement. On Linux
    // a connection inherits it from its listener, which saves a system call for each.
    #[cfg(not(target_os = "linux"))]
    let _ = stream.set_nodelay(true);
    let peer = Peer::new(stream);
    let (shared, io) = ((Arc::clone(&proxy), Arc::clone(&peer)), peer.io());
    let serve = service_fn(move |request: Request<Incoming>| {
        let (proxy, peer, door) = (
            Arc::clone(&shared.0),
            Arc::clone(&shared.1),
            Arc::clone(&door),
        );
        let (mut head, body) = request.into_parts();
        // Boxed: hyper keeps room for it as long as the connection, and what serves a request is of
        // no use to one that streams its answer. What is large is lent, not handed over: a future
        // has room for each hand that a value goes through, and moves all of its room into the box.
        Box::pin(async move {
            let answer = flow::serve(&proxy, &door, &peer, &mut head, body).await;
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(HeadTimer::default())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BUFFER_MAX)
        .serve_connection(TokioIo::new(io), serve)
        .with_upgrades();
    let ended = {
        let mut news = News::of(&draining);
        // Unconstrained: without a turn left it would be told to wait without being listed.
        let mut may_end = pin!(unconstrained(may_end(&peer, &mut draining)));
        poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            if news.is_worth_a_look() && may_end.as_mut().poll(cx).is_ready() {
                news.is_over = true;
                Pin::new(&mut connection).graceful_shutdown();
                return Pin::new(&mut connection).poll(cx);
            }
            Poll::Pending
        })
        .await
    };
    // Nothing of it may hold the socket any longer.
    drop(connection);
    // Boxed: the room for it would be a part of every connection's task.
    match (ended, peer.take_tunnel()) {
        (Ok(()), Some(tunnel)) => Box::pin(tunnel.run(&peer, draining)).await,
        (Ok(()), None) => peer.linger(&mut draining).await,
        (Err(error), _) => Box::pin(broke(&proxy, &peer, &error, &mut draining)).await,
    }
}

/// Whether a connection has to look at the word that it may end. A task that is once in the list of
/// those who wait for it stays there, and a connection's is polled for every piece.
struct News {
    draining: watch::Receiver<bool>,
    listed: bool,
    is_over: bool,
}

impl News {
    fn of(draining: &watch::Receiver<bool>) -> Self {
        Self {
            draining: draining.clone(),
            listed: false,
            is_over: false,
        }
    }

    fn is_worth_a_look(&mut self) -> bool {
        let listed = std::mem::replace(&mut self.listed, true);
        // Its sender is gone only when the process is ending.
        !self.is_over && (!listed || self.draining.has_changed().unwrap_or(true))
    }
}

/// What hyper could not read is refused here, once; any other error is the client's or an answer's,
/// and its request is recorded by itself.
async fn broke(
    proxy: &Arc<Proxy>,
    peer: &Peer,
    error: &hyper::Error,
    draining: &mut watch::Receiver<bool>,
) {
    if error.is_parse() {
        // hyper has answered: 400, 414 or 431.
        Record::no_request(proxy, unread(error));
        peer.refused();
        peer.linger(draining).await;
    } else if error.is_timeout() {
        // One that began no request is only idle.
        if peer.is_in_head() {
            peer.say(&respond::refused_bare(Refusal::LateHead));
            Record::no_request(proxy, Refusal::LateHead);
        }
    } else if peer.is_old() {
        // Without chunks the end of the connection ends the answer: a cut one needs a reset.
        peer.reset();
    }
}

/// Why hyper could not read a head.
fn unread(error: &hyper::Error) -> Refusal {
    if !error.is_parse_too_large() {
        Refusal::BadHead
    } else if error.to_string().contains("URI") {
        // hyper has no question for it.
        Refusal::LongTarget
    } else {
        Refusal::LargeHead
    }
}

/// Returns when the connection may be told that no new work may begin. Told while a request for
/// another protocol is under way, hyper would answer the upstream's 101 with `Connection: close`.
async fn may_end(peer: &Peer, draining: &mut watch::Receiver<bool>) {
    told(draining).await;
    while peer.is_upgrading() {
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Returns when no new work may begin.
async fn told(draining: &mut watch::Receiver<bool>) {
    // Its sender is gone only when the process is ending.
    let _ = draining.wait_for(|draining| *draining).await;
}

fn shed(proxy: &Proxy) {
    for endpoint in proxy.store.live().endpoints.iter().flatten() {
        endpoint.forget_connections();
    }
}

fn sweep(proxy: &Proxy) {
    for endpoint in proxy.store.live().endpoints.iter().flatten() {
        endpoint.sweep();
    }
}
