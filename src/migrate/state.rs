//! How far a run has come, in a file, so that a run that was killed goes on where it stopped.
//!
//! Owns the steps of a collection, what may follow what, and the file. Invariants: the file is
//! replaced as a whole, so that whoever reads it sees one state that was; a step is written down
//! before it is begun, a page only after the target has acknowledged it. So a run that goes on
//! repeats at most what it had begun, by the same ids, which leaves nothing out and nothing twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::id::PointId;
use super::ranges::Range;

const SCHEMA: &str = "tailhop/migrate/v";
/// Counts up when what is written here changes its meaning.
const VERSION: u32 = 1;

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    schema: String,
    from: String,
    to: String,
    collections: BTreeMap<String, Collection>,
}

/// How far one collection is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collection {
    /// What is done now.
    pub step: Step,
    /// Its points, divided among workers.
    pub ranges: Vec<Part>,
}

/// What is done with a collection, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It is made at the target: from here on what stands there is ours.
    #[default]
    Making,
    /// Its points are copied.
    Copying,
    /// Both sides are compared, and what differs is copied again.
    Comparing,
    /// Aliases, strict mode.
    Finishing,
    /// Nothing is left to do.
    Done,
}

/// One range, and how much of it is at the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its ids.
    #[serde(flatten)]
    pub range: Range,
    /// The first id that is not known to be at the target; `None`: all from the start on.
    pub next: Option<PointId>,
    /// How many points were acknowledged.
    pub points: u64,
    /// Whether all of it is at the target.
    pub done: bool,
}

impl Part {
    /// A range of which nothing is there.
    pub fn new(range: Range) -> Self {
        Self {
            range,
            next: range.from,
            points: 0,
            done: false,
        }
    }

    /// The target acknowledged `points` more; `next` follows them, if anything does.
    pub fn came(&mut self, points: u64, next: Option<PointId>) {
        self.points += points;
        match next.filter(|next| !self.range.is_past(*next)) {
            Some(next) => self.next = Some(next),
            None => self.done = true,
        }
    }
}

impl State {
    /// A run that did nothing yet. `from` and `to` name the two sides, without any secret.
    pub fn new(from: &str, to: &str) -> Self {
        Self {
            schema: format!("{SCHEMA}{VERSION}"),
            from: from.to_owned(),
            to: to.to_owned(),
            collections: BTreeMap::new(),
        }
    }

    /// What `text` says, if it is the state of a run between these two.
    ///
    /// # Errors
    /// Text for people.
    pub fn parse(text: &str, from: &str, to: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }

        let broken = |error: serde_json::Error| format!("it cannot be read: {error}");
        let head: Head = serde_json::from_str(text).map_err(broken)?;
        let version = head.schema.strip_prefix(SCHEMA);
        match version.and_then(|version| version.parse::<u32>().ok()) {
            Some(VERSION) => {}
            Some(_) => return Err(format!("it is of another version: {}", head.schema)),
            None => return Err("it is not the state of a migration".to_owned()),
        }
        let state: Self = serde_json::from_str(text).map_err(broken)?;
        if (state.from.as_str(), state.to.as_str()) != (from, to) {
            return Err(format!(
                "it is of a run from {} to {}",
                state.from, state.to
            ));
        }
        Ok(state)
    }

    /// How far a collection is, if anything was begun.
    pub fn of(&self, collection: &str) -> Option<&Collection> {
        self.collections.get(collection)
    }

    /// The same, to be changed.
    pub fn at(&mut self, collection: &str) -> &mut Collection {
        self.collections.entry(collection.to_owned()).or_default()
    }

    /// What is done is compared once more.
    pub fn again(&mut self) {
        for collection in self.collections.values_mut() {
            if collection.step == Step::Done {
                collection.step = Step::Comparing;
            }
        }
    }
}

/// The file.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What it holds; `None`: it is not there.
    ///
    /// # Errors
    /// As reading a file fails.
    pub fn read(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(&self.0) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces it.
    ///
    /// # Errors
    /// As writing a file fails; the old one is still there then.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let mut name = self.0.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = self.0.with_file_name(name);
        let mut file = File::create(&new)?;
        serde_json::to_writer(io::BufWriter::new(&file), state)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        // The new name, too, has to outlive a power cut.
        let folder = self.0.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Removes it: the run is over.
    ///
    /// # Errors
    /// As removing a file fails; that it is not there is no failure.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: Option<u64>, until: Option<u64>) -> Part {
        let [from, until] = [from, until].map(|id| id.map(PointId::Num));
        Part::new(Range { from, until })
    }

    #[test]
    fn a_part_goes_on_behind_what_was_acknowledged_and_ends_with_its_range() {
        let id = |number| Some(PointId::Num(number));
        let mut one = part(Some(10), Some(20));
        assert_eq!((one.next, one.done), (id(10), false));
        one.came(5, id(15));
        assert_eq!((one.next, one.points, one.done), (id(15), 5, false));
        one.came(5, id(20));
        assert_eq!((one.points, one.done), (10, true));

        let mut last = part(Some(20), None);
        last.came(3, id(99));
        assert!(!last.done);
        last.came(1, None);
        assert_eq!((last.points, last.done), (4, true));
    }

    #[test]
    fn the_steps_have_their_order() {
        use Step::{Comparing, Copying, Done, Finishing, Making};
        assert!([Making, Copying, Comparing, Finishing, Done].is_sorted());
        assert_eq!(Step::default(), Making);
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_the_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::at(&folder.path().join("state.json"));
        assert_eq!(file.read().unwrap(), None);
        let mut state = State::new("http://a", "http://b");
        state.at("日本語").step = Step::Copying;
        state.at("日本語").ranges = vec![part(None, Some(7)), part(Some(7), None)];
        file.write(&State::new("x", "y")).unwrap();
        file.write(&state).unwrap();
        let text = file.read().unwrap().unwrap();
        assert_eq!(State::parse(&text, "http://a", "http://b"), Ok(state));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn a_file_of_another_run_or_version_or_that_was_cut_is_refused_with_its_reason() {
        let text = serde_json::to_string(&State::new("a", "b")).unwrap();
        let newer = text.replace("/v1", "/v2");
        for (text, from, why) in [
            (text.as_str(), "other", "it is of a run from a to b"),
            (&text[..text.len() / 2], "a", "it cannot be read"),
            ("", "a", "it cannot be read"),
            (
                "{\"schema\":\"other/v1\"}",
                "a",
                "not the state of a migration",
            ),
            (
                newer.as_str(),
                "a",
                "it is of another version: tailhop/migrate/v2",
            ),
        ] {
            let refused = State::parse(text, from, "b").unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
