//! What a demo runs: the stand-in Macs, the proxy before them, and its file.
//!
//! The proxy is the whole one, built from a file as `run` builds it, on threads of its own.

use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::super::run::render;
use super::folder::Folder;
use super::mac::{Mac, Ports};
use super::power;
use crate::app::{App, StartError};
use crate::config::Environment;
use crate::config::defaults;
use crate::reload::Inputs;
use crate::reload::watch::Mode;
use crate::request::record::{AccessLog, Form};
use crate::words::clock::Clock;

/// The Mac that is active at first.
pub(super) const ACTIVE: &str = "macbook-m1";
/// The other one.
pub(super) const OTHER: &str = "mac-dev1";

/// The ports that the real services have: what is shown then looks like the real thing.
const USUAL: Ports = Ports {
    ollama: 11_434,
    qdrant: 6333,
};
/// Where the Macs are switched.
const POWER: u16 = 8494;
/// Tries to find a port that is free on both addresses.
const TRIES: usize = 64;
/// Requests that run at the end have this long.
const DRAIN: Duration = Duration::from_secs(2);

/// Everything that runs.
pub(super) struct Stage {
    /// The proxy's file.
    pub(super) file: PathBuf,
    /// Where the proxy listens.
    pub(super) data: SocketAddr,
    /// Where it is asked how it is.
    pub(super) admin: SocketAddr,
    /// Where the Macs are switched.
    pub(super) power: SocketAddr,
    /// The active one first.
    pub(super) macs: [Arc<Mac>; 2],
    /// Where their services are.
    pub(super) ports: Ports,
    /// What is not where it usually is.
    pub(super) notes: Vec<String>,
    draining: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
    /// Dropped last: the proxy watches it.
    _folder: Folder,
}

impl Stage {
    /// Starts everything; `lines` tells whether requests are printed.
    pub(super) async fn set(lines: bool) -> Result<Self, String> {
        let folder = Folder::new()?;
        let file = folder.path().join("routing.toml");
        let mut notes = Vec::new();
        let (macs, ports) = macs(&mut notes)?;
        let power = switches(&macs, ports, &mut notes)?;
        let (app, data, admin) = proxy(&file, &macs, ports, &mut notes).await?;
        let (draining, ended) = start(app, lines).map_err(|error| error.to_string())?;
        Ok(Self {
            file,
            data,
            admin,
            power,
            macs,
            ports,
            notes,
            draining,
            ended,
            _folder: folder,
        })
    }

    /// The file, with another active Mac, or with a switch to come.
    pub(super) fn routing(&self, default: &str, switch: Option<Timestamp>) -> String {
        routing(
            self.data, self.admin, &self.macs, self.ports, default, switch,
        )
    }

    /// Lets requests end and takes everything down.
    pub(super) async fn strike(self) {
        self.draining.send_replace(true);
        // A request that lasts longer ends with the process.
        let _ = timeout(DRAIN, self.ended).await;
    }
}

/// The proxy, on addresses that are free, and its file.
async fn proxy(
    file: &Path,
    macs: &[Arc<Mac>; 2],
    ports: Ports,
    notes: &mut Vec<String>,
) -> Result<(App, SocketAddr, SocketAddr), String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let mut found = Vec::new();
        let data = free(defaults::LISTEN.data, &mut found)?;
        let admin = free(defaults::LISTEN.admin, &mut found)?;
        let text = routing(data, admin, macs, ports, ACTIVE, None);
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        match App::build(inputs(file.to_owned()), Clock::system(), "demo".to_owned()).await {
            Ok(app) => {
                notes.append(&mut found);
                return Ok((app, data, admin));
            }
            // Somebody took it since it was found free.
            Err(error @ StartError::Listen { .. }) => last = describe(&error),
            Err(error) => return Err(describe(&error)),
        }
    }
    Err(last)
}

fn routing(
    data: SocketAddr,
    admin: SocketAddr,
    macs: &[Arc<Mac>; 2],
    ports: Ports,
    default: &str,
    switch: Option<Timestamp>,
) -> String {
    let Ports { ollama, qdrant } = ports;
    let [one, other] = macs
        .each_ref()
        .map(|mac| format!("{} = {{ host = \"{}\" }}", mac.name, mac.ip));
    let switch = switch.map_or_else(String::new, |at| {
        format!("switch = [{{ at = {at}, to = \"{OTHER}\" }}]\n")
    });
    format!(
        "# The file of this demo: edit it, and see what changes.\n\
         [listen]\ndata = \"{data}\"\nadmin = \"{admin}\"\n\n\
         [tailnet]\ndial = \"direct\"   # the stand-in Macs are on this machine\n\n\
         [backends]\n{one}\n{other}\n\n\
         [services]\nollama = {{ port = {ollama} }}\nqdrant = {{ port = {qdrant} }}\n\n\
         [schedule]\ndefault = \"{default}\"\n{switch}"
    )
}

