//! How late the machine was while something was measured, and what follows for a time that did not
//! hold.
//!
//! A request that took 0.7 s on a machine that let tailhop wait 0.4 s for a CPU says nothing about
//! tailhop. So a scenario whose times did not hold runs again if, and only if, the machine was late
//! meanwhile. What must be right whatever the times is asserted by the scenario, in every run.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::parts::tell;
use super::process;
use super::rig::{Rig, on_rig};

/// Runs of one scenario at most.
const RUNS: usize = 3;
/// A machine that was late by more than this part of a bound cannot tell whether the bound holds.
const PART: u32 = 4;
/// Between two ticks of the load generator's own clock.
const TICK: Duration = Duration::from_millis(5);
/// Tokio's timers are this coarse: no lateness.
const COARSE: Duration = Duration::from_millis(1);
/// Between two looks at what the kernel counts.
const LOOK: Duration = Duration::from_millis(20);
/// What `/proc/stat` counts in.
const JIFFY: Duration = Duration::from_millis(10);

/// How late the machine was at worst, by who noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lateness {
    /// The load generator, behind its own clock.
    generator: Duration,
    /// A thread of the rig or of what it started, that waited for a CPU.
    waited: Duration,
    /// The host, which ran something else.
    stolen: Duration,
}

/// Watches for lateness until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    worst: Arc<Mutex<Lateness>>,
    ticker: JoinHandle<()>,
    /// Dropped with this, which ends the looks.
    _on: Sender<()>,
}

/// The times of one run of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Times(RefCell<Vec<Missed>>);

/// A time that did not hold.
#[derive(Debug)]
struct Missed {
    bound: Duration,
    late: Lateness,
    words: String,
}

/// Runs a scenario on a rig where nothing is broken until its times hold, at most three times.
pub(crate) fn timed(scenario: impl AsyncFn(&mut Rig, &Times) + Send) {
    on_rig(async move |rig| {
        let mut before = String::new();
        for run in 1..=RUNS {
            if run > 1 {
                rig.reset().await;
            }
            let times = Times::default();
            scenario(rig, &times).await;
            let missed = times.0.into_inner();
            if missed.is_empty() {
                return;
            }
            let calm = missed.iter().find(|missed| !missed.is_excused());
            if let Some(calm) = calm {
                panic!("the machine was calm: {calm}{before}");
            }
            for missed in missed {
                tell(&format!("run {run} tells nothing, {}", missed.brief()));
                // Into memory, which cannot fail.
                let _ = write!(before, "\nrun {run}: {missed}");
            }
        }
        panic!("the machine was late in each of {RUNS} runs{before}");
    });
}

impl Times {
    /// `took` is to be at most `bound`; what it is comes with the numbers of the run in `words`.
    pub(crate) fn hold(
        &self,
        took: Duration,
        bound: Duration,
        late: Lateness,
        words: impl FnOnce() -> String,
    ) {
        let held = took <= bound;
        self.check(held, bound, late, || {
            format!("{took:?}, which is too long: {}", words())
        });
    }

    /// What `holds` only on a machine that is not late by a part of `bound`.
    pub(crate) fn check(
        &self,
        holds: bool,
        bound: Duration,
        late: Lateness,
        words: impl FnOnce() -> String,
    ) {
        if !holds {
            let words = format!("for {bound:?}, {late}: {}", words());
            self.0.borrow_mut().push(Missed { bound, late, words });
        }
    }
}

impl Missed {
    fn is_excused(&self) -> bool {
        self.late.worst() > self.bound / PART
    }

