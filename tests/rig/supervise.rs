//! `tailhop run -- APP` with a real tailscaled: the start, the end, and what is between them.
//!
//! The container's own tailscaled of the rig goes on beside it and is not used. Where it matters what
//! a control server does with keys and logout, that is a real Headscale.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::client;
use super::hop::{ADMIN, DATA, binary};
use super::mac::CHAT_PIECES;
use super::net::HUB;
use super::node::{CONTROL, environment};
use super::parts::{part, skip, tell};
use super::process::Process;
use super::rig::{Rig, on_rig};
use super::wait::eventually;

const CHAT: &str = r#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#;
/// Where Headscale listens on the hub.
const HEADSCALE: u16 = 9922;
/// What a container has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(9500);

/// An app that ends as a server does: when its last request has ended, which the test says.
const APP: &str = r#"
    cd "$0"
    trap 'echo told >>did; while [ ! -e leave ]; do sleep 0.02; done; exit 3' TERM
    echo started >>did
    while :; do sleep 0.05; done
"#;

#[test]
fn a_cold_start_answers_the_request_that_came_first() {
    on_rig(async |rig| {
        let began = Timestamp::now();
        let started = Instant::now();
        let run = Container::start(rig, &control(), "rig");
        // From its first moment on, as an app would that asks when it is imported.
        let listening = eventually("it listens", Duration::from_secs(5), async || {
            tokio::net::TcpStream::connect(DATA).await.ok()
        });
        listening.await;
        let answer = run.get("/ollama/api/version").await;
        let took = started.elapsed();
        assert_eq!((answer.status.as_u16(), answer.mac()), (200, "m1"), "{run}");
        let parts = run.milestones(began);
        tell(&format!(
            "cold start: answered {} ms after exec; {parts}",
            took.as_millis()
        ));
        assert!(!parts.contains("never"), "{parts}\n{run}");
        assert!(took < Duration::from_secs(5), "{took:?}\n{run}");
        run.until_ready().await;
    });
}

#[test]
fn sigterm_in_the_middle_of_a_stream_of_three_seconds_lets_it_end_whole() {
    on_rig(async |rig| {
        let mut run = Container::start(rig, &control(), "rig");
        run.until_ready().await;
        rig.mac1.chat_slowly(Duration::from_millis(500));
        let asked = client::send_for_pieces(DATA, Method::POST, "/ollama/api/chat", CHAT);
        let stream = async {
            let whole = asked.await.expect("a stream").1;
            run.leave();
            whole
        };
        let told = async {
            let seen = Duration::from_secs(5);
            rig.mac1.until_seen(&Method::POST, seen).await;
            run.tell(Signal::TERM);
            Instant::now()
        };
        let (pieces, told) = tokio::join!(stream, told);
        let streamed = told.elapsed();
        let text: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.bytes.to_vec())
            .collect();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), CHAT_PIECES, "{text}\n{run}");
        assert!(lines[CHAT_PIECES - 1].contains("\"done\":true"), "{text}");
        assert!(
            streamed > Duration::from_secs(2),
            "it ended before it was cut: {streamed:?}"
        );

        let code = run.end().await;
        let took = told.elapsed();
        tell(&format!(
            "SIGTERM in a stream: whole after {} ms, exit {code:?} after {} ms",
            streamed.as_millis(),
            took.as_millis()
        ));
        assert_eq!(code, Some(3), "{run}");
        assert!(took < GRACE, "{took:?}");
        assert!(run.log().contains("this machine left the tailnet"), "{run}");
    });
}

