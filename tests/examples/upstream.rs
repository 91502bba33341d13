//! Scripted Macs and clouds on loopback: they answer as Ollama and Qdrant would, and remember every
//! request with the bytes of its head.
//!
//! A thread a connection, until the test process ends.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From the request line to the empty line.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What is answered.
pub(crate) struct Answer {
    status: u16,
    content_type: &'static str,
    /// One is sent with its length, several as chunks.
    pieces: Vec<String>,
}

/// How one answers.
pub(crate) type Manner = fn(&Seen) -> Answer;

/// One service on one machine.
pub(crate) struct Upstream {
    pub(crate) place: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// One that answers on `listener` in the name of `name`.
    pub(crate) fn on(listener: TcpListener, name: &'static str, manner: Manner) -> Self {
        Self::start(listener, name, manner, None)
    }

    /// The same over TLS, with a certificate for `localhost`, and the PEM file to trust it by.
    pub(crate) fn over_tls(name: &'static str, manner: Manner) -> (Self, String) {
        let (settings, pem) = certificate();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (Self::start(listener, name, manner, Some(settings)), pem)
    }

    fn start(
        listener: TcpListener,
        name: &'static str,
        manner: Manner,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let upstream = Self {
            place: listener.local_addr().unwrap(),
            seen: Arc::clone(&seen),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, tls) = (Arc::clone(&seen), tls.clone());
                thread::spawn(move || match tls {
                    None => serve(stream, name, manner, &seen),
                    Some(settings) => {
                        let connection = ServerConnection::new(settings).unwrap();
                        serve(StreamOwned::new(connection, stream), name, manner, &seen);
                    }
                });
            }
        });
        upstream
    }

    /// What came so far, without probes.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The one request whose first line begins so.
    pub(crate) fn one(&self, begins: &str) -> Seen {
        let all = self.seen();
        let mut found = all.iter().filter(|seen| seen.head.starts_with(begins));
        let first = found.next();
        first
            .unwrap_or_else(|| panic!("no {begins} came: {all:?}"))
            .clone()
    }
}

impl Seen {
    /// The value of a header, as it came.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    fn path(&self) -> &str {
        let target = self.head.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn is_probe(&self) -> bool {
        matches!(self.path(), "/api/version" | "/readyz") || self.path() == "/"
    }
}

/// Two listeners with one port, on two addresses of this machine: two Macs.
pub(crate) fn two_listeners() -> [TcpListener; 2] {
    let at = |host, port| {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
        TcpListener::bind(SocketAddr::new(ip, port))
    };
    (0..100)
        .find_map(|_| {
            let first = at(2, 0).unwrap();
            let second = at(3, first.local_addr().unwrap().port()).ok()?;
            Some([first, second])
        })
        .expect("a port that is free on both")
}

/// One listener on loopback.
pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

// --- how they answer ---------------------------------------------------------------------------

/// As Ollama.
pub(crate) fn ollama(seen: &Seen) -> Answer {
    let words = ["It ", "does."];
    let piece = |content: &str, done: bool| {
        json!({ "model": "m:latest", "created_at": "2025-02-17T00:00:00Z", "done": done,
            "message": { "role": "assistant", "content": content }, "response": content })
    };
    match (seen.method(), seen.path()) {
        (_, "/") => text(200, "Ollama is running"),
        ("GET", "/api/version") => json_of(&json!({ "version": "0.24.0" })),
        ("GET", "/api/tags") => json_of(&json!({ "models": [] })),
        ("POST", "/api/embed") => {
            let many = seen.json()["input"].as_array().map_or(1, Vec::len);
            let vector = json!([0.1, 0.2, 0.3, 0.4]);
            json_of(&json!({ "model": "m:latest", "embeddings": vec![vector; many] }))
        }
        ("POST", "/api/chat" | "/api/generate") if seen.json()["stream"] == false => {
            json_of(&piece(&words.concat(), true))
        }
        ("POST", "/api/chat" | "/api/generate") => Answer {
            status: 200,
            content_type: "application/x-ndjson",
            pieces: vec![
                format!("{}\n", piece(words[0], false)),
                format!("{}\n", piece(words[1], false)),
                format!("{}\n", piece("", true)),
            ],
        },
        _ => text(404, "404 page not found"),
    }
}

