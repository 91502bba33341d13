//! The environment: six variables that overlay the file, and `${VAR}` inside its strings.
//!
//! Owns the only place where configuration reads the process environment. Must not change it and
//! never shows values it was not asked for: `Debug` prints names only. Empty counts as unset, as
//! deployment tools cannot remove a variable, only empty it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use super::fix::Fix;
use super::problem::quote;

/// The tailnet's MagicDNS name, with or without `.ts.net`.
pub(super) const TAILNET_NAME: &str = "TAILNET_NAME";
/// When the switch happens.
pub(super) const SWITCH_DATE: &str = "SWITCH_DATE";
/// The emergency order.
pub(super) const ACTIVE_BACKEND: &str = "ACTIVE_BACKEND";
/// A token of the admin listener that may give orders.
pub(super) const ADMIN_API_KEY: &str = "ADMIN_API_KEY";
/// Whether the admin listener takes orders at all.
pub(super) const ADMIN_FUNCTIONS_ENABLED: &str = "ADMIN_FUNCTIONS_ENABLED";
/// Cloud Run sets it: its request timeout is near.
pub(super) const K_SERVICE: &str = "K_SERVICE";

/// Whose traces they are that the log names.
const GOOGLE_CLOUD_PROJECT: &str = "GOOGLE_CLOUD_PROJECT";

/// A copy of the environment.
#[derive(Clone, Default)]
pub struct Environment {
    /// `None`: set, and not UTF-8.
    variables: BTreeMap<String, Option<String>>,
}

/// Why a string cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// A variable is needed and not set; why it is needed, when the file says so.
    Unset { name: String, why: Option<String> },
    /// It is not UTF-8.
    NotUtf8 { name: String },
    /// What stands in the string is none of the forms.
    Form { found: String, help: &'static str },
}

