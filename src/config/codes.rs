//! The code of every problem: stable, so that scripts and runbooks can name it.
//!
//! Owns the numbers, their severity and the word that a metric counts them under. A number is
//! never used again for something else.

use super::problem::Severity;

/// What kind of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    /// `E` or `W` and three digits.
    pub(super) id: &'static str,
    /// The word of the closed set that a metric counts it under.
    pub(super) reason: &'static str,
    /// Whether it says that something is absent: not to be trusted after a syntax error, which
    /// may have hidden what is said to be absent.
    pub(super) absence: bool,
}

const fn code(id: &'static str, reason: &'static str) -> Code {
    Code {
        id,
        reason,
        absence: false,
    }
}

const fn absence(id: &'static str, reason: &'static str) -> Code {
    Code {
        id,
        reason,
        absence: true,
    }
}

pub(super) const MISSING_FILE: Code = code("E001", "io");
pub(super) const UNREADABLE: Code = code("E002", "io");
pub(super) const NO_FILE: Code = code("E003", "io");
pub(super) const TOO_LARGE: Code = code("E004", "io");
pub(super) const NOT_UTF8: Code = code("E005", "io");
pub(super) const EMPTY: Code = code("E006", "io");
pub(super) const SYNTAX: Code = code("E010", "syntax");
pub(super) const UNKNOWN_KEY: Code = code("E011", "unknown_key");
pub(super) const WRONG_TYPE: Code = code("E012", "value");
pub(super) const MISSING: Code = absence("E013", "value");
pub(super) const VALUE: Code = code("E014", "value");
pub(super) const NO_NAME: Code = code("E015", "value");
pub(super) const REFERENCE: Code = absence("E016", "reference");
pub(super) const TWICE: Code = code("E017", "value");
pub(super) const CLASH: Code = code("E018", "value");
pub(super) const NO_INSTANT: Code = code("E019", "value");
pub(super) const UNSET_VARIABLE: Code = code("E020", "environment");
pub(super) const EXPANSION: Code = code("E021", "value");
pub(super) const TAILNET_NAME: Code = code("E022", "environment");
pub(super) const SWITCH_DATE: Code = absence("E023", "environment");
pub(super) const ACTIVE_BACKEND: Code = absence("E024", "environment");
pub(super) const WRITES_EXPIRE: Code = code("E025", "value");
pub(super) const OPEN_ADMIN: Code = code("E026", "value");
pub(super) const PLAIN_SECRET: Code = code("E027", "value");
pub(super) const SECRET: Code = code("E028", "io");
pub(super) const CA: Code = code("E029", "io");
pub(super) const TWO_SERVICES: Code = code("E030", "reference");
pub(super) const INCLUDE: Code = code("E031", "io");
pub(super) const CYCLE: Code = code("E032", "value");
pub(super) const ORDER_ELSEWHERE: Code = code("E033", "value");
pub(super) const OPEN_TO_TAILNET: Code = code("E040", "value");
pub(super) const ADMIN_FUNCTIONS: Code = code("E041", "environment");

pub(super) const OPEN_DATA: Code = code("W001", "value");
pub(super) const NEVER_FIRES: Code = code("W002", "value");
pub(super) const NO_END: Code = code("W003", "value");
pub(super) const REPLACED: Code = code("W004", "environment");
pub(super) const ASSUMED_DEFAULT: Code = absence("W005", "value");
pub(super) const NO_ROUTE: Code = absence("W006", "reference");
pub(super) const NOT_OFFERED: Code = absence("W007", "reference");
pub(super) const ALL_DRAINED: Code = absence("W008", "value");
pub(super) const IN_THE_CLEAR: Code = code("W009", "value");
pub(super) const NO_SERVICE: Code = absence("W010", "reference");
pub(super) const OUTSIDE: Code = code("W011", "value");
pub(super) const PASSED: Code = code("W012", "value");
pub(super) const EXPIRED: Code = code("W013", "value");
pub(super) const LOOKS_SECRET: Code = code("W014", "value");
pub(super) const SHORT_TOKEN: Code = code("W020", "value");

impl Code {
    /// Whether it stops the configuration from being used.
    pub(super) fn severity(self) -> Severity {
        if self.id.starts_with('W') {
            Severity::Warning
        } else {
            Severity::Error
        }
    }
}
