//! I8: never two different entries acknowledged at one position; each acknowledged entry exactly
//! once in the final log.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::{AggregateKey, Hash, Receipt, Version};

use super::Violations;
use crate::history::History;
use crate::ledger::{Operation, end_of};

const RULE: &str = "I8";

/// Everything that was acknowledged so far, by position.
#[derive(Debug, Default)]
pub struct Acknowledged {
    entries: BTreeMap<(AggregateKey, Version), Hash>,
    /// What took something away; the position is that of the event that follows.
    taken: BTreeSet<(AggregateKey, Version, Hash)>,
}

impl Acknowledged {
    /// A client was given `receipt`.
    pub fn note(&mut self, receipt: &Receipt, violations: &Violations) {
        for write in &receipt.writes {
            let (version, hash) = end_of(write);
            if version > write.last_version {
                self.taken.insert((write.key.clone(), version, hash));
                continue;
            }
            let before = self.entries.insert((write.key.clone(), version), hash);
            violations.check(RULE, before.is_none_or(|before| before == write.hash), || {
                format!(
                    "{} version {} acknowledged twice, differently",
                    write.key, write.last_version
                )
            });
        }
    }

    /// Whether a write that ends with that event was acknowledged.
    pub fn has(&self, key: &AggregateKey, version: Version, hash: Hash) -> bool {
        self.entries.get(&(key.clone(), version)) == Some(&hash)
            || self.taken.contains(&(key.clone(), version, hash))
    }

    /// Positions and hashes of everything acknowledged.
    pub fn entries(&self) -> impl Iterator<Item = (&AggregateKey, Version, Hash)> {
        let taken = self.taken.iter().map(|(key, version, hash)| (key, *version, *hash));
        self.entries.iter().map(|((key, version), hash)| (key, *version, *hash)).chain(taken)
    }
}

/// Every receipt names batches that are there in the end, at those versions, with those hashes.
pub fn check_final(operations: &[Operation], history: &History, violations: &Violations) {
    for (id, operation) in operations.iter().enumerate() {
        for (_, receipt) in operation.receipts() {
            check_receipt(id, operation, receipt, history, violations);
        }
    }
}

fn check_receipt(
    id: usize,
    operation: &Operation,
    receipt: &Receipt,
    history: &History,
    violations: &Violations,
) {
    let Some(write) = operation.write() else {
        return violations.add(RULE, format_args!("operation {id} is no write and has a receipt"));
    };
    let appended: Vec<_> = write.members.iter().filter(|member| member.changes()).collect();
    let named = receipt.writes.iter().map(|write| &write.key);
    violations.check(RULE, named.eq(appended.iter().map(|member| &member.key)), || {
        format!("operation {id}: receipt {receipt:?} names other aggregates than the write")
    });
    let mut attempts = Vec::new();
    let mut newest = None;
    for part in &receipt.writes {
        let Some((_, batch)) = history.landed(part, receipt.stamp) else {
            violations
                .add(RULE, format_args!("operation {id}: acknowledged {part:?} is not there"));
            continue;
        };
        let same = batch.header.first_version == part.first_version
            && batch.hash == part.hash
            && batch.origin == Some(id);
        violations.check(RULE, same, || {
            format!("operation {id}: acknowledged {part:?}, but there is {:?}", batch.header)
        });
        newest = newest.max(Some(batch.last_stamp()));
        attempts.push(batch.header.write_id);
    }
    attempts.dedup();
    violations.check(RULE, attempts.len() <= 1, || {
        format!("operation {id}: one receipt for attempts {attempts:?}")
    });
    // A leg that only guards has a stamp of its own, which may be the largest.
    let only_guards = appended.len() < write.members.len();
    let right = |newest| newest == receipt.stamp || (only_guards && newest < receipt.stamp);
    violations.check(RULE, newest.is_none_or(right), || {
        format!("operation {id}: receipt says stamp {}, the log {newest:?}", receipt.stamp)
    });
}
