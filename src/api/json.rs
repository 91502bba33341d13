//! JSON objects read as they pass: the values of a few keys, nothing else.
//!
//! Bytes come in pieces of any size, and none is kept but the key and the wanted value at hand, each
//! bounded: a line of megabytes costs no memory. Only objects within objects are followed, to
//! [`LEVELS`]; lists and what is deeper are passed over. It does not validate: of what is no JSON it
//! reports nothing more until the next line.

use memchr::{memchr, memchr3};

/// Objects within objects that are followed.
pub(super) const LEVELS: usize = 3;
/// Longest key that can be asked for, in bytes.
const KEY: usize = 24;
/// Longest value that is reported, in bytes: a model's name with its host may have 600.
const VALUE: usize = 640;

/// What reads along.
pub(super) trait Sink {
    /// Whether the value at the end of these keys, outermost first, is wanted.
    fn wants(&self, keys: &[&[u8]]) -> bool;
    /// A wanted value. Of a key that is there twice both come, as many as there are.
    fn value(&mut self, keys: &[&[u8]], value: Value<'_>);
    /// A whole object passed.
    fn end(&mut self);
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// What is between the quotes of a string, escapes and all.
    Text(&'a [u8]),
    /// A number, `true`, `false` or `null`.
    Plain(&'a [u8]),
    /// A list, an object, or something too long.
    Other,
}

/// Reads along.
pub(super) struct Scanner {
    state: State,
    /// Objects that are open and followed.
    depth: usize,
    /// Lists and objects that are open and passed over.
    skipped: usize,
    escaped: bool,
    wanted: bool,
    keys: [Token<KEY>; LEVELS],
    value: Token<VALUE>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a value.
    Value,
    /// Before a key or the end of an object.
    Key,
    InKey,
    Colon,
    InText,
    InPlain,
    /// Behind a value.
    After,
    /// In a list, or in an object that is not followed.
    Skip,
    SkipText,
    /// In what is no JSON.
    Broken,
}

/// Bytes up to a bound; whether there were more is known.
struct Token<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Token<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    fn push(&mut self, part: &[u8]) {
        if let Some(into) = self.bytes.get_mut(self.length..self.length + part.len()) {
            into.copy_from_slice(part);
        } else {
            // What does not fit once must not be joined to by what follows.
            self.length = N;
        }
        self.length += part.len();
    }

    /// `None`: it was too long.
    fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length)
    }
}

