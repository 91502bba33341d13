//! The access line as Google Cloud Logging reads it: its own fields first, then ours.
//!
//! Invariant: `requestUrl` is the path without the query; nothing of a body or a header but the
//! request id and the trace is in it.

use std::io::Write as _;

use super::access::{Entry, number, quoted, text};

/// The name of the field with the trace.
const TRACE: &str = "logging.googleapis.com/trace";

impl Entry<'_> {
    /// What is put before the fields of every JSON line, from the brace on; ends with a comma.
    /// `project`: whose traces they are.
    pub(super) fn append_cloud(&self, project: Option<&str>, to: &mut Vec<u8>) {
        text(to, b"{\"severity\":\"", self.severity());
        text(to, b"\",\"message\":\"", &self.method);
        quoted(to, b" ", &self.path);
        number(to, b" ", u64::from(self.status));
        // Writing into a Vec cannot fail.
        let _ = write!(to, " {}ms ", self.total_ms.as_f64());
        text(to, b"", &self.backend);
        text(
            to,
            b"\",\"httpRequest\":{\"requestMethod\":\"",
            &self.method,
        );
        quoted(to, b"\",\"requestUrl\":\"", &self.path);
        to.push(b'"');
        // 0 is no status: whoever asked left before there was one.
        if self.status > 0 {
            number(to, b",\"status\":", u64::from(self.status));
        }
        // Sizes are strings there, as JSON numbers end at 2^53.
        number(to, b",\"requestSize\":\"", self.bytes_in);
        number(to, b"\",\"responseSize\":\"", self.bytes_out);
        let _ = write!(
            to,
            "\",\"latency\":\"{}s\"}},",
            self.total_ms.as_f64() / 1e3
        );
        self.append_trace(project, to);
    }

    fn append_trace(&self, project: Option<&str>, to: &mut Vec<u8>) {
        let Some(trace) = &self.trace else { return };
        let id = trace.id;
        let _ = match project {
            Some(project) => write!(to, "\"{TRACE}\":\"projects/{project}/traces/{id:032x}\","),
            None => write!(to, "\"trace\":\"{id:032x}\","),
        };
        if trace.span > 0 {
            let _ = write!(
                to,
                "\"logging.googleapis.com/spanId\":\"{:016x}\",",
                trace.span
            );
        }
        let sampled = trace.sampled;
        let _ = write!(to, "\"logging.googleapis.com/trace_sampled\":{sampled},");
    }

    /// `ERROR` for what failed, `WARNING` for what was mended on the way or is the client's.
    fn severity(&self) -> &'static str {
        let broke = !matches!(self.end, "complete" | "refused" | "client-abort");
        if self.status >= 500 || broke {
            "ERROR"
        } else if self.status >= 400 || self.reason.starts_with("fallback:") {
            "WARNING"
        } else {
            "INFO"
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::access::{Form, Line, Stamp};
    use super::super::trace::Trace;

    fn line() -> Line {
        Line {
            status: 200,
            bytes_in: 12,
            path: "/qdrant/\"日本\"".into(),
            ..super::super::access::tests::line("2026-11-25T04:34:15.7Z", "/", 231_000)
        }
    }

    fn written(line: &Line, project: Option<&str>) -> Value {
        let form = Form::Cloud {
            project: project.map(str::to_owned),
        };
        let mut text = Vec::new();
        line.append(&form, &mut text, &mut Stamp::default());
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn the_fields_of_cloud_logging_stand_beside_ours() {
        let trace = Trace {
            id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0xb7,
            sampled: true,
        };
        let line = Line {
            trace: Some(trace),
            ..line()
        };
        let told = written(&line, Some("p-1"));
        for (field, value) in [
            ("severity", json!("INFO")),
            ("message", json!("GET /qdrant/\"日本\" 200 231ms m1")),
            ("time", json!("2026-11-25T04:34:15.7Z")),
            (
                "logging.googleapis.com/trace",
                json!("projects/p-1/traces/0af7651916cd43dd8448eb211c80319c"),
            ),
            ("logging.googleapis.com/spanId", json!("00000000000000b7")),
            ("logging.googleapis.com/trace_sampled", json!(true)),
            ("request_id", json!("00ff-1")),
            ("reason", json!("active:default")),
        ] {
            assert_eq!(told[field], value, "{field}");
        }
        let request = json!({
            "requestMethod": "GET",
            "requestUrl": "/qdrant/\"日本\"",
            "status": 200,
            "requestSize": "12",
            "responseSize": u64::MAX.to_string(),
            "latency": "0.231s",
        });
        assert_eq!(told["httpRequest"], request);
    }

    #[test]
    fn without_a_project_or_a_trace_none_is_made_up() {
        let told = written(&line(), Some("p-1"));
        assert!(!told.to_string().contains("trace"), "{told}");
        let trace = Trace {
            id: 1,
            span: 0,
            sampled: false,
        };
        let told = written(
            &Line {
                trace: Some(trace),
                ..line()
            },
            None,
        );
        assert_eq!(told["trace"], json!(format!("{:032x}", 1)));
        assert_eq!(told["logging.googleapis.com/trace"], Value::Null);
        assert_eq!(told["logging.googleapis.com/spanId"], Value::Null);
    }

    #[test]
    fn how_bad_it_is_follows_status_end_and_way() {
        for (status, end, reason, severity) in [
            (200, "complete", "active:default", "INFO"),
            (301, "complete", "active:default", "INFO"),
            (200, "complete", "fallback:silent", "WARNING"),
            (404, "complete", "active:default", "WARNING"),
            (0, "client-abort", "active:default", "INFO"),
            (503, "refused", "asleep", "ERROR"),
            (200, "reset", "active:default", "ERROR"),
        ] {
            let line = Line {
                status,
                end,
                reason: reason.into(),
                ..line()
            };
            let told = written(&line, None);
            assert_eq!(told["severity"], severity, "{status} {end} {reason}");
            assert_eq!(told["httpRequest"]["status"].is_null(), status == 0);
        }
    }
}
