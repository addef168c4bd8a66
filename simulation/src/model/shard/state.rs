//! What two nodes, a bucket and a network hold between them, as small numbers.
//!
//! An entry is named by who wrote it (epoch, node, process): with its place in the log that is its
//! hash, because a process that leads an epoch writes at most one entry at each place. What clients
//! wrote is left out; any two writes are alike. Positions count from 1; 0 is "nothing".

use std::fmt;

/// Longest log.
pub const POSITIONS: usize = 3;
/// Highest epoch.
pub const EPOCHS: usize = 6;
/// Data slots of an epoch, and one for the fence.
pub const SLOTS: usize = POSITIONS + 1;
/// Conditional PUTs of `config` on their way.
pub const SWAPS: usize = 3;
/// Epochs whose bucket logs one configuration rests on.
const LINKS: usize = 4;

/// One of the two places for a node: 0 is A, 1 is B.
pub type NodeId = u8;

/// Who wrote an entry: epoch, node and process. Zero is no entry.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Entry(u8);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Entry {
    /// No entry.
    pub const NONE: Self = Self(0);
    /// What closes a bucket log.
    pub const FENCE: Self = Self(0xff);

    /// Written in `epoch` by the process `boot` of `node`.
    pub fn by(epoch: u8, node: NodeId, boot: u8) -> Self {
        Self(epoch << 4 | node << 3 | boot & 7)
    }

    /// The epoch.
    pub fn epoch(self) -> u8 {
        self.0 >> 4
    }

    fn mirrored(self) -> Self {
        if self == Self::NONE || self == Self::FENCE { self } else { Self(self.0 ^ 8) }
    }

    /// For texts: epoch and writer.
    pub fn name(self) -> String {
        match self {
            Self::NONE => "–".into(),
            Self::FENCE => "fence".into(),
            _ => format!("{}{}", ["a", "b"][usize::from(self.0 >> 3 & 1)], self.epoch()),
        }
    }
}

/// Entries from position 1 on.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Log([Entry; POSITIONS]);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Log {
    /// Position of the last entry.
    pub fn tip(&self) -> u8 {
        self.0.iter().take_while(|entry| **entry != Entry::NONE).count() as u8
    }

    /// The entry at `position`, or none.
    pub fn at(&self, position: u8) -> Entry {
        match usize::from(position) {
            0 => Entry::NONE,
            position => self.0.get(position - 1).copied().unwrap_or(Entry::NONE),
        }
    }

    /// Adds an entry; whoever adds asked whether there is room.
    pub fn push(&mut self, entry: Entry) {
        let tip = usize::from(self.tip());
        self.0[tip] = entry;
    }

    /// Forgets what is above `position`.
    pub fn cut(&mut self, position: u8) {
        self.0.iter_mut().skip(usize::from(position)).for_each(|entry| *entry = Entry::NONE);
    }

    /// Longest common beginning.
    pub fn common(&self, other: &Self) -> u8 {
        let pairs = self.0.iter().zip(&other.0);
        pairs.take_while(|(own, other)| own == other && **own != Entry::NONE).count() as u8
    }

    fn mirrored(&self) -> Self {
        Self(self.0.map(Entry::mirrored))
    }

    /// For texts.
    pub fn name(&self) -> String {
        let names: Vec<_> = (1..=self.tip()).map(|position| self.at(position).name()).collect();
        format!("[{}]", names.join(" "))
    }
}

/// Where every acknowledged entry is, besides the leader's disk.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Set {
    /// {L,F}
    Pair,
    /// {L,S3}
    Bucket,
}

/// The bucket logs that in order hold everything above the first base.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Chain {
    /// Epoch of each log and what lies below its first slot; epoch 0 is no link.
    links: [(u8, u8); LINKS],
    /// Hash of what is at the first base.
    pub base_entry: Entry,
}

impl Chain {
    /// A chain of one log.
    pub fn of(epoch: u8, base: u8, base_entry: Entry) -> Self {
        let mut links = [(0, 0); LINKS];
        links[0] = (epoch, base);
        Self { links, base_entry }
    }

