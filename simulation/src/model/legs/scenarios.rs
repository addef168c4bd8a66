//! What clients do in a run of the model, and how much may go wrong.

use super::state::SHARDS;

/// A write over several shards.
#[derive(Clone, Copy, Debug)]
pub struct Txn {
    /// Shards that take part, a bit each.
    pub shards: u8,
    /// Shards of these that are only guarded, a bit each.
    pub guarded: u8,
    /// Version that the aggregate of each shard must have.
    pub guards: [Option<u8>; SHARDS],
    /// The attempt that this one repeats.
    pub retry_of: Option<usize>,
}

impl Txn {
    /// Only its guard is of that shard.
    pub(super) fn guards_only(&self, shard: usize) -> bool {
        self.guarded >> shard & 1 == 1
    }
}

/// A write in one shard.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Its shard.
    pub shard: usize,
    /// 0: the one that transactions want; 1: another.
    pub aggregate: u8,
}

/// What clients do and how much may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name for the command line.
    pub name: &'static str,
    /// Number of shards.
    pub shards: usize,
    /// Writes over several shards.
    pub txns: &'static [Txn],
    /// Writes in one shard.
    pub writes: &'static [Write],
    /// Crashes of both nodes together.
    pub crashes: u8,
    /// Claims against a living leader.
    pub claims: u8,
    /// Logs are compacted.
    pub compaction: bool,
}

impl Scenario {
    /// All shards.
    pub(super) fn shards(&self) -> std::ops::Range<usize> {
        0..self.shards
    }

    /// Shards of a set of bits, ascending.
    pub(super) fn shards_of(&self, bits: u8) -> impl Iterator<Item = usize> + Clone + use<> {
        (0..self.shards).filter(move |shard| bits >> shard & 1 == 1)
    }

    /// The scenario of that name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|scenario| scenario.name == name).copied()
    }
}

const XY: Txn = Txn { shards: 0b011, guarded: 0, guards: [None; SHARDS], retry_of: None };
const YZ: Txn = Txn { shards: 0b110, ..XY };
const XYZ: Txn = Txn { shards: 0b111, ..XY };
const X_IF_Y: Txn = Txn { guarded: 0b010, guards: [None, Some(1), None], ..XY };
const AGAIN: Txn = Txn { retry_of: Some(0), ..XY };

const ON_X: Write = Write { shard: 0, aggregate: 0 };
const ON_Y: Write = Write { shard: 1, aggregate: 0 };
const BESIDE_X: Write = Write { shard: 0, aggregate: 1 };

const BASE: Scenario = Scenario {
    name: "one",
    shards: 2,
    txns: &[XY],
    writes: &[ON_X],
    crashes: 1,
    claims: 1,
    compaction: false,
};

/// All scenarios.
pub const ALL: &[Scenario] = &[
    BASE,
    Scenario { name: "beside", writes: &[BESIDE_X], ..BASE },
    Scenario { name: "two", txns: &[XY, XY], writes: &[], ..BASE },
    Scenario { name: "crowd", txns: &[XY, XY], ..BASE },
    Scenario { name: "guard", txns: &[X_IF_Y], writes: &[ON_Y], ..BASE },
    Scenario { name: "again", txns: &[XY, AGAIN], ..BASE },
    Scenario { name: "compaction", writes: &[], crashes: 2, compaction: true, ..BASE },
    Scenario { name: "three", shards: 3, txns: &[XYZ], writes: &[ON_X], ..BASE },
    Scenario { name: "chain", shards: 3, txns: &[XY, YZ], writes: &[], ..BASE },
];
