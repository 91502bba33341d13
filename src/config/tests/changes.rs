//! What changed, in words.

use super::*;

#[test]
fn changes_are_told_in_words() {
    let text = |more: &str| {
        let [first, rest] = [
            "[[routes]]\npath = \"/qdrant\"\n",
            "[[routes]]\npath = \"/o\"\n",
        ];
        file(&format!(
            "{more}{first}service = \"SERVICE\"\n{rest}service = \"ollama\"\n"
        ))
    };
    let old = text("").replace("SERVICE", "qdrant");
    for (new, expected) in [
        (old.clone(), vec![]),
        (
            text("").replace("SERVICE", "ollama"),
            vec!["route /qdrant: service qdrant -> ollama"],
        ),
        (
            format!("{old}[listen]\ndata = \"127.0.0.1:1\"\n"),
            vec!["listen.data changed: needs a restart (127.0.0.1:8484 -> 127.0.0.1:1)"],
        ),
        (
            old.replace(
                "mac-dev1 = {}",
                "mac-dev1 = { drain = { reason = \"disk\" } }",
            ),
            vec!["backend mac-dev1: drained, reason \"disk\""],
        ),
        (
            old.replace("qdrant = {}", "qdrant = { timeouts = { idle = \"90s\" } }"),
            vec![
                "service qdrant: idle of inference 5m -> 1m30s",
                "service qdrant: idle 1m -> 1m30s",
            ],
        ),
        (
            format!("{old}[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nby = \"ops\"\n"),
            vec!["pin to mac-dev1 until 2030-01-01T00:00:00+00:00 by \"ops\": added"],
        ),
        (
            format!("{old}[[schedule.switch]]\nat = 2030-01-01\nto = \"mac-dev1\"\n"),
            vec!["switch at 2030-01-01T00:00:00+00:00 to mac-dev1: added"],
        ),
    ] {
        assert_eq!(
            changes(&good(&old, &[]), &good(&new, &[])),
            expected,
            "{new}"
        );
    }
    let ordered = good(&old, &[("ACTIVE_BACKEND", "mac-dev1")]);
    assert_eq!(
        changes(&good(&old, &[]), &ordered),
        ["ACTIVE_BACKEND: unset -> mac-dev1"]
    );
}

#[test]
fn a_new_backend_joins_the_services_that_list_none() {
    let old = file("");
    let found = changes(
        &good(&old, &[]),
        &good(&format!("{old}[backends.third]\nhost = \"x\"\n"), &[]),
    );
    let joined = "backends macbook-m1, mac-dev1 -> macbook-m1, mac-dev1, third";
    assert_eq!(
        found,
        [
            "backend third: added, host x".to_owned(),
            format!("service ollama: {joined}"),
            format!("service qdrant: {joined}"),
        ]
    );
}
