//! As much of HTTP/1.1 as both ends need of each other: heads, and lengths.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What a vector client sends: a body of usual size for a query.
const QUERY: &str = concat!(
    r#"{"query":[0.0123,-0.0456,0.0789,0.1011,-0.1213,0.1415,0.1617,-0.1819,0.2021,0.2223,"#,
    r#"-0.2425,0.2627,0.2829,-0.3031,0.3233,0.3435,-0.3637,0.3839],"limit":10,"#,
    r#""with_payload":true,"filter":{"must":[{"key":"year","range":{"gte":2020}}]}}"#
);
/// What asks for an embedding.
const TEXT: &str = r#"{"model":"tiny","input":"a text of a paper, of which the vector is wanted"}"#;
const HEADERS: &str = "user-agent: python-httpx/0.28\r\naccept: */*\r\naccept-encoding: gzip\r\n";

/// A chat of 2 KB.
fn chat() -> String {
    let words = "words of a conversation that goes on ".repeat(53);
    format!(
        r#"{{"model":"tiny","messages":[{{"role":"user","content":"{words}"}}],"stream":true}}"#
    )
}

/// A request as the usual clients write it; with a body if it is a POST.
pub(crate) fn request(method: &str, target: &str) -> Vec<u8> {
    let head = format!("{method} {target} HTTP/1.1\r\nhost: localhost:8484\r\n{HEADERS}");
    let body = match target {
        _ if target.ends_with("?whole") => chat(),
        _ if target.ends_with("/api/embed") => TEXT.to_owned(),
        _ => QUERY.to_owned(),
    };
    match method {
        "POST" => format!(
            "{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        _ => format!("{head}\r\n"),
    }
    .into_bytes()
}

/// Bytes that have come and were not used.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
}

/// A head and the whole body behind it, as counted by `content-length`, or by its chunks.
pub(crate) struct Message {
    /// The first line.
    pub(crate) line: String,
    pub(crate) body: usize,
}

impl Inbox {
    /// The next message with its body; `None`: the other side ended.
    pub(crate) async fn message(&mut self, stream: &mut TcpStream) -> Option<Message> {
        let end = loop {
            if let Some(at) = find(&self.bytes, b"\r\n\r\n") {
                break at + 4;
            }
            self.more(stream).await?;
        };
        let line = first_line(&self.bytes);
        if is_chunked(&self.bytes[..end]) {
            self.bytes.drain(..end);
            let body = self.chunks(stream).await?;
            return Some(Message { line, body });
        }
        let body = length(&self.bytes[..end]);
        while self.bytes.len() < end + body {
            self.more(stream).await?;
        }
        self.bytes.drain(..end + body);
        Some(Message { line, body })
    }

    /// Reads chunks to their end; how much was in them.
    async fn chunks(&mut self, stream: &mut TcpStream) -> Option<usize> {
        let mut body = 0;
        loop {
            let line = self.line(stream).await?;
            let size = std::str::from_utf8(&line).ok()?.trim();
            let size = usize::from_str_radix(size, 16).ok()?;
            while self.bytes.len() < size + 2 {
                self.more(stream).await?;
            }
            self.bytes.drain(..size + 2);
            body += size;
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// The next line; `None`: the other side ended.
    pub(crate) async fn line(&mut self, stream: &mut TcpStream) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.bytes) {
                return Some(self.bytes.drain(..=at).collect());
            }
            self.more(stream).await?;
        }
    }

    async fn more(&mut self, stream: &mut TcpStream) -> Option<()> {
        self.bytes.reserve(2048);
        let count = stream.read_buf(&mut self.bytes).await.unwrap_or(0);
        (count > 0).then_some(())
    }
}

fn first_line(head: &[u8]) -> String {
    let end = find(head, b"\r\n").unwrap_or(head.len());
    String::from_utf8_lossy(&head[..end]).into_owned()
}

fn is_chunked(head: &[u8]) -> bool {
    let head = head.to_ascii_lowercase();
    find(&head, b"\r\ntransfer-encoding: chunked\r\n").is_some()
}

fn length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let named =
        |line: &&[u8]| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME);
    let value = lines.find(named).map(|line| &line[NAME.len()..]);
    let value = value.and_then(|value| std::str::from_utf8(value).ok());
    value.map_or(0, |value| value.trim().parse().unwrap())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}
