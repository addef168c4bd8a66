//! What every part of a node may know of its role without asking: read often, written rarely.
//!
//! The election writes it; shards and routers look at it. Nothing that decides what is committed
//! rests on it: a lease only lets a leader answer a linearizable read without asking (R5).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use celeriant_schema::{Epoch, Refusal};

use crate::clock::Micros;

/// A node's standing among the nodes of its cluster.
#[derive(Debug, Default)]
pub struct Standing {
    epoch: AtomicU64,
    lease_until: AtomicU64,
    /// Where clients find the leader, as far as it is known: another node's address.
    leader: Mutex<Option<String>>,
}

impl Standing {
    /// A node that nobody shares anything with: its lease never ends.
    pub fn alone() -> Self {
        let standing = Self::default();
        standing.set_lease(Micros::MAX);
        standing
    }

    /// The epoch that this node led last; names attempts of writes.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch.load(Ordering::Relaxed))
    }

    /// This node leads.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.value(), Ordering::Relaxed);
    }

    /// Whether a linearizable read whose answer was computed before `now` was taken may be
    /// answered without asking anybody.
    pub fn holds_lease(&self, now: Micros) -> bool {
        now < self.lease_until.load(Ordering::Acquire)
    }

    /// Linearizable reads need no proof before `until` of the node's clock. 0: they do.
    pub fn set_lease(&self, until: Micros) {
        self.lease_until.store(until, Ordering::Release);
    }

    /// Another node leads, and clients find it there; `None` = nobody is known to lead.
    pub fn set_leader(&self, address: Option<String>) {
        *self.leader() = address;
    }

    /// What a node that does not lead answers.
    pub fn refusal(&self) -> Refusal {
        match self.leader().clone() {
            Some(address) => Refusal::NotLeader { leader: Some(address) },
            None => Refusal::NoLeader,
        }
    }

    fn leader(&self) -> MutexGuard<'_, Option<String>> {
        // Poisoned: whoever panicked replaced an address as a whole, or did not.
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
