//! The kind `http`: only the method is known, unless `rules` of the file say more.

use http::Method;

use super::{read, write};
use crate::words::effect::Meaning;

pub(super) const OPS: &[&str] = &["read", "write", "inference", "admin"];

/// By RFC 9110 9.2.1 these methods are safe; anything else may change something.
pub(super) fn meaning(method: &Method) -> Meaning {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => read("read"),
        _ => write("write"),
    }
}
