//! Where a request ends, and what passes of it: `tests/facts/framing.txt` over raw sockets on both
//! sides, byte by byte, and what has no place in such a table.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::app::{App, Stage, stage};
use crate::support::http::find;
use crate::support::upstream::{answer, raw};

/// Fields that a proxy adds about itself: the headers' own tests have them.
const ABOUT_US: [&str; 3] = ["via:", "forwarded:", "x-forwarded-"];

/// A backend that keeps every byte it gets and answers each request with 200 and two bytes.
struct Origin {
    place: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    dialled: watch::Sender<usize>,
    _tasks: JoinSet<()>,
}

impl Origin {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let (seen, dialled) = (Arc::default(), watch::Sender::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&seen), dialled.clone()));
        Self {
            place,
            seen,
            dialled,
            _tasks: tasks,
        }
    }

    fn dialled(&self) -> usize {
        *self.dialled.borrow()
    }

    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// A route for everything that leads here.
    async fn stage(&self, route: &str) -> Stage {
        let port = self.place.port();
        let stage = stage(&format!(
            "services.web = {{ kind = \"http\", port = {port}, backends = [\"m1\"] }}\n\
             routes = [{{ path = \"/\", service = \"web\", host = \"preserve\"{route} }}]"
        ))
        .await;
        stage.app.judged("web", "m1", "up").await;
        self.take();
        stage
    }
}

async fn accept(
    listener: TcpListener,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    dialled: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (io, _) = listener.accept().await.unwrap();
        dialled.send_modify(|count| *count += 1);
        connections.spawn(one(io, Arc::clone(&seen)));
    }
}

/// One request a connection: what comes after it belongs to it, too.
async fn one(mut io: TcpStream, seen: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        if !matches!(io.read_buf(&mut bytes).await, Ok(1..)) {
            break;
        }
    }
    seen.lock().unwrap().push(bytes);
    let at = seen.lock().unwrap().len() - 1;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let _ = io.write_all(answer).await;
    let _ = io.shutdown().await;
    let mut more = Vec::new();
    let _ = io.read_to_end(&mut more).await;
    if !more.is_empty() {
        seen.lock().unwrap()[at].extend(more);
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end + 2]).to_lowercase();
    let body = &bytes[end + 4..];
    if head.contains("\r\ntransfer-encoding:") {
        let last = body.starts_with(b"0\r\n") || find(body, b"\r\n0\r\n").is_some();
        return last && body.ends_with(b"\r\n\r\n");
    }
    let length = head.split("\r\ncontent-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
    body.len() >= length
}

/// A line of the table.
struct Case {
    id: String,
    request: Vec<u8>,
    statuses: Vec<u16>,
    closed: bool,
    reason: String,
    /// What reaches the backend.
    sent: Vec<Vec<u8>>,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("../facts/framing.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(Case::read)
        .collect()
}

impl Case {
    fn read(line: &str) -> Self {
        let cells: Vec<_> = line.split(" ~ ").collect();
        let [id, request, answers, sent, source] = cells[..] else {
            panic!("not five cells: {line}");
        };
        assert!(!source.is_empty(), "{line}");
        let (answers, reason) = answers.split_once(' ').unwrap_or((answers, ""));
        let statuses = answers.trim_end_matches('!').split(',');
        Self {
            id: id.into(),
            request: unescape(request),
            statuses: statuses.filter_map(|status| status.parse().ok()).collect(),
            closed: answers.ends_with('!') || answers == "none",
            reason: reason.into(),
            sent: match sent {
                "-" => Vec::new(),
                sent => sent.split(" && ").map(unescape).collect(),
            },
        }
    }

