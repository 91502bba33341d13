//! The client: writes a connection's bytes as they are, split where told, and reads what comes
//! back until the other side closes or falls silent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::generate::Script;

/// Silence that counts as waiting for more: what a request that hangs by design costs, and more
/// than an answer takes on a busy machine.
const SILENCE: Duration = Duration::from_secs(1);
/// What a proxy may take to notice that a client left in the middle.
const NOTICE: Duration = Duration::from_millis(50);

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The number that the origin gave it; `None`: it is the proxy's own.
    pub(crate) serial: Option<usize>,
    /// Why tailhop refused, in its word.
    pub(crate) reason: Option<String>,
}

/// How the connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The other side closed it.
    Closed,
    /// It waits for more.
    Waits,
    /// An answer broke off, or was none.
    Broken,
}

/// Sends the script's bytes to `place`; every answer that came back.
pub(crate) fn play(place: SocketAddr, script: &Script) -> (Vec<Answer>, End) {
    let mut stream = TcpStream::connect(place).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let mut rest = &script.bytes[..];
    for piece in &script.pieces {
        let (now, later) = rest.split_at(*piece);
        // It may have been closed at an error: the answer tells.
        if stream.write_all(now).is_err() {
            break;
        }
        if script.slow {
            thread::sleep(Duration::from_millis(1));
        }
        rest = later;
    }
    let mut reader = Reader {
        stream,
        buffer: Vec::new(),
        end: None,
    };
    let mut answers = Vec::new();
    while let Some(head) = reader.head() {
        let asked_head = script.requests.get(answers.len()).is_some_and(|it| it.head);
        let Some(answer) = reader.answer(&head, asked_head) else {
            reader.end = Some(End::Broken);
            break;
        };
        // A 1xx is no answer yet.
        answers.extend((answer.status >= 200).then_some(answer));
    }
    let end = match reader.end {
        Some(End::Closed) if !reader.buffer.is_empty() => End::Broken,
        end => end.unwrap_or(End::Broken),
    };
    drop(reader);
    if end != End::Closed {
        thread::sleep(NOTICE);
    }
    (answers, end)
}

struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    end: Option<End>,
}

impl Reader {
    fn head(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).ok();
            }
            self.more()?;
        }
    }

    /// The answer with this head, its body read to the end; `None` if it broke.
    fn answer(&mut self, head: &str, asked_head: bool) -> Option<Answer> {
        let status: u16 = head.get(9..12)?.parse().ok()?;
        let field = |wanted: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim().to_owned())
        };
        let serial = field("x-serial").and_then(|serial| serial.parse().ok());
        let to_head = serial.map_or(asked_head, |_: usize| field("x-bare").is_some());
        let bare = to_head || status < 200 || status == 204 || status == 304;
        if bare {
            // There is none.
        } else if field("transfer-encoding").is_some() {
            while self.chunk()? > 0 {}
        } else if let Some(length) = field("content-length") {
            self.skip(length.parse().ok()?)?;
        } else {
            while self.more().is_some() {}
            self.buffer.clear();
        }
        let reason = field("x-tailhop-reason");
        Some(Answer {
            status,
            serial,
            reason,
        })
    }

    fn chunk(&mut self) -> Option<usize> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let size = String::from_utf8(self.buffer.drain(..end + 2).collect()).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                self.skip(size + 2)?;
                return Some(size);
            }
            self.more()?;
        }
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        while self.buffer.len() < count {
            self.more()?;
        }
        self.buffer.drain(..count);
        Some(())
    }

    fn more(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let end = match self.stream.read(&mut piece) {
            Ok(count) if count > 0 => {
                self.buffer.extend(&piece[..count]);
                return Some(());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                End::Waits
            }
            _ => End::Closed,
        };
        self.end.get_or_insert(end);
        None
    }
}
