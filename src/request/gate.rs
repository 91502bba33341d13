//! What hyper hides from a service: a scanner that reads the client's bytes along with it.
//!
//! hyper drops `Content-Length` where `Transfer-Encoding` stands beside it, and the fragment of a
//! request target, before a service sees the request; both must be refused (RFC 9112 6.3 and 3.2).
//! The scanner follows the framing of messages (heads, lengths, chunks; RFC 9112 2.1, 6, 7.1) over
//! any split of reads and any number of pipelined requests, changes nothing, and allocates nothing.
//!
//! Invariant: it counts heads as hyper does, or it says so. Where a message leaves the grammar that
//! both follow, hyper ends the connection; should it not, the request after that message is
//! refused ([`Hidden::OutOfStep`]), and so is that message if its body is read before it is sent.
//! Bytes are counted, never kept.

/// As much of a header line as decides: a name, and a length of 20 digits with room to spare.
const LINE_KEPT: usize = 64;
/// Largest head that we take, in bytes: as much as nginx takes. hyper's own bound is one of its
/// buffer, which grows past it by chance.
const HEAD_MAX: usize = 32 * 1024;

/// What a request's head had that hyper does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// `Content-Length` beside `Transfer-Encoding`.
    TwoLengths,
    /// A fragment in the request target.
    Fragment,
    /// The message before it could not be followed.
    OutOfStep,
    /// It is larger than we take.
    LargeHead,
}

/// Follows the messages of one client connection.
pub(super) struct Scanner {
    state: State,
    head: Head,
    /// Heads that ended.
    heads: u64,
    /// The first request that must be refused, counted from 1, and why. Nothing is scanned after.
    hidden: Option<(u64, Hidden)>,
    /// The request whose body leaves the grammar.
    bad_body: Option<u64>,
    /// Bytes came after the last message's end.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    Chunk(Chunk),
    /// Nothing is followed any more.
    Off,
}

/// Where in a chunked body; the grammar is hyper's, which is RFC 9112 7.1 with blanks after a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    SizeFirst,
    Size(u64),
    SizeBlank(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerFirst,
    Trailer,
    TrailerLf,
    LastLf,
}

/// What is known of the head that is being read.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each was seen or not, by itself"
)]
struct Head {
    line: [u8; LINE_KEPT],
    /// Bytes of the line so far, also those not kept.
    seen: usize,
    /// Bytes of the lines before.
    size: usize,
    /// Whether the request line came.
    requested: bool,
    fragment: bool,
    length: Option<u64>,
    chunked: bool,
    /// A length that hyper will not accept.
    unclear: bool,
}

