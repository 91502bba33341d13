//! A problem of the configuration, with its place and its remedy, and the report of all of them.
//!
//! Owns how problems look to people and to scripts. Spans are byte ranges of the file; lines and
//! columns count from 1, columns in characters. Invariant: every problem has a message, and an
//! error is never reported without all others that were found in the same run.

mod found;
mod hint;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::codes::{self, Code};
use super::explain;
use super::fix::Fix;
use super::whole::boundary;
pub(super) use found::Problems;
pub(super) use hint::{Hint, list, nearest, quote, suggest};

/// Whether a problem stops the configuration from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
}

/// One thing that is wrong, or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable: `E` or `W` and three digits.
    pub code: &'static str,
    /// Whether it stops the configuration from being used.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// A few words to the underlined text.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Where; `None` for what is not in the file.
    pub place: Option<Place>,
    /// What a machine can do about it: all of them together, or nothing. Empty where people have
    /// to decide.
    pub edits: Vec<Edit>,
    fix: Fix,
    reason: &'static str,
    absence: bool,
}

/// A replacement that mends a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What goes.
    pub place: Place,
    /// What comes in its stead.
    pub replacement: String,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Bytes of the file.
    pub span: Range<usize>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Line and column of the first character after it.
    pub end: (usize, usize),
    /// Where the file begins in the whole.
    pub(super) offset: usize,
}

impl Place {
    /// Bytes of the whole.
    fn in_whole(&self) -> Range<usize> {
        self.offset + self.span.start..self.offset + self.span.end
    }
}

/// All problems of one configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of the file; those without a place come last.
    pub problems: Vec<Problem>,
    /// Files that the configuration was read from besides its own: one of them may heal it.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    #[serde(skip)]
    text: String,
}

impl Problem {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.id,
            severity: code.severity(),
            message: message.into(),
            label: None,
            help: None,
            place: None,
            edits: Vec::new(),
            fix: Fix::none(),
            reason: code.reason,
            absence: code.absence,
        }
    }

    /// Whether it stops the configuration from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Why it matters, in one sentence.
    pub fn why(&self) -> String {
        explain::why(self.code)
    }

    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// How a machine can do what `help` says.
    pub(super) fn fix(&mut self, fix: impl Into<Fix>) -> &mut Self {
        self.fix = fix.into();
        self
    }

    fn is_syntax(&self) -> bool {
        self.code == codes::SYNTAX.id
    }

    /// As rustc shows it; with `why`, if it is the first of its code.
    fn render(&self, text: &str, why: bool, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let snippet = self.place.as_ref().map(|place| {
            let (line, span) = shown(text, &place.in_whole());
            Snippet::source(line)
                .line_start(place.line)
                .path(place.path.to_string_lossy())
                .annotation(
                    AnnotationKind::Primary
                        .span(span)
                        .label(self.label.as_deref()),
                )
        });
        let why = why.then(|| Level::NOTE.with_name("why").message(self.why()));
        let group = title.elements(snippet).elements(why);
        let help = self.help.as_deref().unwrap_or("change it to");
        if self.edits.is_empty() {
            let help = self.help.as_deref().map(|help| Level::HELP.message(help));
            return renderer.render(&[group.elements(help)]);
        }
        renderer.render(&[group, self.patched(help, text)])
    }

    /// What its edits make of the lines that they touch.
    fn patched<'t>(&'t self, help: &'t str, text: &'t str) -> Group<'t> {
        let help = Level::HELP.secondary_title(help);
        let spans = || self.edits.iter().map(|edit| edit.place.in_whole());
        let (first, last) = (
            spans().map(|span| span.start).min(),
            spans().map(|span| span.end).max(),
        );
        let window = lines(text, first.unwrap_or(0)..last.unwrap_or(0));
        let start = self.edits.iter().map(|edit| edit.place.line).min();
        let patch = |edit: &'t Edit| {
            let within = |at: usize| at.saturating_sub(window.start).min(window.len());
            let span = edit.place.in_whole();
            let span = within(span.start)..within(span.end);
            Patch::new(span, edit.replacement.as_str())
        };
        help.element(
            Snippet::source(&text[window.clone()])
                .line_start(start.unwrap_or(1))
                .patches(self.edits.iter().map(patch)),
        )
    }
}

