//! A scripted Qdrant: collections, points, indexes and aliases in memory, behind the REST routes
//! that `tailhop migrate` asks, with faults by order.
//!
//! It keeps what it is given as it was given, so that a value that changed on the way is seen. It
//! is not Qdrant: nothing is indexed, searched or checked against the shape of its collection.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// Numbers, then UUIDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    Num(u64),
    Text(String),
}

/// A collection, as it was made and as it is.
#[derive(Clone, Default)]
pub(crate) struct Collection {
    pub(crate) config: Value,
    pub(crate) indexes: Map<String, Value>,
    pub(crate) points: BTreeMap<Id, Value>,
}

/// What happens to one request instead of its answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This status and these words.
    Status(u16, &'static str),
    /// It is carried out, and the connection ends without an answer.
    Lost,
}

type Faults = VecDeque<(&'static str, Fault)>;
type Hook = Box<dyn FnMut(&mut Store, &str) + Send>;

/// All of it.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) collections: BTreeMap<String, Collection>,
    pub(crate) aliases: BTreeMap<String, String>,
    /// Each for the next request whose method and path contain the word.
    pub(crate) faults: Faults,
    /// Method and path of every request.
    pub(crate) asked: Vec<String>,
    /// The key that has to be presented.
    pub(crate) key: Option<&'static str>,
    /// More bytes than this in one upsert are refused with this status.
    pub(crate) too_large: Option<(usize, u16)>,
    /// Strict mode: more points than this are not scrolled at once.
    pub(crate) most_scrolled: Option<u64>,
    /// What it says its version is, if not the usual one.
    pub(crate) version: Option<&'static str>,
    /// Points of all upserts.
    pub(crate) upserted: usize,
}

