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

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::codes::{self, Code};
use super::source::Source;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    #[serde(skip)]
    reason: &'static str,
    #[serde(skip)]
    absence: bool,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, as it was named.
    pub path: PathBuf,
    /// Bytes of the file.
    pub span: Range<usize>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
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
            reason: code.reason,
            absence: code.absence,
        }
    }

    /// Whether it stops the configuration from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    fn is_syntax(&self) -> bool {
        self.code == codes::SYNTAX.id
    }

    /// As rustc shows it.
    fn render(&self, text: &str, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let snippet = self.place.as_ref().map(|place| {
            let (line, span) = shown(text, &place.span);
            Snippet::source(line)
                .line_start(place.line)
                .path(place.path.to_string_lossy())
                .annotation(
                    AnnotationKind::Primary
                        .span(span)
                        .label(self.label.as_deref()),
                )
        });
        let help = self.help.as_deref().map(|help| Level::HELP.message(help));
        let group = title.elements(snippet).elements(help);
        renderer.render(&[group])
    }
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
    /// A report of `problems` in `source`: with the warnings of a snapshot it renders those.
    pub fn new(source: &Source, problems: Vec<Problem>) -> Self {
        Self {
            problems,
            files: Vec::new(),
            text: source.text().to_owned(),
        }
    }

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

    /// All problems as rustc shows them, with an empty line between two.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let render = |problem: &Problem| problem.render(&self.text, &renderer) + "\n";
        self.problems
            .iter()
            .map(render)
            .collect::<Vec<_>>()
            .join("\n")
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
    source: &'s Source,
    /// Where each line begins.
    lines: Vec<usize>,
    /// What no excerpt may show.
    masked: Vec<Range<usize>>,
    /// Files that the configuration was read from besides its own.
    files: BTreeSet<PathBuf>,
    found: Vec<Problem>,
}

impl<'s> Problems<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        let ends = source.text().match_indices('\n').map(|(at, _)| at + 1);
        Self {
            source,
            lines: std::iter::once(0).chain(ends).collect(),
            masked: Vec::new(),
            files: BTreeSet::new(),
            found: Vec::new(),
        }
    }

    /// A problem at `span`.
    pub(super) fn at(
        &mut self,
        code: Code,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        let mut problem = Problem::new(code, message);
        problem.place = Some(self.place(span));
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
            found.code == code.id && found.place.as_ref().is_some_and(|at| at.span == *span)
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

    /// The line of a byte, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte)
    }

    /// Hides a part of the file from every excerpt.
    pub(super) fn mask(&mut self, span: &Range<usize>) {
        self.masked.push(span.clone());
    }

    /// The file at `path`, as it is named in the configuration, belongs to it, be it readable or
    /// not.
    pub(super) fn file(&mut self, path: &str) -> PathBuf {
        let path = self.beside(path);
        self.files.insert(path.clone());
        path
    }

    /// A path that the file names, which begins beside it.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        let beside = self.source.path().parent().map(|folder| folder.join(path));
        beside.unwrap_or_else(|| path.into())
    }

    /// The files that belong to the configuration.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.iter().cloned().collect()
    }

    /// The report of `problems`, with nothing in it that was masked.
    pub(super) fn report(self) -> Report {
        let mut text = self.source.text().as_bytes().to_vec();
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
    /// about one mistake.
    pub(super) fn sorted(mut self) -> Vec<Problem> {
        let errors = self.found.iter().filter(|found| found.is_syntax());
        let wrecked: BTreeSet<usize> = errors
            .filter_map(line_of)
            .flat_map(|line| self.table_from(line))
            .collect();
        if !wrecked.is_empty() {
            self.found.retain(|found| {
                let here = line_of(found).is_some_and(|line| wrecked.contains(&line));
                found.is_syntax() || !(found.absence || here)
            });
        }
        self.found.sort_by_key(|found| {
            found
                .place
                .as_ref()
                .map_or((1, 0), |place| (0, place.span.start))
        });
        if self.found.len() > LISTED {
            // An error must survive the cut, or the rest would pass for a valid file.
            self.found.sort_by_key(|found| !found.is_error());
            let more = self.found.split_off(LISTED).len();
            if let Some(last) = self.found.last_mut() {
                last.help(format!("{more} more problems are not listed"));
            }
        }
        self.found
    }

    /// This line; all of the table, if it is the table's header.
    fn table_from(&self, line: usize) -> Range<usize> {
        let is_header = |line: &usize| {
            let text = self
                .lines
                .get(line - 1)
                .and_then(|start| self.source.text().get(*start..));
            text.is_some_and(|text| text.trim_start_matches([' ', '\t']).starts_with('['))
        };
        if !is_header(&line) {
            return line..line + 1;
        }
        let end = self.lines.len() + 1;
        line..(line + 1..end).find(is_header).unwrap_or(end)
    }

    fn push(&mut self, problem: Problem) -> &mut Problem {
        self.found.push(problem);
        self.found
            .last_mut()
            .expect("it was pushed in the line above")
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let text = self.source.text();
        let start = boundary(text, span.start);
        let end = boundary(text, span.end).max(start);
        let line = self.line(start);
        let begins = self.lines[line - 1];
        Place {
            path: self.source.path().to_owned(),
            span: start..end,
            line,
            column: text[begins..start].chars().count() + 1,
        }
    }
}

/// What to say when `word` is unknown: the known word that was probably meant, or all of them.
pub(super) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(near) = nearest(word, known.iter().copied()) {
        return format!("did you mean {near:?}?");
    }
    match known.as_slice() {
        [] => "none is defined".to_owned(),
        [one] => format!("the only one is {one:?}"),
        several => format!("one of {}", list(several.iter().copied())),
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

fn line_of(problem: &Problem) -> Option<usize> {
    problem.place.as_ref().map(|place| place.line)
}

/// The nearest character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
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

    fn source(text: &str) -> Source {
        Source::new("routing.toml", text)
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
        let found = problems.sorted();
        assert_eq!(found.len(), LISTED);
        assert!(found[0].is_error());
        assert_eq!(Report::new(&source, found).reason(), "value");
    }

    #[test]
    fn a_problem_is_json_with_its_place() {
        let source = source("a = 1\n");
        let mut problems = Problems::new(&source);
        problems
            .at(codes::UNKNOWN_KEY, &(0..1), "unknown key \"a\"")
            .help("remove it");
        let report = Report::new(&source, problems.sorted());
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"problems": [{
                "code": "E011",
                "severity": "error",
                "message": "unknown key \"a\"",
                "label": null,
                "help": "remove it",
                "place": {
                    "path": "routing.toml",
                    "span": {"start": 0, "end": 1},
                    "line": 1,
                    "column": 1,
                },
            }]})
        );
    }
}
