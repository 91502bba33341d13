//! The real binary: what it prints, and how it exits.

use std::process::{Command, Output};

use serde_json::Value;
use tailhop::migrate::State;

use crate::Stage;

async fn migrate(stage: &Stage, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailhop"));
    command
        .args([
            "migrate",
            "--from",
            &stage.source.url(),
            "--to",
            &stage.target.url(),
        ])
        .args([
            "--state",
            stage.state().to_str().unwrap(),
            "--patience",
            "1s",
        ])
        .args(more)
        .env("SOME_KEY", "canary-1")
        .env_remove("TAILHOP_CONFIG");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn two_urls_need_no_configuration_and_the_answer_tells_what_came_of_it() {
    let stage = Stage::with("docs", 100).await;
    for side in [&stage.source, &stage.target] {
        side.store().key = Some("canary-1");
    }
    let keys = [
        "--from-api-key-env",
        "SOME_KEY",
        "--to-api-key-env",
        "SOME_KEY",
    ];
    let output = migrate(&stage, &keys).await;
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{complained}");
    assert!(
        said.starts_with("docs: 100 points copied; the same on both sides, "),
        "{said}"
    );
    stage.assert_same("docs");

    stage.target.lose_first_point("docs");
    let output = migrate(&stage, &[&keys[..], &["--verify-only", "--json"]].concat()).await;
    let (said, _) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["equal"], false);
    assert_eq!(
        report["collections"][0]["differences"][0],
        "point 0: not at the target"
    );
    assert!(!said.contains("canary"));
}

#[tokio::test]
async fn each_end_has_its_exit_code_and_says_what_to_do() {
    let stage = Stage::with("docs", 10).await;
    let output = migrate(&stage, &["--collection", "none"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        texts(&output)
            .1
            .contains("none: the source has none of that name")
    );

    let output = migrate(&stage, &["--resume"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("no run can be gone on with"));

    let output = migrate(&stage, &["--pin"]).await;
    assert_eq!(output.status.code(), Some(2));
    let output = migrate(&stage, &["--from-api-key-env", "NOT_SET_ANYWHERE"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        texts(&output)
            .1
            .contains("the variable NOT_SET_ANYWHERE is not set")
    );

    let full = crate::qdrant::Fault::Status(507, "full");
    stage
        .target
        .store()
        .faults
        .push_back(("PUT /collections/docs/points", full));
    let output = migrate(&stage, &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        texts(&output)
            .1
            .contains("help: --resume goes on where it stopped")
    );
    let output = migrate(&stage, &[]).await;
    assert_eq!(
        output.status.code(),
        Some(2),
        "a run that did not end is not begun anew"
    );
    let output = migrate(&stage, &["--resume"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", texts(&output).1);
    stage.assert_same("docs");
}

#[tokio::test]
async fn a_pin_is_not_given_when_the_sides_differ() {
    let stage = Stage::with("docs", 10).await;
    stage
        .target
        .store()
        .collections
        .insert("docs".to_owned(), crate::collection(9));
    let output = migrate(&stage, &["--verify-only", "--pin"]).await;
    assert_eq!(output.status.code(), Some(2), "they exclude each other");
    let output = migrate(&stage, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        texts(&output)
            .1
            .contains("help: --replace makes the target the same")
    );
}

#[tokio::test]
async fn a_state_file_that_is_not_this_runs_is_refused_and_nothing_is_changed() {
    let stage = Stage::with("docs", 10).await;
    let [from, to] = [stage.source.url(), stage.target.url()];
    let own = serde_json::to_string(&State::new(&from, &to)).unwrap();
    for (text, why) in [
        (
            own.replace(&from, "http://other:6333"),
            "it is of a run from http://other:6333",
        ),
        (own[..own.len() / 2].to_owned(), "it cannot be read"),
        (String::new(), "it cannot be read"),
        (
            own.replace("/v1", "/v9"),
            "it is of another version: tailhop/migrate/v9",
        ),
        ("[1]".to_owned(), "it cannot be read"),
    ] {
        std::fs::write(stage.state(), &text).unwrap();
        for more in [&["--resume"][..], &[]] {
            let output = migrate(&stage, more).await;
            let (_, complained) = texts(&output);
            assert_eq!(output.status.code(), Some(2), "{complained}");
            assert!(more.is_empty() || complained.contains(why), "{complained}");
            assert_eq!(std::fs::read_to_string(stage.state()).unwrap(), text);
        }
    }
    assert!(stage.target.store().asked.is_empty());
}
