//! A model's answer, watched as it passes: whether it ended as its API says, and what it tells of
//! tokens and times.
//!
//! Ollama answers 200 and ends the body cleanly when its runner dies in mid-answer, so the end of
//! the bytes proves nothing: a native stream is whole with `done:true` (of the model store:
//! `status:success`), one of `OpenAI`'s with `[DONE]`, `Anthropic`'s with `message_stop`, one of
//! `Responses` with `response.completed`. Invariants: nothing is copied, changed or held back; what
//! counts is a whole object on a line of its own; memory is bounded, whatever a line's length.

use std::sync::LazyLock;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use memchr::memmem::Finder;

use super::json::{Scanner, Sink, Value};
use super::media_type;
use crate::words::effect::Meaning;
use crate::words::names::Kind;

/// Which API's stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Lines of JSON that end with `done:true`.
    Native,
    /// Lines of JSON that end with `status:success`.
    Store,
    /// Events that end with `[DONE]`.
    Chat,
    /// Named events of `Anthropic` and of `Responses`.
    Named,
    /// One JSON object, whose end HTTP tells.
    Whole,
}

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It said that it is complete.
    Complete,
    /// It did not say so.
    Truncated,
    /// It said what failed.
    Error,
}

/// What an answer told of the model's work. `None`: it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub tokens_in: Option<u64>,
    /// Tokens of the answer.
    pub tokens_out: Option<u64>,
    /// Time to load the model.
    pub load: Option<Duration>,
    /// Time to evaluate the prompt.
    pub prompt: Option<Duration>,
    /// Time to make the answer.
    pub answer: Option<Duration>,
    /// All of it.
    pub total: Option<Duration>,
}

/// Reads an answer along.
pub struct Watcher {
    scanner: Scanner,
    line: Line,
    seen: Seen,
}

/// Where in a line of an event stream.
#[derive(Clone, Copy)]
enum Line {
    /// So many bytes of `data:`.
    Field(usize),
    /// Behind the colon of `data:`, and so many bytes of `[DONE]`.
    Data(usize),
    /// In a line that says nothing.
    Other,
}

struct Seen {
    dialect: Dialect,
    /// What the object at hand says.
    said: Option<Ending>,
    ending: Option<Ending>,
    usage: Usage,
}

