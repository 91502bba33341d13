//! `effects`: what requests to a service of kind `http` may do, where the method does not tell.

use http::Method;

use crate::api::rules::{Pattern, Rule};
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Table};
use crate::words::effect::Effect;
use crate::words::names::Kind;

/// The rules under `effects`; `None` if there is no such key.
pub(super) fn read(table: &Table, kind: Kind, problems: &mut Problems<'_>) -> Option<Vec<Rule>> {
    let tables = table.tables("effects")?;
    if kind != Kind::Http {
        let span = table.span_of("effects");
        let inline = problems.text()[span.start..].starts_with('[')
            && !problems.text()[span.start..].starts_with("[[");
        let entry = table.entry("effects").filter(|_| inline);
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(
                codes::VALUE,
                span,
                format!("effects are for kind http, and this is {kind}"),
            )
            .help("remove it: what each of its requests does is known")
            .fix(fix);
        return None;
    }
    Some(
        tables
            .iter()
            .filter_map(|table| rule(table, problems))
            .collect(),
    )
}

fn rule(table: &Table, problems: &mut Problems<'_>) -> Option<Rule> {
    let methods = each(table, "methods", problems, method);
    let paths = each(table, "paths", problems, Pattern::new);
    if !table.has("methods") && !table.has("paths") {
        problems
            .at(
                codes::VALUE,
                table.span_of("effect"),
                "this rule matches every request",
            )
            .help("say which it is for, by methods = [..], paths = [..] or both");
    }
    let word = table.get::<&str>("effect")?.value;
    let effect = Effect::ALL
        .into_iter()
        .find(|effect| effect.as_str() == word)?;
    Some(Rule {
        methods,
        paths,
        effect,
    })
}

/// The entries of a list that are right.
fn each<T>(
    table: &Table,
    key: &str,
    problems: &mut Problems<'_>,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Vec<T> {
    let Some(At { value, span }) = table.get::<&[At<String>]>(key) else {
        return Vec::new();
    };
    if value.is_empty() {
        let entry = table.entry(key);
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(codes::VALUE, &span, format!("{key} names none"))
            .help("name one, or leave the key out for all")
            .fix(fix);
    }
    let mut found = Vec::new();
    for At { value, span } in value {
        match read(value) {
            Ok(one) => found.push(one),
            Err(help) => {
                let message = format!("{key} cannot have {}", quote(value));
                let upper = value.to_ascii_uppercase();
                let fix = read(&upper)
                    .ok()
                    .filter(|_| *value != upper && key == "methods");
                let fix = fix.map(|_| Fix::string(problems.text(), span, &upper));
                problems.at(codes::VALUE, span, message).help(help).fix(fix);
            }
        }
    }
    found
}

fn method(text: &str) -> Result<Method, &'static str> {
    let upper = text
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    let known = Method::from_bytes(text.as_bytes());
    known
        .ok()
        .filter(|_| upper)
        .ok_or("write a method in capitals, such as \"POST\"")
}
