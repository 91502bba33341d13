//! Syntax errors: what to say of text that is not TOML, and how much of the rest to believe.

use toml::de::{DeTable, DeValue, Error};

use super::secrets::sounds_secret;
use crate::config::codes;
use crate::config::problem::Problems;

/// Reports syntax errors, one for each line, and tells from where on the tree cannot be trusted.
///
/// A bracket that is never closed swallows the rest of the file, and everything in it looks
/// wrong: then the bracket is the one thing to report.
pub(super) fn report(
    errors: &[Error],
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
        .filter_map(Error::span)
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
        mask_line(text, span.start, problems);
        // An error that is between two characters is shown at the one that follows.
        let end = span.end.max((span.start + 1).min(text.len()));
        let problem = problems.at(
            codes::SYNTAX,
            &(span.start..end),
            format!("this is not TOML: {message}"),
        );
        if message == "duplicate key" {
            problem
                .label("it was written before")
                .help("keep one of the two");
        }
    }
    if let Some(at) = wreck {
        mask_line(text, at, problems);
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

/// Hides what follows the `=` of a line that may hold a secret: what it means is not known.
fn mask_line(text: &str, at: usize, problems: &mut Problems<'_>) {
    let Some((before, after)) = text.split_at_checked(at.min(text.len())) else {
        return;
    };
    let begins = before.rfind('\n').map_or(0, |end| end + 1);
    let ends = after
        .find('\n')
        .map_or(text.len(), |end| before.len() + end);
    let line = &text[begins..ends];
    if let Some(equals) = line.find('=').filter(|_| sounds_secret(line)) {
        problems.mask(&(begins + equals + 1..ends));
    }
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
