//! I9: one (client, aggregate, sequence) at most once; a retry gets the original receipt; what was
//! refused for certain is not there.

use std::collections::BTreeMap;

use celeriant_schema::WriteId;

use super::Violations;
use crate::history::{History, Landing};
use crate::ledger::Operation;

const RULE: &str = "I9";

/// Checks the final log against everything that was asked.
pub fn check_final(operations: &[Operation], history: &History, violations: &Violations) {
    check_sequences(history, violations);
    let mut landed: BTreeMap<usize, Vec<WriteId>> = BTreeMap::new();
    for (write_id, landing) in history.landings() {
        if let Some(operation) = origin(&landing) {
            landed.entry(operation).or_default().push(write_id);
        }
    }
    for (id, operation) in operations.iter().enumerate() {
        let times = landed.get(&id).map_or(0, Vec::len);
        check_operation(id, operation, times, violations);
    }
}

fn origin(landing: &Landing<'_>) -> Option<usize> {
    landing.first().and_then(|(_, batch)| batch.origin).map(|(operation, _)| operation)
}

/// Per (client, aggregate), the sequences in the log are 1, 2, 3 …
fn check_sequences(history: &History, violations: &Violations) {
    for (key, batches) in &history.aggregates {
        let mut highest = BTreeMap::new();
        for batch in batches {
            let Some(sequence) = batch.header.sequence else { continue };
            let highest = highest.entry(batch.header.client_id).or_insert(0);
            violations.check(RULE, sequence.value() == *highest + 1, || {
                let client = batch.header.client_id;
                format!("{key}: client {client} has sequence {sequence} after {highest}")
            });
            *highest = sequence.value();
        }
    }
}

fn check_operation(id: usize, operation: &Operation, times: usize, violations: &Violations) {
    let Some(write) = operation.write() else { return };
    let sequenced = write.members.iter().any(|member| member.sequence.is_some());
    if sequenced {
        violations.check(RULE, times <= 1, || format!("operation {id} landed {times} times"));
        let mut receipts =
            operation.receipts().map(|(_, receipt)| (receipt.stamp, &receipt.writes));
        let first = receipts.next();
        violations.check(RULE, receipts.all(|receipt| Some(receipt) == first), || {
            format!("operation {id}: two receipts differ")
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
    violations.check(RULE, !repeated || (sequenced && times == 1), || {
        format!("operation {id} was acknowledged as applied before, but landed {times} times")
    });
}
