//! `tailhop run -- APP`: who starts, who dies when, and what the others do then. The real binary,
//! with stand-ins for tailscaled and the app (`tailscaled.py`, `app.py` beside this file).
//!
//! Each test has a folder of its own that holds both stand-ins and what they did. Waits end on what a
//! process says or does, never on a guess; what a test started is killed when it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stage;

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use stage::{Stage, alive, ended, mac, refused};

/// Longer than `run.stop` of these tests by what a busy machine may add.
const IN_TIME: Duration = Duration::from_secs(5);

// --- the start -----------------------------------------------------------------------------------

#[test]
fn the_first_request_waits_for_the_tunnel_and_is_answered() {
    let stage = Stage::new("").mode("slow=1");
    let run = stage.run(&[]);
    let began = Instant::now();
    let answer = run.get("/ollama/api/version");
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{answer}\n{}",
        run.log()
    );
    assert!(
        began.elapsed() >= Duration::from_millis(700),
        "it came before the tunnel"
    );
    run.until_ready();
}

#[test]
fn it_is_ready_once_the_tunnel_was_up_and_stays_so_when_that_breaks() {
    let stage = Stage::new("").mode("slow=1");
    let run = stage.run(&[]);
    let ready = run.admin("/ready");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("waiting for the tailnet"), "{ready}");
    run.until_ready();
    stage.set_mode("die");
    stage.kill_tailscaled(Signal::KILL);
    run.until_said("tailscaled ended");
    assert!(run.admin("/ready").starts_with("HTTP/1.1 200"));
}

#[test]
fn tailscaled_gets_no_port_and_no_secret_and_the_app_no_auth_key() {
    let stage = Stage::new("");
    let mut command = stage.command(&[]);
    command
        .env("PORT", "1")
        .env("SECRET", "canary")
        .env("TS_AUTHKEY", "tskey-auth-canary");
    let run = stage.start(command);
    run.until_ready();
    let tailscaled = stage.until_did("started");
    assert!(tailscaled.ends_with(" GOMEMLIMIT"), "{tailscaled}");
    assert!(stage.until_did("shields").ends_with("True"));
    assert!(stage.until_app_did("started").ends_with("without key"));
}

#[test]
fn the_app_leads_its_own_group_with_the_descriptors_that_we_were_given() {
    let stage = Stage::new("");
    let run = stage.start(stage.command_with_descriptors(512, &[]));
    let started = stage.until_app_did("started");
    assert!(
        started.contains("limit 512 group True"),
        "{started}\n{}",
        run.log()
    );
}

#[test]
fn where_no_backend_needs_the_tailnet_no_tailscaled_is_asked_for() {
    for more in [
        "[tailnet]\ndial = \"direct\"\n",
        "[tailnet]\ntailscaled = \"off\"\n",
    ] {
        let stage = Stage::new(more);
        let run = stage.run(&[]);
        stage.until_app_did("started");
        run.until_said("no tailscaled is started");
        assert!(run.admin("/ready").starts_with("HTTP/1.1 200"));
        assert!(stage.did().is_empty(), "{}", stage.did());
        assert_eq!(run.child("tailscaled"), None);
    }
}

#[test]
fn a_tailscaled_that_answers_already_is_left_to_who_started_it() {
    let stage = Stage::new("");
    let _theirs = std::os::unix::net::UnixListener::bind(stage.path("other.sock")).unwrap();
    stage.add(&format!(
        "[tailnet]\nsocket = \"{}\"\n",
        stage.path("other.sock").display()
    ));
    let run = stage.run(&[]);
    run.until_said("one answers on tailnet.socket");
    assert!(stage.did().is_empty());
}

#[test]
fn a_named_tailscaled_is_started_without_an_app_too() {
    let stage = Stage::new("");
    stage.add(&format!(
        "[tailnet]\ntailscaled = \"{}\"\n",
        stage.path("tailscaled").display()
    ));
    let mut run = stage.start(stage.command_without_app());
    run.until_ready();
    assert_eq!(run.end(Signal::TERM), Some(0));
    stage.until_did("logout");
    stage.until_did("term");
}

