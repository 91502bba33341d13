//! Models: which one a request asks for, and which ones an Ollama has.
//!
//! Names are compared as Ollama compares them (types/model/name.go): what is left out is the public
//! registry, its library and `latest`, and case does not count. A request's body is read as Go reads
//! it: of a key that is there twice the last one holds, in whatever case. Nothing is ever written
//! back: bodies pass as they came.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde::Deserialize;

use super::json::{Scanner, Sink, Value, unescaped};
use super::media_type;
use crate::words::effect::{Effect, Meaning};
use crate::words::names::Kind;

/// The paths of an Ollama that tell of its models.
pub const TAGS: &str = "/api/tags";
/// The same of those in memory.
pub const PS: &str = "/api/ps";
/// Largest answer of those that is read, in bytes: thirty models take tens of thousands.
pub const LIST_MAX: usize = 8 * 1024 * 1024;
/// As much of a body that is not read whole is searched for the model: clients name it first.
pub const PREFIX: usize = 64 * 1024;

const REGISTRY: &str = "registry.ollama.ai";
const LIBRARY: &str = "library";
const LATEST: &str = "latest";

/// A model's name in the one form that equal names have: as short as it can be, with its tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Model(String);

impl Model {
    /// The model that is called so; `None`: that is no name.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (name.as_str(), LATEST),
        };
        let mut parts = path.rsplitn(3, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or(LIBRARY);
        let host = parts.next().unwrap_or(REGISTRY);
        let host = host.rsplit_once("://").map_or(host, |(_, host)| host);
        if [model, namespace, host, tag]
            .iter()
            .any(|part| part.is_empty())
        {
            return None;
        }
        let short = match (host, namespace) {
            (REGISTRY, LIBRARY) => format!("{model}:{tag}"),
            (REGISTRY, _) => format!("{namespace}/{model}:{tag}"),
            _ => format!("{host}/{namespace}/{model}:{tag}"),
        };
        Some(Self(short))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of the cloud: whoever is asked passes it on, and has no copy of it.
    fn is_cloud(&self) -> bool {
        let tag = self.0.rsplit_once(':').map_or("", |(_, tag)| tag);
        tag == "cloud" || tag.ends_with("-cloud")
    }
}

/// Whether the body of a request of this meaning names a model that its backend must have, and can
/// be read.
pub fn names_model(kind: Kind, meaning: Meaning, headers: &HeaderMap) -> bool {
    let asks = meaning.effect == Effect::Inference || meaning.op == "show";
    let plain = || {
        let encoding = headers.get(CONTENT_ENCODING);
        encoding.is_none_or(|encoding| encoding == "identity")
    };
    // Clients of Ollama send JSON under any type, or none.
    let json = || {
        let media = headers.get(CONTENT_TYPE).and_then(media_type);
        media.is_none_or(|media| !media.starts_with("multipart/"))
    };
    kind == Kind::Ollama && asks && plain() && json()
}

/// Whether a request that went well may have changed which models its backend has.
pub fn changes_models(kind: Kind, meaning: Meaning) -> bool {
    let changes = || matches!(meaning.op, "pull" | "create" | "copy" | "delete");
    kind == Kind::Ollama && meaning.effect == Effect::Admin && changes()
}

/// The model that a body asks for. `body` may be its beginning: what is not in it is not known.
pub fn model_of(meaning: Meaning, body: &[u8]) -> Option<Model> {
    let mut asked = Asked {
        show: meaning.op == "show",
        model: None,
        name: None,
        read: false,
    };
    Scanner::new().feed(body, &mut asked);
    let model = Model::named(&asked.model.or(asked.name)?)?;
    (!model.is_cloud()).then_some(model)
}

/// What a body says.
struct Asked {
    show: bool,
    model: Option<String>,
    name: Option<String>,
    /// Ollama reads one object, and what follows it is nobody's.
    read: bool,
}

impl Sink for Asked {
    fn wants(&self, keys: &[&[u8]]) -> bool {
        match keys {
            [key] if !self.read => {
                key.eq_ignore_ascii_case(b"model") || self.show && key.eq_ignore_ascii_case(b"name")
            }
            _ => false,
        }
    }

