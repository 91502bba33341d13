//! Whether, and where, a request is tried again: the only place that decides it. Pure.
//!
//! Nothing was written upstream: always safe. Anything written: what changes something is never
//! repeated, what does not is, until the first byte of an answer.

use crate::words::outcome::{Failure, Kind, Phase};

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Once more on the same backend, on a fresh connection.
    Same,
    /// On the next candidate.
    Next,
    /// No candidate can take it now: plan again after a pause, as long as it may wait.
    Wait,
    /// Give up: this failure is the answer.
    Stop,
}

/// Where a request stands when an attempt of it failed.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a column of the table"
)]
pub(super) struct Standing {
    /// Whether it changes something.
    pub(super) changes: bool,
    /// Whether its body can be sent again.
    pub(super) replayable: bool,
    /// Whether a candidate is left that was not asked in this round.
    pub(super) others: bool,
    /// Whether this backend was already tried again on a fresh connection.
    pub(super) tried_fresh: bool,
    /// Whether the budget allows one more to be sent a second time.
    pub(super) budget: bool,
    /// Whether one that finds a line full may go to another backend.
    pub(super) spill: bool,
    /// Whether some backend lacked what was asked for.
    pub(super) missing: bool,
}

/// What to do after `failure`.
pub(super) fn again(failure: &Failure, standing: Standing) -> Again {
    match failure.phase {
        Phase::Unsent => after_unsent(failure.kind, standing),
        Phase::Sent => after_sent(failure.kind, standing),
        Phase::Answering => after_answer(failure.kind, standing),
    }
}

fn after_unsent(kind: Kind, standing: Standing) -> Again {
    match kind {
        Kind::ClientGone | Kind::ClientBody | Kind::TotalLate => Again::Stop,
        Kind::Stale if !standing.tried_fresh => Again::Same,
        // Another place to wait is as good where that was said, and nowhere else.
        Kind::QueueFull if standing.spill && standing.others => Again::Next,
        Kind::QueueFull | Kind::QueueLate => Again::Stop,
        // The daemon is the same for all candidates.
        Kind::DaemonAbsent | Kind::DaemonStarting | Kind::NotLoggedIn => Again::Wait,
        _ if standing.others => Again::Next,
        // Waiting does not make a name known, a certificate right, nor data appear.
        Kind::UnknownName | Kind::NotInTailnet | Kind::Certificate => Again::Stop,
        _ if standing.missing => Again::Stop,
        _ => Again::Wait,
    }
}

fn after_sent(kind: Kind, standing: Standing) -> Again {
    let repeatable = !standing.changes && standing.replayable;
    match kind {
        _ if !repeatable => Again::Stop,
        Kind::Stale if !standing.tried_fresh => Again::Same,
        Kind::Lost | Kind::Hedged if standing.others => Again::Next,
        Kind::Broken | Kind::BadAnswer if !standing.budget => Again::Stop,
        Kind::Broken | Kind::Stale | Kind::BadAnswer if standing.others => Again::Next,
        Kind::Lost if standing.missing => Again::Stop,
        Kind::Lost => Again::Wait,
        Kind::Broken | Kind::Stale if !standing.tried_fresh => Again::Same,
        // Slowness alone never makes us send a request twice.
        _ => Again::Stop,
    }
}

fn after_answer(kind: Kind, standing: Standing) -> Again {
    match kind {
        Kind::NotThere | Kind::Busy if standing.others && standing.replayable => Again::Next,
        _ => Again::Stop,
    }
}

