//! What `check --live` asks: tailscaled, and a dial to every endpoint, as traffic would make it.
//!
//! Nothing of a request is sent: a connection that opens is closed again. Only where `require` names
//! something the endpoint is asked what it has. All durations are real time.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::block_on;
use crate::admin::status::show_time;
use crate::config::Snapshot;
use crate::config::snapshot::{Backend, BackendId, DialWay, Network, Require, Service, ServiceId};
use crate::endpoint::live::Endpoint;
use crate::endpoint::reconcile;
use crate::health::catalogue::missing;
use crate::metrics::Metrics;
use crate::plan::schedule::next_switch;
use crate::tailnet::Tailnet;
use crate::tailnet::localapi::LocalApi;
use crate::wire::tls::Tls;
use crate::wire::{Place, open};
use crate::words::clock::Clock;
use crate::words::outcome::Side;
use crate::words::verdict::Tunnel;

/// How long tailscaled may take to be found, and to be found up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one dial may take, whatever `connect` allows: a person waits for it.
const DIAL_MOST: Duration = Duration::from_secs(10);
/// Dials at a time.
const AT_ONCE: usize = 32;

/// What was found.
#[derive(Serialize)]
pub(super) struct Findings {
    /// `None`: nothing of the configuration needs the tailnet.
    tailnet: Option<TailnetFound>,
    endpoints: Vec<Found>,
}

#[derive(Serialize)]
struct TailnetFound {
    up: bool,
    /// Which way dials take.
    way: Option<&'static str>,
    name: Option<String>,
    version: Option<String>,
    /// What is wrong, and what to do.
    detail: String,
}

#[derive(Clone, Serialize)]
struct Found {
    service: String,
    backend: String,
    address: String,
    reachable: bool,
    /// `direct` or `relay` in the tailnet, `host` for what this host reaches without it; null if
    /// it is not known.
    path: Option<&'static str>,
    /// From the start of the dial to the open connection, TLS included.
    ms: Option<u64>,
    error: Option<String>,
    /// What `require` names and it lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<String>,
    /// What comes of that, or why it is not known what it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    /// Whether it failed before it left this machine.
    #[serde(skip)]
    no_tailnet: bool,
}

/// Asks.
pub(super) fn ask(snapshot: &Snapshot) -> Findings {
    let asked = block_on(async { Ok(all(snapshot).await) });
    asked.unwrap_or_else(|error| Findings {
        tailnet: Some(TailnetFound {
            up: false,
            way: None,
            name: None,
            version: None,
            detail: error,
        }),
        endpoints: Vec::new(),
    })
}

async fn all(snapshot: &Snapshot) -> Findings {
    let tailnet = Arc::new(Tailnet::new(snapshot.tailnet.clone(), Clock::system()));
    let needed = snapshot.tailnet.dial != DialWay::Direct;
    let watching = tokio::spawn(Arc::clone(&tailnet).watch());
    let about = if needed {
        Some(about(&tailnet, snapshot).await)
    } else {
        None
    };
    let endpoints = endpoints(&tailnet, snapshot).await;
    watching.abort();
    Findings {
        tailnet: about,
        endpoints,
    }
}

/// What tailscaled says of itself, once it is up or time is over.
async fn about(tailnet: &Tailnet, snapshot: &Snapshot) -> TailnetFound {
    let mut changes = tailnet.changes();
    // Where the socket is missing or forbidden, waiting does not help.
    let answers = LocalApi::new(&snapshot.tailnet.socket).status().await;
    let patience = if answers.is_ok() {
        PATIENCE
    } else {
        PATIENCE / 5
    };
    let up = changes.wait_for(|state| *state == Tunnel::Up);
    let up = timeout(patience, up).await.is_ok();
    let view = tailnet.view();
    let trouble = answers.err().map(|trouble| trouble.text);
    let said = Some(view.detail.clone()).filter(|detail| !detail.is_empty());
    TailnetFound {
        up,
        way: view.way.map(DialWay::as_str),
        name: view.suffix.clone(),
        version: Some(view.version.clone()).filter(|version| !version.is_empty()),
        detail: said.or(trouble.filter(|_| !up)).unwrap_or_default(),
    }
}

async fn endpoints(tailnet: &Arc<Tailnet>, snapshot: &Snapshot) -> Vec<Found> {
    let living = reconcile(snapshot, &Vec::new(), &Metrics::new());
    let mut waiting: Vec<_> = snapshot
        .service_ids()
        .zip(living)
        .flat_map(|(id, living)| {
            let offering = snapshot.service(id).backends.iter();
            offering
                .zip(living)
                .map(move |(on, living)| (id, *on, living))
        })
        .enumerate()
        .map(|(place, (id, on, living))| {
            let tailnet = Arc::clone(tailnet);
            let (service, backend) = (snapshot.service(id), snapshot.backend(on));
            let comes = comes(snapshot, id, on);
            let looked = look(Arc::clone(&tailnet), living, service.require.clone(), comes);
            (place, dial(tailnet, service, backend, looked))
        })
        .collect();
    waiting.reverse();
    let mut dials = JoinSet::new();
    let mut found = Vec::new();
    loop {
        while dials.len() < AT_ONCE
            && let Some((place, dial)) = waiting.pop()
        {
            dials.spawn(async move { (place, dial.await) });
        }
        match dials.join_next().await {
            Some(dialled) => found.extend(dialled),
            None => break,
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, found)| found).collect()
}

