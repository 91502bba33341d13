//! What the generator does to a request, by name: a table.
//!
//! A connection's later requests depend on where the changed one ends, so most changes keep that
//! plain.

use crate::generate::{Draft, Random};

/// One change in one place.
pub(crate) type Change = fn(&mut Draft, &mut Random);

/// What is unusual, and right or widely taken.
pub(crate) const ODD: &[(&str, Change)] = &[
    ("lower-case method", |it, _| it.method = b"get"),
    ("unknown method", |it, random| {
        it.method = random.of(&[b"PURGE", b"M-SEARCH", b"X", b"FOO_BAR", b"QUERY"]);
    }),
    ("token method", |it, random| {
        it.method = random.of(&[b"G.T", b"a!b", b"*", b"G~T"]);
    }),
    ("TRACE", |it, _| {
        it.method = b"TRACE";
        it.unframe();
    }),
    ("HTTP/1.0", |it, _| {
        it.version = b"HTTP/1.0";
        it.length_only();
    }),
    ("HTTP/1.0 kept alive", |it, _| {
        it.version = b"HTTP/1.0";
        it.length_only();
        it.field(b"Connection: keep-alive");
    }),
    ("absolute form", |it, _| {
        it.target = [b"http://app.example", &it.target[..]].concat();
    }),
    ("absolute form, case", |it, _| {
        it.target = [b"HTTP://APP.example", &it.target[..]].concat();
    }),
    ("double slashes", |it, random| {
        it.path(random.of(&["//", "//a//b", "/a//", "///"]));
    }),
    ("dot segments", |it, random| {
        it.path(random.of(&["/../x", "/./x", "/a/../b", "/..", "/a/.", "/a/../../../x"]));
    }),
    ("encoded dot segments", |it, random| {
        it.path(random.of(&[
            "/%2e%2e/x",
            "/a/%2E%2E/b",
            "/..%2f..//x",
            "/%2e/x",
            "/.%2e/x",
        ]));
    }),
    ("dots in names", |it, random| {
        it.path(random.of(&["/..a", "/a..", "/...", "/.well-known", "/a/..%20"]));
    }),
    ("odd path bytes", |it, random| {
        it.path(random.of(&[
            "/a|b", "/a\"b", "/a{b}", "/a^b", "/a`b", "/a\\b", "/<a>", "/[a]",
        ]));
    }),
    ("utf-8 path", |it, _| it.path("/\u{3042}\u{e4}")),
    ("bad percent", |it, random| {
        it.path(random.of(&["/%", "/%4", "/%zz", "/a%2", "/%u0041"]));
    }),
    ("percent nul", |it, random| {
        it.path(random.of(&["/%00", "/a%00b", "/%0a", "/%0d%0aX:%201", "/%7f"]));
    }),
    ("bare prefix", |it, random| it.bare(random)),
    ("connection names a field", |it, random| {
        it.field(b"X-Drop: 1");
        it.field(random.of(&[
            b"Connection: X-Drop",
            b"Connection: keep-alive, x-drop",
            b"Connection: \xff, x-drop",
            b"Connection: ,, X-DROP ,",
        ]));
    }),
    ("connection names what stays", |it, random| {
        it.field(random.of(&[
            b"Connection: Host",
            b"Connection: authorization, cookie",
            b"Connection: Via",
        ]));
    }),
    ("hop-by-hop fields", |it, random| {
        it.field(random.of(&[
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"TE: gzip",
            b"Upgrade: h2c",
            b"Proxy-Authorization: Basic eA==",
        ]));
    }),
    ("upgrade", |it, _| {
        it.field(b"Connection: upgrade");
        it.field(b"Upgrade: websocket");
    }),
    ("expect", |it, _| {
        it.body(b"{}");
        it.field(b"Expect: 100-continue");
    }),
    ("unknown expectation", |it, _| {
        it.body(b"{}");
        it.field(b"Expect: a-miracle");
    }),
    ("equal lengths twice", |it, _| {
        it.body(b"ab");
        it.field(b"Content-Length: 2");
    }),
    ("length of zeros", |it, _| {
        it.unframe();
        it.field(b"Content-Length: 000");
    }),
    ("body of a GET", |it, random| {
        it.method = b"GET";
        if random.happens(50) {
            it.body(b"abc");
        } else {
            it.chunks(b"3\r\nabc\r\n0\r\n\r\n");
        }
    }),
    ("chunk extensions", |it, random| {
        it.chunks(random.of(&[
            b"3;a=b\r\nabc\r\n0\r\n\r\n",
            b"3;a=\"b;c\"\r\nabc\r\n0;x\r\n\r\n",
            b"3 ;a\r\nabc\r\n0\r\n\r\n",
        ]));
    }),
    ("chunk sizes written oddly", |it, random| {
        it.chunks(random.of(&[
            b"0000000003\r\nabc\r\n000\r\n\r\n",
            b"A\r\n0123456789\r\n0\r\n\r\n",
            b"a\r\n0123456789\r\n0\r\n\r\n",
        ]));
    }),
    ("trailers", |it, random| {
        it.chunks(random.of(&[
            b"3\r\nabc\r\n0\r\nX-T: v\r\n\r\n",
            b"0\r\nX-T: v\r\nX-U: w\r\n\r\n",
            b"3\r\nabc\r\n0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n",
        ]));
    }),
    ("coding in capitals", |it, _| {
        it.unframe();
        it.field(b"Transfer-Encoding: Chunked");
        it.body = b"2\r\nab\r\n0\r\n\r\n".to_vec();
    }),
    ("odd field names", |it, random| {
        it.field(random.of(&[b"X!Y: 1", b"x.y: 1", b"1: 1", b"~: 1", b"X#$%&'*+^`|~: 1"]));
    }),
    ("twice what is for once", |it, random| {
        let line = random.of(&[
            &b"Authorization: Bearer b"[..],
            b"If-None-Match: \"y\"",
            b"User-Agent: b",
            b"Content-Type: text/plain",
            b"Range: bytes=1-2",
        ]);
        it.field(line);
        it.field(line);
    }),
    ("many fields", |it, random| {
        for _ in 0..60 + random.below(30) {
            it.field(b"X-Many: 1");
        }
    }),
    ("long field", |it, random| {
        let long = vec![b'l'; 1000 + random.below(9000)];
        it.fields.push([b"X-Long: ", &long[..]].concat());
    }),
    ("long target", |it, random| {
        let long = "l".repeat(1000 + random.below(5000));
        it.target.extend(long.bytes());
    }),
    ("empty line before", |it, _| {
        it.method = [&b"\r\nGET"[..], b"\r\nPOST"][usize::from(it.method == b"POST")];
    }),
    ("large body", |it, random| {
        let body = vec![b'b'; 60_000 + random.below(12_000)];
        it.body(&body);
    }),
    ("request inside a body", |it, random| {
        let inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        if random.happens(50) {
            it.body(inner);
        } else {
            it.chunks(
                &[
                    format!("{:x}\r\n", inner.len()).as_bytes(),
                    inner,
                    b"\r\n0\r\n\r\n",
                ]
                .concat(),
            );
        }
    }),
    ("asks to close", |it, random| {
        it.field(random.of(&[
            b"Connection: close",
            b"Connection: Close, x",
            b"Connection: keep-alive, close",
        ]));
    }),
];

