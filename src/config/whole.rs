//! The files of one configuration, one after another as one text.
//!
//! Owns `include`: which files belong to a configuration, in which order they hold, and which place
//! in which file a byte of the whole has. What a file includes stands before it, and the file that
//! was asked for last: what comes later holds. Spans everywhere are bytes of the whole. Invariants:
//! every file is in it once; a file that cannot be had is a problem where it was named, never an
//! empty file.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::codes::{self, Code};
use super::env::Environment;
use super::problem::{Place, Problem, Report};
use super::source::{Source, hex};

/// More are a mistake, and each is read at every look.
const FILES_MAX: usize = 32;
const BOM: &str = "\u{feff}";

/// Where included files are read from.
pub(super) type Reader<'r> = &'r dyn Fn(&Path) -> Result<Source, Report>;

/// The files, as one text.
#[derive(Debug)]
pub(super) struct Whole {
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
    /// In the order of the text; the last is the file that was asked for.
    parts: Vec<Part>,
    hash: String,
    /// Every file that was included, be it there or not.
    included: BTreeSet<PathBuf>,
    wrong: Vec<Problem>,
}

/// One file.
#[derive(Debug)]
pub(super) struct Part {
    /// As it was named.
    pub(super) path: PathBuf,
    /// Its bytes in the whole.
    pub(super) span: Range<usize>,
    hash: String,
}

impl Whole {
    /// `source` with everything that it includes.
    pub(super) fn gather(source: &Source, env: &Environment, reader: Reader<'_>) -> Self {
        let mut gathering = Gathering {
            env,
            reader,
            text: String::new(),
            parts: Vec::new(),
            open: vec![(identity(source.path()), source.path().to_owned())],
            had: BTreeSet::from([identity(source.path())]),
            included: BTreeSet::new(),
            wrong: Vec::new(),
        };
        gathering.visit(source);
        gathering.whole()
    }

    /// `source` alone, whatever it includes.
    #[cfg(test)]
    pub(super) fn alone(source: &Source) -> Self {
        let nothing = Environment::default();
        let mut whole = Self::gather(source, &nothing, &super::read);
        whole.wrong.clear();
        whole
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The files in the order of the text.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The file that was asked for, as it was named.
    pub(super) fn path(&self) -> &Path {
        &self.part(self.text.len()).path
    }

    /// Whether `part` is the file that was asked for.
    pub(super) fn is_root(&self, part: &Part) -> bool {
        part.span.end == self.text.len()
    }

    /// That of the file; if it includes others, one that is another whenever one of them is.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Every file that was included, be it there or not.
    pub(super) fn included(&self) -> &BTreeSet<PathBuf> {
        &self.included
    }

    /// What was wrong with including them.
    pub(super) fn wrong(&self) -> &[Problem] {
        &self.wrong
    }

    /// The text of one file where it stands in the whole, after blanks.
    pub(super) fn padded(&self, part: &Part) -> String {
        let mut text = " ".repeat(part.span.start);
        let own = &self.text[part.span.clone()];
        if part.span.start > 0
            && let Some(rest) = own.strip_prefix(BOM)
        {
            // It is a mark only where a text begins.
            text += &" ".repeat(BOM.len());
            text += rest;
        } else {
            text += own;
        }
        text
    }

    /// The file that a byte is in.
    pub(super) fn part(&self, byte: usize) -> &Part {
        let after = self.parts.partition_point(|part| part.span.end <= byte);
        &self.parts[after.min(self.parts.len() - 1)]
    }

    /// The line of a byte in the whole, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|start| *start <= byte)
    }

    /// The lines of the whole, from 1, from `line` to the end of its file, and where they begin.
    pub(super) fn lines_from(&self, line: usize) -> impl Iterator<Item = (usize, usize)> {
        let starts = self.lines.get(line - 1..).unwrap_or_default();
        let end = starts.first().map_or(0, |start| self.part(*start).span.end);
        let starts = starts.iter().take_while(move |start| **start < end);
        starts
            .enumerate()
            .map(move |(index, start)| (line + index, *start))
    }

    /// The line of a byte in its file, from 1.
    pub(super) fn line_in_file(&self, byte: usize) -> usize {
        self.line(byte) - self.line(self.part(byte).span.start) + 1
    }

    /// The place of a span in its file.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let start = boundary(&self.text, span.start);
        let end = boundary(&self.text, span.end).max(start);
        let part = self.part(start);
        let (line, column) = self.position(part, start);
        Place {
            path: part.path.clone(),
            span: start - part.span.start..end - part.span.start,
            line,
            column,
            end: self.position(part, end),
            offset: part.span.start,
        }
    }

    /// Line and column of a byte in its file.
    fn position(&self, part: &Part, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let before = &self.text[self.lines[line - 1]..at];
        let first = self.line(part.span.start);
        (line - first + 1, before.chars().count() + 1)
    }
}

