//! As much HTTP/1.1 as the tests need, over raw sockets: heads, framings, and how a body ended.

use tokio::io::{AsyncRead, AsyncReadExt};

/// The head of a request or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// All of it, as it came.
    pub(crate) text: String,
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// How far a body has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// The end that its framing names.
    End,
    /// The connection ended before.
    Broken,
}

impl Head {
    /// The next head, `None` when the connection ends before it.
    pub(crate) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Option<Self> {
        loop {
            if let Some(end) = find(buffer, b"\r\n\r\n") {
                let text = buffer.drain(..end + 4).collect();
                return Some(Self {
                    text: String::from_utf8(text).unwrap(),
                });
            }
            if !matches!(from.read_buf(buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// A word of its first line.
    pub(crate) fn word(&self, place: usize) -> &str {
        let first = self.text.lines().next().unwrap();
        first.split(' ').nth(place).unwrap_or_default()
    }

    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self
            .text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The one value of a header, if it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [] => None,
            [one] => Some(one),
            _ => panic!("{name} is there twice: {}", self.text),
        }
    }
}

impl Framing {
    pub(crate) fn of_request(head: &Head) -> Self {
        Self::named(head).unwrap_or(Self::Length(0))
    }

    pub(crate) fn of_answer(head: &Head, method: &str) -> Self {
        let bare = matches!(head.word(1), "100" | "101" | "204" | "304") || method == "HEAD";
        if bare {
            return Self::Length(0);
        }
        Self::named(head).unwrap_or(Self::UntilClose)
    }

    fn named(head: &Head) -> Option<Self> {
        if head.get("transfer-encoding").is_some() {
            return Some(Self::Chunked);
        }
        head.get("content-length")
            .map(|length| Self::Length(length.parse().unwrap()))
    }

    /// The next piece of a body.
    pub(crate) async fn piece(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Piece {
        loop {
            if let Some(piece) = self.take(buffer) {
                return piece;
            }
            match from.read_buf(buffer).await {
                Ok(1..) => {}
                Ok(0) if *self == Self::UntilClose => return Piece::End,
                _ => return Piece::Broken,
            }
        }
    }

    /// The next piece that is in `buffer` already.
    fn take(&mut self, buffer: &mut Vec<u8>) -> Option<Piece> {
        match self {
            Self::Length(0) => Some(Piece::End),
            _ if buffer.is_empty() => None,
            Self::UntilClose => Some(Piece::Data(std::mem::take(buffer))),
            Self::Length(left) => {
                let have = buffer.len().min(*left);
                *left -= have;
                Some(Piece::Data(buffer.drain(..have).collect()))
            }
            Self::Chunked => {
                let line = find(buffer, b"\r\n")?;
                let size = std::str::from_utf8(&buffer[..line]).unwrap();
                let size =
                    usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
                let whole = line + 2 + size + 2;
                if buffer.len() < whole {
                    return None;
                }
                let data = buffer[line + 2..line + 2 + size].to_vec();
                buffer.drain(..whole);
                Some(if size == 0 {
                    Piece::End
                } else {
                    Piece::Data(data)
                })
            }
        }
    }

    /// A whole body, `None` if it broke off.
    pub(crate) async fn read_whole(
        mut self,
        from: &mut (impl AsyncRead + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            match self.piece(from, buffer).await {
                Piece::Data(data) => body.extend(data),
                Piece::End => return Some(body),
                Piece::Broken => return None,
            }
        }
    }
}

/// One chunk; an empty one is the last.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Where `needle` is in `bytes`.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}