/// As Qdrant with the collection `papers`.
pub(crate) fn qdrant(seen: &Seen) -> Answer {
    let found =
        json!({ "id": 1, "version": 1, "score": 0.9, "payload": { "text": "the sea is wide" } });
    let result = match (seen.method(), seen.path()) {
        ("GET", "/") => return json_of(&json!({ "title": "qdrant", "version": "1.20.0" })),
        ("GET", "/readyz") => return text(200, "all shards are ready"),
        ("GET", "/collections") => json!({ "collections": [{ "name": "papers" }] }),
        ("GET", "/collections/papers/exists") => json!({ "exists": true }),
        ("POST", "/collections/papers/points/count") => json!({ "count": 1 }),
        ("PUT", "/collections/papers/points") => {
            json!({ "operation_id": 1, "status": "completed" })
        }
        ("POST", "/collections/papers/points/query") => json!({ "points": [found] }),
        _ => return text(404, "not found"),
    };
    json_of(&json!({ "result": result, "status": "ok", "time": 0.001 }))
}

/// As a Qdrant of the cloud, whose key is this.
pub(crate) const CLOUD_KEY: &str = "the-clusters-own-key";

/// As Qdrant, but not to strangers.
pub(crate) fn guarded_qdrant(seen: &Seen) -> Answer {
    let open = matches!(seen.path(), "/" | "/readyz" | "/livez" | "/healthz");
    if open || seen.header("api-key") == Some(CLOUD_KEY) {
        qdrant(seen)
    } else {
        text(
            401,
            "Must provide an API key or an Authorization bearer token",
        )
    }
}

/// As a store of objects that believes everybody.
pub(crate) fn store(_: &Seen) -> Answer {
    json_of(&json!({ "kind": "storage#object" }))
}

fn text(status: u16, words: &str) -> Answer {
    Answer {
        status,
        content_type: "text/plain",
        pieces: vec![words.to_owned()],
    }
}

fn json_of(value: &Value) -> Answer {
    Answer {
        content_type: "application/json",
        ..text(200, &value.to_string())
    }
}

// --- the wire ----------------------------------------------------------------------------------

fn serve(mut io: impl Read + Write, name: &str, manner: Manner, seen: &Mutex<Vec<Seen>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut io, &mut buffer) {
        let answer = manner(&request);
        if !request.is_probe() {
            seen.lock().unwrap().push(request);
        }
        // Who asked may have left.
        if io
            .write_all(&bytes_of(&answer, name))
            .and_then(|()| io.flush())
            .is_err()
        {
            return;
        }
    }
}

/// The next request; its body has a length.
fn read(io: &mut impl Read, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        more(io, buffer)?;
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).ok()?;
    let mut request = Seen {
        head,
        body: Vec::new(),
    };
    let length: usize = request
        .header("content-length")
        .map_or(Some(0), |text| text.parse().ok())?;
    while buffer.len() < length {
        more(io, buffer)?;
    }
    request.body = buffer.drain(..length).collect();
    Some(request)
}

fn more(io: &mut impl Read, buffer: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 16 * 1024];
    let read = io.read(&mut part).ok().filter(|read| *read > 0)?;
    buffer.extend_from_slice(&part[..read]);
    Some(())
}

fn bytes_of(answer: &Answer, name: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {} x\r\ncontent-type: {}\r\nx-mac: {name}\r\n",
        answer.status, answer.content_type
    );
    match answer.pieces.as_slice() {
        [whole] => format!("{head}content-length: {}\r\n\r\n{whole}", whole.len()).into_bytes(),
        pieces => {
            let chunk = |piece: &String| format!("{:x}\r\n{piece}\r\n", piece.len());
            let chunks: String = pieces.iter().map(chunk).collect();
            format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").into_bytes()
        }
    }
}

/// A certificate for `localhost` by an authority of this test, and that authority as PEM.
fn certificate() -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "the authority of the examples");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let made = params.signed_by(&key, &authority).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![made.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let settings = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(settings), authority.pem())
}

/// Asks over one connection of its own.
pub(crate) fn ask(place: SocketAddr, head: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(place).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    let length = body.len();
    let request = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}
