//! The images, built without a daemon and run as their platform would: as PID 1, as 65532, with a
//! root that cannot be written to.
//!
//! It takes minutes for the first time, so it runs where `TAILHOP_REQUIRE_CONTAINER=1` asks for it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a container has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
const MEBIBYTE: u64 = 1024 * 1024;

#[test]
fn the_sidecar_is_small_and_says_what_it_is_and_runs_on_a_root_that_it_cannot_write() {
    let Some(image) = Image::build("sidecar") else {
        return;
    };
    assert!(image.size() <= 60 * MEBIBYTE, "{} bytes", image.size());
    tell(&format!("sidecar: {} bytes unpacked", image.size()));
    assert_eq!(image.inspect("{{.OCIv1.Config.User}}"), "65532:65532");
    assert_eq!(
        image.inspect("{{.OCIv1.Config.Entrypoint}}"),
        "[/usr/local/bin/tailhop]"
    );
    assert_eq!(image.inspect("{{.OCIv1.Config.Cmd}}"), "[run]");
    assert_eq!(
        image.inspect("{{.Docker.Config.Healthcheck.Test}}"),
        "[CMD /usr/local/bin/tailhop health]"
    );
    for label in ["title", "description", "licenses", "version", "revision"] {
        let label =
            format!("{{{{index .OCIv1.Config.Labels \"org.opencontainers.image.{label}\"}}}}");
        assert_ne!(image.inspect(&label), "", "{label}");
    }
    let bill =
        std::fs::read_to_string(image.root.join("usr/share/doc/tailhop/sbom.cdx.json")).unwrap();
    let bill: serde_json::Value = serde_json::from_str(&bill).unwrap();
    let names: Vec<_> = bill["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    for name in ["tailhop", "hyper", "rustls", "ring"] {
        assert!(names.contains(&&name.into()), "{name} is not in the list");
    }

    let mut running = image.run(
        &[("ACTIVE_BACKEND", "macbook-m1")],
        &["/usr/local/bin/tailhop", "run"],
    );
    assert_eq!(
        running.until_says(&image, &["/usr/local/bin/tailhop", "health"]),
        "live\n"
    );
    assert_eq!(running.status("Uid"), "65532", "it is not root");
    assert!(
        !running.can_write("/etc/tailhop/x"),
        "the root can be written"
    );
    assert!(running.can_write("/tmp/x"), "tailscaled has no folder");
    // tailscaled of the image runs on this root, too.
    let version = image.inside(&["/usr/local/bin/tailscaled", "--version"]);
    assert!(version.status.success(), "{version:?}");
    assert_eq!(running.end(), 0);
}

#[test]
fn the_example_app_of_the_image_starts_on_a_root_that_it_cannot_write() {
    let Some(image) = Image::build("app") else {
        return;
    };
    assert_eq!(image.inspect("{{.OCIv1.Config.User}}"), "65532:65532");
    assert_eq!(
        image.inspect("{{.OCIv1.Config.Cmd}}"),
        "[run -- gunicorn app:create_app()]"
    );
    let version = image.inside(&["/usr/local/bin/tailhop", "--version"]);
    assert!(version.status.success(), "{version:?}");
    tell(&format!("app: {} bytes unpacked", image.size()));

    // By itself: what tailhop is to start is gunicorn, as PID 1 it has to do no less.
    let gunicorn = ["/venv/bin/gunicorn", "--chdir", "/app", "app:create_app()"];
    let mut running = image.run(&[("PORT", "9090")], &gunicorn);
    let ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9090/health').read())";
    let said = running.until_says(&image, &["/venv/bin/python", "-c", ask]);
    assert!(said.contains("\"tailhop\":false"), "{said}");
    assert_eq!(running.status("Uid"), "65532", "it is not root");
    assert!(!running.can_write("/app/x"), "the root can be written");
    assert_eq!(running.end(), 0);
}

// --- what the tests stand on -------------------------------------------------------------------

/// An image that is mounted.
struct Image {
    name: String,
    container: String,
    root: std::path::PathBuf,
}

impl Image {
    /// Builds one, where that is asked for.
    fn build(target: &str) -> Option<Self> {
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

    fn inspect(&self, what: &str) -> String {
        buildah(&["inspect", "--type", "image", "--format", what, &self.name])
    }

    /// Bytes of all files.
    fn size(&self) -> u64 {
        let output = Command::new("du")
            .arg("-sb")
            .arg(&self.root)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// A command as PID 1 of namespaces of its own, as 65532, on this root, which is read-only but
    /// for a /tmp in memory.
    fn command(&self, variables: &[(&str, &str)], program: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--fork",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--kill-child",
        ]);
        // Inside the new namespaces and before the new root.
        let prepare = "set -e; root=$1; shift; PATH=$PATH:/usr/sbin:/sbin; ip link set lo up\n\
            mount --bind \"$root\" \"$root\"; mount -o remount,ro,bind \"$root\"\n\
            mount -t tmpfs -o mode=1777 tmpfs \"$root/tmp\"\n\
            for at in proc dev; do [ ! -d \"$root/$at\" ] || mount --rbind /$at \"$root/$at\"; done\n\
            export PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp\n\
            exec /usr/sbin/chroot --userspec=65532:65532 --groups= \"$root\" \"$@\"";
        command
            .args(["sh", "-c", prepare, "sh"])
            .arg(&self.root)
            .args(program);
        command.env_clear().envs(variables.iter().copied());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null());
        command
    }

    /// Runs one to its end.
    fn inside(&self, program: &[&str]) -> Output {
        self.command(&[], program).output().unwrap()
    }

    fn run(&self, variables: &[(&str, &str)], program: &[&str]) -> Running {
        let mut command = self.command(variables, program);
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

/// A container that runs.
struct Running(Child);

impl Running {
    /// PID 1 of it, as this machine sees it.
    fn pid(&self) -> Option<u32> {
        let outer = self.0.id();
        let children =
            std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Runs a program of the image beside it until that succeeds; what it said then.
    fn until_says(&self, image: &Image, program: &[&str]) -> String {
        let deadline = SystemTime::now() + PATIENCE;
        loop {
            let said = self.pid().and_then(|pid| {
                let mut beside = Command::new("nsenter");
                beside
                    .arg(format!("--target={pid}"))
                    .args(["--net", "--", "chroot"]);
                beside
                    .arg("--userspec=65532:65532")
                    .arg(&image.root)
                    .args(program);
                let output = beside
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
    fn status(&self, key: &str) -> String {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().unwrap())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    }

    /// Whether this file can be created in its file system.
    fn can_write(&self, file: &str) -> bool {
        let path = format!("/proc/{}/root{file}", self.pid().unwrap());
        // As root, who may follow /proc/PID/root: what refuses is the file system.
        let touch = Command::new("touch")
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        touch.is_ok_and(|status| status.success())
    }

    /// Ends it as a platform does; its code.
    fn end(&mut self) -> i32 {
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
fn tell(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
