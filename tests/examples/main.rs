//! The five systems of `config/examples`: each file is valid without a warning, starts, and carries
//! the calls of its system, by plain requests and, where they can be had, by the clients it uses.
//!
//! Nothing of an example is replaced but addresses, each of which has to stand in it once.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../rig/parts.rs"]
#[allow(
    dead_code,
    reason = "there is no rig here: only Python's part is wanted"
)]
mod parts;
mod python;
mod running;
mod upstream;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use python::Python;
use running::{Running, example, folder, with};
use upstream::{
    CLOUD_KEY, Upstream, guarded_qdrant, listener, ollama, qdrant, store, two_listeners,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

const SYSTEMS: [&str; 5] = [
    "clinical-evidence-agent",
    "research-paas",
    "rag-medical-assistant",
    "imgstream",
    "hera",
];
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
const EMBED: &str = r#"{"model":"m","input":"hi"}"#;
const QUERY: &str = r#"{"query":[0.1,0.2,0.3,0.4]}"#;
const UPSERT: &str = r#"{"points":[{"id":1,"vector":[0.1,0.2,0.3,0.4]}]}"#;

// --- all of them -------------------------------------------------------------------------------

#[test]
fn every_example_is_valid_without_a_warning_in_the_environment_of_its_system() {
    let secrets = secrets();
    for system in SYSTEMS {
        for tier in ["production", "staging"] {
            let mut check = Command::new(env!("CARGO_BIN_EXE_tailhop"));
            check.args(["check", "--json"]).env_clear();
            check.arg(folder().join(format!("{system}.toml")));
            check.envs(environment(system, tier, secrets.path()));
            let output = check.output().unwrap();
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let none = Value::Array(Vec::new());
            assert_eq!(told["problems"], none, "{system}, {tier}");
            assert_eq!(output.status.code(), Some(0), "{system}, {tier}");
        }
    }
}

#[test]
fn every_example_says_what_it_replaces_and_what_it_does_not_cover() {
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for system in SYSTEMS {
        let text = fs::read_to_string(folder().join(format!("{system}.md"))).unwrap();
        for part in ["## Replaces", "## Deploy", "## Not covered"] {
            assert!(text.contains(part), "{system}.md has no {part}");
        }
        assert!(
            text.contains("http://127.0.0.1:") || text.contains("host=\"127.0.0.1\""),
            "{system}.md"
        );
        for end in ["toml", "md"] {
            assert!(
                index.contains(&format!("({system}.{end})")),
                "README.md leaves out {system}.{end}"
            );
        }
    }
    let known: BTreeSet<_> = SYSTEMS
        .iter()
        .map(|system| format!("{system}.toml"))
        .collect();
    let files = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let files: BTreeSet<_> = files.filter_map(|name| name.into_string().ok()).collect();
    let tomls: BTreeSet<_> = files
        .into_iter()
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "toml"))
        .collect();
    assert_eq!(
        tomls, known,
        "an example without a test, or a test without an example"
    );
}

// --- clinical-evidence-agent -------------------------------------------------------------------

#[test]
fn clinical_evidence_agent_chats_embeds_searches_and_tells_its_status() {
    let macs = Macs::start();
    let variables = environment("clinical-evidence-agent", "production", Path::new("/"));
    let running = Running::start(
        &macs.routing("clinical-evidence-agent", ["macbook-m1", "mac-dev1"]),
        &variables,
    );
    // The date of the switch has passed.
    for (method, path, body, says) in [
        ("POST", "/ollama/api/chat", CHAT, "\"done\":true"),
        ("POST", "/ollama/api/embed", EMBED, "embeddings"),
        (
            "POST",
            "/qdrant/collections/papers/points/query",
            QUERY,
            "the sea is wide",
        ),
        (
            "PUT",
            "/qdrant/collections/papers/points",
            UPSERT,
            "completed",
        ),
    ] {
        let (status, head, said) = running.ask(method, path, body);
        assert!(
            status == 200 && said.contains(says),
            "{path}: {head}\n{said}"
        );
        assert!(head.contains("x-mac: mac-dev1"), "{path}: {head}");
        assert!(
            head.contains("x-tailhop-reason: active:schedule"),
            "{path}: {head}"
        );
    }
    let status = running.admin("/status");
    assert_eq!(status["services"][0]["active"]["backend"], "mac-dev1");
    let Some(python) = Python::find() else { return };
    python.calls(
        "clinical-evidence-agent",
        &running,
        &[("EXPECTED_BACKEND", "mac-dev1")],
    );
}

