//! What a right file means.

use std::time::Duration;

use super::*;

#[test]
fn the_main_systems_file_is_valid_without_a_warning() {
    let snapshot = good(MAIN, &[]);
    assert_eq!(warnings(&snapshot), []);
    let names: Vec<_> = snapshot
        .backends
        .iter()
        .map(|backend| backend.name.as_str())
        .collect();
    assert_eq!(names, ["macbook-m1", "mac-dev1"]);
    assert_eq!(snapshot.schedule.default, BackendId(0));
    assert_eq!(snapshot.schedule.switches[0].at, at("2025-02-16T15:00:00Z"));
    assert_eq!(snapshot.schedule.switches[0].to, BackendId(1));
    assert_eq!((snapshot.generation, snapshot.origin.stand_in), (0, false));
}

#[test]
fn the_smallest_file_in_the_help_texts_is_valid() {
    assert_eq!(warnings(&good(defaults::SMALLEST, &[])), []);
}

#[test]
fn what_is_not_written_has_its_default() {
    let snapshot = good(&file("[services.web]\nport = 80\n"), &[]);
    assert_eq!(snapshot.listen.data.to_string(), "127.0.0.1:8484");
    assert_eq!(snapshot.listen.admin.to_string(), "127.0.0.1:9484");
    assert_eq!(snapshot.tailnet.suffix, None);
    assert_eq!(snapshot.tailnet.dial, DialWay::Auto);
    assert_eq!(
        snapshot.tailnet.socket.to_str(),
        Some("/run/tailscale/tailscaled.sock")
    );
    assert_eq!(snapshot.tailnet.proxy.to_string(), "127.0.0.1:1055");
    assert_eq!(&*snapshot.backends[0].host, "macbook-m1");
    let kinds: Vec<_> = snapshot
        .services
        .iter()
        .map(|service| {
            (
                service.kind,
                service.port,
                service.fallback,
                service.backends.len(),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            (Kind::Ollama, 11434, Fallback::All, 2),
            (Kind::Qdrant, 6333, Fallback::Reads, 2),
            (Kind::Http, 80, Fallback::Reads, 2),
        ]
    );
    let paths: Vec<_> = snapshot
        .routes
        .iter()
        .map(|route| route.path.as_str())
        .collect();
    assert_eq!(paths, ["/ollama", "/qdrant", "/web"]);
    assert!(snapshot.routes.iter().all(|route| route.strip));
    assert!(
        snapshot
            .routes
            .iter()
            .all(|route| route.host == HostHeader::Upstream)
    );
}

#[test]
fn timeouts_default_by_kind_and_end_before_cloud_run_does() {
    let secs = Duration::from_secs;
    let snapshot = good(&file("[services.web]\nport = 80\n"), &[]);
    let by = |pick: fn(&snapshot::Timeouts) -> Duration| -> Vec<u64> {
        snapshot
            .services
            .iter()
            .map(|service| pick(&service.timeouts).as_secs())
            .collect()
    };
    assert_eq!(by(|it| it.wait), [15, 4, 4]);
    assert_eq!(by(|it| it.start), [15, 4, 15]);
    assert_eq!(by(|it| it.head_read), [30, 65, 30]);
    assert_eq!(by(|it| it.head_inference), [600, 600, 600]);
    assert_eq!(by(|it| it.idle_inference), [300, 300, 300]);
    assert_eq!(by(|it| it.idle), [60, 60, 60]);
    assert_eq!(by(|it| it.connect), [10, 10, 10]);
    assert_eq!(by(|it| it.probe), [2, 2, 2]);
    let first = snapshot.services[0].timeouts;
    assert_eq!((first.head_change, first.total), (None, None));
    let total = |text: &str| {
        good(text, &[("K_SERVICE", "app")]).services[0]
            .timeouts
            .total
    };
    assert_eq!(total(&file("")), Some(secs(290)));
    assert_eq!(total(&file("[timeouts]\ntotal = \"none\"\n")), None);
    assert_eq!(
        total(&file("[timeouts]\ntotal = \"1h\"\n")),
        Some(secs(3600))
    );
}

#[test]
fn a_route_overrides_its_service_and_a_service_the_file() {
    let text = "\
routes = [
  { path = \"/ollama\", service = \"ollama\" },
  { path = \"/slow\", service = \"ollama\", timeouts = { head = \"3m\", idle = \"4m\" } },
  { path = \"/qdrant\", service = \"qdrant\" },
]
[timeouts]
connect = \"1s\"
head = \"1m\"
[backends]
a = {}
[services]
ollama = { timeouts = { head = \"2m\" } }
qdrant = {}
";
    let snapshot = good(text, &[]);
    let heads: Vec<_> = snapshot
        .routes
        .iter()
        .map(|route| {
            let it = route.timeouts;
            assert_eq!(it.head_inference, it.head_read);
            assert_eq!(it.head_change, Some(it.head_read));
            (
                route.path.as_str(),
                it.head_read.as_secs(),
                it.connect.as_secs(),
                it.idle.as_secs(),
            )
        })
        .collect();
    assert_eq!(
        heads,
        [
            ("/ollama", 120, 1, 60),
            ("/qdrant", 60, 1, 60),
            ("/slow", 180, 1, 240)
        ]
    );
}

#[test]
fn routes_are_sorted_longest_first_and_keep_what_they_say() {
    let text = file(
        "[[routes]]\npath = \"/\"\nservice = \"ollama\"\nstrip = false\nhost = \"preserve\"\n\
         [[routes]]\npath = \"/a/b\"\nservice = \"qdrant\"\nhost = \"example.com:80\"\n\
         [[routes]]\npath = \"/a\"\nservice = \"qdrant\"\n",
    );
    let snapshot = good(&text, &[]);
    let routes: Vec<_> = snapshot
        .routes
        .iter()
        .map(|route| {
            (
                route.path.as_str(),
                route.service,
                route.strip,
                route.host.clone(),
            )
        })
        .collect();
    assert_eq!(
        routes,
        [
            (
                "/a/b",
                ServiceId(1),
                true,
                HostHeader::Fixed("example.com:80".into())
            ),
            ("/a", ServiceId(1), true, HostHeader::Upstream),
            ("/", ServiceId(0), false, HostHeader::Preserve),
        ]
    );
}

#[test]
fn switches_are_read_in_every_form_of_a_date_and_sorted() {
    let switch = |at: &str| format!("{{ at = {at}, to = \"mac-dev1\" }}");
    let forms = [
        "2025-02-19",
        "2025-02-18T09:00:00",
        "2025-02-17T00:00:00+09:00",
        "\"2025-02-20\"",
    ];
    let list = forms.map(switch).join(", ");
    let text = file(&format!("timezone = \"Asia/Tokyo\"\nswitch = [{list}]\n"));
    let found: Vec<_> = good(&text, &[])
        .schedule
        .switches
        .iter()
        .map(|switch| switch.at.to_string())
        .collect();
    assert_eq!(
        found,
        [
            "2025-02-16T15:00:00Z",
            "2025-02-18T00:00:00Z",
            "2025-02-18T15:00:00Z",
            "2025-02-19T15:00:00Z",
        ]
    );
}

#[test]
fn pins_and_drains_are_read_and_their_contradictions_refused() {
    let text = file(
        "[backends.old]\nhost = \"100.64.0.9\"\n\
         drain = { until = 2025-03-01, reason = \"disk\", by = \"ops\" }\n\
         [[pin]]\nto = \"mac-dev1\"\nuntil = \"2025-02-20T09:00:00+09:00\"\nreason = \"test\"\n\
         by = \"ops\"\nservices = [\"ollama\"]\n\
         [[pin]]\nto = \"macbook-m1\"\nwrites = true\nservices = [\"qdrant\"]\n",
    );
    let snapshot = good(&text, &[]);
    assert_eq!(warnings(&snapshot), []);
    let drain = snapshot.backends[2].drain.as_ref().unwrap();
    assert_eq!(drain.until, Some(at("2025-03-01T00:00:00Z")));
    assert_eq!(
        (drain.reason.as_deref(), drain.by.as_deref()),
        (Some("disk"), Some("ops"))
    );
    let [first, second] = snapshot.pins.as_slice() else {
        panic!("{:?}", snapshot.pins)
    };
    assert_eq!(first.until, Some(at("2025-02-20T00:00:00Z")));
    assert_eq!(
        (first.writes, &first.services),
        (false, &Some(vec![ServiceId(0)]))
    );
    assert_eq!((second.writes, second.until), (true, None));

    let pin = "[[pin]]\nto = \"mac-dev1\"\n";
    let expires = one(
        &file(&format!("{pin}writes = true\nuntil = 2030-01-01\n")),
        &[],
    );
    assert_eq!((expires.0, expires.1), ("E025", Some((13, 9))));
    assert_eq!(
        warnings(&good(&file(pin), &[])),
        [("W003", "this pin has no end")]
    );
    let twice = format!("{pin}until = 2020-01-01\n{pin}until = 2030-01-01\n");
    assert_eq!(one(&file(&twice), &[]).0, "E017");
    let drained = "[backends]\na = { drain = {} }\n[services]\nollama = {}\n";
    assert_eq!(
        warnings(&good(drained, &[])),
        [("W008", "every backend is drained")]
    );
}