fn inputs(truth: PathBuf) -> Inputs {
    Inputs {
        truth,
        stand_in: None,
        environment: Environment::default(),
        mode: Mode::Auto,
    }
}

/// Two Macs on two addresses, and ports that are free on both.
fn macs(notes: &mut Vec<String>) -> Result<([Arc<Mac>; 2], Ports), String> {
    let ips = addresses().ok_or("this machine has no two loopback addresses to listen on")?;
    let ports = Ports {
        ollama: shared(ips, USUAL.ollama)?,
        qdrant: shared(ips, USUAL.qdrant)?,
    };
    for (name, usual, port) in [
        ("Ollama", USUAL.ollama, ports.ollama),
        ("Qdrant", USUAL.qdrant, ports.qdrant),
    ] {
        if port != usual {
            notes.push(format!(
                "port {usual} is taken, so the stand-ins of {name} are on {port}"
            ));
        }
    }
    Ok(([Mac::new(ACTIVE, ips[0]), Mac::new(OTHER, ips[1])], ports))
}

/// Linux has all of 127.0.0.0/8; macOS has 127.0.0.1 and `::1`.
fn addresses() -> Option<[IpAddr; 2]> {
    let pairs = [
        [
            Ipv4Addr::new(127, 0, 0, 2).into(),
            Ipv4Addr::new(127, 0, 0, 3).into(),
        ],
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    ];
    pairs
        .into_iter()
        .find(|ips: &[IpAddr; 2]| ips.iter().all(|ip| bind(*ip, 0).is_ok()))
}

/// A port that is free on both addresses, `usual` if it is.
fn shared(ips: [IpAddr; 2], usual: u16) -> Result<u16, String> {
    for port in std::iter::once(usual).chain(std::iter::repeat_n(0, TRIES)) {
        let port = bind(ips[0], port).and_then(|listener| listener.local_addr());
        if let Ok(address) = port
            && bind(ips[1], address.port()).is_ok()
        {
            return Ok(address.port());
        }
    }
    Err(format!("no port is free on both {} and {}", ips[0], ips[1]))
}

/// An address that is free now, `usual` if it is.
fn free(usual: SocketAddr, notes: &mut Vec<String>) -> Result<SocketAddr, String> {
    if bind(usual.ip(), usual.port()).is_ok() {
        return Ok(usual);
    }
    let found = bind(usual.ip(), 0).and_then(|listener| listener.local_addr());
    let found = found.map_err(|error| format!("no port is free on {}: {error}", usual.ip()))?;
    notes.push(format!("{usual} is taken, so tailhop is on {found}"));
    Ok(found)
}

fn bind(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(ip, port))
}

/// Starts the Macs on a thread of theirs, with their switches, and tells where those are.
fn switches(
    macs: &[Arc<Mac>; 2],
    ports: Ports,
    notes: &mut Vec<String>,
) -> Result<SocketAddr, String> {
    let address = free(SocketAddr::from((Ipv4Addr::LOCALHOST, POWER)), notes)?;
    let serve = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let macs: Arc<[Arc<Mac>]> = Arc::from(macs.as_slice());
        on_thread("stand-ins", move || async move {
            for mac in macs.iter() {
                tokio::spawn(Arc::clone(mac).serve(ports));
            }
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                power::serve(listener, macs).await;
            }
        })
    };
    serve().map_err(|error: io::Error| error.to_string())?;
    Ok(address)
}

/// Starts the proxy on its two threads.
fn start(app: App, lines: bool) -> io::Result<(watch::Sender<bool>, oneshot::Receiver<()>)> {
    let form = Form::of(&Environment::default(), io::stdout().is_terminal());
    let log = if lines {
        AccessLog::stdout(form, app.metrics())?.0
    } else {
        let (log, unread) = AccessLog::channel(app.metrics());
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || unread.iter().for_each(drop))?;
        log
    };
    let (data, control, draining) = app.split(log);
    let (tell, ended) = oneshot::channel();
    on_thread("data", move || async move {
        // It serves until it drains; who waits for that may be gone.
        let _ = data.serve().await;
        let _ = tell.send(());
    })?;
    on_thread("control", move || async move {
        let _ = control.run().await;
    })?;
    Ok((draining, ended))
}

/// Runs `work` on a thread with a runtime of its own.
fn on_thread<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work()))?;
    Ok(())
}

fn describe(error: &StartError) -> String {
    match error {
        StartError::Config(report) => render(report),
        StartError::Listen {
            key,
            address,
            error,
        } => {
            format!("{key}: cannot listen on {address}: {error}")
        }
        StartError::Port { address, .. } => format!("PORT is that of {address}"),
        StartError::Machine(error) => error.to_string(),
    }
}
