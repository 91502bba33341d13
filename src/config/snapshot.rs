//! The immutable result of reading the configuration: what every request and every probe obeys.
//!
//! Owns the validated shape only. Invariant: what cannot be right cannot be built, so nothing
//! downstream checks again: indices are in range, every service has at least one backend,
//! switches are sorted by time, routes by length, times are instants. All durations are
//! `Duration`, all instants `Timestamp`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;

use super::paths::Routes;
use super::problem::Problem;
use crate::api::models::Model;
use crate::api::rules::Rule;
use crate::words::names::{BackendName, Kind, ServiceName};
use crate::words::secret::Secret;

/// Which backend: its place in [`Snapshot::backends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub usize);

/// Which service: its place in [`Snapshot::services`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub usize);

/// One validated configuration.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up by one with every snapshot that was swapped in; the first is 1.
    pub generation: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Addresses we accept on. A change needs a restart.
    pub listen: Listen,
    /// What a client of any data listener has to present, if anything.
    pub token: Option<Secret>,
    /// Who may ask the admin listener for what.
    pub admin: Admin,
    /// How to reach the tailnet.
    pub tailnet: Tailnet,
    /// What `tailhop run` does besides serving.
    pub run: Run,
    /// Of requests that went well, one in so many has an access line; all others have one.
    pub log_sample: u16,
    /// Machines, in the order of the file.
    pub backends: Vec<Backend>,
    /// Services, in the order of the file.
    pub services: Vec<Service>,
    /// By path, longest first.
    pub routes: Routes,
    /// Who is active when.
    pub schedule: Schedule,
    /// Orders in the file that make a backend active until they expire.
    pub pins: Vec<Pin>,
    /// `ACTIVE_BACKEND`: the emergency order, which beats pins and schedule.
    pub active_backend: Option<BackendId>,
    /// What is odd and still valid, such as `SWITCH_DATE` replacing a switch of the file.
    pub warnings: Vec<Problem>,
    /// Files that it was read from besides its own: secrets and roots of trust.
    pub files: Vec<PathBuf>,
}

/// Where a snapshot came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file it was read from.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub hash: String,
    /// Whether this is the copy that stands in for a first `--config` that is invalid or missing.
    /// Its schedule may be stale, so it does not say who owns the writes of data services.
    pub stand_in: bool,
}

/// Addresses we accept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The app's.
    pub data: SocketAddr,
    /// Metrics, health and status.
    pub admin: SocketAddr,
}

/// Who may ask the admin listener for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Who of the tailnet may read and give orders: login names, or tags with `tag:`.
    pub tailnet: Vec<String>,
    /// Bearer tokens.
    pub tokens: Vec<Token>,
    /// Names that a request's Host may have, besides addresses, `localhost` and this machine's
    /// name in the tailnet. In small letters.
    pub hosts: Vec<String>,
    /// `ADMIN_FUNCTIONS_ENABLED`: whether orders are taken at all.
    pub functions: bool,
}

/// A bearer token of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who presents it, in outputs.
    pub name: String,
    /// What is presented.
    pub secret: Secret,
    /// What it is good for.
    pub scope: Scope,
}

/// What somebody may do at the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Read everything that is shown.
    Read,
    /// Give orders too, and reload.
    Orders,
}

/// How to reach the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tailnet {
    /// MagicDNS suffix without dots at its ends, such as `tail1234.ts.net`. `None`: ask tailscaled.
    pub suffix: Option<String>,
    /// Which way to dial.
    pub dial: DialWay,
    /// tailscaled's LocalAPI socket.
    pub socket: PathBuf,
    /// tailscaled's SOCKS5 and HTTP proxy.
    pub proxy: SocketAddr,
    /// Whether the tunnel may be repaired through LocalAPI.
    pub repair: bool,
}

/// What `tailhop run` does besides serving: which processes it starts, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whether tailscaled is started, and which one.
    pub tailscaled: Tailscaled,
    /// How it logs in.
    pub login: Login,
    /// From the first signal to the end of the process, at most.
    pub stop: Duration,
}

/// Whether tailscaled is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tailscaled {
    /// With an app to start, where one is found, a backend needs it and none answers yet.
    Auto,
    /// Never.
    Off,
    /// Always: the program of this name or path.
    Program(PathBuf),
}

/// How a tailscaled that we started becomes a machine of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What admits it; `None`: there is nothing.
    pub credential: Option<Credential>,
    /// The machine's name.
    pub hostname: String,
    /// Its tags, such as `tag:tailhop`.
    pub tags: Vec<String>,
    /// The control server; `None`: Tailscale's own.
    pub server: Option<String>,
    /// Whether it lets nobody of the tailnet in, as nobody is named in `admin.tailnet`.
    pub shields: bool,
}

/// What admits a machine to the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An auth key or the secret of an OAuth client, in this variable; `None`: it is not set.
    Env(String, Option<Secret>),
    /// The same in this file, which is read when it is needed.
    File(PathBuf),
    /// Workload identity: the platform vouches for us.
    Identity {
        /// The client's id in the tailnet's settings.
        client_id: String,
        /// For whom the platform's token is made out; `None`: Tailscale's default.
        audience: Option<String>,
    },
}

