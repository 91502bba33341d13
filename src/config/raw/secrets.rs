//! Secrets in the file: where they are kept, never what they are.
//!
//! Invariant: what stands where a secret is expected, and is none of the two forms, is masked in
//! every excerpt, as it may be the secret itself.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::row;
use super::walk::{Walk, join};
use super::{At, Kept, Row, Shape, Value};
use crate::config::codes;
use crate::config::env::is_variable;
use crate::config::fix::Fix;

/// The two forms.
pub(in crate::config) const KEPT: &[Row] = &[
    row(
        "env",
        Shape::Text,
        "",
        "the variable of the environment that holds it",
    ),
    row(
        "file",
        Shape::Text,
        "",
        "the file that holds it and nothing else; a relative path begins beside routing.toml",
    ),
];

const FORMS: &str = "write { env = \"NAME\" } for a variable of the environment, or \
                     { file = \"/run/secrets/name\" }";

impl Walk<'_, '_> {
    /// Where one secret is kept.
    pub(super) fn secret(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        path: &str,
    ) -> Option<Value> {
        let entries = self.in_order(table);
        let known = |key: &DeString<'_>| KEPT.iter().any(|row| row.key == &**key);
        let strangers = entries.iter().filter(|(key, _)| !known(key.get_ref()));
        let mut odd = false;
        for (key, value) in strangers {
            self.problems.mask(&value.span());
            self.unknown(key, KEPT, path);
            odd = true;
        }
        match entries.as_slice() {
            _ if odd => None,
            [(key, value)] => match (&**key.get_ref(), value.get_ref()) {
                ("env", DeValue::String(name)) => self.variable(name, &value.span(), path),
                ("file", DeValue::String(_)) => self.file(value, path),
                _ => self.plain_secret(&value.span(), path),
            },
            _ => {
                self.problems
                    .at(
                        codes::VALUE,
                        span,
                        format!("{path} has to name one place, and names {}", entries.len()),
                    )
                    .help(FORMS);
                None
            }
        }
    }

    /// Headers, each with where its value is kept.
    pub(super) fn secrets(&mut self, table: &DeTable<'_>, path: &str) -> Value {
        let mut secrets = Vec::new();
        for (key, value) in self.in_order(table) {
            let At { value: read, span } =
                self.value(value, Shape::Secret, &join(path, key.get_ref()));
            let name = At {
                value: key.get_ref().to_string(),
                span: key.span(),
            };
            if let Value::Secret(value) = read {
                secrets.push((name, At { value, span }));
            }
        }
        Value::Secrets(secrets)
    }

    /// Something stands there that may be the secret.
    pub(super) fn plain_secret(&mut self, span: &Range<usize>, path: &str) -> Option<Value> {
        self.problems.mask(span);
        self.problems
            .at(
                codes::PLAIN_SECRET,
                span,
                format!("{path} is a secret, and secrets do not stand in this file"),
            )
            .label("not shown")
            .help(FORMS)
            .fix(Fix::replace(
                span,
                format!("{{ env = \"{}\" }}", variable_for(path)),
            ));
        None
    }

    fn variable(&mut self, name: &str, span: &Range<usize>, path: &str) -> Option<Value> {
        if is_variable(name) {
            return Some(Value::Secret(Kept::Env(name.to_owned())));
        }
        self.problems.mask(span);
        self.problems
            .at(
                codes::VALUE,
                span,
                format!("{path}.env is no name of a variable"),
            )
            .label("not shown: it may be the secret itself")
            .help("a variable has letters, digits and _, and no digit first");
        None
    }

    fn file(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Option<Value> {
        match self.value(value, Shape::Text, &join(path, "file")).value {
            Value::Text(name) => Some(Value::Secret(Kept::File(name))),
            _ => None,
        }
    }
}

/// The variable that the secret of a key would stand in: `QDRANT_API_KEY`.
fn variable_for(path: &str) -> String {
    let keys: Vec<_> = path.split('.').collect();
    let name = match keys.as_slice() {
        ["backends", backend, .., header] => format!("{backend}_{header}"),
        _ => "TAILHOP_TOKEN".to_owned(),
    };
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(plain).collect();
    if is_variable(&name) {
        name
    } else {
        format!("_{name}")
    }
}

/// Whether a key, or a line of which no more is known, may be about a secret.
pub(super) fn sounds_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["token", "secret", "key", "pass", "auth", "header", "cred"]
        .iter()
        .any(|word| text.contains(word))
}
