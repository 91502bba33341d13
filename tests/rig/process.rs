//! A process of the rig: started inside a machine, its words kept in a file, gone when dropped.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::net::Host;
use super::wait::eventually;

/// Those that were started and not dropped yet.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// The numbers of all that run.
pub(crate) fn running() -> Vec<u32> {
    locked().clone()
}

fn locked() -> MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running process, and everything it started itself: it leads a group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on `host`. Output and diagnostics go to `log`.
    pub(crate) fn start(host: &Host, command: &mut Command, log: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = host.start(command)?;
        locked().push(child.id());
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        // The group may be gone already, which is what a killer wants.
        let _ = kill_process_group(self.pid(), signal);
    }

    /// Stops it, and returns when the kernel says that it no longer runs.
    pub(crate) async fn freeze(&self) {
        self.signal(Signal::STOP);
        eventually(
            "the process is stopped",
            Duration::from_secs(5),
            async || (self.state()? == 'T').then_some(()),
        )
        .await;
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("a child of ours can be waited for")
    }

    /// Waits for its end; kills it at the deadline.
    pub(crate) async fn end(&mut self, within: Duration) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            if tokio::time::Instant::now() >= deadline {
                self.kill();
                return ExitStatus::from_raw(Signal::KILL.as_raw());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it and everything it started.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The letter of its state in `/proc`.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

/// The last lines of what it said, for the message of a failure.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        write!(f, "{} ends with:\n{}", self.log.display(), last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let own = self.id();
        locked().retain(|id| *id != own);
    }
}
