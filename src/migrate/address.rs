//! A site that is given by a URL.
//!
//! Pure. Invariant: a URL that may hold a secret is refused, and not repeated.

use std::net::Ipv6Addr;
use std::sync::Arc;

use http::{HeaderName, Uri};

use super::site::Address;
use crate::wire::Place;
use crate::wire::tls::Tls;
use crate::words::secret::Secret;

/// What Qdrant wants its key as.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The site at `url`, which is reached by this machine's own network.
///
/// # Errors
/// Text for people.
pub fn of_url(url: &str, key: Option<Secret>) -> Result<Address, String> {
    if url.contains('@') {
        return Err(
            "a URL must not hold a user or a password: name a variable that holds the \
                    key with --from-api-key-env or --to-api-key-env"
                .to_owned(),
        );
    }
    if url.contains(['?', '#']) {
        return Err("a URL of a Qdrant ends with its path: leave out ? and #".to_owned());
    }
    let odd = || format!("{url}: write it as http://HOST:6333 or https://HOST:6333");
    let uri: Uri = url.parse().map_err(|_| odd())?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(odd()),
    };
    let written = uri.host().filter(|host| !host.is_empty()).ok_or_else(odd)?;
    let bracketed = written
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().map_err(|_| odd())?.to_string(),
        None => written.to_ascii_lowercase(),
    };
    let usual = if secure { 443 } else { 80 };
    // What stands behind the colon and is no port would be left out in silence.
    let behind = uri.authority().map_or("", |it| it.as_str());
    let port = match (uri.port_u16(), behind.len() > written.len()) {
        (None | Some(0), true) => return Err(odd()),
        (port, _) => port.unwrap_or(usual),
    };
    let shown = bracketed.map_or_else(|| host.clone(), |_| format!("[{host}]"));
    let authority = if port == usual {
        shown
    } else {
        format!("{shown}:{port}")
    };
    let base = uri.path().trim_end_matches('/').to_owned();
    let scheme = if secure { "https" } else { "http" };
    Ok(Address {
        name: format!("{scheme}://{authority}{base}"),
        place: Place {
            host: Arc::from(host),
            port,
            direct: true,
            tls: secure.then(|| Tls::trusting(None)),
        },
        authority,
        base,
        headers: key.map(|key| (API_KEY, key)).into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_has_one_name_however_it_was_written() {
        for (url, name, host, port, tls) in [
            ("http://a:6333", "http://a:6333", "a", 6333, false),
            ("http://A:6333/", "http://a:6333", "a", 6333, false),
            ("HTTP://a:80", "http://a", "a", 80, false),
            (
                "https://a.example.com",
                "https://a.example.com",
                "a.example.com",
                443,
                true,
            ),
            (
                "http://h:8484/qdrant/",
                "http://h:8484/qdrant",
                "h",
                8484,
                false,
            ),
            ("http://[::1]:6333", "http://[::1]:6333", "::1", 6333, false),
        ] {
            let site = of_url(url, None).unwrap();
            assert_eq!(site.name, name, "{url}");
            assert_eq!((&*site.place.host, site.place.port), (host, port), "{url}");
            assert_eq!(site.place.tls.is_some(), tls, "{url}");
            assert!(site.place.direct);
        }
        assert_eq!(of_url("http://h:1/qdrant/", None).unwrap().base, "/qdrant");
    }

    #[test]
    fn what_is_no_url_of_a_qdrant_or_may_hold_a_secret_is_refused() {
        for url in [
            "a:6333",
            "ftp://a",
            "http://",
            "http://:6333",
            "http://a:x",
            "http://[x]:1",
            "http://a b",
        ] {
            assert!(of_url(url, None).is_err(), "{url}");
        }
        for url in [
            "http://me:canary-1@a:6333",
            "http://a:6333?api_key=canary-1",
        ] {
            let refused = of_url(url, None).unwrap_err();
            assert!(!refused.contains("canary-1"), "{refused}");
        }
    }

    #[test]
    fn a_key_goes_out_as_the_header_of_qdrant() {
        let site = of_url("http://a:1", Some(Secret::new("canary-1"))).unwrap();
        assert_eq!(site.headers[0].0, "api-key");
        assert!(!format!("{site:?}").contains("canary-1"));
    }
}
