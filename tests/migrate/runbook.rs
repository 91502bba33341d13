//! The runbook: a date passes while the new Mac is empty, the data is moved, then reads and writes.
//!
//! Three real instances share one file, before two Qdrants with the real engine, under steady load.
//! Needs the Python of the rig, as `engine` does.
#![expect(
    clippy::disallowed_methods,
    reason = "clients are threads of no runtime, and pause between requests as clients do"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::binary::texts;
use crate::engine::{Engine, python, skip};

const OLD: &str = "macbook-m1";
const NEW: &str = "mac-dev1";
const POINTS: u64 = 1_500;
const SEARCH: &str = "/qdrant/collections/papers/points/query";
const UPSERT: &str = "/qdrant/collections/papers/points?wait=true";
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(40);
/// Longer than two looks of an instance at what a Qdrant has.
const PATIENCE: Duration = Duration::from_secs(45);

/// An instance. Ends when it is dropped.
struct Instance {
    child: Child,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Instance {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tailhop"))
            .env_clear()
            .args(["run", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (data, admin) = (nowhere, nowhere);
        // From here on it is killed, whatever comes.
        let mut instance = Self { child, data, admin };
        while instance.data == nowhere {
            let line = lines.next().expect("it says where it listens").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["message"] == "listening" {
                let address = |key: &str| event[key].as_str().unwrap().parse().unwrap();
                (instance.data, instance.admin) = (address("data"), address("admin"));
            }
        }
        // A pipe that nobody reads would stop it in the end.
        thread::spawn(move || lines.for_each(drop));
        instance
    }

    fn status(&self) -> Value {
        let answer = ask(self.admin, "GET", "/status", "").unwrap();
        answer.body
    }

    fn qdrant(&self) -> Value {
        self.status()["services"][0].clone()
    }

    /// Waits until its status is so; what it is then.
    fn says(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = self.qdrant();
            if wanted(&said) {
                return said;
            }
            assert!(Instant::now() < until, "not {what}: {said:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// An answer, and who gave it.
struct Answer {
    status: u16,
    backend: String,
    body: Value,
}

/// One request on a connection of its own; `None`: the connection broke.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut backend = fields.filter(|(name, _)| *name == "x-tailhop-backend");
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        backend: backend
            .next()
            .map_or_else(String::new, |(_, name)| name.to_owned()),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

/// What clients of one instance saw.
#[derive(Default)]
struct Seen {
    /// When and by whom each search was answered.
    searches: Vec<(Instant, String)>,
    /// Writes that were acknowledged: when, by whom, which point.
    written: Vec<(Instant, String, u64)>,
    /// Writes that were not applied, and were said not to be.
    held: usize,
    /// What must not happen.
    wrong: Vec<String>,
}

/// Clients of every instance, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    fn on(instances: &[Instance]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut clients = Vec::new();
        for (place, instance) in instances.iter().enumerate() {
            let first = 1_000_000 * (place as u64 + 1);
            for client in [search as fn(SocketAddr, u64, &mut Seen), write] {
                let (stop, address) = (Arc::clone(&stop), instance.data);
                clients.push(thread::spawn(move || {
                    let mut seen = Seen::default();
                    let mut number = first;
                    while !stop.load(Ordering::Relaxed) {
                        client(address, number, &mut seen);
                        number += 1;
                        thread::sleep(PAUSE);
                    }
                    seen
                }));
            }
        }
        Self { stop, clients }
    }

    fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap();
            all.searches.extend(seen.searches);
            all.written.extend(seen.written);
            all.held += seen.held;
            all.wrong.extend(seen.wrong);
        }
        all
    }
}

fn search(address: SocketAddr, number: u64, seen: &mut Seen) {
    let query = json!({ "query": vector(number), "limit": 3 }).to_string();
    let Some(answer) = ask(address, "POST", SEARCH, &query) else {
        return seen.wrong.push("a search broke".to_owned());
    };
    let Answer {
        status,
        backend,
        body,
    } = answer;
    let found = body["result"]["points"].as_array().map_or(0, Vec::len);
    if status != 200 || found != 3 {
        seen.wrong
            .push(format!("a search: {status} by {backend}: {body}"));
    }
    seen.searches.push((Instant::now(), backend));
}

/// Until it is acknowledged, as a careful app does it.
fn write(address: SocketAddr, number: u64, seen: &mut Seen) {
    let point = json!({ "points": [point(number)] }).to_string();
    loop {
        let Some(answer) = ask(address, "PUT", UPSERT, &point) else {
            return seen.wrong.push("a write broke".to_owned());
        };
        match answer.status {
            200 => return seen.written.push((Instant::now(), answer.backend, number)),
            // Nothing was sent.
            503 => seen.held += 1,
            status => {
                return seen
                    .wrong
                    .push(format!("a write: {status}: {}", answer.body));
            }
        }
        thread::sleep(PAUSE);
    }
}

#[expect(clippy::cast_precision_loss, reason = "any number will do")]
fn vector(number: u64) -> Vec<f64> {
    let float = |place: u64| ((number * 31 + place * 17) % 1009) as f64 / 1009.0 - 0.5;
    (0..4).map(float).collect()
}

fn point(number: u64) -> Value {
    json!({ "id": number, "vector": vector(number), "payload": { "n": number } })
}

/// Those of `ids` that a Qdrant has.
async fn has(engine: &Engine, ids: &[u64]) -> BTreeSet<u64> {
    let mut there = BTreeSet::new();
    for some in ids.chunks(500) {
        let wanted = json!({ "ids": some, "with_payload": false });
        let answer = engine
            .ask(Method::POST, "/collections/papers/points", &wanted)
            .await;
        let found = answer["result"].as_array().unwrap().iter();
        there.extend(found.map(|point| point["id"].as_u64().unwrap()));
    }
    there
}

/// Two Qdrants, of which the first has the data, and the file that all instances share.
struct Stage {
    old: Engine,
    new: Engine,
    file: PathBuf,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn start(python: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = [OLD, NEW].map(|name| Engine::start(python, &folder.path().join(name)));
        let made = json!({ "vectors": { "size": 4, "distance": "Dot" } });
        old.ask(Method::PUT, "/collections/papers", &made).await;
        for first in (0..POINTS).step_by(500) {
            let points: Vec<_> = (first..first + 500).map(point).collect();
            let points = json!({ "points": points });
            old.ask(Method::PUT, "/collections/papers/points", &points)
                .await;
        }
        let file = folder.path().join("routing.toml");
        Self {
            old,
            new,
            file,
            folder,
        }
    }

