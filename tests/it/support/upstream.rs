//! A scripted upstream: one service on one machine, over raw sockets, so that every byte and every
//! fault is as written.
//!
//! It records all requests but probes. What it does is an [`Act`], named after the fault.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::http::{Framing, Head, chunk, find};
use super::time::{really, soon};
use tailhop::api::collections::about;

/// What the probes of the product ask for.
const PROBES: [&str; 2] = ["/api/version", "/readyz"];
/// What the kernel holds of what an upstream sent.
const SEND_BUFFER: u32 = 64 * 1024;
/// The media type of what is no stream of a model.
const OPAQUE: &str = "application/octet-stream";
/// One write of a flood.
const FLOOD_PIECE: usize = 16 * 1024;

/// The upstream. Dropping it ends everything it runs.
pub(crate) struct Upstream {
    place: SocketAddr,
    /// Bound and not listening: keeps the port ours while nobody listens on it.
    _reserved: TcpSocket,
    shared: Arc<Shared>,
    listening: JoinSet<()>,
    connections: Arc<Mutex<JoinSet<()>>>,
    backlog: Vec<TcpStream>,
}

struct Shared {
    script: Mutex<Script>,
    counts: watch::Sender<Counts>,
}

struct Script {
    always: Act,
    once: VecDeque<Act>,
    probe: Act,
    list: Act,
    loaded: Act,
    aliases: Act,
    /// By the path about a collection.
    points: Vec<(String, Act)>,
    requests: Vec<Request>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Heads of requests read.
    pub(crate) heads: usize,
    /// Requests read to their end.
    pub(crate) requests: usize,
    /// Probes answered.
    pub(crate) probes: usize,
    /// Times that it was asked for its models or collections.
    pub(crate) lists: usize,
    /// Connections accepted.
    pub(crate) opened: usize,
    /// Connections that ended, by either side.
    pub(crate) closed: usize,
    /// Bytes of a flood that the socket took.
    pub(crate) flooded: usize,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, from 1.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn method(&self) -> &str {
        self.head.word(0)
    }

    /// Path and query as they came.
    pub(crate) fn target(&self) -> &str {
        self.head.word(1)
    }
}

/// What is done with one request.
#[derive(Clone)]
pub(crate) struct Act {
    steps: Vec<Step>,
    /// Begin when the head was read; the body is left in the socket.
    at_head: bool,
}

#[derive(Clone)]
enum Step {
    Write(Vec<u8>),
    Pause(Duration),
    Gate(Gate),
    Flood(usize),
    Silence,
    Echo,
    Reset,
    Close,
}

/// Lets a script go on, one step at a time.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn pass(&self) {
        self.0.add_permits(1);
    }
}

/// An answer that is whole.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Act {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    all.push(("content-length", &length));
    Act::of(vec![Step::Write(
        [head(status, &all), body.to_vec()].concat(),
    )])
}

/// The request is read and nothing comes back.
pub(crate) fn accept_then_silence() -> Act {
    Act::of(vec![Step::Silence])
}

/// The connection breaks before any answer.
pub(crate) fn reset_before_head() -> Act {
    Act::of(vec![Step::Reset])
}

/// The connection is closed before any answer.
pub(crate) fn close_before_head() -> Act {
    Act::of(vec![Step::Close])
}

/// A chunked answer that stops after `n` bytes.
pub(crate) fn stall_after(n: usize) -> Act {
    Act::of(vec![streamed(&vec![b'x'; n]), Step::Silence])
}

/// A chunked answer whose connection is reset after `n` bytes.
pub(crate) fn reset_mid_body(n: usize) -> Act {
    Act::of(vec![streamed(&vec![b'x'; n]), Step::Reset])
}

/// A chunked answer whose connection is closed before its end.
pub(crate) fn close_mid_body() -> Act {
    Act::of(vec![streamed(b"half"), Step::Close])
}

/// An answer whose connection is closed before its length has come.
pub(crate) fn close_mid_length() -> Act {
    let head = head(200, &[("content-length", "10")]);
    Act::of(vec![
        Step::Write([head, b"half".to_vec()].concat()),
        Step::Close,
    ])
}

/// A stream of a model's in pieces, and the end that HTTP gives it.
pub(crate) fn stream(media: &str, pieces: &[&[u8]]) -> Act {
    in_pieces(media, pieces, |_| None)
}

/// The same, with a pause before each piece but the first.
pub(crate) fn paced(media: &str, pieces: &[&[u8]], pause: Duration) -> Act {
    in_pieces(media, pieces, |place| {
        (place > 0).then_some(Step::Pause(pause))
    })
}

