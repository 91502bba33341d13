//! The command line, by the real binary: what it prints, and how it exits.
//!
//! Each test has its own folder, ports that the system chooses, and an environment without the
//! variables that tailhop reads. Waits end on what a process says, never on a guess; every process
//! is killed when its test ends, however it ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything here takes on a busy machine; what hangs fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// What a container has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

const COMMANDS: [&str; 17] = [
    "run",
    "check",
    "config",
    "diff",
    "init",
    "schema",
    "completions",
    "explain",
    "status",
    "pin",
    "unpin",
    "drain",
    "undrain",
    "migrate",
    "reload",
    "health",
    "demo",
];
const VARIABLES: [&str; 10] = [
    "ACTIVE_BACKEND",
    "SWITCH_DATE",
    "TAILNET_NAME",
    "TAILHOP_CONFIG",
    "TAILHOP_ADMIN",
    "LOG_LEVEL",
    "K_SERVICE",
    "GOOGLE_CLOUD_PROJECT",
    "ADMIN_API_KEY",
    "ADMIN_FUNCTIONS_ENABLED",
];
const QUERY: &str = "/qdrant/collections/c/points/query";

// --- what each command prints and how it exits -------------------------------------------------

#[test]
fn help_of_each_command_carries_an_example() {
    let all = text(&ended(tailhop(["--help"]), 0).stdout);
    for command in COMMANDS {
        assert!(all.contains(command), "{command} is not in\n{all}");
        let help = text(&ended(tailhop([command, "--help"]), 0).stdout);
        assert!(help.contains("Example"), "{command}:\n{help}");
        assert!(
            help.contains(&format!("tailhop {command}")),
            "{command}:\n{help}"
        );
    }
}

#[test]
fn wrong_usage_exits_2() {
    ended(tailhop(["explain"]), 2);
    ended(tailhop(["no-such-command"]), 2);
}

#[test]
fn check_prints_every_problem_with_line_and_column() {
    let folder = Folder::with(SIX_MISTAKES);
    let output = ended(tailhop(["check"]).arg(folder.file()), 1);
    assert!(output.stdout.is_empty());
    let printed = text(&output.stderr);
    let places: Vec<_> = (printed.lines())
        .filter_map(|line| line.trim_start().strip_prefix("--> "))
        .filter_map(|place| place.rsplit_once("routing.toml:"))
        .map(|(_, place)| place)
        .collect();
    assert_eq!(
        places,
        ["3:16", "6:19", "7:23", "10:11", "13:12", "15:37"],
        "{printed}"
    );
    assert_eq!(printed.matches("error[").count(), 6, "{printed}");
    for meant in ["\"host\"", "\"reads\"", "\"Asia/Tokyo\"", "\"mac-dev1\""] {
        assert!(
            printed.contains(&format!("did you mean {meant}?")),
            "{printed}"
        );
    }
}