impl Scanner {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Head,
            head: Head::new(),
            heads: 0,
            hidden: None,
            bad_body: None,
            begun: false,
        }
    }

    /// Why the request with this number, counted from 1, must be refused.
    pub(super) fn hidden(&self, request: u64) -> Option<Hidden> {
        self.hidden
            .filter(|(first, _)| *first <= request)
            .map(|(_, why)| why)
    }

    /// Whether the body of the request with this number is none, whatever hyper made of it.
    pub(super) fn is_bad_body(&self, request: u64) -> bool {
        self.bad_body == Some(request)
    }

    /// Whether bytes came that belong to no request up to this number.
    pub(super) fn is_ahead_of(&self, request: u64) -> bool {
        self.heads > request || (self.begun && matches!(self.state, State::Head | State::Off))
    }

    /// Whether a head began and did not end.
    pub(super) fn is_in_head(&self) -> bool {
        self.state == State::Head && (self.head.requested || self.head.seen > 0)
    }

    /// What follows is no HTTP any more.
    pub(super) fn stop(&mut self) {
        self.state = State::Off;
    }

    /// Reads on.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Head => self.head_line(bytes),
                State::Body(left) => self.skip(bytes, left),
                State::Chunk(chunk) => self.chunk(chunk, bytes),
                State::Off => {
                    self.begun = true;
                    return;
                }
            };
        }
    }

    /// A line of a head, or a part of one.
    fn head_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        self.begun = true;
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.head.keep(bytes);
            return &[];
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if self.head.seen == 0 {
            if self.head.line(line, line.len()) {
                self.head_ended();
            }
            return rest;
        }
        self.head.keep(line);
        let (kept, seen) = (self.head.line, self.head.seen);
        self.head.seen = 0;
        if self.head.line(&kept[..seen.min(LINE_KEPT)], seen) {
            self.head_ended();
        }
        rest
    }

    fn head_ended(&mut self) {
        let head = std::mem::replace(&mut self.head, Head::new());
        self.heads += 1;
        self.begun = false;
        let hidden = match head {
            Head { fragment: true, .. } => Some((self.heads, Hidden::Fragment)),
            Head {
                chunked: true,
                length: Some(_),
                ..
            } => Some((self.heads, Hidden::TwoLengths)),
            // hyper answers it with 400.
            Head { unclear: true, .. } => Some((self.heads + 1, Hidden::OutOfStep)),
            Head { size, .. } if size > HEAD_MAX => Some((self.heads, Hidden::LargeHead)),
            _ => None,
        };
        self.state = match (hidden, head.chunked, head.length) {
            (Some(_), ..) => State::Off,
            (None, true, _) => State::Chunk(Chunk::SizeFirst),
            (None, false, Some(0) | None) => State::Head,
            (None, false, Some(length)) => State::Body(length),
        };
        self.hidden = hidden;
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64) -> &'b [u8] {
        let (rest, left) = skip(bytes, left);
        self.state = match left {
            0 => State::Head,
            left => State::Body(left),
        };
        rest
    }

    fn chunk<'b>(&mut self, chunk: Chunk, bytes: &'b [u8]) -> &'b [u8] {
        let (next, rest) = match chunk {
            Chunk::Data(left) => match skip(bytes, left) {
                (rest, 0) => (Some(Chunk::DataCr), rest),
                (rest, left) => (Some(Chunk::Data(left)), rest),
            },
            Chunk::LastLf if bytes[0] == b'\n' => {
                self.state = State::Head;
                return &bytes[1..];
            }
            chunk => (chunk.after(bytes[0]), &bytes[1..]),
        };
        if let Some(next) = next {
            self.state = State::Chunk(next);
        } else {
            self.hidden = Some((self.heads + 1, Hidden::OutOfStep));
            self.bad_body = Some(self.heads);
            self.state = State::Off;
        }
        rest
    }
}

impl Chunk {
    /// After this byte; `None`: it has no place here.
    fn after(self, byte: u8) -> Option<Self> {
        use Chunk::{
            DataCr, DataLf, Extension, LastLf, Size, SizeBlank, SizeEnd, SizeFirst, Trailer,
            TrailerFirst, TrailerLf,
        };
        match (self, byte) {
            (SizeFirst, byte) => digit(0, byte).map(Size),
            (Size(size) | SizeBlank(size), b' ' | b'\t') => Some(SizeBlank(size)),
            (Size(size) | SizeBlank(size), b';') => Some(Extension(size)),
            (Size(size) | SizeBlank(size) | Extension(size), b'\r') => Some(SizeEnd(size)),
            (Size(size), byte) => digit(size, byte).map(Size),
            (Extension(size), byte) if byte != b'\n' => Some(Extension(size)),
            (SizeEnd(0), b'\n') => Some(TrailerFirst),
            (SizeEnd(size), b'\n') => Some(Self::Data(size)),
            (DataCr, b'\r') => Some(DataLf),
            (DataLf, b'\n') => Some(SizeFirst),
            (TrailerFirst, b'\r') => Some(LastLf),
            (Trailer, b'\r') => Some(TrailerLf),
            // hyper takes anything for a trailer, and what an upstream or a proxy before us reads as the
            // next request would be lost in it: a line begins with a name and ends in CRLF.
            (TrailerFirst, byte) if is_token(byte) => Some(Trailer),
            (Trailer, byte) if byte != b'\n' => Some(Trailer),
            (TrailerLf, b'\n') => Some(TrailerFirst),
            _ => None,
        }
    }
}

impl Head {
    const fn new() -> Self {
        Self {
            line: [0; LINE_KEPT],
            seen: 0,
            size: 0,
            requested: false,
            fragment: false,
            length: None,
            chunked: false,
            unclear: false,
        }
    }

    /// Keeps the beginning of a line that comes in parts.
    fn keep(&mut self, part: &[u8]) {
        if !self.requested {
            self.fragment |= memchr::memchr(b'#', part).is_some();
        }
        if let Some(room) = self.line.get_mut(self.seen..) {
            let fits = part.len().min(room.len());
            room[..fits].copy_from_slice(&part[..fits]);
        }
        self.seen += part.len();
    }

