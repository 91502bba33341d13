//! The recording origin: reads HTTP/1.1 from raw sockets as strictly as the RFC lets it, keeps
//! what it read, and answers each request with a serial number.
//!
//! It finds fault with everything that two readers could read in two ways: that is what smuggling
//! is made of, and no proxy may write it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One request as it was read, to its end.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) serial: usize,
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    /// Names in lower case, values without the space around them.
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// What one listener has read.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) seen: Vec<Seen>,
    /// What could be read in two ways, or was no HTTP.
    pub(crate) faults: Vec<String>,
    /// Requests whose connection ended inside them.
    pub(crate) partial: usize,
    serials: usize,
}

/// A listener whose record is shared with the test. Its threads end with the process.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) place: SocketAddr,
    record: Arc<Mutex<Record>>,
}

/// Why reading stopped.
enum Stop {
    /// Between two requests: the ordinary end.
    Ended,
    /// Inside one.
    Partial,
    /// This is not HTTP as it must be written.
    Fault(String),
}

impl Origin {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let record = Arc::<Mutex<Record>>::default();
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let record = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &record));
            }
        });
        Self { place, record }
    }

    /// What came since the last call.
    pub(crate) fn take(&self) -> Record {
        let mut record = self.record.lock().unwrap();
        let serials = record.serials;
        std::mem::replace(
            &mut *record,
            Record {
                serials,
                ..Record::default()
            },
        )
    }
}

fn serve(stream: TcpStream, record: &Mutex<Record>) {
    stream.set_nodelay(true).unwrap();
    let mut reader = Reader {
        stream,
        buffer: Vec::new(),
    };
    loop {
        match reader.request() {
            Ok(mut seen) => {
                let answer = {
                    let mut record = record.lock().unwrap();
                    record.serials += 1;
                    seen.serial = record.serials;
                    let answer = answer(&seen);
                    if !is_probe(&seen) {
                        record.seen.push(seen);
                    }
                    answer
                };
                if reader.stream.write_all(&answer).is_err() {
                    return;
                }
            }
            Err(Stop::Ended) => return,
            Err(Stop::Partial) => {
                record.lock().unwrap().partial += 1;
                return;
            }
            Err(Stop::Fault(what)) => {
                record.lock().unwrap().faults.push(what);
                return;
            }
        }
    }
}

/// A probe of the proxy's own: no generated request goes to `/` without its mark.
fn is_probe(seen: &Seen) -> bool {
    seen.target == b"/" && !seen.headers.iter().any(|(name, _)| name == b"x-case")
}

/// Four sorts of answer in turn: with a length, in chunks, without a body, not found.
fn answer(seen: &Seen) -> Vec<u8> {
    let serial = seen.serial;
    let (head, body) = match serial % 4 {
        0 => ("200 OK\r\ncontent-length: 2", "ok"),
        1 => (
            "200 OK\r\ntransfer-encoding: chunked",
            "2\r\nok\r\n0\r\n\r\n",
        ),
        2 => ("204 No Content", ""),
        _ => ("404 Not Found\r\ncontent-length: 4", "none"),
    };
    // The client must know what was asked for in the end: bytes of one request may have gone to
    // the method of the next.
    let (body, mark) = match seen.method.as_slice() {
        b"HEAD" => ("", "x-bare: 1\r\n"),
        _ => (body, ""),
    };
    format!("HTTP/1.1 {head}\r\nx-serial: {serial}\r\n{mark}\r\n{body}").into_bytes()
}

struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Reader {
    fn request(&mut self) -> Result<Seen, Stop> {
        let head = self.head()?;
        let mut lines =
            (head.split(|byte| *byte == b'\n')).filter_map(|line| line.strip_suffix(b"\r"));
        let first = lines.next().unwrap_or_default();
        let words: Vec<_> = first.split(|byte| *byte == b' ').collect();
        let [method, target, b"HTTP/1.1"] = words[..] else {
            return fault("a first line", first);
        };
        let mut headers = Vec::new();
        for line in lines {
            headers.push(field(line)?);
        }
        let hosts = headers.iter().filter(|(name, _)| name == b"host").count();
        if hosts != 1 {
            return fault("one Host", &head);
        }
        let body = match framing(&headers, &head)? {
            Framing::Length(length) => self.exactly(length)?,
            Framing::Chunked => self.chunks()?,
        };
        Ok(Seen {
            serial: 0,
            method: method.to_vec(),
            target: target.to_vec(),
            headers,
            body,
        })
    }

    /// A head without the empty line that ends it.
    fn head(&mut self) -> Result<Vec<u8>, Stop> {
        let mut head = Vec::new();
        loop {
            let line = match self.line() {
                Err(Stop::Partial) if head.is_empty() && self.buffer.is_empty() => {
                    return Err(Stop::Ended);
                }
                line => line?,
            };
            if line == b"\r\n" {
                return Ok(head);
            }
            head.extend(line);
        }
    }

    /// A line with its end, which is CRLF and nothing else.
    fn line(&mut self) -> Result<Vec<u8>, Stop> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let inner = line.strip_suffix(b"\r\n");
                return match inner {
                    Some(inner) if !inner.contains(&b'\r') && !inner.contains(&0) => Ok(line),
                    _ => fault("a line that ends in CRLF", &line),
                };
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Stop> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Stop> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = &line[..line.len() - 2];
            let plain =
                !size.is_empty() && size.len() <= 8 && size.iter().all(u8::is_ascii_hexdigit);
            if !plain {
                return fault("a chunk size", &line);
            }
            let size = std::str::from_utf8(size).unwrap_or_default();
            let size = usize::from_str_radix(size, 16).unwrap_or(0);
            if size == 0 {
                // Trailers, if any.
                while self.line()? != b"\r\n" {}
                return Ok(body);
            }
            body.extend(self.exactly(size)?);
            if self.exactly(2)? != b"\r\n" {
                return fault("the end of a chunk", &body);
            }
        }
    }

    fn more(&mut self) -> Result<(), Stop> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => Err(Stop::Partial),
            Ok(count) => {
                self.buffer.extend(&piece[..count]);
                Ok(())
            }
        }
    }
}

fn field(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Stop> {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
    let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(token) {
        return fault("a field", line);
    }
    Ok((name.to_ascii_lowercase(), value.trim_ascii().to_vec()))
}

fn framing(headers: &[(Vec<u8>, Vec<u8>)], head: &[u8]) -> Result<Framing, Stop> {
    let all = |wanted: &[u8]| -> Vec<&[u8]> {
        (headers.iter().filter(|(name, _)| name == wanted))
            .map(|(_, value)| value.as_slice())
            .collect()
    };
    match (&all(b"content-length")[..], &all(b"transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length)
                .ok()
                .and_then(|it| it.parse().ok());
            length.map_or_else(|| fault("a length", head), |it| Ok(Framing::Length(it)))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        _ => fault("one plain framing", head),
    }
}

fn fault<T>(expected: &str, got: &[u8]) -> Result<T, Stop> {
    Err(Stop::Fault(format!(
        "expected {expected}: {}",
        got.escape_ascii()
    )))
}
