//! `/`: the status page, one document without anything from elsewhere.
//!
//! Owns the document and the policy that a browser holds it to: nothing runs, styles or is asked
//! but what stands in it. Everything that it shows it reads from `/status`. Invariant: the policy
//! names the hashes of exactly the style and the script that are sent.

use std::fmt::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName};
use http::{HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use super::{Answer, reply};

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// Words of both languages, by the same keys.
const WORDS: &str = include_str!("words.json");
const SCRIPT: &str = include_str!("page.js");

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    document: Bytes,
    policy: HeaderValue,
}

/// The page, with its policy.
pub(super) fn answer() -> Answer {
    let kind = "text/html; charset=utf-8";
    let mut answer = reply(StatusCode::OK, kind, PAGE.document.clone());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    answer
}

impl Page {
    fn new() -> Self {
        let script = format!("const WORDS = {WORDS};\n{SCRIPT}");
        let policy = policy(STYLE, &script);
        Self {
            document: SHELL
                .replace("{{style}}", STYLE)
                .replace("{{script}}", &script)
                .into(),
            // Without a policy that can be sent nothing of the page may run.
            policy: HeaderValue::from_str(&policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'")),
        }
    }
}

fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        source(script),
        source(style)
    )
}

/// The source expression that lets exactly this text in.
fn source(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0, |all, byte| all << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            let digit = if place <= three.len() { digit } else { '=' };
            // Writing into a String cannot fail.
            let _ = write!(text, "{digit}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::words::verdict::{Evidence, Tunnel, Verdict};

    type Words = BTreeMap<String, String>;

    fn words() -> BTreeMap<String, Words> {
        serde_json::from_str(WORDS).unwrap()
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn the_policy_lets_in_what_stands_in_the_document_and_nothing_else() {
        let document = std::str::from_utf8(&PAGE.document).unwrap();
        let policy = PAGE.policy.to_str().unwrap();
        for (begin, end) in [
            ("<style>", "</style>"),
            ("<script type=\"module\">", "</script>"),
        ] {
            let inline: Vec<_> = document.split(begin).skip(1).collect();
            assert_eq!(inline.len(), 1, "{begin}");
            let text = inline[0].split(end).next().unwrap();
            assert!(policy.contains(&source(text)), "{begin}");
        }
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{policy}"
        );
        for outside in ["http:", "https:", " src=", "style=", "@import", "url("] {
            assert!(!document.contains(outside), "{outside}");
        }
    }

    #[test]
    fn the_document_has_at_most_60_kib() {
        assert!(PAGE.document.len() <= 60 * 1024, "{}", PAGE.document.len());
    }

    #[test]
    fn both_languages_have_the_same_words_with_the_same_places() {
        let words = words();
        let places = |text: &str| {
            let places = (0..9).filter(|place| text.contains(&format!("{{{place}}}")));
            places.collect::<Vec<_>>()
        };
        let shape = |language: &str| -> Vec<_> {
            let all = words[language].iter();
            all.map(|(key, text)| (key.clone(), places(text))).collect()
        };
        assert_eq!(shape("en"), shape("ja"));
    }

    /// What else is a cause.
    const CAUSES: [&str; 6] = [
        "active",
        "state",
        "order",
        "ended",
        "taken-back",
        "released",
    ];

    /// `Why::as_str`, and what `changes` makes causes of.
    const WHYS: [&str; 7] = [
        "active-backend",
        "pin",
        "schedule",
        "held",
        "writes-stay",
        "default",
        "only-offer",
    ];

    #[test]
    fn there_is_a_word_for_everything_that_a_status_says_and_none_for_nothing() {
        let words = words();
        let known: BTreeSet<_> = words["en"].keys().cloned().collect();
        let states = |prefix: &str, all: &[&str]| -> Vec<String> {
            all.iter().map(|word| format!("{prefix}.{word}")).collect()
        };
        let verdicts: Vec<_> = Verdict::ALL.iter().map(|one| one.as_str()).collect();
        let evidence: Vec<_> = Evidence::ALL.iter().map(|one| one.as_str()).collect();
        let tunnel: Vec<_> = Tunnel::ALL.iter().map(|one| one.as_str()).collect();
        let made = [
            states("v", &verdicts),
            states("is", &verdicts),
            states("e", &evidence),
            states("u", &tunnel),
            states("why", &WHYS),
            states("cause", &WHYS),
            states("cause", &CAUSES),
            states("is", &["drained"]),
            states(
                "change",
                &["active", "writes", "serving", "drained", "undrained"],
            ),
            states("coming", &["active", "reads", "pin-ends", "drain-ends"]),
            states("order", &["pin", "drain", "active-backend"]),
            states("ask", &["pin", "drain", "unpin", "undrain"]),
            states("head", &["backend", "verdict", "evidence", "work"]),
        ]
        .concat();
        let quoted = |text: &str| -> Vec<String> {
            text.split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let written: BTreeSet<_> = SCRIPT
            .lines()
            .chain(SHELL.lines())
            .flat_map(quoted)
            .collect();
        let mut missing: Vec<_> = made.iter().filter(|key| !known.contains(*key)).collect();
        let attributes = SHELL.split("data-word=\"").skip(1);
        let in_shell: Vec<_> = attributes
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        missing.extend(in_shell.iter().filter(|key| !known.contains(*key)));
        assert_eq!(missing, Vec::<&String>::new());
        let unused: Vec<_> = known
            .iter()
            .filter(|key| !made.contains(key) && !written.contains(*key))
            .collect();
        assert_eq!(unused, Vec::<&String>::new());
    }

    #[test]
    fn every_word_that_the_script_asks_for_is_there() {
        let known = words();
        for call in [
            "word(\"",
            "say(\"",
            "filled(\"",
            "row(\"",
            "items(\"",
            "ticking(\"",
        ] {
            for rest in SCRIPT.split(call).skip(1) {
                let key = rest.split('"').next().unwrap();
                assert!(known["en"].contains_key(key), "{key}");
            }
        }
    }
}
