//! From "the file may have changed" to one swap of (snapshot, endpoints).
//!
//! Owns the watch and the store. The first `--config` is the truth; a second one is the copy
//! that stands in for it while it is invalid or missing and nothing better is in use.

pub mod store;
pub mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::config::{Environment, Report, Snapshot, Source, load, load_by, read};
use store::Store;
use watch::{Mode, Watcher};

/// How long the first file is tried before its stand-in copy is used: a mounted folder may come
/// up later than we do.
const FIRST_TRIES: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(250);

/// The files that hold the configuration, and the environment that is laid over them.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The file that ops edit.
    pub truth: PathBuf,
    /// The copy that stands in for it, if there is one.
    pub stand_in: Option<PathBuf>,
    /// Read once: it does not change while we run.
    pub environment: Environment,
    /// How changes are noticed.
    pub mode: Mode,
}

/// SIGHUP, which asks for a look at the files at once.
#[derive(Debug)]
pub struct Hangups(
    /// `None`: the system gives no signals.
    Option<Signal>,
);

impl Inputs {
    /// Reads and validates one file.
    pub fn load(&self, source: Result<Source, Report>) -> Result<Snapshot, Report> {
        load(&source?, &self.environment)
    }

    /// The configuration to start with: the first file, or after `FIRST_TRIES` the stand-in.
    ///
    /// # Errors
    /// All problems of the first file if nothing is valid.
    pub async fn first(&self) -> Result<Snapshot, Report> {
        let Some(stand_in) = &self.stand_in else {
            return self.load(read(&self.truth));
        };
        let began = Instant::now();
        loop {
            match self.load(read(&self.truth)) {
                Ok(snapshot) => return Ok(snapshot),
                Err(_) if began.elapsed() < FIRST_TRIES => sleep(BETWEEN_TRIES).await,
                Err(report) => {
                    let copy = self.load(read(stand_in)).map_err(|_| report)?;
                    return Ok(stands_in(copy));
                }
            }
        }
    }

    /// Looks at the files now, without waiting for them to hold still, and brings what they say
    /// into `store`.
    pub fn now(&self, store: &Store) -> Outcome {
        let truth = self.load(read(&self.truth));
        let copy = self.stand_in.as_ref().map(|copy| self.load(read(copy)));
        bring(store, truth, copy)
    }

    /// Watches the files for ever and brings what they say into `store`. SIGHUP asks for a look at
    /// once; the log answers what changed, or what is wrong.
    pub async fn follow(self, store: Arc<Store>, mut hangups: Hangups) {
        let paths = std::iter::once(&self.truth)
            .chain(&self.stand_in)
            .cloned()
            .collect();
        let own = 1 + usize::from(self.stand_in.is_some());
        let mut watcher = Watcher::new(paths, self.mode, Vec::new());
        watcher = watcher.beside(own, store.live().snapshot.files.clone());
        loop {
            // Of secrets and roots of trust it matters only that they changed: loading reads them.
            let (seen, by_signal) = tokio::select! {
                seen = watcher.changed() => (seen.files, false),
                // Settled or not: who asks has written them.
                () = hangups.next() => (self.sources(), true),
            };
            let held = |path: &Path| match watcher.held(path) {
                Some(held) if !by_signal => held,
                _ => read(path),
            };
            let load = |source: Result<Source, Report>| load_by(&source?, &self.environment, &held);
            let mut seen = seen.into_iter().take(own);
            let Some(truth) = seen.next().map(load) else {
                return;
            };
            let copy = seen.next().map(load);
            let named = [Some(&truth), copy.as_ref()];
            watcher = watcher.beside(own, named.into_iter().flatten().flat_map(files));
            // The log has told any other outcome.
            if let Outcome::Unchanged = bring(&store, truth, copy)
                && by_signal
            {
                info!("SIGHUP: nothing changes, the configuration is the one in use");
            }
        }
    }

    /// What the files hold now.
    fn sources(&self) -> Vec<Result<Source, Report>> {
        let files = std::iter::once(&self.truth).chain(&self.stand_in);
        files.map(|path| read(path)).collect()
    }
}

/// The files that a configuration was read from besides its own, be it right or wrong.
fn files(read: &Result<Snapshot, Report>) -> Vec<PathBuf> {
    match read {
        Ok(snapshot) => snapshot.files.clone(),
        Err(report) => report.files.clone(),
    }
}

/// What became of a look at the files.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// They are in use now; what is different, in words.
    Applied(Vec<String>),
    /// They were in use before.
    Unchanged,
    /// They are not taken, for these problems.
    Rejected(Report),
}

impl Hangups {
    /// Listens from now on: before anybody is told that we are there, as SIGHUP ends who does not.
    pub fn listen() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    /// The next SIGHUP.
    async fn next(&mut self) {
        match &mut self.0 {
            Some(signals) => drop(signals.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// What the files now say, against what is in use.
fn bring(
    store: &Store,
    truth: Result<Snapshot, Report>,
    copy: Option<Result<Snapshot, Report>>,
) -> Outcome {
    let live = store.live();
    let in_use = &live.snapshot;
    match (truth, copy) {
        (Ok(snapshot), _) if snapshot.is_as(in_use) => {
            store.unchanged();
            Outcome::Unchanged
        }
        (Ok(snapshot), _) => Outcome::Applied(store.apply(snapshot)),
        (Err(report), Some(Ok(copy))) if in_use.origin.stand_in => {
            let copy = stands_in(copy);
            if !copy.is_as(in_use) {
                store.apply(copy);
            }
            store.reject(&report);
            Outcome::Rejected(report)
        }
        (Err(report), _) => {
            store.reject(&report);
            Outcome::Rejected(report)
        }
    }
}

fn stands_in(mut copy: Snapshot) -> Snapshot {
    copy.origin.stand_in = true;
    copy
}
