//! The newest batches of all shards, in the order of their stamps.
//!
//! ```text
//! shard 0: … ─► queue ─┐   up to the lowest closed stamp
//! shard 1: … ─► queue ─┴──────────► entries │ floor < stamp <= head
//! ```
//! A batch enters when no shard can come up with an earlier one; a notice takes out what it says is
//! gone, so that a page never has what was deleted up to its head. What nobody watches stays out.
//! Bounded by bytes: the oldest leave, and the floor rises; whoever is below it reads the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::{AggregateKey, FeedBatch, Notice, Stamp};

/// Bytes of batches kept.
const BYTES_MAX: usize = 8 << 20;
/// What a batch costs besides its events' bytes.
const BATCH_BYTES: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    shards: Vec<Stream>,
    entries: VecDeque<Entry>,
    /// Number of the first of them: they are counted from the beginning.
    first: u64,
    bytes: usize,
    /// Everything behind this is here.
    floor: Stamp,
    /// Up to here.
    head: Stamp,
}

#[derive(Debug)]
struct Stream {
    /// Complete up to here; `None`: it does not tell yet.
    closed: Option<Stamp>,
    queue: VecDeque<Entry>,
}

/// One batch of those that a shard told together.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    told: Arc<[FeedBatch]>,
    at: usize,
}

impl Entry {
    pub(super) fn batch(&self) -> &FeedBatch {
        &self.told[self.at]
    }

    fn first(&self) -> Stamp {
        self.batch().batch.header.stamp
    }

    /// Stamp of its last event.
    pub(super) fn last(&self) -> Stamp {
        last_stamp(self.batch())
    }

    fn bytes(&self) -> usize {
        BATCH_BYTES + self.batch().batch.events.iter().map(|event| event.body.len()).sum::<usize>()
    }
}

/// Stamp of the last event of a batch, also when a filter left events out.
pub(super) fn last_stamp(batch: &FeedBatch) -> Stamp {
    let header = &batch.batch.header;
    // A notice has no events, and one stamp.
    let more = header.last_version.value().saturating_sub(header.first_version.value());
    Stamp::new(header.stamp.value() + more)
}

impl Ring {
    /// Of a node with so many shards; empty, and nobody tells it anything yet.
    pub(super) fn new(shards: u16) -> Self {
        let stream = || Stream { closed: None, queue: VecDeque::new() };
        Self {
            shards: (0..shards).map(|_| stream()).collect(),
            entries: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor: Stamp::ZERO,
            head: Stamp::ZERO,
        }
    }

    /// Every shard tells it what is new.
    pub(super) fn is_live(&self) -> bool {
        self.shards.iter().all(|shard| shard.closed.is_some())
    }

    /// A shard tells everything behind `upto` from now on. Whether that makes it live.
    pub(super) fn listening(&mut self, shard: usize, upto: Stamp) -> bool {
        self.shards[shard].closed = Some(upto);
        if !self.is_live() {
            return false;
        }
        let floor = self.shards.iter().filter_map(|shard| shard.closed).max();
        self.floor = floor.unwrap_or_default().max(self.head);
        self.head = self.floor;
        true
    }

    /// A shard tells nothing more: what is here stays, but nothing can be added.
    pub(super) fn lost(&mut self, shard: usize) {
        let Stream { closed, queue } = &mut self.shards[shard];
        (*closed, self.bytes) = (None, 0);
        queue.clear();
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.floor = self.head;
    }

    /// A shard tells what is new, up to `upto`; only what is watched is kept.
    pub(super) fn told(
        &mut self,
        shard: usize,
        batches: &Arc<[FeedBatch]>,
        upto: Stamp,
        is_watched: impl Fn(&AggregateKey) -> bool,
    ) {
        let Stream { closed, queue } = &mut self.shards[shard];
        let Some(known) = closed else { return };
        let is_new = |batch: &FeedBatch| last_stamp(batch) > *known && is_watched(&batch.key);
        let kept: Vec<usize> =
            batches.iter().enumerate().filter(|(_, it)| is_new(it)).map(|(at, _)| at).collect();
        // One batch keeps all that were told with it, and their frame, in memory.
        match kept.len() * 2 < batches.len() {
            true => {
                let alone: Arc<[FeedBatch]> =
                    kept.iter().map(|at| detached(&batches[*at])).collect();
                queue.extend((0..alone.len()).map(|at| Entry { told: Arc::clone(&alone), at }));
            }
            false => {
                queue.extend(kept.into_iter().map(|at| Entry { told: Arc::clone(batches), at }));
            }
        }
        *known = upto.max(*known);
    }

