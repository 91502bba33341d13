//! Where the checks put the problems that they find, and the report that comes of them.
//!
//! Owns their order, and what is left out: what only follows from another one, what is beyond a
//! hundred, and what may be a secret.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use jiff::Timestamp;

use super::{Edit, Problem, Report};
use crate::config::codes::{self, Code};
use crate::config::whole::{Whole, beside};

/// More problems than this are counted, not listed: a binary file has thousands.
const LISTED: usize = 100;

/// Where the checks put what they find.
#[derive(Debug)]
pub(in crate::config) struct Problems<'s> {
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
    pub(in crate::config) fn new(whole: &'s Whole) -> Self {
        Self {
            whole,
            now: None,
            masked: Vec::new(),
            files: whole.included().clone(),
            found: whole.wrong().to_vec(),
        }
    }

    /// The same, for who wants to know what has passed at `now`.
    pub(in crate::config) fn at_time(mut self, now: Timestamp) -> Self {
        self.now = Some(now);
        self
    }

    /// Whether `instant` has passed, as far as that is asked.
    pub(in crate::config) fn passed(&self, instant: Timestamp) -> bool {
        self.now.is_some_and(|now| instant <= now)
    }

    /// What is in the files.
    pub(in crate::config) fn text(&self) -> &'s str {
        self.whole.text()
    }

    /// A problem at `span`.
    pub(in crate::config) fn at(
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
    pub(in crate::config) fn once(
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
    pub(in crate::config) fn outside(
        &mut self,
        code: Code,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.push(Problem::new(code, message))
    }

    /// The line of a byte in its file, from 1.
    pub(in crate::config) fn line(&self, byte: usize) -> usize {
        self.whole.line_in_file(byte)
    }

    /// Hides a part of the file from every excerpt.
    pub(in crate::config) fn mask(&mut self, span: &Range<usize>) {
        self.masked.push(span.clone());
    }

    /// Whether a part of `span` is hidden.
    pub(in crate::config) fn is_masked(&self, span: &Range<usize>) -> bool {
        let touches = |hidden: &Range<usize>| hidden.start < span.end && span.start < hidden.end;
        self.masked.iter().any(touches)
    }

    /// The file that is named `name` at `span` belongs to the configuration, be it readable or not.
    pub(in crate::config) fn file(&mut self, name: &str, span: &Range<usize>) -> PathBuf {
        let path = self.beside(name, span);
        self.files.insert(path.clone());
        path
    }

    /// The path that is named `name` at `span`: it begins beside the file that names it.
    pub(in crate::config) fn beside(&self, name: &str, span: &Range<usize>) -> PathBuf {
        beside(&self.whole.part(span.start).path, name)
    }

    /// The files that belong to the configuration.
    pub(in crate::config) fn files(&self) -> Vec<PathBuf> {
        self.files.iter().cloned().collect()
    }

    /// The report of `problems`, with nothing in it that was masked.
    pub(in crate::config) fn report(self) -> Report {
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
    pub(in crate::config) fn sorted(mut self) -> Vec<Problem> {
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

/// The line of the whole that a problem is on.
fn line_of(whole: &Whole, problem: &Problem) -> Option<usize> {
    let place = problem.place.as_ref()?;
    Some(whole.line(place.in_whole().start))
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
}
