//! Evidence and verdicts: probes and traffic are seen, one pure judge says what they mean.
//!
//! Owns the thresholds, and the repair of the tunnel. Where a verdict leads is `plan`'s matter.

pub mod catalogue;
pub mod inquiry;
pub mod judge;
pub mod looks;
pub mod passive;
mod prewarm;
pub mod prober;
pub mod rates;
pub mod repair;
pub mod restart;
pub mod thaw;
