//! A scripted gRPC server, and a client: HTTP/2 by the streams of `h2`, messages as opaque bytes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::time::soon;

/// What a server does with a call.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with these messages and this status in its trailers.
    Answer(Vec<Bytes>, &'static str),
    /// Answers with nothing but a status, in its head.
    Only(&'static str, &'static str),
    /// Answers with its head, no message, and this status in its trailers.
    Bare(&'static str),
    /// Says nothing.
    Silence,
    /// Sends its head and half a message, then resets the stream.
    Cut,
    /// Ends in the middle of a message as if all were well.
    EndEarly,
    /// Ends without trailers.
    NoStatus,
    /// Resets the stream with this reason before any head.
    Reset(Reason),
    /// Sends back what comes, piece by piece, and ends when its client does.
    Echo,
    /// Reads the message, and ends the connection.
    Hang,
    /// Reads the message, and does nothing on the connection any more.
    Freeze,
}

/// What an act does to its whole connection.
#[derive(Default)]
struct Whole {
    hang: Notify,
    freeze: Notify,
}

/// One call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    /// `:scheme` and `:authority`, and the path.
    pub(crate) uri: Uri,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Connections that were opened.
    pub(crate) opened: usize,
    /// Connections that are open.
    pub(crate) open: usize,
    /// Calls whose head came.
    pub(crate) calls: usize,
    /// Calls that were reset by the other side.
    pub(crate) resets: usize,
}

struct Shared {
    script: Mutex<Script>,
    counts: watch::Sender<Counts>,
    streams: Mutex<Option<u32>>,
    /// The next connection is told to end before its first call is looked at.
    turned_away: Mutex<bool>,
}

struct Script {
    always: Act,
    once: VecDeque<Act>,
    came: Vec<Came>,
}

/// A scripted server.
pub(crate) struct Server {
    place: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinSet<()>,
    connections: Arc<Mutex<JoinSet<()>>>,
    /// Connections are told to end.
    leave: watch::Sender<bool>,
}

/// A message with its prefix.
pub(crate) fn message(body: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(body.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).unwrap());
    framed.put_slice(body);
    framed.freeze()
}

impl Server {
    /// Two on one port, for the machines of [`super::app::Macs`].
    pub(crate) fn pair() -> [Self; 2] {
        loop {
            let first = Self::at([127, 0, 0, 2], 0).unwrap();
            if let Ok(second) = Self::at([127, 0, 0, 3], first.place.port()) {
                return [first, second];
            }
        }
    }

    /// One on loopback.
    pub(crate) fn start() -> Self {
        Self::at([127, 0, 0, 1], 0).unwrap()
    }

    /// One on this port, if it is free there; 0: on any.
    pub(crate) fn at(address: [u8; 4], port: u16) -> std::io::Result<Self> {
        let socket = socket(SocketAddr::from((address, port)))?;
        let script = Script {
            always: Act::Answer(vec![message(b"well")], "0"),
            once: VecDeque::new(),
            came: Vec::new(),
        };
        let mut server = Self {
            place: socket.local_addr().unwrap(),
            shared: Arc::new(Shared {
                script: Mutex::new(script),
                counts: watch::Sender::new(Counts::default()),
                streams: Mutex::new(None),
                turned_away: Mutex::new(false),
            }),
            listening: JoinSet::new(),
            connections: Arc::default(),
            leave: watch::Sender::new(false),
        };
        server.accept(socket.listen(1024)?);
        Ok(server)
    }

    fn accept(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let (connections, leave) = (Arc::clone(&self.connections), self.leave.subscribe());
        self.listening.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = serve(stream, Arc::clone(&shared), leave.clone());
                connections.lock().unwrap().spawn(served);
            }
        });
    }

    pub(crate) fn place(&self) -> SocketAddr {
        self.place
    }

    /// So many streams at once are taken on new connections.
    pub(crate) fn streams(&self, most: u32) {
        *self.shared.streams.lock().unwrap() = Some(most);
    }

    /// The next connection gets a GOAWAY that leaves its first call out.
    pub(crate) fn turn_away(&self) {
        *self.shared.turned_away.lock().unwrap() = true;
    }

    pub(crate) fn always(&self, act: Act) {
        self.shared.script.lock().unwrap().always = act;
    }

    pub(crate) fn once(&self, act: Act) {
        self.shared.script.lock().unwrap().once.push_back(act);
    }

    /// Calls that came so far.
    pub(crate) fn came(&self) -> Vec<Came> {
        self.shared.script.lock().unwrap().came.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until its counts are as wanted.
    pub(crate) async fn reaches(&self, wanted: impl Fn(&Counts) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        soon(counts.wait_for(|counts| wanted(counts)))
            .await
            .unwrap();
    }

    /// Tells all connections to end, by GOAWAY.
    pub(crate) fn go_away(&self) {
        self.leave.send_replace(true);
    }

    /// Ends as a process does.
    pub(crate) async fn die(&mut self) {
        self.listening.shutdown().await;
        self.close_connections().await;
    }

    pub(crate) async fn close_connections(&mut self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.shutdown().await;
    }

    /// Listens again, after [`Self::die`].
    pub(crate) async fn listen(&mut self) {
        self.listening.shutdown().await;
        self.leave = watch::Sender::new(false);
        self.accept(socket(self.place).unwrap().listen(1024).unwrap());
    }
}

