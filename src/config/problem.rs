//! A problem of the configuration, with its place and its remedy, and the report of all of them.
//!
//! Owns how problems look to people and to scripts. Spans are byte ranges of the file; lines and
//! columns count from 1, columns in characters. Invariant: every problem has a message, and an
//! error is never reported without all others that were found in the same run.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use jiff::Timestamp;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::codes::{self, Code};
use super::explain;
use super::fix::Fix;
use super::whole::{Whole, beside, boundary};

/// More problems than this are counted, not listed: a binary file has thousands.
const LISTED: usize = 100;
/// Longer values are cut in messages.
const QUOTED: usize = 60;

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

/// Where the checks put what they find.
#[derive(Debug)]
pub(super) struct Problems<'s> {
    whole: &'s Whole,
    /// The clock of who asks; `None`: what has passed is no question.
    now: Option<Timestamp>,
    /// What no excerpt may show.
    masked: Vec<Range<usize>>,
    /// Files that the configuration was read from besides its own.
    files: BTreeSet<PathBuf>,
    found: Vec<Problem>,
}

impl<'s> Problems<'s> {
    pub(super) fn new(whole: &'s Whole) -> Self {
        Self {
            whole,
            now: None,
            masked: Vec::new(),
            files: whole.included().clone(),
            found: whole.wrong().to_vec(),
        }
    }

    /// The same, for who wants to know what has passed at `now`.
    pub(super) fn at_time(mut self, now: Timestamp) -> Self {
        self.now = Some(now);
        self
    }

    /// Whether `instant` has passed, as far as that is asked.
    pub(super) fn passed(&self, instant: Timestamp) -> bool {
        self.now.is_some_and(|now| instant <= now)
    }

    /// What is in the files.
    pub(super) fn text(&self) -> &'s str {
        self.whole.text()
    }

    /// A problem at `span`.
    pub(super) fn at(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        let mut problem = Problem::new(code, message);
        problem.place = Some(self.whole.place(span));
        self.push(problem)
    }

    /// The same, for a check that runs over one place more than once.
    pub(super) fn once(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        let here = |found: &Problem| {
            found.code == code.id
                && found
                    .place
                    .as_ref()
                    .is_some_and(|at| at.in_whole() == *span)
        };
        match self.found.iter().position(here) {
            Some(index) => &mut self.found[index],
            None => self.at(code, span, message),
        }
    }

    /// A problem that is not in the file.
    pub(super) fn outside(&mut self, code: Code, message: impl Into<String>) -> &mut Problem {
        self.push(Problem::new(code, message))
    }

    /// The line of a byte in its file, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.whole.line_in_file(byte)
    }

    /// Hides a part of the file from every excerpt.
    pub(super) fn mask(&mut self, span: &Range<usize>) {
        self.masked.push(span.clone());
    }

    /// Whether a part of `span` is hidden.
    pub(super) fn is_masked(&self, span: &Range<usize>) -> bool {
        let touches = |hidden: &Range<usize>| hidden.start < span.end && span.start < hidden.end;
        self.masked.iter().any(touches)
    }

    /// The file that is named `name` at `span` belongs to the configuration, be it readable or not.
    pub(super) fn file(&mut self, name: &str, span: &Range<usize>) -> PathBuf {
        let path = self.beside(name, span);
        self.files.insert(path.clone());
        path
    }

    /// The path that is named `name` at `span`: it begins beside the file that names it.
    pub(super) fn beside(&self, name: &str, span: &Range<usize>) -> PathBuf {
        beside(&self.whole.part(span.start).path, name)
    }

    /// The files that belong to the configuration.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.iter().cloned().collect()
    }

    /// The report of `problems`, with nothing in it that was masked.
    pub(super) fn report(self) -> Report {
        let mut text = self.whole.text().as_bytes().to_vec();
        for span in &self.masked {
            let end = span.end.min(text.len());
            let hidden = text.get_mut(span.start..end).unwrap_or_default();
            for byte in hidden.iter_mut().filter(|byte| **byte != b'\n') {
                *byte = b'*';
            }
        }
        let files = self.files();
        Report {
            // Whole characters were replaced, as spans begin and end between two.
            text: String::from_utf8_lossy(&text).into_owned(),
            problems: self.sorted(),
            files,
        }
    }

    /// What people should see, in the order of the file.
    ///
    /// A syntax error makes its own line and all that seems absent untrustworthy, and one in a
    /// table's header the whole table, so what was found there is left out: it would be noise
    /// about one mistake. So would be what a file lacks that could not be included.
    pub(super) fn sorted(mut self) -> Vec<Problem> {
        if self
            .found
            .iter()
            .any(|found| found.code == codes::INCLUDE.id)
        {
            self.found
                .retain(|found| !found.absence && found.reason != codes::REFERENCE.reason);
        }
        let errors = self.found.iter().filter(|found| found.is_syntax());
        let wrecked: BTreeSet<usize> = errors
            .filter_map(|found| line_of(self.whole, found))
            .flat_map(|line| self.table_from(line))
            .collect();
        if !wrecked.is_empty() {
            let whole = self.whole;
            self.found.retain(|found| {
                let here = line_of(whole, found).is_some_and(|line| wrecked.contains(&line));
                found.is_syntax() || !(found.absence || here)
            });
        }
        self.found.sort_by_key(|found| {
            found
                .place
                .as_ref()
                .map_or((1, 0), |place| (0, place.in_whole().start))
        });
        if self.found.len() > LISTED {
            // An error must survive the cut, or the rest would pass for a valid file.
            self.found.sort_by_key(|found| !found.is_error());
            let more = self.found.split_off(LISTED).len();
            if let Some(last) = self.found.last_mut() {
                last.help(format!("{more} more problems are not listed"));
            }
        }
        let mut found = std::mem::take(&mut self.found);
        for problem in &mut found {
            let edits = std::mem::take(&mut problem.fix).edits();
            problem.edits = (edits.into_iter())
                .map(|(span, replacement)| Edit {
                    place: self.whole.place(&span),
                    replacement,
                })
                .collect();
        }
        found
    }

    /// This line of the whole; all of the table, if it is the table's header.
    fn table_from(&self, line: usize) -> Range<usize> {
        let is_header = |start: usize| {
            let text = self.whole.text()[start..].trim_start_matches([' ', '\t']);
            text.starts_with('[')
        };
        let mut lines = self.whole.lines_from(line);
        if !lines.next().is_some_and(|(_, start)| is_header(start)) {
            return line..line + 1;
        }
        let mut end = line;
        for (next, start) in lines {
            if is_header(start) {
                break;
            }
            end = next;
        }
        line..end + 1
    }

    fn push(&mut self, problem: Problem) -> &mut Problem {
        self.found.push(problem);
        self.found
            .last_mut()
            .expect("it was pushed in the line above")
    }
}

