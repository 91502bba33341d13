//! Durations and sizes as people write them.

use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};

const PRINTER: SpanPrinter = SpanPrinter::new()
    .designator(Designator::Compact)
    .spacing(Spacing::None);

/// A duration with its unit, such as `250ms`, `10s`, `1h30m`.
///
/// # Errors
/// Text for people when it is no duration, has no unit, or is negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = "write a number with its unit, such as \"250ms\", \"10s\" or \"5m\"";
    let parsed: SignedDuration = text.parse().map_err(|_| hint.to_owned())?;
    Duration::try_from(parsed).map_err(|_| "a duration cannot be negative".to_owned())
}

/// The shortest way to write a duration, such as `1m30s`; over a second to the tenth of one, as
/// what was measured is rarely round.
pub fn show_duration(duration: Duration) -> String {
    const TENTH: Duration = Duration::from_millis(100);
    let tenths = (duration + TENTH / 2).as_millis() / TENTH.as_millis();
    let rounded = TENTH * u32::try_from(tenths).unwrap_or(u32::MAX);
    let exact = duration < Duration::from_millis(950);
    PRINTER.unsigned_duration_to_string(if exact { &duration } else { &rounded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for bad in ["", "10", "-3s", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "1m30s");
        assert_eq!(show_duration(Duration::from_millis(3999)), "4s");
        assert_eq!(show_duration(Duration::from_millis(1240)), "1s200ms");
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
    }
}
