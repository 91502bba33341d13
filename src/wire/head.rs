//! The heads of HTTP/1.1 answers to handshakes, read from the raw stream.
//!
//! Owns reading and taking apart one head. Must not read past it on purpose: what came along is
//! handed on. Invariant: at most [`HEAD_MAX`] bytes of head and [`TEXT_MAX`] of error text are
//! kept, whatever the other side sends.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest head accepted, in bytes.
const HEAD_MAX: usize = 16 << 10;

/// Longest error text kept, in bytes. tailscaled's are one line.
const TEXT_MAX: usize = 512;

/// What one read asks for, in bytes: tailscaled's heads are under 200.
const PIECE: usize = 1 << 10;

/// An answer's head, and what came with it.
#[derive(Debug)]
pub(super) struct Head {
    /// The status.
    pub(super) status: u16,
    /// The bytes that came after it.
    pub(super) rest: Bytes,
    lines: Bytes,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum NoHead {
    /// The connection ended or broke first.
    Ended(io::Error),
    /// What came is not the head of an HTTP answer, or is too long.
    NotHttp,
}

/// Reads one head.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Head, NoHead> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut seen = 0;
    loop {
        if let Some(end) = end_of_head(&buffer, seen) {
            let rest = buffer.split_off(end).freeze();
            let status = status(&buffer).ok_or(NoHead::NotHttp)?;
            return Ok(Head {
                status,
                rest,
                lines: buffer.freeze(),
            });
        }
        if buffer.len() >= HEAD_MAX || !begins_like_http(&buffer) {
            return Err(NoHead::NotHttp);
        }
        seen = buffer.len();
        buffer.reserve(PIECE);
        if from.read_buf(&mut buffer).await.map_err(NoHead::Ended)? == 0 {
            return Err(NoHead::Ended(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

impl Head {
    /// The value of the first header of this name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = std::str::from_utf8(&self.lines).ok()?;
        lines.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body's first line's worth, fit for people. Read only as far as `Content-Length` says:
    /// the connection is kept alive behind an error, and waiting for its end would be waiting for
    /// nothing.
    pub(super) async fn text(&self, from: &mut (impl AsyncRead + Unpin)) -> String {
        let length = self
            .header("content-length")
            .and_then(|value| value.parse().ok());
        let wanted = length.unwrap_or(self.rest.len()).min(TEXT_MAX);
        let mut body = self.rest.slice(..self.rest.len().min(wanted)).to_vec();
        let missing = u64::try_from(wanted - body.len()).unwrap_or(0);
        // What broke off is as good a text as what came whole.
        drop(from.take(missing).read_to_end(&mut body).await);
        readable(&body)
    }
}

/// Text of the other side as one line without control characters.
pub(super) fn readable(text: &[u8]) -> String {
    let text = &text[..text.len().min(TEXT_MAX)];
    let shown: String = String::from_utf8_lossy(text)
        .chars()
        .map(|each| if each.is_control() { ' ' } else { each })
        .collect();
    shown.trim().to_owned()
}

/// Where the head ends, given that it does not end within the first `seen` bytes.
fn end_of_head(buffer: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let at = buffer[from..]
        .windows(4)
        .position(|four| four == b"\r\n\r\n")?;
    Some(from + at + 4)
}

fn begins_like_http(buffer: &[u8]) -> bool {
    let begin = b"HTTP/1.";
    let both = buffer.len().min(begin.len());
    buffer[..both] == begin[..both]
}

/// The status of `HTTP/1.x NNN ..`.
fn status(head: &[u8]) -> Option<u16> {
    if !begins_like_http(head) || head.get(8) != Some(&b' ') {
        return None;
    }
    let digits = head
        .get(9..12)
        .filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let after = head
        .get(12)
        .is_some_and(|byte| matches!(byte, b' ' | b'\r'));
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    after.then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> Result<Head, NoHead> {
        read(&mut bytes).await
    }

    #[tokio::test]
    async fn a_head_is_taken_apart_and_what_came_with_it_is_kept() {
        let head = read_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: ts-dial\r\n\r\nbytes");
        let head = head.await.unwrap();
        assert_eq!((head.status, head.rest.as_ref()), (101, b"bytes".as_ref()));
        assert_eq!(head.header("UPGRADE"), Some("ts-dial"));
        assert_eq!(head.header("dial-self"), None);
    }

    #[tokio::test]
    async fn a_head_that_comes_byte_by_byte_is_read() {
        let (mut theirs, mut ours) = tokio::io::duplex(1);
        let text = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        let write = tokio::io::AsyncWriteExt::write_all(&mut theirs, text);
        let (head, written) = tokio::join!(read(&mut ours), write);
        written.unwrap();
        assert_eq!(head.unwrap().header("a"), Some("b"));
    }

    #[tokio::test]
    async fn what_is_no_head_is_told_without_waiting_for_more() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &vec![b'x'; 2 * HEAD_MAX]].concat();
        for bytes in [
            b"\x05\xff".as_slice(),
            b"SSH-2.0-OpenSSH",
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000\r\n\r\n",
            &endless,
        ] {
            assert!(
                matches!(read_all(bytes).await, Err(NoHead::NotHttp)),
                "{bytes:?}"
            );
        }
        for bytes in [b"".as_slice(), b"HTTP/1.1 200 OK\r\n"] {
            assert!(
                matches!(read_all(bytes).await, Err(NoHead::Ended(_))),
                "{bytes:?}"
            );
        }
    }

    #[tokio::test]
    async fn error_text_is_one_bounded_line_and_no_longer_than_announced() {
        let head = read_all(b"HTTP/1.1 502 X\r\nContent-Length: 8\r\n\r\nno\x1b")
            .await
            .unwrap();
        assert_eq!(head.text(&mut b" luck\nmore".as_ref()).await, "no  luck");
        let head = read_all(b"HTTP/1.1 502 X\r\nContent-Length: 99999\r\n\r\n")
            .await
            .unwrap();
        let long = head.text(&mut vec![b'x'; 99_999].as_slice()).await;
        assert_eq!(long.len(), TEXT_MAX);
        let head = read_all(b"HTTP/1.1 500 X\r\n\r\nsaid").await.unwrap();
        assert_eq!(head.text(&mut tokio::io::empty()).await, "said");
    }
}