    /// Writes the file, with a switch that comes after so long.
    fn planned(&self, after: SignedDuration) {
        let at = Timestamp::now().checked_add(after).unwrap();
        let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
        let (old, new) = (&self.old.url, &self.new.url);
        let text = format!(
            "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
             tailnet.dial = \"direct\"\n\
             [backends]\n\
             {OLD} = {{ url = \"{old}\" }}\n\
             {NEW} = {{ url = \"{new}\" }}\n\
             [services.qdrant]\n\
             backends = [\"{OLD}\", \"{NEW}\"]\n\
             require = {{ collections = [\"papers\"], min_points = 1000 }}\n\
             [schedule]\n\
             default = \"{OLD}\"\n\
             switch = [{{ at = {at}, to = \"{NEW}\" }}]\n"
        );
        std::fs::write(&self.file, text).unwrap();
    }

    fn migrate(&self, admin: SocketAddr, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tailhop"))
            .env_clear()
            .env("TAILHOP_ADMIN", admin.to_string())
            .args(["migrate", "--from", OLD, "--to", NEW, "--config"])
            .arg(&self.file)
            .arg("--state")
            .arg(self.state())
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What a command prints that is told of the file.
    fn said(&self, admin: SocketAddr, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_tailhop"))
            .env_clear()
            .env("TAILHOP_ADMIN", admin.to_string())
            .args(arguments)
            .arg(&self.file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        texts(&output).0
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }
}

fn lacks(said: &Value) -> bool {
    said["backends"][1]["lacks"] == json!(["collection papers"])
}

#[tokio::test]
async fn the_date_passes_the_data_moves_then_reads_then_writes_and_nothing_is_lost() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let stage = Stage::start(&python).await;
    stage.planned(SignedDuration::from_secs(8));
    let instances = [(); 3].map(|()| Instance::start(&stage.file));
    let load = Load::on(&instances);
    is_told_before(&stage, &instances[0]);
    for instance in &instances {
        instance.says("held", |said| said["active"]["why"] == "held");
    }
    // One that began later says the same.
    let late = Instance::start(&stage.file);
    late.says("knowing", lacks);
    for instance in instances.iter().chain([&late]) {
        says_what_to_do(instance);
    }

    // The data moves: reads follow it, writes do not. It is written to all the while, so that both
    // are not the same in the end.
    let copied = stage.migrate(instances[0].admin, &[]);
    let code = copied.status.code();
    assert!(matches!(code, Some(0 | 1)), "{}", texts(&copied).1);
    let later = Instance::start(&stage.file);
    for instance in instances.iter().chain([&later]) {
        let said = instance.says("moved", |said| said["active"]["backend"] == NEW);
        assert_eq!(said["active"]["why"], "schedule");
        assert_eq!(said["writes"]["backend"], OLD);
    }

    let more = if stage.state().exists() {
        "--resume"
    } else {
        "--replace"
    };
    let pinned = stage.migrate(instances[0].admin, &[more, "--pin", "--settle", "5s"]);
    let (said, complained) = texts(&pinned);
    assert_eq!(pinned.status.code(), Some(0), "{said}{complained}");
    for instance in &instances {
        instance.says("pinned", |said| {
            said["writes"]["backend"] == NEW && said["active"]["why"] == "pin"
        });
    }
    thread::sleep(Duration::from_secs(1));
    nothing_was_lost(&stage, &load.end()).await;
}

/// Days before: said, and nothing else.
fn is_told_before(stage: &Stage, instance: &Instance) {
    let said = instance.says("warned", lacks);
    assert_eq!(said["active"]["backend"], OLD);
    assert_eq!(said["next_switch"]["lacks"], json!(["collection papers"]));
    let check: &[&str] = &["check", "--live", "--config"];
    let timeline: &[&str] = &["explain", "--timeline", "--config"];
    for (command, words) in [
        (check, "; lacks collection papers; the switch of "),
        (
            timeline,
            "writes stay); to be held: mac-dev1 lacks collection papers",
        ),
    ] {
        let said = stage.said(instance.admin, command);
        assert!(said.contains(words), "{said}");
    }
}

/// The date has passed: who serves, who owns the writes, and what is to be done.
fn says_what_to_do(instance: &Instance) {
    let status = instance.status();
    let said = &status["services"][0];
    assert_eq!(said["active"]["backend"], OLD);
    assert_eq!(said["writes"]["backend"], OLD);
    let summary = status["summary"][0].as_str().unwrap();
    let words = "mac-dev1 lacks collection papers: \
                 `tailhop migrate --from macbook-m1 --to mac-dev1 --pin`";
    assert!(summary.contains(words), "{summary}");
}

/// No search was without results, and each acknowledged write is at the owner; none was sent to two.
async fn nothing_was_lost(stage: &Stage, seen: &Seen) {
    assert_eq!(seen.wrong, Vec::<String>::new());
    let by = |name: &str| {
        let written = seen
            .written
            .iter()
            .filter(|(_, backend, _)| backend == name);
        written.map(|(_, _, id)| *id).collect::<Vec<_>>()
    };
    let (before, after) = (by(OLD), by(NEW));
    assert_eq!(before.len() + after.len(), seen.written.len());
    assert!(
        seen.searches.len() > 300,
        "{} searches",
        seen.searches.len()
    );
    assert!(
        before.len() > 100 && after.len() > 10,
        "{} and {}",
        before.len(),
        after.len()
    );
    assert!(seen.held > 0, "writes were held during the last pass");

    let all = [before.clone(), after.clone()].concat();
    let there = has(&stage.new, &all).await;
    let lost: Vec<_> = all.iter().filter(|id| !there.contains(id)).collect();
    assert_eq!(
        lost,
        Vec::<&u64>::new(),
        "acknowledged, and not at the owner"
    );
    let twice = has(&stage.old, &after).await;
    assert_eq!(twice, BTreeSet::new(), "written to both");

    in_order(seen);
    let _ = writeln!(
        std::io::stderr(),
        "{} searches, {} + {} writes, {} times held",
        seen.searches.len(),
        before.len(),
        after.len(),
        seen.held
    );
}

/// Reads moved, and later writes; at no time did two own them.
fn in_order(seen: &Seen) {
    let written = |name: &'static str| {
        let by = seen.written.iter().filter(move |(_, by, _)| by == name);
        by.map(|(at, ..)| *at)
    };
    let searches = seen.searches.iter().filter(|(_, by)| by == NEW);
    let first_read = searches.map(|(at, _)| *at).min().unwrap();
    let first_write = written(NEW).min().unwrap();
    assert!(first_read < first_write);
    assert!(written(OLD).max().unwrap() < first_write);
}
