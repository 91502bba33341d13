//! Orders: pins and drains, as changes of `routing.toml` itself.
//!
//! So there is one truth: an order survives restarts, and every instance that mounts the file
//! follows it. The command line and the admin listener call the same functions. Invariants: a file
//! that is invalid is not edited, and none becomes invalid by an edit; an edit changes the orders
//! and nothing else; who decided on what they read is refused when the file says something else by
//! then.

mod edit;
mod write;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::config::{self, Environment, Report, Snapshot, Source, load, read};
use crate::plan::orders as named;
use crate::reload::watch::is_network;
use edit::{Scene, edit};
use write::Unwritten;

/// Longest reason, in characters: it stands in a log line and on a page.
const REASON_MAX: usize = 200;

/// What is to hold from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A backend is active, whatever the schedule says.
    Pin {
        /// The backend.
        to: String,
        /// Until then; `None` only with `writes`.
        until: Option<Timestamp>,
        /// Why.
        reason: String,
        /// For these services; `None`: all.
        services: Option<Vec<String>>,
        /// Whether writes move, too.
        writes: bool,
        /// Whether writes of data services wait as long as it holds.
        hold_writes: bool,
    },
    /// No pin holds.
    Unpin {
        /// For these services; `None`: all.
        services: Option<Vec<String>>,
    },
    /// No new work goes to a backend.
    Drain {
        /// The backend.
        backend: String,
        /// Until then; `None`: until somebody takes it back.
        until: Option<Timestamp>,
        /// Why.
        reason: Option<String>,
    },
    /// Work goes to a backend again.
    Undrain {
        /// The backend.
        backend: String,
    },
}

/// Who gives an order, where and when.
pub struct Giver<'a> {
    /// The file: the first `--config`.
    pub path: &'a Path,
    /// What is laid over it.
    pub environment: &'a Environment,
    /// Their name.
    pub by: &'a str,
    /// Now.
    pub now: Timestamp,
    /// The beginning of the hash of the file that they saw; `None`: they look now.
    pub base: Option<&'a str>,
}

/// An order that can be carried out, as things were when it was prepared.
#[derive(Debug)]
pub struct Prepared {
    /// The file itself, behind all links.
    file: PathBuf,
    before: Source,
    was: Snapshot,
    /// What the file will say.
    pub text: String,
    /// What will hold.
    pub becomes: Snapshot,
    /// What is different then, in words.
    pub changes: Vec<String>,
    /// What whoever gives it should know.
    pub notes: Vec<String>,
}

/// An order that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to do; empty: nothing is known.
    pub help: String,
}

/// Why an order was not carried out.
#[derive(Debug)]
pub enum Refused {
    /// It makes no sense.
    Wrong(Wrong),
    /// The file is invalid, or would be.
    Invalid(Box<Report>),
    /// The file is not the one that was decided on.
    Stale {
        /// What was changed meanwhile, in words; empty: not known.
        did: Vec<String>,
    },
    /// The file cannot be written here.
    ReadOnly {
        /// Why.
        why: String,
        /// The change, as lines with `-` and `+`.
        edit: String,
    },
    /// Writing failed.
    Failed(String),
}

impl Wrong {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        let (message, help) = (message.into(), help.into());
        Self { message, help }
    }
}

/// Makes the change of the file that `order` asks for; nothing is written.
///
/// # Errors
/// Why it cannot be.
pub fn prepare(order: &Order, giver: &Giver<'_>) -> Result<Prepared, Refused> {
    let invalid = |report| Refused::Invalid(Box::new(report));
    let before = read(giver.path).map_err(invalid)?;
    let was = load(&before, giver.environment);
    let hash = was.as_ref().map_or(before.hash(), |was| &was.origin.hash);
    if giver.base.is_some_and(|base| !is_of(base, hash)) {
        return Err(Refused::Stale { did: Vec::new() });
    }
    let was = was.map_err(invalid)?;
    let file = std::fs::canonicalize(giver.path)
        .map_err(|error| Refused::Failed(format!("{}: {error}", giver.path.display())))?;
    sensible(order, giver, &was, &file).map_err(Refused::Wrong)?;
    let services: Vec<_> = (was.services.iter())
        .map(|service| service.name.to_string())
        .collect();
    let scene = Scene {
        services: &services,
        zone: &was.schedule.zone,
        by: giver.by,
    };
    let text = edit(before.text(), order, &scene).map_err(Refused::Wrong)?;
    let source = Source::new(giver.path, text.clone());
    let becomes = load(&source, giver.environment).map_err(invalid)?;
    let changes = config::changes(&was, &becomes);
    only_orders(&was, &becomes).map_err(Refused::Wrong)?;
    if changes.is_empty() {
        return Err(Refused::Wrong(Wrong::new("that is so already", "")));
    }
    let notes = notes(order, &was, &becomes, giver.now);
    Ok(Prepared {
        file,
        before,
        was,
        text,
        becomes,
        changes,
        notes,
    })
}

