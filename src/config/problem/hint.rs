//! Which word was meant, and how words of the file stand in a message.

use std::borrow::Cow;

/// Longer values are cut in messages.
const QUOTED: usize = 60;

/// What to say of a word that is unknown.
#[derive(Debug)]
pub(in crate::config) struct Hint {
    /// In words.
    pub(in crate::config) help: String,
    /// The word to write instead, if it is clear.
    pub(in crate::config) meant: Option<String>,
}

/// What to say when `word` is unknown: the known word that was probably meant, or all of them.
pub(in crate::config) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Hint {
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
pub(in crate::config) fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
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
pub(in crate::config) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// `text` in quotes, cut when it is long, with nothing in it that a terminal would obey.
pub(in crate::config) fn quote(text: &str) -> String {
    let cut: Cow<'_, str> = match text.char_indices().nth(QUOTED) {
        Some((at, _)) => format!("{}...", &text[..at]).into(),
        None => text.into(),
    };
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
