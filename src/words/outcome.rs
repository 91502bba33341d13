//! The one failure vocabulary: what failed, how far the request had come, on whose side.
//!
//! Every layer below `request` reports failures in these words; `request::again` decides by
//! them, `metrics` labels with them, and errors to clients are written from them.

use std::borrow::Cow;
use std::fmt;

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The port refused the connection: the machine is awake, the service is not there.
    Refused,
    /// No answer to a dial within our deadline.
    Silent,
    /// The host name is unknown to tailscaled or to DNS.
    UnknownName,
    /// The host is not in the tailnet, and tailhop does not dial around the tailnet.
    NotInTailnet,
    /// tailscaled is not there: no socket, or nobody listens on it or on its proxy port.
    DaemonAbsent,
    /// tailscaled is there and not `Running` yet.
    DaemonStarting,
    /// tailscaled is logged out, stopped, or waits for approval: somebody has to act.
    NotLoggedIn,
    /// tailscaled, or the local network stack, failed in a way that has no word of its own.
    Tailnet,
    /// The server's certificate is not to be trusted: expired, of another name, of an unknown
    /// issuer, or not one at all.
    Certificate,
    /// The TLS handshake failed in another way, or did not end in time.
    Tls,
    /// The connection broke: reset, closed too early, or an I/O error.
    Broken,
    /// A reused connection was already dead: nothing came back on it.
    Stale,
    /// The answer is not HTTP.
    BadAnswer,
    /// The endpoint was judged asleep or down while this request waited on it.
    Lost,
    /// A backend that is not the active one lacks what was asked for: no answer.
    NotThere,
    /// The backend has no room for it now.
    Busy,
    /// A cheap read was not answered at once, and another backend is asked instead.
    Hedged,
    /// As many requests as may wait for a place at the backend do.
    QueueFull,
    /// No place at the backend became free in time.
    QueueLate,
    /// No answer head within `head`.
    HeadLate,
    /// No piece of the body within `idle`.
    IdleLate,
    /// The request did not end within `total`.
    TotalLate,
    /// The answer ended without saying that it is complete, as its API says so.
    Truncated,
    /// The answer said what failed, and ended.
    ErrorInStream,
    /// The client left.
    ClientGone,
    /// The client sent a body that breaks HTTP, or stopped sending it.
    ClientBody,
}

/// How far the request had come towards the upstream when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Not one byte of it was written to an upstream connection.
    Unsent,
    /// Some of it was written, nothing came back: the outcome is unknown.
    Sent,
    /// The answer had begun.
    Answering,
}

/// Whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The app that asked.
    Client,
    /// tailscaled, or the way to it.
    Tailnet,
    /// The backend.
    Upstream,
    /// A deadline, or another bound, of ours.
    Deadline,
}

/// One failure.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What failed.
    pub kind: Kind,
    /// How far the request had come.
    pub phase: Phase,
    /// What the other side said, for people. Never a body, a query or a secret.
    pub detail: Cow<'static, str>,
}

impl Kind {
    /// The word for it in logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::UnknownName => "unknown-name",
            Self::NotInTailnet => "not-in-tailnet",
            Self::DaemonAbsent => "daemon-absent",
            Self::DaemonStarting => "daemon-starting",
            Self::NotLoggedIn => "not-logged-in",
            Self::Tailnet => "tailnet",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::Broken => "broken",
            Self::Stale => "stale",
            Self::BadAnswer => "bad-answer",
            Self::Lost => "lost",
            Self::NotThere => "not-there",
            Self::Busy => "busy",
            Self::Hedged => "hedged",
            Self::QueueFull => "queue-full",
            Self::QueueLate => "queue-late",
            Self::HeadLate => "head-late",
            Self::IdleLate => "idle-late",
            Self::TotalLate => "total-late",
            Self::Truncated => "truncated",
            Self::ErrorInStream => "error-in-stream",
            Self::ClientGone => "client-gone",
            Self::ClientBody => "client-body",
        }
    }

    /// Whose failure it is.
    pub const fn side(self) -> Side {
        match self {
            Self::ClientGone | Self::ClientBody => Side::Client,
            Self::UnknownName
            | Self::NotInTailnet
            | Self::DaemonAbsent
            | Self::DaemonStarting
            | Self::NotLoggedIn
            | Self::Tailnet => Side::Tailnet,
            Self::Refused
            | Self::Silent
            | Self::Certificate
            | Self::Tls
            | Self::Broken
            | Self::Stale
            | Self::BadAnswer
            | Self::Lost
            | Self::NotThere
            | Self::Busy
            | Self::Hedged
            | Self::Truncated
            | Self::ErrorInStream => Side::Upstream,
            Self::QueueFull
            | Self::QueueLate
            | Self::HeadLate
            | Self::IdleLate
            | Self::TotalLate => Side::Deadline,
        }
    }
}

impl Failure {
    /// A failure before anything was sent.
    pub fn unsent(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            phase: Phase::Unsent,
            detail: detail.into(),
        }
    }

    /// A failure after something was sent and before an answer began.
    pub fn sent(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            phase: Phase::Sent,
            detail: detail.into(),
        }
    }

    /// A failure after the answer began.
    pub fn answering(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            phase: Phase::Answering,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
