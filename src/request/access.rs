//! The access log: one line a request, written in batches by a thread of its own.
//!
//! The data thread only appends a line to a buffer in memory, in the very form in which it is
//! written, so that a line costs no allocation and no other thread has to touch it. Invariants: the
//! writer never holds up a request; what it cannot keep up with is dropped and counted; nothing of
//! a body, a query or a header but the request id is in a line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::IntCounter;
use serde::Serialize;

use super::trace::Trace;
use super::worked::Worked;
use crate::config::Environment;
use crate::metrics::Metrics;

/// Lines that may wait for whoever reads the channel.
const BACKLOG: usize = 4096;
/// Bytes of lines that may wait for the writer.
const BACKLOG_BYTES: usize = 1024 * 1024;
/// A buffer that grew beyond this in a burst is not kept.
const KEPT_BYTES: usize = 64 * 1024;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// One access line that owns its text.
pub type Line = Entry<'static>;

/// One access line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry<'a> {
    /// When the request's head had come.
    pub time: Timestamp,
    /// Ties the line to the answer's header.
    pub request_id: Cow<'a, str>,
    /// Method.
    pub method: Cow<'a, str>,
    /// Path without the query.
    pub path: Cow<'a, str>,
    /// Status sent to the client; 0 if it left before.
    pub status: u16,
    /// Service, or `none`.
    pub service: Cow<'a, str>,
    /// Effect, or `none`.
    pub effect: &'static str,
    /// Operation, or `none`.
    pub op: &'static str,
    /// The backend asked last, or `none`.
    pub backend: Cow<'a, str>,
    /// Why that one, or why there is no answer.
    pub reason: Cow<'a, str>,
    /// Attempts made.
    pub attempts: u32,
    /// Bytes of the request body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// To the head of the answer, in milliseconds.
    pub first_byte_ms: Option<Millis>,
    /// To the end, in milliseconds.
    pub total_ms: Millis,
    /// `complete`, `refused`, `client-abort`, or what broke the answer off.
    pub end: &'static str,
    /// How it stood in line for the backend, where that has a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Stood>,
    /// How a model's stream ended: `complete`, `truncated`, `error-in-stream` or `cancelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<&'static str>,
    /// What a model's answer took.
    #[serde(flatten)]
    pub work: Option<Worked<'a>>,
    /// The trace that its client says it belongs to, where that is logged.
    #[serde(skip)]
    pub trace: Option<Trace>,
}

/// How a request stood in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stood {
    /// Its place when it came, from 1; 0: it did not wait, or was turned away.
    pub position: usize,
    /// How many waited when it came.
    pub depth: usize,
    /// How long it waited, in milliseconds.
    pub ms: Millis,
}

/// How lines look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Plain,
    /// JSON.
    Json,
    /// JSON with the fields of Google Cloud Logging.
    Cloud {
        /// Whose traces they are, if that is known.
        project: Option<String>,
    },
}

/// A time as the log shows it: whole microseconds, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis {
    micros: u64,
}

/// Where access lines go.
#[derive(Clone)]
pub struct AccessLog {
    to: To,
    traces: bool,
    /// Lines of requests that went well.
    well: Arc<AtomicU64>,
    dropped: IntCounter,
}

#[derive(Clone)]
enum To {
    Channel(SyncSender<Line>),
    Writer(Arc<Logging>),
}

/// Those who log. When the last of them is gone, the writer ends.
struct Logging(Arc<Outlet>);

/// What those who log and the writer share.
struct Outlet {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// Lines that wait to be written.
struct Waiting {
    text: Vec<u8>,
    stamp: Stamp,
    form: Form,
    closed: bool,
}

/// The last second that was written, as text: most lines are of the same one.
#[derive(Default)]
pub(super) struct Stamp {
    second: i64,
    text: String,
}

impl Form {
    /// The one that fits: `terminal`, whether people read along.
    pub fn of(environment: &Environment, terminal: bool) -> Self {
        if terminal {
            Self::Plain
        } else if environment.on_cloud_run() {
            let project = environment.cloud_project().map(str::to_owned);
            Self::Cloud { project }
        } else {
            Self::Json
        }
    }
}

impl AccessLog {
    /// Lines to a channel, for whoever wants to read them.
    pub fn channel(metrics: &Metrics) -> (Self, Receiver<Line>) {
        let (to, from) = sync_channel(BACKLOG);
        (Self::new(To::Channel(to), false, metrics), from)
    }

