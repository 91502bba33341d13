//! The states of an endpoint and of the tunnel.

use std::fmt;

use serde::Serialize;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for it in outputs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// The state of an endpoint, judged from probes and traffic.
    Verdict {
        /// Nothing was seen of it yet.
        Unknown = "unknown",
        /// It answers.
        Up = "up",
        /// Something failed that may be nothing: others are asked first where that is allowed.
        Suspect = "suspect",
        /// The tunnel is fine and the whole machine silent.
        Asleep = "asleep",
        /// It refuses, or answers wrongly.
        Down = "down",
        /// It answers again after it went away several times: it is asked after the others for a
        /// while.
        Returning = "returning",
    }
);

words!(
    /// What a verdict rests on.
    Evidence {
        /// Nothing was seen yet.
        Nothing = "none",
        /// It answered a request, a probe or a dial.
        Answered = "answered",
        /// It refused a dial.
        Refused = "refused",
        /// It broke connections or answered wrongly.
        WrongAnswer = "wrong-answer",
        /// It accepted a connection and answered nothing in time.
        Slow = "slow",
        /// A dial was not answered within its head start.
        DialSilent = "dial-silent",
        /// Probes were not answered, and nothing else could be asked.
        ProbesSilent = "probes-silent",
        /// The machine answers a ping by relay: its direct path is lost.
        PathLost = "path-lost",
        /// The relay connection was dead and was repaired.
        RelayDead = "relay-dead",
        /// After a freeze there was no session with it; a new one was made.
        SessionOver = "session-over",
        /// The machine answers a ping, its port does not.
        PortSilent = "port-silent",
        /// The machine answers no ping, by no path, also after a repair.
        PingSilent = "ping-silent",
    }
);

words!(
    /// The state of the way into the tailnet.
    Tunnel {
        /// tailscaled is absent, or on its way to `Running`.
        Starting = "starting",
        /// tailscaled is running and logged in.
        Up = "up",
        /// tailscaled should be restarted: nothing else repairs it.
        Repairing = "repairing",
        /// tailscaled answers, but an operator has to act: logged out, stopped, not approved.
        Off = "off",
    }
);

words!(
    /// Why tailscaled should be restarted.
    Restart {
        /// Its LocalAPI answers nothing any more.
        LocalApiDead = "localapi-dead",
        /// It does not reach its relay, also after a repair.
        RelayDown = "relay-down",
    }
);

impl Verdict {
    /// Whether the endpoint is thought able to take work now.
    pub const fn able(self) -> bool {
        matches!(self, Self::Unknown | Self::Up)
    }
}
