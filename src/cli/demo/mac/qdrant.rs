//! The Qdrant-shaped half of a stand-in Mac: collections of unnamed dense vectors in memory,
//! compared by cosine, in Qdrant's envelope.

use std::collections::BTreeMap;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reply::Reply;

/// A version that no Qdrant has.
const VERSION: &str = "0.0.0";
/// Qdrant's own default of `limit`.
const LIMIT: usize = 10;

/// Everything that a stand-in keeps.
#[derive(Default)]
pub(super) struct Collections(BTreeMap<String, Collection>);

/// One collection.
struct Collection {
    size: usize,
    points: BTreeMap<Id, Point>,
}

/// Qdrant takes numbers and UUIDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

#[derive(Clone, Deserialize)]
struct Point {
    id: Id,
    vector: Vec<f64>,
    payload: Option<Value>,
}

#[derive(Deserialize)]
struct Create {
    vectors: Vectors,
}

#[derive(Deserialize)]
struct Vectors {
    size: usize,
    distance: String,
}

#[derive(Deserialize)]
struct Upsert {
    points: Vec<Point>,
}

/// What the reads of points take; each uses its part of it.
#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    query: Vec<f64>,
    #[serde(default)]
    ids: Vec<Id>,
    limit: Option<usize>,
    offset: Option<Id>,
    with_payload: Option<bool>,
    with_vector: Option<bool>,
}

#[derive(Deserialize)]
struct Delete {
    points: Vec<Id>,
}

/// What went wrong: a status and its words.
type Wrong = (u16, String);

impl Collections {
    /// One collection, `papers`, of three points, so that there is something to read.
    pub(super) fn with_papers() -> Self {
        let titles = ["sleep and memory", "sleep and dose", "dose and response"];
        let vectors = [[1.0, 0.0, 0.0], [0.7, 0.7, 0.0], [0.0, 0.9, 0.4]];
        let point = |(at, title): (usize, &str)| {
            let id = Id::Number(at as u64 + 1);
            let point = Point {
                id: id.clone(),
                vector: vectors[at].to_vec(),
                payload: Some(json!({ "title": title })),
            };
            (id, point)
        };
        let points = titles.into_iter().enumerate().map(point).collect();
        Self(BTreeMap::from([(
            "papers".to_owned(),
            Collection { size: 3, points },
        )]))
    }

    /// The answer of the Mac `name`.
    pub(super) fn answer(&mut self, name: &str, method: &Method, path: &str, body: &[u8]) -> Reply {
        let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        match (method.as_str(), segments.as_slice()) {
            ("GET", []) => Reply::json(
                200,
                &json!({ "title": "a stand-in for qdrant", "version": format!("{VERSION}-on-{name}") }),
            ),
            ("GET", ["readyz" | "healthz" | "livez"]) => Reply::text(200, "all shards are ready"),
            (method, ["collections", rest @ ..]) => match self.collections(method, rest, body) {
                Ok(result) => Reply::json(
                    200,
                    &json!({ "result": result, "status": "ok", "time": 0.0 }),
                ),
                Err((status, error)) => {
                    let error = json!({ "error": format!("{error} (stand-in on {name})") });
                    Reply::json(status, &json!({ "status": error, "time": 0.0 }))
                }
            },
            _ => Reply::text(404, ""),
        }
    }

    fn collections(&mut self, method: &str, path: &[&str], body: &[u8]) -> Result<Value, Wrong> {
        match (method, path) {
            ("GET", []) => {
                let names: Vec<_> = self.0.keys().map(|name| json!({ "name": name })).collect();
                Ok(json!({ "collections": names }))
            }
            ("GET", [name, "exists"]) => Ok(json!({ "exists": self.0.contains_key(*name) })),
            ("PUT", [name]) => self.create(name, parse(body)?),
            ("DELETE", [name]) => Ok(json!(self.0.remove(*name).is_some())),
            (method, [name, rest @ ..]) => {
                let collection = self.0.get_mut(*name).ok_or_else(|| {
                    let error = format!("Not found: Collection `{name}` doesn't exist!");
                    (404, error)
                })?;
                collection.answer(method, rest, body)
            }
            _ => Err((404, "no such path".to_owned())),
        }
    }

    fn create(&mut self, name: &str, create: Create) -> Result<Value, Wrong> {
        let Vectors { size, distance } = create.vectors;
        if distance != "Cosine" {
            return Err((400, format!("a stand-in knows only Cosine, not {distance}")));
        }
        if self.0.contains_key(name) {
            return Err((409, format!("Collection `{name}` already exists!")));
        }
        let points = BTreeMap::new();
        self.0.insert(name.to_owned(), Collection { size, points });
        Ok(json!(true))
    }
}

impl Collection {
    fn answer(&mut self, method: &str, path: &[&str], body: &[u8]) -> Result<Value, Wrong> {
        match (method, path) {
            ("GET", []) => Ok(self.info()),
            ("PUT", ["points"]) => self.upsert(parse(body)?),
            ("POST", ["points", "delete"]) => {
                let Delete { points } = parse(body)?;
                self.points.retain(|id, _| !points.contains(id));
                Ok(done())
            }
            ("POST", ["points", "query"]) => self.query(&parse(body)?),
            ("POST", ["points", "scroll"]) => Ok(self.scroll(&parse(body)?)),
            ("POST", ["points", "count"]) => Ok(json!({ "count": self.points.len() })),
            ("POST", ["points"]) => {
                let ask: Ask = parse(body)?;
                let found = ask.ids.iter().filter_map(|id| self.points.get(id));
                Ok(found.map(|point| point.show(&ask)).collect())
            }
            _ => Err((404, "a stand-in has no such path".to_owned())),
        }
    }

