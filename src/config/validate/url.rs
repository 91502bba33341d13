//! `backends.X.url`: a backend that is one origin, for one service.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use http::HeaderName;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::addresses::{is_dns_name, is_here};
use super::backends::is_broken_ip;
use super::{Scope, secrets};
use crate::config::codes;
use crate::config::fix::Fix;
use crate::config::problem::{Problems, quote};
use crate::config::raw::{At, Kept, Table};
use crate::config::snapshot::{BackendId, Service, Url};
use crate::config::source;
use crate::words::secret::Secret;

const EXAMPLE: &str = "write scheme and host, and a port if it is not the scheme's: \
                       \"https://qdrant.example.com:6333\"";

/// Headers that are ours to write: framing, addressing, and what says who we are.
const OURS: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-tailhop-token",
];

/// A url, and the host in it.
pub(super) struct Site {
    pub(super) url: Url,
    pub(super) host: String,
}

/// The url of a backend and what belongs to it, if it has one.
pub(super) fn read(
    scope: &Scope<'_>,
    name: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Option<Site> {
    if !table.has("url") {
        for key in ["headers", "read_headers", "ca"]
            .into_iter()
            .filter(|key| table.has(key))
        {
            let message = format!("backends.{}.{key} needs a url", name.value);
            problems
                .at(codes::VALUE, table.span_of(key), message)
                .help("it is for one service, and a host is for all: write url instead of host");
        }
        return None;
    }
    if let Some(entry) = table.entry("host") {
        let fix = Fix::remove_key(problems.text(), &entry);
        problems
            .at(
                codes::VALUE,
                table.span_of("host"),
                format!("backend {} has a host and a url", name.value),
            )
            .help("remove host: the url has one")
            .fix(fix);
    }
    let At { value, span } = table.get::<&str>("url")?;
    let (secure, authority) = match parts(value) {
        Ok(parts) => parts,
        Err(help) => {
            // It may have a password in it, or a key in its query.
            if value.contains(['@', '?', '#']) {
                problems.mask(&span);
            }
            let fix = origin(value).map(|origin| Fix::string(problems.text(), &span, &origin));
            problems
                .at(
                    codes::VALUE,
                    &span,
                    format!("url of {} is no origin", name.value),
                )
                .help(help)
                .fix(fix);
            // It stays one with a url, so that nothing else is said of it.
            return Some(site(false, (name.value.clone(), None), None));
        }
    };
    let mut site = site(secure, authority, roots(name, table, secure, problems));
    let mut read = |key| headers(scope, key, name, table, problems);
    site.url.headers = read("headers").unwrap_or_default();
    site.url.read_headers = read("read_headers");
    in_the_clear(&site, table, problems);
    Some(site)
}

/// Scheme and authority, if `url` is an origin and nothing more.
fn parts(url: &str) -> Result<(bool, (String, Option<u16>)), &'static str> {
    let (secure, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        _ => return Err(EXAMPLE),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err(
            "leave user and password out: write headers = { authorization = { env = \"..\" } }",
        );
    }
    if rest.contains(['/', '?', '#']) {
        return Err(
            "leave the path out: requests bring theirs, and a route can have one with \
                    strip = false",
        );
    }
    authority(rest)
        .map(|authority| (secure, authority))
        .ok_or(EXAMPLE)
}

/// The origin in a url with a path, or without a scheme; never of one that may hold a secret.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split('/').next()?;
    let origin = format!("{}://{authority}", scheme.to_ascii_lowercase());
    let plain = !url.contains(['@', '?', '#']) && parts(&origin).is_ok();
    plain.then_some(origin)
}

/// Host and port of an authority, if both are right.
fn authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().ok()?.to_string(),
        None => host.trim_end_matches('.').to_ascii_lowercase(),
    };
    let address = host.parse::<IpAddr>().is_ok();
    let named = is_dns_name(&host) && !is_broken_ip(&host);
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0)?),
        None => None,
    };
    let known = ServerName::try_from(host.as_str()).is_ok();
    ((address && bracketed.is_some() == host.contains(':') || named) && known)
        .then_some((host, port))
}

