//! Removes everything a run made: processes, namespaces, files.
//!
//! A rig lives in a static, which is never dropped, and a test process may be killed. So the work
//! is done by a process of its own that waits for the end of ours: it holds the reading end of a
//! pipe that only we hold the other end of, and the kernel closes that whatever happened. It
//! starts before the first namespace exists. A run whose janitor was killed too is swept up by
//! the next run.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::net;

/// The janitor of this run.
#[derive(Debug)]
pub(crate) struct Janitor {
    /// Never read: its standard input is the pipe.
    _process: Child,
}

/// The folder for the files of one run. In `/run`, which only root can write to, because its name
/// is predictable, and short, because the path of a socket is at most 107 bytes.
pub(crate) fn folder(pid: u32) -> PathBuf {
    PathBuf::from(format!("/run/tailhop-rig-{pid}"))
}

impl Janitor {
    /// Sweeps up after runs that are dead, then waits for the end of this one.
    pub(crate) fn start() -> io::Result<Self> {
        for pid in dead_runs() {
            sweep(pid).status()?;
        }
        let own = std::process::id();
        std::fs::create_dir(folder(own))?;
        let mut janitor = sweep(own);
        // A group of its own: an interrupt from the terminal must not reach it.
        let process = janitor
            .arg("wait")
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        Ok(Self { _process: process })
    }
}

/// The command that removes everything of one run; with `wait` as one more argument, it waits for
/// the end of its standard input first. Processes are found by the namespace they run in, so it
/// reaches also what a process of ours started itself, and ends only what is ours.
fn sweep(pid: u32) -> Command {
    const SCRIPT: &str = r#"
        prefix=$1 folder=$2
        [ "$3" = wait ] && cat >/dev/null
        for path in /run/netns/"$prefix"*; do
            [ -e "$path" ] || continue
            name=${path##*/}
            while pids=$(ip netns pids "$name") && [ -n "$pids" ]; do
                kill -9 $pids 2>/dev/null
            done
            ip netns del "$name"
        done
        rm -rf "$folder"
    "#;
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "janitor", &net::prefix(pid)])
        .arg(folder(pid));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The runs that left something and whose process is gone.
fn dead_runs() -> Vec<u32> {
    let names = ["/run/netns", "/run"]
        .into_iter()
        .flat_map(std::fs::read_dir)
        .flatten();
    let mut pids: Vec<u32> = names
        .filter_map(|entry| run_of(entry.ok()?.file_name().to_str()?))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    pids
}

/// The run that a namespace or a folder belongs to.
fn run_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("tailhop-rig-")?;
    rest.split('-').next()?.parse().ok()
}
