//! tailhop: one local address for the models and vectors on your tailnet.

pub mod api;
pub mod config;
pub mod metrics;
pub mod plan;
pub mod words;
