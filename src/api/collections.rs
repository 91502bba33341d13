//! Collections: which one a request's path names, and which ones a Qdrant has.
//!
//! A name is any text: it stands in a path percent-encoded, and an alias stands wherever a collection
//! may (`lib/storage/src/content_manager/alias_mapping.rs`). Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::words::effect::{Effect, Meaning};
use crate::words::names::Kind;

/// The path of a Qdrant that tells of its collections.
pub const COLLECTIONS: &str = "/collections";
/// The same of names that stand for one.
pub const ALIASES: &str = "/aliases";

/// The collections of one Qdrant and their aliases, as it told last, with how many points each has,
/// where it was asked: `points_count`, which is approximate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collections(pub BTreeMap<String, Option<u64>>);

/// What a Qdrant lacks of what is required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack<'r> {
    /// It has no such collection.
    Missing(&'r str),
    /// It has one with too few points.
    Few {
        /// The collection.
        name: &'r str,
        /// How many it has.
        points: u64,
        /// How many it should have.
        least: u64,
    },
}

impl Collections {
    /// Whether there is one, or an alias, of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Those of `required` that it lacks, or has with fewer than `least` points.
    pub fn lacking<'r>(
        &self,
        required: &'r [String],
        least: u64,
    ) -> impl Iterator<Item = Lack<'r>> {
        required
            .iter()
            .filter_map(move |name| match self.0.get(name) {
                None => Some(Lack::Missing(name)),
                Some(Some(points)) if *points < least => Some(Lack::Few {
                    name,
                    points: *points,
                    least,
                }),
                Some(_) => None,
            })
    }
}

impl std::fmt::Display for Lack<'_> {
    /// `collection papers (120 of 1000 points)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "collection {name}"),
            Self::Few {
                name,
                points,
                least,
            } => write!(f, "collection {name} ({points} of {least} points)"),
        }
    }
}

/// The collection that the path of a request names, by itself or by an alias. `path` is what the
/// upstream sees, without the query. What is encoded in another way than UTF-8 names none.
pub fn collection_of(path: &str) -> Option<Cow<'_, str>> {
    let mut segments = path.split('/').filter(|part| !part.is_empty());
    let name = (segments.next() == Some("collections")).then(|| segments.next())??;
    decoded(name)
}

/// Whether a request that went well may have changed which collections its backend has.
pub fn changes_collections(kind: Kind, meaning: Meaning) -> bool {
    let changes = || matches!(meaning.op, "collections" | "snapshot");
    kind == Kind::Qdrant && meaning.effect == Effect::Admin && changes()
}

/// The path that tells of one collection.
pub fn about(name: &str) -> String {
    let mut path = format!("{COLLECTIONS}/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Also a dot: `..` alone would lead elsewhere.
            path += &format!("%{byte:02X}");
        }
    }
    path
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

#[derive(Deserialize)]
struct Listed {
    collections: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Aliases {
    aliases: Vec<Alias>,
}

/// A name that stands for a collection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Alias {
    /// The name.
    #[serde(rename = "alias_name")]
    pub alias: String,
    /// The collection.
    #[serde(rename = "collection_name")]
    pub collection: String,
}

#[derive(Deserialize)]
struct About {
    points_count: Option<u64>,
}

/// The names that an answer to [`COLLECTIONS`] lists; `None`: it is no such answer.
pub fn listed(body: &[u8]) -> Option<Vec<String>> {
    let Listed { collections } = result(body)?;
    Some(collections.into_iter().map(|one| one.name).collect())
}

/// What an answer to [`ALIASES`] lists; `None`: it is no such answer.
pub fn aliases(body: &[u8]) -> Option<Vec<Alias>> {
    let Aliases { aliases } = result(body)?;
    Some(aliases)
}

/// How many points an answer to [`about`] tells of; `None`: it tells none.
pub fn points(body: &[u8]) -> Option<u64> {
    let About { points_count } = result(body)?;
    points_count
}

fn result<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let envelope: Envelope<T> = serde_json::from_slice(body).ok()?;
    Some(envelope.result)
}

