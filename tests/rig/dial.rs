//! The rig's own way through tailscaled, without tailhop: to prove the rig itself, and to see
//! that a Mac is reachable before a test begins.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A stream to `host:port` by LocalAPI's `dial`.
pub(crate) async fn localapi(socket: &Path, host: &str, port: u16) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!(
        "POST /localapi/v0/dial HTTP/1.1\r\nHost: local-tailscaled.sock\r\n\
         Connection: upgrade\r\nUpgrade: ts-dial\r\nDial-Network: tcp\r\n\
         Dial-Host: {host}\r\nDial-Port: {port}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(io::Error::other(head));
    }
    Ok(stream)
}

/// Whether the tailscaled on `socket` has a direct path to a machine now.
pub(crate) async fn has_direct_path(socket: &Path, host: &str) -> bool {
    let status = ask(socket, "GET", "status").await.unwrap_or_default();
    let peers = status["Peer"].as_object();
    let mut peers = peers.into_iter().flat_map(|peers| peers.values());
    let of_host = |peer: &&serde_json::Value| peer["HostName"] == host;
    peers
        .find(of_host)
        .is_some_and(|peer| peer["CurAddr"].as_str().is_some_and(|at| !at.is_empty()))
}

/// The login of whoever owns a machine, as the tailscaled on `socket` knows it.
pub(crate) async fn login_of(socket: &Path, host: &str) -> Option<String> {
    let status = ask(socket, "GET", "status").await.ok()?;
    let peers = status["Peer"].as_object()?;
    let peer = peers.values().find(|peer| peer["HostName"] == host)?;
    let user = &status["User"][peer["UserID"].to_string()];
    user["LoginName"].as_str().map(str::to_owned)
}

/// The JSON of a question to LocalAPI.
async fn ask(socket: &Path, method: &str, path: &str) -> io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(socket).await?;
    let request =
        format!("{method} /localapi/v0/{path} HTTP/1.0\r\nHost: local-tailscaled.sock\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_head(&mut stream).await?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body).await?;
    serde_json::from_slice(&body).map_err(io::Error::other)
}

/// A stream to `host:port` by the SOCKS5 proxy, which resolves the name.
pub(crate) async fn socks5(proxy: SocketAddr, host: &str, port: u16) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;

    let length = u8::try_from(host.len()).map_err(io::Error::other)?;
    let mut connect = vec![5, 1, 0, 3, length];
    connect.extend_from_slice(host.as_bytes());
    connect.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&connect).await?;

    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    if reply[1] != 0 {
        return Err(io::Error::other(format!("SOCKS5 reply {}", reply[1])));
    }
    skip_address(&mut stream, reply[3]).await?;
    Ok(stream)
}

/// Reads over the address the proxy bound, whose length depends on its type.
async fn skip_address(stream: &mut TcpStream, kind: u8) -> io::Result<()> {
    let length = match kind {
        1 => 4,
        4 => 16,
        _ => usize::from(stream.read_u8().await?),
    };
    let mut address_and_port = vec![0; length + 2];
    stream.read_exact(&mut address_and_port).await.map(drop)
}

/// Byte by byte, because what follows the head belongs to the upgraded stream.
async fn read_head(stream: &mut UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
