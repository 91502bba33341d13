//! `tailhop migrate` against two scripted Qdrants: what arrives, what is refused, and that a run
//! which ended anywhere can go on.
//!
//! The run is the product's, in this process; the command line has its own tests in `cli.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod binary;
mod door;
mod engine;
mod over;
mod qdrant;
mod refused;
mod runbook;
mod stops;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tailhop::config::snapshot::{DialWay, Tailnet as Settings};
use tailhop::migrate::{
    Pass, Progress, Record, Report, Run, Site, State, StateFile, Stop, Verify, Wanted, of_url,
};
use tailhop::tailnet::Tailnet;
use tailhop::words::clock::Clock;
use tailhop::words::secret::Secret;

use crate::door::Door;
use crate::qdrant::{Collection, Id, Qdrant};

/// Two Qdrants, and a folder for what is written down.
struct Stage {
    source: Qdrant,
    target: Qdrant,
    folder: tempfile::TempDir,
    patience: Duration,
    key: Option<Secret>,
    /// What leads to the source, where it is not asked itself.
    door: Option<Door>,
}

impl Stage {
    async fn new() -> Self {
        Self {
            source: Qdrant::start().await,
            target: Qdrant::start().await,
            folder: tempfile::tempdir().unwrap(),
            patience: Duration::from_secs(20),
            key: None,
            door: None,
        }
    }

    /// With a collection of so many points at the source.
    async fn with(name: &str, points: u64) -> Self {
        let stage = Self::new().await;
        let made = collection(points);
        stage
            .source
            .store()
            .collections
            .insert(name.to_owned(), made);
        stage
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    async fn run(&self, wanted: Wanted) -> Result<Report, Stop> {
        let door = self.door.as_ref().map(Door::url);
        let (source, target) = (door.unwrap_or_else(|| self.source.url()), self.target.url());
        let text = StateFile::at(&self.state()).read().unwrap();
        let state = match text {
            Some(text) => State::parse(&text, &source, &target).unwrap(),
            None => State::new(&source, &target),
        };
        let progress = Arc::new(Progress::default());
        let tailnet = Arc::new(Tailnet::new(no_tailnet(), Clock::system()));
        let site = |url: &str| {
            let address = of_url(url, self.key.clone()).unwrap();
            let site = Site::new(
                address,
                Arc::clone(&tailnet),
                self.patience,
                Arc::clone(&progress),
            );
            Arc::new(site.unwrap())
        };
        let run = Run {
            source: site(&source),
            target: site(&target),
            record: Arc::new(Record::new(StateFile::at(&self.state()), state)),
            progress: Arc::clone(&progress),
            wanted,
        };
        run.run().await
    }

    /// That both sides have the same, and nothing was changed at the source.
    fn assert_same(&self, name: &str) {
        let (source, target) = (self.source.store(), self.target.store());
        let (one, other) = (&source.collections[name], &target.collections[name]);
        assert!(
            one.points == other.points,
            "{name}: {} points and {}",
            one.points.len(),
            other.points.len()
        );
        assert_eq!(one.config, other.config);
        let kinds = |of: &Collection| -> Vec<_> {
            let kind =
                |(field, about): (&String, &Value)| (field.clone(), about["data_type"].clone());
            of.indexes.iter().map(kind).collect()
        };
        assert_eq!(kinds(one), kinds(other));
        let changed = |asked: &&String| {
            let reads = [
                "/points/scroll",
                "/points/count",
                "/points/query",
                "/points",
            ];
            let read = asked.starts_with("POST ") && reads.iter().any(|end| asked.ends_with(end));
            !(asked.starts_with("GET ") || read)
        };
        assert_eq!(source.asked.iter().find(changed), None, "at the source");
    }
}

fn no_tailnet() -> Settings {
    Settings {
        suffix: None,
        dial: DialWay::Direct,
        socket: PathBuf::new(),
        proxy: ([127, 0, 0, 1], 0).into(),
        repair: false,
    }
}

fn wanted() -> Wanted {
    Wanted {
        collections: Vec::new(),
        dry_run: false,
        verify_only: false,
        verify: Verify::Full,
        replace: false,
        workers: 3,
        pass: Pass::Only,
    }
}

fn verify_only() -> Wanted {
    Wanted {
        verify_only: true,
        ..wanted()
    }
}

fn replace() -> Wanted {
    Wanted {
        replace: true,
        ..wanted()
    }
}

/// A point whose values would show if anything rounded or reordered them.
fn point(number: u64) -> (Id, Value) {
    let id = if number.is_multiple_of(2) {
        Id::Num(number)
    } else {
        Id::Text(format!("550e8400-e29b-41d4-a716-{number:012x}"))
    };
    let shown = match &id {
        Id::Num(number) => json!(number),
        Id::Text(text) => json!(text),
    };
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    let value = number as f64 / 7.0;
    let point = json!({
        "id": shown,
        "payload": { "n": number, "f": value, "big": 9_007_199_254_740_993_u64, "text": "日本語" },
        "vector": [value, -value, 0.1],
    });
    (id, point)
}

fn collection(points: u64) -> Collection {
    Collection {
        config: json!({
            "params": { "vectors": { "size": 3, "distance": "Cosine" }, "on_disk_payload": true },
            "hnsw_config": { "m": 16 },
            "optimizer_config": { "indexing_threshold": 20000 },
        }),
        indexes: serde_json::from_value(json!({
            "n": { "data_type": "integer", "params": null, "points": points },
            "text": { "data_type": "text", "points": points,
                      "params": { "type": "text", "tokenizer": "word" } },
        }))
        .unwrap(),
        points: (0..points).map(point).collect(),
    }
}

fn refused(came: Result<Report, Stop>) -> String {
    match came {
        Err(Stop::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn differs(came: Result<Report, Stop>) -> String {
    match came {
        Err(Stop::Differs(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn failed(came: Result<Report, Stop>) -> String {
    match came {
        Err(Stop::Failed(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