/// Whether `base` begins a hash; one too short could begin any.
fn is_of(base: &str, hash: &str) -> bool {
    base.len() >= 8 && hash.starts_with(base)
}

/// What needs no edit to be seen wrong.
fn sensible(order: &Order, giver: &Giver<'_>, was: &Snapshot, file: &Path) -> Result<(), Wrong> {
    let (named, until, reason) = match order {
        Order::Pin {
            to, until, reason, ..
        } => (Some(to), *until, Some(reason)),
        Order::Drain {
            backend,
            until,
            reason,
        } => (Some(backend), *until, reason.as_ref()),
        Order::Undrain { backend } => (Some(backend), None, None),
        Order::Unpin { .. } => (None, None, None),
    };
    let known = |name: &&String| was.backends.iter().any(|one| one.name.as_str() == **name);
    if let Some(name) = named.filter(|name| !known(name)) {
        let all: Vec<_> = (was.backends.iter())
            .map(|backend| backend.name.as_str())
            .collect();
        let help = format!("there are {}", all.join(", "));
        return Err(Wrong::new(format!("there is no backend {name:?}"), help));
    }
    if until.is_some_and(|until| until <= giver.now) {
        return Err(Wrong::new("its end has passed", "name a time to come"));
    }
    let odd = |text: &String| {
        text.chars().count() > REASON_MAX
            || text.trim().is_empty()
            || text.contains(char::is_control)
    };
    if reason.is_some_and(odd) {
        let help = format!("write one line of at most {REASON_MAX} characters");
        return Err(Wrong::new("this is no reason", help));
    }
    pin_of_writes(order, file)
}

fn pin_of_writes(order: &Order, file: &Path) -> Result<(), Wrong> {
    let Order::Pin { until, writes, .. } = order else {
        return Ok(());
    };
    match (writes, until) {
        (true, Some(_)) => Err(Wrong::new(
            "a pin of writes cannot expire",
            "who owns the writes never changes by a clock running out: leave its end out",
        )),
        (false, None) => Err(Wrong::new(
            "a pin needs an end",
            "say for how long, as in 2h",
        )),
        (true, None) if is_network(file) => Err(Wrong::new(
            "writes are not moved by a file on a network file system",
            "instances would see the edit up to a minute apart, and write to both Macs meanwhile: \
             set ACTIVE_BACKEND, which starts new instances",
        )),
        _ => Ok(()),
    }
}

/// An edit that changed more than orders would be a mistake of ours.
fn only_orders(was: &Snapshot, becomes: &Snapshot) -> Result<(), Wrong> {
    let without = |snapshot: &Snapshot| {
        let mut snapshot = snapshot.clone();
        snapshot.pins.clear();
        for backend in &mut snapshot.backends {
            backend.drain = None;
        }
        snapshot
    };
    match config::changes(&without(was), &without(becomes)).first() {
        Some(line) => Err(Wrong::new(
            format!("the edit would also change this: {line}"),
            "edit the file by hand",
        )),
        None => Ok(()),
    }
}

