//! The three handshakes by which tailscaled is asked for a connection into the tailnet.
//!
//! Owns what is written and read until bytes of the Mac may flow. Must not open, time or close
//! anything: `dial` does. Invariant: nothing is written that the caller did not hand in as a
//! [`Target`], so no header can be smuggled; every error is a [`Failure`] before anything was sent
//! to a backend.

use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::head::{self, Head, NoHead, readable};
use super::meaning;
use crate::tailnet::Target;
use crate::tailnet::localapi::HOST;
use crate::words::outcome::{Failure, Kind};

/// A connection to tailscaled.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// LocalAPI `POST dial` (`ipn/localapi`, serveDial): 101 and then raw bytes. Returns what came
/// along with the answer.
pub(super) async fn ts_dial(
    wire: &mut impl Wire,
    target: &Target,
    port: u16,
) -> Result<Bytes, Failure> {
    let question = format!(
        "POST /localapi/v0/dial HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\n\
         Upgrade: ts-dial\r\nDial-Host: {target}\r\nDial-Port: {port}\r\nDial-Network: tcp\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let head = exchange(wire, &question).await?;
    match head.status {
        101 => return Ok(head.rest),
        200 if head.header("dial-self").is_some() => {
            let detail = format!(
                "{target}:{port} is not dialled: tailscaled says that it is outside the tailnet \
                 (where tailscaled runs with a TUN device, set tailnet.dial = \"direct\")"
            );
            return Err(Failure::unsent(Kind::NotInTailnet, detail));
        }
        _ => {}
    }
    let text = head.text(wire).await;
    let kind = match head.status {
        503 => Kind::DaemonStarting,
        502 => meaning::of_text(&text),
        _ => Kind::Tailnet,
    };
    Err(said(
        kind,
        target,
        port,
        &format!("tailscaled answered {} {text}", head.status),
    ))
}

/// CONNECT through tailscaled's HTTP proxy (RFC 9110 section 9.3.6). Returns what came along with
/// the answer.
pub(super) async fn connect(
    wire: &mut impl Wire,
    target: &Target,
    port: u16,
) -> Result<Bytes, Failure> {
    let place = match target {
        Target::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Target::Ip(_) | Target::Name(_) => format!("{target}:{port}"),
    };
    let question = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
    let head = exchange(wire, &question).await?;
    if matches!(head.status, 200..=299) {
        return Ok(head.rest);
    }
    let text = match head.header("tailscale-connect-error") {
        Some(text) => readable(text.as_bytes()),
        None => head.text(wire).await,
    };
    // Any other status is of a proxy that is not tailscaled's, or does not know CONNECT.
    let kind = if head.status == 500 {
        meaning::of_text(&text)
    } else {
        Kind::Tailnet
    };
    Err(said(
        kind,
        target,
        port,
        &format!("the proxy answered {} {text}", head.status),
    ))
}

/// SOCKS5 CONNECT without authentication (RFC 1928). `listed`: whether the netmap has the target,
/// which the one error code of tailscaled does not tell.
pub(super) async fn socks5(
    wire: &mut impl Wire,
    target: &Target,
    port: u16,
    listed: Option<bool>,
) -> Result<(), Failure> {
    let mut accepted = [0; 2];
    wire.write_all(&[5, 1, 0]).await.map_err(hung_up)?;
    wire.read_exact(&mut accepted).await.map_err(hung_up)?;
    match accepted {
        [5, 0] => {}
        [5, _] => return Err(proxy_is_odd("the SOCKS5 proxy asks for a password")),
        _ => return Err(proxy_is_odd("the proxy port does not speak SOCKS5")),
    }
    wire.write_all(&socks_request(target, port)?)
        .await
        .map_err(hung_up)?;
    let asked = Instant::now();
    let code = socks_reply(wire).await?;
    if code == 0 {
        return Ok(());
    }
    let kind = meaning::of_socks_reply(code, asked.elapsed(), listed);
    let text = match (kind, listed) {
        (Kind::Refused, None) => format!(
            "the SOCKS5 proxy answered {code}: refused, or the name is unknown to tailscaled"
        ),
        _ => format!("the SOCKS5 proxy answered {code}"),
    };
    Err(said(kind, target, port, &text))
}

fn socks_request(target: &Target, port: u16) -> Result<Vec<u8>, Failure> {
    let mut request = vec![5, 1, 0];
    match target {
        Target::Ip(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Target::Ip(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Target::Name(name) => {
            let length = u8::try_from(name.len()).map_err(|_| {
                Failure::unsent(
                    Kind::UnknownName,
                    "a host name over 255 bytes cannot be asked for",
                )
            })?;
            request.extend([3, length]);
            request.extend(name.bytes());
        }
    }
    request.extend(port.to_be_bytes());
    Ok(request)
}

/// Reads a reply to its last byte, as bytes of the Mac may follow: the bound address has a length
/// that depends on its type.
async fn socks_reply(wire: &mut impl Wire) -> Result<u8, Failure> {
    let mut begin = [0; 4];
    wire.read_exact(&mut begin).await.map_err(hung_up)?;
    let [version, code, _, kind] = begin;
    if version != 5 {
        return Err(proxy_is_odd("the proxy port does not speak SOCKS5"));
    }
    let address = match kind {
        1 => 4,
        3 => usize::from(wire.read_u8().await.map_err(hung_up)?),
        4 => 16,
        // An error may come with an address type that is none, and the connection ends then.
        _ if code != 0 => return Ok(code),
        _ => return Err(proxy_is_odd("the SOCKS5 proxy's reply has no address")),
    };
    let mut rest = [0; 255 + 2];
    match wire.read_exact(&mut rest[..address + 2]).await {
        Ok(_) => Ok(code),
        Err(_) if code != 0 => Ok(code),
        Err(error) => Err(hung_up(error)),
    }
}

/// Writes a question and reads the head of its answer.
async fn exchange(wire: &mut impl Wire, question: &str) -> Result<Head, Failure> {
    wire.write_all(question.as_bytes()).await.map_err(hung_up)?;
    head::read(wire).await.map_err(|none| match none {
        NoHead::Ended(error) => hung_up(error),
        NoHead::NotHttp => proxy_is_odd("tailscaled's answer to a dial is not HTTP"),
    })
}

fn said(kind: Kind, target: &Target, port: u16, text: &str) -> Failure {
    Failure::unsent(kind, format!("{target}:{port}: {}", text.trim_end()))
}

/// tailscaled ended a handshake without an answer, as one that is being stopped does.
fn hung_up(error: io::Error) -> Failure {
    let detail = format!("tailscaled ended the handshake of a dial: {error}");
    drop(error);
    Failure::unsent(Kind::Tailnet, detail)
}

fn proxy_is_odd(detail: &'static str) -> Failure {
    Failure::unsent(Kind::Tailnet, detail)
}
