//! The CI guard: what a request costs in instructions and in system calls, against what is
//! recorded in `recorded.json`. Counts, not times: a busy machine does not change them.
//!
//!     TAILHOP_BIN=target/release/tailhop cargo test --test cost -- --nocapture
//!     TAILHOP_COST_RECORD=1 ..                                     writes recorded.json anew
//!
//! A larger number in the record is a decision: say in the commit what it buys.
//!
//! tailhop runs under callgrind, and again under strace, on an agreed script: some of everything,
//! and then the same with thousands more of one thing. The difference is what those cost, without
//! start and end. What goes by the clock is left out, as it is more the longer a run takes: the
//! control thread's instructions, and the calls that wait. Only a release build says anything. Where the tools
//! or such a build are missing it is skipped, or fails with `TAILHOP_REQUIRE_RIG=1`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod counted;
mod script;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use counted::{Counter, counts};

/// What may be spent beyond the record, in percent. Other libraries and compilers make a few; a
/// needless allocation or formatting on the path makes more.
const MARGIN: f64 = 5.0;
/// From here on a saving is worth a new record, which then keeps it.
const SAVED: f64 = 5.0;

/// Counts by the name of what was counted.
type Counts = BTreeMap<String, f64>;

#[test]
fn requests_cost_no_more_than_is_recorded() {
    let binary = match binary() {
        Ok(binary) => binary,
        Err(why) => return skip(&why),
    };
    let [instructions, syscalls] = thread::scope(|scope| {
        [Counter::Instructions, Counter::Syscalls]
            .map(|counter| {
                let binary = &binary;
                scope.spawn(move || counts(counter, binary))
            })
            .map(|running| running.join().unwrap())
    });
    let measured = BTreeMap::from([
        ("instructions".to_owned(), instructions),
        ("syscalls".to_owned(), syscalls),
    ]);
    if std::env::var_os("TAILHOP_COST_RECORD").is_some_and(|value| value == "1") {
        record(&measured);
    }
    let text = std::fs::read_to_string(recorded()).unwrap();
    let recorded: BTreeMap<String, Counts> = serde_json::from_str(&text).unwrap();
    let dearer: usize = measured
        .iter()
        .map(|(unit, counts)| compare(unit, counts, &recorded[unit]))
        .sum();
    assert_eq!(
        dearer, 0,
        "dearer than recorded by over {MARGIN} %: see above"
    );
}

/// Tells every count beside its record; how many are too high.
fn compare(unit: &str, measured: &Counts, recorded: &Counts) -> usize {
    let mut dearer = 0;
    for (name, count) in measured {
        let record = recorded[name];
        let more = (count / record - 1.0) * 100.0;
        let verdict = match more {
            _ if more > MARGIN => "TOO MUCH: save it, or record anew and say why",
            _ if more < -SAVED => "cheaper: record it anew, so that it stays so",
            _ => "",
        };
        dearer += usize::from(more > MARGIN);
        tell(&format!(
            "{unit:12} {name:34} {count:>10.2}, recorded {record:>10.2} ({more:+.1} %) {verdict}"
        ));
    }
    if dearer > 0 {
        tell(
            "to record anew: TAILHOP_COST_RECORD=1 TAILHOP_BIN=target/release/tailhop cargo test --test cost",
        );
    }
    dearer
}

fn record(measured: &BTreeMap<String, Counts>) {
    let text = serde_json::to_string_pretty(measured).unwrap() + "\n";
    std::fs::write(recorded(), text).unwrap();
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost/recorded.json")
}

/// A release build, and the tools that count; or what is missing.
fn binary() -> Result<PathBuf, String> {
    for tool in ["valgrind", "strace"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()) {
            return Err(format!(
                "{tool} is missing: tests/debian.sh valgrind:valgrind strace:strace"
            ));
        }
    }
    match std::env::var_os("TAILHOP_BIN") {
        Some(binary) => Ok(binary.into()),
        None if cfg!(debug_assertions) => {
            Err("a debug build costs what it costs: TAILHOP_BIN names a release one".into())
        }
        None => Ok(env!("CARGO_BIN_EXE_tailhop").into()),
    }
}

fn skip(why: &str) {
    let required = std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
    assert!(!required, "required and not possible: {why}");
    tell(&format!("skipped: {why}"));
}

/// Says something that the test harness must not swallow.
fn tell(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