    /// Lines to stdout, by a thread of their own. The thread ends when nobody is left to log.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn stdout(form: Form, metrics: &Metrics) -> std::io::Result<(Self, JoinHandle<()>)> {
        let traces = matches!(form, Form::Cloud { .. });
        let outlet = Arc::new(Outlet::new(form));
        let to = To::Writer(Arc::new(Logging(Arc::clone(&outlet))));
        let log = Self::new(to, traces, metrics);
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || outlet.write_lines())?;
        Ok((log, writer))
    }

    fn new(to: To, traces: bool, metrics: &Metrics) -> Self {
        Self {
            to,
            traces,
            well: Arc::default(),
            dropped: metrics.log_dropped.clone(),
        }
    }

    /// Whether the trace of a request is logged.
    pub(super) fn traces(&self) -> bool {
        self.traces
    }

    /// Whether this line of a request that went well is written, where one in `sample` is.
    pub(super) fn is_due(&self, sample: u16) -> bool {
        let before = || self.well.fetch_add(1, Ordering::Relaxed);
        sample <= 1 || before().is_multiple_of(u64::from(sample))
    }

    pub(super) fn write(&self, line: &Entry<'_>) {
        let written = match &self.to {
            To::Channel(to) => to.try_send(line.owned()).is_ok(),
            To::Writer(logging) => logging.0.append(line),
        };
        if !written {
            self.dropped.inc();
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.locked().closed = true;
        self.0.more.notify_one();
    }
}

impl Outlet {
    fn new(form: Form) -> Self {
        let waiting = Mutex::new(Waiting {
            text: Vec::new(),
            stamp: Stamp::default(),
            form,
            closed: false,
        });
        Self {
            waiting,
            more: Condvar::new(),
        }
    }

    /// Adds a line; whether there was room for it.
    fn append(&self, line: &Entry<'_>) -> bool {
        let mut waiting = self.locked();
        if waiting.text.len() >= BACKLOG_BYTES {
            return false;
        }
        let first = waiting.text.is_empty();
        waiting.append(line);
        drop(waiting);
        if first {
            self.more.notify_one();
        }
        true
    }

    /// Writes lines until nobody is left to log.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own: nothing else waits for it"
    )]
    fn write_lines(&self) {
        let mut text = Vec::new();
        while self.wait() {
            // One wake-up and one write for all lines of a while, not for each.
            std::thread::sleep(GATHER);
            std::mem::swap(&mut self.locked().text, &mut text);
            // Nobody reads: the proxy goes on.
            if std::io::stdout().write_all(&text).is_err() {
                return;
            }
            text.clear();
            text.shrink_to(KEPT_BYTES);
        }
    }

    /// Waits for lines; whether there are any.
    fn wait(&self) -> bool {
        let idle = |waiting: &mut Waiting| waiting.text.is_empty() && !waiting.closed;
        let waited = self.more.wait_while(self.locked(), idle);
        let waiting = waited.unwrap_or_else(PoisonError::into_inner);
        !waiting.text.is_empty()
    }

    fn locked(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that panics is done under it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn append(&mut self, line: &Entry<'_>) {
        line.append(&self.form, &mut self.text, &mut self.stamp);
        self.text.push(b'\n');
    }
}

