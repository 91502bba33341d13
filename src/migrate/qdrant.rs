//! What is asked of a Qdrant, route by route.
//!
//! Owns paths and bodies. Invariant: points pass through as they were written, never through a
//! number of ours, so that nothing of them is rounded.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::id::PointId;
use super::pace::Pages;
use super::ranges::Range;
use super::shape::Aliases;
use super::site::{Site, Stop, Trouble};

/// What Qdrant takes as one request is 32 MB.
const BODY_MAX: usize = 24 * 1024 * 1024;

/// A point as it was read.
#[derive(Debug, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: PointId,
    /// Its payload, if it has one.
    pub payload: Option<Box<RawValue>>,
    /// Its vectors, if it has any.
    pub vector: Option<Box<RawValue>>,
}

/// Points in the order of their ids.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// The points.
    pub points: Vec<Record>,
    /// The id behind the last one; `None`: there is none.
    #[serde(rename = "next_page_offset")]
    pub next: Option<PointId>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: T,
}

fn parse<T: DeserializeOwned>(site: &Site, answer: &[u8]) -> Result<T, Stop> {
    let envelope: Result<Envelope<T>, _> = serde_json::from_slice(answer);
    let odd = |error| {
        format!(
            "{}: its answer is not that of a Qdrant: {error}",
            site.name()
        )
    };
    envelope
        .map(|it| it.result)
        .map_err(|error| Stop::Failed(odd(error)))
}

/// The path of a collection.
pub fn path(collection: &str, rest: &str) -> String {
    let mut path = "/collections/".to_owned();
    for byte in collection.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(path, "%{byte:02X}")),
        }
    }
    path + rest
}

impl Site {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Stop> {
        self.send(Method::GET, path, None).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, Stop> {
        let body = body
            .map(|body| Bytes::from(body.to_string()))
            .unwrap_or_default();
        match self.ask(method, path, body).await? {
            Ok(answer) => parse(self, &answer),
            Err((status, words)) => Err(self.stop(&Trouble::Answer(status, words))),
        }
    }

    /// The version it says it is.
    pub async fn version(&self) -> Result<String, Stop> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }

