//! A folder with the stand-ins, a configuration, and the tailhop that runs on it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine; what hangs fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at a fact.
const LOOK: Duration = Duration::from_millis(10);

/// One test's folder and addresses.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Stage {
    /// With a Mac that answers at once; `more` is added to the configuration.
    pub(crate) fn new(more: &str) -> Self {
        Self::with_mac(mac(Duration::ZERO), more)
    }

    pub(crate) fn with_mac(mac: SocketAddr, more: &str) -> Self {
        let stage = Self {
            folder: tempfile::tempdir().unwrap(),
            data: unused(),
            admin: unused(),
        };
        for name in ["tailscaled", "app"] {
            let source = format!("{}/tests/supervise/{name}.py", env!("CARGO_MANIFEST_DIR"));
            fs::copy(source, stage.path(name)).unwrap();
        }
        let (data, admin, port) = (stage.data, stage.admin, mac.port());
        let stop = if more.contains("[run]") {
            ""
        } else {
            "[run]\nstop = \"2s\"\n"
        };
        let text = format!(
            "[listen]\ndata = \"{data}\"\nadmin = \"{admin}\"\n[backends]\nm1 = {{}}\n\
             [services]\nollama = {{ port = {port} }}\n{stop}{more}"
        );
        fs::write(stage.path("routing.toml"), text).unwrap();
        stage
    }

    /// What tailscaled does from its next start on.
    pub(crate) fn set_mode(&self, mode: &str) {
        fs::write(self.path("tailscaled.mode"), mode).unwrap();
    }

    pub(crate) fn mode(self, mode: &str) -> Self {
        self.set_mode(mode);
        self
    }

    /// Adds to the configuration.
    pub(crate) fn add(&self, more: &str) {
        let file = fs::File::options()
            .append(true)
            .open(self.path("routing.toml"));
        file.unwrap().write_all(more.as_bytes()).unwrap();
    }

    /// Puts a program on `PATH`.
    pub(crate) fn program(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command_without_app(&self) -> Command {
        self.command_of(Command::new(env!("CARGO_BIN_EXE_tailhop")))
    }

    fn command_of(&self, mut command: Command) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(["run", "--config"])
            .arg(self.path("routing.toml"))
            .env_clear()
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("TMPDIR", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("TS_AUTHKEY", "tskey-auth-usual")
            .stdin(Stdio::null());
        command
    }

    /// `tailhop run` with the app.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.with_app(self.command_without_app(), words)
    }

    fn with_app(&self, mut command: Command, words: &[&str]) -> Command {
        command
            .args(["--", "app"])
            .arg(self.path("app.did"))
            .args(words);
        command
    }

    /// The same, started with this soft limit of descriptors.
    pub(crate) fn command_with_descriptors(&self, soft: u32, words: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -S -n {soft}; exec \"$@\"");
        shell.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_tailhop")]);
        self.with_app(self.command_of(shell), words)
    }

    /// Runs it with the app, and returns when both are there: before, a signal ends the app at once.
    pub(crate) fn run(&self, words: &[&str]) -> Run {
        let run = self.start(self.command(words));
        self.until_app_did("started");
        run
    }

    pub(crate) fn start(&self, mut command: Command) -> Run {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (to, pipe) = (Arc::clone(&log), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                *to.lock().unwrap() += &(line + "\n");
            }
        });
        let run = Run {
            child,
            log,
            data: self.data,
            admin: self.admin,
        };
        run.until_said("\"listening\"");
        run
    }

    /// What tailscaled did, a line each.
    pub(crate) fn did(&self) -> String {
        fs::read_to_string(self.path("tailscaled.did")).unwrap_or_default()
    }

    pub(crate) fn app_did(&self) -> String {
        fs::read_to_string(self.path("app.did")).unwrap_or_default()
    }

    pub(crate) fn until_did(&self, what: &str) -> String {
        line_with(what, || self.did())
    }

    pub(crate) fn until_did_times(&self, what: &str, times: usize) {
        until(what, || self.did().matches(what).count() >= times);
    }

    pub(crate) fn until_app_did(&self, what: &str) -> String {
        line_with(what, || self.app_did())
    }

    /// The last tailscaled that was started.
    pub(crate) fn tailscaled_pid(&self) -> u32 {
        pid_in(&self.did())
    }

    pub(crate) fn app_pid(&self) -> u32 {
        self.until_app_did("started");
        pid_in(&self.app_did())
    }

    pub(crate) fn kill_tailscaled(&self, signal: Signal) {
        kill(self.tailscaled_pid(), signal);
    }

    pub(crate) fn kill_app(&self, signal: Signal) {
        kill(self.app_pid(), signal);
    }

    /// Returns when nothing that was started here runs any more.
    pub(crate) fn until_all_gone(&self) {
        let logs = self.did() + &self.app_did();
        let pids = logs
            .lines()
            .filter_map(|line| line.strip_prefix("started "));
        let pids: Vec<u32> = pids.map(first_number).collect();
        until("nobody is left", || !pids.iter().any(|pid| alive(*pid)));
    }
}

