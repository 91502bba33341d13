//! One process of ours: how it starts, how much memory it takes, and who waits for its end.
//!
//! Owns starting and reaping. A child begins as this very program, which puts the last things right
//! that only the child itself can do without unsafe code (its own death when we die, the soft limit
//! of descriptors that we raised) and then becomes what it is to be. Invariant: nobody but
//! [`Family::reap`] waits for a child, so that as PID 1 we can take up strangers whose parents died
//! without taking the end of a child of ours from who waits for it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, wait, waitpid,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::exit::Exit;

/// The first argument of a child that is still this program.
const MARK: &str = "--become-a-child";
/// What a shell says of a program that it cannot start, and of one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Between two looks at a child's memory, at first and at most: a dead one has none to look at.
const MEMORY_LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// So many are taken up before others have their turn: a child may make strangers without end.
const AT_ONCE: usize = 64;

/// What is to be started.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Its file.
    pub(super) program: PathBuf,
    /// What it is called, as it was written.
    pub(super) called: OsString,
    pub(super) arguments: Vec<OsString>,
    /// All of its environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Whether its output comes to us; else it has ours.
    pub(super) heard: bool,
    /// What it reads; `None`: our standard input where it has our output, else nothing.
    pub(super) input: Option<Vec<u8>>,
    /// What it gets when we die without a word.
    pub(super) orphaned: Signal,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    ended: oneshot::Receiver<Exit>,
    peak: Option<u64>,
    /// Until the next look at its memory.
    pause: Duration,
    /// What it says, where that comes to us.
    pub(super) words: Option<OwnedFd>,
}

/// All processes of ours.
#[derive(Clone, Debug)]
pub(super) struct Family {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<Exit>>>>,
    /// Whether orphans of others come to us.
    strangers: bool,
    /// The soft limit of descriptors that children start with.
    descriptors: Option<u64>,
}

impl Family {
    /// No children yet. `descriptors` is the soft limit that we were started with; with `strangers`
    /// this process takes up orphans, as PID 1 does anyway.
    pub(super) fn new(descriptors: Option<u64>, strangers: bool) -> Self {
        Self {
            waiting: Arc::default(),
            // As PID 1 they come to us in any case: those of health checks, too.
            strangers: getpid().is_init() || (strangers && adopt()),
            descriptors,
        }
    }

    /// Starts a process, in a group of its own.
    pub(super) fn start(&self, spec: &Spec) -> io::Result<Child> {
        let (hears, says) = if spec.heard {
            let (hears, says) = io::pipe()?;
            (Some(OwnedFd::from(hears)), Some(says))
        } else {
            (None, None)
        };
        let (reads, mut writes) = match &spec.input {
            Some(_) => io::pipe().map(|(reads, writes)| (Some(reads), Some(writes)))?,
            None => (None, None),
        };
        let mut command = self.command(spec);
        command.stdin(match reads {
            Some(reads) => Stdio::from(reads),
            None if spec.heard => Stdio::null(),
            None => Stdio::inherit(),
        });
        if let Some(says) = says {
            command.stdout(says.try_clone()?).stderr(says);
        }
        // Held over the start: what ends at once must find who waits for it.
        let mut waiting = self.waiting();
        let pid = Pid::from_child(&command.spawn()?);
        let (tell, ended) = oneshot::channel();
        waiting.insert(pid.as_raw_nonzero().get(), tell);
        drop(waiting);
        if let (Some(writes), Some(input)) = (&mut writes, &spec.input) {
            // Less than a pipe holds; who does not read it says so by its exit code.
            let _ = writes.write_all(input);
        }
        Ok(Child {
            pid,
            ended,
            peak: None,
            pause: MEMORY_LOOK.0,
            words: hears,
        })
    }

