//! The composition root: builds every owner, binds early, spawns, drains.
//!
//! The only place that knows all parts. One data thread serves requests, one control thread does
//! everything else (probes, reload, admin), so that nothing asked of the latter stalls a stream.

use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rustix::net::sockopt;
use rustix::process::getpid;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::admin::children::Board;
use crate::admin::{self, Admin, Parts};
use crate::config::snapshot::{DialWay, Tailnet as Settings};
use crate::config::{Environment, Report, Snapshot};
use crate::health::prober::Prober;
use crate::health::repair::Medic;
use crate::health::restart;
use crate::health::thaw;
use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::reload::watch::Mode;
use crate::reload::{Hangups, Inputs};
use crate::request::door::Door;
use crate::request::record::{AccessLog, Form};
use crate::request::{self, Proxy};
use crate::supervise::{self, Serving, Signals, Supervisor};
use crate::tailnet::Tailnet;
use crate::words::clock::Clock;

/// How long the last access lines may take.
const FLUSH: Duration = Duration::from_millis(200);

/// What the kernel holds for a client that reads slowly. By itself it would hold up to 4 MiB each,
/// which is memory of the instance; the app is near, so that less is fast enough.
const SEND_BUFFER: usize = 128 * 1024;

/// Why an instance could not start.
#[derive(Debug)]
pub enum StartError {
    /// No valid configuration.
    Config(Box<Report>),
    /// An address cannot be listened on.
    Listen {
        /// Its key in `routing.toml`.
        key: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// `PORT` tells the app to listen where we do.
    Port {
        /// Our key in `routing.toml`.
        key: String,
        /// The address.
        address: SocketAddr,
    },
    /// The machine gives no thread or runtime.
    Machine(io::Error),
}

/// What `run` starts besides itself.
#[derive(Debug, Default)]
pub struct Besides {
    /// The app, if there is one.
    pub app: Option<supervise::App>,
}

/// An instance that has its configuration and its addresses, and serves nothing yet.
pub struct App {
    store: Arc<Store>,
    tailnet: Arc<Tailnet>,
    metrics: Arc<Metrics>,
    inputs: Inputs,
    hangups: Hangups,
    clock: Clock,
    data: TcpListener,
    ports: Vec<(Door, TcpListener)>,
    admin: TcpListener,
    started: Timestamp,
    instance: String,
    board: Arc<Board>,
    draining: watch::Sender<bool>,
}

/// The half of an instance that serves requests.
pub struct DataHalf {
    proxy: Arc<Proxy>,
    doors: Vec<(Door, TcpListener)>,
    draining: watch::Receiver<bool>,
}

/// The half of an instance that does everything else.
pub struct ControlHalf {
    store: Arc<Store>,
    tailnet: Arc<Tailnet>,
    admin: Arc<Admin>,
    listener: TcpListener,
    inputs: Inputs,
    metrics: Arc<Metrics>,
    clock: Clock,
    hangups: Hangups,
    /// The socket of a tailscaled of our own, whatever the file says.
    socket: Option<PathBuf>,
}

impl App {
    /// Reads the configuration and binds its addresses.
    ///
    /// # Errors
    /// What keeps the instance from starting.
    pub async fn build(inputs: Inputs, clock: Clock, instance: String) -> Result<Self, StartError> {
        let started = clock.now();
        let metrics = Arc::new(Metrics::new());
        metrics
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        metrics.start_time.set(started.as_duration().as_secs_f64());
        metrics
            .watch_mode
            .with_label_values(&[mode(inputs.mode)])
            .set(1);
        let snapshot = inputs
            .first()
            .await
            .map_err(|report| StartError::Config(Box::new(report)))?;
        let data = listen("listen.data", snapshot.listen.data)?;
        let ports = ports(&snapshot)?;
        let admin = listen("listen.admin", snapshot.listen.admin)?;
        let tailnet = Arc::new(Tailnet::new(snapshot.tailnet.clone(), clock));
        let store = Arc::new(Store::new(snapshot, Arc::clone(&metrics), clock));
        let draining = watch::Sender::new(false);
        Ok(Self {
            store,
            tailnet,
            metrics,
            inputs,
            hangups: Hangups::listen(),
            clock,
            data,
            ports,
            admin,
            started,
            instance,
            board: Arc::default(),
            draining,
        })
    }

    /// The address for the app.
    pub fn data_address(&self) -> Option<SocketAddr> {
        self.data.local_addr().ok()
    }

    /// The address of a service's own, if it has one.
    pub fn service_address(&self, service: &str) -> Option<SocketAddr> {
        self.address_of(|door| matches!(door, Door::Service(name) if name.as_str() == service))
    }

    /// The address for a service's gRPC, if it has one.
    pub fn grpc_address(&self, service: &str) -> Option<SocketAddr> {
        self.address_of(|door| matches!(door, Door::Grpc(name) if name.as_str() == service))
    }

