//! A run that ends in the middle, and one that goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::door::{Door, State};
use crate::qdrant::Fault;
use crate::{Stage, exists, failed, wanted};

#[tokio::test]
async fn a_run_that_is_dropped_anywhere_goes_on_and_leaves_nothing_out_and_nothing_twice() {
    // Dropping the run is what a kill does to what is on its way; the state file is all that stays.
    for at in [1, 4, 9, 14, 20, 27, 35, 50, 80, 120] {
        let stage = Stage::with("docs", 3_000).await;
        let enough = Arc::new(Notify::new());
        let told = Arc::clone(&enough);
        let mut asked = 0;
        stage.target.before_each(move |_, _| {
            asked += 1;
            if asked == at {
                told.notify_one();
            }
        });
        let ended = tokio::select! {
            biased;
            () = enough.notified() => false,
            came = stage.run(wanted()) => came.unwrap().equal,
        };
        if !ended {
            assert!(stage.run(wanted()).await.unwrap().equal, "dropped at {at}");
        }
        stage.assert_same("docs");
        assert!(!exists(&stage.state()));
    }
}

#[tokio::test]
async fn a_run_that_goes_on_copies_only_what_is_not_there() {
    let mut stage = Stage::with("docs", 20_000).await;
    stage.patience = Duration::ZERO;
    let mut upserts = 0;
    stage.target.before_each(move |store, what| {
        upserts += usize::from(what == "PUT /collections/docs/points");
        if upserts == 40 {
            upserts += 1;
            let fault = Fault::Status(503, "restarting");
            store
                .faults
                .push_back(("PUT /collections/docs/points", fault));
        }
    });
    let why = failed(stage.run(wanted()).await);
    assert!(why.contains("it answered 503: restarting"), "{why}");
    assert!(exists(&stage.state()));
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("docs");
    // What the workers had on its way when one failed, and no more, comes again.
    let again = stage.target.store().upserted - 20_000;
    assert!(again < 3 * 2 * 2_000, "{again} points again");
}

#[tokio::test]
async fn answers_that_are_lost_and_servers_that_are_busy_are_asked_again() {
    let stage = Stage::with("docs", 3_000).await;
    {
        let mut target = stage.target.store();
        target.faults = [
            ("PUT /collections/docs", Fault::Lost),
            ("PUT /collections/docs/points", Fault::Lost),
            (
                "PUT /collections/docs/points",
                Fault::Status(429, "slow down"),
            ),
            (
                "PUT /collections/docs/points",
                Fault::Status(408, "timeout"),
            ),
            ("/points/scroll", Fault::Status(503, "restarting")),
        ]
        .into();
        let mut source = stage.source.store();
        source.faults = [
            ("/points/scroll", Fault::Lost),
            ("/points/scroll", Fault::Status(500, "io error")),
            ("/points/scroll", Fault::Status(413, "too much")),
        ]
        .into();
    }
    let report = stage.run(wanted()).await.unwrap();
    assert!(report.equal, "{report:?}");
    stage.assert_same("docs");
    assert!(stage.target.store().faults.is_empty());
    assert!(stage.source.store().faults.is_empty());
}

#[tokio::test]
async fn a_full_disk_ends_it_at_once_and_it_goes_on_when_there_is_room() {
    let stage = Stage::with("docs", 500).await;
    let full = Fault::Status(507, "No space left on device");
    stage
        .target
        .store()
        .faults
        .push_back(("PUT /collections/docs/points", full));
    let why = failed(stage.run(wanted()).await);
    assert!(
        why.ends_with("it answered 507: No space left on device"),
        "{why}"
    );
    assert!(stage.run(wanted()).await.unwrap().equal);
    stage.assert_same("docs");
}

#[tokio::test]
async fn a_point_that_the_target_refuses_is_named() {
    let stage = Stage::with("docs", 30).await;
    {
        let mut source = stage.source.store();
        let points = &mut source.collections.get_mut("docs").unwrap().points;
        let point = points.get_mut(&crate::qdrant::Id::Num(6)).unwrap();
        point["payload"]["text"] = serde_json::json!("x".repeat(20_000));
    }
    stage.target.store().too_large = Some((10_000, 400));
    let why = failed(stage.run(wanted()).await);
    assert!(why.starts_with("point 6: "), "{why}");
}

#[tokio::test]
async fn a_collection_that_is_deleted_at_the_source_in_the_middle_ends_it() {
    let stage = Stage::with("docs", 3_000).await;
    let source = stage.source.clone();
    let mut upserts = 0;
    stage.target.before_each(move |_, what| {
        upserts += usize::from(what == "PUT /collections/docs/points");
        if upserts == 2 {
            source.store().collections.remove("docs");
        }
    });
    let why = failed(stage.run(wanted()).await);
    assert!(why.contains("Collection `docs` doesn't exist"), "{why}");
    assert!(exists(&stage.state()));
}

/// A stage whose source is in that state from the second page that is written on.
async fn shut(state: State) -> Stage {
    let mut stage = Stage::with("docs", 3_000).await;
    let door = Door::to(stage.source.address);
    let (mut upserts, shut) = (0, door.state());
    stage.target.before_each(move |_, what| {
        upserts += usize::from(what == "PUT /collections/docs/points");
        if upserts == 2 {
            upserts += 1;
            shut.send_replace(state);
        }
    });
    stage.door = Some(door);
    stage
}

#[tokio::test]
async fn a_source_that_restarts_or_sleeps_in_the_middle_is_waited_for() {
    for state in [State::Gone, State::Asleep] {
        let stage = shut(state).await;
        let door = stage.door.as_ref().unwrap().state();
        let back = async {
            let mut changes = door.subscribe();
            changes.wait_for(|now| *now == state).await.unwrap();
            // Longer than one try takes, and than the pause after it.
            tokio::time::sleep(Duration::from_millis(700)).await;
            door.send_replace(State::Open);
        };
        let (report, ()) = tokio::join!(stage.run(wanted()), back);
        let report = report.unwrap();
        assert!(report.equal, "{state:?}: {report:?}");
        stage.assert_same("docs");
        assert_eq!(stage.target.store().upserted, 3_000, "{state:?}: each once");
        assert!(!exists(&stage.state()));
    }
}

#[tokio::test]
async fn a_source_that_does_not_come_back_ends_it_and_it_goes_on_when_it_does() {
    let mut stage = shut(State::Gone).await;
    stage.patience = Duration::from_millis(300);
    let why = failed(stage.run(wanted()).await);
    assert!(why.contains("refused"), "{why}");
    assert!(exists(&stage.state()));
    let door = stage.door.as_ref().unwrap().state();
    door.send_replace(State::Open);
    assert!(stage.run(wanted()).await.unwrap().equal);
    stage.assert_same("docs");
}

#[tokio::test]
async fn a_collection_that_is_deleted_at_the_target_in_the_middle_ends_it_and_is_made_anew() {
    let stage = Stage::with("docs", 3_000).await;
    let mut upserts = 0;
    stage.target.before_each(move |store, what| {
        upserts += usize::from(what == "PUT /collections/docs/points");
        if upserts == 3 {
            upserts += 1;
            store.collections.remove("docs");
        }
    });
    let why = failed(stage.run(wanted()).await);
    assert!(why.contains("Collection `docs` doesn't exist"), "{why}");
    // What was copied is gone with it: it is made anew.
    assert!(stage.run(wanted()).await.unwrap().equal);
    stage.assert_same("docs");
}