#[test]
fn a_named_tailscaled_that_is_not_there_is_told_and_the_app_runs() {
    let stage = Stage::new("[tailnet]\ntailscaled = \"/no/such/tailscaled\"\n");
    let run = stage.run(&[]);
    stage.until_app_did("started");
    let status = run.admin("/status");
    assert!(
        status.contains("/no/such/tailscaled is not there"),
        "{status}"
    );
    assert!(run.admin("/ready").starts_with("HTTP/1.1 503"));
}

#[test]
fn an_app_that_cannot_be_started_exits_126_or_127_before_anything_starts() {
    let stage = Stage::new("");
    fs::write(stage.path("text"), "no program").unwrap();
    let text = stage.path("text").display().to_string();
    for (app, code, words) in [
        ("no-such-app", 127, "is not there"),
        (&text, 126, "is not executable"),
    ] {
        let mut command = stage.command_without_app();
        let said = ended(command.args(["--", app]), code);
        assert!(said.contains(words) && said.contains(app), "{said}");
    }
    assert!(stage.did().is_empty());
}

#[test]
fn a_port_that_is_ours_is_an_invalid_configuration() {
    let stage = Stage::new("");
    for (key, port) in [
        ("listen.data", stage.data.port()),
        ("listen.admin", stage.admin.port()),
    ] {
        let said = ended(stage.command(&[]).env("PORT", port.to_string()), 78);
        assert!(
            said.contains(&format!("PORT={port}")) && said.contains(key),
            "{said}"
        );
    }
    assert!(stage.did().is_empty());
    // Without an app PORT is none of our business.
    let mut command = stage.command_without_app();
    command.env("PORT", stage.data.port().to_string());
    stage.start(command);
}

#[test]
fn help_says_when_a_tailscaled_is_started() {
    let stage = Stage::new("");
    let mut command = stage.command_without_app();
    let said = ended(command.arg("--help"), 0);
    assert!(
        said.contains("tailnet.tailscaled") && said.contains("-- gunicorn"),
        "{said}"
    );
}

// --- logging in ----------------------------------------------------------------------------------

#[test]
fn a_wrong_key_is_told_by_name_and_never_by_what_it_is() {
    let stage = Stage::new("").mode("key=tskey-auth-other");
    fs::write(stage.path("key"), "tskey-auth-canary\n").unwrap();
    stage.add(&format!(
        "[tailnet]\nauth_key = {{ file = \"{}\" }}\n",
        stage.path("key").display()
    ));
    let run = stage.run(&[]);
    let said = run.until_said("does not take tailnet.auth_key");
    let file = format!("file {}", stage.path("key").display());
    let status = run.admin("/status");
    let refusal = run.get("/ollama/api/version");
    for told in [&said, &status, &refusal] {
        assert!(
            told.contains(&file) && told.contains("invalid key"),
            "{told}"
        );
        assert!(
            told.contains("https://login.tailscale.com/admin/settings/keys"),
            "{told}"
        );
        assert!(!told.contains("canary"), "{told}");
    }
    assert!(refusal.starts_with("HTTP/1.1 503"), "{refusal}");
    let pid = run.child("tailscaled").unwrap()["pid"].as_u64().unwrap();
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        arguments.contains("--port=0") && !arguments.contains("canary"),
        "{arguments}"
    );
    stage.until_app_did("started");
}

#[test]
fn a_secret_that_comes_late_is_read_when_it_is_there() {
    let stage = Stage::new("");
    let key = stage.path("key");
    stage.add(&format!(
        "[tailnet]\nauth_key = {{ file = \"{}\" }}\n",
        key.display()
    ));
    let run = stage.run(&[]);
    run.until_said("cannot be read yet");
    fs::write(&key, "tskey-auth-x").unwrap();
    run.until_ready();
}

#[test]
fn without_a_key_what_is_missing_is_said() {
    let stage = Stage::new("");
    let mut command = stage.command(&[]);
    command.env_remove("TS_AUTHKEY");
    let run = stage.start(command);
    run.until_said("set tailnet.auth_key");
}

