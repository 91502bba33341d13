//! The tailscaled of our own: what it is started with, its login, its restarts, its end.
//!
//! Owns its process and its folder. Says how it goes to the tailnet, the board and the metrics;
//! decides when to start it again by `pace`. Invariant: there is at most one, and it has ended, or
//! was killed, before the next one starts.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::child::{Child, Family, Spec};
use super::exit::{Circumstances, Exit, reason};
use super::login::Attempt;
use super::pace::{Asked, Deaths, End, Stage};
use super::words::Words;
use crate::admin::children::{self, Board, LastExit, State};
use crate::config::snapshot::{DialWay, Login, Tailnet as Settings};
use crate::metrics::Metrics;
use crate::reload::store::Store;
use crate::tailnet::localapi::LocalApi;
use crate::tailnet::{Keeper, Tailnet};
use crate::words::clock::Clock;
use crate::words::verdict::{Restart, Tunnel};

/// Its name on the board.
pub(super) const NAME: &str = "tailscaled";
/// One that is to be replaced may take so long to end.
const REPLACED: Duration = Duration::from_secs(3);
/// Between two logins that failed, at first and at most.
const LOGIN_PAUSE: Duration = Duration::from_secs(10);
const LOGIN_PAUSE_MAX: Duration = Duration::from_mins(5);
/// What it may take of memory before its garbage is collected harder: 35 MiB were measured idle.
const MEMORY: (u64, u64) = (64 << 20, 256 << 20);
/// A longer path leaves no room for the name of a socket in it (107 bytes in all).
const FOLDER_MAX: usize = 90;
/// Variables that it may need. Those of Tailscale come too, but for the credentials.
const NEEDED: [&str; 13] = [
    "PATH",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "GODEBUG",
    "GOTRACEBACK",
];
/// Credentials, and what must not be ours by chance.
const WITHHELD: [&str; 8] = [
    "TS_AUTHKEY",
    "TS_AUTH_KEY",
    "TS_CLIENT_ID",
    "TS_CLIENT_SECRET",
    "TS_ID_TOKEN",
    "TS_AUDIENCE",
    "TS_SOCKET",
    "TS_PARENT_DEATH_FD",
];

/// A tailscaled that is to be kept.
pub(super) struct Daemon {
    pub(super) program: PathBuf,
    pub(super) folder: Folder,
    /// Where it listens for us.
    pub(super) socket: PathBuf,
    pub(super) store: Arc<Store>,
    pub(super) tailnet: Arc<Tailnet>,
    pub(super) board: Arc<Board>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) family: Family,
}

/// Why one tailscaled is to be there no longer.
enum Over {
    Died(Exit),
    /// Health asks for it, on this evidence.
    Asked(Restart),
    Ending(End),
}

