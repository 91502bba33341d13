//! How often somebody may present a wrong token. Pure but for what it remembers.
//!
//! Counts a minute at a time, each source by itself and all together, in memory that never grows:
//! sources that share a place share its count. While a source is over its limit no token of its is
//! looked at, be it right or wrong: otherwise guessing would go on and only its misses be hidden.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

const PLACES: usize = 256;
const WINDOW: Duration = Duration::from_mins(1);
/// More than a person mistypes.
const OF_ONE: u32 = 10;
/// More than all persons together mistype; a right token is refused too when it is reached.
const OF_ALL: u32 = 100;

/// Wrong tokens of the last minute.
#[derive(Debug)]
pub(super) struct Failures {
    hasher: RandomState,
    places: [Window; PLACES],
    all: Window,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Option<Instant>,
    count: u32,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            places: [Window::default(); PLACES],
            all: Window::default(),
        }
    }

    /// How long tokens from `source` are not looked at; `None`: they are.
    pub(super) fn blocked(&self, source: IpAddr, now: Instant) -> Option<Duration> {
        let one = self.places[self.place(source)].over(OF_ONE, now);
        one.max(self.all.over(OF_ALL, now))
    }

    /// A wrong one came; whether it is the first of a while from there.
    pub(super) fn count(&mut self, source: IpAddr, now: Instant) -> bool {
        self.all.count(now);
        let place = self.place(source);
        self.places[place].count(now) == 1
    }

    fn place(&self, source: IpAddr) -> usize {
        let network = match source.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // Who has one address of a network has all of them.
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 | 1 << 63,
        };
        let places = PLACES as u64;
        usize::try_from(self.hasher.hash_one(network) % places).unwrap_or(0)
    }
}

impl Window {
    fn count(&mut self, now: Instant) -> u32 {
        if self.left(now).is_none() {
            *self = Self {
                began: Some(now),
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }

    fn over(&self, limit: u32, now: Instant) -> Option<Duration> {
        self.left(now).filter(|_| self.count >= limit)
    }

    /// What is left of it.
    fn left(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.began?);
        WINDOW.checked_sub(since).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_is_blocked_for_the_rest_of_a_minute_and_all_are_when_many_fail() {
        let mut failures = Failures::new();
        let now = Instant::now();
        let one: IpAddr = "127.0.0.1".parse().unwrap();
        for turn in 0..OF_ONE {
            assert_eq!(failures.blocked(one, now), None, "{turn}");
            assert_eq!(failures.count(one, now), turn == 0);
        }
        assert_eq!(failures.blocked(one, now), Some(WINDOW));
        let later = now + WINDOW / 2;
        assert_eq!(failures.blocked(one, later), Some(WINDOW / 2));
        assert_eq!(failures.blocked(one, now + WINDOW), None);
        for source in 0..OF_ALL {
            let source = IpAddr::from((0x0a00_0000 + source).to_be_bytes());
            failures.count(source, later);
        }
        let other: IpAddr = "fd7a:115c:a1e0::1".parse().unwrap();
        assert_eq!(failures.blocked(other, later), Some(WINDOW / 2));
    }
}