/// What is done when something fails, in words: what `again` says of the failures that people
/// ask about. `others`: whether a candidate is left.
pub fn tried_again(
    changes: bool,
    others: bool,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    const ASKED: [(&str, Kind, Phase); 7] = [
        ("the port refuses", Kind::Refused, Phase::Unsent),
        ("nobody answers the dial", Kind::Silent, Phase::Unsent),
        ("the Mac falls asleep with it", Kind::Lost, Phase::Sent),
        (
            "the connection breaks before an answer",
            Kind::Broken,
            Phase::Sent,
        ),
        ("no answer begins within head", Kind::HeadLate, Phase::Sent),
        (
            "a backend that is not active lacks the data",
            Kind::NotThere,
            Phase::Answering,
        ),
        ("the answer breaks off", Kind::Broken, Phase::Answering),
    ];
    let standing = Standing {
        changes,
        replayable: true,
        others,
        tried_fresh: false,
        budget: true,
        spill: false,
        missing: false,
    };
    ASKED
        .into_iter()
        // What changes something never left the active backend.
        .filter(move |(_, kind, _)| !(changes && *kind == Kind::NotThere))
        .map(move |(when, kind, phase)| {
            let failure = Failure {
                kind,
                phase,
                detail: "".into(),
            };
            let then = match (again(&failure, standing), phase) {
                (Again::Next, _) => "the next candidate",
                (Again::Same, _) => "once more, on a fresh connection",
                (Again::Wait, _) => "waits up to wait, then 503",
                (Again::Stop, Phase::Sent) if changes => "never again: 504, outcome unknown",
                (Again::Stop, Phase::Sent) => "not again: 504",
                (Again::Stop, Phase::Answering) if kind == Kind::NotThere => {
                    "nobody else is left: 503"
                }
                (Again::Stop, Phase::Answering) => "not again: the client sees it break",
                (Again::Stop, Phase::Unsent) => "not again",
            };
            (when, then)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Standing = Standing {
        changes: false,
        replayable: true,
        others: true,
        tried_fresh: false,
        budget: true,
        spill: false,
        missing: false,
    };
    const LAST: Standing = Standing {
        others: false,
        ..READ
    };
    const LAST_FRESH: Standing = Standing {
        tried_fresh: true,
        ..LAST
    };
    const MISSING: Standing = Standing {
        missing: true,
        ..LAST
    };
    const SPILLS: Standing = Standing {
        spill: true,
        ..READ
    };
    const SPILLS_LAST: Standing = Standing {
        spill: true,
        ..LAST
    };
    const SPENT: Standing = Standing {
        budget: false,
        ..READ
    };
    const STREAMED: Standing = Standing {
        replayable: false,
        ..READ
    };
    const WRITE: Standing = Standing {
        changes: true,
        others: false,
        ..READ
    };
    const WRITE_FRESH: Standing = Standing {
        tried_fresh: true,
        ..WRITE
    };

    const ROWS: [(Kind, Phase, Standing, Again); 44] = {
        use Again::{Next, Same, Stop, Wait};
        use Kind::{
            BadAnswer, Broken, Busy, Certificate, ClientBody, DaemonStarting, HeadLate, Hedged,
            IdleLate, Lost, NotThere, QueueFull, QueueLate, Refused, Silent, Stale, Tls,
            UnknownName,
        };
        use Phase::{Answering, Sent, Unsent};
        [
            // Nothing was sent: the next candidate, else wait; for writes the same backend only.
            (Refused, Unsent, READ, Next),
            (Silent, Unsent, LAST, Wait),
            (Refused, Unsent, WRITE, Wait),
            (Refused, Unsent, STREAMED, Next),
            (Stale, Unsent, WRITE, Same),
            (Stale, Unsent, WRITE_FRESH, Wait),
            (DaemonStarting, Unsent, READ, Wait),
            (UnknownName, Unsent, READ, Next),
            (UnknownName, Unsent, LAST, Stop),
            (Certificate, Unsent, READ, Next),
            (Certificate, Unsent, LAST, Stop),
            (Certificate, Unsent, WRITE, Stop),
            (Tls, Unsent, READ, Next),
            (Tls, Unsent, WRITE, Wait),
            (ClientBody, Unsent, READ, Stop),
            (Silent, Unsent, MISSING, Stop),
            (QueueFull, Unsent, READ, Stop),
            (QueueFull, Unsent, SPILLS, Next),
            (QueueFull, Unsent, SPILLS_LAST, Stop),
            (QueueLate, Unsent, SPILLS, Stop),
            // Something was sent and nothing came back.
            (Stale, Sent, READ, Same),
            (Stale, Sent, LAST_FRESH, Stop),
            (Lost, Sent, READ, Next),
            (Lost, Sent, LAST, Wait),
            (Lost, Sent, MISSING, Stop),
            (Lost, Sent, STREAMED, Stop),
            (Lost, Sent, WRITE, Stop),
            (Stale, Sent, WRITE, Stop),
            (Broken, Sent, WRITE, Stop),
            (Broken, Sent, READ, Next),
            (Broken, Sent, LAST, Same),
            (Broken, Sent, LAST_FRESH, Stop),
            (Broken, Sent, SPENT, Stop),
            (Lost, Sent, SPENT, Next),
            (Hedged, Sent, READ, Next),
            (BadAnswer, Sent, LAST, Stop),
            (HeadLate, Sent, READ, Stop),
            (ClientBody, Sent, READ, Stop),
            // An answer came.
            (NotThere, Answering, READ, Next),
            (NotThere, Answering, LAST, Stop),
            (NotThere, Answering, STREAMED, Stop),
            (Busy, Answering, READ, Next),
            (Broken, Answering, READ, Stop),
            (IdleLate, Answering, READ, Stop),
        ]
    };

    #[test]
    fn each_failure_leads_where_the_table_says() {
        for (kind, phase, standing, want) in ROWS {
            let failure = Failure {
                kind,
                phase,
                detail: "".into(),
            };
            assert_eq!(
                again(&failure, standing),
                want,
                "{kind:?} {phase:?} {standing:?}"
            );
        }
    }

    #[test]
    fn what_changes_something_is_never_repeated_once_sent() {
        for kind in [
            Kind::Lost,
            Kind::Broken,
            Kind::Stale,
            Kind::BadAnswer,
            Kind::HeadLate,
        ] {
            for others in [false, true] {
                let standing = Standing { others, ..WRITE };
                assert_eq!(
                    again(&Failure::sent(kind, ""), standing),
                    Again::Stop,
                    "{kind:?}"
                );
            }
        }
    }
}
