//! The listening socket of a stand-in: open, silent or closed.
//!
//! Loopback has no Mac to put to sleep: the kernel accepts for whoever listens. But it drops a
//! SYN when the queue of accepted connections is full, which is just what a dialler of a sleeping
//! machine sees. So a sleeping socket has the shortest queue, filled by ourselves.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::Power;

/// Connections that wait to be accepted while awake, as tokio's own.
const QUEUE: i32 = 1024;
/// A connection of our own that is not accepted within this met a full queue.
const FULL: Duration = Duration::from_millis(30);
/// A queue of length 0 holds one on Linux, a few elsewhere.
const FILL_MOST: usize = 16;
/// Between tries to listen again on a port that somebody took meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// The listening socket of one service.
pub(super) struct Socket {
    address: SocketAddr,
    listener: Option<TcpListener>,
    /// Fill the queue while asleep.
    fill: Vec<TcpStream>,
}

impl Socket {
    pub(super) fn closed(address: SocketAddr) -> Self {
        Self {
            address,
            listener: None,
            fill: Vec::new(),
        }
    }

    /// Brings the socket into the state of `power`; then the next connection, which only comes
    /// while awake.
    pub(super) async fn next(&mut self, power: Power) -> TcpStream {
        loop {
            if power == Power::Off {
                self.listener = None;
                self.fill.clear();
                return std::future::pending().await;
            }
            match &self.listener {
                None => self.open().await,
                Some(listener) if power == Power::Asleep => {
                    let _ = rustix::net::listen(listener, 0);
                    fill(self.address, &mut self.fill).await;
                    return std::future::pending().await;
                }
                Some(listener) => {
                    if !self.fill.is_empty() {
                        let _ = rustix::net::listen(listener, QUEUE);
                        self.fill.clear();
                    }
                    if let Ok((stream, _)) = listener.accept().await {
                        return stream;
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn open(&mut self) {
        match TcpListener::bind(self.address).await {
            Ok(listener) => self.listener = Some(listener),
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// Connects until nobody accepts any more.
async fn fill(address: SocketAddr, fill: &mut Vec<TcpStream>) {
    while fill.len() < FILL_MOST {
        match timeout(FULL, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => fill.push(stream),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