impl Environment {
    /// The environment of this process.
    pub fn from_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, text(value))))
            .collect();
        Self { variables }
    }

    /// An environment of just these, for tests and dry runs.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let pairs = pairs.into_iter();
        Self {
            variables: pairs
                .map(|(name, value)| (name.into(), Some(value.into())))
                .collect(),
        }
    }

    /// The value of a variable that overlays the file, without blanks around it. `None` when it
    /// is unset or blank. A value that is not UTF-8 comes with U+FFFD, so that its check fails.
    pub(super) fn overlay(&self, name: &str) -> Option<&str> {
        let value = self
            .variables
            .get(name)?
            .as_deref()
            .unwrap_or("\u{fffd}")
            .trim();
        (!value.is_empty()).then_some(value)
    }

    /// The secret that a variable holds, without a line's end after it. `None` when it is unset
    /// or empty; what is not UTF-8 cannot be a header's value.
    pub(super) fn secret(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?.as_deref()?;
        let value = value.trim_end_matches(['\r', '\n']);
        (!value.is_empty()).then_some(value)
    }

    /// The project of Google's cloud that we run in, if somebody says so.
    pub fn cloud_project(&self) -> Option<&str> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-:.".contains(letter);
        let project = self.overlay(GOOGLE_CLOUD_PROJECT)?;
        project.chars().all(plain).then_some(project)
    }

    /// Whether Cloud Run runs us.
    pub fn on_cloud_run(&self) -> bool {
        self.overlay(K_SERVICE).is_some()
    }

    /// The port that the platform gives to the app.
    pub fn port(&self) -> Option<u16> {
        self.overlay("PORT")?.parse().ok()
    }

    /// `text` with every `${VAR}`, `${VAR:-default}`, `${VAR:?why}` replaced and `$$` made `$`.
    pub(super) fn expand(&self, text: &str) -> Result<String, Vec<Unexpanded>> {
        let mut expanded = String::with_capacity(text.len());
        let mut wrong = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            let (value, length) = self.one(&rest[at..]);
            match value {
                Ok(value) => expanded.push_str(value),
                Err(reason) => wrong.push(reason),
            }
            rest = &rest[at + length..];
        }
        expanded.push_str(rest);
        if wrong.is_empty() {
            Ok(expanded)
        } else {
            Err(wrong)
        }
    }

    /// What the form at the start of `text` stands for, and its length in bytes.
    fn one<'a>(&'a self, text: &'a str) -> (Result<&'a str, Unexpanded>, usize) {
        if text.starts_with("$$") {
            return (Ok("$"), 2);
        }
        let Some(inside) = text.strip_prefix("${") else {
            let help = "write ${NAME} for a variable, $$ for a dollar";
            return (
                Err(Unexpanded::Form {
                    found: "$".to_owned(),
                    help,
                }),
                1,
            );
        };
        let Some(end) = inside.find('}') else {
            let help = "close it with }";
            return (
                Err(Unexpanded::Form {
                    found: text.to_owned(),
                    help,
                }),
                text.len(),
            );
        };
        (self.form(&inside[..end]), "${".len() + end + "}".len())
    }

    /// The value of what stands between the braces.
    fn form<'a>(&'a self, form: &'a str) -> Result<&'a str, Unexpanded> {
        let (name, operator) = form.split_at(form.find(':').unwrap_or(form.len()));
        let wrong = |help| Unexpanded::Form {
            found: format!("${{{form}}}"),
            help,
        };
        if !is_variable(name) {
            return Err(wrong(
                "a variable has letters, digits and _, and no digit first",
            ));
        }
        if operator.contains('$') {
            return Err(wrong("forms cannot stand inside each other"));
        }
        let value = match self.variables.get(name) {
            Some(None) => {
                return Err(Unexpanded::NotUtf8 {
                    name: name.to_owned(),
                });
            }
            Some(Some(value)) => Some(value.as_str()),
            None => None,
        };
        let unset = |why: Option<&str>| Unexpanded::Unset {
            name: name.to_owned(),
            why: why.filter(|why| !why.is_empty()).map(str::to_owned),
        };
        let filled = value.filter(|value| !value.is_empty());
        if operator.is_empty() {
            value.ok_or_else(|| unset(None))
        } else if let Some(default) = operator.strip_prefix(":-") {
            Ok(filled.unwrap_or(default))
        } else if let Some(why) = operator.strip_prefix(":?") {
            filled.ok_or_else(|| unset(Some(why)))
        } else {
            Err(wrong(
                "the forms are ${NAME}, ${NAME:-default} and ${NAME:?why}",
            ))
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Unexpanded {
    /// What to say of it, and what to do.
    pub(super) fn message_and_help(&self) -> (String, String) {
        match self {
            Self::Unset { name, why: None } => (
                format!("the environment variable {name} is not set"),
                format!("set it, or write ${{{name}:-default}}"),
            ),
            Self::Unset {
                name,
                why: Some(why),
            } => (
                format!("the environment variable {name} is not set: {why}"),
                "set it".to_owned(),
            ),
            Self::NotUtf8 { name } => (
                format!("the environment variable {name} is not UTF-8"),
                "set it to text".to_owned(),
            ),
            Self::Form { found, help } => (
                format!("{} is no form of a variable", quote(found)),
                (*help).to_owned(),
            ),
        }
    }

    /// How the string at `span` is mended, if that is clear.
    pub(super) fn fix(&self, text: &str, span: &Range<usize>) -> Fix {
        let Self::Form { found, .. } = self else {
            return Fix::none();
        };
        let written = text.get(span.clone()).unwrap_or_default();
        match found.as_str() {
            "$" => lone_dollar(written, span),
            found if found.starts_with("${") && !found.contains('}') => {
                Fix::replace(&(span.end - 1..span.end - 1), "}")
            }
            _ => Fix::none(),
        }
    }
}

/// A dollar before a name is a variable without braces; any other is a dollar.
fn lone_dollar(written: &str, span: &Range<usize>) -> Fix {
    let alone = |at: &usize| {
        let before = written[..*at].ends_with('$');
        !before && !written[at + 1..].starts_with(['$', '{'])
    };
    let mut dollars = written.match_indices('$').map(|(at, _)| at).filter(alone);
    let (Some(at), None) = (dollars.next(), dollars.next()) else {
        return Fix::none();
    };
    let rest = &written[at + 1..];
    let name = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .map_or(rest, |end| &rest[..end]);
    let at = span.start + at;
    if is_variable(name) {
        return Fix::replace(&(at..at + 1 + name.len()), format!("${{{name}}}"));
    }
    Fix::replace(&(at..at + 1), "$$")
}

pub(super) fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(plain) && !name.is_empty() && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::from_pairs([
            ("TIER", "production"),
            ("EMPTY", ""),
            ("TEXT", "a\"\n${TIER}"),
        ])
    }

    #[test]
    fn each_form_expands_inside_a_string() {
        for (text, expanded) in [
            ("plain", "plain"),
            ("${TIER}", "production"),
            ("a-${TIER}-b-${TIER}", "a-production-b-production"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${ABSENT:-}", ""),
            ("${ABSENT:-a b:c}", "a b:c"),
            ("${TIER:-x}", "production"),
            ("${TIER:?why}", "production"),
            ("$$5 $${TIER}", "$5 ${TIER}"),
            ("日${TIER}本", "日production本"),
            // What a variable holds is data: neither syntax nor expanded again.
            ("${TEXT}", "a\"\n${TIER}"),
        ] {
            assert_eq!(
                environment().expand(text).as_deref(),
                Ok(expanded),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_expanded_says_why_and_everything_is_said_at_once() {
        for (text, words) in [
            ("${ABSENT}", "ABSENT is not set"),
            ("${ABSENT:?ask ops}", "ABSENT is not set: ask ops"),
            ("${EMPTY:?}", "EMPTY is not set"),
            ("5$", "\"$\" is no form"),
            ("$TIER", "\"$\" is no form"),
            ("${TIER", "\"${TIER\" is no form"),
            ("${}", "\"${}\" is no form"),
            ("${1A}", "\"${1A}\" is no form"),
            ("${TIER:+x}", "\"${TIER:+x}\" is no form"),
            ("${ABSENT:-${TIER}}", "is no form"),
        ] {
            let wrong = environment().expand(text).unwrap_err();
            let (message, help) = wrong[0].message_and_help();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!help.is_empty(), "{text}");
        }
        assert_eq!(environment().expand("${A} ${B} $").unwrap_err().len(), 3);
    }

    #[test]
    fn blank_overlays_are_unset() {
        let env = Environment::from_pairs([("ACTIVE_BACKEND", " "), ("TAILNET_NAME", " tail1 ")]);
        assert_eq!(env.overlay(ACTIVE_BACKEND), None);
        assert_eq!(env.overlay(TAILNET_NAME), Some("tail1"));
        assert_eq!(env.overlay(SWITCH_DATE), None);
        assert!(!env.on_cloud_run());
    }

    #[test]
    fn debug_output_has_no_values() {
        let shown = format!("{:?}", Environment::from_pairs([("QDRANT_KEY", "s3cret")]));
        assert_eq!(shown, "{\"QDRANT_KEY\"}");
    }
}
