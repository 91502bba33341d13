//! Edits that mend a file: what a person would do with the text, as bytes and replacements.
//!
//! Pure. Owns where a key, an item or a table can be put in or taken out so that what is left is
//! as a person would have written it. Spans are byte ranges of the text. Invariant: the edits of
//! one fix do not overlap.

use std::ops::Range;

/// Edits that belong together, in no order. Empty: a person has to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fix(Vec<(Range<usize>, String)>);

impl Fix {
    /// None: a person has to decide.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// `with` instead of what is at `span`.
    pub(super) fn replace(span: &Range<usize>, with: impl Into<String>) -> Self {
        Self(vec![(span.clone(), with.into())])
    }

    /// A string instead of the value at `span`, unless that is made of variables.
    pub(super) fn string(text: &str, span: &Range<usize>, with: &str) -> Self {
        let written = text.get(span.clone()).unwrap_or_default();
        if written.contains('$') || !written.starts_with(['"', '\'']) {
            return Self::none();
        }
        Self::replace(span, format!("{with:?}"))
    }

    /// Takes out `key = value`, which is at `span`; with its line, if it has one of its own.
    pub(super) fn remove_key(text: &str, span: &Range<usize>) -> Self {
        let before = text[..span.start].trim_end_matches([' ', '\t']);
        if before.is_empty() || before.ends_with('\n') {
            return Self::replace(&whole_lines(text, span), "");
        }
        Self::remove_item(text, span)
    }

    /// Takes out an item of a list, or a key of an inline table, with one of the commas beside it.
    pub(super) fn remove_item(text: &str, span: &Range<usize>) -> Self {
        let blank = [' ', '\t', '\n', '\r'];
        let after = &text[span.end..];
        if let Some(rest) = after.trim_start_matches(blank).strip_prefix(',') {
            let next = text.len() - rest.trim_start_matches(blank).len();
            return Self::replace(&(span.start..next), "");
        }
        let before = text[..span.start].trim_end_matches(blank);
        let start = before
            .strip_suffix(',')
            .map_or(before.len(), |before| before.trim_end_matches(blank).len());
        Self::replace(&(start..span.end), "")
    }

    /// Takes out a table of a list: an inline one as an item, else its header at `header` and all
    /// lines to `end`, and the empty line that parted it from the next.
    pub(super) fn remove_table(text: &str, header: &Range<usize>, end: usize) -> Self {
        if text[header.start..].starts_with('{') {
            return Self::remove_item(text, header);
        }
        let mut lines = whole_lines(text, &(header.start..end.max(header.end)));
        if text[lines.end..].starts_with('\n') {
            lines.end += 1;
        }
        Self::replace(&lines, "")
    }

    /// Puts `entry`, a `key = value`, into the table that is at `span`: into its braces, or under
    /// its header. A table without either, such as that of a dotted key, cannot be edited so.
    pub(super) fn add_key(text: &str, span: &Range<usize>, entry: &str) -> Self {
        let written = text.get(span.clone()).unwrap_or_default();
        if written.starts_with('[') {
            let ends = text[span.end..].find('\n').map(|at| span.end + at);
            let at = ends.unwrap_or(text.len());
            return Self::replace(&(at..at), format!("\n{entry}"));
        }
        let Some(inside) = written
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        else {
            return Self::none();
        };
        let kept = inside.trim_end();
        let at = span.start + 1 + kept.len();
        let whole = at..span.end - 1;
        match kept.trim() {
            "" => Self::replace(&(span.start + 1..span.end - 1), format!(" {entry} ")),
            _ => Self::replace(&whole, format!(", {entry} ")),
        }
    }

    /// Puts `item` at the end of the list that is at `span`.
    pub(super) fn add_item(text: &str, span: &Range<usize>, item: &str) -> Self {
        let written = text.get(span.clone()).unwrap_or_default();
        let Some(inside) = written
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        else {
            return Self::none();
        };
        let kept = inside.trim_end();
        let at = span.start + 1 + kept.len();
        let comma = match kept.trim() {
            "" => "",
            some if some.ends_with(',') => " ",
            _ => ", ",
        };
        Self::replace(&(at..at), format!("{comma}{item}"))
    }

