//! The app's load while something breaks: reads, inference and writes at fixed rates, on kept-alive
//! and on fresh connections in turn, whether the last answer is back or not; and a plain client of
//! tailscaled's own proxy beside it.
//!
//! Every write carries a number of its own, so that the Macs can be asked how often it came.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::client::{self, Answer, Kept, NoAnswer};
use super::hop::DATA;
use super::mac::{Mac, OLLAMA};
use super::noise::{Lateness, Watch};
use super::{dial, rig::PROXY};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// Reads of Ollama and Qdrant.
    Read,
    /// Ollama's version: what may be hedged.
    Cheap,
    /// A short chat.
    Inference,
    /// An upsert with a number of its own.
    Write,
    /// A read of a Mac through tailscaled's own proxy, without tailhop.
    Plain,
}

/// Requests a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) reads: u32,
    pub(crate) cheap: u32,
    pub(crate) inference: u32,
    pub(crate) writes: u32,
    pub(crate) plain: u32,
}

/// 20 reads, 5 chats and 4 writes a second, and 4 plain reads beside.
pub(crate) const USUAL: Mix = Mix {
    reads: 20,
    inference: 5,
    writes: 4,
    plain: 4,
    ..NOTHING
};

/// No load, to build one from.
pub(crate) const NOTHING: Mix = Mix {
    reads: 0,
    cheap: 0,
    inference: 0,
    writes: 0,
    plain: 0,
};

/// One request and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) sort: Sort,
    /// What a write was called.
    pub(crate) id: u64,
    /// When it began, counted from the start of the load.
    pub(crate) began: Duration,
    pub(crate) elapsed: Duration,
    pub(crate) outcome: Result<Said, String>,
}

/// What an answer said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) mac: String,
    /// Whether a 200 has the body that its request should get.
    pub(crate) right: bool,
    /// The body of anything but 200.
    pub(crate) error: String,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// When to give up what has no answer; `None`: goes on.
    stop: watch::Sender<Option<Instant>>,
    sorts: Vec<JoinHandle<Vec<Done>>>,
    started: Instant,
    watch: Watch,
}

/// Longer than any load.
const ENDLESS: Duration = Duration::from_hours(1);

/// How patient a plain client is.
const PLAIN: Duration = Duration::from_secs(15);

impl Mix {
    /// Requests to tailhop a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.reads + self.cheap + self.inference + self.writes)
    }

    /// Starts it.
    pub(crate) fn start(self, plain_to: &'static str) -> Running {
        let stop = watch::Sender::new(None);
        let app = Arc::new(App::new(plain_to));
        let started = app.started;
        let sorts = [
            (Sort::Read, self.reads),
            (Sort::Cheap, self.cheap),
            (Sort::Inference, self.inference),
            (Sort::Write, self.writes),
            (Sort::Plain, self.plain),
        ];
        let sorts = sorts
            .into_iter()
            .filter(|(_, rate)| *rate > 0)
            .map(|(sort, rate)| {
                tokio::spawn(Arc::clone(&app).ask_until(sort, rate, stop.subscribe()))
            })
            .collect();
        Running {
            stop,
            sorts,
            started,
            watch: Watch::start(),
        }
    }
}

impl Running {
    /// How long it has been running.
    pub(crate) fn since(&self) -> Duration {
        self.started.elapsed()
    }

    /// Stops asking, waits for what is still on its way, and hands back every request.
    pub(crate) async fn end(self) -> Took {
        self.end_within(Duration::from_mins(1)).await
    }

    /// The same, but gives up what has no answer `within` this time.
    pub(crate) async fn end_within(self, within: Duration) -> Took {
        self.stop.send_replace(Some(Instant::now() + within));
        let mut all = Vec::new();
        for sort in self.sorts {
            all.extend(sort.await.expect("the load runs"));
        }
        Took {
            all,
            late: self.watch.worst(),
        }
    }
}

/// The app: where it stands, and its kept-alive connections.
struct App {
    kept: Kept,
    plain_to: &'static str,
    started: Instant,
}

impl App {
    fn new(plain_to: &'static str) -> Self {
        Self {
            kept: Kept::new(DATA),
            plain_to,
            started: Instant::now(),
        }
    }

