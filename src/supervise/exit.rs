//! How a process ended, and what that means: pure.
//!
//! Owns the codes that we leave with and the words for the end of a child.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Nobody could tell.
    pub(super) const UNKNOWN: Self = Self::Code(255);

    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::UNKNOWN,
        }
    }

    /// The code to leave with for it, as shells do.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match Signal::from_named_raw(*signal) {
                Some(named) => write!(f, "killed by {}", name(named)),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// The name of a signal.
pub(super) fn name(signal: Signal) -> String {
    // It prints `Signal::TERM`.
    let shown = format!("{signal:?}");
    let word = shown.rsplit("::").next().unwrap_or_default();
    let word = word.trim_end_matches(|end: char| !end.is_ascii_alphanumeric());
    match word {
        "ABORT" => "SIGABRT".to_owned(),
        "ALARM" => "SIGALRM".to_owned(),
        word => format!("SIG{word}"),
    }
}

/// What is known of a child's end besides its exit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances {
    /// The most memory that it was seen to hold, in bytes.
    pub(super) peak: Option<u64>,
    /// Whether the kernel killed something of this container for memory meanwhile; `None`: it does
    /// not count here.
    pub(super) killed_for_memory: Option<bool>,
    /// Whether the signal was ours.
    pub(super) by_us: bool,
}

/// Why a child ended, for people.
pub(super) fn reason(exit: Exit, known: Circumstances) -> String {
    let mut text = exit.to_string();
    let by_kernel = exit == Exit::Signal(Signal::KILL.as_raw()) && !known.by_us;
    if known.by_us {
        text += ", as we told it";
    } else if by_kernel {
        text += match known.killed_for_memory {
            Some(true) => ": out of memory, says the kernel; give the container more",
            Some(false) => ", not for memory: somebody else killed it",
            None => ": probably out of memory",
        };
    }
    if let Some(peak) = known.peak {
        text += &format!(" (peak memory {} MiB)", peak.div_ceil(1 << 20));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: Exit = Exit::Signal(9);

    #[test]
    fn we_leave_with_the_code_of_a_shell() {
        for (exit, code) in [
            (Exit::Code(0), 0),
            (Exit::Code(3), 3),
            (Exit::Signal(15), 143),
            (KILL, 137),
        ] {
            assert_eq!(exit.code(), code, "{exit}");
        }
        // As wait(2) tells them.
        assert_eq!(Exit::of(ExitStatus::from_raw(7 << 8)), Exit::Code(7));
        assert_eq!(Exit::of(ExitStatus::from_raw(11)), Exit::Signal(11));
    }

    #[test]
    fn a_kill_that_was_not_ours_is_probably_memory() {
        let known = |peak, killed_for_memory, by_us| Circumstances {
            peak,
            killed_for_memory,
            by_us,
        };
        for (exit, known, words) in [
            (Exit::Code(1), known(None, None, false), "exit code 1"),
            (
                Exit::Signal(6),
                known(None, None, false),
                "killed by SIGABRT",
            ),
            (
                KILL,
                known(Some(41 << 20), None, false),
                "killed by SIGKILL: probably out of memory (peak memory 41 MiB)",
            ),
            (
                KILL,
                known(None, Some(true), false),
                "killed by SIGKILL: out of memory, says the kernel; give the container more",
            ),
            (
                KILL,
                known(None, Some(false), false),
                "killed by SIGKILL, not for memory: somebody else killed it",
            ),
            (
                KILL,
                known(None, None, true),
                "killed by SIGKILL, as we told it",
            ),
        ] {
            assert_eq!(reason(exit, known), words);
        }
    }
}
