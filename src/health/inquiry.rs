//! Why does a machine not answer dials: the questions to tailscaled, in their order. Pure.
//!
//! A ping larger than the direct path is known to carry goes by relay too (measured, v1.102.3):
//! path lost: answered over the relay in 3 ms; relay dead: silent, and answered 6 ms after
//! `break-derp-conns`; asleep: silent before and after. After a freeze of more than a minute a
//! machine may answer pings and lack a session: tailscaled asked for one at once, the answer was lost
//! with the relay connection, and it asks again after five seconds (measured: 5.03 s; 0.05 s after
//! `down-up`).

use std::time::Duration;

/// How long the first ping is waited for. An answer over a relay takes tens of milliseconds.
pub const FIRST: Duration = Duration::from_millis(300);
/// How long the second one is: a new relay connection is made on the way.
pub const SECOND: Duration = Duration::from_secs(1);

/// What is known so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inquiry {
    /// Whether the machine had a direct path when it fell silent.
    pub had_direct_path: bool,
    /// What the first ping brought.
    pub first: Option<Ping>,
    /// What became of `rebind`.
    pub rebind: Option<Done>,
    /// What became of `break-derp-conns`.
    pub relay_break: Option<Done>,
    /// What the second ping brought.
    pub second: Option<Ping>,
    /// Whether there is a session with it.
    pub session: Session,
    /// Whether bytes came from another machine over the relay a moment ago: it is not dead.
    pub relay_proven: bool,
    /// Whether a byte came from the machine since the question was asked.
    pub heard: bool,
}

/// Whether there is a `WireGuard` session with a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// There should be.
    #[default]
    There,
    /// It may lack since a freeze.
    MayLack,
    /// What became of `down-up`.
    Renewed(Done),
}

/// What a ping brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// An answer by a direct path.
    Direct,
    /// An answer by relay.
    Relayed,
    /// Nothing.
    Silent,
    /// tailscaled cannot ask.
    Impossible,
}

/// What became of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was made, by us or for another machine a moment ago.
    Made,
    /// Not now: it was made too often.
    Spared,
    /// tailscaled does not let us, or repairs are switched off.
    Refused,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ping, and wait so long.
    Ping(Duration),
    /// Give up the direct paths.
    Rebind,
    /// Give up the relay connections.
    BreakRelay,
    /// Give up the sessions.
    NewSessions,
    /// This is it.
    Conclude(Finding),
}

/// Why a machine does not answer dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It does by now.
    Answers,
    /// Its direct path is lost; the relay works.
    PathLost,
    /// The relay connection was dead; it works again.
    RelayRepaired,
    /// There was no session with it since a freeze; now there is.
    SessionRenewed,
    /// It is awake and reached; its port is silent.
    Awake,
    /// It sleeps, or is gone.
    Asleep,
    /// Not to be found out now.
    Unknown,
}

impl Inquiry {
    /// Whether a ping was answered.
    fn is_answered(self) -> bool {
        let pings = [self.first, self.second];
        pings.contains(&Some(Ping::Direct)) || pings.contains(&Some(Ping::Relayed))
    }

    /// Whether what was found is repaired, so that fresh dials do better than those before.
    pub fn repaired(&self, finding: Finding) -> bool {
        match finding {
            Finding::RelayRepaired | Finding::SessionRenewed => true,
            Finding::PathLost => self.rebind == Some(Done::Made),
            Finding::Answers => self.relay_break == Some(Done::Made),
            Finding::Awake | Finding::Asleep | Finding::Unknown => false,
        }
    }
}

/// What to do next, after what is known so far.
pub fn next(known: Inquiry) -> Step {
    if known.heard {
        // Silent before the repair, and heard after it: a dial was faster than the ping.
        let repaired = known.relay_break == Some(Done::Made) && known.second != Some(Ping::Silent);
        return Step::Conclude(if repaired {
            Finding::RelayRepaired
        } else {
            Finding::Answers
        });
    }
    match known.session {
        Session::MayLack if known.is_answered() => return Step::NewSessions,
        Session::Renewed(Done::Made) => return Step::Conclude(Finding::SessionRenewed),
        _ => {}
    }
    match known.first {
        None => Step::Ping(FIRST),
        Some(Ping::Impossible) => Step::Conclude(Finding::Unknown),
        Some(Ping::Direct) => Step::Conclude(Finding::Awake),
        Some(Ping::Relayed) => after_relayed(known),
        Some(Ping::Silent) => after_silence(known),
    }
}

fn after_relayed(known: Inquiry) -> Step {
    match (known.had_direct_path, known.rebind) {
        (false, _) => Step::Conclude(Finding::Awake),
        (true, None) => Step::Rebind,
        (true, Some(_)) => Step::Conclude(Finding::PathLost),
    }
}

