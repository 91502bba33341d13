//! Several files as one configuration: what holds, where problems are, and what is refused.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::{check, effective, read};

/// A folder of files, of which `routing.toml` is asked for.
struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.put(name, text);
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Snapshot, Report> {
        let env = Environment::from_pairs(env.iter().copied());
        load(&read(&self.path("routing.toml"))?, &env)
    }

    fn good(&self, env: &[(&str, &str)]) -> Snapshot {
        let loaded = self.load(env);
        loaded.unwrap_or_else(|report| panic!("{}", report.render(false)))
    }

    /// Each problem: code, file below the folder with its line, message.
    fn told(&self) -> Vec<(&'static str, String, String)> {
        let report = self.load(&[]).unwrap_err();
        let shown = |text: &str| text.replace(&format!("{}/", self.0.path().display()), "");
        let told = |problem: &Problem| {
            let place = problem.place.as_ref().unwrap();
            let site = format!("{}:{}:{}", place.path.display(), place.line, place.column);
            (problem.code, shown(&site), shown(&problem.message))
        };
        report.problems.iter().map(told).collect()
    }
}

fn port(snapshot: &Snapshot, service: &str) -> u16 {
    let named = |one: &&snapshot::Service| one.name.as_str() == service;
    snapshot.services.iter().find(named).unwrap().port
}

#[test]
fn the_file_holds_over_what_it_includes_and_the_later_of_two_over_the_earlier() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            "include = [\"a.toml\", \"env/${TIER:-production}.toml\"]\n[backends.m1]\n\
             [services.ollama]\nport = 1\n",
        ),
        (
            "a.toml",
            "[backends.m0]\nhost = \"100.64.0.9\"\n[services]\nollama.port = 2\nqdrant = { port = 2 }\n\
             [schedule]\ndefault = \"m0\"",
        ),
        (
            "env/production.toml",
            "include = [\"deep/more.toml\"]\n[services]\nqdrant.port = 3\nollama.fallback = \"none\"\n",
        ),
        ("env/staging.toml", "[services.qdrant]\nport = 4\n"),
        (
            "env/deep/more.toml",
            "services.qdrant.port = 9\ntailnet.repair = false\n",
        ),
    ]);
    let snapshot = folder.good(&[]);
    let ports = |snapshot: &Snapshot| (port(snapshot, "ollama"), port(snapshot, "qdrant"));
    assert_eq!(ports(&snapshot), (1, 3));
    assert!(!snapshot.tailnet.repair);
    let names: Vec<_> = snapshot
        .backends
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(names, ["m0", "m1"], "those of included files come first");
    assert_eq!(ports(&folder.good(&[("TIER", "staging")])), (1, 4));
    let included = ["a.toml", "env/deep/more.toml", "env/production.toml"];
    assert_eq!(snapshot.files, included.map(|name| folder.path(name)));
}

#[test]
fn the_hash_is_another_when_any_file_is() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            &format!("include = [\"a.toml\"]\n{}", file("")),
        ),
        ("a.toml", "# one\n"),
    ]);
    let one = folder.good(&[]);
    assert_eq!(one.origin.path, folder.path("routing.toml"));
    assert_ne!(one.origin.hash, Source::new("x", file("")).hash());
    folder.put("a.toml", "# two\n");
    let two = folder.good(&[]);
    assert_ne!(one.origin.hash, two.origin.hash);
    assert!(!one.is_as(&two));
    folder.put("a.toml", "# one\n");
    assert_eq!(one.origin.hash, folder.good(&[]).origin.hash);
}