impl Scanner {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Value,
            depth: 0,
            skipped: 0,
            escaped: false,
            wanted: false,
            keys: [const { Token::new() }; LEVELS],
            value: Token::new(),
        }
    }

    /// What comes is a text of its own.
    pub(super) fn restart(&mut self) {
        self.state = State::Value;
        self.depth = 0;
        self.escaped = false;
    }

    /// Whether it is between texts.
    pub(super) fn is_idle(&self) -> bool {
        self.depth == 0 && self.state == State::Value
    }

    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::InKey | State::InText | State::SkipText => self.text(rest, sink),
                State::InPlain => self.plain(rest, sink),
                State::Skip => self.skip(rest),
                State::Broken => {
                    let Some(line) = memchr(b'\n', rest) else {
                        return;
                    };
                    self.restart();
                    line + 1
                }
                _ => {
                    self.step(rest[0], sink);
                    1
                }
            };
        }
    }

    /// Between values.
    fn step(&mut self, byte: u8, sink: &mut impl Sink) {
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return;
        }
        self.state = match (self.state, byte) {
            (State::Value, _) => self.begin(byte, sink),
            (State::Key, b'"') => {
                self.keys[self.depth - 1].length = 0;
                State::InKey
            }
            (State::Colon, b':') => State::Value,
            (State::After, b',') => State::Key,
            (State::Key | State::After, b'}') => self.close(sink),
            _ => State::Broken,
        };
    }

    /// The first byte of a value.
    fn begin(&mut self, byte: u8, sink: &mut impl Sink) -> State {
        if self.depth == 0 {
            if byte != b'{' {
                return State::Broken;
            }
            self.depth = 1;
            return State::Key;
        }
        self.value.length = 0;
        self.wanted = with_keys(&self.keys[..self.depth], |keys| sink.wants(keys));
        match byte {
            b'"' => State::InText,
            b'{' | b'[' => {
                if std::mem::take(&mut self.wanted) {
                    self.report(sink, Value::Other);
                }
                if byte == b'{' && self.depth < LEVELS {
                    self.depth += 1;
                    return State::Key;
                }
                self.skipped = 1;
                State::Skip
            }
            b'-' | b'0'..=b'9' | b'a'..=b'z' => {
                self.value.push(&[byte]);
                State::InPlain
            }
            _ => State::Broken,
        }
    }

    /// The end of an object.
    fn close(&mut self, sink: &mut impl Sink) -> State {
        self.depth -= 1;
        if self.depth > 0 {
            return State::After;
        }
        sink.end();
        State::Value
    }

    /// Within quotes; how much of it was read.
    fn text(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        if std::mem::take(&mut self.escaped) {
            self.keep(&bytes[..1]);
            return 1;
        }
        let end = memchr3(b'"', b'\\', b'\n', bytes).unwrap_or(bytes.len());
        self.keep(&bytes[..end]);
        match bytes.get(end) {
            None => return end,
            Some(b'\\') => {
                self.keep(b"\\");
                self.escaped = true;
            }
            // No string of JSON has one.
            Some(b'\n') => {
                self.state = State::Broken;
                return end;
            }
            Some(_) => self.end_text(sink),
        }
        end + 1
    }

    fn keep(&mut self, part: &[u8]) {
        match self.state {
            State::InKey => self.keys[self.depth - 1].push(part),
            State::InText if self.wanted => self.value.push(part),
            _ => {}
        }
    }

    fn end_text(&mut self, sink: &mut impl Sink) {
        self.state = match self.state {
            State::InKey => {
                self.keys[self.depth - 1].unescape();
                State::Colon
            }
            State::SkipText => State::Skip,
            _ => {
                self.end_value(sink, |bytes| Value::Text(bytes));
                State::After
            }
        };
    }

    /// Within a number or a word; how much of it was read.
    fn plain(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let within = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let end = bytes.iter().position(|byte| !within(byte));
        let length = end.unwrap_or(bytes.len());
        self.value.push(&bytes[..length]);
        if end.is_some() {
            self.end_value(sink, |bytes| Value::Plain(bytes));
            self.state = State::After;
        }
        length
    }

    fn end_value(&mut self, sink: &mut impl Sink, value: impl Fn(&[u8]) -> Value<'_>) {
        if std::mem::take(&mut self.wanted) {
            self.report(sink, self.value.get().map_or(Value::Other, value));
        }
    }

    fn report(&self, sink: &mut impl Sink, value: Value<'_>) {
        with_keys(&self.keys[..self.depth], |keys| sink.value(keys, value));
    }

    /// Within what is not followed; how much of it was read.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let telling = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b'\n');
        let Some(at) = bytes.iter().position(telling) else {
            return bytes.len();
        };
        match bytes[at] {
            b'"' => self.state = State::SkipText,
            b'{' | b'[' => self.skipped += 1,
            b'}' | b']' => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    self.state = State::After;
                }
            }
            _ => {}
        }
        at + 1
    }
}

impl Token<KEY> {
    /// Puts what an escaped key says in place of how it is written.
    fn unescape(&mut self) {
        let Some(said) = self.get().filter(|key| key.contains(&b'\\')).map(unescaped) else {
            return;
        };
        self.length = 0;
        // What cannot be read is no key that anybody asks for.
        self.push(said.as_deref().unwrap_or("\0").as_bytes());
    }
}

/// What is written between the quotes of a string; `None`: it is none.
pub(super) fn unescaped(text: &[u8]) -> Option<String> {
    let quoted = [b"\"", text, b"\""].concat();
    serde_json::from_slice(&quoted).ok()
}

