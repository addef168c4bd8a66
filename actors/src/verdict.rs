//! May a write be appended? One answer from what each shard found (semantics.md §2 and §3).
//!
//! A shard looks at its own members and reports [`Findings`]; [`judge`] turns the findings of all
//! shards of a write into one verdict. A write in one shard takes the same road with one report.

use celeriant_schema::{
    AggregateKey, AggregateReceipt, AlreadyApplied, Conflict, Receipt, Refusal, Sequence, Stamp,
};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// What one shard found about its members of a write. Empty: nothing speaks against it.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Members whose guard failed.
    pub conflicts: Vec<Conflict>,
    /// Members whose sequence is not the next one.
    pub sequences: Vec<SequenceFinding>,
    /// Why a member takes no such change, whatever guards and sequences say.
    pub barred: Option<Refusal>,
    /// Something of this was computed from state that is not committed: it may be told only after
    /// that state has committed (R3).
    pub uncommitted: bool,
}

/// Why a member's sequence is not the next one.
#[derive(Clone, Debug)]
pub enum SequenceFinding {
    /// This very write has landed; what it did then.
    Landed {
        /// The sequence.
        sequence: Sequence,
        /// Original receipt of this aggregate.
        receipt: AggregateReceipt,
        /// Original largest stamp of this aggregate's batch.
        stamp: Stamp,
    },
    /// Another write took it.
    Reused(AggregateKey, Sequence),
    /// Used, but older than what is remembered.
    Stale(AggregateKey, Sequence),
    /// Beyond the next one, which is given.
    Gap(AggregateKey, Sequence),
}

/// What to do with a write.
#[derive(Debug)]
pub enum Verdict {
    /// Append it.
    Accept,
    /// It has landed before; answer with the original receipt.
    Landed(Receipt),
    /// Append nothing.
    Refuse(Refusal),
}

impl Findings {
    /// Nothing speaks against the write.
    pub fn is_clear(&self) -> bool {
        self.conflicts.is_empty() && self.sequences.is_empty() && self.barred.is_none()
    }

    /// Adds what another shard found about the same write.
    pub fn merge(&mut self, other: Findings) {
        self.conflicts.extend(other.conflicts);
        self.sequences.extend(other.sequences);
        self.barred = self.barred.take().or(other.barred);
        self.uncommitted |= other.uncommitted;
    }

    /// The original receipt, when all `sequenced` members of the write are known to have landed.
    fn landed(&self, sequenced: usize) -> Option<Receipt> {
        let mut writes = Vec::with_capacity(self.sequences.len());
        let mut newest = Stamp::ZERO;
        for finding in &self.sequences {
            let SequenceFinding::Landed { receipt, stamp, .. } = finding else { return None };
            newest = newest.max(*stamp);
            writes.push(receipt.clone());
        }
        (!writes.is_empty() && writes.len() == sequenced).then_some(Receipt {
            stamp: newest,
            already_applied: true,
            writes,
        })
    }

    fn already_applied(&self, sequenced: usize) -> AlreadyApplied {
        if let Some(receipt) = self.landed(sequenced) {
            return AlreadyApplied::Receipt(Box::new(receipt));
        }
        let forgotten = |finding: &SequenceFinding| {
            matches!(finding, SequenceFinding::Stale(..) | SequenceFinding::Landed { .. })
        };
        match self.sequences.iter().any(forgotten) {
            true => AlreadyApplied::Unknown,
            false => AlreadyApplied::None,
        }
    }
}

/// Decides over a write from everything that its shards found. Guards come first, then sequences.
/// `order` is the write's members, so that conflicts and receipts come back in the caller's order;
/// `sequenced` of them carry a sequence.
pub fn judge<'a>(
    findings: Findings,
    order: impl Iterator<Item = &'a AggregateKey>,
    sequenced: usize,
) -> Verdict {
    if findings.is_clear() {
        return Verdict::Accept;
    }
    let places = places(order);
    let index = |key: &AggregateKey| places.get(key).copied();
    let sort = |receipt: &mut Receipt| receipt.writes.sort_by_key(|write| index(&write.key));

    if !findings.conflicts.is_empty() {
        let mut already_applied = findings.already_applied(sequenced);
        if let AlreadyApplied::Receipt(receipt) = &mut already_applied {
            sort(receipt);
        }
        let mut conflicts = findings.conflicts;
        conflicts.sort_by_key(|conflict| index(&conflict.key));
        return Verdict::Refuse(Refusal::Conflict { conflicts, already_applied });
    }
    if let Some(mut receipt) = findings.landed(sequenced) {
        sort(&mut receipt);
        return Verdict::Landed(receipt);
    }
    match findings.barred {
        Some(refusal) if findings.sequences.is_empty() => Verdict::Refuse(refusal),
        _ => Verdict::Refuse(refuse_sequence(findings.sequences)),
    }
}

/// Where each key stands in a request: receipts and conflicts come back in that order.
pub fn places<'a>(
    order: impl Iterator<Item = &'a AggregateKey>,
) -> HashMap<&'a AggregateKey, usize, FixedState> {
    order.enumerate().map(|(place, key)| (key, place)).collect()
}

/// The most telling of several sequence findings: taken by a sibling, then forgotten, then a gap.
fn refuse_sequence(findings: Vec<SequenceFinding>) -> Refusal {
    let (mut reused, mut stale, mut gap, mut landed) = (None, None, None, None);
    for finding in findings {
        match finding {
            SequenceFinding::Reused(key, sequence) => {
                reused.get_or_insert(Refusal::SequenceReused { key, sequence });
            }
            SequenceFinding::Stale(key, sequence) => {
                stale.get_or_insert(Refusal::SequenceStale { key, sequence });
            }
            SequenceFinding::Gap(key, expected) => {
                gap.get_or_insert(Refusal::SequenceGap { key, expected });
            }
            // Landed here but not in every member: the members were parted since (a sequence memory
            // was forgotten by a delete). What is remembered elsewhere is stale to this writer.
            SequenceFinding::Landed { sequence, receipt, .. } => {
                landed.get_or_insert(Refusal::SequenceStale { key: receipt.key, sequence });
            }
        }
    }
    let refusal = reused.or(stale).or(gap).or(landed);
    refusal.unwrap_or_else(|| unreachable!("judge() accepts a write without findings"))
}
