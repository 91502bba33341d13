//! How many client connections are held at once, and what is done about those that are more.
//!
//! One that is more gets 503 with `Retry-After` and is closed. Not accepting it would be silence: a
//! client in the backlog cannot tell a full proxy from a dead one, and waits for its own timeout.
//!
//! The number follows the descriptor limit, so that clients alone never use up descriptors: dials,
//! probes, the admin listener and the configuration keep theirs.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

/// More connections than this are no app's.
const MOST: u64 = 16_384;
/// Descriptors that are not for requests: listeners, log, files, probes, the admin listener.
const RESERVED: u64 = 64;
/// Upstream connections that may be open beside the clients'.
const UPSTREAM_MOST: u64 = 4096;
/// Refused clients that are waited for at once. Whoever comes in a burst beyond is told and closed.
const TOLD: usize = 16;
/// How long one is waited for.
const TELLING: Duration = Duration::from_millis(500);
/// Bytes of a request that are read before it is cut off: a close with bytes unread is a reset,
/// which can overtake the answer.
const READ_MAX: u64 = 64 * 1024;

/// Places for client connections.
pub(super) struct Places {
    most: usize,
    full: bool,
    telling: Arc<Semaphore>,
    answer: Arc<[u8]>,
}

impl Places {
    /// Those of a listener that tells `answer` to whoever finds none.
    pub(super) fn new(answer: Vec<u8>) -> Self {
        let most = most(getrlimit(Resource::Nofile).current);
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            full: false,
            telling: Arc::new(Semaphore::new(TOLD)),
            answer: answer.into(),
        }
    }

    /// Whether there is a place beside `held` connections.
    pub(super) fn has_place(&mut self, held: usize) -> bool {
        let full = held >= self.most;
        if full && !self.full {
            warn!(connections = held, "no place for more client connections");
        }
        self.full = full;
        !full
    }

    /// Tells a client that there is no place for it. The answer goes into the socket's buffer at
    /// once; some are waited for until they have read it.
    pub(super) fn refuse(&self, stream: TcpStream) {
        let told = tell(stream, &self.answer);
        let telling = Arc::clone(&self.telling).try_acquire_owned();
        if let (Ok(stream), Ok(telling)) = (told, telling) {
            tokio::spawn(async move {
                let (mut request, mut nowhere) = (stream.take(READ_MAX), tokio::io::sink());
                // One that does not listen is cut off.
                let _ = timeout(TELLING, tokio::io::copy(&mut request, &mut nowhere)).await;
                drop(telling);
            });
        }
    }
}

/// Says `answer`, and that nothing follows. What the client had sent by now is read, as a close with
/// bytes unread is a reset.
fn tell(stream: TcpStream, answer: &[u8]) -> io::Result<TcpStream> {
    // Not through the runtime, which does not know yet whether a new socket can be written to.
    let mut stream = stream.into_std()?;
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Write)?;
    // What it sends later is its own affair.
    let _ = stream.read(&mut [0; 4096]);
    TcpStream::from_std(stream)
}

/// How many client connections a descriptor limit allows.
fn most(descriptors: Option<u64>) -> u64 {
    let Some(descriptors) = descriptors else {
        return MOST;
    };
    let left = descriptors.saturating_sub(RESERVED);
    let upstream = (left / 2).min(UPSTREAM_MOST);
    (left - upstream).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_for_everything_else() {
        let rows = [
            (None, MOST),
            (Some(0), 1),
            (Some(64), 1),
            (Some(256), 96),
            (Some(1024), 480),
            (Some(20_000), 15_840),
            (Some(1_048_576), MOST),
        ];
        for (descriptors, want) in rows {
            assert_eq!(most(descriptors), want, "{descriptors:?}");
        }
    }
}
