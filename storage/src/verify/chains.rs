//! Every aggregate's chain, followed through a log in bounded memory.
//!
//! ```text
//! pass 1   0 ────────────────── all aggregates ──────────────────► too many: the upper half waits
//! pass 2             upto ────── those that waited ──────────────►
//! ```
//! An event's hash covers the one before it, which may be anywhere further up in the log. So the
//! newest hash of every aggregate is kept, for as many aggregates as there is room for; the others,
//! by a part of their key's hash, wait for another pass over the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::hash::{EventContext, chain_start, event_hash};
use celeriant_schema::record::{BatchView, Record, Resolve, WriteRecord};
use celeriant_schema::{AggregateKey, Hash, Lsn, ShardId, TxnId, Version};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// How far an aggregate's chain was followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tip {
    pub(super) version: Version,
    pub(super) hash: Hash,
}

/// An event that does not continue its chain.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) key: AggregateKey,
    pub(super) version: Version,
    pub(super) what: &'static str,
}

/// Chains of the aggregates that this pass is for.
#[derive(Debug)]
pub(super) struct Chains {
    /// By the hash of their keys.
    tips: HashMap<Hash, Tip, FixedState>,
    tips_max: usize,
    /// This pass is for the aggregates in here.
    from: u64,
    upto: u64,
    /// Legs without a decision, and what they make of their aggregates.
    legs: BTreeMap<Lsn, (TxnId, Vec<(Hash, Tip)>)>,
    /// The shard whose log it is, and how many there are, if that is known.
    home: Option<(ShardId, u16)>,
}

impl Chains {
    /// For a first pass, which keeps at most `tips_max` aggregates.
    pub(super) fn new(tips_max: usize, home: Option<(ShardId, u16)>) -> Self {
        Self {
            tips: HashMap::with_hasher(FixedState::default()),
            tips_max: tips_max.max(1),
            from: 0,
            upto: u64::MAX,
            legs: BTreeMap::new(),
            home,
        }
    }

    /// Makes ready for those that wait; `false`: nobody does.
    pub(super) fn next_pass(&mut self) -> bool {
        if self.upto == u64::MAX {
            return false;
        }
        (self.from, self.upto) = (self.upto + 1, u64::MAX);
        self.tips.clear();
        self.legs.clear();
        true
    }

    /// Aggregates of this pass with events that count.
    pub(super) fn aggregates(&self) -> usize {
        self.tips.len()
    }

    /// Their events.
    pub(super) fn events(&self) -> u64 {
        self.tips.values().map(|tip| tip.version.value()).sum()
    }

    /// What the legs at `lsns` make of their aggregates: they are shown, and not resolved.
    pub(super) fn shown(&self, lsns: impl Iterator<Item = Lsn>) -> BTreeMap<Hash, Tip> {
        let legs = lsns.filter_map(|lsn| self.legs.get(&lsn));
        legs.flat_map(|(_, tips)| tips.iter().copied()).collect()
    }

    /// What this pass knows of an aggregate, `shown` included; `None`: it is not for this pass.
    pub(super) fn tip(&self, key: &AggregateKey, shown: &BTreeMap<Hash, Tip>) -> Option<Tip> {
        let start = chain_start(key);
        let none = Tip { version: Version::NONE, hash: start };
        let known = || shown.get(&start).or_else(|| self.tips.get(&start)).copied();
        self.is_now(&start).then(|| known().unwrap_or(none))
    }

    /// Aggregates of this pass with events, `shown` included.
    pub(super) fn count_with(&self, shown: &BTreeMap<Hash, Tip>) -> usize {
        let is_new = |start: &&Hash| self.is_now(start) && !self.tips.contains_key(*start);
        self.tips.len() + shown.keys().filter(is_new).count()
    }

