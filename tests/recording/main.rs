//! The five questions of ops, asked of a running instance in a terminal, each answered within ten
//! seconds; and the recording of it in `docs/`.
//!
//!     TAILHOP_RECORD=1 cargo test --test recording      records it anew

#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "commands in real time, and how long each took"
)]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an answer may take, over all commands of a question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two commands of the recording, for reading. The time that a command takes is its own.
const READING: Duration = Duration::from_secs(3);

/// A question, and commands with what must be in the answer of each.
type Question = (
    &'static str,
    &'static [(&'static str, &'static [&'static str])],
);

const QUESTIONS: [Question; 5] = [
    (
        "Which Mac is active?",
        &[(
            "tailhop status",
            &["ollama: macbook-m1 is active", "up since", "config "],
        )],
    ),
    (
        "Why does a request go where it goes?",
        &[
            (
                "tailhop explain POST /ollama/api/chat",
                &["inference (chat)", "1.        macbook-m1: active:default"],
            ),
            (
                "tailhop explain PUT /qdrant/collections/papers/points | head -n 7",
                &["write (upsert)", "never leaves the active backend"],
            ),
        ],
    ),
    (
        "How do I pin one now?",
        &[
            (
                "tailhop pin mac-dev1 --for 2h --reason 'macbook-m1 gets an update'",
                &[
                    "by \"kim\"",
                    "confirmed: generation 2",
                    "mac-dev1 is active",
                ],
            ),
            (
                "tailhop unpin",
                &["confirmed: generation 3", "macbook-m1 is active"],
            ),
            (
                "tailhop status --history",
                &["macbook-m1 -> mac-dev1 (pin by kim): macbook-m1 gets an update"],
            ),
        ],
    ),
    (
        "How do I switch on a date?",
        &[
            (
                "sed -i '/^default/a switch = [{ at = 2099-02-17, to = \"mac-dev1\" }]' $TAILHOP_CONFIG",
                &[],
            ),
            ("tailhop check", &["valid: 2 services"]),
            (
                "tailhop explain --timeline",
                &["2099-02-17T00:00:00+00:00  ollama: macbook-m1 -> mac-dev1 (schedule)"],
            ),
            (
                "tailhop explain POST /ollama/api/chat --at 2099-02-17 | head -n 7",
                &["1.        mac-dev1: active:schedule"],
            ),
        ],
    ),
    (
        "What happens when it sleeps?",
        &[
            (
                "curl -sX POST $POWER/macbook-m1/sleep",
                &["macbook-m1 is asleep"],
            ),
            (
                "curl -si $DATA/ollama/api/tags | grep x-tailhop",
                &["x-tailhop-backend: mac-dev1", "x-tailhop-reason: fallback"],
            ),
            (
                "until tailhop status | grep asleep; do sleep 1; done",
                &[
                    "ollama: macbook-m1 is active",
                    "it is asleep",
                    "mac-dev1 answered",
                ],
            ),
            (
                "curl -sX POST $POWER/macbook-m1/wake",
                &["macbook-m1 is awake"],
            ),
            (
                "until tailhop explain GET /ollama/api/tags | grep 'macbook-m1.*up'; do sleep 1; done",
                &["1.        macbook-m1: active:default"],
            ),
        ],
    ),
];

#[test]
fn five_questions_are_answered_within_ten_seconds_each_as_recorded() {
    if !there("curl") {
        return skip("curl is missing");
    }
    let demo = Demo::start();
    let mut cast = Cast::begin();
    for (question, commands) in QUESTIONS {
        cast.say(&format!("# {question}\r\n"));
        let mut took = Duration::ZERO;
        for (command, wanted) in commands {
            cast.say(&format!("$ {command}\r\n"));
            let (answer, time) = demo.run(command);
            took += time;
            for words in *wanted {
                assert!(
                    answer.contains(words),
                    "{command}: no {words:?} in\n{answer}"
                );
            }
            cast.answer(&answer, time);
        }
        cast.say("\r\n");
        println!("{:>5} ms  {question}", took.as_millis());
        assert!(took < PATIENCE, "{question}: {took:?}");
    }
    drop(demo);
    if env::var_os("TAILHOP_RECORD").is_some() {
        fs::write(recording(), &cast.text).expect("the recording is written");
    }
    is_current();
}

