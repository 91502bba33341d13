//! PID 1 of a container: starts tailscaled and the app, forwards signals, and ends all of it in order
//! and in time.
//!
//! Owns the processes that we start, from the first one to the exit code. Must not serve, probe or
//! repair. Invariants: without an app and without a tailscaled of our own nothing is started, and
//! the end takes no longer than its budget (`run.stop`), whatever a child does.

mod child;
mod daemon;
mod exit;
mod login;
mod pace;
mod signals;
mod words;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

pub use self::child::{Unstartable, become_child, find};
pub use self::signals::Signals;

use self::child::{Child, Family, Spec};
use self::daemon::{Daemon, Folder};
use self::exit::{Circumstances, Exit, reason};
use self::pace::{End, Stage};
use self::signals::{Meaning, meaning};
use crate::admin::children::{self, Board, LastExit, State};
use crate::config::snapshot::{Credential, DialWay, Snapshot, Tailscaled};
use crate::config::{Environment, defaults};
use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::tailnet::{Keeper, Tailnet};
use crate::words::clock::Clock;

/// Its name on the board.
const APP: &str = "app";

/// The app to start, as it was called.
#[derive(Clone, Debug)]
pub struct App {
    /// Its file.
    pub program: PathBuf,
    /// Its name and its arguments.
    pub line: Vec<OsString>,
}

/// What it takes to keep processes.
pub struct Parts {
    /// Configuration.
    pub store: Arc<Store>,
    /// Is told how tailscaled goes.
    pub tailnet: Arc<Tailnet>,
    /// Is told how all of them go.
    pub board: Arc<Board>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Wall time.
    pub clock: Clock,
}

/// What is to be kept, before anything was started.
pub struct Supervisor {
    parts: Parts,
    app: Option<App>,
    daemon: Option<(PathBuf, Folder, PathBuf)>,
    family: Family,
}

/// What serves meanwhile.
pub struct Serving {
    /// Lets requests end, and no new ones begin.
    pub draining: watch::Sender<bool>,
    /// Tells when the last request has ended.
    pub data: oneshot::Receiver<io::Result<()>>,
    /// Everything else. It goes on until the very end.
    pub control: JoinHandle<io::Result<()>>,
}

/// Why the end begins.
enum Cause {
    Told(Signal),
    AppEnded,
    Failed(io::Error),
}

/// Whether tailscaled is started; `Err`: it should be, and cannot.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    No(&'static str),
    Yes(PathBuf),
    Cannot(String),
}

impl Supervisor {
    /// Decides what is to be started. `descriptors` is the soft limit that we were started with.
    pub async fn plan(parts: Parts, app: Option<App>, descriptors: Option<u64>) -> Self {
        let live = parts.store.live();
        let snapshot = &live.snapshot;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let answers = answers(&snapshot.tailnet.socket).await;
        let daemon = match choice(snapshot, app.is_some(), answers, &path) {
            Choice::No(why) => {
                if app.is_some() {
                    info!(why, "no tailscaled is started");
                }
                None
            }
            Choice::Cannot(why) => {
                parts.unable(why);
                None
            }
            Choice::Yes(program) => match Folder::create() {
                Ok(folder) => {
                    let socket = socket(&snapshot.tailnet.socket, &folder.0);
                    parts.board.expect_tunnel();
                    parts.tailnet.kept(Keeper::Starting);
                    Some((program, folder, socket))
                }
                Err(why) => {
                    parts.unable(why);
                    None
                }
            },
        };
        let any = app.is_some() || daemon.is_some();
        if any {
            hide();
        }
        Self {
            parts,
            app,
            daemon,
            family: Family::new(descriptors, any),
        }
    }

    /// The socket of the tailscaled that will be started.
    pub fn socket(&self) -> Option<&Path> {
        self.daemon.as_ref().map(|(_, _, socket)| socket.as_path())
    }

    /// Keeps everything until it has ended; the code to leave with.
    ///
    /// # Errors
    /// What of us failed. The children have ended then, too.
    pub async fn conduct(self, mut signals: Signals, mut serving: Serving) -> io::Result<u8> {
        let Self {
            parts,
            app,
            daemon,
            family,
        } = self;
        let reaper = tokio::spawn(reap(family.clone())?);
        let (end_daemon, ending) = watch::channel(None);
        let kept = daemon.map(|(program, folder, socket)| {
            let daemon = parts.daemon(program, folder, socket, &family);
            tokio::spawn(daemon.keep(ending))
        });
        let mut app = match app {
            None => None,
            Some(app) => Some(Kept::start(&app, &parts, &family)?),
        };
        let cause = until_over(&mut signals, app.as_mut(), &mut serving).await;
        let (hurry, hurried) = watch::channel(None);
        let end = End::begin(parts.store.live().snapshot.run.stop, hurried);
        parts.board.end();
        let mut stop = Stop {
            end,
            end_daemon,
            kept,
            serving,
        };
        let code = {
            let ordered = stop.in_order(&cause, app.as_mut());
            let hurries = hurries(&mut signals, &hurry);
            tokio::select! {
                code = ordered => code,
                never = hurries => match never {},
            }
        };
        reaper.abort();
        family.kill_strangers().await;
        match cause {
            Cause::Failed(error) => Err(error),
            Cause::Told(_) | Cause::AppEnded => Ok(code),
        }
    }
}