/// What to say of a word that is unknown.
#[derive(Debug)]
pub(super) struct Hint {
    /// In words.
    pub(super) help: String,
    /// The word to write instead, if it is clear.
    pub(super) meant: Option<String>,
}

/// What to say when `word` is unknown: the known word that was probably meant, or all of them.
pub(super) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Hint {
    let known: Vec<&str> = known.into_iter().collect();
    let near = nearest(word, known.iter().copied());
    let help = match (near, known.as_slice()) {
        (Some(near), _) => format!("did you mean {near:?}?"),
        (None, []) => "none is defined".to_owned(),
        (None, [one]) => format!("the only one is {one:?}"),
        (None, several) => format!("one of {}", list(several.iter().copied())),
    };
    let only = known.first().filter(|_| known.len() == 1).copied();
    Hint {
        help,
        meant: near.or(only).map(str::to_owned),
    }
}

/// The known word that is nearest to `word`, if it is near enough to be what was meant; else the
/// only one that begins with it.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let known: Vec<&str> = known.into_iter().collect();
    // Nothing we know is this long, and the comparison takes quadratic time.
    if lower.len() > QUOTED {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    let near = known
        .iter()
        .map(|other| {
            (
                strsim::damerau_levenshtein(&lower, &other.to_lowercase()),
                *other,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other);
    let mut longer = known
        .into_iter()
        .filter(|other| other.to_lowercase().starts_with(&lower));
    near.or_else(|| {
        longer
            .next()
            .filter(|_| lower.len() >= 3 && longer.next().is_none())
    })
}

/// `"a", "b", "c"`.
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// `text` in quotes, cut when it is long, with nothing in it that a terminal would obey.
pub(super) fn quote(text: &str) -> String {
    let cut: Cow<'_, str> = match text.char_indices().nth(QUOTED) {
        Some((at, _)) => format!("{}...", &text[..at]).into(),
        None => text.into(),
    };
    format!("{cut:?}")
}

/// The line of the whole that a problem is on.
fn line_of(whole: &Whole, problem: &Problem) -> Option<usize> {
    let place = problem.place.as_ref()?;
    Some(whole.line(place.in_whole().start))
}

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

    fn source(text: &str) -> Whole {
        Whole::alone(&Source::new("routing.toml", text))
    }

    #[test]
    fn lines_count_from_one_and_columns_count_characters() {
        let source = source("a = 1\n日本 = \"x\"\n");
        let mut problems = Problems::new(&source);
        problems.at(codes::VALUE, &(15..18), "odd");
        let place = problems.sorted().remove(0).place.unwrap();
        assert_eq!((place.line, place.column), (2, 6));
    }

    #[test]
    fn a_place_outside_the_text_is_its_end() {
        let source = source("a = 1");
        let mut problems = Problems::new(&source);
        problems.at(codes::VALUE, &(99..120), "odd");
        let place = problems.sorted().remove(0).place.unwrap();
        assert_eq!((place.line, place.column, place.span), (1, 6, 5..5));
    }

    #[test]
    fn the_nearest_word_is_meant_only_when_it_is_near() {
        let known = ["backends", "services", "schedule", "host"];
        for (word, meant) in [
            ("backend", Some("backends")),
            ("shedule", Some("schedule")),
            ("Services", Some("services")),
            ("hsot", Some("host")),
            ("back", Some("backends")),
            ("include", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn values_in_messages_are_cut_and_cannot_drive_a_terminal() {
        assert_eq!(quote("\u{1b}[31m"), "\"\\u{1b}[31m\"");
        assert!(quote(&"x".repeat(1000)).len() < 70);
    }

    #[test]
    fn a_long_list_is_cut_and_keeps_an_error() {
        let source = source("x");
        let mut problems = Problems::new(&source);
        for _ in 0..1000 {
            problems.at(codes::NEVER_FIRES, &(0..1), "odd");
        }
        problems.outside(codes::VALUE, "wrong");
        let report = problems.report();
        assert_eq!(report.problems.len(), LISTED);
        assert!(report.problems[0].is_error());
        assert_eq!(report.reason(), "value");
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
