//! What must never pass the admin listener: each row an attack, and none passes.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tailhop::words::clock::Clock;
use tokio::net::TcpSocket;

use crate::support::app::{App, LOCAL, Macs, behind};
use crate::support::client::{Answer, Client};
use crate::support::log;
use crate::support::tailscaled::Tailscaled;
use crate::support::time::{Held, soon};

const ORDERS: &str = "canary-orders-0123456789";
const READS: &str = "canary-reads-0123456789";
const OLD: &str = "canary-old-0123456789";
const PIN: &str = r#"{"backend":"m2","for":"1h","reason":"attack"}"#;
const JSON: (&str, &str) = ("content-type", "application/json");
const TOKEN: (&str, &str) = ("authorization", "Bearer canary-orders-0123456789");
const TOKENS: &str = "schedule.default = \"m1\"\n\
    admin.token = { env = \"ORDERS\" }\n\
    admin.tokens.reads = { secret = { env = \"READS\" } }";

async fn start(more: &str, environment: &[(&str, &str)]) -> (App, Macs) {
    let macs = Macs::start().await;
    let all = [&[("ORDERS", ORDERS), ("READS", READS)], environment].concat();
    let app = App::start_with(&macs.toml(more), &all, Clock::system()).await;
    (app, macs)
}

type Headers<'h> = &'h [(&'h str, &'h str)];

/// A request that must be refused: name, method, target, headers, body, status.
type Row<'r> = (&'r str, &'r str, &'r str, Headers<'r>, &'r str, u16);

