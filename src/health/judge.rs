//! The judge: what was seen of an endpoint, and what that makes of it. Pure.
//!
//! Invariants: one failure never calls an endpoint lost; slowness alone never does; anything
//! heard ends every doubt at once; what the tunnel or the client did says nothing about a Mac.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::endpoint::live::{Failures, Falls, Judgement};
use crate::words::outcome::{Failure, Kind, Phase};
use crate::words::verdict::{Evidence, Verdict};

/// Silent dials in a row before a machine counts as asleep where tailscaled cannot be asked about
/// it. One lost packet is not sleep.
pub const SILENT_TO_ASLEEP: u32 = 2;
/// For so long such silence must last before those who wait on its connections are told.
pub const SILENT_TO_LOST: Duration = Duration::from_secs(10);
/// Refusals in a row before those who wait on its connections are told that it is lost. The first
/// refusal alone makes it `down` for new work.
pub const REFUSED_TO_LOST: u32 = 2;
/// Wrong or broken answers in a row before an endpoint counts as down.
pub const WRONG_TO_DOWN: u32 = 2;
/// A machine that another of its endpoints heard within this time is not asleep: its port is
/// filtered or its service hangs.
pub const HEARD_VETO: Duration = Duration::from_secs(4);
/// Falls within this time of each other are flapping.
pub const FLAPPING: Duration = Duration::from_mins(1);
/// Falls in quick succession that are forgiven.
pub const FALLS_FORGIVEN: u32 = 2;
/// How long one that flaps is held down at most.
pub const HELD_MOST: Duration = Duration::from_secs(30);

/// One piece of evidence about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It answered: a probe passed, or an answer's head came.
    Answered,
    /// It accepted a dial.
    Dialled,
    /// It refused a dial: the machine is awake.
    Refused,
    /// A dial was not answered within its head start.
    Late,
    /// Nobody answered a dial within its whole time.
    Silent,
    /// It accepted a fresh connection and broke it, or answered wrongly.
    Wrong,
    /// It accepted a fresh connection and answered nothing in time: slow, or hanging.
    Slow,
    /// The machine answered a ping by relay, though it had a direct path.
    PathLost,
    /// The machine answered a ping after the relay connection was repaired.
    RelayRepaired,
    /// The machine answered a ping and no dial since a freeze, and got a new session.
    SessionRenewed,
    /// The machine answered a ping by a path that is fine.
    Awake,
    /// The machine answered no ping, also after a repair.
    Asleep,
    /// We stood still: who slept before may be awake behind a tunnel that died.
    Thawed,
}

/// What surrounds a piece of evidence.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// When a byte last came from any endpoint of the machine.
    pub heard_ago: Option<Duration>,
    /// Whether tailscaled can be asked about the machine: then silence alone decides nothing.
    pub examined: bool,
    /// Wall time.
    pub wall: Timestamp,
    /// Monotonic time.
    pub now: Instant,
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
            Self::Answered | Self::Dialled => "ok",
            Self::Refused => "refused",
            Self::Late | Self::Silent => "silent",
            Self::Wrong => "wrong",
            Self::Slow => "slow",
            Self::PathLost => "path-lost",
            Self::RelayRepaired => "relay-repaired",
            Self::SessionRenewed => "session-renewed",
            Self::Awake => "awake",
            Self::Asleep => "asleep",
            Self::Thawed => "thawed",
        }
    }

    /// Whether it is a failure worth remembering.
    const fn is_trouble(self) -> bool {
        !matches!(
            self,
            Self::Answered
                | Self::Dialled
                | Self::RelayRepaired
                | Self::SessionRenewed
                | Self::Thawed
        )
    }
}

/// What `seen` makes of `before`, and whether those who wait on the endpoint's connections are to
/// be told that it is lost.
pub fn judge(before: &Judgement, seen: Seen, detail: &str, around: Around) -> (Judgement, bool) {
    let failures = count(before.failures, seen, around.now);
    let (verdict, evidence) = weigh(before, failures, seen, around);
    let falls = falls(before, verdict, around.now);
    let verdict = hold(before.verdict, verdict, &falls, around.now);
    let lost = is_lost(before, verdict, evidence, failures, seen, around);
    let after = Judgement {
        verdict,
        since: if verdict == before.verdict {
            before.since
        } else {
            Some(around.wall)
        },
        evidence,
        failures,
        falls: falls_held(falls, before.verdict, verdict, around.now),
        lost_told: verdict == before.verdict && before.lost_told || lost,
        last_error: if seen.is_trouble() {
            Some((detail.to_owned(), around.wall))
        } else {
            before.last_error.clone()
        },
    };
    (after, lost)
}

