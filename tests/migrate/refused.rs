//! What is refused, and that nothing was changed then.

use serde_json::json;
use tailhop::migrate::Wanted;
use tailhop::words::secret::Secret;

use crate::{Stage, collection, differs, exists, failed, refused, replace, verify_only, wanted};

#[tokio::test]
async fn a_target_that_differs_is_refused_with_every_reason_and_nothing_is_changed() {
    let stage = Stage::with("docs", 10).await;
    {
        let mut source = stage.source.store();
        source
            .collections
            .insert("other".to_owned(), collection(10));
        source.aliases.insert("now".to_owned(), "docs".to_owned());
        let mut target = stage.target.store();
        let mut there = collection(10);
        there.config["params"]["vectors"]["size"] = json!(4);
        target.collections.insert("docs".to_owned(), there);
        target.collections.insert("other".to_owned(), collection(9));
        target.aliases.insert("now".to_owned(), "other".to_owned());
    }
    let why = differs(stage.run(wanted()).await);
    assert_eq!(
        why.lines().collect::<Vec<_>>(),
        [
            "docs: params.vectors.size: 3 at the source, 4 at the target",
            "docs: alias now: leads to other at the target",
            "other: 1 points differ from those that are at the target",
            "other: alias now: only at the target",
            "nothing was changed",
        ]
    );
    let changes = |asked: &&String| !(asked.starts_with("GET") || asked.starts_with("POST"));
    assert_eq!(stage.target.store().asked.iter().find(changes), None);
    assert!(!exists(&stage.state()));

    let report = stage.run(replace()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("docs");
    stage.assert_same("other");
    assert_eq!(stage.target.store().aliases["now"], "docs");
}

#[tokio::test]
async fn a_target_that_is_the_same_already_is_left_as_it_is() {
    let stage = Stage::with("docs", 10).await;
    stage
        .target
        .store()
        .collections
        .insert("docs".to_owned(), collection(10));
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal);
    assert_eq!(report.collections[0].did, "10 points were there");
    assert_eq!(stage.target.store().upserted, 0);
}

#[tokio::test]
async fn a_dry_run_and_a_comparison_change_nothing() {
    let stage = Stage::with("docs", 10).await;
    let dry = Wanted {
        dry_run: true,
        ..wanted()
    };
    let report = stage.run(dry).await.unwrap();
    assert_eq!(report.collections[0].did, "to be made and copied");
    let report = stage.run(verify_only()).await.unwrap();
    assert_eq!(
        report.collections[0].differences,
        ["the target has none of that name"]
    );
    assert!(!report.equal);
    assert!(stage.target.store().collections.is_empty());
    assert!(!exists(&stage.state()));
}

#[tokio::test]
async fn a_collection_that_the_source_lacks_is_named() {
    let stage = Stage::with("docs", 1).await;
    let wanted = Wanted {
        collections: vec!["docs".to_owned(), "dosc".to_owned()],
        ..wanted()
    };
    let why = refused(stage.run(wanted).await);
    assert_eq!(why, "dosc: the source has none of that name");
}

#[tokio::test]
async fn a_key_is_presented_and_a_wrong_one_is_told_without_it() {
    let mut stage = Stage::with("docs", 10).await;
    for side in [&stage.source, &stage.target] {
        side.store().key = Some("canary-1");
    }
    stage.key = Some(Secret::new("canary-2"));
    let why = failed(stage.run(wanted()).await);
    assert!(
        why.ends_with("it answered 401: Must provide an API key"),
        "{why}"
    );
    assert!(!why.contains("canary"), "{why}");
    stage.key = Some(Secret::new("canary-1"));
    assert!(stage.run(wanted()).await.unwrap().equal);
}

#[tokio::test]
async fn shards_by_key_are_refused() {
    let stage = Stage::with("docs", 1).await;
    let custom = json!("custom");
    stage
        .source
        .store()
        .collections
        .get_mut("docs")
        .unwrap()
        .config["params"]["sharding_method"] = custom;
    let why = refused(stage.run(replace()).await);
    assert!(why.starts_with("docs: it has shards by key"), "{why}");
    assert!(stage.target.store().collections.is_empty());
}
