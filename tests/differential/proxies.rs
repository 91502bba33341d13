//! The two proxies before the same sort of origin: tailhop and nginx, each in a temporary folder.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::origin::Origin;

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// tailhop: route `/oN` leads to origin N, without the prefix.
pub(crate) struct Tailhop {
    child: Killed,
    pub(crate) place: SocketAddr,
    log: Arc<Mutex<String>>,
    _folder: TempDir,
}

impl Tailhop {
    pub(crate) fn start(origins: &[Origin]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routing.toml");
        let services: Vec<_> = (origins.iter().enumerate())
            .map(|(number, origin)| {
                format!(
                    "o{number} = {{ kind = \"http\", port = {} }}\n",
                    origin.place.port()
                )
            })
            .collect();
        let text = format!(
            "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
             tailnet.dial = \"direct\"\n\
             backends.origin.host = \"127.0.0.1\"\n\
             schedule.default = \"origin\"\n\
             [services]\n{}",
            services.concat()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.env_clear().arg("run").arg("--config").arg(file);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Killed(command.spawn().unwrap());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let log = Arc::<Mutex<String>>::default();
        let place = loop {
            let line = lines
                .next()
                .expect("tailhop says where it listens")
                .unwrap();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if event["message"] == "listening" {
                break event["data"].as_str().unwrap().parse().unwrap();
            }
        };
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            // What is not JSON is a panic, or as bad.
            for line in lines.map_while(Result::ok) {
                if !line.starts_with('{') || line.contains("panicked") {
                    *kept.lock().unwrap() += &(line + "\n");
                }
            }
        });
        Self {
            child,
            place,
            log,
            _folder: folder,
        }
    }

    /// What shows that it crashed, in whole or in part.
    pub(crate) fn crash(&mut self) -> Option<String> {
        let ended = self.child.0.try_wait().unwrap();
        let log = self.log.lock().unwrap();
        (ended.is_some() || !log.is_empty()).then(|| format!("{ended:?}\n{log}"))
    }
}

/// The binary under test: of this build, unless told otherwise.
fn binary() -> PathBuf {
    std::env::var_os("TAILHOP_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_tailhop").into(), PathBuf::from)
}

/// nginx: a listener for each origin, which takes the first segment of the path off as bytes.
pub(crate) struct Nginx {
    _child: Killed,
    pub(crate) places: Vec<SocketAddr>,
    _folder: TempDir,
}

impl Nginx {
    /// `None` where there is no nginx.
    pub(crate) fn start(origins: &[Origin]) -> Option<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
            .into_iter()
            .find(|path| fs::exists(path).unwrap_or(false))?;
        let folder = tempfile::tempdir().unwrap();
        let places = free_places(origins.len());
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration(&places, origins)).unwrap();
        let log = folder.path().join("error.log");
        let child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(file)
            .arg("-e")
            .arg(&log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let child = Killed(child);
        let begun = Instant::now();
        for place in &places {
            while TcpStream::connect(place).is_err() {
                let said = || fs::read_to_string(&log).unwrap_or_default();
                assert!(
                    begun.elapsed() < PATIENCE,
                    "nginx does not listen: {}",
                    said()
                );
                thread::sleep(Duration::from_millis(10));
            }
        }
        Some(Self {
            _child: child,
            places,
            _folder: folder,
        })
    }
}

fn configuration(places: &[SocketAddr], origins: &[Origin]) -> String {
    let servers: Vec<_> = (places.iter().zip(origins).enumerate())
        .map(|(number, (place, origin))| {
            format!(
                "upstream o{number} {{ server {origin}; keepalive 8; }}\n\
                 server {{ listen {place}; location / {{\n\
                   if ($rest = '') {{ return 404; }}\n\
                   proxy_pass http://o{number}$rest;\n\
                 }} }}\n",
                origin = origin.place,
            )
        })
        .collect();
    format!(
        "daemon off; master_process off; pid nginx.pid;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
           uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
           client_max_body_size 0; large_client_header_buffers 8 64k;\n\
           underscores_in_headers on; merge_slashes off;\n\
           proxy_http_version 1.1; proxy_set_header Connection '';\n\
           proxy_buffering off; proxy_next_upstream off;\n\
           map $request_uri $rest {{\n\
             '~^/o[0-9](?<path>/.*)$' $path;\n\
             '~^/o[0-9](?<query>[?].*)$' /$query;\n\
             '~^/o[0-9]$' /;\n\
             default '';\n\
           }}\n\
           {}\n\
         }}\n",
        servers.concat()
    )
}

/// Different addresses that were free a moment ago.
fn free_places(count: usize) -> Vec<SocketAddr> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let held: Vec<_> = (0..count).map(bind).collect();
    held.iter().map(|it| it.local_addr().unwrap()).collect()
}
