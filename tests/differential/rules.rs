//! The differences that are meant, each with its reason. A difference that no rule names is a
//! defect of one of the two, and fails the test.
//!
//! A rule looks at what was sent and what came of it, as little as it can at the class: a byte that
//! was changed at random makes what another class makes on purpose.

use crate::client::End;
use crate::compare::{Before, Difference, Fate, What, fields};
use crate::generate::Request;

/// Why two proxies may differ.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    meets: fn(&Sent<'_>, &Difference<'_>) -> bool,
}

impl Rule {
    /// The rule that explains a difference.
    pub(crate) fn of(difference: &Difference<'_>) -> Option<&'static Self> {
        let sent = Sent::of(difference);
        RULES.iter().find(|rule| (rule.meets)(&sent, difference))
    }
}

/// tailhop refuses before anything is done for the request, in this word.
macro_rules! refusal {
    ($name:literal, $word:literal, $reason:literal) => {
        refusal!($name, $word, $reason, |_| true)
    };
    ($name:literal, $word:literal, $reason:literal, $meets:expr) => {
        Rule {
            name: $name,
            reason: $reason,
            meets: |sent, it| {
                let meets: fn(&Sent<'_>) -> bool = $meets;
                refuses(it, $word) && meets(sent)
            },
        }
    };
}

/// The first that meets holds.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "both-refuse",
        reason: "the status of what is refused is each one's choice among 400, 404, 501, 505",
        meets: |_, it| {
            let (ours, theirs) = (it.tailhop.status, it.nginx.status);
            it.what == What::Status && ours.min(theirs) >= Some(400)
        },
    },
    refusal!(
        "fragment",
        "fragment",
        "RFC 9112 3.2: no form of a target has one; nginx passes the #"
    ),
    refusal!(
        "bad-path",
        "bad-path",
        "a `..`, NUL or backslash that an upstream may resolve; nginx passes it as it came"
    ),
    refusal!(
        "bad-host",
        "bad-host",
        "RFC 9110 7.2: a Host is a host and perhaps a port; nginx takes more"
    ),
    refusal!(
        "bad-target",
        "bad-target",
        "RFC 9112 3.2: not a form that the method takes; nginx drops scheme and host"
    ),
    refusal!(
        "other-host",
        "other-host",
        "RFC 9112 3.2.2: target and Host name two hosts; nginx lets the target win"
    ),
    refusal!(
        "expectation",
        "expectation",
        "RFC 9110 10.1.1: an unknown expectation is 417; nginx drops it"
    ),
    refusal!(
        "named-by-connection",
        "named-by-connection",
        "RFC 9110 7.6.1: Connection names what is for the recipient; nginx ignores it"
    ),
    refusal!(
        "encoding",
        "encoding",
        "RFC 9112 6.1: only chunked is understood"
    ),
    Rule {
        name: "large-head",
        reason: "a head beyond 64 KiB may be refused, by each where its buffers end",
        meets: |sent, it| {
            let refused = refuses(it, "large-head") || refused_by_nginx(it);
            refused && it.request.bytes.len() - sent.body.len() > 64 * 1024
        },
    },
    refusal!(
        "fields-dropped-by-nginx",
        "bad-head",
        "RFC 9112 5: a line that is no field, or a value with control bytes, is refused; nginx drops or passes it",
        |sent| sent.has_bad_field()
    ),
    refusal!(
        "first-line",
        "bad-head",
        "RFC 9112 3: one space, two times, HTTP/1.0 or 1.1; nginx is lenient, down to HTTP/0.9",
        |sent| sent.has_bad_first_line()
    ),
    refusal!(
        "target-bytes",
        "bad-head",
        "bytes that RFC 3986 has in no URI and hyper does not take; nginx passes them",
        |sent| sent.target.iter().any(|byte| !is_uri(*byte))
    ),
    Rule {
        name: "chunks",
        reason: "RFC 9112 7.1: chunks or trailers written wrongly end in 400 and reach nobody; nginx lets bare LF and any trailer pass",
        meets: |sent, it| {
            refuses(it, "client-body")
                && sent.is_chunked()
                && (sent.has_bad_chunks() || it.nginx.end == End::Waits)
        },
    },
    Rule {
        name: "behind-bad-chunks",
        reason: "where chunks were written wrongly nothing behind them is believed; nginx reads on behind a bare LF",
        meets: |_, it| {
            let bad = |(before, ..): Before<'_>| Sent::of_request(before).has_bad_chunks();
            refuses(it, "out-of-step") && it.before.is_some_and(bad)
        },
    },
    Rule {
        name: "methods-of-nginx",
        reason: "RFC 9110 9.1: a method is any token, as it is written; nginx takes A-Z, - and _",
        meets: |sent, it| {
            let plain = |byte: &u8| byte.is_ascii_uppercase() || b"-_".contains(byte);
            let method = it.tailhop.seen.map_or(sent.method, |seen| &seen.method);
            sent.is_in_step(it) && refused_by_nginx(it) && !method.iter().all(plain)
        },
    },
    Rule {
        name: "trace-of-nginx",
        reason: "TRACE is the upstream's to refuse; nginx answers 405",
        meets: |sent, it| sent.method == b"TRACE" && it.nginx.status == Some(405),
    },
    Rule {
        name: "lengths-of-nginx",
        reason: "RFC 9110 8.6: equal lengths may be taken as one, and one goes on; nginx refuses them",
        meets: |sent, it| {
            let lengths = sent.lengths();
            refused_by_nginx(it) && lengths.len() > 1 && lengths.iter().all(|it| *it == lengths[0])
        },
    },
    Rule {
        name: "escapes-of-nginx",
        reason: "tailhop decodes nothing that it passes on; nginx decodes to route and refuses what it cannot",
        meets: |sent, it| refused_by_nginx(it) && sent.has_odd_escape(),
    },
    Rule {
        name: "once-of-nginx",
        reason: "what is sent twice passes twice; nginx refuses a second line of the fields that it reads",
        meets: |sent, it| refused_by_nginx(it) && sent.repeats_a_field(),
    },
    Rule {
        name: "tabs-of-nginx",
        reason: "RFC 9110 5.6.3: the space around a value may be tabs; nginx takes spaces only in the fields that it reads",
        meets: |sent, it| {
            let tabbed = |line: &&[u8]| {
                let (_, value) = cut(line, b":");
                let edges = value.iter().find(|byte| **byte != b' ').into_iter();
                let edges = edges.chain(value.iter().rfind(|byte| **byte != b' '));
                edges.into_iter().any(|byte| *byte == b'\t')
            };
            refused_by_nginx(it) && sent.lines.iter().any(tabbed)
        },
    },
    Rule {
        name: "names-of-nginx",
        reason: "RFC 9110 5.1: a name is any token; nginx drops names with other bytes than letters, digits, - and _",
        meets: |_, it| {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
            it.what == What::Headers
                && extra(it.nginx, it.tailhop).is_empty()
                && (extra(it.tailhop, it.nginx).iter()).all(|name| !name.iter().all(plain))
        },
    },
    Rule {
        name: "named-fields",
        reason: "RFC 9110 7.6.1: what Connection names goes; nginx passes it on",
        meets: |sent, it| {
            it.what == What::Headers
                && extra(it.tailhop, it.nginx).is_empty()
                && (extra(it.nginx, it.tailhop).iter()).all(|name| sent.connection_names(name))
        },
    },
    Rule {
        name: "lengths-beyond-63-bits",
        reason: "a length up to 2^64-1 is one, so its body is waited for; nginx refuses from 2^63 on",
        meets: |sent, it| {
            let large = |it: &Option<u64>| it.is_some_and(|length| length > 1 << 60);
            it.tailhop.end == End::Waits && refused_by_nginx(it) && sent.lengths().iter().all(large)
        },
    },
    Rule {
        name: "http-2-preface",
        reason: "RFC 9113 3.4: whoever begins in HTTP/2 reads no HTTP/1 answer; hyper closes, nginx answers 400",
        meets: |_, it| {
            let preface = |bytes: &[u8]| bytes.starts_with(b"PRI * HTTP/2.0\r\n");
            let next = it.next.is_some_and(|next| preface(&next.bytes));
            let here = preface(&it.request.bytes) || (next && it.tailhop.seen.is_none());
            it.what == What::Status && here && it.tailhop.end == End::Closed
        },
    },
    Rule {
        name: "closed-behind-an-error",
        reason: "RFC 9112 9.6: whoever refused may close; only one of the two did",
        meets: |_, it| {
            it.before.is_some_and(|(_, ours, theirs)| {
                let closed = |now: Fate<'_>, before: Fate<'_>| {
                    now.status.is_none() && before.seen.is_none() && before.class() >= 4
                };
                closed(it.tailhop, ours) || closed(it.nginx, theirs)
            })
        },
    },
    Rule {
        name: "closed-behind-1.0",
        reason: "RFC 9112 9.3: what HTTP/1.0 cannot frame ends with the connection; which answers those are differs",
        meets: |_, it| {
            let none = it.tailhop.status.is_none() || it.nginx.status.is_none();
            none && it
                .before
                .is_some_and(|(request, ..)| request.class.name == "HTTP/1.0 kept alive")
        },
    },
];

