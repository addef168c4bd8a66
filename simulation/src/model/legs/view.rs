//! What a node may conclude from its logs, and what it shows.

use super::state::{Kind, Node};
use super::{Legs, Record};
use crate::model::Mutation;

impl Legs {
    /// What Resolves call a transaction: its own id, unless attempts share one (F4).
    fn log_id(&self, txn: usize) -> usize {
        match self.broken_by(Mutation::TxnReused) {
            true => self.scenario.txns.get(txn).and_then(|asked| asked.retry_of).unwrap_or(txn),
            false => txn,
        }
    }

    /// Shards in which it has a leg.
    fn legs(&self, txn: usize) -> impl Iterator<Item = usize> + Clone + '_ {
        let asked = &self.scenario.txns[txn];
        let without = self.broken_by(Mutation::GuardWithoutLeg);
        self.scenario
            .shards_of(asked.shards)
            .filter(move |shard| !(without && asked.guards_only(*shard)))
    }

    /// The legs of all participants are there.
    pub(super) fn complete(&self, node: &Node, txn: usize) -> bool {
        self.legs(txn)
            .all(|shard| node.has_leg(shard, txn) && node.legs_gone[shard] >> txn & 1 == 0)
    }

    /// **Decided**: every leg is committed in its shard.
    pub(super) fn decided(&self, node: &Node, txn: usize) -> bool {
        self.legs(txn).all(|shard| {
            let leg = node.logs[shard].leg(txn);
            let committed = leg.is_some_and(|at| at < usize::from(node.commit[shard]));
            committed && node.has_leg(shard, txn)
        })
    }

    /// What a leader decides at its activation: as a Resolve says, else by the legs.
    pub(super) fn decide(&self, node: &Node, txn: usize) -> bool {
        let found = self.scenario.shards().find_map(|shard| {
            let gone = node.resolves_gone[shard] >> txn & 1 == 1;
            let same = |record: &Record| self.log_id(record.id()) == self.log_id(txn);
            let resolve = |record: &Record| match (record.kind(), same(record) && !gone) {
                (Some(Kind::Commit), true) => Some(true),
                (Some(Kind::Abort), true) => Some(false),
                _ => None,
            };
            node.logs[shard].records().iter().find_map(resolve)
        });
        found.unwrap_or_else(|| self.complete(node, txn))
    }

    /// The aggregate of a shard is held, by another than `except`.
    pub(super) fn held(&self, node: &Node, shard: usize, except: Option<usize>) -> bool {
        (0..self.scenario.txns.len()).filter(|txn| Some(*txn) != except).any(|txn| {
            let early = self.broken_by(Mutation::HoldReleasedEarly);
            let leg = node.logs[shard].leg(txn);
            let let_go = early && leg.is_some_and(|at| at < usize::from(node.commit[shard]));
            node.reserved[txn] >> shard & 1 == 1 || node.unresolved(shard, txn) && !let_go
        })
    }

    /// Version of an aggregate at the end of the log, what was taken back left out.
    pub(super) fn accepted(&self, node: &Node, shard: usize, aggregate: u8) -> u8 {
        let records = node.logs[shard].records().iter();
        let mut versions = records.filter(|record| match record.kind() {
            Some(Kind::Write) => self.scenario.writes[record.id()].aggregate == aggregate,
            Some(Kind::Leg) => aggregate == 0 && !self.taken_back(node, shard, record.id()),
            _ => false,
        });
        versions.next_back().map_or(0, |record| record.version())
    }

    /// The leg was aborted: its version and sequence don't count.
    fn taken_back(&self, node: &Node, shard: usize, txn: usize) -> bool {
        node.known_resolve(shard, txn).is_some_and(|(_, commit)| !commit)
    }

    /// An abort of it is committed here.
    pub(super) fn abort_committed(&self, node: &Node, txn: usize) -> bool {
        self.scenario.shards().any(|shard| {
            let resolve = node.known_resolve(shard, txn);
            resolve.is_some_and(|(at, commit)| !commit && at < usize::from(node.commit[shard]))
        })
    }

    /// Shards, as bits, in which each transaction's leg is visible at this node: all or none.
    pub(super) fn visible(&self, node: &Node) -> [u8; super::TXNS] {
        let mut visible = [0; super::TXNS];
        let alone = self.broken_by(Mutation::LegVisibleAlone);
        let at_resolve = self.broken_by(Mutation::VisibleAtResolve);
        let txns = visible.iter_mut().enumerate().take(self.scenario.txns.len());
        for (txn, shards) in txns {
            for shard in self.legs(txn) {
                let leg = node.logs[shard].leg(txn);
                let committed = leg.is_some_and(|at| at < usize::from(node.commit[shard]));
                let shown = match (alone, at_resolve) {
                    (true, _) => committed && node.has_leg(shard, txn),
                    (_, true) => node.logs[shard].resolve(txn).is_some_and(|(_, commit)| commit),
                    _ => self.decided(node, txn) && self.nothing_undecided_before(node, txn, 0),
                };
                *shards |= u8::from(shown) << shard;
            }
        }
        visible
    }

    /// No leg before its legs, on their aggregates, waits for its decision.
    fn nothing_undecided_before(&self, node: &Node, txn: usize, depth: usize) -> bool {
        if self.broken_by(Mutation::ShownPastUndecided) || depth > super::TXNS {
            return true;
        }
        self.legs(txn).all(|shard| {
            let upto = node.logs[shard].leg(txn).unwrap_or(0);
            node.logs[shard].records()[..upto].iter().all(|record| {
                record.kind() != Some(Kind::Leg)
                    || record.id() == txn
                    || self.taken_back(node, shard, record.id())
                    || self.decided(node, record.id())
                        && self.nothing_undecided_before(node, record.id(), depth + 1)
            })
        })
    }

    /// Writes visible at this node, a bit each: committed, and no undecided leg of their aggregate
    /// before them.
    pub(super) fn visible_writes(&self, node: &Node, visible: &[u8; super::TXNS]) -> u8 {
        let mut writes = 0;
        for shard in self.scenario.shards() {
            let mut hidden = false;
            let committed = node.committed(shard);
            for record in &node.logs[shard].records()[..committed] {
                match record.kind() {
                    Some(Kind::Leg) if visible[record.id()] >> shard & 1 == 0 => {
                        hidden |= !self.taken_back(node, shard, record.id());
                    }
                    Some(Kind::Write) => {
                        let same = self.scenario.writes[record.id()].aggregate == 0;
                        let past = self.broken_by(Mutation::ShownPastUndecided);
                        writes |= u8::from(!(hidden && same) || past) << record.id();
                    }
                    _ => {}
                }
            }
        }
        writes
    }

    /// How far the feed of a shard goes: to its commit, or to its first undecided leg.
    pub(super) fn feed_end(&self, node: &Node, shard: usize, visible: &[u8; super::TXNS]) -> usize {
        let committed = node.committed(shard);
        let records = node.logs[shard].records()[..committed].iter().enumerate();
        let undecided = records.filter(|(_, record)| {
            record.kind() == Some(Kind::Leg)
                && visible[record.id()] >> shard & 1 == 0
                && !self.taken_back(node, shard, record.id())
        });
        match self.broken_by(Mutation::FeedPassesUndecided) {
            true => committed,
            false => undecided.map(|(at, _)| at).next().unwrap_or(committed),
        }
    }

    /// Legs that a watcher's cursor at `end` has passed without having been given them.
    pub(super) fn passed(
        &self,
        node: &Node,
        shard: usize,
        end: usize,
        visible: &[u8; super::TXNS],
    ) -> u8 {
        let records = node.logs[shard].records()[..end].iter();
        let passed = records.filter(|record| {
            record.kind() == Some(Kind::Leg)
                && visible[record.id()] >> shard & 1 == 0
                && !self.taken_back(node, shard, record.id())
        });
        passed.fold(0, |bits, record| bits | 1 << record.id())
    }

    /// For texts.
    pub(super) fn txn_name(&self, txn: usize) -> String {
        match self.scenario.txns[txn].retry_of {
            Some(first) => format!("T{} (sent again)", first + 1),
            None => format!("T{}", txn + 1),
        }
    }

    /// Whether the version sequence of what is visible in a shard has no gap and guards held.
    pub(super) fn replay_is_right(
        &self,
        node: &Node,
        shard: usize,
        visible: &[u8; super::TXNS],
        writes: u8,
    ) -> bool {
        let mut versions = [0u8; 2];
        let committed = node.committed(shard);
        for record in &node.logs[shard].records()[..committed] {
            let (aggregate, guards) = match record.kind() {
                Some(Kind::Write) if writes >> record.id() & 1 == 1 => {
                    (self.scenario.writes[record.id()].aggregate, false)
                }
                Some(Kind::Leg)
                    if visible[record.id()] >> shard & 1 == 1
                        && !self.taken_back(node, shard, record.id()) =>
                {
                    (0, self.scenario.txns[record.id()].guards_only(shard))
                }
                _ => continue,
            };
            let version = &mut versions[usize::from(aggregate)];
            if record.version() != *version + u8::from(!guards) {
                return false;
            }
            *version = record.version();
        }
        true
    }
}
