//! Where a request may go: match, orders, schedule, plan.
//!
//! Pure: no await, no clock, no state. The snapshot, the verdicts and the time are arguments, so
//! that `explain` and tests call the very functions that traffic calls.

pub mod candidates;
pub mod known;
pub mod orders;
pub mod reason;
pub mod route;
pub mod schedule;
pub mod timeline;

#[cfg(test)]
mod tests;