/// Whether tailhop refused in this word what nginx passed, or waits for.
fn refuses(it: &Difference<'_>, word: &str) -> bool {
    let error = it.tailhop.class() == 4 || it.tailhop.class() == 5;
    it.tailhop.seen.is_none() && error && it.tailhop.reason.unwrap_or("bad-head") == word
}

/// Whether nginx refused what tailhop passed.
fn refused_by_nginx(it: &Difference<'_>) -> bool {
    it.nginx.seen.is_none() && (it.nginx.class() == 4 || it.nginx.class() == 5)
}

/// The names of the fields that `one` passed and the other did not.
fn extra<'a>(one: Fate<'a>, other: Fate<'a>) -> Vec<&'a [u8]> {
    let all = |fate: Fate<'a>| fate.seen.map(fields).unwrap_or_default();
    let (one, other) = (all(one), all(other));
    one.into_iter()
        .filter(|field| !other.contains(field))
        .map(|(name, _)| name)
        .collect()
}

fn is_uri(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}

/// What was sent, taken apart without judgement.
struct Sent<'a> {
    first: &'a [u8],
    method: &'a [u8],
    target: &'a [u8],
    /// The lines of the head behind the first.
    lines: Vec<&'a [u8]>,
    body: &'a [u8],
    /// Whether bytes of the request before it stand in front of it.
    pushed: bool,
}