    fn value(&mut self, keys: &[&[u8]], value: Value<'_>) {
        let said = match value {
            // As Go has it: it leaves what was there.
            Value::Plain(b"null") => return,
            Value::Text(text) => unescaped(text).filter(|name| !name.is_empty()),
            _ => None,
        };
        let named_model = keys.iter().any(|key| key.eq_ignore_ascii_case(b"model"));
        *(if named_model {
            &mut self.model
        } else {
            &mut self.name
        }) = said;
    }

    fn end(&mut self) {
        self.read = true;
    }
}

/// What is told of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub model: Model,
    /// What it is, bit by bit; empty: not told.
    pub digest: String,
}

#[derive(Deserialize)]
struct List {
    // An answer without it is no such list; `null` is an empty one.
    #[serde(deserialize_with = "Option::deserialize")]
    models: Option<Vec<Row>>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    name: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    digest: String,
}

/// The models that an answer to `/api/tags` or `/api/ps` lists; `None`: it is no such answer.
pub fn listed(body: &[u8]) -> Option<Vec<Listed>> {
    let list: List = serde_json::from_slice(body).ok()?;
    let rows = list.models.unwrap_or_default().into_iter();
    let listed = rows.filter_map(|row| {
        let name = if row.name.is_empty() {
            row.model
        } else {
            row.name
        };
        let model = Model::named(&name)?;
        let digest = row.digest;
        Some(Listed { model, digest })
    });
    Some(listed.collect())
}

/// The models of one Ollama, as it told last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// On disk, with their digests.
    pub models: BTreeMap<Model, String>,
    /// In memory.
    pub loaded: Vec<Model>,
}

impl Catalogue {
    /// Of what it answered to [`TAGS`] and [`PS`].
    pub fn new(models: Vec<Listed>, loaded: Vec<Listed>) -> Self {
        let loaded = loaded.into_iter().map(|listed| listed.model);
        let models = (models.into_iter()).map(|listed| (listed.model, listed.digest));
        Self {
            models: models.collect(),
            loaded: loaded.collect(),
        }
    }

    /// What it is, bit by bit; `None`: it is not there.
    pub fn digest(&self, model: &Model) -> Option<&str> {
        self.models.get(model).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Method};

    fn meaning(path: &str) -> Meaning {
        crate::api::meaning(Kind::Ollama, &Method::POST, path)
    }

    fn asked(path: &str, body: &[u8]) -> Option<String> {
        model_of(meaning(path), body).map(|model| model.0)
    }

