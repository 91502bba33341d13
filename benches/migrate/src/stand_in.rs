//! A stand-in for a Qdrant server, with Qdrant's engine behind the REST routes that a migration
//! asks. `stand_in FOLDER [MILLISECONDS]`: each answer waits so long, as if it came from further away.
//!
//! It is not Qdrant: one shard a collection, nothing in the background, so nothing is indexed while
//! it is loaded; no gRPC, keys, snapshots or strict mode; names are not decoded; a thread a
//! connection. Storage, write-ahead log and what JSON is made of a point are the engine's own.

use std::collections::BTreeMap;
use std::io::Result;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use qdrant_edge::external::serde_json::{self, Value, json};
use qdrant_edge::{
    CountRequest, EdgeConfig, EdgeShard, FieldIndexOperations, Payload, PointId,
    PointInsertOperations, PointOperations, QueryRequest, Record, RetrieveRequest, Sample,
    ScoringQuery, ScrollRequest, UpdateOperation, VectorStructPersisted, WithPayloadInterface,
    WithVector,
};
use serde::{Deserialize, Serialize};

use migrate_bench::http::Connection;

/// A collection, and what is told of it.
struct Collection {
    shard: EdgeShard,
    about: Mutex<About>,
}

struct About {
    config: Value,
    indexes: BTreeMap<String, Value>,
}

/// All of it.
struct Store {
    folder: PathBuf,
    delay: Duration,
    collections: RwLock<BTreeMap<String, Arc<Collection>>>,
    aliases: Mutex<BTreeMap<String, String>>,
}

/// A point as the server writes it.
#[derive(Serialize)]
struct Shown {
    id: PointId,
    payload: Option<Payload>,
    vector: Option<VectorStructPersisted>,
}

#[derive(Serialize)]
struct Page {
    points: Vec<Shown>,
    next_page_offset: Option<PointId>,
}

#[derive(Deserialize)]
struct Ids {
    #[serde(alias = "points")]
    ids: Vec<PointId>,
}

#[derive(Deserialize)]
struct Scroll {
    offset: Option<PointId>,
    limit: usize,
}

/// What is wrong with a request.
struct Refusal(u16, String);

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(400, format!("Wrong input: {error}"))
    }
}

type Answer = std::result::Result<Vec<u8>, Refusal>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| usage()).into();
    let delay = arguments
        .next()
        .map(|text| text.parse().unwrap_or_else(|_| usage()));
    let store = Arc::new(Store {
        folder,
        delay: Duration::from_millis(delay.unwrap_or(0)),
        collections: RwLock::default(),
        aliases: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    for io in listener.incoming() {
        let (io, store) = (io?, Arc::clone(&store));
        // Its end is that of its client.
        thread::spawn(move || serve(io, &store));
    }
    Ok(())
}

fn usage() -> ! {
    eprintln!("stand_in FOLDER [MILLISECONDS]");
    std::process::exit(2)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and no runtime"
)]
fn serve(io: TcpStream, store: &Store) -> Result<()> {
    let mut connection = Connection::new(io)?;
    while let Some(request) = connection.request()? {
        let path = request.line[1].split('?').next().unwrap_or_default();
        let parts: Vec<_> = path.split('/').skip(1).collect();
        let (status, body) = match store.answer(&request.line[0], &parts, &request.body) {
            Ok(body) => (200, body),
            Err(Refusal(status, words)) => {
                let error = json!({ "status": { "error": words } });
                (status, error.to_string().into_bytes())
            }
        };
        thread::sleep(store.delay);
        connection.send(&format!("HTTP/1.1 {status} Said"), &body)?;
    }
    Ok(())
}

/// A result as the server wraps it.
fn result(result: &impl Serialize) -> Answer {
    let mut body = b"{\"result\":".to_vec();
    serde_json::to_writer(&mut body, result)?;
    body.extend_from_slice(b",\"status\":\"ok\",\"time\":0}");
    Ok(body)
}

