//! One hash of a point: of its id, its payload and its vectors, however they were written down.
//!
//! Pure. Invariant: the order of keys, the form of numbers (`1`, `1.0`, `1e0`) and the space
//! between them make no difference; every value does. Elements of vectors are 32-bit floats, as the
//! engine keeps them, so another way to write the same float is the same float. Numbers of payloads
//! are compared in their full width.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::id::PointId;

/// The hash of a point.
pub type Digest = [u8; 32];

/// The hash of a point, or what is wrong with it.
pub fn digest(
    id: PointId,
    payload: Option<&RawValue>,
    vector: Option<&RawValue>,
) -> Result<Digest, serde_json::Error> {
    let mut hash = Sha256::new();
    hash.update(id.bytes());
    match payload {
        Some(raw) => of_payload(&mut hash, &serde_json::from_str(raw.get())?),
        None => of_payload(&mut hash, &Value::Null),
    }
    match vector {
        Some(raw) => of_vectors(&mut hash, raw.get())?,
        None => hash.update(b"-"),
    }
    Ok(hash.finalize().into())
}

/// A payload that is not there and one without keys are the same.
fn of_payload(hash: &mut Sha256, payload: &Value) {
    let empty = payload.as_object().is_some_and(serde_json::Map::is_empty);
    of_value(hash, if empty { &Value::Null } else { payload });
}

fn of_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Bool(yes) => hash.update(if *yes { b"t" } else { b"f" }),
        Value::Number(number) => of_number(hash, number),
        Value::String(text) => of_text(hash, text),
        Value::Array(items) => {
            of_length(hash, b'[', items.len());
            for item in items {
                of_value(hash, item);
            }
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            of_length(hash, b'{', entries.len());
            for (key, value) in entries {
                of_text(hash, key);
                of_value(hash, value);
            }
        }
    }
}

/// An integer as one, in whichever form it was written; everything else as a 64-bit float.
fn of_number(hash: &mut Sha256, number: &serde_json::Number) {
    let whole = match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(whole), _, _) => Some(i128::from(whole)),
        (_, Some(whole), _) => Some(i128::from(whole)),
        (_, _, Some(float)) => whole(float),
        _ => None,
    };
    if let Some(whole) = whole {
        hash.update(b"i");
        hash.update(whole.to_be_bytes());
    } else {
        hash.update(b"d");
        hash.update(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
    }
}

/// The integer that a float is, if it is one that 64 bits hold.
fn whole(float: f64) -> Option<i128> {
    const MOST: f64 = 18_446_744_073_709_551_616.0;
    let fits = float.fract() == 0.0 && float.abs() < MOST;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and fits")]
    fits.then_some(float as i128)
}

fn of_text(hash: &mut Sha256, text: &str) {
    of_length(hash, b's', text.len());
    hash.update(text);
}

fn of_length(hash: &mut Sha256, tag: u8, length: usize) {
    hash.update([tag]);
    hash.update((length as u64).to_be_bytes());
}

/// Vectors: one that is dense, a list of such, a sparse one, or any of these by name.
fn of_vectors(hash: &mut Sha256, text: &str) -> Result<(), serde_json::Error> {
    if !text.trim_start().starts_with('{') {
        return match text.trim() {
            "null" => {
                hash.update(b"-");
                Ok(())
            }
            _ => of_vector(hash, text),
        };
    }
    let named: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
    if named.is_empty() {
        hash.update(b"-");
        return Ok(());
    }
    if is_sparse(&named) {
        return of_vector(hash, text);
    }
    let there: Vec<_> = (named.iter())
        .filter(|(_, one)| one.get() != "null")
        .collect();
    of_length(hash, b'{', there.len());
    for (name, vector) in there {
        of_text(hash, name);
        of_vector(hash, vector.get())?;
    }
    Ok(())
}

/// `indices` and `values` that hold numbers: as names of vectors they would hold floats for one of
/// them at most by accident, and Qdrant itself reads such a map as a sparse vector.
fn is_sparse(map: &BTreeMap<String, &RawValue>) -> bool {
    map.len() == 2 && map.contains_key("indices") && map.contains_key("values")
}

fn of_vector(hash: &mut Sha256, text: &str) -> Result<(), serde_json::Error> {
    let bare = text.trim_start();
    if bare.starts_with('{') {
        let map: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
        if !is_sparse(&map) {
            // Of a kind that is newer than this code: every value counts.
            of_value(hash, &serde_json::from_str(text)?);
            return Ok(());
        }
        let indices: Vec<u32> = serde_json::from_str(map["indices"].get())?;
        let values = floats(map["values"].get())?;
        let mut pairs: Vec<_> = indices.into_iter().zip(values).collect();
        pairs.sort_by_key(|(index, _)| *index);
        of_length(hash, b'p', pairs.len());
        for (index, value) in pairs {
            hash.update(index.to_be_bytes());
            hash.update(bits(value));
        }
    } else if bare
        .strip_prefix('[')
        .is_some_and(|rest| rest.trim_start().starts_with('['))
    {
        let rows: Vec<&RawValue> = serde_json::from_str(text)?;
        of_length(hash, b'm', rows.len());
        for row in rows {
            of_dense(hash, &floats(row.get())?);
        }
    } else {
        of_dense(hash, &floats(text)?);
    }
    Ok(())
}

/// The numbers of a list, which is JSON for sure. Nearly all the work of a comparison is here, and
/// the parser for all of JSON takes more than twice as long.
fn floats(text: &str) -> Result<Vec<f32>, serde_json::Error> {
    let inner = text
        .trim()
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let all = inner.and_then(|inner| {
        let numbers = inner.split(',').map(|one| one.trim().parse().ok());
        numbers.collect()
    });
    // What is none, or empty.
    all.map_or_else(|| serde_json::from_str(text), Ok)
}