const ROWS: &[Row<'_>] = &[
    // DNS rebinding: a page of another name, served from our address.
    (
        "rebinding",
        "GET",
        "/status",
        &[("host", "evil.example:9484")],
        "",
        421,
    ),
    (
        "rebinding, prefix",
        "GET",
        "/status",
        &[("host", "127.0.0.1.evil.example")],
        "",
        421,
    ),
    (
        "rebinding, metrics",
        "GET",
        "/metrics",
        &[("host", "evil.example")],
        "",
        421,
    ),
    (
        "rebinding, live",
        "GET",
        "/live",
        &[("host", "evil.example")],
        "",
        421,
    ),
    (
        "rebinding, page",
        "GET",
        "/",
        &[("host", "evil.example")],
        "",
        421,
    ),
    (
        "rebinding, order",
        "POST",
        "/pin",
        &[("host", "evil.example"), TOKEN, JSON],
        PIN,
        421,
    ),
    (
        "two hosts",
        "GET",
        "/status",
        &[LOCAL, ("host", "evil.example")],
        "",
        421,
    ),
    (
        "whole target",
        "GET",
        "http://evil.example/status",
        &[LOCAL],
        "",
        421,
    ),
    // Pages of other sites.
    (
        "cross-site origin",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON, ("origin", "http://evil.example")],
        PIN,
        403,
    ),
    (
        "null origin",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON, ("origin", "null")],
        PIN,
        403,
    ),
    (
        "origin of another port",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON, ("origin", "http://127.0.0.1:80")],
        PIN,
        403,
    ),
    (
        "two origins",
        "POST",
        "/pin",
        &[
            LOCAL,
            TOKEN,
            JSON,
            ("origin", "http://127.0.0.1:9484"),
            ("origin", "http://evil.example"),
        ],
        PIN,
        403,
    ),
    (
        "cross-site read of the page",
        "GET",
        "/",
        &[LOCAL, ("sec-fetch-site", "cross-site")],
        "",
        403,
    ),
    (
        "cross-site fetch",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON, ("sec-fetch-site", "cross-site")],
        PIN,
        403,
    ),
    (
        "same-site fetch",
        "POST",
        "/reload",
        &[LOCAL, TOKEN, JSON, ("sec-fetch-site", "same-site")],
        "{}",
        403,
    ),
    (
        "cross-site image",
        "GET",
        "/status",
        &[
            LOCAL,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ],
        "",
        403,
    ),
    (
        "cross-site navigation to an order",
        "POST",
        "/pin",
        &[
            LOCAL,
            TOKEN,
            JSON,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ],
        PIN,
        403,
    ),
    (
        "a form",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, ("content-type", "text/plain")],
        PIN,
        415,
    ),
    (
        "a form without a kind",
        "POST",
        "/reload",
        &[LOCAL, TOKEN],
        "",
        415,
    ),
    (
        "preflight",
        "OPTIONS",
        "/pin",
        &[
            LOCAL,
            ("origin", "http://evil.example"),
            ("access-control-request-method", "POST"),
        ],
        "",
        403,
    ),
    // Methods.
    (
        "get of an order",
        "GET",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        "",
        405,
    ),
    (
        "get with a query",
        "GET",
        "/pin?backend=m2&for=1h&reason=x",
        &[LOCAL, TOKEN],
        "",
        405,
    ),
    (
        "head of an order",
        "HEAD",
        "/reload",
        &[LOCAL, TOKEN],
        "",
        405,
    ),
    (
        "method override",
        "GET",
        "/pin",
        &[LOCAL, TOKEN, JSON, ("x-http-method-override", "POST")],
        "",
        405,
    ),
    (
        "method override, other name",
        "GET",
        "/drain",
        &[
            LOCAL,
            TOKEN,
            JSON,
            ("x-method-override", "POST"),
            ("x-http-method", "POST"),
        ],
        "",
        405,
    ),
    ("put", "PUT", "/pin", &[LOCAL, TOKEN, JSON], "", 405),
    ("trace", "TRACE", "/status", &[LOCAL, TOKEN], "", 405),
    ("made up", "PIN", "/pin", &[LOCAL, TOKEN, JSON], "", 405),
    // Tokens.
    ("no token", "POST", "/pin", &[LOCAL, JSON], PIN, 401),
    (
        "wrong token",
        "POST",
        "/pin",
        &[LOCAL, JSON, ("authorization", "Bearer wrong")],
        PIN,
        401,
    ),
    (
        "old token",
        "POST",
        "/pin",
        &[
            LOCAL,
            JSON,
            ("authorization", "Bearer canary-old-0123456789"),
        ],
        PIN,
        401,
    ),
    (
        "empty token",
        "POST",
        "/pin",
        &[LOCAL, JSON, ("authorization", "Bearer ")],
        PIN,
        401,
    ),
    (
        "half a token",
        "POST",
        "/pin",
        &[LOCAL, JSON, ("authorization", "Bearer canary-orders")],
        PIN,
        401,
    ),
    (
        "another scheme",
        "POST",
        "/pin",
        &[
            LOCAL,
            JSON,
            ("authorization", "Basic canary-orders-0123456789"),
        ],
        PIN,
        401,
    ),
    (
        "wrong token for a read",
        "GET",
        "/status",
        &[LOCAL, ("x-tailhop-token", "wrong")],
        "",
        401,
    ),
    (
        "two tokens",
        "POST",
        "/pin",
        &[LOCAL, JSON, TOKEN, ("x-tailhop-token", "wrong")],
        PIN,
        400,
    ),
    (
        "wrong scope",
        "POST",
        "/pin",
        &[
            LOCAL,
            JSON,
            ("authorization", "Bearer canary-reads-0123456789"),
        ],
        PIN,
        403,
    ),
    (
        "wrong scope, reload",
        "POST",
        "/reload",
        &[LOCAL, JSON, ("x-tailhop-token", READS)],
        "{}",
        403,
    ),
    (
        "token in the query",
        "POST",
        "/pin?token=canary-orders-0123456789",
        &[LOCAL, JSON],
        PIN,
        401,
    ),
    (
        "access_token in the query",
        "POST",
        "/reload?access_token=canary-orders-0123456789",
        &[LOCAL, JSON],
        "{}",
        401,
    ),
    (
        "token in a cookie",
        "POST",
        "/pin",
        &[LOCAL, JSON, ("cookie", "token=canary-orders-0123456789")],
        PIN,
        401,
    ),
    (
        "forwarded for",
        "POST",
        "/pin",
        &[
            LOCAL,
            JSON,
            ("x-forwarded-for", "127.0.0.1"),
            ("tailscale-user-login", "u@x.example"),
        ],
        PIN,
        401,
    ),
    // Paths.
    (
        "two slashes",
        "POST",
        "//pin",
        &[LOCAL, TOKEN, JSON],
        PIN,
        404,
    ),
    (
        "a slash after",
        "POST",
        "/pin/",
        &[LOCAL, TOKEN, JSON],
        PIN,
        404,
    ),
    ("dots", "POST", "/x/../pin", &[LOCAL, TOKEN, JSON], PIN, 404),
    (
        "dots from a read",
        "POST",
        "/live/../pin",
        &[LOCAL, JSON],
        PIN,
        404,
    ),
    ("encoded", "POST", "/%70in", &[LOCAL, TOKEN, JSON], PIN, 404),
    (
        "encoded slash",
        "POST",
        "/live%2f..%2fpin",
        &[LOCAL, TOKEN, JSON],
        PIN,
        404,
    ),
    ("capital", "POST", "/PIN", &[LOCAL, TOKEN, JSON], PIN, 404),
    (
        "parameter",
        "POST",
        "/pin;x=1",
        &[LOCAL, TOKEN, JSON],
        PIN,
        404,
    ),
    // Bodies.
    ("a body of a read", "GET", "/status", &[LOCAL], "x", 400),
    (
        "a field more",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        r#"{"backend":"m2","for":"1h","reason":"x","by":"root"}"#,
        400,
    ),
    (
        "no json",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        "backend=m2",
        400,
    ),
    ("a list", "POST", "/pin", &[LOCAL, TOKEN, JSON], "[]", 422),
    (
        "an unknown backend",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        r#"{"backend":"../x","for":"1h","reason":"x"}"#,
        422,
    ),
    (
        "a key in a reason",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        r#"{"backend":"m2","for":"1h","reason":"x\"\n[listen]\ndata=1"}"#,
        422,
    ),
    (
        "without an end",
        "POST",
        "/pin",
        &[LOCAL, TOKEN, JSON],
        r#"{"backend":"m2","reason":"x"}"#,
        422,
    ),
];

