//! What tailhop knows of the tailnet, kept fresh by asking tailscaled.
//!
//! Owns the shared handle and the one task that renews it. Must not carry traffic (`wire` does)
//! nor start or repair tailscaled. Invariant: the view has one writer, [`Tailnet::watch`];
//! readers never lock and never wait.

mod admission;
pub mod localapi;
pub mod peers;
mod proxy;
pub mod trouble;
mod view;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tracing::{info, warn};

pub use self::admission::{Admitted, Target};
use self::localapi::LocalApi;
use self::peers::Peer;
use self::trouble::Trouble;
use self::view::Round;
pub use self::view::{Keeper, Users, View};
use crate::config::snapshot::{DialWay, Tailnet as Settings};
use crate::words::clock::Clock;
use crate::words::outcome::Failure;
use crate::words::verdict::{Restart, Tunnel};

/// Between two rounds while the tunnel is up: who logs out or renames a Mac sees it within this.
const WHILE_UP: Duration = Duration::from_secs(5);

/// The same while it is not: a node was measured to be `Running` 0.1 s after its start.
const WHILE_STARTING: Duration = Duration::from_millis(250);

/// The same when that has lasted for [`SOON`] rounds, and while an operator has to act.
const WHILE_OFF: Duration = Duration::from_secs(1);

/// Rounds asked in quick succession: 10 s of them.
const SOON: u32 = 40;

/// A dial that was asked for so long ago has left tailscaled.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// Shortest time between two rounds, however many dials fail.
const FLOOR: Duration = Duration::from_millis(250);

/// The shared handle. Read by the data thread, renewed on the control thread.
#[derive(Debug)]
pub struct Tailnet {
    view: ArcSwap<View>,
    state: watch::Sender<Tunnel>,
    restart: watch::Sender<Option<Restart>>,
    settings: watch::Sender<Arc<Settings>>,
    keeper: ArcSwap<Keeper>,
    /// Whether tailscaled is down for a moment because we want it so.
    renewing: watch::Sender<bool>,
    poked: Notify,
    changed: Notify,
    clock: Clock,
}

