//! When a machine is looked at again although nobody called. Pure.
//!
//! Two things heal without being asked for: a repair that was spared is due as soon as its rate
//! allows, and a machine that counts as asleep may be awake behind a relay connection that died
//! while it slept, where no probe gets through. A dead relay connection was measured to be noticed
//! by tailscaled itself after two minutes, so the second kind is rare: it is looked for ever more
//! slowly, and a night in which all machines sleep costs a handful of repairs.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::inquiry::Finding;

/// From the verdict to the first look at a machine that sleeps.
const FIRST: Duration = Duration::from_mins(1);
/// Between two of them at most.
const MOST: Duration = Duration::from_hours(2);

/// The looks at one machine.
#[derive(Debug, Default)]
pub struct Looks {
    next: Option<Instant>,
    asleep: Option<Asleep>,
}

/// A machine that counts as asleep.
#[derive(Clone, Copy, Debug)]
struct Asleep {
    /// When that was last found.
    found: Instant,
    /// How long it is left alone then.
    pause: Duration,
}

impl Looks {
    /// Returns when the next look is due, which may be never.
    pub async fn due(&self) {
        match self.next {
            Some(next) => sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Since when it counts as asleep without a look.
    pub fn asleep_since(&self) -> Option<Instant> {
        self.asleep.map(|asleep| asleep.found)
    }

    /// A look at a machine in doubt, or at one that was `asleep`, came to a finding; it may have
    /// been `spared` a repair for so long. A byte last came from it `heard_ago`.
    pub fn looked(
        &mut self,
        finding: Finding,
        asleep: bool,
        spared: Option<Duration>,
        heard_ago: Option<Duration>,
        now: Instant,
    ) {
        match (finding, spared) {
            (Finding::Asleep, _) => self.sleeps(heard_ago, now),
            (Finding::Unknown, Some(rest)) => self.next = Some(now + rest),
            (Finding::Unknown, None) if asleep => self.sleeps(heard_ago, now),
            _ => *self = Self::default(),
        }
    }

    /// It counts as asleep.
    pub fn sleeps(&mut self, heard_ago: Option<Duration>, now: Instant) {
        let pause = match self.asleep {
            Some(before) if is_same(before, heard_ago, now) => (before.pause * 2).min(MOST),
            _ => FIRST,
        };
        self.asleep = Some(Asleep { found: now, pause });
        self.next = Some(now + pause);
    }

    /// It counts as asleep, and nothing asked tailscaled about it.
    pub fn sleeps_unasked(&mut self, heard_ago: Option<Duration>, now: Instant) {
        let planned = self
            .asleep
            .is_some_and(|before| is_same(before, heard_ago, now));
        if !planned {
            self.sleeps(heard_ago, now);
        }
    }
}

/// Whether nothing came from it since, so that it is the same sleep.
fn is_same(before: Asleep, heard_ago: Option<Duration>, now: Instant) -> bool {
    let slept = now.saturating_duration_since(before.found);
    heard_ago.is_none_or(|ago| ago >= slept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds from the first verdict at which a machine is looked at in `hours`, that is heard
    /// at none of them.
    fn night(hours: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut looks = Looks::default();
        looks.sleeps(None, start);
        let mut at = Vec::new();
        while let Some(next) = looks.next {
            let since = next - start;
            if since > Duration::from_hours(hours) {
                break;
            }
            at.push(since.as_secs());
            looks.looked(Finding::Asleep, true, None, Some(since), next);
        }
        at
    }

    #[test]
    fn a_night_asleep_costs_a_handful_of_looks() {
        let minutes: Vec<_> = night(8).iter().map(|second| second / 60).collect();
        assert_eq!(minutes, [1, 3, 7, 15, 31, 63, 127, 247, 367]);
    }

    #[test]
    fn a_machine_that_was_heard_is_looked_at_soon_again() {
        let start = Instant::now();
        let mut looks = Looks::default();
        looks.sleeps(None, start);
        looks.looked(Finding::Asleep, true, None, None, start + FIRST);
        assert_eq!(looks.next, Some(start + FIRST * 3));
        let again = start + FIRST * 10;
        looks.sleeps_unasked(Some(FIRST), again);
        assert_eq!(looks.next, Some(again + FIRST));
        looks.sleeps_unasked(Some(FIRST * 2), again + FIRST / 2);
        assert_eq!(looks.next, Some(again + FIRST), "the same sleep");
    }

    #[test]
    fn what_was_spared_is_due_when_its_rate_allows_and_what_answers_is_left_alone() {
        let start = Instant::now();
        let rest = Some(Duration::from_secs(4));
        let rows = [
            (Finding::Unknown, false, rest, Some(4)),
            (Finding::Unknown, true, rest, Some(4)),
            (Finding::Unknown, true, None, Some(60)),
            (Finding::Unknown, false, None, None),
            (Finding::Asleep, false, None, Some(60)),
            (Finding::RelayRepaired, true, None, None),
            (Finding::PathLost, false, rest, None),
        ];
        for (finding, asleep, spared, want) in rows {
            let mut looks = Looks::default();
            looks.looked(finding, asleep, spared, None, start);
            let next = looks.next.map(|next| (next - start).as_secs());
            assert_eq!(next, want, "{finding:?} {asleep} {spared:?}");
        }
    }
}
