//! Clients that write: what each sends, what it is told, and who owned the writes meanwhile.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{EACH, MS};
use crate::chaos::Dice;
use crate::support::http::{Framing, Head, Piece};
use crate::support::time::really;

/// The longest pause of a client between two writes.
const PAUSE: u64 = 2_500;
/// Larger than what is read before the dial: it is sent as it comes, and once.
const LARGE: usize = 200_000;

const WRITES: [(&str, &str); 6] = [
    ("PUT", "/collections/c/points"),
    ("POST", "/collections/c/points/delete"),
    ("POST", "/collections/c/points/payload"),
    ("PUT", "/collections/c/points/payload"),
    ("POST", "/collections/c/points/payload/clear"),
    ("POST", "/collections/c/points/batch"),
];

const QUERIES: [&str; 6] = [
    "wait=true",
    "wait=false",
    "wait=true&ordering=weak",
    "wait=true&ordering=medium",
    "ordering=strong&wait=true",
    "timeout=5",
];

/// A write: what is sent for it.
pub(super) struct Write {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) body: Vec<u8>,
}

impl Write {
    fn of(seed: u64, number: usize) -> Self {
        let mut dice = Dice(seed << 32 | number as u64);
        let (method, path) = dice.of(&WRITES);
        let query = dice.of(&QUERIES);
        let size = if dice.roll(20) == 0 { LARGE } else { 30 };
        Self {
            method,
            target: format!("{path}?{query}&n={number}"),
            body: format!("{{\"points\":[{number}],\"x\":\"{}\"}}", "x".repeat(size)).into(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} /qdrant{} HTTP/1.1\r\n", self.method, self.target);
        // Writing to a String cannot fail.
        let _ = write!(
            head,
            "host: a\r\ncontent-length: {}\r\n\r\n",
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }
}

/// What a client was told.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) backend: String,
    pub(super) reason: String,
    pub(super) retry_after: Option<String>,
    pub(super) body: String,
    pub(super) whole: bool,
}

/// What became of a write, as far as its client can know.
pub(super) struct Outcome {
    pub(super) number: usize,
    pub(super) write: Write,
    /// `None`: the connection ended without an answer.
    pub(super) said: Option<Said>,
    /// Who owned the writes at any time while it was on its way.
    pub(super) owners: [bool; 2],
    pub(super) took: Duration,
}

/// What clients and events share.
pub(super) struct Shared {
    /// Where tailhop is now.
    pub(super) data: watch::Sender<SocketAddr>,
    /// Who owned the writes, from one change to the next; both, while an edit comes into force.
    owned: Mutex<Vec<[bool; 2]>>,
}

impl Shared {
    /// m1 owns the writes.
    pub(super) fn new(data: SocketAddr) -> Self {
        Self {
            data: watch::Sender::new(data),
            owned: Mutex::new(vec![[true, false]]),
        }
    }

    fn changes(&self) -> usize {
        self.owned.lock().unwrap().len()
    }

    fn owners_since(&self, changes: usize) -> [bool; 2] {
        let owned = self.owned.lock().unwrap();
        let any = |machine: usize| owned[changes - 1..].iter().any(|owners| owners[machine]);
        [any(0), any(1)]
    }

    pub(super) fn own(&self, owners: [bool; 2]) {
        self.owned.lock().unwrap().push(owners);
    }

    /// The one owner, between edits.
    pub(super) fn owner(&self) -> usize {
        let owned = self.owned.lock().unwrap();
        usize::from(owned.last().unwrap()[1])
    }
}

/// One client: its writes, one after the other, on a connection that it keeps.
pub(super) async fn client(shared: Arc<Shared>, seed: u64, which: usize) -> Vec<Outcome> {
    let mut dice = Dice(seed ^ (which as u64) << 20);
    let mut kept = None;
    let mut outcomes = Vec::new();
    for number in which * EACH..(which + 1) * EACH {
        sleep(MS * u32::try_from(dice.roll(PAUSE)).unwrap()).await;
        let write = Write::of(seed, number);
        let mut io = match kept.take().filter(is_open) {
            Some(io) => io,
            None => connect(&shared).await,
        };
        let (changes, began) = (shared.changes(), Instant::now());
        let (said, goes_on) = ask(&mut io, &write).await;
        outcomes.push(Outcome {
            number,
            write,
            said,
            owners: shared.owners_since(changes),
            took: began.elapsed(),
        });
        kept = goes_on.then_some(io);
    }
    outcomes
}

/// A connection to the tailhop that runs, as soon as one does.
async fn connect(shared: &Shared) -> TcpStream {
    loop {
        let data = *shared.data.borrow();
        if let Ok(io) = TcpStream::connect(data).await {
            io.set_nodelay(true).unwrap();
            return io;
        }
        really(5 * MS).await;
    }
}

/// Whether the other side keeps it, as far as one can see.
fn is_open(io: &TcpStream) -> bool {
    let came = io.try_read(&mut [0]);
    came.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Sends a write and reads its answer, which may come before all is sent; and whether the connection
/// goes on.
async fn ask(io: &mut TcpStream, write: &Write) -> (Option<Said>, bool) {
    let (mut from, mut to) = io.split();
    let bytes = write.bytes();
    let answered = async {
        let mut buffer = Vec::new();
        let head = Head::read(&mut from, &mut buffer).await?;
        let mut framing = Framing::of_answer(&head, write.method);
        let mut body = Vec::new();
        let end = loop {
            match framing.piece(&mut from, &mut buffer).await {
                Piece::Data(data) => body.extend(data),
                end => break end,
            }
        };
        Some((head, body, end == Piece::End))
    };
    // Whether all was sent shows in the answer.
    let (sent, answered) = tokio::join!(to.write_all(&bytes), answered);
    let Some((head, body, whole)) = answered else {
        return (None, false);
    };
    let text = |name: &str| head.get(name).unwrap_or_default().to_owned();
    let goes_on = sent.is_ok() && whole && head.get("connection") != Some("close");
    let said = Said {
        status: head.word(1).parse().unwrap(),
        backend: text("x-tailhop-backend"),
        reason: text("x-tailhop-reason"),
        retry_after: head.get("retry-after").map(str::to_owned),
        body: String::from_utf8(body).unwrap(),
        whole,
    };
    (Some(said), goes_on)
}