fn count(before: Failures, seen: Seen, now: Instant) -> Failures {
    let none = Failures::default();
    match seen {
        Seen::Answered => none,
        Seen::Refused => Failures {
            refused: before.refused.saturating_add(1),
            ..none
        },
        Seen::Silent => Failures {
            silent: before.silent.saturating_add(1),
            silent_since: before.silent_since.or(Some(now)),
            ..none
        },
        Seen::Wrong => Failures {
            wrong: before.wrong.saturating_add(1),
            ..none
        },
        // An accepted dial ends silence and refusal; what the service answers is another matter.
        Seen::Dialled | Seen::Slow => Failures {
            wrong: before.wrong,
            ..none
        },
        Seen::Late => Failures {
            silent_since: before.silent_since.or(Some(now)),
            ..before
        },
        Seen::PathLost
        | Seen::RelayRepaired
        | Seen::SessionRenewed
        | Seen::Awake
        | Seen::Asleep
        | Seen::Thawed => before,
    }
}

/// The table: what evidence makes of a verdict.
fn weigh(
    before: &Judgement,
    failures: Failures,
    seen: Seen,
    around: Around,
) -> (Verdict, Evidence) {
    let kept = (before.verdict, before.evidence);
    let doubt = |evidence| match before.verdict {
        // A doubt does not better a verdict.
        Verdict::Asleep | Verdict::Down => kept,
        _ => (Verdict::Suspect, evidence),
    };
    // What a ping found explains a doubt; it does not make one.
    let explained = |evidence| match before.verdict {
        Verdict::Suspect | Verdict::Asleep => (Verdict::Suspect, evidence),
        _ => kept,
    };
    let heard = around.heard_ago.is_some_and(|ago| ago < HEARD_VETO);
    match seen {
        Seen::Answered => (Verdict::Up, Evidence::Answered),
        Seen::Dialled if is_silence(before.evidence) => (Verdict::Up, Evidence::Answered),
        Seen::Dialled => kept,
        Seen::Refused => (Verdict::Down, Evidence::Refused),
        // Silence that is explained already stays explained.
        Seen::Late if is_silence(before.evidence) => doubt(before.evidence),
        Seen::Late => doubt(Evidence::DialSilent),
        Seen::Silent if around.examined || heard || failures.silent < SILENT_TO_ASLEEP => {
            if is_silence(before.evidence) {
                doubt(before.evidence)
            } else {
                doubt(Evidence::DialSilent)
            }
        }
        Seen::Silent => (Verdict::Asleep, Evidence::ProbesSilent),
        Seen::Wrong if failures.wrong < WRONG_TO_DOWN => doubt(Evidence::WrongAnswer),
        Seen::Wrong => (Verdict::Down, Evidence::WrongAnswer),
        // A connection was accepted, so the machine is awake.
        Seen::Slow if before.verdict == Verdict::Asleep => (Verdict::Suspect, Evidence::Slow),
        Seen::Slow => doubt(Evidence::Slow),
        Seen::PathLost => explained(Evidence::PathLost),
        Seen::RelayRepaired => explained(Evidence::RelayDead),
        Seen::SessionRenewed => explained(Evidence::SessionOver),
        Seen::Awake => explained(Evidence::PortSilent),
        Seen::Asleep => (Verdict::Asleep, Evidence::PingSilent),
        Seen::Thawed if before.verdict == Verdict::Asleep => {
            (Verdict::Suspect, Evidence::DialSilent)
        }
        Seen::Thawed => kept,
    }
}

/// Whether a verdict rests on silence, which any answered dial ends.
fn is_silence(evidence: Evidence) -> bool {
    matches!(
        evidence,
        Evidence::DialSilent
            | Evidence::ProbesSilent
            | Evidence::PathLost
            | Evidence::RelayDead
            | Evidence::SessionOver
            | Evidence::PortSilent
            | Evidence::PingSilent
    )
}