    fn info(&self) -> Value {
        let vectors = json!({ "size": self.size, "distance": "Cosine" });
        json!({ "status": "green", "optimizer_status": "ok", "segments_count": 1,
                "points_count": self.points.len(), "indexed_vectors_count": 0,
                "config": { "params": { "vectors": vectors } }, "payload_schema": {} })
    }

    /// All points or, if one does not fit, none.
    fn upsert(&mut self, upsert: Upsert) -> Result<Value, Wrong> {
        for point in &upsert.points {
            self.fits(&point.vector)?;
        }
        let points = upsert.points.into_iter();
        self.points
            .extend(points.map(|point| (point.id.clone(), point)));
        Ok(done())
    }

    fn query(&self, ask: &Ask) -> Result<Value, Wrong> {
        self.fits(&ask.query)?;
        let points = self.points.values();
        let mut near: Vec<_> = points
            .map(|point| (cosine(&point.vector, &ask.query), point))
            .collect();
        near.sort_by(|one, other| other.0.total_cmp(&one.0));
        near.truncate(ask.limit.unwrap_or(LIMIT));
        let scored = near.into_iter().map(|(score, point)| {
            let mut shown = point.show(ask);
            shown["score"] = json!(score);
            shown["version"] = json!(0);
            shown
        });
        Ok(json!({ "points": scored.collect::<Vec<_>>() }))
    }

    fn scroll(&self, ask: &Ask) -> Value {
        let from = |id: &Id| ask.offset.as_ref().is_none_or(|offset| id >= offset);
        let limit = ask.limit.unwrap_or(LIMIT);
        let mut left = self.points.iter().filter(|(id, _)| from(id));
        let shown = left.by_ref().take(limit).map(|(_, point)| {
            let with_payload = ask.with_payload.or(Some(true));
            point.shown(with_payload, ask.with_vector)
        });
        let points: Vec<_> = shown.collect();
        json!({ "points": points, "next_page_offset": left.next().map(|(id, _)| id) })
    }

    fn fits(&self, vector: &[f64]) -> Result<(), Wrong> {
        if vector.len() == self.size {
            return Ok(());
        }
        let (expected, got) = (self.size, vector.len());
        let error =
            format!("Wrong input: Vector dimension error: expected dim: {expected}, got {got}");
        Err((400, error))
    }
}

impl Point {
    fn show(&self, ask: &Ask) -> Value {
        self.shown(ask.with_payload, ask.with_vector)
    }

    fn shown(&self, with_payload: Option<bool>, with_vector: Option<bool>) -> Value {
        let mut shown = json!({ "id": self.id });
        if with_payload == Some(true) {
            shown["payload"] = self.payload.clone().unwrap_or(json!({}));
        }
        if with_vector == Some(true) {
            shown["vector"] = json!(self.vector);
        }
        shown
    }
}

fn done() -> Value {
    json!({ "operation_id": 0, "status": "completed" })
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    if lengths > 0.0 {
        dot(one, other) / lengths
    } else {
        0.0
    }
}

fn parse<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Wrong> {
    serde_json::from_slice(body)
        .map_err(|error| (400, format!("Format error in JSON body: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        collections: &mut Collections,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Value, u16> {
        let path: Vec<_> = path.split('/').collect();
        let answer = collections.collections(method, &path, body.as_bytes());
        answer.map_err(|(status, _)| status)
    }

    #[test]
    fn what_was_upserted_is_found_by_cosine_and_retrieved_by_id() {
        let mut all = Collections::default();
        let create = r#"{"vectors":{"size":2,"distance":"Cosine"}}"#;
        assert_eq!(ask(&mut all, "PUT", "c", create), Ok(json!(true)));
        assert_eq!(ask(&mut all, "PUT", "c", create), Err(409));
        let points =
            r#"{"points":[{"id":1,"vector":[1,0]},{"id":"u","vector":[9,9],"payload":{"a":1}}]}"#;
        assert_eq!(ask(&mut all, "PUT", "c/points", points), Ok(done()));
        let near = r#"{"query":[1,1],"limit":1,"with_payload":true}"#;
        let found = ask(&mut all, "POST", "c/points/query", near).unwrap();
        assert_eq!(found["points"][0]["id"], "u");
        assert_eq!(found["points"][0]["payload"]["a"], 1);
        let one = ask(
            &mut all,
            "POST",
            "c/points",
            r#"{"ids":[1],"with_vector":true}"#,
        );
        assert_eq!(one, Ok(json!([{ "id": 1, "vector": [1.0, 0.0] }])));
        let page = ask(&mut all, "POST", "c/points/scroll", r#"{"limit":1}"#).unwrap();
        assert_eq!(page["next_page_offset"], "u");
        assert_eq!(
            ask(&mut all, "POST", "c/points/count", "{}"),
            Ok(json!({ "count": 2 }))
        );
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut all = Collections::with_papers();
        let odd = r#"{"points":[{"id":7,"vector":[1,0,0]},{"id":8,"vector":[1,0]}]}"#;
        assert_eq!(ask(&mut all, "PUT", "papers/points", odd), Err(400));
        assert_eq!(ask(&mut all, "PUT", "papers/points", "{"), Err(400));
        assert_eq!(ask(&mut all, "PUT", "absent/points", odd), Err(404));
        let count = ask(&mut all, "POST", "papers/points/count", "{}");
        assert_eq!(count, Ok(json!({ "count": 3 })));
    }
}