impl Entry<'_> {
    fn owned(&self) -> Line {
        let own = |text: &Cow<'_, str>| Cow::Owned(text.as_ref().to_owned());
        Entry {
            request_id: own(&self.request_id),
            method: own(&self.method),
            path: own(&self.path),
            service: own(&self.service),
            backend: own(&self.backend),
            reason: own(&self.reason),
            work: self.work.as_ref().map(|work| Worked {
                model: own(&work.model),
                ..*work
            }),
            ..*self
        }
    }

    /// Appends the line in this form.
    pub(super) fn append(&self, form: &Form, to: &mut Vec<u8>, stamp: &mut Stamp) {
        match form {
            Form::Plain => return self.append_plain(to),
            Form::Json => to.push(b'{'),
            Form::Cloud { project } => self.append_cloud(project.as_deref(), to),
        }
        self.append_fields(to, stamp);
    }

    /// The line as serde writes it, without its first brace, in a third of the time: every request
    /// pays for this.
    fn append_fields(&self, to: &mut Vec<u8>, stamp: &mut Stamp) {
        to.extend_from_slice(b"\"time\":\"");
        stamp.append(self.time, to);
        text(to, b"\",\"request_id\":\"", &self.request_id);
        text(to, b"\",\"method\":\"", &self.method);
        quoted(to, b"\",\"path\":\"", &self.path);
        number(to, b"\",\"status\":", u64::from(self.status));
        text(to, b",\"service\":\"", &self.service);
        text(to, b"\",\"effect\":\"", self.effect);
        text(to, b"\",\"op\":\"", self.op);
        text(to, b"\",\"backend\":\"", &self.backend);
        text(to, b"\",\"reason\":\"", &self.reason);
        number(to, b"\",\"attempts\":", u64::from(self.attempts));
        number(to, b",\"bytes_in\":", self.bytes_in);
        number(to, b",\"bytes_out\":", self.bytes_out);
        to.extend_from_slice(b",\"first_byte_ms\":");
        match self.first_byte_ms {
            Some(millis) => millis.append(to),
            None => to.extend_from_slice(b"null"),
        }
        to.extend_from_slice(b",\"total_ms\":");
        self.total_ms.append(to);
        text(to, b",\"end\":\"", self.end);
        to.push(b'"');
        if let Some(Stood {
            position,
            depth,
            ms,
        }) = self.queue
        {
            number(to, b",\"queue\":{\"position\":", position as u64);
            number(to, b",\"depth\":", depth as u64);
            to.extend_from_slice(b",\"ms\":");
            ms.append(to);
            to.push(b'}');
        }
        if let Some(stream) = self.stream {
            text(to, b",\"stream\":\"", stream);
            to.push(b'"');
        }
        if let Some(work) = &self.work {
            work.append(to);
        }
        to.push(b'}');
    }

    fn append_plain(&self, to: &mut Vec<u8>) {
        let mut line = String::new();
        // Writing into a String cannot fail.
        let _ = write!(
            line,
            "{} {:>3} {} {} -> {} ({}) {}ms {}",
            self.time.strftime("%T"),
            self.status,
            self.method,
            self.path,
            self.backend,
            self.reason,
            self.total_ms.as_f64(),
            self.end,
        );
        to.extend_from_slice(line.as_bytes());
    }
}

impl Stamp {
    /// Appends an instant as RFC 3339 has it, with as many digits as it takes.
    fn append(&mut self, time: Timestamp, to: &mut Vec<u8>) {
        let (second, nanos) = (time.as_second(), time.subsec_nanosecond());
        if self.text.is_empty() || self.second != second {
            let whole = Timestamp::from_second(second).unwrap_or(time);
            self.second = second;
            self.text = whole.to_string();
        }
        let whole = self.text.trim_end_matches('Z');
        to.extend_from_slice(whole.as_bytes());
        // Instants before 1970 have a negative part: no clock that runs says so.
        fraction(to, nanos.unsigned_abs());
        to.push(b'Z');
    }
}

impl Millis {
    /// A time, rounded.
    pub fn of(took: Duration) -> Self {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        Self {
            micros: nanos.saturating_add(500) / 1000,
        }
    }

    /// In milliseconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact for the first 285 years of a request"
    )]
    pub fn as_f64(self) -> f64 {
        self.micros as f64 / 1e3
    }

    pub(super) fn append(self, to: &mut Vec<u8>) {
        let (whole, rest) = (self.micros / 1000, self.micros % 1000);
        number(to, b"", whole);
        let digits = [b'.', digit(rest / 100), digit(rest / 10), digit(rest)];
        let shown = match (rest % 10, rest % 100) {
            (_, 0) => 2,
            (0, _) => 3,
            _ => 4,
        };
        to.extend_from_slice(&digits[..shown]);
    }
}

impl Serialize for Millis {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.as_f64())
    }
}

/// Appends `before`, and then `value`, a word that needs no quoting: names, methods, ids and our own
/// words have no quotes, backslashes or control characters.
pub(super) fn text(to: &mut Vec<u8>, before: &[u8], value: &str) {
    to.extend_from_slice(before);
    to.extend_from_slice(value.as_bytes());
}

/// Appends `before`, and then `value` as JSON has it between quotes.
pub(super) fn quoted(to: &mut Vec<u8>, before: &[u8], value: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    // All of it in any case: what ends nowhere is looked at many bytes at once.
    if (value.bytes()).fold(true, |all, byte| all & plain(byte)) {
        return text(to, before, value);
    }
    let quoted = serde_json::to_string(value).unwrap_or_default();
    let inner = quoted.get(1..quoted.len().saturating_sub(1));
    text(to, before, inner.unwrap_or_default());
}