#[test]
fn a_killed_tailscaled_of_ours_is_started_again_and_requests_are_answered_again() {
    on_rig(async |rig| {
        let run = Container::start(rig, &control(), "rig");
        run.until_ready().await;
        assert_eq!(run.get("/ollama/api/version").await.mac(), "m1");
        let pid = run.tailscaled().await["pid"].as_i64().expect("it runs");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a number"), Signal::KILL).expect("it can be killed");
        let killed = Instant::now();
        let answer = run.get("/ollama/api/version").await;
        let took = killed.elapsed();
        let status = run.tailscaled().await;
        tell(&format!(
            "tailscaled killed: the next request was answered ({}) after {} ms; {}",
            answer.status,
            took.as_millis(),
            status["last_exit"]["reason"]
        ));
        assert_eq!((answer.status.as_u16(), answer.mac()), (200, "m1"), "{run}");
        assert_eq!(status["restarts"], 1, "{status}");
    });
}

#[test]
fn headscale_takes_a_good_key_and_forgets_the_machine_at_the_end() {
    on_headscale(async |rig, headscale| {
        let key = headscale.key("1h");
        let mut run = Container::start(rig, &Headscale::url(), &key);
        run.until_ready().await;
        assert!(headscale.nodes().contains("web"), "it joined");
        run.leave();
        run.tell(Signal::TERM);
        assert_eq!(run.end().await, Some(3), "{run}");
        let nodes = headscale.nodes();
        assert!(!nodes.contains("web"), "it is still there: {nodes}\n{run}");
        assert!(!run.log().contains(&key), "the key is in the log");
        assert!(run.log().contains("this machine left the tailnet"), "{run}");
    });
}

#[test]
fn headscale_refuses_a_wrong_and_an_expired_key_and_the_app_is_told_which() {
    on_headscale(async |rig, headscale| {
        let expired = headscale.key("1s");
        // It counts from Headscale's own clock, by whole seconds.
        sleep(Duration::from_secs(2)).await;
        let wrong = format!("{}x", &expired[..expired.len() - 1]);
        for (what, key) in [("wrong", &wrong), ("expired", &expired)] {
            let mut run = Container::start(rig, &Headscale::url(), key);
            let told = eventually(&run, Duration::from_secs(15), async || {
                let note = run.tailscaled().await["note"].as_str()?.to_owned();
                note.contains("does not take").then_some(note)
            });
            let told = told.await;
            tell(&format!("{what} key: {told}"));
            assert!(told.contains("variable TS_AUTHKEY"), "{told}");
            assert!(told.contains(&Headscale::url()), "{told}");
            let answer = run.get("/ollama/api/version").await;
            assert_eq!(answer.status, 503);
            assert!(answer.text().contains("does not take"), "{}", answer.text());
            assert!(!run.log().contains(key.as_str()), "the key is in the log");
            run.leave();
            run.tell(Signal::TERM);
            assert_eq!(run.end().await, Some(3), "{run}");
        }
    });
}

#[test]
fn a_control_server_that_does_not_answer_is_named() {
    on_rig(async |rig| {
        let nobody = format!("http://{HUB}:1");
        let run = Container::start(rig, &nobody, "rig");
        let told = eventually(&run, Duration::from_secs(30), async || {
            let status = client::get(ADMIN, "/status").await.ok()?.json();
            let detail = status["tailnet"]["detail"].as_str()?.to_owned();
            detail.contains("cannot be asked").then_some(detail)
        });
        let told = told.await;
        tell(&format!("no control server: {told}"));
        assert!(told.contains(&nobody), "{told}");
    });
}

#[test]
fn the_shields_of_ours_are_down_for_as_long_as_somebody_may_come_in() {
    on_rig(async |rig| {
        // Where tailscaled hands nothing.
        let closed = routing(&control()).replace(&DATA.to_string(), "127.0.0.2:8484");
        let open = format!("{closed}[admin]\ntailnet = [\"ops@example.com\"]\n");
        let run = Container::with(rig, &open, "rig");
        run.until_ready().await;
        for (text, up) in [(&open, false), (&closed, true), (&open, false)] {
            std::fs::write(run.folder.join("routing.toml"), text).expect("a file");
            let what = format_args!("shields up: {up}\n{run}");
            eventually(what, Duration::from_secs(30), async || {
                let status = client::get(ADMIN, "/status").await.ok()?.json();
                (status["tailnet"]["shields_up"] == up).then_some(())
            })
            .await;
        }
    });
}

