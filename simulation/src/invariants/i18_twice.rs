//! I18: at rest, with two healthy places, everything is in two places.

use super::Violations;
use super::i12_no_cut::Held;
use crate::history::History;

const RULE: &str = "I18";

/// The pair has come to rest and both nodes are there: each holds all of history, and nothing else.
pub fn check(histories: [&History; 2], disks: [&Held; 2], violations: &Violations) {
    let [one, other] = histories;
    violations.check(RULE, one == other, || "the logs of the two nodes differ".into());
    for (node, held) in disks.iter().enumerate() {
        for (key, batches) in one.aggregates.iter().chain(&one.own) {
            for event in batches.iter().flat_map(|batch| &batch.events) {
                violations.check(RULE, held.entries().has(key, event.version, event.hash), || {
                    format!("{key} version {} is not on the disks of node {node}", event.version)
                });
            }
        }
    }
}
