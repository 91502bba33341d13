//! What breaks: connections, messages, machines.

use h2::Reason;

use super::{READ, WRITE, scene};
use crate::support::grpc::Act;

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_told_as_unknown_and_never_sent_again() {
    for act in [Act::Hang, Act::Reset(Reason::INTERNAL_ERROR)] {
        let scene = scene().await;
        scene.servers[0].once(act.clone());
        let reply = scene.caller.call(WRITE, b"w").await;
        assert_eq!(reply.status(), "4", "{reply:?}");
        assert_eq!(reply.says("x-tailhop-reason"), "outcome-unknown", "{act:?}");
        assert!(
            reply.says("grpc-message").contains("Outcome unknown"),
            "{reply:?}"
        );
        assert_eq!(reply.says("grpc-retry-pushback-ms"), "-1");
        let calls = scene.servers.each_ref().map(|server| server.counts().calls);
        assert_eq!(calls, [1, 0], "{act:?}");
        scene.ends_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_never_ends_as_if_it_were_whole() {
    for act in [Act::Cut, Act::EndEarly, Act::NoStatus] {
        let scene = scene().await;
        scene.servers[0].once(act.clone());
        let reply = scene.caller.call(READ, b"q").await;
        assert!(!["0", ""].contains(&reply.status()), "{act:?} {reply:?}");
        let line = scene.stage.app.line().await;
        assert!(
            ["truncated", "broken"].contains(&line.end),
            "{act:?} {line:?}"
        );
        scene.ends_clean().await;
    }
}
