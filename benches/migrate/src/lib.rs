//! What both programs of the measurement share.

pub mod http;