impl Store {
    fn answer(&self, method: &str, parts: &[&str], body: &[u8]) -> Answer {
        let json = || serde_json::from_slice::<Value>(body);
        match (method, parts) {
            ("GET", [""]) => Ok(br#"{"title":"stand-in","version":"1.19.0"}"#.to_vec()),
            ("GET", ["collections"]) => {
                let all = self.collections.read().unwrap();
                let names: Vec<_> = all.keys().map(|name| json!({ "name": name })).collect();
                result(&json!({ "collections": names }))
            }
            ("GET", ["aliases"]) => {
                let pair = |(alias, name): (&String, &String)| json!({ "alias_name": alias, "collection_name": name });
                let all: Vec<_> = self.aliases.lock().unwrap().iter().map(pair).collect();
                result(&json!({ "aliases": all }))
            }
            ("POST", ["collections", "aliases"]) => self.change_aliases(&json()?),
            ("PUT", ["collections", name]) => self.create(name, json()?),
            ("DELETE", ["collections", name]) => {
                let gone = self.collections.write().unwrap().remove(*name);
                result(&gone.is_some())
            }
            (_, ["collections", name, rest @ ..]) => {
                let found = self.collections.read().unwrap().get(*name).cloned();
                let missing = || {
                    Refusal(
                        404,
                        format!("Not found: Collection `{name}` doesn't exist!"),
                    )
                };
                found.ok_or_else(missing)?.answer(method, rest, body)
            }
            _ => Err(Refusal(404, format!("no {method} {parts:?}"))),
        }
    }

    fn change_aliases(&self, body: &Value) -> Answer {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut aliases = self.aliases.lock().unwrap();
        for action in body["actions"].as_array().into_iter().flatten() {
            if let Some(made) = action.get("create_alias") {
                aliases.insert(text(&made["alias_name"]), text(&made["collection_name"]));
            } else {
                aliases.remove(&text(&action["delete_alias"]["alias_name"]));
            }
        }
        result(&true)
    }

    fn create(&self, name: &str, mut body: Value) -> Answer {
        let mut all = self.collections.write().unwrap();
        if all.contains_key(name) {
            return Err(Refusal(
                409,
                format!("Wrong input: Collection `{name}` already exists!"),
            ));
        }
        let mut vectors = body["vectors"].clone();
        if vectors.get("size").is_some() {
            vectors = json!({ "": vectors });
        }
        let config: EdgeConfig = serde_json::from_value(json!({ "vectors": vectors }))?;
        let shard = EdgeShard::new(&self.folder.join(name), config)?;
        let request = body
            .as_object_mut()
            .ok_or_else(|| Refusal(400, "no object".to_owned()))?;
        let mut params = serde_json::Map::new();
        for key in [
            "vectors",
            "sparse_vectors",
            "shard_number",
            "replication_factor",
            "on_disk_payload",
        ] {
            params.extend(request.remove_entry(key));
        }
        let mut config = std::mem::take(request);
        config.insert("params".to_owned(), params.into());
        let optimizers = config.remove("optimizers_config");
        config.insert(
            "optimizer_config".to_owned(),
            optimizers.unwrap_or_else(|| json!({})),
        );
        let about = About {
            config: config.into(),
            indexes: BTreeMap::new(),
        };
        let made = Collection {
            shard,
            about: Mutex::new(about),
        };
        all.insert(name.to_owned(), Arc::new(made));
        result(&true)
    }
}

impl Collection {
    fn answer(&self, method: &str, rest: &[&str], body: &[u8]) -> Answer {
        let all = (
            Some(WithPayloadInterface::Bool(true)),
            WithVector::Bool(true),
        );
        match (method, rest) {
            ("GET", []) => self.told(),
            ("PATCH", []) => self.change(&serde_json::from_slice(body)?),
            ("PUT", ["index"]) => self.index(&serde_json::from_slice(body)?),
            ("PUT", ["points"]) => {
                let points: PointInsertOperations = serde_json::from_slice(body)?;
                self.update(PointOperations::UpsertPoints(points))
            }
            ("POST", ["points", "delete"]) => {
                let Ids { ids } = serde_json::from_slice(body)?;
                self.update(PointOperations::DeletePoints { ids })
            }
            ("POST", ["points"]) => {
                let Ids { ids } = serde_json::from_slice(body)?;
                let found = self.shard.retrieve(RetrieveRequest {
                    point_ids: ids,
                    with_payload: all.0,
                    with_vector: Some(all.1),
                })?;
                result(&found.into_iter().map(shown).collect::<Vec<_>>())
            }
            ("POST", ["points", "scroll"]) => {
                let asked: Scroll = serde_json::from_slice(body)?;
                let mut request = ScrollRequest::new();
                (request.offset, request.limit) = (asked.offset, Some(asked.limit));
                (request.with_payload, request.with_vector) = all;
                let (found, next_page_offset) = self.shard.scroll(request)?;
                result(&Page {
                    points: found.into_iter().map(shown).collect(),
                    next_page_offset,
                })
            }
            ("POST", ["points", "count"]) => {
                let count = self.shard.count(CountRequest::new())?;
                result(&json!({ "count": count }))
            }
            ("POST", ["points", "query"]) => {
                let asked: Value = serde_json::from_slice(body)?;
                let limit = asked["limit"].as_u64().unwrap_or(10);
                let mut request = QueryRequest::new(usize::try_from(limit)?);
                request.query = Some(ScoringQuery::Sample(Sample::Random));
                let found = self.shard.query(request)?;
                let points: Vec<_> = found
                    .iter()
                    .map(|it| json!({ "id": it.id, "score": 0 }))
                    .collect();
                result(&json!({ "points": points }))
            }
            _ => Err(Refusal(404, format!("no {method} {rest:?}"))),
        }
    }

    fn update(&self, operation: PointOperations) -> Answer {
        self.shard
            .update(UpdateOperation::PointOperation(operation))?;
        result(&json!({ "status": "completed" }))
    }

    fn told(&self) -> Answer {
        let about = self.about.lock().unwrap();
        result(&json!({
            "status": "green",
            "points_count": self.shard.count(CountRequest::new())?,
            "config": about.config,
            "payload_schema": about.indexes,
        }))
    }

    fn change(&self, body: &Value) -> Answer {
        let mut about = self.about.lock().unwrap();
        for (key, value) in body.as_object().into_iter().flatten() {
            let key = if key == "optimizers_config" {
                "optimizer_config"
            } else {
                key
            };
            match (&mut about.config[key], value) {
                (Value::Object(old), Value::Object(new)) => old.extend(new.clone()),
                (old, new) => *old = new.clone(),
            }
        }
        result(&true)
    }

    fn index(&self, body: &Value) -> Answer {
        let made = serde_json::from_value(body.clone())?;
        let operation = FieldIndexOperations::CreateIndex(made);
        self.shard
            .update(UpdateOperation::FieldIndexOperation(operation))?;
        let schema = &body["field_schema"];
        let told = json!({
            "data_type": schema.get("type").unwrap_or(schema),
            "params": schema.as_object(),
            "points": 0,
        });
        let field = body["field_name"].as_str().unwrap_or_default();
        let mut about = self.about.lock().unwrap();
        about.indexes.insert(field.to_owned(), told);
        result(&json!({ "status": "completed" }))
    }
}

fn shown(record: Record) -> Shown {
    Shown {
        id: record.id,
        payload: record.payload,
        vector: record.vector.map(VectorStructPersisted::from),
    }
}
