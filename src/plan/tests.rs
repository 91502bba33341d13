//! Match, orders and plan as tables: a rule is a row.

use std::net::SocketAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::candidates::{Plan, plan};
use super::orders::{self, Why};
use super::reason::{Reason, Refusal};
use super::route::{match_route, upstream_path};
use super::schedule::next_switch;
use crate::config::snapshot::{
    Backend, BackendId, DialWay, Drain, Fallback, HostHeader, Listen, Login, Network, Origin, Pin,
    Policy, Require, Route, Run, Schedule, Service, ServiceId, Snapshot, Switch, Tailnet,
    Tailscaled, Timeouts,
};
use crate::words::effect::{Effect, Meaning, Reach};
use crate::words::names::{BackendName, Kind, ServiceName};
use crate::words::verdict::Verdict::{self, Asleep, Down, Suspect, Unknown, Up};

mod data;
mod lead;
mod load;
mod models;

const M1: BackendId = BackendId(0);
const DEV1: BackendId = BackendId(1);
const OLLAMA: ServiceId = ServiceId(0);
const QDRANT: ServiceId = ServiceId(1);

const CHAT: Meaning = meaning(Effect::Inference, Reach::Any);
const EMBED: Meaning = meaning(Effect::Inference, Reach::SameModel);
const READ: Meaning = meaning(Effect::Read, Reach::Any);
const READ_OF_ONE: Meaning = meaning(Effect::Read, Reach::OneBackend);
const WRITE: Meaning = meaning(Effect::Write, Reach::OneBackend);
const ADMIN: Meaning = meaning(Effect::Admin, Reach::OneBackend);

