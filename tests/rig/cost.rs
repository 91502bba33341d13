//! What tailhop adds to what tailscaled costs, in CPU of the container a request.
//!
//! Prints figures and judges none: `benches/side_by_side/run --parts tailnet` makes ratios of them.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::hop::{DATA, Hop, Routing};
use super::mac::QDRANT;
use super::parts::tell;
use super::rig::{Rig, on_rig};
use super::{dial, mac::Mac};

const CONNECTIONS: usize = 16;
/// Of each connection, in each round: some seconds of CPU, so that its ticks of 10 ms are fine.
const REQUESTS: usize = 500;
/// The kernel's `USER_HZ`, which is a constant of its interface on Linux.
const TICKS_A_SECOND: f64 = 100.0;

#[test]
#[ignore = "a measurement: benches/side_by_side/run calls it"]
fn of_the_container() {
    on_rig(async |rig| {
        let rounds = std::env::var("TAILHOP_RIG_ROUNDS").ok();
        let rounds = rounds.map_or(5, |rounds| rounds.parse().expect("a number of rounds"));
        let hop = Hop::start(rig, &Routing::default()).await;
        let (daemon, own) = (rig.cr.daemon().id(), hop.process().id());
        let mut direct = Clients::over_tailscaled(rig).await;
        let mut through = Clients::over_tailhop().await;
        for round in 0..=rounds {
            let before = ticks(daemon);
            direct.load("/collections", &rig.mac1).await;
            let alone = ticks(daemon) - before;
            let before = (ticks(daemon), ticks(own));
            through.load("/qdrant/collections", &rig.mac1).await;
            let with = (ticks(daemon) - before.0, ticks(own) - before.1);
            // The first round only warms up.
            if round > 0 {
                let [alone, tailscaled, tailhop] = [alone, with.0, with.1].map(micros_a_request);
                let line = serde_json::json!({
                    "alone": alone, "tailscaled": tailscaled, "tailhop": tailhop
                });
                tell(&format!("cost {line}"));
            }
        }
    });
}

/// Kept-alive connections, each used by one client.
struct Clients(Vec<SendRequest<Empty<Bytes>>>);

impl Clients {
    async fn over_tailscaled(rig: &Rig) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = dial::localapi(&rig.cr.socket(), "m1", QDRANT).await;
            clients.push(client(stream.expect("a dial")).await);
        }
        Self(clients)
    }

    async fn over_tailhop() -> Self {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(DATA).await;
            clients.push(client(stream.expect("tailhop accepts")).await);
        }
        Self(clients)
    }

    /// All at once, each one request after the other.
    async fn load(&mut self, path: &'static str, mac: &Mac) {
        let mut running = JoinSet::new();
        for mut client in self.0.drain(..) {
            running.spawn(async move {
                for _ in 0..REQUESTS {
                    ask(&mut client, path).await;
                }
                client
            });
        }
        self.0 = running.join_all().await;
        // It remembers every request.
        mac.reset().await;
    }
}

async fn client(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

async fn ask(client: &mut SendRequest<Empty<Bytes>>, path: &str) {
    let request = Request::get(path).header("host", "localhost");
    let request = request.body(Empty::new()).expect("a valid request");
    client.ready().await.expect("it stays open");
    let answer = client.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.expect("a whole answer");
}

/// User and system time of a process with all its threads, in ticks.
fn ticks(process: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("its name in brackets");
    let number = |field: &str| field.parse::<u32>().expect("a number");
    // Fields 14 and 15 of the line, the third being the first after the name.
    fields.split(' ').skip(11).take(2).map(number).sum()
}

fn micros_a_request(ticks: u32) -> f64 {
    let requests = u32::try_from(CONNECTIONS * REQUESTS).expect("a small number");
    f64::from(ticks) / TICKS_A_SECOND * 1e6 / f64::from(requests)
}
