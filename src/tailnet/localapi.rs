//! The one client of tailscaled's LocalAPI: HTTP/1.1 over its unix socket.
//!
//! Owns the requests whose answers are JSON, and their decoding into small structs. Must not judge
//! what an answer means for traffic (`view` does) and never carries traffic (`wire` does).
//! Invariant: every call ends within two seconds of an awake process, because a LocalAPI request
//! blocks for as long as tailscaled has no backend; a call that is dropped leaves nothing behind.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::trouble::{Trouble, What, within};

/// The Host that LocalAPI accepts; anything else but an empty one may be answered 403.
pub const HOST: &str = "local-tailscaled.sock";

/// How long one call may take. `status` was seen to wait 1.6 s for tailscaled's lock.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a ping that also goes by relay; 1300 were measured to be too few.
const PING_SIZE: u32 = 1500;

/// Between two attempts to set tailscaled going again, at first and at most.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// Between two looks whether it runs: it was seen to within 5 ms.
const SOON: Duration = Duration::from_millis(10);

/// What `whois` says of a connection that is nobody's.
const NO_MATCH: &[u8] = b"no match";

/// Largest answer read, in bytes: a status of several thousand peers.
const ANSWER_MAX: usize = 8 << 20;

/// A client of the LocalAPI on one socket. Each call opens a connection of its own: calls are
/// seconds apart, and a connection kept over a restart of tailscaled would only fail once more.
#[derive(Clone, Debug)]
pub struct LocalApi {
    socket: PathBuf,
}