fn socket(place: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(place)?;
    Ok(socket)
}

struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, mut leave: watch::Receiver<bool>) {
    shared.counts.send_modify(|counts| {
        counts.opened += 1;
        counts.open += 1;
    });
    let _open = Open(Arc::clone(&shared));
    let away = std::mem::take(&mut *shared.turned_away.lock().unwrap());
    if away {
        return turn_away(stream).await;
    }
    let mut builder = h2::server::Builder::new();
    builder
        .max_frame_size(1 << 20)
        .max_header_list_size(1 << 16);
    if let Some(most) = *shared.streams.lock().unwrap() {
        builder.max_concurrent_streams(most);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut calls = JoinSet::new();
    let mut told = false;
    let whole = Arc::new(Whole::default());
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    shared.counts.send_modify(|counts| counts.calls += 1);
                    calls.spawn(call(Arc::clone(&shared), request, respond, Arc::clone(&whole)));
                }
                _ => return,
            },
            Some(_) = calls.join_next() => {}
            _ = leave.wait_for(|leave| *leave), if !told => {
                told = true;
                connection.graceful_shutdown();
            }
            () = whole.hang.notified() => return,
            () = whole.freeze.notified() => break,
        }
    }
    // It stays open, and nobody looks at it.
    std::future::pending::<()>().await;
    drop((connection, calls));
}

/// Reads up to the head of the first call, and says that no stream was looked at (RFC 9113 6.8).
async fn turn_away(mut stream: TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.unwrap();
        if head[3] == 1 {
            break;
        }
    }
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    stream.write_all(&goaway).await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[expect(clippy::too_many_lines, reason = "one arm for each act")]
async fn call(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    whole: Arc<Whole>,
) {
    let act = {
        let mut script = shared.script.lock().unwrap();
        let next = script.once.pop_front();
        next.unwrap_or_else(|| script.always.clone())
    };
    let (parts, mut body) = request.into_parts();
    let came = |body| Came {
        uri: parts.uri.clone(),
        path: parts.uri.path().to_owned(),
        headers: parts.headers.clone(),
        body,
    };
    if matches!(act, Act::Echo) {
        shared.script.lock().unwrap().came.push(came(Bytes::new()));
        return echo(body, respond).await;
    }
    let mut read = BytesMut::new();
    while let Some(Ok(piece)) = body.data().await {
        read.extend_from_slice(&piece);
        let _ = body.flow_control().release_capacity(piece.len());
    }
    (shared.script.lock().unwrap().came).push(came(read.freeze()));
    // Those who wait for it look again.
    shared.counts.send_modify(|_| {});
    match act {
        Act::Answer(messages, code) => {
            let mut to = respond.send_response(head(), false).unwrap();
            for message in messages {
                if push(&mut to, message).await.is_none() {
                    return;
                }
            }
            let _ = to.send_trailers(status(code));
        }
        Act::Only(code, text) => {
            let mut only = head();
            only.headers_mut().extend(status(code));
            let text = HeaderValue::from_static(text);
            only.headers_mut().insert("grpc-message", text);
            let _ = respond.send_response(only, true);
        }
        Act::Bare(code) => {
            let mut to = respond.send_response(head(), false).unwrap();
            let _ = to.send_trailers(status(code));
        }
        Act::Silence => {
            let reset = poll_fn(|cx| respond.poll_reset(cx)).await;
            if reset.is_ok() {
                shared.counts.send_modify(|counts| counts.resets += 1);
            }
        }
        Act::Cut => {
            let mut to = respond.send_response(head(), false).unwrap();
            push(&mut to, message(&[7; 100]).slice(..50)).await;
            // So that it is sent before the reset takes it back.
            tokio::task::yield_now().await;
            to.send_reset(Reason::INTERNAL_ERROR);
        }
        Act::EndEarly => {
            let mut to = respond.send_response(head(), false).unwrap();
            push(&mut to, message(&[7; 100]).slice(..50)).await;
            let _ = to.send_trailers(status("0"));
        }
        Act::NoStatus => {
            let mut to = respond.send_response(head(), false).unwrap();
            let _ = to.send_data(message(b"well"), true);
        }
        Act::Reset(reason) => respond.send_reset(reason),
        Act::Hang => whole.hang.notify_one(),
        Act::Freeze => {
            whole.freeze.notify_one();
            std::future::pending::<()>().await;
        }
        Act::Echo => {}
    }
}

