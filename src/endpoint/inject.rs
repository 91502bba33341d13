//! What a request to an endpoint gets besides: the headers of its backend, with secrets.
//!
//! Owns which of them. Invariant: where only reads are meant, the headers for everything never go
//! out, whatever name they have; so a server that tells keys apart cannot be made to write.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::snapshot::Url;
use crate::words::secret::Secret;

type Headers = Vec<(HeaderName, HeaderValue)>;

/// The headers of one backend.
#[derive(Debug, Default)]
pub struct Inject {
    all: Headers,
    reads: Option<Headers>,
}

impl Inject {
    /// Those that belong to `url`.
    pub fn of(url: Option<&Url>) -> Self {
        let Some(url) = url else {
            return Self::default();
        };
        Self {
            all: sent(&url.headers),
            reads: url.read_headers.as_deref().map(sent),
        }
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.reads.is_none()
    }

    /// Puts them into the headers of a request, in place of what was sent under those names.
    pub fn put(&self, to: &mut HeaderMap, only_reads: bool) {
        let headers = match &self.reads {
            Some(reads) if only_reads => {
                for (name, _) in &self.all {
                    to.remove(name);
                }
                reads
            }
            _ => &self.all,
        };
        for (name, value) in headers {
            to.insert(name, value.clone());
        }
    }
}

fn sent(headers: &[(HeaderName, Secret)]) -> Headers {
    headers
        .iter()
        .filter_map(|(name, secret)| {
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some((name.clone(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(inject: &Inject, only_reads: bool) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for name in ["api-key", "x-team", "accept"] {
            headers.append(name, HeaderValue::from_static("client"));
            headers.append(name, HeaderValue::from_static("twice"));
        }
        inject.put(&mut headers, only_reads);
        let pair = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let mut all: Vec<_> = headers.iter().map(pair).collect();
        all.retain(|(name, _)| name != "accept");
        all.sort();
        all
    }

    fn of(pairs: &[(&'static str, &'static str)]) -> Headers {
        let pair = |(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().copied().map(pair).collect()
    }

    #[test]
    fn where_only_reads_are_meant_nothing_else_goes_out() {
        let writes = [("api-key", "writes"), ("x-team", "a")];
        let with = |reads: Option<&[(&'static str, &'static str)]>| Inject {
            all: of(&writes),
            reads: reads.map(of),
        };
        let own = [
            ("api-key", "client"),
            ("api-key", "twice"),
            ("x-team", "client"),
            ("x-team", "twice"),
        ];
        let (key, bearer) = ([("api-key", "reads")], [("authorization", "Bearer reads")]);
        for (inject, only_reads, want) in [
            (Inject::default(), true, &own[..]),
            (with(None), true, &writes),
            (with(Some(&key)), false, &writes),
            (with(Some(&key)), true, &key),
            (with(Some(&bearer)), true, &bearer),
            (with(Some(&[])), true, &[]),
        ] {
            let want: Vec<_> = (want.iter())
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(got(&inject, only_reads), want, "{inject:?} {only_reads}");
        }
    }
}
