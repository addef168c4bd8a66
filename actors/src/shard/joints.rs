//! Writes over several shards, as a follower sees them: decided when every leg is here, committed.
//!
//! ```text
//! shard 0: leg committed ─┐
//!                         ├─► all here: decided ─► every shard shows its leg when it is looked at
//! shard 1: leg committed ─┘
//! ```
//! The one thing that the shards of a node share besides clocks: whichever shard a reader asks
//! first, it sees all of a write or nothing of it. An entry ends when every participant has met its
//! `Resolve`.

use std::sync::Arc;

use celeriant_schema::{ShardId, TxnId};
use dashmap::DashMap;
use foldhash::fast::FixedState;

/// All writes of a follower that some of its shards have, and not all have resolved.
#[derive(Clone, Debug, Default)]
pub struct Joints(Arc<DashMap<TxnId, Joint, FixedState>>);

#[derive(Debug)]
struct Joint {
    /// Ascending, and what is known of each.
    parts: Vec<(ShardId, Known)>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Known {
    Nothing,
    Here,
    Resolved,
}

impl Joint {
    fn of(participants: &[ShardId]) -> Self {
        Self { parts: participants.iter().map(|shard| (*shard, Known::Nothing)).collect() }
    }

    fn is_decided(&self) -> bool {
        self.parts.iter().all(|(_, known)| *known != Known::Nothing)
    }

    /// Notes what is known of one part. Whether that decides the write.
    fn learn(&mut self, of: ShardId, news: Known) -> bool {
        let was_decided = self.is_decided();
        for (_, known) in self.parts.iter_mut().filter(|(shard, _)| *shard == of) {
            *known = news.max(*known);
        }
        !was_decided && self.is_decided()
    }
}

impl Joints {
    /// The leg of `shard` is committed here. Whether that decides the write: then the others are to
    /// be told.
    pub(super) fn here(&self, txn: TxnId, participants: &[ShardId], shard: ShardId) -> bool {
        let mut joint = self.0.entry(txn).or_insert_with(|| Joint::of(participants));
        joint.learn(shard, Known::Here)
    }

    /// `shard` has met the `Resolve` of its leg: to commit, or else nobody waits for it.
    pub(super) fn resolved(&self, txn: TxnId, shard: ShardId) -> bool {
        let Some(mut joint) = self.0.get_mut(&txn) else { return false };
        let decides = joint.learn(shard, Known::Resolved);
        let is_over = joint.parts.iter().all(|(_, known)| *known == Known::Resolved);
        drop(joint);
        if is_over {
            self.0.remove(&txn);
        }
        decides
    }

    /// Every leg of the write is committed here.
    pub(super) fn is_decided(&self, txn: TxnId) -> bool {
        self.0.get(&txn).is_some_and(|joint| joint.is_decided())
    }

    /// Participants of which nothing is known, and which may have resolved it before a restart.
    pub(super) fn unheard(&self, txn: TxnId) -> Vec<ShardId> {
        let Some(joint) = self.0.get(&txn) else { return Vec::new() };
        let unheard = joint.parts.iter().filter(|(_, known)| *known == Known::Nothing);
        unheard.map(|(shard, _)| *shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_decided_once_when_the_last_leg_is_here_and_forgotten_when_all_are_resolved() {
        let joints = Joints::default();
        let shards = [ShardId::new(1), ShardId::new(4)];
        let txn = TxnId::default();
        assert!(!joints.here(txn, &shards, shards[0]));
        assert!(!joints.is_decided(txn), "half of it");
        assert_eq!(joints.unheard(txn), [shards[1]]);
        assert!(joints.here(txn, &shards, shards[1]), "the last one decides");
        assert!(!joints.here(txn, &shards, shards[1]), "and only once");
        assert!(joints.is_decided(txn));
        joints.resolved(txn, shards[0]);
        assert!(joints.is_decided(txn), "the other shard has not shown it yet");
        joints.resolved(txn, shards[1]);
        assert!(!joints.is_decided(txn) && joints.0.is_empty(), "nothing is kept for ever");
    }

    #[test]
    fn a_part_that_was_resolved_before_a_restart_counts() {
        let joints = Joints::default();
        let shards = [ShardId::new(0), ShardId::new(1)];
        joints.here(TxnId::default(), &shards, shards[1]);
        assert!(joints.resolved(TxnId::default(), shards[0]));
    }
}
