//! A scripted Qdrant that keeps a ledger: of each write, by its number, what it was sent and whether
//! it was applied. That is the truth that answers are held against.
//!
//! What becomes of a write is written down before it comes, by its number; a server that dies in a
//! given moment is a [`Fate`], named after that moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::http::{Framing, Head, Piece};
use super::time::{really, soon};

/// What its answers say to those who were too many.
pub(crate) const LIMITED: &str = "{\"status\":{\"error\":\"Rate limiting exceeded\"}}";
/// How long they are to wait.
pub(crate) const RETRY_AFTER: &str = "17";
/// What its answers say of an operation that took too long.
pub(crate) const TIMED_OUT: &str = "{\"status\":{\"error\":\"Operation timed out\"}}";
const APPLIED: &str = "{\"result\":{\"status\":\"completed\"},\"status\":\"ok\"}";

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It is applied, and the answer says so.
    Applied,
    /// The same, and then the connection is closed, as one that was idle for too long: the next
    /// write may be on its way.
    ThenClosed,
    /// The connection is reset before anything of it was read.
    Unread,
    /// When its head was read.
    AfterHead,
    /// When a part of its body was read.
    MidBody,
    /// When all of it was read, and before it was applied.
    Unapplied,
    /// When it was applied, and before the answer.
    Unanswered,
    /// The same, closed instead of reset.
    Hung,
    /// The answer ends in the middle of its head.
    HeadCut,
    /// In the middle of its body.
    BodyCut,
    /// It is applied, and no answer comes.
    Stalled,
    /// No answer comes, and it is not applied.
    StalledUnapplied,
    /// The answer stops in the middle of its body, and nothing ends.
    BodyStalled,
    /// It is refused for a while: 429 and how long.
    Limited,
    /// It timed out: 408.
    TimedOut,
}

/// What is known of one write at one server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// How often any of it came.
    pub(crate) came: usize,
    /// How often it was applied.
    pub(crate) applied: usize,
    /// Method, target and body of what was applied, or refused.
    pub(crate) read: Option<(String, String, Vec<u8>)>,
}

type Of = Arc<dyn Fn(usize) -> Fate + Send + Sync>;

/// The server. Dropping it ends all that it runs.
pub(crate) struct Ledger {
    pub(crate) place: SocketAddr,
    shared: Arc<Shared>,
    _listening: JoinSet<()>,
}

struct Shared {
    fate: Of,
    entries: Mutex<HashMap<usize, Entry>>,
    open: watch::Sender<usize>,
}

impl Ledger {
    /// One that does with each write what `fate` says of its number.
    pub(crate) async fn start(fate: Of) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            fate,
            entries: Mutex::default(),
            open: watch::Sender::new(0),
        });
        let place = listener.local_addr().unwrap();
        let mut listening = JoinSet::new();
        listening.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            place,
            shared,
            _listening: listening,
        }
    }

    /// What is known so far.
    pub(crate) fn entries(&self) -> MutexGuard<'_, HashMap<usize, Entry>> {
        self.shared.entries.lock().unwrap()
    }

    /// Waits until nobody is connected: nothing more comes then.
    pub(crate) async fn all_closed(&self) {
        let mut open = self.shared.open.subscribe();
        soon(open.wait_for(|open| *open == 0)).await.unwrap();
    }
}

/// The number of a write, by its target.
pub(crate) fn number(target: &str) -> Option<usize> {
    let (_, number) = target.split_once("&n=")?;
    number.parse().ok()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (io, _) = listener.accept().await.unwrap();
        shared.open.send_modify(|open| *open += 1);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            drop(serve(io, &shared).await);
            shared.open.send_modify(|open| *open -= 1);
        });
    }
}

/// Answers on one connection until it ends, or is ended by a fate.
async fn serve(mut io: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    io.set_nodelay(true)?;
    while let Some(target) = target_to_come(&io).await? {
        let Some(number) = number(&target) else {
            // A probe, or a question: all is well.
            let Some(_) = Head::read(&mut io, &mut buffer).await else {
                return Ok(());
            };
            io.write_all(&reply(200, "", "{}")).await?;
            continue;
        };
        let fate = (shared.fate)(number);
        shared.note(number, |entry| entry.came += 1);
        if !serve_write(&mut io, &mut buffer, shared, (number, fate)).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// One write; whether the connection goes on.
async fn serve_write(
    io: &mut TcpStream,
    buffer: &mut Vec<u8>,
    shared: &Shared,
    (number, fate): (usize, Fate),
) -> std::io::Result<bool> {
    if fate == Fate::Unread {
        return reset(io);
    }
    let Some(head) = Head::read(io, buffer).await else {
        return Ok(false);
    };
    let mut framing = Framing::of_request(&head);
    match fate {
        Fate::AfterHead => return reset(io),
        Fate::MidBody => {
            while matches!(framing.piece(io, buffer).await, Piece::Data(data) if data.len() < 2) {}
            return reset(io);
        }
        _ => {}
    }
    let Some(body) = framing.read_whole(io, buffer).await else {
        return Ok(false);
    };
    let applies = !matches!(
        fate,
        Fate::Unapplied | Fate::StalledUnapplied | Fate::Limited | Fate::TimedOut
    );
    shared.note(number, |entry| {
        entry.applied += usize::from(applies);
        entry.read = Some((head.word(0).to_owned(), head.word(1).to_owned(), body));
    });
    let whole = reply(200, "", APPLIED);
    match fate {
        Fate::Unapplied | Fate::Unanswered => return reset(io),
        Fate::Hung => return Ok(false),
        Fate::HeadCut => return cut(io, &whole[..30]).await,
        Fate::BodyCut => return cut(io, &whole[..whole.len() - 10]).await,
        Fate::Stalled | Fate::StalledUnapplied => return silence(io).await,
        Fate::BodyStalled => {
            io.write_all(&whole[..whole.len() - 10]).await?;
            return silence(io).await;
        }
        Fate::Limited => {
            let after = format!("retry-after: {RETRY_AFTER}\r\n");
            io.write_all(&reply(429, &after, LIMITED)).await?;
        }
        Fate::TimedOut => io.write_all(&reply(408, "", TIMED_OUT)).await?,
        _ => io.write_all(&whole).await?,
    }
    Ok(fate != Fate::ThenClosed)
}

/// The target of the next request, which stays in the socket; `None`: no more comes.
async fn target_to_come(io: &TcpStream) -> std::io::Result<Option<String>> {
    let mut seen = [0; 512];
    loop {
        let many = io.peek(&mut seen).await?;
        if many == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&seen[..many]);
        if let Some((line, _)) = text.split_once("\r\n") {
            return Ok(line.split(' ').nth(1).map(str::to_owned));
        }
        really(Duration::from_millis(1)).await;
    }
}

fn reset(io: &TcpStream) -> std::io::Result<bool> {
    io.set_zero_linger()?;
    Ok(false)
}

async fn cut(io: &mut TcpStream, bytes: &[u8]) -> std::io::Result<bool> {
    io.write_all(bytes).await?;
    Ok(false)
}

/// Says nothing until the other side leaves.
async fn silence(io: &mut TcpStream) -> std::io::Result<bool> {
    let mut rest = [0; 512];
    while io.read(&mut rest).await? > 0 {}
    Ok(false)
}

fn reply(status: u16, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Scripted\r\n{more}content-length: {length}\r\n\r\n");
    (head + body).into_bytes()
}

impl Shared {
    fn note(&self, number: usize, change: impl FnOnce(&mut Entry)) {
        change(self.entries.lock().unwrap().entry(number).or_default());
    }
}
