//! Orders to compact: each node compacts for itself.

use celeriant_actors::election::register::{Config, Set};
use tokio::task::JoinHandle;

use super::World;
use crate::fault::Fault;
use crate::operator::{Holds, Operator};
use crate::timeline::Micros;
use crate::world::spawn;

/// How long an operator waits for the end of his order, in µs.
const ORDER_MAX: Micros = 40_000_000;
/// How long it may take when nothing is wrong, in µs.
const COMPACTION_MAX: Micros = 60_000_000;

impl World {
    /// One node is ordered to compact, or both are.
    pub(super) fn order_compaction(&mut self, node: usize, fault: &Fault) -> bool {
        let until = self.timeline.now() + ORDER_MAX;
        for index in 0..self.sites.len() {
            if index == node || fault.amount.is_multiple_of(2) {
                let order = self.compact(index, Holds::Acknowledged, until);
                let bursts = &mut self.bursts;
                bursts.push(spawn(async move {
                    let _ = order.await;
                }));
            }
        }
        true
    }

    /// Nothing of what was taken away stays on the disks of two nodes that are told so.
    pub(super) async fn compact_at_rest(&mut self) {
        if !self.scenario.compacts_at_rest {
            return;
        }
        let until = self.timeline.now() + COMPACTION_MAX;
        for order in [0, 1].map(|node| self.compact(node, Holds::Everything, until)) {
            let done = tokio::select! {
                biased;
                done = order => done.unwrap_or(false),
                () = self.supervise(until) => false,
            };
            self.violations
                .check("liveness", done, || "an order to compact is never carried out".into());
        }
    }

    /// Orders a node to compact, which `holds` that if it holds what is acknowledged.
    fn compact(&self, node: usize, holds: Holds, until: Micros) -> JoinHandle<bool> {
        let site = &self.sites[node];
        let operator = Operator {
            wire: site.wire.clone(),
            ledger: self.ledger.clone(),
            timeline: self.timeline.clone(),
            reached: self.reached.clone(),
            violations: self.violations.clone(),
            originals: self.overseer.originals(),
            disks: site.machine.logs(),
            damaged: site.damaged.clone(),
        };
        let holds = if self.holds_all(node) { holds } else { Holds::Something };
        spawn(operator.compact(holds, until))
    }

    /// Whether a node's disks hold everything that is acknowledged (I4).
    fn holds_all(&self, node: usize) -> bool {
        let site = &self.sites[node];
        let store = site.safe.store();
        let is_in = |config: Config| match config.active.set {
            Set::Pair(one, other) => one == store || other == store,
            Set::Bucket(one) => one == store,
        };
        let is_itself = site.copied.is_none() && !self.overseer.is_behind();
        is_itself && self.overseer.register().is_some_and(is_in)
    }
}