#[test]
fn a_control_server_that_is_away_is_named() {
    let stage = Stage::new("[tailnet]\nlogin_server = \"https://control.example\"\n").mode("away");
    let run = stage.run(&[]);
    let said = run.until_said("the control server https://control.example cannot be asked");
    assert!(said.contains("dial tcp 192.0.2.1:443"), "{said}");
}

#[test]
fn the_secret_of_an_oauth_client_goes_to_the_program_tailscale_by_its_input() {
    let stage = Stage::new("[tailnet]\ntags = [\"tag:web\"]\n");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{0}/up; cat /dev/stdin >{0}/input; echo no, tskey-client-canary >&2; exit 1\n",
        stage.path("").display()
    );
    stage.program("tailscale", &script);
    let mut command = stage.command(&[]);
    command.env("TS_AUTHKEY", "tskey-client-canary");
    let run = stage.start(command);
    let said = run.until_said("does not take tailnet.auth_key");
    assert!(
        said.contains("variable TS_AUTHKEY") && said.contains("no, ***"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(
        fs::read_to_string(stage.path("input")).unwrap(),
        "tskey-client-canary?preauthorized=true"
    );
    let arguments = fs::read_to_string(stage.path("up")).unwrap();
    assert!(
        arguments.contains("--advertise-tags=tag:web"),
        "{arguments}"
    );
    assert!(!arguments.contains("canary"), "{arguments}");
}

// --- who dies when: the app ----------------------------------------------------------------------

#[test]
fn an_app_that_exits_at_once_ends_all_with_its_code() {
    let stage = Stage::new("").mode("slow=30");
    let mut run = stage.run(&["fail=9"]);
    assert_eq!(run.ended_within(IN_TIME), Some(9), "{}", run.log());
    stage.until_all_gone();
}

#[test]
fn an_app_that_ends_ends_all_with_its_code_after_this_machine_left_the_tailnet() {
    let stage = Stage::new("");
    let mut run = stage.run(&[]);
    run.until_ready();
    stage.kill_app(Signal::TERM);
    assert_eq!(run.ended_within(IN_TIME), Some(3), "{}", run.log());
    let did = stage.did();
    let (logout, term) = (did.find("logout").unwrap(), did.find("term").unwrap());
    assert!(logout < term, "{did}");
    stage.until_all_gone();
}

#[test]
fn an_app_that_is_killed_ends_all_with_128_and_the_signal() {
    let stage = Stage::new("");
    let mut run = stage.run(&[]);
    run.until_ready();
    stage.kill_app(Signal::KILL);
    assert_eq!(run.ended_within(IN_TIME), Some(137));
    assert!(run.log().contains("killed by SIGKILL"), "{}", run.log());
}

#[test]
fn an_app_that_ignores_its_signal_is_killed_within_the_budget() {
    let stage = Stage::new("");
    let mut run = stage.run(&["deaf"]);
    run.until_ready();
    stage.until_app_did("started");
    let began = Instant::now();
    assert_eq!(run.end(Signal::TERM), Some(137), "{}", run.log());
    assert!(
        began.elapsed() < Duration::from_millis(2600),
        "{:?}",
        began.elapsed()
    );
    // There was time left for the rest.
    stage.until_did("logout");
    stage.until_did("term");
    stage.until_all_gone();
}

// --- who dies when: tailscaled -------------------------------------------------------------------

#[test]
fn a_tailscaled_that_is_killed_is_started_again_and_requests_are_answered_again() {
    let stage = Stage::new("");
    let run = stage.run(&[]);
    run.until_ready();
    let first = stage.tailscaled_pid();
    stage.kill_tailscaled(Signal::KILL);
    run.until_said("tailscaled ended");
    stage.until_did_times("running", 2);
    let answer = run.get("/ollama/api/version");
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{answer}\n{}",
        run.log()
    );
    assert_ne!(stage.tailscaled_pid(), first);
    let child = run.child("tailscaled").unwrap();
    assert_eq!(
        (&child["restarts"], &child["state"]),
        (&1.into(), &"running".into())
    );
    let reason = child["last_exit"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("killed by SIGKILL"), "{reason}");
    assert!(
        child["last_exit"]["peak_memory_bytes"].as_u64().unwrap() > 1 << 20,
        "{child}"
    );
    let metrics = run.admin("/metrics");
    for line in [
        "tailhop_child_up{child=\"tailscaled\"} 1",
        "tailhop_child_up{child=\"app\"} 1",
        "tailhop_child_restarts_total{child=\"tailscaled\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[test]
fn a_tailscaled_that_dies_again_and_again_is_told_and_one_that_recovers_is_used() {
    let stage = Stage::new("").mode("die");
    let run = stage.run(&[]);
    stage.until_app_did("started");
    let said = run.until_said("tailscaled dies again and again");
    assert!(
        said.contains("exit code 7") && said.contains("a bad day"),
        "{said}"
    );
    assert!(!said.contains("CANARY"), "{said}");
    let child = run.child("tailscaled").unwrap();
    assert!(
        child["note"].as_str().unwrap().contains("again and again"),
        "{child}"
    );
    assert!(!child.to_string().contains("CANARY"), "{child}");
    stage.set_mode("");
    run.until_ready();
    assert_eq!(run.child("tailscaled").unwrap()["note"], "");
}

#[test]
fn a_tailscaled_that_hangs_is_replaced_on_the_evidence_of_health() {
    let stage = Stage::new("");
    let run = stage.run(&[]);
    run.until_ready();
    assert!(run.get("/ollama/api/version").starts_with("HTTP/1.1 200"));
    let first = stage.tailscaled_pid();
    stage.kill_tailscaled(Signal::STOP);
    // Health looks on for 15 s before it calls that dead.
    run.until_said("tailscaled is started again");
    stage.until_did_times("running", 2);
    assert!(!alive(first), "there are two of them");
    let answer = run.get("/ollama/api/version");
    assert!(
        answer.starts_with("HTTP/1.1 200"),
        "{answer}\n{}",
        run.log()
    );
    assert_eq!(run.child("tailscaled").unwrap()["restarts"], 1);
}

#[test]
fn a_tailscaled_that_ignores_its_signal_is_killed_within_the_budget() {
    let stage = Stage::new("").mode("deaf");
    let mut run = stage.run(&[]);
    run.until_ready();
    let began = Instant::now();
    assert_eq!(run.end(Signal::TERM), Some(3), "{}", run.log());
    assert!(
        began.elapsed() < Duration::from_millis(2600),
        "{:?}",
        began.elapsed()
    );
    stage.until_all_gone();
}

#[test]
fn a_tailscaled_that_dies_during_the_end_does_not_hold_it_up() {
    let slow = mac(Duration::from_secs(1));
    let stage = Stage::with_mac(slow, "");
    let asks = format!("asks=http://{}/ollama/api/tags", stage.data);
    let mut run = stage.run(&[&asks]);
    run.until_ready();
    run.signal(Signal::TERM);
    stage.until_app_did("SIGTERM");
    stage.kill_tailscaled(Signal::KILL);
    let code = run.ended_within(IN_TIME);
    assert!(code.is_some(), "{}", run.log());
    stage.until_all_gone();
}

// --- who dies when: tailhop ----------------------------------------------------------------------

#[test]
fn when_tailhop_is_killed_nobody_is_left() {
    let stage = Stage::new("");
    let mut run = stage.run(&["deaf"]);
    run.until_ready();
    stage.until_app_did("started");
    let (app, tailscaled) = (stage.app_pid(), stage.tailscaled_pid());
    run.signal(Signal::KILL);
    run.ended_within(IN_TIME);
    // It was told first, so that the machine leaves the tailnet.
    stage.until_did("term");
    stage.until_all_gone();
    assert!(!alive(app) && !alive(tailscaled));
}

#[test]
fn told_to_end_before_it_is_ready_it_ends_with_the_apps_code() {
    let stage = Stage::new("").mode("slow=30");
    let mut run = stage.run(&["code=5"]);
    stage.until_app_did("started");
    stage.until_did("login-interactive");
    assert_eq!(run.end(Signal::TERM), Some(5), "{}", run.log());
    stage.until_all_gone();
}

#[test]
fn the_app_is_served_while_it_ends_and_metrics_are_there_until_then() {
    let slow = mac(Duration::from_millis(900));
    let stage = Stage::with_mac(slow, "");
    let asks = format!("asks=http://{}/ollama/api/tags", stage.data);
    let mut run = stage.run(&[&asks]);
    run.until_ready();
    run.signal(Signal::TERM);
    stage.until_app_did("SIGTERM");
    let ready = run.admin("/ready");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("draining"),
        "{ready}"
    );
    assert!(
        run.admin("/metrics")
            .contains("tailhop_child_up{child=\"app\"} 1")
    );
    assert!(
        !stage.app_did().contains("answer"),
        "it was answered too soon to prove anything"
    );
    assert_eq!(run.ended_within(IN_TIME), Some(3), "{}", run.log());
    assert!(
        stage.app_did().contains("answer 200 2"),
        "{}",
        stage.app_did()
    );
    // Only then this machine left the tailnet.
    stage.until_did("logout");
    assert!(refused(stage.admin));
}

#[test]
fn a_second_signal_hurries() {
    let stage = Stage::new("[run]\nstop = \"60s\"\n");
    let mut run = stage.run(&["deaf"]);
    run.until_ready();
    stage.until_app_did("started");
    run.signal(Signal::TERM);
    stage.until_app_did("SIGTERM");
    let began = Instant::now();
    assert_eq!(run.end(Signal::TERM), Some(137), "{}", run.log());
    assert!(
        began.elapsed() < Duration::from_millis(2500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        stage.app_did().matches("SIGTERM").count(),
        2,
        "{}",
        stage.app_did()
    );
    stage.until_all_gone();
}

// --- signals and strangers -----------------------------------------------------------------------

#[test]
fn signals_that_end_nothing_are_the_apps() {
    let stage = Stage::new("");
    let mut run = stage.run(&[]);
    stage.until_app_did("started");
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ] {
        run.signal(signal);
        stage.until_app_did(name);
    }
    assert_eq!(run.end(Signal::INT), Some(3));
    stage.until_app_did("SIGINT");
}

#[test]
fn orphans_of_the_app_are_taken_up_and_what_is_left_is_killed() {
    let stage = Stage::new("");
    let mut run = stage.run(&["orphan"]);
    run.until_ready();
    let orphan: u32 = stage
        .until_app_did("orphan")
        .trim_start_matches("orphan ")
        .parse()
        .unwrap();
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?
            .1
            .split(' ')
            .nth(1)?
            .parse::<u32>()
            .ok()
    };
    stage::until("it came to us", || parent(orphan) == Some(run.id()));
    stage::kill(orphan, Signal::USR1);
    stage::until("the orphan was reaped", || parent(orphan).is_none());
    assert!(run.admin("/live").starts_with("HTTP/1.1 200"));
    assert_eq!(run.end(Signal::TERM), Some(3));
}

#[test]
fn who_escaped_from_the_apps_group_does_not_outlive_it() {
    let stage = Stage::new("");
    let mut run = stage.run(&["escape"]);
    run.until_ready();
    let escaped = stage.until_app_did("escaped");
    let escaped: u32 = escaped.trim_start_matches("escaped ").parse().unwrap();
    assert!(alive(escaped));
    assert_eq!(run.end(Signal::TERM), Some(3), "{}", run.log());
    assert!(!alive(escaped), "it is left");
}

#[test]
fn an_app_that_makes_strangers_without_end_takes_nobodys_turn() {
    let stage = Stage::new("");
    let mut run = stage.run(&["storm"]);
    run.until_ready();
    assert!(run.get("/ollama/api/version").starts_with("HTTP/1.1 200"));
    assert_eq!(run.end(Signal::TERM), Some(3), "{}", run.log());
    stage.until_all_gone();
}

#[test]
fn without_an_app_nothing_is_started() {
    let stage = Stage::new("");
    let run = stage.start(stage.command_without_app());
    assert!(run.admin("/ready").starts_with("HTTP/1.1 200"));
    assert_eq!(run.child("tailscaled"), None);
    assert!(stage.did().is_empty());
}
