//! Every row of the fact tables is a case.

use super::*;

const OLLAMA: &str = include_str!("../../tests/facts/ollama_rest.tsv");
const QDRANT: &str = include_str!("../../tests/facts/qdrant_rest.tsv");

/// Method, path with its placeholders filled in, class, retry rule.
fn rows(table: &'static str) -> impl Iterator<Item = (Method, String, &'static str, &'static str)> {
    table.lines().skip(1).map(|line| {
        let columns: Vec<_> = line.split('\t').collect();
        let path = columns[1]
            .split('/')
            .map(fill)
            .collect::<Vec<_>>()
            .join("/");
        (columns[0].parse().unwrap(), path, columns[2], columns[3])
    })
}

/// A value that a careless table could mistake for a word of its own.
fn fill(segment: &str) -> &str {
    if segment.starts_with('{') {
        "points"
    } else {
        segment
    }
}

#[test]
fn every_ollama_route_has_the_effect_of_the_fact_table() {
    let mut seen = 0;
    for (method, path, class, retry) in rows(OLLAMA) {
        let got = meaning(Kind::Ollama, &method, &path);
        // The design overrides the table for embeddings (same model only) and blobs (one backend);
        // reads "per node" are harmless to ask elsewhere.
        let (effect, reach) = match class {
            "R" if path.contains("/blobs/") => (Effect::Read, Reach::OneBackend),
            "R" => (Effect::Read, Reach::Any),
            "I" if retry.starts_with("any") => (Effect::Inference, Reach::SameModel),
            "I" => (Effect::Inference, Reach::Any),
            "M" | "A" => (Effect::Admin, Reach::OneBackend),
            other => panic!("class {other}"),
        };
        assert_eq!((got.effect, got.reach), (effect, reach), "{method} {path}");
        assert!(ops(Kind::Ollama).contains(&got.op), "{}", got.op);
        seen += 1;
    }
    assert_eq!(seen, 34);
}

#[test]
fn every_qdrant_route_has_the_effect_of_the_fact_table() {
    let mut seen = 0;
    for (method, path, class, retry) in rows(QDRANT) {
        let got = meaning(Kind::Qdrant, &method, &path);
        let (effect, reach) = match class {
            "read" if retry.starts_with("any") => (Effect::Read, Reach::Any),
            "read" => (Effect::Read, Reach::OneBackend),
            "write" => (Effect::Write, Reach::OneBackend),
            "admin" => (Effect::Admin, Reach::OneBackend),
            other => panic!("class {other}"),
        };
        assert_eq!((got.effect, got.reach), (effect, reach), "{method} {path}");
        assert!(ops(Kind::Qdrant).contains(&got.op), "{}", got.op);
        seen += 1;
    }
    assert_eq!(seen, 103);
}

#[test]
fn what_no_table_knows_is_admin() {
    let rows = [
        (Kind::Ollama, "GET", "/api/tags/x"),
        (Kind::Ollama, "PUT", "/api/tags"),
        (Kind::Ollama, "get", "/api/tags"),
        (Kind::Qdrant, "POST", "/collections/c/points/unheard"),
        (Kind::Qdrant, "GET", "/collections/c/unheard"),
        (Kind::Qdrant, "GET", "/debugger"),
        (Kind::Qdrant, "GET", "/a/b/c/d/e/f/g/h/i/j/k"),
    ];
    for (kind, method, path) in rows {
        let got = meaning(kind, &method.parse().unwrap(), path);
        assert_eq!(got.effect, Effect::Admin, "{method} {path}");
    }
}

#[test]
fn slashes_at_the_end_or_doubled_change_no_effect() {
    let chat = meaning(Kind::Ollama, &Method::POST, "/api/chat");
    assert_eq!(meaning(Kind::Ollama, &Method::POST, "//api//chat/"), chat);
    let query = meaning(Kind::Qdrant, &Method::POST, "/collections/c/points/query");
    assert_eq!(
        meaning(Kind::Qdrant, &Method::POST, "/collections/c/points/query/"),
        query
    );
}

#[test]
fn not_there_and_busy_are_read_from_the_status_of_what_may_move() {
    let chat = meaning(Kind::Ollama, &Method::POST, "/api/chat");
    let upsert = meaning(Kind::Qdrant, &Method::PUT, "/collections/c/points");
    let exists = meaning(Kind::Qdrant, &Method::GET, "/collections/c/exists");
    let of = |kind, meaning, path, status: u16| {
        answer(kind, meaning, path, StatusCode::from_u16(status).unwrap())
    };
    assert_eq!(of(Kind::Ollama, chat, "/api/chat", 404), Answer::NotThere);
    assert_eq!(of(Kind::Ollama, chat, "/api/chat", 503), Answer::Busy);
    assert_eq!(of(Kind::Ollama, chat, "/api/chat", 500), Answer::Final);
    assert_eq!(
        of(Kind::Qdrant, upsert, "/collections/c/points", 404),
        Answer::Final
    );
    assert_eq!(
        of(Kind::Qdrant, exists, "/collections/c/exists", 200),
        Answer::MaybeNotThere
    );
    assert!(says_not_there(
        br#"{"result":{"exists":false},"status":"ok"}"#
    ));
    assert!(!says_not_there(
        br#"{"result":{"exists":true},"status":"ok"}"#
    ));
    assert!(!says_not_there(b"half {"));
}
