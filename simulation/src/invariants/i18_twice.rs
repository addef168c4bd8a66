//! I18: at rest, with two healthy places, everything is in two places.

use super::Violations;
use super::i12_no_cut::Held;
use crate::history::History;

const RULE: &str = "I18";

/// The pair has come to rest and both nodes are there: each holds all of history.
pub fn check(history: &History, disks: [&Held; 2], violations: &Violations) {
    for (node, held) in disks.iter().enumerate() {
        for (key, batches) in history.aggregates.iter().chain(&history.own) {
            for event in batches.iter().flat_map(|batch| &batch.events) {
                violations.check(RULE, held.entries().has(key, event.version, event.hash), || {
                    format!("{key} version {} is not on the disks of node {node}", event.version)
                });
            }
        }
    }
}
