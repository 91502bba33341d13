//! The upstream's own addresses in its answers, as the client must write them.
//!
//! Owns what becomes of one value of `Location`, `Content-Location` and `Set-Cookie`. Pure: bytes
//! in, `Some` bytes out where something changes. Invariant: what does not name the upstream
//! itself passes byte for byte, and no address becomes one on another host.

/// How the client sees the upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// What the client writes before the upstream's paths; empty: nothing.
    pub(super) prefix: &'a str,
    /// How the upstream was asked: `http` or `https`.
    pub(super) scheme: &'static str,
    /// The authority that it was asked with: its Host field.
    pub(super) authority: &'a [u8],
    /// Whether that Host is the client's own.
    pub(super) preserved: bool,
}

/// What becomes of one attribute of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Kept,
    Dropped,
    /// The prefix goes before the `/` at this place.
    Prefixed(usize),
}

impl View<'_> {
    /// A reference (RFC 9110 10.2.2, 8.7). A path gets its prefix; a whole address of the
    /// upstream's own, scheme and authority as it was asked, becomes the path of it. Relative
    /// references and `//host` resolve at the client as they would have upstream. The same
    /// authority by another scheme is another place: a redirect to https that led back here would
    /// never end.
    pub(super) fn reference(&self, value: &[u8]) -> Option<Vec<u8>> {
        let path = match value {
            [b'/', b'/', ..] => return None,
            [b'/', ..] if self.prefix.is_empty() => return None,
            [b'/', ..] => value,
            _ if self.prefix.is_empty() && self.preserved => return None,
            _ => self.path_of_own(value)?,
        };
        if self.prefix.is_empty() && path.starts_with(b"//") {
            // By itself it would name a host.
            return None;
        }
        let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
        Some([self.prefix.as_bytes(), slash, path].concat())
    }

    /// What follows the authority of an address of the upstream's own.
    fn path_of_own<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let (scheme, rest) = value.split_at_checked(self.scheme.len())?;
        let rest = rest.strip_prefix(b"://")?;
        let end = rest.iter().position(|byte| b"/?#".contains(byte));
        let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
        let own = scheme.eq_ignore_ascii_case(self.scheme.as_bytes())
            && !authority.is_empty()
            && self
                .without_port(authority)
                .eq_ignore_ascii_case(self.without_port(self.authority));
        own.then_some(path)
    }

    /// An authority without the port that its scheme means anyway.
    fn without_port<'v>(&self, authority: &'v [u8]) -> &'v [u8] {
        let port: &[u8] = if self.scheme == "https" {
            b":443"
        } else {
            b":80"
        };
        authority.strip_suffix(port).unwrap_or(authority)
    }

    /// A cookie (RFC 6265 4.1, read as 5.2 reads it: split at every `;`, names without case). Its
    /// `Path` gets the prefix; without one, or with one that is no path, the client takes the
    /// folder of the address that it asked, which has the prefix already (5.1.4). A `Domain` that
    /// covers the upstream is dropped: it can never cover us, and the client would refuse the
    /// cookie (5.3). One that does not stays, so that what was refused is refused.
    pub(super) fn cookie(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut pieces = line.split(|byte| *byte == b';');
        let pair = pieces.next()?;
        // A name that binds the cookie to `Path=/` (RFC 6265bis 4.1.3.2).
        let bound = (pair.trim_ascii_start().get(..7))
            .is_some_and(|name| name.eq_ignore_ascii_case(b"__Host-"));
        let becomes = |piece: &[u8]| match self.attribute(piece) {
            Attribute::Prefixed(_) if bound => Attribute::Kept,
            becomes => becomes,
        };
        if pieces
            .clone()
            .all(|piece| becomes(piece) == Attribute::Kept)
        {
            return None;
        }
        let mut whole = Vec::with_capacity(line.len() + self.prefix.len());
        whole.extend_from_slice(pair);
        for piece in pieces {
            match becomes(piece) {
                Attribute::Kept => {
                    whole.push(b';');
                    whole.extend_from_slice(piece);
                }
                Attribute::Dropped => {}
                Attribute::Prefixed(at) => {
                    let (name, path) = piece.split_at(at);
                    whole.push(b';');
                    whole.extend_from_slice(name);
                    whole.extend_from_slice(self.prefix.as_bytes());
                    whole.extend_from_slice(without_bare_slash(path));
                }
            }
        }
        Some(whole)
    }

    fn attribute(&self, piece: &[u8]) -> Attribute {
        let Some(equals) = piece.iter().position(|byte| *byte == b'=') else {
            return Attribute::Kept;
        };
        let (name, value) = (piece[..equals].trim_ascii(), &piece[equals + 1..]);
        if name.eq_ignore_ascii_case(b"path") && !self.prefix.is_empty() {
            // Some clients take quotes off (Python's http.cookiejar); for those it is a path.
            let opening = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"';
            let before = value.iter().take_while(|byte| opening(byte)).count();
            if value.get(before) == Some(&b'/') {
                return Attribute::Prefixed(equals + 1 + before);
            }
        }
        let drops = name.eq_ignore_ascii_case(b"domain") && !self.preserved;
        if drops && covers(value.trim_ascii(), host_of(self.authority)) {
            return Attribute::Dropped;
        }
        Attribute::Kept
    }
}

