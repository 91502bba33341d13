//! tailhop itself: the binary, run in the container with a `routing.toml` of the test.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;

use super::client::{self, Answer};
use super::process::Process;
use super::rig::{PROXY, Rig};

/// The app's address.
pub(crate) const DATA: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8484);
/// Metrics, health and status.
pub(crate) const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9484);

/// Where clients look for Ollama and Qdrant when they are told nothing.
pub(crate) const OWN_OLLAMA: &str = "127.0.0.1:11434";
/// The same for Qdrant.
pub(crate) const OWN_QDRANT: &str = "127.0.0.1:6333";
/// The same for its gRPC.
pub(crate) const OWN_QDRANT_GRPC: &str = "127.0.0.1:6334";
/// The port of the object store on both Macs.
pub(crate) const STORAGE: u16 = 9000;
/// Its route, of which nothing is changed.
pub(crate) const BUCKET: &str = "tailhop-files";

/// What differs between the files of the tests.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    /// `tailnet.dial`.
    pub(crate) dial: &'static str,
    /// The hosts of the two backends.
    pub(crate) hosts: [&'static str; 2],
    /// When the second backend becomes active.
    pub(crate) switch_at: String,
    /// Whether the services have addresses of their own.
    pub(crate) own_addresses: bool,
    /// Whether there is what the Python clients want besides: an object store on both Macs, and
    /// embeddings that are kept.
    pub(crate) store: bool,
    /// `admin.tailnet`; with somebody there, the data address is on 127.0.0.2.
    pub(crate) admins: Vec<String>,
    /// `tailnet.repair`.
    pub(crate) repair: bool,
    /// `timeouts.head`, where it is not the default.
    pub(crate) head: Option<&'static str>,
    /// The user that tailhop runs as, instead of tailscaled's.
    pub(crate) user: Option<u32>,
}

impl Default for Routing {
    /// Both Macs over LocalAPI, and a switch that nobody lives to see.
    fn default() -> Self {
        Self {
            dial: "localapi",
            hosts: ["m1", "m2"],
            switch_at: "2099-01-01".into(),
            own_addresses: false,
            store: false,
            admins: Vec::new(),
            repair: true,
            head: None,
            user: None,
        }
    }
}

/// A running tailhop, killed when dropped.
#[derive(Debug)]
pub(crate) struct Hop {
    process: Process,
}

impl Hop {
    /// Starts it, and returns when `/ready` says 200.
    pub(crate) async fn start(rig: &Rig, routing: &Routing) -> Self {
        let mut hop = Self::spawn(rig, routing);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !client::get(ADMIN, "/ready")
            .await
            .is_ok_and(|ready| ready.status == 200)
        {
            let waiting = tokio::time::Instant::now() < deadline;
            let ended = hop.process.ended();
            assert!(
                ended.is_none(),
                "tailhop ended with {ended:?} before it was ready\n{hop}"
            );
            assert!(waiting, "tailhop is not ready\n{hop}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hop
    }

    fn spawn(rig: &Rig, routing: &Routing) -> Self {
        static RUNS: AtomicUsize = AtomicUsize::new(1);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let folder = rig.folder.join(format!("tailhop-{run}"));
        std::fs::create_dir(&folder).expect("a folder for this tailhop");
        let config = folder.join("routing.toml");
        std::fs::write(&config, routing.file(rig)).expect("routing.toml can be written");

        let mut command = Command::new(binary());
        command.env_clear().arg("run").arg("--config").arg(config);
        if let Some(level) = std::env::var_os("LOG_LEVEL") {
            command.env("LOG_LEVEL", level);
        }
        if let Some(user) = routing.user {
            command.uid(user);
        }
        let process = Process::start(&rig.cr.host, &mut command, &folder.join("log"));
        Self {
            process: process.expect("tailhop starts"),
        }
    }

    /// Asks as the app would; no answer at all is a failure.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    /// The same with a method and a body.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &str) -> Answer {
        let answer = client::send(DATA, method, path, body).await;
        answer.unwrap_or_else(|why| panic!("{}\n{self}", why.0))
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The sum of a metric family over all labels that contain `label`.
    pub(crate) async fn metric(&self, family: &str, label: &str) -> f64 {
        let text = client::get(ADMIN, "/metrics").await;
        let text = text.unwrap_or_else(|why| panic!("{}\n{self}", why.0));
        let of_family = |line: &&str| line.starts_with(family) && line.contains(label);
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        let lines = text.text().lines().filter(of_family);
        lines.filter_map(value).sum()
    }

    /// Open descriptors and resident KiB.
    pub(crate) fn holds(&self) -> (usize, usize) {
        let pid = self.process.id();
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().split(' ').next()?.parse().ok());
        (descriptors, resident.unwrap_or(0))
    }

    /// The longest that a request took by tailhop's own access log, in milliseconds: what a client
    /// saw beyond that is the client's own, or the machine's.
    pub(crate) fn slowest_ms(&self) -> f64 {
        let log = self.process.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let took = lines.filter_map(|line: serde_json::Value| line["total_ms"].as_f64());
        took.fold(0.0, f64::max)
    }

    /// The verdict and its evidence of a backend's service.
    pub(crate) async fn verdict(&self, service: &str, backend: &str) -> (String, String) {
        let status = self.status().await;
        let services = status["services"].as_array().cloned().unwrap_or_default();
        let named = |all: &[serde_json::Value], name: &str| {
            all.iter().find(|one| one["name"] == name).cloned()
        };
        let service = named(&services, service).unwrap_or_default();
        let backends = service["backends"].as_array().cloned().unwrap_or_default();
        let backend = named(&backends, backend).unwrap_or_default();
        let word = |key: &str| backend[key].as_str().unwrap_or_default().to_owned();
        (word("verdict"), word("evidence"))
    }

    /// The JSON of `/status`.
    pub(crate) async fn status(&self) -> serde_json::Value {
        let answer = client::get(ADMIN, "/status").await;
        answer
            .unwrap_or_else(|why| panic!("{}\n{self}", why.0))
            .json()
    }
}

/// Its last words, for the message of a failure.
impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.process.fmt(f)
    }
}

