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
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn hung_up(error: io::Error) -> Failure {
    let detail = format!("tailscaled ended the handshake of a dial: {error}");
    Failure::unsent(Kind::Tailnet, detail)
}

fn proxy_is_odd(detail: &'static str) -> Failure {
    Failure::unsent(Kind::Tailnet, detail)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// Our end of a connection on which `answer` came and the other side then hung up, and theirs,
    /// to see what was asked.
    async fn answered(answer: &[u8]) -> (DuplexStream, DuplexStream) {
        let (ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        (ours, theirs)
    }

    async fn seen(ours: DuplexStream, mut theirs: DuplexStream) -> Vec<u8> {
        drop(ours);
        let mut asked = Vec::new();
        theirs.read_to_end(&mut asked).await.unwrap();
        asked
    }

    fn mac() -> Target {
        Target::Name("mac".into())
    }

    #[tokio::test]
    async fn a_socks_reply_is_read_to_its_last_byte_whatever_its_address() {
        for (what, address) in [
            ("IPv4", [&[1][..], &[100, 64, 0, 1]].concat()),
            ("name", [&[3, 5][..], b"a.b.c"].concat()),
            ("empty name", vec![3, 0]),
            ("longest name", [&[3, 255][..], &[b'x'; 255]].concat()),
            ("IPv6", [&[4][..], &[0xfd; 16]].concat()),
        ] {
            let reply = [
                &[5, 0, 5, 0, 0],
                address.as_slice(),
                &[0x1f, 0x90],
                b"after",
            ]
            .concat();
            let (mut ours, theirs) = answered(&reply).await;
            socks5(&mut ours, &mac(), 80, None).await.unwrap();
            let mut after = String::new();
            ours.read_to_string(&mut after).await.unwrap();
            assert_eq!(after, "after", "{what}");
            assert_eq!(
                seen(ours, theirs).await,
                b"\x05\x01\x00\x05\x01\x00\x03\x03mac\x00\x50"
            );
        }
    }

    #[tokio::test]
    async fn addresses_are_asked_for_in_the_form_of_each_protocol() {
        let v4 = Target::Ip("100.64.0.1".parse().unwrap());
        let v6 = Target::Ip("fd7a::1".parse().unwrap());
        assert_eq!(
            socks_request(&v4, 80).unwrap(),
            [5, 1, 0, 1, 100, 64, 0, 1, 0, 80]
        );
        let asked = socks_request(&v6, 6333).unwrap();
        assert_eq!(
            (asked[3], asked.len(), &asked[20..]),
            (4, 22, &6333_u16.to_be_bytes()[..])
        );
        let long = Target::Name("x".repeat(256));
        assert_eq!(
            socks_request(&long, 80).unwrap_err().kind,
            Kind::UnknownName
        );

        let (mut ours, theirs) = answered(b"HTTP/1.1 200 OK\r\n\r\n").await;
        connect(&mut ours, &v6, 80).await.unwrap();
        let asked = b"CONNECT [fd7a::1]:80 HTTP/1.1\r\nHost: [fd7a::1]:80\r\n\r\n";
        assert_eq!(seen(ours, theirs).await, asked);

        let (mut ours, theirs) = answered(b"HTTP/1.1 101 X\r\n\r\n").await;
        ts_dial(&mut ours, &v6, 80).await.unwrap();
        let asked = String::from_utf8(seen(ours, theirs).await).unwrap();
        assert!(
            asked.contains("\r\nDial-Host: fd7a::1\r\nDial-Port: 80\r\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn what_is_no_socks_proxy_is_trouble_of_the_tailnet() {
        for reply in [
            b"".as_slice(),
            b"\x05",
            b"\x05\xff",
            b"\x05\x02",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x05\x00\x04\x00\x00\x01",
            b"\x05\x00\x05\x00\x00\x09",
            b"\x05\x00\x05\x00\x00\x01\x7f",
        ] {
            let (mut ours, _theirs) = answered(reply).await;
            let failure = socks5(&mut ours, &mac(), 80, None).await.unwrap_err();
            assert_eq!(failure.kind, Kind::Tailnet, "{reply:?}");
        }
    }

    #[tokio::test]
    async fn a_socks_error_without_a_whole_address_is_still_that_error() {
        for end in [
            b"\x00\x00".as_slice(),
            b"\x00\x01\x00",
            b"\x00\x01\0\0\0\0\0\0",
        ] {
            let reply = [b"\x05\x00\x05\x01", end].concat();
            let (mut ours, _theirs) = answered(&reply).await;
            let failure = socks5(&mut ours, &mac(), 80, Some(true)).await.unwrap_err();
            assert_eq!(failure.kind, Kind::Refused, "{end:?}");
        }
    }

    #[tokio::test]
    async fn every_answer_to_connect_has_its_kind() {
        for (answer, kind) in [
            (
                "500 X\r\nTailscale-Connect-Error: lookup a: no such host",
                Kind::UnknownName,
            ),
            (
                "500 X\r\nTailscale-Connect-Error: connection was refused",
                Kind::Refused,
            ),
            ("500 X", Kind::Tailnet),
            ("405 Method Not Allowed", Kind::Tailnet),
            ("407 Proxy Authentication Required", Kind::Tailnet),
            ("400 connection was refused", Kind::Tailnet),
        ] {
            let answer = format!("HTTP/1.1 {answer}\r\n\r\n");
            let (mut ours, _theirs) = answered(answer.as_bytes()).await;
            let failure = connect(&mut ours, &mac(), 80).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{answer}");
        }
    }

    #[tokio::test]
    async fn every_answer_to_ts_dial_has_its_kind() {
        for (answer, kind) in [
            (
                "200 OK\r\nDial-Self: true\r\nDial-Addr: 127.0.0.1:80\r\n\r\n",
                Kind::NotInTailnet,
            ),
            ("200 OK\r\n\r\n", Kind::Tailnet),
            ("403 Forbidden\r\n\r\n", Kind::Tailnet),
            ("404 Not Found\r\n\r\n", Kind::Tailnet),
            ("503 X\r\n\r\n", Kind::DaemonStarting),
            (
                "502 X\r\nContent-Length: 22\r\n\r\nconnection was refused",
                Kind::Refused,
            ),
            (
                "502 X\r\nContent-Length: 99\r\n\r\nconnection was refused",
                Kind::Refused,
            ),
            ("502 X\r\n\r\n", Kind::Tailnet),
        ] {
            let answer = format!("HTTP/1.1 {answer}");
            let (mut ours, _theirs) = answered(answer.as_bytes()).await;
            let failure = ts_dial(&mut ours, &mac(), 80).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{answer}");
            assert!(failure.detail.starts_with("mac:80"), "{failure}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_or_no_http_is_trouble_of_the_tailnet() {
        for answer in [
            b"".as_slice(),
            b"HTTP/1.1 101 Swit",
            b"\x05\xff",
            b"SSH-2.0-OpenSSH\r\n",
        ] {
            let (mut ours, _theirs) = answered(answer).await;
            assert_eq!(
                ts_dial(&mut ours, &mac(), 80).await.unwrap_err().kind,
                Kind::Tailnet
            );
            let (mut ours, _theirs) = answered(answer).await;
            assert_eq!(
                connect(&mut ours, &mac(), 80).await.unwrap_err().kind,
                Kind::Tailnet
            );
        }
    }
}