#[test]
fn check_as_json_carries_the_same_problems() {
    let folder = Folder::with(SIX_MISTAKES);
    let output = ended(tailhop(["check", "--json"]).arg(folder.file()), 1);
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(problems["schema"], "tailhop/check/v1");
    assert_eq!(
        (&problems["valid"], &problems["errors"]),
        (&false.into(), &6.into())
    );
    let lines = problems["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["line"].clone());
    assert_eq!(lines.collect::<Vec<_>>(), [3, 6, 7, 10, 13, 15]);
}

#[test]
fn check_accepts_the_configuration_that_comes_with_the_source() {
    let output = ended(tailhop(["check", "config/routing.toml"]), 0);
    assert_eq!(
        text(&output.stdout),
        "config/routing.toml: valid: 2 services, 2 backends, 1 warning\n"
    );
    assert!(text(&output.stderr).starts_with("warning[W012]: this switch passed"));
}

#[test]
fn check_of_a_missing_file_says_so_and_exits_1() {
    let output = ended(tailhop(["check", "/no/such/routing.toml"]), 1);
    assert!(text(&output.stderr).contains("/no/such/routing.toml"));
}

// --- check, config, diff, init, schema ---------------------------------------------------------

#[test]
fn strict_refuses_warnings() {
    let folder = Folder::with(&format!("[listen]\ndata = \"0.0.0.0:1\"\n{SMALLEST}"));
    let check = |more: &[&str], code| {
        let mut check = tailhop(["check"]);
        ended(check.arg(folder.file()).args(more), code)
    };
    assert!(text(&check(&[], 0).stdout).ends_with(": valid: 1 service, 1 backend, 1 warning\n"));
    let strict = check(&["--strict"], 1);
    assert!(strict.stdout.is_empty());
    assert!(text(&strict.stderr).contains("1 warning, and --strict allows none\n"));
    let json: Value = serde_json::from_slice(&check(&["--strict", "--json"], 1).stdout).unwrap();
    assert_eq!(
        (&json["valid"], &json["warnings"]),
        (&false.into(), &1.into())
    );
}

#[test]
fn explain_of_a_code_says_why_and_shows_both_sides() {
    let told = text(&ended(tailhop(["check", "--explain", "e016"]), 0).stdout);
    assert!(
        told.starts_with("E016 a name that is not defined\n"),
        "{told}"
    );
    assert!(
        told.contains("```toml wrong") && told.contains("```toml right"),
        "{told}"
    );
    let unknown = ended(tailhop(["check", "--explain", "E999"]), 2);
    assert!(text(&unknown.stderr).contains("E016"));
    ended(tailhop(["check", "--explain", "E016", "x.toml"]), 2);
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    let folder = Folder::with(SIX_MISTAKES);
    let output = ended(tailhop(["check"]).arg(folder.file()), 1);
    assert!(!text(&output.stderr).contains('\u{1b}'));
}

#[test]
fn files_that_are_none_are_told_for_what_they_are() {
    for (bytes, code, words) in [
        (b"".to_vec(), "E006", "is empty"),
        (b"# caf\xe9\n".to_vec(), "E005", "not UTF-8"),
        (vec![b'#'; 2 << 20], "E004", "larger than 1 MiB"),
        (b"[backends]\na = {}\n[ser".to_vec(), "E010", "not TOML"),
        (
            b"[fabric]\na = 1\n".to_vec(),
            "E011",
            "a newer one may know it",
        ),
    ] {
        let folder = Folder::empty();
        fs::write(folder.file(), bytes).unwrap();
        let said = text(&ended(tailhop(["check"]).arg(folder.file()), 1).stderr);
        assert!(
            said.contains(&format!("error[{code}]")) && said.contains(words),
            "{said}"
        );
    }
}

#[test]
fn two_thousand_routes_are_checked_in_no_time() {
    let mut file = format!("{SMALLEST}qdrant = {{}}\n");
    for route in 0..2000 {
        let service = ["ollama", "qdrant"][route % 2];
        file += &format!("[[routes]]\npath = \"/r{route}\"\nservice = \"{service}\"\n");
    }
    let folder = Folder::with(&file);
    let began = SystemTime::now();
    ended(tailhop(["check", "--strict"]).arg(folder.file()), 0);
    // Of a build without optimization, on a machine that does other things too.
    let took = began.elapsed().unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let wrong = Folder::with(&file.replace("service = \"qdrant\"", "service = \"qdrnat\""));
    let said = text(&ended(tailhop(["check"]).arg(wrong.file()), 1).stderr);
    assert!(said.contains("900 more problems are not listed"), "{said}");
}

#[test]
fn config_names_the_origin_of_each_value_and_hides_secrets() {
    let folder = Folder::with(&with_secrets(unused()));
    fs::write(folder.path().join("key"), "canary-161803").unwrap();
    let mut config = tailhop(["config", "--config"]);
    let shown = ended(config.arg(folder.file()).env("TOKEN", "canary-161803"), 0);
    let shown = text(&shown.stdout);
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in\n{shown}"))
            .to_owned()
    };
    assert!(!shown.contains("canary"), "{shown}");
    for (key, value, origin) in [
        ("listen.token", "***", "routing.toml:4"),
        ("backends.plain.headers.api-key", "***", "routing.toml:6"),
        ("tailnet.proxy", "\"127.0.0.1:1055\"", "# default"),
        ("services.web.timeouts.wait", "\"100ms\"", "routing.toml:10"),
    ] {
        let line = line(key);
        assert!(line.contains(&format!("{key} = {value}")), "{line}");
        assert!(line.ends_with(origin), "{line}");
    }
    let named = tailhop([
        "config",
        "tailnet",
        "--json",
        "--config",
        "config/routing.toml",
    ])
    .env("TAILNET_NAME", "tail1234")
    .take();
    let json: Value = serde_json::from_slice(&ended(named, 0).stdout).unwrap();
    assert_eq!(json["schema"], "tailhop/config/v1");
    assert_eq!(json["settings"][0]["origin"]["variable"], "TAILNET_NAME");
}

#[test]
fn diff_says_in_words_what_would_change_and_exits_as_diff_does() {
    let folder = Folder::with(&format!("{SMALLEST}qdrant = {{}}\n"));
    let other = folder.path().join("new.toml");
    fs::write(
        &other,
        format!("{SMALLEST}qdrant = {{ fallback = \"none\" }}\n"),
    )
    .unwrap();
    let diff = |new: &Path, more: &[&str], code| {
        let mut diff = tailhop(["diff"]);
        let diff = diff.arg(new).arg("--config").arg(folder.file()).args(more);
        text(&ended(diff, code).stdout)
    };
    assert_eq!(diff(&folder.file(), &[], 0), "nothing would change\n");
    let said = diff(&other, &[], 1);
    assert_eq!(said, "route /qdrant: nothing may fall back any more\n");
    let json: Value = serde_json::from_str(&diff(&other, &["--json"], 1)).unwrap();
    assert_eq!(json["changes"].as_array().unwrap().len(), 1);
    fs::write(&other, "[backends]\n").unwrap();
    assert_eq!(diff(&other, &[], 2), "");
}

#[test]
fn init_writes_a_file_that_is_valid_and_replaces_none() {
    let folder = Folder::empty();
    let init = |more: &[&str], code| {
        let mut init = tailhop(["init"]);
        init.env("TAILNET_NAME", "tail1234")
            .env("SWITCH_DATE", "2025-02-17");
        ended(init.arg(folder.file()).args(more), code)
    };
    init(&[], 0);
    let mut check = tailhop(["check", "--strict"]);
    check
        .env("TAILNET_NAME", "tail1234")
        .env("SWITCH_DATE", "2025-02-17");
    ended(check.arg(folder.file()), 0);
    let written = fs::read_to_string(folder.file()).unwrap();
    fs::write(folder.file(), "mine").unwrap();
    assert!(text(&init(&[], 1).stderr).contains("is there already"));
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), "mine");
    init(&["--force"], 0);
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), written);
}

