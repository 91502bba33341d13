//! The scripted peers of the integration tests.

pub(crate) mod tailscaled;
