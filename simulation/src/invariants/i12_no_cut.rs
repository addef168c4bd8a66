//! I12: no cut at or below what was exposed or acknowledged: after every recovery it is all on
//! disk.

use super::Violations;
use super::i06_acknowledged_is_durable::Durable;
use super::i07_exposed_is_final::Exposed;
use super::i08_one_entry_per_position::Acknowledged;

const RULE: &str = "I12";

/// Compares what a recovery left on the disks with what anyone has been told.
pub fn check(
    left: &Durable,
    acknowledged: &Acknowledged,
    exposed: &Exposed,
    violations: &Violations,
) {
    let told = acknowledged.entries().map(|entry| ("acknowledged", entry));
    let seen = exposed.entries().map(|entry| ("seen", entry));
    for (how, (key, version, hash)) in told.chain(seen) {
        violations.check(RULE, left.has(key, version, hash), || {
            format!("{key} version {version} was {how} and recovery lost it")
        });
    }
}
