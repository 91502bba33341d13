//! Requests for embeddings, taken apart input by input, and their answers, vector by vector.
//!
//! What is not understood for certain, as Ollama would, is nobody's business: keys that are there
//! twice, in other cases or beyond ASCII (Go folds them), inputs that are no text. Nothing is written
//! anew: inputs, options and vectors are the bytes that came.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// What a vector is known by: two that agree in it are the same, byte by byte.
pub type Key = [u8; 32];

/// An object of these APIs has far fewer fields.
const FIELDS: usize = 64;

/// Which API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// `/api/embed`.
    Native,
    /// `/api/embeddings`: one input, one vector.
    Old,
    /// `/v1/embeddings`.
    OpenAi,
}

/// A request for embeddings.
pub struct Wish {
    dialect: Dialect,
    body: Bytes,
    /// Where the inputs are in the body, and each of them.
    input: Range<usize>,
    inputs: Vec<Range<usize>>,
    /// The name of the model, as it is written.
    model: Range<usize>,
    options: Sha256,
}

/// The vectors of an answer.
pub struct Vectors {
    body: Bytes,
    each: Vec<Range<usize>>,
    /// Where all of them are.
    list: Range<usize>,
}

impl Wish {
    /// What a body asks for; `None`: that is not for certain.
    pub fn read(path: &str, body: &Bytes) -> Option<Self> {
        let dialect = match path {
            "/api/embed" => Dialect::Native,
            "/api/embeddings" => Dialect::Old,
            "/v1/embeddings" => Dialect::OpenAi,
            _ => return None,
        };
        let mut fields = fields(body)?;
        // In whatever order they are written.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut options = Sha256::new();
        options.update([dialect as u8]);
        let (mut input, mut model) = (None, None);
        let inputs = if dialect == Dialect::Old {
            "prompt"
        } else {
            "input"
        };
        for (key, value) in &fields {
            match key.as_ref() {
                "model" => model = Some(*value),
                // How long the model stays in memory changes no vector.
                "keep_alive" => {}
                key if key == inputs => input = Some(*value),
                key => {
                    part(&mut options, key.as_bytes());
                    part(&mut options, value.get().as_bytes());
                }
            }
        }
        let (input, model) = (input?, model.filter(|model| is_text(model))?);
        let each: Vec<&RawValue> = if is_text(input) {
            vec![input]
        } else {
            serde_json::from_str(input.get()).ok()?
        };
        let plain = !each.is_empty() && each.iter().all(|input| is_text(input));
        let place = |value: &RawValue| place(body, value);
        (plain && (dialect != Dialect::Old || is_text(input))).then(|| Self {
            dialect,
            input: place(input),
            inputs: each.into_iter().map(place).collect(),
            model: place(model),
            body: body.clone(),
            options,
        })
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Whether there is none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// What the vector of each input is known by, of a model with this digest, asked for with these
    /// credentials.
    pub fn keys(&self, digest: &str, credentials: &[u8]) -> Vec<Key> {
        let mut all = self.options.clone();
        // Behind the options, of which there may be any number, stands their end.
        part(&mut all, b"");
        part(&mut all, digest.as_bytes());
        part(&mut all, credentials);
        let key = |input: &Range<usize>| {
            let mut one = all.clone();
            part(&mut one, &self.body[input.clone()]);
            one.finalize().into()
        };
        self.inputs.iter().map(key).collect()
    }

    /// The same request for these inputs alone.
    pub fn only(&self, inputs: &[usize]) -> Bytes {
        if inputs.len() == self.inputs.len() {
            return self.body.clone();
        }
        let inputs = inputs
            .iter()
            .map(|place| &self.body[self.inputs[*place].clone()]);
        let mut body = self.body[..self.input.start].to_vec();
        list(&mut body, inputs);
        body.extend_from_slice(&self.body[self.input.end..]);
        Bytes::from(body)
    }

    /// An answer with these vectors and no work done.
    pub fn answer(&self, vectors: &[Bytes], nanos: u128) -> Bytes {
        let model = &self.body[self.model.clone()];
        let (before, after) = match self.dialect {
            Dialect::Native => (
                [b"{\"model\":", model, b",\"embeddings\":"].concat(),
                format!(
                    ",\"total_duration\":{nanos},\"load_duration\":0,\"prompt_eval_count\":0}}"
                ),
            ),
            Dialect::Old => (b"{\"embedding\":".to_vec(), "}".to_owned()),
            Dialect::OpenAi => (
                b"{\"object\":\"list\",\"data\":".to_vec(),
                format!(
                    ",\"model\":{},\"usage\":{{\"prompt_tokens\":0,\"total_tokens\":0}}}}",
                    String::from_utf8_lossy(model)
                ),
            ),
        };
        let mut body = before;
        self.put(&mut body, vectors);
        body.extend_from_slice(after.as_bytes());
        Bytes::from(body)
    }

    /// The same as an answer to a part of it, with these vectors instead of those.
    pub fn instead(&self, answer: &Vectors, vectors: &[Bytes]) -> Bytes {
        let mut body = answer.body[..answer.list.start].to_vec();
        self.put(&mut body, vectors);
        body.extend_from_slice(&answer.body[answer.list.end..]);
        Bytes::from(body)
    }

    fn put(&self, body: &mut Vec<u8>, vectors: &[Bytes]) {
        match self.dialect {
            Dialect::Native => list(body, vectors.iter().map(AsRef::as_ref)),
            Dialect::Old => body.extend(vectors.iter().flatten()),
            Dialect::OpenAi => {
                let rows = vectors.iter().enumerate().map(|(place, vector)| {
                    let before = &b"{\"object\":\"embedding\",\"embedding\":"[..];
                    [before, vector, format!(",\"index\":{place}}}").as_bytes()].concat()
                });
                list(body, rows);
            }
        }
    }

    /// The vectors that an answer has, one for each of so many inputs; `None`: it has not, or not for
    /// certain.
    pub fn vectors(&self, answer: &Bytes, count: usize) -> Option<Vectors> {
        let fields = fields(answer)?;
        let key = match self.dialect {
            Dialect::Native => "embeddings",
            Dialect::Old => "embedding",
            Dialect::OpenAi => "data",
        };
        let (_, found) = fields.iter().find(|(name, _)| name == key)?;
        let each: Vec<&RawValue> = match self.dialect {
            Dialect::Old => vec![found],
            _ => serde_json::from_str(found.get()).ok()?,
        };
        let each: Option<Vec<_>> = (each.into_iter().enumerate())
            .map(|(at, row)| {
                if self.dialect != Dialect::OpenAi {
                    return Some(place(answer, row));
                }
                let row = self::fields(row.get().as_bytes())?;
                let of = |key| row.iter().find(|(name, _)| name == key).map(|(_, of)| *of);
                let in_order = of("index")?.get().parse() == Ok(at);
                in_order.then(|| place(answer, of("embedding")?).into())?
            })
            .collect();
        let each = each.filter(|each| each.len() == count)?;
        // An empty vector is what there is of an error.
        let full = |at: &Range<usize>| at.len() > 2;
        each.iter().all(full).then(|| Vectors {
            body: answer.clone(),
            list: place(answer, found),
            each,
        })
    }
}

impl Vectors {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Whether there is none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Each of them, on its own.
    pub fn each(&self) -> impl Iterator<Item = Bytes> {
        // Not a part of the whole answer, which would stay in memory with it.
        let copy = |at: &Range<usize>| Bytes::copy_from_slice(&self.body[at.clone()]);
        self.each.iter().map(copy)
    }
}

/// Adds a part whose end cannot be mistaken.
fn part(to: &mut Sha256, bytes: &[u8]) {
    to.update((bytes.len() as u64).to_le_bytes());
    to.update(bytes);
}

fn list<T: AsRef<[u8]>>(body: &mut Vec<u8>, parts: impl IntoIterator<Item = T>) {
    body.push(b'[');
    for (place, part) in parts.into_iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(part.as_ref());
    }
    body.push(b']');
}

