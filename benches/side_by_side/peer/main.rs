//! The two ends of a side-by-side run: an origin, and the loads that go through a proxy to it.
//!
//! Owns no judgement: it counts and times, one JSON object a run on standard output, and the driver
//! (`../run`) makes ratios of it. Cheap on purpose, so that one core carries both ends while the
//! proxy has the other one: one thread, hand-made heads (gRPC: h2), no client library. Units: nanoseconds in
//! tokens, microseconds in results.
//!
//!     peer origin                                      prints its three ports, ends with its input
//!     peer requests ADDRESS METHOD TARGET CONNECTIONS REQUESTS kept|fresh
//!     peer paced ADDRESS METHOD TARGET CONNECTIONS RATE            ends with its input
//!     peer streams ADDRESS TARGET COUNT                ends with its input
//!     peer tokens ADDRESS TARGET COUNT SECONDS
//!     peer calls ADDRESS METHOD CONNECTIONS AT_ONCE CALLS
//!
//! What is measured begins with a line on standard input, after `ready` was said.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "its results are for the driver")]
#![expect(
    clippy::disallowed_types,
    reason = "real time, and nothing of the product's runs here"
)]

mod calls;
mod http;
mod load;
mod origin;
mod streams;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where a load goes, and what it asks there.
#[derive(Clone)]
struct Aim {
    to: SocketAddr,
    target: String,
    request: Vec<u8>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["origin"] => origin::serve().await,
        ["requests", to, method, target, connections, requests, way] => {
            let aim = Aim::new(to, method, target);
            load::counted(aim, parsed(connections), parsed(requests), way == "fresh").await;
        }
        ["paced", to, method, target, connections, rate] => {
            load::paced(
                Aim::new(to, method, target),
                parsed(connections),
                parsed(rate),
            )
            .await;
        }
        ["streams", to, target, count] => {
            streams::held(Aim::new(to, "POST", target), parsed(count)).await;
        }
        ["tokens", to, target, count, seconds] => {
            streams::timed(Aim::new(to, "POST", target), parsed(count), parsed(seconds)).await;
        }
        ["calls", to, method, connections, at_once, calls] => {
            let aim = Aim::new(to, "POST", method);
            calls::counted(aim, parsed(connections), parsed(at_once), parsed(calls)).await;
        }
        _ => panic!("usage: see the top of main.rs"),
    }
}

impl Aim {
    fn new(to: &str, method: &str, target: &str) -> Self {
        Self {
            to: parsed(to),
            target: target.to_owned(),
            request: http::request(method, target),
        }
    }
}

fn parsed<T: FromStr<Err: std::fmt::Debug>>(word: &str) -> T {
    word.parse().unwrap()
}

/// Says that everything is there, and waits until the driver has read its clocks.
fn ready() {
    println!("ready");
    next_line();
}

/// Waits for a line, or for the end of the input, which comes with the end of the driver too.
fn next_line() {
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .unwrap();
}

/// Resolves with the next line, or the end of the input, while the runtime goes on.
async fn until_next_line() {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        next_line();
        // Nobody may wait any more.
        let _ = tell.send(());
    });
    told.await.unwrap();
}
