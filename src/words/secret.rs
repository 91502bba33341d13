//! A secret: a text that is used and never shown.
//!
//! Invariant: `Debug`, `Display` and `Serialize` print `***`, so that nothing which prints what
//! it has (a log, an error, a status page) can print a secret. Who needs the text asks for it by
//! [`Secret::expose`], which is easy to find in the code.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use subtle::ConstantTimeEq;

const SHOWN: &str = "***";

/// A text that is used and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret that `text` is.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Its text, to be sent to where it belongs and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a stranger presented it. How long that takes tells nothing but its length.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(SHOWN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_used_and_never_shown() {
        let secret = Secret::new("canary-1");
        let shown = format!(
            "{secret} {secret:?} {secret:#?} {}",
            serde_json::to_string(&Some(&secret)).unwrap()
        );
        assert_eq!(shown, "*** *** *** \"***\"");
        assert_eq!(secret.expose(), "canary-1");
    }

    #[test]
    fn only_the_very_same_bytes_match() {
        let secret = Secret::new("canary-1");
        assert!(secret.matches(b"canary-1"));
        for other in [&b""[..], b"canary-", b"canary-2", b"canary-11", b"CANARY-1"] {
            assert!(!secret.matches(other));
        }
    }
}
