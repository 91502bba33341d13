//! How many requests may be sent a second time: a share of all, so that a fault is not answered
//! with a flood.
//!
//! What was not sent, and what is rescued from a machine that fell asleep, is outside of it.

use std::sync::atomic::{AtomicI64, Ordering};

/// What one request brings, and what one that is sent again costs: one in five.
const DEPOSIT: i64 = 1;
const COST: i64 = 5;
/// Three may be sent again without any traffic before, ten at once at most.
const FIRST: i64 = 3 * COST;
const MOST: i64 = 10 * COST;

/// The budget of one endpoint.
#[derive(Debug)]
pub struct Budget(AtomicI64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicI64::new(FIRST))
    }
}

impl Budget {
    /// A request is sent.
    pub fn deposit(&self) {
        // Two at once lose one deposit, which a budget can bear.
        let held = self.0.load(Ordering::Relaxed);
        if held < MOST {
            self.0.store(held + DEPOSIT, Ordering::Relaxed);
        }
    }

    /// Whether one may be sent again; it then counts as such.
    pub fn draw(&self) -> bool {
        let drawn = |held: i64| (held >= COST).then_some(held - COST);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, drawn)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_five_may_be_sent_again_and_ten_at_once_at_most() {
        let budget = Budget::default();
        let draws = |budget: &Budget| {
            std::iter::repeat_with(|| budget.draw())
                .take_while(|d| *d)
                .count()
        };
        assert_eq!(draws(&budget), 3);
        (0..20).for_each(|_| budget.deposit());
        assert_eq!(draws(&budget), 4);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(draws(&budget), 10);
    }
}
