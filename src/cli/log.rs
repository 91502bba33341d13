//! Diagnostics on stderr: lines for people on a terminal, elsewhere JSON as Google Cloud Logging and
//! most others read it. `LOG_LEVEL` says how much.
//!
//! Invariant: one event is one line, whatever is in its message.

use std::fmt;
use std::io::IsTerminal;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt as lines, registry};

/// Starts them.
pub(super) fn start() {
    let level = std::env::var("LOG_LEVEL").unwrap_or_default();
    let said = level.parse::<Targets>().ok();
    let filter = said
        .filter(|_| !level.is_empty())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = lines::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        let log = log.with_target(false);
        registry().with(filter).with(log).init();
    } else {
        let log = log.event_format(Json);
        registry().with(filter).with(log).init();
    }
}

/// `time`, `severity`, `message` and the fields of the event.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let Fields(mut fields) = fields;
        fields.insert("time".to_owned(), Timestamp::now().to_string().into());
        let severity = severity(*event.metadata().level());
        fields.insert("severity".to_owned(), severity.into());
        writeln!(to, "{}", Value::Object(fields))
    }
}

/// The word of Google Cloud Logging, which knows nothing below `DEBUG`.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}