/// A `tailhop run` with an app, in the container.
struct Container {
    process: Process,
    folder: PathBuf,
}

impl Container {
    fn start(rig: &Rig, server: &str, key: &str) -> Self {
        Self::with(rig, &routing(server), key)
    }

    fn with(rig: &Rig, routing: &str, key: &str) -> Self {
        let folder = folder(rig, "run");
        let config = folder.join("routing.toml");
        std::fs::write(&config, routing).expect("routing.toml can be written");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", rig.cr.binaries().display());
        let mut command = Command::new(binary());
        command
            .env_clear()
            .envs(environment())
            .env("PATH", path)
            .env("TS_AUTHKEY", key)
            .env("XDG_RUNTIME_DIR", &folder)
            // As Cloud Run sets it: the app's, and never tailscaled's.
            .env("PORT", "8080")
            .env("LOG_LEVEL", "debug")
            .arg("run")
            .arg("--config")
            .arg(config)
            .args(["--", "sh", "-c", APP])
            .arg(&folder);
        let log = folder.join("log");
        let process = Process::start(&rig.cr.host, &mut command, &log).expect("tailhop starts");
        Self { process, folder }
    }

    async fn get(&self, path: &str) -> client::Answer {
        let answer = client::get(DATA, path).await;
        answer.unwrap_or_else(|why| panic!("{}\n{self}", why.0))
    }

    async fn until_ready(&self) {
        eventually(self, Duration::from_secs(20), async || {
            let ready = client::get(ADMIN, "/ready").await.ok()?;
            (ready.status == 200).then_some(())
        })
        .await;
    }

    async fn tailscaled(&self) -> serde_json::Value {
        let Ok(answer) = client::get(ADMIN, "/status").await else {
            return serde_json::Value::Null;
        };
        let children = answer.json()["children"].as_array().cloned();
        let named = |child: &serde_json::Value| child["name"] == "tailscaled";
        children
            .into_iter()
            .flatten()
            .find(named)
            .unwrap_or_default()
    }

    /// Tells tailhop alone, as a platform does.
    fn tell(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a number"), signal).expect("it runs");
    }

    /// The app may end.
    fn leave(&self) {
        std::fs::write(self.folder.join("leave"), "").expect("a file");
    }

    async fn end(&mut self) -> Option<i32> {
        self.process.end(Duration::from_secs(10)).await.code()
    }

    fn log(&self) -> String {
        self.process.log()
    }

    /// When what was reached, in ms since `began`.
    fn milestones(&self, began: Timestamp) -> String {
        let log = self.log();
        let at = |what: &str| {
            let line = log.lines().find(|line| line.contains(what))?;
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let at: Timestamp = line["time"].as_str()?.parse().ok()?;
            Some(at.duration_since(began).as_millis())
        };
        let parts = [
            ("listening", "\"message\":\"listening\""),
            ("tailscaled started", "tailscaled started"),
            ("app started", "app started"),
            ("logged in", "\"message\":\"logged in\""),
            ("tunnel up", "\"state\":\"up\""),
        ];
        let parts = parts.map(|(name, words)| match at(words) {
            Some(ms) => format!("{name} {ms}"),
            None => format!("{name} never"),
        });
        parts.join(", ")
    }
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.process.fmt(f)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The app and tailscaled lead groups of their own, and die with tailhop.
        self.process.kill();
    }
}

fn control() -> String {
    format!("http://{CONTROL}")
}

fn routing(server: &str) -> String {
    format!(
        "[listen]\ndata = \"{DATA}\"\nadmin = \"{ADMIN}\"\n\
         [tailnet]\nlogin_server = \"{server}\"\nhostname = \"web\"\n\
         [backends]\nmacbook-m1 = {{ host = \"m1\" }}\n[services]\nollama = {{}}\n"
    )
}