#[tokio::test]
async fn none_of_the_attacks_passes() {
    // Each row has its own failures: the limit on them is another test.
    let mut passed = Vec::new();
    for rows in ROWS.chunks(8) {
        let (app, _macs) = start(TOKENS, &[]).await;
        let before = std::fs::read_to_string(app.file()).unwrap();
        for (name, method, target, headers, body, status) in rows {
            let mut client = Client::connect(app.admin).await;
            let got = client.ask(method, target, headers, body.as_bytes()).await;
            if got.status() != *status {
                passed.push(format!("{name}: {} {}", got.status(), got.text()));
            }
            let cors = (got.head.get("access-control-allow-origin")).is_some();
            assert!(!cors, "{name}: no page of another site is let in");
            assert!(!got.text().contains("canary"), "{name}: {}", got.text());
        }
        assert_eq!(std::fs::read_to_string(app.file()).unwrap(), before);
        assert_eq!(app.status().await["config"]["generation"], 1);
        app.stop().await;
    }
    assert_eq!(passed, Vec::<String>::new());
}

#[tokio::test]
async fn what_the_attacks_imitate_works() {
    let (app, _macs) = start(TOKENS, &[("ADMIN_API_KEY", "canary-key-0123456789")]).await;
    let own = format!("http://{}", app.admin);
    let host = app.admin.to_string();
    let rows: &[(&str, Headers<'_>, &str)] = &[
        ("/pin", &[TOKEN, JSON], PIN),
        ("/unpin", &[("x-tailhop-token", ORDERS), JSON], ""),
        (
            "/drain",
            &[("authorization", "bearer canary-key-0123456789"), JSON],
            r#"{"backend":"m2"}"#,
        ),
        (
            "/undrain",
            &[
                TOKEN,
                ("content-type", "application/json; charset=utf-8"),
                ("origin", &own),
                ("sec-fetch-site", "same-origin"),
            ],
            r#"{"backend":"m2"}"#,
        ),
        ("/reload", &[TOKEN, JSON, ("sec-fetch-site", "none")], "{}"),
    ];
    for (target, headers, body) in rows {
        let headers = [&[("host", host.as_str())], *headers].concat();
        let mut client = Client::connect(app.admin).await;
        let got = client.ask("POST", target, &headers, body.as_bytes()).await;
        assert_eq!(got.status(), 200, "{target}: {}", got.text());
    }
    for headers in [
        &[LOCAL][..],
        &[LOCAL, ("x-tailhop-token", READS)],
        &[LOCAL, TOKEN],
    ] {
        let mut client = Client::connect(app.admin).await;
        let got = client.ask("GET", "/status", headers, b"").await;
        assert_eq!(got.status(), 200);
    }
    let link = [
        LOCAL,
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
    ];
    let mut client = Client::connect(app.admin).await;
    assert_eq!(client.ask("GET", "/status", &link, b"").await.status(), 200);
    app.stop().await;
}

async fn raw(app: &App, bytes: &[u8]) -> String {
    let mut client = Client::connect(app.admin).await;
    client.send(bytes).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

#[expect(clippy::too_many_lines, reason = "one row for each attack")]
#[tokio::test]
async fn framing_that_two_could_read_differently_ends_the_connection() {
    let (app, _macs) = start(TOKENS, &[]).await;
    let smuggled = "POST /reload HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer canary-orders-0123456789\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n";
    let head = "POST /pin HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n";
    let flood = "x-many: y\r\n".repeat(500);
    let long = "y".repeat(64 * 1024);
    for (name, bytes, status) in [
        (
            "two lengths",
            format!(
                "{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
            "400",
        ),
        (
            "chunks",
            format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            "400",
        ),
        (
            "chunks, in a costume",
            format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
            "400",
        ),
        (
            "two different lengths",
            format!("{head}content-length: 5\r\ncontent-length: 0\r\n\r\n{smuggled}"),
            "400",
        ),
        (
            "a length with a sign",
            format!("{head}content-length: +5\r\n\r\n12345{smuggled}"),
            "400",
        ),
        (
            "too long",
            format!("{head}content-length: 16385\r\n\r\n{smuggled}"),
            "413",
        ),
        (
            "a flood of headers",
            format!("GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\n{flood}\r\n"),
            "431",
        ),
        (
            "a large header",
            format!("GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {long}\r\n\r\n"),
            "431",
        ),
        (
            "a large target",
            format!("GET /status?{long} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
            "4",
        ),
        (
            "no host",
            "GET /status HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
            "421",
        ),
        (
            "a blank in a name",
            "GET /status HTTP/1.1\r\nhost : 127.0.0.1\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let got = soon(raw(&app, bytes.as_bytes())).await;
        let line = format!("HTTP/1.1 {status}");
        assert!(got.starts_with(&line), "{name}: {got}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{name}: {got}");
    }
    assert_eq!(app.status().await["config"]["generation"], 1);
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_and_a_slow_body_are_not_waited_for() {
    let time = Held::hold();
    let (app, _macs) = start(TOKENS, &[]).await;
    let head = "POST /pin HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer canary-orders-0123456789\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n";
    let mut slow = Client::connect(app.admin).await;
    slow.send(format!("{head}{{")).await;
    let (late, took) = time.run(slow.head_alone()).await;
    assert_eq!(late.word(1), "408");
    assert!(took < Duration::from_secs(7), "{took:?}");
    let mut half = Client::connect(app.admin).await;
    half.send("GET /status HTT").await;
    let (_, took) = time.run(half.ends()).await;
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn guessing_is_stopped_after_ten_and_costs_readers_nothing() {
    let time = Held::hold();
    let (app, _macs) = start(TOKENS, &[]).await;
    log::listen();
    for turn in 0..12 {
        let got = app
            .order("/reload", &format!("guess-canary-{turn}"), "{}")
            .await;
        let status = if turn < 10 { 401 } else { 429 };
        assert_eq!(got.status(), status, "{turn}");
    }
    let right = app.order("/reload", ORDERS, "{}").await;
    assert_eq!(right.status(), 429, "else guessing would only be hidden");
    assert_eq!(right.head.get("retry-after"), Some("61"));
    assert_eq!(app.admin("GET", "/status").await.status(), 200);
    time.pass_long(Duration::from_secs(61)).await;
    assert_eq!(app.order("/reload", ORDERS, "{}").await.status(), 200);
    let metrics = app.metrics().await;
    for (reason, count) in [("wrong-token", 10), ("too-many-failures", 3)] {
        let labels = [("reason", reason)];
        assert_eq!(metrics.sum("tailhop_admin_refused_total", &labels), count);
    }
    let heard = log::heard();
    assert_eq!(heard.matches("a wrong token").count(), 1, "{heard}");
    assert!(!heard.contains("canary"), "{heard}");
}

#[tokio::test]
async fn without_anybody_named_orders_are_off_and_with_the_variable_they_are_not_there() {
    let order = async |app: &App| app.order("/pin", "x", PIN).await;
    let plain = async |app: &App| {
        let mut client = Client::connect(app.admin).await;
        client
            .ask("POST", "/pin", &[LOCAL, JSON], PIN.as_bytes())
            .await
    };
    let (app, _macs) = start("schedule.default = \"m1\"", &[]).await;
    let off = plain(&app).await;
    assert_eq!(off.status(), 403);
    assert!(off.text().contains("set admin.token"), "{}", off.text());
    app.stop().await;
    let (app, _macs) = start(TOKENS, &[("ADMIN_FUNCTIONS_ENABLED", "false")]).await;
    for got in [plain(&app).await, app.order("/pin", ORDERS, PIN).await] {
        assert_eq!(got.status(), 404);
        assert!(!got.text().contains("/pin"), "{}", got.text());
    }
    assert_eq!(order(&app).await.status(), 401);
    app.stop().await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_refused_from_then_on() {
    let macs = Macs::start().await;
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), OLD).unwrap();
    let more = format!(
        "schedule.default = \"m1\"\nadmin.token = {{ file = \"{}\" }}",
        kept.path().display()
    );
    let app = App::start_with(&macs.toml(&more), &[], Clock::system()).await;
    assert_eq!(app.order("/reload", OLD, "{}").await.status(), 200);
    std::fs::write(kept.path(), ORDERS).unwrap();
    let changed = app.order("/reload", OLD, "{}").await;
    assert_eq!(
        changed.json()["changes"],
        json!(["the admin token token is another one"])
    );
    assert_eq!(app.order("/reload", OLD, "{}").await.status(), 401);
    assert_eq!(app.order("/reload", ORDERS, "{}").await.status(), 200);
    app.stop().await;
}

#[tokio::test]
async fn an_address_of_other_machines_tells_strangers_that_it_lives_and_no_more() {
    let macs = Macs::start().await;
    let toml = macs
        .toml(TOKENS)
        .replace("admin = \"127.0.0.1:0\"", "admin = \"0.0.0.0:0\"");
    let app = App::start_with(
        &toml,
        &[("ORDERS", ORDERS), ("READS", READS)],
        Clock::system(),
    )
    .await;
    let elsewhere = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent; the system only says which address it would use.
    if elsewhere.connect("192.0.2.1:9").is_err() {
        return;
    }
    let own = SocketAddr::new(elsewhere.local_addr().unwrap().ip(), app.admin.port());
    let host = own.to_string();
    for (target, status) in [
        ("/live", 200),
        ("/ready", 200),
        ("/", 401),
        ("/status", 401),
        ("/metrics", 401),
        ("/x", 401),
    ] {
        let mut client = Client::connect(own).await;
        let got = client.ask("GET", target, &[("host", &host)], b"").await;
        assert_eq!(got.status(), status, "{target}");
        let mut client = Client::connect(own).await;
        let headers = [("host", host.as_str()), ("x-tailhop-token", READS)];
        let got = client.ask("GET", target, &headers, b"").await;
        assert_eq!(
            got.status(),
            if target == "/x" { 404 } else { 200 },
            "{target}"
        );
    }
    app.stop().await;
}

/// An app that lets somebody of the tailnet in.
async fn with_tailnet() -> (App, Tailscaled) {
    let fake = Tailscaled::start().await;
    let more = "schedule.default = \"m1\"\nadmin = { tailnet = [\"u@x.example\", \"tag:ops\"], token = { env = \"ORDERS\" } }";
    let toml = behind(&fake, more).replace("data = \"127.0.0.1:0\"", "data = \"127.0.0.2:0\"");
    let app = App::start_with(&toml, &[("ORDERS", ORDERS)], Clock::system()).await;
    (app, fake)
}

/// Asks over a connection that tailscaled made for `who`.
async fn asks_as(app: &App, fake: &Tailscaled, who: &Value, method: &str, target: &str) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    fake.forwards(socket.local_addr().unwrap(), who);
    let mut client = Client::over(soon(socket.connect(app.admin)).await.unwrap());
    let body = if method == "POST" { PIN } else { "" };
    client
        .ask(method, target, &[LOCAL, JSON], body.as_bytes())
        .await
}

fn person(login: &str) -> Value {
    json!({"Node": {"Name": "laptop.t.ts.net."}, "UserProfile": {"LoginName": login}})
}

fn tagged(tags: &[&str], login: &str) -> Value {
    json!({"Node": {"Name": "ci.t.ts.net.", "Tags": tags}, "UserProfile": {"LoginName": login}})
}

#[tokio::test]
async fn of_the_tailnet_those_who_are_named_may_and_others_see_nothing() {
    let (app, fake) = with_tailnet().await;
    for (who, allowed) in [
        (person("u@x.example"), Some("u@x.example")),
        (person("v@x.example"), None),
        (person("tag:ops"), None),
        (person(""), None),
        (
            tagged(&["tag:ops"], "tagged-devices"),
            Some("ci.t.ts.net (tag:ops)"),
        ),
        (tagged(&["tag:dev"], "u@x.example"), None),
        (tagged(&["u@x.example"], "tagged-devices"), None),
        (json!({}), None),
        (json!(null), None),
        (json!("u@x.example"), None),
    ] {
        for target in [
            "/", "/status", "/metrics", "/events", "/live", "/ready", "/x",
        ] {
            if allowed.is_some() && target == "/events" {
                continue;
            }
            let got = asks_as(&app, &fake, &who, "GET", target).await;
            let probe = matches!(target, "/live" | "/ready");
            match allowed {
                Some(_) if target == "/x" => assert_eq!(got.status(), 404),
                Some(by) if target == "/status" => {
                    let you = json!({"may_order": true, "name": by, "token": true, "why": null});
                    assert_eq!(got.json()["you"], you);
                }
                Some(_) => assert_eq!(got.status(), 200, "{who} {target}"),
                // An answer that names nobody is no answer: probes are told all the same.
                None if got.status() == 200 => assert!(probe, "{who} {target}"),
                None => assert!(matches!(got.status(), 403 | 503), "{who} {target}"),
            }
        }
        let got = asks_as(&app, &fake, &who, "POST", "/pin").await;
        match allowed {
            Some(by) => {
                assert_eq!(got.status(), 200, "{}", got.text());
                let orders = app.status().await["orders"].clone();
                assert_eq!(orders[0]["by"], json!(by));
                assert_eq!(app.order("/unpin", ORDERS, "").await.status(), 200);
            }
            None => assert!(matches!(got.status(), 403 | 503), "{who}"),
        }
    }
    app.stop().await;
}

#[tokio::test]
async fn a_process_of_this_machine_reads_and_is_asked_about_once_a_connection() {
    let (app, fake) = with_tailnet().await;
    let before = fake.whois_asked();
    let mut client = Client::connect(app.admin).await;
    for target in ["/status", "/metrics", "/live"] {
        assert_eq!(client.ask("GET", target, &[LOCAL], b"").await.status(), 200);
    }
    assert_eq!(fake.whois_asked() - before, 1);
    let order = client
        .ask("POST", "/pin", &[LOCAL, JSON], PIN.as_bytes())
        .await;
    assert_eq!(order.status(), 401, "{}", order.text());
    app.stop().await;
}

#[tokio::test(start_paused = true)]
async fn while_tailscaled_does_not_say_who_asks_only_a_token_passes() {
    let time = Held::hold();
    let (app, fake) = with_tailnet().await;
    fake.hang_whois(true);
    let (got, took) = time.run(app.admin("GET", "/status")).await;
    assert_eq!(got.status(), 503, "{}", got.text());
    assert!(took < Duration::from_secs(3), "{took:?}");
    for target in ["/live", "/ready"] {
        let (got, took) = time.run(app.admin("GET", target)).await;
        assert_eq!(got.status(), 200, "{target}");
        assert!(took < Duration::from_secs(1), "{target} {took:?}");
    }
    let (got, _) = time
        .run(asks_as(&app, &fake, &person("u@x.example"), "POST", "/pin"))
        .await;
    assert_eq!(got.status(), 503);
    assert_eq!(app.order("/reload", ORDERS, "{}").await.status(), 200);
    fake.hang_whois(false);
    assert_eq!(app.admin("GET", "/status").await.status(), 200);
    let mut gone = fake;
    gone.stop().await;
    let (got, _) = time.run(app.admin("GET", "/status")).await;
    assert_eq!(got.status(), 503);
}

#[tokio::test]
async fn without_anybody_named_the_tailnet_sees_nothing_even_where_shields_are_down() {
    let fake = Tailscaled::start().await;
    fake.shields_up(false);
    let app = App::start(&behind(&fake, "schedule.default = \"m1\"")).await;
    let got = asks_as(&app, &fake, &person("u@x.example"), "GET", "/status").await;
    assert_eq!(got.status(), 403);
    let status = soon(async {
        loop {
            let status = app.status().await;
            if !status["tailnet"]["shields_up"].is_null() {
                return status;
            }
        }
    })
    .await;
    assert_eq!(status["tailnet"]["shields_up"], json!(false));
    let warning = status["tailnet"]["warning"].to_string();
    assert!(warning.contains("--shields-up"), "{warning}");
    app.stop().await;
}
