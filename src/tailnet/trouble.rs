//! Why tailscaled could not be asked.
//!
//! Owns the conditions that asking LocalAPI and the proxy port share. Must not decide what they
//! mean for traffic: `view` does.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::words::clock::Deadline;

/// One failed question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The condition.
    pub what: What,
    /// The same for people, with the remedy where there is one.
    pub text: String,
}

/// What stands between us and an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Nobody listens there.
    Absent,
    /// We may not ask.
    Forbidden,
    /// Somebody listens and says nothing: tailscaled is starting, or stuck.
    Silent,
    /// It says that it is not ready.
    NotReady,
    /// The answer is not one.
    Broken,
}

impl Trouble {
    /// A trouble.
    pub(super) fn new(what: What, text: impl Into<String>) -> Self {
        Self {
            what,
            text: text.into(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}

impl What {
    /// What a failed connect to tailscaled tells.
    pub fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            // No file, nobody behind the file or port, or the file is no socket at all.
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
                Self::Absent
            }
            ErrorKind::PermissionDenied => Self::Forbidden,
            // A unix socket whose backlog is full: somebody bound it and does not accept.
            ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Broken,
        }
    }
}

/// The question's answer, or `silence` when it takes longer than `patience`.
pub(super) async fn within<T>(
    patience: Duration,
    silence: impl FnOnce() -> Trouble,
    question: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        answer = question => answer,
        () = Deadline::after(patience).passed() => Err(silence()),
    }
}