    /// Puts `lines` at the end of the file, after an empty line.
    pub(super) fn append(text: &str, lines: &str) -> Self {
        let kept = text.trim_end();
        Self::replace(&(kept.len()..text.len()), format!("\n\n{lines}\n"))
    }

    /// Both, if both are something.
    #[must_use]
    pub(super) fn and(mut self, other: Self) -> Self {
        if self.0.is_empty() || other.0.is_empty() {
            return Self::none();
        }
        self.0.extend(other.0);
        self
    }

    pub(super) fn edits(self) -> Vec<(Range<usize>, String)> {
        self.0
    }
}

impl From<Option<Self>> for Fix {
    fn from(fix: Option<Self>) -> Self {
        fix.unwrap_or_default()
    }
}

/// The whole lines that `span` is on, the last one's end included.
fn whole_lines(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n');
    start..end.map_or(text.len(), |at| span.end + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the edits of `fix` make of `text`.
    fn applied(text: &str, fix: Fix) -> String {
        let mut text = text.to_owned();
        let mut edits = fix.edits();
        edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, with) in edits {
            text.replace_range(span, &with);
        }
        text
    }

    fn span(text: &str, of: &str) -> Range<usize> {
        let at = text.find(of).unwrap();
        at..at + of.len()
    }

    #[test]
    fn what_is_taken_out_leaves_what_a_person_would_have_written() {
        for (text, gone, left) in [
            ("a = 1\nb = 2\n", "a = 1", "b = 2\n"),
            ("a = 1 # one\nb = 2\n", "a = 1", "b = 2\n"),
            ("a = 1\nb = 2", "b = 2", "a = 1\n"),
            ("t = { a = 1, b = 2 }", "a = 1", "t = { b = 2 }"),
            ("t = { a = 1, b = 2 }", "b = 2", "t = { a = 1 }"),
            ("t = { a = 1 }", "a = 1", "t = { }"),
        ] {
            let fix = Fix::remove_key(text, &span(text, gone));
            assert_eq!(applied(text, fix), left, "{text}");
        }
        for (text, gone, left) in [
            ("l = [\"a\", \"b\"]", "\"a\"", "l = [\"b\"]"),
            ("l = [\"a\", \"b\"]", "\"b\"", "l = [\"a\"]"),
            ("l = [\n  1,\n  2\n]", "2", "l = [\n  1\n]"),
            ("l = [{ a = 1 }]", "{ a = 1 }", "l = []"),
        ] {
            let fix = Fix::remove_item(text, &span(text, gone));
            assert_eq!(applied(text, fix), left, "{text}");
        }
        let text = "[[p]]\na = 1\n\n[[p]]\na = 2\n\n[q]\n";
        let second = text.rfind("[[p]]").unwrap();
        let fix = Fix::remove_table(text, &(second..second + 5), text.find(" 2").unwrap() + 2);
        assert_eq!(applied(text, fix), "[[p]]\na = 1\n\n[q]\n");
    }

    #[test]
    fn what_is_put_in_stands_where_it_belongs() {
        for (text, table, made) in [
            ("[t]\na = 1\n", "[t]", "[t]\nk = 0\na = 1\n"),
            ("[t] # x\n", "[t]", "[t] # x\nk = 0\n"),
            ("t = {}", "{}", "t = { k = 0 }"),
            ("t = { a = 1 }", "{ a = 1 }", "t = { a = 1, k = 0 }"),
            ("t.a = 1", "t.a", "t.a = 1"),
        ] {
            let fix = Fix::add_key(text, &span(text, table), "k = 0");
            assert_eq!(applied(text, fix), made, "{text}");
        }
        for (text, list, made) in [
            ("l = []", "[]", "l = [9]"),
            ("l = [1]", "[1]", "l = [1, 9]"),
            ("l = [\n  1,\n]", "[\n  1,\n]", "l = [\n  1, 9\n]"),
        ] {
            let fix = Fix::add_item(text, &span(text, list), "9");
            assert_eq!(applied(text, fix), made, "{text}");
        }
        assert_eq!(
            applied("a = 1\n\n\n", Fix::append("a = 1\n\n\n", "[t]")),
            "a = 1\n\n[t]\n"
        );
    }
}
