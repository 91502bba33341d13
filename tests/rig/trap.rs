//! A listener in the container that nobody may connect to.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Counts who connects to one port of 127.0.0.1; gone when dropped.
#[derive(Debug)]
pub(crate) struct Trap {
    connections: Arc<AtomicUsize>,
    watch: JoinHandle<()>,
}

impl Trap {
    /// Sets it in the namespace of this thread.
    pub(crate) async fn set(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .expect("a free port");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let watch = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { connections, watch }
    }

    /// How many connections it saw.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
