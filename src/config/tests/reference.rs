//! The table of keys as others see it: schema, reference, effective values. With `TAILHOP_BLESS=1`
//! the generated files are written instead of compared.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::super::raw::ROOT;
use super::keys::{Files, example, leaves};
use super::*;
use crate::config::{codes, effective, explain, json_schema, key_tables};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares what is in a file with what was generated for it.
fn current(path: &str, generated: &str) {
    if std::env::var_os("TAILHOP_BLESS").is_some() {
        fs::write(root(path), generated).unwrap();
    }
    let there = fs::read_to_string(root(path)).unwrap_or_default();
    assert!(
        there == generated,
        "{path} is not current: bless it with TAILHOP_BLESS=1"
    );
}

fn validator() -> Validator {
    jsonschema::draft7::new(&json_schema()).unwrap()
}

/// A file as editors see it: dates are strings. `None`: it is no TOML.
fn as_json(text: &str) -> Option<Value> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    errors.is_empty().then(|| of_table(tree.get_ref()))
}

fn of_table(table: &DeTable<'_>) -> Value {
    let entries = table.iter();
    let entries =
        entries.map(|(key, value)| (key.get_ref().to_string(), of_value(value.get_ref())));
    Value::Object(entries.collect())
}

fn of_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .unwrap()
            .into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(moment) => moment.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| of_value(item.get_ref())).collect(),
        DeValue::Table(table) => of_table(table),
    }
}

#[test]
fn the_schema_beside_the_example_is_current() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    current("config/routing.schema.json", &schema);
    jsonschema::meta::validate(&json_schema()).unwrap();
}

#[test]
fn the_key_tables_of_the_reference_are_current() {
    let mut readme = fs::read_to_string(root("config/README.md")).unwrap();
    for (name, table) in key_tables() {
        let mark = format!("<!-- keys: {name} -->\n");
        let (before, rest) = readme
            .split_once(&mark)
            .unwrap_or_else(|| panic!("no {mark}"));
        let (_, after) = rest.split_once("<!-- /keys -->").unwrap();
        readme = format!("{before}{mark}{table}<!-- /keys -->{after}");
    }
    current("config/README.md", &readme);
}

#[test]
fn what_is_valid_passes_the_schema() {
    let schema = validator();
    let mut files = vec![MAIN.to_owned()];
    let shipped = ["config/examples", "sidecar/compose"].map(root);
    let shipped = shipped
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let shipped = shipped.map(|entry| entry.unwrap().path());
    let examples: Vec<_> = shipped
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(examples.len(), 6);
    files.extend(examples);
    files.extend(
        fs::read_dir(root("tests/gallery"))
            .unwrap()
            .filter_map(|entry| {
                let path = entry.unwrap().path();
                let fixed = path.to_str().unwrap().ends_with(".fixed.toml");
                fixed.then(|| fs::read_to_string(path).unwrap())
            }),
    );
    let blocks = codes().flat_map(|code| explain(code).unwrap().split("```toml right").skip(1));
    files.extend(blocks.map(|block| {
        let (_, text) = block.split_once('\n').unwrap();
        text.split_once("```").unwrap().0.to_owned()
    }));
    assert!(files.len() > 70);
    for text in files {
        let file = as_json(&text).unwrap();
        let problems: Vec<_> = schema
            .iter_errors(&file)
            .map(|error| error.to_string())
            .collect();
        assert_eq!(problems, Vec::<String>::new(), "{text}");
    }
}

#[test]
fn schema_and_parser_agree_on_the_gallery() {
    let schema = validator();
    let mut structural = 0;
    for entry in fs::read_dir(root("tests/gallery")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let Some(file) = as_json(&text) else { continue };
        let report = load_with(&text, &[("MAC", "m")]).err();
        let problems = report.map(|report| report.problems).unwrap_or_default();
        let is_structural = |code: &str| matches!(code, "E011" | "E012" | "E015" | "E027");
        let must_fail = problems.iter().any(|problem| is_structural(problem.code));
        let fails = !schema.is_valid(&file);
        structural += usize::from(must_fail);
        assert!(
            fails || !must_fail,
            "{}: the schema takes it",
            path.display()
        );
        assert!(
            !fails || !problems.is_empty(),
            "{}: the parser takes it",
            path.display()
        );
    }
    assert!(structural > 8);
}