fn notes(order: &Order, was: &Snapshot, becomes: &Snapshot, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Order::Pin { .. }, Some(id)) = (order, becomes.active_backend) {
        notes.push(format!(
            "ACTIVE_BACKEND={} beats every pin: this one does nothing until it is unset",
            becomes.backend(id).name
        ));
    }
    for service in was.service_ids() {
        let replaced = named::pin(was, service, now);
        if let (Order::Pin { .. }, Some(pin)) = (order, replaced) {
            let by = pin.by.as_deref().unwrap_or("somebody");
            let note = format!("replaces the pin to {} by {by}", was.backend(pin.to).name);
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    for warning in &becomes.warnings {
        if !was
            .warnings
            .iter()
            .any(|old| old.message == warning.message)
        {
            notes.push(warning.message.clone());
        }
    }
    notes
}

impl Prepared {
    /// Writes it.
    ///
    /// # Errors
    /// Why it was not written; then nothing was.
    pub fn commit(self, environment: &Environment) -> Result<Self, Refused> {
        let lock = write::lock(&self.file).map_err(|why| self.unwritten(why))?;
        let now = read(self.before.path()).ok();
        if now.as_ref().map(Source::hash) != Some(self.before.hash()) {
            let now = now.and_then(|source| load(&source, environment).ok());
            let did = now.map(|now| config::changes(&self.was, &now));
            let did = did.unwrap_or_else(|| vec!["the file is invalid now".to_owned()]);
            return Err(Refused::Stale { did });
        }
        write::write(&self.file, &self.text).map_err(|why| self.unwritten(why))?;
        drop(lock);
        Ok(self)
    }

    fn unwritten(&self, why: Unwritten) -> Refused {
        let path = self.file.display();
        match why {
            Unwritten::Busy => Refused::Stale {
                did: vec!["somebody else is changing it at this moment".to_owned()],
            },
            Unwritten::ReadOnly(error) => Refused::ReadOnly {
                why: format!("{path}: {error}"),
                edit: difference(self.before.text(), &self.text),
            },
            Unwritten::Failed(error) => Refused::Failed(format!("{path}: {error}")),
        }
    }

    /// The hash of the file that it makes.
    pub fn hash(&self) -> &str {
        &self.becomes.origin.hash
    }
}

/// The lines that differ: what both texts begin and end with is left out.
fn difference(before: &str, after: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let same = |(one, other): &(&&str, &&str)| one == other;
    let head = old.iter().zip(&new).take_while(same).count();
    let (old, new) = (&old[head..], &new[head..]);
    let pairs = old.iter().rev().zip(new.iter().rev());
    let tail = pairs.take_while(same).count();
    let gone = old[..old.len() - tail]
        .iter()
        .map(|line| format!("-{line}\n"));
    let come = new[..new.len() - tail]
        .iter()
        .map(|line| format!("+{line}\n"));
    format!("@@ line {} @@\n", head + 1) + &gone.chain(come).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[backends]\nm1 = {} # first\nm2 = {}\n\n[services]\nollama = {}\nqdrant = {}\n\n[schedule]\ndefault = \"m1\" # by day\n";

    struct Desk(tempfile::TempDir);

    impl Desk {
        fn with(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("routing.toml"), text).unwrap();
            Self(dir)
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("routing.toml")
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.path()).unwrap()
        }

        fn prepare(
            &self,
            by: &str,
            base: Option<&str>,
            order: &Order,
        ) -> Result<Prepared, Refused> {
            let giver = Giver {
                path: &self.path(),
                environment: &Environment::default(),
                by,
                now: "2025-02-16T00:00:00Z".parse().unwrap(),
                base,
            };
            prepare(order, &giver)
        }
    }

    fn pin(to: &str) -> Order {
        Order::Pin {
            to: to.into(),
            until: Some("2025-02-16T02:00:00Z".parse().unwrap()),
            reason: "upgrade".into(),
            services: None,
            writes: false,
            hold_writes: false,
        }
    }

    fn undone(refused: Refused) -> String {
        match refused {
            Refused::Wrong(wrong) => wrong.message,
            Refused::Invalid(report) => report.problems[0].code.to_owned(),
            Refused::Stale { did } => format!("stale: {}", did.join("; ")),
            Refused::ReadOnly { edit, .. } => edit,
            Refused::Failed(why) => why,
        }
    }

    #[test]
    fn of_two_people_at_once_the_second_is_told_what_the_first_did() {
        let desk = Desk::with(FILE);
        let first = desk.prepare("ann", None, &pin("m2")).unwrap();
        let second = desk.prepare("ben", None, &pin("m1")).unwrap();
        let seen = Source::new("x", FILE).hash()[..8].to_owned();
        let first = first.commit(&Environment::default()).unwrap();
        assert_eq!(
            first.changes,
            ["a new pin to m2 until 16 February 2025, 02:00 +00:00, by \"ann\" (\"upgrade\")"]
        );
        let refused = undone(second.commit(&Environment::default()).unwrap_err());
        assert_eq!(refused, format!("stale: {}", first.changes[0]));
        let late = desk.prepare("ben", Some(&seen), &pin("m1")).unwrap_err();
        assert_eq!(undone(late), "stale: ");
        assert!(desk.text().starts_with(FILE), "{}", desk.text());
        let now = first.hash()[..8].to_owned();
        let third = desk.prepare("ben", Some(&now), &pin("m1")).unwrap();
        assert_eq!(third.notes, ["replaces the pin to m2 by ann"]);
    }

    /// A pin with another value in it.
    fn pin_with(change: impl FnOnce(&mut PinFields)) -> Order {
        let mut fields = PinFields {
            until: Some("2025-02-16T02:00:00Z".parse().unwrap()),
            reason: "upgrade".into(),
            services: None,
            writes: false,
        };
        change(&mut fields);
        Order::Pin {
            to: "m2".into(),
            until: fields.until,
            reason: fields.reason,
            services: fields.services,
            writes: fields.writes,
            hold_writes: false,
        }
    }

    struct PinFields {
        until: Option<Timestamp>,
        reason: String,
        services: Option<Vec<String>>,
        writes: bool,
    }

    #[test]
    fn an_order_that_makes_no_sense_is_refused_and_nothing_is_written() {
        let past = pin_with(|pin| pin.until = Some(Timestamp::UNIX_EPOCH));
        let stranger = pin_with(|pin| pin.services = Some(vec!["nosuch".into()]));
        let rows = [
            (FILE, pin("m3"), "there is no backend \"m3\""),
            (FILE, past, "its end has passed"),
            (
                FILE,
                pin_with(|pin| pin.writes = true),
                "a pin of writes cannot expire",
            ),
            (FILE, pin_with(|pin| pin.until = None), "a pin needs an end"),
            (
                FILE,
                pin_with(|pin| pin.reason = "a\nb".into()),
                "this is no reason",
            ),
            (
                FILE,
                pin_with(|pin| pin.reason = " ".into()),
                "this is no reason",
            ),
            (FILE, stranger, "E016"),
            (FILE, Order::Unpin { services: None }, "no pin is there"),
            ("[backends\n", pin("m2"), "E010"),
            ("[backends]\nm1 = {}\n", pin("m1"), "E013"),
        ];
        for (text, order, why) in rows {
            let desk = Desk::with(text);
            let refused = undone(desk.prepare("ann", None, &order).unwrap_err());
            assert_eq!(refused, why, "{order:?}");
            assert_eq!(desk.text(), text);
        }
    }

    #[test]
    fn an_order_goes_through_links_and_its_words_are_data() {
        let desk = Desk::with(FILE);
        let link = desk.0.path().join("link.toml");
        std::os::unix::fs::symlink("routing.toml", &link).unwrap();
        let order = Order::Drain {
            backend: "m1".into(),
            until: None,
            reason: Some("\"} x = ${HOME} 日本".into()),
        };
        let giver = Giver {
            path: &link,
            environment: &Environment::default(),
            by: "a\\b",
            now: Timestamp::UNIX_EPOCH,
            base: None,
        };
        let done = prepare(&order, &giver).unwrap();
        let done = done.commit(&Environment::default()).unwrap();
        let drain = done.becomes.backends[0].drain.clone().unwrap();
        assert_eq!(drain.reason.as_deref(), Some("\"} x = ${HOME} 日本"));
        assert_eq!(drain.by.as_deref(), Some("a\\b"));
        assert!(link.is_symlink());
        assert!(desk.text().contains("m1 = { drain = "), "{}", desk.text());
        assert!(desk.text().contains("# first"), "{}", desk.text());
    }

    #[test]
    fn an_order_of_what_is_included_stands_in_the_file_itself_and_knows_of_both() {
        let desk = Desk::with("include = [\"more.toml\"]\nservices.ollama = {}\n");
        let more = desk.0.path().join("more.toml");
        std::fs::write(
            &more,
            "backends = { m1 = {}, m2 = {} }\nschedule.default = \"m1\"\n",
        )
        .unwrap();
        let done = desk.prepare("ann", None, &pin("m2")).unwrap();
        let seen = done.was.origin.hash[..8].to_owned();
        done.commit(&Environment::default()).unwrap();
        let late = desk.prepare("ben", Some(&seen), &pin("m1")).unwrap_err();
        assert_eq!(undone(late), "stale: ");
        let drain = Order::Drain {
            backend: "m1".into(),
            until: None,
            reason: None,
        };
        let done = desk.prepare("ann", None, &drain).unwrap();
        let seen = done.becomes.origin.hash[..8].to_owned();
        let done = done.commit(&Environment::default()).unwrap();
        assert!(done.becomes.backends[0].drain.is_some(), "{}", desk.text());
        // What is included is part of what was seen.
        std::fs::write(
            &more,
            "backends = { m1 = {}, m2 = {} }\nschedule.default = \"m2\"\n",
        )
        .unwrap();
        let late = desk.prepare("ben", Some(&seen), &pin("m1")).unwrap_err();
        assert_eq!(undone(late), "stale: ");
    }

    #[test]
    fn a_difference_shows_what_to_edit() {
        assert_eq!(
            difference("a\nb\nc\n", "a\nB\nc\n"),
            "@@ line 2 @@\n-b\n+B\n"
        );
        assert_eq!(difference("a\n", "a\n\nb\n"), "@@ line 2 @@\n+\n+b\n");
    }
}