    /// Follows one record. Returns what is broken; the chain goes on from what is stored.
    pub(super) fn record(&mut self, lsn: Lsn, record: &Record, blobs: &Bytes) -> Vec<Broken> {
        match record {
            Record::Write(write) => {
                let (tips, broken) = self.batches(write, blobs);
                self.keep(&tips);
                broken
            }
            Record::Leg(leg) => {
                let (tips, broken) = self.batches(leg, blobs);
                self.legs.insert(lsn, (leg.write_id, tips));
                broken
            }
            Record::Resolve(resolve) => {
                self.resolve(resolve);
                Vec::new()
            }
            Record::EpochStart(_) => Vec::new(),
        }
    }

    /// Whether a `Resolve` decides a leg that is there. Ask before [`Self::record`].
    pub(super) fn has_leg(&self, resolve: &Resolve) -> bool {
        self.legs.get(&resolve.leg_lsn).is_some_and(|(txn, _)| *txn == resolve.txn)
    }

    fn resolve(&mut self, resolve: &Resolve) {
        if let Some((_, tips)) = self.legs.remove(&resolve.leg_lsn)
            && resolve.commit
        {
            self.keep(&tips);
        }
    }

    /// What a write makes of its aggregates, and which of its batches are broken.
    fn batches(&self, write: &WriteRecord, blobs: &Bytes) -> (Vec<(Hash, Tip)>, Vec<Broken>) {
        let (mut tips, mut broken) = (Vec::new(), Vec::new());
        for batch in &write.batches {
            let start = chain_start(&batch.key);
            if !self.is_now(&start) {
                continue;
            }
            let none = Tip { version: Version::NONE, hash: start };
            let tip = self.tips.get(&start).copied().unwrap_or(none);
            if let Err((version, what)) = self.batch(write, batch, blobs, tip) {
                broken.push(Broken { key: batch.key.detached(), version, what });
            }
            tips.push((start, Tip { version: batch.last_version, hash: batch.hash }));
        }
        (tips, broken)
    }

    /// Checks one batch against what is before it.
    fn batch(
        &self,
        write: &WriteRecord,
        batch: &BatchView,
        blobs: &Bytes,
        tip: Tip,
    ) -> Result<(), (Version, &'static str)> {
        let first = batch.first_version;
        if self.home.is_some_and(|(shard, count)| batch.key.shard(count) != shard) {
            return Err((first, "an aggregate of another shard"));
        }
        if first != tip.version.next() {
            return Err((first, "its version does not follow the one before it"));
        }
        if batch.retention.is_some() && batch.hash != tip.hash {
            return Err((first, "it deletes or trims behind another hash"));
        }
        let mut context = EventContext {
            prev: tip.hash,
            version: first,
            stamp: batch.stamp,
            server_time: write.server_time,
            client_id: write.client_id,
            sequence: batch.sequence,
        };
        for event in batch.events(blobs) {
            let event = event.map_err(|_| (context.version, "it cannot be decoded"))?;
            // Of what was erased only the hash is left; what comes behind it rests on that.
            let is_right = event.is_erased()
                || event_hash(&context, &event.head, &event.payload) == event.hash;
            if !is_right {
                return Err((context.version, "its hash does not match its content"));
            }
            context.prev = event.hash;
            context.version = context.version.next();
            context.stamp = (context.stamp.value() + 1).into();
        }
        Ok(())
    }

    fn keep(&mut self, tips: &[(Hash, Tip)]) {
        for (start, tip) in tips {
            // A leg of an aggregate that was left to a later pass meanwhile.
            if self.is_now(start) && self.tips.insert(*start, *tip).is_none() {
                self.make_room();
            }
        }
    }

    /// Leaves half of the range to a later pass until there is room.
    fn make_room(&mut self) {
        while self.tips.len() > self.tips_max && self.from < self.upto {
            self.upto = self.from + (self.upto - self.from) / 2;
            let (from, upto) = (self.from, self.upto);
            self.tips.retain(|start, _| is_within(start, from, upto));
        }
    }

    fn is_now(&self, start: &Hash) -> bool {
        is_within(start, self.from, self.upto)
    }
}

/// The last 8 bytes: the first are the same, modulo the shards, for all aggregates of a log.
fn is_within(start: &Hash, from: u64, upto: u64) -> bool {
    let [.., a, b, c, d, e, f, g, h] = start.0;
    (from..=upto).contains(&u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}
