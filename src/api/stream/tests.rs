use super::*;
use crate::api::meaning;
use http::{HeaderValue, Method};

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const JSON: &str = "application/json; charset=utf-8";

fn watcher(path: &str, media: &str) -> Option<Watcher> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).unwrap());
    let meaning = meaning(Kind::Ollama, &Method::POST, path);
    Watcher::of(Kind::Ollama, meaning, path, StatusCode::OK, &headers)
}

fn ending(path: &str, media: &str, text: &str, piece: usize) -> Ending {
    let mut watcher = watcher(path, media).unwrap();
    for part in text.as_bytes().chunks(piece) {
        watcher.see(part);
    }
    watcher.ending()
}

const COMPLETIONS: &str = "/v1/chat/completions";
const ENDINGS: &[(&str, &str, &str, Ending)] = &[
    ("/api/chat", NDJSON, "", Ending::Truncated),
    ("/api/chat", NDJSON, "{\"done\":false}\n", Ending::Truncated),
    (
        "/api/chat",
        NDJSON,
        "{\"done\":false}\n{\"done\":true}\n",
        Ending::Complete,
    ),
    ("/api/generate", NDJSON, "{\"done\":true}", Ending::Complete),
    // The line is cut, and the body ends cleanly all the same.
    (
        "/api/chat",
        NDJSON,
        "{\"done\":true,\"total_dur",
        Ending::Truncated,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"message\":{\"done\":true}}\n",
        Ending::Truncated,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"response\":\"{\\\"done\\\":true}\"}\n",
        Ending::Truncated,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"done\":\"true\"}\n",
        Ending::Truncated,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"done\":true}\n{\"done\":false}\n",
        Ending::Complete,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"done\":false}\n{\"error\":\"unexpected EOF\"}\n",
        Ending::Error,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"error\":\"x\"}\n{\"done\":true}\n",
        Ending::Error,
    ),
    (
        "/api/chat",
        NDJSON,
        "{\"error\":null,\"done\":true}\n",
        Ending::Complete,
    ),
    (
        "/api/chat",
        NDJSON,
        "<html>\n{\"done\":true}\n",
        Ending::Complete,
    ),
    (
        "/api/pull",
        NDJSON,
        "{\"status\":\"pulling\"}\n{\"status\":\"success\"}\n",
        Ending::Complete,
    ),
    (
        "/api/pull",
        NDJSON,
        "{\"status\":\"pulling\"}\n",
        Ending::Truncated,
    ),
    (
        "/api/pull",
        NDJSON,
        "{\"error\":\"no such model\"}\n",
        Ending::Error,
    ),
    (
        COMPLETIONS,
        SSE,
        "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
        Ending::Complete,
    ),
    (COMPLETIONS, SSE, "data:[DONE]\r\n\r\n", Ending::Complete),
    (
        COMPLETIONS,
        SSE,
        "data: {\"choices\":[],\"model\":\"\"}\n\n",
        Ending::Truncated,
    ),
    (
        COMPLETIONS,
        SSE,
        "data: {\"choices\":[{\"text\":\"[DONE]\"}]}\n\n",
        Ending::Truncated,
    ),
    (COMPLETIONS, SSE, "data: [DONE]", Ending::Truncated),
    (COMPLETIONS, SSE, "data: [DONE]x\n\n", Ending::Truncated),
    (COMPLETIONS, SSE, ": [DONE]\n\n", Ending::Truncated),
    (COMPLETIONS, SSE, "xdata: [DONE]\n\n", Ending::Truncated),
    (
        COMPLETIONS,
        SSE,
        "data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n",
        Ending::Error,
    ),
    (
        COMPLETIONS,
        SSE,
        "data: {\ndata: \"error\":1}\n\n",
        Ending::Error,
    ),
    (
        "/v1/messages",
        SSE,
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        Ending::Complete,
    ),
    (
        "/v1/messages",
        SSE,
        "data: {\"type\":\"message_delta\"}\n\n",
        Ending::Truncated,
    ),
    (
        "/v1/messages",
        SSE,
        "data: {\"type\":\"error\",\"error\":{\"type\":\"x\"}}\n\n",
        Ending::Error,
    ),
    ("/v1/messages", SSE, "data: [DONE]\n\n", Ending::Truncated),
    (
        "/v1/responses",
        SSE,
        "data: {\"type\":\"response.completed\",\"response\":{\"error\":null}}\n\n",
        Ending::Complete,
    ),
    (
        "/v1/responses",
        SSE,
        "data: {\"type\":\"response.incomplete\"}\n\n",
        Ending::Complete,
    ),
    (
        "/v1/responses",
        SSE,
        "data: {\"type\":\"response.failed\"}\n\n",
        Ending::Error,
    ),
    (
        "/v1/responses",
        SSE,
        "data: {\"type\":\"response.output_text.delta\"}\n\n",
        Ending::Truncated,
    ),
    // HTTP tells where such an answer ends.
    ("/api/chat", JSON, "{\"done\":tr", Ending::Complete),
];

