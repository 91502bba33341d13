//! The pure functions that every request goes through, and writing it down: `cargo bench`.
//!
//! Where a size matters there are two: the usual configuration, and one of 1,000 routes and 100
//! backends. Times of this machine now; what guards them is `tests/cost`.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use tailhop::config::snapshot::{ServiceId, Snapshot};
use tailhop::config::{Environment, Source, load};
use tailhop::endpoint::live::Judgement;
use tailhop::health::judge::{Around, Seen, judge};
use tailhop::metrics::Metrics;
use tailhop::plan::candidates::{lead, plan};
use tailhop::plan::known::Known;
use tailhop::plan::reason::Reason;
use tailhop::plan::route::{match_route, meaning};
use tailhop::reload::store::Store;
use tailhop::request::record::AccessLog;
use tailhop::request::{Proxy, bench};
use tailhop::tailnet::Tailnet;
use tailhop::words::clock::Clock;
use tailhop::words::names::Kind;
use tailhop::words::verdict::Verdict;
use tokio::time::Instant;

const PATH: &str = "/qdrant/collections/papers/points/query";

/// Both services, whose routes are the last of `routes`.
fn snapshot(routes: usize, backends: usize) -> Snapshot {
    let mut text = "tailnet.dial = \"direct\"\nschedule.default = \"m1\"\n".to_owned();
    for number in 1..=backends {
        text += &format!("backends.m{number}.host = \"127.0.0.{number}\"\n");
    }
    text += "services.ollama = {}\nservices.qdrant = {}\n";
    let team = |number| format!("team-{number:04}/ollama");
    let paths = (2..routes).map(team);
    for path in paths.chain(["ollama", "qdrant"].map(String::from)) {
        let service = if path == "qdrant" { "qdrant" } else { "ollama" };
        text += &format!("[[routes]]\npath = \"/{path}\"\nservice = \"{service}\"\n");
    }
    load(
        &Source::new("routing.toml", text),
        &Environment::from_pairs([("", ""); 0]),
    )
    .unwrap()
}

fn sizes() -> [(&'static str, Snapshot); 2] {
    [
        ("2 routes, 2 backends", snapshot(2, 2)),
        ("1,000 routes, 100 backends", snapshot(1000, 100)),
    ]
}

fn matching(bench: &mut Criterion) {
    for (size, snapshot) in sizes() {
        bench.bench_function(&format!("match/{size}"), |b| {
            b.iter(|| match_route(black_box(&snapshot), black_box(PATH)));
        });
    }
}

fn effect(bench: &mut Criterion) {
    let snapshot = snapshot(2, 2);
    for (kind, prefix, path) in [
        (Kind::Qdrant, "/qdrant", "/collections/papers/points/query"),
        (Kind::Ollama, "/ollama", "/api/chat"),
    ] {
        let route = match_route(&snapshot, prefix).unwrap();
        bench.bench_function(&format!("effect{prefix}"), |b| {
            b.iter(|| meaning(route, kind, black_box(&Method::POST), black_box(path)));
        });
    }
}

fn planning(bench: &mut Criterion) {
    for (size, snapshot) in sizes() {
        let route = match_route(&snapshot, PATH).unwrap();
        let path = "/collections/papers/points/query";
        let (meant, _) = meaning(route, Kind::Qdrant, &Method::POST, path);
        let verdicts = vec![Verdict::Up; snapshot.service(route.service).backends.len()];
        let now = Timestamp::now();
        bench.bench_function(&format!("plan/its lead/{size}"), |b| {
            let able = |_| Known::from(Verdict::Up);
            b.iter(|| lead(black_box(&snapshot), route.service, meant, able, now));
        });
        bench.bench_function(&format!("plan/whole/{size}"), |b| {
            b.iter(|| plan(black_box(&snapshot), route.service, meant, &verdicts, now));
        });
    }
}

fn fields(rows: &[(&'static str, &'static str)]) -> HeaderMap {
    let row = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    rows.iter().map(row).collect()
}

fn rewriting(bench: &mut Criterion) {
    let snapshot = snapshot(2, 2);
    let route = match_route(&snapshot, PATH).unwrap();
    let request = fields(&[
        ("host", "localhost:8484"),
        ("user-agent", "python-httpx/0.28"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("connection", "keep-alive"),
        ("content-type", "application/json"),
        ("content-length", "250"),
    ]);
    let answer = fields(&[
        ("content-type", "application/json"),
        ("content-length", "250"),
        ("date", "Wed, 25 Nov 2026 00:00:00 GMT"),
        ("location", "/collections/papers"),
    ]);
    let upstream = HeaderValue::from_static("m1:6333");
    bench.bench_function("headers/of a request", |b| {
        let change = |mut fields| {
            bench::request_headers(&mut fields, Kind::Qdrant, "/collections/papers");
            fields
        };
        b.iter_batched(|| request.clone(), change, BatchSize::SmallInput);
    });
    bench.bench_function("headers/of an answer", |b| {
        let change = |mut fields| {
            bench::answer_headers(&mut fields, route, &upstream);
            fields
        };
        b.iter_batched(|| answer.clone(), change, BatchSize::SmallInput);
    });
}

fn judging(bench: &mut Criterion) {
    let before = Judgement::unknown();
    let around = Around {
        heard_ago: Some(Duration::from_secs(1)),
        examined: true,
        wall: Timestamp::now(),
        now: Instant::now(),
    };
    for (name, seen) in [("answered", Seen::Answered), ("silent", Seen::Silent)] {
        bench.bench_function(&format!("judge/{name}"), |b| {
            b.iter(|| judge(black_box(&before), seen, "silent for 2 s", around));
        });
    }
}

fn recording(bench: &mut Criterion) {
    let (metrics, clock) = (Arc::new(Metrics::new()), Clock::system());
    let snapshot = snapshot(2, 2);
    let tailnet = Arc::new(Tailnet::new(snapshot.tailnet.clone(), clock));
    let store = Arc::new(Store::new(snapshot, Arc::clone(&metrics), clock));
    let endpoint = Arc::clone(&store.live().endpoints[0][0]);
    let (log, lines) = AccessLog::channel(&metrics);
    let writer = std::thread::spawn(move || lines.iter().count());
    let active = {
        let (live, now) = (store.live(), Timestamp::now());
        let (meant, _) = meaning(
            match_route(&live.snapshot, "/ollama").unwrap(),
            Kind::Ollama,
            &Method::GET,
            "/api/tags",
        );
        let plan = plan(&live.snapshot, ServiceId(0), meant, &[] as &[Verdict], now);
        Reason::Active(plan.why().clone())
    };
    let proxy = Arc::new(Proxy::new(store, tailnet, metrics, log, clock));
    bench.bench_function("record/a request that was answered", |b| {
        b.iter(|| bench::record(&proxy, &endpoint, &active));
    });
    drop(proxy);
    writer.join().unwrap();
}

criterion_group!(
    paths, matching, effect, planning, rewriting, judging, recording
);
criterion_main!(paths);