/// Calls with the keys as slices; one that was too long is like no other.
fn with_keys<T>(keys: &[Token<KEY>], call: impl FnOnce(&[&[u8]]) -> T) -> T {
    let mut slices: [&[u8]; LEVELS] = [b""; LEVELS];
    for (slice, key) in slices.iter_mut().zip(keys) {
        *slice = key.get().unwrap_or(b"\0");
    }
    call(&slices[..keys.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants everything.
    #[derive(Default, Debug, PartialEq)]
    struct All(Vec<String>);

    impl Sink for All {
        fn wants(&self, _: &[&[u8]]) -> bool {
            true
        }

        fn value(&mut self, keys: &[&[u8]], value: Value<'_>) {
            let path: Vec<_> = keys
                .iter()
                .map(|key| String::from_utf8_lossy(key))
                .collect();
            let shown = match value {
                Value::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
                Value::Plain(plain) => String::from_utf8_lossy(plain).into_owned(),
                Value::Other => "..".to_owned(),
            };
            self.0.push(format!("{}={shown}", path.join(".")));
        }

        fn end(&mut self) {
            self.0.push("end".to_owned());
        }
    }

    fn seen(text: &[u8], piece: usize) -> String {
        let mut all = All::default();
        let mut scanner = Scanner::new();
        for part in text.chunks(piece) {
            scanner.feed(part, &mut all);
        }
        all.0.join(" ")
    }

    #[test]
    fn values_are_found_however_the_bytes_are_cut() {
        let rows: &[(&str, &str)] = &[
            ("{}", "end"),
            (r#"{"a":1}"#, "a=1 end"),
            (r#" { "a" : -1.5e+3 , "b":null } "#, "a=-1.5e+3 b=null end"),
            (r#"{"a":"x\"y\\"}"#, r#"a='x\"y\\' end"#),
            (
                r#"{"a":{"b":{"c":true}},"d":2}"#,
                "a=.. a.b=.. a.b.c=true d=2 end",
            ),
            (r#"{"a":{"b":{"c":{"d":1}}}}"#, "a=.. a.b=.. a.b.c=.. end"),
            (r#"{"a":[1,{"b":"]}"},[2]],"c":3}"#, "a=.. c=3 end"),
            (r#"{"a":"\\\""}{"b":1}"#, r#"a='\\\"' end b=1 end"#),
            ("{\"a\":1}\n{\"b\":2}\n", "a=1 end b=2 end"),
            (r#"{"a":1,"a":2}"#, "a=1 a=2 end"),
            (r#"{"mod\u0065l":"m"}"#, "model='m' end"),
            // No JSON: nothing more of that line.
            ("{\"a\":1,x}\n{\"b\":2}", "a=1 b=2 end"),
            ("[1,2]\n{\"b\":2}", "b=2 end"),
            ("{\"a\":\"x\n{\"b\":2}", "b=2 end"),
            ("nonsense", ""),
            // Not whole.
            (r#"{"done":true"#, ""),
            (r#"{"done":true,"#, "done=true"),
            ("", ""),
        ];
        for (text, want) in rows {
            for piece in 1..=text.len().max(1) {
                assert_eq!(seen(text.as_bytes(), piece), *want, "{text} by {piece}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_said_to_be_something_else() {
        let long = "x".repeat(VALUE + 1);
        assert_eq!(
            seen(format!("{{\"a\":\"{long}\"}}").as_bytes(), 7),
            "a=.. end"
        );
        let fits = "x".repeat(VALUE);
        let text = format!("{{\"a\":\"{fits}\"}}");
        assert_eq!(seen(text.as_bytes(), 7), format!("a='{fits}' end"));
        let key = "k".repeat(KEY + 1);
        assert_eq!(seen(format!("{{\"{key}\":1}}").as_bytes(), 5), "\0=1 end");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1_u64;
        let alphabet = br#"{}[]":,\ntrue1 x"#;
        let mut scanner = Scanner::new();
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..16)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .collect();
            scanner.feed(&bytes, &mut All::default());
        }
    }
}
