//! The Python clients and the example app, in the virtual environment of `tests/clients`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::PATIENCE;
use super::parts::{part, skip};
use super::running::{Running, lines};

/// An interpreter that has the clients.
pub(crate) struct Python(PathBuf);

/// A process that serves, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) place: SocketAddr,
}

impl Python {
    /// The one of the rig, built now if need be; without it, says so.
    pub(crate) fn find() -> Option<Self> {
        match part("python") {
            Ok(folder) => Some(Self(folder.join("bin/python"))),
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    /// Makes the calls of a system; a failure is shown whole.
    pub(crate) fn calls(&self, system: &str, running: &Running, variables: &[(&str, &str)]) {
        let mut command = self.command();
        command.arg("tests/examples/calls.py").arg(system);
        command.env("TAILHOP_DATA", running.data.to_string());
        command.env("TAILHOP_ADMIN", running.admin.to_string());
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the calls of {system}:\n{said}");
    }

    /// The example app by gunicorn, with tailhop as its only address.
    pub(crate) fn example_app(&self, running: &Running) -> Server {
        let mut command = self.command();
        command.args([
            "-m",
            "gunicorn",
            "--bind",
            "127.0.0.1:0",
            "app:create_app()",
        ]);
        command.current_dir(root().join("sidecar/example-app"));
        command.env("OLLAMA_URL", format!("http://{}/ollama", running.data));
        command.env("QDRANT_URL", format!("http://{}/qdrant", running.data));
        command.env("TAILHOP_ADMIN_URL", format!("http://{}", running.admin));
        Server::start(command, "Listening at: http://")
    }

    /// The store that verifies every signature.
    pub(crate) fn storage(&self) -> Server {
        let place = super::listener().local_addr().unwrap();
        let mut command = self.command();
        command
            .arg("tests/clients/storage_stand_in.py")
            .arg("--listen")
            .arg(place.to_string());
        command.stderr(Stdio::null());
        let server = Server {
            child: command.spawn().unwrap(),
            place,
        };
        // It says nothing; it is there when it accepts.
        let deadline = std::time::SystemTime::now() + PATIENCE;
        while std::net::TcpStream::connect(place).is_err() {
            assert!(
                std::time::SystemTime::now() < deadline,
                "the store does not listen"
            );
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        server
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.0);
        // A proxy variable of the machine would lead the clients astray.
        command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).current_dir(root());
        command
    }
}

impl Server {
    /// Starts it, and returns when it says where it listens.
    fn start(mut command: Command, before: &str) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stderr.take().unwrap());
        let place = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, place };
        let mut all = String::new();
        loop {
            let line = said
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("it does not listen:\n{all}"));
            if let Some((_, rest)) = line.split_once(before) {
                server.place = rest.split(' ').next().unwrap().parse().unwrap();
                return server;
            }
            all += &(line + "\n");
        }
    }

    /// Asks it: status, head, body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n",
            self.place
        );
        super::upstream::ask(self.place, &head, body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // gunicorn's worker ends with its arbiter, which has to be told.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
