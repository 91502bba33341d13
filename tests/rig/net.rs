//! The network of the rig: Linux network namespaces as machines, joined by a bridge.
//!
//! Owns the namespaces `tailhop-rig-<pid>-{hub,m1,m2,cr}`, their addresses and the faults of
//! their links. The bridge stands in the hub's namespace, so no private address and no interface
//! of the rig is ever visible outside of it, and no packet of the rig can leave the machine:
//! there is no default route. Removing them is the janitor's work (`janitor.rs`), which also
//! works when this process is killed.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The hub's address, where the control server stands.
pub(crate) const HUB: &str = "10.77.0.1";

/// One machine: a namespace and its link to the hub.
#[derive(Debug)]
pub(crate) struct Host {
    /// What the tests call it: `m1`. Also the name of the hub's end of its link.
    pub(crate) name: &'static str,
    namespace: String,
    hub: String,
}

/// The four machines.
#[derive(Debug)]
pub(crate) struct Net {
    /// Control server, relay and STUN.
    pub(crate) hub: Arc<Host>,
    /// The first Mac.
    pub(crate) m1: Arc<Host>,
    /// The second Mac.
    pub(crate) m2: Arc<Host>,
    /// The container: tailhop and the app.
    pub(crate) cr: Arc<Host>,
}

/// What the names of one run's namespaces begin with.
pub(crate) fn prefix(pid: u32) -> String {
    format!("tailhop-rig-{pid}-")
}

impl Net {
    /// Creates everything. Fails where namespaces are not allowed; what was created until then
    /// is removed by the janitor.
    pub(crate) fn create() -> io::Result<Self> {
        let hub = Host::create("hub")?;
        hub.ip("link add br0 type bridge")?;
        hub.ip(&format!("addr add {HUB}/24 dev br0"))?;
        hub.ip("link set br0 up")?;
        let join = |name, last| -> io::Result<Arc<Host>> {
            let host = Host::create(name)?;
            host.plug_in(&hub, last)?;
            Ok(Arc::new(host))
        };
        let (m1, m2, cr) = (join("m1", 11)?, join("m2", 12)?, join("cr", 13)?);
        Ok(Self {
            hub: Arc::new(hub),
            m1,
            m2,
            cr,
        })
    }

    /// Takes back every fault.
    pub(crate) fn repair(&self) -> io::Result<()> {
        for host in [&self.m1, &self.m2, &self.cr] {
            host.pass_all()?;
            host.link(true)?;
        }
        Ok(())
    }
}

