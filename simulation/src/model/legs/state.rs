//! Two nodes with the logs of some shards, as small numbers, and what can be read off a log.

use std::fmt;

/// Shards at most.
pub const SHARDS: usize = 3;
/// Longest log of a shard.
pub const RECORDS: usize = 8;
/// Writes over several shards at most, attempts counted singly.
pub const TXNS: usize = 3;

/// What a record is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A write in one shard.
    Write = 0,
    /// One shard's part of a write over several.
    Leg = 1,
    /// `Resolve {txn, commit: true}`
    Commit = 2,
    /// `Resolve {txn, commit: false}`
    Abort = 3,
}

/// A record: kind, whose, and the version that it gave (or, of a guard, saw). Zero is none.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Record(u8);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Record {
    /// No record.
    pub const NONE: Self = Self(0);

    /// A record of write or transaction `id`.
    pub fn new(kind: Kind, id: usize, version: u8) -> Self {
        Self(0x80 | (kind as u8) << 5 | (id as u8 & 3) << 3 | version & 7)
    }

    /// Whether it is a record of that kind and that one's.
    pub fn is(self, kind: Kind, id: usize) -> bool {
        self.kind() == Some(kind) && self.id() == id
    }

    /// What it is.
    pub fn kind(self) -> Option<Kind> {
        let kinds = [Kind::Write, Kind::Leg, Kind::Commit, Kind::Abort];
        (self != Self::NONE).then(|| kinds[usize::from(self.0 >> 5 & 3)])
    }

    /// Whose.
    pub fn id(self) -> usize {
        usize::from(self.0 >> 3 & 3)
    }

    /// Version given or seen.
    pub fn version(self) -> u8 {
        self.0 & 7
    }

    /// For texts.
    pub fn name(self) -> String {
        match self.kind() {
            None => "–".into(),
            Some(Kind::Write) => format!("W{}", self.id() + 1),
            Some(Kind::Leg) => format!("leg of T{}", self.id() + 1),
            Some(Kind::Commit) => format!("Resolve(T{}, commit)", self.id() + 1),
            Some(Kind::Abort) => format!("Resolve(T{}, abort)", self.id() + 1),
        }
    }
}

/// One shard's log.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Log([Record; RECORDS]);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

impl Log {
    /// Number of records.
    pub fn tip(&self) -> u8 {
        self.0.iter().take_while(|record| **record != Record::NONE).count() as u8
    }

    /// Its records.
    pub fn records(&self) -> &[Record] {
        &self.0[..usize::from(self.tip())]
    }

    /// No room for another record. Only broken rules fill a log.
    pub fn is_full(&self) -> bool {
        usize::from(self.tip()) == RECORDS
    }

    /// Adds a record. Bounds are chosen so that there is room.
    pub fn push(&mut self, record: Record) {
        let tip = usize::from(self.tip());
        self.0[tip] = record;
    }

    /// Forgets what is behind the first `tip` records.
    pub fn cut(&mut self, tip: u8) {
        self.0.iter_mut().skip(usize::from(tip)).for_each(|record| *record = Record::NONE);
    }

    /// Longest common beginning.
    pub fn common(&self, other: &Self) -> u8 {
        let pairs = self.records().iter().zip(other.records());
        pairs.take_while(|(own, other)| own == other).count() as u8
    }

    /// Index of the last leg of `txn`.
    pub fn leg(&self, txn: usize) -> Option<usize> {
        self.records().iter().rposition(|record| record.is(Kind::Leg, txn))
    }

    /// Indices and outcomes of what resolved that leg: one, unless a rule is broken.
    fn resolves(&self, txn: usize) -> impl Iterator<Item = (usize, bool)> + '_ {
        let from = self.leg(txn).unwrap_or(RECORDS);
        self.records().iter().enumerate().skip(from).filter_map(move |(at, record)| {
            let commit = record.is(Kind::Commit, txn);
            (commit || record.is(Kind::Abort, txn)).then_some((at, commit))
        })
    }

    /// Index and outcome of what resolved that leg.
    pub fn resolve(&self, txn: usize) -> Option<(usize, bool)> {
        self.resolves(txn).next()
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Takes what a leader sends.
    Follower,
    /// Won a claim and promised; brings its logs to the other node.
    Claimed,
    /// Leads, or believes so.
    Leading,
}

