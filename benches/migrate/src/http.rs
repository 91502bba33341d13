//! As much HTTP/1.1 as both programs need, over blocking sockets: messages with a length, on
//! connections that are kept.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

/// Larger than any head.
const PIECE: usize = 64 * 1024;

/// A message: the words of its first line, and its body.
pub struct Message {
    /// Method and target, or status.
    pub line: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A connection.
pub struct Connection {
    io: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Over `io`.
    pub fn new(io: TcpStream) -> Result<Self> {
        io.set_nodelay(true)?;
        Ok(Self {
            io,
            read: Vec::new(),
        })
    }

    /// The next request; `None`: no more comes.
    pub fn request(&mut self) -> Result<Option<Message>> {
        self.message(|bytes| {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Request::new(&mut headers);
            let parsed = head.parse(bytes).map_err(odd)?;
            let line = vec![
                head.method.unwrap_or_default().to_owned(),
                head.path.unwrap_or_default().to_owned(),
            ];
            Ok((parsed, line, length(head.headers)))
        })
    }

    /// The next answer.
    pub fn answer(&mut self) -> Result<Message> {
        let answer = self.message(|bytes| {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Response::new(&mut headers);
            let parsed = head.parse(bytes).map_err(odd)?;
            let status = head.code.unwrap_or_default().to_string();
            Ok((parsed, vec![status], length(head.headers)))
        })?;
        answer.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    /// Sends a head and a body in one write.
    pub fn send(&mut self, first_line: &str, body: &[u8]) -> Result<()> {
        let mut bytes = format!(
            "{first_line}\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        self.io.write_all(&bytes)
    }

    /// Asks and reads the answer, which must be a success.
    pub fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.send(&format!("{method} {target} HTTP/1.1"), body)?;
        let answer = self.answer()?;
        if answer.line[0] == "200" {
            return Ok(answer.body);
        }
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        Err(Error::other(format!(
            "{method} {target}: {} {said}",
            answer.line[0]
        )))
    }

    fn message(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<(httparse::Status<usize>, Vec<String>, usize)>,
    ) -> Result<Option<Message>> {
        loop {
            if !self.read.is_empty()
                && let (httparse::Status::Complete(head), line, length) = parse(&self.read)?
            {
                let whole = head + length;
                let have = self.read.len();
                if have < whole {
                    self.read.resize(whole, 0);
                    self.io.read_exact(&mut self.read[have..])?;
                }
                let rest = self.read.split_off(whole);
                let mut body = std::mem::replace(&mut self.read, rest);
                body.drain(..head);
                return Ok(Some(Message { line, body }));
            }
            let have = self.read.len();
            self.read.resize(have + PIECE, 0);
            let read = self.io.read(&mut self.read[have..])?;
            self.read.truncate(have + read);
            match (read, have) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }
}

fn length(headers: &[httparse::Header<'_>]) -> usize {
    let found = headers
        .iter()
        .find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let text = found.and_then(|it| std::str::from_utf8(it.value).ok());
    text.and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}

fn odd(error: httparse::Error) -> Error {
    Error::new(ErrorKind::InvalidData, error)
}
