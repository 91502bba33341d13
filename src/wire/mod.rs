//! A byte stream to a place: the only part of the product that opens upstream connections.
//!
//! Owns dialling, by whichever way the tailnet offers, and the stream that comes of it. Must not
//! know HTTP beyond the heads of handshakes, nor decide whether to try again.

pub mod dial;
mod handshake;
mod head;
pub mod heard;
mod meaning;
pub mod stream;
pub mod tls;

pub use self::dial::{Place, dial, open};
pub use self::stream::Stream;
