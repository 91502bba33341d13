//! Backends given by a url: what TLS and certificates come to, and where their secrets go.

use std::net::SocketAddr;
use std::time::Duration;

use tailhop::words::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::app::App;
use crate::support::client::Answer;
use crate::support::time::{really, soon};
use crate::support::tls::{Authority, Front, Issued};
use crate::support::upstream::{Gate, Upstream, answer, gated};

/// Years: long before any of these tests, and long after.
const VALID: (i32, i32) = (2000, 2200);
const CANARY: &str = "canary-2718281828";

/// Qdrant by the url `https://localhost:port`, with `more` in its backend's table, and nothing else.
fn toml(port: u16, more: &str) -> String {
    format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         backends.cloud = {{ url = \"https://localhost:{port}\"{more} }}\n\
         services.qdrant = {{ backends = [\"cloud\"], timeouts = {{ wait = \"200ms\", connect = \"150ms\", probe = \"300ms\" }} }}\n"
    )
}

/// A folder with the certificate of those to trust in it, and the key that names it.
fn ca(pem: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let key = format!(", ca = \"{}\"", file.display());
    (folder, key)
}

/// A server that does this with every connection, instead of TLS.
async fn instead(what: Instead) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            match what {
                Instead::Close => {
                    // So that it is an end, no reset.
                    drop(io.read(&mut [0; 4096]).await);
                }
                Instead::Http => {
                    drop(io.read(&mut [0; 4096]).await);
                    drop(io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
                }
                Instead::Silence => held.push(io),
            }
        }
    });
    (place, serving)
}

#[derive(Clone, Copy)]
enum Instead {
    Close,
    Http,
    Silence,
}

fn text(answer: &Answer) -> String {
    let said = answer.json()["status"]["error"].as_str().map(str::to_owned);
    said.unwrap_or_default()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_certificate_and_each_odd_server_has_its_word_and_its_text() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let plain = Upstream::start().await;
    let own = Issued::by_itself("localhost");
    let own_pem = own.pem.clone();
    let (from, to) = VALID;
    let served = [
        ("valid", ours.issue("localhost", from, to), ours.pem(), None),
        ("self-signed, and trusted", own, own_pem, None),
        (
            "expired",
            ours.issue("localhost", 2000, 2001),
            ours.pem(),
            Some("it has expired"),
        ),
        (
            "not yet valid",
            ours.issue("localhost", 2190, 2200),
            ours.pem(),
            Some("it is not valid yet"),
        ),
        (
            "wrong name",
            ours.issue("other.example", from, to),
            ours.pem(),
            Some("it is not for localhost"),
        ),
        (
            "unknown issuer",
            theirs.issue("localhost", from, to),
            ours.pem(),
            Some("its issuer is unknown"),
        ),
        (
            "self-signed, and not trusted",
            Issued::by_itself("localhost"),
            ours.pem(),
            Some("its issuer is unknown"),
        ),
    ];
    for (what, issued, roots, wrong) in &served {
        let front = Front::start(issued, plain.place()).await;
        let (_folder, key) = ca(roots);
        let app = App::start(&toml(front.place.port(), &key)).await;
        let got = app.get("/qdrant/collections").await;
        match wrong {
            None => assert_eq!((got.status(), got.backend()), (200, "cloud"), "{what}"),
            Some(words) => {
                assert_eq!((got.status(), got.reason()), (503, "certificate"), "{what}");
                assert!(text(&got).contains(words), "{what}: {}", text(&got));
                assert!(text(&got).contains("Nothing was sent"), "{what}");
                let status = got.head.get("proxy-status").unwrap();
                assert!(status.contains("tls_certificate_error"), "{what}: {status}");
            }
        }
        app.stop().await;
    }
    // The public roots vouch for none of them.
    let front = Front::start(&served[0].1, plain.place()).await;
    let app = App::start(&toml(front.place.port(), "")).await;
    let got = app.get("/qdrant/collections").await;
    assert_eq!((got.status(), got.reason()), (503, "certificate"));
    assert!(
        text(&got).contains("its issuer is unknown"),
        "{}",
        text(&got)
    );
    app.stop().await;
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_from_a_bad_certificate() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    for (what, words) in [
        (Instead::Close, "closed the connection in the handshake"),
        (
            Instead::Http,
            "does not speak TLS: is the url to begin with http://?",
        ),
        (Instead::Silence, "for the TLS handshake to end"),
    ] {
        let (place, serving) = instead(what).await;
        let app = App::start(&toml(place.port(), &key)).await;
        let got = app.get("/qdrant/collections").await;
        assert_eq!((got.status(), got.reason()), (503, "tls"), "{words}");
        assert!(text(&got).contains(words), "{}", text(&got));
        // Somebody accepted the connection: that is not the sleep of a machine.
        app.judged("qdrant", "cloud", "down").await;
        app.stop().await;
        serving.abort();
    }
}