#[test]
fn schema_and_parser_agree_on_every_key() {
    let schema = validator();
    let files = Files::new();
    let mut paths = Vec::new();
    leaves(ROOT, "", &mut paths);
    for path in paths {
        // No key takes a list of numbers.
        for (value, right) in [(example(&path), true), ("[1, 2]", false)] {
            let text = files.base_for(&path, Some(value));
            let parsed = load_with(&text, &[("SECRET", "canary")]);
            assert_eq!(parsed.is_ok(), right, "{path} = {value}");
            let file = as_json(&text).unwrap();
            assert_eq!(
                schema.is_valid(&file),
                right,
                "{path} = {value}: the schema"
            );
        }
        let key = path.rsplit('.').next().unwrap();
        let written = files.base_for(&path, Some(example(&path)));
        let line = written
            .lines()
            .find(|line| line.contains(&format!("{key} = ")));
        let misspelt = written.replacen(&format!("{key} = "), "no-such-key = ", 1);
        assert!(line.is_some() && misspelt != written, "{path}");
        assert!(!schema.is_valid(&as_json(&misspelt).unwrap()), "{misspelt}");
    }
}

#[test]
fn every_key_that_is_written_shows_where_it_stands() {
    let files = Files::new();
    let mut paths = Vec::new();
    leaves(ROOT, "", &mut paths);
    let env = Environment::from_pairs([("SECRET", "canary-31415")]);
    for path in paths {
        let last = path.rsplit('.').next().unwrap();
        let last = if path.contains("effects.") {
            "effects"
        } else {
            last
        };
        let text = files.base_for(&path, Some(example(&path)));
        let settings = effective(&Source::new("routing.toml", text), &env).unwrap();
        let line = |setting: &Setting| {
            let Setting { key, value, origin } = setting;
            format!("{key} = {value} # {origin}")
        };
        let shown = settings.iter().map(line).collect::<Vec<_>>().join("\n");
        let of_file = |setting: &Setting| {
            let named = setting.key.split('.').any(|part| part == last);
            named && setting.origin.to_string().starts_with("routing.toml:")
        };
        assert!(settings.iter().any(of_file), "{path}\n{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn each_origin_is_named() {
    let env = Environment::from_pairs([
        ("TAILNET_NAME", "tail1234"),
        ("SWITCH_DATE", "2030-03-01"),
        ("ACTIVE_BACKEND", "mac-dev1"),
        ("K_SERVICE", "x"),
    ]);
    let settings = effective(&Source::new("routing.toml", MAIN), &env).unwrap();
    let found = |key: &str| {
        let setting = settings.iter().find(|setting| setting.key == key).unwrap();
        (setting.value.as_str(), setting.origin.to_string())
    };
    for (key, value, origin) in [
        ("listen.data", "\"127.0.0.1:8484\"", "default"),
        (
            "tailnet.name",
            "\"tail1234.ts.net\"",
            "environment TAILNET_NAME",
        ),
        (
            "services.ollama.timeouts.total",
            "\"4m50s\"",
            "environment K_SERVICE",
        ),
        ("schedule.timezone", "\"Asia/Tokyo\"", "routing.toml:16"),
        (
            "schedule.switch[0].at",
            "2030-03-01T00:00:00+09:00",
            "environment SWITCH_DATE",
        ),
        ("schedule.switch[0].to", "\"mac-dev1\"", "routing.toml:18"),
        (
            "ACTIVE_BACKEND",
            "\"mac-dev1\"",
            "environment ACTIVE_BACKEND",
        ),
    ] {
        assert_eq!(found(key), (value, origin.to_owned()), "{key}");
    }
}
