//! The token of the data listeners: who may ask at all.
//!
//! Pure but for taking the token out of the request. Invariant: a token of ours never goes
//! upstream; a credential that is not it passes as the client sent it.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use super::fields::Fields;
use crate::words::names::Kind;
use crate::words::secret::Secret;

/// A header of its own, so that `Authorization` may be the service's.
const OWN: HeaderName = HeaderName::from_static("x-tailhop-token");
/// Where qdrant-client puts the key that it is given.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Whether a request may come in; what was presented is taken out of it.
pub(super) fn admit(
    headers: &mut HeaderMap,
    fields: Fields,
    kind: Option<Kind>,
    token: Option<&Secret>,
) -> bool {
    let presented = token.is_some_and(|token| takes(headers, &OWN, |value| token.matches(value)));
    // Never for an upstream, be it right, wrong or not asked for.
    if fields.has(Fields::TOKEN) {
        headers.remove(OWN);
    }
    let Some(token) = token else {
        return true;
    };
    let bearer = |value: &[u8]| of_bearer(value).is_some_and(|value| token.matches(value));
    // All are looked at: presented twice, it must not go on in one of them.
    let by_bearer = takes(headers, &AUTHORIZATION, bearer);
    let by_key =
        kind == Some(Kind::Qdrant) && takes(headers, &API_KEY, |value| token.matches(value));
    presented || by_bearer || by_key
}

/// Removes `name` if it is there once and `fits`; whether it was so.
fn takes(headers: &mut HeaderMap, name: &HeaderName, fits: impl Fn(&[u8]) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    let fits = match (values.next(), values.next()) {
        (Some(only), None) => fits(only.as_bytes()),
        _ => false,
    };
    if fits {
        headers.remove(name);
    }
    fits
}

/// What follows `Bearer `; the scheme in any case (RFC 9110 11.1).
fn of_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// Whether these headers are let in by the token `canary`, and what of them goes on.
    fn sent(kind: Kind, lines: &[(&'static str, &'static str)]) -> (bool, Vec<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let (fields, token) = (Fields::of(&headers), Secret::new("canary"));
        let welcome = admit(&mut headers, fields, Some(kind), Some(&token));
        let rest = headers.iter().map(|(name, value)| {
            let value = value.to_str().unwrap();
            format!("{name}={value}")
        });
        (welcome, rest.collect())
    }

    #[test]
    fn each_way_to_present_the_token_is_taken_out_and_everything_else_passes() {
        use Kind::{Http, Ollama, Qdrant};
        const OWN: &str = "x-tailhop-token";
        for (kind, lines, welcome, passes) in [
            (Http, &[][..], false, &[][..]),
            (Http, &[(OWN, "canary")], true, &[]),
            (Http, &[(OWN, "canar")], false, &[]),
            (Http, &[(OWN, "canary"), (OWN, "canary")], false, &[]),
            (Ollama, &[("authorization", "Bearer canary")], true, &[]),
            (Ollama, &[("authorization", "bearer  canary")], true, &[]),
            (
                Ollama,
                &[("authorization", "Basic canary")],
                false,
                &["authorization=Basic canary"],
            ),
            // With a header of its own, Authorization is the service's.
            (
                Ollama,
                &[(OWN, "canary"), ("authorization", "Bearer other")],
                true,
                &["authorization=Bearer other"],
            ),
            (
                Ollama,
                &[(OWN, "other"), ("authorization", "Bearer canary")],
                true,
                &[],
            ),
            (
                Qdrant,
                &[
                    (OWN, "canary"),
                    ("authorization", "Bearer canary"),
                    ("api-key", "canary"),
                ],
                true,
                &[],
            ),
            (Qdrant, &[("api-key", "canary")], true, &[]),
            (Qdrant, &[("api-key", "other")], false, &["api-key=other"]),
            (
                Qdrant,
                &[("api-key", "other"), (OWN, "canary")],
                true,
                &["api-key=other"],
            ),
            (Http, &[("api-key", "canary")], false, &["api-key=canary"]),
        ] {
            let passes: Vec<_> = passes.iter().map(ToString::to_string).collect();
            assert_eq!(sent(kind, lines), (welcome, passes), "{kind} {lines:?}");
        }
    }

    #[test]
    fn without_a_token_all_are_let_in_and_keep_their_credentials() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert(OWN, HeaderValue::from_static("stray"));
        let fields = Fields::of(&headers);
        assert!(admit(&mut headers, fields, Some(Kind::Ollama), None));
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key(AUTHORIZATION));
    }
}
