//! The differential run: generated requests through tailhop and through nginx, to origins that
//! record every byte. What differs must be in the list of `rules`; nothing may be smuggled, and
//! tailhop must be alive and silent at the end.
//!
//!     TAILHOP_DIFFERENTIAL=20000  how many requests, 2,000 unless told otherwise
//!     TAILHOP_SEED=1              which ones
//!     TAILHOP_CASE=17             only connection 17 and a few behind it, the first told in full
//!
//! Where nginx is missing it is skipped with the reason, or fails with `TAILHOP_REQUIRE_RIG=1`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "threads and real time: there is no runtime here"
)]

mod changes;
mod client;
mod compare;
mod generate;
mod origin;
mod proxies;
mod rules;
mod summary;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use compare::{Outcome, differences};
use generate::Script;
use origin::Origin;
use proxies::{Nginx, Tailhop};
use summary::Summary;

/// Connections at once; each side has an origin of its own for each.
const WORKERS: usize = 6;

/// What to run.
struct Run {
    seed: u64,
    /// How many requests to compare.
    wanted: usize,
    /// The one connection that is told in full.
    case: Option<usize>,
    next: AtomicUsize,
    compared: AtomicUsize,
    summary: Mutex<Summary>,
}

#[test]
fn generated_requests_reach_the_origin_as_through_nginx() {
    let [ours, theirs]: [Vec<Origin>; 2] =
        std::array::from_fn(|_| (0..WORKERS).map(|_| Origin::start()).collect());
    let Some(nginx) = Nginx::start(&theirs) else {
        let required = std::env::var_os("TAILHOP_REQUIRE_RIG").is_some_and(|value| value == "1");
        assert!(
            !required,
            "nginx is required and missing: bash tests/debian.sh nginx:nginx-light"
        );
        tell("skipped: nginx is missing");
        return;
    };
    let mut tailhop = Tailhop::start(&ours);
    let run = Run::from_environment();
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let sides = [
                (tailhop.place, &ours[worker]),
                (nginx.places[worker], &theirs[worker]),
            ];
            let run = &run;
            scope.spawn(move || run.work(worker, sides));
        }
    });
    let summary = run.summary.into_inner().unwrap();
    tell(&summary.to_string());
    assert_eq!(tailhop.crash(), None, "tailhop crashed");
    let wrong = [&summary.smuggled[..], &summary.defects[..]].concat();
    assert!(
        wrong.is_empty(),
        "{} defects:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

impl Run {
    fn from_environment() -> Self {
        let number = |variable| {
            let value = std::env::var(variable).ok()?;
            Some(value.parse::<usize>().unwrap())
        };
        let case = number("TAILHOP_CASE");
        let wanted = number("TAILHOP_DIFFERENTIAL").unwrap_or(2000);
        Self {
            seed: number("TAILHOP_SEED").unwrap_or(1) as u64,
            wanted: case.map_or(wanted, |_| 1),
            next: AtomicUsize::new(case.unwrap_or(0)),
            compared: AtomicUsize::new(0),
            case,
            summary: Mutex::default(),
        }
    }

    /// Plays one connection after the other, through tailhop and then through nginx.
    fn work(&self, worker: usize, sides: [(SocketAddr, &Origin); 2]) {
        while self.compared.load(Ordering::Relaxed) < self.wanted {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let script = Script::generate(self.seed, number, worker);
            let outcomes = sides.map(|(place, origin)| {
                let (answers, end) = client::play(place, &script);
                let record = origin.take();
                Outcome {
                    answers,
                    end,
                    record,
                }
            });
            if self.case == Some(number) {
                tell(&told_in_full(&script, &outcomes));
            }
            let mut summary = self.summary.lock().unwrap();
            let judged = judge(&script, number, &outcomes, &mut summary);
            self.compared.fetch_add(judged, Ordering::Relaxed);
        }
    }
}

/// Compares request by request, up to the first after which the two are out of step; how many.
fn judge(script: &Script, number: usize, outcomes: &[Outcome; 2], into: &mut Summary) -> usize {
    let [tailhop, nginx] = outcomes;
    for smuggled in tailhop.smuggled() {
        let bytes = script.bytes.escape_ascii();
        into.smuggled
            .push(format!("#{number} {smuggled}\n  sent {bytes}"));
    }
    into.of_nginx += nginx.smuggled().len();
    let mut before = None;
    for (place, request) in script.requests.iter().enumerate() {
        let (ours, theirs) = (tailhop.fate(place), nginx.fate(place));
        let next = script.requests.get(place + 1);
        let found = differences(request, ours, theirs, before, next);
        into.count(number, request, ours, &found);
        let over = ours.status.is_none() || theirs.status.is_none();
        if over || ours.seen.is_some() != theirs.seen.is_some() {
            into.uncompared += script.requests.len() - place - 1;
            return place + 1;
        }
        before = Some((request, ours, theirs));
    }
    script.requests.len()
}

/// One connection: what was sent, and what came of it on both sides.
fn told_in_full(script: &Script, outcomes: &[Outcome; 2]) -> String {
    let mut text = String::new();
    for request in &script.requests {
        text += &format!("{}: {}\n", request.class.name, request.bytes.escape_ascii());
    }
    for (side, outcome) in ["tailhop", "nginx"].into_iter().zip(outcomes) {
        text += &format!("{side}: {:?}, {:?}\n", outcome.answers, outcome.end);
        for seen in &outcome.record.seen {
            let (method, target) = (seen.method.escape_ascii(), seen.target.escape_ascii());
            text += &format!("  {} {method} {target}\n", seen.serial);
        }
        text += &format!(
            "  faults {:?}, partial {}\n",
            outcome.record.faults, outcome.record.partial
        );
    }
    text
}

/// Says something that the test harness must not swallow.
fn tell(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
