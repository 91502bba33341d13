//! What changed, in words.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
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
            vec!["route /qdrant leads to ollama instead of qdrant"],
        ),
        (
            format!("{old}[listen]\ndata = \"127.0.0.1:1\"\n"),
            vec!["listen.data is 127.0.0.1:1 instead of 127.0.0.1:8484: this needs a restart"],
        ),
        (
            old.replace("qdrant = {}", "qdrant = { fallback = \"none\" }"),
            vec!["route /qdrant: nothing may fall back any more"],
        ),
        (
            old.replace(
                "ollama = {}",
                "ollama = { require = { models = [\"Tiny\", \"tiny:latest\"] } }",
            ),
            vec!["route /o: it requires tiny:latest instead of no model"],
        ),
        (
            old.replace(
                "qdrant = {}",
                "qdrant = { require = { collections = [\"papers\", \"a/b\"], min_points = 70000 } }",
            ),
            vec![
                "route /qdrant: it requires collections papers, a/b with 70000 points instead of no \
                 collection",
                "route /qdrant: a planned switch no longer moves writes",
            ],
        ),
        (
            old.replace("ollama = {}", "ollama = { cache = {} }"),
            vec!["route /o: its cache has 10000 embeddings in 64 MB for 24h instead of nothing"],
        ),
        (
            old.replace(
                "ollama = {}",
                "ollama = { policy = \"least-loaded\", limit = { in_flight = 2, spill = true } }",
            ),
            vec![
                "route /o: inference goes to the backend that is least-loaded instead of active",
                "route /o: its limit is 2 at once, 100 wait up to 1m, then another instead of none",
            ],
        ),
        (
            old.replace("[schedule]\n", "[schedule]\ntimezone = \"Asia/Tokyo\"\n"),
            vec!["the schedule's time zone is Asia/Tokyo instead of UTC"],
        ),
        (
            old.replace(
                "ollama = {}",
                "ollama = { backends = [\"mac-dev1\", \"macbook-m1\"] }",
            ),
            vec!["route /o: its backends come in the order mac-dev1, macbook-m1"],
        ),
        (
            old.replace(
                "mac-dev1 = {}",
                "mac-dev1 = { drain = { reason = \"disk\" } }",
            ),
            vec!["mac-dev1 is drained (\"disk\"): no new work goes to it"],
        ),
        (
            old.replace("qdrant = {}", "qdrant = { timeouts = { idle = \"90s\" } }"),
            vec![
                "route /qdrant: idle of inference is 1m30s instead of 5m",
                "route /qdrant: idle is 1m30s instead of 1m",
            ],
        ),
        (
            format!("{old}[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nby = \"ops\"\n"),
            vec!["a new pin to mac-dev1 until 1 January 2030, by \"ops\""],
        ),
        (
            format!("{old}[[schedule.switch]]\nat = 2030-01-01\nto = \"mac-dev1\"\n"),
            vec![
                "macbook-m1 is active until 1 January 2030, then mac-dev1 (before: macbook-m1 is active)",
            ],
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
        ["ACTIVE_BACKEND is mac-dev1 instead of unset"]
    );
}

#[test]
fn a_new_backend_joins_the_services_that_list_none() {
    let old = file("");
    let found = changes(
        &good(&old, &[]),
        &good(&format!("{old}[backends.third]\nhost = \"x\"\n"), &[]),
    );
    assert_eq!(
        found,
        [
            "backend third is added, at x",
            "route /ollama: third offers it too",
            "route /qdrant: third offers it too",
        ]
    );
}