fn site(
    secure: bool,
    (host, port): (String, Option<u16>),
    roots: Option<Vec<CertificateDer<'static>>>,
) -> Site {
    let usual = if secure { 443 } else { 80 };
    let port = port.unwrap_or(usual);
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let authority = if port == usual {
        shown
    } else {
        format!("{shown}:{port}")
    };
    let url = Url {
        secure,
        port,
        authority,
        headers: Vec::new(),
        read_headers: None,
        roots,
    };
    Site { url, host }
}

fn headers(
    scope: &Scope<'_>,
    key: &str,
    backend: &At<String>,
    table: &Table,
    problems: &mut Problems<'_>,
) -> Option<Vec<(HeaderName, Secret)>> {
    let written = table.get::<&[(At<String>, At<Kept>)]>(key)?;
    let mut headers: Vec<(HeaderName, Secret)> = Vec::new();
    for (name, kept) in written.value {
        let header = HeaderName::from_bytes(name.value.as_bytes()).ok();
        let header = header.filter(|header| !OURS.contains(&header.as_str()));
        let Some(header) = header else {
            problems
                .at(
                    codes::VALUE,
                    &name.span,
                    format!("no header {} can be added", quote(&name.value)),
                )
                .help("headers are for credentials, such as api-key or authorization");
            continue;
        };
        if headers.iter().any(|(other, _)| *other == header) {
            super::twice(header.as_str(), &name.span, problems);
            continue;
        }
        let what = format!("backends.{}.{key}.{header}", backend.value);
        let kept = At {
            value: &kept.value,
            span: kept.span.clone(),
        };
        let secret = secrets::read(scope, &what, &kept, problems);
        headers.extend(secret.map(|secret| (header, secret)));
    }
    Some(headers)
}

/// The certificates of a `ca` file.
fn roots(
    name: &At<String>,
    table: &Table,
    secure: bool,
    problems: &mut Problems<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let At { value, span } = table.get::<&str>("ca")?;
    if !secure {
        let entry = table.entry("ca");
        let fix = entry.map(|entry| Fix::remove_key(problems.text(), &entry));
        problems
            .at(
                codes::VALUE,
                &span,
                format!("backends.{}.ca needs an https url", name.value),
            )
            .help("remove ca, or write https://")
            .fix(fix);
        return None;
    }
    let path = problems.file(value, &span);
    let found = source::bytes(&path)
        .map_err(|report| report.problems[0].message.clone())
        .and_then(|pem| trusted(&pem).map_err(|why| format!("{} {why}", path.display())));
    match found {
        Ok(roots) => Some(roots),
        Err(why) => {
            problems
                .at(
                    codes::CA,
                    &span,
                    format!("backends.{}.ca: {why}", name.value),
                )
                .help("write the path of a PEM file with the certificates of those to trust");
            None
        }
    }
}

/// The certificates in a PEM text, all of which can be trusted.
fn trusted(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|_| "is no PEM file")?;
    let mut store = RootCertStore::empty();
    for certificate in &found {
        let added = store.add(certificate.clone());
        added.map_err(|_| "has a certificate that cannot be read")?;
    }
    if found.is_empty() {
        return Err("has no certificate in it");
    }
    Ok(found)
}

/// Warns of credentials that anybody on the way can read. The tailnet encrypts by itself.
fn in_the_clear(site: &Site, table: &Table, problems: &mut Problems<'_>) {
    let inside = is_here(&site.host)
        || table
            .get::<&str>("dial")
            .is_some_and(|word| word.value == "tailnet");
    let read = site.url.read_headers.as_deref().unwrap_or_default();
    let key = match (site.url.headers.is_empty(), read.is_empty()) {
        (false, _) => "headers",
        (true, false) => "read_headers",
        (true, true) => return,
    };
    if !site.url.secure && !inside {
        let https = site.url.origin().replacen("http://", "https://", 1);
        let fix = Fix::string(problems.text(), table.span_of("url"), &https);
        problems
            .at(
                codes::IN_THE_CLEAR,
                table.span_of(key),
                format!("these headers go to {} unencrypted", site.url.origin()),
            )
            .help("write https:// if the server speaks it, or dial = \"tailnet\"")
            .fix(fix);
    }
}

