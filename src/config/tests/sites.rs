//! Backends given by a url, services with an address of their own, and named effects.

use std::time::Duration;

use super::super::snapshot::{Network, Url};
use super::*;
use crate::words::effect::Effect;

/// A certificate that signed itself, as PEM.
pub(super) fn self_signed() -> String {
    let made = rcgen::generate_simple_self_signed(["one.example".to_owned()]).unwrap();
    made.cert.pem()
}

/// Two Macs with Ollama, and Qdrant in the cloud.
fn cloud(backend: &str, service: &str) -> String {
    format!(
        "[backends]\nm1 = {{}}\nm2 = {{}}\ncloud = {{ {backend} }}\n\
         [services]\nollama = {{}}\nqdrant = {{ {service} }}\n\
         [schedule]\ndefault = \"m1\"\n"
    )
}

const LISTED: &str = "backends = [\"cloud\"]";

fn url(snapshot: &Snapshot) -> &Url {
    snapshot.backends[2].url.as_deref().unwrap()
}

#[test]
fn a_url_is_a_backend_of_the_service_that_lists_it_and_of_no_other() {
    let snapshot = good(&cloud("url = \"https://q.example.com:6333\"", LISTED), &[]);
    let offering: Vec<_> = snapshot
        .services
        .iter()
        .map(|service| service.backends.as_slice())
        .collect();
    let [m1, m2, cloud] = [0, 1, 2].map(BackendId);
    assert_eq!(offering, [&[m1, m2][..], &[cloud]]);
    let backend = &snapshot.backends[2];
    assert_eq!(
        (&*backend.host, backend.network),
        ("q.example.com", Network::Direct)
    );
    assert_eq!(url(&snapshot).origin(), "https://q.example.com:6333");
    assert_eq!((url(&snapshot).secure, url(&snapshot).port), (true, 6333));
    // The tailnet is asked for the machines all the same.
    assert_eq!(snapshot.tailnet.dial, DialWay::Auto);
}

#[test]
fn what_a_url_is_dialled_by_is_this_hosts_network_unless_said_otherwise() {
    for (backend, network) in [
        ("url = \"http://q.example\"", Network::Direct),
        (
            "url = \"http://q.example\", dial = \"direct\"",
            Network::Direct,
        ),
        (
            "url = \"http://q.example\", dial = \"tailnet\"",
            Network::Tailnet,
        ),
        ("dial = \"direct\"", Network::Direct),
        ("", Network::Tailnet),
    ] {
        let snapshot = good(&cloud(backend, LISTED), &[]);
        assert_eq!(snapshot.backends[2].network, network, "{backend}");
    }
}

#[test]
fn where_no_backend_needs_the_tailnet_none_is_asked_for() {
    let text = "[backends.cloud]\nurl = \"https://q.example\"\n\
                [services]\nqdrant = { backends = [\"cloud\"] }\n";
    assert_eq!(good(text, &[]).tailnet.dial, DialWay::Direct);
    let asked = format!("{text}[tailnet]\ndial = \"socks5\"\n");
    assert_eq!(good(&asked, &[]).tailnet.dial, DialWay::Socks5);
}