/// What no server should take, or what none can be sure of.
pub(crate) const BROKEN: &[(&str, Change)] = &[
    ("length and chunks", |it, random| {
        it.unframe();
        let chunks = b"0\r\n\r\n";
        it.body = [&chunks[..], b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
        let (length, whole) = (it.body.len(), random.happens(50));
        it.fields
            .push(format!("Content-Length: {}", if whole { length } else { 5 }).into());
        it.field(b"Transfer-Encoding: chunked");
    }),
    ("different lengths", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Content-Length: 1\r\nContent-Length: 2",
            b"Content-Length: 2\r\nContent-Length: 02",
            b"Content-Length: 0\r\nContent-Length: 2",
        ]));
        it.body = b"ab".to_vec();
    }),
    ("length in a list", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Content-Length: 2, 2",
            b"Content-Length: 2,1",
            b"Content-Length: 2 2",
        ]));
        it.body = b"ab".to_vec();
    }),
    ("length not a number", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Content-Length: +2",
            b"Content-Length: -2",
            b"Content-Length: 0x2",
            b"Content-Length: 2a",
            b"Content-Length: two",
            b"Content-Length: 2.0",
            b"Content-Length: ",
        ]));
        it.body = b"ab".to_vec();
    }),
    ("length too large", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Content-Length: 18446744073709551616",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: 9223372036854775808",
        ]));
    }),
    ("body longer than said", |it, _| {
        it.unframe();
        it.field(b"Content-Length: 2");
        it.body = b"abcd".to_vec();
    }),
    ("body shorter than said", |it, _| {
        it.unframe();
        it.field(b"Content-Length: 12");
        it.body = b"ab".to_vec();
    }),
    ("body without framing", |it, _| {
        it.unframe();
        it.method = b"POST";
        it.body = b"abc".to_vec();
    }),
    ("unknown coding", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding: identity",
            b"Transfer-Encoding: gzip",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding: chunked;q=1",
            b"Transfer-Encoding: \"chunked\"",
            b"Transfer-Encoding: ",
        ]));
        it.body = b"0\r\n\r\n".to_vec();
    }),
    ("several codings", |it, random| {
        it.unframe();
        it.field(random.of(&[
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding: chunked, gzip",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            b"Transfer-Encoding: , chunked",
        ]));
        it.body = b"0\r\n\r\n".to_vec();
    }),
    ("coding in HTTP/1.0", |it, _| {
        it.version = b"HTTP/1.0";
        it.chunks(b"0\r\n\r\n");
    }),
    ("space before colon", |it, random| {
        it.field(random.of(&[
            b"Foo : bar",
            b"Content-Length : 0",
            b"Transfer-Encoding : chunked",
            b"Foo\t: bar",
        ]));
    }),
    ("folded field", |it, random| {
        it.field(random.of(&[
            b"Foo: a\r\n b",
            b"Foo: a\r\n\tb",
            b"Transfer-Encoding:\r\n chunked",
        ]));
    }),
    ("space before first field", |it, _| {
        it.fields.insert(0, b" Foo: bar".to_vec());
    }),
    ("control bytes in a value", |it, random| {
        it.field(random.of(&[
            b"Foo: a\rb",
            b"Foo: a\0b",
            b"Foo: a\x01b",
            b"Foo: a\x7fb",
            b"Foo: \r",
        ]));
    }),
    ("no colon", |it, random| {
        it.field(random.of(&[b"Foo", b"Foo bar", b"=: x\x0b"]));
    }),
    ("empty name", |it, _| it.field(b": bar")),
    ("bad name", |it, random| {
        it.field(random.of(&[
            b"Fo o: 1",
            b"F(o): 1",
            b"F\xc3\xa4: 1",
            b"F/o: 1",
            b"F@o: 1",
            b"\"Foo\": 1",
        ]));
    }),
    ("no Host", |it, _| {
        it.fields.remove(0);
    }),
    ("two Hosts", |it, random| {
        it.field(random.of(&[b"Host: app.example", b"Host: other", b"host:"]));
    }),
    ("bad Host", |it, random| {
        it.fields[0] = random
            .of(&[
                &b"Host: a b"[..],
                b"Host: a/b",
                b"Host: a@b",
                b"Host: a,b",
                b"Host: http://a",
                b"Host: a:b",
                b"Host: [::1",
                b"Host:",
                b"Host: a:99999",
            ])
            .to_vec();
    }),
    ("foreign absolute form", |it, random| {
        it.target = [
            random.of(&[
                &b"http://evil"[..],
                b"https://app.example",
                b"http://app.example:81",
                b"http://u@app.example",
            ]),
            &it.target[..],
        ]
        .concat();
    }),
    ("bad version", |it, random| {
        it.version = random.of(&[
            b"HTTP/2.0",
            b"HTTP/1.2",
            b"HTTP/0.9",
            b"HTTP/9",
            b"http/1.1",
            b"HTTP/1.1x",
            b"HTTP/1.10",
            b"HTTP/11",
            b"HTTP",
        ]);
    }),
    ("spaces in the first line", |it, random| {
        it.target = [
            random.of(&[&b" "[..], b"\t", b"  "]),
            &it.target[..],
            random.of(&[&b""[..], b" ", b" x"]),
        ]
        .concat();
    }),
    ("no target", |it, _| it.target = Vec::new()),
    ("relative target", |it, _| it.target = b"o0/a".to_vec()),
    ("fragment", |it, random| {
        it.target.extend(random.of(&[&b"#frag"[..], b"#", b"#a?b"]));
    }),
    ("control bytes in the target", |it, random| {
        it.target
            .extend(random.of(&[&b"\x01"[..], b"\x7f", b"\0", b"\r", b"\x0b", b"\xff"]));
    }),
    ("CONNECT", |it, random| {
        it.method = b"CONNECT";
        it.unframe();
        if random.happens(70) {
            it.target = b"app.example:80".to_vec();
        }
    }),
    ("asterisk", |it, random| {
        it.target = b"*".to_vec();
        if random.happens(50) {
            it.method = b"OPTIONS";
        }
    }),
    ("bare line feeds", |it, _| it.version = b"HTTP/1.1\nX-Lf: 1"),
    ("bad chunk size", |it, random| {
        it.chunks(random.of(&[
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"g\r\n0\r\n\r\n",
            b"\r\nabc\r\n0\r\n\r\n",
            b"3 3\r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
            b"3_\r\nabc\r\n0\r\n\r\n",
        ]));
    }),
    ("bad chunk end", |it, random| {
        it.chunks(random.of(&[
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"3\r\nabc0\r\n\r\n",
            b"3\nabc\n0\n\n",
            b"3\rabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3;\na=b\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\n",
        ]));
    }),
    ("bad trailer", |it, random| {
        it.chunks(random.of(&[
            b"0\r\nX T: v\r\n\r\n",
            b"0\r\nX-T\r\n\r\n",
            b"0\r\nX-T: a\r\n b\r\n\r\n",
            b"0\r\nX-T: a\0\r\n\r\n",
            b"0\r\n: v\r\n\r\n",
        ]));
    }),
    ("chunks without an end", |it, _| it.chunks(b"fff\r\nabc")),
    ("oversized head", |it, random| {
        let long = vec![b'l'; 70_000 + random.below(500_000)];
        it.fields.push([b"X-Long: ", &long[..]].concat());
    }),
    ("not HTTP", |it, random| {
        *it = Draft::raw(random.of(&[
            &b"\x16\x03\x01\x02\0\x01\0\x01\xfc"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"SSH-2.0-x\r\n",
            b"GET /\r\n",
            b"{}\r\n\r\n",
        ]));
    }),
];