/// Without its percent-encoding.
fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return Some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = rest.get(1..3).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = byte.map_or(after, |_| &rest[3..]);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_collection_however_it_is_encoded() {
        for (path, name) in [
            ("/collections/papers", Some("papers")),
            ("/collections/papers/points/query", Some("papers")),
            ("//collections//papers/", Some("papers")),
            ("/collections/a%2Fb/points", Some("a/b")),
            ("/collections/a%2fb", Some("a/b")),
            (
                "/collections/%E6%97%A5%E6%9C%AC%E8%AA%9E/exists",
                Some("日本語"),
            ),
            ("/collections/日本語", Some("日本語")),
            ("/collections/a+b", Some("a+b")),
            ("/collections/100%", Some("100%")),
            ("/collections/100%2", Some("100%2")),
            ("/collections/%zz", Some("%zz")),
            ("/collections/%ff", None),
            ("/collections", None),
            ("/collections/", None),
            ("/aliases", None),
            ("/qdrant.Points/Search", None),
            ("/x/collections/papers", None),
            ("/", None),
        ] {
            assert_eq!(collection_of(path).as_deref(), name, "{path}");
        }
    }

    #[test]
    fn the_path_about_a_collection_names_it() {
        for name in [
            "papers",
            "a/b",
            "日本語",
            "..",
            "100%",
            "a b",
            "a?b#c",
            "%2F",
        ] {
            let path = about(name);
            assert!(path.is_ascii() && !path.contains(['?', '#', ' ']), "{path}");
            assert_eq!(collection_of(&path).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_is_lacking_is_what_is_not_there_or_too_small() {
        let has = [("papers", Some(120)), ("now", Some(120)), ("new", None)];
        let has = Collections(has.map(|(name, points)| (name.to_owned(), points)).into());
        let empty = Collections(BTreeMap::from([("papers".to_owned(), Some(0))]));
        let rows: [(_, &[&str], _, &[&str]); 7] = [
            (&has, &["papers", "now"], 120, &[]),
            (
                &has,
                &["papers"],
                121,
                &["collection papers (120 of 121 points)"],
            ),
            (&has, &["other", "papers"], 1, &["collection other"]),
            // How many it has is not known.
            (&has, &["new"], 1000, &[]),
            (&has, &[], 1000, &[]),
            (
                &empty,
                &["papers"],
                1,
                &["collection papers (0 of 1 points)"],
            ),
            (&empty, &["a/b"], 1, &["collection a/b"]),
        ];
        for (has, required, least, want) in rows {
            let required: Vec<_> = required.iter().map(|name| (*name).to_owned()).collect();
            let lacking = has.lacking(&required, least);
            let lacking: Vec<_> = lacking.map(|lack| lack.to_string()).collect();
            assert_eq!(lacking, want, "{required:?}");
        }
    }

    #[test]
    fn lists_are_read_and_what_is_none_is_not() {
        let body =
            br#"{"result":{"collections":[{"name":"a/b"},{"name":"papers"}]},"status":"ok"}"#;
        assert_eq!(
            listed(body),
            Some(vec!["a/b".to_owned(), "papers".to_owned()])
        );
        assert_eq!(
            listed(br#"{"result":{"collections":[]}}"#),
            Some(Vec::new())
        );
        let body = br#"{"result":{"aliases":[{"alias_name":"now","collection_name":"papers"}]}}"#;
        let alias = &aliases(body).unwrap()[0];
        assert_eq!(
            (alias.alias.as_str(), alias.collection.as_str()),
            ("now", "papers")
        );
        assert_eq!(
            points(br#"{"result":{"points_count":7,"status":"green"}}"#),
            Some(7)
        );
        assert_eq!(points(br#"{"result":{"points_count":null}}"#), None);
        for none in [
            &b""[..],
            b"{}",
            b"Invalid api-key",
            br#"{"result":null,"status":{"error":"x"}}"#,
            br#"{"result":{"collections":null}}"#,
            br#"{"result":[]}"#,
        ] {
            assert_eq!(listed(none), None);
            assert_eq!(aliases(none), None);
            assert_eq!(points(none), None);
        }
    }

    #[test]
    fn only_what_makes_or_removes_collections_changes_which_there_are() {
        use http::Method;
        for (method, path, changes) in [
            (Method::PUT, "/collections/a", true),
            (Method::DELETE, "/collections/a", true),
            (Method::POST, "/collections/aliases", true),
            (Method::PUT, "/collections/a/snapshots/recover", true),
            (Method::POST, "/collections/a/snapshots/upload", true),
            (Method::PUT, "/collections/a/points", false),
            (Method::PUT, "/collections/a/index", false),
            (Method::GET, "/collections", false),
            (Method::GET, "/collections/a/snapshots", false),
        ] {
            let meaning = crate::api::meaning(Kind::Qdrant, &method, path);
            let said = changes_collections(Kind::Qdrant, meaning);
            assert_eq!(said, changes, "{method} {path}");
            assert!(!changes_collections(Kind::Http, meaning));
        }
    }
}
