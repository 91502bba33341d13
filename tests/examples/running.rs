//! The real binary with a copy of an example in which only addresses differ.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use super::PATIENCE;

/// The folder of the examples.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples")
}

/// The text of an example.
pub(crate) fn example(system: &str) -> String {
    fs::read_to_string(folder().join(format!("{system}.toml"))).unwrap()
}

/// `text` with each pair's first part, which stands in it once, replaced by its second.
pub(crate) fn with(mut text: String, changes: &[(&str, &str)]) -> String {
    for (from, to) in changes {
        assert_eq!(
            text.matches(from).count(),
            1,
            "{from} is not once in\n{text}"
        );
        text = text.replace(from, to);
    }
    text
}

/// A tailhop that listens, killed when dropped.
pub(crate) struct Running {
    child: Child,
    _folder: tempfile::TempDir,
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Running {
    /// Starts it with exactly these variables, on ports that the system chooses.
    pub(crate) fn start(routing: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routing.toml");
        let listen = "listen = { data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }\n";
        let listen = if routing.contains("[listen]") {
            ""
        } else {
            listen
        };
        fs::write(&file, format!("{listen}{routing}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailhop"));
        command.arg("run").arg("--config").arg(&file).env_clear();
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        let (mut said, nowhere) = (String::new(), SocketAddr::from(([0, 0, 0, 0], 0)));
        // From here on it is killed, whatever comes.
        let mut running = Self {
            child,
            _folder: folder,
            data: nowhere,
            admin: nowhere,
        };
        while running.data == nowhere {
            let line = log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it does not listen:\n{said}"));
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["message"] == "listening" {
                let address = |key: &str| event[key].as_str().unwrap().parse().unwrap();
                (running.data, running.admin) = (address("data"), address("admin"));
            }
            said += &(line + "\n");
        }
        running
    }

    /// What the admin listener says under `path`, as JSON.
    pub(crate) fn admin(&self, path: &str) -> Value {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n", self.admin);
        let (_, _, body) = super::upstream::ask(self.admin, &head, "");
        serde_json::from_str(&body).unwrap()
    }

    /// What the app is answered: status, head, body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.data);
        super::upstream::ask(self.data, &head, body)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a pipe, which is read to its end whether they are wanted or not.
pub(crate) fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (to, from) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // The test may have seen enough.
            let _ = to.send(line);
        }
    });
    from
}