fn is_lost(
    before: &Judgement,
    verdict: Verdict,
    evidence: Evidence,
    failures: Failures,
    seen: Seen,
    around: Around,
) -> bool {
    let told = before.lost_told && before.verdict == verdict;
    match (verdict, evidence) {
        _ if told => false,
        (Verdict::Asleep, Evidence::PingSilent) => true,
        (Verdict::Asleep, _) => failures
            .silent_since
            .is_some_and(|since| around.now.saturating_duration_since(since) >= SILENT_TO_LOST),
        (Verdict::Down, Evidence::Refused) => {
            seen == Seen::Refused && failures.refused >= REFUSED_TO_LOST
        }
        _ => false,
    }
}

/// Counts a fall: from where work goes to where it does not.
fn falls(before: &Judgement, verdict: Verdict, now: Instant) -> Falls {
    let away = |verdict| matches!(verdict, Verdict::Asleep | Verdict::Down);
    if !away(verdict) || away(before.verdict) || before.verdict == Verdict::Unknown {
        return before.falls;
    }
    let quick = before
        .falls
        .last
        .is_some_and(|last| now.saturating_duration_since(last) < FLAPPING);
    let count = if quick {
        before.falls.count.saturating_add(1)
    } else {
        1
    };
    Falls {
        count,
        last: Some(now),
        held_until: None,
    }
}

/// One that flaps does not come back at once.
fn hold(before: Verdict, verdict: Verdict, falls: &Falls, now: Instant) -> Verdict {
    let back = verdict == Verdict::Up
        && matches!(before, Verdict::Asleep | Verdict::Down | Verdict::Returning);
    let held = match before {
        Verdict::Returning => falls.held_until.is_some_and(|until| now < until),
        _ => falls.count > FALLS_FORGIVEN,
    };
    if back && held {
        Verdict::Returning
    } else {
        verdict
    }
}