    /// Up to here something was told, by one shard at least.
    pub(super) fn latest(&self) -> Stamp {
        let latest = self.shards.iter().filter_map(|shard| shard.closed).max();
        latest.unwrap_or_default().max(self.head)
    }

    /// Merges what can be. Returns how many entries at the end are new.
    pub(super) fn merge(&mut self) -> usize {
        if !self.is_live() {
            return 0;
        }
        let complete = self.complete();
        let mut added = 0;
        loop {
            let next = self.shards.iter_mut().filter(|shard| !shard.queue.is_empty());
            let next = next.min_by_key(|shard| shard.queue.front().map(Entry::first));
            let entry = next.and_then(|shard| shard.queue.pop_front_if(|it| it.last() <= complete));
            let Some(entry) = entry else { break };
            if entry.last() > self.head {
                self.take_away(entry.batch());
                self.bytes += entry.bytes();
                self.entries.push_back(entry);
                added += 1;
            }
        }
        self.head = complete.max(self.head);
        added
    }

    /// What a notice says is gone is told no more, however old the reader's cursor. Its entries
    /// stay, without events: a page passes them over.
    fn take_away(&mut self, notice: &FeedBatch) {
        let Some(Notice { what, .. }) = notice.notice else { return };
        let first = what.first_available(notice.batch.header.first_version);
        let has_gone = |entry: &&mut Entry| {
            let FeedBatch { key, batch, .. } = entry.batch();
            *key == notice.key && batch.events.iter().any(|event| event.version < first)
        };
        for entry in self.entries.iter_mut().filter(has_gone) {
            let mut batch = entry.batch().clone();
            batch.batch.events.retain(|event| event.version >= first);
            self.bytes -= entry.bytes();
            *entry = Entry { told: Arc::new([batch]), at: 0 };
            self.bytes += entry.bytes();
        }
    }

    /// Lets the oldest go until what is left is within bounds.
    pub(super) fn trim(&mut self) {
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            self.first += 1;
            self.bytes -= oldest.bytes();
            self.floor = oldest.last();
        }
    }

    /// No shard can come up with anything up to here.
    pub(super) fn complete(&self) -> Stamp {
        self.shards.iter().filter_map(|shard| shard.closed).min().unwrap_or_default()
    }

    /// The stamp that must be complete before the next batch can enter.
    pub(super) fn next(&self) -> Option<Stamp> {
        self.shards.iter().filter_map(|shard| shard.queue.front().map(Entry::last)).min()
    }

    /// Shards that may come up with something before that stamp.
    pub(super) fn behind_stamp(&self, stamp: Stamp) -> impl Iterator<Item = usize> {
        let shards = self.shards.iter().enumerate();
        let behind = shards.filter(move |(_, it)| it.closed.is_some_and(|closed| closed < stamp));
        behind.map(|(at, _)| at)
    }

    /// Where what is kept begins and ends.
    pub(super) fn range(&self) -> (Stamp, Stamp) {
        (self.floor, self.head)
    }

    /// The newest `count` entries, with their numbers.
    pub(super) fn newest(&self, count: usize) -> impl Iterator<Item = (u64, &Entry)> {
        let from = self.entries.len() - count;
        (self.first + from as u64..).zip(self.entries.range(from..))
    }

    /// Number of the first entry.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Of the entries with these numbers, which are in order, those behind `after`.
    pub(super) fn listed_behind<'a>(
        &'a self,
        numbers: &'a VecDeque<u64>,
        after: Stamp,
    ) -> impl Iterator<Item = &'a Entry> {
        let entry = |number: &u64| {
            let at = number.checked_sub(self.first)?;
            self.entries.get(usize::try_from(at).ok()?)
        };
        let is_old = |number: &u64| entry(number).is_none_or(|entry| entry.last() <= after);
        numbers.range(numbers.partition_point(is_old)..).filter_map(entry)
    }
}

/// The same, in memory of its own.
fn detached(batch: &FeedBatch) -> FeedBatch {
    let mut alone = FeedBatch { key: batch.key.detached(), ..batch.clone() };
    for event in &mut alone.batch.events {
        event.body = Bytes::copy_from_slice(&event.body);
    }
    alone
}

/// Bytes that a batch takes on a page.
pub(super) fn page_bytes(batch: &FeedBatch) -> usize {
    let body = |body: &Bytes| body.len() + 48;
    BATCH_BYTES + batch.batch.events.iter().map(|event| body(&event.body)).sum::<usize>()
}
