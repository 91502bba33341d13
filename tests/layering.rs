//! The order of the modules: each may use only what stands before it.
//!
//! Reads `src/` and compares every path that begins with `crate::`, climbs with `super::`, or stands
//! in a `use` tree of either with [`ORDER`]. Reads text, not syntax: comments and strings are taken
//! out first, and macros count as what they are written as.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules, lowest first. Within a row an item may use those before it in the row.
const ORDER: [&[&str]; 15] = [
    &["words"],
    &["metrics", "api"],
    &["config"],
    &["cache"],
    &["plan", "tailnet"],
    &["wire"],
    &["migrate"],
    &["endpoint"],
    &["reload"],
    &["health"],
    &["request"],
    &["admin"],
    &["supervise"],
    &["app"],
    &["cli"],
];

/// Which module uses which, and where it was first seen.
type Uses = BTreeMap<(String, String), String>;

#[test]
fn modules_use_only_what_stands_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let uses = uses_of_tree(&src);
    assert!(
        uses.len() > 30,
        "only {} uses were found: the reader is broken",
        uses.len()
    );
    assert_eq!(against_the_order(&uses), Vec::<String>::new());
    assert_eq!(cycle(&uses), None);
    let known: BTreeSet<_> = ORDER.iter().flat_map(|row| row.iter().copied()).collect();
    for module in modules(&src) {
        assert!(
            known.contains(module.as_str()),
            "{module} has no place in the order"
        );
    }
}

/// A module, one below it, a text in it, and the modules that the text names.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const READ: [Row; 10] = [
    (
        "plan",
        "",
        "use crate::config::snapshot::Snapshot;",
        &["config"],
    ),
    (
        "words",
        "",
        "use crate::{metrics, plan::orders as o};",
        &["metrics", "plan"],
    ),
    (
        "plan",
        "",
        "use crate::{\n    api::{self, Answer},\n    words::{names::{A, B}, units},\n};",
        &["api", "words"],
    ),
    ("words", "names", "use super::super::config;", &["config"]),
    (
        "words",
        "names",
        "use super::{units, super::wire::dial};",
        &["wire"],
    ),
    ("words", "", "fn f() { super::app::run() }", &["app"]),
    (
        "words",
        "",
        "pub(in crate::plan) fn f() -> crate::cli::X { r#crate::api() }",
        &["api", "cli", "plan"],
    ),
    (
        "words",
        "",
        "// crate::cli\n/* crate::app /* nested */ crate::api */ \"crate::wire\" r#\"crate::plan\"# '\"'",
        &[],
    ),
    (
        "words",
        "",
        "mod tests { use super::config; use super::own; }",
        &[],
    ),
    (
        "words",
        "",
        "mod tests { use super::super::config; }",
        &["config"],
    ),
];

#[test]
fn each_way_to_name_a_module_is_read() {
    for (module, below, text, want) in READ {
        let mut path = vec![module.to_owned()];
        path.extend((!below.is_empty()).then(|| below.to_owned()));
        let found: Vec<_> = used(&path, text).into_iter().collect();
        assert_eq!(found, want, "{text}");
    }
}

#[test]
fn a_use_against_the_order_and_a_cycle_are_found() {
    let uses = |pairs: &[(&str, &str)]| -> Uses {
        let pair =
            |(from, to): &(&str, &str)| ((from.to_string(), to.to_string()), "here".to_owned());
        pairs.iter().map(pair).collect()
    };
    assert_eq!(
        against_the_order(&uses(&[("plan", "config"), ("api", "metrics")])),
        Vec::<String>::new()
    );
    assert_eq!(against_the_order(&uses(&[("config", "plan")])).len(), 1);
    assert_eq!(
        against_the_order(&uses(&[("metrics", "api")])).len(),
        1,
        "within a row"
    );
    assert_eq!(against_the_order(&uses(&[("plan", "nosuch")])).len(), 1);
    assert_eq!(cycle(&uses(&[("a", "b"), ("b", "c")])), None);
    assert!(cycle(&uses(&[("a", "b"), ("b", "c"), ("c", "a")])).is_some());
}

fn against_the_order(uses: &Uses) -> Vec<String> {
    let place = |module: &str| {
        let flat = ORDER.iter().flat_map(|row| row.iter());
        flat.enumerate()
            .find(|(_, name)| **name == module)
            .map(|(place, _)| place)
    };
    let wrong = |(from, to): &(String, String)| match (place(from), place(to)) {
        (Some(from), Some(to)) => to >= from,
        _ => true,
    };
    uses.iter()
        .filter(|(pair, _)| wrong(pair))
        .map(|((from, to), at)| format!("{from} must not use {to}: {at}"))
        .collect()
}

