//! I9: one (client, aggregate, sequence) at most once; a retry gets the original receipt; what was
//! refused for certain is not there.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::{Sequence, WriteId};

use super::Violations;
use crate::history::History;
use crate::ledger::Operation;

const RULE: &str = "I9";

/// Checks the final log against everything that was asked.
pub fn check_final(operations: &[Operation], history: &History, violations: &Violations) {
    check_sequences(history, violations);
    let mut landed: BTreeMap<usize, Vec<WriteId>> = BTreeMap::new();
    for (write_id, landing) in history.landings() {
        if let Some(operation) = landing.first().and_then(|(_, batch)| batch.origin) {
            landed.entry(operation).or_default().push(write_id);
        }
    }
    for (id, operation) in operations.iter().enumerate() {
        let times = landed.get(&id).map_or(0, Vec::len);
        check_operation(id, operation, times, history, violations);
    }
}

/// Per (client, aggregate), the sequences in the log are 1, 2, 3 …, and begin anew behind what
/// forgets them, but for its own.
fn check_sequences(history: &History, violations: &Violations) {
    for (key, batches) in &history.aggregates {
        let mut highest: BTreeMap<_, Sequence> = BTreeMap::new();
        for batch in batches {
            let (client, sequence) = (batch.header.client_id, batch.header.sequence);
            let before = highest.get(&client).copied().unwrap_or_default();
            violations.check(RULE, sequence.is_none_or(|it| it == before.next()), || {
                format!("{key}: client {client} has sequence {sequence:?} after {before}")
            });
            if batch.forgets() {
                highest.clear();
            }
            highest.extend(sequence.map(|sequence| (client, sequence)));
        }
    }
}

fn check_operation(
    id: usize,
    operation: &Operation,
    times: usize,
    history: &History,
    violations: &Violations,
) {
    let Some(write) = operation.write() else { return };
    let sequenced = write.members.iter().any(|member| member.sequence.is_some());
    if sequenced {
        // Once more, whenever all of its aggregates have forgotten that it did.
        let changed = write.members.iter().filter(|member| member.changes());
        let forgotten = changed.map(|member| history.times_forgotten(&member.key)).min();
        violations.check(RULE, times <= 1 + forgotten.unwrap_or_default(), || {
            format!("operation {id} landed {times} times")
        });
        let receipts: BTreeSet<_> = operation.receipts().map(|(_, it)| it.stamp).collect();
        violations.check(RULE, receipts.len() <= times, || {
            format!("operation {id} landed {times} times and has receipts of {receipts:?}")
        });
    }
    let fresh = operation.receipts().filter(|(_, receipt)| !receipt.already_applied).count();
    let possible = operation.may_have_landed();
    violations.check(RULE, times <= possible, || {
        format!("operation {id} landed {times} times, {possible} attempts may have: {operation:?}")
    });
    violations.check(RULE, fresh <= times, || {
        format!("operation {id} was newly acknowledged {fresh} times and landed {times} times")
    });
    let repeated = operation.receipts().any(|(_, receipt)| receipt.already_applied);
    violations.check(RULE, !repeated || (sequenced && times > 0), || {
        format!("operation {id} was acknowledged as applied before, but landed {times} times")
    });
}