#[test]
fn a_problem_names_the_file_that_it_is_in_and_its_edit_mends_that_file() {
    // Neither the file without a last line's end nor the marks that editors put first move a place.
    let folder = Folder::with(&[
        (
            "routing.toml",
            "\u{feff}include = [\"a.toml\", \"b.toml\"]\n[backends]\nmac = {}\n[services]\nollama = { prot = 1 }\n",
        ),
        (
            "a.toml",
            "\u{feff}# 日本\n[tailnet]\n# 日本\nrepiar = false",
        ),
        (
            "b.toml",
            "[schedule]\ndefault = \"mak\"\n[listen]\ndata = \"127.0.0.1:x\"\n",
        ),
    ]);
    let told = folder.told();
    let told: Vec<_> = told
        .iter()
        .map(|(code, site, _)| (*code, site.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("E011", "a.toml:4:1"),
            ("E016", "b.toml:2:11"),
            ("E014", "b.toml:4:8"),
            ("E011", "routing.toml:5:12"),
        ]
    );
    let report = folder.load(&[]).unwrap_err();
    let shown = report.render(false);
    for line in ["4 | repiar = false\n", "5 | ollama = { prot = 1 }\n"] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    for problem in report
        .problems
        .iter()
        .filter(|problem| !problem.edits.is_empty())
    {
        let [edit] = problem.edits.as_slice() else {
            panic!("{problem}");
        };
        let mut text = fs::read_to_string(&edit.place.path).unwrap();
        text.replace_range(edit.place.span.clone(), &edit.replacement);
        fs::write(&edit.place.path, text).unwrap();
    }
    folder.put("b.toml", "[schedule]\ndefault = \"mac\"\n");
    assert!(!folder.good(&[]).tailnet.repair);
}

#[test]
fn what_cannot_be_included_is_one_problem_where_it_was_named() {
    let main = |list: &str| {
        format!(
            "{}\n[[pin]]\nto = \"elsewhere\"\nuntil = 2099-01-01\n",
            TWO.replacen('[', &format!("include = [{list}]\n["), 1)
        )
    };
    for (list, code, site, message) in [
        (
            "\"no.toml\"",
            "E031",
            "routing.toml:1:12",
            "include: no.toml does not exist",
        ),
        (
            "\"sub\"",
            "E031",
            "routing.toml:1:12",
            "include: sub is a directory",
        ),
        (
            "\"empty.toml\"",
            "E031",
            "routing.toml:1:12",
            "include: empty.toml is empty",
        ),
        (
            "\"deep.toml\"",
            "E031",
            "deep.toml:2:3",
            "include: sub/no.toml does not exist",
        ),
    ] {
        let folder = Folder::with(&[
            ("routing.toml", &main(list)),
            ("empty.toml", "\n"),
            ("deep.toml", "include = [\n  \"sub/no.toml\"]\n"),
            ("sub/file.toml", "# x\n"),
        ]);
        let told = folder.told();
        assert_eq!(
            told,
            [(code, site.to_owned(), message.to_owned())],
            "{list}"
        );
        let report = folder.load(&[]).unwrap_err();
        assert_eq!(report.reason(), "io");
        assert!(!report.files.is_empty(), "it is watched, as it may come");
    }
}

#[test]
fn files_that_include_each_other_or_one_twice_are_told_with_the_way_round() {
    let main = |list: &str| format!("include = [{list}]\n{}", file(""));
    for (list, code, site, message) in [
        (
            "\"./routing.toml\"",
            "E032",
            "routing.toml:1:12",
            "routing.toml includes itself: routing.toml > routing.toml",
        ),
        (
            "\"a.toml\"",
            "E032",
            "sub/b.toml:1:12",
            "a.toml includes itself: a.toml > sub/b.toml > a.toml",
        ),
        (
            "\"c.toml\", \"sub/../c.toml\"",
            "E017",
            "routing.toml:1:22",
            "sub/../c.toml is included twice",
        ),
        (
            "\"link.toml\", \"c.toml\"",
            "E017",
            "routing.toml:1:25",
            "c.toml is included twice",
        ),
    ] {
        let folder = Folder::with(&[
            ("routing.toml", &main(list)),
            ("a.toml", "include = [\"sub/b.toml\"]\n"),
            ("sub/b.toml", "include = [\"../a.toml\"]\n"),
            ("c.toml", "# nothing\n"),
        ]);
        std::os::unix::fs::symlink("c.toml", folder.path("link.toml")).unwrap();
        let told = folder.told();
        assert_eq!(
            told,
            [(code, site.to_owned(), message.to_owned())],
            "{list}"
        );
    }
}

