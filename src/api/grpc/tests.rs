//! Every row of the fact table is a case, and what the specification of gRPC says.

use super::*;
use crate::api::ops;
use crate::words::effect::{Effect, Reach};
use crate::words::names::Kind;

const METHODS: &str = include_str!("../../../tests/facts/qdrant_grpc.tsv");

#[test]
fn every_method_has_the_effect_of_the_fact_table() {
    let mut seen = 0;
    for line in METHODS.lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        let path = format!("/{}/{}", columns[0], columns[1]);
        let got = meaning(&path);
        let (effect, reach) = match columns[2] {
            "read" if columns[3].starts_with("any") => (Effect::Read, Reach::Any),
            "read" => (Effect::Read, Reach::OneBackend),
            "write" => (Effect::Write, Reach::OneBackend),
            "admin" => (Effect::Admin, Reach::OneBackend),
            other => panic!("class {other}"),
        };
        assert_eq!((got.effect, got.reach), (effect, reach), "{path}");
        assert!(ops(Kind::Qdrant).contains(&got.op), "{path}: {}", got.op);
        seen += 1;
    }
    assert_eq!(seen, 62);
}

#[test]
fn a_method_that_no_table_knows_is_admin() {
    for path in [
        "/qdrant.Points/Unheard",
        "/qdrant.Points/get",
        "/qdrant.Points/Get/",
        "//qdrant.Points/Get",
        "qdrant.Points/Get",
        "/qdrant.Points",
        "/qdrant.PointsInternal/Upsert",
        "/qdrant.Collections/Unheard",
        "/qdrant.Snapshots/Unheard",
        "/qdrant.StorageRead/Unheard",
        "/grpc.health.v1.Health/Unheard",
        "/collections/c/points/query",
        "/",
        "*",
        "",
    ] {
        assert_eq!(meaning(path).effect, Effect::Admin, "{path}");
        assert_eq!(meaning(path).reach, Reach::OneBackend, "{path}");
    }
}

#[test]
fn grpc_is_told_by_its_media_type() {
    let rows = [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc; charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/grpcx", false),
        ("application/json", false),
        ("", false),
    ];
    for (value, want) in rows {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
        assert_eq!(is_call(&headers), want, "{value}");
    }
    assert!(!is_call(&HeaderMap::new()));
}

#[test]
fn not_there_is_read_from_the_head_of_what_may_move() {
    let rows = [
        ("/qdrant.Points/Query", Some("5"), Answer::NotThere),
        ("/qdrant.Points/Query", Some("14"), Answer::Final),
        ("/qdrant.Points/Query", Some("0"), Answer::Final),
        ("/qdrant.Points/Query", None, Answer::Final),
        ("/qdrant.Points/Upsert", Some("5"), Answer::Final),
        ("/qdrant.Collections/Delete", Some("5"), Answer::Final),
        (EXISTS, None, Answer::MaybeNotThere),
        (EXISTS, Some("16"), Answer::Final),
    ];
    for (path, code, want) in rows {
        let head = HeaderMap::from_iter(code.map(|code| (STATUS, HeaderValue::from_static(code))));
        assert_eq!(answer(meaning(path), path, &head), want, "{path} {code:?}");
    }
}

#[test]
fn an_absence_is_read_from_the_message() {
    let time = [0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f];
    let message = |compressed: u8, message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[compressed][..], &length, message].concat()
    };
    let rows: [(Vec<u8>, bool); 9] = [
        (message(0, &[&[0x0a, 0][..], &time].concat()), true),
        (message(0, &[0x0a, 0]), true),
        (message(0, &[0x0a, 2, 0x08, 0]), true),
        (
            message(0, &[&[0x0a, 2, 0x08, 1][..], &time].concat()),
            false,
        ),
        // Without `result` it says nothing.
        (message(0, &time), false),
        (message(0, &[]), false),
        (message(1, &[0x0a, 0]), false),
        // Cut off, and with bytes behind it.
        (
            message(0, &[&[0x0a, 0][..], &time].concat())[..9].to_vec(),
            false,
        ),
        ([&message(0, &[0x0a, 0])[..], &[0]].concat(), false),
    ];
    for (body, want) in rows {
        assert_eq!(says_not_there(&body), want, "{body:?}");
    }
    assert!(!says_not_there(&[0, 0, 0]));
}

