//! Who of the tailnet sees what of the container: real identities, by a real tailscaled.

use std::time::Duration;

use tokio::time::timeout;

use super::client::{self, Answer};
use super::dial;
use super::hop::{ADMIN as ADDRESS, Hop, Routing};
use super::node::Node;
use super::parts::tell;
use super::rig::{Rig, on_rig};
use super::wait::eventually;

const DATA: u16 = 8484;
const ADMIN: u16 = 9484;

/// What a Mac gets from a port of the container; `None`: no connection, or none that lives.
async fn seen(from: &Node, port: u16, path: &str) -> Option<Answer> {
    let asked = async {
        let stream = dial::localapi(&from.socket(), "cr", port).await.ok()?;
        client::get_over(stream, path).await.ok()
    };
    timeout(Duration::from_secs(3), asked).await.ok()?
}

/// Returns when the container lets connections of the tailnet in, and they arrive.
async fn until_open(rig: &Rig) {
    rig.cr.shields(false).await;
    let what = format_args!("m1 reaches the container\n{}", rig.cr.daemon());
    eventually(what, Duration::from_secs(20), async || {
        seen(&rig.m1, ADMIN, "/live").await
    })
    .await;
}

/// tailhop in a container that lets connections in, with those named who may ask.
async fn open_to(rig: &Rig, who: &str) -> Hop {
    let routing = Routing {
        admins: vec![who.to_owned()],
        ..Routing::default()
    };
    let hop = Hop::start(rig, &routing).await;
    until_open(rig).await;
    hop
}

async fn nobody_reaches_data(rig: &Rig, hop: &Hop) {
    for (name, mac) in [("m1", &rig.m1), ("m2", &rig.m2)] {
        let data = seen(mac, DATA, "/ollama/api/version").await;
        assert!(data.is_none(), "{name} reaches the data address\n{hop}");
    }
}

/// All machines of the rig are of one user; so who is named differs, not who asks.
#[test]
fn an_allowed_peer_sees_the_status() {
    on_rig(async |rig| {
        let login = dial::login_of(&rig.cr.socket(), "m1").await;
        let login = login.expect("the owner of m1 has a login");
        let hop = open_to(rig, &login).await;
        for path in [
            "/",
            "/status",
            "/metrics",
            "/health",
            "/explain?path=/ollama/x",
        ] {
            let allowed = seen(&rig.m1, ADMIN, path).await;
            let allowed = allowed.unwrap_or_else(|| panic!("{login} sees {path}\n{hop}"));
            assert_eq!(allowed.status, 200, "{path}: {}\n{hop}", allowed.text());
        }
        nobody_reaches_data(rig, &hop).await;
        tell(&format!("{login} sees /status on 9484 and nothing on 8484"));
        rig.cr.shields(true).await;
    });
}

#[test]
fn a_peer_without_permission_sees_nothing() {
    on_rig(async |rig| {
        let hop = open_to(rig, "tag:ops").await;
        let paths = [
            "/status", "/metrics", "/health", "/events", "/live", "/ready", "/",
        ];
        for path in paths {
            let other = seen(&rig.m2, ADMIN, path).await;
            let other = other.unwrap_or_else(|| panic!("m2 is told of {path}\n{hop}"));
            assert_eq!(other.status, 403, "{path}: {}\n{hop}", other.text());
            assert!(!other.text().contains("macbook"), "{}", other.text());
        }
        nobody_reaches_data(rig, &hop).await;
        let own = client::get(ADDRESS, "/status").await;
        assert!(
            own.is_ok_and(|own| own.status == 200),
            "the container reads"
        );
        rig.cr.shields(true).await;
    });
}

#[test]
fn with_shields_up_the_tailnet_sees_nothing_and_without_it_is_told_of() {
    on_rig(async |rig| {
        rig.cr.shields(true).await;
        let hop = Hop::start(rig, &Routing::default()).await;
        for port in [ADMIN, DATA] {
            assert!(
                seen(&rig.m1, port, "/live").await.is_none(),
                "{port}\n{hop}"
            );
        }
        let up = async |want: bool| {
            let what = format_args!("shields_up {want} is in /status\n{hop}");
            eventually(what, Duration::from_secs(20), async || {
                let status = hop.status().await;
                (status["tailnet"]["shields_up"] == want).then_some(status)
            })
            .await
        };
        let fine = up(true).await;
        assert!(fine["tailnet"]["warning"].is_null(), "{fine}");
        until_open(rig).await;
        // What tailhop can refuse, it refuses.
        let status = seen(&rig.m1, ADMIN, "/status").await;
        let told = up(false).await;
        assert!(told["tailnet"]["warning"].is_string(), "{told}");
        let later = seen(&rig.m1, ADMIN, "/status").await.expect("an answer");
        assert_eq!(later.status, 403, "{}\n{hop}", later.text());
        let early = status.map(|answer| answer.status.as_u16());
        tell(&format!(
            "m1 asked /status: {early:?} before tailhop knew, 403 after"
        ));
        rig.cr.shields(true).await;
    });
}
