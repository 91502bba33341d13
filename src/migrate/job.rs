//! What all workers on one collection share: both sides, and what was written down.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::id::PointId;
use super::progress::Progress;
use super::site::{Site, Stop};
use super::state::{Collection, State, StateFile};

/// How often pages are written down at most: a run that goes on may repeat what came since.
const BETWEEN: Duration = Duration::from_millis(500);

/// One collection on its way.
#[derive(Clone, Debug)]
pub struct Job {
    /// Where it comes from. Nothing is ever changed there.
    pub source: Arc<Site>,
    /// Where it goes.
    pub target: Arc<Site>,
    /// Its name.
    pub collection: Arc<str>,
    /// How far it is, for whoever watches.
    pub progress: Arc<Progress>,
    /// How far it is, for a run that goes on.
    pub record: Arc<Record>,
}

/// The state and its file.
#[derive(Debug)]
pub struct Record {
    file: StateFile,
    state: Mutex<(State, Instant)>,
}

impl Record {
    /// A record of `state` in `file`.
    pub fn new(file: StateFile, state: State) -> Self {
        Self {
            file,
            state: Mutex::new((state, Instant::now())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// How far a collection is.
    pub fn of(&self, collection: &str) -> Option<Collection> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.of(collection).cloned()
    }

    /// Changes how far a collection is, and writes that down before anything else is done.
    pub fn change(
        &self,
        collection: &str,
        change: impl FnOnce(&mut Collection),
    ) -> Result<(), Stop> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(state.0.at(collection));
        self.write(&mut state)
    }

    /// All that is done is compared once more by the run that follows.
    pub fn again(&self) -> Result<(), Stop> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.again();
        self.write(&mut state)
    }

    /// Points of a part were acknowledged. That is written down now or soon.
    pub fn came(
        &self,
        collection: &str,
        part: usize,
        points: usize,
        next: Option<PointId>,
    ) -> Result<(), Stop> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = state.0.at(collection).ranges.get_mut(part) {
            part.came(points as u64, next);
        }
        if state.1.elapsed() < BETWEEN {
            return Ok(());
        }
        self.write(&mut state)
    }

    /// Writes down all there is.
    pub fn flush(&self) -> Result<(), Stop> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut state)
    }

    /// The run is over.
    pub fn remove(&self) -> Result<(), Stop> {
        self.file.remove().map_err(|error| self.failed(&error))
    }

    fn write(&self, state: &mut (State, Instant)) -> Result<(), Stop> {
        self.file
            .write(&state.0)
            .map_err(|error| self.failed(&error))?;
        state.1 = Instant::now();
        Ok(())
    }

    fn failed(&self, error: &std::io::Error) -> Stop {
        Stop::Failed(format!("the state file {}: {error}", self.path().display()))
    }
}
