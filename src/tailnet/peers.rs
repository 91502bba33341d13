//! The netmap as admission needs it: which names and addresses are machines of the tailnet.
//!
//! Owns the lookup. Resolves nothing: no DNS, no tailscaled. Invariant: names are lower case,
//! without a dot at their end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::localapi::{Node, Status};

/// The machines of the tailnet, this one among them.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    machines: Vec<Arc<Peer>>,
    names: HashMap<String, Arc<Peer>>,
    ips: HashMap<IpAddr, Arc<Peer>>,
}

/// One machine of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its full MagicDNS name.
    pub name: String,
    /// Its addresses in the tailnet.
    pub ips: Vec<IpAddr>,
    /// Whether the control plane has it connected. False is news; true says nothing of
    /// reachability, as a sleeping Mac stays online for minutes.
    pub online: bool,
    /// Whether it is reached by a direct path; otherwise by relay, or not at all.
    pub direct: bool,
}

impl Peers {
    /// The netmap that `status` shows.
    pub fn of(status: &Status) -> Self {
        let suffix = plain(&status.suffix);
        let mut peers = Self::default();
        for node in std::iter::once(&status.me).chain(status.peers.values()) {
            peers.add(node, &suffix);
        }
        peers.machines.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    /// The machine with this full or short name, in any case, with or without a dot at its end, or
    /// with this address.
    pub fn find(&self, host: &str) -> Option<&Peer> {
        let found = match address(host) {
            Some(ip) => self.ips.get(&ip),
            None => self.names.get(&plain(host)),
        };
        found.map(Arc::as_ref)
    }

    /// Every machine, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.machines.iter().map(Arc::as_ref)
    }

    fn add(&mut self, node: &Node, suffix: &str) {
        let name = plain(&node.dns_name);
        let peer = Arc::new(Peer {
            name,
            ips: node.ips.clone(),
            online: node.online,
            direct: !node.direct_path.is_empty(),
        });
        for ip in &peer.ips {
            self.ips.insert(*ip, Arc::clone(&peer));
        }
        if peer.name.is_empty() {
            return;
        }
        // As tailscaled does it: only machines of this tailnet have a short name; one that was
        // shared in from another tailnet has its full name only.
        if let Some(short) = under(&peer.name, suffix) {
            self.names.insert(short.to_owned(), Arc::clone(&peer));
        }
        self.names.insert(peer.name.clone(), Arc::clone(&peer));
        self.machines.push(peer);
    }
}

/// A name as it is compared: lower case, without the dot at its end.
pub(super) fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What stands before `suffix` in a plain `name` that is under it.
pub(super) fn under<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let before = name.strip_suffix(suffix)?.strip_suffix('.')?;
    (!suffix.is_empty() && !before.is_empty()).then_some(before)
}

/// The address that `host` is, if it is one; in brackets too, and IPv4 in its IPv6 clothes as the
/// IPv4 address that would be dialled.
pub(super) fn address(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        let node = |name: &str, ip: &str| Node {
            dns_name: name.into(),
            ips: vec![ip.parse().unwrap()],
            online: true,
            ..Node::default()
        };
        let mac = node("macbook-m1.tail1234.ts.net.", "100.64.0.1");
        let shared = node("guest.other.ts.net.", "100.64.0.9");
        Peers::of(&Status {
            suffix: "tail1234.ts.net".into(),
            me: node("run.tail1234.ts.net.", "100.64.0.3"),
            peers: [("nodekey:1".into(), mac), ("nodekey:2".into(), shared)].into(),
            ..Status::default()
        })
    }

    #[test]
    fn a_machine_is_found_by_every_way_to_write_it() {
        let peers = peers();
        for host in [
            "macbook-m1",
            "MacBook-M1.",
            "macbook-m1.tail1234.ts.net",
            "macbook-m1.TAIL1234.ts.net.",
            "100.64.0.1",
            "[::ffff:100.64.0.1]",
        ] {
            let found = peers.find(host).map(|peer| peer.name.as_str());
            assert_eq!(found, Some("macbook-m1.tail1234.ts.net"), "{host}");
        }
        assert!(peers.find("guest.other.ts.net").is_some());
        assert_eq!(peers.iter().count(), 3);
    }

    #[test]
    fn what_is_not_in_the_netmap_is_not_found() {
        for host in [
            "guest",
            "mac-dev1",
            "",
            ".",
            "127.0.0.1",
            "localhost",
            "tail1234.ts.net",
        ] {
            assert!(peers().find(host).is_none(), "{host}");
        }
    }

    #[test]
    fn under_a_suffix_means_at_least_one_label_and_a_dot() {
        for (name, suffix, before) in [
            ("a.t.ts.net", "t.ts.net", Some("a")),
            ("a.b.t.ts.net", "t.ts.net", Some("a.b")),
            ("t.ts.net", "t.ts.net", None),
            (".t.ts.net", "t.ts.net", None),
            ("evilt.ts.net", "t.ts.net", None),
            ("a", "", None),
        ] {
            assert_eq!(under(name, suffix), before, "{name}");
        }
    }
}
