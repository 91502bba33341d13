//! The origin: answers every request at once with the same JSON, or streams tokens that carry the
//! time at which they were written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};

use super::calls;
use super::http::Inbox;
use super::until_next_line;

/// What both services say, with a body of about 250 bytes.
const ANSWER: &str = concat!(
    r#"{"result":{"points":[{"id":1,"version":3,"score":0.87,"payload":{"title":"a title of a "#,
    r#"paper","year":2024}},{"id":2,"version":3,"score":0.81,"payload":{"title":"another title "#,
    r#"of a paper","year":2023}}]},"status":"ok","time":0.000412,"usage":null,"more":[0]}"#
);

/// The head of a stream of a model.
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
                    transfer-encoding: chunked\r\n\r\n";
/// What an Ollama says of its models.
const TAGS: &str = r#"{"models":[{"name":"tiny:latest","model":"tiny:latest","digest":"aa11"}]}"#;
/// What a small model takes for an embedding on a good machine.
const EMBEDDING: Duration = Duration::from_millis(10);

/// As many backends as the largest configuration of a run has: 127.0.0.1, 127.0.0.2 and on.
const ADDRESSES: u8 = 100;

/// Listens on three ports, one for each service and one for gRPC, of each backend's address, until
/// its input ends.
pub(crate) async fn serve() {
    let mut ports = Vec::new();
    for grpc in [false, false, true] {
        let mut port = 0;
        for last in 1..=ADDRESSES {
            let listener = listen([127, 0, 0, last], port).await;
            port = listener.local_addr().unwrap().port();
            tokio::spawn(accept(listener, grpc));
        }
        ports.push(port);
    }
    println!("{ports:?}");
    until_next_line().await;
}

async fn listen(address: [u8; 4], port: u16) -> TcpListener {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port);
    TcpListener::bind(address).await.unwrap()
}

async fn accept(listener: TcpListener, grpc: bool) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if grpc {
            tokio::spawn(calls::converse(stream));
        } else {
            tokio::spawn(converse(stream));
        }
    }
}

/// One connection, to its end.
async fn converse(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (answer, tags, embedding, chat) = (whole(ANSWER), whole(TAGS), whole(&vector()), chat());
    let mut inbox = Inbox::default();
    while let Some(request) = inbox.message(&mut stream).await {
        let sent = match gap(&request.line) {
            Some(gap) => stream_tokens(&mut stream, gap).await,
            None if request.line.contains("?whole") => stream.write_all(chat.as_bytes()).await,
            None if request.line.contains("/api/tags") => stream.write_all(tags.as_bytes()).await,
            None if request.line.contains("/api/embed") => {
                tokio::time::sleep(EMBEDDING).await;
                stream.write_all(embedding.as_bytes()).await
            }
            None => stream.write_all(answer.as_bytes()).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn whole(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer of Ollama's with a vector of 768 numbers.
fn vector() -> String {
    let numbers: Vec<_> = (0..768_u32).map(|n| format!("-0.{n:07}")).collect();
    let numbers = numbers.join(",");
    format!(
        r#"{{"model":"tiny","embeddings":[[{numbers}]],"total_duration":10000000,"prompt_eval_count":9}}"#
    )
}

/// A whole stream of sixteen tokens, 2 KB, with its end.
fn chat() -> String {
    let token = "{\"model\":\"tiny\",\"created_at\":\"2026-11-25T12:00:00.000000001Z\",\
                 \"message\":{\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n";
    let last = "{\"model\":\"tiny\",\"created_at\":\"2026-11-25T12:00:00.000000001Z\",\
                \"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\
                \"done_reason\":\"stop\",\"total_duration\":42000000,\"load_duration\":1000000,\
                \"prompt_eval_count\":400,\"prompt_eval_duration\":20000000,\"eval_count\":16,\
                \"eval_duration\":20000000}\n";
    let mut chat = HEAD.to_owned();
    for line in [token; 16].into_iter().chain([last]) {
        chat += &format!("{:x}\r\n{line}\r\n", line.len());
    }
    chat + "0\r\n\r\n"
}

/// What a target asks for with `?gap=MILLISECONDS`: tokens, so far apart.
fn gap(line: &str) -> Option<Duration> {
    let (_, after) = line.split_once("?gap=")?;
    let digits = after
        .split(|letter: char| !letter.is_ascii_digit())
        .next()?;
    Some(Duration::from_millis(digits.parse().ok()?))
}

/// Tokens as Ollama writes them, each a chunk of its own, until the client leaves.
async fn stream_tokens(stream: &mut TcpStream, gap: Duration) -> std::io::Result<()> {
    stream.write_all(HEAD.as_bytes()).await?;
    let mut ticks = interval(gap);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let token = format!(
            "{{\"model\":\"tiny\",\"t\":{},\"message\":{{\"role\":\"assistant\",\
             \"content\":\" word\"}},\"done\":false}}\n",
            now()
        );
        let chunk = format!("{:x}\r\n{token}\r\n", token.len());
        stream.write_all(chunk.as_bytes()).await?;
    }
}

/// Nanoseconds of a clock that both ends share.
pub(crate) fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}
