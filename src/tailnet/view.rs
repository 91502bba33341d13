//! What is known of the tailnet at one moment, and what follows from it: pure.
//!
//! Owns the step from one round of questions to the next view, and the admission of hosts. Must
//! not ask, wait or read a clock. Invariant: a view that is `up` has a way, and everything it was
//! made from (settings, netmap) belongs together.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::localapi::Status;
use super::peers::{Peers, plain};
use super::trouble::{Trouble, What};
use crate::config::snapshot::{DialWay, Tailnet as Settings};
use crate::words::outcome::Kind;
use crate::words::verdict::Tunnel;

/// How many rounds in a row LocalAPI may be silent before a tunnel that was up is not called so
/// any more. One is no evidence: tailscaled answers nothing while another call holds its lock, and
/// dials work meanwhile.
const MISSES_FORGIVEN: u32 = 2;

/// What is known of the tailnet.
#[derive(Clone, Debug)]
pub struct View {
    /// Whether the tailnet can be dialled.
    pub state: Tunnel,
    /// The way that dials take; never `Auto`. `None`: none was found yet.
    pub way: Option<DialWay>,
    /// tailscaled's own word for its state; empty when it was not asked or did not say.
    pub backend_state: String,
    /// The tailnet's suffix, from the configuration or else from tailscaled.
    pub suffix: Option<String>,
    /// The netmap; `None`: not known.
    pub peers: Option<Arc<Peers>>,
    /// This machine's addresses in the tailnet.
    pub self_ips: Vec<IpAddr>,
    /// When this machine's node key expires and it leaves the tailnet; `None`: never, or not known.
    pub key_expiry: Option<Timestamp>,
    /// This machine's full name in the tailnet, without a dot at its end; empty when not known.
    pub self_name: String,
    /// tailscaled's version; empty when not known.
    pub version: String,
    /// Whether this machine is connected to the control plane; when it is not, the netmap may be
    /// old. True when not known.
    pub online: bool,
    /// Whether LocalAPI answered when it was last asked. True when it was not asked.
    pub answers: bool,
    /// Whether tailscaled says that it does not reach its relay.
    pub relay_down: bool,
    /// Who feels what is done to the tunnel.
    pub users: Users,
    /// What is wrong and what to do about it, for people; empty when nothing is.
    pub detail: String,
    /// Since when the state and the way are what they are.
    pub since: Timestamp,
    /// What a dial fails with while the tunnel is not up.
    pub(super) blocked: Kind,
    /// The settings that this view was made with: where its way leads.
    pub(super) settings: Arc<Settings>,
    misses: u32,
}

/// Who uses the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Who asks tailscaled to dial: it is in userspace mode.
    Dials,
    /// The whole machine: tailscaled has a network interface.
    Machine,
}

/// What who keeps tailscaled says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Nothing: it is kept by others, or it runs.
    Nothing,
    /// It is being started and logged in: that it is absent or logged out means nothing yet.
    Starting,
    /// What keeps it from running, for people, with the remedy.
    Trouble(String),
}

/// What one round of questions brought.
#[derive(Debug)]
pub(super) struct Round {
    /// LocalAPI's answer.
    pub(super) status: Result<Status, Trouble>,
    /// The proxy port's, where it was asked.
    pub(super) proxy: Option<Result<DialWay, Trouble>>,
}

impl View {
    /// The view before the first round.
    pub(super) fn first(settings: Arc<Settings>, now: Timestamp) -> Self {
        let direct = settings.dial == DialWay::Direct;
        Self {
            state: if direct { Tunnel::Up } else { Tunnel::Starting },
            way: direct.then_some(DialWay::Direct),
            backend_state: String::new(),
            suffix: settings.suffix.as_deref().map(plain),
            peers: None,
            self_ips: Vec::new(),
            key_expiry: None,
            self_name: String::new(),
            version: String::new(),
            online: true,
            answers: true,
            relay_down: false,
            users: Users::Dials,
            detail: if direct {
                ""
            } else {
                "tailscaled was not asked yet"
            }
            .to_owned(),
            since: now,
            blocked: Kind::DaemonStarting,
            settings,
            misses: 0,
        }
    }