    fn address_of(&self, is: impl Fn(&Door) -> bool) -> Option<SocketAddr> {
        let (_, listener) = self.ports.iter().find(|(door, _)| is(door))?;
        listener.local_addr().ok()
    }

    /// The address for operators.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.local_addr().ok()
    }

    /// The metric families.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What a supervisor works with.
    fn parts(&self) -> supervise::Parts {
        supervise::Parts {
            store: Arc::clone(&self.store),
            tailnet: Arc::clone(&self.tailnet),
            board: Arc::clone(&self.board),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
        }
    }

    /// Fails where the app is told to listen on an address of ours.
    fn leaves_port(&self, environment: &Environment) -> Result<(), StartError> {
        match supervise::port_clash(&self.store.live().snapshot, environment) {
            Some((key, address)) => Err(StartError::Port { key, address }),
            None => Ok(()),
        }
    }

    /// The two halves, and the switch that lets requests end and no new ones begin.
    pub fn split(self, log: AccessLog) -> (DataHalf, ControlHalf, watch::Sender<bool>) {
        let Self {
            store,
            tailnet,
            metrics,
            inputs,
            hangups,
            clock,
            ..
        } = self;
        let shared = (
            Arc::clone(&store),
            Arc::clone(&tailnet),
            Arc::clone(&metrics),
        );
        let data = DataHalf {
            proxy: Arc::new(Proxy::new(shared.0, shared.1, shared.2, log, clock)),
            doors: std::iter::once((Door::Main, self.data))
                .chain(self.ports)
                .collect(),
            draining: self.draining.subscribe(),
        };
        let admin = Arc::new(Admin::new(Parts {
            store: Arc::clone(&store),
            tailnet: Arc::clone(&tailnet),
            metrics: Arc::clone(&metrics),
            clock,
            instance: self.instance,
            children: self.board,
            started: self.started,
            draining: self.draining.subscribe(),
            inputs: inputs.clone(),
        }));
        let control = ControlHalf {
            store,
            tailnet,
            admin,
            listener: self.admin,
            inputs,
            metrics,
            clock,
            hangups,
            socket: None,
        };
        (data, control, self.draining)
    }
}

impl DataHalf {
    /// Serves requests until draining, and then those that had begun.
    ///
    /// # Errors
    /// A listener cannot be used.
    pub async fn serve(self) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for (door, listener) in self.doors {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (proxy, draining) = (Arc::clone(&self.proxy), self.draining.clone());
            serving.spawn(request::accept::serve(proxy, listener, door, draining));
        }
        let served = async {
            while let Some(ended) = serving.join_next().await {
                ended.map_err(io::Error::other)?;
            }
            Ok(())
        };
        tokio::select! {
            served = served => served,
            () = self.proxy.beat() => Ok(()),
        }
    }
}

impl ControlHalf {
    /// Does everything else, for ever.
    ///
    /// # Errors
    /// The listener cannot be used, or a part ended that never should.
    pub async fn run(self) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let Self {
            store,
            tailnet,
            admin,
            inputs,
            metrics,
            clock,
            hangups,
            socket,
            ..
        } = self;
        let prober = Prober {
            store: Arc::clone(&store),
            tailnet: Arc::clone(&tailnet),
            metrics: Arc::clone(&metrics),
            clock,
        };
        tailnet.reconfigure(settings(&store, socket.as_deref()));
        let mut parts = JoinSet::new();
        parts.spawn(admin::serve(Arc::clone(&admin), listener));
        parts.spawn(admin::shields::watch(Arc::clone(&admin)));
        parts.spawn(admin::changes::watch(admin));
        parts.spawn(Arc::clone(&tailnet).watch());
        let medic = Medic {
            store: Arc::clone(&store),
            tailnet: Arc::clone(&tailnet),
            metrics: Arc::clone(&metrics),
            clock,
            rates: Arc::default(),
        };
        parts.spawn(prober.run());
        parts.spawn(medic.clone().run());
        parts.spawn(restart::watch(medic.clone()));
        parts.spawn(thaw::watch(medic));
        parts.spawn(retune(Arc::clone(&store), tailnet, socket));
        parts.spawn(inputs.follow(store, hangups));
        // None of them ever ends; if one does, the instance must not go on half alive.
        let ended = parts.join_next().await;
        Err(io::Error::other(format!(
            "a part of the control thread ended: {ended:?}"
        )))
    }
}

/// Hands new tailnet settings to the tailnet.
async fn retune(store: Arc<Store>, tailnet: Arc<Tailnet>, socket: Option<PathBuf>) {
    let mut changes = store.changes();
    while changes.changed().await.is_ok() {
        tailnet.reconfigure(settings(&store, socket.as_deref()));
    }
}

