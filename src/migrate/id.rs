//! Ids of points, in the order in which Qdrant scrolls them: numbers, then UUIDs.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The id of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointId {
    /// A number.
    Num(u64),
    /// A UUID, of whatever version.
    Uuid(u128),
}

impl PointId {
    /// Its bytes, other ones for each id.
    pub(super) fn bytes(self) -> [u8; 17] {
        let (tag, value) = match self {
            Self::Num(number) => (0, u128::from(number)),
            Self::Uuid(uuid) => (1, uuid),
        };
        let mut bytes = [tag; 17];
        bytes[1..].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// The UUID that `text` is, with or without hyphens, braces or `urn:uuid:`.
    fn of_uuid(text: &str) -> Option<Self> {
        let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
        let text = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
            .unwrap_or(text);
        let digits: String = match text.len() {
            32 => text.to_owned(),
            36 => text.split('-').collect(),
            _ => return None,
        };
        let hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let value = u128::from_str_radix(&digits, 16).ok().filter(|_| hex)?;
        Some(Self::Uuid(value))
    }
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => number.fmt(f),
            Self::Uuid(uuid) => {
                let hex = format!("{uuid:032x}");
                let parts = [
                    &hex[..8],
                    &hex[8..12],
                    &hex[12..16],
                    &hex[16..20],
                    &hex[20..],
                ];
                f.write_str(&parts.join("-"))
            }
        }
    }
}

impl Serialize for PointId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Num(number) => to.serialize_u64(*number),
            Self::Uuid(_) => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PointId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = PointId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an unsigned number or a UUID")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<PointId, E> {
                Ok(PointId::Num(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PointId, E> {
                PointId::of_uuid(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        from.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> Option<PointId> {
        serde_json::from_str(json).ok()
    }

    #[test]
    fn an_id_is_read_in_every_form_and_written_in_one() {
        let uuid = "\"550e8400-e29b-41d4-a716-446655440000\"";
        for (read, written) in [
            ("0", "0"),
            ("18446744073709551615", "18446744073709551615"),
            (uuid, uuid),
            ("\"550E8400E29B41D4A716446655440000\"", uuid),
            ("\"urn:uuid:550e8400-e29b-41d4-a716-446655440000\"", uuid),
            ("\"{550e8400-e29b-41d4-a716-446655440000}\"", uuid),
        ] {
            let id = id(read).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), written, "{read}");
        }
        for wrong in [
            "-1",
            "1.5",
            "18446744073709551616",
            "\"7\"",
            "\"\"",
            "\"+50e8400e29b41d4a716446655440000\"",
            "\"日本語日本語日本語日本語\"",
            "null",
            "[1]",
        ] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_stand_before_uuids_and_each_in_order() {
        let order = [
            PointId::Num(0),
            PointId::Num(9),
            PointId::Num(10),
            PointId::Num(u64::MAX),
            PointId::Uuid(0),
            PointId::Uuid(9 << 124),
            PointId::Uuid(10 << 124),
        ];
        assert!(order.is_sorted());
        let texts = order[4..].iter().map(ToString::to_string);
        assert!(texts.is_sorted(), "UUIDs sort as their texts do");
    }
}
