//! `tailhop check --live` beside a real tailscaled: what is reachable, by which path, in how long.

use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::task::spawn_blocking;

use super::hop::{Routing, binary};
use super::parts::tell;
use super::rig::{Rig, on_rig};

/// What it says of the file of the usual test, its exit code, and that for people.
async fn check(rig: &Rig) -> (Value, i32, String) {
    let config = rig.folder.join("check.toml");
    std::fs::write(&config, Routing::default().file(rig)).expect("a file can be written");
    let run = |more: &'static [&str]| {
        let mut command = Command::new(binary());
        command.env_clear().args(["check", "--live"]).args(more);
        command.arg(&config).stdin(Stdio::null());
        async move {
            // A thread that begins here is in the container too.
            let output = spawn_blocking(move || command.output()).await;
            output.expect("a thread").expect("tailhop runs")
        }
    };
    let output = run(&["--json"]).await;
    let found: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let words = run(&[]).await.stdout;
    let words = String::from_utf8(words).expect("it prints text");
    tell(words.trim_end());
    let code = output.status.code().expect("it ends by itself");
    (found["live"].clone(), code, words)
}

/// The endpoints of a Mac; there are two.
fn of<'f>(found: &'f Value, mac: &str) -> Vec<&'f Value> {
    let endpoints = found["endpoints"].as_array().expect("a list");
    let own = endpoints.iter().filter(|one| one["backend"] == mac);
    let own: Vec<_> = own.collect();
    assert_eq!(own.len(), 2, "{found}");
    own
}

fn reached(found: &Value, mac: &str, path: &str) {
    for endpoint in of(found, mac) {
        assert_eq!(endpoint["reachable"], true, "{endpoint}");
        assert_eq!(endpoint["path"], path, "{endpoint}");
        assert!(endpoint["ms"].is_u64(), "{endpoint}");
    }
}

fn not_reached(found: &Value, mac: &str) {
    for endpoint in of(found, mac) {
        assert_eq!(endpoint["reachable"], false, "{endpoint}");
        assert!(endpoint["error"].is_string(), "{endpoint}");
    }
}

#[test]
fn live_says_the_path_to_each_mac_and_what_does_not_answer() {
    on_rig(async |rig| {
        let (found, code, words) = check(rig).await;
        assert_eq!(
            (code, &found["tailnet"]["up"]),
            (0, &Value::Bool(true)),
            "{words}"
        );
        assert_eq!(found["tailnet"]["way"], "localapi", "{words}");
        reached(&found, "macbook-m1", "direct");
        reached(&found, "mac-dev1", "direct");
        assert!(words.contains(" ms, direct\n"), "{words}");

        let host = rig.cr.host.clone();
        host.lose(&["meta l4proto udp"]).expect("nftables works");
        rig.until_relayed().await;
        let (found, code, words) = check(rig).await;
        assert_eq!(code, 0, "{words}");
        reached(&found, "macbook-m1", "relay");
        reached(&found, "mac-dev1", "relay");
        assert!(words.contains(" ms, by relay\n"), "{words}");
    });
}

#[test]
fn live_tells_a_mac_asleep_from_no_tailscaled() {
    on_rig(async |rig| {
        rig.m2.freeze().await;
        let (found, code, words) = check(rig).await;
        assert_eq!(
            (code, &found["tailnet"]["up"]),
            (1, &Value::Bool(true)),
            "{words}"
        );
        reached(&found, "macbook-m1", "direct");
        not_reached(&found, "mac-dev1");
        rig.m2.thaw();

        rig.cr.kill();
        let (found, code, words) = check(rig).await;
        assert_eq!(
            (code, &found["tailnet"]["up"]),
            (1, &Value::Bool(false)),
            "{words}"
        );
        for mac in ["macbook-m1", "mac-dev1"] {
            not_reached(&found, mac);
        }
        assert!(
            words.contains("not reachable without the tailnet"),
            "{words}"
        );
    });
}
