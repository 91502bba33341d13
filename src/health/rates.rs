//! How often the tunnel may be repaired. Pure but for what it remembers.
//!
//! A repair is felt by everything that uses the tunnel, and all Macs asleep every night must cost
//! a handful of them: each kind every 5 s a machine, with backoff to 60 s, and one a second over
//! all.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::words::names::BackendName;

const LEAST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_mins(1);
const OVER_ALL: Duration = Duration::from_secs(1);
/// A freeze of at least this may have ended `WireGuard`'s sessions: they live for 180 s, and traffic
/// renews those that are older than 120 s.
const SESSION_LEFT: Duration = Duration::from_mins(1);
/// For so long after the freeze a session may lack that lost its handshake: the next one is sent
/// after 5 s and up to 0.334 s more (wireguard-go, `RekeyTimeout`).
const SESSION_LACKS: Duration = Duration::from_secs(6);
/// A tailscaled that refused is not asked again for so long: its rights change with a restart.
const OFF: Duration = Duration::from_mins(10);

/// A repair of the tunnel, by its name in LocalAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repair {
    /// Gives up all direct paths and finds new ones.
    Rebind,
    /// Gives up all relay connections and makes new ones.
    BreakRelay,
    /// Gives up all sessions of `WireGuard` and makes new ones.
    NewSessions,
}

/// Whether a repair may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may, and counts as made.
    Granted,
    /// It was made for another machine since the doubt arose, which will do.
    Shared,
    /// It was made too often: not before so long has passed.
    In(Duration),
}

/// What was repaired when.
#[derive(Debug, Default)]
pub struct Rates {
    last: Option<Instant>,
    refused: Option<Instant>,
    /// When the process went on after a freeze that may have ended sessions.
    thawed: Option<Instant>,
    made: HashMap<Repair, Instant>,
    machines: HashMap<(BackendName, Repair), (Instant, Duration)>,
}

impl Repair {
    /// The action of `POST /localapi/v0/debug`, or what two commands do.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rebind => "rebind",
            Self::BreakRelay => "break-derp-conns",
            Self::NewSessions => "down-up",
        }
    }
}

impl Rates {
    /// tailscaled refused a repair.
    pub fn refused(&mut self, now: Instant) {
        self.refused = Some(now);
    }

    /// Whether repairs are off because tailscaled refused one.
    pub fn are_off(&self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.refused.is_some_and(|then| since(then) < OFF)
    }

    /// The process went on after it stood still for `frozen`.
    pub fn thawed(&mut self, frozen: Duration, now: Instant) {
        if frozen >= SESSION_LEFT {
            self.thawed = Some(now);
        }
    }

    /// Whether sessions may lack since a freeze: those that machines had ended in it, and new ones
    /// were asked for before there was a path for the answer.
    pub fn sessions_lack(&self, now: Instant) -> bool {
        let renewed = self.made(Repair::NewSessions);
        self.thawed.is_some_and(|then| {
            let lately = now.saturating_duration_since(then) < SESSION_LACKS;
            lately && renewed.is_none_or(|made| made < then)
        })
    }

    /// When `repair` was last made.
    pub fn made(&self, repair: Repair) -> Option<Instant> {
        self.made.get(&repair).copied()
    }

    /// Whether `repair` may be made for `machine` now, which is in doubt since `doubt`.
    pub fn ask(
        &mut self,
        machine: &BackendName,
        repair: Repair,
        doubt: Instant,
        now: Instant,
    ) -> Leave {
        let since = |then: Instant| now.saturating_duration_since(then);
        // It concerns all machines alike: what was made for another since then will do. What was
        // made before may have broken again since.
        if self.made.get(&repair).is_some_and(|then| *then >= doubt) {
            return Leave::Shared;
        }
        let key = (machine.clone(), repair);
        let before = self.machines.get(&key).copied();
        let own = before.map_or(Duration::ZERO, |(then, pause)| {
            pause.saturating_sub(since(then))
        });
        let all = self
            .last
            .map_or(Duration::ZERO, |then| OVER_ALL.saturating_sub(since(then)));
        let rest = own.max(all);
        if !rest.is_zero() {
            return Leave::In(rest);
        }
        let pause = match before {
            Some((then, pause)) if since(then) < pause * 2 => (pause * 2).min(MOST),
            _ => LEAST,
        };
        self.machines.insert(key, (now, pause));
        self.made.insert(repair, now);
        self.last = Some(now);
        Leave::Granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_of_a_machine_back_off_and_those_of_another_count() {
        let (m1, m2) = (
            BackendName::new("m1").unwrap(),
            BackendName::new("m2").unwrap(),
        );
        let start = Instant::now();
        let mut rates = Rates::default();
        let mut ask = |machine: &BackendName, repair, doubt, millis| {
            let at = |millis| start + Duration::from_millis(millis);
            rates.ask(machine, repair, at(doubt), at(millis))
        };
        let wait = |millis| Leave::In(Duration::from_millis(millis));
        let rows = [
            (&m1, Repair::BreakRelay, 0, Leave::Granted),
            (&m2, Repair::BreakRelay, 500, wait(500)),
            (&m2, Repair::Rebind, 900, wait(100)),
            (&m2, Repair::Rebind, 1_000, Leave::Granted),
            (&m1, Repair::BreakRelay, 4_900, wait(100)),
            (&m1, Repair::BreakRelay, 5_000, Leave::Granted),
            (&m1, Repair::BreakRelay, 14_000, wait(1_000)),
            (&m1, Repair::BreakRelay, 15_000, Leave::Granted),
            (&m1, Repair::BreakRelay, 200_000, Leave::Granted),
            (&m1, Repair::BreakRelay, 205_000, Leave::Granted),
        ];
        for (place, (machine, repair, millis, want)) in rows.into_iter().enumerate() {
            assert_eq!(ask(machine, repair, millis, millis), want, "row {place}");
        }
        let shared = ask(&m2, Repair::BreakRelay, 204_900, 205_500);
        assert_eq!(shared, Leave::Shared, "made for another, after the doubt");
    }

    #[test]
    fn a_night_of_needless_repairs_is_one_a_minute() {
        let m1 = BackendName::new("m1").unwrap();
        let (start, mut rates) = (Instant::now(), Rates::default());
        let made = (0..8 * 3600).filter(|second| {
            let now = start + Duration::from_secs(*second);
            rates.ask(&m1, Repair::BreakRelay, now, now) == Leave::Granted
        });
        assert!(made.count() < 8 * 60 + 10);
    }

    #[test]
    fn sessions_lack_for_six_seconds_after_a_freeze_of_a_minute_and_are_renewed_once() {
        let m1 = BackendName::new("m1").unwrap();
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut rates = Rates::default();
        assert!(!rates.sessions_lack(start));
        rates.thawed(59 * second, start);
        assert!(!rates.sessions_lack(start));
        rates.thawed(60 * second, start);
        assert!(rates.sessions_lack(start + 5 * second));
        assert!(!rates.sessions_lack(start + 6 * second));
        let leave = rates.ask(&m1, Repair::NewSessions, start, start + second);
        assert_eq!(leave, Leave::Granted);
        assert!(!rates.sessions_lack(start + 2 * second));
        rates.thawed(600 * second, start + 700 * second);
        assert!(rates.sessions_lack(start + 701 * second));
    }

    #[test]
    fn a_refusal_switches_repairs_off_for_ten_minutes() {
        let (start, mut rates) = (Instant::now(), Rates::default());
        assert!(!rates.are_off(start));
        rates.refused(start);
        assert!(rates.are_off(start + OFF / 2));
        assert!(!rates.are_off(start + OFF));
    }
}
