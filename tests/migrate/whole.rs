//! What arrives.

use serde_json::json;
use tailhop::migrate::{Verify, Wanted};

use crate::qdrant::Id;
use crate::{Stage, collection, exists, point, replace, verify_only, wanted};

#[tokio::test]
async fn points_arrive_as_they_were_written_and_the_state_file_goes() {
    let stage = Stage::with("docs", 5_000).await;
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    assert_eq!(report.collections[0].points, 5_000);
    assert_eq!(report.collections[0].repaired, 0);
    assert_eq!(report.collections[0].digest.len(), 64);
    stage.assert_same("docs");
    assert_eq!(stage.target.store().upserted, 5_000, "each once");
    assert!(!exists(&stage.state()));
    let verified = stage.run(verify_only()).await.unwrap();
    assert!(verified.equal);
}

#[tokio::test]
async fn everything_that_a_collection_is_arrives_and_strict_mode_last() {
    let stage = Stage::with("a/b 日本語", 50).await;
    {
        let mut store = stage.source.store();
        let made = store.collections.get_mut("a/b 日本語").unwrap();
        made.config = json!({
            "params": {
                "vectors": { "text": { "size": 3, "distance": "Dot", "on_disk": true },
                             "late": { "size": 2, "distance": "Cosine",
                                       "multivector_config": { "comparator": "max_sim" } } },
                "sparse_vectors": { "words": { "modifier": "idf" } },
                "on_disk_payload": false,
            },
            "hnsw_config": { "m": 8, "on_disk": true },
            "optimizer_config": { "indexing_threshold": 1000 },
            "quantization_config": { "scalar": { "type": "int8" } },
            "strict_mode_config": { "enabled": true, "max_query_limit": 5 },
            "metadata": { "owner": "書庫" },
        });
        made.indexes = serde_json::from_value(json!({
            "city": { "data_type": "keyword", "params": null, "points": 0 },
            "text": { "data_type": "text", "points": 0,
                      "params": { "type": "text", "tokenizer": "word" } },
        }))
        .unwrap();
        for (place, point) in made.points.values_mut().enumerate() {
            point["vector"] = match place % 4 {
                0 => json!({ "text": [0.1, 0.2, 0.3], "late": [[1, 2], [3, 4]] }),
                1 => json!({ "words": { "indices": [9, 3], "values": [0.5, 0.25] } }),
                2 => json!({}),
                _ => json!({ "text": [1e-7, 2.5e10, -0.3] }),
            };
        }
        let aliases = [("current", "a/b 日本語"), ("now", "a/b 日本語")];
        store.aliases = aliases.map(|(a, c)| (a.into(), c.into())).into();
    }
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("a/b 日本語");
    assert_eq!(stage.source.store().aliases, stage.target.store().aliases);
    assert_in_order(&stage.target.store().asked);
}