    /// The view while tailscaled is taken down and up.
    pub(super) fn renewing(&self, now: Timestamp) -> Self {
        Self {
            state: Tunnel::Starting,
            blocked: Kind::DaemonStarting,
            detail: "sessions that ended in a freeze are made anew".to_owned(),
            since: now,
            ..self.clone()
        }
    }

    /// The view after a round that was asked with `settings`; `None`: there was nobody to ask.
    pub(super) fn next(
        &self,
        settings: &Arc<Settings>,
        round: Option<Round>,
        keeper: &Keeper,
        now: Timestamp,
    ) -> Self {
        let mut next = Self::first(Arc::clone(settings), now);
        if let Some(Round { status, proxy }) = round {
            if self.forgives(settings, &status) {
                return Self {
                    misses: self.misses + 1,
                    answers: false,
                    ..self.clone()
                };
            }
            next.way = way(settings.dial, &status, proxy.as_ref());
            next.judge(&status, proxy);
            next.answers = match &status {
                Ok(_) => true,
                Err(trouble) => trouble.what == What::Forbidden,
            };
            match status {
                Ok(status) => next.learn(status),
                Err(trouble) if trouble.what == What::Silent && self.settings == *settings => {
                    next.remember(self);
                }
                Err(_) => {}
            }
            next.hear(keeper);
        }
        if (self.state, self.way) == (next.state, next.way) {
            next.since = self.since;
        }
        next
    }

    /// Whether a silent LocalAPI changes nothing yet.
    fn forgives(&self, settings: &Arc<Settings>, status: &Result<Status, Trouble>) -> bool {
        let silent = matches!(status, Err(trouble) if trouble.what == What::Silent);
        silent
            && self.state == Tunnel::Up
            && !self.backend_state.is_empty()
            && self.misses < MISSES_FORGIVEN
            && *self.settings == **settings
    }

    /// Sets the state, and what is wrong.
    fn judge(&mut self, status: &Result<Status, Trouble>, proxy: Option<Result<DialWay, Trouble>>) {
        let wrong = match (status, proxy) {
            (Ok(status), proxy) => {
                not_running(status).or_else(|| proxy?.err().map(|trouble| unasked(&trouble)))
            }
            (Err(_), Some(Ok(_))) => None,
            (Err(_), Some(Err(trouble))) if self.settings.dial != DialWay::Auto => {
                Some(unasked(&trouble))
            }
            (Err(trouble), _) => Some(unasked(trouble)),
        };
        (self.state, self.blocked, self.detail) = match wrong {
            Some(wrong) => wrong,
            None => (Tunnel::Up, Kind::DaemonStarting, self.remark(status)),
        };
    }

    /// What it means that we keep this tailscaled ourselves: nobody else will log it in or start it.
    fn hear(&mut self, keeper: &Keeper) {
        match keeper {
            Keeper::Trouble(text) if self.state != Tunnel::Up => self.detail.clone_from(text),
            Keeper::Starting if matches!(&*self.backend_state, "NeedsLogin" | "Stopped") => {
                self.state = Tunnel::Starting;
                self.blocked = Kind::DaemonStarting;
                "tailscaled is logging in".clone_into(&mut self.detail);
            }
            _ => {}
        }
    }

    /// What people should know of a tunnel that is up.
    fn remark(&self, status: &Result<Status, Trouble>) -> String {
        let told = self.suffix.as_deref();
        match status {
            Err(_) if told.is_none() => "tailscaled's LocalAPI cannot be asked, so no name is \
                 known to be in the tailnet: set tailnet.name, or make tailscaled's socket readable"
                .to_owned(),
            Err(trouble) => format!("whether tailscaled is logged in is not known: {trouble}"),
            Ok(status) if !status.me.online => "not connected to the control plane: the list of \
                 machines may be old"
                .to_owned(),
            Ok(status) if told.is_some_and(|told| told != plain(&status.suffix)) => format!(
                "tailnet.name is {}, and tailscaled is in {}",
                told.unwrap_or_default(),
                status.suffix
            ),
            Ok(status) => status.health.join("; "),
        }
    }

