//! What is asked while it is counted: one thing at a time, in lock-step, so that each run does
//! exactly the same.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: &str = concat!(
    r#"{"result":{"points":[{"id":1,"version":3,"score":0.87,"payload":{"title":"a title of a "#,
    r#"paper","year":2024}},{"id":2,"version":3,"score":0.81,"payload":{"title":"another title "#,
    r#"of a paper","year":2023}}]},"status":"ok","time":0.000412,"usage":null,"more":[0]}"#
);
const QUERY: &str = concat!(
    r#"{"query":[0.0123,-0.0456,0.0789,0.1011,-0.1213,0.1415,0.1617,-0.1819,0.2021,0.2223,"#,
    r#"-0.2425,0.2627,0.2829,-0.3031,0.3233,0.3435,-0.3637,0.3839],"limit":10}"#
);
const HEADERS: &str =
    "Host: localhost\r\nUser-Agent: x/1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n";

/// What can be asked for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// A read on the connection of the one before.
    Read,
    /// A query with a body, the same.
    Query,
    /// A read on a connection of its own.
    Fresh,
    /// A piece of a stream.
    Token,
}

/// All of them, in the order in which they are played.
pub(crate) const SHAPES: [Shape; 4] = [Shape::Read, Shape::Query, Shape::Fresh, Shape::Token];

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "GET on a kept-alive connection",
            Self::Query => "POST on a kept-alive connection",
            Self::Fresh => "GET on a connection of its own",
            Self::Token => "token of a stream",
        }
    }
}

/// Asks `times` times for one shape, and sees every answer.
pub(crate) fn play(shape: Shape, to: SocketAddr, origin: &Origin, times: u32) {
    match shape {
        Shape::Read | Shape::Query => {
            let mut kept = Client::open(to);
            (0..times).for_each(|_| kept.ask(shape));
        }
        Shape::Fresh => (0..times).for_each(|_| Client::open(to).ask(shape)),
        Shape::Token => Client::open(to).read_tokens(origin, times),
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn open(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, line: &str, body: &str) {
        let length = match body {
            "" => String::new(),
            _ => format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ),
        };
        let request = format!("{line} HTTP/1.1\r\n{HEADERS}{length}\r\n{body}");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn ask(&mut self, shape: Shape) {
        match shape {
            Shape::Query => self.send("POST /qdrant/collections/c/points/query", QUERY),
            _ => self.send("GET /qdrant/collections/c", ""),
        }
        let (status, length) = head(&mut self.0).expect("an answer");
        assert!(status.contains(" 200 "), "{status}");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        assert_eq!(body, ANSWER.as_bytes());
    }

    /// Lets the origin write one token after the other, each when the last one has come.
    fn read_tokens(&mut self, origin: &Origin, times: u32) {
        origin.tokens.store(times, Ordering::Relaxed);
        self.send("POST /ollama/api/chat", "{\"model\":\"tiny\"}");
        let (status, _) = head(&mut self.0).expect("an answer");
        assert!(status.contains(" 200 "), "{status}");
        let mut line = String::new();
        for number in 1..=times {
            origin.next.send(()).unwrap();
            while !line.contains("\"content\"") {
                line.clear();
                assert!(self.0.read_line(&mut line).unwrap() > 0, "cut at {number}");
            }
            assert_eq!(line.contains("true"), number == times);
            line.clear();
        }
        let mut rest = String::new();
        while !rest.ends_with("\r\n0\r\n\r\n") && !rest.ends_with("\n0\r\n\r\n") {
            assert!(self.0.read_line(&mut rest).unwrap() > 0, "no end");
        }
    }
}

/// The first line, and how long the body is.
fn head(from: &mut impl BufRead) -> Option<(String, usize)> {
    let (mut first, mut length) = (String::new(), 0);
    from.read_line(&mut first).ok().filter(|count| *count > 0)?;
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if line == "\r\n" {
            return Some((first, length));
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
}

/// Both services of both backends.
pub(crate) struct Origin {
    pub(crate) ports: [u16; 2],
    /// How many tokens the next stream has.
    tokens: Arc<AtomicU32>,
    /// Lets it write the next one.
    next: SyncSender<()>,
}

/// What its connections share.
#[derive(Clone)]
struct Tokens {
    count: Arc<AtomicU32>,
    go: Arc<Mutex<Receiver<()>>>,
}

impl Origin {
    /// Its threads end with the test process.
    pub(crate) fn start() -> Self {
        let (next, go) = sync_channel(1);
        let tokens = Tokens {
            count: Arc::default(),
            go: Arc::new(Mutex::new(go)),
        };
        let ports = [(); 2].map(|()| {
            let listeners = listeners();
            let port = listeners[0].local_addr().unwrap().port();
            for listener in listeners {
                let tokens = tokens.clone();
                thread::spawn(move || accept(&listener, &tokens));
            }
            port
        });
        let tokens = tokens.count;
        Self {
            ports,
            tokens,
            next,
        }
    }
}

fn accept(listener: &TcpListener, tokens: &Tokens) {
    for stream in listener.incoming() {
        let (stream, tokens) = (stream.unwrap(), tokens.clone());
        thread::spawn(move || converse(stream, &tokens));
    }
}

/// One port of both backends' addresses.
fn listeners() -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)) {
            return [first, second];
        }
    }
}

/// One connection, until the other side ends it.
fn converse(stream: TcpStream, tokens: &Tokens) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some((line, length)) = head(&mut stream) {
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        if line.starts_with("POST /api/chat") {
            write_tokens(stream.get_mut(), tokens);
            continue;
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn write_tokens(stream: &mut TcpStream, tokens: &Tokens) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let count = tokens.count.load(Ordering::Relaxed);
    for number in 1..=count {
        tokens.go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        let token = format!(
            "{{\"model\":\"tiny\",\"message\":{{\"role\":\"assistant\",\"content\":\" word\"}},\
             \"done\":{}}}\n",
            number == count
        );
        let chunk = format!("{:x}\r\n{token}\r\n", token.len());
        stream.write_all(chunk.as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
}
