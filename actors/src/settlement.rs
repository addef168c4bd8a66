//! Deciding the legs that a start finds undecided (replication.md §6): from the logs alone.
//!
//! A write over several shards is committed if the legs of all participants are in the log that was
//! activated, else it is aborted. A `Resolve` that is found must agree with the legs; if it does
//! not, the node does not lead.

use std::collections::BTreeMap;

use celeriant_schema::{ShardId, TxnId};

/// What one shard's log says about a write over several shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trace {
    /// Its leg is there, without a `Resolve`.
    Leg,
    /// Its leg is there and resolved: `true` = commit.
    Resolved(bool),
    /// Nothing of it is there.
    Nothing,
}

/// The logs contradict each other about one write.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the logs contradict each other about write {txn}: {found:?}; not serving")]
pub struct Contradiction {
    /// Which write.
    pub txn: TxnId,
    /// What each participant's log says.
    pub found: Vec<(ShardId, Trace)>,
}

/// Decides every write in `undecided` from what all of its participants' logs say: `true` = commit.
///
/// # Errors
/// When a `Resolve` disagrees with the legs or with another `Resolve`.
pub fn decide(
    undecided: &BTreeMap<TxnId, Vec<(ShardId, Trace)>>,
) -> Result<BTreeMap<TxnId, bool>, Contradiction> {
    let verdict = |(txn, found): (&TxnId, &Vec<(ShardId, Trace)>)| {
        let any = |trace| found.iter().any(|(_, other)| *other == trace);
        let complete = !any(Trace::Nothing);
        let (committed, aborted) = (any(Trace::Resolved(true)), any(Trace::Resolved(false)));
        match (committed, aborted) {
            (true, true) => Err(Contradiction { txn: *txn, found: found.clone() }),
            (true, false) if !complete => Err(Contradiction { txn: *txn, found: found.clone() }),
            (false, true) => Ok((*txn, false)),
            _ => Ok((*txn, complete)),
        }
    };
    undecided.iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::Trace::{Leg, Nothing, Resolved};
    use super::*;

    fn one(found: &[Trace]) -> Result<bool, Contradiction> {
        let txn = TxnId::default();
        let shards = found.iter().enumerate();
        let found = shards.map(|(shard, trace)| (ShardId::new(shard as u16), *trace)).collect();
        decide(&BTreeMap::from([(txn, found)])).map(|verdicts| verdicts[&txn])
    }

    #[test]
    fn all_legs_there_means_commit_and_one_missing_means_abort() {
        assert_eq!(one(&[Leg, Leg, Leg]), Ok(true));
        assert_eq!(one(&[Leg, Nothing, Leg]), Ok(false));
    }

    #[test]
    fn a_resolve_that_is_found_binds_the_others() {
        assert_eq!(one(&[Leg, Resolved(true)]), Ok(true));
        assert_eq!(one(&[Leg, Resolved(false)]), Ok(false));
        assert_eq!(one(&[Leg, Resolved(false), Nothing]), Ok(false));
    }

    #[test]
    fn logs_that_contradict_each_other_stop_the_node() {
        assert!(one(&[Resolved(true), Resolved(false)]).is_err());
        assert!(one(&[Leg, Resolved(true), Nothing]).is_err());
    }
}
