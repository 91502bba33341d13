//! Named effects of services of kind http: what may be repeated elsewhere, and what never is.

use crate::support::app::{App, stage};
use crate::support::time::Held;
use crate::support::upstream::Upstream;

/// A service of kind http on two machines of which the first, the active one, does not answer.
async fn web(more: &str) -> (App, [Upstream; 2], Held) {
    let time = Held::hold();
    let mut pair = Upstream::pair().await;
    let port = pair[0].place().port();
    let toml = format!(
        "{more}\n\
         listen = {{ data = \"127.0.0.1:0\", admin = \"127.0.0.1:0\" }}\n\
         tailnet.dial = \"direct\"\n\
         backends.m1.host = \"127.0.0.2\"\n\
         backends.m2.host = \"127.0.0.3\"\n\
         services.web.port = {port}\n\
         services.web.timeouts.wait = \"300ms\"\n\
         schedule.default = \"m1\"\n"
    );
    pair[0].die().await;
    (App::start(&toml).await, pair, time)
}

const RULES: &str = "services.web.effects = [\n\
    { methods = [\"POST\"], paths = [\"/search\", \"/v1/*/query\"], effect = \"read\" },\n\
    { paths = [\"/generate/**\"], effect = \"inference\" },\n\
    { methods = [\"GET\"], paths = [\"/reset\"], effect = \"write\" },\n\
    { paths = [\"/admin/**\"], effect = \"admin\" },\n\
    ]";

/// The requests of the table, the effect that each has, and whether another machine may answer.
const TABLE: [(&str, &str, &str, bool); 11] = [
    ("POST", "/web/search", "read", true),
    ("POST", "/web/search?limit=3", "read", true),
    ("POST", "/web/v1/docs/query", "read", true),
    ("POST", "/web/v1/a/b/query", "write", false),
    ("PUT", "/web/search", "write", false),
    ("POST", "/web/searches", "write", false),
    ("GET", "/web/reset", "write", false),
    ("HEAD", "/web/reset", "read", true),
    ("GET", "/web/anything", "read", true),
    ("GET", "/web/admin/users", "admin", false),
    ("POST", "/web/generate/text", "inference", false),
];

#[tokio::test(start_paused = true)]
async fn each_rule_decides_whether_another_machine_may_answer() {
    let (app, pair, time) = web(RULES).await;
    for (method, target, effect, moves) in TABLE {
        let (got, _) = time.run(app.ask(method, target, b"")).await;
        let line = app.line().await;
        assert_eq!(
            (line.effect, line.op),
            (effect, effect),
            "{method} {target}"
        );
        let want = if moves { (200, "m2") } else { (503, "none") };
        assert_eq!((got.status(), got.backend()), want, "{method} {target}");
    }
    let moved = TABLE.iter().filter(|(.., moves)| *moves).count();
    let asked = pair[1]
        .seen()
        .iter()
        .filter(|request| request.target() != "/")
        .count();
    assert_eq!(asked, moved, "nothing else reached it");
}

#[tokio::test(start_paused = true)]
async fn inference_moves_where_fallback_says_all() {
    let (app, _pair, time) = web(&format!("{RULES}\nservices.web.fallback = \"all\"")).await;
    let (got, _) = time.run(app.ask("POST", "/web/generate/text", b"{}")).await;
    assert_eq!((got.status(), got.backend()), (200, "m2"));
    let (got, _) = time.run(app.ask("POST", "/web/other", b"{}")).await;
    assert_eq!((got.status(), got.backend()), (503, "none"));
}

#[tokio::test(start_paused = true)]
async fn a_routes_rules_hold_on_that_route_alone() {
    let routes = "routes = [{ path = \"/a\", service = \"web\", effects = [\
                  { methods = [\"POST\"], effect = \"read\" }] }, \
                  { path = \"/b\", service = \"web\" }]";
    let (app, _pair, time) = web(routes).await;
    for (target, status) in [("/a/x", 200), ("/b/x", 503)] {
        let (got, _) = time.run(app.ask("POST", target, b"{}")).await;
        assert_eq!(got.status(), status, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_known_kinds_keep_their_own_tables() {
    let stage = stage("").await;
    let chat = stage.app.ask("POST", "/ollama/api/chat", b"{}").await;
    assert_eq!(chat.status(), 200);
    assert_eq!(stage.app.line().await.effect, "inference");
    stage.ends_clean().await;
}
