//! A node of the tailnet: a real tailscaled in userspace mode on one machine.
//!
//! Owns the process and its state folder. It can be frozen (as a Mac that sleeps), continued,
//! killed and started again, with its state or as a newcomer.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixStream;

use super::net::{self, Host};
use super::process::Process;
use super::wait::eventually;

/// Where the control server listens.
pub(crate) const CONTROL: &str = "10.77.0.1:9911";

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    /// The folder with `tailscaled` and `tailscale`.
    binaries: PathBuf,
    /// State, socket and log.
    folder: PathBuf,
    /// Where its SOCKS5 and HTTP proxy listens, if it has one.
    proxy: Option<SocketAddr>,
    daemon: Option<Process>,
}

impl Node {
    /// A node on `host`, not started yet.
    pub(crate) fn new(host: &Arc<Host>, binaries: &Path, run_folder: &Path) -> Self {
        let folder = run_folder.join(host.name);
        Self {
            host: Arc::clone(host),
            binaries: binaries.into(),
            folder,
            proxy: None,
            daemon: None,
        }
    }

    /// The same with a proxy, SOCKS5 and HTTP on one port.
    pub(crate) fn with_proxy(self, proxy: SocketAddr) -> Self {
        Self {
            proxy: Some(proxy),
            ..self
        }
    }

    /// The folder with `tailscaled` and `tailscale`.
    pub(crate) fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// The LocalAPI socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Starts tailscaled, logs in, and returns when it is Running.
    pub(crate) async fn start(&mut self) {
        std::fs::create_dir_all(self.state()).expect("a folder for the state");
        let log = self.folder.join("tailscaled.log");
        let daemon = Process::start(&self.host, &mut self.daemon_command(), &log);
        self.daemon = Some(daemon.expect("tailscaled starts"));
        let socket = self.socket();
        eventually(
            "tailscaled answers on its socket",
            Duration::from_secs(10),
            async || UnixStream::connect(&socket).await.ok(),
        )
        .await;
        self.log_in().await;
    }

    /// Lets it run again.
    pub(crate) fn thaw(&self) {
        self.daemon().signal(Signal::CONT);
    }

    /// Stops it where it stands, as sleep does to a Mac: no goodbye, and nothing answers.
    pub(crate) async fn freeze(&self) {
        self.daemon().freeze().await;
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.daemon = None;
    }

    /// Forgets who it was: the next start registers a new node.
    pub(crate) fn forget(&self) {
        assert!(self.daemon.is_none(), "a running node keeps its state");
        std::fs::remove_dir_all(self.state()).expect("the state can be removed");
    }

    /// Makes it run, whatever was done to it.
    pub(crate) async fn revive(&mut self) {
        let ended = self
            .daemon
            .as_mut()
            .is_none_or(|daemon| daemon.ended().is_some());
        if ended {
            self.start().await;
        } else {
            self.thaw();
        }
    }

    /// Its process.
    pub(crate) fn daemon(&self) -> &Process {
        self.daemon.as_ref().expect("the node was started")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Without a default route tailscaled believes that the network is down, and it would look
    /// for the real control server, captive portals and port mappers: the environment says no.
    fn daemon_command(&self) -> Command {
        let mut command = Command::new(self.binaries.join("tailscaled"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.state())
            .env("TS_LOGS_DIR", self.state())
            .envs(environment())
            .envs(std::env::var_os("TAILHOP_RIG_VERBOSE").map(|level| ("TS_LOG_VERBOSITY", level)))
            .args(["--tun=userspace-networking", "--port=0"])
            .arg(flag("--statedir", &self.state()))
            .arg(flag("--socket", &self.socket()));
        if let Some(proxy) = self.proxy {
            command.arg(format!("--socks5-server={proxy}"));
            command.arg(format!("--outbound-http-proxy-listen={proxy}"));
        }
        command
    }

    /// Lets nothing in from the tailnet any more, or lets it in again.
    pub(crate) async fn shields(&self, up: bool) {
        let mut command = self.tailscale();
        command.arg("set").arg(format!("--shields-up={up}"));
        let log = self.folder.join("set.log");
        let mut set = Process::start(&self.host, &mut command, &log).expect("tailscale starts");
        let status = set.end(Duration::from_secs(10)).await;
        assert!(
            status.success(),
            "tailscale set on {}: {set}",
            self.host.name
        );
    }

    fn tailscale(&self) -> Command {
        let mut command = Command::new(self.binaries.join("tailscale"));
        command
            .env_clear()
            .env("HOME", self.state())
            .stdin(Stdio::null())
            .arg(flag("--socket", &self.socket()));
        command
    }

    async fn log_in(&self) {
        let mut command = self.tailscale();
        command
            .args([
                "up",
                "--auth-key=rig",
                "--accept-dns=false",
                "--timeout=20s",
            ])
            .arg(format!("--login-server=http://{CONTROL}"))
            .arg(format!("--hostname={}", self.host.name));
        if self.proxy.is_some() {
            // The container's: nobody of the tailnet has business there.
            command.arg("--shields-up");
        }
        let log = self.folder.join("up.log");
        let mut up = Process::start(&self.host, &mut command, &log).expect("tailscale starts");
        let status = up.end(Duration::from_secs(30)).await;
        assert!(status.success(), "tailscale up on {}: {up}", self.host.name);
    }
}

/// What keeps a tailscaled from looking for anything outside of the rig.
pub(crate) fn environment() -> [(&'static str, String); 5] {
    let set = |name| (name, "1".to_owned());
    [
        set("TS_NO_LOGS_NO_SUPPORT"),
        set("TS_ASSUME_NETWORK_UP_FOR_TEST"),
        set("TS_DISABLE_PORTMAPPER"),
        set("TS_PANIC_IF_HIT_MAIN_CONTROL"),
        (
            "TS_NETCHECK_GENERATE_204_URL",
            format!("http://{CONTROL}/generate_204"),
        ),
    ]
}

/// The control server, with relay and STUN.
#[derive(Debug)]
pub(crate) struct Control {
    /// Runs until the rig ends.
    _process: Process,
}

impl Control {
    /// Starts it on the hub, and returns when it listens.
    pub(crate) async fn start(hub: &Host, binaries: &Path, run_folder: &Path) -> Self {
        debug_assert!(CONTROL.starts_with(net::HUB));
        let mut command = Command::new(binaries.join("control"));
        command
            .env_clear()
            .env("HOME", run_folder)
            .arg(format!("-listen={CONTROL}"));
        let log = run_folder.join("control.log");
        let process = Process::start(hub, &mut command, &log).expect("the control server starts");
        eventually(
            "the control server is ready",
            Duration::from_secs(10),
            async || process.log().contains("ready http://").then_some(()),
        )
        .await;
        Self { _process: process }
    }
}

fn flag(name: &str, path: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}