    fn command(&self, spec: &Spec) -> Command {
        let mut command = Command::new(ourselves());
        let number = |number: i64| OsString::from(number.to_string());
        let descriptors = self.descriptors.and_then(|limit| i64::try_from(limit).ok());
        command
            .arg(MARK)
            .arg(number(descriptors.unwrap_or(-1)))
            .arg(number(getpid().as_raw_nonzero().get().into()))
            .arg(number(spec.orphaned.as_raw().into()))
            .arg(&spec.program)
            .arg(&spec.called)
            .args(&spec.arguments)
            .env_clear()
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0);
        command
    }

    /// Tells of children that ended; whether there may be more of them. To be called at each
    /// SIGCHLD, until there are none.
    pub(super) fn reap(&self) -> bool {
        let mut waiting = self.waiting();
        if self.strangers {
            for _ in 0..AT_ONCE {
                let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else {
                    return false;
                };
                let status = ExitStatus::from_raw(status.as_raw());
                tell(&mut waiting, pid, status);
            }
            return true;
        }
        let pids: Vec<_> = waiting.keys().copied().filter_map(Pid::from_raw).collect();
        for pid in pids {
            if let Ok(Some((pid, status))) = waitpid(Some(pid), WaitOptions::NOHANG) {
                let status = ExitStatus::from_raw(status.as_raw());
                tell(&mut waiting, pid, status);
            }
        }
        false
    }

    /// Kills whom our children left behind in groups of their own, and who came to us for that, with
    /// those that come to us then.
    pub(super) async fn kill_strangers(&self) {
        if !self.strangers {
            return;
        }
        // One that starts others faster than this is left to whoever ends our container.
        for _ in 0..20 {
            self.reap();
            let left = own_children();
            if left.is_empty() {
                return;
            }
            for pid in left {
                // It may have ended a moment ago.
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i32, oneshot::Sender<Exit>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(waiting: &mut HashMap<i32, oneshot::Sender<Exit>>, pid: Pid, status: ExitStatus) {
    // A stranger has nobody who waits for it.
    if let Some(tell) = waiting.remove(&pid.as_raw_nonzero().get()) {
        let _ = tell.send(Exit::of(status));
    }
}

impl Child {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The most memory that it was seen to hold, in bytes.
    pub(super) const fn peak(&self) -> Option<u64> {
        self.peak
    }

    /// Waits for its end, and looks at its memory meanwhile.
    pub(super) async fn ended(&mut self) -> Exit {
        loop {
            let until_look = self.pause;
            tokio::select! {
                biased;
                // It is told of by `reap`, which outlives every child.
                exit = &mut self.ended => return exit.unwrap_or(Exit::UNKNOWN),
                () = sleep(until_look) => self.look(),
            }
        }
    }

    /// Sends it a signal; it alone, as it knows best what its own children are to do.
    pub(super) fn signal(&self, signal: Signal) {
        // It may have ended a moment ago.
        let _ = kill_process(self.pid, signal);
    }

    /// Kills it and what is left of its group.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    fn look(&mut self) {
        self.pause = (self.pause * 2).min(MEMORY_LOOK.1);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let seen = status.ok().and_then(|status| peak_in(&status));
        self.peak = self.peak.max(seen);
    }
}

/// The processes whose parent we are, where the system lists them.
fn own_children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task");
    let of_tasks = tasks.into_iter().flatten().flatten();
    let listed =
        of_tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = |listed: String| {
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter_map(Pid::from_raw).collect::<Vec<_>>()
    };
    listed.flat_map(pids).collect()
}

/// The peak of resident memory in `/proc/PID/status`, in bytes.
fn peak_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Our own file, also when it was replaced meanwhile.
fn ourselves() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        return link.to_owned();
    }
    std::env::current_exe().unwrap_or_else(|_| "tailhop".into())
}

/// Whether the orphans of our descendants come to us.
fn adopt() -> bool {
    #[cfg(target_os = "linux")]
    if rustix::process::set_child_subreaper(Some(getpid())).is_ok() {
        return true;
    }
    getpid().is_init()
}

/// In a child: what this process is to become, if it is one; then it does not return, or with the
/// exit code of a program that cannot be started.
pub fn become_child(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    let mut number = || arguments.next()?.to_str()?.parse::<i64>().ok();
    let (descriptors, parent, signal) = (number()?, number()?, number()?);
    let (program, called) = (arguments.next()?, arguments.next()?);
    if !die_with(parent, signal) {
        return Some(NOT_EXECUTABLE);
    }
    lower_descriptors(descriptors);
    let error = Command::new(&program).arg0(&called).args(arguments).exec();
    Some(unstartable(&called, &error))
}