/// A module that can be reached from itself.
fn cycle(uses: &Uses) -> Option<String> {
    let next = |module: &str| -> Vec<String> {
        uses.keys()
            .filter(|(from, _)| from == module)
            .map(|(_, to)| to.clone())
            .collect()
    };
    let starts: BTreeSet<_> = uses.keys().map(|(from, _)| from.clone()).collect();
    starts.into_iter().find(|start| {
        let (mut open, mut seen) = (next(start), BTreeSet::new());
        while let Some(module) = open.pop() {
            if module == *start {
                return true;
            }
            if seen.insert(module.clone()) {
                open.extend(next(&module));
            }
        }
        false
    })
}

fn uses_of_tree(src: &Path) -> Uses {
    let mut uses = Uses::new();
    for file in files(src) {
        let path = module_path(file.strip_prefix(src).unwrap());
        let Some(module) = path.first().cloned() else {
            continue;
        };
        for to in used(&path, &fs::read_to_string(&file).unwrap()) {
            uses.entry((module.clone(), to))
                .or_insert_with(|| file.display().to_string());
        }
    }
    uses
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
    found
}

fn modules(src: &Path) -> BTreeSet<String> {
    files(src)
        .iter()
        .filter_map(|file| {
            module_path(file.strip_prefix(src).unwrap())
                .first()
                .cloned()
        })
        .collect()
}

/// The module that a file is; the crate's own two files are none.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<_> = (file.with_extension("").iter())
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    if path == ["lib"] || path == ["main"] {
        Vec::new()
    } else {
        path
    }
}

/// The other modules of the crate that `text`, which is the module `path`, names.
fn used(path: &[String], text: &str) -> BTreeSet<String> {
    let text = bare(text);
    let words = words(&text);
    let mut found = BTreeSet::new();
    // The modules that are written in this text, with the depth of braces in which they stand.
    let mut inner: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < words.len() {
        match words[at] {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inner.retain(|begun| *begun <= depth);
            }
            "mod" if words.get(at + 2) == Some(&"{") => inner.push(depth + 1),
            "crate" | "super" if !follows_path(&words, at) => {
                let here = path.len() + inner.len();
                at = tree(&words, at, here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found.retain(|module| *module != path[0]);
    found
}

fn follows_path(words: &[&str], at: usize) -> bool {
    at > 0 && words[at - 1] == "::"
}

/// Follows one path, or tree of paths, from `at`, where `height` modules stand above the root of
/// the crate. Gives the place behind it.
fn tree(words: &[&str], mut at: usize, mut height: usize, found: &mut BTreeSet<String>) -> usize {
    loop {
        match words.get(at).copied() {
            Some("crate") => height = 0,
            Some("super") => height = height.saturating_sub(1),
            Some("self") => {}
            Some("{") => return branches(words, at + 1, height, found),
            Some(name) if height == 0 && is_name(name) => {
                found.insert(name.to_owned());
                height = usize::MAX / 2;
            }
            Some(name) if is_name(name) => height = usize::MAX / 2,
            _ => return at,
        }
        at += 1;
        if words.get(at) != Some(&"::") {
            return at;
        }
        at += 1;
    }
}

/// The branches of a tree, up to its closing brace.
fn branches(words: &[&str], mut at: usize, height: usize, found: &mut BTreeSet<String>) -> usize {
    while at < words.len() && words[at] != "}" {
        let next = tree(words, at, height, found);
        // Commas, `as` and new names.
        at = next.max(at + 1);
        while at < words.len() && !["}", ","].contains(&words[at]) {
            at += 1;
        }
        at += usize::from(words.get(at) == Some(&","));
    }
    at + 1
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// Names, `::` and single signs.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = |sign: char| sign.is_alphanumeric() || sign == '_';
        let length = match first {
            _ if name(first) => rest.find(|sign| !name(sign)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        words.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    words
}

/// `text` without comments and strings.
fn bare(text: &str) -> String {
    let mut bare = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = skipped(rest);
        if skip == 0 {
            bare.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            bare.push(' ');
            rest = &rest[skip.min(rest.len())..];
        }
    }
    bare
}

/// How long the comment or string is that `text` begins with; 0: with none.
fn skipped(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return comment(text);
    }
    if let Some(hashes) = text
        .strip_prefix('r')
        .map(|rest| rest.len() - rest.trim_start_matches('#').len())
        && text[1 + hashes..].starts_with('"')
    {
        let end = format!("\"{}", "#".repeat(hashes));
        let begin = 2 + hashes;
        return text[begin..]
            .find(&end)
            .map_or(text.len(), |at| begin + at + end.len());
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    // A lifetime has no closing quote behind one sign.
    let signs: Vec<char> = text.chars().take(3).collect();
    match signs[..] {
        ['\'', '\\', _] => quoted(text, '\''),
        ['\'', sign, '\''] => 2 + sign.len_utf8(),
        _ => 0,
    }
}

fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if sign == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
