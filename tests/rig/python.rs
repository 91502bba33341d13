//! The Python clients of `tests/clients`, against a real Ollama and the Qdrant stand-in.
//!
//! Owns the servers on both Macs, in the places of the scripted ones, and the pytest run in the
//! container.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use super::client;
use super::hop::{ADMIN, BUCKET, DATA, OWN_OLLAMA, OWN_QDRANT, OWN_QDRANT_GRPC, STORAGE, binary};
use super::mac::{OLLAMA, QDRANT, QDRANT_GRPC};
use super::net::Host;
use super::parts::{Missing, part};
use super::process::Process;
use super::rig::Rig;
use super::wait::eventually;

/// Real servers on both Macs, ended when dropped.
#[derive(Debug)]
pub(crate) struct Services {
    python: PathBuf,
    servers: Vec<Process>,
}

/// How a pytest run went.
#[derive(Debug)]
pub(crate) struct Tests {
    pub(crate) passed: bool,
    /// Its whole output, with the name of every test.
    pub(crate) said: String,
}

impl Services {
    /// Starts Ollama and the stand-in on both Macs, whose ports must be free, and returns when
    /// all four answer.
    pub(crate) fn start(rig: &Rig) -> Result<Self, Missing> {
        let python = part("python")?.join("bin/python");
        let (ollama, model) = (
            part("ollama")?.join("ollama"),
            part("model")?.join("models"),
        );
        let mut servers = Vec::new();
        for node in [&rig.m1, &rig.m2] {
            let folder = rig.folder.join(format!("services-{}", node.host.name));
            // Another test may have left its own.
            let _ = std::fs::remove_dir_all(folder.join("models"));
            link_folder(&model, &folder.join("models")).expect("the model can be copied");
            let model_server = start_ollama(&node.host, &ollama, &folder);
            let [stand_in, storage] = start_stand_ins(&node.host, &python, &folder);
            until_answering(&node.host, &model_server, OLLAMA, "/api/version");
            until_answering(&node.host, &stand_in, QDRANT, "/readyz");
            until_listening(&node.host, &stand_in, QDRANT_GRPC);
            until_listening(&node.host, &storage, STORAGE);
            servers.extend([model_server, stand_in, storage]);
        }
        Ok(Self { python, servers })
    }

    /// Kills the process in which the first Mac's Ollama runs a model; whether there was one.
    pub(crate) fn kill_runner(&self) -> bool {
        let server = self.servers[0].id().to_string();
        let is_child = |stat: &str| {
            let (_, rest) = stat.rsplit_once(") ")?;
            (rest.split(' ').nth(1)? == server).then_some(())
        };
        let processes = std::fs::read_dir("/proc").expect("there are processes");
        let runner = processes.flatten().find_map(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            is_child(&stat)?;
            process.file_name().to_str()?.parse().ok()
        });
        let runner = runner.and_then(Pid::from_raw);
        runner.is_some_and(|runner| kill_process(runner, Signal::KILL).is_ok())
    }

    /// Runs every test of `tests/clients` in the container, where tailhop must be running.
    pub(crate) async fn run_pytest(&self, rig: &Rig) -> Tests {
        let home = rig.folder.join("pytest");
        std::fs::create_dir_all(&home).expect("a folder for pytest");
        let mut command = Command::new(&self.python);
        // The environment holds what the tests need and nothing else: a proxy variable of the
        // machine would lead the clients astray.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TAILHOP_URL", format!("http://{DATA}"))
            .env("TAILHOP_ADMIN_URL", format!("http://{ADMIN}"))
            .env("TAILHOP_OLLAMA_PORT", port(OWN_OLLAMA))
            .env("TAILHOP_QDRANT_PORT", port(OWN_QDRANT))
            .env("TAILHOP_QDRANT_GRPC_PORT", port(OWN_QDRANT_GRPC))
            .env("TAILHOP_BIN", binary())
            .env("TAILHOP_BUCKET", BUCKET)
            .env("TAILHOP_KEPT", "/ollama")
            .env("TAILHOP_SLOW_MODEL", "slow")
            .envs(std::env::var_os("TAILHOP_UPDATE_GOLDEN").map(|on| ("TAILHOP_UPDATE_GOLDEN", on)))
            .args(["-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no"])
            .arg(clients());
        let log = home.join("log");
        let mut pytest = Process::start(&rig.cr.host, &mut command, &log).expect("pytest starts");
        let status = pytest.end(Duration::from_mins(6)).await;
        Tests {
            passed: status.success(),
            said: pytest.log(),
        }
    }
}

fn start_ollama(host: &Host, ollama: &Path, folder: &Path) -> Process {
    let mut command = Command::new(ollama);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("OLLAMA_MODELS", folder.join("models"))
        .env("OLLAMA_HOST", format!("127.0.0.1:{OLLAMA}"))
        .arg("serve");
    Process::start(host, &mut command, &folder.join("ollama.log")).expect("ollama starts")
}

fn start_stand_ins(host: &Host, python: &Path, folder: &Path) -> [Process; 2] {
    let start = |script: &str, port: u16, more: &[OsString]| {
        let mut command = Command::new(python);
        command
            .env_clear()
            .env("HOME", folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(clients().join(format!("{script}.py")))
            .arg(format!("--listen=127.0.0.1:{port}"))
            .args(more);
        let log = folder.join(format!("{script}.log"));
        Process::start(host, &mut command, &log).expect("the stand-in starts")
    };
    let qdrant = [
        format!("--listen-grpc=127.0.0.1:{QDRANT_GRPC}").into(),
        "--data".into(),
        folder.join("qdrant").into(),
    ];
    [
        start("qdrant_stand_in", QDRANT, &qdrant),
        start("storage_stand_in", STORAGE, &[]),
    ]
}

/// For those of whom no plain request is answered well.
fn until_listening(host: &Host, server: &Process, port: u16) {
    host.run(async || {
        let what = format_args!("port {port} of {} accepts\n{server}", host.name);
        eventually(what, Duration::from_secs(20), async || {
            let place = (Ipv4Addr::LOCALHOST, port);
            TcpStream::connect(place).await.ok().map(drop)
        })
        .await;
    });
}

fn until_answering(host: &Host, server: &Process, port: u16, path: &str) {
    host.run(async || {
        let what = format_args!("{path} answers on port {port} of {}\n{server}", host.name);
        eventually(what, Duration::from_secs(20), async || {
            let answer = client::get(([127, 0, 0, 1], port).into(), path)
                .await
                .ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    });
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().expect("an address has a port")
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The same files, which Ollama never writes to, in a folder of its own.
fn link_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_folder(&entry.path(), &target)?;
        } else if let Err(error) = std::fs::hard_link(entry.path(), &target) {
            // A copy onto itself would empty it.
            if error.kind() != ErrorKind::CrossesDevices {
                return Err(error);
            }
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