    /// Asks, and then for one thing more where the connection should go on.
    async fn play(&self, app: &App) -> (Vec<u16>, bool) {
        let mut client = app.client().await;
        client.send(&self.request).await;
        let method = String::from_utf8_lossy(&self.request);
        let method = method.split(' ').next().unwrap().trim_start();
        let mut statuses = Vec::new();
        for _ in &self.statuses {
            let Some(coming) = client.perhaps(method).await else {
                break;
            };
            let answer = coming.whole().await;
            assert!(answer.whole, "{}: an answer broke off", self.id);
            if answer.head.get("x-tailhop-reason").is_some() && answer.status() >= 400 {
                assert!(answer.json()["error"].is_string(), "{}", self.id);
            }
            statuses.push(answer.status());
        }
        if !self.closed {
            let last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            client.send(last).await;
            let last = client.perhaps("GET").await.map(|coming| coming.head);
            return (statuses, last.is_none_or(|head| head.word(1) != "200"));
        }
        let more = client.rest().await;
        assert_eq!(String::from_utf8_lossy(&more), "", "{}: more came", self.id);
        (statuses, true)
    }
}

/// Without what is about us, and with a fixed name for the backend's own.
fn comparable(bytes: &[u8], place: SocketAddr) -> String {
    let end = find(bytes, b"\r\n\r\n").map_or(bytes.len(), |end| end + 2);
    let head: String = shown(&bytes[..end])
        .split_inclusive("\\r\\n")
        .filter(|line| !ABOUT_US.iter().any(|ours| line.starts_with(ours)))
        .collect();
    head.replace(&place.to_string(), "BACKEND") + &shown(&bytes[end..])
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '\\' if rest[1..].starts_with('x') => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).unwrap());
                4
            }
            '\\' => {
                let escape = rest.as_bytes()[1];
                bytes.push(match escape {
                    b'r' => b'\r',
                    b'n' => b'\n',
                    b't' => b'\t',
                    other => panic!("\\{}", char::from(other)),
                });
                2
            }
            '{' => {
                let end = rest.find('}').unwrap();
                let (what, times) = rest[1..end].rsplit_once('*').unwrap();
                bytes.extend(unescape(what).repeat(times.parse().unwrap()));
                end + 1
            }
            other => {
                bytes.extend(other.to_string().as_bytes());
                other.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    bytes
}