/// Asks for a signal when the parent dies; whether it is still there.
#[cfg(target_os = "linux")]
fn die_with(parent: i64, signal: i64) -> bool {
    use rustix::process::{getppid, set_parent_process_death_signal};
    let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
    // Without it children outlive a tailhop that is killed; that is no reason to have none.
    let _ = set_parent_process_death_signal(signal);
    // It may have died before we asked.
    let is_parent = |pid: Pid| i64::from(pid.as_raw_nonzero().get()) == parent;
    getppid().is_none_or(is_parent)
}

/// Other systems have no such signal: there, children outlive a tailhop that is killed.
#[cfg(not(target_os = "linux"))]
fn die_with(_parent: i64, _signal: i64) -> bool {
    true
}

fn lower_descriptors(soft: i64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Ok(soft) = u64::try_from(soft) else {
        return;
    };
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Programs that call select(2) break above 1024; those that need more raise it themselves.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(soft),
            maximum,
        },
    );
}

/// Says why `called` cannot be started; the exit code for it.
fn unstartable(called: &OsStr, error: &io::Error) -> u8 {
    let line = format!("tailhop: cannot start {}: {error}\n", called.display());
    // There is nobody else to tell.
    let _ = io::stderr().write_all(line.as_bytes());
    if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

/// Why a program cannot be started.
#[derive(Debug, PartialEq, Eq)]
pub enum Unstartable {
    /// Nothing of that name is there.
    NotFound,
    /// It is not executable.
    NotExecutable,
}

impl Unstartable {
    /// The exit code that a shell has for it.
    pub const fn code(&self) -> u8 {
        match self {
            Self::NotFound => NOT_FOUND,
            Self::NotExecutable => NOT_EXECUTABLE,
        }
    }

    /// The same in words, after what it is about.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::NotFound => "is not there",
            Self::NotExecutable => "is not executable",
        }
    }
}

/// The file of a program, as a shell would find it in `path`.
///
/// # Errors
/// There is none that can be executed.
pub fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Unstartable> {
    let mut worst = Unstartable::NotFound;
    let is_path = program.as_encoded_bytes().contains(&b'/');
    let places: Vec<PathBuf> = if is_path {
        vec![program.into()]
    } else {
        std::env::split_paths(path)
            .map(|folder| folder.join(program))
            .collect()
    };
    for place in places {
        match place.metadata() {
            Ok(meta) if meta.is_file() && is_executable(&place) => return Ok(place),
            Ok(_) => worst = Unstartable::NotExecutable,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn is_executable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mode) in [("runs", 0o755), ("text", 0o644)] {
            std::fs::write(folder.path().join(name), "#!/bin/sh\n").unwrap();
            set_permissions(folder.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        let path = folder.path().as_os_str();
        let found = |name: &str| find(OsStr::new(name), path).map_err(|why| why.code());
        assert_eq!(found("runs"), Ok(folder.path().join("runs")));
        assert_eq!(found("text"), Err(126));
        assert_eq!(found("none"), Err(127));
        assert_eq!(found("./runs"), Err(127), "a path is not looked for");
        let whole = folder.path().join("runs");
        assert_eq!(find(whole.as_os_str(), OsStr::new("")), Ok(whole));
        assert_eq!(find(path, OsStr::new("")), Err(Unstartable::NotExecutable));
    }

    #[test]
    fn the_peak_is_read_from_the_status_of_a_process() {
        assert_eq!(peak_in("Name:\tx\nVmHWM:\t   35080 kB\n"), Some(35_921_920));
        assert_eq!(peak_in("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn only_a_process_that_is_to_become_a_child_becomes_one() {
        for arguments in [&["tailhop"][..], &["tailhop", "run"], &["tailhop", MARK]] {
            assert_eq!(become_child(arguments.iter().map(OsString::from)), None);
        }
    }
}
