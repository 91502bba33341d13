//! Secrets that stand in the file where nobody expects one: in a reason, a url, a comment.
//!
//! Owns the marks by which common kinds of keys are known. Invariant: what is found is masked in
//! every excerpt.

use super::codes;
use super::problem::Problems;

/// How a kind of key begins, its name, and how many more characters of a key it has at least.
const MARKS: &[(&str, &str, usize)] = &[
    ("tskey-", "a Tailscale key", 12),
    ("sk-", "an API key", 20),
    ("ghp_", "a GitHub token", 20),
    ("github_pat_", "a GitHub token", 20),
    ("glpat-", "a GitLab token", 16),
    ("xoxb-", "a Slack token", 16),
    ("AKIA", "an AWS key", 16),
    ("AIza", "a Google API key", 30),
    ("ya29.", "a Google access token", 20),
    ("eyJ", "a JSON web token", 40),
    ("-----BEGIN", "a private key", 5),
];

/// Warns of what looks like a secret, wherever it stands.
pub(super) fn look(problems: &mut Problems<'_>) {
    let text = problems.text();
    for (mark, what, more) in MARKS {
        for (at, _) in text.match_indices(mark) {
            let inside = text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let end = at + length(&text[at..]);
            let span = at..end;
            if inside || end - at < mark.len() + more || problems.is_masked(&span) {
                continue;
            }
            problems.mask(&span);
            problems
                .at(
                    codes::LOOKS_SECRET,
                    &span,
                    format!("this looks like {what}"),
                )
                .label("not shown")
                .help("take it out and replace it where it is valid: who reads this file has it");
        }
    }
}

/// How many bytes of `text` are of one key.
fn length(text: &str) -> usize {
    let part = |c: char| c.is_ascii_alphanumeric() || "-_./+= ".contains(c);
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    text[..end]
        .trim_end()
        .find(' ')
        .unwrap_or(text[..end].trim_end().len())
}