impl LocalApi {
    /// The client of the tailscaled that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// `GET /localapi/v0/status`, with peers.
    pub async fn status(&self) -> Result<Status, Trouble> {
        let answer = within(PATIENCE, || self.silence(), self.get("/localapi/v0/status")).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Trouble::new(What::Broken, format!("status is no JSON: {error}")))
    }

    /// Whether tailscaled uses a direct path to the machine with this address now. It goes on
    /// doing so for some seconds after the path was lost.
    pub async fn has_direct_path(&self, ip: IpAddr) -> Result<bool, Trouble> {
        let status = self.status().await?;
        let mut machines = status.peers.values();
        let machine = machines.find(|machine| machine.ips.contains(&ip));
        Ok(machine.is_some_and(|machine| !machine.direct_path.is_empty()))
    }

    /// `POST /localapi/v0/ping?type=disco`, padded to `PING_SIZE` bytes: larger than any direct
    /// path is known to carry, so it goes by relay too and asks the machine, not the path.
    /// tailscaled never answers a ping that its peer does not: then this ends after `patience`.
    pub async fn ping(&self, ip: IpAddr, patience: Duration) -> Result<Pong, Trouble> {
        let path = format!("/localapi/v0/ping?ip={ip}&type=disco&size={PING_SIZE}");
        let silence = || Trouble::new(What::Silent, format!("{ip} did not answer a ping"));
        let answer = within(patience, silence, self.ask(Method::POST, &path)).await?;
        let pong: Pong = serde_json::from_slice(&answer)
            .map_err(|error| Trouble::new(What::Broken, format!("ping is no JSON: {error}")))?;
        if pong.error.is_empty() {
            Ok(pong)
        } else {
            Err(Trouble::new(What::Broken, format!("ping: {}", pong.error)))
        }
    }

    /// `POST /localapi/v0/debug?action=..`: `rebind` or `break-derp-conns`. It needs root or
    /// tailscaled's own user (else [`What::Forbidden`]), and a tailscaled built with it.
    pub async fn debug(&self, action: &str) -> Result<(), Trouble> {
        let path = format!("/localapi/v0/debug?action={action}");
        let asked = self.ask(Method::POST, &path);
        within(PATIENCE, || self.silence(), asked).await.map(drop)
    }

    /// `GET /localapi/v0/whois?proto=tcp`: who of the tailnet is behind a connection from `source`,
    /// also one that tailscaled itself made on somebody's behalf; `None`: nobody of it. A miss
    /// costs tailscaled 0.2 s under a lock that its status needs, so ask one at a time.
    pub async fn whois(&self, source: SocketAddr) -> Result<Option<Whois>, Trouble> {
        let path = format!("/localapi/v0/whois?proto=tcp&addr={source}");
        let asked = self.exchange(Method::GET, &path, Bytes::new());
        let (status, body) = within(PATIENCE, || self.silence(), asked).await?;
        // A tailscaled that does not know the question answers 404 too, in other words.
        let nobody = body.windows(NO_MATCH.len()).any(|words| words == NO_MATCH);
        if status == StatusCode::NOT_FOUND && nobody {
            return Ok(None);
        }
        let who: Whois = serde_json::from_slice(&accepted(status, body)?)
            .map_err(|error| Trouble::new(What::Broken, format!("whois is no JSON: {error}")))?;
        if who.user.login.is_empty() && who.node.tags.is_empty() {
            return Err(Trouble::new(What::Broken, "whois names nobody"));
        }
        Ok(Some(who))
    }

    /// `GET /localapi/v0/prefs`: whether tailscaled lets nothing in from the tailnet.
    pub async fn shields_up(&self) -> Result<bool, Trouble> {
        let asked = self.get("/localapi/v0/prefs");
        let answer = within(PATIENCE, || self.silence(), asked).await?;
        let prefs: Prefs = serde_json::from_slice(&answer)
            .map_err(|error| Trouble::new(What::Broken, format!("prefs are no JSON: {error}")))?;
        Ok(prefs.shields_up)
    }

    /// `PATCH /localapi/v0/prefs`: lets nobody in from the tailnet, or lets them in again.
    pub async fn set_shields(&self, up: bool) -> Result<(), Trouble> {
        self.edit_prefs(format!(r#"{{"ShieldsUp":{up},"ShieldsUpSet":true}}"#))
            .await
    }

    /// `tailscale down` and `tailscale up`: makes all `WireGuard` sessions anew at once, while one that
    /// lost a handshake would wait for five seconds (wireguard-go, `RekeyTimeout`). Connections
    /// through the tunnel go on. It needs root or tailscaled's own user (else [`What::Forbidden`]).
    ///
    /// A dropped call ends nothing: tailscaled must not stay down.
    pub async fn down_up(&self) -> Result<(), Trouble> {
        let api = self.clone();
        let renewed = tokio::spawn(async move {
            match api.want_running(false).await {
                Err(trouble) if matches!(trouble.what, What::Forbidden | What::Absent) => {
                    Err(trouble)
                }
                // Perhaps it is down, even if it did not say so.
                _ => {
                    let mut pause = AGAIN;
                    while api.want_running(true).await.is_err() {
                        sleep(pause).await;
                        pause = (pause * 2).min(AGAIN_MOST);
                    }
                    Ok(())
                }
            }
        });
        let renewed = async {
            renewed.await.unwrap_or_else(|_| Err(self.silence()))?;
            while self.status().await?.backend_state != "Running" {
                sleep(SOON).await;
            }
            Ok(())
        };
        within(PATIENCE, || self.silence(), renewed).await
    }

    async fn want_running(&self, running: bool) -> Result<(), Trouble> {
        self.edit_prefs(format!(
            r#"{{"WantRunning":{running},"WantRunningSet":true}}"#
        ))
        .await
    }

    /// `PATCH /localapi/v0/prefs` with an `ipn.MaskedPrefs` as JSON.
    async fn edit_prefs(&self, prefs: String) -> Result<(), Trouble> {
        let asked = self.exchange(Method::PATCH, "/localapi/v0/prefs", prefs.into());
        let (status, body) = within(PATIENCE, || self.silence(), asked).await?;
        accepted(status, body).map(drop)
    }

    /// `POST /localapi/v0/start`: takes new preferences and, where it is not empty, an auth key.
    /// `options` is `ipn.Options` as JSON. It needs root or tailscaled's own user.
    pub async fn start(&self, options: String) -> Result<(), Trouble> {
        let asked = self.exchange(Method::POST, "/localapi/v0/start", options.into());
        let (status, body) = within(PATIENCE, || self.silence(), asked).await?;
        accepted(status, body).map(drop)
    }

    /// `POST /localapi/v0/login-interactive`: logs in, with the auth key of [`Self::start`]. It
    /// returns when that has begun; [`Self::status`] tells what came of it.
    pub async fn login(&self) -> Result<(), Trouble> {
        let asked = self.ask(Method::POST, "/localapi/v0/login-interactive");
        within(PATIENCE, || self.silence(), asked).await.map(drop)
    }

    /// `POST /localapi/v0/logout`: leaves the tailnet, within `patience`. Nothing can be dialled
    /// any more from its first moment on.
    pub async fn logout(&self, patience: Duration) -> Result<(), Trouble> {
        let asked = self.ask(Method::POST, "/localapi/v0/logout");
        within(patience, || self.silence(), asked).await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<Bytes, Trouble> {
        self.ask(Method::GET, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Trouble> {
        let (status, body) = self.exchange(method, path, Bytes::new()).await?;
        accepted(status, body)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.unopened(&e))?;
        let broken = |error: hyper::Error| self.trouble(What::Broken, &error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, HOST)
            .body(Full::new(body))
            .map_err(|error| self.trouble(What::Broken, &error))?;
        let exchange = async {
            let (head, body) = sender
                .send_request(request)
                .await
                .map_err(broken)?
                .into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            let body = body
                .map_err(|error| self.trouble(What::Broken, &error))?
                .to_bytes();
            Ok((head.status, body))
        };
        // Driven here and not in a task of its own, so that a dropped call closes its socket. Its
        // end is no news: what it means for the exchange, the exchange learns by itself.
        let driven = async {
            drop(connection.await);
            pending::<Infallible>().await
        };
        tokio::select! {
            answer = exchange => answer,
            never = driven => match never {},
        }
    }

    fn unopened(&self, error: &io::Error) -> Trouble {
        let socket = self.socket.display();
        match What::of_connect(error) {
            What::Forbidden => Trouble::new(
                What::Forbidden,
                format!(
                    "tailhop may not open tailscaled's socket {socket} ({error}): \
                     make it readable and writable for this user"
                ),
            ),
            What::Absent => Trouble::new(
                What::Absent,
                format!("nobody listens on {socket} ({error}): is tailscaled running?"),
            ),
            what => self.trouble(what, error),
        }
    }

    fn silence(&self) -> Trouble {
        let socket = self.socket.display();
        Trouble::new(
            What::Silent,
            format!("tailscaled does not answer on {socket}"),
        )
    }

    fn trouble(&self, what: What, error: &dyn std::fmt::Display) -> Trouble {
        Trouble::new(
            what,
            format!("LocalAPI on {}: {error}", self.socket.display()),
        )
    }
}

/// The body of an answer that is one.
fn accepted(status: StatusCode, body: Bytes) -> Result<Bytes, Trouble> {
    let what = match status {
        StatusCode::OK | StatusCode::NO_CONTENT => return Ok(body),
        StatusCode::SERVICE_UNAVAILABLE => What::NotReady,
        StatusCode::FORBIDDEN | StatusCode::NOT_IMPLEMENTED => What::Forbidden,
        _ => What::Broken,
    };
    Err(Trouble::new(
        what,
        format!("tailscaled answered its LocalAPI with {status}"),
    ))
}

/// `ipnstate.Status`, the parts that tailhop uses. Go writes an empty list as `null` and may leave
/// out anything, so every field has a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// tailscaled's version.
    #[serde(rename = "Version", deserialize_with = "null_is_empty")]
    pub version: String,
    /// `NoState`, `NeedsLogin`, `NeedsMachineAuth`, `Stopped`, `Starting` or `Running`.
    #[serde(rename = "BackendState", deserialize_with = "null_is_empty")]
    pub backend_state: String,
    /// Whether it has a network interface, which the whole machine uses.
    #[serde(rename = "TUN")]
    pub tun: bool,
    /// What tailscaled itself finds wrong; empty is good.
    #[serde(rename = "Health", deserialize_with = "null_is_empty")]
    pub health: Vec<String>,
    /// The tailnet's suffix, such as `tail1234.ts.net`.
    #[serde(rename = "MagicDNSSuffix", deserialize_with = "null_is_empty")]
    pub suffix: String,
    /// This machine.
    #[serde(rename = "Self", deserialize_with = "null_is_empty")]
    pub me: Node,
    /// The other machines of the netmap, by node key.
    #[serde(rename = "Peer", deserialize_with = "null_is_empty")]
    pub peers: HashMap<String, Node>,
}

/// `apitype.WhoIsResponse`, the parts that tailhop uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Whois {
    /// The machine.
    #[serde(rename = "Node", deserialize_with = "null_is_empty")]
    pub node: WhoisNode,
    /// Whose machine it is, unless it is tagged.
    #[serde(rename = "UserProfile", deserialize_with = "null_is_empty")]
    pub user: WhoisUser,
}

/// The machine behind a connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WhoisNode {
    /// Full MagicDNS name, with a dot at its end.
    #[serde(rename = "Name", deserialize_with = "null_is_empty")]
    pub name: String,
    /// Its tags, each with `tag:`. A machine that has some is nobody's.
    #[serde(rename = "Tags", deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
}