fn falls_held(falls: Falls, before: Verdict, verdict: Verdict, now: Instant) -> Falls {
    if verdict != Verdict::Returning || before == Verdict::Returning {
        return falls;
    }
    let doubled = 1_u64 << falls.count.saturating_sub(FALLS_FORGIVEN).min(6);
    let held = Duration::from_secs(doubled).min(HELD_MOST);
    Falls {
        held_until: Some(now + held),
        ..falls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Seen::{
        Answered, Asleep as PingSilent, Awake, Dialled, Late, PathLost, Refused, RelayRepaired,
        SessionRenewed, Silent, Slow, Thawed, Wrong,
    };
    use Verdict::{Asleep, Down, Returning, Suspect, Up};

    const SECOND: Duration = Duration::from_secs(1);

    /// Judges a sequence from `unknown`, a second apart; gives the verdict after each piece and
    /// where it was lost.
    fn run(
        seen: &[Seen],
        heard_ago: Option<Duration>,
        examined: bool,
    ) -> (Vec<Verdict>, Vec<usize>) {
        let mut judgement = Judgement::unknown();
        let (mut verdicts, mut lost) = (vec![], vec![]);
        let mut now = Instant::now();
        for (place, seen) in seen.iter().enumerate() {
            now += SECOND;
            let around = Around {
                heard_ago,
                examined,
                wall: Timestamp::UNIX_EPOCH,
                now,
            };
            let (after, is_lost) = judge(&judgement, *seen, "why", around);
            verdicts.push(after.verdict);
            lost.extend(is_lost.then_some(place));
            judgement = after;
        }
        (verdicts, lost)
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "the table")]
    fn evidence_leads_to_verdicts_where_tailscaled_can_be_asked() {
        let rows: [(&[Seen], &[Verdict], &[usize]); 18] = [
            (&[Answered], &[Up], &[]),
            (&[Answered, Late, Dialled], &[Up, Suspect, Up], &[]),
            (
                &[Answered, Late, Silent, Silent, Silent],
                &[Up, Suspect, Suspect, Suspect, Suspect],
                &[],
            ),
            (
                &[Late, PathLost, Late, Answered],
                &[Suspect, Suspect, Suspect, Up],
                &[],
            ),
            (
                &[Late, PathLost, Late, PingSilent],
                &[Suspect, Suspect, Suspect, Asleep],
                &[3],
            ),
            (
                &[Late, RelayRepaired, Dialled],
                &[Suspect, Suspect, Up],
                &[],
            ),
            (
                &[Late, SessionRenewed, Dialled],
                &[Suspect, Suspect, Up],
                &[],
            ),
            (&[Late, Awake], &[Suspect, Suspect], &[]),
            (
                &[Late, PingSilent, PingSilent, Answered],
                &[Suspect, Asleep, Asleep, Up],
                &[1],
            ),
            (&[Late, PingSilent, Dialled], &[Suspect, Asleep, Up], &[1]),
            (
                &[Late, PingSilent, Thawed],
                &[Suspect, Asleep, Suspect],
                &[1],
            ),
            (
                &[Answered, Thawed, Refused, Thawed],
                &[Up, Up, Down, Down],
                &[],
            ),
            (
                &[Answered, PathLost, Awake, RelayRepaired],
                &[Up, Up, Up, Up],
                &[],
            ),
            (
                &[Refused, Refused, Refused, Answered],
                &[Down, Down, Down, Up],
                &[1],
            ),
            (&[Refused, Late, PathLost], &[Down, Down, Down], &[]),
            (&[Wrong, Wrong, Answered], &[Suspect, Down, Up], &[]),
            (&[Wrong, Dialled, Wrong], &[Suspect, Suspect, Down], &[]),
            (
                &[Slow, Slow, Dialled, Slow],
                &[Suspect, Suspect, Suspect, Suspect],
                &[],
            ),
        ];
        for (seen, verdicts, lost) in rows {
            assert_eq!(
                run(seen, None, true),
                (verdicts.to_vec(), lost.to_vec()),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn where_nothing_can_be_asked_two_silent_dials_are_sleep_and_ten_seconds_are_loss() {
        assert_eq!(
            run(&[Silent, Silent, Answered], None, false),
            (vec![Suspect, Asleep, Up], vec![])
        );
        let long = [Silent; 12];
        let (verdicts, lost) = run(&long, None, false);
        assert_eq!(verdicts[1..], [Asleep; 11]);
        assert_eq!(lost, [10], "told once, ten seconds after the first");
    }

    #[test]
    fn a_machine_that_was_just_heard_is_not_asleep() {
        let heard = Some(SECOND);
        assert_eq!(run(&[Silent, Silent, Silent], heard, false).0, [Suspect; 3]);
        assert_eq!(
            run(&[Silent, Silent], Some(HEARD_VETO), false).0,
            [Suspect, Asleep]
        );
    }

    #[test]
    fn an_explained_silence_stays_explained_by_further_late_dials() {
        let around = Around {
            heard_ago: None,
            examined: true,
            wall: Timestamp::UNIX_EPOCH,
            now: Instant::now(),
        };
        let play = |seen: &[Seen]| {
            let begin = Judgement::unknown();
            let judged = seen
                .iter()
                .fold(begin, |before, seen| judge(&before, *seen, "", around).0);
            judged.evidence
        };
        assert_eq!(play(&[Late, PathLost, Late, Silent]), Evidence::PathLost);
        assert_eq!(
            play(&[Late, PathLost, Answered, Late]),
            Evidence::DialSilent
        );
        assert_eq!(play(&[Slow, Late]), Evidence::DialSilent);
    }

    #[test]
    fn only_one_that_flaps_is_held_down() {
        let once = [Answered, Refused, Answered];
        let seen: Vec<_> = std::iter::repeat_n(once, 3).flatten().collect();
        let (verdicts, _) = run(&seen, None, true);
        assert_eq!(verdicts, [Up, Down, Up, Up, Down, Up, Up, Down, Returning]);
        // Held for two seconds after the third fall; each piece comes a second later.
        let longer: Vec<_> = seen.into_iter().chain([Answered, Answered]).collect();
        assert_eq!(run(&longer, None, true).0[8..], [Returning, Returning, Up]);
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
        let around = |wall| Around {
            heard_ago: None,
            examined: true,
            wall,
            now: Instant::now(),
        };
        let unknown = Judgement::unknown();
        let (down, _) = judge(&unknown, Refused, "refused", around(Timestamp::UNIX_EPOCH));
        let (up, _) = judge(&down, Answered, "", around(Timestamp::MAX));
        assert_eq!(
            up.last_error,
            Some(("refused".to_owned(), Timestamp::UNIX_EPOCH))
        );
        assert_eq!(up.since, Some(Timestamp::MAX));
    }
}