#[test]
fn a_service_whose_backends_all_have_a_url_needs_no_port() {
    let text = "[backends.cloud]\nurl = \"https://q.example\"\n\
                [services]\nstore = { backends = [\"cloud\"] }\n";
    assert_eq!(good(text, &[]).services[0].kind, Kind::Http);
    let mixed = "[backends]\nm1 = {}\ncloud = { url = \"https://q.example\" }\n\
                 [services]\nstore = { backends = [\"cloud\", \"m1\"] }\n\
                 [schedule]\ndefault = \"m1\"\n";
    assert_eq!(one(mixed, &[]).0, "E013");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_mistake_in_a_url_backend_is_told_with_its_remedy() {
    let good_url = "url = \"https://q.example\"";
    for (backend, service, code, words) in [
        (
            "url = \"q.example\"",
            LISTED,
            "E014",
            "write scheme and host",
        ),
        (
            "url = \"https://q.example/v1\"",
            LISTED,
            "E014",
            "leave the path out",
        ),
        (
            "url = \"https://q.example\", host = \"x\"",
            LISTED,
            "E014",
            "remove host",
        ),
        (
            "headers = { api-key = { env = \"K\" } }",
            "",
            "E014",
            "needs a url",
        ),
        (
            "read_headers = { api-key = { env = \"K\" } }",
            "",
            "E014",
            "needs a url",
        ),
        (
            "url = \"https://q.example\", read_headers = { host = { env = \"K\" } }",
            LISTED,
            "E014",
            "no header \"host\"",
        ),
        (
            "url = \"https://q.example\", read_headers = { api-key = { env = \"ABSENT\" } }",
            LISTED,
            "E020",
            "ABSENT is not set",
        ),
        ("ca = \"x.pem\"", "", "E014", "needs a url"),
        (
            "url = \"http://q.example\", ca = \"x.pem\"",
            LISTED,
            "E014",
            "needs an https url",
        ),
        (
            "url = \"https://q.example\", ca = \"/nowhere/x.pem\"",
            LISTED,
            "E029",
            "does not exist",
        ),
        (
            "url = \"https://q.example\", headers = { host = { env = \"K\" } }",
            LISTED,
            "E014",
            "no header \"host\"",
        ),
        (
            "url = \"https://q.example\", headers = { \"a b\" = { env = \"K\" } }",
            LISTED,
            "E014",
            "no header \"a b\"",
        ),
        (
            "url = \"https://q.example\", headers = { api-key = { env = \"K\" }, Api-Key = { env = \"K\" } }",
            LISTED,
            "E017",
            "listed twice",
        ),
    ] {
        let (found, _, text) = one(&cloud(backend, service), &[("K", "canary")]);
        assert_eq!(found, code, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let both = cloud(good_url, LISTED)
        .replace("ollama = {}", "ollama = { backends = [\"m1\", \"cloud\"] }");
    let (code, _, text) = one(&both, &[]);
    assert_eq!(code, "E030", "{text}");
    let none = good(&cloud(good_url, ""), &[]);
    assert_eq!(warnings(&none)[0].0, "W010");
    let only = "[backends.cloud]\nurl = \"https://q.example\"\n[services]\nqdrant = {}\n";
    let report = bad(only, &[]);
    assert!(report.to_string().contains("list one, as in"), "{report}");
}

#[test]
fn credentials_that_go_unencrypted_are_a_warning() {
    let with = |url: &str| {
        let backend = format!("{url}, headers = {{ api-key = {{ env = \"K\" }} }}");
        let snapshot = good(&cloud(&backend, LISTED), &[("K", "canary")]);
        snapshot
            .warnings
            .iter()
            .map(|warning| warning.code)
            .collect::<Vec<_>>()
    };
    assert_eq!(with("url = \"http://q.example\""), ["W009"]);
    let reads = "url = \"http://q.example\", read_headers = { api-key = { env = \"K\" } }";
    let snapshot = good(&cloud(reads, LISTED), &[("K", "canary")]);
    assert_eq!(warnings(&snapshot)[0].0, "W009");
    assert_eq!(with("url = \"https://q.example\""), Vec::<&str>::new());
    assert_eq!(with("url = \"http://localhost:1\""), Vec::<&str>::new());
    assert_eq!(
        with("url = \"http://q.example\", dial = \"tailnet\""),
        Vec::<&str>::new()
    );
}

#[test]
fn the_roots_of_a_ca_file_are_read_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routing.toml");
    let text = cloud("url = \"https://q.example\", ca = \"own.pem\"", LISTED);
    let load = || load(&Source::new(&file, text.as_str()), &Environment::default());
    let put = |pem: &str| std::fs::write(folder.path().join("own.pem"), pem).unwrap();
    for (pem, words) in [
        ("", "no certificate"),
        ("hello", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "no PEM file",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "cannot be read",
        ),
    ] {
        put(pem);
        let report = load().unwrap_err();
        assert!(report.to_string().contains(words), "{report}");
        assert_eq!(report.files, [folder.path().join("own.pem")]);
    }
    put(&(self_signed() + &self_signed()));
    let snapshot = load().unwrap();
    assert_eq!(url(&snapshot).roots.as_ref().map(Vec::len), Some(2));
    assert_eq!(snapshot.files, [folder.path().join("own.pem")]);
}

#[test]
fn an_address_of_a_services_own_is_the_service_whole() {
    let snapshot = good(
        &file(
            "[services.web]\nport = 80\nlisten = \"127.0.0.1:81\"\ntimeouts = { idle = \"7s\" }\n",
        ),
        &[],
    );
    let web = &snapshot.services[2];
    assert_eq!(
        web.listen.map(|at| at.to_string()).as_deref(),
        Some("127.0.0.1:81")
    );
    let whole = &web.whole;
    assert_eq!((whole.path.as_str(), whole.service), ("/", ServiceId(2)));
    assert_eq!(whole.timeouts.idle, Duration::from_secs(7));
    // It is reached by it, so it needs no route.
    let routed = file(
        "[services.web]\nport = 80\nlisten = \"127.0.0.1:81\"\n\
         [[routes]]\npath = \"/o\"\nservice = \"ollama\"\n[[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n",
    );
    assert_eq!(warnings(&good(&routed, &[])), []);
}

#[test]
fn addresses_that_clash_or_lead_back_are_problems() {
    for (more, words) in [
        (
            "[services.web]\nport = 80\nlisten = \"127.0.0.1:8484\"\n",
            "listen.data and services.web.listen cannot share it",
        ),
        (
            "[services.web]\nport = 80\nlisten = \"0.0.0.0:9484\"\n[listen]\ntoken = { env = \"K\" }\n",
            "listen.admin and services.web.listen cannot share it",
        ),
        (
            "[services.web]\nport = 80\nlisten = \"127.0.0.1:1055\"\n",
            "tailnet.proxy is there",
        ),
        (
            "[services.a]\nport = 1\nlisten = \"127.0.0.1:81\"\n[services.b]\nport = 2\nlisten = \"127.0.0.1:81\"\n",
            "services.a.listen and services.b.listen cannot share it",
        ),
        (
            "[backends.here]\nurl = \"http://localhost:81\"\n\
             [services.web]\nbackends = [\"here\"]\nlisten = \"127.0.0.1:81\"\n",
            "service web on here would lead back to it",
        ),
        (
            "[backends.here]\nurl = \"http://127.0.0.1:8484\"\n[services.web]\nbackends = [\"here\"]\n",
            "service web on here would lead back to it",
        ),
    ] {
        let (code, place, text) = one(&file(more), &[("K", "canary")]);
        assert_eq!(code, "E018", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
}

#[test]
fn an_open_data_address_is_a_warning_unless_it_asks_for_a_token() {
    let open = "[listen]\ndata = \"0.0.0.0:8484\"\n";
    let port = "[services.web]\nport = 80\nlisten = \"0.0.0.0:81\"\n";
    for (more, codes) in [
        (open.to_owned(), vec!["W001"]),
        (port.to_owned(), vec!["W001"]),
        (format!("{port}{open}"), vec!["W001", "W001"]),
        (format!("{port}{open}token = {{ env = \"K\" }}\n"), vec![]),
    ] {
        let snapshot = good(&file(&more), &[("K", "canary")]);
        let found: Vec<_> = warnings(&snapshot).iter().map(|(code, _)| *code).collect();
        assert_eq!(found, codes, "{more}");
    }
}

#[test]
fn effects_of_a_route_replace_those_of_its_service() {
    let snapshot = good(
        &file(
            "[services.web]\nport = 80\neffects = [{ paths = [\"/a\"], effect = \"read\" }]\n\
             [[routes]]\npath = \"/w\"\nservice = \"web\"\n\
             [[routes]]\npath = \"/own\"\nservice = \"web\"\neffects = [{ methods = [\"POST\", \"PROPFIND\"], effect = \"inference\" }]\n\
             [[routes]]\npath = \"/o\"\nservice = \"ollama\"\n[[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n",
        ),
        &[],
    );
    let effects = |path: &str| {
        let route = snapshot.routes.iter().find(|route| route.path == path);
        let rules = route.unwrap().effects.iter();
        rules.map(|rule| rule.effect).collect::<Vec<_>>()
    };
    assert_eq!(effects("/w"), [Effect::Read]);
    assert_eq!(effects("/own"), [Effect::Inference]);
    assert_eq!(effects("/o"), []);
    assert_eq!(snapshot.services[2].whole.effects.len(), 1);
}

#[test]
fn each_mistake_in_effects_is_told_with_its_remedy() {
    for (rule, words) in [
        ("{ paths = [\"a\"], effect = \"read\" }", "begin it with /"),
        ("{ paths = [\"/**/a\"], effect = \"read\" }", "last segment"),
        ("{ paths = [], effect = \"read\" }", "paths names none"),
        ("{ methods = [\"post\"], effect = \"read\" }", "in capitals"),
        (
            "{ methods = [\"PO ST\"], effect = \"read\" }",
            "in capitals",
        ),
        ("{ effect = \"read\" }", "matches every request"),
        ("{ paths = [\"/a\"] }", "has no \"effect\""),
        (
            "{ paths = [\"/a\"], effect = \"reed\" }",
            "did you mean \"read\"?",
        ),
        (
            "{ path = [\"/a\"], effect = \"read\" }",
            "did you mean \"paths\"?",
        ),
    ] {
        let text = file(&format!("[services.web]\nport = 80\neffects = [{rule}]\n"));
        let (_, place, text) = one(&text, &[]);
        assert!(place.is_some() && text.contains(words), "{text}");
    }
    let known = file("[services.ollama]\n")
        .replace("ollama = {}\n", "")
        .replace(
            "[services.ollama]\n",
            "[services.ollama]\neffects = [{ paths = [\"/a\"], effect = \"read\" }]\n",
        );
    let (_, _, text) = one(&known, &[]);
    assert!(text.contains("effects are for kind http"), "{text}");
}

#[test]
fn changes_of_urls_addresses_and_effects_are_told_and_secrets_only_that_they_changed() {
    let text = |url: &str| {
        let backend = format!("url = \"{url}\", headers = {{ api-key = {{ env = \"K\" }} }}");
        cloud(&backend, LISTED)
    };
    let key = |value| [("K", value)];
    let old = good(&text("https://a.example"), &key("canary-1"));
    let told = |new: &str, value| changes(&old, &good(new, &key(value)));
    assert_eq!(
        told(&text("https://b.example"), "canary-1"),
        ["cloud is reached at https://b.example instead of https://a.example"]
    );
    assert_eq!(
        told(&text("https://a.example"), "canary-2"),
        ["cloud gets another secret in the header api-key"]
    );
    let reads = |value: &str| {
        let backend = "headers = { api-key = { env = \"K\" } }";
        let with = format!("{backend}, read_headers = {{ api-key = {{ env = \"{value}\" }} }}");
        let read = text("https://a.example").replace(backend, &with);
        good(&read, &[("K", "canary-1"), ("R", "canary-3")])
    };
    let other = "cloud, for reads while it is not the active one,";
    assert_eq!(
        changes(&old, &reads("R")),
        [format!("{other} gets the header api-key")]
    );
    assert_eq!(
        changes(&reads("R"), &reads("K")),
        [format!("{other} gets another secret in the header api-key")]
    );
    assert_eq!(
        changes(&reads("R"), &old),
        [
            format!("{other} no longer gets the header api-key"),
            format!("{other} gets the headers of all requests"),
        ]
    );
    let token = |text: String| format!("{text}[listen]\ntoken = {{ env = \"K\" }}\n");
    let base = text("https://a.example");
    assert_eq!(
        told(&token(base.clone()), "canary-1"),
        ["clients have to present a token from now on"]
    );
    let port = base.replace(LISTED, &format!("{LISTED}, listen = \"127.0.0.1:6333\""));
    assert_eq!(
        told(&port, "canary-1"),
        ["services.qdrant.listen is 127.0.0.1:6333 instead of none: this needs a restart"]
    );
}
