//! The integration tests: the real product in-process, against scripted peers on port 0.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admin;
mod attacks;
mod cache;
mod candidates;
mod chaos;
mod data;
mod dial;
mod effects;
mod ends;
mod explain;
mod forward;
mod framing;
mod grpc;
mod headers;
mod honest;
mod limits;
mod many;
mod models;
mod odd;
mod orders;
mod ports;
mod prewarm;
mod queue;
mod race;
mod reload;
mod repair;
mod rescue;
mod retries;
mod scale;
mod streams;
mod support;
mod thaw;
mod tls;
mod token;
mod tunnel;
mod upgrade;
mod work;
mod writes;
