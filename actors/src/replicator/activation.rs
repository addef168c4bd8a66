//! Beginning to lead: every shard shows its whole log, what is undecided is decided, all lead.
//!
//! ```text
//!   Survey ─► Surveyed (all) ─► Trace ─► Traced (all that were asked) ─► decide ─► Lead ─► Leading
//!                               only participants that did not name the leg themselves
//! ```
//! replication.md §6: each undecided write from exactly the log that was activated. The same for a
//! single node, which has no replicator. Reports of another epoch count for nothing; those without
//! an epoch cannot be older than the shard's last `Surveyed`, because a shard answers in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celeriant_schema::{BootId, Epoch, ShardId, TxnId};

use super::orders::{Lead, Order, Report};
use crate::settlement::{Contradiction, Trace, decide};

/// Orders and whom they are for.
pub type Orders = Vec<(ShardId, Order)>;

/// All shards of a cluster that has so many.
pub fn all(shards: u16) -> impl Iterator<Item = ShardId> {
    (0..shards).map(ShardId::new)
}

/// One that is under way.
#[derive(Debug)]
pub struct Activation {
    epoch: Epoch,
    boot: BootId,
    shards: u16,
    stage: Stage,
}

/// Every shard leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Done {
    /// Which epoch.
    pub epoch: Epoch,
    /// What became of the writes that were undecided: `true` = commit.
    pub decisions: Arc<BTreeMap<TxnId, bool>>,
}

#[derive(Debug)]
enum Stage {
    Surveying {
        unheard: BTreeSet<ShardId>,
        undecided: BTreeMap<TxnId, Undecided>,
    },
    Tracing {
        asked: BTreeSet<(TxnId, ShardId)>,
        traces: BTreeMap<TxnId, Vec<(ShardId, Trace)>>,
    },
    Leading {
        unheard: BTreeSet<ShardId>,
        decisions: Arc<BTreeMap<TxnId, bool>>,
    },
    /// The logs contradict each other.
    Failed,
    Ended,
}

/// A write that some shard has undecided.
#[derive(Debug, Default)]
struct Undecided {
    participants: BTreeSet<ShardId>,
    /// Those that named it.
    legs: BTreeSet<ShardId>,
}

impl Activation {
    /// Begins: orders every shard to show its log.
    pub fn new(epoch: Epoch, boot: BootId, shards: u16, orders: &mut Orders) -> Self {
        orders.extend(all(shards).map(|shard| (shard, Order::Survey { epoch })));
        let stage = Stage::Surveying { unheard: all(shards).collect(), undecided: BTreeMap::new() };
        Self { epoch, boot, shards, stage }
    }

    /// Whether shards have been told to lead.
    pub fn has_ordered(&self) -> bool {
        matches!(self.stage, Stage::Leading { .. } | Stage::Ended)
    }

    /// Takes what a shard says. The result comes once.
    ///
    /// # Errors
    /// When the logs contradict each other: the node must not lead.
    pub fn report(
        &mut self,
        shard: ShardId,
        report: &Report,
        orders: &mut Orders,
    ) -> Option<Result<Done, Contradiction>> {
        match report {
            Report::Surveyed { epoch, pending, .. } if *epoch == self.epoch => {
                self.surveyed(shard, pending, orders)
            }
            Report::Traced { txn, trace } => self.traced(shard, *txn, *trace, orders),
            // A further epoch of the same leadership: it leads all the more.
            Report::Leading { epoch } if *epoch >= self.epoch => self.leads(shard).map(Ok),
            _ => None,
        }
    }

    fn surveyed(
        &mut self,
        shard: ShardId,
        pending: &[(TxnId, Vec<ShardId>)],
        orders: &mut Orders,
    ) -> Option<Result<Done, Contradiction>> {
        let Stage::Surveying { unheard, undecided } = &mut self.stage else { return None };
        for (txn, participants) in pending {
            let known = undecided.entry(*txn).or_default();
            known.participants.extend(participants);
            known.participants.insert(shard);
            known.legs.insert(shard);
        }
        unheard.remove(&shard);
        if !unheard.is_empty() {
            return None;
        }
        let undecided = std::mem::take(undecided);
        self.trace(undecided, orders)
    }

    /// Asks those who should know more of a write.
    fn trace(
        &mut self,
        undecided: BTreeMap<TxnId, Undecided>,
        orders: &mut Orders,
    ) -> Option<Result<Done, Contradiction>> {
        let (mut asked, mut traces) = (BTreeSet::new(), BTreeMap::new());
        for (txn, Undecided { participants, legs }) in undecided {
            let found: &mut Vec<_> = traces.entry(txn).or_default();
            for shard in participants {
                if legs.contains(&shard) {
                    found.push((shard, Trace::Leg));
                } else if shard.value() < self.shards {
                    asked.insert((txn, shard));
                    orders.push((shard, Order::Trace { txn }));
                } else {
                    // A shard that the cluster does not have.
                    found.push((shard, Trace::Nothing));
                }
            }
        }
        self.stage = Stage::Tracing { asked, traces };
        self.lead_if_traced(orders)
    }

    fn traced(
        &mut self,
        shard: ShardId,
        txn: TxnId,
        trace: Trace,
        orders: &mut Orders,
    ) -> Option<Result<Done, Contradiction>> {
        let Stage::Tracing { asked, traces } = &mut self.stage else { return None };
        if !asked.remove(&(txn, shard)) {
            return None;
        }
        traces.entry(txn).or_default().push((shard, trace));
        self.lead_if_traced(orders)
    }

    fn lead_if_traced(&mut self, orders: &mut Orders) -> Option<Result<Done, Contradiction>> {
        let Stage::Tracing { asked, traces } = &self.stage else { return None };
        if !asked.is_empty() {
            return None;
        }
        let decisions = match decide(traces) {
            Ok(decisions) => Arc::new(decisions),
            Err(contradiction) => {
                self.stage = Stage::Failed;
                return Some(Err(contradiction));
            }
        };
        let (epoch, boot) = (self.epoch, self.boot);
        let lead = |shard| {
            let decisions = Arc::clone(&decisions);
            (shard, Order::Lead(Lead { epoch, boot, decisions }))
        };
        orders.extend(all(self.shards).map(lead));
        let unheard = all(self.shards).collect();
        self.stage = Stage::Leading { unheard, decisions };
        None
    }

    fn leads(&mut self, shard: ShardId) -> Option<Done> {
        let Stage::Leading { unheard, decisions } = &mut self.stage else { return None };
        unheard.remove(&shard);
        if !unheard.is_empty() {
            return None;
        }
        let done = Done { epoch: self.epoch, decisions: Arc::clone(decisions) };
        self.stage = Stage::Ended;
        Some(done)
    }
}

#[cfg(test)]
mod activation_test;
