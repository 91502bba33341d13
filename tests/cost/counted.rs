//! Runs tailhop under a counter, and takes differences of runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Counts;
use crate::script::{Origin, SHAPES, Shape, play};

/// What both runs have of every shape.
const SOME: u32 = 200;

impl Shape {
    /// How many more one of them has: so many that what goes by the clock is little beside it.
    const fn more(self) -> u32 {
        match self {
            Self::Read | Self::Query | Self::Fresh => 2000,
            Self::Token => 6000,
        }
    }
}

/// The calls that do something. How often somebody waits depends on how busy the machine is.
const CALLS: &str = "trace=%network,read,write,readv,writev,close,epoll_ctl,fcntl,ioctl";

/// Makes glibc take the variants of its string functions that every x86-64 has, whatever this one
/// has besides.
const PLAIN: &str = "glibc.cpu.hwcaps=-AVX2,-AVX,-AVX512F,-AVX512VL,-AVX512BW,-EVEX,-ERMS,-FSRM,\
                     -SSSE3,-SSE4_1,-SSE4_2,-BMI1,-BMI2,-LZCNT,-MOVBE,-POPCNT,-RTM";

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Instructions,
    Syscalls,
}

/// A process group that does not outlive its test.
struct Group(Child);

impl Group {
    fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process_group(Pid::from_child(&self.0), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.0.wait();
    }
}

/// What one of each shape costs.
pub(crate) fn counts(counter: Counter, binary: &Path) -> Counts {
    let least = run(counter, binary, None);
    SHAPES
        .into_iter()
        .map(|shape| {
            let more = run(counter, binary, Some(shape)) - least;
            (
                shape.name().to_owned(),
                two_digits(more / f64::from(shape.more())),
            )
        })
        .collect()
}

fn two_digits(count: f64) -> f64 {
    (count * 100.0).round() / 100.0
}

/// A whole run: start, the script, an orderly end. What it took in all.
fn run(counter: Counter, binary: &Path, more_of: Option<Shape>) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    fs::write(folder.path().join("routing.toml"), config(&origin)).unwrap();
    let access = fs::File::create(folder.path().join("access")).unwrap();
    let child = counter
        .command(binary)
        .args(["run", "--config", "routing.toml"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(access)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut group = Group(child.unwrap());
    let mut lines = BufReader::new(group.0.stderr.take().unwrap()).lines();
    let to = listening(&mut lines);
    for shape in SHAPES {
        let more = if more_of == Some(shape) {
            shape.more()
        } else {
            0
        };
        play(shape, to, &origin, SOME + more);
    }
    // strace blocks it for itself.
    group.signal(Signal::TERM);
    lines.for_each(drop);
    group.0.wait().unwrap();
    counter.total(folder.path())
}

fn listening(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> SocketAddr {
    let mut said = String::new();
    loop {
        let line = lines.next();
        let line = line.unwrap_or_else(|| panic!("it ended before it listened: {said}"));
        let line = line.unwrap();
        said += &line;
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["message"] == "listening" {
            return event["data"].as_str().unwrap().parse().unwrap();
        }
    }
}

/// Everything on: two services, two backends each, probes, metrics, the access line.
fn config(origin: &Origin) -> String {
    let [ollama, qdrant] = origin.ports;
    format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"direct\"\n\
         backends.m1.host = \"127.0.0.1\"\n\
         backends.m2.host = \"127.0.0.2\"\n\
         services.ollama.port = {ollama}\n\
         services.qdrant.port = {qdrant}\n\
         schedule.default = \"m1\"\n",
    )
}

impl Counter {
    /// What runs `binary` and writes files that begin with `counted`.
    fn command(self, binary: &Path) -> Command {
        let binary = fs::canonicalize(binary).unwrap();
        let (tool, words): (_, &[&str]) = match self {
            Self::Instructions => (
                "valgrind",
                &[
                    "--tool=callgrind",
                    "--separate-threads=yes",
                    "--callgrind-out-file=counted",
                    "--log-file=log",
                ],
            ),
            Self::Syscalls => (
                "strace",
                &["-f", "-c", "-U", "calls,name", "-e", CALLS, "-o", "counted"],
            ),
        };
        let mut command = Command::new(tool);
        command.args(words).arg(binary);
        command.env_clear().env("GLIBC_TUNABLES", PLAIN);
        command
    }

    /// The sum that it wrote into `folder`.
    fn total(self, folder: &Path) -> f64 {
        match self {
            // The first thread is the control thread.
            Self::Instructions => (2..)
                .map_while(|thread| {
                    let file = folder.join(format!("counted-{thread:02}"));
                    Some(number(&fs::read_to_string(file).ok()?, |line| {
                        line.strip_prefix("totals:")
                    }))
                })
                .sum(),
            Self::Syscalls => {
                let said = fs::read_to_string(folder.join("counted")).unwrap();
                number(&said, |line| line.strip_suffix("total"))
            }
        }
    }
}

/// The number in the line that `find` finds.
fn number(said: &str, find: impl Fn(&str) -> Option<&str>) -> f64 {
    let found = said.lines().find_map(find);
    let found = found.unwrap_or_else(|| panic!("no sum in {said}"));
    found.trim().parse().unwrap()
}