    /// The links in order.
    pub fn links(&self) -> impl DoubleEndedIterator<Item = (u8, u8)> + '_ {
        self.links.iter().copied().filter(|(epoch, _)| *epoch != 0)
    }

    /// What both nodes durably held when the chain began.
    pub fn base(&self) -> u8 {
        self.links[0].1
    }

    /// The last link: the log that is written to.
    pub fn last(&self) -> (u8, u8) {
        self.links().next_back().unwrap_or((0, 0))
    }

    /// The same with one more log, if there is room.
    pub fn extended(&self, epoch: u8, base: u8) -> Option<Self> {
        let mut longer = *self;
        let free = longer.links.iter().position(|(epoch, _)| *epoch == 0)?;
        longer.links[free] = (epoch, base);
        Some(longer)
    }

    /// Epoch and slot that hold `position`.
    pub fn slot_of(&self, position: u8) -> Option<(u8, u8)> {
        let (epoch, base) = self.links().rfind(|(_, base)| *base < position)?;
        Some((epoch, position - base - 1))
    }
}

/// The body of the `config` object.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Config {
    /// Grows with every change.
    pub ver: u8,
    /// Grows whenever leader or set change.
    pub epoch: u8,
    /// A claim is open: somebody prepares to lead.
    pub claimed: bool,
    /// Who leads, or claims to.
    pub leader: NodeId,
    /// Its process.
    pub boot: u8,
    /// Store ids of the two members.
    pub members: [u8; 2],
    /// Leader of the configuration that was last activated.
    pub active_leader: NodeId,
    /// Its set.
    pub set: Set,
    /// Store ids of its nodes; that of the other node means nothing with the bucket.
    pub stores: [u8; 2],
    /// Its bucket logs.
    pub chain: Chain,
}

impl Config {
    /// `leader` leads in epoch `epoch` over `set`: the body of an activating write.
    pub fn activated(&self, epoch: u8, set: Set, chain: Chain) -> Self {
        let mut next = Self { ver: self.ver + 1, epoch, claimed: false, set, chain, ..*self };
        next.active_leader = next.leader;
        next.stores = next.members;
        next
    }

    /// This is the configuration that `sent` was to write, apart from what an operator changed
    /// since.
    pub fn is(&self, sent: &Self) -> bool {
        let key = |c: &Self| (c.epoch, c.leader, c.boot, c.claimed, c.set);
        key(self) == key(sent)
    }

    fn mirrored(&self) -> Self {
        let mut other = *self;
        other.leader ^= 1;
        other.active_leader ^= 1;
        other.members.reverse();
        other.stores.reverse();
        other.chain.base_entry = self.chain.base_entry.mirrored();
        other
    }
}

/// What a claimant or leader knows of the places its log has reached.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Reached {
    /// Epoch in which it began to lead; reconfigurations of its own don't end that.
    pub since: u8,
    /// What the other node acknowledged in this leadership, and which store it was.
    pub peer: Option<(u8, u8)>,
    /// Position up to which slots without gap are in the bucket.
    pub bucket: u8,
}

impl Reached {
    /// What `store` acknowledged. A store that was there before says nothing about it.
    pub fn peer(&self, store: u8) -> Option<u8> {
        self.peer.filter(|(_, held_by)| *held_by == store).map(|(upto, _)| upto)
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Takes what a leader sends.
    Follower,
    /// Sent a claim and does not know what became of it. Still a follower.
    Claiming(Config),
    /// Won the claim and promised; the bucket log is not read yet.
    Sealing(Config),
    /// Has its log, brings it to a second place. The chain is that of {X,S3}.
    Placing(Config, Chain, Reached),
    /// Sent the activation and does not know what became of it.
    Activating(Config, Reached),
    /// Leads; the second is a reconfiguration that is on its way.
    Leading(Config, Option<Config>, Reached),
}

/// A node: what its disk holds, and what its process knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Node {
    /// Its log, the end of which may not be durable.
    pub log: Log,
    /// Position up to which power loss takes nothing.
    pub durable: u8,
    /// Below this epoch it acknowledges nothing. Durable.
    pub promised: u8,
    /// Highest epoch in which its log was made its leader's. Durable.
    pub reconciled: u8,
    /// What it shows to readers. Not durable.
    pub commit: u8,
    /// What it ever showed. Nothing in the protocol reads it.
    pub exposed: u8,
    /// Process starts.
    pub boot: u8,
    /// Store id: a wiped disk gets another.
    pub store: u8,
    /// What its process does.
    pub role: Role,
}

