//! A client's HTTP/2 connection: its calls, its pings, its bounds, its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::Proxy;
use super::super::door::Door;
use super::super::record::Record;
use super::super::rules::Refusal;
use super::flood::Fair;
use super::serve::{Left, serve};
use crate::wire::heard::{Heard, Telling, watch as watch_pings};

/// How HTTP/2 begins (RFC 9113 3.4), as far as it tells it from every method of HTTP/1.
const PREFACE: &[u8] = b"PRI ";
/// How long the preface may take.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
/// How long, and how many bytes, what speaks HTTP/1 may still send.
const LINGER: Duration = Duration::from_millis(500);
const READ_MAX: u64 = 64 * 1024;
/// Calls of one client at once: more wait in its own library.
const CALLS: u32 = 512;
/// What may be on its way to us in one call, and in all of a connection, in bytes. A message that is
/// larger waits for room, which comes as it is passed on.
const WINDOW: u32 = 1024 * 1024;
const WINDOW_ALL: u32 = 8 * 1024 * 1024;
/// Largest frame that we take.
const FRAME: u32 = 64 * 1024;
/// Bounds what one call's head may hold in memory.
const HEAD_MAX: u32 = 32 * 1024;
/// How much of an answer waits for the socket before its backend is held back.
const SEND_BUFFER: usize = 1024 * 1024;
/// Calls that were reset before they were looked at.
const PENDING_RESETS: usize = 20;
/// Streams that we had to reset as they broke the protocol.
const ERRORS: usize = 100;

/// A client may break off so many calls at once, and so many a second: each costs its backend a
/// stream, and backends close the connections of those who overdo it.
const RESETS: u32 = 1000;
const RESETS_A_SECOND: u32 = 100;

type Io = Telling<Fair<TcpStream>>;

/// Serves one connection; while draining it ends after the calls that it carries.
pub(in super::super) async fn connection(
    proxy: Arc<Proxy>,
    door: Arc<Door>,
    stream: TcpStream,
    mut draining: watch::Receiver<bool>,
) {
    #[cfg(not(target_os = "linux"))]
    let _ = stream.set_nodelay(true);
    let Ok(stream) = timeout(PREFACE_WITHIN, preface(&proxy, stream)).await else {
        return;
    };
    let Some(stream) = stream else { return };
    let heard = Heard::now();
    let io = Telling::new(Fair::new(stream), heard.clone());
    let shaken = Builder::new()
        .max_concurrent_streams(CALLS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_ALL)
        .max_frame_size(FRAME)
        .max_header_list_size(HEAD_MAX)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(ERRORS))
        .handshake::<_, Bytes>(io);
    // One that breaks it is gone, or speaks something else.
    let Ok(Ok(mut shaken)) = timeout(PREFACE_WITHIN, shaken).await else {
        Record::no_request(&proxy, Refusal::BadHead);
        return;
    };
    let pings = shaken.ping_pong();
    let calls = Calls {
        proxy,
        door,
        running: JoinSet::new(),
        calm: Calm::new(),
    };
    let (ask, pongs) = (Notify::new(), watch::Sender::new(0));
    let silent = async {
        match pings {
            Some(pings) => watch_pings(pings, &heard, (&ask, &pongs)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = calls.carry(shaken, &mut draining) => {}
        // Whoever answers no ping reads no answer.
        () = silent => {}
    }
}

/// The stream, if it begins as HTTP/2 does. What speaks HTTP/1 is told where it is.
async fn preface(proxy: &Arc<Proxy>, mut stream: TcpStream) -> Option<TcpStream> {
    let mut begins = [0; PREFACE.len()];
    let came = stream.peek(&mut begins).await.ok()?;
    if PREFACE.starts_with(&begins[..came]) {
        return (came > 0).then_some(stream);
    }
    Record::no_request(proxy, Refusal::NotGrpc);
    let answer = super::super::respond::refused_bare(Refusal::NotGrpc);
    // Who does not read is not told.
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
    // A close with bytes unread is a reset, which can overtake the answer.
    let (mut request, mut nowhere) = (stream.take(READ_MAX), tokio::io::sink());
    let _ = timeout(LINGER, tokio::io::copy(&mut request, &mut nowhere)).await;
    None
}

/// What a client gets that comes when no more connections can be held: an empty SETTINGS, and a GOAWAY
/// (RFC 9113 6.8) for no stream at all.
pub(in super::super) fn full() -> Vec<u8> {
    let text = b"tailhop: no more client connections can be held";
    let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + text.len()).unwrap_or(8);
    frames.extend_from_slice(&[0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b]);
    frames.extend_from_slice(text);
    frames
}

/// The calls of one connection.
struct Calls {
    proxy: Arc<Proxy>,
    door: Arc<Door>,
    running: JoinSet<Left>,
    calm: Calm,
}

impl Calls {
    async fn carry(
        mut self,
        mut shaken: Connection<Io, Bytes>,
        draining: &mut watch::Receiver<bool>,
    ) {
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                accepted = shaken.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let (proxy, door) = (Arc::clone(&self.proxy), Arc::clone(&self.door));
                        self.running.spawn(serve(proxy, door, request, respond));
                    }
                    // What runs on it has nobody to answer to.
                    Some(Err(_)) | None => return,
                },
                Some(ended) = self.running.join_next() => {
                    let broke_off = matches!(ended, Ok(Left::Client));
                    if broke_off && !self.calm.allows() {
                        shaken.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                }
                _ = draining.wait_for(|draining| *draining), if !told => {
                    told = true;
                    shaken.graceful_shutdown();
                }
            }
        }
    }
}

/// How often a client may still break off.
struct Calm {
    left: u32,
    since: Instant,
}

impl Calm {
    fn new() -> Self {
        Self {
            left: RESETS,
            since: Instant::now(),
        }
    }

    /// It broke off once more; whether that is still fair.
    fn allows(&mut self) -> bool {
        let seconds = self.since.elapsed().as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            let more = more.saturating_mul(RESETS_A_SECOND);
            self.left = self.left.saturating_add(more).min(RESETS);
            self.since = Instant::now();
        }
        self.left = self.left.saturating_sub(1);
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_may_break_off_as_often_as_it_asks_but_not_in_floods() {
        let mut calm = Calm::new();
        assert!((1..RESETS).all(|_| calm.allows()));
        assert!(!calm.allows());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!((1..RESETS_A_SECOND).all(|_| calm.allows()));
        assert!(!calm.allows());
    }
}
