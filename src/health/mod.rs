//! Evidence and verdicts: probes and traffic are seen, one pure judge says what they mean.
//!
//! Owns the thresholds. Where a verdict leads is `plan`'s matter; the repair of the tunnel will
//! stand here too.

pub mod judge;
pub mod passive;
pub mod prober;