/// The collection, its indexes, points, aliases and what slows it down: each begins when the one
/// before is over.
fn assert_in_order(asked: &[String]) {
    let kinds = [
        "PUT 名",
        "PUT 名/index",
        "PUT 名/points",
        "POST aliases",
        "PATCH 名",
    ];
    let kind = |asked: &String| {
        let short = asked.replace("/collections/a%2Fb%20%E6%97%A5%E6%9C%AC%E8%AA%9E", "名");
        let short = short.replace("/collections/", "");
        kinds.iter().position(|kind| *kind == short)
    };
    let mut order: Vec<_> = asked.iter().filter_map(kind).collect();
    assert!(order.is_sorted(), "{asked:?}");
    order.dedup();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn what_is_written_at_the_source_meanwhile_is_found_by_the_last_pass() {
    let stage = Stage::with("docs", 3_000).await;
    let mut upserts = 0;
    let source = stage.source.clone();
    stage.target.before_each(move |_, what| {
        upserts += usize::from(what == "PUT /collections/docs/points");
        if upserts == 3 {
            upserts += 1;
            let mut store = source.store();
            let points = &mut store.collections.get_mut("docs").unwrap().points;
            points.remove(&Id::Num(0));
            points.extend([point(1_000_000), point(1_000_001)]);
            points.get_mut(&Id::Num(2)).unwrap()["payload"]["n"] = json!("changed");
            points.get_mut(&Id::Num(4)).unwrap()["vector"][0] = json!(0.25);
        }
    });
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    assert!(report.collections[0].repaired > 0, "{report:?}");
    assert_eq!(report.collections[0].points, 3_001);
    stage.assert_same("docs");
}

#[tokio::test]
async fn one_changed_float_is_found_and_named() {
    let stage = Stage::with("docs", 2_500).await;
    assert!(stage.run(wanted()).await.unwrap().equal);
    let touch = |change: fn(&mut serde_json::Value)| {
        let mut store = stage.target.store();
        let points = &mut store.collections.get_mut("docs").unwrap().points;
        change(points.get_mut(&Id::Num(1_234)).unwrap());
    };
    touch(|point| point["vector"][1] = json!(-176.285_73));
    let report = stage.run(verify_only()).await.unwrap();
    assert!(!report.equal);
    assert_eq!(
        report.collections[0].differences,
        ["point 1234: payload or vectors differ"]
    );
    // Replacing mends that one point and no other.
    let before = stage.target.store().upserted;
    let report = stage.run(replace()).await.unwrap();
    assert!(report.equal, "{report:?}");
    assert_eq!(stage.target.store().upserted, before + 1);
    stage.assert_same("docs");
}

#[tokio::test]
async fn a_collection_without_points_and_a_source_without_collections_are_fine() {
    let stage = Stage::with("empty", 0).await;
    assert!(stage.run(wanted()).await.unwrap().equal);
    stage.assert_same("empty");
    let bare = Stage::new().await;
    assert!(bare.run(wanted()).await.unwrap().collections.is_empty());
}

#[tokio::test]
async fn only_the_collections_that_were_named_are_copied() {
    let stage = Stage::with("one", 10).await;
    stage
        .source
        .store()
        .collections
        .insert("two".to_owned(), collection(10));
    let wanted = Wanted {
        collections: vec!["two".to_owned()],
        ..wanted()
    };
    assert!(stage.run(wanted).await.unwrap().equal);
    let names: Vec<_> = stage.target.store().collections.keys().cloned().collect();
    assert_eq!(names, ["two"]);
}

#[tokio::test]
async fn counts_compare_the_number_of_points_alone() {
    let stage = Stage::with("docs", 100).await;
    let counts = || Wanted {
        verify: Verify::Counts,
        ..wanted()
    };
    assert!(stage.run(counts()).await.unwrap().equal);
    stage.target.lose_first_point("docs");
    let only = Wanted {
        verify: Verify::Counts,
        ..verify_only()
    };
    let report = stage.run(only).await.unwrap();
    let lines = &report.collections[0].differences;
    assert_eq!(lines[..], ["100 points at the source, 99 at the target"]);
}

#[tokio::test]
async fn large_points_and_many_small_ones_arrive() {
    let stage = Stage::with("large", 12).await;
    {
        let mut store = stage.source.store();
        let points = store
            .collections
            .get_mut("large")
            .unwrap()
            .points
            .values_mut();
        for point in points {
            point["payload"]["text"] = json!("x".repeat(1_000_000));
        }
        store
            .collections
            .insert("small".to_owned(), collection(20_000));
    }
    // As Qdrant refuses what is larger than it takes: by 400.
    stage.target.store().too_large = Some((2_500_000, 400));
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("large");
    stage.assert_same("small");
}

#[tokio::test]
async fn strict_mode_of_the_source_makes_pages_smaller() {
    let stage = Stage::with("docs", 300).await;
    stage.source.store().most_scrolled = Some(5);
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("docs");
}

#[tokio::test]
async fn versions_that_are_apart_are_told_and_the_points_are_the_same() {
    for (source, target, told) in [
        ("1.19.0", "1.19.3", false),
        ("1.12.6", "1.19.0", true),
        ("1.19.0", "2.0.0-rc1", true),
        ("dev", "1.19.0", true),
    ] {
        let stage = Stage::with("docs", 50).await;
        stage.source.store().version = Some(source);
        stage.target.store().version = Some(target);
        let report = stage.run(wanted()).await.unwrap();
        assert!(report.equal, "{report:?}");
        assert_eq!(!report.notes.is_empty(), told, "{source} {target}");
        let words = format!("the source is a Qdrant {source}, the target {target}");
        assert!(!told || report.notes[0].starts_with(&words), "{report:?}");
        stage.assert_same("docs");
    }
}

#[tokio::test]
async fn ids_at_both_ends_of_their_kinds_arrive_in_their_order() {
    let stage = Stage::with("docs", 0).await;
    {
        let mut store = stage.source.store();
        let points = &mut store.collections.get_mut("docs").unwrap().points;
        let uuid = |first: &str| format!("{first}0000000-0000-0000-0000-000000000000");
        let ids = [
            Id::Num(0),
            Id::Num(1 << 53),
            Id::Num((1 << 53) + 1),
            Id::Num(u64::MAX),
        ];
        let uuids = ["0", "7", "8", "f"].map(|first| Id::Text(uuid(first)));
        let last = Id::Text("ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned());
        for id in ids.into_iter().chain(uuids).chain([last]) {
            let shown = match &id {
                Id::Num(number) => json!(number),
                Id::Text(text) => json!(text),
            };
            points.insert(
                id,
                json!({ "id": shown, "payload": {}, "vector": [0.5, 1.0, -2.0] }),
            );
        }
    }
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    assert_eq!(report.collections[0].points, 9);
    stage.assert_same("docs");
}

#[tokio::test]
async fn every_odd_name_of_a_collection_is_that_collection() {
    let stage = Stage::new().await;
    let names = [
        "a/b",
        "日本語",
        "a b?c#d",
        "%2F",
        "points",
        "aliases",
        "a\\b",
    ];
    for (place, name) in names.iter().enumerate() {
        let made = collection(10 + place as u64);
        let mut store = stage.source.store();
        store.collections.insert((*name).to_owned(), made);
        store
            .aliases
            .insert(format!("{name}/now"), (*name).to_owned());
    }
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    for name in names {
        stage.assert_same(name);
    }
    assert_eq!(stage.source.store().aliases, stage.target.store().aliases);
}
