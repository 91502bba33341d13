//! The vocabulary: the words that code, configuration, logs, metrics and pages share.
//!
//! Owns types without behaviour of the product. Uses nothing of ours, does no I/O.

pub mod clock;
pub mod effect;
pub mod names;
pub mod outcome;
pub mod secret;
pub mod units;
pub mod verdict;