/// What a planned switch to a backend does if that one lacks something; `None`: none comes.
fn comes(snapshot: &Snapshot, service: ServiceId, to: BackendId) -> Option<String> {
    let next = next_switch(snapshot, service, Timestamp::now())?;
    let at = show_time(snapshot, next.at);
    let then = if snapshot.service(service).holds_switch {
        "is to be held"
    } else {
        "comes all the same"
    };
    (next.to == to).then(|| format!("the switch of {at} to it {then}"))
}

/// What an endpoint lacks, and a warning.
async fn look(
    tailnet: Arc<Tailnet>,
    endpoint: Arc<Endpoint>,
    require: Require,
    comes: Option<String>,
) -> (Vec<String>, Option<String>) {
    if require.is_empty() {
        return (Vec::new(), None);
    }
    match missing(&tailnet, &endpoint, &require).await {
        Ok(lacks) if lacks.is_empty() => (lacks, None),
        Ok(lacks) => (lacks, comes),
        Err(why) => (Vec::new(), Some(format!("what it has is not known: {why}"))),
    }
}

/// One dial; the path is asked after it, when tailscaled has chosen one, and then what it lacks.
fn dial(
    tailnet: Arc<Tailnet>,
    service: &Service,
    backend: &Backend,
    looked: impl Future<Output = (Vec<String>, Option<String>)> + Send + 'static,
) -> impl Future<Output = Found> + Send + 'static {
    let url = backend.url.as_ref();
    let place = Place {
        host: Arc::clone(&backend.host),
        port: url.map_or(service.port, |url| url.port),
        direct: backend.network == Network::Direct,
        tls: url
            .filter(|url| url.secure)
            .map(|url| Tls::trusting(url.roots.clone())),
    };
    let within = service.timeouts.connect.min(DIAL_MOST);
    let mut found = Found {
        service: service.name.to_string(),
        backend: backend.name.to_string(),
        address: format!("{}:{}", place.host, place.port),
        reachable: false,
        path: None,
        ms: None,
        error: None,
        lacks: Vec::new(),
        warning: None,
        no_tailnet: false,
    };
    async move {
        let began = Instant::now();
        match open(&tailnet, &place, within).await {
            Ok(stream) => {
                found.reachable = true;
                found.ms = u64::try_from(began.elapsed().as_millis()).ok();
                drop(stream);
            }
            Err(failure) => {
                found.no_tailnet = failure.kind.side() == Side::Tailnet;
                found.error = Some(format!("{}: {}", failure.kind.as_str(), failure.detail));
            }
        }
        if found.reachable {
            found.path = path(&tailnet, &place).await;
            (found.lacks, found.warning) = looked.await;
        }
        found
    }
}

async fn path(tailnet: &Tailnet, place: &Place) -> Option<&'static str> {
    if place.direct || tailnet.view().way == Some(DialWay::Direct) {
        return Some("host");
    }
    let (api, peer) = tailnet.peer(&place.host)?;
    let direct = api.has_direct_path(*peer.ips.first()?).await.ok()?;
    Some(if direct { "direct" } else { "relay" })
}

impl Findings {
    /// Whether everything that is needed answers.
    pub(super) fn good(&self) -> bool {
        let tailnet = self.tailnet.as_ref().is_none_or(|tailnet| tailnet.up);
        tailnet && self.endpoints.iter().all(|found| found.reachable)
    }

    /// For people: a line for tailscaled and one for each endpoint.
    pub(super) fn show(&self) -> String {
        let mut text = String::new();
        if let Some(tailnet) = &self.tailnet {
            text += &tailnet.line();
        }
        let wide = |of: fn(&Found) -> usize| self.endpoints.iter().map(of).max().unwrap_or(0);
        let service = wide(|found| found.service.len());
        let backend = wide(|found| found.backend.len());
        let address = wide(|found| found.address.len());
        let cut_off = self.tailnet.as_ref().is_some_and(|tailnet| !tailnet.up);
        for found in &self.endpoints {
            // Why there is no tailnet was said in the first line.
            let words = if found.no_tailnet && cut_off {
                "not reachable without the tailnet".to_owned()
            } else {
                found.words()
            };
            let (name, on, at) = (&found.service, &found.backend, &found.address);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:service$}  {on:backend$}  {at:address$}  {words}"
            );
        }
        text
    }
}

impl TailnetFound {
    fn line(&self) -> String {
        let name = self.name.as_deref().unwrap_or("name unknown");
        let version = self
            .version
            .as_deref()
            .map_or(String::new(), |version| format!(", tailscaled {version}"));
        let way = self.way.map_or(String::new(), |way| format!(", by {way}"));
        let state = if self.up { "up" } else { "not up" };
        let detail = if self.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", self.detail)
        };
        format!("tailnet {name}: {state}{version}{way}{detail}\n")
    }
}

impl Found {
    fn words(&self) -> String {
        let mut words = self.reached();
        if !self.lacks.is_empty() {
            words += &format!("; lacks {}", self.lacks.join(", "));
        }
        if let Some(warning) = &self.warning {
            words += &format!("; {warning}");
        }
        words
    }

    fn reached(&self) -> String {
        let error = self.error.as_deref().unwrap_or("not reachable");
        match (self.ms, self.path) {
            (Some(ms), Some("host")) => format!("reachable in {ms} ms, without the tailnet"),
            (Some(ms), Some("relay")) => format!("reachable in {ms} ms, by relay"),
            (Some(ms), Some(path)) => format!("reachable in {ms} ms, {path}"),
            (Some(ms), None) => format!("reachable in {ms} ms"),
            (None, _) => error.to_owned(),
        }
    }
}