/// A node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Node {
    /// Its logs.
    pub logs: [Log; SHARDS],
    /// What power loss leaves of each.
    pub durable: [u8; SHARDS],
    /// What it knows to be committed of each. Not durable.
    pub commit: [u8; SHARDS],
    /// What its process does.
    pub role: Role,
    /// Shards in which a transaction holds its aggregate before its leg is there, a bit each.
    pub reserved: [u8; TXNS],
    /// Transactions that this process coordinates, a bit each.
    pub mine: u8,
    /// What it decided at its activation.
    pub outcome: [Option<bool>; TXNS],
    /// Legs that were compacted into plain batches, a bit for each transaction.
    pub legs_gone: [u8; SHARDS],
    /// Resolves that were compacted away, likewise.
    pub resolves_gone: [u8; SHARDS],
}

impl Node {
    /// A leg that no Resolve follows, as far as the log still tells.
    pub fn unresolved(&self, shard: usize, txn: usize) -> bool {
        self.legs_gone[shard] >> txn & 1 == 0
            && self.logs[shard].leg(txn).is_some()
            && self.known_resolve(shard, txn).is_none()
    }

    /// What resolved the leg, unless it was compacted away.
    pub fn known_resolve(&self, shard: usize, txn: usize) -> Option<(usize, bool)> {
        let gone = usize::from(self.resolves_gone[shard] >> txn & 1);
        self.logs[shard].resolves(txn).nth(gone)
    }

    /// How many records of a shard it knows to be committed. More than there are: I12 is broken.
    pub fn committed(&self, shard: usize) -> usize {
        usize::from(self.commit[shard].min(self.logs[shard].tip()))
    }

    /// Any of its legs waits for a Resolve.
    pub fn open(&self, txn: usize) -> bool {
        (0..SHARDS).any(|shard| self.unresolved(shard, txn))
    }

    /// The leg is there and was not taken back.
    pub fn has_leg(&self, shard: usize, txn: usize) -> bool {
        let resolve = self.known_resolve(shard, txn);
        self.logs[shard].leg(txn).is_some() && resolve.is_none_or(|(_, commit)| commit)
    }

    /// Forgets what only a process knows.
    pub fn forget(&mut self) {
        self.role = Role::Follower;
        self.reserved = [0; TXNS];
        self.mine = 0;
        self.outcome = [None; TXNS];
    }
}

/// Everything.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct State {
    /// The two nodes.
    pub nodes: [Node; 2],
    /// Leader of the active configuration.
    pub leader: usize,
    /// Whose claim is open.
    pub claimed: Option<usize>,
    /// Crashes that may still happen.
    pub crashes: u8,
    /// Claims against a living leader that may still happen.
    pub claims: u8,
    /// Writes and transactions that clients sent, a bit each.
    pub sent: (u8, u8),
    /// Transactions refused by a guard.
    pub refused: u8,
    /// Transactions that somebody saw, a bit each. From here on nothing in the protocol reads it.
    pub seen: u8,
    /// Writes that somebody saw.
    pub seen_writes: u8,
    /// Transactions whose client was told that they are written.
    pub acked: u8,
    /// Transactions whose client was told that they are not.
    pub told_abort: u8,
    /// Transactions with an abort that is committed.
    pub aborted: u8,
    /// Transactions that a watcher's cursor passed while they were not visible.
    pub passed: u8,
    /// The receipt that was given for each transaction.
    pub receipts: [u8; TXNS],
    /// What went wrong in the step that led here.
    pub broken: Option<super::Fault>,
}

impl State {
    /// Whom nodes obey: the claimant, or the leader when no claim is open.
    pub fn rules(&self, id: usize) -> bool {
        match self.claimed {
            Some(claimant) => claimant == id && self.nodes[id].role == Role::Claimed,
            None => self.leader == id && self.nodes[id].role == Role::Leading,
        }
    }

    /// The state in which the two nodes have changed places.
    pub fn mirrored(&self) -> Self {
        let mut other = *self;
        other.nodes.reverse();
        other.leader = 1 - self.leader;
        other.claimed = self.claimed.map(|claimant| 1 - claimant);
        other
    }
}
