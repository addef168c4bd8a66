//! The invariants of replication.md §7, one file each; and what compaction promises (semantics.md
//! §9).
//!
//! ```text
//!                            a node on its own        one of a pair, besides
//! at every completed write   i02                      i12
//! at every answer            i06 i07 i08              i04
//! at every crash             i12 i17
//! at rest                    i08 i09 i10 i20, oracle  i11 i13 i18
//! when a compaction is done  erasure
//! at every step              i22                      i01 i03 i05 i14 i15 i16 i19 i21
//! ```

pub mod erasure;
pub mod i01_one_leader;
pub mod i02_log_matching;
pub mod i03_promises;
pub mod i04_two_places;
pub mod i05_leader_has_all;
pub mod i06_acknowledged_is_durable;
pub mod i07_exposed_is_final;
pub mod i08_one_entry_per_position;
pub mod i09_exactly_once;
pub mod i10_guards_and_atomicity;
pub mod i11_linearizable;
pub mod i12_no_cut;
pub mod i13_resumes;
pub mod i14_register_trusted;
pub mod i15_slots;
pub mod i17_recovery_is_idempotent;
pub mod i18_twice;
pub mod i19_short_logs_never_claim;
pub mod i20_feeds;
pub mod i21_feature_levels;
pub mod i22_caps;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that must not be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which promise is broken: `I9`, `reads` …
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Collects violations. Cheap to clone: all clones are one list.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    list: Arc<Mutex<Vec<Violation>>>,
}

/// More are not kept: the first ones tell the story.
const VIOLATIONS_MAX: usize = 20;

impl Violations {
    /// Adds one.
    pub fn add(&self, rule: &'static str, what: impl fmt::Display) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < VIOLATIONS_MAX {
            list.push(Violation { rule, what: what.to_string() });
        }
    }

    /// Adds one unless `holds`.
    pub fn check(&self, rule: &'static str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, what());
        }
    }

    /// Whether there is none.
    pub fn none(&self) -> bool {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// All of them, in the order they were found.
    pub fn list(&self) -> Vec<Violation> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod invariants_test;
