//! What `explain` says is what happens: on random configurations, verdicts, orders and requests.
//!
//! `TAILHOP_SEED=n` plays one case alone; a case that fails names its seed.

use serde_json::Value;
use tailhop::words::clock::Clock;

use crate::chaos::Dice;
use crate::support::app::{App, LOCAL, Macs};
use crate::support::client::Client;
use crate::support::upstream::answer;

const CASES: u64 = 40;
const REQUESTS: usize = 12;

const ASKED: [(&str, &str); 16] = [
    ("GET", "/ollama/api/tags"),
    ("GET", "/ollama/api/version"),
    ("POST", "/ollama/api/chat"),
    ("POST", "/ollama/api/embed"),
    ("POST", "/ollama/v1/chat/completions"),
    ("POST", "/ollama/api/pull"),
    ("DELETE", "/ollama/api/delete"),
    ("POST", "/ollama/nosuch"),
    ("GET", "/qdrant/collections"),
    ("POST", "/qdrant/collections/c/points/query"),
    ("PUT", "/qdrant/collections/c/points"),
    ("PUT", "/qdrant/collections/c"),
    ("GET", "/qdrant/collections/c/snapshots"),
    ("GET", "/qdrant/telemetry"),
    ("GET", "/nowhere"),
    ("GET", "/ollama//api/tags"),
];

/// A configuration of orders, switches and fallbacks, in a time between 2025-02-16 and the 18th.
fn orders(dice: &mut Dice) -> String {
    let backend = |dice: &mut Dice| dice.of(&["m1", "m2"]);
    let mut text = format!("schedule.default = \"{}\"\n", backend(dice));
    if dice.roll(2) == 0 {
        text += &format!(
            "schedule.switch = [{{ at = 2025-02-17, to = \"{}\" }}]\n",
            backend(dice)
        );
    }
    if dice.roll(2) == 0 {
        let until = dice.of(&["2025-02-16", "2025-02-18", "2026-01-01"]);
        let services = dice.of(&["", ", services = [\"qdrant\"]", ", services = [\"ollama\"]"]);
        let end = if dice.roll(4) == 0 {
            ", writes = true".to_owned()
        } else {
            format!(", until = {until}")
        };
        text += &format!("pin = [{{ to = \"{}\"{end}{services} }}]\n", backend(dice));
    }
    if dice.roll(3) == 0 {
        let until = dice.of(&["2025-02-16", "2026-01-01"]);
        text += &format!("backends.{}.drain.until = {until}\n", backend(dice));
    }
    for service in ["ollama", "qdrant"] {
        if dice.roll(2) == 0 {
            let fallback = dice.of(&["all", "reads", "none"]);
            text += &format!("services.{service}.fallback = \"{fallback}\"\n");
        }
    }
    // One that may not move waits for a Mac that refuses.
    text + "timeouts.wait = \"50ms\"\n"
}

async fn explained(app: &App, method: &str, path: &str) -> Value {
    let mut client = Client::connect(app.admin).await;
    let target = format!("/explain?method={method}&path={path}");
    let got = client.ask("GET", &target, &[LOCAL], b"").await;
    assert_eq!(got.status(), 200, "{}", got.text());
    got.json()
}

async fn case(seed: u64) -> (usize, usize) {
    let mut dice = Dice(seed);
    let mut macs = Macs::start().await;
    let orders = orders(&mut dice);
    let now = dice.of(&["2025-02-16T12:00:00Z", "2025-02-17T12:00:00Z"]);
    let emergency = dice.of(&["", "", "", "m1", "m2"]);
    for upstream in macs.ollama.iter().chain(&macs.qdrant) {
        upstream.always(answer(200, &[], b"{}"));
    }
    let mut down = Vec::new();
    for (service, machine) in [("ollama", 0), ("ollama", 1), ("qdrant", 0), ("qdrant", 1)] {
        if dice.roll(4) == 0 {
            let pair = if service == "ollama" {
                &mut macs.ollama
            } else {
                &mut macs.qdrant
            };
            pair[machine].die().await;
            down.push((service, machine));
        }
    }
    let environment = [("ACTIVE_BACKEND", emergency)];
    let clock = Clock::starting_at(now.parse().unwrap());
    let app = App::start_with(&macs.toml(&orders), &environment, clock).await;
    for (service, machine) in [("ollama", 0), ("ollama", 1), ("qdrant", 0), ("qdrant", 1)] {
        let verdict = if down.contains(&(service, machine)) {
            "down"
        } else {
            "up"
        };
        app.judged(service, ["m1", "m2"][machine], verdict).await;
    }
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..REQUESTS {
        let (method, path) = dice.of(&ASKED);
        let said = explained(&app, method, path).await;
        let got = app.ask(method, path, b"").await;
        let told = format!("seed {seed}: {method} {path}\n{orders}{emergency} {down:?}\n{said:#}");
        let first = &said["candidates"][0];
        let able = first["verdict"] == "up";
        if said["route"].is_null() {
            assert_eq!(got.status(), 404, "{told}");
        } else if !first.is_null() && able {
            assert_eq!(got.backend(), first["backend"], "{told}");
            assert_eq!(got.reason(), first["reason"], "{told}");
            assert_eq!(got.status(), 200, "{told}");
            answered += 1;
        } else {
            // Nobody may be asked, or whoever may refuses.
            assert_eq!(got.status(), 503, "{told}");
            refused += 1;
        }
    }
    app.stop().await;
    (answered, refused)
}

#[tokio::test]
async fn what_explain_says_is_what_happens() {
    let seed = std::env::var("TAILHOP_SEED").ok();
    let seeds = match seed.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..CASES,
    };
    let all = seeds.end - seeds.start > 1;
    let (mut answered, mut refused) = (0, 0);
    for seed in seeds {
        let (more, fewer) = case(seed).await;
        (answered, refused) = (answered + more, refused + fewer);
    }
    assert!(
        !all || (answered > 100 && refused > 20),
        "{answered} {refused}"
    );
}