#[test]
fn schema_and_completions_are_printed() {
    let schema = ended(tailhop(["schema"]), 0).stdout;
    let file = fs::read(root().join("config/routing.schema.json")).unwrap();
    assert!(schema == file);
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&ended(tailhop(["completions", shell]), 0).stdout);
        assert!(
            script.contains("explain") && script.contains("strict"),
            "{shell}"
        );
    }
    ended(tailhop(["completions", "abacus"]), 2);
}

#[test]
fn live_says_what_is_reachable_and_what_is_not() {
    let folder = Folder::with(&two_macs(mac().port()));
    let live = |more: &[&str], code| {
        let mut check = tailhop(["check", "--live"]);
        text(&ended(check.arg(folder.file()).args(more), code).stdout)
    };
    let said = live(&[], 1);
    assert!(said.contains("ollama  macbook-m1  127.0.0.1:"), "{said}");
    assert!(
        said.contains("reachable in ") && said.contains(" ms, without the tailnet"),
        "{said}"
    );
    assert!(
        said.contains("ollama  mac-dev1    127.0.0.2:") && said.contains("refused"),
        "{said}"
    );
    let json: Value = serde_json::from_str(&live(&["--json"], 1)).unwrap();
    assert_eq!(json["valid"], true);
    let endpoints = &json["live"]["endpoints"];
    assert_eq!(
        (&endpoints[0]["path"], &endpoints[0]["reachable"]),
        (&"host".into(), &true.into())
    );
    assert!(
        endpoints[0]["ms"].is_u64() && endpoints[1]["error"].is_string(),
        "{json}"
    );
}

#[test]
fn live_without_tailscaled_says_so_and_does_not_hang() {
    let folder = Folder::with(&format!(
        "[tailnet]\nsocket = \"/no/such/tailscaled.sock\"\nproxy = \"{}\"\n{SMALLEST}",
        unused()
    ));
    let said = text(&ended(tailhop(["check", "--live"]).arg(folder.file()), 1).stdout);
    assert!(said.contains("tailnet name unknown: not up"), "{said}");
    assert!(said.contains("/no/such/tailscaled.sock"), "{said}");
    assert!(said.contains("not reachable without the tailnet"), "{said}");
}

#[test]
fn sighup_is_answered_in_the_log_with_what_changed_or_what_is_wrong() {
    let folder = Folder::with(&two_macs(1));
    let mut run = tailhop(["run", "--watch", "poll", "--config"]);
    let running = Running::start(run.arg(folder.file()).take());
    let hang_up = || kill_process(Pid::from_child(&running.child.0), Signal::HUP).unwrap();
    hang_up();
    running.until_said("SIGHUP: nothing changes");
    let port = two_macs(2);
    fs::write(folder.file(), &port).unwrap();
    hang_up();
    running.until_said("route /ollama: its port is 2 instead of 1");
    fs::write(folder.file(), port.replace("port = 2", "prot = 2")).unwrap();
    hang_up();
    let said = running.until_said("configuration rejected");
    assert!(said.contains("did you mean"), "{said}");
}

#[test]
fn explain_names_another_mac_one_second_later() {
    let at = |time| {
        let args = [
            "explain",
            "POST",
            QUERY,
            "--config",
            "config/routing.toml",
            "--at",
            time,
        ];
        text(&ended(tailhop(args), 0).stdout)
    };
    let before = at("2025-02-16T23:59:59+09:00");
    let after = at("2025-02-17T00:00:00+09:00");
    assert!(
        before.contains("active    macbook-m1: schedule.default"),
        "{before}"
    );
    assert!(before.contains("1.        macbook-m1"), "{before}");
    assert!(
        before.contains("next      2025-02-17T00:00:00+09:00 to mac-dev1"),
        "{before}"
    );
    assert!(
        after.contains("active    mac-dev1: the schedule says so since 2025-02-17"),
        "{after}"
    );
    assert!(after.contains("1.        mac-dev1"), "{after}");
}

#[test]
fn explain_as_json_names_effect_active_and_candidates() {
    let path = "/qdrant/collections/c/points";
    let args = [
        "explain",
        "PUT",
        path,
        "--config",
        "config/routing.toml",
        "--json",
    ];
    let output = ended(tailhop(args).args(["--at", "2025-02-16T23:59:59+09:00"]), 0);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["effect"], "write");
    assert_eq!(answer["upstream_path"], "/collections/c/points");
    assert_eq!(answer["active"]["backend"], "macbook-m1");
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 1);
    assert_eq!(answer["excluded"][0]["backend"], "mac-dev1");
}

#[test]
fn explain_shows_the_rule_the_url_and_the_address_of_a_services_own() {
    let folder = Folder::with(
        "[backends]\nm1 = {}\ncloud = { url = \"https://q.example:8443\" }\n\
         [services.web]\nbackends = [\"cloud\"]\nlisten = \"127.0.0.1:8081\"\n\
         effects = [{ paths = [\"/other\"], effect = \"admin\" }, \
         { methods = [\"POST\"], paths = [\"/search\"], effect = \"read\" }]\n\
         [services]\nollama = {}\n[schedule]\ndefault = \"m1\"\n",
    );
    let explain = |args: &[&str], code| {
        let mut command = tailhop(["explain", "--at", "2025-02-17T00:00:00Z", "--config"]);
        let output = ended(command.arg(folder.file()).args(args), code);
        text(&output.stdout)
    };
    let by_prefix = explain(&["POST", "/web/search"], 0);
    for words in [
        "effect    read (read)",
        "by rule   2: POST /search: read",
        "also on   127.0.0.1:8081",
        "1.        cloud at https://q.example:8443:",
    ] {
        assert!(by_prefix.contains(words), "{words} is not in\n{by_prefix}");
    }
    let own = explain(&["POST", "/search", "--service", "web"], 0);
    assert!(own.contains("route     / to service web"), "{own}");
    assert!(own.contains("by rule   2:"), "{own}");
    let unmatched = explain(&["POST", "/web/else"], 0);
    assert!(unmatched.contains("effect    write"), "{unmatched}");
    assert!(!unmatched.contains("by rule"), "{unmatched}");
    // A service without an address of its own has nothing there.
    explain(&["GET", "/api/tags", "--service", "ollama"], 1);
    let json: Value =
        serde_json::from_str(&explain(&["POST", "/web/search", "--json"], 0)).unwrap();
    assert_eq!(json["rule"], "2: POST /search: read");
    assert_eq!(json["listen"], "127.0.0.1:8081");
    assert_eq!(json["candidates"][0]["url"], "https://q.example:8443");
}

