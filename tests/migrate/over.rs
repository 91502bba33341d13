//! `migrate --pin`: from backends of a configuration, and what becomes of writes meanwhile.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::binary::texts;
use crate::qdrant::Fault;
use crate::{Stage, point};

const HELD: &str = "hold_writes = true";

/// Two backends of a configuration.
struct Two {
    stage: Stage,
    routing: PathBuf,
}

impl Two {
    async fn with(points: u64) -> Self {
        let stage = Stage::with("docs", points).await;
        for side in [&stage.source, &stage.target] {
            side.store().key = Some("canary-1");
        }
        let routing = stage.folder.path().join("routing.toml");
        let backend = |name: &str, url: String| {
            let headers = "headers = { api-key = { env = \"SOME_KEY\" } }";
            format!("[backends.{name}]\nurl = \"{url}\"\n{headers}\n")
        };
        let text = backend("m1", stage.source.url())
            + &backend("m2", stage.target.url())
            + "[services]\nqdrant = { backends = [\"m1\", \"m2\"] }\n[schedule]\ndefault = \"m1\"\n";
        std::fs::write(&routing, text).unwrap();
        Self { stage, routing }
    }

    async fn migrate(&self, to: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailhop"));
        command
            .args(["migrate", "--from", "m1", "--to", to, "--config"])
            .arg(&self.routing)
            .arg("--state")
            .arg(self.stage.state())
            .args(["--patience", "1s"])
            .args(more)
            .env("SOME_KEY", "canary-1")
            .env_remove("TAILHOP_ADMIN")
            .env_remove("ACTIVE_BACKEND");
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    /// With an order that nobody confirms and that holds at once.
    async fn pin(&self, more: &[&str]) -> Output {
        let pin = ["--pin", "--no-wait", "--settle", "0s"];
        self.migrate("m2", &[&pin[..], more].concat()).await
    }

    fn file(&self) -> String {
        std::fs::read_to_string(&self.routing).unwrap()
    }
}

#[tokio::test]
async fn backends_of_the_configuration_are_reached_with_their_headers_and_then_pinned() {
    let two = Two::with(10).await;
    let output = two.pin(&["--json"]).await;
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{complained}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["collections"][0]["did"], "10 points copied");
    assert!(!(said + &complained).contains("canary"));
    two.stage.assert_same("docs");
    let written = two.file();
    let pinned = [
        "to = \"m2\"",
        "writes = true",
        "services = [\"qdrant\"]",
        "migrated from m1",
    ];
    for words in pinned {
        assert!(written.contains(words), "{words}:\n{written}");
    }
    assert!(!written.contains(HELD) && !crate::exists(&two.stage.state()));

    let output = two.migrate("m3", &[]).await;
    assert_eq!(output.status.code(), Some(2));
    let why = texts(&output).1;
    assert!(
        why.contains("m3 does not offer qdrant: m1, m2 do, or write a URL"),
        "{why}"
    );
    let output = two.migrate("m1", &[]).await;
    assert!(texts(&output).1.contains("--from and --to are the same"));
}

#[tokio::test]
async fn what_was_written_before_writes_were_held_is_at_the_target_before_it_is_pinned() {
    let two = Two::with(3_000).await;
    let routing = two.routing.clone();
    let mut next = 10_000;
    let mut last = false;
    two.stage.source.before_each(move |store, _| {
        // One more with each request, and one that was on its way when writes were held.
        let held = std::fs::read_to_string(&routing).unwrap().contains(HELD);
        if !last && let Some(docs) = store.collections.get_mut("docs") {
            docs.points.extend([point(next)]);
            next += 1;
            last = held;
        }
    });
    let output = two.pin(&[]).await;
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{complained}");
    assert!(
        complained.contains("writes of qdrant are refused until the last pass is over, or 20"),
        "{complained}"
    );
    two.stage.assert_same("docs");
    assert!(two.stage.source.store().collections["docs"].points.len() > 3_001);
    assert!(two.file().contains("writes = true") && !two.file().contains(HELD));
}

#[tokio::test]
async fn a_last_pass_that_fails_lets_writes_go_on_where_they_went() {
    for before in [
        "",
        "[[pin]]\nto = \"m1\"\nwrites = true\nreason = \"as it was\"\n",
    ] {
        let two = Two::with(10).await;
        let file = two.file() + before;
        std::fs::write(&two.routing, &file).unwrap();
        let routing = two.routing.clone();
        two.stage.source.before_each(move |store, _| {
            if std::fs::read_to_string(&routing).unwrap().contains(HELD) {
                store.faults.push_back((
                    "POST /collections/docs/points/scroll",
                    Fault::Status(500, "no"),
                ));
            }
        });
        let output = two.pin(&[]).await;
        let (said, complained) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{said}{complained}");
        assert!(complained.contains("--resume goes on"), "{complained}");
        let written = two.file();
        assert!(
            !written.contains(HELD) && !written.contains("m2\"\nwrites"),
            "{written}"
        );
        assert_eq!(
            written.contains("writes = true"),
            !before.is_empty(),
            "{written}"
        );

        two.stage.source.before_each(|_, _| {});
        two.stage.source.store().faults.clear();
        let output = two.pin(&["--resume"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", texts(&output).1);
        assert!(two.file().contains("to = \"m2\""));
        two.stage.assert_same("docs");
    }
}

#[tokio::test]
async fn a_hold_that_somebody_ended_is_not_followed_by_a_pin() {
    let two = Two::with(10).await;
    let routing = two.routing.clone();
    let before = two.file();
    two.stage.target.before_each(move |_, _| {
        if std::fs::read_to_string(&routing).unwrap().contains(HELD) {
            std::fs::write(&routing, &before).unwrap();
        }
    });
    let output = two.pin(&[]).await;
    assert_eq!(output.status.code(), Some(2), "{}", texts(&output).0);
    let why = texts(&output).1;
    assert!(why.contains("writes are not held any more"), "{why}");
    assert!(!two.file().contains("pin"), "{}", two.file());
}

#[tokio::test]
async fn what_stands_in_the_way_of_the_pin_is_said_before_anything_is_copied() {
    let two = Two::with(10).await;
    let output = two.migrate("m2", &["--pin"]).await;
    assert_eq!(output.status.code(), Some(2));
    let why = texts(&output).1;
    assert!(why.contains("no instance answers on 127.0.0.1:"), "{why}");
    assert!(two.stage.target.store().asked.is_empty());
}
