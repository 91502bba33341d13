//! Secrets: where they may be kept, and that nothing ever shows one.

use super::*;
use crate::config::snapshot::Url;

const CANARY: &str = "canary-2718281828";

fn with(backend: &str) -> String {
    format!(
        "[backends]\nm1 = {{}}\ncloud = {{ url = \"https://q.example\", {backend} }}\n\
         [services]\nollama = {{}}\nqdrant = {{ backends = [\"cloud\"] }}\n\
         [schedule]\ndefault = \"m1\"\n"
    )
}

fn key(snapshot: &Snapshot) -> &str {
    let url: &Url = snapshot.backends[1].url.as_deref().unwrap();
    url.headers[0].1.expose()
}

#[test]
fn a_secret_is_read_from_a_variable_or_a_file_and_printed_as_stars() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("key");
    for (content, read) in [
        (CANARY.to_owned(), CANARY),
        (format!("{CANARY}\n"), CANARY),
        (format!("{CANARY}\r\n"), CANARY),
        ("Bearer a b".to_owned(), "Bearer a b"),
    ] {
        std::fs::write(&kept, &content).unwrap();
        let by_file = with(&format!(
            "headers = {{ api-key = {{ file = \"{}\" }} }}",
            kept.display()
        ));
        let snapshot = good(&by_file, &[]);
        assert_eq!(key(&snapshot), read);
        assert_eq!(snapshot.files, [kept.as_path()]);
        assert!(!format!("{snapshot:?}").contains(read));
        let by_env = with("headers = { api-key = { env = \"K\" } }");
        let snapshot = good(&by_env, &[("K", &content)]);
        assert_eq!(key(&snapshot), read);
        assert!(!format!("{snapshot:#?}").contains(read));
    }
}

#[test]
fn a_secret_that_cannot_be_had_is_a_problem_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        format!("{{ file = \"{}\" }}", path.display())
    };
    for (kept, code, words) in [
        (
            "{ env = \"ABSENT\" }".to_owned(),
            "E020",
            "ABSENT is not set",
        ),
        (
            "{ env = \"EMPTY\" }".to_owned(),
            "E020",
            "EMPTY is not set, or empty",
        ),
        (
            "{ env = \"TWO\" }".to_owned(),
            "E028",
            "no header can carry",
        ),
        (
            "{ file = \"/nowhere/key\" }".to_owned(),
            "E028",
            "does not exist",
        ),
        (put("empty", b"\n"), "E028", "is empty"),
        (put("binary", b"\xff\xfe"), "E028", "is not text"),
        (put("lines", b"a\nb\n"), "E028", "no header can carry"),
        (
            put("large", &vec![b'x'; 20_000]),
            "E028",
            "no header can carry",
        ),
        (
            "{ file = \"${ABSENT}/key\" }".to_owned(),
            "E020",
            "ABSENT is not set",
        ),
        ("{}".to_owned(), "E014", "names 0"),
        (
            "{ env = \"K\", file = \"x\" }".to_owned(),
            "E014",
            "names 2",
        ),
        (
            "{ env = \"K\", fil = \"x\" }".to_owned(),
            "E011",
            "did you mean \"file\"?",
        ),
    ] {
        let text = with(&format!("headers = {{ api-key = {kept} }}"));
        let env = [("K", CANARY), ("EMPTY", ""), ("TWO", "a\nb")];
        let (found, place, text) = one(&text, &env);
        assert_eq!(found, code, "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
}

#[test]
fn what_may_be_a_secret_is_in_no_report_however_it_got_into_the_file() {
    let quoted = format!("\"{CANARY}\"");
    let rows = [
        with(&format!("headers = {{ api-key = {quoted} }}")),
        with(&format!("headers = {{ api-key = {{ value = {quoted} }} }}")),
        with(&format!("headers = {{ api-key = {{ env = {quoted} }} }}")),
        with(&format!("headers = {{ api-key = [{quoted}] }}")),
        with(&format!("headers = {quoted}")),
        with(&format!("header = {{ api-key = {quoted} }}")),
        with(&format!("api_key = {quoted}")),
        with(&format!(
            "headers = {{ api-key = {quoted}, x = 1 }}, hots = 1"
        )),
        with(&format!("headers = {{ api-key = \"{CANARY} }}")),
        with("").replace(
            "https://q.example",
            &format!("https://u:{CANARY}@q.example"),
        ),
        with("").replace(
            "https://q.example",
            &format!("https://q.example?k={CANARY}"),
        ),
        file(&format!("[listen]\ntoken = {quoted}\n")),
        file(&format!("[listen]\ntokn = {quoted}\n")),
        file(&format!("[listen]\ntoken = '''\n{CANARY}'''\n")),
        file(&format!("[listen]\ntoken = \"{CANARY}\n")),
        file(&format!("[listen]\ntoken = {CANARY}\n")),
        file(&format!("[listen]\ntoken = {{ env = \"{CANARY}\"\n")),
        file(&format!("[tailnet]\ntoken = {quoted}\n")),
        file(&format!("password = {quoted}\n")),
    ];
    for text in rows {
        let report = bad(&text, &[]);
        for shown in [
            report.render(true),
            report.render(false),
            report.to_string(),
            serde_json::to_string(&report.problems).unwrap(),
            format!("{report:?}"),
        ] {
            assert!(!shown.contains(CANARY), "{text}\n{shown}");
        }
    }
}

#[test]
fn a_plain_secret_is_told_where_it_belongs() {
    let (code, place, text) = one(&file(&format!("[listen]\ntoken = \"{CANARY}\"\n")), &[]);
    assert_eq!((code, place), ("E027", Some((11, 9))));
    assert!(
        text.contains("{ env = \"NAME\" }") && text.contains("{ file ="),
        "{text}"
    );
}

#[test]
fn what_a_secret_holds_when_it_is_wrong_is_in_no_report() {
    let text = with("headers = { api-key = { env = \"K\" } }");
    let report = bad(&text, &[("K", &format!("{CANARY}\nmore"))]);
    assert!(!report.render(false).contains(CANARY));
    assert!(!format!("{report:?}").contains(CANARY));
}
