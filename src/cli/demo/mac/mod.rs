//! Stand-in Macs: small real HTTP servers on loopback that answer like Ollama and Qdrant, say who
//! they are, and can be put to sleep, switched off and woken.
//!
//! They stand in for machines, not for the services: the model repeats a sentence and the vectors
//! are in memory. Invariant: what a Mac does on the wire is what a real one does: asleep, nobody
//! answers a dial and open connections fall silent; off, dials are refused and open ones close.

mod ollama;
mod qdrant;
mod reply;
mod socket;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use qdrant::Collections;
use reply::{Pieces, Reply};
use socket::Socket;

/// Says which Mac answered, beside what the body says.
pub(super) const WHO: HeaderName = HeaderName::from_static("x-stand-in");

/// A stand-in is asked by people, not by programs with megabytes of vectors.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// A stand-in Mac.
pub(super) struct Mac {
    /// Its name in `routing.toml`.
    pub(super) name: &'static str,
    /// Its address.
    pub(super) ip: IpAddr,
    power: watch::Sender<Power>,
    collections: Mutex<Collections>,
    writes: AtomicU64,
}

/// What state a Mac is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It answers.
    Awake,
    /// Its lid is closed: it is silent.
    Asleep,
    /// Its services do not run: it refuses.
    Off,
}

/// The ports of the services, the same on every Mac.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Of the Ollama stand-in.
    pub(super) ollama: u16,
    /// Of the Qdrant stand-in.
    pub(super) qdrant: u16,
}

/// Which service a listener speaks.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Ollama,
    Qdrant,
}

impl Mac {
    /// A Mac that is awake, with a few papers in its Qdrant, and serves nothing yet.
    pub(super) fn new(name: &'static str, ip: IpAddr) -> Arc<Self> {
        Arc::new(Self {
            name,
            ip,
            power: watch::Sender::new(Power::Awake),
            collections: Mutex::new(Collections::with_papers()),
            writes: AtomicU64::new(0),
        })
    }

    /// Brings it into a state.
    pub(super) fn set(&self, power: Power) {
        self.power.send_replace(power);
    }

    /// The state it was brought into.
    pub(super) fn power(&self) -> Power {
        *self.power.borrow()
    }

    /// How many requests that change something reached its Qdrant.
    pub(super) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Serves both services for ever.
    pub(super) async fn serve(self: Arc<Self>, ports: Ports) {
        tokio::join!(
            Arc::clone(&self).listen(Speaks::Ollama, ports.ollama),
            Arc::clone(&self).listen(Speaks::Qdrant, ports.qdrant),
        );
    }

    async fn listen(self: Arc<Self>, speaks: Speaks, port: u16) {
        let address = SocketAddr::new(self.ip, port);
        let mut power = self.power.subscribe();
        let mut socket = Socket::closed(address);
        loop {
            let now = *power.borrow_and_update();
            tokio::select! {
                stream = socket.next(now) => {
                    tokio::spawn(Arc::clone(&self).connection(speaks, stream));
                }
                changed = power.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Serves one connection: silent while the Mac is asleep, gone once it is off.
    async fn connection(self: Arc<Self>, speaks: Speaks, stream: TcpStream) {
        // Words leave one by one, not when the one before was acknowledged.
        let _ = stream.set_nodelay(true);
        let mut power = self.power.subscribe();
        let service = service_fn(|request| self.answer(speaks, request));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        loop {
            let now = *power.borrow_and_update();
            let changed = match now {
                Power::Off => return,
                Power::Asleep => power.changed().await,
                Power::Awake => tokio::select! {
                    _ = serving.as_mut() => return,
                    changed = power.changed() => changed,
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn answer(
        &self,
        speaks: Speaks,
        request: Request<Incoming>,
    ) -> Result<Response<Pieces>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let reply = match Limited::new(body, BODY_MAX).collect().await {
            Err(_) => Reply::text(413, "a stand-in takes 16 MiB at most\n"),
            Ok(body) => {
                let body = body.to_bytes();
                let path = parts.uri.path();
                match speaks {
                    Speaks::Ollama => ollama::answer(self.name, &parts.method, path, &body),
                    Speaks::Qdrant => self.vectors(&parts.method, path, &body),
                }
            }
        };
        let mut response = reply.into_response();
        response
            .headers_mut()
            .insert(WHO, HeaderValue::from_static(self.name));
        Ok(response)
    }

    fn vectors(&self, method: &Method, path: &str, body: &[u8]) -> Reply {
        if matches!(*method, Method::PUT | Method::DELETE) || path.ends_with("/points/delete") {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        let mut collections = self
            .collections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        collections.answer(self.name, method, path, body)
    }
}

impl Power {
    /// The state that a word names.
    pub(super) fn of(word: &str) -> Option<Self> {
        match word {
            "wake" => Some(Self::Awake),
            "sleep" => Some(Self::Asleep),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awake => "awake",
            Self::Asleep => "asleep",
            Self::Off => "off",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    /// What a dial of a Mac meets.
    async fn dial(address: SocketAddr) -> &'static str {
        match timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            Ok(Ok(_)) => "accepted",
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => "refused",
            Ok(Err(_)) => "failed",
            Err(_) => "silent",
        }
    }

    async fn becomes(address: SocketAddr, what: &str) {
        while dial(address).await != what {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn an_awake_mac_accepts_a_sleeping_one_is_silent_and_one_that_is_off_refuses() {
        let ip = Ipv4Addr::LOCALHOST.into();
        let free = std::net::TcpListener::bind((ip, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mac = Mac::new("mac", ip);
        tokio::spawn(Arc::clone(&mac).listen(Speaks::Qdrant, address.port()));
        for (power, what) in [
            (Power::Awake, "accepted"),
            (Power::Asleep, "silent"),
            (Power::Awake, "accepted"),
            (Power::Off, "refused"),
            (Power::Asleep, "silent"),
            (Power::Off, "refused"),
            (Power::Awake, "accepted"),
        ] {
            mac.set(power);
            timeout(Duration::from_secs(10), becomes(address, what))
                .await
                .unwrap_or_else(|_| panic!("{power}, and a dial is not {what}"));
        }
    }
}