#[tokio::test]
async fn a_server_that_takes_no_http_1_1_is_told() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let plain = Upstream::start().await;
    let issued = ours.issue("localhost", VALID.0, VALID.1);
    let front = Front::offering(&issued, plain.place(), &["h2"]).await;
    let app = App::start(&toml(front.place.port(), &key)).await;
    let got = app.get("/qdrant/collections").await;
    assert_eq!((got.status(), got.reason()), (503, "tls"));
    let said = text(&got);
    assert!(said.contains("does not offer HTTP/1.1 there"), "{said}");
    assert!(plain.seen().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn both_versions_of_tls_work_and_carry_large_bodies_both_ways() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let body = vec![b'x'; 3 << 20];
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let plain = Upstream::start().await;
        plain.always(answer(200, &[], &body));
        let issued = ours.issue("localhost", VALID.0, VALID.1);
        let front = Front::speaking(&issued, plain.place(), versions).await;
        let app = App::start(&toml(front.place.port(), &key)).await;
        let got = app
            .ask("POST", "/qdrant/collections/c/points/scroll", &body)
            .await;
        assert_eq!(
            (got.status(), got.body.len(), got.whole),
            (200, body.len(), true)
        );
        assert!(plain.seen()[0].body == body);
        app.stop().await;
    }
}

#[tokio::test]
async fn pieces_of_an_answer_pass_through_tls_one_by_one() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let (plain, gate) = (Upstream::start().await, Gate::closed());
    plain.always(gated(&[b"one", b"two"], &gate));
    let issued = ours.issue("localhost", VALID.0, VALID.1);
    let front = Front::start(&issued, plain.place()).await;
    let app = App::start(&toml(front.place.port(), &key)).await;
    let mut client = app.client().await;
    client.request("GET", "/qdrant/collections", &[], b"").await;
    let mut coming = client.coming("GET").await;
    for piece in ["one", "two"] {
        gate.pass();
        let came = format!("{:?}", coming.piece().await);
        assert_eq!(came, format!("Data({:?})", piece.as_bytes()));
    }
    gate.pass();
    assert!(coming.whole().await.whole);
    app.stop().await;
}

#[tokio::test]
async fn the_server_sees_the_urls_host_in_its_handshake_and_its_head() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let plain = Upstream::start().await;
    let issued = ours.issue("localhost", VALID.0, VALID.1);
    let front = Front::start(&issued, plain.place()).await;
    let port = front.place.port();
    let routes = "routes = [{ path = \"/q\", service = \"qdrant\" }, \
                  { path = \"/kept\", service = \"qdrant\", host = \"preserve\" }, \
                  { path = \"/fixed\", service = \"qdrant\", host = \"vhost.example\" }]\n";
    let app = App::start(&format!("{routes}{}", toml(port, &key))).await;
    for path in ["/q", "/kept", "/fixed"] {
        assert_eq!(app.get(path).await.status(), 200);
    }
    let seen = plain.seen();
    let hosts: Vec<_> = seen
        .iter()
        .map(|request| request.head.get("host").unwrap())
        .collect();
    let own = format!("localhost:{port}");
    assert_eq!(hosts, [own.as_str(), "app.example", "vhost.example"]);
    // Whatever Host a request has, the certificate is that of the url.
    assert!(!front.seen().is_empty());
    for hello in front.seen() {
        assert_eq!(hello.name.as_deref(), Some("localhost"));
        assert_eq!(hello.protocols, ["http/1.1"]);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_connection_is_used_again_and_its_handshake_is_made_once() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let plain = Upstream::start().await;
    let issued = ours.issue("localhost", VALID.0, VALID.1);
    let front = Front::start(&issued, plain.place()).await;
    let app = App::start(&toml(front.place.port(), &key)).await;
    for _ in 0..5 {
        assert_eq!(app.get("/qdrant/collections").await.status(), 200);
    }
    let seen = plain.seen();
    assert!(
        seen.iter()
            .all(|request| request.connection == seen[0].connection)
    );
    app.stop().await;
}