/// Appends `before`, and then `value` in decimal.
pub(super) fn number(to: &mut Vec<u8>, before: &[u8], mut value: u64) {
    to.extend_from_slice(before);
    let mut digits = [b'0'; 20];
    let mut at = digits.len() - 1;
    loop {
        digits[at] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
        at -= 1;
    }
    to.extend_from_slice(&digits[at..]);
}

/// Appends a point and nanoseconds as the digits of a second, without the zeros at their end;
/// nothing for none.
fn fraction(to: &mut Vec<u8>, mut nanos: u32) {
    let mut digits = *b".000000000";
    let mut at = digits.len();
    while nanos > 0 {
        at -= 1;
        digits[at] = digit(u64::from(nanos));
        nanos /= 10;
    }
    let last = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(0);
    if last > 0 {
        to.extend_from_slice(&digits[..=last]);
    }
}

/// The last digit of a number.
fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::request) fn line(time: &str, path: &'static str, micros: u64) -> Line {
        Entry {
            time: time.parse().unwrap(),
            request_id: "00ff-1".into(),
            method: "GET".into(),
            path: path.into(),
            status: 200,
            service: "ollama".into(),
            effect: "read",
            op: "tags",
            backend: "m1".into(),
            reason: "active:default".into(),
            attempts: 1,
            bytes_in: 0,
            bytes_out: u64::MAX,
            first_byte_ms: (micros > 0).then_some(Millis { micros }),
            total_ms: Millis { micros },
            end: "complete",
            queue: (micros > 1000).then_some(Stood {
                position: 3,
                depth: 2,
                ms: Millis { micros },
            }),
            stream: (micros > 1000).then_some("truncated"),
            work: (micros > 10).then(|| Worked {
                model: "kim/\"x\":latest".into(),
                first_token_ms: Some(Millis { micros }),
                tokens_in: Some(micros),
                tokens_out: None,
                token_ms: Some(Millis { micros }),
                tokens_per_s: Some(0),
                load_ms: (micros > 100).then_some(Millis { micros }),
                prompt_ms: Some(Millis { micros: 1 }),
                queue_ms: None,
            }),
            trace: None,
        }
    }

    #[test]
    fn lines_are_the_json_that_serde_writes() {
        let mut stamp = Stamp::default();
        let times = [
            "2026-11-25T04:34:15.716868001Z",
            "2026-11-25T04:34:15.7Z",
            "2026-11-25T04:34:16Z",
            "2026-11-25T04:34:16.000000001Z",
        ];
        let paths = [
            "/a",
            "/日本",
            "/a\"",
            "\"/a\"b",
            "/a\\b\u{1}",
            "/\u{7f}",
            "",
        ];
        let micros = [
            0,
            1,
            10,
            100,
            999,
            1000,
            1001,
            1500,
            20_100,
            7_000_000,
            123_456_789,
        ];
        for time in times {
            for path in paths {
                for micros in micros {
                    let line = line(time, path, micros);
                    let mut text = Vec::new();
                    line.append(&Form::Json, &mut text, &mut stamp);
                    let want = serde_json::to_string(&line).unwrap();
                    assert_eq!(String::from_utf8(text).unwrap(), want);
                }
            }
        }
    }

    #[test]
    fn a_time_is_rounded_to_microseconds() {
        let ms = |nanos| Millis::of(Duration::from_nanos(nanos)).as_f64();
        assert!((ms(1_499) - 0.001).abs() < 1e-9);
        assert!((ms(1_500) - 0.002).abs() < 1e-9);
        assert!((ms(u64::MAX) - 1.844_674_407_370_955e13).abs() < 1.0);
    }

    #[test]
    fn a_writer_that_does_not_keep_up_costs_lines_and_never_memory() {
        let outlet = Outlet::new(Form::Json);
        let line = line("2026-11-25T04:34:16Z", "/a", 1);
        let taken = std::iter::repeat_with(|| outlet.append(&line)).take_while(|taken| *taken);
        assert!(taken.count() > 1000);
        assert!(outlet.locked().text.len() < BACKLOG_BYTES + 1024);
    }

    #[test]
    fn the_writer_ends_when_nobody_is_left_to_log() {
        let outlet = Arc::new(Outlet::new(Form::Json));
        let logging = Logging(Arc::clone(&outlet));
        drop(logging);
        assert!(!outlet.wait());
    }
}
