//! The keys of `routing.toml`, and the walk that holds a file against them.
//!
//! Owns the table of keys: a key is accepted where it has a row and nowhere else, with the shape
//! that the row says. The walk reports everything that does not fit, in one run, and yields the
//! values that do, each with its place. What values mean together is the matter of `validate`.
//! A value that was reported stays behind as [`Value::Broken`], so that nobody calls it missing.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::codes;
use super::defaults::{TIMEOUT_MAX, TIMEOUT_MIN};
use super::env::{Environment, Unexpanded};
use super::moment::Moment;
use super::problem::{Problems, list, nearest, quote, suggest};
use super::snapshot::{DialWay, Fallback};
use super::source::Source;
use crate::words::names::{Kind, NAME_MAX, is_name};
use crate::words::units::{parse_duration, show_duration};

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
        Shape::Table(&[row("data", Shape::Address), row("admin", Shape::Address)]),
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
        ]),
    ),
    row(
        "backends",
        Shape::Named(&[
            row("host", Shape::Text),
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
            row(
                "fallback",
                Shape::Word(|| Fallback::WORDS.map(|(word, _)| word).to_vec()),
            ),
            row("timeouts", Shape::Table(TIMEOUTS)),
            row("backends", Shape::Texts),
        ]),
    ),
    row(
        "routes",
        Shape::Tables(&[
            need("path", Shape::Text),
            need("service", Shape::Text),
            row("strip", Shape::Flag),
            row("host", Shape::Text),
            row("timeouts", Shape::Table(TIMEOUTS)),
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

const TIMEOUTS: &[Row] = &[
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
    Table(Table),
    Tables(Vec<Table>),
    /// It has not, and that was reported.
    Broken,
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
    Table(inner) as &'v Table = inner;
    Tables(inner) as &'v [Table] = inner;
}

/// The tables of the file, without what does not fit, which is reported.
pub(super) fn read(source: &Source, env: &Environment, problems: &mut Problems<'_>) -> Table {
    let (tree, errors) = DeTable::parse_recoverable(source.text());
    let wreck = syntax(&errors, tree.get_ref(), source.text(), problems);
    let mut walk = Walk {
        env,
        text: source.text(),
        wreck,
        problems,
    };
    walk.table(tree.get_ref(), ROOT, 0..0, "")
}

/// Reports syntax errors, one for each line, and tells from where on the tree cannot be trusted.
///
/// A bracket that is never closed swallows the rest of the file, and everything in it looks
/// wrong: then the bracket is the one thing to report.
fn syntax(
    errors: &[toml::de::Error],
    tree: &DeTable<'_>,
    text: &str,
    problems: &mut Problems<'_>,
) -> Option<usize> {
    let unclosed = ["unclosed inline table", "unclosed array,"];
    let end = errors
        .iter()
        .filter(|error| {
            unclosed
                .iter()
                .any(|words| error.message().starts_with(words))
        })
        .filter_map(|error| error.span())
        .map(|span| span.start)
        .max();
    let wreck = end.and_then(|end| opening(tree, text, end));
    let mut found: Vec<_> = errors
        .iter()
        .map(|error| {
            (
                error.span().unwrap_or(text.len()..text.len()),
                error.message(),
            )
        })
        .filter(|(span, _)| wreck.is_none_or(|wreck| span.start < wreck))
        .collect();
    found.sort_by_key(|(span, _)| span.start);
    found.dedup_by_key(|(span, _)| problems.line(span.start));
    for (span, message) in found {
        // An error that is between two characters is shown at the one that follows.
        let end = span.end.max((span.start + 1).min(text.len()));
        problems.at(
            codes::SYNTAX,
            &(span.start..end),
            format!("this is not TOML: {message}"),
        );
    }
    if let Some(at) = wreck {
        let bracket = &text[at..=at];
        problems
            .at(
                codes::SYNTAX,
                &(at..at + 1),
                format!("this is not TOML: unclosed `{bracket}`"),
            )
            .label("opened here and never closed")
            .help("close it; what comes after it was not checked");
    }
    wreck
}

/// Where the outermost bracket stands that was still open at `end`.
fn opening(table: &DeTable<'_>, text: &str, end: usize) -> Option<usize> {
    table
        .iter()
        .filter_map(|(_, value)| {
            let span = value.span();
            let bracket = span.end == end
                && text
                    .get(span.start..)
                    .is_some_and(|rest| rest.starts_with(['[', '{']));
            match value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) if bracket => Some(span.start),
                DeValue::Table(inner) => opening(inner, text, end),
                DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                    DeValue::Table(inner) => opening(inner, text, end),
                    _ => None,
                }),
                _ => None,
            }
        })
        .min()
}