    /// Takes a line of `length` bytes without its line feed, or the beginning of a longer one;
    /// whether the head ended with it.
    fn line(&mut self, line: &[u8], length: usize) -> bool {
        self.size += length + 1;
        let blank = length == 0 || (length == 1 && line[0] == b'\r');
        if blank {
            // Before a request line they are skipped (RFC 9112 2.2).
            return self.requested;
        }
        if !self.requested {
            self.requested = true;
            self.fragment |= memchr::memchr(b'#', line).is_some();
        } else if matches!(line[0] | 0x20, b'c' | b't') {
            self.field(line, length);
        }
        false
    }

    fn field(&mut self, line: &[u8], length: usize) {
        if value(line, b"transfer-encoding").is_some() {
            self.chunked = true;
        } else if let Some(value) = value(line, b"content-length") {
            // Such a line is longer only by blanks that nobody sends.
            let whole = line.len() == length;
            match number(value).filter(|_| whole) {
                Some(number) if self.length.is_none_or(|first| first == number) => {
                    self.length = Some(number);
                }
                _ => self.unclear = true,
            }
        }
    }
}

/// What stands behind the colon of a line with this name.
fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (before, after) = line.split_at_checked(name.len())?;
    let after = after.strip_prefix(b":")?;
    before.eq_ignore_ascii_case(name).then_some(after)
}

/// Digits alone (RFC 9110 8.6).
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| all)?
        .parse()
        .ok()
}

/// A byte of a name (RFC 9110 5.6.2).
const fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
    )
}

/// A size with one more hexadecimal digit, if it is one and fits.
fn digit(size: u64, byte: u8) -> Option<u64> {
    let digit = char::from(byte).to_digit(16)?;
    size.checked_mul(16)?.checked_add(u64::from(digit))
}