#[tokio::test]
async fn a_bad_certificate_is_down_with_the_reason_in_the_status() {
    let ours = Authority::new();
    let (_folder, key) = ca(&ours.pem());
    let plain = Upstream::start().await;
    let front = Front::start(&ours.issue("localhost", 2000, 2001), plain.place()).await;
    let app = App::start(&toml(front.place.port(), &key)).await;
    app.judged("qdrant", "cloud", "down").await;
    let status = app.status().await;
    let backend = &status["services"][0]["backends"][0];
    let origin = format!("https://localhost:{}", front.place.port());
    assert_eq!(backend["url"].as_str(), Some(origin.as_str()));
    assert_eq!(
        backend["last_error"]["text"].as_str(),
        Some("certificate (it has expired)")
    );
    assert_eq!(plain.counts().probes, 0, "nobody was asked anything");
    app.stop().await;
}

#[tokio::test]
async fn a_url_is_dialled_while_the_tailnet_is_not_there() {
    let plain = Upstream::start().await;
    let app = App::start(&format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.socket = \"/nowhere/tailscaled.sock\"\n\
         backends.m1 = {{}}\n\
         backends.cloud = {{ url = \"http://localhost:{}\" }}\n\
         services.ollama = {{ timeouts = {{ wait = \"100ms\", start = \"100ms\" }} }}\n\
         services.qdrant = {{ backends = [\"cloud\"] }}\n\
         schedule.default = \"m1\"\n",
        plain.place().port()
    ))
    .await;
    let got = app.get("/qdrant/collections").await;
    assert_eq!((got.status(), got.backend()), (200, "cloud"));
    // And it offers nothing else.
    let got = app.get("/ollama/api/tags").await;
    assert_eq!((got.status(), got.reason()), (503, "daemon-absent"));
    let status = app.status().await;
    let names = |service: usize| -> Vec<String> {
        let backends = status["services"][service]["backends"].as_array().unwrap();
        let names = backends
            .iter()
            .map(|backend| backend["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    };
    assert_eq!(
        (names(0), names(1)),
        (vec!["m1".into()], vec!["cloud".into()])
    );
    app.stop().await;
}

/// `cloud` by its url with a secret, and `m2` beside it, both Qdrant.
fn two(cloud: &Upstream, other: &Upstream, secret: &str) -> String {
    format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"direct\"\n\
         backends.cloud = {{ url = \"http://{}\", headers = {{ api-key = {secret} }} }}\n\
         backends.m2.host = \"127.0.0.1\"\n\
         services.qdrant = {{ backends = [\"cloud\", \"m2\"], port = {}, timeouts = {{ wait = \"200ms\" }} }}\n\
         schedule.default = \"cloud\"\n",
        cloud.place(),
        other.place().port()
    )
}

fn keys(upstream: &Upstream) -> Vec<Option<String>> {
    let seen = upstream.seen();
    let keys = seen.iter().map(|request| request.head.get("api-key"));
    keys.map(|key| key.map(str::to_owned)).collect()
}

const SCROLL: &str = "/qdrant/collections/c/points/scroll";

#[tokio::test]
async fn an_injected_header_replaces_the_clients_and_reaches_its_backend_alone() {
    let (mut cloud, other) = (Upstream::start().await, Upstream::start().await);
    let kept = "{ env = \"K\" }";
    let text = two(&cloud, &other, kept);
    let app = App::start_with(&text, &[("K", CANARY)], Clock::system()).await;
    let ask = async |headers: &[(&str, &str)], body: &[u8]| {
        let mut client = app.client().await;
        client.ask("POST", SCROLL, headers, body).await
    };
    let mut answers = Vec::new();
    answers.push(ask(&[], b"{}").await);
    answers.push(ask(&[("api-key", "client"), ("api-key", "twice")], b"{}").await);
    // A write, which is handed over and not copied.
    let mut client = app.client().await;
    let put = "/qdrant/collections/c/points";
    answers.push(
        client
            .ask("PUT", put, &[("api-key", "client")], b"{}")
            .await,
    );
    assert!(answers.iter().all(|answer| answer.backend() == "cloud"));
    assert_eq!(keys(&cloud), vec![Some(CANARY.to_owned()); 3]);
    // On to another backend: what the client sent goes there, and nothing else does.
    cloud.die().await;
    let large = vec![b' '; 100_000];
    for (headers, body) in [
        (&[][..], &b"{}"[..]),
        (&[("api-key", "client")], b"{}"),
        (&[("api-key", "client")], &large),
    ] {
        let got = ask(headers, body).await;
        assert_eq!((got.status(), got.backend()), (200, "m2"));
        answers.push(got);
    }
    let client = Some("client".to_owned());
    assert_eq!(keys(&other), [None, client.clone(), client]);
    answers.push(ask(&[], b"").await);
    answers.push(app.admin("GET", "/status").await);
    answers.push(app.admin("GET", "/metrics").await);
    answers.push(app.admin("GET", "/health").await);
    for answer in &answers {
        let all = format!("{}{}", answer.head.text, answer.text());
        assert!(!all.contains(CANARY), "{all}");
    }
    let lines = app.lines();
    assert!(!lines.is_empty() && !format!("{lines:?}").contains(CANARY));
    app.stop().await;
}

#[tokio::test]
async fn a_request_that_a_dead_connection_gave_back_goes_on_with_the_clients_own_headers() {
    let (mut cloud, other) = (Upstream::start().await, Upstream::start().await);
    let text = two(&cloud, &other, "{ env = \"K\" }");
    let app = App::start_with(&text, &[("K", CANARY)], Clock::system()).await;
    let large = vec![b' '; 100_000];
    let mut client = app.client().await;
    let got = client
        .ask("POST", SCROLL, &[("api-key", "client")], b"{}")
        .await;
    assert_eq!(got.backend(), "cloud");
    // The kept connection, and the backend with it, are gone when the next request comes.
    cloud.die().await;
    let got = client
        .ask("POST", SCROLL, &[("api-key", "client")], &large)
        .await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
    assert_eq!(keys(&other), [Some("client".to_owned())]);
    app.stop().await;
}

#[tokio::test]
async fn probes_carry_the_secret_of_their_backend() {
    let (cloud, other) = (Upstream::start().await, Upstream::start().await);
    // What probes ask for, as a request that is recorded.
    let text = two(&cloud, &other, "{ env = \"K\" }").replace(
        "services.qdrant = {",
        "services.qdrant = { kind = \"http\",",
    );
    let app = App::start_with(&text, &[("K", CANARY)], Clock::system()).await;
    let probe = cloud.requests(1).await.remove(0);
    assert_eq!((probe.method(), probe.target()), ("GET", "/"));
    assert_eq!(probe.head.get("api-key"), Some(CANARY));
    let probe = other.requests(1).await.remove(0);
    assert_eq!(probe.head.get("api-key"), None);
    app.stop().await;
}

#[tokio::test]
async fn a_rotated_secret_is_taken_without_a_restart_and_a_lost_one_changes_nothing() {
    let (cloud, other) = (Upstream::start().await, Upstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let put = |secret: &str| {
        let beside = folder.path().join("new");
        std::fs::write(&beside, secret).unwrap();
        std::fs::rename(beside, &file).unwrap();
    };
    put("canary-1\n");
    let kept = format!("{{ file = \"{}\" }}", file.display());
    let app = App::start(&two(&cloud, &other, &kept)).await;
    let sent = async || {
        assert_eq!(app.get("/qdrant/collections").await.backend(), "cloud");
        keys(&cloud).pop().flatten().unwrap()
    };
    assert_eq!(sent().await, "canary-1");
    put("canary-2\n");
    soon(async {
        while sent().await != "canary-2" {
            really(Duration::from_millis(5)).await;
        }
    })
    .await;
    std::fs::remove_file(&file).unwrap();
    let rejected = async || app.status().await["config"]["rejected"]["text"].clone();
    soon(async {
        while rejected().await.is_null() {
            really(Duration::from_millis(5)).await;
        }
    })
    .await;
    let text = rejected().await.as_str().unwrap().to_owned();
    assert!(
        text.contains("does not exist") && !text.contains("canary"),
        "{text}"
    );
    assert_eq!(sent().await, "canary-2", "the last good one stays");
    put("canary-3\n");
    soon(async {
        while sent().await != "canary-3" {
            really(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(rejected().await.is_null());
    app.stop().await;
}

#[tokio::test]
async fn a_new_ca_file_is_taken_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let plain = Upstream::start().await;
    let front = Front::start(&new.issue("localhost", VALID.0, VALID.1), plain.place()).await;
    let (folder, key) = ca(&old.pem());
    let app = App::start(&toml(front.place.port(), &key)).await;
    assert_eq!(app.get("/qdrant").await.reason(), "certificate");
    let beside = folder.path().join("new");
    std::fs::write(&beside, new.pem()).unwrap();
    std::fs::rename(beside, folder.path().join("ca.pem")).unwrap();
    soon(async {
        while app.get("/qdrant").await.status() != 200 {
            really(Duration::from_millis(5)).await;
        }
    })
    .await;
    app.stop().await;
}

const SEEN_BY_WRITERS: &str = "canary-writes";
const SEEN_BY_READERS: &str = "canary-reads";

/// Two Qdrants behind TLS, each by its url with a key for everything and one for reads alone; `mac`
/// is active by default.
fn two_keys(fronts: [&Front; 2], ca: &str) -> String {
    let url = |front: &Front| {
        format!(
            "{{ url = \"https://localhost:{}\"{ca}, headers = {{ api-key = {{ env = \"W\" }} }}, \
             read_headers = {{ api-key = {{ env = \"R\" }} }} }}",
            front.place.port()
        )
    };
    format!(
        "listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         backends.mac = {}\n\
         backends.cloud = {}\n\
         services.qdrant = {{ backends = [\"mac\", \"cloud\"], timeouts = {{ wait = \"200ms\" }} }}\n\
         schedule.default = \"mac\"\n",
        url(fronts[0]),
        url(fronts[1])
    )
}

#[tokio::test]
async fn a_read_that_falls_back_takes_the_key_along_that_only_reads() {
    let ours = Authority::new();
    let (_folder, ca) = ca(&ours.pem());
    let issued = ours.issue("localhost", VALID.0, VALID.1);
    let (mac, cloud) = (Upstream::start().await, Upstream::start().await);
    let front = Front::start(&issued, mac.place()).await;
    let fallback = Front::start(&issued, cloud.place()).await;
    let keys_given = [("W", SEEN_BY_WRITERS), ("R", SEEN_BY_READERS)];
    let text = two_keys([&front, &fallback], &ca);
    let app = App::start_with(&text, &keys_given, Clock::system()).await;
    let mut answers = Vec::new();
    let mut ask = async |method: &str, target: &str, body: &[u8]| {
        let own = [("api-key", "client"), ("api-key", "twice")];
        let got = app.client().await.ask(method, target, &own, body).await;
        answers.push(got.clone());
        (got.status(), got.backend().to_owned())
    };
    let put = "/qdrant/collections/c/points";
    let at_mac = (200, "mac".to_owned());
    assert_eq!(ask("POST", SCROLL, b"{}").await, at_mac);
    assert_eq!(ask("PUT", put, b"{}").await, at_mac);
    assert_eq!(keys(&mac), vec![Some(SEEN_BY_WRITERS.to_owned()); 2]);

    // The active one is gone: reads go on, by the other key, and writes do not.
    drop(front);
    let large = vec![b' '; 100_000];
    for body in [&b"{}"[..], &large] {
        assert_eq!(ask("POST", SCROLL, body).await, (200, "cloud".to_owned()));
    }
    let read = ("GET", "/qdrant/collections");
    assert_eq!(ask(read.0, read.1, b"").await, (200, "cloud".to_owned()));
    assert_eq!(ask("PUT", put, b"{}").await.0, 503);
    assert_eq!(keys(&cloud), vec![Some(SEEN_BY_READERS.to_owned()); 3]);

    // Once it is the active one it gets the key for everything, reads included.
    app.edit(|text| text.replace("default = \"mac\"", "default = \"cloud\""));
    soon(async {
        while app.status().await["config"]["generation"] != 2 {
            really(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(ask("PUT", put, b"{}").await, (200, "cloud".to_owned()));
    assert_eq!(ask("POST", SCROLL, b"{}").await, (200, "cloud".to_owned()));
    let all = keys(&cloud);
    assert_eq!(all[3..], vec![Some(SEEN_BY_WRITERS.to_owned()); 2]);
    answers.push(app.admin("GET", "/status").await);
    answers.push(app.admin("GET", "/config").await);
    for answer in &answers {
        let all = format!("{}{}", answer.head.text, answer.text());
        assert!(!all.contains("canary"), "{all}");
    }
    assert!(!format!("{:?}", app.lines()).contains("canary"));
    app.stop().await;
}

#[tokio::test]
async fn probes_are_content_with_the_key_that_only_reads() {
    let (cloud, other) = (Upstream::start().await, Upstream::start().await);
    let both = "{ env = \"W\" } }, read_headers = { api-key = { env = \"R\" }";
    // What probes ask for, as a request that is recorded.
    let text = two(&cloud, &other, both).replace(
        "services.qdrant = {",
        "services.qdrant = { kind = \"http\",",
    );
    let keys_given = [("W", SEEN_BY_WRITERS), ("R", SEEN_BY_READERS)];
    let app = App::start_with(&text, &keys_given, Clock::system()).await;
    let probe = cloud.requests(1).await.remove(0);
    assert_eq!((probe.method(), probe.target()), ("GET", "/"));
    assert_eq!(probe.head.get("api-key"), Some(SEEN_BY_READERS));
    app.stop().await;
}
