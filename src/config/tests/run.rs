//! What `run` starts besides itself.

use super::*;
use crate::config::snapshot::{Credential, Tailscaled};

#[test]
fn tailscaled_and_its_login_are_what_the_file_says() {
    let plain = good(&file(""), &[]);
    assert_eq!(plain.run.tailscaled, Tailscaled::Auto);
    assert_eq!(plain.run.login.credential, None);
    assert_eq!(plain.run.login.hostname, "tailhop");
    assert_eq!(plain.run.stop.as_millis(), 9500);
    assert!(plain.run.login.shields, "nobody of the tailnet is named");

    let text = "[run]\nstop = \"25s\"\n[tailnet]\ntailscaled = \"/opt/tailscaled\"\n\
                auth_key = { file = \"/secrets/key\" }\nhostname = \"web\"\ntags = [\"tag:web\"]\n\
                login_server = \"https://control.example/\"\n";
    let run = good(&file(text), &[]).run;
    let program = Tailscaled::Program("/opt/tailscaled".into());
    assert_eq!((run.tailscaled, run.stop.as_secs()), (program, 25));
    let kept = Credential::File("/secrets/key".into());
    assert_eq!(run.login.credential, Some(kept));
    assert_eq!(run.login.server.as_deref(), Some("https://control.example"));
    assert_eq!(
        (&*run.login.hostname, &*run.login.tags),
        ("web", &["tag:web".to_owned()][..])
    );
}

#[test]
fn an_auth_key_that_is_not_there_is_no_mistake_of_the_file_and_is_never_shown() {
    let key = file("[tailnet]\nauth_key = { env = \"KEY\" }\n");
    let unset = good(&key, &[]);
    assert_eq!(
        unset.run.login.credential,
        Some(Credential::Env("KEY".into(), None))
    );
    let set = good(&key, &[("KEY", "tskey-canary")]);
    assert!(!format!("{set:?}").contains("canary"));
    // The usual variable, where the file names nothing.
    let usual = good(&file(""), &[("TS_AUTHKEY", "tskey-canary")]);
    let Some(Credential::Env(name, Some(secret))) = usual.run.login.credential else {
        panic!("no credential");
    };
    assert_eq!((&*name, secret.expose()), ("TS_AUTHKEY", "tskey-canary"));
    let report = bad(&file("[tailnet]\nauth_key = \"tskey-canary\"\n"), &[]);
    assert!(!report.render(false).contains("canary"));
}

#[test]
fn who_is_named_for_the_admin_address_lowers_the_shields() {
    let text = "[admin]\ntailnet = [\"ops@example.com\"]\n[listen]\ndata = \"127.0.0.2:8484\"\n";
    assert!(!good(&file(text), &[]).run.login.shields);
}

#[test]
fn what_no_tailscaled_can_take_is_told_with_its_remedy() {
    for (line, words) in [
        ("tailscaled = \"bin/tailscaled\"", "whole path"),
        ("tailscaled = \"\"", "\"off\""),
        ("hostname = \"a.b\"", "no dot"),
        ("tags = [\"web\"]", "begin with \"tag:\""),
        ("login_server = \"control.example\"", "origin"),
        ("audience = \"x\"", "set tailnet.client_id"),
        ("client_id = \"x\"", "tags ="),
        (
            "tags = [\"tag:a\"]\nclient_id = \"x\"\nauth_key = { env = \"K\" }",
            "keep one",
        ),
    ] {
        let (_, place, told) = one(&file(&format!("[tailnet]\n{line}\n")), &[]);
        assert!(told.contains(words) && place.is_some(), "{line}: {told}");
    }
}