/// The files as they are found.
struct Gathering<'a> {
    env: &'a Environment,
    reader: Reader<'a>,
    text: String,
    parts: Vec<Part>,
    /// Those that are being included, from the file that was asked for inwards.
    open: Vec<(PathBuf, PathBuf)>,
    had: BTreeSet<PathBuf>,
    included: BTreeSet<PathBuf>,
    wrong: Vec<(Problem, Range<usize>)>,
}

/// Why a file is not included: its code, what is wrong, what to do.
type Refusal = (Code, String, String);

impl Gathering<'_> {
    fn visit(&mut self, source: &Source) {
        let mut refused = Vec::new();
        for (name, span) in named(source.text(), self.env) {
            let path = beside(source.path(), &name);
            if let Err(refusal) = self.include(&path) {
                refused.push((refusal, span));
            }
        }
        let start = self.append(source);
        for ((code, message, help), span) in refused {
            let mut problem = Problem::new(code, message);
            problem.help(help);
            self.wrong
                .push((problem, start + span.start..start + span.end));
        }
    }

    fn include(&mut self, path: &Path) -> Result<(), Refusal> {
        self.included.insert(path.to_owned());
        let shown = path.display();
        let identity = identity(path);
        if let Some(from) = self.open.iter().position(|(open, _)| *open == identity) {
            let mut round: Vec<_> = self.open[from..].iter().map(|(_, path)| path).collect();
            let first = self.open[from].1.clone();
            round.push(&first);
            let round: Vec<_> = round
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return Err((
                codes::CYCLE,
                format!("{} includes itself: {}", first.display(), round.join(" > ")),
                "take it out of one of them".to_owned(),
            ));
        }
        if self.had.contains(&identity) {
            return Err((
                codes::TWICE,
                format!("{shown} is included twice"),
                "include it once: what is in it holds for all".to_owned(),
            ));
        }
        if self.had.len() > FILES_MAX {
            return Err((
                codes::INCLUDE,
                format!("{shown} is one file too many"),
                format!("a configuration has at most {FILES_MAX} included files"),
            ));
        }
        let source = (self.reader)(path).map_err(|report| {
            let why = report
                .problems
                .first()
                .map(|problem| problem.message.clone());
            (
                codes::INCLUDE,
                format!("include: {}", why.unwrap_or_default()),
                "make it, or write another path, which begins beside the file that it stands in"
                    .to_owned(),
            )
        })?;
        self.had.insert(identity.clone());
        self.open.push((identity, path.to_owned()));
        self.visit(&source);
        self.open.pop();
        Ok(())
    }

    /// Puts the text at the end, and tells where it begins.
    fn append(&mut self, source: &Source) -> usize {
        // A last line without its end must not become one with the first line of the next file.
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
            if let Some(last) = self.parts.last_mut() {
                last.span.end += 1;
            }
        }
        let start = self.text.len();
        self.text += source.text();
        self.parts.push(Part {
            path: source.path().to_owned(),
            span: start..self.text.len(),
            hash: source.hash().to_owned(),
        });
        start
    }

    fn whole(self) -> Whole {
        let ends = self.text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = iter::once(0).chain(ends).collect();
        let hash = match self.parts.as_slice() {
            [one] => one.hash.clone(),
            several => {
                let hashes: Vec<_> = several.iter().map(|part| part.hash.as_str()).collect();
                hex(&Sha256::digest(hashes.join("\n")))
            }
        };
        let mut whole = Whole {
            text: self.text,
            lines,
            parts: self.parts,
            hash,
            included: self.included,
            wrong: Vec::new(),
        };
        for (mut problem, span) in self.wrong {
            problem.place = Some(whole.place(&span));
            whole.wrong.push(problem);
        }
        whole
    }
}

/// The files that a text names under `include`, and where. What is wrong with the list itself is
/// the parser's to say.
fn named(text: &str, env: &Environment) -> Vec<(String, Range<usize>)> {
    if !text.contains("include") {
        return Vec::new();
    }
    let (tree, _) = DeTable::parse_recoverable(text);
    let list = tree
        .get_ref()
        .iter()
        .find(|(key, _)| key.get_ref() == "include");
    let Some(DeValue::Array(items)) = list.map(|(_, value)| value.get_ref()) else {
        return Vec::new();
    };
    let name = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
        DeValue::String(name) => Some((env.expand(name).ok()?, item.span())),
        _ => None,
    };
    items.iter().filter_map(name).collect()
}

/// The path `name` as it is meant in the file at `path`.
pub(super) fn beside(path: &Path, name: &str) -> PathBuf {
    let folder = path.parent();
    folder.map_or_else(|| name.into(), |folder| folder.join(name))
}

/// The same for two names of one file, even of one that is not there.
fn identity(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let parts = path.components();
    parts.filter(|part| *part != Component::CurDir).collect()
}

/// The nearest character boundary at or before `at`.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}
