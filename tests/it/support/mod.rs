//! The scripted peers of the integration tests, and the app between them.

pub(crate) mod app;
pub(crate) mod client;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod tailscaled;
pub(crate) mod time;
pub(crate) mod tls;
pub(crate) mod upstream;
