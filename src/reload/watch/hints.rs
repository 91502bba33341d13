//! File events, boiled down to what matters of them for each file.
//!
//! Owns the system's watches. When the directories to watch change, a new set is made and the old
//! one dropped whole, so that none is left behind. Without watches (their number is limited)
//! nothing is lost but speed: the poll goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::chain::Chain;

const LOOK: u8 = 1;
const WHOLE: u8 = 2;
const WRITING: u8 = 4;
const REARM: u8 = 8;

/// What events said of one file since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// It may have changed.
    pub(super) look: bool,
    /// `Some(true)`: the last that was seen of its writer is that it was done; `Some(false)`: that
    /// it was writing.
    pub(super) whole: Option<bool>,
    /// A watched directory was moved or removed, and its watch with it.
    pub(super) rearm: bool,
}

/// The watches.
#[derive(Debug)]
pub(super) struct Hints {
    shared: Arc<Shared>,
    armed: Vec<Chain>,
    watcher: Option<RecommendedWatcher>,
    warned: bool,
}

#[derive(Debug)]
struct Shared {
    wake: Notify,
    /// One for each file.
    flags: Vec<AtomicU8>,
}

/// Which files a path in an event concerns.
#[derive(Debug)]
struct Relevant {
    entries: BTreeMap<PathBuf, Vec<usize>>,
    dirs: BTreeMap<PathBuf, Vec<usize>>,
}

impl Hints {
    pub(super) fn new(files: usize) -> Self {
        let flags = (0..files).map(|_| AtomicU8::new(0)).collect();
        let shared = Shared {
            wake: Notify::new(),
            flags,
        };
        Self {
            shared: Arc::new(shared),
            armed: Vec::new(),
            watcher: None,
            warned: false,
        }
    }

    /// Returns when there is news of any file.
    pub(super) async fn any(&self) {
        loop {
            let woken = self.shared.wake.notified();
            if self
                .shared
                .flags
                .iter()
                .any(|flags| flags.load(Ordering::Acquire) != 0)
            {
                return;
            }
            woken.await;
        }
    }

    /// The news of a file, once.
    pub(super) fn take(&self, index: usize) -> News {
        let flags = self.shared.flags[index].swap(0, Ordering::AcqRel);
        News {
            look: flags != 0,
            whole: match flags & (WHOLE | WRITING) {
                0 => None,
                bits => Some(bits == WHOLE),
            },
            rearm: flags & REARM != 0,
        }
    }

    /// Watches these ways; nothing happens when they are watched already, unless `anew`.
    pub(super) fn arm<'c>(&mut self, chains: impl Iterator<Item = &'c Chain>, anew: bool) {
        let chains: Vec<Chain> = chains.cloned().collect();
        if chains == self.armed && !anew && self.watcher.is_some() {
            return;
        }
        match watch(&chains, &self.shared) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => self.warn(&error),
        }
        self.armed = chains;
    }

    /// Once: a full table of watches stays full.
    fn warn(&mut self, error: &notify::Error) {
        self.watcher = None;
        if !self.warned {
            tracing::warn!(%error, "no file events: changes are noticed by polling alone");
            self.warned = true;
        }
    }
}

fn watch(chains: &[Chain], shared: &Arc<Shared>) -> notify::Result<RecommendedWatcher> {
    let relevant = Relevant::of(chains);
    let dirs: BTreeSet<PathBuf> = relevant.dirs.keys().cloned().collect();
    let shared = Arc::clone(shared);
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => relevant.note(&event, &shared),
            // The queue cannot be read: look at everything.
            Err(_) => shared.raise(0..shared.flags.len(), LOOK, 0),
        })?;
    for dir in &dirs {
        match watcher.watch(dir, RecursiveMode::NonRecursive) {
            // It went since the way was walked: the poll will see what became of it.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            other => other?,
        }
    }
    Ok(watcher)
}

impl Relevant {
    fn of(chains: &[Chain]) -> Self {
        let mut entries: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
        let mut dirs: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
        for (index, chain) in chains.iter().enumerate() {
            for entry in &chain.entries {
                entries.entry(entry.clone()).or_default().push(index);
            }
            for (dir, _, _) in &chain.dirs {
                dirs.entry(dir.clone()).or_default().push(index);
            }
        }
        Self { entries, dirs }
    }

    fn note(&self, event: &Event, shared: &Shared) {
        if event.need_rescan() {
            return shared.raise(0..shared.flags.len(), LOOK, 0);
        }
        let Some((set, clear)) = meaning(event.kind) else {
            return;
        };
        for path in &event.paths {
            if let Some(files) = self.entries.get(path) {
                shared.raise(files.iter().copied(), set, clear);
            }
            if let Some(files) = self.gone(path, event.kind) {
                shared.raise(files.iter().copied(), LOOK | REARM, 0);
            }
        }
    }

    /// The files whose watched directory was moved or removed.
    fn gone(&self, path: &Path, kind: EventKind) -> Option<&Vec<usize>> {
        let gone = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
        );
        self.dirs.get(path).filter(|_| gone)
    }
}

impl Shared {
    fn raise(&self, files: impl IntoIterator<Item = usize>, set: u8, clear: u8) {
        for index in files {
            let change = |flags: u8| Some(flags & !clear | set);
            // The closure always yields a value, so this cannot fail.
            let _ = self.flags[index].fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
        self.wake.notify_one();
    }
}

/// The flags that an event sets and clears; `None` for what changes nothing, such as our own reads.
fn meaning(kind: EventKind) -> Option<(u8, u8)> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
            Some((LOOK | WHOLE, WRITING))
        }
        EventKind::Access(_) => None,
        // A version that was replaced is often cleaned away: that says nothing of the new one.
        EventKind::Modify(ModifyKind::Metadata(_) | ModifyKind::Name(RenameMode::From))
        | EventKind::Remove(_) => Some((LOOK, 0)),
        _ => Some((LOOK | WRITING, WHOLE)),
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, MetadataKind};

    use super::*;

    #[test]
    fn our_own_reads_are_no_news_and_the_last_word_of_a_writer_counts() {
        let file = PathBuf::from("/etc/tailhop/routing.toml");
        let chain = Chain {
            dirs: BTreeSet::from([(PathBuf::from("/etc/tailhop"), 1, 1)]),
            entries: BTreeSet::from([file.clone()]),
        };
        let relevant = Relevant::of(&[chain]);
        let hints = Hints::new(1);
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let touch = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        let create = EventKind::Create(CreateKind::File);
        for (kinds, look, whole) in [
            (vec![open], false, None),
            (vec![touch], true, None),
            (vec![create, write], true, Some(false)),
            (vec![create, write, close], true, Some(true)),
            (vec![write, close, write], true, Some(false)),
        ] {
            for kind in &kinds {
                relevant.note(&Event::new(*kind).add_path(file.clone()), &hints.shared);
            }
            let rearm = false;
            assert_eq!(hints.take(0), News { look, whole, rearm }, "{kinds:?}");
        }
        relevant.note(
            &Event::new(close).add_path("/etc/tailhop/other".into()),
            &hints.shared,
        );
        assert_eq!(hints.take(0), News::default());
    }
}
