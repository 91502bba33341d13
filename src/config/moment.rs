//! A point in time as people write it: with its offset, in the zone of the schedule, or a date.
//!
//! Pure. Invariant: a moment becomes an instant only where that is unambiguous; the hour that a
//! clock change skips or repeats is an error that names both instants.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// A point in time as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// With its offset.
    Instant(Timestamp),
    /// Without: in the zone of the schedule. A date is its midnight.
    Local(DateTime),
}

/// Why a moment is no instant in a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ambiguous {
    /// Whether the clock never shows it, rather than twice.
    pub(super) skipped: bool,
    /// What it could mean, each with its offset.
    pub(super) candidates: [String; 2],
}

impl Moment {
    /// The moment that `text` names.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // A zone in brackets would be read and then ignored.
        if text.contains('[') {
            return None;
        }
        if let Ok(date) = text.parse::<Date>()
            && !text.contains(['T', 't', ' ', ':'])
        {
            return Some(Self::Local(date.to_datetime(jiff::civil::Time::midnight())));
        }
        let time = text.find(['T', 't', ' ']).map(|at| &text[at + 1..])?;
        if time.contains(['+', '-', 'Z', 'z']) {
            return text.parse().ok().map(Self::Instant);
        }
        text.parse().ok().map(Self::Local)
    }

    /// The instant it is in `zone`.
    pub(super) fn instant(self, zone: &TimeZone) -> Result<Timestamp, Ambiguous> {
        let local = match self {
            Self::Instant(instant) => return Ok(instant),
            Self::Local(local) => local,
        };
        let with = |offset: Offset| offset.to_timestamp(local).unwrap_or(Timestamp::MAX);
        let ambiguous = |skipped, before: Offset, after: Offset| Ambiguous {
            skipped,
            candidates: [before, after].map(|offset| show(with(offset), zone)),
        };
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => Ok(with(offset)),
            AmbiguousOffset::Gap { before, after } => Err(ambiguous(true, after, before)),
            AmbiguousOffset::Fold { before, after } => Err(ambiguous(false, before, after)),
        }
    }
}

impl Ambiguous {
    /// What to say of the moment under `key`, and what to do.
    pub(super) fn message_and_help(&self, key: &str) -> (String, String) {
        let [one, other] = &self.candidates;
        let happens = if self.skipped {
            "does not exist: the clock skips it"
        } else {
            "happens twice: the clock repeats it"
        };
        (
            format!("the local time of {key} {happens}"),
            format!("write it with its offset: {one} or {other}"),
        )
    }
}

/// `instant` as `zone` shows it, with its offset: what `routing.toml` takes.
pub(super) fn show(instant: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(instant);
    instant.display_with_offset(offset).to_string()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    fn instant(text: &str, zone: &str) -> Result<String, Ambiguous> {
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        Moment::parse(text)
            .unwrap()
            .instant(&zone)
            .map(|instant| instant.to_string())
    }

    #[test]
    fn a_moment_is_an_instant_a_local_time_or_a_date() {
        for (text, zone, expected) in [
            ("2025-02-17", "Asia/Tokyo", "2025-02-16T15:00:00Z"),
            ("2025-02-17", "UTC", "2025-02-17T00:00:00Z"),
            ("2025-02-17T09:30:00", "Asia/Tokyo", "2025-02-17T00:30:00Z"),
            ("2025-02-17 09:30", "Asia/Tokyo", "2025-02-17T00:30:00Z"),
            ("2025-02-17T00:00:00+09:00", "UTC", "2025-02-16T15:00:00Z"),
            ("2025-02-17T00:00:00-05:00", "UTC", "2025-02-17T05:00:00Z"),
            ("2025-02-17T00:00:00Z", "Asia/Tokyo", "2025-02-17T00:00:00Z"),
        ] {
            assert_eq!(
                instant(text, zone).as_deref(),
                Ok(expected),
                "{text} in {zone}"
            );
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "tomorrow",
            "2025-02-30",
            "2025-13-01",
            "07:32:00",
            "2025-02-17T25:00:00",
            "2025-02-17T00:00:00+99:00",
            "2025-02-17T00:00:00+09:00[Asia/Tokyo]",
            "17.2.2025",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_local_time_that_a_clock_change_skips_or_repeats_names_both_instants() {
        let skipped = instant("2025-03-09T02:30:00", "America/New_York").unwrap_err();
        assert!(skipped.skipped);
        assert_eq!(
            skipped.candidates,
            ["2025-03-09T01:30:00-05:00", "2025-03-09T03:30:00-04:00"]
        );
        let twice = instant("2025-11-02T01:30:00", "America/New_York").unwrap_err();
        assert!(!twice.skipped);
        assert_eq!(
            twice.candidates,
            ["2025-11-02T01:30:00-04:00", "2025-11-02T01:30:00-05:00"]
        );
        assert!(
            instant("2018-11-04", "America/Sao_Paulo")
                .unwrap_err()
                .skipped
        );
    }
}
