//! Two nodes in network namespaces of their own, with wires that can be cut, one way or both.
//!
//! ```text
//! namespace a 10.x.y.2 ── veth ──┐
//!                                bridge 10.x.y.1: clients and the bucket, in this namespace
//! namespace b 10.x.y.3 ── veth ──┘
//! ```
//! Packets are dropped by nftables where they come in, so that the sender notices nothing.
//! Deliberately absent: delay, which the kernel of a small machine may not have (`netem`).

use std::process::Command;

use super::program::output_of;

/// What is left out when a wire is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wire {
    /// Packets from one node to the other.
    To(usize),
    /// Everything from and to a node, apart from its clients.
    Around(usize),
    /// Everything from and to a node.
    All(usize),
    /// What a node says to the bucket.
    Bucket(usize),
}

/// The namespaces; gone when it is dropped.
pub(crate) struct Net {
    id: u32,
    bucket_port: u16,
}

impl Net {
    /// Makes them.
    ///
    /// # Errors
    /// What is missing here: root, `ip`, `nft`, or the kernel's side of them.
    pub(crate) fn new() -> Result<Self, String> {
        let net = Self { id: std::process::id(), bucket_port: 0 };
        let bridge = net.bridge();
        net.ip(&["link", "add", &bridge, "type", "bridge"])?;
        net.ip(&["addr", "add", &format!("{}/24", net.here()), "dev", &bridge])?;
        net.ip(&["link", "set", &bridge, "up"])?;
        for at in 0..2 {
            let (space, outside) = (net.space(at), format!("{bridge}{at}"));
            net.ip(&["netns", "add", &space])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &space];
            net.ip(&[&["link", "add", &outside], &peer[..]].concat())?;
            net.ip(&["link", "set", &outside, "master", &bridge, "up"])?;
            let address = format!("{}/24", net.address(at));
            net.inside(at, &["ip", "addr", "add", &address, "dev", "eth0"])?;
            net.inside(at, &["ip", "link", "set", "eth0", "up"])?;
            net.inside(at, &["ip", "link", "set", "lo", "up"])?;
            net.heal(at)?;
        }
        Ok(net)
    }

    /// Where clients and the bucket are.
    pub(crate) fn here(&self) -> String {
        self.address_of(1)
    }

    /// Where a node is.
    pub(crate) fn address(&self, at: usize) -> String {
        self.address_of(2 + at)
    }

    /// What a command starts with that runs where a node is. Not `ip netns exec`: that copies the
    /// mounts, too, and what is mounted in the copy stays in use.
    pub(crate) fn prefix(&self, at: usize) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.space(at))]
    }

    /// Where the bucket listens.
    pub(crate) fn set_bucket(&mut self, port: u16) {
        self.bucket_port = port;
    }

    /// Cuts a wire, until all are healed.
    pub(crate) fn cut(&self, wire: Wire) {
        let (here, port) = (self.here(), self.bucket_port);
        let drops = match wire {
            Wire::To(at) => vec![(at, format!("input ip saddr {}", self.address(1 - at)))],
            Wire::Around(at) => vec![
                (at, format!("input ip saddr {}", self.address(1 - at))),
                (1 - at, format!("input ip saddr {}", self.address(at))),
                (at, format!("output ip daddr {here} tcp dport {port}")),
            ],
            Wire::All(at) => vec![(at, "input".to_owned()), (at, "output".to_owned())],
            Wire::Bucket(at) => vec![(at, format!("output ip daddr {here} tcp dport {port}"))],
        };
        for (at, rule) in drops {
            self.nft(at, &format!("add rule ip cut {rule} drop")).expect("nft works");
        }
    }

    /// Mends all wires.
    pub(crate) fn heal_all(&self) {
        (0..2).for_each(|at| self.heal(at).expect("nft works"));
    }

    fn heal(&self, at: usize) -> Result<(), String> {
        let chain = |name: &str| {
            format!("add chain ip cut {name} {{ type filter hook {name} priority 0; }}; ")
        };
        let (input, output) = (chain("input"), chain("output"));
        self.nft(at, &format!("add table ip cut; {input}{output}flush table ip cut"))
    }

    fn nft(&self, at: usize, rules: &str) -> Result<(), String> {
        self.inside(at, &["nft", rules])
    }

    fn inside(&self, at: usize, command: &[&str]) -> Result<(), String> {
        let prefix = self.prefix(at);
        let mut whole = Command::new(&prefix[0]);
        output_of(whole.args(&prefix[1..]).args(command)).map(drop)
    }

    fn ip(&self, arguments: &[&str]) -> Result<(), String> {
        output_of(Command::new("ip").args(arguments)).map(drop)
    }

    fn bridge(&self) -> String {
        format!("cel{}x", self.id)
    }

    fn space(&self, at: usize) -> String {
        format!("celeriant-{}-{}", self.id, ["a", "b"][at])
    }

    fn address_of(&self, host: usize) -> String {
        format!("10.{}.{}.{host}", 64 + self.id / 256 % 64, self.id % 256)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for at in 0..2 {
            // Whatever is not there need not go.
            let _ = self.ip(&["netns", "del", &self.space(at)]);
        }
        let _ = self.ip(&["link", "del", &self.bridge()]);
    }
}