#[test]
fn each_api_says_in_its_own_way_that_a_stream_is_complete() {
    for (path, media, text, want) in ENDINGS {
        for piece in 1..=text.len().max(1) {
            assert_eq!(ending(path, media, text, piece), *want, "{text} by {piece}");
        }
        // As Ollama writes them, and as they are not read any further if they say nothing.
        let mut watcher = watcher(path, media).unwrap();
        for line in text.split_inclusive('\n') {
            watcher.see(line.as_bytes());
        }
        assert_eq!(watcher.ending(), *want, "{text} by lines");
    }
}

#[test]
fn only_whole_lines_without_a_word_that_counts_are_not_read() {
    let rows = [
        ("/api/chat", NDJSON, "{\"done\":false}\n", true),
        ("/api/chat", NDJSON, "{\"done\":false}", false),
        ("/api/chat", NDJSON, "{\"done\":true}\n", false),
        ("/api/chat", NDJSON, "{\"error\":\"x\"}\n", false),
        ("/api/pull", NDJSON, "{\"status\":\"pulling\"}\n", true),
        ("/api/pull", NDJSON, "{\"status\":\"success\"}\n", false),
        (COMPLETIONS, SSE, "data: {\"choices\":[]}\n\n", true),
        (COMPLETIONS, SSE, "data: [DONE]\n\n", false),
        (COMPLETIONS, SSE, "data: {\"usage\":{}}\n\n", false),
        ("/v1/messages", SSE, "event: message_stop\n", false),
        ("/v1/messages", SSE, "data: {\"usage\":{}}\n\n", false),
        ("/api/chat", JSON, "{}\n", false),
    ];
    for (path, media, piece, quick) in rows {
        let watcher = watcher(path, media).unwrap();
        assert_eq!(watcher.says_nothing(piece.as_bytes()), quick, "{piece}");
    }
    // In the middle of a line nothing is skipped, whatever it looks like.
    let mut within = watcher("/api/chat", NDJSON).unwrap();
    within.see(b"{\"message\":\"");
    assert!(!within.says_nothing(b"x\n"));
}

#[test]
fn only_answers_of_models_are_watched() {
    let rows = [
        ("/api/chat", NDJSON, true),
        ("/api/create", NDJSON, true),
        ("/api/embed", JSON, true),
        ("/v1/messages", "text/event-stream; charset=utf-8", true),
        ("/api/tags", JSON, false),
        ("/api/chat", "text/plain", false),
        ("/api/copy", JSON, false),
        ("/nobody/knows", NDJSON, false),
    ];
    for (path, media, watched) in rows {
        assert_eq!(watcher(path, media).is_some(), watched, "{path} {media}");
    }
    let meaning = meaning(Kind::Ollama, &Method::POST, "/api/chat");
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    let of = |kind, status| Watcher::of(kind, meaning, "/api/chat", status, &headers);
    assert!(of(Kind::Http, StatusCode::OK).is_none());
    assert!(of(Kind::Ollama, StatusCode::NOT_FOUND).is_none());
}

#[test]
fn tokens_and_times_are_read_from_what_each_api_ends_with() {
    let nanos = |n| Some(Duration::from_nanos(n));
    let native = "{\"response\":\"a\",\"eval_count\":1,\"done\":false}\n{\"done\":true,\"total_duration\":9,\
                  \"load_duration\":2,\"prompt_eval_count\":26,\"prompt_eval_duration\":3,\
                  \"eval_count\":259,\"eval_duration\":4,\"context\":[1,2]}\n";
    let told = Usage {
        tokens_in: Some(26),
        tokens_out: Some(259),
        load: nanos(2),
        prompt: nanos(3),
        answer: nanos(4),
        total: nanos(9),
    };
    let tokens = |tokens_in, tokens_out| Usage {
        tokens_in: Some(tokens_in),
        tokens_out: Some(tokens_out),
        ..Usage::default()
    };
    let rows = [
        ("/api/chat", NDJSON, native, told),
        (
            "/v1/chat/completions",
            SSE,
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n",
            tokens(5, 7),
        ),
        (
            "/v1/chat/completions",
            JSON,
            "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}",
            tokens(5, 7),
        ),
        (
            "/v1/messages",
            SSE,
            "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":0}}}\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":7}}\n\n",
            tokens(5, 7),
        ),
        (
            "/v1/responses",
            SSE,
            "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":7}}}\n\n",
            tokens(5, 7),
        ),
        (
            "/v1/chat/completions",
            JSON,
            "{\"usage\":{\"prompt_tokens\":\"5\",\"completion_tokens\":1e99}}",
            Usage::default(),
        ),
    ];
    for (path, media, text, want) in rows {
        let mut watcher = watcher(path, media).unwrap();
        for part in text.as_bytes().chunks(3) {
            watcher.see(part);
        }
        assert_eq!(watcher.usage(), want, "{text}");
    }
}

/// A line of 8 MB is as much as Ollama's own client takes.
#[test]
fn a_line_of_eight_megabytes_is_followed_in_the_memory_of_a_short_one() {
    let line = format!(
        "{{\"response\":\"{}\",\"done\":true}}\n",
        "x\\\"".repeat(2_700_000)
    );
    let mut watcher = watcher("/api/generate", NDJSON).unwrap();
    for part in line.as_bytes().chunks(8192) {
        watcher.see(part);
    }
    assert_eq!(watcher.ending(), Ending::Complete);
    assert!(size_of::<Watcher>() < 1024, "{}", size_of::<Watcher>());
}