    /// Its first line.
    fn brief(&self) -> &str {
        self.words.lines().next().unwrap_or_default()
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl Lateness {
    /// The worst of it, whoever noticed.
    pub(crate) fn worst(self) -> Duration {
        self.generator.max(self.waited).max(self.stolen)
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |span: Duration| span.as_secs_f64() * 1000.0;
        write!(
            f,
            "lateness: load generator {:.1} ms, wait for a CPU {:.1} ms, stolen {:.0} ms",
            ms(self.generator),
            ms(self.waited),
            ms(self.stolen)
        )
    }
}

impl Watch {
    /// Begins. The load generator is whoever shares this task's thread.
    pub(crate) fn start() -> Self {
        let worst = Arc::<Mutex<Lateness>>::default();
        let ticker = tokio::spawn(tick(Arc::clone(&worst)));
        let (on, over) = mpsc::channel();
        let seen = Arc::clone(&worst);
        thread::spawn(move || look(&seen, &over));
        Self {
            worst,
            ticker,
            _on: on,
        }
    }

    /// The worst so far.
    pub(crate) fn worst(&self) -> Lateness {
        *locked(&self.worst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

async fn tick(worst: Arc<Mutex<Lateness>>) {
    loop {
        let due = Instant::now() + TICK;
        sleep_until(due).await;
        let late = due.elapsed().saturating_sub(COARSE);
        let mut worst = locked(&worst);
        worst.generator = worst.generator.max(late);
    }
}

/// Looks at what the kernel counts until it is over.
fn look(worst: &Mutex<Lateness>, over: &Receiver<()>) {
    let (mut waits, mut stolen) = (waits(), stolen());
    while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let (now, stolen_now) = (self::waits(), self::stolen());
        // A thread that is new since the last look waited since then, too.
        let more = |(thread, wait): (&u32, &u64)| wait - waits.get(thread).unwrap_or(&0).min(wait);
        let waited = now.iter().map(more).max().unwrap_or(0);
        let mut worst = locked(worst);
        worst.waited = worst.waited.max(Duration::from_nanos(waited));
        worst.stolen = worst.stolen.max(stolen_now.saturating_sub(stolen));
        (waits, stolen) = (now, stolen_now);
    }
}

/// How long each thread of the rig and of its processes waited for a CPU since it began, in
/// nanoseconds. Empty where the kernel does not count that.
fn waits() -> HashMap<u32, u64> {
    let tasks = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task"));
    let pids = process::running().into_iter().chain([std::process::id()]);
    let tasks = pids.flat_map(tasks).flatten().flatten();
    let wait = |task: std::fs::DirEntry| {
        let counted = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = counted.split(' ').nth(1)?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, nanos))
    };
    tasks.filter_map(wait).collect()
}

/// CPU time that the host took since it began.
fn stolen() -> Duration {
    const PLACE: usize = 8;
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default().split_whitespace();
    let jiffies = all.skip(PLACE).find_map(|word| word.parse().ok());
    JIFFY * jiffies.unwrap_or(0)
}

fn locked(worst: &Mutex<Lateness>) -> MutexGuard<'_, Lateness> {
    worst.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn only_a_machine_that_was_late_excuses_a_time_that_did_not_hold() {
    let ms = Duration::from_millis;
    let rows = [
        (ms(100), ms(0), None),
        (ms(101), ms(0), Some(false)),
        (ms(101), ms(25), Some(false)),
        (ms(101), ms(26), Some(true)),
        (ms(9000), ms(26), Some(true)),
    ];
    for (took, waited, want) in rows {
        let (times, mut late) = (Times::default(), Lateness::default());
        late.waited = waited;
        times.hold(took, ms(100), late, String::new);
        let missed = times.0.into_inner();
        let excused = missed.first().map(Missed::is_excused);
        assert_eq!(excused, want, "{took:?} {waited:?}");
    }
}

#[test]
fn a_generator_that_is_held_up_notices() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let watch = Watch::start();
        tokio::task::yield_now().await;
        let (_on, nothing) = mpsc::channel::<()>();
        // Blocks this thread, as a busy machine does.
        let _ = nothing.recv_timeout(Duration::from_millis(50));
        while watch.worst().generator < Duration::from_millis(30) {
            tokio::task::yield_now().await;
        }
    });
}