#[test]
fn no_secret_is_printed_by_any_command_or_in_any_line_of_the_log() {
    const CANARIES: [&str; 3] = ["canary-token-1", "canary-key-1", "canary-key-2"];
    let folder = Folder::empty();
    let key = folder.path().join("key");
    fs::write(&key, CANARIES[1]).unwrap();
    fs::write(folder.file(), with_secrets(mac())).unwrap();
    let mut said = String::new();
    let with_token = |mut command: Command| {
        command.env("TOKEN", CANARIES[0]).env("LOG_LEVEL", "trace");
        command
    };
    let run = with_token(tailhop(["run", "--config"]).arg(folder.file()).take());
    let mut running = Running::start(run);
    for path in ["/qdrant/collections", "/web/x", "/nowhere"] {
        said += &get(running.data, path);
        let header = format!("x-tailhop-token: {}\r\n", CANARIES[0]);
        said += &get_with(running.data, path, &header);
    }
    assert!(
        said.contains("401") && said.contains("200") && said.contains("tls"),
        "{said}"
    );
    fs::write(&key, CANARIES[2]).unwrap();
    said += &running.until_said("another secret in the header");
    fs::remove_file(&key).unwrap();
    said += &running.until_said("configuration rejected");
    assert!(!running.status()["config"]["rejected"].is_null());
    let admin = running.admin.to_string();
    for page in ["/status", "/metrics", "/health"] {
        said += &get(running.admin, page);
    }
    for (args, code) in [
        (vec!["status", "--admin", &admin], 0),
        (vec!["status", "--json", "--admin", &admin], 0),
        (vec!["check"], 1),
        (vec!["check", "--json"], 1),
    ] {
        let command = with_token(
            tailhop(args.iter().copied())
                .arg("--config")
                .arg(folder.file())
                .take(),
        );
        let output = ended(command, code);
        said += &(text(&output.stdout) + &text(&output.stderr));
    }
    assert_eq!(running.end(Signal::TERM), Some(0));
    said += &running.log.iter().collect::<Vec<_>>().join("\n");
    for canary in CANARIES {
        assert!(!said.contains(canary), "{canary} is in\n{said}");
    }
}

#[test]
fn explain_of_a_path_without_a_route_exits_1() {
    let args = [
        "explain",
        "GET",
        "/elsewhere",
        "--config",
        "config/routing.toml",
    ];
    let output = ended(tailhop(args).args(["--at", "2025-02-17T00:00:00Z"]), 1);
    assert!(text(&output.stdout).contains("no route"));
}

#[test]
fn status_and_health_say_what_to_do_when_nobody_listens() {
    let nobody = unused().to_string();
    let status = ended(tailhop(["status", "--admin", &nobody]), 2);
    let said = text(&status.stderr);
    assert!(
        said.contains(&nobody) && said.contains("help: start one with `tailhop run`"),
        "{said}"
    );
    let health = ended(tailhop(["health", "--admin", &nobody]), 1);
    assert!(text(&health.stderr).contains(&nobody));
}

// --- run ---------------------------------------------------------------------------------------

#[test]
fn run_with_an_invalid_configuration_exits_78_and_lists_all_problems() {
    let folder = Folder::with(SIX_MISTAKES);
    let output = ended(tailhop(["run", "--config"]).arg(folder.file()), 78);
    assert_eq!(text(&output.stderr).matches("error[").count(), 6);
}

#[test]
fn run_without_a_configuration_exits_78_and_says_what_was_looked_for() {
    let folder = Folder::empty();
    let output = ended(tailhop(["run"]).current_dir(folder.path()), 78);
    let said = text(&output.stderr);
    assert!(
        said.contains("config/routing.toml") && said.contains("--config"),
        "{said}"
    );
}

#[test]
fn an_unknown_active_backend_exits_78() {
    let folder = Folder::with(&two_macs(1));
    let run = tailhop(["run", "--config"])
        .arg(folder.file())
        .env("ACTIVE_BACKEND", "typo")
        .take();
    let said = text(&ended(run, 78).stderr);
    assert!(
        said.contains("ACTIVE_BACKEND") && said.contains("typo"),
        "{said}"
    );
}

#[test]
fn an_empty_active_backend_is_none() {
    let folder = Folder::with(&two_macs(1));
    let run = tailhop(["run", "--config"])
        .arg(folder.file())
        .env("ACTIVE_BACKEND", "")
        .take();
    let running = Running::start(run);
    let status = running.status();
    assert_eq!(status["services"][0]["active"]["why"], "default");
}