/// Which way to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialWay {
    /// The first of the three tailnet ways that tailscaled offers.
    Auto,
    /// LocalAPI `dial` on tailscaled's socket.
    LocalApi,
    /// CONNECT through tailscaled's HTTP proxy.
    HttpConnect,
    /// tailscaled's SOCKS5 proxy.
    Socks5,
    /// Straight from this host: no tailnet.
    Direct,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name in outputs and orders.
    pub name: BackendName,
    /// What is dialled: a short or full MagicDNS name, or an IP; of a `url` its host.
    pub host: Arc<str>,
    /// The origin of the one service that it offers, if it is given by one.
    pub url: Option<Arc<Url>>,
    /// Which network leads to it.
    pub network: Network,
    /// The order, if any, that no new work goes to it.
    pub drain: Option<Drain>,
}

/// An origin, and what a request to it takes along. All of it is of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is `https`.
    pub secure: bool,
    /// Its port, written or not.
    pub port: u16,
    /// Host and port as a Host header has them: without the port that the scheme has anyway.
    pub authority: String,
    /// Headers that a request to it gets, whatever the client sent under those names.
    pub headers: Vec<(HeaderName, Secret)>,
    /// What a read gets instead of them while another backend is the active one, and what our own
    /// questions get; `None`: the same.
    pub read_headers: Option<Vec<(HeaderName, Secret)>>,
    /// Whom to trust; `None`: the public roots.
    pub roots: Option<Vec<CertificateDer<'static>>>,
}

/// Which network leads to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// The tailnet, in the way of `tailnet.dial`.
    Tailnet,
    /// That of this host.
    Direct,
}

/// An order that no new work goes to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it ends; `None`: when it is removed.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Who ordered it.
    pub by: Option<String>,
}

/// One API that backends offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What we know of it.
    pub kind: Kind,
    /// Its port on every backend.
    pub port: u16,
    /// What may be sent to a backend that is not the active one.
    pub fallback: Fallback,
    /// Without it a backend takes no reads and no inference.
    pub require: Require,
    /// How many embeddings are kept.
    pub cache: Option<Cache>,
    /// Whether a planned switch waits for a backend that is known to lack what is required.
    pub holds_switch: bool,
    /// Models that are loaded before they are asked for.
    pub prewarm: Vec<Model>,
    /// Whom inference prefers.
    pub policy: Policy,
    /// How many inferences each backend works on at once; `None`: as many as come.
    pub limit: Option<Limit>,
    /// The bounds of its requests.
    pub timeouts: Timeouts,
    /// The backends that offer it, in the order of the file.
    pub backends: Vec<BackendId>,
    /// An address of its own, without a prefix. A change needs a restart.
    pub listen: Option<SocketAddr>,
    /// The address for its gRPC, where it has one. A change needs a restart.
    pub listen_grpc: Option<SocketAddr>,
    /// Its gRPC port on every backend, of a kind that speaks it.
    pub grpc_port: Option<u16>,
    /// The route of requests that come there: path `/`.
    pub whole: Route,
}

/// What a backend must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Require {
    /// Models, of kind `ollama`.
    pub models: Vec<Model>,
    /// Collections or aliases, of kind `qdrant`.
    pub collections: Vec<String>,
    /// Points in each of them, at least.
    pub min_points: u64,
}

impl Require {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty() && self.collections.is_empty()
    }
}

/// How many embeddings are kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// So many.
    pub entries: u16,
    /// In so many millions of bytes.
    pub megabytes: u16,
    /// For so long.
    pub ttl: Duration,
}

/// Whom inference prefers among the backends that may take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The active one.
    Active,
    /// The one that will begin with it first.
    LeastLoaded,
}

/// How many inferences a backend works on at once, and how many wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// At work at once.
    pub in_flight: usize,
    /// Waiting, at most.
    pub queue: usize,
    /// How long one waits, at most.
    pub wait: Duration,
    /// Whether one that finds the active backend's line full goes to another one.
    pub spill: bool,
}

/// What may be sent to a backend that is not the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// Reads and inference.
    All,
    /// Reads.
    Reads,
    /// Nothing.
    None,
}

/// The bounds of a request, all in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A dial's head start before a second one begins; adapted to each endpoint's own dials.
    pub race: Duration,
    /// One dial.
    pub connect: Duration,
    /// How long a request that no candidate can take waits before its 503.
    pub wait: Duration,
    /// How long a request waits for a tailscaled that is starting.
    pub start: Duration,
    /// From the request sent to the answer's head, for inference.
    pub head_inference: Duration,
    /// The same for reads.
    pub head_read: Duration,
    /// The same for writes and admin; `None`: `total`.
    pub head_change: Option<Duration>,
    /// Between two pieces of a body, for inference.
    pub idle_inference: Duration,
    /// The same for everything else.
    pub idle: Duration,
    /// The whole request; `None`: unbounded.
    pub total: Option<Duration>,
    /// One probe.
    pub probe: Duration,
}

