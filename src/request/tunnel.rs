//! Another protocol than HTTP, once both sides agreed to it (RFC 9110 7.8).
//!
//! Only routes that name the protocol pass a request for it on, only a GET without a body, and
//! bytes flow only after the upstream's own 101: a client that sends on before that is still read
//! as HTTP. Owns the bytes between the two sides until both ended, and their record.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::peer::Peer;
use super::record::{End, Record};
use crate::config::snapshot::Route;
use crate::endpoint::connection::Connection;
use crate::words::clock::Deadline;
use crate::words::outcome::Kind;

/// From the upstream's 101 until both sides were handed over.
const HANDOVER: Duration = Duration::from_secs(10);
/// How long a tunnel goes on once the process is told to end: long enough for a protocol's own
/// goodbye, and shorter than what requests may take then.
const GOODBYE: Duration = Duration::from_secs(5);
/// One read.
const PIECE: usize = 8 * 1024;

/// The protocol that a request asks for, if its route passes it on.
pub(super) fn wanted(route: &Route, request: &Parts) -> Option<HeaderValue> {
    if route.upgrade.is_empty() {
        return None;
    }
    let headers = &request.headers;
    let bodiless =
        !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING);
    let new = request.version == Version::HTTP_11;
    if !bodiless || !new || request.method != Method::GET {
        return None;
    }
    let asked = (headers.get_all(CONNECTION).iter())
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let protocol = headers.get(UPGRADE).filter(|_| asked)?;
    // A list of protocols is left to those who can choose.
    is_listed(route, protocol).then(|| protocol.clone())
}

fn is_listed(route: &Route, protocol: &HeaderValue) -> bool {
    (route.upgrade.iter()).any(|listed| protocol.as_bytes().eq_ignore_ascii_case(listed.as_bytes()))
}

/// Says in a head that it switches to `protocol`.
pub(super) fn announce(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Two sides that agreed.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
    /// Tells when the endpoint is lost.
    pub(super) connection: Connection,
    pub(super) record: Box<Record>,
    /// How long both may be silent.
    pub(super) idle: Duration,
    pub(super) total: Option<Deadline>,
}

/// Bytes that passed, for the record and for the watch.
#[derive(Default)]
struct Passed {
    up: Arc<AtomicU64>,
    down: AtomicU64,
}

/// Who broke it.
enum Broke {
    Client,
    Upstream,
}

impl Tunnel {
    /// Carries bytes until both sides ended, or something ends it.
    pub(super) async fn run(self, peer: &Peer, draining: watch::Receiver<bool>) {
        let Self {
            client,
            upstream,
            connection,
            mut record,
            idle,
            total,
        } = self;
        let both = async { tokio::try_join!(client, upstream) };
        let Ok(Ok((client, upstream))) = timeout(HANDOVER, both).await else {
            return record.finish(End::Truncated(Kind::Broken), Instant::now());
        };
        let passed = Passed::default();
        let end = tokio::select! {
            end = carry(TokioIo::new(client), TokioIo::new(upstream), &passed) => match end {
                Ok(()) => End::Complete,
                Err(Broke::Client) => End::Abandoned,
                Err(Broke::Upstream) => End::Truncated(Kind::Broken),
            },
            () = silent(&passed, idle) => End::Truncated(Kind::IdleLate),
            () = over(total) => End::Truncated(Kind::TotalLate),
            () = connection.lost() => End::Truncated(Kind::Lost),
            () = told(draining) => End::Complete,
        };
        if matches!(end, End::Truncated(_)) {
            peer.reset();
        }
        let down = passed.down.load(Ordering::Relaxed);
        record.read(0, Some(passed.up));
        record.passed(usize::try_from(down).unwrap_or(usize::MAX));
        record.finish(end, Instant::now());
    }
}

async fn carry(
    client: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    passed: &Passed,
) -> Result<(), Broke> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_upstream, mut to_upstream) = split(upstream);
    let up = pump(
        (&mut from_client, Broke::Client),
        (&mut to_upstream, Broke::Upstream),
        &passed.up,
    );
    let down = pump(
        (&mut from_upstream, Broke::Upstream),
        (&mut to_client, Broke::Client),
        &passed.down,
    );
    tokio::select! {
        biased;
        // Whoever asked may still listen after its own end; once the backend ended, nothing comes.
        ended = down => ended,
        broke = async {
            match up.await {
                Ok(()) => std::future::pending().await,
                Err(broke) => broke,
            }
        } => Err(broke),
    }
}

/// One direction; its end is passed on too.
async fn pump(
    (from, reader): (&mut (impl AsyncRead + Unpin), Broke),
    (to, writer): (&mut (impl AsyncWrite + Unpin), Broke),
    passed: &AtomicU64,
) -> Result<(), Broke> {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match from.read(&mut buffer).await {
            Ok(0) => return to.shutdown().await.map_err(|_| writer),
            Ok(read) => &buffer[..read],
            Err(_) => return Err(reader),
        };
        if write(to, piece).await.is_err() {
            return Err(writer);
        }
        passed.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> io::Result<()> {
    to.write_all(piece).await?;
    to.flush().await
}

/// Returns when nothing passed for `idle`.
async fn silent(passed: &Passed, idle: Duration) {
    let both = || passed.up.load(Ordering::Relaxed) + passed.down.load(Ordering::Relaxed);
    loop {
        let before = both();
        Deadline::after(idle).passed().await;
        if both() == before {
            return;
        }
    }
}

async fn over(total: Option<Deadline>) {
    match total {
        Some(total) => total.passed().await,
        None => std::future::pending().await,
    }
}

/// Returns some time after the process was told to end.
async fn told(mut draining: watch::Receiver<bool>) {
    // Its sender is gone only when the process is ending.
    let _ = draining.wait_for(|draining| *draining).await;
    tokio::time::sleep(GOODBYE).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::{HostHeader, ServiceId};

    fn route(upgrade: &[&str]) -> Route {
        Route {
            path: "/".to_owned(),
            service: ServiceId(0),
            strip: true,
            host: HostHeader::Upstream,
            upgrade: upgrade
                .iter()
                .map(|&protocol| protocol.to_owned())
                .collect(),
            timeouts: crate::config::defaults::timeouts(crate::words::names::Kind::Http, false),
            effects: Vec::new(),
        }
    }

    #[test]
    fn only_a_plain_get_for_a_listed_protocol_is_passed_on() {
        let listed = route(&["websocket"]);
        let none = route(&[]);
        let asks: &[(&str, &str)] = &[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        let with = |more: (&'static str, &'static str)| [asks, &[more]].concat();
        let rows = [
            (&listed, "GET", asks.to_vec(), true),
            (&none, "GET", asks.to_vec(), false),
            (&listed, "POST", asks.to_vec(), false),
            (&listed, "GET", with(("content-length", "0")), false),
            (
                &listed,
                "GET",
                with(("transfer-encoding", "chunked")),
                false,
            ),
            (&listed, "GET", vec![("upgrade", "websocket")], false),
            (&listed, "GET", vec![("connection", "upgrade")], false),
            (
                &listed,
                "GET",
                vec![("connection", "upgrade"), ("upgrade", "h2c")],
                false,
            ),
            (
                &listed,
                "GET",
                vec![("connection", "upgrade"), ("upgrade", "h2c, websocket")],
                false,
            ),
        ];
        for (route, method, fields, want) in rows {
            let mut request = http::Request::builder().method(method);
            for (name, value) in &fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let got = wanted(route, &parts);
            assert_eq!(got.is_some(), want, "{method} {fields:?}");
        }
    }
}
