//! For tests of this crate: a disk in memory whose completions come in any order, and a small world
//! around a log that checks it against a model.

mod disk;
mod rig;

use proptest::test_runner::Config as ProptestConfig;

pub(crate) use disk::{Fate, MemoryDisk, now};
pub(crate) use rig::{Feed, Follower, Rig, Snapshot, identity, small_settings};

/// So many cases of a property; a failure is a scenario to write down, not a file to keep.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A generator for tests: one seed, one run.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }
}