#[test]
fn clinical_evidence_agent_starts_and_works_with_the_emergency_order_and_no_other_variable() {
    let macs = Macs::start();
    let routing = macs.routing("clinical-evidence-agent", ["macbook-m1", "mac-dev1"]);
    let running = Running::start(&routing, &[("ACTIVE_BACKEND", "macbook-m1")]);
    let (status, head, _) = running.ask("PUT", "/qdrant/collections/papers/points", UPSERT);
    assert!(
        status == 200 && head.contains("x-mac: macbook-m1"),
        "writes move, too: {head}"
    );
    let health = running.admin("/health");
    assert_eq!(
        health["status"], "degraded",
        "it contradicts the schedule: {health}"
    );
    let Some(python) = Python::find() else { return };
    python.calls(
        "clinical-evidence-agent",
        &running,
        &[("EXPECTED_BACKEND", "macbook-m1")],
    );
}

#[test]
fn clinical_evidence_agent_switches_at_the_midnight_of_switch_date_in_tokyo() {
    for (date, at, active) in [
        ("2025-02-17", "2025-02-16T23:59:59+09:00", "macbook-m1"),
        ("2025-02-17", "2025-02-17T00:00:00+09:00", "mac-dev1"),
        ("2025-03-01", "2025-02-17T00:00:00+09:00", "macbook-m1"),
    ] {
        let variables = [("SWITCH_DATE", date), ("TAILNET_NAME", "tail1234")];
        let answer = explain(
            "clinical-evidence-agent",
            &variables,
            "PUT",
            "/qdrant/collections/c/points",
            at,
        );
        assert_eq!(answer["active"]["backend"], active, "{date}, {at}");
    }
}

