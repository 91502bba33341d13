//! placeholder
pub mod problem;
pub mod snapshot;