impl Parts {
    /// A tailscaled that should be kept, and cannot: the rest goes on.
    fn unable(&self, why: String) {
        error!("{why}");
        self.board.expect_tunnel();
        self.board.put(children::Child {
            note: why.clone(),
            ..children::Child::new(daemon::NAME, self.clock.now())
        });
        self.tailnet.kept(Keeper::Trouble(why));
    }

    fn daemon(&self, program: PathBuf, folder: Folder, socket: PathBuf, family: &Family) -> Daemon {
        Daemon {
            program,
            folder,
            socket,
            store: Arc::clone(&self.store),
            tailnet: Arc::clone(&self.tailnet),
            board: Arc::clone(&self.board),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
            family: family.clone(),
        }
    }
}

/// The app while it runs, and after.
struct Kept {
    child: Child,
    shown: children::Child,
    board: Arc<Board>,
    clock: Clock,
    exit: Option<Exit>,
}

impl Kept {
    fn start(app: &App, parts: &Parts, family: &Family) -> io::Result<Self> {
        let live = parts.store.live();
        let mut line = app.line.iter().cloned();
        let spec = Spec {
            program: app.program.clone(),
            called: line.next().unwrap_or_default(),
            arguments: line.collect(),
            environment: environment(&live.snapshot, std::env::vars_os()),
            heard: false,
            input: None,
            orphaned: Signal::KILL,
        };
        let child = family.start(&spec)?;
        info!(pid = child.id(), program = %app.program.display(), "app started");
        let shown = children::Child {
            state: State::Running,
            pid: Some(child.id()),
            ..children::Child::new(APP, parts.clock.now())
        };
        parts.board.put(shown.clone());
        Ok(Self {
            child,
            shown,
            board: Arc::clone(&parts.board),
            clock: parts.clock,
            exit: None,
        })
    }

    /// Waits for its end, which was told of then.
    async fn ended(&mut self, by_us: bool) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        let exit = self.child.ended().await;
        self.exit = Some(exit);
        let known = Circumstances {
            peak: self.child.peak(),
            killed_for_memory: None,
            by_us,
        };
        let why = reason(exit, known);
        info!(why, "app ended");
        self.shown.state = State::Ended;
        self.shown.pid = None;
        self.shown.since = self.clock.now();
        self.shown.last_exit = Some(LastExit {
            at: self.clock.now(),
            reason: why,
            peak_memory: self.child.peak(),
            words: Vec::new(),
        });
        self.board.put(self.shown.clone());
        exit
    }
}