#[test]
fn the_example_app_by_gunicorn_chats_adds_searches_and_tells_status_and_health() {
    let Some(python) = Python::find() else { return };
    let macs = Macs::start();
    let variables = environment("clinical-evidence-agent", "production", Path::new("/"));
    let running = Running::start(
        &macs.routing("clinical-evidence-agent", ["macbook-m1", "mac-dev1"]),
        &variables,
    );
    let app = python.example_app(&running);
    let (status, head, said) = app.ask("POST", "/api/chat", r#"{"message":"does it?"}"#);
    assert!(status == 200 && said.contains("It "), "{head}\n{said}");
    assert!(
        head.to_lowercase().contains("transfer-encoding: chunked"),
        "it streams: {head}"
    );
    let (status, _, said) = app.ask("POST", "/api/documents", r#"{"texts":["the sea is wide"]}"#);
    assert_eq!((status, said.trim()), (201, r#"{"added":1}"#));
    let (status, _, said) = app.ask("POST", "/api/search", r#"{"query":"sea"}"#);
    assert!(status == 200 && said.contains("the sea is wide"), "{said}");
    let (status, _, said) = app.ask("GET", "/api/status", "");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (status, &said["services"]["ollama"]["backend"]),
        (200, &"mac-dev1".into())
    );
    let (status, _, said) = app.ask("GET", "/health", "");
    let said: Value = serde_json::from_str(&said).unwrap();
    let checks = said["checks"].as_object().unwrap();
    assert!(
        status == 200 && checks.len() > 2 && checks.values().all(Value::is_boolean),
        "{said}"
    );
    for body in ["{}", "[]", "no JSON", r#"{"message":""}"#] {
        assert_eq!(app.ask("POST", "/api/chat", body).0, 400, "{body}");
    }
    drop(running);
    let (status, _, said) = app.ask("POST", "/api/chat", r#"{"message":"does it?"}"#);
    assert!(
        status == 503 && said.contains("tailhop does not answer"),
        "{status} {said}"
    );
    let (status, _, said) = app.ask("GET", "/health", "");
    assert!(
        status == 200 && said.contains("\"tailhop\":false"),
        "{status} {said}"
    );
    assert_eq!(app.ask("GET", "/api/status", "").0, 503);
}

#[test]
fn the_example_app_gives_a_model_the_time_to_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sidecar/example-app");
    let gunicorn = fs::read_to_string(root.join("gunicorn.conf.py")).unwrap();
    assert!(
        gunicorn.contains("\ntimeout = 300\n"),
        "gunicorn's own 30 s kill a cold load"
    );
    let tested = fs::read_to_string(root.join("../../tests/clients/requirements.txt")).unwrap();
    let pins = fs::read_to_string(root.join("requirements.txt")).unwrap();
    for pin in pins.lines().filter(|line| line.contains("==")) {
        assert!(
            tested
                .lines()
                .any(|line| line.split(' ').next() == Some(pin)),
            "{pin} is not what is tested"
        );
    }
}

// --- research-paas -----------------------------------------------------------------------------

#[test]
fn research_paas_reaches_a_cluster_over_tls_with_a_key_that_the_app_never_had() {
    let paas = Paas::start();
    let running = Running::start(&paas.routing("127.0.0.1"), &paas.variables("production"));
    let head =
        |key| format!("PUT /collections/papers/points HTTP/1.1\r\nhost: x\r\napi-key: {key}\r\n");
    let (status, answer, said) = upstream::ask(paas.own, &head("the-token"), UPSERT);
    assert_eq!(status, 200, "{answer}\n{said}");
    let arrived = paas.cluster.one("PUT ");
    assert_eq!(
        arrived.header("api-key"),
        Some(CLOUD_KEY),
        "the cluster's key, not the app's"
    );
    assert!(!arrived.head.contains("the-token"), "{arrived:?}");
    let (status, ..) = upstream::ask(paas.own, &head("another"), UPSERT);
    assert_eq!(status, 401, "a stranger of the network");
    let prefixed = "GET /qdrant/collections HTTP/1.1\r\nhost: x\r\nx-tailhop-token: the-token\r\n";
    assert_eq!(
        upstream::ask(running.data, prefixed, "").0,
        200,
        "under its prefix, too"
    );
    let Some(python) = Python::find() else { return };
    let port = paas.own.port().to_string();
    python.calls(
        "research-paas",
        &running,
        &[
            ("TAILHOP_QDRANT_PORT", &port),
            ("TAILHOP_TOKEN", "the-token"),
        ],
    );
}

#[test]
fn research_paas_in_one_network_with_its_app_needs_no_token() {
    let paas = Paas::start();
    // As research-paas.md tells it.
    let routing = with(
        paas.routing("127.0.0.1"),
        &[("token = { env = \"TAILHOP_TOKEN\" }", "")],
    );
    let running = Running::start(&routing, &paas.variables("production"));
    let (status, ..) = upstream::ask(paas.own, "GET /collections HTTP/1.1\r\nhost: x\r\n", "");
    assert_eq!(status, 200);
    let Some(python) = Python::find() else { return };
    python.calls(
        "research-paas-beside",
        &running,
        &[("TAILHOP_QDRANT_PORT", &paas.own.port().to_string())],
    );
}

#[test]
fn research_paas_takes_the_key_of_its_tier_and_no_other() {
    let paas = Paas::start();
    fs::write(
        paas.folder.path().join("qdrant-staging"),
        "the key of staging",
    )
    .unwrap();
    let _running = Running::start(&paas.routing("127.0.0.1"), &paas.variables("staging"));
    let head = "GET /collections HTTP/1.1\r\nhost: x\r\napi-key: the-token\r\n";
    let (status, _, said) = upstream::ask(paas.own, head, "");
    assert_eq!(status, 401, "production refuses the key of staging: {said}");
    assert_eq!(
        paas.cluster.one("GET ").header("api-key"),
        Some("the key of staging")
    );
}

// --- rag-medical-assistant ---------------------------------------------------------------------

#[test]
fn rag_medical_assistant_answers_eighty_at_once_and_tells_its_health_in_booleans() {
    let macs = Macs::start();
    let running = Running::start(
        &macs.routing("rag-medical-assistant", ["rag-main", "rag-standby"]),
        &[("K_SERVICE", "rag")],
    );
    let asked = std::thread::scope(|scope| {
        let one = || running.ask("POST", "/ollama/api/chat", CHAT).0;
        let all: Vec<_> = (0..80).map(|_| scope.spawn(one)).collect();
        all.into_iter()
            .map(|asked| asked.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(asked, vec![200; 80]);
    let health = running.admin("/health");
    let checks = health["checks"].as_object().unwrap();
    assert!(
        checks.values().all(|check| check["ok"].is_boolean()),
        "{health}"
    );
    let metrics = upstream::ask(
        running.admin,
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\n",
        "",
    )
    .2;
    assert!(
        metrics.contains("tailhop_requests_total{"),
        "what the 10 % alert counts: {metrics}"
    );
    let Some(python) = Python::find() else { return };
    python.calls("rag-medical-assistant", &running, &[]);
}

// --- imgstream ---------------------------------------------------------------------------------

#[test]
fn imgstream_captions_by_a_mac_and_keeps_photos_in_the_cloud() {
    let mac = Upstream::on(listener(), "captions", ollama);
    let (cloud, pem) = Upstream::over_tls("cloud", store);
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca.path(), pem).unwrap();
    let routing = imgstream(&mac, &cloud, ca.path());
    let running = Running::start(&routing, &[("ENVIRONMENT", "production")]);
    assert_eq!(
        running
            .ask(
                "POST",
                "/ollama/api/generate",
                r#"{"model":"llava","stream":false}"#
            )
            .0,
        200
    );
    let path = "/upload/storage/v1/b/photos/o?uploadType=media&name=a%2Fb.jpg";
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer of-the-machine\r\n");
    assert_eq!(upstream::ask(running.data, &head, "jpeg").0, 200);
    let arrived = cloud.one("POST ");
    assert!(
        arrived
            .head
            .starts_with(&format!("POST {path} HTTP/1.1\r\n")),
        "{arrived:?}"
    );
    assert_eq!(
        arrived.header("authorization"),
        Some("Bearer of-the-machine")
    );
    assert_eq!(
        arrived.header("host"),
        Some(&*format!("localhost:{}", cloud.place.port()))
    );
    assert!(
        mac.seen()
            .iter()
            .all(|seen| !seen.head.contains("of-the-machine")),
        "to the cloud alone"
    );
    no_admin_function_answers(&running);
    let Some(python) = Python::find() else { return };
    python.calls("imgstream", &running, &[]);
}

/// imgstream with these in place of its machine and its cloud.
fn imgstream(mac: &Upstream, cloud: &Upstream, ca: &Path) -> String {
    let there = format!(
        "url = \"https://localhost:{}\", ca = \"{}\"",
        cloud.place.port(),
        ca.display()
    );
    with(
        example("imgstream"),
        &[
            ("repair = false", "dial = \"direct\"\nrepair = false"),
            (
                "host = \"imgstream-captions-${ENVIRONMENT:-production}\"",
                "host = \"127.0.0.1\"",
            ),
            (
                "url = \"${STORAGE_URL:-https://storage.googleapis.com}\"",
                &there,
            ),
            (
                "[services.ollama]",
                &format!("[services.ollama]\nport = {}", mac.place.port()),
            ),
        ],
    )
}

/// Nothing that changes tailhop itself listens, in any tier.
fn no_admin_function_answers(running: &Running) {
    for path in ["/pin", "/unpin", "/drain", "/reload", "/cache/clear"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: {}\r\n", running.admin);
        let (status, ..) = upstream::ask(running.admin, &head, "");
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[test]
fn imgstream_asks_the_captions_machine_of_its_environment() {
    let file = folder().join("imgstream.toml");
    let source = tailhop::config::read(&file).unwrap();
    for (tier, host) in [("", "production"), ("development", "development")] {
        let environment = tailhop::config::Environment::from_pairs([("ENVIRONMENT", tier)]);
        let snapshot = tailhop::config::load(&source, &environment).unwrap();
        let hosts: Vec<_> = snapshot
            .backends
            .iter()
            .map(|backend| &*backend.host)
            .collect();
        assert!(
            hosts.contains(&&*format!("imgstream-captions-{host}")),
            "{hosts:?}"
        );
    }
}

// --- hera --------------------------------------------------------------------------------------

#[test]
fn hera_carries_a_signed_request_unchanged_and_adds_the_platforms_secret_to_qdrant_alone() {
    let hera = Hera::start(listener(), store);
    let running = Running::start(&hera.routing, &hera.variables("staging"));
    let head = "PUT /hera-staging/a//b%20c/?partNumber=1&x=%7E HTTP/1.1\r\nHost: hera.example:8484\r\n\
        X-Amz-Date: 20250217T000000Z\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n\
        Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-date, Signature=c\r\n";
    assert_eq!(upstream::ask(running.data, head, "part").0, 200);
    let arrived = hera.store.as_ref().unwrap().one("PUT ");
    for line in head.lines() {
        assert!(
            arrived
                .head
                .lines()
                .any(|come| come.eq_ignore_ascii_case(line)),
            "{line} is not in\n{}",
            arrived.head
        );
    }
    assert_eq!(arrived.body, b"part");
    assert_eq!(arrived.header("api-key"), None);
    assert_eq!(
        running
            .ask("POST", "/qdrant/collections/papers/points/query", QUERY)
            .0,
        200
    );
    assert_eq!(hera.vectors.one("POST ").header("api-key"), Some(CLOUD_KEY));
    assert_eq!(running.ask("POST", "/ollama/api/chat", CHAT).0, 200);
    assert_eq!(hera.models.one("POST ").header("api-key"), None);
    assert_eq!(
        running.ask("GET", "/hera-production/x", "").0,
        404,
        "the bucket of another tier"
    );
}

#[test]
fn hera_signs_and_verifies_by_the_real_signer_in_each_of_three_tiers() {
    let Some(python) = Python::find() else { return };
    let storage = python.storage();
    for tier in ["local", "staging", "production"] {
        let hera = Hera::start_before(storage.place);
        let running = Running::start(&hera.routing, &hera.variables(tier));
        python.calls("hera", &running, &[("HERA_ENVIRONMENT", tier)]);
    }
}

#[test]
fn hera_without_a_secret_of_the_platform_does_not_start_and_names_it() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_tailhop"));
    let output = check
        .arg("check")
        .arg(folder().join("hera.toml"))
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("HERA_QDRANT_KEY"),
        "{said}"
    );
}

// --- what the tests stand on -------------------------------------------------------------------

/// Two Macs, each with an Ollama and a Qdrant.
struct Macs {
    ports: [u16; 2],
}

impl Macs {
    fn start() -> Self {
        let start = |manner| {
            let [first, second] = two_listeners();
            let port = first.local_addr().unwrap().port();
            // They are named after what clinical-evidence-agent calls them.
            Upstream::on(first, "macbook-m1", manner);
            Upstream::on(second, "mac-dev1", manner);
            port
        };
        Self {
            ports: [start(ollama), start(qdrant)],
        }
    }

    /// An example of two machines, with these in their places.
    fn routing(&self, system: &str, backends: [&str; 2]) -> String {
        let [models, vectors] = self.ports;
        let mut text = with(
            example(system),
            &[("[tailnet]\n", "[tailnet]\ndial = \"direct\"\n")],
        );
        let lines = text.lines().map(|line| {
            let key = line.split([' ', '=']).next().unwrap_or_default();
            match (line, key) {
                _ if key == backends[0] => format!("{key} = {{ host = \"127.0.0.2\" }}"),
                _ if key == backends[1] => format!("{key} = {{ host = \"127.0.0.3\" }}"),
                ("ollama = {}", _) => format!("ollama = {{ port = {models} }}"),
                ("qdrant = {}", _) => format!("qdrant = {{ port = {vectors} }}"),
                ("[services.ollama]", _) => format!("{line}\nport = {models}"),
                ("[services.qdrant]", _) => format!("{line}\nport = {vectors}"),
                _ => line.to_owned(),
            }
        });
        text = lines.collect::<Vec<_>>().join("\n");
        for there in [
            "127.0.0.2",
            "127.0.0.3",
            &models.to_string(),
            &vectors.to_string(),
        ] {
            assert_eq!(text.matches(there).count(), 1, "{there} in\n{text}");
        }
        text + "\n"
    }
}

/// A cluster in the cloud, its key, and the address where the app looks for it.
struct Paas {
    cluster: Upstream,
    url: String,
    own: std::net::SocketAddr,
    folder: tempfile::TempDir,
}

impl Paas {
    fn start() -> Self {
        let (cluster, pem) = Upstream::over_tls("cloud", guarded_qdrant);
        let folder = secrets();
        fs::write(folder.path().join("ca.pem"), pem).unwrap();
        let own = listener().local_addr().unwrap();
        let url = format!("https://localhost:{}", cluster.place.port());
        Self {
            cluster,
            url,
            own,
            folder,
        }
    }

    fn routing(&self, ip: &str) -> String {
        let ca = format!(
            "ca = \"{}\"\nheaders",
            self.folder.path().join("ca.pem").display()
        );
        with(
            example("research-paas"),
            &[
                (
                    "\"0.0.0.0:8484\"",
                    &format!("\"{ip}:0\"\nadmin = \"127.0.0.1:0\""),
                ),
                ("\"0.0.0.0:6333\"", &format!("\"{}\"", self.own)),
                ("headers", &ca),
            ],
        )
    }

    fn variables<'a>(&'a self, tier: &'a str) -> [(&'a str, &'a str); 4] {
        [
            ("TAILHOP_TOKEN", "the-token"),
            ("QDRANT_URL", &self.url),
            ("SECRETS_DIR", self.folder.path().to_str().unwrap()),
            ("PAAS_ENVIRONMENT", tier),
        ]
    }
}

/// The machines of hera.
struct Hera {
    routing: String,
    models: Upstream,
    vectors: Upstream,
    store: Option<Upstream>,
    store_url: String,
    vectors_url: String,
}

impl Hera {
    fn start(storage: std::net::TcpListener, manner: upstream::Manner) -> Self {
        let store = Upstream::on(storage, "store", manner);
        let mut hera = Self::start_before(store.place);
        hera.store = Some(store);
        hera
    }

    /// With a store that runs.
    fn start_before(store: std::net::SocketAddr) -> Self {
        let models = Upstream::on(listener(), "models", ollama);
        let vectors = Upstream::on(listener(), "vectors", guarded_qdrant);
        let port = format!("[services.ollama]\nport = {}", models.place.port());
        Self {
            routing: with(example("hera"), &[("[services.ollama]", &port)]),
            store_url: format!("http://{store}"),
            vectors_url: format!("http://{}", vectors.place),
            store: None,
            models,
            vectors,
        }
    }

    /// All addresses of hera are variables.
    fn variables<'a>(&'a self, tier: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("HERA_ENVIRONMENT", tier),
            ("HERA_DIAL", "direct"),
            ("HERA_MODELS", "127.0.0.1"),
            ("HERA_STORE", &self.store_url),
            ("HERA_QDRANT", &self.vectors_url),
            ("HERA_QDRANT_KEY", CLOUD_KEY),
        ]
    }
}

/// What the platform sets for a system in one of its tiers.
fn environment<'a>(system: &str, tier: &'a str, secrets: &'a Path) -> Vec<(&'a str, &'a str)> {
    match system {
        "clinical-evidence-agent" => vec![
            ("TAILNET_NAME", "tail1234"),
            ("SWITCH_DATE", "2025-02-17"),
            ("K_SERVICE", "clinical-evidence-agent"),
        ],
        "research-paas" => vec![
            ("PAAS_ENVIRONMENT", tier),
            ("QDRANT_URL", "https://xyz.cloud.example:6333"),
            ("SECRETS_DIR", secrets.to_str().unwrap()),
            ("TAILHOP_TOKEN", "the-token"),
        ],
        "rag-medical-assistant" => vec![("K_SERVICE", "rag-medical-assistant")],
        "imgstream" => vec![("ENVIRONMENT", tier)],
        "hera" => vec![
            ("HERA_ENVIRONMENT", tier),
            ("HERA_QDRANT_KEY", "of the platform"),
        ],
        _ => panic!("{system} has no environment here"),
    }
}

/// A folder with the secrets of research-paas.
fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("qdrant-production"), CLOUD_KEY).unwrap();
    fs::write(folder.path().join("qdrant-staging"), "the key of staging").unwrap();
    folder
}

/// What an example says of a request.
fn explain(system: &str, variables: &[(&str, &str)], method: &str, path: &str, at: &str) -> Value {
    let mut explain = Command::new(env!("CARGO_BIN_EXE_tailhop"));
    explain.args(["explain", method, path, "--at", at, "--json", "--config"]);
    explain
        .arg(folder().join(format!("{system}.toml")))
        .env_clear();
    let output = explain.envs(variables.iter().copied()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}