/// Leaves out up to `left` bytes: what follows, and how many are still to leave out.
fn skip(bytes: &[u8], left: u64) -> (&[u8], u64) {
    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (&bytes[here..], left - here as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

    /// What a scanner says after it read `bytes` in pieces of `size`.
    fn scanned(bytes: &[u8], size: usize) -> (u64, Option<(u64, Hidden)>, bool, bool) {
        let mut scanner = Scanner::new();
        bytes.chunks(size).for_each(|piece| scanner.scan(piece));
        (
            scanner.heads,
            scanner.hidden,
            scanner.is_in_head(),
            scanner.begun,
        )
    }

    fn post(fields: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("POST /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        [head.as_bytes(), body].concat()
    }

    /// Messages, and what stands in each that hyper hides.
    fn messages() -> Vec<(&'static str, Vec<u8>, Option<Hidden>)> {
        let (two, fragment) = (Some(Hidden::TwoLengths), Some(Hidden::Fragment));
        let chunked = "Transfer-Encoding: chunked\r\n";
        let twice = "content-LENGTH:2 \r\nContent-Length: 2\r\n";
        let like = "Content-Lengthy: 9\r\nTransfer-Encodin: x\r\nT: 1\r\n";
        let all = b"2 ;a=\"#\"\r\n\n\n\r\nA\t\r\n0123456789\r\n00\r\nX: #\r\nY: z\r\n\r\n";
        let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
        let other_way = "transfer-encoding:x\r\nFoo: bar\r\nCONTENT-length:0\r\n";
        let far = [b"GET /".as_slice(), &[b'a'; 300], b"# HTTP/1.1\r\n\r\n"].concat();
        let full = post(&format!("A: {}\r\n", "a".repeat(HEAD_MAX - 34)), b"");
        let large = post(&format!("A: {}\r\n", "a".repeat(HEAD_MAX - 33)), b"");
        let rows: [(_, &[u8], _); 16] = [
            ("get", GET, None),
            ("line feeds", b"GET /a HTTP/1.1\nHost: x\n\n", None),
            ("blank lines", b"\r\n\n\r\nGET /a HTTP/1.1\r\n\r\n", None),
            ("length", &post("Content-Length: 3\r\n", b"\r\n\r"), None),
            ("length twice", &post(twice, b"#\n"), None),
            ("no body", &post("Content-Length: 0\r\n", b""), None),
            ("chunks", &post(chunked, b"3\r\nabc\r\n0\r\n\r\n"), None),
            ("chunks and all", &post(chunked, all), None),
            ("a like name", &post(like, b""), None),
            ("both", &post(both, b"0\r\n\r\n"), two),
            ("both the other way", &post(other_way, b""), two),
            (
                "fragment",
                b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
                fragment,
            ),
            ("of a query", b"GET /a?x#b HTTP/1.1\nHost: x\n\n", fragment),
            ("far", &far, fragment),
            ("full", &full, None),
            ("large", &large, Some(Hidden::LargeHead)),
        ];
        rows.map(|(what, bytes, hidden)| (what, bytes.to_vec(), hidden))
            .to_vec()
    }

    #[test]
    fn messages_are_followed_over_any_split_and_when_pipelined() {
        for (what, bytes, hidden) in messages() {
            for size in (1..=bytes.len()).filter(|size| *size < 400 || size % 4001 == 0) {
                let want = hidden.map(|why| (1, why));
                let (heads, found, in_head, _) = scanned(&bytes, size);
                assert_eq!(
                    (heads, found, in_head),
                    (1, want, false),
                    "{what} by {size}"
                );
                // Between two others.
                let three = [GET, &bytes, GET].concat();
                let (heads, found, ..) = scanned(&three, size);
                let want = hidden.map(|why| (2, why));
                assert_eq!(found, want, "{what} by {size}, second of three");
                assert_eq!(
                    heads,
                    if hidden.is_some() { 2 } else { 3 },
                    "{what} by {size}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_spoils_the_request_after_it() {
        let rows: [(&str, &str, &[u8]); 9] = [
            ("sign", "Content-Length: +2\r\n", b"ab"),
            ("list", "Content-Length: 2, 2\r\n", b"ab"),
            ("two", "Content-Length: 1\r\nContent-Length: 2\r\n", b"ab"),
            ("huge", "Content-Length: 99999999999999999999\r\n", b"ab"),
            ("bare", "Transfer-Encoding: chunked\r\n", b"3\nabc\n0\n\n"),
            (
                "0x",
                "Transfer-Encoding: chunked\r\n",
                b"0x3\r\nabc\r\n0\r\n\r\n",
            ),
            ("none", "Transfer-Encoding: chunked\r\n", b"\r\nabc"),
            (
                "long",
                "Transfer-Encoding: chunked\r\n",
                b"3\r\nabcd\r\n0\r\n\r\n",
            ),
            (
                "overflow",
                "Transfer-Encoding: chunked\r\n",
                b"fffffffffffffffff\r\n",
            ),
        ];
        for (what, fields, body) in rows {
            let bytes = [&post(fields, body), GET].concat();
            for size in 1..bytes.len() {
                let (heads, hidden, ..) = scanned(&bytes, size);
                assert_eq!(heads, 1, "{what} by {size}");
                assert_eq!(hidden, Some((2, Hidden::OutOfStep)), "{what} by {size}");
            }
        }
    }

    #[test]
    fn it_knows_whether_bytes_follow_a_request_and_whether_a_head_is_cut() {
        // Bytes, ahead of the first request, inside a head.
        let rows: [(&[u8], bool, bool); 6] = [
            (b"", false, false),
            (b"\r\n", true, false),
            (b"G", true, true),
            (b"GET /b HTTP/1.1\r\n", true, true),
            (GET, true, false),
            (b"\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n", true, false),
        ];
        for (more, ahead, in_head) in rows {
            let mut scanner = Scanner::new();
            scanner.scan(&[GET, more].concat());
            assert_eq!(scanner.is_ahead_of(1), ahead, "{more:?}");
            assert_eq!(scanner.is_in_head(), in_head, "{more:?}");
        }
        let mut scanner = Scanner::new();
        scanner.scan(&post("Content-Length: 2\r\n", b"a"));
        assert!(!scanner.is_ahead_of(1), "a body belongs to its request");
    }

    /// `cargo test --release -- --ignored --nocapture a_head_costs`
    #[test]
    #[ignore = "measures"]
    #[expect(clippy::print_stdout, reason = "it prints what it measured")]
    fn a_head_costs() {
        let fields = "User-Agent: python-httpx/0.28\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\
             Connection: keep-alive\r\nContent-Type: application/json\r\nX-Request-Id: abc\r\n\
             Content-Length: 20\r\n";
        let request = post(fields, &[b'x'; 20]);
        let mut scanner = Scanner::new();
        let (rounds, began) = (2_000_000_u32, tokio::time::Instant::now());
        for _ in 0..rounds {
            scanner.scan(std::hint::black_box(&request));
        }
        assert_eq!(scanner.heads, u64::from(rounds));
        println!(
            "{} bytes: {:?} a request",
            request.len(),
            began.elapsed() / rounds
        );
    }
}
