//! One of the two sides: how to reach a Qdrant, and what its answers mean.
//!
//! Owns its connections and the decision to ask again: all that is asked here may be asked twice,
//! as it reads, or writes by id. Invariants: a secret goes out as a header and nowhere else; memory
//! for one answer is bounded; a connection that was idle for as long as Qdrant keeps one is not
//! used.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use super::pace::Patience;
use super::progress::Progress;
use crate::tailnet::Tailnet;
use crate::wire::{Place, open};
use crate::words::secret::Secret;
use crate::words::units::show_duration;

/// Qdrant closes a connection that was idle for 5 s.
const IDLE: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(10);
/// One answer: more than the server itself takes for a search.
const ANSWER: Duration = Duration::from_secs(90);
/// Twice what Qdrant takes as one request.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// How much of an error is repeated.
const WORDS_MAX: usize = 300;

/// A Qdrant.
#[derive(Debug)]
pub struct Site {
    name: String,
    tailnet: Arc<Tailnet>,
    place: Place,
    authority: HeaderValue,
    /// What stands before every path, such as `/qdrant`; without a slash at its end.
    base: String,
    headers: HeaderMap,
    patience: Duration,
    progress: Arc<Progress>,
    idle: Mutex<Vec<(SendRequest<Full<Bytes>>, Instant)>>,
}

/// Where a site is and what it is asked with.
#[derive(Debug)]
pub struct Address {
    /// Its name in outputs and in the state file: no secret.
    pub name: String,
    /// Where it is dialled.
    pub place: Place,
    /// Host and port as a Host header has them.
    pub authority: String,
    /// What stands before every path.
    pub base: String,
    /// Headers that every request gets.
    pub headers: Vec<(HeaderName, Secret)>,
}

/// Why the run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It must not go on, whatever was ordered.
    Refused(String),
    /// The target has something else, which may be replaced only on order.
    Differs(String),
    /// It cannot go on: a side does not answer, or refuses; `--resume` goes on later.
    Failed(String),
}

/// Why one request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An error that is the same next time.
    Answer(StatusCode, String),
    /// The request or the answer is too large.
    TooMuch(String),
    /// No answer in time.
    Slow(String),
    /// Not now.
    Busy(String, Option<Duration>),
    /// Nobody is reached, or the connection broke.
    Gone(String),
}

impl Trouble {
    fn words(&self) -> &str {
        match self {
            Self::Answer(_, words)
            | Self::TooMuch(words)
            | Self::Slow(words)
            | Self::Busy(words, _)
            | Self::Gone(words) => words,
        }
    }

    /// What an answer with an error means.
    fn of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let words = format!("it answered {}: {}", status.as_u16(), words(body));
        match status.as_u16() {
            413 => Self::TooMuch(words),
            408 | 504 => Self::Slow(words),
            429 | 500 | 502 | 503 => {
                let seconds = headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
                let after = seconds.and_then(|it| it.trim().parse().ok());
                Self::Busy(words, after.map(Duration::from_secs))
            }
            _ => Self::Answer(status, words),
        }
    }
}

/// What an error says, in one line.
fn words(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = json
        .as_ref()
        .and_then(|json| json["status"]["error"].as_str())
        .map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(WORDS_MAX).collect()
}