#[test]
fn a_taken_address_exits_125_and_names_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["data", "admin"] {
        let other = if key == "data" { "admin" } else { "data" };
        let listen = format!("[listen]\n{key} = \"{address}\"\n{other} = \"127.0.0.1:0\"\n");
        let folder = Folder::with(&(listen + SMALLEST));
        let output = ended(tailhop(["run", "--config"]).arg(folder.file()), 125);
        let said = text(&output.stderr);
        assert!(
            said.contains(&format!("listen.{key}: cannot listen on {address}")),
            "{said}"
        );
    }
}

#[test]
fn an_environment_of_the_emergency_order_alone_starts_and_serves() {
    let mac = mac();
    let shipped = fs::read_to_string(root().join("config/routing.toml")).unwrap();
    let here = shipped
        .replace("macbook-m1 = {}", "macbook-m1 = { host = \"127.0.0.1\" }")
        .replace(
            "ollama = {}",
            &format!("ollama = {{ port = {} }}", mac.port()),
        );
    assert!(here.contains("127.0.0.1\" }") && here.contains(&mac.port().to_string()));
    let folder = Folder::empty();
    fs::create_dir(folder.path().join("config")).unwrap();
    for (text, dial) in [(&shipped, "auto"), (&here, "direct")] {
        let text = format!(
            "{text}\n[tailnet]\ndial = \"{dial}\"\n[listen]\ndata = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n"
        );
        fs::write(folder.path().join("config/routing.toml"), text).unwrap();
        let mut run = tailhop(["run"]);
        run.env_clear()
            .env("ACTIVE_BACKEND", "macbook-m1")
            .current_dir(folder.path());
        let running = Running::start(run);
        let status = running.status();
        assert_eq!(status["services"][0]["active"]["backend"], "macbook-m1");
        assert_eq!(status["services"][0]["active"]["why"], "active-backend");
        if dial == "direct" {
            let answer = get(running.data, "/ollama/api/version");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("x-tailhop-backend: macbook-m1"), "{answer}");
            assert!(
                answer.contains("x-tailhop-reason: active:active-backend"),
                "{answer}"
            );
        }
    }
}

#[test]
fn status_health_and_explain_ask_the_running_instance() {
    let mac = mac();
    let folder = Folder::with(&two_macs(mac.port()));
    let running = Running::start(tailhop(["run", "--config"]).arg(folder.file()).take());
    assert!(get(running.data, "/ollama/api/version").starts_with("HTTP/1.1 200"));
    let admin = running.admin.to_string();

    let status = text(&ended(tailhop(["status", "--admin", &admin]), 0).stdout);
    assert!(
        status.starts_with("ollama: macbook-m1 is active (schedule.default"),
        "{status}"
    );
    let json = ended(tailhop(["status", "--json", "--admin", &admin]), 0).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["schema"], "tailhop/status/v1");

    assert_eq!(
        text(&ended(tailhop(["health", "--admin", &admin]), 0).stdout),
        "live\n"
    );
    let ready = tailhop(["health", "--ready", "--admin", &admin]);
    assert_eq!(text(&ended(ready, 0).stdout), "ready\n");

    let explain = tailhop([
        "explain",
        "GET",
        "/ollama/api/tags",
        "--admin",
        &admin,
        "--config",
    ])
    .arg(folder.file())
    .take();
    let explained = text(&ended(explain, 0).stdout);
    assert!(
        explained.contains("1.        macbook-m1: active:default [up: answered]"),
        "{explained}"
    );
}

#[test]
fn status_watch_tells_what_changes_and_outlives_the_instance() {
    let mac = mac();
    let folder = Folder::with(&two_macs(mac.port()));
    let running = Running::start(tailhop(["run", "--config"]).arg(folder.file()).take());
    let admin = running.admin.to_string();
    let mut watch = tailhop(["status", "--watch", "--admin", &admin]);
    let mut watch = Killed(watch.stdout(Stdio::piped()).spawn().unwrap());
    let shown = lines(watch.0.stdout.take().unwrap());
    let until = |words: &str| {
        while !shown.recv_timeout(PATIENCE).unwrap().contains(words) {}
    };
    until("ollama: macbook-m1 is active");
    let pin = ["pin", "mac-dev1", "--for", "2h", "--reason", "an update"];
    ended(order(&folder, &admin, &pin), 0);
    until("ollama: mac-dev1 is active (pinned by ann");
    drop(running);
    until("no answer: ");
    assert!(watch.0.try_wait().unwrap().is_none(), "it looks on");
}

/// An order with this file and this instance.
fn order<'a>(folder: &Folder, admin: &'a str, arguments: &[&'a str]) -> Command {
    let mut command = tailhop(arguments.iter().copied().chain(["--admin", admin]));
    command
        .env("USER", "ann")
        .arg("--config")
        .arg(folder.file());
    command
}