        let answer = self.ask(Method::GET, "/", Bytes::new()).await?;
        let answer =
            answer.map_err(|(status, words)| self.stop(&Trouble::Answer(status, words)))?;
        let version: Result<Version, _> = serde_json::from_slice(&answer);
        let odd = |_| Stop::Failed(format!("{}: what answers there is no Qdrant", self.name()));
        version.map(|it| it.version).map_err(odd)
    }

    /// The names of its collections.
    pub async fn collections(&self) -> Result<Vec<String>, Stop> {
        let result: Value = self.get("/collections").await?;
        let all = result["collections"].as_array().into_iter().flatten();
        let names = all.filter_map(|one| one["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Its aliases.
    pub async fn aliases(&self) -> Result<Aliases, Stop> {
        let result: Value = self.get("/aliases").await?;
        let all = result["aliases"].as_array().into_iter().flatten();
        let pair = |one: &Value| {
            let text = |key: &str| one[key].as_str().map(str::to_owned);
            Some((text("alias_name")?, text("collection_name")?))
        };
        Ok(all.filter_map(pair).collect())
    }

    /// What it says of a collection, if it has it.
    pub async fn info(&self, collection: &str) -> Result<Option<Value>, Stop> {
        let path = path(collection, "");
        match self.ask(Method::GET, &path, Bytes::new()).await? {
            Ok(answer) => parse(self, &answer).map(Some),
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((status, words)) => Err(self.stop(&Trouble::Answer(status, words))),
        }
    }

    /// Makes a collection. One that is there by now is the answer to a request of ours whose answer
    /// was lost, or is found to differ when both sides are compared.
    pub async fn create(&self, collection: &str, body: &Value) -> Result<(), Stop> {
        let body = Bytes::from(body.to_string());
        match self.ask(Method::PUT, &path(collection, ""), body).await? {
            Ok(_) | Err((StatusCode::CONFLICT, _)) => Ok(()),
            Err((status, words)) => Err(self.stop(&Trouble::Answer(status, words))),
        }
    }

    /// Removes a collection.
    pub async fn drop_collection(&self, collection: &str) -> Result<(), Stop> {
        let gone: Value = self
            .send(Method::DELETE, &path(collection, ""), None)
            .await?;
        drop(gone);
        Ok(())
    }

    /// Changes a collection.
    pub async fn patch(&self, collection: &str, body: Value) -> Result<(), Stop> {
        let _: Value = self
            .send(Method::PATCH, &path(collection, ""), Some(body))
            .await?;
        Ok(())
    }

    /// Makes a payload index, and waits for it.
    pub async fn index(&self, collection: &str, field: &str, schema: &Value) -> Result<(), Stop> {
        let body = json!({ "field_name": field, "field_schema": schema });
        let path = path(collection, "/index?wait=true");
        let _: Value = self.send(Method::PUT, &path, Some(body)).await?;
        Ok(())
    }

    /// Changes aliases, all at once.
    pub async fn change_aliases(&self, actions: Vec<Value>) -> Result<(), Stop> {
        let body = json!({ "actions": actions });
        let _: Value = self
            .send(Method::POST, "/collections/aliases", Some(body))
            .await?;
        Ok(())
    }

    /// How many points a collection has, exactly.
    pub async fn count(&self, collection: &str) -> Result<u64, Stop> {
        let path = path(collection, "/points/count");
        let body = json!({ "exact": true });
        let result: Value = self.send(Method::POST, &path, Some(body)).await?;
        let odd = || Stop::Failed(format!("{}: it does not count points", self.name()));
        result["count"].as_u64().ok_or_else(odd)
    }

    /// Ids of points at random; none, if the server cannot do that.
    pub async fn sample(&self, collection: &str, points: usize) -> Result<Vec<PointId>, Stop> {
        #[derive(Deserialize)]
        struct Point {
            id: PointId,
        }

        #[derive(Deserialize)]
        struct Points {
            points: Vec<Point>,
        }

        let body = json!({
            "query": { "sample": "random" },
            "limit": points,
            "with_payload": false,
            "with_vector": false,
        });
        let path = path(collection, "/points/query");
        match self
            .ask(Method::POST, &path, body.to_string().into())
            .await?
        {
            Ok(answer) => {
                let result: Points = parse(self, &answer)?;
                Ok(result.points.into_iter().map(|point| point.id).collect())
            }
            Err((StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, _)) => Ok(Vec::new()),
            Err((status, words)) => Err(self.stop(&Trouble::Answer(status, words))),
        }
    }

    /// The points with these ids, as far as they are there.
    pub async fn retrieve(
        &self,
        collection: &str,
        ids: &[PointId],
    ) -> Result<Result<Vec<Record>, Trouble>, Stop> {
        let body = json!({ "ids": ids, "with_payload": true, "with_vector": true });
        let body = Bytes::from(body.to_string());
        let path = path(collection, "/points");
        let mut tries = self.tries();
        loop {
            match self.call(Method::POST, &path, body.clone()).await {
                Ok(answer) => return parse(self, &answer).map(Ok),
                Err(trouble @ Trouble::TooMuch(_)) => return Ok(Err(trouble)),
                Err(trouble) => tries.after(&trouble).await?,
            }
        }
    }

    /// Removes points by their ids.
    pub async fn remove(&self, collection: &str, ids: &[PointId]) -> Result<(), Stop> {
        let path = path(collection, "/points/delete?wait=true");
        let body = json!({ "points": ids });
        let _: Value = self.send(Method::POST, &path, Some(body)).await?;
        Ok(())
    }

    /// Writes points, and waits until they are applied. What is too large or too slow at once is
    /// written in halves; so a point that is refused is found, and named.
    pub async fn upsert(&self, collection: &str, records: &[Record]) -> Result<(), Stop> {
        let path = path(collection, "/points?wait=true");
        let mut waiting = vec![records];
        let mut tries = self.tries();
        while let Some(records) = waiting.pop() {
            let body = upsert_body(records);
            if body.len() > BODY_MAX && records.len() > 1 {
                halve(&mut waiting, records);
                continue;
            }
            match self.call(Method::PUT, &path, body.into()).await {
                Ok(_) => tries = self.tries(),
                Err(trouble) => {
                    let large = matches!(
                        trouble,
                        Trouble::TooMuch(_) | Trouble::Answer(StatusCode::BAD_REQUEST, _)
                    );
                    let splits = large || matches!(trouble, Trouble::Slow(_));
                    if !large {
                        tries.after(&trouble).await?;
                    } else if let [one] = records {
                        return Err(refused(&self.stop(&trouble), one.id));
                    }
                    if splits && records.len() > 1 {
                        halve(&mut waiting, records);
                    } else {
                        waiting.push(records);
                    }
                }
            }
        }
        Ok(())
    }
}

fn refused(stop: &Stop, id: PointId) -> Stop {
    let (Stop::Failed(words) | Stop::Refused(words) | Stop::Differs(words)) = stop;
    Stop::Failed(format!("point {id}: {words}"))
}

fn halve<'a>(waiting: &mut Vec<&'a [Record]>, records: &'a [Record]) {
    let (first, second) = records.split_at(records.len() / 2);
    waiting.extend([second, first]);
}

fn upsert_body(records: &[Record]) -> Vec<u8> {
    let text = |raw: &Option<Box<RawValue>>| raw.as_ref().map_or(0, |raw| raw.get().len());
    let size = records
        .iter()
        .map(|it| text(&it.payload) + text(&it.vector) + 80);
    let mut body = String::with_capacity(size.sum::<usize>() + 16);
    body += "{\"points\":[";
    for (place, record) in records.iter().enumerate() {
        let quote = if matches!(record.id, PointId::Uuid(_)) {
            "\""
        } else {
            ""
        };
        let comma = if place > 0 { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(body, "{comma}{{\"id\":{quote}{}{quote}", record.id);
        if let Some(payload) = &record.payload {
            body += ",\"payload\":";
            body += payload.get();
        }
        body += ",\"vector\":";
        body += record.vector.as_ref().map_or("{}", |vector| vector.get());
        body.push('}');
    }
    body += "]}";
    body.into_bytes()
}

/// Reads the points of a range, page by page.
#[derive(Debug)]
pub struct Reader<'a> {
    site: &'a Site,
    path: String,
    range: Range,
    /// Where the next page begins.
    next: Option<PointId>,
    /// The last id that came.
    last: Option<PointId>,
    over: bool,
    pages: Pages,
}

impl<'a> Reader<'a> {
    /// Reads `range` of a collection from `next` on.
    pub fn new(site: &'a Site, collection: &str, range: Range, next: Option<PointId>) -> Self {
        Self {
            site,
            path: path(collection, "/points/scroll"),
            range,
            next,
            last: None,
            over: false,
            pages: Pages::default(),
        }
    }

    /// The next page; `None`: the range is over. `next` of a page tells where the one after it
    /// begins.
    pub async fn page(&mut self) -> Result<Option<Page>, Stop> {
        let mut tries = self.site.tries();
        while !self.over {
            let body = self.body();
            match self.site.call(Method::POST, &self.path, body.into()).await {
                Ok(answer) => {
                    let page: Page = parse(self.site, &answer)?;
                    self.pages.came(page.points.len(), answer.len());
                    return self.cut(page).map(Some);
                }
                // Strict mode bounds how many points may be asked for, and says 400.
                Err(
                    trouble @ (Trouble::TooMuch(_) | Trouble::Answer(StatusCode::BAD_REQUEST, _)),
                ) => {
                    if !self.pages.was_too_much() {
                        return Err(self.site.stop(&trouble));
                    }
                }
                Err(trouble) => {
                    if matches!(trouble, Trouble::Slow(_)) {
                        self.pages.was_too_much();
                    }
                    tries.after(&trouble).await?;
                }
            }
        }
        Ok(None)
    }

    fn body(&self) -> String {
        let mut body = json!({
            "limit": self.pages.points(),
            "with_payload": true,
            "with_vector": true,
        });
        if let Some(next) = self.next {
            body["offset"] = json!(next);
        }
        body.to_string()
    }

    /// Takes off what lies behind the range.
    fn cut(&mut self, mut page: Page) -> Result<Page, Stop> {
        for record in &page.points {
            if self.last.is_some_and(|last| record.id <= last) {
                let name = self.site.name();
                let words = format!("{name}: its points do not come in the order of their ids");
                return Err(Stop::Failed(words));
            }
            self.last = Some(record.id);
        }
        page.points.retain(|record| !self.range.is_past(record.id));
        page.next = page.next.filter(|next| !self.range.is_past(*next));
        self.next = page.next;
        self.over = page.next.is_none();
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_collection_is_one_segment() {
        for (name, want) in [
            ("docs-1_a.b~", "/collections/docs-1_a.b~/points"),
            ("a/b", "/collections/a%2Fb/points"),
            ("100% ?#", "/collections/100%25%20%3F%23/points"),
            ("日本", "/collections/%E6%97%A5%E6%9C%AC/points"),
        ] {
            assert_eq!(path(name, "/points"), want);
        }
    }

    #[test]
    fn points_are_written_as_they_were_read() {
        let page = r#"{"points":[
            {"id":1,"payload":{"b":1.0,"a":1e3},"vector":[0.1,1E-7],"shard_key":null},
            {"id":"550e8400-e29b-41d4-a716-446655440000","payload":null,"vector":{}},
            {"id":18446744073709551615}],"next_page_offset":7}"#;
        let page: Page = serde_json::from_str(page).unwrap();
        assert_eq!(page.next, Some(PointId::Num(7)));
        let body = String::from_utf8(upsert_body(&page.points)).unwrap();
        assert_eq!(
            body,
            "{\"points\":[{\"id\":1,\"payload\":{\"b\":1.0,\"a\":1e3},\"vector\":[0.1,1E-7]},\
             {\"id\":\"550e8400-e29b-41d4-a716-446655440000\",\"vector\":{}},\
             {\"id\":18446744073709551615,\"vector\":{}}]}"
        );
        assert_eq!(upsert_body(&[]), b"{\"points\":[]}");
    }
}
