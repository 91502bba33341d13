//! gRPC to a backend that is given by its url: TLS, which key it gets, and what a client is told when
//! its server is not as it should be.

use std::time::Duration;

use tailhop::words::clock::Clock;
use tempfile::TempDir;

use super::{READ, WRITE};
use crate::support::app::App;
use crate::support::grpc::{Act, Caller, Came, Server, message};
use crate::support::time::{really, soon};
use crate::support::tls::{Authority, Front, Hello};
use crate::support::upstream::Upstream;

const FULL: &str = "canary-writes";
const READS: &str = "canary-reads";
/// Years: long before any of these tests, and long after.
const VALID: (i32, i32) = (2000, 2200);

/// A Mac, and a service elsewhere that is known by its url, each with HTTP and gRPC.
struct Scene {
    app: App,
    caller: Caller,
    mac: Server,
    mac_http: Upstream,
    cloud: Server,
    /// TLS before `cloud`.
    front: Front,
    _cloud_http: (Upstream, Front),
    _ca: TempDir,
}

/// `active` is so by default. Another authority than the trusted one issued the certificate of the
/// gRPC port unless it is `trusted`; its server takes `protocols` by ALPN.
async fn scene(active: &str, trusted: bool, protocols: &[&str]) -> Scene {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = tempfile::tempdir().unwrap();
    let pem = ca.path().join("ca.pem");
    std::fs::write(&pem, ours.pem()).unwrap();
    let issue = |by: &Authority| by.issue("localhost", VALID.0, VALID.1);
    let [mac_http, cloud_http] = Upstream::pair().await;
    let http = Front::start(&issue(&ours), cloud_http.place()).await;
    let cloud = Server::start();
    let issued = issue(if trusted { &ours } else { &theirs });
    // The gRPC port is the same on every backend.
    let (front, mac) = loop {
        let front = Front::offering(&issued, cloud.place(), protocols).await;
        if let Ok(mac) = Server::at([127, 0, 0, 2], front.place.port()) {
            break (front, mac);
        }
    };
    let toml = format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"direct\"\n\
         schedule.default = \"{active}\"\n\
         [backends.mac]\nhost = \"127.0.0.2\"\n\
         [backends.cloud]\nurl = \"https://localhost:{}\"\ndial = \"direct\"\nca = \"{}\"\n\
         headers = {{ api-key = {{ env = \"W\" }} }}\n\
         read_headers = {{ api-key = {{ env = \"R\" }} }}\n\
         [services.qdrant]\nbackends = [\"mac\", \"cloud\"]\nport = {}\nlisten_grpc = \"127.0.0.1:0\"\ngrpc_port = {}\n\
         timeouts = {{ wait = \"200ms\" }}\n",
        http.place.port(),
        pem.display(),
        mac_http.place().port(),
        front.place.port(),
    );
    let keys = [("W", FULL), ("R", READS)];
    let app = App::start_with(&toml, &keys, Clock::system()).await;
    for backend in ["mac", "cloud"] {
        app.judged("qdrant", backend, "up").await;
    }
    Scene {
        caller: Caller::connect(app.grpc()).await,
        app,
        mac,
        mac_http,
        cloud,
        front,
        _cloud_http: (cloud_http, http),
        _ca: ca,
    }
}

impl Scene {
    /// Calls with a key of the client's own; the status, the backend and the text.
    async fn call(&self, path: &str) -> (String, String, String) {
        let own = [("api-key", "client"), ("host", "elsewhere.example")];
        let reply = self.caller.call_with(path, &own, b"m").await;
        let said = format!("{reply:?}");
        assert!(!said.contains("canary"), "{said}");
        let says = |name| reply.says(name).to_owned();
        (
            says("grpc-status"),
            says("x-tailhop-backend"),
            says("grpc-message"),
        )
    }

    async fn answers(&self, path: &str, backend: &str) {
        let (status, by, text) = self.call(path).await;
        assert_eq!((status.as_str(), by.as_str()), ("0", backend), "{text}");
    }

    /// Writes are refused with these words, reads are answered by the Mac, and the cloud gets nothing.
    async fn cannot_be_asked(&self, words: &[&str]) {
        for _ in 0..2 {
            let (status, by, text) = self.call(WRITE).await;
            assert_eq!((status.as_str(), by.as_str()), ("14", ""), "{text}");
            for words in words.iter().chain(&["on cloud failed", "Nothing was sent"]) {
                assert!(text.contains(words), "{text}");
            }
            self.answers(READ, "mac").await;
        }
        assert!(!self.front.seen().is_empty(), "it was dialled");
        assert_eq!(self.cloud.counts().calls, 0);
        assert!(self.mac.came().iter().all(|came| came.path == READ));
    }