impl Host {
    fn create(name: &'static str) -> io::Result<Self> {
        let prefix = prefix(std::process::id());
        let host = Self {
            name,
            namespace: format!("{prefix}{name}"),
            hub: format!("{prefix}hub"),
        };
        succeed(Command::new("ip").args(["netns", "add", &host.namespace]))?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    fn plug_in(&self, hub: &Self, last_octet: u8) -> io::Result<()> {
        let (name, namespace) = (self.name, &self.namespace);
        hub.ip(&format!(
            "link add {name} type veth peer name eth0 netns {namespace}"
        ))?;
        hub.ip(&format!("link set {name} master br0 up"))?;
        self.ip(&format!("addr add 10.77.0.{last_octet}/24 dev eth0"))?;
        self.ip("link set eth0 up")
    }

    /// Runs `work` on a thread of its own inside this machine, on a runtime of its own, and
    /// hands back its result or its panic.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(work())
        })
    }

    /// The same in the background, for as long as the process lives.
    pub(crate) fn run_forever(self: &Arc<Self>, work: impl AsyncFnOnce() + Send + 'static) {
        let host = Arc::clone(self);
        thread::spawn(move || host.run(work));
    }

    /// Starts a process inside this machine: a child keeps the namespace of the thread that
    /// started it.
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Child> {
        self.enter(|| command.spawn())
    }

    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let namespace = File::open(self.path()).expect("the namespace exists");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace");
            work()
        };
        let named = thread::Builder::new().name(self.name.into());
        let ended =
            thread::scope(|scope| named.spawn_scoped(scope, inside).expect("a thread").join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Plugs its cable in or out, at the hub's end, so that the machine itself sees no change of
    /// its own interface, as with a Wi-Fi that is gone.
    pub(crate) fn link(&self, up: bool) -> io::Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&self.hub, &format!("link set {} {state}", self.name))
    }

    /// Drops what this machine sends and matches `rule`, in the words of nftables
    /// (`udp dport != 53`).
    pub(crate) fn drop_outgoing(&self, rule: &str) -> io::Result<()> {
        self.nft("add table inet rig")?;
        self.nft("add chain inet rig out { type filter hook output priority 0; }")?;
        self.nft(&format!("add rule inet rig out {rule} drop"))
    }

    /// Loses, in both directions and without a word to either side, what passes this machine's cable
    /// and matches one of `rules`, in the words of nftables.
    pub(crate) fn lose(&self, rules: &[&str]) -> io::Result<()> {
        let (name, mut words) = (self.name, String::from("add table netdev rig\n"));
        for hook in ["ingress", "egress"] {
            let chain = format!("netdev rig {name}-{hook}");
            words += &format!(
                "add chain {chain} {{ type filter hook {hook} device {name} priority 0; }}\n"
            );
            for rule in rules {
                words += &format!("add rule {chain} {rule} drop\n");
            }
        }
        nft(&self.hub, &words)
    }

    /// Loses for ever what belongs to the TCP connections that this machine has with the hub now,
    /// as a NAT does that forgot them; new ones work. Returns how many there are.
    pub(crate) fn forget_connections(&self) -> io::Result<usize> {
        let ports = self.connections_to_hub()?;
        let all: Vec<String> = ports.iter().map(u16::to_string).collect();
        let all = all.join(", ");
        let rules = ["sport", "dport"].map(|side| format!("tcp {side} {{ {all} }}"));
        self.lose(&[&rules[0], &rules[1]])?;
        Ok(ports.len())
    }

    /// The local ports of the TCP connections that this machine has with the hub now.
    pub(crate) fn connections_to_hub(&self) -> io::Result<Vec<u16>> {
        self.enter(ports_to_hub)
    }

    /// Resets at once what comes to this machine and matches `rule`.
    pub(crate) fn reject_incoming(&self, rule: &str) -> io::Result<()> {
        self.nft(&format!(
            "add table inet rig\n\
             add chain inet rig in {{ type filter hook input priority 0; }}\n\
             add rule inet rig in {rule} reject with tcp reset"
        ))
    }

    /// Removes every drop rule.
    pub(crate) fn pass_all(&self) -> io::Result<()> {
        self.nft("flush ruleset")?;
        nft(&self.hub, "flush ruleset")
    }

    fn nft(&self, words: &str) -> io::Result<()> {
        nft(&self.namespace, words)
    }

    fn ip(&self, words: &str) -> io::Result<()> {
        ip(&self.namespace, words)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

fn ip(namespace: &str, words: &str) -> io::Result<()> {
    succeed(
        Command::new("ip")
            .args(["-n", namespace])
            .args(words.split(' ')),
    )
    .map(drop)
}

fn nft(namespace: &str, words: &str) -> io::Result<()> {
    let words = ["netns", "exec", namespace, "nft", words];
    succeed(Command::new("ip").args(words)).map(drop)
}

/// The local ports of this machine's established TCP connections with the hub.
fn ports_to_hub() -> io::Result<Vec<u16>> {
    const ESTABLISHED: &str = "01";
    let hub: Ipv4Addr = HUB.parse().map_err(io::Error::other)?;
    // As the kernel writes it: the address as one number in the machine's order.
    let hub = format!("{:08X}:", u32::from_ne_bytes(hub.octets()));
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(2)?.starts_with(&hub) && *words.get(3)? == ESTABLISHED;
        let port = words.get(1)?.split(':').nth(1)?;
        u16::from_str_radix(port, 16).ok().filter(|_| ours)
    };
    Ok(table.lines().filter_map(port).collect())
}

/// Runs a command to its end; what it complains about is the error.
fn succeed(command: &mut Command) -> io::Result<Output> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}", said.trim())))
}
