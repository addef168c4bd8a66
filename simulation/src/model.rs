//! The replication protocol as models whose every state is visited.
//!
//! ```text
//! shard      one shard: register, claims, epochs, sets, bucket logs, crashes, lost disks
//! legs       writes over several shards on top of it
//! mutation   every rule broken on purpose, one at a time: the models must notice
//! explorer   visits states level by level ── seen: those that were, in fixed memory
//! command    `simulation model`
//! ```
//! The models are the protocol's rules in code, in the words of replication.md, and written to be
//! read. They share nothing with the node: what they prove is the rules, what the rest of this
//! crate proves is that the code follows them. Change a rule and its model together.
//!
//! Deliberately absent: time. Nothing in the protocol may depend on it, so here anything that a
//! timer could set off may happen at any moment.

pub mod command;
pub mod explorer;
pub mod legs;
pub mod mutation;
pub mod seen;
pub mod shard;

#[cfg(test)]
mod model_test;

use explorer::{Limits, Report, explore};
use legs::Legs;
use legs::scenarios::Scenario;
pub use mutation::Mutation;
use shard::state::Set;
use shard::{Bounds, Shard};

/// One search: a model and its bounds.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// One shard.
    Shard(Bounds),
    /// Writes over several.
    Legs(Scenario),
}

impl Run {
    /// Visits its states, with a rule broken or not.
    pub fn explore(&self, mutation: Option<Mutation>, limits: Limits) -> Report {
        match *self {
            Self::Shard(bounds) => explore(&Shard { bounds, mutation }, limits),
            Self::Legs(scenario) => explore(&Legs { scenario, mutation }, limits),
        }
    }

    /// What it is, in a few words.
    pub fn name(&self) -> String {
        match self {
            Self::Shard(bounds) => format!(
                "shard: {} entries, {} epochs, {} crashes, {} disks lost, from {:?}{}{}",
                bounds.entries,
                bounds.epochs,
                bounds.crashes,
                bounds.wipes,
                bounds.start,
                if bounds.handover { ", hand-overs" } else { "" },
                if bounds.collect { ", collection" } else { "" },
            ),
            Self::Legs(scenario) => format!(
                "legs: {}, {} crashes, {} wrong claims",
                scenario.name, scenario.crashes, scenario.claims
            ),
        }
    }
}

/// Everything that can happen to one entry in four epochs, hand-overs and a crash included.
const LONG: Bounds = Bounds {
    entries: 1,
    epochs: 4,
    crashes: 1,
    wipes: 0,
    messages: 1,
    handover: true,
    collect: true,
    start: Set::Bucket,
};

/// What is visited before a change lands: the one-shard protocol.
pub const SHARD_RUNS: &[Bounds] = &[
    Bounds { epochs: 3, ..LONG },
    // A disk is lost and its node replaced.
    Bounds { epochs: 3, wipes: 1, start: Set::Pair, ..LONG },
    // More than one entry: logs that differ in the middle, slots that arrive out of order.
    Bounds { entries: 2, epochs: 3, crashes: 0, collect: false, start: Set::Pair, ..LONG },
    // Two messages on their way: old ones overtake new ones.
    Bounds { epochs: 3, messages: 2, start: Set::Pair, ..LONG },
];

/// What is visited besides when there are hours: as far as there is room.
pub const SHARD_RUNS_LONG: &[Bounds] = &[
    LONG,
    Bounds { start: Set::Pair, ..LONG },
    Bounds { epochs: 5, ..LONG },
    Bounds { entries: 2, epochs: 4, start: Set::Pair, ..LONG },
    Bounds { messages: 2, start: Set::Pair, ..LONG },
    Bounds { crashes: 2, wipes: 1, start: Set::Pair, ..LONG },
];

/// What is visited before a change lands: every scenario of writes over several shards.
pub fn legs_runs() -> Vec<Scenario> {
    let harder = |scenario: &Scenario| Scenario { crashes: 2, claims: 2, ..*scenario };
    legs::scenarios::ALL.iter().map(harder).collect()
}