/// The words one of which is in each line that counts.
struct Words {
    native: [Finder<'static>; 2],
    store: [Finder<'static>; 2],
    chat: [Finder<'static>; 3],
    named: [Finder<'static>; 6],
}

static WORDS: LazyLock<Words> = LazyLock::new(|| Words {
    native: ["true", "error"].map(Finder::new),
    store: ["success", "error"].map(Finder::new),
    chat: ["[DONE]", "error", "usage"].map(Finder::new),
    named: [
        "_stop",
        "completed",
        "incomplete",
        "failed",
        "error",
        "usage",
    ]
    .map(Finder::new),
});

const FIELD: &[u8] = b"data:";
const DONE: &[u8] = b"[DONE]";

impl Watcher {
    /// For an answer to a request of this meaning and path; `None`: it is none of a model's.
    pub fn of(
        kind: Kind,
        meaning: Meaning,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let plain = || !headers.contains_key(CONTENT_ENCODING);
        if kind != Kind::Ollama || !status.is_success() || !plain() {
            return None;
        }
        let dialect = dialect(meaning.op, path, media_type(headers.get(CONTENT_TYPE)?)?)?;
        Some(Self {
            scanner: Scanner::new(),
            line: Line::Field(0),
            seen: Seen {
                dialect,
                said: None,
                ending: None,
                usage: Usage::default(),
            },
        })
    }

    /// Whether it has to say itself that it is complete.
    pub fn is_stream(&self) -> bool {
        self.seen.dialect != Dialect::Whole
    }

    /// A piece passes.
    pub fn see(&mut self, piece: &[u8]) {
        if self.says_nothing(piece) {
            return;
        }
        if matches!(self.seen.dialect, Dialect::Chat | Dialect::Named) {
            self.events(piece);
        } else {
            self.scanner.feed(piece, &mut self.seen);
        }
    }

    /// Whether a piece is whole lines, or whole events, without a word that counts: almost every
    /// token is, and is not read any further. Ollama escapes none of these words.
    fn says_nothing(&self, piece: &[u8]) -> bool {
        let (words, end): (&[Finder<'_>], &[u8]) = match self.seen.dialect {
            Dialect::Native => (&WORDS.native, b"}\n"),
            Dialect::Store => (&WORDS.store, b"}\n"),
            Dialect::Chat => (&WORDS.chat, b"\n\n"),
            Dialect::Named => (&WORDS.named, b"\n\n"),
            Dialect::Whole => return false,
        };
        let fresh = matches!(self.line, Line::Field(0)) && self.seen.said.is_none();
        fresh
            && self.scanner.is_idle()
            && piece.ends_with(end)
            && !words.iter().any(|word| word.find(piece).is_some())
    }

    /// How it stands: how it ended, if nothing more comes.
    pub fn ending(&self) -> Ending {
        match self.seen.ending {
            Some(ending) => ending,
            None if self.is_stream() => Ending::Truncated,
            None => Ending::Complete,
        }
    }

    /// Whether a model makes it, and not the store of models.
    pub fn is_answer(&self) -> bool {
        self.seen.dialect != Dialect::Store
    }

    /// Whether there is no token in it: a model that was only loaded says so.
    pub fn is_bare(&self) -> bool {
        let native = self.seen.dialect == Dialect::Native;
        native && self.ending() == Ending::Complete && self.usage().tokens_out.is_none()
    }

    /// What it told so far.
    pub fn usage(&self) -> Usage {
        self.seen.usage
    }

    /// Lines of an event stream; several `data` lines of one event are one text.
    fn events(&mut self, piece: &[u8]) {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = line;
            while let Some((byte, after)) = rest.split_first() {
                match self.line {
                    Line::Field(at) => {
                        self.line = match FIELD.get(at) {
                            // A blank line ends the event.
                            _ if at == 0 && matches!(byte, b'\r' | b'\n') => {
                                self.scanner.restart();
                                self.seen.said = None;
                                Line::Other
                            }
                            Some(wanted) if wanted == byte && at + 1 == FIELD.len() => {
                                Line::Data(0)
                            }
                            Some(wanted) if wanted == byte => Line::Field(at + 1),
                            _ => Line::Other,
                        };
                        rest = after;
                    }
                    Line::Data(at) => {
                        self.line = Line::Data(self.seen.done(rest, at));
                        self.scanner.feed(rest, &mut self.seen);
                        break;
                    }
                    Line::Other => break,
                }
            }
            if line.ends_with(b"\n") {
                self.line = Line::Field(0);
            }
        }
    }
}

impl Seen {
    /// Follows `[DONE]` over a part of a line, of which so many bytes were there before; how many
    /// are now. More than it has: it is something else.
    fn done(&mut self, part: &[u8], mut at: usize) -> usize {
        for byte in part {
            at = match (byte, DONE.get(at)) {
                (b' ', _) if at == 0 => 0,
                (b'\r', None) if at == DONE.len() => at,
                (b'\n', None) if at == DONE.len() => {
                    if self.dialect == Dialect::Chat {
                        self.commit(Ending::Complete);
                    }
                    at
                }
                (byte, Some(wanted)) if byte == wanted => at + 1,
                _ => return DONE.len() + 1,
            };
        }
        at
    }

    /// What failed is never outdone by what follows.
    fn commit(&mut self, ending: Ending) {
        if self.ending != Some(Ending::Error) {
            self.ending = Some(ending);
        }
    }
}

impl Sink for Seen {
    fn wants(&self, keys: &[&[u8]]) -> bool {
        match keys {
            [key] => matches!(*key, b"done" | b"error" | b"status" | b"type") || is_measure(key),
            [b"usage", key] | [b"message" | b"response", b"usage", key] => is_tokens(key),
            _ => false,
        }
    }

    fn value(&mut self, keys: &[&[u8]], value: Value<'_>) {
        match (keys, value) {
            ([b"done"], Value::Plain(b"true")) if self.dialect == Dialect::Native => {
                self.said.get_or_insert(Ending::Complete);
            }
            ([b"status"], Value::Text(b"success")) if self.dialect == Dialect::Store => {
                self.said.get_or_insert(Ending::Complete);
            }
            ([b"type"], Value::Text(name)) if self.dialect == Dialect::Named => {
                self.said = named(name).or(self.said);
            }
            ([b"error"], value) if value != Value::Plain(b"null") => {
                self.said = Some(Ending::Error);
            }
            ([.., key], Value::Plain(number)) => {
                let number = std::str::from_utf8(number).ok();
                if let Some(number) = number.and_then(|number| number.parse().ok()) {
                    self.usage.told(key, number);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        if let Some(said) = self.said.take() {
            self.commit(said);
        }
    }
}

impl Usage {
    /// What it took besides its parts: mostly the wait for its turn, which Ollama tells nowhere.
    pub fn queue(&self) -> Option<Duration> {
        // Where no part but the load is told, the rest is work.
        self.answer.or(self.prompt)?;
        // Parts that took no time are left out.
        let [load, prompt, answer] =
            [self.load, self.prompt, self.answer].map(Option::unwrap_or_default);
        Some(self.total?.saturating_sub(load + prompt + answer))
    }

    fn told(&mut self, key: &[u8], number: u64) {
        let time = Some(Duration::from_nanos(number));
        match key {
            b"prompt_eval_count" | b"prompt_tokens" | b"input_tokens" => {
                self.tokens_in = Some(number);
            }
            b"eval_count" | b"completion_tokens" | b"output_tokens" => {
                self.tokens_out = Some(number);
            }
            b"load_duration" => self.load = time,
            b"prompt_eval_duration" => self.prompt = time,
            b"eval_duration" => self.answer = time,
            b"total_duration" => self.total = time,
            _ => {}
        }
    }
}

fn is_measure(key: &[u8]) -> bool {
    matches!(
        key,
        b"prompt_eval_count"
            | b"eval_count"
            | b"load_duration"
            | b"prompt_eval_duration"
            | b"eval_duration"
            | b"total_duration"
    )
}

fn is_tokens(key: &[u8]) -> bool {
    matches!(
        key,
        b"prompt_tokens" | b"completion_tokens" | b"input_tokens" | b"output_tokens"
    )
}

/// What the name of an event says of the end. A stream that reached its limit of tokens is complete.
fn named(name: &[u8]) -> Option<Ending> {
    match name {
        b"message_stop" | b"response.completed" | b"response.incomplete" => Some(Ending::Complete),
        b"error" | b"response.failed" => Some(Ending::Error),
        _ => None,
    }
}

fn dialect(op: &str, path: &str, media: &str) -> Option<Dialect> {
    let models = matches!(op, "chat" | "generate");
    let last = path.trim_end_matches('/').rsplit('/').next();
    match (media, op) {
        ("application/x-ndjson", _) if models => Some(Dialect::Native),
        ("application/x-ndjson", "pull" | "push" | "create") => Some(Dialect::Store),
        ("text/event-stream", _) if models => match last {
            Some("messages" | "responses") => Some(Dialect::Named),
            _ => Some(Dialect::Chat),
        },
        ("application/json", _) if models || op == "embed" => Some(Dialect::Whole),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
