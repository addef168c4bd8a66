//! Receipts, conflicts and sequence refusals: right at a moment between sending and answering.

use celeriant_schema::limits::SEQUENCES_REMEMBERED;
use celeriant_schema::{
    AggregateKey, AlreadyApplied, Conflict, Member, Receipt, Refusal, Sequence, Stamp, Write,
};

use super::{Evidence, When};
use crate::history::Step;
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
    let is_sequenced = is_sequenced(operation);
    let is_forgotten = may_be_forgotten(evidence, operation);
    if known_before(operation, attempt.sent) && is_sequenced && !is_forgotten {
        return Err("a second new receipt for a write that was known to have landed".into());
    }
    let sent = if is_sequenced { operation.first_sent() } else { attempt.sent };
    for part in &receipt.writes {
        let lowest = evidence.progress.step(None, &part.key, sent);
        // What is not there is I8's.
        let landed = evidence.history.landed(part, receipt.stamp);
        if landed.is_some_and(|(step, _)| step <= lowest) {
            return Err(format!("{part:?}, but step {lowest} was known before"));
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
    let is_known = known_before(operation, attempt.sent) && is_sequenced(operation);
    if is_known && !admits_landing(refusal) && !may_be_forgotten(evidence, operation) {
        return Err(format!("{refusal:?} for a write that is known to have landed"));
    }
    match refusal {
        Refusal::Conflict { conflicts, already_applied } => {
            let may_be_forgotten = may_be_forgotten(evidence, operation);
            if *already_applied == AlreadyApplied::Unknown && !may_be_forgotten {
                check_unknown(evidence, write, when)?;
            }
            check_conflict(evidence, write, conflicts, when)
        }
        Refusal::SequenceGap { key, expected } => {
            let asked = member(write, key)?.sequence.unwrap_or_default();
            let right = asked > *expected
                && highest(evidence, write, key, when).any(|highest| highest.next() == *expected);
            right.then_some(()).ok_or_else(|| format!("{asked} is no gap behind {expected}"))
        }
        Refusal::SequenceStale { key, sequence } => {
            let is_old = highest(evidence, write, key, when).any(|it| is_stale(*sequence, it))
                // Or it has landed, and another aggregate of the write has forgotten that.
                || may_be_forgotten(evidence, operation);
            let right = member(write, key)?.sequence == Some(*sequence) && is_old;
            right.then_some(()).ok_or_else(|| format!("{sequence} is not stale"))
        }
        Refusal::SequenceReused { key, sequence } => {
            let is_used = highest(evidence, write, key, when).any(|highest| *sequence <= highest);
            let right = member(write, key)?.sequence == Some(*sequence) && is_used;
            right.then_some(()).ok_or_else(|| format!("{sequence} is not used"))
        }
        Refusal::NotFound { key } | Refusal::Deleted { key } => {
            let member = member(write, key)?;
            let right = evidence.possible(key, when, |at| {
                at.passes(member.guard) && at.bars(member).as_ref() == Some(refusal)
            });
            right.then_some(()).ok_or_else(|| format!("{refusal:?} for {member:?}"))
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

/// Some aggregate of the write may not remember that it has landed: a delete took care of that.
fn may_be_forgotten(evidence: &Evidence, operation: &Operation) -> bool {
    let members = operation.write().into_iter().flat_map(|write| &write.members);
    let forgotten = members.map(|member| evidence.history.times_forgotten(&member.key));
    forgotten.sum::<usize>() > 0
}

fn is_stale(sequence: Sequence, highest: Sequence) -> bool {
    sequence.value() + SEQUENCES_REMEMBERED as u64 <= highest.value()
}

fn member<'a>(write: &'a Write, key: &AggregateKey) -> Result<&'a Member, String> {
    let found = write.members.iter().find(|member| member.key == *key);
    found.ok_or_else(|| format!("{key} is not in the write"))
}

/// All that the client's highest sequence can have been.
fn highest(
    evidence: &Evidence,
    write: &Write,
    key: &AggregateKey,
    when: When,
) -> impl Iterator<Item = Sequence> {
    evidence.history.sequences(key, write.client_id, evidence.steps(key, when))
}

fn check_unknown(evidence: &Evidence, write: &Write, when: When) -> Result<(), String> {
    let is_old = |member: &Member| {
        let mut highest = highest(evidence, write, &member.key, when);
        member.sequence.is_some_and(|sequence| highest.any(|it| is_stale(sequence, it)))
    };
    let right = write.members.iter().any(is_old);
    right.then_some(()).ok_or_else(|| "unknown whether applied, but nothing is forgotten".into())
}

fn check_conflict(
    evidence: &Evidence,
    write: &Write,
    conflicts: &[Conflict],
    when: When,
) -> Result<(), String> {
    if conflicts.is_empty() {
        return Err("a conflict without an aggregate".into());
    }
    for conflict in conflicts {
        if conflict.expected != member(write, &conflict.key)?.guard {
            return Err(format!("{conflict:?} names a guard that is not the write's"));
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
    let stamp_of = |key: &AggregateKey, step: Step| {
        let last = step.checked_sub(1).map(|at| &history.batches(key)[at]);
        last.map_or(Stamp::ZERO, |batch| batch.header.stamp)
    };
    let from = members
        .iter()
        .map(|member| stamp_of(&member.key, evidence.lowest(&member.key, when)))
        .max()
        .unwrap_or_default();
    let later = members.iter().flat_map(|member| {
        let highest = evidence.highest(&member.key, when.answered);
        let after = history.step_at(&member.key, from);
        let batches = &history.batches(&member.key)[after.min(highest)..highest];
        batches.iter().map(|batch| batch.header.stamp)
    });
    std::iter::once(from).chain(later).any(|moment| {
        members.iter().all(|member| {
            let step = history.step_at(&member.key, moment);
            let at = history.standing(&member.key, step);
            let listed = conflicts.iter().find(|conflict| conflict.key == member.key);
            let is_told = listed.is_none_or(|conflict| conflict.actual == at.version);
            let right = is_told && listed.is_none() == at.passes(member.guard);
            right && step <= evidence.highest(&member.key, when.answered)
        })
    })
}
