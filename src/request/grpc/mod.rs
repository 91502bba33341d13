//! gRPC: one call, from its head to its trailers, over HTTP/2 on both sides.
//!
//! The same plan, race, rescue and record as for HTTP/1, and types of its own for what is different:
//! calls share connections, an answer ends with trailers, and a client leaves by a reset. Nothing of
//! it stands in the way of a request of HTTP/1.
//!
//! Invariants: messages and metadata pass as they came; a call that was not answered ends with a
//! status of ours, never with a clean end.

mod ask;
mod body;
mod connection;
mod flood;
mod respond;
mod serve;

pub(super) use connection::{connection, full};
