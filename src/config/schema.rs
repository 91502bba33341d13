//! The table of keys for others: as JSON Schema for editors, as tables for people.
//!
//! Owns how a shape of the table looks in both. Pure. Invariant: what the parser accepts, the
//! schema accepts too; what the schema refuses is refused by the parser. The schema is draft 7, the
//! newest that TOML editors understand, and sees dates as strings, as they do.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::raw::{KEPT, ROOT, Row, Shape};
use crate::words::names::NAME_MAX;

/// The JSON Schema of `routing.toml`.
pub fn json_schema() -> Value {
    let mut schema = table(ROOT);
    let about = [
        ("$schema", json!("http://json-schema.org/draft-07/schema#")),
        ("title", json!("routing.toml of tailhop")),
        (
            "description",
            json!("Which machines there are, what they offer, and which of them is active when."),
        ),
    ];
    if let Some(object) = schema.as_object_mut() {
        object.extend(about.map(|(key, value)| (key.to_owned(), value)));
    }
    schema
}

/// An object with these keys and no others.
fn table(rows: &[Row]) -> Value {
    let properties: Map<_, _> = rows
        .iter()
        .map(|row| (row.key.to_owned(), property(row)))
        .collect();
    let required: Vec<_> = rows
        .iter()
        .filter(|row| row.default.is_none())
        .map(|row| row.key)
        .collect();
    let mut table = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

/// One key: its shape, what it is for, and what holds without it.
fn property(row: &Row) -> Value {
    let mut property = shape(row.shape);
    let mut about = row.about.to_owned();
    if let Some(unit) = unit(row.shape) {
        about += &format!(" ({unit})");
    }
    if let Some(default) = row.default.filter(|default| !default.is_empty()) {
        match written(default) {
            Some(value) => property["default"] = value,
            None => about += &format!(". Default: {default}"),
        }
    }
    if let Some(variable) = row.variable {
        about += &format!(". The environment variable {variable} comes before it");
    }
    property["description"] = json!(about);
    property
}

/// A default that is one value.
fn written(default: &str) -> Option<Value> {
    match default {
        "{}" | "[]" => None,
        _ => serde_json::from_str(default).ok(),
    }
}

/// What a value is counted in, where that is not plain from its shape.
fn unit(shape: Shape) -> Option<&'static str> {
    match shape {
        Shape::Duration => Some("a duration with its unit, from 1ms to 24h"),
        Shape::Bound => Some("a duration with its unit, from 1ms to 24h, or \"none\""),
        Shape::Address => Some("IP address and port"),
        Shape::Moment => Some("a date or a time"),
        _ => None,
    }
}

fn shape(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Word(words) => any_of(&json!({ "enum": words() })),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Port | Shape::Count => json!({ "type": "integer", "minimum": 1, "maximum": 65535 }),
        Shape::Many => json!({ "type": "integer", "minimum": 1 }),
        Shape::Address => {
            pattern(r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}$")
        }
        Shape::Duration => pattern(r"[0-9].*[A-Za-zµμ]|^[Pp].*[0-9]"),
        Shape::Bound => any_of(&json!({
            "anyOf": [{ "const": "none" }, { "type": "string", "pattern": r"[0-9].*[A-Za-zµμ]" }],
        })),
        Shape::Moment => pattern(r"^[-+]?[0-9]{4,6}-?[0-9]{2}-?[0-9]{2}"),
        Shape::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Secret => secret(),
        Shape::Secrets => json!({ "type": "object", "additionalProperties": secret() }),
        Shape::Table(rows) => table(rows),
        Shape::Named(rows) => json!({
            "type": "object",
            "propertyNames": { "pattern": format!("^[0-9A-Za-z][0-9A-Za-z_-]{{0,{}}}$", NAME_MAX - 1) },
            "additionalProperties": table(rows),
            "minProperties": 1,
        }),
        Shape::Tables(rows) => json!({ "type": "array", "items": table(rows) }),
    }
}

fn secret() -> Value {
    let mut secret = table(KEPT);
    secret["minProperties"] = json!(1);
    secret["maxProperties"] = json!(1);
    secret
}

/// A string of this form, or one that a variable gives its form.
fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "anyOf": [{ "pattern": pattern }, { "pattern": VARIABLE }] })
}

fn any_of(schema: &Value) -> Value {
    json!({ "type": "string", "anyOf": [schema, { "pattern": VARIABLE }] })
}

/// What only the parser can judge, as it knows the environment.
const VARIABLE: &str = r"\$";

/// The key tables of `config/README.md`, by the name of their place there.
pub fn key_tables() -> Vec<(&'static str, String)> {
    let mut tables = vec![("root", markdown(ROOT))];
    collect(ROOT, &mut tables);
    tables
}

/// The tables of inner keys, each once: `timeouts` and `effects` stand in several places.
fn collect(rows: &[Row], tables: &mut Vec<(&'static str, String)>) {
    for row in rows {
        let (Shape::Table(inner) | Shape::Named(inner) | Shape::Tables(inner)) = row.shape else {
            continue;
        };
        if tables.iter().all(|(name, _)| *name != row.key) {
            tables.push((row.key, markdown(inner)));
            collect(inner, tables);
        }
    }
}

fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| key | takes | default | |\n|---|---|---|---|\n");
    for row in rows {
        let default = match row.default {
            None => "required".to_owned(),
            Some(value) if written(value).is_some() => format!("`{value}`"),
            Some("[]" | "{}") => "none".to_owned(),
            Some(words) => quoted(words),
        };
        let variable = row
            .variable
            .map_or(String::new(), |name| format!("; or `{name}`"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {}{variable} |",
            row.key,
            takes(row.shape),
            row.about
        );
    }
    text
}

/// Values among words as code.
fn quoted(words: &str) -> String {
    let mut text = String::new();
    for (place, part) in words.split('"').enumerate() {
        match place % 2 {
            0 => text += part,
            _ => text += &format!("`\"{part}\"`"),
        }
    }
    text
}

/// What a shape is called in a table.
fn takes(shape: Shape) -> String {
    match shape {
        Shape::Text => "string".to_owned(),
        Shape::Word(words) => {
            let words = words().into_iter().map(|word| format!("`\"{word}\"`"));
            words.collect::<Vec<_>>().join(", ")
        }
        Shape::Flag => "`true`, `false`".to_owned(),
        Shape::Port | Shape::Count => "1 to 65535".to_owned(),
        Shape::Many => "1 or more".to_owned(),
        Shape::Address => "IP:port".to_owned(),
        Shape::Duration => "duration".to_owned(),
        Shape::Bound => "duration, `\"none\"`".to_owned(),
        Shape::Moment => "date or time".to_owned(),
        Shape::Texts => "list of strings".to_owned(),
        Shape::Secret => "secret".to_owned(),
        Shape::Secrets => "header = secret".to_owned(),
        Shape::Table(_) => "table".to_owned(),
        Shape::Named(_) => "named tables".to_owned(),
        Shape::Tables(_) => "list of tables".to_owned(),
    }
}