impl Routing {
    /// Its text.
    pub(crate) fn file(&self, rig: &Rig) -> String {
        let Self {
            dial,
            hosts: [first, second],
            switch_at,
            own_addresses,
            store,
            admins,
            repair,
            head,
            ..
        } = self;
        let head = head.map(|head| format!("[timeouts]\nhead = \"{head}\""));
        let head = head.unwrap_or_default();
        let mut data = DATA;
        if !admins.is_empty() {
            data.set_ip([127, 0, 0, 2].into());
        }
        let own = |key: &str, address: &str| {
            let listen = format!("{key} = \"{address}\"");
            own_addresses.then_some(listen).unwrap_or_default()
        };
        let comma = if *own_addresses { "," } else { "" };
        let cache = if *store { "cache = {}, " } else { "" };
        let store = store.then(routes_with_store).unwrap_or_default();
        let socket = rig.cr.socket();
        format!(
            r#"
            [listen]
            data  = "{data}"
            admin = "{ADMIN}"

            [admin]
            tailnet = {admins:?}

            [tailnet]
            dial   = "{dial}"
            socket = "{socket}"
            proxy  = "{PROXY}"
            repair = {repair}

            [backends]
            macbook-m1 = {{ host = "{first}" }}
            mac-dev1   = {{ host = "{second}" }}

            [services]
            ollama = {{ {cache}{ollama} }}
            qdrant = {{ {qdrant}{comma} {qdrant_grpc} }}
            {store}
            {head}

            [schedule]
            timezone = "Asia/Tokyo"
            default  = "macbook-m1"
            switch   = [{{ at = {switch_at}, to = "mac-dev1" }}]
            "#,
            socket = socket.display(),
            ollama = own("listen", OWN_OLLAMA),
            qdrant = own("listen", OWN_QDRANT),
            qdrant_grpc = own("listen_grpc", OWN_QDRANT_GRPC),
        )
    }
}

/// A service more, and the routes that there are with it.
fn routes_with_store() -> String {
    let plain = |service| format!("[[routes]]\npath = \"/{service}\"\nservice = \"{service}\"\n");
    format!(
        "storage = {{ kind = \"http\", port = {STORAGE} }}\n{}{}{}strip = false\nhost = \"preserve\"\n",
        plain("ollama"),
        plain("qdrant"),
        format_args!("[[routes]]\npath = \"/{BUCKET}\"\nservice = \"storage\"\n"),
    )
}

/// The binary under test: of this build, unless told otherwise.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("TAILHOP_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_tailhop").into(), PathBuf::from)
}
