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
//! control thread's instructions, and the calls that wait. Only a release build says anything. Where
//! the tools or such a build are missing it is skipped, or fails with `TAILHOP_REQUIRE_RIG=1`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod counted;
mod script;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use counted::{Counter, counts};

/// What may be spent beyond the record, in percent: README.md says why so much.
const MARGIN: f64 = 7.0;
/// From here on a saving is worth a new record, which then keeps it.
const SAVED: f64 = 4.0;

/// Counts by the name of what was counted.
type Counts = BTreeMap<String, f64>;
/// The same by unit.
type Measured = BTreeMap<String, Counts>;

#[test]
fn requests_cost_no_more_than_is_recorded() {
    let binary = match binary() {
        Ok(binary) => binary,
        Err(why) => return skip(&why),
    };
    let mut measured = measure(&binary);
    if std::env::var_os("TAILHOP_COST_RECORD").is_some_and(|value| value == "1") {
        record(&measured);
    }
    let text = std::fs::read_to_string(recorded()).unwrap();
    let recorded: Measured = serde_json::from_str(&text).unwrap();
    if dearer(&measured, &recorded) > 0 {
        tell("once more: what disturbs a run only adds to it, so the lower counts hold");
        lower(&mut measured, &measure(&binary));
        assert_eq!(
            dearer(&measured, &recorded),
            0,
            "dearer than recorded by over {MARGIN} %: see above"
        );
    }
}

/// Everything that can be counted here.
fn measure(binary: &Path) -> Measured {
    let mut counters = vec![("syscalls", Counter::Syscalls)];
    if cfg!(target_arch = "x86_64") {
        counters.push(("instructions", Counter::Instructions));
    } else {
        tell("instructions are not counted: the record is of x86-64");
    }
    thread::scope(|scope| {
        let running: Vec<_> = (counters.into_iter())
            .map(|(unit, counter)| (unit, scope.spawn(move || counts(counter, binary))))
            .collect();
        (running.into_iter())
            .map(|(unit, counts)| (unit.to_owned(), counts.join().unwrap()))
            .collect()
    })
}

/// Keeps the lower of two counts of each.
fn lower(measured: &mut Measured, again: &Measured) {
    for (unit, counts) in measured {
        for (name, count) in counts {
            *count = count.min(again[unit][name]);
        }
    }
}

/// Tells everything beside its record; how many counts are too high.
fn dearer(measured: &Measured, recorded: &Measured) -> usize {
    (measured.iter())
        .map(|(unit, counts)| compare(unit, counts, &recorded[unit]))
        .sum()
}

/// The same of one unit.
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

fn record(measured: &Measured) {
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