    /// Takes over what tailscaled says.
    fn learn(&mut self, status: Status) {
        self.peers = Some(Arc::new(Peers::of(&status)));
        let theirs = plain(&status.suffix);
        self.suffix = self
            .suffix
            .take()
            .or((!theirs.is_empty()).then_some(theirs));
        self.online = status.me.online;
        self.key_expiry = status.me.key_expiry;
        self.users = if status.tun {
            Users::Machine
        } else {
            Users::Dials
        };
        self.relay_down = status.health.iter().any(|text| tells_of_relay(text));
        self.self_ips = status.me.ips;
        self.self_name = plain(&status.me.dns_name);
        self.version = status.version;
        self.backend_state = status.backend_state;
    }

    /// Keeps what was known of a tailnet whose LocalAPI hangs while its proxy works: the machines
    /// of a tailnet do not leave it by that.
    fn remember(&mut self, before: &Self) {
        self.peers.clone_from(&before.peers);
        self.suffix.clone_from(&before.suffix);
        self.self_ips.clone_from(&before.self_ips);
        self.key_expiry = before.key_expiry;
        self.self_name.clone_from(&before.self_name);
        self.version.clone_from(&before.version);
    }
}

/// Whether a complaint of tailscaled's is that it does not reach its relay (no-derp-home,
/// no-derp-connection and derp-timed-out, of which `status` gives only the text).
fn tells_of_relay(text: &str) -> bool {
    text.contains("relay server")
        && (text.contains("could not connect") || text.contains("hasn't heard"))
}

/// The way to dial after a round.
fn way(
    wanted: DialWay,
    status: &Result<Status, Trouble>,
    proxy: Option<&Result<DialWay, Trouble>>,
) -> Option<DialWay> {
    match (wanted, status, proxy) {
        (DialWay::Auto, Ok(_), _) => Some(DialWay::LocalApi),
        (DialWay::Auto, Err(_), Some(Ok(way))) => Some(*way),
        (DialWay::Auto, ..) => None,
        (explicit, ..) => Some(explicit),
    }
}

/// What a tailscaled that is not `Running` means; `None` when it is.
fn not_running(status: &Status) -> Option<(Tunnel, Kind, String)> {
    let state = status.backend_state.as_str();
    let remedy = match state {
        "Running" => return None,
        "NeedsLogin" => {
            "tailscaled is logged out: run `tailscale up`, or give it an auth key that is valid"
        }
        "NeedsMachineAuth" => {
            "this machine waits for approval: approve it in the admin console, or use a \
             pre-approved auth key"
        }
        "Stopped" => "tailscaled is stopped: run `tailscale up`",
        "InUseOtherUser" => "tailscaled is in use by another user of this machine",
        _ => {
            let detail = format!("tailscaled is starting (BackendState {state})");
            return Some((Tunnel::Starting, Kind::DaemonStarting, detail));
        }
    };
    Some((
        Tunnel::Off,
        Kind::NotLoggedIn,
        format!("{remedy} (BackendState {state})"),
    ))
}

