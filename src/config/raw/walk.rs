//! The walk that holds the tree of a file against the table of keys.
//!
//! Owns the problems of single keys and values. One that was reported stays behind as
//! [`Value::Broken`]; so does one under a misspelt key, as the key that was meant.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::meant;
use super::secrets::sounds_secret;
use super::{At, ROOT, Row, Shape, Table, Value};
use crate::config::codes;
use crate::config::defaults::{TIMEOUT_MAX, TIMEOUT_MIN};
use crate::config::env::{Environment, Unexpanded};
use crate::config::fix::Fix;
use crate::config::moment::Moment;
use crate::config::problem::{Hint, Problems, list, nearest, quote, suggest};
use crate::words::names::{NAME_MAX, is_name};
use crate::words::units::{parse_duration, show_duration};

/// The walk over the tree.
pub(super) struct Walk<'w, 's> {
    env: &'w Environment,
    text: &'w str,
    /// From this byte on nothing is reported: see `syntax`.
    wreck: Option<usize>,
    pub(super) problems: &'w mut Problems<'s>,
}

impl<'w, 's> Walk<'w, 's> {
    pub(super) fn new(
        env: &'w Environment,
        text: &'w str,
        wreck: Option<usize>,
        problems: &'w mut Problems<'s>,
    ) -> Self {
        Self {
            env,
            text,
            wreck,
            problems,
        }
    }