/// The walk over the tree.
struct Walk<'w, 's> {
    env: &'w Environment,
    text: &'w str,
    /// From this byte on nothing is reported: see [`syntax`].
    wreck: Option<usize>,
    problems: &'w mut Problems<'s>,
}

impl Walk<'_, '_> {
    fn table(
        &mut self,
        table: &DeTable<'_>,
        rows: &'static [Row],
        span: Range<usize>,
        path: &str,
    ) -> Table {
        let mut entries = Vec::new();
        for (key, value) in self.in_order(table) {
            let name: &str = key.get_ref();
            let Some(row) = rows.iter().find(|row| row.key == name) else {
                self.unknown(key, rows, path);
                continue;
            };
            let value = self.value(value, row.shape, &join(path, name));
            entries.push((
                At {
                    value: name.to_owned(),
                    span: key.span(),
                },
                value,
            ));
        }
        let table = Table { span, entries };
        for row in rows
            .iter()
            .filter(|row| row.required && !table.has(row.key))
        {
            self.missing(row, &table.span, path);
        }
        table
    }

    /// A table whose keys are names. One that is no table stays as an empty one, so that what
    /// refers to its name is not reported too.
    fn named(
        &mut self,
        table: &DeTable<'_>,
        rows: &'static [Row],
        span: Range<usize>,
        path: &str,
    ) -> Table {
        let mut entries = Vec::new();
        for (key, value) in self.in_order(table) {
            let name: &str = key.get_ref();
            let shown = if is_name(name) {
                name.to_owned()
            } else {
                quote(name)
            };
            if !is_name(name) {
                self.no_name(name, &key.span());
            }
            let mut read = self.value(value, Shape::Table(rows), &join(path, &shown));
            if matches!(read.value, Value::Broken) {
                read.value = Value::Table(Table {
                    span: read.span.clone(),
                    ..Table::default()
                });
            }
            entries.push((
                At {
                    value: name.to_owned(),
                    span: key.span(),
                },
                read,
            ));
        }
        Table { span, entries }
    }

    /// The entries in the order of the file, up to where it can be trusted.
    fn in_order<'t, 'i>(
        &self,
        table: &'t DeTable<'i>,
    ) -> Vec<(
        &'t Spanned<toml::de::DeString<'i>>,
        &'t Spanned<DeValue<'i>>,
    )> {
        let trusted = |at: usize| self.wreck.is_none_or(|wreck| at < wreck);
        let mut entries: Vec<_> = table
            .iter()
            .filter(|(key, _)| trusted(key.span().start))
            .collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, shape: Shape, path: &str) -> At<Value> {
        let span = value.span();
        // A bracket that was never closed has everything in it.
        if self.wreck.is_some_and(|wreck| span.start >= wreck) {
            return At {
                value: Value::Broken,
                span,
            };
        }
        let read = match (shape, value.get_ref()) {
            (Shape::Table(rows), DeValue::Table(table)) => {
                Some(Value::Table(self.table(table, rows, span.clone(), path)))
            }
            (Shape::Named(rows), DeValue::Table(table)) => {
                Some(Value::Table(self.named(table, rows, span.clone(), path)))
            }
            (Shape::Tables(rows), DeValue::Array(items)) => self.tables(items, rows, path),
            (Shape::Texts, DeValue::Array(items)) => self.texts(items, path),
            (Shape::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Shape::Port, DeValue::Integer(number)) => {
                self.port(number.as_str(), number.radix(), &span, path)
            }
            (Shape::Moment, DeValue::Datetime(moment)) => {
                self.moment(&moment.to_string(), &span, path)
            }
            (_, DeValue::String(text)) if is_text(shape) => self
                .expand(text, &span, path)
                .and_then(|text| self.text(text, shape, &span, path)),
            (_, other) => self.wrong_type(shape, other, &span, path),
        };
        At {
            value: read.unwrap_or(Value::Broken),
            span,
        }
    }