fn is_text(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

/// Where a value is in the text that it was read from.
fn place(text: &[u8], value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + value.get().len()
}

/// The fields of an object; `None`: it is none, or has one of them twice.
fn fields(text: &[u8]) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    let mut read = serde_json::Deserializer::from_slice(text);
    let fields = read.deserialize_map(Fields).ok()?;
    read.end().ok()?;
    if fields.len() > FIELDS {
        return None;
    }
    let plain = |key: &str| {
        key.bytes()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
    };
    let once = |(place, (key, _)): (usize, &(Cow<'_, str>, &RawValue))| {
        plain(key) && !fields[..place].iter().any(|(other, _)| other == key)
    };
    fields.iter().enumerate().all(once).then_some(fields)
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            fields.push((Cow::Owned(key), map.next_value()?));
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(path: &str, body: &str) -> Option<Wish> {
        Wish::read(path, &Bytes::copy_from_slice(body.as_bytes()))
    }

    const NATIVE: &str = "/api/embed";
    const OPENAI: &str = "/v1/embeddings";

    #[test]
    fn only_what_is_understood_for_certain_is_a_wish() {
        let rows = [
            (NATIVE, r#"{"model":"m","input":"a"}"#, Some(1)),
            (NATIVE, r#"{"input":["a","b","a"],"model":"m"}"#, Some(3)),
            (OPENAI, r#"{"model":"m","input":["a","b"]}"#, Some(2)),
            ("/api/embeddings", r#"{"model":"m","prompt":"a"}"#, Some(1)),
            ("/api/embeddings", r#"{"model":"m","prompt":["a"]}"#, None),
            ("/api/embeddings", r#"{"model":"m","input":"a"}"#, None),
            ("/api/chat", r#"{"model":"m","input":"a"}"#, None),
            // Loads the model.
            (NATIVE, r#"{"model":"m","input":[]}"#, None),
            (NATIVE, r#"{"model":"m"}"#, None),
            (NATIVE, r#"{"input":"a"}"#, None),
            (NATIVE, r#"{"model":7,"input":"a"}"#, None),
            // Tokens.
            (OPENAI, r#"{"model":"m","input":[1,2]}"#, None),
            (OPENAI, r#"{"model":"m","input":[[1,2]]}"#, None),
            (NATIVE, r#"{"model":"m","input":{"a":"b"}}"#, None),
            // Go takes the last one, in any case.
            (NATIVE, r#"{"model":"m","input":"a","input":"b"}"#, None),
            (NATIVE, r#"{"model":"m","input":"a","Input":"b"}"#, None),
            (
                NATIVE,
                "{\"model\":\"m\",\"input\":\"a\",\"\u{212a}eep\":1}",
                None,
            ),
            (NATIVE, r#"{"model":"m","input":"a"} x"#, None),
            (NATIVE, r#"{"model":"m","input":"a""#, None),
            (NATIVE, "", None),
        ];
        for (path, body, count) in rows {
            let found = wish(path, body).map(|wish| wish.len());
            assert_eq!(found, count, "{path} {body}");
        }
    }

    #[test]
    fn a_key_is_of_everything_that_makes_the_vector_and_of_nothing_else() {
        let key = |path, body: &str, digest: &str, credentials: &[u8]| {
            wish(path, body).unwrap().keys(digest, credentials)[0]
        };
        let plain = key(NATIVE, r#"{"model":"m","input":"a"}"#, "d", b"");
        for same in [
            r#"{"input":"a","model":"m"}"#,
            r#"{ "model": "m:latest", "input": ["a", "b"] }"#,
            r#"{"model":"m","input":"a","keep_alive":"5m"}"#,
        ] {
            assert_eq!(key(NATIVE, same, "d", b""), plain, "{same}");
        }
        let other = [
            key(NATIVE, r#"{"model":"m","input":"b"}"#, "d", b""),
            key(NATIVE, r#"{"model":"m","input":"a "}"#, "d", b""),
            key(
                NATIVE,
                r#"{"model":"m","input":"a","truncate":false}"#,
                "d",
                b"",
            ),
            key(
                NATIVE,
                r#"{"model":"m","input":"a","dimensions":4}"#,
                "d",
                b"",
            ),
            key(NATIVE, r#"{"model":"m","input":"a"}"#, "e", b""),
            key(NATIVE, r#"{"model":"m","input":"a"}"#, "d", b"x"),
            key(OPENAI, r#"{"model":"m","input":"a"}"#, "d", b""),
        ];
        for (place, one) in other.iter().enumerate() {
            assert_ne!(*one, plain, "{place}");
            assert!(!other[..place].contains(one), "{place}");
        }
        // The order of options is nobody's business.
        let two = [r#""a":1,"b":{"c":2}"#, r#""b":{"c":2},"a":1"#].map(|options| {
            key(
                NATIVE,
                &format!("{{\"model\":\"m\",\"input\":\"a\",{options}}}"),
                "d",
                b"",
            )
        });
        assert_eq!(two[0], two[1]);
    }

    #[test]
    fn a_part_of_a_request_is_its_very_bytes() {
        let body = r#"{ "model":"m", "input": ["a","\u0062",  "c"] ,"options":{"x":1.0} }"#;
        let wish = wish(NATIVE, body).unwrap();
        let only = |inputs: &[usize]| String::from_utf8(wish.only(inputs).to_vec()).unwrap();
        assert_eq!(only(&[0, 1, 2]), body);
        assert_eq!(
            only(&[1]),
            r#"{ "model":"m", "input": ["\u0062"] ,"options":{"x":1.0} }"#
        );
        assert_eq!(
            only(&[2, 0]),
            r#"{ "model":"m", "input": ["c","a"] ,"options":{"x":1.0} }"#
        );
    }

    #[test]
    fn vectors_are_taken_out_of_an_answer_and_put_into_another_byte_by_byte() {
        let rows = [
            (
                NATIVE,
                r#"{"model":"m","embeddings":[[1.0,-2e-3], [0.10]],"total_duration":5}"#,
                r#"{"model":"m","embeddings":[[0.10],[9],[1.0,-2e-3]],"total_duration":5}"#,
                r#"{"model":"m","embeddings":[[0.10],[9],[1.0,-2e-3]],"total_duration":7,"load_duration":0,"prompt_eval_count":0}"#,
            ),
            (
                OPENAI,
                r#"{"object":"list","data":[{"object":"embedding","embedding":[1.0,-2e-3],"index":0},{"index":1,"embedding":[0.10]}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                r#"{"object":"list","data":[{"object":"embedding","embedding":[0.10],"index":0},{"object":"embedding","embedding":[9],"index":1},{"object":"embedding","embedding":[1.0,-2e-3],"index":2}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
                r#"{"object":"list","data":[{"object":"embedding","embedding":[0.10],"index":0},{"object":"embedding","embedding":[9],"index":1},{"object":"embedding","embedding":[1.0,-2e-3],"index":2}],"model":"m","usage":{"prompt_tokens":0,"total_tokens":0}}"#,
            ),
        ];
        for (path, answer, part, whole) in rows {
            let wish = wish(path, r#"{"model":"m","input":["x","y","z"]}"#).unwrap();
            let answer = Bytes::from_static(answer.as_bytes());
            assert!(wish.vectors(&answer, 3).is_none(), "one is missing");
            let vectors = wish.vectors(&answer, 2).unwrap();
            let [first, second] = vectors.each().collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(
                (&first[..], &second[..]),
                (&b"[1.0,-2e-3]"[..], &b"[0.10]"[..])
            );
            let all = [second, Bytes::from_static(b"[9]"), first];
            assert_eq!(wish.instead(&vectors, &all), part);
            assert_eq!(wish.answer(&all, 7), whole);
            assert!(wish.vectors(&wish.answer(&all, 7), 3).is_some());
        }
        let old = wish("/api/embeddings", r#"{"model":"m","prompt":"x"}"#).unwrap();
        let answer = Bytes::from_static(br#"{"embedding":[1,2]}"#);
        let vectors: Vec<_> = old.vectors(&answer, 1).unwrap().each().collect();
        assert_eq!(old.answer(&vectors, 7), answer);
    }

    #[test]
    fn what_has_not_all_vectors_for_certain_has_none() {
        let wish = |path| wish(path, r#"{"model":"m","input":["x","y"]}"#).unwrap();
        for (path, answer) in [
            (NATIVE, r#"{"embeddings":[[1]]}"#),
            (NATIVE, r#"{"embeddings":[[1],[]]}"#),
            (NATIVE, r#"{"embeddings":null}"#),
            (NATIVE, r#"{"error":"x"}"#),
            (NATIVE, "<html>"),
            (NATIVE, r#"{"embeddings":[[1],[2]]"#),
            (NATIVE, r#"{"embeddings":[[1],[2]],"embeddings":[[3],[4]]}"#),
            (
                OPENAI,
                r#"{"data":[{"embedding":[1],"index":1},{"embedding":[2],"index":0}]}"#,
            ),
            (OPENAI, r#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#),
        ] {
            let answer = Bytes::from_static(answer.as_bytes());
            assert!(wish(path).vectors(&answer, 2).is_none(), "{answer:?}");
        }
    }
}