/// Returns why the end begins; forwards signals until then.
async fn until_over(
    signals: &mut Signals,
    mut app: Option<&mut Kept>,
    serving: &mut Serving,
) -> Cause {
    loop {
        let app_ended = async {
            match app.as_deref_mut() {
                Some(app) => app.ended(false).await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            biased;
            _ = app_ended => return Cause::AppEnded,
            failed = serving.failed() => return Cause::Failed(failed),
            signal = signals.next() => signal,
        };
        let name = exit::name(signal);
        match meaning(signal, false) {
            Meaning::Forward => info!(signal = name, "forwarded to the app"),
            Meaning::End | Meaning::Hurry => {
                info!(signal = name, "draining");
                return Cause::Told(signal);
            }
        }
        if let Some(app) = &app {
            app.child.signal(signal);
        }
    }
}

impl Serving {
    /// Returns when a half ended that never should.
    async fn failed(&mut self) -> io::Error {
        let ended = tokio::select! {
            data = &mut self.data => data.unwrap_or_else(|_| Err(io::Error::other("the data thread died"))),
            control = &mut self.control => control.unwrap_or_else(|error| Err(io::Error::other(error))),
        };
        match ended {
            Err(error) => error,
            Ok(()) => io::Error::other("a half of tailhop ended"),
        }
    }
}

/// The end.
struct Stop {
    end: End,
    end_daemon: watch::Sender<Option<End>>,
    kept: Option<JoinHandle<()>>,
    serving: Serving,
}

impl Stop {
    /// The app first, then what streams are left, tailscaled last. The code to leave with.
    async fn in_order(&mut self, cause: &Cause, app: Option<&mut Kept>) -> u8 {
        let mut code = 0;
        if let Some(app) = app {
            code = self.end_app(cause, app).await.code();
        }
        self.serving.draining.send_replace(true);
        if !matches!(cause, Cause::Failed(_)) {
            tokio::select! {
                _ = &mut self.serving.data => {}
                () = self.end.over(Stage::Streams) => warn!("streams are cut off: no time is left"),
            }
        }
        self.end_daemon.send_replace(Some(self.end.clone()));
        if let Some(kept) = &mut self.kept {
            // It kills what does not end in time.
            let _ = kept.await;
        }
        code
    }

    /// It is served meanwhile, as its own requests need us to end well.
    async fn end_app(&self, cause: &Cause, app: &mut Kept) -> Exit {
        let signal = match cause {
            Cause::Told(signal) => *signal,
            Cause::Failed(_) | Cause::AppEnded => Signal::TERM,
        };
        if app.exit.is_none() {
            app.child.signal(signal);
        }
        let pid = app.child.id();
        let mut in_time = tokio::select! {
            exit = app.ended(true) => Some(exit),
            () = self.end.over(Stage::App) => None,
            () = self.end.hurried() => None,
        };
        if in_time.is_none() && !self.end.left(Stage::App).is_zero() {
            info!(pid, "the app is told once more");
            app.child.signal(signal);
            in_time = tokio::select! {
                exit = app.ended(true) => Some(exit),
                () = self.end.over(Stage::App) => None,
            };
        }
        // Also what it started and left behind.
        app.child.kill();
        if let Some(exit) = in_time {
            return exit;
        }
        warn!("the app did not end in time, and is killed");
        app.ended(true).await
    }
}

/// Lets no process of our user read our memory and our environment, where the auth key may be: the
/// app's is without it.
fn hide() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where that is not to be had, it is as with any process.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Takes each further signal for impatience.
async fn hurries(
    signals: &mut Signals,
    hurry: &watch::Sender<Option<Instant>>,
) -> std::convert::Infallible {
    loop {
        let signal = signals.next().await;
        if meaning(signal, true) == Meaning::Hurry {
            info!(signal = exit::name(signal), "not waiting any longer");
            hurry.send_if_modified(|then| then.replace(Instant::now()).is_none());
        }
    }
}

/// Takes up every child that ended, for as long as it is polled.
fn reap(family: Family) -> io::Result<impl Future<Output = ()>> {
    let mut ended = signal(SignalKind::child())?;
    Ok(async move {
        while ended.recv().await.is_some() {
            while family.reap() {
                tokio::task::yield_now().await;
            }
        }
    })
}

/// Whether somebody listens on a tailscaled's socket.
async fn answers(socket: &Path) -> bool {
    tokio::net::UnixStream::connect(socket).await.is_ok()
}

/// Whether tailscaled is started, and which one.
fn choice(snapshot: &Snapshot, app: bool, answers: bool, path: &OsStr) -> Choice {
    if snapshot.tailnet.dial == DialWay::Direct {
        return Choice::No("no backend needs the tailnet");
    }
    match &snapshot.run.tailscaled {
        Tailscaled::Off => Choice::No("tailnet.tailscaled is off"),
        Tailscaled::Program(program) => match find(program.as_os_str(), path) {
            Ok(found) => Choice::Yes(found),
            Err(_) => Choice::Cannot(format!(
                "tailnet.tailscaled: {} is not there, or cannot be executed",
                program.display()
            )),
        },
        Tailscaled::Auto if !app => Choice::No("there is no app to start"),
        Tailscaled::Auto if answers => Choice::No("one answers on tailnet.socket"),
        Tailscaled::Auto => match find(OsStr::new("tailscaled"), path) {
            Ok(found) => Choice::Yes(found),
            Err(_) => Choice::No("none is on PATH"),
        },
    }
}

/// Where ours listens: where the file says, else in its own folder.
fn socket(configured: &Path, folder: &Path) -> PathBuf {
    if configured == Path::new(defaults::SOCKET) {
        folder.join("tailscaled.sock")
    } else {
        configured.to_owned()
    }
}

/// The app's environment: ours, without what admits a machine to the tailnet.
fn environment(
    snapshot: &Snapshot,
    ours: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let withheld = match &snapshot.run.login.credential {
        Some(Credential::Env(name, _)) => name.as_str(),
        _ => defaults::AUTH_KEY,
    };
    let ours = ours.into_iter();
    ours.filter(|(name, _)| name != withheld).collect()
}

/// The address of ours that `PORT` tells the app to take, with its key.
pub fn port_clash(snapshot: &Snapshot, environment: &Environment) -> Option<(String, SocketAddr)> {
    let port: u16 = environment.port()?;
    let listen = &snapshot.listen;
    let own = snapshot
        .services
        .iter()
        .flat_map(|service| {
            let own = [
                ("listen", service.listen),
                ("listen_grpc", service.listen_grpc),
            ];
            own.map(|(key, at)| Some((format!("services.{}.{key}", service.name), at?)))
        })
        .flatten();
    let all = [("listen.data", listen.data), ("listen.admin", listen.admin)];
    let all = all
        .into_iter()
        .map(|(key, address)| (key.to_owned(), address));
    all.chain(own).find(|(_, address)| address.port() == port)
}
