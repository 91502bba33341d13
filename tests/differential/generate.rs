//! The seeded generator: connections of one to five requests, each valid, odd or broken, as bytes.
//!
//! A request is built valid and then, by its class, changed in one place. The same seed and number
//! give the same bytes for ever. Every connection ends with a plain request that asks to close it:
//! a proxy that lost its place in the stream swallows it or chokes on it.

use crate::changes::{BROKEN, Change, ODD};

/// One generated request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What was done to it.
    pub(crate) class: Class,
    pub(crate) bytes: Vec<u8>,
    /// Whether it asks for a head only.
    pub(crate) head: bool,
}

/// What is sent on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) requests: Vec<Request>,
    pub(crate) bytes: Vec<u8>,
    /// The lengths of the pieces that are written one by one; the last may be shorter.
    pub(crate) pieces: Vec<usize>,
    /// Whether the pieces are kept apart in time.
    pub(crate) slow: bool,
}

/// What was done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) sort: Sort,
    pub(crate) name: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Valid,
    Odd,
    Broken,
}

/// splitmix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    pub(crate) fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Whether something of this percentage happens.
    pub(crate) fn happens(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A request in parts, before it is bytes.
pub(crate) struct Draft {
    pub(crate) method: &'static [u8],
    pub(crate) target: Vec<u8>,
    pub(crate) version: &'static [u8],
    pub(crate) fields: Vec<Vec<u8>>,
    /// As it is written: framed already.
    pub(crate) body: Vec<u8>,
}

const METHODS: [&[u8]; 9] = [
    b"GET", b"GET", b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"HEAD", b"PATCH",
];
const SEGMENTS: [&str; 22] = [
    "a",
    "api",
    "v1",
    "collections",
    "a%2Fb",
    "a%2fb",
    "%41",
    "a+b",
    "a%20b",
    "%E3%81%82",
    "~u",
    "a;p=1",
    "a,b",
    "a=b",
    "a&b",
    "a:b",
    "a@b",
    "a!b",
    "*",
    "(x)",
    "'q'",
    "x.json",
];
const QUERIES: [&str; 9] = [
    "",
    "",
    "",
    "?",
    "?a=1",
    "?a=1&b=%2F%20+",
    "?x=/y/..//z",
    "?a?b",
    "?%C3%A4=[1]",
];
const FIELDS: [&[u8]; 22] = [
    b"Accept: */*",
    b"Accept: text/plain, */*;q=0.1",
    b"Accept-Encoding: gzip, deflate",
    b"User-Agent: python-requests/2.34.2",
    b"Content-Type: application/json",
    b"Authorization: Bearer abc",
    b"api-key: secret",
    b"Cookie: a=1; b=2",
    b"Cookie: c=3",
    b"X-Empty:",
    b"X-Spaces:   a  b   ",
    b"X-Tab:\ta\tb\t",
    b"X-Quoted: \"a, b\"",
    b"X-Twice: 1",
    b"X-Twice: 2",
    b"X-Text: \xc3\xa4\xff",
    b"X_Under: 1",
    b"X-Forwarded-For: 203.0.113.7",
    b"Via: 1.1 google",
    b"Traceparent: 00-0af7-b7ad-01",
    b"If-None-Match: \"x\"",
    b"Range: bytes=0-1",
];

impl Draft {
    fn valid(origin: usize, mark: &str, random: &mut Random) -> Self {
        let mut target = format!("/o{origin}");
        for _ in 0..=random.below(3) {
            target.push('/');
            target += random.of(&SEGMENTS);
        }
        target += if random.happens(10) { "/" } else { "" };
        target += random.of(&QUERIES);
        let mut draft = Self {
            method: random.of(&METHODS),
            target: target.into(),
            version: b"HTTP/1.1",
            fields: vec![b"Host: app.example".to_vec()],
            body: Vec::new(),
        };
        draft.fields.push(format!("X-Case: {mark}").into());
        for _ in 0..random.below(5) {
            let line = random.of(&FIELDS);
            if !draft.fields.iter().any(|field| field == line) {
                draft.field(line);
            }
        }
        match (draft.method, random.below(3)) {
            (b"POST" | b"PUT" | b"PATCH", 0) => draft.chunks(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"),
            (b"POST" | b"PUT" | b"PATCH", _) => {
                let body = vec![b'b'; random.below(300)];
                draft.body(&body);
            }
            _ => {}
        }
        draft
    }

    /// Bytes that are no request.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        Self {
            method: b"",
            target: Vec::new(),
            version: b"",
            fields: Vec::new(),
            body: bytes.to_vec(),
        }
    }

    pub(crate) fn field(&mut self, line: &[u8]) {
        self.fields.push(line.to_vec());
    }

    pub(crate) fn unframe(&mut self) {
        let framing = |line: &Vec<u8>| {
            line.starts_with(b"Content-Length:") || line.starts_with(b"Transfer-Encoding:")
        };
        self.fields.retain(|line| !framing(line));
        self.body.clear();
    }

    /// Frames the body by its length, if it is in chunks.
    pub(crate) fn length_only(&mut self) {
        if self
            .fields
            .iter()
            .any(|line| line.starts_with(b"Transfer-Encoding:"))
        {
            self.body(b"abcdefg");
        }
    }

    pub(crate) fn body(&mut self, bytes: &[u8]) {
        self.unframe();
        self.fields
            .push(format!("Content-Length: {}", bytes.len()).into());
        self.body = bytes.to_vec();
    }

    pub(crate) fn chunks(&mut self, written: &[u8]) {
        self.unframe();
        self.field(b"Transfer-Encoding: chunked");
        self.body = written.to_vec();
        if matches!(self.method, b"GET" | b"HEAD" | b"DELETE") {
            self.method = b"POST";
        }
    }

    fn prefix(&self) -> Vec<u8> {
        self.target[..3].to_vec()
    }

    /// Another path behind the prefix.
    pub(crate) fn path(&mut self, path: &str) {
        self.target = [&self.prefix(), path.as_bytes()].concat();
    }

    pub(crate) fn bare(&mut self, random: &mut Random) {
        self.target = [
            &self.prefix()[..],
            random.of(&[&b""[..], b"/", b"?a=1", b"x", b"/?"]),
        ]
        .concat();
    }

    fn bytes(&self) -> Vec<u8> {
        if self.method.is_empty() {
            return self.body.clone();
        }
        let mut bytes = [self.method, b" ", &self.target, b" ", self.version, b"\r\n"].concat();
        for field in &self.fields {
            bytes.extend(field);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }
}

impl Script {
    /// The connection with this number, to origin `origin`.
    pub(crate) fn generate(seed: u64, number: usize, origin: usize) -> Self {
        let mut random = Random::new(seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        random.next();
        let mut requests = Vec::new();
        for place in 0..=random.below(5) {
            requests.push(request(origin, &format!("{number}-{place}"), &mut random));
        }
        let last = format!(
            "GET /o{origin}/last HTTP/1.1\r\nHost: app.example\r\nX-Case: {number}-last\r\nConnection: close\r\n\r\n"
        );
        requests.push(Request {
            class: VALID,
            bytes: last.into(),
            head: false,
        });
        let bytes: Vec<u8> = requests.iter().flat_map(|it| it.bytes.clone()).collect();
        Self {
            pieces: pieces(bytes.len(), &mut random),
            slow: random.happens(4),
            requests,
            bytes,
        }
    }
}

const VALID: Class = Class {
    sort: Sort::Valid,
    name: "valid",
};

fn request(origin: usize, mark: &str, random: &mut Random) -> Request {
    let mut draft = Draft::valid(origin, mark, random);
    let class = match random.below(100) {
        0..52 => VALID,
        52..82 => changed(&mut draft, Sort::Odd, ODD, random),
        82..96 => changed(&mut draft, Sort::Broken, BROKEN, random),
        _ => Class {
            sort: Sort::Broken,
            name: "one byte changed",
        },
    };
    let mut bytes = draft.bytes();
    if class.name == "one byte changed" {
        change_a_byte(&mut bytes, random);
    }
    Request {
        class,
        head: bytes.trim_ascii_start().starts_with(b"HEAD "),
        bytes,
    }
}

fn changed(
    draft: &mut Draft,
    sort: Sort,
    changes: &[(&'static str, Change)],
    random: &mut Random,
) -> Class {
    let (name, change) = changes[random.below(changes.len())];
    change(draft, random);
    Class { sort, name }
}

/// Anything may come of it.
fn change_a_byte(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    let odd = [
        b' ', b'\t', b'\r', b'\n', 0, b':', b',', b';', 0x7f, 0xff, b'0', b'A', b'/', b'%',
    ];
    match random.below(3) {
        0 => bytes[at] = odd[random.below(odd.len())],
        1 => bytes.insert(at, odd[random.below(odd.len())]),
        _ => drop(bytes.remove(at)),
    }
}

/// Where the bytes are split: nowhere, or at up to six places.
fn pieces(length: usize, random: &mut Random) -> Vec<usize> {
    let count = if random.happens(50) {
        0
    } else {
        1 + random.below(6)
    };
    let mut places: Vec<_> = (0..count).map(|_| random.below(length)).collect();
    places.extend([0, length]);
    places.sort_unstable();
    places.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