#[test]
fn there_is_an_end_to_how_many_files_are_included() {
    let many = |count: usize| {
        let names: Vec<_> = (0..count)
            .map(|place| format!("\"{place}.toml\""))
            .collect();
        let folder = Folder::with(&[(
            "routing.toml",
            &format!("include = [{}]\n{}", names.join(", "), file("")),
        )]);
        for place in 0..count {
            folder.put(&format!("{place}.toml"), "# x\n");
        }
        folder
    };
    many(32).good(&[]);
    let told = many(33).told();
    assert_eq!((told.len(), told[0].0), (1, "E031"));
    assert!(told[0].2.contains("one file too many"), "{told:?}");
}

#[test]
fn orders_stand_in_the_file_that_is_edited_and_nowhere_else() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            "include = [\"a.toml\"]\n[services]\nollama = {}\n",
        ),
        (
            "a.toml",
            "[backends]\nm1 = { drain = { by = \"x\" } }\n[[pin]]\nto = \"m1\"\nuntil = 2099-01-01\n",
        ),
    ]);
    let told: Vec<_> = folder
        .told()
        .into_iter()
        .map(|(code, site, _)| (code, site))
        .collect();
    assert_eq!(
        told,
        [
            ("E033", "a.toml:2:16".to_owned()),
            ("E033", "a.toml:3:1".to_owned())
        ]
    );
}

#[test]
fn a_secret_in_an_included_file_is_kept_beside_that_file_and_masked_there() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            &format!("include = [\"env/a.toml\"]\n{}", file("")),
        ),
        ("env/a.toml", "listen.token = { file = \"keys/token\" }\n"),
        ("env/keys/token", "canary-31415\n"),
    ]);
    let snapshot = folder.good(&[]);
    assert_eq!(snapshot.token.unwrap().expose(), "canary-31415");
    let watched = ["env/a.toml", "env/keys/token"].map(|name| folder.path(name));
    assert_eq!(snapshot.files, watched);
    folder.put("env/a.toml", "# x\nlisten.token = \"canary-31415\"\n");
    let report = folder.load(&[]).unwrap_err();
    assert!(
        !report.render(false).contains("canary"),
        "{}",
        report.render(false)
    );
}

#[test]
fn a_syntax_error_in_one_file_leaves_the_others_to_be_judged() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            "include = [\"a.toml\"]\n[backends]\nm = {}\n[services]\nollama = { prot = 1 }\n",
        ),
        ("a.toml", "[tailnet\nname = \"x\"\nbroken = [\n"),
    ]);
    let told = folder.told();
    let codes: Vec<_> = told
        .iter()
        .map(|(code, site, _)| (*code, site.split(':').next().unwrap()))
        .collect();
    assert!(codes.contains(&("E010", "a.toml")), "{told:?}");
    assert_eq!(codes.last(), Some(&("E011", "routing.toml")), "{told:?}");
}

#[test]
fn every_value_tells_the_file_that_it_is_from() {
    let folder = Folder::with(&[
        (
            "routing.toml",
            &format!("include = [\"a.toml\"]\n{}", file("")),
        ),
        ("a.toml", "\n[tailnet]\nname = \"tail9\"\n"),
    ]);
    let source = read(&folder.path("routing.toml")).unwrap();
    let settings = effective(&source, &Environment::default()).unwrap();
    let origin = |key: &str| {
        let found = settings.iter().find(|setting| setting.key == key);
        found.unwrap().origin.to_string()
    };
    let site = |name: &str, line: u32| format!("{}:{line}", folder.path(name).display());
    assert_eq!(origin("tailnet.name"), site("a.toml", 3));
    assert_eq!(origin("schedule.default"), site("routing.toml", 10));
    assert_eq!(origin("include"), site("routing.toml", 1));
    let (_, report) = check(&source, &Environment::default(), at("2026-01-01T00:00:00Z"));
    assert_eq!(report.problems, []);
}
