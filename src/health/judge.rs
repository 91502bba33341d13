//! The judge: what was seen of an endpoint, and what that makes of it. Pure.
//!
//! Invariants: one failure never calls an endpoint lost; slowness alone never does; anything
//! heard ends every doubt at once; what the tunnel or the client did says nothing about a Mac.

use std::time::Duration;

use jiff::Timestamp;

use crate::endpoint::live::{Failures, Judgement};
use crate::words::outcome::{Failure, Kind, Phase};
use crate::words::verdict::Verdict;

/// Silent dials in a row before a machine counts as asleep. One lost packet is not sleep.
pub const SILENT_TO_ASLEEP: u32 = 2;
/// Refusals in a row before those who wait on its connections are told that it is lost. The first
/// refusal alone makes it `down` for new work.
pub const REFUSED_TO_LOST: u32 = 2;
/// Wrong or broken answers in a row before an endpoint counts as down.
pub const WRONG_TO_DOWN: u32 = 2;
/// A machine that another of its endpoints heard within this time is not asleep: its port is
/// filtered or its service hangs.
pub const HEARD_VETO: Duration = Duration::from_secs(4);

/// One piece of evidence about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It answered: a probe passed, or an answer's head came.
    Answered,
    /// It refused a dial: the machine is awake.
    Refused,
    /// Nobody answered a dial.
    Silent,
    /// It accepted a fresh connection and broke it, or answered wrongly.
    Wrong,
    /// It accepted a fresh connection and answered nothing in time: slow, or hanging.
    Slow,
}

impl Seen {
    /// What a failure says about the endpoint; `None`: nothing.
    pub fn of(failure: &Failure) -> Option<Self> {
        match (failure.kind, failure.phase) {
            (Kind::Refused, _) => Some(Self::Refused),
            (Kind::Silent, _) => Some(Self::Silent),
            (
                Kind::UnknownName
                | Kind::NotInTailnet
                | Kind::BadAnswer
                | Kind::Certificate
                | Kind::Tls,
                _,
            )
            | (Kind::Broken, Phase::Unsent | Phase::Sent) => Some(Self::Wrong),
            // The tunnel's, the client's, our own deadlines; a stale connection is no illness.
            _ => None,
        }
    }

    /// The word for it in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Wrong => "wrong",
            Self::Slow => "slow",
        }
    }
}

/// What `seen` makes of `before`, and whether it calls the endpoint lost for those who wait on
/// it. `heard_ago` is when a byte last came from any endpoint of its machine.
pub fn judge(
    before: &Judgement,
    seen: Seen,
    detail: &str,
    heard_ago: Option<Duration>,
    now: Timestamp,
) -> (Judgement, bool) {
    let failures = count(before.failures, seen);
    let verdict = verdict(before.verdict, failures, seen, heard_ago);
    let newly_asleep = verdict == Verdict::Asleep && before.verdict != Verdict::Asleep;
    let refused_for_good = seen == Seen::Refused && failures.refused == REFUSED_TO_LOST;
    let after = Judgement {
        verdict,
        since: if verdict == before.verdict {
            before.since
        } else {
            Some(now)
        },
        failures,
        last_error: match seen {
            Seen::Answered => before.last_error.clone(),
            _ => Some((detail.to_owned(), now)),
        },
    };
    (after, newly_asleep || refused_for_good)
}

fn count(before: Failures, seen: Seen) -> Failures {
    match seen {
        Seen::Answered => Failures::default(),
        Seen::Refused => Failures {
            refused: before.refused.saturating_add(1),
            ..Failures::default()
        },
        Seen::Silent => Failures {
            silent: before.silent.saturating_add(1),
            ..Failures::default()
        },
        Seen::Wrong => Failures {
            wrong: before.wrong.saturating_add(1),
            ..Failures::default()
        },
        Seen::Slow => before,
    }
}

fn verdict(
    before: Verdict,
    failures: Failures,
    seen: Seen,
    heard_ago: Option<Duration>,
) -> Verdict {
    let machine_heard = heard_ago.is_some_and(|ago| ago < HEARD_VETO);
    match seen {
        Seen::Answered => Verdict::Up,
        Seen::Refused => Verdict::Down,
        Seen::Silent if failures.silent < SILENT_TO_ASLEEP => worst(before, Verdict::Suspect),
        Seen::Silent if machine_heard => worst(before, Verdict::Suspect),
        Seen::Silent => Verdict::Asleep,
        Seen::Wrong if failures.wrong < WRONG_TO_DOWN => worst(before, Verdict::Suspect),
        Seen::Wrong => Verdict::Down,
        // A connection was accepted, so the machine is awake.
        Seen::Slow if before == Verdict::Asleep => Verdict::Suspect,
        Seen::Slow => worst(before, Verdict::Suspect),
    }
}

