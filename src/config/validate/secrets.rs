//! Secrets: from where they are kept to what they are.
//!
//! Owns reading them. Invariant: no problem says what a secret is, not even in part.

use super::Scope;
use crate::config::codes;
use crate::config::problem::Problems;
use crate::config::raw::{At, Kept};
use crate::config::source;
use crate::words::secret::Secret;

/// Longer than any key or JSON web token that a header should carry.
const LENGTH_MAX: usize = 16 * 1024;

/// What clients of the data listeners have to present.
pub(super) fn token(scope: &Scope<'_>, problems: &mut Problems<'_>) -> Option<Secret> {
    let kept = scope.root.table("listen").get::<&Kept>("token")?;
    read(scope, "listen.token", &kept, problems)
}

/// The secret `what`; `None` if it cannot be had, which is reported.
pub(super) fn read(
    scope: &Scope<'_>,
    what: &str,
    kept: &At<&Kept>,
    problems: &mut Problems<'_>,
) -> Option<Secret> {
    let text = match kept.value {
        Kept::Env(name) => variable(scope, what, name, kept, problems)?,
        Kept::File(path) => file(what, path, kept, problems)?,
    };
    let help = "a header's value has visible ASCII characters and single blanks between them";
    let fit = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.len() > LENGTH_MAX || !text.bytes().all(fit) || text != text.trim() {
        problems
            .at(
                codes::SECRET,
                &kept.span,
                format!("{what} holds what no header can carry"),
            )
            .help(help);
        return None;
    }
    Some(Secret::new(&text))
}

fn variable(
    scope: &Scope<'_>,
    what: &str,
    name: &str,
    kept: &At<&Kept>,
    problems: &mut Problems<'_>,
) -> Option<String> {
    let value = scope.env.secret(name);
    if value.is_none() {
        problems
            .at(
                codes::UNSET_VARIABLE,
                &kept.span,
                format!("{what}: the environment variable {name} is not set, or empty"),
            )
            .help("set it");
    }
    value.map(str::to_owned)
}

/// The text of a file, without the end of its last line.
fn file(what: &str, path: &str, kept: &At<&Kept>, problems: &mut Problems<'_>) -> Option<String> {
    let path = problems.file(path, &kept.span);
    let read = source::bytes(&path).map_err(|report| report.problems[0].message.clone());
    let text = read.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| format!("{} is not text", path.display()))
    });
    let text = text.and_then(|text| {
        let text = text.trim_end_matches(['\r', '\n']);
        let filled = (!text.trim().is_empty()).then(|| text.to_owned());
        filled.ok_or_else(|| format!("{} is empty", path.display()))
    });
    match text {
        Ok(text) => Some(text),
        Err(why) => {
            problems
                .at(codes::SECRET, &kept.span, format!("{what}: {why}"))
                .help("the file holds the secret and nothing else; paths begin beside this file");
            None
        }
    }
}
