//! Receipts, conflicts and sequence refusals: right at a moment between sending and answering.

use celeriant_schema::limits::SEQUENCES_REMEMBERED;
use celeriant_schema::{
    AggregateKey, AlreadyApplied, Conflict, Member, Receipt, Refusal, Sequence, Stamp, Version,
    Write,
};

use super::{Evidence, When};
use crate::history::passes;
use crate::ledger::{Attempt, Operation, Order, receipt_of};

/// A receipt that is new comes after everything that was known when its write was first sent.
pub(super) fn check_receipt(
    evidence: &Evidence,
    operation: &Operation,
    receipt: &Receipt,
    attempt: &Attempt,
) -> Result<(), String> {
    if receipt.already_applied {
        return Ok(());
    }
    if known_before(operation, attempt.sent) && is_sequenced(operation) {
        return Err("a second new receipt for a write that was known to have landed".into());
    }
    let sent = if is_sequenced(operation) { operation.first_sent() } else { attempt.sent };
    for part in &receipt.writes {
        let lowest = evidence.progress.version(None, &part.key, sent);
        if part.first_version <= lowest {
            return Err(format!("{part:?}, but version {lowest} was known before"));
        }
    }
    Ok(())
}

/// A refusal that speaks about the state of aggregates.
pub(super) fn check(
    evidence: &Evidence,
    operation: &Operation,
    attempt: &Attempt,
    refusal: &Refusal,
    when: When,
) -> Result<(), String> {
    let Some(write) = operation.write() else {
        return Err(format!("{refusal:?} for something that is no write"));
    };
    if known_before(operation, attempt.sent) && is_sequenced(operation) && !admits_landing(refusal)
    {
        return Err(format!("{refusal:?} for a write that is known to have landed"));
    }
    match refusal {
        Refusal::Conflict { conflicts, already_applied } => {
            check_conflict(evidence, write, conflicts, already_applied, when)
        }
        Refusal::SequenceGap { key, expected } => {
            let (low, high) = sequences(evidence, write, key, when);
            let asked = member(write, key)?.sequence.unwrap_or_default();
            let right =
                low < *expected && expected.value() <= high.value() + 1 && asked > *expected;
            right.then_some(()).ok_or_else(|| format!("gap {asked}: used are {low} to {high}"))
        }
        Refusal::SequenceStale { key, sequence } => {
            let (_, high) = sequences(evidence, write, key, when);
            let right =
                member(write, key)?.sequence == Some(*sequence) && forgotten(*sequence, high);
            right.then_some(()).ok_or_else(|| format!("{sequence} is not stale at {high}"))
        }
        Refusal::SequenceReused { key, sequence } => {
            let (_, high) = sequences(evidence, write, key, when);
            let right = member(write, key)?.sequence == Some(*sequence) && *sequence <= high;
            right.then_some(()).ok_or_else(|| format!("{sequence} is not used at {high}"))
        }
        Refusal::SchemaViolation { key, event, .. } => {
            super::schemas::check_violation(evidence, member(write, key)?, *event, when)
        }
        other => Err(format!("{other:?} for a write that is right")),
    }
}

/// Some receipt for the operation had been delivered before the attempt was sent.
fn known_before(operation: &Operation, sent: Order) -> bool {
    operation.attempts.iter().any(|other| {
        let answer = other.answer.as_ref();
        answer.is_some_and(|(order, response)| *order < sent && receipt_of(response).is_some())
    })
}

fn is_sequenced(operation: &Operation) -> bool {
    let write = operation.write();
    write.is_some_and(|write| write.members.iter().any(|member| member.sequence.is_some()))
}

/// The refusal does not deny that the write has landed.
fn admits_landing(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Conflict { already_applied, .. } => *already_applied != AlreadyApplied::None,
        Refusal::SequenceStale { .. } => true,
        _ => false,
    }
}

fn forgotten(sequence: Sequence, highest: Sequence) -> bool {
    sequence.value() + SEQUENCES_REMEMBERED as u64 <= highest.value()
}

fn member<'a>(write: &'a Write, key: &AggregateKey) -> Result<&'a Member, String> {
    let found = write.members.iter().find(|member| member.key == *key);
    found.ok_or_else(|| format!("{key} is not in the write"))
}

/// Lowest and highest that the client's highest sequence can have been.
fn sequences(
    evidence: &Evidence,
    write: &Write,
    key: &AggregateKey,
    when: When,
) -> (Sequence, Sequence) {
    let at = |version| evidence.history.highest_sequence(key, write.client_id, version);
    (at(evidence.lowest(key, when)), at(evidence.highest(key, when.answered)))
}

fn check_conflict(
    evidence: &Evidence,
    write: &Write,
    conflicts: &[Conflict],
    already_applied: &AlreadyApplied,
    when: When,
) -> Result<(), String> {
    if conflicts.is_empty() {
        return Err("a conflict without an aggregate".into());
    }
    for conflict in conflicts {
        let member = member(write, &conflict.key)?;
        if conflict.expected != member.guard || passes(member.guard, conflict.actual) {
            return Err(format!("{conflict:?} is none for {:?}", member.guard));
        }
    }
    if *already_applied == AlreadyApplied::Unknown {
        let old = |member: &&Member| {
            let (_, high) = sequences(evidence, write, &member.key, when);
            member.sequence.is_some_and(|sequence| forgotten(sequence, high))
        };
        if write.members.iter().find(old).is_none() {
            return Err("unknown whether applied, but nothing is forgotten".into());
        }
    }
    let shard = |member: &Member| member.key.shard(evidence.shards);
    let first = write.members.first().map(shard);
    let together = write.members.iter().all(|member| Some(shard(member)) == first);
    let members: Vec<&Member> = write.members.iter().collect();
    let right = match together {
        true => some_moment(evidence, &members, conflicts, when),
        // Shards look at their members at moments of their own.
        false => members.chunks(1).all(|one| some_moment(evidence, one, conflicts, when)),
    };
    match right {
        true => Ok(()),
        false => Err(format!("conflict {conflicts:?} was right at no moment")),
    }
}

/// Whether there was a moment at which exactly the members in `conflicts` failed, at those
/// versions.
fn some_moment(
    evidence: &Evidence,
    members: &[&Member],
    conflicts: &[Conflict],
    when: When,
) -> bool {
    let history = &evidence.history;
    let stamp_of = |key: &AggregateKey, version: Version| {
        history.ending_at(key, version).map_or(Stamp::ZERO, |batch| batch.header.stamp)
    };
    let from = members
        .iter()
        .map(|member| stamp_of(&member.key, evidence.lowest(&member.key, when)))
        .max()
        .unwrap_or_default();
    let later = members.iter().flat_map(|member| {
        let batches = history.batches(&member.key);
        let highest = evidence.highest(&member.key, when.answered);
        let after = batches.partition_point(|batch| batch.header.stamp <= from);
        let until = batches.partition_point(|batch| batch.header.last_version <= highest);
        batches[after.min(until)..until].iter().map(|batch| batch.header.stamp)
    });
    std::iter::once(from).chain(later).any(|moment| {
        members.iter().all(|member| {
            let version = history.version_at(&member.key, moment);
            let listed = conflicts.iter().find(|conflict| conflict.key == member.key);
            let right = match listed {
                Some(conflict) => conflict.actual == version,
                None => passes(member.guard, version),
            };
            right && version <= evidence.highest(&member.key, when.answered)
        })
    })
}
