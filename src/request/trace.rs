//! The trace that a request belongs to, as its client says it: only for the log, nothing of it is
//! made up or changed here.
//!
//! Pure. Reads `traceparent` (W3C) and, where there is none, `X-Cloud-Trace-Context` of Google's
//! load balancers. Invariant: what is not wholly of one of the two forms is no trace.

use http::HeaderMap;

/// A trace, and the span of it that the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Never 0.
    pub id: u128,
    /// 0: not known.
    pub span: u64,
    /// Whether the trace is kept.
    pub sampled: bool,
}

impl Trace {
    /// That of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let header = |name| headers.get(name)?.to_str().ok();
        let standard = header("traceparent").and_then(w3c);
        standard.or_else(|| header("x-cloud-trace-context").and_then(cloud))
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; a later version may say more behind it.
fn w3c(text: &str) -> Option<Trace> {
    let mut parts = text.splitn(5, '-');
    let (version, id) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
    let (span, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
    let more = parts.next().is_some();
    let fits = version != 0xff && !(version == 0 && more) && id != 0 && span != 0;
    fits.then_some(Trace {
        id,
        span: u64::try_from(span).ok()?,
        sampled: flags & 1 == 1,
    })
}

/// `<32 hex>/<span in decimal>;o=<0 or 1>`, the last two perhaps not there.
fn cloud(text: &str) -> Option<Trace> {
    let (rest, options) = text.split_once(';').unwrap_or((text, ""));
    let (id, span) = rest.split_once('/').unwrap_or((rest, "0"));
    let id = hex(id, 32)?;
    let decimal = !span.is_empty() && span.bytes().all(|byte| byte.is_ascii_digit());
    (id != 0 && decimal).then_some(Trace {
        id,
        span: span.parse().ok()?,
        sampled: options == "o=1",
    })
}

/// A number of just so many lower-case digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = text.len() == digits && text.bytes().all(digit);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_trace_is_read_from_either_header() {
        let id = u128::from_str_radix(ID, 16).unwrap();
        let trace = |span, sampled| Some(Trace { id, span, sampled });
        let (standard, google) = ("traceparent", "x-cloud-trace-context");
        for (name, value, want) in [
            (
                standard,
                format!("00-{ID}-00000000000000b7-01"),
                trace(0xb7, true),
            ),
            (
                standard,
                format!("00-{ID}-00000000000000b7-00"),
                trace(0xb7, false),
            ),
            (
                standard,
                format!("01-{ID}-00000000000000b7-03-more"),
                trace(0xb7, true),
            ),
            (google, format!("{ID}/123;o=1"), trace(123, true)),
            (
                google,
                format!("{ID}/18446744073709551615;o=0"),
                trace(u64::MAX, false),
            ),
            (google, ID.to_owned(), trace(0, false)),
        ] {
            assert_eq!(read(name, &value), want, "{name}: {value}");
        }
    }

    #[test]
    fn what_is_not_wholly_of_the_form_is_no_trace() {
        let (standard, google) = ("traceparent", "x-cloud-trace-context");
        let (none, loud) = ("0".repeat(32), ID.to_uppercase());
        for (name, value) in [
            (standard, format!("00-{ID}-00000000000000b7-01-more")),
            (standard, format!("ff-{ID}-00000000000000b7-01")),
            (standard, format!("00-{ID}-0000000000000000-01")),
            (standard, format!("00-{none}-00000000000000b7-01")),
            (standard, format!("00-{loud}-00000000000000b7-01")),
            (standard, format!("00-{ID}-00000000000000b7")),
            (standard, "\"} {".to_owned()),
            (google, format!("{ID}/18446744073709551616")),
            (google, format!("{ID}/")),
            (google, format!("{ID}/+1")),
            ("x-other", format!("{ID}/123;o=1")),
        ] {
            assert_eq!(read(name, &value), None, "{name}: {value}");
        }
    }

    fn read(name: &'static str, value: &str) -> Option<Trace> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Trace::of(&headers)
    }

    #[test]
    fn the_standard_holds_where_both_are_there() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-cloud-trace-context",
            format!("{ID}/9;o=1").parse().unwrap(),
        );
        headers.insert(
            "traceparent",
            format!("00-{ID}-000000000000000a-00").parse().unwrap(),
        );
        assert_eq!(Trace::of(&headers).map(|trace| trace.span), Some(10));
    }
}