    async fn ask_until(
        self: Arc<Self>,
        sort: Sort,
        rate: u32,
        mut stop: watch::Receiver<Option<Instant>>,
    ) -> Vec<Done> {
        let mut requests = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => break,
                _ = ticks.tick() => {}
            }
            requests.spawn(Arc::clone(&self).ask(sort, next_id(), stop.clone()));
        }
        requests.join_all().await
    }

    async fn ask(
        self: Arc<Self>,
        sort: Sort,
        id: u64,
        mut stop: watch::Receiver<Option<Instant>>,
    ) -> Done {
        let began = Instant::now();
        let answering = async {
            match sort {
                Sort::Plain => plain(self.plain_to).await,
                _ => self.send(sort, id).await,
            }
        };
        let given_up = async {
            let end = stop
                .wait_for(Option::is_some)
                .await
                .map_or(None, |end| *end);
            sleep_until(end.unwrap_or(began + ENDLESS)).await;
        };
        let answer = tokio::select! {
            answer = answering => answer,
            () = given_up => Err(NoAnswer("no answer at the end".into())),
        };
        Done {
            sort,
            id,
            began: began.duration_since(self.started),
            elapsed: began.elapsed(),
            outcome: answer
                .map(|answer| said(sort, &answer))
                .map_err(|why| why.0),
        }
    }

    async fn send(&self, sort: Sort, id: u64) -> Result<Answer, NoAnswer> {
        let (method, path, body) = request(sort, id);
        // In fours, so that each path goes both ways.
        if (id / 4).is_multiple_of(2) {
            self.kept.send(method, path, &body).await
        } else {
            client::send(DATA, method, path, &body).await
        }
    }
}

fn next_id() -> u64 {
    static IDS: AtomicU64 = AtomicU64::new(1);
    IDS.fetch_add(1, Ordering::Relaxed)
}

fn request(sort: Sort, id: u64) -> (Method, &'static str, String) {
    let none = String::new;
    match sort {
        Sort::Cheap => (Method::GET, "/ollama/api/version", none()),
        Sort::Read if id.is_multiple_of(3) => (Method::GET, "/ollama/api/version", none()),
        Sort::Read if id % 3 == 1 => (Method::GET, "/qdrant/collections", none()),
        Sort::Read | Sort::Plain => {
            let query = r#"{"query":[0.1,0.2,0.3,0.4],"limit":1}"#.to_owned();
            (Method::POST, "/qdrant/collections/c/points/query", query)
        }
        Sort::Inference => (Method::POST, "/ollama/api/chat", chat("tiny")),
        Sort::Write => (Method::PUT, "/qdrant/collections/c/points", upsert(id)),
    }
}

/// A chat whose answer comes in one piece.
pub(crate) fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":false,"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// A write with a number of its own.
pub(crate) fn upsert(id: u64) -> String {
    format!(r#"{{"points":[{{"id":{id},"vector":[0.1,0.2,0.3,0.4]}}]}}"#)
}

/// As curl would with `--socks5-hostname`: one dial a request, and no second one.
async fn plain(mac: &str) -> Result<Answer, NoAnswer> {
    let asked = async {
        let stream = dial::socks5(PROXY, mac, OLLAMA).await;
        let stream = stream.map_err(|error| NoAnswer(error.to_string()))?;
        client::get_over(stream, "/api/version").await
    };
    let late = |_| Err(NoAnswer(format!("no answer within {PLAIN:?}")));
    timeout(PLAIN, asked).await.unwrap_or_else(late)
}

fn said(sort: Sort, answer: &Answer) -> Said {
    let status = answer.status.as_u16();
    Said {
        status,
        right: status == 200 && is_right(sort, &answer.json()),
        mac: answer.mac().to_owned(),
        error: match status {
            200 => String::new(),
            _ => answer.text().to_owned(),
        },
    }
}

fn is_right(sort: Sort, body: &serde_json::Value) -> bool {
    match sort {
        Sort::Read => {
            let result = &body["result"];
            body["version"].is_string()
                || result["collections"].is_array()
                || result["points"].is_array()
        }
        Sort::Cheap | Sort::Plain => body["version"].is_string(),
        Sort::Inference => body["done"] == true,
        Sort::Write => body["result"]["status"] == "completed",
    }
}

impl Done {
    /// Anything but 200.
    pub(crate) fn failed(&self) -> bool {
        self.status() != Some(200)
    }

    /// The status, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        self.outcome.as_ref().ok().map(|said| said.status)
    }
}

/// All requests of a load.
#[derive(Debug, Default)]
pub(crate) struct Took {
    pub(crate) all: Vec<Done>,
    /// How late the machine was meanwhile.
    pub(crate) late: Lateness,
}

