//! Two Qdrants with the real engine behind them, and runs that are killed by SIGKILL.
//!
//! Needs the Python of the rig; without it the test is skipped with the reason, or fails with
//! `TAILHOP_REQUIRE_RIG=1`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tailhop::migrate::{Progress, Site, of_url};
use tailhop::tailnet::Tailnet;
use tailhop::words::clock::Clock;

use crate::no_tailnet;

const POINTS: u64 = 4_000;
const KILLS: u64 = 20;

/// A stand-in for Qdrant, with Qdrant's engine. Ends when it is dropped.
pub(crate) struct Engine {
    pub(crate) url: String,
    process: Child,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Engine {
    pub(crate) fn start(python: &Path, data: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut process = Command::new(python)
            .arg(root.join("tests/clients/qdrant_stand_in.py"))
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It complains of clients that were killed.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self { url, process }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Value) -> Value {
        let tailnet = Arc::new(Tailnet::new(no_tailnet(), Clock::system()));
        let address = of_url(&self.url, None).unwrap();
        let site = Site::new(
            address,
            tailnet,
            Duration::ZERO,
            Arc::new(Progress::default()),
        );
        let body = Bytes::from(body.to_string());
        let answer = site
            .unwrap()
            .ask(method, path, body)
            .await
            .unwrap()
            .unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// A collection with every kind of vector, ids of both kinds, an index, an alias, strict mode.
    async fn fill(&self) {
        let made = json!({
            "vectors": {
                "text": { "size": 32, "distance": "Cosine" },
                "small": { "size": 4, "distance": "Dot", "datatype": "float16" },
                "late": { "size": 3, "distance": "Cosine",
                          "multivector_config": { "comparator": "max_sim" } },
            },
            "sparse_vectors": { "words": { "modifier": "idf" } },
            "hnsw_config": { "m": 8 },
            "strict_mode_config": { "enabled": true, "max_query_limit": 10 },
            "metadata": { "owner": "書庫" },
        });
        self.ask(Method::PUT, "/collections/docs", &made).await;
        let index = json!({ "field_name": "n", "field_schema": "integer" });
        self.ask(Method::PUT, "/collections/docs/index", &index)
            .await;
        for first in (0..POINTS).step_by(500) {
            let points: Vec<_> = (first..first + 500).map(point).collect();
            let points = json!({ "points": points });
            self.ask(Method::PUT, "/collections/docs/points", &points)
                .await;
        }
        let alias = json!({ "create_alias": { "collection_name": "docs", "alias_name": "now" } });
        let aliases = json!({ "actions": [alias] });
        self.ask(Method::POST, "/collections/aliases", &aliases)
            .await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "any number will do")]
fn point(number: u64) -> Value {
    let id = if number.is_multiple_of(3) {
        json!(format!("550e8400-e29b-41d4-a716-{number:012x}"))
    } else {
        json!(number)
    };
    let float = |place: u64| ((number * 31 + place * 17) % 1009) as f64 / 1009.0 - 0.5;
    let floats = |count: u64| (0..count).map(float).collect::<Vec<_>>();
    let vector = match number % 5 {
        0 => json!({}),
        1 => json!({ "text": floats(32), "late": [floats(3), floats(3)] }),
        2 => json!({ "words": { "indices": [number, 3_000_000], "values": floats(2) } }),
        _ => json!({ "text": floats(32), "small": floats(4) }),
    };
    json!({ "id": id, "payload": { "n": number, "f": float(9), "text": "日本語" }, "vector": vector })
}

fn migrate(source: &Engine, target: &Engine, state: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tailhop"))
        .args([
            "migrate",
            "--from",
            &source.url,
            "--to",
            &target.url,
            "--state",
        ])
        .arg(state)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(run: Child, code: i32) -> String {
    let output = run.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn twenty_kills_leave_nothing_out_and_one_changed_float_is_found() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let folder = tempfile::tempdir().unwrap();
    let [source, target] =
        ["source", "target"].map(|name| Engine::start(&python, &folder.path().join(name)));
    source.fill().await;
    let state = folder.path().join("state.json");
    let (mut moment, mut killed) = (0, 0);
    while killed < KILLS {
        let more: &[&str] = if state.exists() { &["--resume"] } else { &[] };
        let mut run = migrate(&source, &target, &state, more);
        // A moment of each part of a run: making, copying, comparing, finishing.
        moment = (moment + 37) % 400;
        tokio::time::sleep(Duration::from_millis(20 + moment)).await;
        run.kill().unwrap();
        if run.wait().unwrap().success() {
            // It was over before: another one begins.
            target
                .ask(Method::DELETE, "/collections/docs", &json!({}))
                .await;
        } else {
            killed += 1;
        }
    }
    let more: &[&str] = if state.exists() { &["--resume"] } else { &[] };
    let said = ended(migrate(&source, &target, &state, more), 0);
    assert!(said.starts_with("docs: 4000 points"), "{said}");
    ended(migrate(&source, &target, &state, &["--verify-only"]), 0);

    let mut changed = point(4);
    changed["vector"]["text"][7] = json!(0.123_456_79);
    let points = json!({ "points": [changed] });
    target
        .ask(Method::PUT, "/collections/docs/points", &points)
        .await;
    let said = ended(migrate(&source, &target, &state, &["--verify-only"]), 1);
    assert!(
        said.contains("  point 4: payload or vectors differ\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// The Python that has the engine, from the cache or built now.
pub(crate) fn python() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rig/build.sh");
    let output = Command::new(&script)
        .arg("python")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("build.sh python: {}", why.trim()));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let folder = said.split_whitespace().find(|word| word.starts_with('/'));
    folder
        .map(|folder| Path::new(folder).join("bin/python"))
        .ok_or_else(|| format!("no folder in {said:?}"))
}

pub(crate) fn skip(why: &str) {
    let required = std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
    assert!(!required, "{why}");
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