    #[test]
    fn equal_names_have_one_form() {
        for (name, form) in [
            ("medgemma", "medgemma:latest"),
            ("medgemma:latest", "medgemma:latest"),
            ("library/medgemma:latest", "medgemma:latest"),
            ("registry.ollama.ai/library/MedGemma", "medgemma:latest"),
            (
                "https://registry.ollama.ai/library/medgemma",
                "medgemma:latest",
            ),
            ("medgemma:27B", "medgemma:27b"),
            ("kim/medgemma", "kim/medgemma:latest"),
            ("hf.co/user/x:Q4", "hf.co/user/x:q4"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ] {
            assert_eq!(Model::named(name).unwrap().as_str(), form, "{name}");
        }
        for none in ["", ":", "a:", "/a", "a/", ":latest", "//a"] {
            assert_eq!(Model::named(none), None, "{none}");
        }
    }

    #[test]
    fn the_model_of_a_request_is_found_as_ollama_finds_it() {
        let chat = "/api/chat";
        let rows: [(&str, &[u8], Option<&str>); 19] = [
            (
                chat,
                b"{\"model\":\"a\"}\n{\"model\":\"b\"}",
                Some("a:latest"),
            ),
            (
                chat,
                br#"{"model":"tiny","messages":[]}"#,
                Some("tiny:latest"),
            ),
            (
                chat,
                br#"{"messages":[{"model":"no"}],"model":"tiny"}"#,
                Some("tiny:latest"),
            ),
            (
                chat,
                br#"{"options":{"model":"no"},"Model":"tiny"}"#,
                Some("tiny:latest"),
            ),
            (chat, br#"{"model":"a","model":"b"}"#, Some("b:latest")),
            (chat, br#"{"model":"a","model":null}"#, Some("a:latest")),
            (chat, br#"{"model":"a","model":7}"#, None),
            (chat, br#"{"mod\u0065l":"\u0061\/b"}"#, Some("a/b:latest")),
            (chat, br#"{"model":"tiny"#, None),
            (chat, br#"{"model":"tiny","#, Some("tiny:latest")),
            (chat, br#"{"model":{"a":"b"}}"#, None),
            (chat, br#"{"model":""}"#, None),
            (chat, br#"{"name":"tiny"}"#, None),
            (chat, b"", None),
            (chat, b"[]", None),
            (chat, b"model=tiny", None),
            (chat, br#"{"model":"gpt-oss:120b-cloud"}"#, None),
            ("/api/show", br#"{"name":"tiny"}"#, Some("tiny:latest")),
            (
                "/api/show",
                br#"{"name":"a","model":"b"}"#,
                Some("b:latest"),
            ),
        ];
        for (path, body, want) in rows {
            let shown = String::from_utf8_lossy(body);
            assert_eq!(asked(path, body).as_deref(), want, "{shown}");
        }
    }

    #[test]
    fn a_model_in_the_last_bytes_of_a_large_body_is_found() {
        let image = "A".repeat(20_000_000);
        let body = format!("{{\"images\":[\"{image}\"],\"model\":\"tiny\"}}");
        assert_eq!(
            asked("/api/generate", body.as_bytes()).as_deref(),
            Some("tiny:latest")
        );
        // Its beginning alone does not tell.
        assert_eq!(asked("/api/generate", &body.as_bytes()[..PREFIX]), None);
    }

    #[test]
    fn only_bodies_that_can_be_read_are_searched() {
        let rows = [
            (Kind::Ollama, "/api/chat", None, None, true),
            (Kind::Ollama, "/api/show", None, None, true),
            (Kind::Ollama, "/api/chat", Some("zstd"), None, false),
            (Kind::Ollama, "/api/chat", Some("identity"), None, true),
            (
                Kind::Ollama,
                "/v1/audio/transcriptions",
                None,
                Some("multipart/form-data; boundary=x"),
                false,
            ),
            (Kind::Ollama, "/api/chat", None, Some("text/plain"), true),
            (Kind::Ollama, "/api/pull", None, None, false),
            (Kind::Http, "/api/chat", None, None, false),
        ];
        for (kind, path, encoding, media, want) in rows {
            let mut headers = HeaderMap::new();
            for (name, value) in [(CONTENT_ENCODING, encoding), (CONTENT_TYPE, media)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(names_model(kind, meaning(path), &headers), want, "{path}");
        }
    }

    #[test]
    fn lists_are_read_and_what_is_none_is_not() {
        let body = br#"{"models":[{"name":"Tiny","model":"tiny:latest","digest":"aa","size":1},
            {"model":"only:here"},{"name":""}]}"#;
        let catalogue = Catalogue::new(listed(body).unwrap(), Vec::new());
        let names: Vec<_> = catalogue.models.keys().map(Model::as_str).collect();
        assert_eq!(names, ["only:here", "tiny:latest"]);
        let digest = |name| catalogue.digest(&Model::named(name).unwrap());
        assert_eq!(digest("library/tiny"), Some("aa"));
        assert_eq!(digest("only:here"), Some(""));
        assert_eq!(digest("other"), None);
        assert_eq!(listed(br#"{"models":null}"#), Some(Vec::new()));
        for none in [
            &b""[..],
            b"{}",
            b"<html>",
            b"[]",
            br#"{"models":{}}"#,
            br#"{"models":[1]}"#,
        ] {
            assert_eq!(listed(none), None);
        }
    }
}
