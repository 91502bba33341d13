//! What a collection is besides its points: how to make it anew, and what differs between two.
//!
//! Pure: reads what Qdrant says of a collection, writes what Qdrant is asked for. Invariant: what
//! Qdrant gains in a newer version is taken along, as keys are copied and not listed, except where
//! a key has another name or another time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Aliases and the collections that they lead to.
pub type Aliases = BTreeMap<String, String>;

/// Keys of `config` under which the server fills in defaults of its own version: what the source
/// does not say of these is no difference.
const TUNING: [&str; 3] = ["hnsw_config", "optimizer_config", "wal_config"];
/// Keys of `config` that are set when all the rest is there, or have their own place.
const APART: [&str; 3] = ["params", "strict_mode_config", "optimizer_config"];
/// Keys of `params` that cannot be given at the start.
const FAN_OUT: [&str; 2] = ["read_fan_out_factor", "read_fan_out_delay_ms"];

/// The body of `PUT /collections/{c}`, from what `GET` said of the source.
///
/// # Errors
/// Text for people about what cannot be moved.
pub fn create(info: &Value) -> Result<Value, String> {
    let config = &info["config"];
    let mut body = Map::new();
    for (key, value) in fields(&config["params"]) {
        body.insert(key.clone(), value.clone());
    }
    for (key, value) in fields(config).filter(|(key, _)| !APART.contains(&key.as_str())) {
        body.insert(key.clone(), value.clone());
    }
    if let Some(optimizers) = config.get("optimizer_config").filter(|it| !it.is_null()) {
        body.insert("optimizers_config".to_owned(), optimizers.clone());
    }
    body.retain(|key, _| !FAN_OUT.contains(&key.as_str()));
    if body
        .get("sharding_method")
        .is_some_and(|method| method == "custom")
    {
        return Err("it has shards by key, which are not moved".to_owned());
    }
    let mut body = Value::Object(body);
    drop_nulls(&mut body);
    Ok(body)
}

/// The body of `PATCH /collections/{c}` when the points are there; `None`: there is nothing to say.
/// Set before, strict mode could slow the copy down or refuse it.
pub fn finish(info: &Value) -> Option<Value> {
    let config = &info["config"];
    let mut body = json!({});
    if let Some(strict) = config.get("strict_mode_config").filter(|it| !it.is_null()) {
        body["strict_mode_config"] = strict.clone();
    }
    let late = fields(&config["params"]).filter(|(key, _)| FAN_OUT.contains(&key.as_str()));
    let late: Map<_, _> = late.map(|(key, it)| (key.clone(), it.clone())).collect();
    if !late.is_empty() {
        body["params"] = late.into();
    }
    drop_nulls(&mut body);
    let empty = body.as_object().is_some_and(Map::is_empty);
    (!empty).then_some(body)
}

/// Payload indexes by field, each as `PUT /collections/{c}/index` wants it.
pub fn indexes(info: &Value) -> BTreeMap<String, Value> {
    fields(&info["payload_schema"])
        .map(|(field, about)| {
            let params = about.get("params").filter(|it| !it.is_null());
            let mut schema = params.unwrap_or(&about["data_type"]).clone();
            drop_nulls(&mut schema);
            (field.clone(), schema)
        })
        .collect()
}

