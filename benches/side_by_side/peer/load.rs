//! Loads of whole requests: so many as fast as they are answered, or so many a second.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use super::http::Inbox;
use super::{Aim, ready, until_next_line};

/// What came of the requests of a load.
#[derive(Default)]
pub(crate) struct Tally {
    /// Of each that was answered well, in microseconds.
    pub(crate) took: Vec<f64>,
    pub(crate) failed: usize,
    /// Of the bodies of all answers.
    pub(crate) bytes: usize,
}

/// A kept-alive connection.
struct Kept {
    stream: TcpStream,
    inbox: Inbox,
}

impl Kept {
    async fn open(aim: &Aim) -> Option<Self> {
        let stream = TcpStream::connect(aim.to).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let inbox = Inbox::default();
        Some(Self { stream, inbox })
    }

    /// Asks once; `None`: no answer, or one that is not 200 with a body.
    async fn ask(&mut self, aim: &Aim) -> Option<usize> {
        self.stream.write_all(&aim.request).await.ok()?;
        let answer = self.inbox.message(&mut self.stream).await?;
        (answer.line.contains(" 200 ") && answer.body > 0).then_some(answer.body)
    }
}

/// `requests` requests by `connections` clients, each on connections of its own: one, or a new one
/// for each request.
pub(crate) async fn counted(aim: Aim, connections: usize, requests: usize, fresh: bool) {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let mut kept = Kept::open(&aim).await.unwrap();
        kept.ask(&aim).await.expect("the proxy answers 200");
        clients.push((!fresh).then_some(kept));
    }
    ready();
    let (aim, begun) = (Arc::new(aim), Instant::now());
    let (left, tally) = (Arc::new(AtomicUsize::new(requests)), Arc::default());
    let mut running = JoinSet::new();
    for client in clients {
        let (aim, left, tally) = (Arc::clone(&aim), Arc::clone(&left), Arc::clone(&tally));
        running.spawn(async move { work(&aim, client, &left, &tally).await });
    }
    running.join_all().await;
    let tally: &Mutex<Tally> = &tally;
    tally.lock().unwrap().tell(begun.elapsed());
}

async fn work(aim: &Aim, mut kept: Option<Kept>, left: &AtomicUsize, tally: &Mutex<Tally>) {
    while take_one(left) {
        let began = Instant::now();
        let answered = match &mut kept {
            Some(kept) => kept.ask(aim).await,
            None => ask_once(aim).await,
        };
        tally.lock().unwrap().count(began, answered);
    }
}

/// Takes one of what is left to ask; whether there was one.
pub(crate) fn take_one(left: &AtomicUsize) -> bool {
    let one_less = |left: usize| left.checked_sub(1);
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    taken.is_ok()
}

/// On a connection of its own, which the client closes, as one that makes a new client each time.
async fn ask_once(aim: &Aim) -> Option<usize> {
    Kept::open(aim).await?.ask(aim).await
}

/// `rate` requests a second over `connections` kept-alive connections, until told to end.
pub(crate) async fn paced(aim: Aim, connections: u32, rate: u32) {
    let each = Duration::from_secs(1) * connections / rate;
    let (aim, tally) = (Arc::new(aim), Arc::<Mutex<Tally>>::default());
    let ended = Arc::new(AtomicBool::new(false));
    let mut running = JoinSet::new();
    let begun = Instant::now();
    for number in 0..connections {
        let (aim, ended, tally) = (Arc::clone(&aim), Arc::clone(&ended), Arc::clone(&tally));
        let first = tokio::time::Instant::now() + each * number / connections;
        running.spawn(async move {
            let mut kept = Kept::open(&aim).await.unwrap();
            let mut ticks = interval_at(first, each);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !ended.load(Ordering::Relaxed) {
                ticks.tick().await;
                let began = Instant::now();
                let answered = kept.ask(&aim).await;
                tally.lock().unwrap().count(began, answered);
                if answered.is_none() {
                    kept = Kept::open(&aim).await.unwrap();
                }
            }
        });
    }
    println!("ready");
    until_next_line().await;
    ended.store(true, Ordering::Relaxed);
    running.join_all().await;
    tally.lock().unwrap().tell(begun.elapsed());
}

impl Tally {
    /// Counts one that began then; `answered`: the bytes of a good answer.
    pub(crate) fn count(&mut self, began: Instant, answered: Option<usize>) {
        match answered {
            Some(bytes) => {
                self.took.push(began.elapsed().as_secs_f64() * 1e6);
                self.bytes += bytes;
            }
            None => self.failed += 1,
        }
    }

    /// Prints itself.
    pub(crate) fn tell(&mut self, took: Duration) {
        self.took.sort_by(f64::total_cmp);
        println!(
            "{{\"answered\":{},\"failed\":{},\"seconds\":{:.3},\"p50\":{:.1},\"p99\":{:.1},\
             \"worst\":{:.1},\"bytes\":{}}}",
            self.took.len(),
            self.failed,
            took.as_secs_f64(),
            self.at(50),
            self.at(99),
            self.took.last().copied().unwrap_or(f64::NAN),
            self.bytes,
        );
    }

    /// A percentile of what is sorted.
    fn at(&self, percent: usize) -> f64 {
        let place = self.took.len() * percent / 100;
        self.took.get(place).copied().unwrap_or(f64::NAN)
    }
}
