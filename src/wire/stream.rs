//! The byte stream of an upstream connection, whatever way it took.
//!
//! Owns reading, writing and closing. Must not know who is at the other end. Invariant: bytes that
//! came together with the handshake's answer are read first, and cost nothing once read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// Pieces that are together no larger than this are written as one.
const JOINED: usize = 1024;

/// An open upstream connection.
#[derive(Debug)]
pub struct Stream {
    early: Bytes,
    io: Io,
}

/// What carries it.
#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<TlsStream<Stream>>),
}

impl Stream {
    /// A stream over TCP, without Nagle's delay: heads and tokens are small and wanted now.
    pub(super) fn tcp(io: TcpStream, early: Bytes) -> io::Result<Self> {
        io.set_nodelay(true)?;
        Ok(Self {
            early,
            io: Io::Tcp(io),
        })
    }

    /// A stream over tailscaled's socket.
    pub(super) fn unix(io: UnixStream, early: Bytes) -> Self {
        Self {
            early,
            io: Io::Unix(io),
        }
    }

    /// A stream over TLS whose handshake is over.
    pub(super) fn tls(io: TlsStream<Self>) -> Self {
        Self {
            early: Bytes::new(),
            io: Io::Tls(Box::new(io)),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.has_remaining() {
            let fits = self.early.len().min(into.remaining());
            into.put_slice(&self.early.split_to(fits));
            if self.early.is_empty() {
                // An empty `Bytes` may still hold its buffer.
                self.early = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, into),
            Io::Unix(io) => Pin::new(io).poll_read(cx, into),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Unix(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => write_pieces(Pin::new(io), cx, pieces),
            Io::Unix(io) => write_pieces(Pin::new(io), cx, pieces),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Writes pieces to a socket by the call that is cheaper: to the kernel a vector of a head and a
/// small body is dearer than one piece is, with the copying that makes them one.
pub fn write_pieces<W: AsyncWrite>(
    io: Pin<&mut W>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return io.poll_write(cx, piece);
    }
    let mut joined = [0; JOINED];
    let mut length = 0;
    for piece in pieces {
        let Some(room) = joined.get_mut(length..length + piece.len()) else {
            return io.poll_write_vectored(cx, pieces);
        };
        room.copy_from_slice(piece);
        length += piece.len();
    }
    io.poll_write(cx, &joined[..length])
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn early_bytes_come_first_and_are_let_go() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::unix(ours, Bytes::from_static(b"early"));
        theirs.write_all(b" late").await.unwrap();
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ea");
        drop(theirs);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rly late");
    }

    #[tokio::test]
    async fn several_pieces_leave_in_one_write() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::unix(ours, Bytes::new());
        assert!(stream.is_write_vectored());
        let pieces = [IoSlice::new(b"head "), IoSlice::new(b"body")];
        assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 9);
        drop(stream);
        let mut got = String::new();
        theirs.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "head body");
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_however_large_they_are() {
        for sizes in [
            &[][..],
            &[0],
            &[700],
            &[5000],
            &[0, 3, 0, 700],
            &[700, 324],
            &[700, 325],
            &[9, 5000, 1],
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut stream = Stream::unix(ours, Bytes::new());
            let pieces: Vec<_> = (b'a'..)
                .zip(sizes)
                .map(|(byte, size)| vec![byte; *size])
                .collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let whole = pieces.concat();
            assert_eq!(stream.write_vectored(&slices).await.unwrap(), whole.len());
            drop(stream);
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, whole, "{sizes:?}");
        }
    }
}