const fn meaning(effect: Effect, reach: Reach) -> Meaning {
    Meaning {
        effect,
        reach,
        op: "x",
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Before and after the switch of the main system.
fn before() -> Timestamp {
    at("2025-02-16T23:59:59+09:00")
}

fn after() -> Timestamp {
    at("2025-02-17T00:00:00+09:00")
}

fn run() -> Run {
    Run {
        tailscaled: Tailscaled::Off,
        login: Login {
            credential: None,
            hostname: "x".into(),
            tags: vec![],
            server: None,
            shields: true,
        },
        stop: std::time::Duration::ZERO,
    }
}

fn service(id: ServiceId, name: &str, kind: Kind, port: u16, fallback: Fallback) -> Service {
    Service {
        listen: None,
        listen_grpc: None,
        grpc_port: None,
        whole: route("/", id),
        name: ServiceName::new(name).unwrap(),
        kind,
        port,
        fallback,
        cache: None,
        require: Require::default(),
        holds_switch: true,
        prewarm: Vec::new(),
        policy: Policy::Active,
        limit: None,
        timeouts: timeouts(),
        backends: vec![M1, DEV1],
    }
}

fn main_system() -> Snapshot {
    let backend = |name: &str| Backend {
        name: BackendName::new(name).unwrap(),
        host: name.into(),
        url: None,
        network: Network::Tailnet,
        drain: None,
    };
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Snapshot {
        log_sample: 1,
        generation: 1,
        origin: Origin {
            path: "routing.toml".into(),
            hash: String::new(),
            stand_in: false,
        },
        token: None,
        admin: crate::config::snapshot::Admin::default(),
        listen: Listen {
            data: local(8484),
            admin: local(9484),
        },
        tailnet: Tailnet {
            suffix: None,
            dial: DialWay::Direct,
            socket: "s".into(),
            proxy: local(1055),
            repair: true,
        },
        run: run(),
        backends: vec![backend("macbook-m1"), backend("mac-dev1")],
        services: vec![
            service(OLLAMA, "ollama", Kind::Ollama, 11434, Fallback::All),
            service(QDRANT, "qdrant", Kind::Qdrant, 6333, Fallback::Reads),
        ],
        routes: vec![route("/ollama", OLLAMA), route("/qdrant", QDRANT)].into(),
        schedule: Schedule {
            zone: TimeZone::get("Asia/Tokyo").unwrap(),
            default: M1,
            switches: vec![Switch {
                at: after(),
                to: DEV1,
                services: None,
            }],
        },
        pins: vec![],
        active_backend: None,
        warnings: vec![],
        files: vec![],
    }
}

fn timeouts() -> Timeouts {
    let s = std::time::Duration::from_secs;
    Timeouts {
        race: std::time::Duration::from_millis(250),
        connect: s(10),
        wait: s(4),
        start: s(4),
        head_inference: s(600),
        head_read: s(30),
        head_change: None,
        idle_inference: s(300),
        idle: s(60),
        total: None,
        probe: s(2),
    }
}

fn route(path: &str, service: ServiceId) -> Route {
    let host = HostHeader::Upstream;
    Route {
        path: path.into(),
        service,
        strip: true,
        host,
        upgrade: Vec::new(),
        timeouts: timeouts(),
        effects: vec![],
    }
}

fn pin(to: BackendId, writes: bool, until: Option<Timestamp>) -> Pin {
    Pin {
        to,
        until,
        reason: None,
        by: None,
        services: None,
        writes,
        hold_writes: false,
    }
}

fn order(plan: &Plan) -> Vec<usize> {
    plan.candidates
        .iter()
        .map(|candidate| candidate.backend.0)
        .collect()
}

#[test]
fn the_longest_prefix_wins_by_whole_segments() {
    let mut snapshot = main_system();
    let routes = [&snapshot.routes[..], &[route("/ollama/v2", QDRANT)]].concat();
    snapshot.routes = routes.into();
    let rows = [
        ("/ollama", Some("/ollama")),
        ("/ollama/", Some("/ollama")),
        ("/ollama/api/tags", Some("/ollama")),
        ("/ollama/v2", Some("/ollama/v2")),
        ("/ollama/v2x", Some("/ollama")),
        ("/ollamax", None),
        ("/", None),
        ("/%6fllama", None),
        ("*", None),
    ];
    for (path, want) in rows {
        let got = match_route(&snapshot, path).map(|route| route.path.as_str());
        assert_eq!(got, want, "{path}");
    }
}

#[test]
fn the_prefix_is_taken_off_byte_for_byte() {
    let rows = [
        (Kind::Qdrant, "/qdrant", "/"),
        (Kind::Qdrant, "/qdrant/", "/"),
        (
            Kind::Qdrant,
            "/qdrant/collections/a%2Fb//c/",
            "/collections/a%2Fb//c/",
        ),
        (Kind::Ollama, "/qdrant//api//tags", "/api/tags"),
        (Kind::Http, "/qdrant//api", "//api"),
    ];
    for (kind, path, want) in rows {
        assert_eq!(
            upstream_path(&route("/qdrant", QDRANT), kind, path),
            want,
            "{path}"
        );
    }
    let whole = Route {
        strip: false,
        ..route("/qdrant", QDRANT)
    };
    assert_eq!(upstream_path(&whole, Kind::Http, "/qdrant/x"), "/qdrant/x");
    assert_eq!(upstream_path(&route("/", QDRANT), Kind::Http, "/x"), "/x");
}

/// Ollama's mux answers `//` with a redirect that turns a POST into a GET; Qdrant merges slashes
/// and trims the last itself; of the kind `http` nothing is known, and a key may have any.
#[test]
fn slashes_reach_each_kind_as_it_takes_them() {
    let rows = [
        ("/p", "/", "/", "/"),
        ("/p/", "/", "/", "/"),
        ("/p//", "/", "//", "//"),
        ("/p/a/", "/a/", "/a/", "/a/"),
        ("/p//a", "/a", "//a", "//a"),
        ("/p/a//b", "/a/b", "/a//b", "/a//b"),
        ("/p/a///", "/a/", "/a///", "/a///"),
        ("/p/a%2F%2fb", "/a%2F%2fb", "/a%2F%2fb", "/a%2F%2fb"),
        ("/p/%2F/a", "/%2F/a", "/%2F/a", "/%2F/a"),
        (
            "/p/a+b%20c;d=e",
            "/a+b%20c;d=e",
            "/a+b%20c;d=e",
            "/a+b%20c;d=e",
        ),
        ("/p/\u{3042}", "/\u{3042}", "/\u{3042}", "/\u{3042}"),
    ];
    for (path, ollama, qdrant, http) in rows {
        for (kind, want) in [
            (Kind::Ollama, ollama),
            (Kind::Qdrant, qdrant),
            (Kind::Http, http),
        ] {
            let got = upstream_path(&route("/p", QDRANT), kind, path);
            assert_eq!(got, want, "{kind:?} {path}");
        }
    }
}

#[test]
fn a_switch_holds_from_its_instant_on() {
    let snapshot = main_system();
    let active = |now| orders::active(&snapshot, QDRANT, Effect::Read, now);
    assert_eq!(
        (active(before()).backend, active(before()).why),
        (M1, Why::Default)
    );
    assert_eq!(
        (active(after()).backend, active(after()).why),
        (DEV1, Why::Schedule(after()))
    );
    assert_eq!(
        next_switch(&snapshot, QDRANT, before()).map(|switch| switch.at),
        Some(after())
    );
    assert_eq!(next_switch(&snapshot, QDRANT, after()), None);
}

#[test]
fn orders_beat_the_schedule_in_their_rank() {
    let active = |edit: fn(&mut Snapshot), service, effect| {
        let mut snapshot = main_system();
        edit(&mut snapshot);
        let active = orders::active(&snapshot, service, effect, after());
        (active.backend, active.why.as_str())
    };
    let none: fn(&mut Snapshot) = |_| ();
    let pinned: fn(&mut Snapshot) = |s| s.pins = vec![pin(M1, false, None)];
    let pinned_writes: fn(&mut Snapshot) = |s| s.pins = vec![pin(M1, true, None)];
    let expired: fn(&mut Snapshot) = |s| s.pins = vec![pin(M1, false, Some(after()))];
    let emergency: fn(&mut Snapshot) = |s| {
        s.pins = vec![pin(DEV1, true, None)];
        s.active_backend = Some(M1);
    };
    let not_offered: fn(&mut Snapshot) = |s| {
        s.active_backend = Some(M1);
        s.services[1].backends = vec![DEV1];
    };
    let rows = [
        (none, QDRANT, Effect::Write, (DEV1, "schedule")),
        (pinned, QDRANT, Effect::Read, (M1, "pin")),
        (pinned, QDRANT, Effect::Write, (DEV1, "schedule")),
        (pinned, OLLAMA, Effect::Admin, (M1, "pin")),
        (pinned_writes, QDRANT, Effect::Write, (M1, "pin")),
        (expired, QDRANT, Effect::Read, (DEV1, "schedule")),
        (emergency, QDRANT, Effect::Write, (M1, "active-backend")),
        (not_offered, QDRANT, Effect::Read, (DEV1, "schedule")),
    ];
    for (place, (edit, service, effect, want)) in rows.into_iter().enumerate() {
        assert_eq!(active(edit, service, effect), want, "row {place}");
    }
}

#[test]
fn what_may_move_goes_where_it_is_thought_able_and_what_changes_something_stays() {
    let snapshot = main_system();
    // The active one is mac-dev1 (1).
    let rows: [(ServiceId, Meaning, [Verdict; 2], &[usize]); 14] = [
        (OLLAMA, CHAT, [Up, Up], &[1, 0]),
        (OLLAMA, CHAT, [Up, Suspect], &[0, 1]),
        (OLLAMA, CHAT, [Unknown, Asleep], &[0, 1]),
        (OLLAMA, CHAT, [Asleep, Down], &[1, 0]),
        (OLLAMA, CHAT, [Down, Asleep], &[1, 0]),
        (OLLAMA, CHAT, [Suspect, Asleep], &[0, 1]),
        (OLLAMA, EMBED, [Up, Asleep], &[1]),
        (OLLAMA, READ_OF_ONE, [Up, Asleep], &[1]),
        (OLLAMA, ADMIN, [Up, Asleep], &[1]),
        (QDRANT, READ, [Up, Up], &[1, 0]),
        (QDRANT, READ, [Up, Down], &[0, 1]),
        (QDRANT, READ_OF_ONE, [Up, Down], &[1]),
        (QDRANT, WRITE, [Up, Down], &[1]),
        (QDRANT, CHAT, [Up, Down], &[1]), // `reads` does not move inference
    ];
    for (place, (service, meaning, verdicts, want)) in rows.into_iter().enumerate() {
        let plan = plan(&snapshot, service, meaning, &verdicts, after());
        assert_eq!(order(&plan), want, "row {place}");
    }
}

#[test]
fn each_candidate_says_why_it_stands_there() {
    let snapshot = main_system();
    let reasons = |verdicts: [Verdict; 2]| {
        let plan = plan(&snapshot, QDRANT, READ, &verdicts, after());
        plan.candidates
            .iter()
            .map(|candidate| candidate.reason.word())
            .collect::<Vec<_>>()
    };
    assert_eq!(reasons([Up, Up]), ["active:schedule", "fallback"]);
    assert_eq!(
        reasons([Up, Asleep]),
        ["fallback:asleep", "active:schedule"]
    );
}

#[test]
fn a_drained_backend_gets_nothing_and_its_writes_do_not_move() {
    let mut snapshot = main_system();
    let forever = Drain {
        until: None,
        reason: None,
        by: None,
    };
    snapshot.backends[1].drain = Some(forever.clone());
    let read = plan(&snapshot, QDRANT, READ, &[Up, Up], after());
    assert_eq!(order(&read), [0]);
    assert_eq!(read.candidates[0].reason, Reason::InsteadOfDrained);
    let write = plan(&snapshot, QDRANT, WRITE, &[Up, Up], after());
    assert_eq!(
        (order(&write), write.refusal),
        (vec![], Some(Refusal::Drained))
    );
    snapshot.backends[1].drain = Some(Drain {
        until: Some(after()),
        ..forever
    });
    assert_eq!(
        order(&plan(&snapshot, QDRANT, WRITE, &[Up, Up], after())),
        [1]
    );
}

#[test]
fn a_drained_backend_is_not_even_tried_when_all_others_are_down() {
    let mut snapshot = main_system();
    snapshot.backends[1].drain = Some(Drain {
        until: None,
        reason: None,
        by: None,
    });
    assert_eq!(
        order(&plan(&snapshot, QDRANT, READ, &[Down, Up], after())),
        [0]
    );
}

#[test]
fn the_stand_in_copy_does_not_say_who_owns_writes_of_data() {
    let mut snapshot = main_system();
    snapshot.origin.stand_in = true;
    let refusal = |snapshot: &Snapshot, service, meaning| {
        plan(snapshot, service, meaning, &[Up, Up], after()).refusal
    };
    assert_eq!(refusal(&snapshot, QDRANT, WRITE), Some(Refusal::StandIn));
    assert_eq!(refusal(&snapshot, QDRANT, READ), None);
    assert_eq!(refusal(&snapshot, OLLAMA, ADMIN), None);
    snapshot.active_backend = Some(M1);
    assert_eq!(refusal(&snapshot, QDRANT, WRITE), None);
}

#[test]
fn writes_of_data_wait_as_long_as_a_pin_holds_them() {
    let end = after() + jiff::SignedDuration::from_hours(1);
    let mut snapshot = main_system();
    snapshot.pins = vec![Pin {
        hold_writes: true,
        ..pin(M1, false, Some(end))
    }];
    let plan = |snapshot: &Snapshot, service, meaning, now| {
        let plan = plan(snapshot, service, meaning, &[Up, Up], now);
        (plan.refusal, order(&plan))
    };
    let held = (Some(Refusal::WritesHeld), vec![]);
    for meaning in [WRITE, ADMIN] {
        assert_eq!(plan(&snapshot, QDRANT, meaning, after()), held);
        assert_eq!(plan(&snapshot, OLLAMA, meaning, after()), (None, vec![0]));
        assert_eq!(plan(&snapshot, QDRANT, meaning, end), (None, vec![1]));
    }
    assert_eq!(plan(&snapshot, QDRANT, READ, after()), (None, vec![0, 1]));
    snapshot.active_backend = Some(BackendId(1));
    assert_eq!(plan(&snapshot, QDRANT, WRITE, after()), (None, vec![1]));
}

#[test]
fn fallback_none_keeps_reads_and_inference_too() {
    let mut snapshot = main_system();
    snapshot.services[0].fallback = Fallback::None;
    assert_eq!(
        order(&plan(&snapshot, OLLAMA, CHAT, &[Up, Down], after())),
        [1]
    );
}