/// `/` alone becomes the prefix alone, as `/ollama/` would not cover `/ollama` (RFC 6265 5.1.4).
fn without_bare_slash(path: &[u8]) -> &[u8] {
    match path {
        [b'/'] => b"",
        [b'/', after, ..] if after.is_ascii_whitespace() || *after == b'"' => &path[1..],
        _ => path,
    }
}

/// Whether `domain` is `host` or a parent of it (RFC 6265 5.1.3; a leading dot counts as none).
fn covers(domain: &[u8], host: &[u8]) -> bool {
    let domain = domain.strip_prefix(b".").unwrap_or(domain);
    let Some(at) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    !domain.is_empty()
        && host[at..].eq_ignore_ascii_case(domain)
        && (at == 0 || host[at - 1] == b'.')
}

/// The host of an authority.
fn host_of(authority: &[u8]) -> &[u8] {
    let name = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !authority[colon..].contains(&b']') => &authority[..colon],
        _ => authority,
    };
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIPPED: View<'_> = View {
        prefix: "/ollama",
        scheme: "http",
        authority: b"localhost:11434",
        preserved: false,
    };
    const WHOLE: View<'_> = View {
        prefix: "",
        ..STRIPPED
    };

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// `None`: it passes as it is.
    #[test]
    fn references_of_the_upstreams_own_get_the_prefix() {
        let rows = [
            ("/api/tags", Some("/ollama/api/tags")),
            ("/", Some("/ollama/")),
            ("/a?b=/c#d", Some("/ollama/a?b=/c#d")),
            ("/a%2Fb/../c", Some("/ollama/a%2Fb/../c")),
            ("/ollama/x", Some("/ollama/ollama/x")),
            ("/\u{e3}", Some("/ollama/\u{e3}")),
            ("http://localhost:11434/x", Some("/ollama/x")),
            ("HTTP://LocalHost:11434/X?q#f", Some("/ollama/X?q#f")),
            ("http://localhost:11434", Some("/ollama/")),
            ("http://localhost:11434?q", Some("/ollama/?q")),
            ("http://localhost:11434#f", Some("/ollama/#f")),
            ("http://localhost:11434//x", Some("/ollama//x")),
            ("https://localhost:11434/x", None),
            ("http://localhost/x", None),
            ("http://localhost:11434@evil/x", None),
            ("http://u@localhost:11434/x", None),
            ("http://localhost:114345/x", None),
            ("http:///x", None),
            ("http:/x", None),
            ("//localhost:11434/x", None),
            ("//evil/x", None),
            ("x/y", None),
            ("../x", None),
            ("./x", None),
            ("?q", None),
            ("#f", None),
            ("", None),
            ("mailto:a@b", None),
        ];
        for (value, want) in rows {
            let got = text(STRIPPED.reference(value.as_bytes()));
            assert_eq!(got.as_deref(), want, "{value}");
        }
        assert_eq!(
            STRIPPED.reference(b"/\xff").as_deref(),
            Some(&b"/ollama/\xff"[..]),
            "what is not text has a path all the same"
        );
    }

    #[test]
    fn references_without_a_prefix_only_lose_an_authority_that_the_client_does_not_know() {
        let rows = [
            ("/x", None),
            ("http://localhost:11434/x", Some("/x")),
            ("http://localhost:11434", Some("/")),
            ("http://localhost:11434//evil/x", None),
        ];
        for (value, want) in rows {
            let got = text(WHOLE.reference(value.as_bytes()));
            assert_eq!(got.as_deref(), want, "{value}");
        }
        let preserved = View {
            preserved: true,
            ..WHOLE
        };
        assert_eq!(preserved.reference(b"http://localhost:11434/x"), None);
    }

    #[test]
    fn the_port_of_the_scheme_is_no_port() {
        let rows = [
            ("http", "mac", "http://mac:80/x", true),
            ("http", "mac:80", "http://mac/x", true),
            ("http", "mac", "http://mac:443/x", false),
            ("https", "mac", "https://mac:443/x", true),
            ("https", "mac:443", "https://MAC/x", true),
            ("https", "mac", "http://mac/x", false),
        ];
        for (scheme, authority, value, own) in rows {
            let view = View {
                scheme,
                authority: authority.as_bytes(),
                ..STRIPPED
            };
            let got = text(view.reference(value.as_bytes()));
            let want = own.then_some("/ollama/x");
            assert_eq!(got.as_deref(), want, "{authority} {value}");
        }
    }

    #[test]
    fn cookies_get_the_prefix_on_their_path_and_lose_the_upstreams_domain() {
        let rows = [
            ("a=1; Path=/", Some("a=1; Path=/ollama")),
            ("a=1; Path=/x", Some("a=1; Path=/ollama/x")),
            ("a=1; Path=/x/", Some("a=1; Path=/ollama/x/")),
            ("a=1;path=/;Secure", Some("a=1;path=/ollama;Secure")),
            ("a=1; PATH = / ; b", Some("a=1; PATH = /ollama ; b")),
            (
                "a=1; HttpOnly; Path=/x; Max-Age=3",
                Some("a=1; HttpOnly; Path=/ollama/x; Max-Age=3"),
            ),
            ("a=1; Path=\"/\"", Some("a=1; Path=\"/ollama\"")),
            ("a=1; Path=\"/x\"", Some("a=1; Path=\"/ollama/x\"")),
            (
                "a=1; Path=/x; Path=/y",
                Some("a=1; Path=/ollama/x; Path=/ollama/y"),
            ),
            ("a=1", None),
            ("a=1; Secure", None),
            ("a=1; Path", None),
            ("a=1; Path=", None),
            ("a=1; Path=x", None),
            ("a=1; XPath=/x", None),
            ("path=/; Secure", None),
            ("a=/x", None),
            ("a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("__Host-a=1; Secure; Path=/", None),
            ("a=1; Domain=localhost", Some("a=1")),
            ("a=1; domain=.LOCALHOST; b", Some("a=1; b")),
            (
                "a=1; Domain=localhost; Path=/x",
                Some("a=1; Path=/ollama/x"),
            ),
            ("a=1; Domain=evil", None),
            ("a=1; Domain=host", None),
            ("a=1; Domain=", None),
            ("", None),
            (";", None),
        ];
        for (line, want) in rows {
            let got = text(STRIPPED.cookie(line.as_bytes()));
            assert_eq!(got.as_deref(), want, "{line}");
        }
        let whole = WHOLE.cookie(b"a=1; Path=/x; Domain=localhost");
        assert_eq!(text(whole).as_deref(), Some("a=1; Path=/x"));
    }

    #[test]
    fn a_domain_covers_the_host_and_what_is_below_it() {
        let rows = [
            ("mac.tail.ts.net:6333", "tail.ts.net", true),
            ("mac.tail.ts.net", "mac.tail.ts.net", true),
            ("mac.tail.ts.net.", "ts.net", true),
            ("mac.tail.ts.net", "ail.ts.net", false),
            ("ts.net", "tail.ts.net", false),
            ("[::1]:6333", "[::1]", true),
        ];
        for (authority, domain, want) in rows {
            let got = covers(domain.as_bytes(), host_of(authority.as_bytes()));
            assert_eq!(got, want, "{authority} {domain}");
        }
    }

    #[test]
    fn a_domain_that_was_made_for_the_clients_host_stays() {
        let view = View {
            preserved: true,
            ..STRIPPED
        };
        let got = view.cookie(b"a=1; Domain=localhost; Path=/");
        assert_eq!(
            text(got).as_deref(),
            Some("a=1; Domain=localhost; Path=/ollama")
        );
    }
}