#[test]
fn an_order_is_confirmed_by_the_running_instance_and_taken_back_without_a_trace() {
    let mac = mac();
    let folder = Folder::with(&two_macs(mac.port()));
    let before = fs::read_to_string(folder.file()).unwrap();
    let running = Running::start(tailhop(["run", "--config"]).arg(folder.file()).take());
    let admin = running.admin.to_string();
    let pin = ["pin", "mac-dev1", "--for", "2h", "--reason", "an update"];
    let told = text(&ended(order(&folder, &admin, &pin), 0).stdout);
    for words in [
        "a new pin to mac-dev1 until ",
        ", by \"ann\" (\"an update\")",
        "confirmed: generation 2",
        "ollama: mac-dev1 is active (pinned by ann until ",
    ] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    let json = order(&folder, &admin, &["drain", "macbook-m1", "--json"]);
    let json: Value = serde_json::from_slice(&ended(json, 0).stdout).unwrap();
    assert_eq!(
        (&json["result"], &json["confirmed"]),
        (&Value::from("applied"), &Value::from(true))
    );
    let status = text(&ended(order(&folder, &admin, &["status"]), 0).stdout);
    assert!(status.contains("orders   pin mac-dev1 until "), "{status}");
    let timeline = text(&ended(order(&folder, &admin, &["explain", "--timeline"]), 0).stdout);
    assert!(
        timeline.contains("ollama: mac-dev1 -> macbook-m1 (default)"),
        "{timeline}"
    );
    ended(order(&folder, &admin, &["undrain", "macbook-m1"]), 0);
    ended(order(&folder, &admin, &["unpin"]), 0);
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
    let nothing = ended(order(&folder, &admin, &["unpin"]), 1);
    assert!(text(&nothing.stderr).contains("no pin is there"));
    let history = text(&ended(order(&folder, &admin, &["status", "--history"]), 0).stdout);
    let pinned = "active ollama: macbook-m1 -> mac-dev1 (pin by ann): an update";
    assert!(history.contains(pinned), "{history}");
}

#[test]
fn an_order_edits_the_file_of_the_running_instance_and_no_other_one() {
    let mac = mac();
    let folder = Folder::with(&two_macs(mac.port()));
    let other = Folder::with(&two_macs(9));
    let (used, before) = (
        fs::read_to_string(folder.file()).unwrap(),
        fs::read_to_string(other.file()).unwrap(),
    );
    let running = Running::start(tailhop(["run", "--config"]).arg(folder.file()).take());
    let admin = running.admin.to_string();
    let pin = ["pin", "mac-dev1", "--for", "2h", "--reason", "an update"];

    let told = text(&ended(order(&other, &admin, &pin), 1).stderr);
    let path = folder.file().display().to_string();
    for words in ["nothing was changed", &format!("--config {path}")] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    assert_eq!(fs::read_to_string(other.file()).unwrap(), before);

    // Nobody said which file, and another one stands where it is looked for.
    let file = other.file();
    let here = file.parent().unwrap();
    fs::create_dir(here.join("config")).unwrap();
    fs::copy(other.file(), here.join("config/routing.toml")).unwrap();
    for arguments in [&pin[..], &["unpin"]] {
        let arguments = arguments.iter().copied().chain(["--admin", &admin]);
        let mut order = tailhop(arguments);
        order.current_dir(here);
        assert!(text(&ended(order, 0).stdout).contains("confirmed: generation"));
    }
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), used);
    let untouched = fs::read_to_string(here.join("config/routing.toml")).unwrap();
    assert_eq!(untouched, before);
}

#[test]
fn an_order_that_cannot_be_carried_out_says_why_and_changes_nothing() {
    let folder = Folder::with(&two_macs(9));
    let before = fs::read_to_string(folder.file()).unwrap();
    let nobody = unused().to_string();
    let pin = |more: &[&'static str]| [&["pin", "mac-dev1", "--reason", "x"], more].concat();
    for (arguments, code, words) in [
        (pin(&["--for", "soon"]), 2, "write a number with its unit"),
        (pin(&[]), 2, "a pin needs an end"),
        (pin(&["--until", "2001-01-01"]), 1, "its end has passed"),
        (pin(&["--until", "someday"]), 2, "write a date such as"),
        (
            pin(&["--for", "1h", "--services", "web"]),
            1,
            "\"web\" is not defined",
        ),
        (
            pin(&["--for", "1h", "--base", "00000000"]),
            1,
            "not the one that you decided on",
        ),
        (
            vec!["drain", "mac-dev"],
            1,
            "there is no backend \"mac-dev\"",
        ),
        (vec!["pin", "mac-dev1", "--for", "1h"], 2, "--reason"),
    ] {
        let output = ended(order(&folder, &nobody, &arguments), code);
        let told = text(&output.stderr);
        assert!(told.contains(words), "{arguments:?}: {told}");
        assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
    }
    let half = Folder::with(&before[..before.len() / 2]);
    let refused = ended(order(&half, &nobody, &pin(&["--for", "1h"])), 1);
    assert!(text(&refused.stderr).contains("repair the file first"));
    let alone = ended(order(&folder, &nobody, &pin(&["--for", "1h"])), 2);
    assert!(text(&alone.stderr).contains("written, and no instance confirms it"));
    ended(order(&folder, &nobody, &["unpin", "--no-wait"]), 0);
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
}

#[test]
fn where_the_file_cannot_be_written_the_edit_and_the_line_to_use_instead_are_printed() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let folder = Folder::with(&two_macs(9));
    let before = fs::read_to_string(folder.file()).unwrap();
    let dir = folder.file().parent().unwrap().to_owned();
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    let nobody = unused().to_string();
    let pin = ["pin", "mac-dev1", "--for", "1h", "--reason", "x"];
    let mut command = order(&folder, &nobody, &pin);
    command.env("K_SERVICE", "evidence").current_dir("/");
    if rustix::process::getuid().is_root() {
        // Root may write everything.
        command.uid(65534);
    }
    let output = ended(command, 1);
    let told = text(&output.stdout);
    for words in [
        "+[[pin]]\n+to = \"mac-dev1\"\n",
        "gcloud run services update evidence --update-env-vars=ACTIVE_BACKEND=mac-dev1",
    ] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    assert!(text(&output.stderr).contains("the file cannot be written here"));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), before);
}

