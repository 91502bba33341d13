//! What a wrong file is told.

use super::*;

#[test]
fn six_mistakes_are_six_problems_each_with_its_place() {
    let text = "\
[backends]
macbook-m1 = {}
mac-dev1 = { hots = \"100.64.0.2\" }

[services]
ollama = { port = \"11434\" }
qdrant = { port = 70000 }

[schedule]
timezone = \"Asia/Tokio\"
default = \"macbok-m1\"
switch = [{ at = \"tomorrow\", to = \"mac-dev1\" }]
";
    let report = bad(text, &[]);
    let places: Vec<_> = report
        .problems
        .iter()
        .map(|problem| {
            let place = problem.place.as_ref().unwrap();
            (problem.code, place.line, place.column)
        })
        .collect();
    assert_eq!(
        places,
        [
            ("E011", 3, 14),
            ("E012", 6, 19),
            ("E014", 7, 19),
            ("E014", 10, 12),
            ("E016", 11, 11),
            ("E014", 12, 18),
        ]
    );
    assert_eq!(
        (report.errors(), report.warnings(), report.reason()),
        (6, 0, "unknown_key")
    );
}

#[test]
fn a_report_reads_as_rustc_writes() {
    let report = bad(&file("[services.web]\nport = 80\nprot = 81\n"), &[]);
    assert_eq!(
        report.render(false),
        "\
error[E011]: unknown key \"prot\" in services.web
  --> routing.toml:12:1
   |
12 | prot = 81
   | ^^^^
   |
   = why: a key that is not known would do nothing, and nobody would notice
help: did you mean \"port\"?
   |
12 - prot = 81
12 + port = 81
   |
"
    );
    assert!(report.render(true).contains("\u{1b}["));
    assert_eq!(
        report.to_string(),
        "routing.toml:12:1: unknown key \"prot\" in services.web; did you mean \"port\"?"
    );
}

#[test]
fn an_unknown_key_names_the_key_that_was_meant() {
    for (more, words) in [
        ("[service.web]\n", "did you mean \"services\"?"),
        (
            "[listen]\ndat = \"127.0.0.1:1\"\n",
            "did you mean \"data\"?",
        ),
        (
            "[tailnet]\ntimezone = \"UTC\"\n",
            "\"timezone\" belongs in [schedule]",
        ),
        ("port = 1\n", "\"port\" belongs in [services.NAME]"),
        (
            "[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nstrip = true\n",
            "in [[routes]]",
        ),
        (
            "[tailnet]\nkeepalive = true\n",
            "known here: \"name\", \"dial\", \"socket\", \"proxy\", \"repair\", \"tailscaled\", \"auth_key\", \"client_id\", \"audience\", \"hostname\", \"tags\", \"login_server\"; this is tailhop",
        ),
    ] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!(code, "E011", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
}

#[test]
fn a_misspelt_key_is_one_problem_and_not_a_missing_one_too() {
    let text = file("[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\n");
    for (right, wrong) in [
        ("[backends]", "[backend]"),
        ("[services]", "[service]"),
        ("default", "defalt"),
        ("to =", "tp ="),
    ] {
        let report = bad(
            &text.replace(right, wrong),
            &[("ACTIVE_BACKEND", "mac-dev1")],
        );
        let codes: Vec<_> = report.problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["E011"], "{wrong}\n{report}");
    }
}

#[test]
fn a_key_that_does_nothing_yet_is_unknown() {
    for more in [
        "include = [\"x\"]\n",
        "[services.web]\nport = 1\nrequire.points = 7\n",
        "[services.web]\nport = 1\nif_not_ready = \"hold\"\n",
    ] {
        assert_eq!(one(&file(more), &[]).0, "E011", "{more}");
    }
}

#[test]
fn a_value_of_the_wrong_type_says_what_it_must_be() {
    for (more, words) in [
        (
            "[listen]\ndata = 8484\n",
            "must be an address in quotes, and is a number",
        ),
        (
            "[tailnet]\ndial = true\n",
            "must be a word in quotes, and is true or false",
        ),
        (
            "[services.web]\nport = \"80\"\n",
            "must be a number, and is a string",
        ),
        (
            "[services.web]\nport = 8.5\n",
            "must be a number, and is a number",
        ),
        (
            "[timeouts]\nhead = 10\n",
            "must be a duration in quotes, and is a number",
        ),
        ("[backends.x]\ndrain = true\n", "drain = { .. }"),
        (
            "[pin]\nto = \"mac-dev1\"\n",
            "must be a list of tables, and is a table",
        ),
        (
            "[[pin]]\nto = 1\nuntil = 2030-01-01\n",
            "pin[0].to must be a string",
        ),
    ] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!(code, "E012", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
    let text = "[backends]\na = \"100.64.0.1\"\n[services]\nollama = {}\n";
    assert!(
        one(text, &[])
            .2
            .contains("backends.a must be a table, and is a string")
    );
}

#[test]
fn a_value_that_its_key_cannot_take_says_what_it_takes() {
    for (more, words) in [
        (
            "[listen]\ndata = \"localhost:8484\"\n",
            "an IP address and a port",
        ),
        ("[tailnet]\nname = \"a b\"\n", "MagicDNS name"),
        ("[tailnet]\ndial = \"sock5\"\n", "did you mean \"socks5\"?"),
        ("[tailnet]\nsocket = \"run/x\"\n", "the whole path"),
        ("[tailnet]\nproxy = \"127.0.0.1:0\"\n", "port 0"),
        ("[backends.x]\nhost = \"http://mac\"\n", "no scheme"),
        ("[backends.x]\nhost = \"mac:11434\"\n", "no port"),
        ("[backends.x]\nhost = \"\"\n", "IP address alone"),
        (
            "[backends.x]\nhost = \"100.64.0.256\"\n",
            "IP address alone",
        ),
        (
            "[services.web]\nport = 0\n",
            "cannot be 0; write a port between 1 and 65535",
        ),
        ("[services.web]\nport = 65536\n", "between 1 and 65535"),
        ("[services.web]\nport = -1\n", "cannot be -1"),
        (
            "[services.web]\nport = 1\nkind = \"qdrnt\"\n",
            "did you mean \"qdrant\"?",
        ),
        (
            "[services.web]\nport = 1\nfallback = \"x\"\n",
            "one of \"all\", \"reads\", \"none\"",
        ),
        (
            "[services.web]\nport = 1\nbackends = []\n",
            "at least one backend",
        ),
        ("[timeouts]\nhead = \"10\"\n", "with its unit"),
        ("[timeouts]\nhead = \"none\"\n", "with its unit"),
        ("[timeouts]\nhead = \"0s\"\n", "between 1ms and 24h"),
        ("[timeouts]\nhead = \"1us\"\n", "between 1ms and 24h"),
        ("[timeouts]\nidle = \"25h\"\n", "between 1ms and 24h"),
        ("[timeouts]\ntotal = \"-3s\"\n", "negative"),
        (
            "[[pin]]\nto = \"mac-dev1\"\nuntil = 07:32:00\n",
            "write a date",
        ),
        (
            "[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nservices = []\n",
            "names none",
        ),
    ] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!(code, "E014", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
}

#[test]
fn what_is_required_has_a_name_and_is_of_one_kind_alone() {
    for (more, words) in [
        (
            "[services.web]\nport = 1\nrequire.models = [\"tiny\"]\n",
            "this is http",
        ),
        (
            "[services.o]\nkind = \"ollama\"\nport = 1\nrequire.models = []\n",
            "names none",
        ),
        (
            "[services.o]\nkind = \"ollama\"\nport = 1\nrequire.models = [\"a:\"]\n",
            "no name of a model",
        ),
        ("[services.web]\nport = 1\ncache = {}\n", "this is http"),
        (
            "[services.o]\nkind = \"ollama\"\nport = 1\nrequire.if_not_ready = \"hold\"\n",
            "without models or collections",
        ),
        (
            "[services.o]\nkind = \"ollama\"\nport = 1\nrequire.collections = [\"papers\"]\n",
            "collections is of kind qdrant, and this is ollama",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\nrequire.models = [\"tiny\"]\n",
            "models is of kind ollama, and this is qdrant",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\nrequire.collections = []\n",
            "collections names none",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\nrequire.collections = [\"\"]\n",
            "a collection has a name",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\nrequire.min_points = 1000\n",
            "min_points without collections",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\n\
             require = { collections = [\"a\"], min_points = 0 }\n",
            "cannot be 0; write a number from 1 on",
        ),
        (
            "[services.q]\nkind = \"qdrant\"\nport = 1\n\
             require = { collections = [\"a\"], min_points = -5 }\n",
            "cannot be -5",
        ),
    ] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!(code, "E014", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
}

#[test]
fn only_an_ollama_has_a_policy_and_a_limit() {
    for (more, words) in [
        ("policy = \"least-loaded\"\n", "policy is of kind ollama"),
        ("limit.in_flight = 2\n", "limit is of kind ollama"),
    ] {
        let more = format!("[services.web]\nport = 1\n{more}");
        let (code, place, text) = one(&file(&more), &[]);
        assert_eq!(code, "E014", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
    }
    for (more, want) in [
        ("limit.queue = 2\n", "E013"),
        ("limit.in_flight = 0\n", "E014"),
        ("limit = { in_flight = 2, queue = 0 }\n", "E014"),
    ] {
        let more = format!("[services.o]\nkind = \"ollama\"\nport = 1\n{more}");
        assert_eq!(one(&file(&more), &[]).0, want, "{more}");
    }
}

#[test]
fn a_name_that_needs_quoting_is_no_name() {
    for more in ["[backends.\"mac 1\"]\n", "[services.\"a/b\"]\nport = 1\n"] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!((code, place.is_some()), ("E015", true), "{text}");
    }
}

#[test]
fn a_file_without_machines_or_services_names_the_smallest_valid_file() {
    for text in ["", "# nothing\n", "[backends]\n[services]\n", "[listen]\n"] {
        let report = bad(text, &[]);
        let codes: Vec<_> = report.problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["E013", "E013"], "{text}");
        let help = report.problems[0].help.as_ref().unwrap();
        assert!(help.contains(defaults::SMALLEST), "{help}");
    }
    assert_eq!(one("[services]\nollama = {}\n", &[]).0, "E013");
    assert_eq!(one("[backends]\na = {}\n", &[]).0, "E013");
}

#[test]
fn what_is_required_and_missing_is_named() {
    for (more, words) in [
        ("[services.web]\n", "service web has no port"),
        ("[[pin]]\nuntil = 2030-01-01\n", "pin[0] has no \"to\""),
        (
            "[[schedule.switch]]\nto = \"mac-dev1\"\n",
            "schedule.switch[0] has no \"at\"",
        ),
        (
            "[[schedule.switch]]\nat = 2030-01-01\n",
            "schedule.switch[0] has no \"to\"",
        ),
        ("[[routes]]\npath = \"/\"\n", "routes[0] has no \"service\""),
        (
            "[[routes]]\nservice = \"ollama\"\n",
            "routes[0] has no \"path\"",
        ),
    ] {
        let report = bad(&file(more), &[]);
        let errors: Vec<_> = report
            .problems
            .iter()
            .filter(|problem| problem.is_error())
            .collect();
        assert_eq!(errors.len(), 1, "{}", report.render(false));
        assert_eq!(errors[0].code, "E013");
        assert!(errors[0].message.contains(words), "{report}");
        assert!(
            errors[0].help.is_some() && errors[0].place.is_some(),
            "{report}"
        );
    }
}

#[test]
fn a_reference_to_what_is_not_defined_names_what_was_meant() {
    let routes = "[[routes]]\npath = \"/q\"\nservice = \"qdrnt\"\n\
                  [[routes]]\npath = \"/o\"\nservice = \"ollama\"\n\
                  [[routes]]\npath = \"/r\"\nservice = \"qdrant\"\n";
    for (more, words) in [
        (
            "[[pin]]\nto = \"mac-dev\"\nuntil = 2030-01-01\n",
            "did you mean \"mac-dev1\"?",
        ),
        (
            "[[schedule.switch]]\nat = 2030-01-01\nto = \"x\"\n",
            "one of \"macbook-m1\"",
        ),
        (
            "[services.web]\nport = 1\nbackends = [\"macbook\"]\n",
            "did you mean \"macbook-m1\"?",
        ),
        (
            "[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nservices = [\"olama\"]\n",
            "did you mean \"ollama\"?",
        ),
        (routes, "did you mean \"qdrant\"?"),
    ] {
        let (code, place, text) = one(&file(more), &[]);
        assert_eq!(code, "E016", "{text}");
        assert!(place.is_some() && text.contains(words), "{text}");
        assert_eq!(bad(&file(more), &[]).reason(), "reference");
    }
}

#[test]
fn an_order_to_a_backend_without_the_service_is_an_error_when_it_names_it_else_a_warning() {
    let only = "[services.web]\nport = 1\nbackends = [\"macbook-m1\"]\n";
    let named =
        format!("{only}[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\nservices = [\"web\"]\n");
    let (code, _, text) = one(&file(&named), &[]);
    assert_eq!(code, "E016");
    assert!(
        text.contains("backend mac-dev1 does not offer service web"),
        "{text}"
    );
    let all = format!("{only}[[pin]]\nto = \"mac-dev1\"\nuntil = 2030-01-01\n");
    assert_eq!(warnings(&good(&file(&all), &[]))[0].0, "W007");
    let ordered = good(&file(only), &[("ACTIVE_BACKEND", "mac-dev1")]);
    assert_eq!(warnings(&ordered)[0].0, "W007");
}

#[test]
fn a_path_that_no_request_can_have_is_refused() {
    for (path, words) in [
        ("", "begin it with /"),
        ("x", "begin it with /"),
        ("/x/", "at its end"),
        ("//", "at its end"),
        ("/a//b", "one / at a time"),
        ("/a/../b", "without . and .."),
        ("/a/.", "without . and .."),
        ("/a?b", "? and #"),
        ("/a#b", "? and #"),
        ("/a%20b", "% out"),
        ("/a b", "ASCII"),
        ("/日本", "ASCII"),
    ] {
        let route = format!("[[routes]]\npath = \"{path}\"\nservice = \"ollama\"\n");
        let text = file(&format!(
            "{route}[[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n"
        ));
        let (code, place, text) = one(&text, &[]);
        assert_eq!((code, place), ("E014", Some((11, 8))), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_typo_of_a_host_word_does_not_become_a_host() {
    let rest = "[[routes]]\npath = \"/q\"\nservice = \"qdrant\"\n";
    let route = |host: &str| {
        let first = "[[routes]]\npath = \"/o\"\nservice = \"ollama\"\n";
        file(&format!("{first}host = \"{host}\"\n{rest}"))
    };
    assert!(
        one(&route("presrve"), &[])
            .2
            .contains("did you mean \"preserve\"?")
    );
    assert!(one(&route("a b"), &[]).2.contains("or a host such as"));
}

#[test]
fn no_path_has_two_routes_and_no_service_is_without_one_unnoticed() {
    let route = |service: &str| format!("[[routes]]\npath = \"/x\"\nservice = \"{service}\"\n");
    let text = file(&format!("{}{}", route("ollama"), route("qdrant")));
    let report = bad(&text, &[]);
    let problem = &report.problems[0];
    assert_eq!(
        (problem.code, problem.place.as_ref().unwrap().line),
        ("E017", 14)
    );
    assert_eq!(problem.label.as_deref(), Some("the first is in line 11"));
    let alone = good(&file(&route("ollama")), &[]);
    assert_eq!(
        warnings(&alone),
        [("W006", "no route leads to service \"qdrant\"")]
    );
    assert!(
        one(&format!("routes = []\n{}", file("")), &[])
            .2
            .contains("routes has none")
    );
}

#[test]
fn two_things_cannot_have_one_address() {
    for more in [
        "[listen]\ndata = \"127.0.0.1:9484\"\n",
        "[listen]\ndata = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:1\"\n",
        "[listen]\ndata = \"127.0.0.1:1055\"\n",
        "[services.web]\nport = 11434\n",
        "[backends.x]\nhost = \"MAC-dev1\"\n",
        "[backends.x]\nhost = \"127.0.0.1\"\n[tailnet]\ndial = \"direct\"\n\
         [services.web]\nport = 8484\n",
    ] {
        let report = bad(&file(more), &[]);
        assert_eq!(report.problems[0].code, "E018", "{report}");
    }
    let free = "[listen]\ndata = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";
    assert_eq!(warnings(&good(&file(free), &[])), []);
}

#[test]
fn an_open_data_address_is_a_warning_and_an_open_admin_address_an_error() {
    let open = good(&file("[listen]\ndata = \"0.0.0.0:8484\"\n"), &[]);
    assert_eq!(
        warnings(&open),
        [(
            "W001",
            "listen.data: 0.0.0.0:8484 is open to other machines"
        )]
    );
    let (code, place, text) = one(&file("[listen]\nadmin = \"0.0.0.0:9484\"\n"), &[]);
    assert_eq!((code, place), ("E026", Some((11, 9))));
    assert!(text.contains("token"), "{text}");
    let key = [("ADMIN_API_KEY", "0123456789abcdef")];
    assert_eq!(
        warnings(&good(&file("[listen]\nadmin = \"0.0.0.0:9484\"\n"), &key)),
        []
    );
}

#[test]
fn who_lets_the_tailnet_in_does_not_leave_a_data_address_open_to_it() {
    let admin = "[admin]\ntailnet = [\"u@example.com\", \"tag:ops\"]\n";
    for (more, errors) in [
        ("", 1),
        ("[listen]\ndata = \"127.0.0.1:1\"\n", 1),
        ("[listen]\ndata = \"0.0.0.0:1\"\n", 1),
        ("[listen]\ndata = \"127.0.0.2:1\"\n", 0),
        ("[listen]\ntoken = { env = \"T\" }\n", 0),
        (
            "[listen]\ndata = \"127.0.0.2:1\"\n[services.web]\nport = 1\nlisten = \"127.0.0.1:2\"\n",
            1,
        ),
    ] {
        let text = file(&format!("{admin}{more}"));
        let found = match load_with(&text, &[("T", "0123456789abcdef")]) {
            Ok(_) => vec![],
            Err(report) => (report.problems.iter().filter(|one| one.is_error()))
                .map(|problem| problem.code)
                .collect(),
        };
        assert_eq!(found, vec!["E040"; errors], "{more}");
    }
}

#[test]
fn each_mistake_in_admin_is_told() {
    for (more, code) in [
        ("tailnet = [\"tag:\"]", "E014"),
        ("tailnet = [\"*\"]", "E014"),
        ("tailnet = [\"tagged-devices\"]", "E014"),
        ("token = \"plain\"", "E027"),
        ("tokens.a = { scope = \"read\" }", "E013"),
        (
            "tokens.a = { secret = { env = \"T\" }, scope = \"all\" }",
            "E014",
        ),
        ("tokens.a = { secret = { env = \"UNSET\" } }", "E020"),
        ("hosts = [\"http://a\"]", "E014"),
    ] {
        let report = bad(
            &file(&format!("[admin]\n{more}\n")),
            &[("T", "0123456789abcdef")],
        );
        assert_eq!(report.problems[0].code, code, "{more}: {report}");
    }
    let report = bad(&file(""), &[("ADMIN_FUNCTIONS_ENABLED", "maybe")]);
    assert_eq!(report.problems[0].code, "E041");
    let short = good(&file(""), &[("ADMIN_API_KEY", "guess")]);
    assert_eq!(
        warnings(&short),
        [("W020", "ADMIN_API_KEY is shorter than 16 characters")]
    );
}

#[test]
fn a_bound_that_total_ends_before_is_a_warning_once() {
    let set = good(
        &file("[timeouts]\nhead = \"10m\"\n"),
        &[("K_SERVICE", "app")],
    );
    let found = warnings(&set);
    assert_eq!(
        found,
        [(
            "W002",
            "head = 10m never fires: total = 4m50s ends it before"
        )]
    );
    assert_eq!(warnings(&good(&file(""), &[("K_SERVICE", "app")])), []);
}

#[test]
fn which_backend_is_active_must_be_said_when_there_are_several() {
    let (code, place, text) = one(TWO, &[]);
    assert_eq!((code, place), ("E013", None));
    assert!(text.contains("default = \"macbook-m1\""), "{text}");
    let ordered = good(TWO, &[("ACTIVE_BACKEND", "mac-dev1")]);
    assert_eq!(ordered.schedule.default, BackendId(0));
    assert_eq!(warnings(&ordered)[0].0, "W005");
    let alone = good(defaults::SMALLEST, &[]);
    assert_eq!(alone.schedule.default, BackendId(0));
}

#[test]
fn a_switch_at_an_hour_that_is_skipped_or_repeated_names_both_instants() {
    let text = |at: &str| {
        file(&format!(
            "timezone = \"America/New_York\"\nswitch = [{{ at = {at}, to = \"mac-dev1\" }}]\n"
        ))
    };
    let (code, place, words) = one(&text("2025-11-02T01:30:00"), &[]);
    assert_eq!((code, place), ("E019", Some((11, 18))));
    assert!(
        words.contains("2025-11-02T01:30:00-04:00 or 2025-11-02T01:30:00-05:00"),
        "{words}"
    );
    assert!(
        one(&text("2025-03-09T02:30:00"), &[])
            .2
            .contains("the clock skips it")
    );
}

#[test]
fn two_switches_of_one_service_at_one_instant_are_an_error() {
    let two = |first: &str, second: &str| {
        file(&format!(
            "switch = [\n{{ at = 2025-02-17, to = \"mac-dev1\"{first} }},\n\
             {{ at = 2025-02-17T09:00:00+09:00, to = \"macbook-m1\"{second} }},\n]\n"
        ))
    };
    let [ollama, qdrant] = [", services = [\"ollama\"]", ", services = [\"qdrant\"]"];
    for (first, second) in [("", ""), (ollama, ""), ("", qdrant), (qdrant, qdrant)] {
        let (code, place, _) = one(&two(first, second), &[]);
        assert_eq!((code, place), ("E017", Some((12, 8))), "{first} {second}");
    }
    assert_eq!(good(&two(ollama, qdrant), &[]).schedule.switches.len(), 2);
}

#[test]
fn grpc_is_for_kind_qdrant_and_its_addresses_are_checked_as_all_others() {
    let [http, qdrant] = ["http", "qdrant"].map(|kind| {
        move |more: &str| {
            file(&format!(
                "[services.q]\nkind = \"{kind}\"\nport = 7\n{more}"
            ))
        }
    });
    for (text, code, words) in [
        (http("grpc_port = 6334\n"), "E014", "kind qdrant"),
        (
            http("listen_grpc = \"127.0.0.1:6334\"\n"),
            "E014",
            "kind qdrant",
        ),
        (
            qdrant("listen_grpc = \"127.0.0.1:8484\"\n"),
            "E018",
            "cannot share it",
        ),
        (
            qdrant("listen_grpc = \"127.0.0.1:1\"\ngrpc_port = 7\n"),
            "E018",
            "are both",
        ),
    ] {
        let (found, place, told) = one(&text, &[]);
        assert_eq!(found, code, "{told}");
        assert!(place.is_some() && told.contains(words), "{told}");
    }
}
