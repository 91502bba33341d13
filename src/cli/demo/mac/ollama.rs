//! The Ollama-shaped half of a stand-in Mac: one model that says where it runs, word by word.

use http::Method;
use serde_json::{Value, json};

use super::reply::Reply;

/// The one model there is.
const MODEL: &str = "stand-in";
/// A version that no Ollama has.
const VERSION: &str = "0.0.0";
const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";
/// Fixed, so that two runs answer the same bytes.
const MADE: &str = "2025-01-01T00:00:00Z";

/// The answer of the Mac `name`.
pub(super) fn answer(name: &str, method: &Method, path: &str, body: &[u8]) -> Reply {
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/") => Reply::text(200, "Ollama is running"),
        ("GET" | "HEAD", "/api/version") => {
            Reply::json(200, &json!({ "version": format!("{VERSION}-on-{name}") }))
        }
        ("GET" | "HEAD", "/api/tags") => Reply::json(200, &tags()),
        ("POST", "/api/chat") => asked(body, |ask| Shape::Chat.reply(name, ask, "messages")),
        ("POST", "/api/generate") => asked(body, |ask| Shape::Generate.reply(name, ask, "prompt")),
        ("POST", "/v1/chat/completions") => asked(body, |ask| openai(name, ask)),
        _ => Reply::text(404, "404 page not found"),
    }
}

/// How a piece of an answer is written.
#[derive(Clone, Copy)]
enum Shape {
    Chat,
    Generate,
}

impl Shape {
    fn reply(self, name: &str, ask: &Value, question: &str) -> Reply {
        let words = words(name, &ask[question]);
        if ask["stream"] == false {
            return Reply::json(200, &self.piece(&words.concat(), true));
        }
        let last = std::iter::once(self.piece("", true));
        let pieces = words.iter().map(|word| self.piece(word, false)).chain(last);
        Reply::stream(NDJSON, pieces.map(|piece| format!("{piece}\n")))
    }

    fn piece(self, text: &str, done: bool) -> Value {
        let mut piece = json!({ "model": MODEL, "created_at": MADE, "done": done });
        match self {
            Self::Chat => piece["message"] = json!({ "role": "assistant", "content": text }),
            Self::Generate => piece["response"] = json!(text),
        }
        if done {
            piece["done_reason"] = json!("stop");
        }
        piece
    }
}

fn openai(name: &str, ask: &Value) -> Reply {
    let words = words(name, &ask["messages"]);
    let wrap = |object: &str, choice: Value| {
        json!({ "id": "chatcmpl-1", "object": object, "model": MODEL, "created": 0,
                "choices": [choice] })
    };
    if ask["stream"] != true {
        let message = json!({ "role": "assistant", "content": words.concat() });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        return Reply::json(200, &wrap("chat.completion", choice));
    }
    let piece = |delta: Value, reason: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        format!("data: {}\n\n", wrap("chat.completion.chunk", choice))
    };
    let mut pieces: Vec<_> = (words.iter())
        .map(|word| piece(json!({ "content": word }), Value::Null))
        .collect();
    pieces.push(piece(json!({}), json!("stop")) + "data: [DONE]\n\n");
    Reply::stream(EVENTS, pieces)
}

/// What is asked for, if the model is there.
fn asked(body: &[u8], reply: impl FnOnce(&Value) -> Reply) -> Reply {
    let Ok(ask) = serde_json::from_slice::<Value>(body) else {
        return Reply::json(400, &json!({ "error": "the body is no JSON" }));
    };
    match ask["model"].as_str() {
        Some(model) if model.trim_end_matches(":latest") == MODEL => reply(&ask),
        Some(model) => {
            let error = format!("model '{model}' not found, this stand-in has only '{MODEL}'");
            Reply::json(404, &json!({ "error": error }))
        }
        None => Reply::json(400, &json!({ "error": "model is required" })),
    }
}

/// A sentence that says who speaks and shows that the question arrived.
fn words(name: &str, question: &Value) -> Vec<String> {
    let heard = match question {
        Value::Array(messages) => messages
            .last()
            .map_or(&Value::Null, |last| &last["content"]),
        other => other,
    };
    let heard = heard.as_str().unwrap_or_default();
    format!("You asked {heard:?}, and this stand-in on {name} says it back, a word at a time.")
        .split_inclusive(' ')
        .map(str::to_owned)
        .collect()
}

fn tags() -> Value {
    let details = json!({ "format": "none", "family": "stand-in", "families": ["stand-in"],
                          "parameter_size": "0", "quantization_level": "none" });
    json!({ "models": [{ "name": format!("{MODEL}:latest"), "model": format!("{MODEL}:latest"),
                         "modified_at": MADE, "size": 0, "digest": "0".repeat(64),
                         "details": details }] })
}
