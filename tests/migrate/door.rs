//! A way to a scripted Qdrant that can be shut: as a server that restarts, or a machine that sleeps.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// What comes passes.
    Open,
    /// Nothing passes, and nothing ends: the machine sleeps.
    Asleep,
    /// Connections break, and nobody listens: the server restarts.
    Gone,
}

/// The way. Dropping it ends it.
pub(crate) struct Door {
    place: SocketAddr,
    state: watch::Sender<State>,
    _serving: JoinSet<()>,
}

impl Door {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap());
        let place = listener.local_addr().unwrap();
        let state = watch::Sender::new(State::Open);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, server, state.subscribe()));
        Self {
            place,
            state,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.place)
    }

    /// For whoever changes how it stands.
    pub(crate) fn state(&self) -> watch::Sender<State> {
        self.state.clone()
    }
}

fn listen(place: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(place).unwrap();
    socket.listen(64).unwrap()
}

async fn serve(mut listener: TcpListener, server: SocketAddr, mut state: watch::Receiver<State>) {
    let place = listener.local_addr().unwrap();
    loop {
        let mut connections = JoinSet::new();
        let gone = state.clone();
        tokio::select! {
            () = accept(&listener, server, &gone, &mut connections) => {}
            _ = state.wait_for(|state| *state == State::Gone) => {}
        }
        drop(listener);
        connections.shutdown().await;
        if state.wait_for(|state| *state != State::Gone).await.is_err() {
            return;
        }
        listener = listen(place);
    }
}

async fn accept(
    listener: &TcpListener,
    server: SocketAddr,
    state: &watch::Receiver<State>,
    connections: &mut JoinSet<()>,
) {
    loop {
        let (from, _) = listener.accept().await.unwrap();
        connections.spawn(pass(from, server, state.clone()));
    }
}

async fn pass(mut near: TcpStream, server: SocketAddr, state: watch::Receiver<State>) {
    let mut far = TcpStream::connect(server).await.unwrap();
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    tokio::select! {
        () = one_way(&mut near_in, &mut far_out, state.clone()) => {}
        () = one_way(&mut far_in, &mut near_out, state) => {}
    }
}

async fn one_way(
    from: &mut (impl AsyncRead + Unpin + Send),
    to: &mut (impl AsyncWriteExt + Unpin + Send),
    mut state: watch::Receiver<State>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(many @ 1..) = from.read(&mut bytes).await {
        let open = state.wait_for(|state| *state == State::Open).await.is_ok();
        if !open || to.write_all(&bytes[..many]).await.is_err() {
            return;
        }
    }
}