impl<'a> Sent<'a> {
    fn of(difference: &Difference<'a>) -> Self {
        let leaves_bytes = |name| {
            matches!(
                name,
                "body longer than said" | "body without framing" | "one byte changed"
            )
        };
        Self {
            pushed: (difference.before).is_some_and(|(it, ..)| leaves_bytes(it.class.name)),
            ..Self::of_request(difference.request)
        }
    }

    fn of_request(request: &'a Request) -> Self {
        let bytes = request.bytes.trim_ascii_start();
        let (head, body) = cut(bytes, b"\r\n\r\n");
        // With the CR of its last line, which a value may end in.
        let head = &bytes[..bytes.len().min(head.len() + 1)];
        let mut lines = head.split(|byte| *byte == b'\n').map(without_cr);
        let first = lines.next().unwrap_or_default();
        let (method, rest) = cut(first, b" ");
        let (target, _) = cut(rest, b" ");
        Self {
            first,
            method,
            target,
            lines: lines.collect(),
            body,
            pushed: false,
        }
    }

    /// Whether what tailhop passed is this request, perhaps with bytes in front that the one before
    /// it left there.
    fn is_in_step(&self, it: &Difference<'_>) -> bool {
        it.tailhop.seen.is_none_or(|seen| {
            let same = seen.method == self.method;
            same || (self.pushed && seen.method.ends_with(self.method))
        })
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.lines.iter().map(|line| cut(line, b":"));
        let wanted = name.as_bytes().to_vec();
        lines
            .filter(move |(name, _)| name.eq_ignore_ascii_case(&wanted))
            .map(|(_, value)| value.trim_ascii())
    }

