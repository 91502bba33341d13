//! Token streams: many that are only held open, or fewer whose tokens are timed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http::Inbox;
use super::load::Tally;
use super::origin::now;
use super::{Aim, ready, until_next_line};

/// Tokens that each held stream has passed before it counts as open.
const PASSED: usize = 2;

/// Opens `count` streams, says so, and reads their tokens until told to end.
pub(crate) async fn held(aim: Aim, count: usize) {
    let mut opened = JoinSet::new();
    let mut reading = JoinSet::new();
    for number in 0..count {
        // Not all at once: a backlog that overflows costs a second.
        if number % 100 == 99 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let aim = aim.clone();
        opened.spawn(async move {
            let (mut stream, mut inbox) = open(&aim).await;
            for _ in 0..PASSED {
                token(&mut stream, &mut inbox).await.expect("a token");
            }
            (stream, inbox)
        });
    }
    while let Some(open) = opened.join_next().await {
        let (mut stream, mut inbox) = open.unwrap();
        reading.spawn(async move { while token(&mut stream, &mut inbox).await.is_some() {} });
    }
    println!("ready");
    until_next_line().await;
    let ended = std::iter::from_fn(|| reading.try_join_next()).count();
    println!("{{\"ended\":{ended}}}");
}

/// Reads `count` streams for `seconds` and prints how long their tokens took from the origin.
pub(crate) async fn timed(aim: Aim, count: usize, seconds: f64) {
    let tally = Arc::<Mutex<Tally>>::default();
    let mut streams = Vec::new();
    for _ in 0..count {
        let (mut stream, mut inbox) = open(&aim).await;
        token(&mut stream, &mut inbox).await.expect("a token");
        streams.push((stream, inbox));
    }
    ready();
    let (mut reading, begun) = (JoinSet::new(), Instant::now());
    for (mut stream, mut inbox) in streams {
        let tally = Arc::clone(&tally);
        reading.spawn(async move {
            while let Some(sent) = token(&mut stream, &mut inbox).await {
                let late = now().saturating_sub(sent);
                // What waited while everybody stood ready is not the proxy's delay.
                if begun.elapsed() > Duration::from_millis(300) {
                    tally.lock().unwrap().took.push(micros(late));
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let failed = std::iter::from_fn(|| reading.try_join_next()).count();
    let mut tally = tally.lock().unwrap();
    tally.failed = failed;
    tally.tell(begun.elapsed());
}

async fn open(aim: &Aim) -> (TcpStream, Inbox) {
    let mut stream = TcpStream::connect(aim.to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&aim.request).await.unwrap();
    (stream, Inbox::default())
}

/// When the next token was written; lines without a time are heads and chunk sizes.
async fn token(stream: &mut TcpStream, inbox: &mut Inbox) -> Option<u128> {
    loop {
        let line = inbox.line(stream).await?;
        let line = String::from_utf8_lossy(&line);
        if let Some((_, after)) = line.split_once("\"t\":") {
            let digits = after
                .split(|letter: char| !letter.is_ascii_digit())
                .next()?;
            return digits.parse().ok();
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "delays of a run are far below 2^52 ns"
)]
fn micros(nanos: u128) -> f64 {
    nanos as f64 / 1e3
}