/// The person behind a connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WhoisUser {
    /// The login name, such as `user@example.com`; of tagged machines `tagged-devices`.
    #[serde(rename = "LoginName", deserialize_with = "null_is_empty")]
    pub login: String,
}

/// `ipn.Prefs`, the part that tailhop uses. It must be there: what is not known is not assumed.
#[derive(Clone, Debug, Deserialize)]
struct Prefs {
    #[serde(rename = "ShieldsUp")]
    shields_up: bool,
}

/// `ipnstate.PingResult`, the parts that tailhop uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pong {
    /// Why there is no answer, such as `no matching peer`; empty: there is one.
    #[serde(rename = "Err", deserialize_with = "null_is_empty")]
    pub error: String,
    /// The direct path that it came by; empty: by relay.
    #[serde(rename = "Endpoint", deserialize_with = "null_is_empty")]
    pub endpoint: String,
}

/// `ipnstate.PeerStatus`, the parts that tailhop uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Full MagicDNS name, with a dot at its end.
    #[serde(rename = "DNSName", deserialize_with = "null_is_empty")]
    pub dns_name: String,
    /// Its addresses in the tailnet.
    #[serde(rename = "TailscaleIPs", deserialize_with = "addresses")]
    pub ips: Vec<IpAddr>,
    /// Whether the control plane has it connected. It says nothing of reachability.
    #[serde(rename = "Online", deserialize_with = "null_is_empty")]
    pub online: bool,
    /// The direct path to it; empty: by relay.
    #[serde(rename = "CurAddr", deserialize_with = "null_is_empty")]
    pub direct_path: String,
    /// When its node key expires; `None`: never, as of tagged machines.
    #[serde(rename = "KeyExpiry", deserialize_with = "instant")]
    pub key_expiry: Option<Timestamp>,
}