/// The settings in use. Of a tailscaled of our own only its `socket` is known to be ours: what
/// listens on the usual port of a proxy may be another one's.
fn settings(store: &Store, socket: Option<&Path>) -> Settings {
    let mut settings = store.live().snapshot.tailnet.clone();
    if let Some(socket) = socket {
        socket.clone_into(&mut settings.socket);
        if settings.dial == DialWay::Auto {
            settings.dial = DialWay::LocalApi;
        }
    }
    settings
}

/// Runs an instance on this thread and one more, with what it starts besides, until all of it has
/// ended; the code to leave with.
///
/// # Errors
/// What kept it from starting, or ended it.
pub fn run(inputs: Inputs, instance: String, besides: Besides) -> Result<u8, StartError> {
    let descriptors = raise_descriptor_limit();
    let control = runtime().map_err(StartError::Machine)?;
    let ended = control.block_on(async {
        let environment = inputs.environment.clone();
        let form = Form::of(&environment, io::stdout().is_terminal());
        let with_app = besides.app.is_some();
        // To PID 1 a signal that it does not take is nothing, and no other one comes.
        let early = (getpid().is_init())
            .then(|| Signals::take(with_app))
            .transpose();
        let early = early.map_err(StartError::Machine)?;
        let app = App::build(inputs, Clock::system(), instance).await?;
        let (log, writer) = AccessLog::stdout(form, app.metrics()).map_err(StartError::Machine)?;
        if with_app {
            app.leaves_port(&environment)?;
        }
        // Before anybody is told that we are there: who hears of it may end us at once.
        let signals = match early {
            Some(signals) => signals,
            None => Signals::take(with_app).map_err(StartError::Machine)?,
        };
        let supervisor = Supervisor::plan(app.parts(), besides.app, descriptors).await;
        announce(&app);
        let (data, mut control, draining) = app.split(log);
        control.socket = supervisor.socket().map(Path::to_owned);
        let data = on_data_thread(data).map_err(StartError::Machine)?;
        let serving = Serving {
            draining,
            data,
            control: tokio::spawn(control.run()),
        };
        let ended = supervisor.conduct(signals, serving).await;
        flush(&writer).await;
        ended.map_err(StartError::Machine)
    });
    // A file that is never read to its end must not hold the end up.
    control.shutdown_background();
    ended
}

/// Takes as many descriptors as it may have: each client is one, and each request one more. The
/// usual soft limit of 1024 is for programs that call select(2), which we do not.
/// Returns what it was before: children start with that.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where it is forbidden, fewer clients are held.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    current
}

/// Lets the last access lines out, unless nobody reads them.
async fn flush(writer: &JoinHandle<()>) {
    let written = async {
        while !writer.is_finished() {
            sleep(FLUSH / 20).await;
        }
    };
    // Requests that were cut off by the end of the drain still hold the log.
    let _ = timeout(FLUSH, written).await;
}

/// Starts the data thread; what it ended with comes back.
fn on_data_thread(data: DataHalf) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (tell, ended) = oneshot::channel();
    let runtime = runtime()?;
    std::thread::Builder::new()
        .name("data".to_owned())
        .spawn(move || {
            // The receiver is gone only when the process is ending.
            let _ = tell.send(runtime.block_on(data.serve()));
        })?;
    Ok(ended)
}

fn announce(app: &App) {
    let live = app.store.live();
    for warning in &live.snapshot.warnings {
        tracing::warn!(code = warning.code, "{}", warning.message);
    }
    if live.snapshot.origin.stand_in {
        tracing::error!(
            path = %live.snapshot.origin.path.display(),
            "the stand-in configuration is in use; writes of data services are refused"
        );
    }
    for (door, listener) in &app.ports {
        let address = listener.local_addr().ok().map(tracing::field::display);
        match door {
            Door::Grpc(service) => info!(%service, address, "listening for gRPC"),
            Door::Service(service) => info!(%service, address, "listening for one service"),
            Door::Main => {}
        }
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        data = app.data_address().map(tracing::field::display),
        admin = app.admin_address().map(tracing::field::display),
        config = %live.snapshot.origin.path.display(),
        "listening"
    );
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The services' own addresses.
fn ports(snapshot: &Snapshot) -> Result<Vec<(Door, TcpListener)>, StartError> {
    let services = snapshot.services.iter();
    let own = services.flat_map(|service| {
        let (name, other) = (service.name.clone(), service.name.clone());
        [
            ("listen", service.listen, Door::Service(name)),
            ("listen_grpc", service.listen_grpc, Door::Grpc(other)),
        ]
        .map(|(key, at, door)| Some((format!("services.{}.{key}", service.name), at?, door)))
    });
    own.flatten()
        .map(|(key, address, door)| Ok((door, listen(&key, address)?)))
        .collect()
}

fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        // Its connections inherit these.
        sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
        sockopt::set_tcp_nodelay(&listener, true)?;
        Ok(listener)
    });
    bound.map_err(|error| StartError::Listen {
        key: key.to_owned(),
        address,
        error,
    })
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "events",
        Mode::Poll => "poll",
    }
}
