//! The keys of `routing.toml`, and the walk that holds a file against them.
//!
//! Owns the table of keys: a key is accepted where it has a row and nowhere else, with the shape
//! that the row says. [`read`] reports everything that does not fit, in one run, and yields the
//! values that do, each with its place. What values mean together is the matter of `validate`.
//! Invariant: what was reported is never also called missing.

mod secrets;
mod syntax;
mod walk;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeTable;

use super::env::Environment;
use super::moment::Moment;
use super::problem::Problems;
use super::snapshot::{DialWay, Fallback, Network, Scope};
use super::source::Source;
use crate::words::effect::Effect;
use crate::words::names::Kind;
use walk::Walk;

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) shape: Shape,
    required: bool,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Any string.
    Text,
    /// One of these strings.
    Word(fn() -> Vec<&'static str>),
    /// `true` or `false`.
    Flag,
    /// A port that can be dialled.
    Port,
    /// An IP address and a port.
    Address,
    /// A duration with its unit.
    Duration,
    /// The same, or `"none"`.
    Bound,
    /// A date or a time.
    Moment,
    /// A list of strings.
    Texts,
    /// Where a secret is to be read: `{ env = ".." }` or `{ file = ".." }`, never the secret.
    Secret,
    /// A table whose keys are header names and whose values are secrets.
    Secrets,
    /// A table with these keys.
    Table(&'static [Row]),
    /// A table whose keys are names that people chose, and whose values have these keys.
    Named(&'static [Row]),
    /// A list of tables with these keys.
    Tables(&'static [Row]),
}

const fn row(key: &'static str, shape: Shape) -> Row {
    Row {
        key,
        shape,
        required: false,
    }
}

const fn need(key: &'static str, shape: Shape) -> Row {
    Row {
        key,
        shape,
        required: true,
    }
}

/// Every key that is accepted.
pub(super) const ROOT: &[Row] = &[
    row(
        "listen",
        Shape::Table(&[
            row("data", Shape::Address),
            row("admin", Shape::Address),
            row("token", Shape::Secret),
        ]),
    ),
    row(
        "admin",
        Shape::Table(&[
            row("tailnet", Shape::Texts),
            row("token", Shape::Secret),
            row(
                "tokens",
                Shape::Named(&[
                    need("secret", Shape::Secret),
                    row(
                        "scope",
                        Shape::Word(|| Scope::WORDS.map(|(word, _)| word).to_vec()),
                    ),
                ]),
            ),
            row("hosts", Shape::Texts),
        ]),
    ),
    row(
        "tailnet",
        Shape::Table(&[
            row("name", Shape::Text),
            row(
                "dial",
                Shape::Word(|| DialWay::WORDS.map(|(word, _)| word).to_vec()),
            ),
            row("socket", Shape::Text),
            row("proxy", Shape::Address),
            row("repair", Shape::Flag),
            row("tailscaled", Shape::Text),
            row("auth_key", Shape::Secret),
            row("client_id", Shape::Text),
            row("audience", Shape::Text),
            row("hostname", Shape::Text),
            row("tags", Shape::Texts),
            row("login_server", Shape::Text),
        ]),
    ),
    row("run", Shape::Table(&[row("stop", Shape::Duration)])),
    row(
        "backends",
        Shape::Named(&[
            row("host", Shape::Text),
            row("url", Shape::Text),
            row(
                "dial",
                Shape::Word(|| Network::WORDS.map(|(word, _)| word).to_vec()),
            ),
            row("headers", Shape::Secrets),
            row("ca", Shape::Text),
            row(
                "drain",
                Shape::Table(&[
                    row("until", Shape::Moment),
                    row("reason", Shape::Text),
                    row("by", Shape::Text),
                ]),
            ),
        ]),
    ),
    row(
        "services",
        Shape::Named(&[
            row("kind", Shape::Word(|| Kind::ALL.map(Kind::as_str).to_vec())),
            row("port", Shape::Port),
            row("listen", Shape::Address),
            row(
                "fallback",
                Shape::Word(|| Fallback::WORDS.map(|(word, _)| word).to_vec()),
            ),
            row("timeouts", Shape::Table(TIMEOUTS)),
            row("backends", Shape::Texts),
            row("effects", Shape::Tables(EFFECTS)),
        ]),
    ),
    row(
        "routes",
        Shape::Tables(&[
            need("path", Shape::Text),
            need("service", Shape::Text),
            row("strip", Shape::Flag),
            row("host", Shape::Text),
            row("upgrade", Shape::Texts),
            row("timeouts", Shape::Table(TIMEOUTS)),
            row("effects", Shape::Tables(EFFECTS)),
        ]),
    ),
    row("timeouts", Shape::Table(TIMEOUTS)),
    row(
        "schedule",
        Shape::Table(&[
            row("timezone", Shape::Text),
            row("default", Shape::Text),
            row(
                "switch",
                Shape::Tables(&[
                    need("at", Shape::Moment),
                    need("to", Shape::Text),
                    row("services", Shape::Texts),
                ]),
            ),
        ]),
    ),
    row(
        "pin",
        Shape::Tables(&[
            need("to", Shape::Text),
            row("until", Shape::Moment),
            row("reason", Shape::Text),
            row("by", Shape::Text),
            row("services", Shape::Texts),
            row("writes", Shape::Flag),
        ]),
    ),
];

const EFFECTS: &[Row] = &[
    row("methods", Shape::Texts),
    row("paths", Shape::Texts),
    need(
        "effect",
        Shape::Word(|| Effect::ALL.map(Effect::as_str).to_vec()),
    ),
];

const TIMEOUTS: &[Row] = &[
    row("race", Shape::Duration),
    row("connect", Shape::Duration),
    row("wait", Shape::Duration),
    row("start", Shape::Duration),
    row("head", Shape::Duration),
    row("idle", Shape::Duration),
    row("total", Shape::Bound),
    row("probe", Shape::Duration),
];

/// Something, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// A value that has the shape of its row.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Port(u16),
    Address(SocketAddr),
    Duration(Duration),
    Bound(Option<Duration>),
    Moment(Moment),
    Texts(Vec<At<String>>),
    Secret(Kept),
    Secrets(Vec<(At<String>, At<Kept>)>),
    Table(Table),
    Tables(Vec<Table>),
    /// It has not, and that was reported.
    Broken,
}

/// Where a secret is kept.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// In this variable of the environment.
    Env(String),
    /// In this file.
    File(String),
}

/// A table of the file, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) span: Range<usize>,
    entries: Vec<(At<String>, At<Value>)>,
}