async fn echo(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    let mut to = respond.send_response(head(), false).unwrap();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        if push(&mut to, piece).await.is_none() {
            return;
        }
    }
    let _ = to.send_trailers(status("0"));
}

/// Sends a piece as there is room for it.
async fn push(to: &mut SendStream<Bytes>, mut piece: Bytes) -> Option<()> {
    while !piece.is_empty() {
        to.reserve_capacity(piece.len());
        let mut room = to.capacity();
        while room == 0 {
            room = poll_fn(|cx| to.poll_capacity(cx)).await?.ok()?;
        }
        to.send_data(piece.split_to(room.min(piece.len())), false)
            .ok()?;
    }
    Some(())
}

fn head() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.header("x-served", "yes").body(()).unwrap()
}

fn status(status: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("x-usage", HeaderValue::from_static("3"));
    trailers
}

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Response<()>,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Reply {
    /// Its status, wherever it stands.
    pub(crate) fn status(&self) -> &str {
        self.says("grpc-status")
    }

    /// What it says under a name, in its trailers or in its head.
    pub(crate) fn says(&self, name: &str) -> &str {
        let value = self.trailers.get(name);
        let value = value.or_else(|| self.head.headers().get(name));
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// A client on one connection.
pub(crate) struct Caller {
    pub(crate) sender: SendRequest<Bytes>,
    driving: JoinSet<()>,
}

/// A call that was begun.
pub(crate) struct Calling {
    answer: h2::client::ResponseFuture,
    pub(crate) to: SendStream<Bytes>,
}

impl Caller {
    pub(crate) async fn connect(place: SocketAddr) -> Self {
        let stream = TcpStream::connect(place).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20);
        builder.initial_connection_window_size(1 << 24);
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(async move {
            let _ = connection.await;
        });
        Self { sender, driving }
    }

    /// Begins a call with these headers besides the usual ones.
    pub(crate) async fn begin(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        whole: Option<Bytes>,
    ) -> Calling {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("http://127.0.0.1{path}").parse().unwrap();
        let usual = [("content-type", "application/grpc"), ("te", "trailers")];
        for (name, value) in usual.iter().chain(headers) {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(*name, value);
        }
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (answer, mut to) = sender.send_request(request, false).unwrap();
        if let Some(whole) = whole {
            push(&mut to, whole).await;
            let _ = to.send_data(Bytes::new(), true);
        }
        Calling { answer, to }
    }

    /// A call with one message.
    pub(crate) async fn call(&self, path: &str, body: &[u8]) -> Reply {
        self.call_with(path, &[], body).await
    }

    pub(crate) async fn call_with(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Reply {
        let calling = self.begin(path, headers, Some(message(body))).await;
        calling.whole().await.unwrap()
    }

    /// Ends when the other side closed the connection.
    pub(crate) async fn closed(&mut self) {
        soon(self.driving.join_next()).await;
    }
}

impl Calling {
    /// The head of its answer, and what follows.
    pub(crate) async fn coming(
        self,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        Ok((soon(self.answer).await?, self.to))
    }

    /// All of its answer.
    pub(crate) async fn whole(self) -> Result<Reply, h2::Error> {
        let (head, _to) = self.coming().await?;
        let (parts, mut body) = head.into_parts();
        let mut read = BytesMut::new();
        while let Some(piece) = soon(body.data()).await {
            let piece = piece?;
            read.extend_from_slice(&piece);
            let _ = body.flow_control().release_capacity(piece.len());
        }
        let trailers = soon(body.trailers()).await?.unwrap_or_default();
        Ok(Reply {
            head: Response::from_parts(parts, ()),
            body: read.freeze(),
            trailers,
        })
    }
}