impl Serialize for Problem {
    /// `code`, `severity`, `file`, `line`, `column`, `end`, `message`, `label`, `why`, `fix`; of
    /// what is not in a file, the four of the place are null.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct FixOut<'a> {
            text: Option<&'a str>,
            edits: &'a [Edit],
        }
        let place = self.place.as_ref();
        let mut out = to.serialize_struct("Problem", 10)?;
        out.serialize_field("code", self.code)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("file", &place.map(|place| place.path.to_string_lossy()))?;
        out.serialize_field("line", &place.map(|place| place.line))?;
        out.serialize_field("column", &place.map(|place| place.column))?;
        out.serialize_field("end", &place.map(end))?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("label", &self.label)?;
        out.serialize_field("why", &self.why())?;
        let (text, edits) = (self.help.as_deref(), self.edits.as_slice());
        out.serialize_field("fix", &FixOut { text, edits })?;
        out.end()
    }
}

impl Serialize for Edit {
    /// The place, its bytes as `span`, and the `replacement`.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let place = &self.place;
        let mut out = to.serialize_struct("Edit", 6)?;
        out.serialize_field("file", &place.path.to_string_lossy())?;
        out.serialize_field("line", &place.line)?;
        out.serialize_field("column", &place.column)?;
        out.serialize_field("end", &end(place))?;
        out.serialize_field("span", &[place.span.start, place.span.end])?;
        out.serialize_field("replacement", &self.replacement)?;
        out.end()
    }
}

fn end(place: &Place) -> serde_json::Value {
    serde_json::json!({ "line": place.end.0, "column": place.end.1 })
}

impl fmt::Display for Problem {
    /// One line, for logs: `routing.toml:3:1: unknown key "prot"; did you mean "port"?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(
                f,
                "{}:{}:{}: ",
                place.path.display(),
                place.line,
                place.column
            )?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl Report {
    /// A report about a file whose text there is not.
    pub(super) fn of(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            files: Vec::new(),
            text: String::new(),
        }
    }

    /// The word for the first error of the closed set `syntax`, `unknown_key`, `value`,
    /// `reference`, `environment`, `io`, for a metric.
    pub fn reason(&self) -> &'static str {
        let first = self.problems.iter().find(|problem| problem.is_error());
        first.map_or("value", |problem| problem.reason)
    }

    /// How many problems stop the configuration from being used.
    pub fn errors(&self) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.is_error())
            .count()
    }

    /// How many do not.
    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }

    /// All problems as rustc shows them, with an empty line between two. Why a code matters is
    /// said once.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut told = BTreeSet::new();
        let mut render = |problem: &Problem| {
            let why = told.insert(problem.code);
            // A line of an excerpt may end in blanks of the file.
            let text = problem.render(&self.text, why, &renderer);
            text.lines()
                .map(|line| line.trim_end().to_owned() + "\n")
                .collect::<String>()
        };
        let all: Vec<_> = self.problems.iter().map(&mut render).collect();
        all.join("\n")
    }
}

impl fmt::Display for Report {
    /// One line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// The whole lines that `span` touches.
fn lines(text: &str, span: Range<usize>) -> Range<usize> {
    let start = boundary(text, span.start);
    let end = boundary(text, span.end).max(start);
    let begins = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let ends = text[end..].find('\n').map_or(text.len(), |at| end + at);
    begins..ends
}

/// The line on which `span` begins, and the part of the span that is on it: more would hide the
/// message, and a whole large file would be searched again for each problem.
fn shown<'t>(text: &'t str, span: &Range<usize>) -> (&'t str, Range<usize>) {
    let (before, after) = text.split_at(boundary(text, span.start));
    let begins = before.rfind('\n').map_or(0, |at| at + 1);
    let ends = after.find('\n').map_or(text.len(), |at| before.len() + at);
    let line = text[begins..ends].trim_end_matches('\r');
    let within = |at: usize| at.saturating_sub(begins).min(line.len());
    (line, within(span.start)..within(span.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use crate::config::whole::Whole;

    fn source(text: &str) -> Whole {
        Whole::alone(&Source::new("routing.toml", text))
    }

    #[test]
    fn a_problem_is_json_with_its_place_and_its_fix() {
        let source = source("a = 1\n");
        let mut problems = Problems::new(&source);
        problems
            .at(codes::UNKNOWN_KEY, &(0..1), "unknown key \"a\"")
            .help("did you mean \"b\"?")
            .fix(Fix::replace(&(0..1), "b"));
        let report = problems.report();
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"problems": [{
                "code": "E011",
                "severity": "error",
                "file": "routing.toml",
                "line": 1,
                "column": 1,
                "end": {"line": 1, "column": 2},
                "message": "unknown key \"a\"",
                "label": null,
                "why": explain::why("E011"),
                "fix": {"text": "did you mean \"b\"?", "edits": [{
                    "file": "routing.toml",
                    "line": 1,
                    "column": 1,
                    "end": {"line": 1, "column": 2},
                    "span": [0, 1],
                    "replacement": "b",
                }]},
            }]})
        );
    }
}
