//! tailhop: one local address for the models and vectors on your tailnet.

pub mod admin;
pub mod api;
pub mod app;
pub mod cache;
pub mod cli;
pub mod config;
pub mod endpoint;
pub mod health;
pub mod metrics;
pub mod migrate;
pub mod plan;
pub mod reload;
pub mod request;
pub mod supervise;
pub mod tailnet;
pub mod wire;
pub mod words;