impl Tailnet {
    /// The tailnet of these settings, of which nothing is known before [`Self::watch`] runs;
    /// `direct` is up at once.
    pub fn new(settings: Settings, clock: Clock) -> Self {
        let settings = Arc::new(settings);
        let view = View::first(Arc::clone(&settings), clock.now());
        Self {
            state: watch::Sender::new(view.state),
            restart: watch::Sender::new(None),
            view: ArcSwap::from_pointee(view),
            settings: watch::Sender::new(settings),
            keeper: ArcSwap::from_pointee(Keeper::Nothing),
            renewing: watch::Sender::new(false),
            poked: Notify::new(),
            changed: Notify::new(),
            clock,
        }
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether `host` may be dialled now, how, and by which exact name.
    ///
    /// # Errors
    /// The state of tailscaled while the tunnel is not up; else `NotInTailnet` or `UnknownName`,
    /// with the remedy in the detail.
    pub fn admit(&self, host: &str) -> Result<Admitted, Failure> {
        admission::admit(&self.view.load(), host)
    }

    /// The state and its changes, so that a request can wait for `up`. When it tells of a change
    /// [`Self::view`] already shows it.
    pub fn changes(&self) -> watch::Receiver<Tunnel> {
        self.state.subscribe()
    }

    /// The state for people: that of the view, unless tailscaled should be restarted.
    pub fn state(&self) -> Tunnel {
        match (self.view.load().state, *self.restart.borrow()) {
            (Tunnel::Up | Tunnel::Starting, Some(_)) => Tunnel::Repairing,
            (state, _) => state,
        }
    }

    /// Why tailscaled should be restarted, for whoever supervises it; `None`: it should not. Each
    /// `Some` that is sent is one wish.
    pub fn restarts(&self) -> watch::Receiver<Option<Restart>> {
        self.restart.subscribe()
    }

    /// Says that tailscaled should be restarted, or no longer.
    pub fn want_restart(&self, why: Option<Restart>) {
        self.restart.send_if_modified(|wanted| {
            let told = why.is_some() || wanted.is_some();
            *wanted = why;
            told
        });
    }

    /// Asks for a round of questions soon: a dial failed in a way that the view did not foretell.
    pub fn poke(&self) {
        self.poked.notify_one();
    }

    /// Makes all `WireGuard` sessions anew ([`LocalApi::down_up`]). Nothing is dialled meanwhile, as
    /// tailscaled knows no names while it is down, and no round of questions takes place.
    ///
    /// # Errors
    /// As of a call of LocalAPI.
    pub async fn renew_sessions(&self) -> Result<(), Trouble> {
        self.renewing.send_replace(true);
        let before = self.view();
        self.publish(before.renewing(self.clock.now()));
        sleep(UNDER_WAY).await;
        let renewed = self.localapi().down_up().await;
        if renewed.is_ok() {
            self.publish(View::clone(&before));
        }
        self.renewing.send_replace(false);
        self.poke();
        renewed
    }

    /// Who keeps tailscaled says how that goes; the view takes it up at once.
    pub fn kept(&self, keeper: Keeper) {
        self.keeper.store(Arc::new(keeper));
        self.changed.notify_one();
    }

    /// The machine of the netmap that `host` names, and a client to ask tailscaled about it;
    /// `None`: nothing can be asked about it, as no tailscaled with a netmap is in use.
    pub fn peer(&self, host: &str) -> Option<(LocalApi, Peer)> {
        let view = self.view();
        let known = view.state == Tunnel::Up && view.way != Some(DialWay::Direct);
        let peer = view.peers.as_ref().filter(|_| known)?.find(host)?.clone();
        Some((LocalApi::new(&view.settings.socket), peer))
    }

    /// A client of the tailscaled of the current settings.
    pub fn localapi(&self) -> LocalApi {
        LocalApi::new(&self.settings.borrow().socket)
    }

    /// Takes new settings. The view stays as it is, with the settings it was made with, until the
    /// first round with the new ones is over; equal settings change nothing.
    pub fn reconfigure(&self, settings: Settings) {
        self.settings.send_if_modified(|current| {
            let changed = **current != settings;
            if changed {
                *current = Arc::new(settings);
            }
            changed
        });
    }

    /// Keeps the view fresh for as long as it is polled. To run once, on the control thread.
    pub async fn watch(self: Arc<Self>) {
        let mut settings = self.settings.subscribe();
        let mut renewing = self.renewing.subscribe();
        let mut rounds = 0;
        loop {
            // The sender is ours.
            drop(renewing.wait_for(|renewing| !renewing).await);
            let current = settings.borrow_and_update().clone();
            let round = tokio::select! {
                biased;
                _ = settings.changed() => continue,
                _ = renewing.wait_for(|renewing| *renewing) => continue,
                round = ask(&current) => round,
            };
            let keeper = self.keeper.load_full();
            let view = self.view.load();
            let view = view.next(&current, round, &keeper, self.clock.now());
            rounds = if view.state == Tunnel::Up {
                0
            } else {
                rounds + 1
            };
            let pace = pace(&view, rounds);
            self.publish(view);
            tokio::select! {
                _ = settings.changed() => {}
                () = self.changed.notified() => {}
                () = self.pause(pace) => {}
            }
        }
    }

    fn publish(&self, view: View) {
        let state = view.state;
        let before = self.view.swap(Arc::new(view));
        tell(&before, &self.view.load());
        // After the swap: who is woken by this finds the view that woke it.
        self.state
            .send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    async fn pause(&self, pace: Option<Duration>) {
        let Some(pace) = pace else {
            return pending().await;
        };
        sleep(FLOOR).await;
        tokio::select! {
            () = sleep(pace.saturating_sub(FLOOR)) => {}
            () = self.poked.notified() => {}
        }
    }
}

/// One round of questions. LocalAPI is asked whatever the way: it knows the state and the netmap.
async fn ask(settings: &Settings) -> Option<Round> {
    if settings.dial == DialWay::Direct {
        return None;
    }
    let status = LocalApi::new(&settings.socket).status().await;
    let proxy = match settings.dial {
        DialWay::HttpConnect | DialWay::Socks5 => {
            Some(proxy::speaks(settings.proxy, &[settings.dial]).await)
        }
        DialWay::Auto if status.is_err() => {
            let ways = [DialWay::HttpConnect, DialWay::Socks5];
            Some(proxy::speaks(settings.proxy, &ways).await)
        }
        DialWay::Auto | DialWay::LocalApi | DialWay::Direct => None,
    };
    Some(Round { status, proxy })
}

/// The time to the next round; `None`: nothing is left to ask.
fn pace(view: &View, rounds: u32) -> Option<Duration> {
    match view.state {
        Tunnel::Up if view.way == Some(DialWay::Direct) => None,
        Tunnel::Up => Some(WHILE_UP),
        Tunnel::Starting if rounds <= SOON => Some(WHILE_STARTING),
        Tunnel::Starting | Tunnel::Repairing | Tunnel::Off => Some(WHILE_OFF),
    }
}

/// Logs what changed, and only that.
fn tell(before: &View, now: &View) {
    if let Some(way) = now.way.filter(|_| now.way != before.way) {
        info!(way = way.as_str(), "dial way chosen");
    }
    let same = before.state == now.state && before.detail == now.detail;
    let (state, tailscaled, detail) = (now.state.as_str(), &now.backend_state, &now.detail);
    match now.state {
        _ if same => {}
        Tunnel::Up => info!(state, tailscaled, version = now.version, detail, "tailnet"),
        Tunnel::Starting | Tunnel::Repairing | Tunnel::Off => {
            warn!(state, tailscaled, detail, "tailnet");
        }
    }
}