/// The numbers of one sort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) asked: usize,
    pub(crate) failed: usize,
    pub(crate) slowest: Duration,
    pub(crate) p99: Duration,
    statuses: BTreeMap<String, usize>,
}

impl Took {
    /// Those of one sort.
    pub(crate) fn of(&self, sort: Sort) -> impl Iterator<Item = &Done> {
        self.all.iter().filter(move |done| done.sort == sort)
    }

    /// The numbers of one sort.
    pub(crate) fn numbers(&self, sort: Sort) -> Numbers {
        Numbers::of(self.of(sort))
    }

    /// Those that `belong`, and the others.
    pub(crate) fn split(self, belong: impl Fn(&Done) -> bool) -> (Self, Self) {
        let late = self.late;
        let (those, others) = self.all.into_iter().partition(belong);
        let of = |all| Self { all, late };
        (of(those), of(others))
    }

    /// The table of all sorts, under a title.
    pub(crate) fn table(&self, title: &str) -> String {
        let mut sorts: Vec<_> = self.all.iter().map(|done| done.sort).collect();
        sorts.sort_unstable();
        sorts.dedup();
        let lines = sorts
            .into_iter()
            .map(|sort| format!("\n    {:<22} {}", sort.name(), self.numbers(sort)));
        let late = format!("\n    {}", self.late);
        let title = std::iter::once(title.to_owned());
        title.chain(lines).chain([late]).collect()
    }

    /// The slowest and the failed ones of a sort, for the message of a failure.
    pub(crate) fn worst(&self, sort: Sort) -> String {
        let mut all: Vec<_> = self.of(sort).collect();
        all.sort_by_key(|done| (done.failed(), done.elapsed));
        let line = |done: &&Done| {
            let (began, took) = (done.began.as_secs_f64(), done.elapsed.as_secs_f64());
            let said = match &done.outcome {
                Ok(said) => format!("{} {} {}", said.status, said.mac, said.error),
                Err(why) => why.clone(),
            };
            format!("\nat {began:.3} s, {took:.3} s: {said}")
        };
        let lines = all.iter().rev().take(6).map(line);
        lines.collect()
    }

    /// What must hold of writes whatever happens: none came to the second Mac, none came twice,
    /// what was answered came, and what got 503 did not.
    pub(crate) fn check_writes(&self, first: &Mac, second: &Mac) {
        let moved = second.seen(&Method::PUT);
        assert!(moved.is_empty(), "{} writes moved", moved.len());
        let mut came: BTreeMap<u64, usize> = BTreeMap::new();
        for seen in first.seen(&Method::PUT) {
            *came.entry(id_of(&seen.body)).or_default() += 1;
        }
        for write in self.of(Sort::Write) {
            let times = came.get(&write.id).copied().unwrap_or(0);
            let may = match write.status() {
                Some(200) => times == 1,
                Some(503) => times == 0,
                _ => times <= 1,
            };
            assert!(may, "it came {times} times to its Mac: {write:?}");
        }
    }
}

fn id_of(body: &[u8]) -> u64 {
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    body["points"][0]["id"].as_u64().expect("a number")
}

impl Sort {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Cheap => "cheap reads",
            Self::Inference => "inference",
            Self::Write => "writes",
            Self::Plain => "curl, without tailhop",
        }
    }
}

impl Numbers {
    fn of<'a>(done: impl Iterator<Item = &'a Done>) -> Self {
        let mut times = Vec::new();
        let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
        let mut answered = 0;
        for done in done {
            times.push(done.elapsed);
            let word = match &done.outcome {
                Ok(said) if said.status == 200 => {
                    answered += 1;
                    format!("200 by {}", said.mac)
                }
                Ok(said) => said.status.to_string(),
                Err(_) => "none".to_owned(),
            };
            *statuses.entry(word).or_default() += 1;
        }
        times.sort_unstable();
        let place = (times.len() * 99).div_ceil(100).saturating_sub(1);
        Self {
            asked: times.len(),
            failed: times.len() - answered,
            slowest: times.last().copied().unwrap_or_default(),
            p99: times.get(place).copied().unwrap_or_default(),
            statuses,
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slowest {:>7.3} s, p99 {:>7.3} s, failed {:>3} of {:>4}  {:?}",
            self.slowest.as_secs_f64(),
            self.p99.as_secs_f64(),
            self.failed,
            self.asked,
            self.statuses
        )
    }
}
