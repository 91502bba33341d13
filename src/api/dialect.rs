//! What an error of ours looks like, so that the client of the service shows it as its own.

use http::StatusCode;
use serde_json::json;

use crate::words::names::Kind;

/// What an Ollama says that has too much to do, two blanks and all: its clients know it.
pub const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// How long a client's error text may get: longer ones are cut by some clients' logs.
const MESSAGE_MAX: usize = 600;

/// The JSON body of an error of ours on `path` (as the upstream would see it).
pub fn body(kind: Kind, path: &str, status: StatusCode, message: &str) -> String {
    let message = shorten(message);
    match kind {
        Kind::Ollama if path.starts_with("/v1/messages") => {
            json!({"type": "error", "error": {"type": word(status), "message": message}})
        }
        Kind::Ollama if path.starts_with("/v1/") => {
            let code = status.as_u16().to_string();
            // As it says it itself.
            let word = if status == StatusCode::SERVICE_UNAVAILABLE {
                "api_error"
            } else {
                word(status)
            };
            json!({"error": {"message": message, "type": word, "param": null, "code": code}})
        }
        Kind::Ollama | Kind::Http => json!({"error": message}),
        Kind::Qdrant => json!({"status": {"error": message}, "result": null, "time": 0}),
    }
    .to_string()
}

/// The error types that the clients of these APIs know.
fn word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::UNAUTHORIZED => "authentication_error",
        _ if status.is_client_error() => "invalid_request_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        _ => "api_error",
    }
}

pub(super) fn shorten(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_reads_our_errors_in_its_own_shape() {
        let of = |kind, path| body(kind, path, StatusCode::SERVICE_UNAVAILABLE, "no");
        let rows = [
            (Kind::Ollama, "/api/chat", r#"{"error":"no"}"#),
            (
                Kind::Ollama,
                "/v1/chat/completions",
                r#"{"error":{"code":"503","message":"no","param":null,"type":"api_error"}}"#,
            ),
            (
                Kind::Ollama,
                "/v1/messages",
                r#"{"error":{"message":"no","type":"overloaded_error"},"type":"error"}"#,
            ),
            (
                Kind::Qdrant,
                "/collections",
                r#"{"result":null,"status":{"error":"no"},"time":0}"#,
            ),
            (Kind::Http, "/x", r#"{"error":"no"}"#),
        ];
        for (kind, path, want) in rows {
            assert_eq!(of(kind, path), want, "{path}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "日".repeat(300);
        assert!(body(Kind::Http, "/", StatusCode::BAD_GATEWAY, &long).len() < 700);
    }
}