/// Reports backends with a url that several services list, and those that none does.
pub(super) fn one_service_each(
    scope: &Scope<'_>,
    services: &[(Service, Range<usize>)],
    problems: &mut Problems<'_>,
) {
    let backends = scope.root.table("backends");
    let written = scope.root.table("services");
    let by_url = (scope.backends.iter().enumerate()).filter(|(_, backend)| backend.url.is_some());
    for (place, backend) in by_url {
        let id = BackendId(place);
        let mut listing = services
            .iter()
            .filter(|(service, _)| service.backends.contains(&id));
        let (first, second) = (listing.next(), listing.next());
        let span = backends.table(backend.name.as_str()).span_of("url");
        match (first, second) {
            (None, _) => {
                // With one service there is one that can be meant, unless it has a list already.
                let fix = match services {
                    [(service, _)] => {
                        let table = written.table(service.name.as_str());
                        let entry = format!("backends = [\"{}\"]", backend.name);
                        let free = !table.has("backends");
                        free.then(|| Fix::add_key(problems.text(), &table.span, &entry))
                    }
                    _ => None,
                };
                problems
                    .at(
                        codes::NO_SERVICE,
                        span,
                        format!("no service lists backend {}", backend.name),
                    )
                    .help(format!(
                        "add backends = [\"{}\"] to the service that it offers",
                        backend.name
                    ))
                    .fix(fix);
            }
            (Some((one, _)), Some((two, place))) => {
                problems
                    .at(
                        codes::TWO_SERVICES,
                        place,
                        format!(
                            "services {} and {} both list backend {}, whose url is one origin",
                            one.name, two.name, backend.name
                        ),
                    )
                    .help("give each a backend of its own: a url, and its headers, are of one service");
            }
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn a_url_is_an_origin_and_nothing_more() {
        for (url, secure, authority, host, port) in [
            (
                "https://q.example.com",
                true,
                "q.example.com",
                "q.example.com",
                443,
            ),
            (
                "https://q.example.com/",
                true,
                "q.example.com",
                "q.example.com",
                443,
            ),
            (
                "HTTPS://Q.Example.com.:443",
                true,
                "q.example.com",
                "q.example.com",
                443,
            ),
            (
                "https://q.example.com:6333",
                true,
                "q.example.com:6333",
                "q.example.com",
                6333,
            ),
            (
                "http://localhost:8080",
                false,
                "localhost:8080",
                "localhost",
                8080,
            ),
            ("http://10.0.0.1", false, "10.0.0.1", "10.0.0.1", 80),
            (
                "https://[fd00::1]:8443",
                true,
                "[fd00::1]:8443",
                "fd00::1",
                8443,
            ),
        ] {
            let (is_secure, authority_) = parts(url).unwrap();
            let site = site(is_secure, authority_, None);
            assert_eq!(
                (
                    is_secure,
                    site.url.authority.as_str(),
                    site.host.as_str(),
                    site.url.port
                ),
                (secure, authority, host, port),
                "{url}"
            );
        }
        for (url, words) in [
            ("", "scheme and host"),
            ("q.example.com", "scheme and host"),
            ("ftp://q.example.com", "scheme and host"),
            ("https://", "scheme and host"),
            ("https://q.example.com:0", "scheme and host"),
            ("https://q.example.com:x", "scheme and host"),
            ("https://a b", "scheme and host"),
            ("https://100.64.0.256", "scheme and host"),
            ("https://fd00::1", "scheme and host"),
            ("https://u:p@q.example.com", "user and password"),
            ("https://q.example.com/v1", "leave the path out"),
            ("https://q.example.com?key=1", "leave the path out"),
            ("https://q.example.com//", "leave the path out"),
        ] {
            assert!(parts(url).unwrap_err().contains(words), "{url}");
        }
    }
}