    fn tables(
        &mut self,
        items: &[Spanned<DeValue<'_>>],
        rows: &'static [Row],
        path: &str,
    ) -> Option<Value> {
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let read = self.value(item, Shape::Table(rows), &format!("{path}[{index}]"));
            match read.value {
                Value::Table(table) => tables.push(table),
                _ => return None,
            }
        }
        Some(Value::Tables(tables))
    }

    fn texts(&mut self, items: &[Spanned<DeValue<'_>>], path: &str) -> Option<Value> {
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let At { value, span } = self.value(item, Shape::Text, &format!("{path}[{index}]"));
            match value {
                Value::Text(value) => texts.push(At { value, span }),
                _ => return None,
            }
        }
        Some(Value::Texts(texts))
    }

    fn text(
        &mut self,
        text: String,
        shape: Shape,
        span: &Range<usize>,
        path: &str,
    ) -> Option<Value> {
        match shape {
            Shape::Word(words) => self.word(text, &words(), span, path),
            Shape::Address => match text.parse() {
                Ok(address) => Some(Value::Address(address)),
                Err(_) => {
                    let help = "write an IP address and a port, such as \"127.0.0.1:8484\"";
                    self.bad(span, path, &text, help)
                }
            },
            Shape::Duration => self.duration(&text, span, path).map(Value::Duration),
            Shape::Bound if text == "none" => Some(Value::Bound(None)),
            Shape::Bound => self
                .duration(&text, span, path)
                .map(|length| Value::Bound(Some(length))),
            Shape::Moment => self.moment(&text, span, path),
            _ => Some(Value::Text(text)),
        }
    }

    fn word(
        &mut self,
        text: String,
        words: &[&'static str],
        span: &Range<usize>,
        path: &str,
    ) -> Option<Value> {
        if words.contains(&text.as_str()) {
            return Some(Value::Text(text));
        }
        let help = suggest(&text, words.iter().copied());
        self.bad(span, path, &text, &help)
    }

    fn duration(&mut self, text: &str, span: &Range<usize>, path: &str) -> Option<Duration> {
        let length = match parse_duration(text) {
            Ok(length) => length,
            Err(help) => {
                self.bad(span, path, text, &help);
                return None;
            }
        };
        if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&length) {
            return Some(length);
        }
        let [least, most] = [TIMEOUT_MIN, TIMEOUT_MAX].map(show_duration);
        self.bad(
            span,
            path,
            text,
            &format!("write a duration between {least} and {most}"),
        );
        None
    }

    fn moment(&mut self, text: &str, span: &Range<usize>, path: &str) -> Option<Value> {
        if let Some(moment) = Moment::parse(text) {
            return Some(Value::Moment(moment));
        }
        let help = "write a date such as 2025-02-17, or a time such as 2025-02-17T09:00:00+09:00";
        self.bad(span, path, text, help)
    }

    fn port(&mut self, digits: &str, radix: u32, span: &Range<usize>, path: &str) -> Option<Value> {
        match u16::from_str_radix(digits, radix) {
            Ok(port) if port > 0 => Some(Value::Port(port)),
            _ => {
                let written = self.text.get(span.clone()).unwrap_or(digits).to_owned();
                self.problems
                    .at(codes::VALUE, span, format!("{path} cannot be {written}"))
                    .help("write a port between 1 and 65535");
                None
            }
        }
    }

    fn expand(&mut self, text: &str, span: &Range<usize>, path: &str) -> Option<String> {
        let wrong = match self.env.expand(text) {
            Ok(text) => return Some(text),
            Err(wrong) => wrong,
        };
        for reason in wrong {
            let code = match reason {
                Unexpanded::Form { .. } => codes::EXPANSION,
                Unexpanded::Unset { .. } | Unexpanded::NotUtf8 { .. } => codes::UNSET_VARIABLE,
            };
            let (message, help) = reason.message_and_help();
            self.problems
                .at(code, span, format!("{path}: {message}"))
                .help(help);
        }
        None
    }