pub(crate) fn folder(rig: &Rig, name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static FOLDERS: AtomicUsize = AtomicUsize::new(1);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = rig.folder.join(format!("{name}-{number}"));
    std::fs::create_dir(&folder).expect("a folder");
    folder
}

/// A control server that honours keys, and logout.
struct Headscale {
    binary: PathBuf,
    folder: PathBuf,
    process: Process,
}

fn on_headscale(test: impl AsyncFnOnce(&mut Rig, &Headscale) + Send) {
    let binaries = match part("headscale") {
        Ok(binaries) => binaries,
        Err(why) => return skip(&why),
    };
    on_rig(async |rig| {
        let headscale = Headscale::start(rig, &binaries).await;
        test(rig, &headscale).await;
    });
}

impl Headscale {
    async fn start(rig: &Rig, binaries: &Path) -> Self {
        let folder = folder(rig, "headscale");
        std::fs::write(folder.join("config.yaml"), config(&folder)).expect("a file");
        std::fs::write(folder.join("derp.yaml"), DERP).expect("a file");
        let binary = binaries.join("headscale");
        let mut command = Command::new(&binary);
        command.env_clear().env("HOME", &folder).arg("--config");
        command.arg(folder.join("config.yaml")).arg("serve");
        let process = Process::start(rig.hub(), &mut command, &folder.join("log"));
        let headscale = Self {
            binary,
            folder,
            process: process.expect("headscale starts"),
        };
        let what = format_args!("headscale answers: {}", headscale.process);
        eventually(what, Duration::from_secs(30), async || {
            headscale.ask(&["users", "create", "rig"])
        })
        .await;
        headscale
    }

    fn url() -> String {
        format!("http://{HUB}:{HEADSCALE}")
    }

    /// A key that is good for so long.
    fn key(&self, expiration: &str) -> String {
        let arguments = [
            "preauthkeys",
            "create",
            "-u",
            "1",
            "--reusable",
            "--ephemeral",
            "-e",
        ];
        let arguments: Vec<_> = arguments.into_iter().chain([expiration]).collect();
        let said = self.ask(&arguments).expect("a key");
        said.lines().last().unwrap_or_default().trim().to_owned()
    }

    fn nodes(&self) -> String {
        self.ask(&["nodes", "list"]).expect("a list")
    }

    fn ask(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("HOME", &self.folder)
            .arg("--config");
        command.arg(self.folder.join("config.yaml")).args(arguments);
        let output = command.output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(said)
    }
}

/// A relay that nobody reaches: these tests dial no machine.
const DERP: &str = "regions:\n  900:\n    regionid: 900\n    regioncode: none\n    nodes:\n      \
    - {name: none, regionid: 900, hostname: 10.77.0.1, ipv4: 10.77.0.1, stunport: -1, derpport: 1}\n";

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "server_url: http://{HUB}:{HEADSCALE}\n\
         listen_addr: {HUB}:{HEADSCALE}\n\
         metrics_listen_addr: 127.0.0.1:0\n\
         grpc_listen_addr: 127.0.0.1:0\n\
         unix_socket: {folder}/h.sock\n\
         noise: {{ private_key_path: {folder}/noise.key }}\n\
         prefixes: {{ v4: 100.64.0.0/10, v6: 'fd7a:115c:a1e0::/48' }}\n\
         database: {{ type: sqlite, sqlite: {{ path: {folder}/db.sqlite }} }}\n\
         dns: {{ magic_dns: true, base_domain: rig.internal, override_local_dns: false, nameservers: {{ global: [] }} }}\n\
         derp: {{ urls: [], auto_update_enabled: false, paths: ['{folder}/derp.yaml'], server: {{ enabled: false }} }}\n\
         disable_check_updates: true\n\
         logtail: {{ enabled: false }}\n\
         policy: {{ mode: file, path: '' }}\n"
    )
}