    /// A whole file, which begins at `start`.
    pub(super) fn root(&mut self, table: &DeTable<'_>, start: Range<usize>) -> Table {
        self.table(table, ROOT, start, "")
    }

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
                let meant = self.unknown(key, rows, path);
                if sounds_secret(name) || meant.is_some_and(sounds_secret) {
                    self.problems.mask(&value.span());
                }
                let meant = meant.filter(|meant| !table.contains_key(*meant));
                let broken = At {
                    value: Value::Broken,
                    span: value.span(),
                };
                entries.extend(meant.map(|meant| {
                    (
                        At {
                            value: meant.to_owned(),
                            span: key.span(),
                        },
                        broken,
                    )
                }));
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
            .filter(|row| row.default.is_none() && !path.is_empty() && !table.has(row.key))
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
    pub(super) fn in_order<'t, 'i>(
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

    pub(super) fn value(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        shape: Shape,
        path: &str,
    ) -> At<Value> {
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
            (Shape::Secret, DeValue::Table(table)) => self.secret(table, &span, path),
            (Shape::Secret, _) | (Shape::Secrets, DeValue::String(_)) => {
                self.plain_secret(&span, path)
            }
            (Shape::Secrets, DeValue::Table(table)) => Some(self.secrets(table, path)),
            (Shape::Flag, DeValue::Boolean(flag)) => Some(Value::Flag(*flag)),
            (Shape::Port | Shape::Count | Shape::Many, DeValue::Integer(number)) => {
                self.number(shape, number, &span, path)
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
            Shape::Address => {
                let help = "write an IP address and a port, such as \"127.0.0.1:8484\"";
                let address = text.parse().ok().map(Value::Address);
                address.or_else(|| self.bad(span, path, &text, help, meant::address(&text)))
            }
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
        let Hint { help, meant } = suggest(&text, words.iter().copied());
        self.bad(span, path, &text, &help, meant)
    }

    fn duration(&mut self, text: &str, span: &Range<usize>, path: &str) -> Option<Duration> {
        let length = match parse_duration(text) {
            Ok(length) => length,
            Err(help) => {
                self.bad(span, path, text, &help, meant::duration(text));
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
            None,
        );
        None
    }

    fn moment(&mut self, text: &str, span: &Range<usize>, path: &str) -> Option<Value> {
        if let Some(moment) = Moment::parse(text) {
            return Some(Value::Moment(moment));
        }
        let help = "write a date such as 2025-02-17, or a time such as 2025-02-17T09:00:00+09:00";
        self.bad(span, path, text, help, meant::date(text))
    }

    /// A port or a count.
    fn number(
        &mut self,
        shape: Shape,
        number: &DeInteger<'_>,
        span: &Range<usize>,
        path: &str,
    ) -> Option<Value> {
        let (digits, radix) = (number.as_str(), number.radix());
        let value = if matches!(shape, Shape::Many) {
            // TOML has no larger ones.
            let number = i64::from_str_radix(digits, radix).ok();
            number.and_then(|number| u64::try_from(number).ok().map(Value::Many))
        } else {
            u16::from_str_radix(digits, radix).ok().map(Value::Port)
        };
        if let Some(value) = value.filter(|value| !matches!(value, Value::Port(0) | Value::Many(0)))
        {
            return Some(value);
        }
        let written = self.text.get(span.clone()).unwrap_or(digits).to_owned();
        self.problems
            .at(codes::VALUE, span, format!("{path} cannot be {written}"))
            .help(match shape {
                Shape::Many => "write a number from 1 on",
                Shape::Port => "write a port between 1 and 65535",
                _ => "write a number between 1 and 65535",
            });
        None
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
            let fix = reason.fix(self.text, span);
            self.problems
                .at(code, span, format!("{path}: {message}"))
                .help(help)
                .fix(fix);
        }
        None
    }

    /// Reports a value that cannot be; `meant` is the one to write instead, if that is clear.
    fn bad(
        &mut self,
        span: &Range<usize>,
        path: &str,
        text: &str,
        help: &str,
        meant: Option<String>,
    ) -> Option<Value> {
        let fix = meant.map(|meant| Fix::string(self.text, span, &meant));
        self.problems
            .at(
                codes::VALUE,
                span,
                format!("{path} cannot be {}", quote(text)),
            )
            .help(help)
            .fix(fix);
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
        let written = self.text.get(span.clone()).unwrap_or_default();
        let meant = meant::converted(shape, found, written);
        let help = match &meant {
            Some(header) if header.starts_with("[[") => format!("write {header}"),
            Some(meant) => format!("write {} = {meant}", last(path)),
            None => format!("write it as in {} = {example}", last(path)),
        };
        let found = found_type(found);
        self.problems
            .at(
                codes::WRONG_TYPE,
                span,
                format!("{path} must be {expected}, and is {found}"),
            )
            .label(format!("this is {found}"))
            .help(help)
            .fix(meant.map(|text| Fix::replace(span, text)));
        None
    }

    /// Reports a key without a row; yields the key that was probably meant.
    pub(super) fn unknown(
        &mut self,
        key: &Spanned<toml::de::DeString<'_>>,
        rows: &'static [Row],
        path: &str,
    ) -> Option<&'static str> {
        let name: &str = key.get_ref();
        let known = rows.iter().map(|row| row.key);
        let meant = nearest(name, known.clone());
        let help = match meant {
            Some(near) => format!("did you mean {near:?}?"),
            None => match home(name, ROOT, "") {
                Some(home) => format!("{name:?} belongs in {home}"),
                None => format!(
                    "known here: {}; this is tailhop {}: a newer one may know it",
                    list(known),
                    env!("CARGO_PKG_VERSION")
                ),
            },
        };
        let fix = meant.map(|meant| Fix::replace(&key.span(), meant));
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
            .help(help)
            .fix(fix);
        meant
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
        Shape::Count => ("a number", "100"),
        Shape::Many => ("a number", "1000"),
        Shape::Address => ("an address in quotes", "\"127.0.0.1:8484\""),
        Shape::Duration => ("a duration in quotes", "\"10s\""),
        Shape::Bound => ("a duration in quotes or \"none\"", "\"10s\""),
        Shape::Moment => ("a date or a time", "2025-02-17"),
        Shape::Texts => ("a list of strings", "[\"..\"]"),
        Shape::Secret => ("a table", "{ env = \"..\" }"),
        Shape::Secrets => ("a table of headers", "{ api-key = { env = \"..\" } }"),
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

pub(super) fn join(path: &str, key: &str) -> String {
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
