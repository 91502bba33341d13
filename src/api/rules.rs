//! Rules by which a file names the effects of an API that tailhop does not know.
//!
//! Owns the matching. Pure. The first rule that matches holds; where none does, the method says.
//! Invariant: a path that a server may read as another one (`..`, `//`, an encoded slash or dot)
//! matches no rule with paths, so that no rule makes a write look like a read.

use std::fmt;

use http::Method;

use super::{admin, read, write};
use crate::words::effect::{Effect, Meaning, Reach};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// These methods; none listed: every method.
    pub methods: Vec<Method>,
    /// These paths; none listed: every path.
    pub paths: Vec<Pattern>,
    /// What such a request may do.
    pub effect: Effect,
}

/// A path in whole segments, of which `*` stands for one and `**`, at the end, for all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// What the first rule that matches says, and which one it is, from 0.
pub fn by_rules(rules: &[Rule], method: &Method, path: &str) -> Option<(usize, Meaning)> {
    let place = rules.iter().position(|rule| rule.matches(method, path))?;
    Some((place, meaning(rules[place].effect)))
}

fn meaning(effect: Effect) -> Meaning {
    match effect {
        Effect::Read => read("read"),
        Effect::Write => write("write"),
        Effect::Admin => admin("admin"),
        Effect::Inference => Meaning {
            effect,
            reach: Reach::Any,
            op: "inference",
        },
    }
}

impl Rule {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let method = self.methods.is_empty() || self.methods.contains(method);
        method && (self.paths.is_empty() || self.covers(path))
    }

    fn covers(&self, path: &str) -> bool {
        plain(path) && self.paths.iter().any(|pattern| pattern.matches(path))
    }
}

impl Pattern {
    /// The pattern that `text` is.
    ///
    /// # Errors
    /// What to write instead, for people.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let segments: Vec<_> = text.split('/').skip(1).collect();
        let (_, inner) = segments.split_last().unwrap_or((&"", &[]));
        let starred = |segment: &&str| segment.contains('*') && !matches!(*segment, "*" | "**");
        if !text.starts_with('/') {
            Err("begin it with /")
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['?', '#']) {
            Err("write the path alone, in ASCII without blanks, ? and #")
        } else if !plain(text) {
            Err("write the path that it leads to, without //, . and .., and without %")
        } else if segments.iter().any(starred) {
            Err("* stands for one whole segment, ** for all the rest")
        } else if inner.contains(&"**") {
            Err("** can only be the last segment")
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    fn matches(&self, path: &str) -> bool {
        let mut wanted = segments(&self.0);
        let mut found = segments(path);
        loop {
            match (wanted.next(), found.next()) {
                (Some("**"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
    }
}

/// The segments of a path; a slash at its end makes no further one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    (!path.is_empty())
        .then(|| path.split('/'))
        .into_iter()
        .flatten()
}

/// Whether every server reads a path as it is written.
fn plain(path: &str) -> bool {
    let encoded = |word: &str| path.to_ascii_lowercase().contains(word);
    let dots = path
        .split('/')
        .any(|segment| matches!(segment, "." | "..") || segment.contains(';'));
    let hidden = || path.contains('%') && ["%2e", "%2f", "%5c", "%25"].into_iter().any(encoded);
    !dots && !path.contains("//") && !path.contains('\\') && !hidden()
}

impl fmt::Display for Rule {
    /// `POST /search, /v1/*: read`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        let paths: Vec<_> = self.paths.iter().map(|path| path.0.as_str()).collect();
        let or = |words: Vec<&str>, all: &str| {
            if words.is_empty() {
                all.to_owned()
            } else {
                words.join(", ")
            }
        };
        let (methods, paths) = (or(methods, "any method"), or(paths, "any path"));
        write!(f, "{methods} {paths}: {}", self.effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(methods: &[&str], paths: &[&str], effect: Effect) -> Rule {
        Rule {
            methods: (methods.iter().map(|method| method.parse().unwrap())).collect(),
            paths: (paths.iter().map(|path| Pattern::new(path).unwrap())).collect(),
            effect,
        }
    }

    #[test]
    fn each_rule_matches_whole_segments_and_the_first_one_holds() {
        let rules = [
            rule(&["POST"], &["/search", "/v1/*/query"], Effect::Read),
            rule(&[], &["/v1/chat/**"], Effect::Inference),
            rule(&["GET", "HEAD"], &["/reset"], Effect::Write),
            rule(&["DELETE"], &[], Effect::Admin),
            rule(&["POST"], &["/files/**"], Effect::Read),
            rule(&[], &["/"], Effect::Admin),
        ];
        for (method, path, matched) in [
            ("POST", "/search", Some(0)),
            ("POST", "/search/", Some(0)),
            ("PUT", "/search", None),
            ("post", "/search", None),
            ("POST", "/Search", None),
            ("POST", "/searches", None),
            ("POST", "/search/more", None),
            ("POST", "/v1/docs/query", Some(0)),
            ("POST", "/v1/d%C3%A4/query", Some(0)),
            ("POST", "/v1/query", None),
            ("POST", "/v1/a/b/query", None),
            ("POST", "/v1/docs/query/x", None),
            ("POST", "/v1/chat/completions", Some(1)),
            ("GET", "/v1/chat/a/b/c", Some(1)),
            // `**` is the rest, and there has to be one.
            ("POST", "/v1/chat", None),
            ("HEAD", "/reset", Some(2)),
            ("DELETE", "/search", Some(3)),
            ("DELETE", "/anything/../else", Some(3)),
            ("POST", "/files/a/b", Some(4)),
            ("GET", "/", Some(5)),
            ("GET", "/x", None),
            // What a server may read as another path matches no rule with paths.
            ("POST", "/files/../admin", None),
            ("POST", "/files/./a", None),
            ("POST", "/files//a", None),
            ("POST", "/files/%2e%2e/admin", None),
            ("POST", "/files/..%2Fadmin", None),
            ("POST", "/files/%252e%252e/admin", None),
            ("POST", "/files/..;/admin", None),
            ("POST", "/files/..\\admin", None),
        ] {
            let got = by_rules(&rules, &method.parse().unwrap(), path);
            assert_eq!(got.map(|(place, _)| place), matched, "{method} {path}");
            if let Some((place, meaning)) = got {
                assert_eq!(meaning.effect, rules[place].effect, "{method} {path}");
                assert!(super::super::http::OPS.contains(&meaning.op));
            }
        }
    }

    #[test]
    fn a_pattern_that_can_match_nothing_is_told_why() {
        for (text, words) in [
            ("search", "begin it with /"),
            ("", "begin it with /"),
            ("/a b", "without blanks"),
            ("/a?b=c", "without blanks"),
            ("/a//b", "without //"),
            ("/a/../b", "without //"),
            ("/a/%2e%2e", "without //"),
            ("/a*", "one whole segment"),
            ("/***", "one whole segment"),
            ("/**/a", "last segment"),
        ] {
            assert!(Pattern::new(text).unwrap_err().contains(words), "{text}");
        }
        for good in ["/", "/a", "/a/", "/*", "/**", "/a/*/b/**", "/d%C3%A4"] {
            assert!(Pattern::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_rule_reads_as_it_is_written() {
        let shown = rule(&["POST", "PUT"], &["/a", "/b/*"], Effect::Read).to_string();
        assert_eq!(shown, "POST, PUT /a, /b/*: read");
        let all = rule(&[], &[], Effect::Admin).to_string();
        assert_eq!(all, "any method any path: admin");
    }
}
