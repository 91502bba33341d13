//! What the story asks, and what it makes of the answers.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::time::Instant;

use super::super::super::ask;
use super::super::mac::WHO;
use super::super::stage::Stage;
use crate::admin::status::Status;

/// A read of Ollama.
pub(super) const VERSION: &str = "/ollama/api/version";
/// A read of Qdrant.
pub(super) const PAPERS: &str = "/qdrant/collections/papers";
/// A read of Qdrant by POST.
pub(super) const QUERY: (&str, &str) = (
    "/qdrant/collections/papers/points/query",
    r#"{"query":[1,0,0],"limit":1,"with_payload":true}"#,
);
/// An inference that streams.
pub(super) const CHAT: (&str, &str) = (
    "/ollama/api/chat",
    r#"{"model":"stand-in","messages":[{"role":"user","content":"hello"}]}"#,
);

/// An answer that came whole.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The Mac that answered, as it says itself.
    pub(super) mac: String,
    /// Why that one, as the proxy says.
    pub(super) reason: String,
    /// When each piece came, from the request on.
    pub(super) pieces: Vec<Duration>,
    backend: String,
    body: Vec<u8>,
}

impl Stage {
    pub(super) async fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask(Method::GET, path, "").await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Result<Answer, String> {
        self.ask(Method::POST, path, body).await
    }

    pub(super) async fn put(&self, path: &str, body: &str) -> Result<Answer, String> {
        self.ask(Method::PUT, path, body).await
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<Answer, String> {
        let failed = |error: ask::Trouble| format!("{path}: {error}");
        let mut request = Request::new(Full::from(Bytes::copy_from_slice(body.as_bytes())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|error| format!("{path}: {error}"))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let began = Instant::now();
        let (parts, mut incoming) = ask::send(self.data, request)
            .await
            .map_err(failed)?
            .into_parts();
        let (mut body, mut pieces) = (Vec::new(), Vec::new());
        while let Some(frame) = incoming.frame().await {
            if let Ok(piece) = frame.map_err(|error| failed(error.into()))?.into_data() {
                body.extend_from_slice(&piece);
                pieces.push(began.elapsed());
            }
        }
        Ok(Answer {
            status: parts.status.as_u16(),
            mac: text(&parts.headers, WHO.as_str()),
            reason: text(&parts.headers, "x-tailhop-reason"),
            backend: text(&parts.headers, "x-tailhop-backend"),
            pieces,
            body,
        })
    }

    /// What the proxy says of itself.
    pub(super) async fn status(&self) -> Result<Status, String> {
        let (_, text) = ask::get(self.admin, "/status").await?;
        serde_json::from_str(&text).map_err(|error| format!("/status: {error}"))
    }

    /// Replaces the file by a rename.
    pub(super) fn replace(&self, text: &str) -> Result<(), String> {
        let new = self.file.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.file))
            .map_err(|error| format!("{}: {error}", self.file.display()))
    }
}

impl Answer {
    /// The answer, if it is one and the proxy names the Mac that gave it.
    pub(super) fn good(self) -> Result<Self, String> {
        if self.status != 200 {
            let body = String::from_utf8_lossy(&self.body);
            return Err(format!("status {}: {body}", self.status));
        }
        if self.mac != self.backend {
            let (mac, backend) = (&self.mac, &self.backend);
            return Err(format!(
                "{mac} answered, and x-tailhop-backend is {backend}"
            ));
        }
        Ok(self)
    }

    /// The same, if it came from `mac`.
    pub(super) fn good_from(self, mac: &str) -> Result<Self, String> {
        let answer = self.good()?;
        if answer.mac == mac {
            return Ok(answer);
        }
        Err(format!(
            "{} answered, not {mac} ({})",
            answer.mac, answer.reason
        ))
    }

    pub(super) fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("no JSON: {error}"))
    }

    /// Whether a stream of Ollama's is complete.
    pub(super) fn done(&self) -> Result<(), String> {
        let last = self
            .body
            .trim_ascii_end()
            .rsplit(|byte| *byte == b'\n')
            .next();
        let last: Option<Value> = last.and_then(|line| serde_json::from_slice(line).ok());
        match last {
            Some(line) if line["done"] == true => Ok(()),
            _ => Err("the stream did not end with done:true".to_owned()),
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}
