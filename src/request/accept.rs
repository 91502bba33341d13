//! Accepts the app's connections and speaks HTTP/1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::door::Door;
use super::{Proxy, flow};

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
    let ends = draining.clone();
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (proxy, door) = (Arc::clone(&proxy), Arc::clone(&door));
                    connections.spawn(connection(proxy, door, stream, ends.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = sweeps.tick() => sweep(&proxy),
            () = told(&mut draining) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Serves one connection. A client that leaves is noticed at once, as its request's body was read by
/// then; only while bytes of a next request wait behind it hyper does not look, and `head` or the
/// first byte of the answer shows it. While draining it ends after the request that it carries.
async fn connection(
    proxy: Arc<Proxy>,
    door: Arc<Door>,
    stream: TcpStream,
    mut draining: watch::Receiver<bool>,
) {
    // Without it a small piece of a stream waits 40 ms for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let old_client = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&old_client);
    let serve = service_fn(move |request: Request<Incoming>| {
        if request.version() == Version::HTTP_10 {
            seen.store(true, Ordering::Relaxed);
        }
        let (proxy, door) = (Arc::clone(&proxy), Arc::clone(&door));
        async move { Ok::<_, Infallible>(flow::serve(proxy, &door, request).await) }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(READ_BUFFER_MAX)
        .serve_connection(TokioIo::new(stream), serve);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = told(&mut draining) => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    // Any other error is the client's, and its requests are recorded by themselves.
    if ended.is_err() && old_client.load(Ordering::Relaxed) {
        // Without chunks the end of the connection ends the answer: a cut one needs a reset.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// Returns when no new work may begin.
async fn told(draining: &mut watch::Receiver<bool>) {
    // Its sender is gone only when the process is ending.
    let _ = draining.wait_for(|draining| *draining).await;
}

fn sweep(proxy: &Proxy) {
    for endpoint in proxy.store.live().endpoints.iter().flatten() {
        endpoint.idle.sweep();
    }
}