/// A chunked answer of no API that anybody knows, in pieces, with a pause before each but the first,
/// and its clean end.
pub(crate) fn pieces(pieces: &[&[u8]], pause: Duration) -> Act {
    let between = |place| (place > 0).then_some(Step::Pause(pause));
    in_pieces(OPAQUE, pieces, between)
}

/// The same, where each piece and the end wait for the gate.
pub(crate) fn gated(pieces: &[&[u8]], gate: &Gate) -> Act {
    gated_stream(OPAQUE, pieces, gate)
}

/// The same of a model.
pub(crate) fn gated_stream(media: &str, pieces: &[&[u8]], gate: &Gate) -> Act {
    in_pieces(media, pieces, |_| Some(Step::Gate(gate.clone())))
}

fn in_pieces(media: &str, pieces: &[&[u8]], before: impl Fn(usize) -> Option<Step>) -> Act {
    let chunked = head(
        200,
        &[("content-type", media), ("transfer-encoding", "chunked")],
    );
    let mut steps = vec![Step::Write(chunked)];
    for (place, piece) in pieces.iter().enumerate() {
        steps.extend(before(place));
        steps.push(Step::Write(chunk(piece)));
    }
    steps.extend(before(pieces.len()));
    steps.push(Step::Write(chunk(b"")));
    Act::of(steps)
}

/// An answer of `n` bytes, as fast as the socket takes them.
pub(crate) fn flood(n: usize) -> Act {
    let head = head(200, &[("content-length", &n.to_string())]);
    Act::of(vec![Step::Write(head), Step::Flood(n)])
}

/// These very bytes; then the connection is closed.
pub(crate) fn raw(bytes: &[u8]) -> Act {
    Act::of(vec![Step::Write(bytes.to_vec()), Step::Close])
}

/// Agrees to another protocol, says `first` in it, and from then on says what it hears.
pub(crate) fn switches(agreed: &[u8], first: &[u8]) -> Act {
    Act::of(vec![Step::Write([agreed, first].concat()), Step::Echo])
}

impl Act {
    fn of(steps: Vec<Step>) -> Self {
        Self {
            steps,
            at_head: false,
        }
    }

    /// It ends in a reset instead of a close.
    pub(crate) fn reset(mut self) -> Self {
        self.steps.pop();
        self.steps.push(Step::Reset);
        self
    }

    /// It ends without the end that HTTP gives it.
    pub(crate) fn cut(mut self) -> Self {
        self.steps.pop();
        self.steps.push(Step::Close);
        self
    }

    /// `delay` passes before its first byte.
    pub(crate) fn delay_head(mut self, delay: Duration) -> Self {
        self.steps.insert(0, Step::Pause(delay));
        self
    }

    /// The gate must open before its first byte.
    pub(crate) fn behind(mut self, gate: &Gate) -> Self {
        self.steps.insert(0, Step::Gate(gate.clone()));
        self
    }

    /// It begins when the request's head was read.
    pub(crate) fn at_head(mut self) -> Self {
        self.at_head = true;
        self
    }
}

fn streamed(first: &[u8]) -> Step {
    let head = head(200, &[("transfer-encoding", "chunked")]);
    Step::Write([head, chunk(first)].concat())
}

fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

impl Upstream {
    /// One service on two machines: 127.0.0.2 and 127.0.0.3, on the same port.
    pub(crate) async fn pair() -> [Self; 2] {
        loop {
            let first = reserve(2, 0).unwrap();
            let port = first.local_addr().unwrap().port();
            // Somebody else may have the port there.
            if let Ok(second) = reserve(3, port) {
                return [Self::on(first).await, Self::on(second).await];
            }
        }
    }

    /// One on loopback, for a machine behind the fake tailscaled.
    pub(crate) async fn start() -> Self {
        Self::on(reserve(1, 0).unwrap()).await
    }

    async fn on(reserved: TcpSocket) -> Self {
        let script = Script {
            always: answer(200, &[("content-type", "application/json")], b"{}"),
            once: VecDeque::new(),
            probe: answer(200, &[], b"{}"),
            list: answer(404, &[], b""),
            loaded: answer(200, &[], b"{\"models\":[]}"),
            aliases: answer(200, &[], b"{\"result\":{\"aliases\":[]}}"),
            points: Vec::new(),
            requests: Vec::new(),
        };
        let mut upstream = Self {
            place: reserved.local_addr().unwrap(),
            _reserved: reserved,
            shared: Arc::new(Shared {
                script: Mutex::new(script),
                counts: watch::Sender::new(Counts::default()),
            }),
            listening: JoinSet::new(),
            connections: Arc::default(),
            backlog: Vec::new(),
        };
        upstream.listen().await;
        upstream
    }

    pub(crate) fn place(&self) -> SocketAddr {
        self.place
    }

