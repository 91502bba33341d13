//! What each code means: the sections of `config/PROBLEMS.md`.
//!
//! Owns reading that text, nothing of what is in it: what people read there, `check --explain`
//! and the `why` of a problem are the same words.

/// The text, a section for each code.
const TEXT: &str = include_str!("../../config/PROBLEMS.md");

/// The section of `code`, without its heading's mark; `None` if there is no such code.
pub fn explain(code: &str) -> Option<&'static str> {
    let (_, section) = sections().find(|(id, _)| id.eq_ignore_ascii_case(code))?;
    Some(section)
}

/// Every code that there is.
pub fn codes() -> impl Iterator<Item = &'static str> {
    sections().map(|(id, _)| id)
}

/// Why a problem of this code matters: the first paragraph of its section, as one line.
pub(super) fn why(code: &str) -> String {
    let paragraph = explain(code).and_then(|section| section.split("\n\n").nth(1));
    let words: Vec<_> = paragraph.unwrap_or_default().split_whitespace().collect();
    words.join(" ")
}

/// Codes with their sections, which begin with the code.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let parts = TEXT.split("\n## ").skip(1);
    parts.filter_map(|section| {
        let (id, _) = section.split_once(' ')?;
        Some((id, section.trim_end()))
    })
}
