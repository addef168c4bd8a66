//! What every part of a node may know of its role without asking: read often, written rarely.
//!
//! The election writes it; shards and routers look at it. Nothing that decides what is committed
//! rests on it: a lease only lets a leader answer a linearizable read without asking (R5).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use celeriant_schema::{Epoch, Lsn, Refusal, ShardId};

use crate::chronicle::Chronicle;
use crate::clock::Micros;

/// A node's standing among the nodes of its cluster.
#[derive(Debug, Default)]
pub struct Standing {
    epoch: AtomicU64,
    lease_until: AtomicU64,
    /// By shard, for people.
    positions: Box<[Position]>,
    /// By shard, for people.
    compacted: Box<[Compacted]>,
    /// Orders to compact that were given.
    compactions: AtomicU64,
    /// Shards that may have shown more, before this start, than they know to be committed.
    unsettled: Mutex<BTreeSet<ShardId>>,
    /// How many those are.
    unsettled_count: AtomicUsize,
    /// Where clients find the leader, as far as it is known: another node's address.
    leader: Mutex<Option<String>>,
    /// What went wrong around the node.
    chronicle: Chronicle,
}

/// What a shard has compacted since it was opened.
#[derive(Debug, Default)]
pub struct Compacted([AtomicU64; 4]);

impl Compacted {
    /// The last order that is carried out; the stamp up to which nothing is left on this disk of
    /// what was deleted, trimmed or aborted; bytes of files, and of events, that are gone.
    pub fn get(&self) -> [u64; 4] {
        std::array::from_fn(|at| self.0[at].load(Ordering::Acquire))
    }

    pub(crate) fn set(&self, now: [u64; 4]) {
        self.0.iter().zip(now).for_each(|(known, now)| known.store(now, Ordering::Release));
    }
}

/// Where a shard's log is.
#[derive(Debug, Default)]
pub struct Position {
    durable: AtomicU64,
    committed: AtomicU64,
    elsewhere: AtomicU64,
}

impl Position {
    /// Notes how far the log is durable here and committed, and what other places are known to
    /// hold.
    pub fn note(&self, durable: Lsn, committed: Lsn, elsewhere: Option<Lsn>) {
        self.durable.store(durable.value(), Ordering::Relaxed);
        self.committed.store(committed.value(), Ordering::Relaxed);
        let elsewhere = elsewhere.unwrap_or(durable);
        self.elsewhere.store(elsewhere.value(), Ordering::Relaxed);
    }

    /// Durable, committed, held elsewhere.
    pub fn get(&self) -> (u64, u64, u64) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (load(&self.durable), load(&self.committed), load(&self.elsewhere))
    }
}

impl Standing {
    /// A node with so many shards that does not lead.
    pub fn new(shards: u16) -> Self {
        let positions = (0..shards).map(|_| Position::default()).collect();
        let compacted = (0..shards).map(|_| Compacted::default()).collect();
        Self { positions, compacted, ..Self::default() }
    }

    /// The shard's log goes on behind what it noted as committed: an earlier process may have shown
    /// that, and the rest of a write over several shards with it.
    pub fn unsettle(&self, shard: ShardId) {
        let mut unsettled = self.unsettled();
        unsettled.insert(shard);
        self.unsettled_count.store(unsettled.len(), Ordering::Release);
    }

    /// The shard shows everything that was committed when it was last told.
    pub fn settle(&self, shard: ShardId) {
        if !self.is_settled() {
            let mut unsettled = self.unsettled();
            unsettled.remove(&shard);
            self.unsettled_count.store(unsettled.len(), Ordering::Release);
        }
    }

    /// Whether whoever reads here without asking the leader sees all of a write or nothing of it.
    pub fn is_settled(&self) -> bool {
        self.unsettled_count.load(Ordering::Acquire) == 0
    }

    fn unsettled(&self) -> MutexGuard<'_, BTreeSet<ShardId>> {
        // Poisoned: whoever panicked put in or took out one as a whole, or did not.
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What went wrong around the node.
    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// Where the shards' logs are, in their order.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// What the shards have compacted, in their order.
    pub fn compacted(&self) -> &[Compacted] {
        &self.compacted
    }

    /// The last order to compact; 0: none was given.
    pub(crate) fn ordered_compaction(&self) -> u64 {
        self.compactions.load(Ordering::Relaxed)
    }

    /// Number of a further order to compact, from 1.
    pub(crate) fn next_compaction(&self) -> u64 {
        self.compactions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A node that nobody shares anything with: its lease never ends.
    pub fn alone(shards: u16) -> Self {
        let standing = Self::new(shards);
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