/// What differs in how two collections are made, a line each; unless `whole` without what can still
/// be added: strict mode, which is set last, and indexes that the target lacks.
pub fn differences(source: &Value, target: &Value, whole: bool) -> Vec<String> {
    let mut found = Vec::new();
    let (one, other) = (&source["config"], &target["config"]);
    let mut keys: Vec<_> = fields(one)
        .chain(fields(other))
        .map(|(key, _)| key)
        .collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        if key == "strict_mode_config" && !whole {
            continue;
        }
        let (mut one, mut other) = (one[key].clone(), other[key].clone());
        for side in [&mut one, &mut other] {
            drop_nulls(side);
            if key == "params"
                && !whole
                && let Some(params) = side.as_object_mut()
            {
                params.retain(|key, _| !FAN_OUT.contains(&key.as_str()));
            }
        }
        let one_sided = TUNING.contains(&key.as_str());
        compare(&mut found, key, &one, &other, one_sided);
    }
    let indexes = (indexes(source), indexes(target));
    let mut names: Vec<_> = indexes.0.keys().chain(indexes.1.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        if !whole && !indexes.1.contains_key(name) {
            continue;
        }
        let side = |of: &BTreeMap<String, Value>| of.get(name).map_or(Value::Null, typed);
        let what = format!("index on {name}");
        compare(
            &mut found,
            &what,
            &side(&indexes.0),
            &side(&indexes.1),
            true,
        );
    }
    found
}

/// The schema of an index, in the one form that both can have.
fn typed(schema: &Value) -> Value {
    if schema.is_string() {
        json!({ "type": schema })
    } else {
        schema.clone()
    }
}

fn compare(found: &mut Vec<String>, at: &str, one: &Value, other: &Value, one_sided: bool) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<_> = one.keys().collect();
            if !one_sided {
                keys.extend(other.keys());
                keys.sort();
                keys.dedup();
            }
            let of = |side: &Map<String, Value>, key: &String| {
                side.get(key).cloned().unwrap_or(Value::Null)
            };
            for key in keys {
                let at = format!("{at}.{key}");
                compare(found, &at, &of(one, key), &of(other, key), one_sided);
            }
        }
        _ if same(one, other) => {}
        _ => found.push(format!(
            "{at}: {} at the source, {} at the target",
            show(one),
            show(other)
        )),
    }
}

fn show(value: &Value) -> String {
    if value.is_null() {
        "none".to_owned()
    } else {
        value.to_string()
    }
}

/// Whether two values are the same, however their numbers are written.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => one == other,
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
}