impl Case {
    /// What is wrong with how it went, if anything.
    async fn wrong(&self, app: &App, origin: &Origin) -> Option<String> {
        let before = origin.dialled();
        let (statuses, closed) = self.play(app).await;
        let answers = self.statuses.iter().filter(|status| **status >= 200);
        let due = answers.count().max(1) + usize::from(!closed);
        let lines = app.lines_after(due).await;
        let mut seen = origin.take();
        if !closed {
            let last = seen.pop();
            assert!(last.is_some_and(|last| last.starts_with(b"GET /last ")));
        }
        let show = |all: &[Vec<u8>]| -> Vec<_> {
            let shown = all.iter().map(|bytes| comparable(bytes, origin.place));
            shown.collect()
        };
        let (seen, sent) = (show(&seen), show(&self.sent));
        let last = lines.iter().rev().find(|line| &*line.path != "/last")?;
        let reason = if last.end == "refused" {
            &*last.reason
        } else {
            ""
        };
        let dials = origin.dialled() - before;
        let fine = (&statuses, closed, reason) == (&self.statuses, self.closed, &self.reason)
            && seen == sent
            && lines.len() == due
            && dials == sent.len() + usize::from(!closed);
        let id = &self.id;
        (!fine).then(|| {
            format!(
                "{id}: {statuses:?} closed {closed} {reason} dials {dials}\n  {seen:?}\n  {sent:?}"
            )
        })
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_of_the_table_is_answered_and_forwarded_as_it_says() {
    let origin = Origin::start().await;
    let stage = origin.stage("").await;
    let cases = cases();
    assert!(cases.len() >= 31 + 60);
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(case.wrong(&stage.app, &origin).await);
    }
    let (count, of) = (wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{count} of {of}:\n{}", wrong.join("\n"));
    let metrics = stage.app.metrics().await;
    assert_eq!(metrics.sum("tailhop_stream_truncations_total", &[]), 0);
    assert_eq!(
        stage.app.verdict("web", "m1").await,
        "up",
        "no refusal is the backend's fault"
    );
}

/// Both bodies are held by nobody on the way: what is too large for that keeps its trailers, too.
#[tokio::test(start_paused = true)]
async fn trailers_pass_in_both_directions_whatever_the_size_of_the_body() {
    for size in [3, 100_000] {
        let origin = Origin::start().await;
        let stage = origin.stage("").await;
        let body = "b".repeat(size);
        let mut client = stage.app.client().await;
        client
            .send(format!(
                "POST /a HTTP/1.1\r\nHost: x\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {size:x}\r\n{body}\r\n0\r\nX-T: v\r\n\r\n"
            ))
            .await;
        assert_eq!(client.coming("POST").await.whole().await.status(), 200);
        let seen = origin.take().pop().unwrap();
        assert!(seen.ends_with(b"\r\n0\r\nx-t: v\r\n\r\n"), "{size}");
        stage.ends_clean().await;
    }
    let answer = b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-T: v\r\n\r\n";
    for (te, want) in [
        ("TE: trailers\r\n", "0\r\nx-t: v\r\n\r\n"),
        ("", "1\r\na\r\n0\r\n\r\n"),
    ] {
        let stage = stage("").await;
        stage.macs.qdrant[0].once(raw(answer));
        let mut client = stage.app.client().await;
        client
            .send(format!(
                "GET /qdrant/collections HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{te}\r\n"
            ))
            .await;
        let got = String::from_utf8(client.rest().await).unwrap();
        assert!(got.ends_with(want), "{te}: {got}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_without_a_body_keep_their_fields_and_the_connection() {
    let stage = stage("").await;
    let mut client = stage.app.client().await;
    let rows = [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            Some("7"),
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"a\"\r\n\r\n",
            None,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
    ];
    for (method, bytes, length) in rows {
        stage.macs.qdrant[0].once(raw(bytes.as_bytes()));
        let got = client.ask(method, "/qdrant/collections", &[], b"").await;
        let status: u16 = bytes[9..12].parse().unwrap();
        assert_eq!((got.status(), got.body.len()), (status, 0), "{bytes}");
        if length.is_some() {
            assert_eq!(got.head.get("content-length"), length, "{bytes}");
        }
        assert_eq!(got.head.get("transfer-encoding"), None, "{bytes}");
    }
    let got = client.ask("GET", "/qdrant/collections", &[], b"").await;
    assert_eq!((got.status(), got.text()), (200, "{}"));
    stage.ends_clean().await;
}

/// The client holds its body back until it is told: only then is it read, and only then is there a
/// dial for a body that is read first.
#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_100_gets_it_before_its_body_and_the_backend_never_sees_it() {
    let stage = stage("").await;
    for size in [2, 100_000] {
        let mut client = stage.app.client().await;
        let head = format!(
            "PUT /qdrant/collections/c HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
        );
        client.send(head).await;
        assert_eq!(client.coming("PUT").await.head.word(1), "100", "{size}");
        client.send("b".repeat(size)).await;
        assert_eq!(client.coming("PUT").await.whole().await.status(), 200);
        let seen = stage.macs.qdrant[0].seen().pop().unwrap();
        assert_eq!((seen.body.len(), seen.head.get("expect")), (size, None));
    }
    stage.ends_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_client_keeps_its_connection_if_it_asks_and_the_answer_has_a_length() {
    let stage = stage("").await;
    let mut client = stage.app.client().await;
    for _ in 0..3 {
        client
            .send("GET /qdrant/collections HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let got = client.coming("GET").await.whole().await;
        assert_eq!(got.status(), 200);
        assert_eq!(got.head.get("connection"), Some("keep-alive"));
    }
    stage.macs.qdrant[0].once(answer(200, &[("connection", "close")], b"{}"));
    client
        .send("GET /qdrant/collections HTTP/1.0\r\n\r\n")
        .await;
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(
        rest.starts_with("HTTP/1.0 200") && rest.ends_with("{}"),
        "{rest}"
    );
    stage.ends_clean().await;
}
