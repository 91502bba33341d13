//! The rig: a tailnet of two Macs and a container, on one machine, built once a test process.
//!
//! Owns the order of building and the way back to "nothing is broken" between two tests. Tests
//! share the rig, so they run one at a time, each as the app would: on a thread inside the
//! container's namespace.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use super::client::get_over;
use super::dial;
use super::janitor::{self, Janitor};
use super::mac::{self, Mac};
use super::net::{Host, Net};
use super::node::{Control, Node};
use super::parts::{self, Missing};
use super::wait::eventually;

/// tailscaled's SOCKS5 and HTTP proxy in the container.
pub(crate) const PROXY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1055);

/// Everything.
#[derive(Debug)]
pub(crate) struct Rig {
    /// The first Mac's node.
    pub(crate) m1: Node,
    /// The second Mac's node.
    pub(crate) m2: Node,
    /// The container's node.
    pub(crate) cr: Node,
    /// What answers on the first Mac.
    pub(crate) mac1: Mac,
    /// What answers on the second Mac.
    pub(crate) mac2: Mac,
    /// The run's folder.
    pub(crate) folder: PathBuf,
    net: Net,
    _control: Control,
    _janitor: Janitor,
}

/// Runs a test in the container, on a rig where nothing is broken, or skips it.
pub(crate) fn on_rig(test: impl AsyncFnOnce(&mut Rig) + Send) {
    match &*RIG {
        Err(why) => parts::skip(why),
        Ok(rig) => {
            // A test that failed leaves a rig that the next one repairs.
            let mut lock = rig.lock().unwrap_or_else(PoisonError::into_inner);
            let rig: &mut Rig = &mut lock;
            let container = rig.cr.host.clone();
            container.run(async || {
                rig.reset().await;
                test(rig).await;
            });
        }
    }
}

/// Built by the first test. A failed building is not tried again: each test then fails at once.
static RIG: LazyLock<Result<Mutex<Rig>, Missing>> = LazyLock::new(|| {
    parts::check_machine()?;
    let binaries = parts::part("net")?;
    let janitor = Janitor::start().map_err(|error| Missing(error.to_string()))?;
    let net = Net::create().map_err(|error| Missing(error.to_string()))?;
    let hub = net.hub.clone();
    Ok(Mutex::new(
        hub.run(async || Rig::build(net, janitor, &binaries).await),
    ))
});

impl Rig {
    async fn build(net: Net, janitor: Janitor, binaries: &Path) -> Self {
        let folder = janitor::folder(std::process::id());
        let control = Control::start(&net.hub, binaries, &folder).await;
        let mut m1 = Node::new(&net.m1, binaries, &folder);
        let mut m2 = Node::new(&net.m2, binaries, &folder);
        let mut cr = Node::new(&net.cr, binaries, &folder).with_proxy(PROXY);
        m1.start().await;
        m2.start().await;
        cr.start().await;
        let (mac1, mac2) = (Mac::on_host(&net.m1), Mac::on_host(&net.m2));
        Self {
            m1,
            m2,
            cr,
            mac1,
            mac2,
            folder,
            net,
            _control: control,
            _janitor: janitor,
        }
    }

    /// Where control server and relay stand.
    pub(crate) fn hub(&self) -> &Host {
        &self.net.hub
    }

    /// Takes every fault back, and returns when both Macs are reached from the container as usual:
    /// by a direct path, beside working connections to relay and control.
    pub(crate) async fn reset(&mut self) {
        self.net
            .repair()
            .expect("faults of the network can be taken back");
        for node in [&mut self.m1, &mut self.m2, &mut self.cr] {
            node.revive().await;
        }
        self.mac1.reset().await;
        self.mac2.reset().await;
        for name in ["m1", "m2"] {
            self.until_reachable(name).await;
            self.until_direct(name).await;
        }
        self.until_connected().await;
        // The knocks of `until_reachable` are none of the test's business.
        self.mac1.reset().await;
        self.mac2.reset().await;
    }

    /// Returns when a Mac answers through the container's tailscaled. Dials anew each time: a
    /// dial that began on a dead path stays silent for seconds, a fresh one finds the new path.
    pub(crate) async fn until_reachable(&self, name: &str) {
        let daemon = self.cr.daemon();
        let what = format_args!("{name} answers through the tailnet\n{daemon}");
        eventually(what, Duration::from_secs(20), async || {
            self.answers(name).await.then_some(())
        })
        .await;
    }

    /// Returns when the container has a direct path to a Mac. Only traffic makes tailscaled look for
    /// one, so this knocks.
    pub(crate) async fn until_direct(&self, name: &str) {
        let socket = self.cr.socket();
        let what = format_args!("a direct path to {name}");
        eventually(what, Duration::from_secs(30), async || {
            let answers = self.answers(name).await;
            let direct = dial::has_direct_path(&socket, name).await;
            (answers && direct).then_some(())
        })
        .await;
    }

    /// Returns when the container reaches both Macs, and none of them by a direct path.
    pub(crate) async fn until_relayed(&self) {
        let socket = self.cr.socket();
        for name in ["m1", "m2"] {
            let what = format_args!("{name} is reached by relay");
            eventually(what, Duration::from_secs(25), async || {
                let answers = self.answers(name).await;
                let direct = dial::has_direct_path(&socket, name).await;
                (answers && !direct).then_some(())
            })
            .await;
        }
    }

    /// Returns when the container's tailscaled is connected to relay and control: after a fault it
    /// tries again ever more slowly.
    async fn until_connected(&self) {
        let host = &self.cr.host;
        let what = "connections to relay and control";
        eventually(what, Duration::from_mins(1), async || {
            let ports = host.connections_to_hub().expect("/proc tells");
            (ports.len() >= 2).then_some(())
        })
        .await;
    }

    /// Whether a Mac answers within a second.
    pub(crate) async fn answers(&self, name: &str) -> bool {
        let knock = async {
            let stream = dial::localapi(&self.cr.socket(), name, mac::OLLAMA)
                .await
                .ok()?;
            get_over(stream, "/api/version").await.ok()
        };
        tokio::time::timeout(Duration::from_secs(1), knock)
            .await
            .is_ok_and(|came| came.is_some())
    }
}