fn after_silence(known: Inquiry) -> Step {
    match (known.relay_proven, known.relay_break, known.second) {
        (false, None, _) => Step::BreakRelay,
        // The relay may be dead: silence proves nothing.
        (false, Some(Done::Spared | Done::Refused), _) => Step::Conclude(Finding::Unknown),
        (_, _, None) => Step::Ping(SECOND),
        (_, _, Some(Ping::Silent)) => Step::Conclude(Finding::Asleep),
        (_, _, Some(Ping::Impossible)) => Step::Conclude(Finding::Unknown),
        (true, _, Some(_)) => Step::Conclude(Finding::Awake),
        (false, _, Some(_)) => Step::Conclude(Finding::RelayRepaired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays an inquiry against a world; gives the steps and the finding.
    fn play(mut known: Inquiry, first: Ping, second: Ping, done: Done) -> (Vec<Step>, Finding) {
        let mut steps = vec![];
        loop {
            let step = next(known);
            match step {
                Step::Ping(_) if known.first.is_none() => known.first = Some(first),
                Step::Ping(_) => known.second = Some(second),
                Step::Rebind => known.rebind = Some(done),
                Step::BreakRelay => known.relay_break = Some(done),
                Step::NewSessions => known.session = Session::Renewed(done),
                Step::Conclude(finding) => return (steps, finding),
            }
            steps.push(step);
        }
    }

    /// What is known at first, what two pings bring, what becomes of repairs; then the steps and the
    /// finding.
    type Row = (Inquiry, Ping, Ping, Done, &'static [Step], Finding);

    #[test]
    #[expect(clippy::too_many_lines, reason = "the table")]
    fn each_fault_is_found_out_by_its_steps() {
        use Done::{Made, Refused, Spared};
        use Finding::{Asleep, Awake, PathLost, RelayRepaired, SessionRenewed, Unknown};
        use Ping::{Direct, Impossible, Relayed, Silent};
        use Step::{BreakRelay, NewSessions, Rebind};
        const ONE: Step = Step::Ping(FIRST);
        const TWO: Step = Step::Ping(SECOND);
        let relay = Inquiry::default();
        let direct = Inquiry {
            had_direct_path: true,
            ..relay
        };
        let proven = Inquiry {
            relay_proven: true,
            ..direct
        };
        let thawed = Inquiry {
            session: Session::MayLack,
            ..direct
        };
        let rows: [Row; 20] = [
            (direct, Relayed, Silent, Made, &[ONE, Rebind], PathLost),
            (direct, Relayed, Silent, Spared, &[ONE, Rebind], PathLost),
            (direct, Direct, Silent, Made, &[ONE], Awake),
            (relay, Relayed, Silent, Made, &[ONE], Awake),
            (
                relay,
                Silent,
                Relayed,
                Made,
                &[ONE, BreakRelay, TWO],
                RelayRepaired,
            ),
            (
                direct,
                Silent,
                Relayed,
                Made,
                &[ONE, BreakRelay, TWO],
                RelayRepaired,
            ),
            (relay, Silent, Silent, Made, &[ONE, BreakRelay, TWO], Asleep),
            (
                direct,
                Silent,
                Silent,
                Made,
                &[ONE, BreakRelay, TWO],
                Asleep,
            ),
            (proven, Silent, Silent, Made, &[ONE, TWO], Asleep),
            (proven, Silent, Relayed, Made, &[ONE, TWO], Awake),
            (relay, Silent, Silent, Spared, &[ONE, BreakRelay], Unknown),
            (relay, Silent, Silent, Refused, &[ONE, BreakRelay], Unknown),
            (relay, Impossible, Silent, Made, &[ONE], Unknown),
            (
                thawed,
                Direct,
                Silent,
                Made,
                &[ONE, NewSessions],
                SessionRenewed,
            ),
            (
                thawed,
                Relayed,
                Silent,
                Made,
                &[ONE, NewSessions],
                SessionRenewed,
            ),
            (thawed, Direct, Silent, Refused, &[ONE, NewSessions], Awake),
            (
                thawed,
                Relayed,
                Silent,
                Spared,
                &[ONE, NewSessions, Rebind],
                PathLost,
            ),
            (
                thawed,
                Silent,
                Relayed,
                Made,
                &[ONE, BreakRelay, TWO, NewSessions],
                SessionRenewed,
            ),
            (
                thawed,
                Silent,
                Silent,
                Made,
                &[ONE, BreakRelay, TWO],
                Asleep,
            ),
            (
                relay,
                Silent,
                Impossible,
                Made,
                &[ONE, BreakRelay, TWO],
                Unknown,
            ),
        ];
        for (known, first, second, done, steps, finding) in rows {
            let played = play(known, first, second, done);
            assert_eq!(
                played,
                (steps.to_vec(), finding),
                "{known:?} {first:?} {second:?} {done:?}"
            );
        }
    }

    #[test]
    fn fresh_dials_do_better_only_after_a_repair() {
        let broken = Inquiry {
            relay_break: Some(Done::Made),
            ..Inquiry::default()
        };
        let rebound = Inquiry {
            rebind: Some(Done::Made),
            ..Inquiry::default()
        };
        let spared = Inquiry {
            rebind: Some(Done::Spared),
            ..Inquiry::default()
        };
        let rows = [
            (broken, Finding::RelayRepaired, true),
            (Inquiry::default(), Finding::SessionRenewed, true),
            (broken, Finding::Answers, true),
            (broken, Finding::Asleep, false),
            (rebound, Finding::PathLost, true),
            (spared, Finding::PathLost, false),
            (Inquiry::default(), Finding::Answers, false),
        ];
        for (known, finding, want) in rows {
            assert_eq!(known.repaired(finding), want, "{known:?} {finding:?}");
        }
    }

    #[test]
    fn any_byte_ends_it() {
        let heard = Inquiry {
            heard: true,
            first: Some(Ping::Silent),
            ..Inquiry::default()
        };
        let rows = [
            (None, None, Finding::Answers),
            (Some(Done::Spared), None, Finding::Answers),
            (Some(Done::Made), None, Finding::RelayRepaired),
            (
                Some(Done::Made),
                Some(Ping::Relayed),
                Finding::RelayRepaired,
            ),
            (Some(Done::Made), Some(Ping::Silent), Finding::Answers),
        ];
        for (relay_break, second, finding) in rows {
            let known = Inquiry {
                relay_break,
                second,
                ..heard
            };
            assert_eq!(next(known), Step::Conclude(finding), "{known:?}");
        }
    }
}
