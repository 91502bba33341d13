//! Forty-five broken files, what `tailhop check` says of each, and that its fix mends it.
//!
//! `NN-name.toml` is broken, `NN-name.txt` is the message, `NN-name.fixed.toml` what the edits of
//! the JSON make of it, which must have no problem left, not even a warning. Lines that begin with
//! `#:` are for this test: `env` and `afterwards` set variables of the environment before and after
//! the fix, `by hand` says why no machine can do it; then the fixed file is written by hand, and is
//! missing where the file itself is right. With `TAILHOP_BLESS=1` messages and edits are written
//! instead of compared: read the difference before you commit it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Rounds of fixing: one fix may uncover the next.
const ROUNDS: usize = 8;
/// Of the gallery, those that no machine can mend.
const BY_HAND_MOST: usize = 9;

/// One broken file.
struct Exhibit {
    name: String,
    text: String,
}

impl Exhibit {
    fn notes(&self, mark: &str) -> Option<&str> {
        let mark = format!("#: {mark} ");
        self.text.lines().find_map(|line| line.strip_prefix(&mark))
    }

    fn by_hand(&self) -> bool {
        self.text.contains("\n#: by hand: ") || self.text.starts_with("#: by hand: ")
    }

    fn file(&self, ending: &str) -> PathBuf {
        folder().join(format!("{}.{ending}", self.name))
    }

    /// `check` of `text` in the environment of this exhibit, before or after the fix.
    fn check(&self, text: &str, arguments: &[&str], fixed: bool) -> Output {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("routing.toml"), text).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_tailhop"));
        check
            .env_clear()
            .current_dir(place.path())
            .stdin(Stdio::null());
        let before = self.notes("env").filter(|_| !(fixed && self.by_hand()));
        let after = self.notes("afterwards").filter(|_| fixed);
        for pair in [before, after].into_iter().flatten() {
            let (name, value) = pair.split_once('=').unwrap();
            check.env(name, value);
        }
        let check = check.args(["check", "routing.toml"]).args(arguments);
        check.output().unwrap()
    }

    fn problems(&self, text: &str, fixed: bool) -> Value {
        let output = self.check(text, &["--json", "--strict"], fixed);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The file with all that a machine can mend mended: the edits of one problem at a time, as
    /// those of two may touch the same place.
    fn mended(&self) -> String {
        let mut text = self.text.clone();
        for _ in 0..ROUNDS {
            let found = self.problems(&text, true);
            let mut problems = found["problems"].as_array().unwrap().clone();
            // A warning may come of an error.
            problems.sort_by_key(|problem| problem["severity"] != "error");
            let mut fixes = problems.iter().map(|problem| &problem["fix"]["edits"]);
            let Some(edits) = fixes.find(|edits| !edits.as_array().unwrap().is_empty()) else {
                break;
            };
            text = applied(text, edits);
        }
        text
    }
}

fn applied(mut text: String, edits: &Value) -> String {
    let at =
        |edit: &Value, end: usize| usize::try_from(edit["span"][end].as_u64().unwrap()).unwrap();
    let mut edits: Vec<_> = edits.as_array().unwrap().iter().collect();
    edits.sort_by_key(|edit| std::cmp::Reverse(at(edit, 0)));
    for edit in edits {
        let replacement = edit["replacement"].as_str().unwrap();
        text.replace_range(at(edit, 0)..at(edit, 1), replacement);
    }
    text
}

#[test]
fn every_message_is_as_it_was_agreed() {
    for exhibit in gallery() {
        let output = exhibit.check(&exhibit.text, &[], false);
        let [out, err] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let said = format!("{err}{out}");
        assert!(said.ends_with('\n') && !said.ends_with("\n\n"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        agree(&exhibit.file("txt"), &said);
    }
}

#[test]
fn every_fix_makes_its_file_valid() {
    let mut by_hand = 0;
    for exhibit in gallery() {
        let found = exhibit.problems(&exhibit.text, false);
        assert_ne!(
            found["problems"],
            Value::Array(Vec::new()),
            "{}",
            exhibit.name
        );
        let fixed = exhibit.file("fixed.toml");
        if exhibit.by_hand() {
            by_hand += 1;
        } else {
            agree(&fixed, &exhibit.mended());
        }
        let text = fs::read_to_string(&fixed).unwrap_or_else(|_| exhibit.text.clone());
        let left = exhibit.check(&text, &["--strict"], true);
        let said = String::from_utf8(left.stderr).unwrap();
        assert!(left.status.success(), "{}\n{said}", exhibit.name);
    }
    assert!(
        by_hand <= BY_HAND_MOST,
        "{by_hand} cannot be mended by a machine"
    );
}

#[test]
fn every_problem_has_a_text_that_says_what_to_do() {
    for exhibit in gallery() {
        let found = exhibit.problems(&exhibit.text, false);
        for problem in found["problems"].as_array().unwrap() {
            let syntax = problem["code"] == "E010";
            assert!(problem["fix"]["text"].is_string() || syntax, "{problem}");
            assert!(!problem["why"].as_str().unwrap().is_empty(), "{problem}");
        }
    }
}

#[test]
fn there_are_forty_five_and_each_file_belongs_to_one() {
    let names: BTreeSet<_> = gallery().into_iter().map(|exhibit| exhibit.name).collect();
    assert_eq!(names.len(), 45);
    for entry in fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.split('.').next().unwrap();
        assert!(
            names.contains(name) || matches!(&*file, "main.rs" | "README.md"),
            "{file}"
        );
    }
}

/// Compares `text` with what is in the file, or writes it there when it was blessed.
fn agree(file: &Path, text: &str) {
    if std::env::var_os("TAILHOP_BLESS").is_some() {
        fs::write(file, text).unwrap();
    }
    let agreed = fs::read_to_string(file).unwrap_or_default();
    assert_eq!(
        text,
        agreed,
        "{}: bless it with TAILHOP_BLESS=1",
        file.display()
    );
}

fn gallery() -> Vec<Exhibit> {
    let files = fs::read_dir(folder()).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut broken: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(".toml")?.to_owned()))
        .filter(|name| !name.contains('.'))
        .collect();
    broken.sort();
    let exhibit = |name: String| Exhibit {
        text: fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap(),
        name,
    };
    broken.into_iter().map(exhibit).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gallery")
}