impl Daemon {
    /// Keeps it running until the end begins; returns when it has ended.
    pub(super) async fn keep(self, mut ending: watch::Receiver<Option<End>>) {
        let (mut deaths, mut asked) = (Deaths::default(), Asked::default());
        let mut shown = children::Child::new(NAME, self.clock.now());
        let mut asks = self.tailnet.restarts();
        loop {
            // What was asked for the one before is done.
            asks.mark_unchanged();
            self.tailnet.kept(Keeper::Starting);
            let began = Instant::now();
            let pause = match self.start(&mut shown) {
                Err(why) => {
                    let pause = deaths.next(Duration::ZERO);
                    self.troubled(&mut shown, format!("tailscaled does not start: {why}"));
                    pause
                }
                Ok((child, words)) => {
                    let mut one = Running {
                        child,
                        words,
                        kills_before: memory_kills(),
                    };
                    let over = self
                        .live(&mut one, &mut shown, &mut asks, &mut asked, &mut ending)
                        .await;
                    match over {
                        Over::Ending(end) => return self.end(one, shown, end).await,
                        Over::Asked(why) => {
                            warn!(why = why.as_str(), "tailscaled is started again");
                            let exit = one.replace().await;
                            self.buried(&mut shown, &one, exit, true, None);
                            Duration::ZERO
                        }
                        Over::Died(exit) => {
                            let pause = deaths.next(began.elapsed());
                            self.buried(&mut shown, &one, exit, false, Some((&deaths, pause)));
                            pause
                        }
                    }
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = ended(&mut ending) => return,
            }
            shown.restarts += 1;
            let labels = [NAME];
            self.metrics.child_restarts.with_label_values(&labels).inc();
        }
    }

    fn start(&self, shown: &mut children::Child) -> std::io::Result<(Child, Words)> {
        let settings = &self.store.live().snapshot.tailnet;
        let spec = Spec {
            program: self.program.clone(),
            called: self.program.clone().into(),
            arguments: arguments(settings, &self.folder.0, &self.socket),
            environment: environment(&self.folder.0, Some(memory_limit(container_memory()))),
            heard: true,
            input: None,
            // So that it can leave the tailnet.
            orphaned: Signal::TERM,
        };
        let child = self.family.start(&spec)?;
        info!(pid = child.id(), program = %self.program.display(), "tailscaled started");
        shown.pid = Some(child.id());
        shown.note.clear();
        self.show(shown, State::Starting);
        Ok((child, Words::default()))
    }

    /// Lives with one until it is over.
    async fn live(
        &self,
        one: &mut Running,
        shown: &mut children::Child,
        asks: &mut watch::Receiver<Option<Restart>>,
        asked: &mut Asked,
        ending: &mut watch::Receiver<Option<End>>,
    ) -> Over {
        let hears = one.words.clone();
        let pipe = one.child.words.take();
        let heard = tokio::spawn(async move { hears.hear(NAME, pipe).await });
        let over = {
            let mut login = pin!(self.stay_logged_in(shown, &one.words));
            loop {
                tokio::select! {
                    biased;
                    end = the_end(ending) => break Over::Ending(end),
                    exit = one.child.ended() => break Over::Died(exit),
                    () = &mut login => {}
                    why = wish(asks) => if asked.may(Instant::now()) {
                        break Over::Asked(why);
                    },
                }
            }
        };
        if matches!(over, Over::Died(_)) {
            // Its last words are still in the pipe.
            let _ = timeout(Duration::from_millis(200), heard).await;
        }
        over
    }

    /// Logs in, and again when that is lost. Never returns.
    async fn stay_logged_in(&self, shown: &mut children::Child, words: &Words) {
        let api = LocalApi::new(&self.socket);
        let mut changes = self.tailnet.changes();
        let mut pause = LOGIN_PAUSE;
        let began = Instant::now();
        loop {
            let login = self.store.live().snapshot.run.login.clone();
            match self.log_in(&login, &api, words).await {
                Ok(()) => {
                    let ms = began.elapsed().as_millis();
                    info!(
                        after_ms = u64::try_from(ms).unwrap_or(u64::MAX),
                        "logged in"
                    );
                    pause = LOGIN_PAUSE;
                    shown.note.clear();
                    self.show(shown, State::Running);
                    self.board.tunnel_was_up();
                    self.tailnet.kept(Keeper::Nothing);
                    // Until the view has it, and then until it is lost again.
                    let _ = changes.wait_for(|state| *state == Tunnel::Up).await;
                    tokio::select! {
                        _ = changes.wait_for(|state| *state == Tunnel::Off) => {}
                        () = self.keep_shields(login.shields, &api) => {}
                    }
                    warn!("tailscaled is not logged in any more");
                    self.tailnet.kept(Keeper::Starting);
                }
                Err(why) => {
                    self.troubled(shown, why);
                    // Somebody may log it in by hand meanwhile.
                    let _ = timeout(pause, changes.wait_for(|state| *state == Tunnel::Up)).await;
                    pause = (pause * 2).min(LOGIN_PAUSE_MAX);
                }
            }
        }
    }

    /// Lets in, or no longer, when the file says so. Never returns.
    async fn keep_shields(&self, mut up: bool, api: &LocalApi) {
        let mut files = self.store.changes();
        loop {
            let wanted = self.store.live().snapshot.run.login.shields;
            if wanted != up {
                match api.set_shields(wanted).await {
                    Ok(()) => {
                        info!(shields_up = wanted, "admin.tailnet was changed");
                        up = wanted;
                    }
                    Err(error) => {
                        warn!(%error, "admin.tailnet was changed, and tailscaled was not told");
                        sleep(LOGIN_PAUSE).await;
                        continue;
                    }
                }
            }
            if files.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn log_in(&self, login: &Login, api: &LocalApi, words: &Words) -> Result<(), String> {
        let told = std::sync::Mutex::new(String::new());
        let trouble = |why: String| {
            let mut told = told
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if *told != why {
                warn!("{why}");
                self.tailnet.kept(Keeper::Trouble(why.clone()));
                *told = why;
            }
        };
        let attempt = Attempt {
            login,
            api,
            socket: &self.socket,
            tailscaled: &self.program,
            family: &self.family,
            words,
            trouble: &trouble,
        };
        attempt.run().await
    }

    /// One died: says how, and whether that is a loop.
    fn buried(
        &self,
        shown: &mut children::Child,
        one: &Running,
        exit: Exit,
        by_us: bool,
        deaths: Option<(&Deaths, Duration)>,
    ) {
        shown.pid = None;
        let last_exit = one.last_exit(exit, by_us, self.clock);
        let why = last_exit.reason.clone();
        let said = last_exit.words.join(" / ");
        shown.last_exit = Some(last_exit);
        self.tailnet.kept(Keeper::Starting);
        let Some((deaths, pause)) = deaths else {
            return self.show(shown, State::Waiting);
        };
        let again_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        match deaths.in_loop() {
            None => {
                warn!(why, again_ms, said, "tailscaled ended");
                self.show(shown, State::Waiting);
            }
            Some(times) => {
                let note = format!(
                    "tailscaled dies again and again ({times} times, the last one by {why}): {said}"
                );
                self.troubled(shown, note);
            }
        }
    }

    /// Says what is wrong: to who reads the log, asks for a status, or asks for a Mac.
    fn troubled(&self, shown: &mut children::Child, why: String) {
        error!("{why}");
        let state = if shown.pid.is_some() {
            State::Starting
        } else {
            State::Waiting
        };
        shown.note.clone_from(&why);
        self.show(shown, state);
        self.tailnet.kept(Keeper::Trouble(why));
    }

    fn show(&self, shown: &mut children::Child, state: State) {
        if shown.state != state {
            shown.since = self.clock.now();
        }
        shown.state = state;
        self.board.put(shown.clone());
    }

    /// Leaves the tailnet and ends it, within what is left.
    async fn end(&self, mut one: Running, mut shown: children::Child, end: End) {
        // One that is not logged in yet does so by itself, as its state is in memory.
        if shown.state == State::Running {
            let api = LocalApi::new(&self.socket);
            let patience = end.left(Stage::Logout);
            tokio::select! {
                left = api.logout(patience) => match left {
                    Ok(()) => info!("this machine left the tailnet"),
                    Err(error) => warn!(%error, "this machine did not leave the tailnet in time"),
                },
                () = end.over(Stage::Logout) => warn!("no time left to leave the tailnet"),
            }
        }
        one.child.signal(Signal::TERM);
        let exit = tokio::select! {
            exit = one.child.ended() => Some(exit),
            () = end.over(Stage::Tailscaled) => None,
        };
        let exit = match exit {
            Some(exit) => exit,
            None => one.killed().await,
        };
        shown.pid = None;
        shown.last_exit = Some(one.last_exit(exit, true, self.clock));
        self.show(&mut shown, State::Ended);
        info!(%exit, "tailscaled ended");
    }
}

/// One tailscaled.
struct Running {
    child: Child,
    words: Words,
    /// How often the kernel had killed for memory when it started.
    kills_before: Option<u64>,
}

impl Running {
    /// Ends it, so that another one can take its place.
    async fn replace(&mut self) -> Exit {
        self.child.signal(Signal::TERM);
        match timeout(REPLACED, self.child.ended()).await {
            Ok(exit) => exit,
            Err(_) => self.killed().await,
        }
    }

    async fn killed(&mut self) -> Exit {
        self.child.kill();
        self.child.ended().await
    }

    fn last_exit(&self, exit: Exit, by_us: bool, clock: Clock) -> LastExit {
        let known = Circumstances {
            peak: self.child.peak(),
            killed_for_memory: memory_kills().map(|kills| Some(kills) > self.kills_before),
            by_us,
        };
        LastExit {
            at: clock.now(),
            reason: reason(exit, known),
            peak_memory: self.child.peak(),
            words: self.words.last(),
        }
    }
}

/// The end, when it begins.
async fn the_end(ending: &mut watch::Receiver<Option<End>>) -> End {
    loop {
        if let Some(end) = &*ending.borrow_and_update() {
            return end.clone();
        }
        if ending.changed().await.is_err() {
            // Who would begin it is gone, and so are we in a moment.
            std::future::pending::<()>().await;
        }
    }
}

/// The next wish for a restart.
async fn wish(asks: &mut watch::Receiver<Option<Restart>>) -> Restart {
    loop {
        if asks.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(why) = *asks.borrow_and_update() {
            return why;
        }
    }
}

async fn ended(ending: &mut watch::Receiver<Option<End>>) {
    the_end(ending).await;
}

/// Its folder, which goes when we go.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// A folder of our own in the first place that can be written.
    ///
    /// # Errors
    /// There is none, as on a read-only disk without `/tmp`.
    pub(super) fn create() -> Result<Self, String> {
        let from = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let places = [
            from("XDG_RUNTIME_DIR"),
            Some("/run".into()),
            from("TMPDIR"),
            Some("/tmp".into()),
            Some("/dev/shm".into()),
        ];
        Self::create_in(places.into_iter().flatten())
    }

    fn create_in(places: impl IntoIterator<Item = PathBuf>) -> Result<Self, String> {
        use std::hash::{BuildHasher, RandomState};
        // As PID 1 in a folder that outlives us, our number is no name.
        let random = RandomState::new().hash_one(std::process::id()) & 0xffff_ffff;
        for place in places {
            let folder = place.join(format!("tailhop-{random:08x}"));
            if !place.is_absolute() || folder.as_os_str().len() > FOLDER_MAX {
                continue;
            }
            if fs::DirBuilder::new().mode(0o700).create(&folder).is_ok() {
                return Ok(Self(folder));
            }
        }
        Err("no folder can be written for the socket of tailscaled: mount a tmpfs at /tmp".into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in a container's memory is nobody's loss.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The arguments of tailscaled.
fn arguments(settings: &Settings, folder: &Path, socket: &Path) -> Vec<OsString> {
    let with = |flag: &str, value: &OsStr| {
        let mut whole = OsString::from(flag);
        whole.push(value);
        whole
    };
    let mut all = vec![
        // No device, no privileges, and no state on disk: such machines vanish when they log out.
        "--tun=userspace-networking".into(),
        "--state=mem:".into(),
        // Else it would take PORT, which is the app's.
        "--port=0".into(),
        with("--statedir=", folder.as_os_str()),
        with("--socket=", socket.as_os_str()),
    ];
    let proxy = settings.proxy;
    match settings.dial {
        DialWay::Socks5 => all.push(format!("--socks5-server={proxy}").into()),
        DialWay::HttpConnect => {
            all.push(format!("--outbound-http-proxy-listen={proxy}").into());
        }
        DialWay::Auto | DialWay::LocalApi | DialWay::Direct => {}
    }
    all
}

/// The environment of tailscaled and of `tailscale`: what they need, and no secrets of the app.
pub(super) fn environment(folder: &Path, memory: Option<u64>) -> Vec<(OsString, OsString)> {
    environment_of(std::env::vars_os(), folder, memory)
}

fn environment_of(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    folder: &Path,
    memory: Option<u64>,
) -> Vec<(OsString, OsString)> {
    let passes = |name: &OsStr| {
        let name = name.to_str().unwrap_or_default();
        let of_tailscale = name.starts_with("TS_") && !WITHHELD.contains(&name);
        of_tailscale || NEEDED.contains(&name) || name.starts_with("K_")
    };
    let mut all: Vec<_> = ours.into_iter().filter(|(name, _)| passes(name)).collect();
    all.push(("HOME".into(), folder.into()));
    if !all.iter().any(|(name, _)| name == "TS_LOGS_DIR") {
        all.push(("TS_LOGS_DIR".into(), folder.into()));
    }
    if let Some(memory) = memory {
        all.push(("GOMEMLIMIT".into(), memory.to_string().into()));
    }
    all
}

/// The limit of tailscaled's memory in a container of so many bytes.
fn memory_limit(container: Option<u64>) -> u64 {
    let (min, max) = MEMORY;
    container.map_or(max, |all| (all / 4).clamp(min, max))
}

/// The container's memory in bytes, where it has a limit that can be seen.
fn container_memory() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limit = |file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    // Without a limit the older file holds a number near the largest one.
    files
        .into_iter()
        .find_map(limit)
        .filter(|limit| *limit < 1 << 50)
}

/// How often the kernel killed something of this container for memory, where it counts that.
fn memory_kills() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory/memory.oom_control",
    ];
    let text = files
        .into_iter()
        .find_map(|file| fs::read_to_string(file).ok())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dial: DialWay) -> Settings {
        Settings {
            suffix: None,
            dial,
            socket: "/x/s".into(),
            proxy: "127.0.0.1:1055".parse().unwrap(),
            repair: true,
        }
    }

    #[test]
    fn a_proxy_listens_only_where_it_is_dialled() {
        for (dial, flags) in [
            (DialWay::Auto, ""),
            (DialWay::LocalApi, ""),
            (DialWay::Socks5, "--socks5-server=127.0.0.1:1055"),
            (
                DialWay::HttpConnect,
                "--outbound-http-proxy-listen=127.0.0.1:1055",
            ),
        ] {
            let arguments = arguments(&settings(dial), Path::new("/x"), Path::new("/x/s"));
            let (usual, more) = arguments.split_at(5);
            let words = ["--tun=userspace-networking", "--state=mem:", "--port=0"];
            assert_eq!(usual[..3], words.map(OsString::from));
            assert_eq!(
                usual[3..],
                ["--statedir=/x", "--socket=/x/s"].map(OsString::from)
            );
            let more: Vec<_> = more.iter().map(|one| one.to_str().unwrap()).collect();
            assert_eq!(more.join(" "), flags, "{dial:?}");
        }
    }

    #[test]
    fn tailscaled_gets_what_it_needs_and_neither_port_nor_secrets() {
        let ours = [
            ("PATH", "/bin"),
            ("PORT", "8080"),
            ("QDRANT_KEY", "canary"),
            ("TS_AUTHKEY", "canary"),
            ("TS_NO_LOGS_NO_SUPPORT", "1"),
            ("K_SERVICE", "web"),
            ("GOMEMLIMIT", "1GiB"),
        ];
        let ours = ours.map(|(name, value)| (name.into(), value.into()));
        let got = environment_of(ours, Path::new("/x"), Some(7));
        let want = [
            ("PATH", "/bin"),
            ("TS_NO_LOGS_NO_SUPPORT", "1"),
            ("K_SERVICE", "web"),
            ("HOME", "/x"),
            ("TS_LOGS_DIR", "/x"),
            ("GOMEMLIMIT", "7"),
        ];
        assert_eq!(got, want.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn its_folder_is_where_one_can_be_made_and_nobody_else_may_look() {
        use std::os::unix::fs::PermissionsExt as _;
        let disk = tempfile::tempdir().unwrap();
        // Not even root can make a folder in a file.
        let read_only = disk.path().join("file");
        fs::write(&read_only, "").unwrap();
        let long = disk.path().join("x".repeat(FOLDER_MAX));
        fs::create_dir(&long).unwrap();
        // An empty variable is a place, too.
        let places = ["".into(), read_only.clone(), long, disk.path().into()];
        let folder = Folder::create_in(places).unwrap();
        let path = folder.0.clone();
        assert_eq!(path.parent(), Some(disk.path()));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
        let why = Folder::create_in([read_only]).unwrap_err();
        assert!(why.contains("mount a tmpfs at /tmp"), "{why}");
    }

    #[test]
    fn tailscaled_may_take_a_quarter_of_the_container_within_bounds() {
        for (container, limit) in [
            (None, 256),
            (Some(128), 64),
            (Some(512), 128),
            (Some(8192), 256),
        ] {
            let limited = memory_limit(container.map(|mib: u64| mib << 20));
            assert_eq!(limited >> 20, limit, "{container:?}");
        }
    }
}