impl Table {
    /// The value of `key` and its place, if it is there and fits.
    pub(super) fn get<'t, T: FromValue<'t>>(&'t self, key: &str) -> Option<At<T>> {
        let At { value, span } = self.value(key)?;
        Some(At {
            value: T::from_value(value)?,
            span: span.clone(),
        })
    }

    /// The table under `key`; an empty one when it is not there.
    pub(super) fn table(&self, key: &str) -> &Self {
        static NOTHING: Table = Table {
            span: 0..0,
            entries: Vec::new(),
        };
        self.get::<&Self>(key).map_or(&NOTHING, |table| table.value)
    }

    /// The tables in the list under `key`; `None` when there is no such list.
    pub(super) fn tables(&self, key: &str) -> Option<&[Self]> {
        self.get::<&[Self]>(key).map(|tables| tables.value)
    }

    /// The tables that people named, in the order of the file.
    pub(super) fn named(&self) -> impl Iterator<Item = (&At<String>, &Self)> {
        self.entries
            .iter()
            .filter_map(|(name, At { value, .. })| match value {
                Value::Table(table) => Some((name, table)),
                _ => None,
            })
    }

    /// Whether nothing is written in it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a readable table under `key` without `name` in it.
    pub(super) fn lacks(&self, key: &str, name: &str) -> bool {
        self.get::<&Self>(key)
            .is_some_and(|table| !table.value.has(name))
    }

    /// Whether `key` is written there, be its value right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Where the value of `key` stands; if it is not there, the table.
    pub(super) fn span_of(&self, key: &str) -> &Range<usize> {
        self.value(key).map_or(&self.span, |value| &value.span)
    }

    fn value(&self, key: &str) -> Option<&At<Value>> {
        self.entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, value)| value)
    }
}

/// What can be taken out of a [`Value`].
pub(super) trait FromValue<'v>: Sized {
    fn from_value(value: &'v Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($kind:ident($inner:ident) as $type:ty = $out:expr;)*) => {$(
        impl<'v> FromValue<'v> for $type {
            fn from_value(value: &'v Value) -> Option<Self> {
                match value {
                    Value::$kind($inner) => Some($out),
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    Text(inner) as &'v str = inner;
    Flag(inner) as bool = *inner;
    Port(inner) as u16 = *inner;
    Address(inner) as SocketAddr = *inner;
    Duration(inner) as Duration = *inner;
    Bound(inner) as Option<Duration> = *inner;
    Moment(inner) as Moment = *inner;
    Texts(inner) as &'v [At<String>] = inner;
    Secret(inner) as &'v Kept = inner;
    Secrets(inner) as &'v [(At<String>, At<Kept>)] = inner;
    Table(inner) as &'v Table = inner;
    Tables(inner) as &'v [Table] = inner;
}

/// The tables of the file, without what does not fit, which is reported.
pub(super) fn read(source: &Source, env: &Environment, problems: &mut Problems<'_>) -> Table {
    let (tree, errors) = DeTable::parse_recoverable(source.text());
    let wreck = syntax::report(&errors, tree.get_ref(), source.text(), problems);
    Walk::new(env, source.text(), wreck, problems).root(tree.get_ref())
}
