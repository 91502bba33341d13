//! How far a run is, for whoever watches it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::pace::line;

/// What is done now and how far it is. Shared by all who work on it.
#[derive(Debug)]
pub struct Progress(Mutex<Now>);

#[derive(Debug)]
struct Now {
    what: String,
    done: u64,
    /// How much of `done` was there before.
    before: u64,
    all: u64,
    began: Instant,
    note: Option<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Now {
            what: String::new(),
            done: 0,
            before: 0,
            all: 0,
            began: Instant::now(),
            note: None,
        }))
    }
}

impl Progress {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something with `all` points begins, of which `before` are there.
    pub fn begin(&self, what: &str, before: u64, all: u64) {
        *self.now() = Now {
            what: what.to_owned(),
            done: before,
            before,
            all,
            began: Instant::now(),
            note: None,
        };
    }

    /// So many points more are done.
    pub fn add(&self, points: usize) {
        let mut now = self.now();
        now.done += points as u64;
        now.note = None;
    }

    /// What is waited for, until something is done again.
    pub fn note(&self, text: String) {
        self.now().note = Some(text);
    }

    /// What to show; `None`: nothing has begun.
    pub fn line(&self) -> Option<String> {
        let now = self.now();
        if now.what.is_empty() {
            return None;
        }
        let came = now.done - now.before;
        let line = line(&now.what, now.done, now.all, now.began.elapsed(), came);
        Some(match &now.note {
            Some(note) => format!("{line}; {note}"),
            None => line,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_of_this_run_and_a_note_stays_until_something_is_done() {
        let progress = Progress::default();
        assert_eq!(progress.line(), None);
        progress.begin("copying c", 50, 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        progress.note("b does not answer".to_owned());
        let line = progress.line().unwrap();
        assert_eq!(line, "copying c: 50 of 100 (50 %), 0/s; b does not answer");
        progress.add(10);
        let line = progress.line().unwrap();
        assert_eq!(line, "copying c: 60 of 100 (60 %), 10/s, 4s left");
    }
}