/// A doubt does not better a verdict.
fn worst(before: Verdict, doubt: Verdict) -> Verdict {
    match before {
        Verdict::Asleep | Verdict::Down => before,
        Verdict::Unknown | Verdict::Up | Verdict::Suspect => doubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Seen::{Answered, Refused, Silent, Slow, Wrong};
    use Verdict::{Asleep, Down, Suspect, Unknown, Up};

    /// Judges a sequence from `unknown`; gives the verdict after each piece and where it was lost.
    fn run(seen: &[Seen], heard_ago: Option<Duration>) -> (Vec<Verdict>, Vec<usize>) {
        let mut judgement = Judgement {
            verdict: Unknown,
            since: None,
            failures: Failures::default(),
            last_error: None,
        };
        let (mut verdicts, mut lost) = (vec![], vec![]);
        for (place, seen) in seen.iter().enumerate() {
            let (after, is_lost) =
                judge(&judgement, *seen, "why", heard_ago, Timestamp::UNIX_EPOCH);
            verdicts.push(after.verdict);
            lost.extend(is_lost.then_some(place));
            judgement = after;
        }
        (verdicts, lost)
    }

    #[test]
    fn evidence_leads_to_verdicts() {
        let rows: [(&[Seen], &[Verdict], &[usize]); 9] = [
            (&[Answered], &[Up], &[]),
            (&[Answered, Silent, Answered], &[Up, Suspect, Up], &[]),
            (&[Silent, Silent, Silent], &[Suspect, Asleep, Asleep], &[1]),
            (
                &[Refused, Refused, Refused, Answered],
                &[Down, Down, Down, Up],
                &[1],
            ),
            (&[Wrong, Wrong, Answered], &[Suspect, Down, Up], &[]),
            (
                &[Slow, Slow, Slow, Slow],
                &[Suspect, Suspect, Suspect, Suspect],
                &[],
            ),
            (
                &[Silent, Refused, Silent, Silent],
                &[Suspect, Down, Down, Asleep],
                &[3],
            ),
            (&[Silent, Silent, Slow], &[Suspect, Asleep, Suspect], &[1]),
            (
                &[Silent, Silent, Answered, Silent, Silent],
                &[Suspect, Asleep, Up, Suspect, Asleep],
                &[1, 4],
            ),
        ];
        for (seen, verdicts, lost) in rows {
            assert_eq!(
                run(seen, None),
                (verdicts.to_vec(), lost.to_vec()),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn a_machine_that_was_just_heard_is_not_asleep() {
        let heard = Some(Duration::from_secs(1));
        assert_eq!(
            run(&[Silent, Silent, Silent], heard),
            (vec![Suspect; 3], vec![])
        );
        let long_ago = Some(HEARD_VETO);
        assert_eq!(
            run(&[Silent, Silent], long_ago),
            (vec![Suspect, Asleep], vec![1])
        );
    }

    #[test]
    fn what_the_tunnel_or_the_client_did_says_nothing_about_a_mac() {
        for kind in [
            Kind::DaemonAbsent,
            Kind::DaemonStarting,
            Kind::NotLoggedIn,
            Kind::Tailnet,
            Kind::Stale,
            Kind::Lost,
            Kind::HeadLate,
            Kind::ClientGone,
            Kind::ClientBody,
        ] {
            assert_eq!(Seen::of(&Failure::sent(kind, "")), None, "{kind:?}");
        }
    }

    #[test]
    fn the_last_error_and_its_time_outlive_recovery() {
        let unknown = Judgement {
            verdict: Unknown,
            since: None,
            failures: Failures::default(),
            last_error: None,
        };
        let (down, _) = judge(&unknown, Refused, "refused", None, Timestamp::UNIX_EPOCH);
        let (up, _) = judge(&down, Answered, "", None, Timestamp::MAX);
        assert_eq!(
            up.last_error,
            Some(("refused".to_owned(), Timestamp::UNIX_EPOCH))
        );
        assert_eq!(up.since, Some(Timestamp::MAX));
    }
}