    fn is_chunked(&self) -> bool {
        self.values("transfer-encoding").next().is_some()
    }

    fn lengths(&self) -> Vec<Option<u64>> {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        self.values("content-length").map(number).collect()
    }

    fn has_bad_first_line(&self) -> bool {
        let words: Vec<_> = self.first.split(|byte| *byte == b' ').collect();
        let known = |version: &[u8]| matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
        let token = |method: &[u8]| !method.is_empty() && method.iter().all(|byte| is_token(*byte));
        !matches!(words[..], [method, target, version]
            if token(method) && !target.is_empty() && known(version))
    }

    fn has_bad_field(&self) -> bool {
        let bad = |line: &&[u8]| {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                return true;
            };
            let (name, value) = line.split_at(colon);
            let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            name.is_empty() || !name.iter().all(|byte| is_token(*byte)) || value.iter().any(control)
        };
        self.lines.iter().any(bad)
    }

    /// Whether the chunks are not exactly as RFC 9112 7.1 has them.
    fn has_bad_chunks(&self) -> bool {
        let mut rest = self.body;
        loop {
            let (line, behind) = cut(rest, b"\r\n");
            let (size, _) = cut(line, b";");
            let size = std::str::from_utf8(size)
                .ok()
                .and_then(|it| usize::from_str_radix(it, 16).ok());
            let bare = line.contains(&b'\n') || line.contains(&b'\r');
            match size {
                Some(0) if !bare => return has_bad_trailers(behind),
                Some(size) if !bare && behind.get(size..size + 2) == Some(b"\r\n") => {
                    rest = &behind[size + 2..];
                }
                _ => return true,
            }
        }
    }

    fn has_odd_escape(&self) -> bool {
        let mut parts = self.target.split(|byte| *byte == b'%').skip(1);
        parts.any(|part| {
            let hex = |byte: &u8| byte.is_ascii_hexdigit();
            !part.get(..2).is_some_and(|two| two.iter().all(hex)) || part.starts_with(b"00")
        })
    }

    fn repeats_a_field(&self) -> bool {
        let name = |line: &&'a [u8]| cut(line, b":").0.to_ascii_lowercase();
        let mut names: Vec<_> = self.lines.iter().map(name).collect();
        names.retain(|name| !name.starts_with(b"x-") && name != b"cookie" && name != b"host");
        names.sort();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }

    fn connection_names(&self, name: &[u8]) -> bool {
        self.values("connection")
            .flat_map(|line| line.split(|byte| *byte == b','))
            .any(|word| word.trim_ascii().eq_ignore_ascii_case(name))
    }
}

fn has_bad_trailers(section: &[u8]) -> bool {
    let (lines, _) = match section.strip_prefix(b"\r\n") {
        Some(_) => return false,
        None => cut(section, b"\r\n\r\n"),
    };
    lines
        .split(|byte| *byte == b'\n')
        .map(without_cr)
        .any(|line| {
            let (name, value) = cut(line, b":");
            let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            name.len() == line.len()
                || name.is_empty()
                || !name.iter().all(|byte| is_token(*byte))
                || value.iter().any(control)
        })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What stands before and behind the first `mark`; all of it and nothing where there is none.
fn cut<'b>(bytes: &'b [u8], mark: &[u8]) -> (&'b [u8], &'b [u8]) {
    let at = bytes.windows(mark.len()).position(|window| window == mark);
    at.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + mark.len()..]))
}