    /// Listens, also after [`Self::refuse`] and [`Self::black_hole`].
    pub(crate) async fn listen(&mut self) {
        self.backlog.clear();
        self.listening.shutdown().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        // Its connections inherit it, so that little of a flood is held on this side.
        socket.set_send_buffer_size(SEND_BUFFER).unwrap();
        socket.bind(self.place).unwrap();
        let listener = socket.listen(1024).unwrap();
        let (shared, connections) = (Arc::clone(&self.shared), Arc::clone(&self.connections));
        self.listening.spawn(accept(listener, shared, connections));
    }

    /// Closes the listener: dials are refused, connections go on.
    pub(crate) async fn refuse(&mut self) {
        self.backlog.clear();
        self.listening.shutdown().await;
    }

    /// Ends as a process does: dials are refused, connections break.
    pub(crate) async fn die(&mut self) {
        self.refuse().await;
        self.close_connections().await;
    }

    /// Closes all connections, as a server does with idle ones.
    pub(crate) async fn close_connections(&mut self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.shutdown().await;
    }

    /// No SYN is answered any more: the backlog is full.
    pub(crate) async fn black_hole(&mut self) {
        self.listening.shutdown().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.place).unwrap();
        let listener = socket.listen(1).unwrap();
        while let Some(io) = filled(self.place).await {
            self.backlog.push(io);
        }
        self.listening.spawn(async move {
            std::future::pending::<()>().await;
            drop(listener);
        });
    }

    /// What is done with every request that has no act of its own.
    pub(crate) fn always(&self, act: Act) {
        self.script().always = act;
    }

    /// The models that it tells of, with their digests.
    pub(crate) fn models(&self, models: &[(&str, &str)]) {
        self.lists(models_told(models));
    }

    /// Those of them that are in memory.
    pub(crate) fn loaded(&self, models: &[(&str, &str)]) {
        self.script().loaded = models_told(models);
    }

    /// The collections that it tells of, with their points.
    pub(crate) fn collections(&self, collections: &[(&str, u64)]) {
        let rows: Vec<_> = (collections.iter())
            .map(|(name, _)| format!("{{\"name\":\"{name}\"}}"))
            .collect();
        let list = format!("{{\"result\":{{\"collections\":[{}]}}}}", rows.join(","));
        let points = collections.iter().map(|(name, points)| {
            let told = format!("{{\"result\":{{\"points_count\":{points}}}}}");
            (about(name), answer(200, &[], told.as_bytes()))
        });
        let mut script = self.script();
        script.list = answer(200, &[], list.as_bytes());
        script.points = points.collect();
    }

    /// A name that stands for a collection.
    pub(crate) fn alias(&self, alias: &str, collection: &str) {
        let row = format!("{{\"alias_name\":\"{alias}\",\"collection_name\":\"{collection}\"}}");
        let list = format!("{{\"result\":{{\"aliases\":[{row}]}}}}");
        let mut script = self.script();
        script.aliases = answer(200, &[], list.as_bytes());
        let of = script
            .points
            .iter()
            .find(|(path, _)| *path == about(collection));
        let told = of.map(|(_, told)| (about(alias), told.clone()));
        script.points.extend(told);
    }

    /// What is done when the product asks for its models or collections.
    pub(crate) fn lists(&self, act: Act) {
        self.script().list = act;
    }

    /// What is done with the next request.
    pub(crate) fn once(&self, act: Act) {
        self.script().once.push_back(act);
    }

    /// What is done with probes.
    pub(crate) fn probes(&self, act: Act) {
        self.script().probe = act;
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        let counts = self.counts();
        counts.opened - counts.closed
    }

    /// Waits until it happened.
    pub(crate) async fn saw(&self, what: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        soon(counts.wait_for(what)).await.unwrap();
    }

    /// The first `n` requests, as soon as they were read to their end.
    pub(crate) async fn requests(&self, n: usize) -> Vec<Request> {
        self.saw(|counts| counts.requests >= n).await;
        self.seen()
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.script().requests.clone()
    }

    /// Waits until no connection is open.
    pub(crate) async fn all_closed(&self) {
        self.saw(|counts| counts.closed == counts.opened).await;
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }
}

fn models_told(models: &[(&str, &str)]) -> Act {
    let rows: Vec<_> = (models.iter())
        .map(|(name, digest)| format!("{{\"name\":\"{name}\",\"digest\":\"{digest}\"}}"))
        .collect();
    let list = format!("{{\"models\":[{}]}}", rows.join(","));
    answer(200, &[], list.as_bytes())
}

fn reserve(host: u8, port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
    socket.bind(SocketAddr::new(ip, port))?;
    Ok(socket)
}

/// One more connection in a backlog, or none if it is full.
async fn filled(place: SocketAddr) -> Option<TcpStream> {
    tokio::select! {
        biased;
        io = TcpStream::connect(place) => io.ok(),
        () = really(Duration::from_millis(50)) => None,
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: Arc<Mutex<JoinSet<()>>>) {
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.lock().unwrap().spawn(connection(io, shared));
    }
}

