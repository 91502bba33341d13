//! Which protocol tailscaled's proxy port speaks.
//!
//! Owns the two questions that dial nothing. A port that accepts is no answer: tailscaled binds it
//! at the start of its boot and serves it at the end, and the kernel accepts in between.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::trouble::{Trouble, What, within};
use crate::config::snapshot::DialWay;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request in origin form, which a forward proxy answers by itself (tailscaled with 400) without
/// dialling anybody.
const HTTP_QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: tailhop\r\nConnection: close\r\n\r\n";
const HTTP_ANSWER: &[u8] = b"HTTP/";

/// RFC 1928 section 3: version 5, one method, no authentication; and its acceptance.
const SOCKS_QUESTION: &[u8] = &[5, 1, 0];
const SOCKS_ANSWER: &[u8] = &[5, 0];

/// The first of `ways` whose protocol the port speaks.
pub(super) async fn speaks(port: SocketAddr, ways: &[DialWay]) -> Result<DialWay, Trouble> {
    let mut last = Trouble::new(
        What::Broken,
        "no way that uses the proxy port was asked for",
    );
    for way in ways {
        let (question, answer) = match way {
            DialWay::HttpConnect => (HTTP_QUESTION, HTTP_ANSWER),
            DialWay::Socks5 => (SOCKS_QUESTION, SOCKS_ANSWER),
            DialWay::Auto | DialWay::LocalApi | DialWay::Direct => continue,
        };
        let name = way.as_str();
        let silence = || {
            Trouble::new(
                What::Silent,
                format!("no answer to {name} from the proxy {port}"),
            )
        };
        match within(PATIENCE, silence, ask(port, question, answer, name)).await {
            Ok(()) => return Ok(*way),
            // Who does not listen speaks nothing else either.
            Err(trouble) if trouble.what == What::Absent => return Err(trouble),
            Err(trouble) => last = trouble,
        }
    }
    Err(last)
}

async fn ask(port: SocketAddr, question: &[u8], answer: &[u8], name: &str) -> Result<(), Trouble> {
    let mut stream = TcpStream::connect(port)
        .await
        .map_err(|error| unopened(port, &error))?;
    let mut heard = vec![0; answer.len()];
    let spoken = async {
        stream.write_all(question).await?;
        stream.read_exact(&mut heard).await
    };
    match spoken.await {
        Ok(_) if heard == answer => Ok(()),
        // One that speaks another protocol answers in that, or hangs up.
        Ok(_) | Err(_) => Err(Trouble::new(
            What::Broken,
            format!(
                "the proxy port {port} does not speak {name}: {}",
                remedy(name, port)
            ),
        )),
    }
}

fn unopened(port: SocketAddr, error: &io::Error) -> Trouble {
    Trouble::new(
        What::of_connect(error),
        format!(
            "nobody listens on {port} ({error}): is tailscaled running, with its proxy listener?"
        ),
    )
}

fn remedy(name: &str, port: SocketAddr) -> String {
    let flag = if name == DialWay::Socks5.as_str() {
        "--socks5-server"
    } else {
        "--outbound-http-proxy-listen"
    };
    format!("start tailscaled with {flag}={port}")
}