    /// The keys that the cloud got.
    fn keys(&self) -> Vec<String> {
        self.cloud.came().iter().flat_map(keys).collect()
    }

    async fn ends_clean(self) {
        let told = [
            self.app.admin("GET", "/status").await,
            self.app.admin("GET", "/config").await,
        ];
        for answer in &told {
            assert!(!answer.text().contains("canary"), "{}", answer.text());
        }
        assert!(!format!("{:?}", self.app.lines()).contains("canary"));
        drop(self.caller);
        drop((self.mac, self.cloud, self.front));
        self.app.stop().await;
    }
}

fn keys(came: &Came) -> Vec<String> {
    let all = came.headers.get_all("api-key").iter();
    all.map(|key| key.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_call_goes_over_tls_with_the_key_of_its_backend() {
    let scene = scene("cloud", true, &["h2"]).await;
    let answer = vec![message(b"one"), message(b"two")];
    scene.cloud.once(Act::Answer(answer.clone(), "0"));
    let own = [
        ("api-key", "client"),
        ("host", "elsewhere.example"),
        ("grpc-timeout", "5S"),
    ];
    let reply = scene.caller.call_with(WRITE, &own, b"w").await;
    assert_eq!(reply.status(), "0", "{reply:?}");
    assert_eq!(reply.body, answer.concat());
    assert_eq!(reply.trailers["x-usage"], "3", "its trailers");
    assert_eq!(reply.head.headers()["x-tailhop-backend"], "cloud");
    let [came] = &scene.cloud.came()[..] else {
        panic!("{:?}", scene.cloud.came());
    };
    let authority = format!("localhost:{}", scene.front.place.port());
    let uri = format!("https://{authority}{WRITE}");
    assert_eq!(came.uri.to_string(), uri);
    assert_eq!(came.body, message(b"w"));
    assert_eq!(keys(came), [FULL]);
    assert_eq!(came.headers["grpc-timeout"], "5S");
    // It would contradict `:authority` (RFC 9113 8.3.1).
    assert_eq!(came.headers.get("host"), None);
    let hello = Hello {
        name: Some("localhost".to_owned()),
        protocols: vec!["h2".to_owned()],
    };
    scene.answers(READ, "cloud").await;
    assert_eq!(scene.front.seen(), [hello], "one connection for both");
    assert_eq!(scene.mac.counts().opened, 0);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_call_that_falls_back_reads_with_the_key_for_reads_and_never_writes() {
    let mut scene = scene("mac", true, &["h2", "http/1.1"]).await;
    scene.answers(WRITE, "mac").await;
    scene.answers(READ, "mac").await;
    for came in scene.mac.came() {
        assert_eq!(keys(&came), ["client"], "a Mac gets no key of the cloud");
    }
    assert_eq!(scene.cloud.counts().opened, 0);

    scene.mac.die().await;
    scene.mac_http.die().await;
    for _ in 0..2 {
        scene.answers(READ, "cloud").await;
        let (status, by, text) = scene.call(WRITE).await;
        assert_eq!((status.as_str(), by.as_str()), ("14", ""), "{text}");
        assert!(text.contains("Nothing was sent"), "{text}");
    }
    scene.answers(READ, "cloud").await;
    assert_eq!(scene.cloud.counts().calls, 3);
    assert_eq!(scene.keys(), [READS; 3]);

    // Once it is the active one it gets the key for everything.
    (scene.app).edit(|text| text.replace("default = \"mac\"", "default = \"cloud\""));
    soon(async {
        while scene.app.status().await["config"]["generation"] != 2 {
            really(Duration::from_millis(2)).await;
        }
    })
    .await;
    scene.answers(WRITE, "cloud").await;
    scene.answers(READ, "cloud").await;
    assert_eq!(scene.keys()[3..], [FULL; 2]);
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_and_nothing_is_sent() {
    let scene = scene("cloud", false, &["h2"]).await;
    let words = [
        "certificate (its issuer is unknown)",
        "name its issuer by the backend's `ca` in routing.toml",
    ];
    scene.cannot_be_asked(&words).await;
    scene.ends_clean().await;
}

#[tokio::test]
async fn a_server_that_does_not_take_http2_is_told_and_nothing_is_sent() {
    // Refused by an alert (RFC 7301 3.2), or passed over.
    for protocols in [&["http/1.1"][..], &[]] {
        let scene = scene("cloud", true, protocols).await;
        let words = ["tls (the server does not offer HTTP/2", "`grpc_port`"];
        scene.cannot_be_asked(&words).await;
        scene.ends_clean().await;
    }
}