impl Site {
    /// The site at `address`, asked for `patience` before one gives up on it.
    ///
    /// # Errors
    /// Text for people when a header cannot be sent.
    pub fn new(
        address: Address,
        tailnet: Arc<Tailnet>,
        patience: Duration,
        progress: Arc<Progress>,
    ) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, secret) in address.headers {
            let mut value = HeaderValue::from_str(secret.expose())
                .map_err(|_| format!("the value of {name} cannot be sent as a header"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(Self {
            authority: HeaderValue::from_str(&address.authority)
                .map_err(|_| format!("{:?} is no host", address.authority))?,
            name: address.name,
            tailnet,
            place: address.place,
            base: address.base,
            headers,
            patience,
            progress,
            idle: Mutex::default(),
        })
    }

    /// Its name in outputs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks until there is an answer, or what cannot be cured by asking again.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Result<Bytes, (StatusCode, String)>, Stop> {
        let mut tries = self.tries();
        loop {
            match self.call(method.clone(), path, body.clone()).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(Trouble::Answer(status, words)) => return Ok(Err((status, words))),
                Err(trouble) => tries.after(&trouble).await?,
            }
        }
    }

    /// Counts tries of something.
    pub fn tries(&self) -> Tries<'_> {
        Tries {
            site: self,
            patience: Patience::of(self.patience),
            began: Instant::now(),
        }
    }

    /// The end of the run, because of `trouble`.
    pub fn stop(&self, trouble: &Trouble) -> Stop {
        Stop::Failed(format!("{}: {}", self.name, trouble.words()))
    }

    /// Asks once.
    pub async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Trouble> {
        loop {
            let (sender, reused) = match self.reusable() {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            let request = self.request(&method, path, body.clone())?;
            let answer = timeout(ANSWER, self.exchange(sender, request)).await;
            match answer {
                // It died while it was idle: that says nothing of the site.
                Ok(Err(Trouble::Gone(_))) if reused => {}
                Ok(answer) => return answer,
                Err(_) => {
                    let within = show_duration(ANSWER);
                    return Err(Trouble::Slow(format!("no answer within {within}")));
                }
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        let target = format!("{}{path}", self.base);
        *request.uri_mut() =
            (target.parse()).map_err(|_| Trouble::Gone(format!("{target} is no path")))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }

    async fn exchange(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, Trouble> {
        let gone = |error: hyper::Error| Trouble::Gone(format!("the connection broke: {error}"));
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(gone)?
            .into_parts();
        let body = match Limited::new(body, ANSWER_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let most = ANSWER_MAX / 1024 / 1024;
                return Err(Trouble::TooMuch(format!(
                    "an answer of more than {most} MiB"
                )));
            }
            Err(error) => return Err(Trouble::Gone(format!("the connection broke: {error}"))),
        };
        if !sender.is_closed() {
            self.lock_idle().push((sender, Instant::now()));
        }
        if head.status.is_success() {
            Ok(body)
        } else {
            Err(Trouble::of(head.status, &head.headers, &body))
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        let stream = open(&self.tailnet, &self.place, CONNECT).await;
        let stream = stream.map_err(|failure| {
            Trouble::Gone(format!("{}: {}", failure.kind.as_str(), failure.detail))
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Trouble::Gone(error.to_string()))?;
        // It ends by itself when its sender is dropped; what it met shows in the answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn reusable(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.lock_idle();
        idle.retain(|(sender, since)| since.elapsed() < IDLE && sender.is_ready());
        idle.pop().map(|(sender, _)| sender)
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<(SendRequest<Full<Bytes>>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries of one thing.
#[derive(Debug)]
pub struct Tries<'a> {
    site: &'a Site,
    patience: Patience,
    began: Instant,
}

impl Tries<'_> {
    /// A try failed: waits until the next one is due.
    ///
    /// # Errors
    /// When there is no next one.
    pub async fn after(&mut self, trouble: &Trouble) -> Result<(), Stop> {
        let asked = match trouble {
            Trouble::Answer(..) | Trouble::TooMuch(_) => return Err(self.site.stop(trouble)),
            Trouble::Busy(_, after) => *after,
            Trouble::Slow(_) | Trouble::Gone(_) => None,
        };
        let pause = self.patience.pause(self.began.elapsed(), asked);
        let pause = pause.ok_or_else(|| self.site.stop(trouble))?;
        let words = trouble.words();
        self.site
            .progress
            .note(format!("waits for {}: {words}", self.site.name));
        sleep(pause).await;
        self.began = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_meaning() {
        let of = |status: u16, after: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            }
            let status = StatusCode::from_u16(status).unwrap();
            Trouble::of(
                status,
                &headers,
                b"{\"status\":{\"error\":\"no  room\\n\"}}",
            )
        };
        let said = |status: u16| format!("it answered {status}: no room");
        let busy = |status, seconds: Option<u64>| {
            Trouble::Busy(said(status), seconds.map(Duration::from_secs))
        };
        for status in [400, 401, 403, 404, 409, 422, 501, 507] {
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(of(status, None), Trouble::Answer(code, said(status)));
        }
        assert_eq!(of(413, None), Trouble::TooMuch(said(413)));
        for status in [408, 504] {
            assert_eq!(of(status, None), Trouble::Slow(said(status)));
        }
        for status in [500, 502, 503] {
            assert_eq!(of(status, None), busy(status, None));
        }
        assert_eq!(of(429, Some("7")), busy(429, Some(7)));
        assert_eq!(of(429, Some("tomorrow")), busy(429, None));
    }

    #[test]
    fn the_words_of_an_error_are_one_line_and_short() {
        assert_eq!(words(b"Must provide an API key"), "Must provide an API key");
        assert_eq!(words(b""), "");
        assert_eq!(words("日\n本".as_bytes()), "日 本");
        assert_eq!(words(&[b'x'; 9_000]).len(), WORDS_MAX);
    }
}