fn of_dense(hash: &mut Sha256, vector: &[f32]) {
    of_length(hash, b'v', vector.len());
    // At once: it is the larger part of most points.
    let bytes: Vec<u8> = vector.iter().copied().flat_map(bits).collect();
    hash.update(bytes);
}

/// Both zeros are one.
fn bits(value: f32) -> [u8; 4] {
    (value + 0.0).to_be_bytes()
}

/// A hash as people see it.
pub fn hex(digest: &Digest) -> String {
    use std::fmt::Write as _;

    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Adds the hash of one point to that of those before it.
pub fn fold(all: &mut Digest, next: &Digest) {
    let mut hash = Sha256::new();
    hash.update(*all);
    hash.update(next);
    *all = hash.finalize().into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(payload: &str, vector: &str) -> Digest {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let (payload, vector) = (raw(payload), raw(vector));
        digest(PointId::Num(1), Some(&payload), Some(&vector)).unwrap()
    }

    #[test]
    fn the_way_a_point_is_written_makes_no_difference() {
        for (one, other) in [
            (("{}", "[1,2]"), ("null", "[1.0, 2e0]")),
            (("{}", "[0.1]"), ("{}", "[0.10000000149011612]")),
            (("{}", "[0.0]"), ("{}", "[-0.0]")),
            (("{}", "{}"), ("{}", "null")),
            (
                ("{\"a\":1,\"b\":[2]}", "[]"),
                ("{ \"b\": [2.0], \"a\":1e0}", "[ ]"),
            ),
            (("{\"a\":1000}", "[]"), ("{\"a\":1e3}", "[]")),
            (("{\"a\":\"\\u00e9\"}", "[]"), ("{\"a\":\"é\"}", "[]")),
            (
                (
                    "{}",
                    "{\"a\":[1],\"b\":{\"indices\":[3,1],\"values\":[0.3,0.1]}}",
                ),
                (
                    "{}",
                    "{\"b\":{\"values\":[0.1,0.3],\"indices\":[1,3]},\"a\":[1.0]}",
                ),
            ),
            (("{}", "[[1,2],[3,4]]"), ("{}", "[ [1.0,2],[3,4.0] ]")),
            (("{}", " [1,\n2e-1] "), ("{}", "[1.0 , 0.2]")),
            (
                ("{}", "{\"a\":[1],\"b\":null}"),
                ("{}", "{ \"a\" : [ 1 ] }"),
            ),
            (("{}", "{\"\\u0061\":[1]}"), ("{}", "{\"a\":[1]}")),
            (
                ("{}", "{\"values\":[2,1],\"indices\":[7,5]}"),
                ("{}", "{\"indices\":[5, 7],\"values\":[1,2]}"),
            ),
            (("{}", " null "), ("{}", "{ }")),
        ] {
            assert_eq!(of(one.0, one.1), of(other.0, other.1), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_is_no_vector_is_an_error() {
        for text in [
            "[1,null]",
            "[\"1\"]",
            "[[1],2]",
            "{\"a\":[true]}",
            "7",
            "\"x\"",
        ] {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            assert!(digest(PointId::Num(1), None, Some(&raw)).is_err(), "{text}");
        }
    }

    #[test]
    fn every_value_makes_a_difference() {
        let all = [
            ("{}", "[]"),
            ("{}", "{}"),
            ("{}", "[1,2]"),
            ("{}", "[1,2.0000002]"),
            ("{}", "[2,1]"),
            ("{}", "[[1,2]]"),
            ("{}", "[[1],[2]]"),
            ("{}", "{\"a\":[1,2]}"),
            ("{}", "{\"b\":[1,2]}"),
            ("{}", "{\"a\":[[1,2]]}"),
            ("{}", "{\"indices\":[1],\"values\":[2]}"),
            ("{}", "{\"indices\":[2],\"values\":[1]}"),
            ("{}", "{\"a\":{\"indices\":[1],\"values\":[2]}}"),
            ("{\"a\":null}", "[]"),
            ("{\"a\":0}", "[]"),
            ("{\"a\":false}", "[]"),
            ("{\"a\":\"\"}", "[]"),
            ("{\"a\":\"0\"}", "[]"),
            ("{\"a\":[]}", "[]"),
            ("{\"a\":{}}", "[]"),
            ("{\"a\":[0]}", "[]"),
            ("{\"a\":0.5}", "[]"),
            ("{\"a\":0.5000000000000001}", "[]"),
            ("{\"a\":9007199254740992}", "[]"),
            ("{\"a\":9007199254740993}", "[]"),
            ("{\"a\":-1}", "[]"),
            ("{\"a\":1,\"b\":2}", "[]"),
            ("{\"a\":2,\"b\":1}", "[]"),
            ("{\"ab\":1}", "[]"),
        ];
        for (place, one) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                assert_ne!(of(one.0, one.1), of(other.0, other.1), "{one:?} {other:?}");
            }
        }
        let ids = [PointId::Num(1), PointId::Uuid(1), PointId::Num(2)];
        let digests = ids.map(|id| digest(id, None, None).unwrap());
        assert!(digests[0] != digests[1] && digests[0] != digests[2]);
    }

    #[test]
    fn the_order_of_points_counts_in_the_hash_of_all() {
        let (a, b) = (of("{}", "[1]"), of("{}", "[2]"));
        let all = |digests: [&Digest; 2]| {
            let mut all = Digest::default();
            for one in digests {
                fold(&mut all, one);
            }
            all
        };
        assert_ne!(all([&a, &b]), all([&b, &a]));
        assert_eq!(all([&a, &b]), all([&a, &b]));
    }
}
