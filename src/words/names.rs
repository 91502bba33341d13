//! Names that people write into `routing.toml` and read in every output.
//!
//! Invariant: a name is 1 to 63 ASCII letters, digits, `-` or `_`, and begins with a letter or
//! digit, so it can stand in a path, a header, a metric label and a shell line unquoted.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Longest name accepted, in bytes: the limit of one DNS label, as backends usually are one.
pub const NAME_MAX: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, if `text` is one.
            pub fn new(text: &str) -> Option<Self> {
                is_name(text).then(|| Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// A machine, such as `macbook-m1`.
    BackendName
);
name!(
    /// An API that backends offer, such as `ollama`.
    ServiceName
);

/// Whether `text` can be a name.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() <= NAME_MAX
        && text.bytes().all(plain)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// What tailhop knows of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Ollama's native and OpenAI-shaped API.
    Ollama,
    /// Qdrant's REST API.
    Qdrant,
    /// Anything else that speaks HTTP.
    Http,
}

impl Kind {
    /// Every kind, in the order in which help texts name them.
    pub const ALL: [Self; 3] = [Self::Ollama, Self::Qdrant, Self::Http];

    /// The word for it in `routing.toml`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Qdrant => "qdrant",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_needs_no_quoting() {
        for good in ["macbook-m1", "mac_dev1", "1", "A9"] {
            assert!(BackendName::new(good).is_some(), "{good}");
        }
        let long = "x".repeat(NAME_MAX + 1);
        for bad in ["", "-x", "a b", "a/b", "日本", "a.b", long.as_str()] {
            assert!(BackendName::new(bad).is_none(), "{bad}");
        }
    }
}