/// A path prefix that leads to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Begins with `/`, does not end with one, except for `/` itself.
    pub path: String,
    /// Where it leads.
    pub service: ServiceId,
    /// Whether the prefix is taken off before the request goes upstream.
    pub strip: bool,
    /// Which Host the upstream sees.
    pub host: HostHeader,
    /// Protocols that a request may switch to, such as `websocket`.
    pub upgrade: Vec<String>,
    /// The bounds of its requests: the service's, with the route's own put over them.
    pub timeouts: Timeouts,
    /// What its requests may do, where the method does not say it rightly: the route's own rules,
    /// else the service's. Only of kind `http`.
    pub effects: Vec<Rule>,
}

/// Which Host the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The one that the kind of service asks for (`localhost:11434` for Ollama).
    Upstream,
    /// The client's.
    Preserve,
    /// This one.
    Fixed(String),
}

/// Who is active when, by date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The zone of dates without one, and of outputs.
    pub zone: TimeZone,
    /// Active before the first switch.
    pub default: BackendId,
    /// Sorted by `at`.
    pub switches: Vec<Switch>,
}

/// One planned change of the active backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// From this instant on.
    pub at: Timestamp,
    /// The backend that becomes active.
    pub to: BackendId,
    /// For these services; `None`: all.
    pub services: Option<Vec<ServiceId>>,
}

/// An order that makes a backend active until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The backend that it makes active.
    pub to: BackendId,
    /// When it ends; `None`: when it is removed.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Who ordered it.
    pub by: Option<String>,
    /// For these services; `None`: all.
    pub services: Option<Vec<ServiceId>>,
    /// Whether it moves writes too. Such a pin has no `until`: who owns the writes never changes
    /// by a clock that runs out.
    pub writes: bool,
    /// Whether writes of data services wait as long as it holds: they are refused, and nothing is
    /// sent. It says nothing of who owns them.
    pub hold_writes: bool,
}

impl Snapshot {
    /// The backend with this id.
    pub fn backend(&self, id: BackendId) -> &Backend {
        &self.backends[id.0]
    }

    /// The service with this id.
    pub fn service(&self, id: ServiceId) -> &Service {
        &self.services[id.0]
    }

    /// The service of this name.
    pub fn service_named(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// Whether `other` holds in just the same way, read from the same file: not only the text,
    /// also the secrets and roots that it names.
    pub fn is_as(&self, other: &Self) -> bool {
        self.origin == other.origin
            && self.token == other.token
            && self.admin == other.admin
            && self.backends == other.backends
            && self.files == other.files
    }

    /// The ids of all services.
    pub fn service_ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (0..self.services.len()).map(ServiceId)
    }
}

impl Service {
    /// Where `backend` stands among those that offer it, if it does.
    pub fn place_of(&self, backend: BackendId) -> Option<usize> {
        // Where all offer it, which is usual, nothing is searched.
        if self.backends.get(backend.0) == Some(&backend) {
            return Some(backend.0);
        }
        self.backends.iter().position(|id| *id == backend)
    }

    /// Whether a planned switch moves its reads alone, and writes move only by an order. What the
    /// backends have is seen by each instance for itself and decides when reads move; who owns the
    /// writes follows from the file, or instances would disagree.
    pub fn switches_move_reads_alone(&self) -> bool {
        self.holds_switch && !self.require.collections.is_empty()
    }
}

impl Scope {
    /// Every scope, with the word for it in `routing.toml`.
    pub const WORDS: [(&'static str, Self); 2] = [("read", Self::Read), ("orders", Self::Orders)];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Orders => "orders",
        }
    }
}

impl DialWay {
    /// Every way, with the word for it in `routing.toml`.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("auto", Self::Auto),
        ("localapi", Self::LocalApi),
        ("http-connect", Self::HttpConnect),
        ("socks5", Self::Socks5),
        ("direct", Self::Direct),
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, way)| *way == self)
            .map_or("", |(word, _)| word)
    }
}

impl fmt::Display for Tailscaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Credential {
    /// Where it is kept, never what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name, _) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Identity {
                client_id,
                audience,
            } => {
                let audience = audience.as_deref().unwrap_or("default");
                write!(f, "identity of client {client_id} for audience {audience}")
            }
        }
    }
}

impl Url {
    /// As it is written: scheme, host, and the port if it is not the scheme's.
    pub fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

impl Network {
    /// Every value, with the word for it in `routing.toml`.
    pub const WORDS: [(&'static str, Self); 2] =
        [("tailnet", Self::Tailnet), ("direct", Self::Direct)];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tailnet => "tailnet",
            Self::Direct => "direct",
        }
    }
}

impl Policy {
    /// Every value, with the word for it in `routing.toml`.
    pub const WORDS: [(&'static str, Self); 2] = [
        ("active", Self::Active),
        ("least-loaded", Self::LeastLoaded),
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::LeastLoaded => "least-loaded",
        }
    }
}

impl Fallback {
    /// Every value, with the word for it in `routing.toml`.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("all", Self::All),
        ("reads", Self::Reads),
        ("none", Self::None),
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, fallback)| *fallback == self)
            .map_or("", |(word, _)| word)
    }
}