#[test]
fn only_what_sent_nothing_has_a_code_that_clients_repeat() {
    let rows = [
        (400, false, Code::InvalidArgument),
        (401, false, Code::Unauthenticated),
        (404, false, Code::Unimplemented),
        (405, false, Code::InvalidArgument),
        (408, false, Code::DeadlineExceeded),
        (413, false, Code::ResourceExhausted),
        (431, false, Code::InvalidArgument),
        (502, false, Code::Internal),
        (503, false, Code::Unavailable),
        (503, true, Code::ResourceExhausted),
        (504, false, Code::DeadlineExceeded),
        (508, false, Code::FailedPrecondition),
    ];
    for (status, full, want) in rows {
        let got = Code::of(StatusCode::from_u16(status).unwrap(), full);
        assert_eq!(got, want, "{status} {full}");
    }
}

#[test]
fn a_refusal_is_a_head_that_any_client_reads() {
    let text = |head: &HeaderMap, name: &str| {
        head.get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let after = Duration::from_millis(1200);
    let head = refusal(Code::Unavailable, "tailhop: no", Some(after));
    assert!(is_call(&head));
    assert_eq!(text(&head, "grpc-status").as_deref(), Some("14"));
    assert_eq!(text(&head, "grpc-message").as_deref(), Some("tailhop: no"));
    assert_eq!(text(&head, "retry-after").as_deref(), Some("2"));
    assert_eq!(
        text(&head, "grpc-retry-pushback-ms").as_deref(),
        Some("2000")
    );

    let unknown = refusal(Code::DeadlineExceeded, "lost", None);
    assert_eq!(text(&unknown, "grpc-status").as_deref(), Some("4"));
    assert_eq!(
        text(&unknown, "grpc-retry-pushback-ms").as_deref(),
        Some("-1")
    );
    assert_eq!(text(&unknown, "retry-after"), None);
}

#[test]
fn a_message_is_percent_encoded_byte_by_byte() {
    let rows = [
        ("plain text, ~!\"", "plain text, ~!\""),
        ("100 %", "100 %25"),
        ("a\r\nb\tc\u{7f}", "a%0D%0Ab%09c%7F"),
        ("日", "%E6%97%A5"),
        ("", ""),
    ];
    for (message, want) in rows {
        assert_eq!(encode(message), want, "{message}");
    }
    // Cut before it is encoded, never within a character.
    assert_eq!(encode(&"日".repeat(1000)).len(), 600 * 3);
}

#[test]
fn a_timeout_is_at_most_eight_digits_and_a_unit() {
    let rows = [
        ("1H", Some(Duration::from_hours(1))),
        ("2M", Some(Duration::from_mins(2))),
        ("5S", Some(Duration::from_secs(5))),
        ("4999m", Some(Duration::from_millis(4999))),
        ("7u", Some(Duration::from_micros(7))),
        ("1n", Some(Duration::from_nanos(1))),
        ("0S", Some(Duration::ZERO)),
        ("00000001S", Some(Duration::from_secs(1))),
        ("99999999H", Some(Duration::from_hours(99_999_999))),
        ("99999999n", Some(Duration::from_nanos(99_999_999))),
        ("100000000S", None),
        ("18446744073709551616S", None),
        ("S", None),
        ("", None),
        ("5", None),
        ("5s", None),
        ("5 S", None),
        (" 5S", None),
        ("-5S", None),
        ("+5S", None),
        ("1.5S", None),
        ("0x5S", None),
        ("5SS", None),
    ];
    for (value, want) in rows {
        let headers = HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(value))]);
        assert_eq!(timeout(&headers), want, "{value:?}");
    }
    let bytes = HeaderValue::from_bytes(b"\xff\xfeS").unwrap();
    assert_eq!(timeout(&HeaderMap::from_iter([(TIMEOUT, bytes)])), None);
    assert_eq!(timeout(&HeaderMap::new()), None);
}
