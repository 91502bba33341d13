//! The keys of `routing.toml`, and the walk that holds a file against them.
//!
//! A key is accepted where it has a row in `keys` and nowhere else, with the shape that the row
//! says. [`read`] reports everything that does not fit, in one run, and yields the
//! values that do, each with its place. What values mean together is the matter of `validate`.
//! Invariant: what was reported is never also called missing.

mod keys;
mod meant;
mod secrets;
mod syntax;
mod walk;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::de::DeTable;

use super::codes;
use super::env::Environment;
use super::moment::Moment;
use super::problem::Problems;
use super::whole::Whole;
pub(super) use keys::{IF_NOT_READY, ROOT};
pub(super) use secrets::KEPT;
use walk::Walk;

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) shape: Shape,
    /// What holds without it, as it would be written, or in words; `None`: it is required.
    pub(super) default: Option<&'static str>,
    /// What it is for, in one line.
    pub(super) about: &'static str,
    /// The variable of the environment that does the same, and beats the file.
    pub(super) variable: Option<&'static str>,
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
    /// A number of things, at least one.
    Count,
    /// The same, of things that there may be millions of.
    Many,
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
    Many(u64),
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

    /// Where `key = value` stands, if it is written there.
    pub(super) fn entry(&self, key: &str) -> Option<Range<usize>> {
        let (name, value) = self.entries.iter().find(|(name, _)| name.value == key)?;
        Some(name.span.start..value.span.end)
    }

    /// Where the last of what is written in it ends.
    pub(super) fn end(&self) -> usize {
        let ends = self.entries.iter().map(|(_, value)| value.end());
        ends.chain([self.span.end]).max().unwrap_or_default()
    }

    /// Where the value of `key` stands; if it is not there, the table.
    pub(super) fn span_of(&self, key: &str) -> &Range<usize> {
        self.value(key).map_or(&self.span, |value| &value.span)
    }

    /// This table over `base`: what both have is as it is here, and so within tables of theirs.
    fn over(self, base: Self) -> Self {
        let mut entries = base.entries;
        for (name, mut value) in self.entries {
            let before = entries
                .iter_mut()
                .find(|(other, _)| other.value == name.value);
            let Some(slot) = before else {
                entries.push((name, value));
                continue;
            };
            let old = std::mem::replace(&mut slot.1.value, Value::Broken);
            value.value = match (value.value, old) {
                (Value::Table(inner), Value::Table(base)) => Value::Table(inner.over(base)),
                (own, _) => own,
            };
            *slot = (name, value);
        }
        let span = self.span;
        Self { span, entries }
    }

    /// Takes out `key`.
    fn take(&mut self, key: &str) -> Option<At<Value>> {
        let place = self
            .entries
            .iter()
            .position(|(name, _)| name.value == key)?;
        Some(self.entries.remove(place).1)
    }

    fn value_mut(&mut self, key: &str) -> Option<&mut Value> {
        let mut entries = self.entries.iter_mut();
        let (_, value) = entries.find(|(name, _)| name.value == key)?;
        Some(&mut value.value)
    }

    fn value(&self, key: &str) -> Option<&At<Value>> {
        self.entries
            .iter()
            .find(|(name, _)| name.value == key)
            .map(|(_, value)| value)
    }
}

impl At<Value> {
    /// Where it ends, with all that is under headers of its own.
    fn end(&self) -> usize {
        let inner = match &self.value {
            Value::Table(table) => table.end(),
            Value::Tables(tables) => tables.iter().map(Table::end).max().unwrap_or_default(),
            _ => 0,
        };
        self.span.end.max(inner)
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
    Many(inner) as u64 = *inner;
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

/// The tables of all files, without what does not fit, which is reported.
pub(super) fn read(whole: &Whole, env: &Environment, problems: &mut Problems<'_>) -> Table {
    let mut all = Table::default();
    for part in whole.parts() {
        let text = whole.padded(part);
        let (tree, errors) = DeTable::parse_recoverable(&text);
        let wreck = syntax::report(&errors, tree.get_ref(), &text, problems);
        let start = part.span.start..part.span.start;
        let mut table = Walk::new(env, &text, wreck, problems).root(tree.get_ref(), start);
        if !whole.is_root(part) {
            no_orders(&mut table, problems);
        }
        all = table.over(all);
    }
    all
}

/// Orders stand in the file that `tailhop pin` edits, and in no other.
fn no_orders(table: &mut Table, problems: &mut Problems<'_>) {
    let mut refuse = |what: &str, span: &Range<usize>| {
        let message = format!("{what} is an order, and this file is included");
        problems
            .at(codes::ORDER_ELSEWHERE, span, message)
            .help("move it to the file that includes all others");
    };
    if let Some(pin) = table.take("pin") {
        refuse("pin", &pin.span);
    }
    let Some(Value::Table(backends)) = table.value_mut("backends") else {
        return;
    };
    for (name, backend) in &mut backends.entries {
        if let Value::Table(backend) = &mut backend.value
            && let Some(drain) = backend.take("drain")
        {
            refuse(&format!("backends.{}.drain", name.value), &drain.span);
        }
    }
}