/// Counts a connection, also one that is ended from outside.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(|counts| counts.closed += 1);
    }
}

async fn connection(mut io: TcpStream, shared: Arc<Shared>) {
    let mut number = 0;
    shared.count(|counts| {
        counts.opened += 1;
        number = counts.opened;
    });
    let open = Open(shared);
    let shared = &open.0;
    let mut buffer = Vec::new();
    while let Some(head) = Head::read(&mut io, &mut buffer).await {
        let list = head.get("user-agent") == Some("tailhop")
            && (matches!(head.word(1), "/api/tags" | "/api/ps" | "/aliases")
                || head.word(1).starts_with("/collections"));
        let probe = list || PROBES.contains(&head.word(1));
        let act = if list {
            shared.list(head.word(1))
        } else {
            shared.act(probe)
        };
        if list {
            shared.count(|counts| counts.lists += 1);
        } else if !probe {
            shared.count(|counts| counts.heads += 1);
        }
        if !act.at_head {
            let framing = Framing::of_request(&head);
            let Some(body) = framing.read_whole(&mut io, &mut buffer).await else {
                return;
            };
            if !list {
                shared.record(probe, head, body, number);
            }
        }
        if !play(&mut io, &mut buffer, act.steps, shared).await {
            return;
        }
    }
}

/// Plays an act; whether the connection goes on.
async fn play(io: &mut TcpStream, buffer: &mut Vec<u8>, steps: Vec<Step>, shared: &Shared) -> bool {
    let (mut from, mut to) = io.split();
    let ended = tokio::select! {
        ended = async {
            for step in steps {
                match step {
                    Step::Write(bytes) => if to.write_all(&bytes).await.is_err() { return Step::Close },
                    Step::Pause(span) => tokio::time::sleep(span).await,
                    Step::Gate(gate) => gate.0.acquire().await.unwrap().forget(),
                    Step::Flood(n) => shared.flood(&mut to, n).await,
                    Step::Silence => std::future::pending().await,
                    last => return last,
                }
            }
            Step::Silence
        } => ended,
        () = left(&mut from, buffer) => Step::Close,
    };
    if matches!(ended, Step::Echo) {
        let mut heard = std::mem::take(buffer);
        loop {
            if io.write_all(&heard).await.is_err() {
                return false;
            }
            heard.clear();
            if !matches!(io.read_buf(&mut heard).await, Ok(1..)) {
                return false;
            }
        }
    }
    if matches!(ended, Step::Reset) {
        io.set_zero_linger().unwrap();
    }
    matches!(ended, Step::Silence)
}

/// Waits until the other side leaves; what comes before is kept.
async fn left(from: &mut (impl AsyncReadExt + Unpin), buffer: &mut Vec<u8>) {
    while matches!(from.read_buf(buffer).await, Ok(1..)) {}
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    fn act(&self, probe: bool) -> Act {
        let mut script = self.script.lock().unwrap();
        if probe {
            return script.probe.clone();
        }
        let once = script.once.pop_front();
        once.unwrap_or_else(|| script.always.clone())
    }

    /// What is answered when the product asks for models.
    fn list(&self, target: &str) -> Act {
        let script = self.script.lock().unwrap();
        match target {
            "/api/ps" => script.loaded.clone(),
            "/aliases" => script.aliases.clone(),
            "/api/tags" | "/collections" => script.list.clone(),
            about => {
                let points = script.points.iter().find(|(path, _)| path == about);
                points.map_or_else(|| answer(404, &[], b""), |(_, points)| points.clone())
            }
        }
    }

    fn record(&self, probe: bool, head: Head, body: Vec<u8>, connection: usize) {
        if probe {
            return self.count(|counts| counts.probes += 1);
        }
        let request = Request {
            head,
            body,
            connection,
        };
        self.script.lock().unwrap().requests.push(request);
        self.count(|counts| counts.requests += 1);
    }

    async fn flood(&self, to: &mut (impl AsyncWriteExt + Unpin), n: usize) {
        let piece = vec![b'x'; FLOOD_PIECE];
        let mut left = n;
        while left > 0 {
            let Ok(wrote) = to.write(&piece[..left.min(FLOOD_PIECE)]).await else {
                return;
            };
            left -= wrote;
            self.count(|counts| counts.flooded += wrote);
        }
    }
}

/// Whether any of the requests carries `needle`, in its head or body.
pub(crate) fn any_carries(requests: &[Request], needle: &str) -> bool {
    requests.iter().any(|request| {
        request.head.text.contains(needle) || find(&request.body, needle.as_bytes()).is_some()
    })
}
