//! A client over a raw socket, which sees what an app would: pieces as they come, and whether an
//! answer ended or broke.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::http::{Framing, Head, Piece};
use super::time::soon;

/// One connection.
pub(crate) struct Client {
    pub(crate) io: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer, and its body as it comes.
pub(crate) struct Coming<'a> {
    pub(crate) head: Head,
    client: &'a mut Client,
    framing: Framing,
}

/// An answer that ended.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    /// Whether its end was the one that its framing names.
    pub(crate) whole: bool,
}

impl Client {
    pub(crate) async fn connect(place: SocketAddr) -> Self {
        Self::over(soon(TcpStream::connect(place)).await.unwrap())
    }

    /// One that holds few bytes that it has not read.
    pub(crate) async fn narrow(place: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        Self::over(soon(socket.connect(place)).await.unwrap())
    }

    pub(crate) fn over(io: TcpStream) -> Self {
        io.set_nodelay(true).unwrap();
        Self {
            io,
            buffer: Vec::new(),
        }
    }

    /// Sends these very bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.io.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends a request whose body, if any, has its length told.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += "host: app.example\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.send([format!("{head}\r\n").as_bytes(), body].concat())
            .await;
    }

    /// The head of the next answer.
    pub(crate) async fn coming(&mut self, method: &str) -> Coming<'_> {
        let head = soon(Head::read(&mut self.io, &mut self.buffer)).await;
        let head = head.expect("the connection ended before an answer's head");
        let framing = Framing::of_answer(&head, method);
        Coming {
            head,
            client: self,
            framing,
        }
    }

    /// The head of the next answer, if there is one.
    pub(crate) async fn perhaps(&mut self, method: &str) -> Option<Coming<'_>> {
        let head = soon(Head::read(&mut self.io, &mut self.buffer)).await?;
        let framing = Framing::of_answer(&head, method);
        Some(Coming {
            head,
            client: self,
            framing,
        })
    }

    /// Reads until exactly these bytes came.
    pub(crate) async fn read_until(&mut self, bytes: &[u8]) {
        while self.buffer.len() < bytes.len() {
            let read = soon(self.io.read_buf(&mut self.buffer)).await;
            assert!(matches!(read, Ok(1..)), "the connection ended before");
        }
        assert_eq!(self.buffer, bytes);
        self.buffer.clear();
    }

    /// Waits for the end of the connection, clean or not; whether it was clean.
    pub(crate) async fn ends(&mut self) -> bool {
        loop {
            match self.io.read_buf(&mut self.buffer).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The head of the next answer, however long it takes.
    pub(crate) async fn head_alone(&mut self) -> Head {
        let head = Head::read(&mut self.io, &mut self.buffer).await;
        head.expect("the connection ended before an answer's head")
    }

    /// Waits for the end of the connection; what came before it.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut framing = Framing::UntilClose;
        let mut rest = Vec::new();
        while let Piece::Data(data) = soon(framing.piece(&mut self.io, &mut self.buffer)).await {
            rest.extend(data);
        }
        rest
    }

    /// Asks and reads the whole answer.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.request(method, target, headers, body).await;
        self.coming(method).await.whole().await
    }
}

impl Coming<'_> {
    pub(crate) async fn piece(&mut self) -> Piece {
        let client = &mut *self.client;
        soon(self.framing.piece(&mut client.io, &mut client.buffer)).await
    }

    pub(crate) async fn whole(mut self) -> Answer {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Piece::Data(data) => body.extend(data),
                end => {
                    return Answer {
                        head: self.head,
                        body,
                        whole: end == Piece::End,
                    };
                }
            }
        }
    }
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.word(1).parse().unwrap()
    }

    /// Who answered, as the answer says.
    pub(crate) fn backend(&self) -> &str {
        self.head.get("x-tailhop-backend").unwrap_or("none")
    }

    pub(crate) fn reason(&self) -> &str {
        self.head.get("x-tailhop-reason").unwrap_or("none")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