#[test]
fn of_many_orders_at_once_none_is_lost_without_a_word() {
    let folder = Folder::with(&two_macs(9));
    let nobody = unused().to_string();
    let reasons: Vec<_> = (0..12).map(|turn| format!("turn-{turn}")).collect();
    let running: Vec<_> = reasons
        .iter()
        .map(|reason| {
            let backend = ["macbook-m1", "mac-dev1"][reason.len() % 2];
            let drain = ["drain", backend, "--no-wait", "--reason", reason];
            let mut command = order(&folder, &nobody, &drain);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let (mut done, mut refused) = (0, 0);
    for child in running {
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            done += 1;
        } else {
            let told = text(&output.stderr);
            assert!(told.contains("meanwhile: "), "{told}");
            refused += 1;
        }
    }
    assert!(
        done >= 1 && done + refused == reasons.len(),
        "{done} {refused}"
    );
    ended(tailhop(["check"]).arg(folder.file()).take(), 0);
    let left = fs::read_dir(folder.file().parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(left, 1, "nothing is left beside the file");
}

#[test]
fn reload_needs_a_token_and_tells_what_is_different() {
    let folder = Folder::with(&two_macs(9));
    let mut command = tailhop(["run", "--watch", "poll", "--config"]);
    command
        .arg(folder.file())
        .env("ADMIN_API_KEY", "canary-0123456789");
    let running = Running::start(command);
    let admin = running.admin.to_string();
    let reload = |key: &str, code| {
        let mut command = order(&folder, &admin, &["reload"]);
        if !key.is_empty() {
            command.env("ADMIN_API_KEY", key);
        }
        ended(command, code)
    };
    assert!(text(&reload("", 2).stderr).contains("401 present a token"));
    assert!(text(&reload("wrong", 2).stderr).contains("401 this token is none of ours"));
    let told = text(&reload("canary-0123456789", 0).stdout);
    assert_eq!(told, "unchanged: generation 1\n");
    let mut file = fs::read_to_string(folder.file()).unwrap();
    file = file.replacen("[services]", "[timeouts]\nwait = \"9s\"\n[services]", 1);
    fs::write(folder.file(), &file).unwrap();
    let told = text(&reload("canary-0123456789", 0).stdout);
    assert!(
        told.contains("route /ollama: wait is 9s instead of 15s"),
        "{told}"
    );
    assert!(told.ends_with("applied: generation 2\n"), "{told}");
    fs::write(folder.file(), file.clone() + "\nnonsense = 1\n").unwrap();
    let told = text(&reload("canary-0123456789", 1).stderr);
    assert!(
        told.contains("E011") && told.contains("generation 2 stays in use"),
        "{told}"
    );
}

#[test]
fn on_cloud_run_every_line_is_an_entry_of_cloud_logging() {
    let folder = Folder::with(&two_macs(mac().port()));
    let mut run = tailhop(["run", "--config"]);
    run.arg(folder.file())
        .env("K_SERVICE", "agent")
        .env("GOOGLE_CLOUD_PROJECT", "p-1");
    let running = Running::start(run);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let header = format!("x-cloud-trace-context: {trace}/183;o=1\r\n");
    get_with(running.data, "/ollama/api/tags?key=canary", &header);
    let line = running.access.recv_timeout(PATIENCE).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let field = format!("projects/p-1/traces/{trace}");
    assert_eq!(told["logging.googleapis.com/trace"], field);
    assert_eq!(told["httpRequest"]["requestUrl"], "/ollama/api/tags");
    assert_eq!(told["severity"], "INFO");
    assert!(!line.contains("canary"), "{line}");
    // What is wrong with a file has many lines, and is one entry.
    fs::write(folder.file(), "[backends]\nnonsense\n").unwrap();
    let said = running.until_said("configuration rejected");
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["severity"], "ERROR");
    assert!(last["time"].is_string() && last["message"].is_string());
}

#[test]
fn on_cloud_run_what_keeps_an_instance_from_starting_is_one_entry() {
    let folder = Folder::with("[backends]\nm = {}\n[services]\nolama = {}\n");
    let mut run = tailhop(["run", "--config"]);
    let said = ended(run.arg(folder.file()).env("K_SERVICE", "agent"), 78);
    let said = text(&said.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(told["severity"], "ERROR");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("routing.toml:4:1"), "{message}");
}

#[test]
fn sigterm_ends_an_instance_with_0_within_the_grace_of_a_container() {
    let folder = Folder::with(&two_macs(1));
    let mut running = Running::start(tailhop(["run", "--config"]).arg(folder.file()).take());
    // A client that holds its connection open must not hold up the end.
    let mut idle = TcpStream::connect(running.data).unwrap();
    idle.write_all(b"GET /elsewhere HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 404");
    assert_eq!(running.end(Signal::TERM), Some(0));
}

// --- demo --------------------------------------------------------------------------------------

#[test]
fn the_story_of_the_demo_goes_right() {
    let folder = Folder::empty();
    let output = tailhop(["demo", "--story"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let told = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{told}{}",
        text(&output.stderr)
    );
    let marks: Vec<_> = told
        .lines()
        .filter(|line| line.starts_with("ok "))
        .collect();
    assert_eq!(marks.len(), 9, "{told}");
    assert!(told.is_ascii(), "{told}");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "it left something behind"
    );
}

#[test]
fn the_demo_serves_what_it_prints_and_cleans_up_when_told_to_end() {
    let folder = Folder::empty();
    let mut demo = tailhop(["demo"]).env("TMPDIR", folder.path()).take();
    let mut child = Killed(
        demo.stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let lines = lines(child.0.stdout.take().unwrap());
    let mut printed = String::new();
    while !printed.contains("Ctrl-C") {
        printed += &lines.recv_timeout(PATIENCE).expect("it prints what to try");
        printed.push('\n');
    }
    let data = printed.split_once("tailhop     http://").unwrap().1;
    let data: SocketAddr = data.split_once(' ').unwrap().0.parse().unwrap();
    let answer = get(data, "/ollama/api/version");
    assert!(answer.contains("x-stand-in: macbook-m1"), "{answer}");
    assert!(get(data, "/qdrant/collections").contains("papers"));
    assert!(
        printed.lines().count() <= 40,
        "more than a screenful:\n{printed}"
    );

    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    until_closed(&lines, GRACE);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "it left something behind"
    );
}

// --- what the tests stand on -------------------------------------------------------------------

const SMALLEST: &str = "[backends]\nmacbook-m1 = {}\n\n[services]\nollama = {}\n";

/// Each in another line.
const SIX_MISTAKES: &str = r#"[backends]
macbook-m1 = {}
mac-dev1   = { hots = "mac-dev1" }

[services]
ollama = { port = 99999 }
qdrant = { fallback = "read" }

[timeouts]
connect = "10"

[schedule]
timezone = "Asia/Tokio"
default  = "macbook-m1"
switch   = [{ at = 2025-02-17, to = "mac-dve1" }]
"#;

/// Two Macs on this machine; the first one's Ollama listens on `port`.
fn two_macs(port: u16) -> String {
    format!(
        "[listen]\ndata = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\n\
         [tailnet]\ndial = \"direct\"\n\n\
         [backends]\nmacbook-m1 = {{ host = \"127.0.0.1\" }}\nmac-dev1 = {{ host = \"127.0.0.2\" }}\n\n\
         [services]\nollama = {{ port = {port} }}\n\n\
         [schedule]\ndefault = \"macbook-m1\"\n"
    )
}

/// A token, a url with a secret that answers at `mac`, and one that speaks no TLS.
fn with_secrets(mac: SocketAddr) -> String {
    format!(
        "[listen]\ndata = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\ntoken = {{ env = \"TOKEN\" }}\n\
             [backends]\n\
             plain = {{ url = \"http://{mac}\", headers = {{ api-key = {{ file = \"key\" }} }} }}\n\
             wrong = {{ url = \"https://localhost:{}\", headers = {{ authorization = {{ file = \"key\" }} }} }}\n\
             [services]\nqdrant = {{ backends = [\"plain\"] }}\n\
             web = {{ backends = [\"wrong\"], timeouts = {{ wait = \"100ms\" }} }}\n\
             [schedule]\ndefault = \"plain\"\n",
        mac.port()
    )
}

/// A command that is as if nothing were set.
fn tailhop<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailhop"));
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end, which must have this code.
fn ended(mut command: impl std::borrow::BorrowMut<Command>, code: i32) -> Output {
    let output = command.borrow_mut().output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{}\nstderr:\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// Ends a chain of `Command`'s methods with the command itself.
trait Take {
    fn take(&mut self) -> Command;
}

impl Take for Command {
    fn take(&mut self) -> Command {
        std::mem::replace(self, Command::new("false"))
    }
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An instance that listens.
struct Running {
    child: Killed,
    data: SocketAddr,
    admin: SocketAddr,
    log: Receiver<String>,
    access: Receiver<String>,
}

impl Running {
    fn start(mut run: Command) -> Self {
        run.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Killed(run.spawn().unwrap());
        let log = lines(child.0.stderr.take().unwrap());
        let access = lines(child.0.stdout.take().unwrap());
        loop {
            let line = log
                .recv_timeout(PATIENCE)
                .expect("it says where it listens");
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["message"] == "listening" {
                let address = |key: &str| event[key].as_str().unwrap().parse().unwrap();
                let (data, admin) = (address("data"), address("admin"));
                return Self {
                    child,
                    data,
                    admin,
                    log,
                    access,
                };
            }
        }
    }

    /// Waits for these words in its log; what it said up to them.
    fn until_said(&self, words: &str) -> String {
        let mut said = String::new();
        while !said.contains(words) {
            let line = self.log.recv_timeout(PATIENCE);
            said += &line.unwrap_or_else(|_| panic!("never said: {words}\n{said}"));
            said += "\n";
        }
        said
    }

    fn status(&self) -> Value {
        let answer = get(self.admin, "/status");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// Sends a signal and waits for the end, as long as a container would.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child.0), signal).unwrap();
        until_closed(&self.log, GRACE);
        self.child.0.wait().unwrap().code()
    }
}

/// The lines of a pipe, which is read to its end whether they are wanted or not.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (to, from) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // The test may have seen enough.
            let _ = to.send(line);
        }
    });
    from
}

/// Returns when the process at the other end has ended; panics when it has not in time.
fn until_closed(lines: &Receiver<String>, within: Duration) {
    loop {
        match lines.recv_timeout(within) {
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => panic!("it did not end within {within:?}"),
        }
    }
}

/// A Mac that answers everything with 200, until the test process ends.
fn mac() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let head = BufReader::new(&stream).lines().map_while(Result::ok);
    if head.take_while(|line| !line.is_empty()).count() > 0 {
        // Who asked may have left.
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        );
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    get_with(address, path, "")
}

fn get_with(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An address where nobody listens.
fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(routing: &str) -> Self {
        let folder = Self::empty();
        fs::write(folder.file(), routing).unwrap();
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("routing.toml")
    }
}
