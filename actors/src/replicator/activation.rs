//! Taking the lead of a log that is activated (replication.md §3 step 6, §6).
//!
//! ```text
//! Survey to all ─► Surveyed ─► Trace where a leg is missing ─► Traced ─► decide ─► Lead to all
//! ```
//! Every undecided write is decided from exactly the log that was activated, before anything is
//! appended to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use celeriant_schema::{BootId, Epoch, ShardId, TxnId};

use super::orders::{Lead, Order, Report};
use crate::settlement::{Contradiction, Trace, decide};

/// One activation, step by step.
#[derive(Debug)]
pub struct Activation {
    epoch: Epoch,
    boot: BootId,
    shards: u16,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Surveying {
        missing: BTreeSet<ShardId>,
        pending: BTreeMap<TxnId, (Vec<ShardId>, BTreeSet<ShardId>)>,
    },
    Tracing {
        asked: BTreeSet<(TxnId, ShardId)>,
        traces: BTreeMap<TxnId, Vec<(ShardId, Trace)>>,
    },
    Starting {
        missing: BTreeSet<ShardId>,
    },
}

impl Activation {
    /// Begins: every shard is surveyed.
    pub fn new(
        epoch: Epoch,
        boot: BootId,
        shards: u16,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Self {
        let missing: BTreeSet<_> = (0..shards).map(ShardId::new).collect();
        orders.extend(missing.iter().map(|shard| (*shard, Order::Survey { epoch })));
        let step = Step::Surveying { missing, pending: BTreeMap::new() };
        Self { epoch, boot, shards, step }
    }

    /// The epoch that is to be led.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes what a shard says. `Some(Ok(()))` once every shard leads.
    pub fn report(
        &mut self,
        shard: ShardId,
        report: &Report,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Option<Result<(), Contradiction>> {
        match (&mut self.step, report) {
            (
                Step::Surveying { missing, pending },
                Report::Surveyed { epoch, pending: legs, .. },
            ) if *epoch == self.epoch => {
                for (txn, participants) in legs {
                    let entry = pending.entry(*txn);
                    let (_, there) =
                        entry.or_insert_with(|| (participants.clone(), BTreeSet::new()));
                    there.insert(shard);
                }
                missing.remove(&shard);
                if missing.is_empty() {
                    let pending = std::mem::take(pending);
                    return self.trace(pending, orders);
                }
            }
            (Step::Tracing { asked, traces }, Report::Traced { txn, trace }) => {
                if asked.remove(&(*txn, shard)) {
                    traces.entry(*txn).or_default().push((shard, *trace));
                }
                if asked.is_empty() {
                    let traces = std::mem::take(traces);
                    return self.start(&traces, orders);
                }
            }
            (Step::Starting { missing }, Report::Leading { epoch }) if *epoch == self.epoch => {
                missing.remove(&shard);
                return missing.is_empty().then_some(Ok(()));
            }
            _ => {}
        }
        None
    }

    /// Asks those participants that did not name the leg what they know of it.
    fn trace(
        &mut self,
        pending: BTreeMap<TxnId, (Vec<ShardId>, BTreeSet<ShardId>)>,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Option<Result<(), Contradiction>> {
        let mut asked = BTreeSet::new();
        let mut traces: BTreeMap<TxnId, Vec<(ShardId, Trace)>> = BTreeMap::new();
        for (txn, (participants, there)) in pending {
            let found = traces.entry(txn).or_default();
            for shard in participants {
                if there.contains(&shard) {
                    found.push((shard, Trace::Leg));
                } else {
                    asked.insert((txn, shard));
                    orders.push((shard, Order::Trace { txn }));
                }
            }
        }
        if asked.is_empty() {
            return self.start(&traces, orders);
        }
        self.step = Step::Tracing { asked, traces };
        None
    }

    fn start(
        &mut self,
        traces: &BTreeMap<TxnId, Vec<(ShardId, Trace)>>,
        orders: &mut Vec<(ShardId, Order)>,
    ) -> Option<Result<(), Contradiction>> {
        let decisions = match decide(traces) {
            Ok(decisions) => Arc::new(decisions),
            Err(contradiction) => return Some(Err(contradiction)),
        };
        if !decisions.is_empty() {
            let committed = decisions.values().filter(|commit| **commit).count();
            let writes = decisions.len();
            tracing::info!(writes, committed, "settled writes over several shards");
        }
        let (epoch, boot) = (self.epoch, self.boot);
        let missing: BTreeSet<_> = (0..self.shards).map(ShardId::new).collect();
        let lead = |shard: &ShardId| {
            (*shard, Order::Lead(Lead { epoch, boot, decisions: Arc::clone(&decisions) }))
        };
        orders.extend(missing.iter().map(lead));
        self.step = Step::Starting { missing };
        None
    }
}
