//! The variables that overlay the file, and those inside its strings.

use super::*;

#[test]
fn the_emergency_order_alone_is_environment_enough() {
    let snapshot = good(MAIN, &[("ACTIVE_BACKEND", "macbook-m1")]);
    assert_eq!(snapshot.active_backend, Some(BackendId(0)));
    assert_eq!(warnings(&snapshot), []);
}

#[test]
fn switch_date_moves_the_one_switch_and_says_which_value_it_replaced() {
    let env = [("SWITCH_DATE", "2025-03-01")];
    let snapshot = good(MAIN, &env);
    assert_eq!(snapshot.schedule.switches[0].at, at("2025-02-28T15:00:00Z"));
    let found = warnings(&snapshot);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "W004");
    assert!(
        found[0]
            .1
            .contains("replaces the switch at 2025-02-17T00:00:00+09:00"),
        "{found:?}"
    );
    assert_eq!(warnings(&good(MAIN, &[("SWITCH_DATE", "2025-02-17")])), []);
}

#[test]
fn switch_date_makes_the_one_switch_there_can_be() {
    let env = [("SWITCH_DATE", "2025-02-17")];
    let zone = "timezone = \"Asia/Tokyo\"\n";
    let made = good(&file(zone), &env).schedule.switches;
    assert_eq!(
        (made[0].at, made[0].to),
        (at("2025-02-16T15:00:00Z"), BackendId(1))
    );
    assert_eq!(
        good(&file("switch = []\n"), &env).schedule.switches.len(),
        1
    );
    for (text, words) in [
        (
            defaults::SMALLEST.to_owned(),
            "does not say to which of 1 backends",
        ),
        (
            file("[backends.third]\n"),
            "does not say to which of 3 backends",
        ),
        (
            file(
                "switch = [{ at = 2025-02-17, to = \"mac-dev1\" }, \
                 { at = 2025-02-18, to = \"macbook-m1\" }]\n",
            ),
            "cannot say which of 2 switches",
        ),
    ] {
        let (code, place, text) = one(&text, &env);
        assert_eq!((code, place), ("E023", None), "{text}");
        assert!(
            text.contains("SWITCH_DATE=\"2025-02-17\"") && text.contains(words),
            "{text}"
        );
    }
}

#[test]
fn a_variable_that_is_wrong_names_itself_its_value_and_the_remedy() {
    for (name, value, words) in [
        (
            "SWITCH_DATE",
            "tomorrow",
            "SWITCH_DATE=\"tomorrow\" is no date; write a date",
        ),
        (
            "ACTIVE_BACKEND",
            "typo",
            "ACTIVE_BACKEND=\"typo\" is no backend of the file; one of",
        ),
        (
            "ACTIVE_BACKEND",
            "macbook-m",
            "did you mean \"macbook-m1\"?; or unset it",
        ),
        (
            "TAILNET_NAME",
            "a b",
            "TAILNET_NAME=\"a b\" is no tailnet name",
        ),
    ] {
        let report = bad(MAIN, &[(name, value)]);
        assert_eq!(report.reason(), "environment");
        let (_, place, text) = one(MAIN, &[(name, value)]);
        assert_eq!(place, None);
        assert!(text.contains(words), "{text}");
    }
    let both = bad(
        MAIN,
        &[("SWITCH_DATE", "tomorrow"), ("ACTIVE_BACKEND", "typo")],
    );
    assert_eq!(both.errors(), 2);
}

#[test]
fn an_empty_variable_is_unset() {
    let env = [
        ("ACTIVE_BACKEND", ""),
        ("SWITCH_DATE", ""),
        ("TAILNET_NAME", ""),
    ];
    let snapshot = good(MAIN, &env);
    assert_eq!(snapshot.active_backend, None);
    assert_eq!(snapshot.tailnet.suffix, None);
}

#[test]
fn tailnet_name_is_taken_with_and_without_its_ending() {
    for name in ["tail1234", "tail1234.ts.net", "TAIL1234.ts.net."] {
        let snapshot = good(MAIN, &[("TAILNET_NAME", name)]);
        assert_eq!(snapshot.tailnet.suffix.as_deref(), Some("tail1234.ts.net"));
    }
    let beside = good(
        &file("[tailnet]\nname = \"other\"\n"),
        &[("TAILNET_NAME", "tail1234")],
    );
    assert_eq!(beside.tailnet.suffix.as_deref(), Some("tail1234.ts.net"));
    assert_eq!(
        warnings(&beside),
        [(
            "W004",
            "TAILNET_NAME=tail1234 replaces the tailnet other.ts.net of the file"
        )]
    );
}

#[test]
fn variables_expand_inside_values_only() {
    let text = file("[tailnet]\nname = \"${NET:-tail1}\"\ndial = \"${WAY}\"\n");
    let snapshot = good(&text, &[("WAY", "direct")]);
    assert_eq!(snapshot.tailnet.suffix.as_deref(), Some("tail1.ts.net"));
    assert_eq!(snapshot.tailnet.dial, DialWay::Direct);
    // What a variable holds is data: it never becomes a key.
    let (code, place, _) = one(
        &text,
        &[("WAY", "direct"), ("NET", "x\"\nproxy = \"1.2.3.4:5")],
    );
    assert_eq!((code, place), ("E014", Some((11, 8))));
    let (code, place, words) = one(&text, &[]);
    assert_eq!((code, place), ("E020", Some((12, 8))));
    assert!(
        words.contains("WAY is not set; set it, or write ${WAY:-default}"),
        "{words}"
    );
    assert_eq!(one(&text, &[("WAY", "auto$")]).0, "E014");
    assert_eq!(one(&file("[\"${X}\"]\n"), &[("X", "tailnet")]).0, "E011");
}