/// Whether the recording has these questions, commands and answers; times and ports are its own.
fn is_current() {
    let text = fs::read_to_string(recording()).expect("there is a recording");
    let mut lines = text.lines();
    let head: serde_json::Value =
        serde_json::from_str(lines.next().expect("a head")).expect("JSON");
    assert_eq!(head["version"], 2);
    let events: Vec<(f64, String, String)> = lines
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect();
    assert!(events.is_sorted_by(|one, next| one.0 <= next.0));
    let said: String = events.into_iter().map(|(_, _, said)| said).collect();
    for (question, commands) in QUESTIONS {
        assert!(said.contains(&format!("# {question}\r\n")), "{question}");
        for (command, wanted) in commands {
            let found = said.split_once(&format!("$ {command}\r\n"));
            let (_, rest) = found.unwrap_or_else(|| panic!("not recorded: {command}"));
            let answer = rest.split("\r\n$ ").next().unwrap_or(rest);
            for words in *wanted {
                assert!(
                    answer.contains(words),
                    "{command}: no {words:?} is recorded"
                );
            }
        }
    }
}

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/five-questions.cast")
}

/// A running demo, and a shell that finds it.
struct Demo {
    child: Child,
    /// Not closed, as it writes a line for each request.
    _said: BufReader<ChildStdout>,
    variables: Vec<(&'static str, String)>,
}

impl Demo {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tailhop"))
            .arg("demo")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut said = BufReader::new(child.stdout.take().expect("its output"));
        let mut welcome = String::new();
        for line in said.by_ref().lines() {
            welcome += &(line.expect("text") + "\n");
            if welcome.contains("Ctrl-C ends it") {
                break;
            }
        }
        let after = |words: &str| {
            let (_, rest) = welcome.split_once(words).expect(words);
            rest.split_whitespace().next().expect(words).to_owned()
        };
        let power = after("Put a Mac to sleep, switch it off, wake it:\n  curl -X POST ");
        let power = power
            .strip_suffix("/macbook-m1/sleep")
            .expect("a switch")
            .to_owned();
        let own = Path::new(env!("CARGO_BIN_EXE_tailhop"))
            .parent()
            .expect("a folder");
        let path = format!("{}:{}", own.display(), env::var("PATH").unwrap_or_default());
        let variables = vec![
            ("TAILHOP_CONFIG", after("its file")),
            ("TAILHOP_ADMIN", after("admin http://")),
            ("DATA", after("tailhop     ")),
            ("POWER", power),
            ("USER", "kim".to_owned()),
            ("PATH", path),
        ];
        let demo = Self {
            child,
            _said: said,
            variables,
        };
        // The first probes of both services on both Macs.
        demo.run("until [ \"$(tailhop status | grep -c 'up since')\" = 4 ]; do sleep 0.05; done");
        demo
    }

    /// What a command prints, and how long it takes.
    fn run(&self, command: &str) -> (String, Duration) {
        let began = Instant::now();
        let output = Command::new("timeout")
            .args(["20", "sh", "-c", &format!("{{ {command}\n}} 2>&1")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            began.elapsed(),
        )
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // By its signal, so that it removes its folder.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}

/// A recording as asciinema's version 2 has it.
struct Cast {
    text: String,
    at: Duration,
}

impl Cast {
    fn begin() -> Self {
        let head = serde_json::json!({
            "version": 2, "width": 120, "height": 40, "title": "tailhop: five questions of ops",
        });
        Self {
            text: format!("{head}\n"),
            at: Duration::ZERO,
        }
    }

    fn say(&mut self, text: &str) {
        let event = serde_json::json!([self.at.as_secs_f64(), "o", text]);
        let _ = writeln!(self.text, "{event}");
    }

    fn answer(&mut self, answer: &str, took: Duration) {
        self.at += took;
        self.say(&answer.replace('\n', "\r\n"));
        self.at += READING;
    }
}

fn there(program: &str) -> bool {
    let probe = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

fn skip(why: &str) {
    let required = env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
    assert!(!required, "{why}");
    println!("skipped: {why}");
}
