//! Orders a node to compact, waits until it says that this is done, and looks whether it is.
//!
//! As the `compact` of the program does it: a process that comes after the one that took the order
//! knows nothing of it, and is given another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use celeriant_actors::admin::Order;
use celeriant_schema::{Request, Response, Stamp};
use serde_json::Value;

use crate::disk::{Files, Media};
use crate::fault::Reached;
use crate::invariants::Violations;
use crate::invariants::erasure::{Taken, check_gone};
use crate::ledger::Ledger;
use crate::originals::Originals;
use crate::timeline::{Micros, Timeline};
use crate::wire::{Sending, Wire};
use celeriant_storage::Identity;

/// Client index of it.
const OPERATOR: usize = 9_997;
/// How long an answer may take before it asks again, in µs.
const PATIENCE: Micros = 3_000_000;
/// Between two questions, in µs.
const PAUSE: Micros = 300_000;

/// What the disks of a node hold when it is ordered to compact.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holds {
    /// Whatever it is.
    Something,
    /// Everything that was acknowledged.
    Acknowledged,
    /// That, and nothing else is under way.
    Everything,
}

/// Somebody who gives one order.
pub struct Operator {
    /// The way to the node.
    pub wire: Wire,
    /// Of the world.
    pub ledger: Ledger,
    /// Of the world.
    pub timeline: Timeline,
    /// Of the world.
    pub reached: Reached,
    /// Of the world.
    pub violations: Violations,
    /// Of the world.
    pub originals: Originals,
    /// The node's shards, with whose logs they are.
    pub disks: Vec<(Identity, Media)>,
    /// The node's disks hold what nobody wrote there.
    pub damaged: Arc<AtomicBool>,
}

impl Operator {
    /// Gives the order until it is taken, and waits until `until` for its end. Whether that came.
    /// `holds`: what the node holds now.
    pub async fn compact(self, mut holds: Holds, until: Micros) -> bool {
        let taken = self.ledger.taken();
        let mut ordered: Option<(u64, String)> = None;
        while self.timeline.now() < until {
            let order = if ordered.is_some() { Order::Status } else { Order::Compact };
            match (self.ask(&order).await, &ordered) {
                (Some(report), None) => {
                    self.reached.note("compaction ordered");
                    let number = report["compaction"].as_u64().unwrap_or_default();
                    ordered = Some((number, boot_of(&report)));
                    continue;
                }
                (Some(report), Some((_, boot))) if boot_of(&report) != *boot => {
                    self.reached.note("compaction ordered again, of another process");
                    (ordered, holds) = (None, Holds::Something);
                    continue;
                }
                (Some(report), Some((number, _))) if is_done(&report, *number) => {
                    self.look(&report, holds, taken);
                    return true;
                }
                // Perhaps it comes to another process.
                (None, None) => holds = Holds::Something,
                _ => {}
            }
            self.timeline.sleep(PAUSE).await;
        }
        self.reached.note("compaction waited for in vain");
        false
    }

    async fn ask(&self, order: &Order) -> Option<Value> {
        let order = serde_json::to_vec(order).ok()?;
        let id = self.ledger.open(|_| Request::Admin(order.into()));
        match self.wire.send(OPERATOR, id, PATIENCE, None).await {
            Sending::Answered(Response::Admin(report)) => serde_json::from_slice(&report).ok(),
            _ => None,
        }
    }

    /// The node says that it is done.
    fn look(&self, report: &Value, holds: Holds, taken: Taken) {
        self.reached.note("compaction done");
        if self.damaged.load(Ordering::Relaxed) {
            return self.reached.note("compaction done on a damaged disk");
        }
        let images: Vec<(Identity, Files)> =
            self.disks.iter().map(|(identity, media)| (*identity, media.image())).collect();
        let said = shards(report).map(|shard| match holds {
            // Whatever was taken away or aborted, the order is about it.
            Holds::Everything => u64::MAX,
            _ => shard["erased_upto"].as_u64().unwrap_or_default(),
        });
        let said: Vec<Stamp> = said.map(Stamp::new).collect();
        let taken = if holds == Holds::Something { Taken::new() } else { taken };
        let searched = check_gone(&images, &said, taken, &self.originals, &self.violations);
        self.reached.add("payloads that are nowhere after a compaction", searched.payloads as u64);
        self.reached.add("events of aborted legs that are gone", searched.aborted as u64);
    }
}

fn shards(report: &Value) -> impl Iterator<Item = &Value> {
    report["shards"].as_array().into_iter().flatten()
}

fn boot_of(report: &Value) -> String {
    report["boot"].as_str().unwrap_or_default().to_owned()
}

fn is_done(report: &Value, number: u64) -> bool {
    shards(report).all(|shard| shard["compacted"].as_u64() >= Some(number))
}