    fn bad(&mut self, span: &Range<usize>, path: &str, text: &str, help: &str) -> Option<Value> {
        self.problems
            .at(
                codes::VALUE,
                span,
                format!("{path} cannot be {}", quote(text)),
            )
            .help(help);
        None
    }

    fn wrong_type(
        &mut self,
        shape: Shape,
        found: &DeValue<'_>,
        span: &Range<usize>,
        path: &str,
    ) -> Option<Value> {
        let (expected, example) = expected(shape);
        let found = found_type(found);
        self.problems
            .at(
                codes::WRONG_TYPE,
                span,
                format!("{path} must be {expected}, and is {found}"),
            )
            .label(format!("this is {found}"))
            .help(format!("write it as in {} = {example}", last(path)));
        None
    }

    fn unknown(&mut self, key: &Spanned<toml::de::DeString<'_>>, rows: &[Row], path: &str) {
        let name: &str = key.get_ref();
        let known = rows.iter().map(|row| row.key);
        let help = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => match home(name, ROOT, "") {
                Some(home) => format!("{name:?} belongs in {home}"),
                None => format!("known here: {}", list(known)),
            },
        };
        let place = if path.is_empty() {
            String::new()
        } else {
            format!(" in {path}")
        };
        self.problems
            .at(
                codes::UNKNOWN_KEY,
                &key.span(),
                format!("unknown key {}{place}", quote(name)),
            )
            .help(help);
    }

    fn missing(&mut self, row: &Row, span: &Range<usize>, path: &str) {
        let (_, example) = expected(row.shape);
        self.problems
            .at(codes::MISSING, span, format!("{path} has no {:?}", row.key))
            .help(format!("add it, as in {} = {example}", row.key));
    }

    fn no_name(&mut self, name: &str, span: &Range<usize>) {
        self.problems
            .at(codes::NO_NAME, span, format!("{} is no name", quote(name)))
            .help(format!(
                "a name has 1 to {NAME_MAX} ASCII letters, digits, - or _, and begins with a \
                 letter or a digit"
            ));
    }
}

/// Whether the shape is written as a string.
fn is_text(shape: Shape) -> bool {
    matches!(
        shape,
        Shape::Text
            | Shape::Word(_)
            | Shape::Address
            | Shape::Duration
            | Shape::Bound
            | Shape::Moment
    )
}

/// What a shape is called, with an example.
fn expected(shape: Shape) -> (&'static str, &'static str) {
    match shape {
        Shape::Text => ("a string", "\"..\""),
        Shape::Word(_) => ("a word in quotes", "\"..\""),
        Shape::Flag => ("true or false", "true"),
        Shape::Port => ("a number", "6333"),
        Shape::Address => ("an address in quotes", "\"127.0.0.1:8484\""),
        Shape::Duration => ("a duration in quotes", "\"10s\""),
        Shape::Bound => ("a duration in quotes or \"none\"", "\"10s\""),
        Shape::Moment => ("a date or a time", "2025-02-17"),
        Shape::Texts => ("a list of strings", "[\"..\"]"),
        Shape::Table(_) | Shape::Named(_) => ("a table", "{ .. }"),
        Shape::Tables(_) => ("a list of tables", "[{ .. }]"),
    }
}

fn found_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The first table of the whole file in which `name` is a key, as its header is written.
fn home(name: &str, rows: &[Row], path: &str) -> Option<String> {
    let here = if path.is_empty() {
        "the top level".to_owned()
    } else {
        format!("[{path}]")
    };
    if rows.iter().any(|row| row.key == name) {
        return Some(here);
    }
    rows.iter().find_map(|row| match row.shape {
        Shape::Table(inner) => home(name, inner, &join(path, row.key)),
        Shape::Named(inner) => home(name, inner, &join(&join(path, row.key), "NAME")),
        Shape::Tables(inner) => {
            home(name, inner, &join(path, row.key)).map(|table| format!("[{table}]"))
        }
        _ => None,
    })
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The last key of a path.
fn last(path: &str) -> &str {
    let key = path.rsplit('.').next().unwrap_or(path);
    key.split('[').next().unwrap_or(key)
}