/// Takes out what is null, and objects that hold nothing else, except the vectors themselves: a
/// sparse vector without settings is `{}`.
fn drop_nulls(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// What to do so that the aliases of a collection are the source's, as actions of
/// `POST /collections/aliases`.
///
/// # Errors
/// A line for each alias that is in the way, unless `replace`.
pub fn aliases(
    collection: &str,
    (source, target): (&Aliases, &Aliases),
    there: &[String],
    replace: bool,
) -> Result<Vec<Value>, Vec<String>> {
    let (mut actions, mut refused) = (Vec::new(), Vec::new());
    let ours = |aliases: &Aliases, name: &String| {
        aliases.get(name).is_some_and(|leads| leads == collection)
    };
    for name in source.keys().filter(|name| ours(source, name)) {
        match target.get(name) {
            Some(leads) if leads == collection => continue,
            // No order can make a name mean a collection and an alias.
            None if there.contains(name) => {
                refused.push(format!(
                    "alias {name}: a collection of that name is at the target"
                ));
                continue;
            }
            Some(leads) if !replace => {
                refused.push(format!("alias {name}: leads to {leads} at the target"));
                continue;
            }
            Some(_) => actions.push(json!({ "delete_alias": { "alias_name": name } })),
            None => {}
        }
        let create = json!({ "collection_name": collection, "alias_name": name });
        actions.push(json!({ "create_alias": create }));
    }
    let extra = (target.keys()).filter(|name| ours(target, name) && !ours(source, name));
    for name in extra {
        if replace {
            actions.push(json!({ "delete_alias": { "alias_name": name } }));
        } else {
            refused.push(format!("alias {name}: only at the target"));
        }
    }
    if refused.is_empty() {
        Ok(actions)
    } else {
        Err(refused)
    }
}

/// What differs in the aliases of a collection, a line each.
pub fn alias_differences(collection: &str, source: &Aliases, target: &Aliases) -> Vec<String> {
    let names = |aliases: &Aliases| -> Vec<String> {
        let ours = aliases.iter().filter(|(_, leads)| *leads == collection);
        ours.map(|(name, _)| name.clone()).collect()
    };
    let (one, other) = (names(source), names(target));
    let only = |these: &[String], those: &[String], at: &str| -> Vec<String> {
        let only = these.iter().filter(|name| !those.contains(name));
        only.map(|name| format!("alias {name}: only at the {at}"))
            .collect()
    };
    [only(&one, &other, "source"), only(&other, &one, "target")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Value {
        json!({
            "status": "green",
            "points_count": 3,
            "config": {
                "params": {
                    "vectors": {
                        "image": {"size": 4, "distance": "Dot", "on_disk": true,
                                  "hnsw_config": {"m": 8, "payload_m": null},
                                  "multivector_config": {"comparator": "max_sim"}},
                        "text": {"size": 3, "distance": "Cosine", "datatype": "float16"},
                    },
                    "sparse_vectors": {"words": {}, "tags": {"modifier": "idf", "index": null}},
                    "shard_number": 1,
                    "on_disk_payload": true,
                    "read_fan_out_factor": 2,
                },
                "hnsw_config": {"m": 16, "max_indexing_threads": 0},
                "optimizer_config": {"indexing_threshold": 20000, "max_segment_size": null},
                "wal_config": {"wal_capacity_mb": 32},
                "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
                "strict_mode_config": {"enabled": true, "max_query_limit": 10},
                "metadata": {"owner": "書庫"},
                "newer": {"than": "this"},
            },
            "payload_schema": {
                "city": {"data_type": "keyword", "points": 2},
                "text": {"data_type": "text", "points": 9,
                         "params": {"type": "text", "tokenizer": "word", "lowercase": null}},
            },
        })
    }

    #[test]
    fn a_collection_is_made_anew_with_all_that_it_is() {
        let body = create(&info()).unwrap();
        assert_eq!(
            body,
            json!({
                "vectors": {
                    "image": {"size": 4, "distance": "Dot", "on_disk": true,
                              "hnsw_config": {"m": 8},
                              "multivector_config": {"comparator": "max_sim"}},
                    "text": {"size": 3, "distance": "Cosine", "datatype": "float16"},
                },
                "sparse_vectors": {"words": {}, "tags": {"modifier": "idf"}},
                "shard_number": 1,
                "on_disk_payload": true,
                "hnsw_config": {"m": 16, "max_indexing_threads": 0},
                "optimizers_config": {"indexing_threshold": 20000},
                "wal_config": {"wal_capacity_mb": 32},
                "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
                "metadata": {"owner": "書庫"},
                "newer": {"than": "this"},
            })
        );
        assert_eq!(
            finish(&info()),
            Some(json!({
                "strict_mode_config": {"enabled": true, "max_query_limit": 10},
                "params": {"read_fan_out_factor": 2},
            }))
        );
        assert_eq!(finish(&json!({"config": {"params": {}}})), None);
        let made = indexes(&info());
        assert_eq!(made["city"], json!("keyword"));
        assert_eq!(made["text"], json!({"type": "text", "tokenizer": "word"}));
    }

    #[test]
    fn shards_by_key_are_refused() {
        let info = json!({"config": {"params": {"vectors": {}, "sharding_method": "custom"}}});
        assert!(create(&info).is_err());
    }

    #[test]
    fn each_difference_has_its_line_and_what_is_no_difference_has_none() {
        let none = |change: fn(&mut Value)| {
            let mut other = info();
            change(&mut other);
            assert_eq!(differences(&info(), &other, true), Vec::<String>::new());
        };
        none(|_| {});
        none(|it| it["points_count"] = json!(7));
        none(|it| it["payload_schema"]["city"]["points"] = json!(7));
        none(|it| it["config"]["hnsw_config"]["m"] = json!(16.0));
        none(|it| it["config"]["hnsw_config"]["of_a_newer_version"] = json!(1));
        none(|it| it["config"]["params"]["vectors"]["text"]["on_disk"] = Value::Null);
        none(|it| {
            it["payload_schema"]["city"]["params"] = json!({"type": "keyword", "is_tenant": false});
        });

        let one = |change: fn(&mut Value), want: &str| {
            let mut other = info();
            change(&mut other);
            assert_eq!(differences(&info(), &other, true), [want]);
        };
        one(
            |it| it["config"]["params"]["vectors"]["text"]["size"] = json!(4),
            "params.vectors.text.size: 3 at the source, 4 at the target",
        );
        one(
            |it| it["config"]["params"]["sparse_vectors"]["more"] = json!({}),
            "params.sparse_vectors.more: none at the source, {} at the target",
        );
        one(
            |it| it["config"]["quantization_config"] = Value::Null,
            "quantization_config: {\"scalar\":{\"quantile\":0.99,\"type\":\"int8\"}} at the \
             source, none at the target",
        );
        one(
            |it| it["config"]["metadata"]["owner"] = json!("x"),
            "metadata.owner: \"書庫\" at the source, \"x\" at the target",
        );
        one(
            |it| it["payload_schema"]["city"]["data_type"] = json!("integer"),
            "index on city.type: \"keyword\" at the source, \"integer\" at the target",
        );
        one(
            |it| it["payload_schema"]["text"] = Value::Null,
            "index on text: {\"tokenizer\":\"word\",\"type\":\"text\"} at the source, none at \
             the target",
        );
    }

    #[test]
    fn what_can_still_be_added_is_no_difference_until_the_end() {
        let mut other = info();
        other["config"]["strict_mode_config"] = Value::Null;
        other["config"]["params"]["read_fan_out_factor"] = Value::Null;
        other["payload_schema"]["city"] = Value::Null;
        assert_eq!(differences(&info(), &other, false), Vec::<String>::new());
        assert_eq!(differences(&info(), &other, true).len(), 3);
        other["payload_schema"]["text"]["data_type"] = json!("keyword");
        other["payload_schema"]["text"]["params"] = Value::Null;
        other["payload_schema"]["more"] = json!({"data_type": "keyword"});
        assert_eq!(
            differences(&info(), &other, false).len(),
            3,
            "two of text, one more"
        );
    }

    fn pairs(pairs: &[(&str, &str)]) -> Aliases {
        let own = |(name, leads): &(&str, &str)| ((*name).to_owned(), (*leads).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn aliases_are_made_and_moved_only_when_that_was_ordered() {
        let source = pairs(&[("a", "c"), ("b", "c"), ("z", "other")]);
        let there = ["c".to_owned(), "b2".to_owned()];
        let made = |target: &[(&str, &str)], replace| {
            let target = pairs(target);
            aliases("c", (&source, &target), &there, replace).map(|actions| {
                let short = |action: &Value| {
                    let (what, about) = action.as_object().unwrap().iter().next().unwrap();
                    let name = about["alias_name"].as_str().unwrap();
                    format!("{} {name}", &what[..6])
                };
                actions.iter().map(short).collect::<Vec<_>>()
            })
        };
        assert_eq!(made(&[], false).unwrap(), ["create a", "create b"]);
        assert_eq!(made(&[("a", "c"), ("b", "c")], false).unwrap(), [""; 0]);
        let moved = &[("a", "old"), ("b", "c"), ("x", "c"), ("y", "old")];
        assert_eq!(
            made(moved, false).unwrap_err(),
            [
                "alias a: leads to old at the target",
                "alias x: only at the target"
            ]
        );
        assert_eq!(
            made(moved, true).unwrap(),
            ["delete a", "create a", "delete x"]
        );
        let source = pairs(&[("b2", "c")]);
        let refused = aliases("c", (&source, &pairs(&[])), &there, true);
        assert_eq!(refused.unwrap_err().len(), 1);
        assert_eq!(
            alias_differences(
                "c",
                &pairs(&[("a", "c")]),
                &pairs(&[("b", "c"), ("a", "d")])
            ),
            ["alias a: only at the source", "alias b: only at the target"]
        );
    }
}
