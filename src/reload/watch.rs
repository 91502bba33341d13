//! Whether the configuration files have changed, and what is in them once they hold still.
//!
//! Owns reading them again. File events are a hint, the hash of the contents is the truth, and a
//! poll always runs, as events are lost on many mounts. Must not judge contents: a text that is
//! broken is reported like one that is right. Invariants: nothing is reported twice in a row, a
//! file that keeps changing is reported all the same, and an empty or missing file is an error,
//! never an empty configuration. Time is tokio's. Reads block for microseconds; they are meant for
//! the control thread.

mod chain;
mod hints;
mod settle;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Report, Source, read};
use chain::Chain;
use hints::Hints;
use settle::{Look, Settle};

/// A poll that is cheap where reading is, and within the 3 s that an edit may take.
const POLL: Duration = Duration::from_secs(2);
/// On network file systems each look costs a round trip, or money.
const POLL_NETWORK: Duration = Duration::from_secs(15);
/// An editor's save is a burst of events: wait for the rest of it, never longer.
const COALESCE: Duration = Duration::from_millis(5);

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By events, and by polling for what they miss.
    Auto,
    /// By polling alone.
    Poll,
}

/// What was last known of a file: only what differs from it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: the first look is reported, whatever it finds.
    Nothing,
    /// A text with this hash.
    Text(String),
    /// It could not be read, for this reason.
    Failed(String),
}

/// What all watched files hold at the moment when one of them settled, in the order in which they
/// were given. One that was changing at that moment has what it held before.
#[derive(Clone, Debug)]
pub struct Observation {
    /// One for each file.
    pub files: Vec<Result<Source, Report>>,
}

/// Watches files.
#[derive(Debug)]
pub struct Watcher {
    files: Vec<File>,
    /// `None`: polling alone.
    hints: Option<Hints>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    chain: Chain,
    settle: Settle,
    /// The writer has closed it or renamed it into place, and was not seen writing since.
    whole: bool,
    /// When it is looked at, if no event comes before.
    next: Instant,
    /// What it held when it was last settled.
    settled: Option<Result<Source, Report>>,
    latest: Option<Result<Source, Report>>,
}

impl Seen {
    /// What `reading` leaves known.
    pub fn of(reading: &Result<Source, Report>) -> Self {
        match reading {
            Ok(source) => Self::Text(source.hash().to_owned()),
            Err(report) => Self::Failed(report.to_string()),
        }
    }
}

impl Watcher {
    /// Watches `paths`, of which `seen` is known; a path without an entry there is unknown.
    pub fn new(paths: Vec<PathBuf>, mode: Mode, seen: Vec<Seen>) -> Self {
        let seen = seen.into_iter().chain(std::iter::repeat(Seen::Nothing));
        let hints = (mode == Mode::Auto).then(|| Hints::new(paths.len()));
        let files = paths
            .into_iter()
            .zip(seen)
            .map(|(path, seen)| File::new(path, seen))
            .collect();
        Self { files, hints }
    }

    /// Watches the first `own` files as before, and `beside` instead of the others. What is known
    /// of a file stays known.
    #[must_use]
    pub fn beside(mut self, own: usize, beside: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut beside: Vec<_> = beside.into_iter().collect();
        beside.sort();
        beside.dedup();
        let watched = self.files[own..].iter().map(|file| &file.path);
        if watched.eq(&beside) {
            return self;
        }
        let mut before = self.files.split_off(own);
        for path in beside {
            let kept = before.iter().position(|file| file.path == path);
            let file = kept.map(|place| before.swap_remove(place));
            self.files
                .push(file.unwrap_or_else(|| File::new(path, Seen::Nothing)));
        }
        // Events of the old watches are lost with them: look at everything once.
        for file in &mut self.files {
            file.next = Instant::now();
        }
        self.hints = self.hints.map(|_| Hints::new(self.files.len()));
        self
    }

    /// What the file at `path` holds, as far as that has settled; `None`: it is not watched.
    pub fn held(&self, path: &Path) -> Option<Result<Source, Report>> {
        let file = self.files.iter().find(|file| file.path == path)?;
        Some(file.held())
    }

    /// Returns when a file holds something else than when this last returned.
    ///
    /// Cancel safe: what was noticed is kept for the next call.
    pub async fn changed(&mut self) -> Observation {
        loop {
            if let Some(observation) = self.look() {
                return observation;
            }
            self.wait().await;
        }
    }

    /// Waits until a file is due, or an event came.
    async fn wait(&self) {
        let next = self.files.iter().map(|file| file.next).min();
        // Without a file nothing will ever happen.
        let Some(next) = next else {
            return std::future::pending().await;
        };
        let Some(hints) = &self.hints else {
            return sleep_until(next).await;
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = hints.any() => sleep(COALESCE).await,
        }
    }

    /// Reads the files that are due or hinted at.
    fn look(&mut self) -> Option<Observation> {
        let now = Instant::now();
        let mut moved = false;
        let mut due = Vec::new();
        for (index, file) in self.files.iter_mut().enumerate() {
            let news = self
                .hints
                .as_ref()
                .map(|hints| hints.take(index))
                .unwrap_or_default();
            if news.look || now >= file.next {
                file.chain = Chain::of(&file.path);
                file.whole = news.whole.unwrap_or(file.whole);
                moved |= news.rearm;
                due.push(index);
            }
        }
        if due.is_empty() {
            return None;
        }
        if let Some(hints) = &mut self.hints {
            // Before reading: what changes after the read must raise an event.
            hints.arm(self.files.iter().map(|file| &file.chain), moved);
        }
        let settled = due
            .into_iter()
            .filter(|index| self.files[*index].look(now))
            .count();
        (settled > 0).then(|| Observation {
            files: self.files.iter().map(File::held).collect(),
        })
    }
}

impl File {
    fn new(path: PathBuf, seen: Seen) -> Self {
        Self {
            path,
            chain: Chain::default(),
            settle: Settle::new(seen),
            whole: false,
            next: Instant::now(),
            settled: None,
            latest: None,
        }
    }

    /// Reads it; whether it holds something new that has settled.
    fn look(&mut self, now: Instant) -> bool {
        let reading = read(&self.path);
        let look = self.settle.look(now, Seen::of(&reading), self.whole);
        if let Look::Again(at) = look {
            self.next = at;
            self.latest = Some(reading);
            return false;
        }
        self.next = now + poll(&self.path);
        self.whole = false;
        self.latest = None;
        self.settled = Some(reading);
        look == Look::Settled
    }

    /// What it holds, as far as that has settled.
    fn held(&self) -> Result<Source, Report> {
        let known = self.settled.as_ref().or(self.latest.as_ref());
        known.cloned().unwrap_or_else(|| read(&self.path))
    }
}

/// Whether `path` is on a file system that other machines write to, too: instances see an edit at
/// different times there.
pub fn is_network(path: &Path) -> bool {
    chain::is_network(path)
}

fn poll(path: &Path) -> Duration {
    if chain::is_network(path) {
        POLL_NETWORK
    } else {
        POLL
    }
}
