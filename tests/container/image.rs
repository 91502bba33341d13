//! An image that was built without a daemon, and a container of it that runs as its platform would.
//!
//! Owns the build, the mount and the processes. Also the rig runs images by this.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a container has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// Whether a container has a network of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// Only a loopback.
    Own,
    /// That of who starts it.
    #[allow(dead_code, reason = "only the rig has a network to share")]
    Shared,
}

/// An image that is mounted.
pub(crate) struct Image {
    name: String,
    container: String,
    pub(crate) root: PathBuf,
}

impl Image {
    /// Builds one, where that is asked for.
    pub(crate) fn build(target: &str) -> Option<Self> {
        let required =
            std::env::var_os("TAILHOP_REQUIRE_CONTAINER").is_some_and(|value| value == "1");
        if !required {
            tell("skipped: TAILHOP_REQUIRE_CONTAINER=1 builds the images; it takes minutes once");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/build.sh");
        let built = Command::new(script)
            .arg(target)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        let name = String::from_utf8(built.stdout).unwrap().trim().to_owned();
        let container = buildah(&["from", "--pull-never", &name]);
        let root = buildah(&["mount", &container]).into();
        Some(Self {
            name,
            container,
            root,
        })
    }

    pub(crate) fn inspect(&self, what: &str) -> String {
        buildah(&["inspect", "--type", "image", "--format", what, &self.name])
    }

    /// Bytes of all files.
    pub(crate) fn size(&self) -> u64 {
        let output = Command::new("du")
            .arg("-sb")
            .arg(&self.root)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Its own command, or `program`, as PID 1 of namespaces of its own; with the user, the folder
    /// and the variables of the image, on its root, which is read-only but for a /tmp in memory.
    pub(crate) fn command(
        &self,
        net: Net,
        variables: &[(&str, &str)],
        program: &[&str],
    ) -> Command {
        let mut command = Command::new("unshare");
        command.args("--fork --pid --mount --uts --ipc --kill-child".split(' '));
        if net == Net::Own {
            command.arg("--net");
        }
        // Inside the new namespaces and before the new root, with this machine's programs.
        let prepare = "set -e; root=$1; folder=$2; path=$3; shift 3\n\
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
            ip link set lo up; mkdir -p \"$root/proc\" \"$root/dev\"\n\
            mount --bind \"$root\" \"$root\"; mount -o remount,ro,bind \"$root\"\n\
            mount -t tmpfs -o mode=1777 tmpfs \"$root/tmp\"\n\
            mount -t proc proc \"$root/proc\"; mount --rbind /dev \"$root/dev\"\n\
            PATH=$path exec /usr/bin/unshare --root \"$root\" --wd \"$folder\" \
                --setgid 65532 --setuid 65532 \"$@\"";
        let of_image = self.inspect("{{range .OCIv1.Config.Env}}{{println .}}{{end}}");
        let of_image: Vec<_> = of_image
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let path = of_image.iter().find(|(name, _)| *name == "PATH");
        command
            .args(["sh", "-c", prepare, "sh"])
            .arg(&self.root)
            .arg(self.inspect("{{.OCIv1.Config.WorkingDir}}"))
            .arg(path.unwrap().1);
        if program.is_empty() {
            let words = |of: &str| {
                let of = format!("{{{{range .OCIv1.Config.{of}}}}}{{{{println .}}}}{{{{end}}}}");
                let said = self.inspect(&of);
                said.lines().map(str::to_owned).collect::<Vec<_>>()
            };
            command.args(words("Entrypoint")).args(words("Cmd"));
        } else {
            command.args(program);
        }
        command
            .env_clear()
            .envs(of_image)
            .envs(variables.iter().copied());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null());
        command
    }

    /// Runs one to its end.
    pub(crate) fn inside(&self, program: &[&str]) -> Output {
        self.command(Net::Own, &[], program).output().unwrap()
    }

    /// Runs its own command.
    pub(crate) fn run(&self, net: Net, variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(net, variables, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        buildah(&["umount", &self.container]);
        buildah(&["rm", &self.container]);
    }
}

/// PID 1 of the container that `unshare` started, as this machine sees it.
pub(crate) fn first(unshare: u32) -> Option<u32> {
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let children = std::fs::read_to_string(children).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A container that runs.
pub(crate) struct Running(Child);

impl Running {
    fn pid(&self) -> Option<u32> {
        first(self.0.id())
    }

    /// Runs a program in it, as its user, until that succeeds; what it said then.
    pub(crate) fn until_says(&self, program: &[&str]) -> String {
        let deadline = SystemTime::now() + PATIENCE;
        loop {
            let said = self.pid().and_then(|pid| {
                let mut beside = Command::new("nsenter");
                beside.arg(format!("--target={pid}"));
                beside.args("--mount --pid --net --ipc --uts --root --wd".split(' '));
                beside.args(["--setgid=65532", "--setuid=65532", "--"]);
                let output = beside
                    .args(program)
                    .output()
                    .ok()
                    .filter(|output| output.status.success())?;
                String::from_utf8(output.stdout).ok()
            });
            if let Some(said) = said {
                return said;
            }
            assert!(SystemTime::now() < deadline, "{program:?} does not succeed");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// A line of its /proc/PID/status, the first number.
    pub(crate) fn status(&self, key: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().unwrap())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// Whether this file can be created in its file system.
    pub(crate) fn can_write(&self, file: &str) -> bool {
        let path = format!("/proc/{}/root{file}", self.pid().unwrap());
        // As root, who may follow /proc/PID/root: what refuses is the file system.
        let touch = Command::new("touch")
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        touch.is_ok_and(|status| status.success())
    }

    /// Ends it as a platform does; its code.
    pub(crate) fn end(&mut self) -> i32 {
        let pid = Pid::from_raw(self.pid().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let deadline = SystemTime::now() + GRACE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(
                SystemTime::now() < deadline,
                "it did not end within {GRACE:?}"
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // unshare waits for its child, and takes it along when it is killed.
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One answer of buildah about the storage of build.sh.
fn buildah(arguments: &[&str]) -> String {
    let cache = std::env::var("TAILHOP_CACHE").unwrap_or_else(|_| {
        let home = std::env::var("HOME").unwrap();
        let caches = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
        format!("{caches}/tailhop")
    });
    let mut command = Command::new("buildah");
    command
        .args(["--storage-driver", "vfs", "--root"])
        .arg(format!("{cache}/container/storage"));
    command
        .arg("--runroot")
        .arg(format!("{cache}/container/run"));
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "buildah {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Says something that the test harness must not swallow.
pub(crate) fn tell(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