/// What a tailscaled that cannot be asked means.
fn unasked(trouble: &Trouble) -> (Tunnel, Kind, String) {
    let (state, kind) = match trouble.what {
        What::Absent => (Tunnel::Starting, Kind::DaemonAbsent),
        What::Silent | What::NotReady => (Tunnel::Starting, Kind::DaemonStarting),
        What::Forbidden => (Tunnel::Off, Kind::Tailnet),
        What::Broken => (Tunnel::Starting, Kind::Tailnet),
    };
    (state, kind, trouble.text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailnet::localapi::Node;

    fn settings(dial: DialWay, suffix: Option<&str>) -> Arc<Settings> {
        Arc::new(Settings {
            suffix: suffix.map(str::to_owned),
            dial,
            socket: "/nowhere".into(),
            proxy: "127.0.0.1:1".parse().unwrap(),
            repair: true,
        })
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "it stands beside troubles in tables"
    )]
    fn status(state: &str) -> Result<Status, Trouble> {
        Ok(Status {
            backend_state: state.into(),
            suffix: "tail1234.ts.net".into(),
            me: Node {
                online: true,
                ..Node::default()
            },
            ..Status::default()
        })
    }

    fn trouble<T>(what: What) -> Result<T, Trouble> {
        Err(Trouble::new(what, "text"))
    }

    fn after(dial: DialWay, round: Option<Round>) -> View {
        let settings = settings(dial, None);
        let first = View::first(Arc::clone(&settings), Timestamp::UNIX_EPOCH);
        first.next(&settings, round, &Keeper::Nothing, Timestamp::UNIX_EPOCH)
    }

    /// One round in which LocalAPI alone was asked.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "it stands where rounds are passed"
    )]
    fn asked(status: Result<Status, Trouble>) -> Option<Round> {
        let proxy = None;
        Some(Round { status, proxy })
    }

    #[test]
    fn every_state_of_tailscaled_has_its_meaning() {
        use Kind::{DaemonAbsent, DaemonStarting, NotLoggedIn, Tailnet};
        for (status, state, kind) in [
            (status("NoState"), Tunnel::Starting, DaemonStarting),
            (status("Starting"), Tunnel::Starting, DaemonStarting),
            (status(""), Tunnel::Starting, DaemonStarting),
            (status("NeedsLogin"), Tunnel::Off, NotLoggedIn),
            (status("NeedsMachineAuth"), Tunnel::Off, NotLoggedIn),
            (status("Stopped"), Tunnel::Off, NotLoggedIn),
            (status("InUseOtherUser"), Tunnel::Off, NotLoggedIn),
            (trouble(What::Absent), Tunnel::Starting, DaemonAbsent),
            (trouble(What::Silent), Tunnel::Starting, DaemonStarting),
            (trouble(What::NotReady), Tunnel::Starting, DaemonStarting),
            (trouble(What::Forbidden), Tunnel::Off, Tailnet),
            (trouble(What::Broken), Tunnel::Starting, Tailnet),
        ] {
            let named = format!("{status:?}");
            let view = after(DialWay::LocalApi, asked(status));
            assert_eq!((view.state, view.blocked), (state, kind), "{named}");
            assert!(!view.detail.is_empty(), "{named}");
        }
        let view = after(DialWay::LocalApi, asked(status("Running")));
        assert_eq!(view.state, Tunnel::Up);
        assert_eq!(after(DialWay::Direct, None).state, Tunnel::Up);
    }

    #[test]
    fn a_logged_out_tailscaled_of_ours_is_starting_until_who_keeps_it_says_what_is_wrong() {
        let settings = settings(DialWay::LocalApi, None);
        let next = |answer, keeper| {
            let first = View::first(Arc::clone(&settings), Timestamp::UNIX_EPOCH);
            first.next(&settings, asked(answer), &keeper, Timestamp::UNIX_EPOCH)
        };
        let trouble_told = || Keeper::Trouble("key expired".into());
        for (answer, keeper, state, blocked, detail) in [
            (
                status("NeedsLogin"),
                Keeper::Starting,
                Tunnel::Starting,
                Kind::DaemonStarting,
                "logging in",
            ),
            (
                status("NeedsLogin"),
                trouble_told(),
                Tunnel::Off,
                Kind::NotLoggedIn,
                "key expired",
            ),
            (
                trouble(What::Absent),
                trouble_told(),
                Tunnel::Starting,
                Kind::DaemonAbsent,
                "key expired",
            ),
            (
                status("Running"),
                trouble_told(),
                Tunnel::Up,
                Kind::DaemonStarting,
                "",
            ),
        ] {
            let named = format!("{answer:?} {keeper:?}");
            let view = next(answer, keeper);
            assert_eq!((view.state, view.blocked), (state, blocked), "{named}");
            assert!(view.detail.contains(detail), "{named}: {}", view.detail);
            assert!(
                !detail.is_empty() || view.detail.is_empty(),
                "{named}: {}",
                view.detail
            );
        }
    }

    #[test]
    fn the_way_follows_from_the_answers_in_order() {
        use DialWay::{Auto, HttpConnect, LocalApi, Socks5};
        let absent = || trouble(What::Absent);
        let running = || status("Running");
        let (http, socks) = (|| Some(Ok(HttpConnect)), || Some(Ok(Socks5)));
        let nobody = || Some(trouble(What::Absent));
        for (dial, status, proxy, way, state) in [
            (Auto, running(), None, Some(LocalApi), Tunnel::Up),
            (Auto, status("Stopped"), None, Some(LocalApi), Tunnel::Off),
            (Auto, absent(), http(), Some(HttpConnect), Tunnel::Up),
            (Auto, absent(), socks(), Some(Socks5), Tunnel::Up),
            (Auto, absent(), nobody(), None, Tunnel::Starting),
            (Socks5, running(), socks(), Some(Socks5), Tunnel::Up),
            (
                Socks5,
                status("Stopped"),
                socks(),
                Some(Socks5),
                Tunnel::Off,
            ),
            (Socks5, absent(), socks(), Some(Socks5), Tunnel::Up),
            (Socks5, running(), nobody(), Some(Socks5), Tunnel::Starting),
        ] {
            let named = format!("{dial:?} {status:?} {proxy:?}");
            let view = after(dial, Some(Round { status, proxy }));
            assert_eq!((view.way, view.state), (way, state), "{named}");
        }
    }

    #[test]
    fn a_silent_localapi_is_forgiven_twice_and_an_absent_one_never() {
        let settings = settings(DialWay::LocalApi, None);
        let start = Timestamp::UNIX_EPOCH;
        let up = View::first(Arc::clone(&settings), start).next(
            &settings,
            asked(status("Running")),
            &Keeper::Nothing,
            start,
        );
        let once = up.next(
            &settings,
            asked(trouble(What::Silent)),
            &Keeper::Nothing,
            start,
        );
        let twice = once.next(
            &settings,
            asked(trouble(What::Silent)),
            &Keeper::Nothing,
            start,
        );
        let thrice = twice.next(
            &settings,
            asked(trouble(What::Silent)),
            &Keeper::Nothing,
            start,
        );
        assert_eq!(
            [once.state, twice.state, thrice.state],
            [Tunnel::Up, Tunnel::Up, Tunnel::Starting]
        );
        let again = twice.next(&settings, asked(status("Running")), &Keeper::Nothing, start);
        assert_eq!(again.misses, 0);
        let absent = up.next(
            &settings,
            asked(trouble(What::Absent)),
            &Keeper::Nothing,
            start,
        );
        assert_eq!(
            (absent.state, absent.blocked),
            (Tunnel::Starting, Kind::DaemonAbsent)
        );
    }

    #[test]
    fn since_tells_when_the_state_changed_and_not_when_it_was_confirmed() {
        let settings = settings(DialWay::LocalApi, None);
        let at = |second| Timestamp::from_second(second).unwrap();
        let said = |state| asked(status(state));
        let first = View::first(Arc::clone(&settings), at(1));
        let up = first.next(&settings, said("Running"), &Keeper::Nothing, at(2));
        let still = up.next(&settings, said("Running"), &Keeper::Nothing, at(7));
        let off = still.next(&settings, said("Stopped"), &Keeper::Nothing, at(12));
        assert_eq!([up.since, still.since, off.since], [at(2), at(2), at(12)]);
    }

    #[test]
    fn the_suffix_of_the_configuration_holds_and_a_contradiction_is_told() {
        let settings = settings(DialWay::LocalApi, Some("Tail9.ts.net"));
        let first = View::first(Arc::clone(&settings), Timestamp::UNIX_EPOCH);
        let round = asked(status("Running"));
        let view = first.next(&settings, round, &Keeper::Nothing, Timestamp::UNIX_EPOCH);
        assert_eq!(view.suffix.as_deref(), Some("tail9.ts.net"));
        assert_eq!(
            view.detail,
            "tailnet.name is tail9.ts.net, and tailscaled is in tail1234.ts.net"
        );
    }
}