/// The bucket log of one epoch.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Wal {
    /// What is there.
    pub slots: [Entry; SLOTS],
    /// Data PUTs on their way. Identical when repeated (R12), so one of each is enough.
    pub data: [Entry; SLOTS],
    /// Fence PUTs on their way, a bit a slot.
    pub fences: u8,
}

impl Wal {
    /// First slot that isn't data.
    pub fn end(&self) -> u8 {
        let data = |slot: &&Entry| **slot != Entry::NONE && **slot != Entry::FENCE;
        self.slots.iter().take_while(data).count() as u8
    }

    fn mirrored(&self) -> Self {
        let turn = |entries: [Entry; SLOTS]| entries.map(Entry::mirrored);
        Self { slots: turn(self.slots), data: turn(self.data), fences: self.fences }
    }
}

/// A leader's (or claimant's) whole log in one message, as the catch-up would bring it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Append {
    /// Epoch of the sender.
    pub epoch: u8,
    /// Its log.
    pub log: Log,
    /// Its commit position.
    pub commit: u8,
}

/// A follower's answer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ack {
    /// Epoch it was asked in.
    pub epoch: u8,
    /// What it durably holds of the sender's log.
    pub upto: u8,
    /// Who holds it.
    pub store: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    /// The two nodes.
    pub nodes: [Node; 2],
    /// The register.
    pub config: Config,
    /// Conditional PUTs of it on their way, those of dead processes included.
    pub swaps: [Option<Config>; SWAPS],
    /// The bucket logs, by epoch.
    pub wals: [Wal; EPOCHS],
    /// The last appends that each node sent: they arrive whenever, as often as they like, or never.
    pub appends: [[Option<Append>; 2]; 2],
    /// The last answer of each node, likewise.
    pub acks: [Option<Ack>; 2],
    /// Everything that was ever acknowledged. Nothing in the protocol reads it.
    pub acked: Log,
    /// What went wrong in the step that led here.
    pub broken: Option<super::Invariant>,
}

impl State {
    /// The bucket log of `epoch`.
    pub fn wal(&self, epoch: u8) -> &Wal {
        &self.wals[usize::from(epoch) - 1]
    }

    /// The bucket log of `epoch`, to change.
    pub fn wal_mut(&mut self, epoch: u8) -> &mut Wal {
        &mut self.wals[usize::from(epoch) - 1]
    }

    /// The node with that id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id)]
    }

    /// The node with that id, to change.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    /// The state in which A and B have changed places. No rule knows which is which, so one of the
    /// two stands for both.
    pub fn mirrored(&self) -> Self {
        let mut other = *self;
        other.nodes.reverse();
        for node in &mut other.nodes {
            node.log = node.log.mirrored();
            node.role = node.role.mirrored();
        }
        other.config = self.config.mirrored();
        other.swaps = self.swaps.map(|swap| swap.map(|config| config.mirrored()));
        other.wals = self.wals.map(|wal| wal.mirrored());
        other.appends.reverse();
        for append in other.appends.iter_mut().flatten().flatten() {
            append.log = append.log.mirrored();
        }
        other.acks.reverse();
        other.acked = self.acked.mirrored();
        other.sort();
        other
    }

    /// Their order means nothing, so there is only one.
    pub fn sort(&mut self) {
        self.swaps.sort_unstable();
        self.appends.iter_mut().for_each(|appends| appends.sort_unstable());
    }
}

impl Role {
    fn mirrored(&self) -> Self {
        match *self {
            Self::Follower => Self::Follower,
            Self::Claiming(config) => Self::Claiming(config.mirrored()),
            Self::Sealing(config) => Self::Sealing(config.mirrored()),
            Self::Placing(config, mut chain, reached) => {
                chain.base_entry = chain.base_entry.mirrored();
                Self::Placing(config.mirrored(), chain, reached)
            }
            Self::Activating(config, reached) => Self::Activating(config.mirrored(), reached),
            Self::Leading(config, pending, reached) => {
                Self::Leading(config.mirrored(), pending.map(|config| config.mirrored()), reached)
            }
        }
    }
}