fn pid_in(log: &str) -> u32 {
    let mut lines = (log.lines().rev()).filter_map(|line| line.strip_prefix("started "));
    first_number(lines.next().unwrap())
}

fn first_number(text: &str) -> u32 {
    text.split(' ').next().unwrap().parse().unwrap()
}

fn line_with(what: &str, text: impl Fn() -> String) -> String {
    let mut line = None;
    until(what, || {
        // A line that is half written is not there yet.
        let text = text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        line = whole
            .lines()
            .find(|line| line.starts_with(what))
            .map(str::to_owned);
        line.is_some()
    });
    line.unwrap()
}

/// Looks until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        pause(LOOK);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime is here to be stalled"
)]
fn pause(length: Duration) {
    thread::sleep(length);
}

/// Whether a process runs; a dead one that nobody took up does not.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A tailhop that listens; killed at the end of its test, and with it what it started.
pub(crate) struct Run {
    child: Child,
    log: Arc<Mutex<String>>,
    data: SocketAddr,
    admin: SocketAddr,
}

impl Run {
    pub(crate) fn get(&self, path: &str) -> String {
        get(self.data, path)
    }

    pub(crate) fn admin(&self, path: &str) -> String {
        get(self.admin, path)
    }

    /// What `/status` says of a child.
    pub(crate) fn child(&self, name: &str) -> Option<Value> {
        let answer = self.admin("/status");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: Value = serde_json::from_str(body).unwrap();
        let children = status["children"].as_array()?;
        children.iter().find(|child| child["name"] == name).cloned()
    }

    pub(crate) fn until_ready(&self) {
        until(&format!("ready\n{}", self.log()), || {
            self.admin("/ready").starts_with("HTTP/1.1 200")
        });
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for these words; the line that has them.
    pub(crate) fn until_said(&self, words: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "never said: {words}\n{log}");
            pause(LOOK);
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// Its code, if it ends in time.
    pub(crate) fn ended_within(&mut self, within: Duration) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < within, "it goes on\n{}", self.log());
            pause(LOOK);
        }
    }

    /// Sends a signal and waits for the end, as long as a container would.
    pub(crate) fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.ended_within(Duration::from_secs(10))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What it started dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end, which must have this code; what it said.
pub(crate) fn ended(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// A Mac that answers everything with 200 `{}`, the body after `slow`.
pub(crate) fn mac(slow: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream, slow));
        }
    });
    address
}

fn answer(mut stream: TcpStream, slow: Duration) {
    let head = BufReader::new(&stream).lines().map_while(Result::ok);
    if head.take_while(|line| !line.is_empty()).count() > 0 {
        // Who asked may have left.
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n",
        );
        pause(slow);
        let _ = stream.write_all(b"{}");
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// An address where nobody listens.
pub(crate) fn unused() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