fn null_is_empty<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Go's zero time and what is no instant mean never: one odd field must not cost us the status.
fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: String = null_is_empty(from)?;
    let instant: Option<Timestamp> = text.parse().ok();
    Ok(instant.filter(|at| *at > Timestamp::UNIX_EPOCH))
}

/// What is no address is left out: one odd peer must not cost us the status.
fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Vec<String> = null_is_empty(from)?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_status_with_nulls_and_gaps_is_read() {
        let text = r#"{"Version":"1.102.3","BackendState":"NeedsLogin","TailscaleIPs":null,
            "Self":{"DNSName":"","TailscaleIPs":null,"Online":false},"Health":null,"Peer":null}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.backend_state, "NeedsLogin");
        assert!(status.peers.is_empty() && status.me.ips.is_empty() && status.suffix.is_empty());
        assert!(serde_json::from_str::<Status>("{}").is_ok());
        assert!(serde_json::from_str::<Status>("3").is_err());
    }

    #[test]
    fn one_odd_address_does_not_cost_the_status() {
        let text = r#"{"DNSName":"a.t.ts.net.","TailscaleIPs":["100.64.0.1","odd"]}"#;
        let node: Node = serde_json::from_str(text).unwrap();
        assert_eq!(node.ips, ["100.64.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_key_expires_only_when_there_is_an_instant() {
        let rows = [
            (
                r#"{"KeyExpiry":"2025-05-01T00:00:00Z"}"#,
                Some(1_746_057_600),
            ),
            (r#"{"KeyExpiry":"0001-01-01T00:00:00Z"}"#, None),
            (r#"{"KeyExpiry":"soon"}"#, None),
            (r#"{"KeyExpiry":null}"#, None),
            ("{}", None),
        ];
        for (text, seconds) in rows {
            let node: Node = serde_json::from_str(text).unwrap();
            assert_eq!(node.key_expiry.map(Timestamp::as_second), seconds, "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_no_200_is_trouble_of_its_own_kind() {
        for (status, what) in [
            (503, What::NotReady),
            (403, What::Forbidden),
            (500, What::Broken),
            (404, What::Broken),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                accepted(status, Bytes::new()).unwrap_err().what,
                what,
                "{status}"
            );
        }
    }

    #[tokio::test]
    async fn a_status_that_is_cut_endless_or_odd_is_trouble_and_hangs_nobody() {
        let endless = [
            b"HTTP/1.1 200 OK\r\n\r\n".as_slice(),
            &vec![b' '; ANSWER_MAX + 1],
        ]
        .concat();
        for (answer, what) in [
            (b"".as_slice(), What::Broken),
            (b"\x05\xff", What::Broken),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
                What::Broken,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
                What::Broken,
            ),
            (
                b"HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}",
                What::NotReady,
            ),
            (&endless, What::Broken),
        ] {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]);
            assert_eq!(status_from(answer).await.unwrap_err().what, what, "{shown}");
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\n{\"\r\nc\r\nVersion\":\"1\"\r\n1\r\n}\r\n0\r\n\r\n";
        assert_eq!(status_from(chunked).await.unwrap().version, "1");
    }

    async fn status_from(answer: &[u8]) -> Result<Status, Trouble> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let serve = async {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            drop(io.read(&mut request).await);
            drop(io.write_all(answer).await);
        };
        let api = LocalApi::new(&socket);
        tokio::join!(api.status(), serve).0
    }
}