/// The server. It ends with its runtime.
#[derive(Clone)]
pub(crate) struct Qdrant {
    pub(crate) address: SocketAddr,
    store: Arc<Mutex<Store>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Qdrant {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            store: Arc::default(),
            hook: Arc::default(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = serving.clone();
                let service = service_fn(move |request| server.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// A point is gone, of those that it has, without anybody having asked for that.
    pub(crate) fn lose_first_point(&self, collection: &str) {
        let mut store = self.store();
        let points = &mut store.collections.get_mut(collection).unwrap().points;
        points.pop_first().unwrap();
    }

    /// Called before each request, with its method and path.
    pub(crate) fn before_each(&self, hook: impl FnMut(&mut Store, &str) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
        let what = format!("{} {}", head.method, head.uri.path());
        let mut store = self.store();
        store.asked.push(what.clone());
        if let Some(hook) = self.hook.lock().unwrap().as_mut() {
            hook(&mut store, &what);
        }
        let key = head
            .headers
            .get("api-key")
            .and_then(|key| key.to_str().ok());
        if store.key.is_some() && key != store.key {
            let refused = Response::builder().status(401);
            return Ok(refused.body("Must provide an API key".into()).unwrap());
        }
        let fault = store.fault(&what);
        if let Some(Fault::Status(status, words)) = fault {
            return Ok(reply(status, &json!({ "status": { "error": words } })));
        }
        let answer = store.route(&what, &body);
        drop(store);
        match (fault, answer) {
            (Some(_), _) => Err(Lost),
            (None, Ok(result)) if what == "GET /" => Ok(reply(200, &result)),
            (None, Ok(result)) => Ok(reply(200, &json!({ "result": result, "status": "ok" }))),
            (None, Err((status, words))) => {
                Ok(reply(status, &json!({ "status": { "error": words } })))
            }
        }
    }
}

/// No answer.
#[derive(Debug)]
pub(crate) struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lost by order")
    }
}

impl std::error::Error for Lost {}

impl From<Infallible> for Lost {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn reply(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let reply = Response::builder().status(status);
    reply.body(body.to_string().into()).unwrap()
}

fn id(value: &Value) -> Id {
    match value.as_u64() {
        Some(number) => Id::Num(number),
        None => Id::Text(value.as_str().unwrap().to_owned()),
    }
}

fn shown(id: &Id) -> Value {
    match id {
        Id::Num(number) => json!(number),
        Id::Text(text) => json!(text),
    }
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, others @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(&others[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).unwrap()
}

type Answer = Result<Value, (u16, String)>;

impl Store {
    fn fault(&mut self, what: &str) -> Option<Fault> {
        let place = self
            .faults
            .iter()
            .position(|(word, _)| what.contains(word))?;
        self.faults.remove(place).map(|(_, fault)| fault)
    }

    fn route(&mut self, what: &str, body: &[u8]) -> Answer {
        let (method, path) = what.split_once(' ').unwrap();
        let parts: Vec<_> = path.split('/').skip(1).map(decoded).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        match (method, parts.as_slice()) {
            ("GET", [""]) => {
                let version = self.version.unwrap_or("1.19.0");
                Ok(json!({ "title": "scripted", "version": version }))
            }
            ("GET", ["collections"]) => {
                let names = self.collections.keys().map(|name| json!({ "name": name }));
                Ok(json!({ "collections": names.collect::<Vec<_>>() }))
            }
            ("GET", ["aliases"]) => {
                let pair = |(alias, to): (&String, &String)| json!({ "alias_name": alias, "collection_name": to });
                Ok(json!({ "aliases": self.aliases.iter().map(pair).collect::<Vec<_>>() }))
            }
            ("POST", ["collections", "aliases"]) => Ok(self.change_aliases(&json)),
            ("PUT", ["collections", name]) => self.create(name, json),
            ("DELETE", ["collections", name]) => {
                Ok(self.collections.remove(*name).is_some().into())
            }
            (_, ["collections", name, rest @ ..]) => {
                let limit = self.too_large;
                if let (Some((most, status)), ["points"], "PUT") = (limit, rest, method)
                    && body.len() > most
                {
                    return Err((status, "Payload reached size limit".to_owned()));
                }
                let asked = json["limit"].as_u64();
                if rest == ["points", "scroll"] && asked > self.most_scrolled.or(asked) {
                    return Err((400, "Forbidden: Limit exceeded".to_owned()));
                }
                let upserts = method == "PUT" && rest == ["points"];
                let collection = self.collections.get_mut(*name).ok_or_else(|| {
                    (
                        404,
                        format!("Not found: Collection `{name}` doesn't exist!"),
                    )
                })?;
                if upserts {
                    self.upserted += json["points"].as_array().unwrap().len();
                }
                collection.route(method, rest, &json)
            }
            _ => Err((404, format!("no {what}"))),
        }
    }

    fn create(&mut self, name: &str, mut body: Value) -> Answer {
        if self.collections.contains_key(name) {
            return Err((
                409,
                format!("Wrong input: Collection `{name}` already exists!"),
            ));
        }
        let map = body.as_object_mut().unwrap();
        let mut params = Map::new();
        for key in [
            "vectors",
            "sparse_vectors",
            "shard_number",
            "replication_factor",
            "on_disk_payload",
        ] {
            params.extend(map.remove_entry(key));
        }
        let mut config = std::mem::take(map);
        config.insert("params".to_owned(), params.into());
        if let Some(optimizers) = config.remove("optimizers_config") {
            config.insert("optimizer_config".to_owned(), optimizers);
        }
        let made = Collection {
            config: config.into(),
            ..Collection::default()
        };
        self.collections.insert(name.to_owned(), made);
        Ok(true.into())
    }

    fn change_aliases(&mut self, body: &Value) -> Value {
        for action in body["actions"].as_array().unwrap() {
            let text = |about: &Value, key: &str| about[key].as_str().unwrap().to_owned();
            if let Some(about) = action.get("create_alias") {
                self.aliases
                    .insert(text(about, "alias_name"), text(about, "collection_name"));
            } else {
                self.aliases
                    .remove(&text(&action["delete_alias"], "alias_name"));
            }
        }
        true.into()
    }
}

impl Collection {
    fn route(&mut self, method: &str, rest: &[&str], body: &Value) -> Answer {
        match (method, rest) {
            ("GET", []) => Ok(json!({
                "status": "green",
                "points_count": self.points.len(),
                "config": self.config,
                "payload_schema": self.indexes,
            })),
            ("PATCH", []) => {
                let changes = body.as_object().unwrap().clone();
                for (key, value) in changes {
                    match value.as_object() {
                        Some(inner) if key == "params" => {
                            let params = self.config["params"].as_object_mut().unwrap();
                            params.extend(inner.clone());
                        }
                        _ => self.config[key] = value,
                    }
                }
                Ok(true.into())
            }
            ("PUT", ["index"]) => {
                let schema = &body["field_schema"];
                let data_type = schema.get("type").unwrap_or(schema);
                let params = schema.as_object();
                let about = json!({ "data_type": data_type, "params": params, "points": 0 });
                let field = body["field_name"].as_str().unwrap();
                self.indexes.insert(field.to_owned(), about);
                Ok(json!({ "status": "completed" }))
            }
            ("PUT", ["points"]) => {
                for point in body["points"].as_array().unwrap() {
                    self.points.insert(id(&point["id"]), point.clone());
                }
                Ok(json!({ "status": "completed" }))
            }
            ("POST", ["points", "count"]) => Ok(json!({ "count": self.points.len() })),
            ("POST", ["points", "scroll"]) => Ok(self.scroll(body)),
            ("POST", ["points", "query"]) => {
                let limit = usize::try_from(body["limit"].as_u64().unwrap()).unwrap();
                let ids = self.points.keys().take(limit);
                let points: Vec<_> = ids
                    .map(|id| json!({ "id": shown(id), "score": 0 }))
                    .collect();
                Ok(json!({ "points": points }))
            }
            ("POST", ["points"]) => {
                let asked = body["ids"].as_array().unwrap().iter().map(id);
                let found: Vec<_> = asked.filter_map(|id| self.points.get(&id)).collect();
                Ok(json!(found))
            }
            ("POST", ["points", "delete"]) => {
                for gone in body["points"].as_array().unwrap() {
                    self.points.remove(&id(gone));
                }
                Ok(json!({ "status": "completed" }))
            }
            _ => Err((404, format!("no {method} {rest:?}"))),
        }
    }

    fn scroll(&self, body: &Value) -> Value {
        let limit = usize::try_from(body["limit"].as_u64().unwrap()).unwrap();
        let from = body.get("offset").map_or(Id::Num(0), id);
        let mut page: Vec<_> = self.points.range(from..).take(limit + 1).collect();
        let next = (page.len() > limit).then(|| page.pop()).flatten();
        let points: Vec<_> = page.into_iter().map(|(_, point)| point).collect();
        json!({ "points": points, "next_page_offset": next.map(|(id, _)| shown(id)) })
    }
}
