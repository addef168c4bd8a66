//! What a shard knows of its aggregates without reading the log, in bounded memory.
//!
//! ```text
//!   apply ─► memtable ─full─► frozen ─► newest run, …, oldest run      (sorted rows on disk)
//!   lookup:  memtable ─► frozen ─► each run: filter (node) ─► leaf      (page cache; Missing)
//!   maintain, complete: write out, merge, name the runs in the manifest
//! ```
//! Holds only what is committed. Lookups never wait: a page that is not in memory is named, loaded
//! and pinned by whoever asks, and the lookup is asked again. Nothing is kept per aggregate but in
//! the memtable. All of it can be made again from the log.
//!
//! Deliberately absent: payloads, uncommitted state (the shard's core has it), I/O of its own,
//! timers.

mod applier;
mod build;
mod listing;
mod lookup;
mod memtable;
mod next;
mod pages;
mod rows;
mod sequences;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use celeriant_schema::request::Retention;
use celeriant_schema::{AggregateKey, ClientId, Hash, Lsn, Sequence, Stamp, TxnId, Version};

use crate::disk::Token;
use crate::error::Damage;
use crate::manifest::Checkpoint;
use crate::run::{PagePlace, Run};
use crate::{Identity, Settings};
pub use applier::{Applier, PendingLeg};
pub use listing::Listing;
use memtable::Memtable;
use pages::PageCache;
use rows::Outcome;
pub(crate) use rows::{count_row, head_in};
pub use sequences::{ClientSequences, Remembered};
use upkeep::Upkeep;

/// Where a batch lies. Read `frame_bytes` at `frame_offset × 4,096` of the segment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BatchLocation {
    /// Number of the segment.
    pub segment: u32,
    /// Start of the frame in the segment, in sectors of 4,096 bytes.
    pub frame_offset: u32,
    /// Size of the frame, in bytes, padding included.
    pub frame_bytes: u32,
    /// Start of the record in the frame's records, in bytes.
    pub record_offset: u32,
    /// Start of the batch in the record, in bytes.
    pub batch_offset: u32,
}

/// Committed state of an aggregate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Newest version.
    pub version: Version,
    /// Chain hash at that version.
    pub hash: Hash,
    /// Server time of the first event, µs since 1970.
    pub created: i64,
    /// Server time of the newest event, µs since 1970.
    pub updated: i64,
    /// Stamp of the newest event.
    pub stamp: Stamp,
    /// Deleted and not recreated.
    pub deleted: bool,
    /// Lowest version that can be read.
    pub first_available: Version,
}

/// Where an aggregate stands: what a write needs to know of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Newest version.
    pub version: Version,
    /// Chain hash at that version.
    pub hash: Hash,
    /// Deleted and not recreated.
    pub deleted: bool,
    /// Deleted, and not to be recreated.
    pub is_final: bool,
}

/// A page of the directory that a lookup needs and that is not in memory: [`Directory::load`] it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Missing(pub(crate) PagePlace);

/// Pages that were loaded for one piece of work. With them it makes progress however small the
/// page cache is.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    pages: BTreeMap<PagePlace, Bytes>,
}

impl Pins {
    /// Keeps a page as [`Directory::complete`] brought it.
    pub fn add(&mut self, page: Missing, bytes: Bytes) {
        self.pages.insert(page.0, bytes);
    }

    fn get(&self, place: PagePlace) -> Option<Bytes> {
        self.pages.get(&place).cloned()
    }
}

/// Why a lookup has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not yet: load this page, then ask again with it pinned.
    #[error("a page of the directory is not in memory")]
    Missing(Missing),
    /// Never: see [`Directory::condemn`].
    #[error("{0}")]
    Damaged(Damage),
}

/// Tokens of a directory have this bit set, and not bit 63, which is the log's.
const DIRECTORY_BIT: Token = 1 << 62;

/// A delete or a trim: what is to leave the disk, and is hidden until then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Erasure {
    /// Of the write that did it.
    pub stamp: Stamp,
    /// Of which aggregate.
    pub key: AggregateKey,
    /// Events up to here.
    pub upto: Version,
}

/// The leg of a write that was aborted: its events never counted, and are to leave the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AbortedLeg {
    /// Of its `Resolve`.
    pub stamp: Stamp,
    /// Which write.
    pub txn: TxnId,
    /// Where its first batch is.
    pub location: BatchLocation,
}

/// What is to leave the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Due {
    /// What was deleted or trimmed.
    Erasure(Erasure),
    /// What was aborted.
    Leg(AbortedLeg),
}

impl Due {
    /// Since when.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Erasure(Erasure { stamp, .. }) | Self::Leg(AbortedLeg { stamp, .. }) => *stamp,
        }
    }
}

/// A batch that is committed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppliedBatch {
    /// Version of its first event.
    pub first_version: Version,
    /// Version of its last event.
    pub last_version: Version,
    /// Chain hash after it.
    pub hash: Hash,
    /// Server time, µs since 1970.
    pub server_time: i64,
    /// Stamp of its first event.
    pub stamp: Stamp,
    /// Stamp of its last event.
    pub last_stamp: Stamp,
    /// Largest stamp of its write in this shard: what a receipt says.
    pub write_stamp: Stamp,
    /// Who wrote it.
    pub client_id: ClientId,
    /// The writer's number for it.
    pub sequence: Option<Sequence>,
    /// Hash of its write; only meaningful with a sequence.
    pub write_hash: Hash,
    /// What it takes away; then it has no events, and its last version is the one before its first.
    pub retention: Option<Retention>,
    /// Where it lies.
    pub location: BatchLocation,
}

impl AppliedBatch {
    /// Whether its versions are those of some batch.
    fn is_possible(&self) -> bool {
        let (first, last) = (self.first_version, self.last_version);
        let has_events = self.retention.is_none();
        first > Version::NONE && if has_events { last >= first } else { last.next() == first }
    }
}

/// A memtable that is being written out.
#[derive(Debug)]
struct Frozen {
    table: Memtable,
    /// What it and the runs say together.
    checkpoint: Checkpoint,
}

/// All aggregates of one shard. Comes from [`crate::recovery::recover`].
#[derive(Debug)]
pub struct Directory {
    identity: Identity,
    /// Half of the budget: the other half is for the frozen one.
    memtable_bytes_max: usize,
    checkpoint_bytes: u64,
    memtable: Memtable,
    /// Highest stamp that was applied since the start.
    newest: Stamp,
    frozen: Option<Frozen>,
    /// Written out; freed in steps.
    discarded: Memtable,
    /// How much log there had been when a table was last frozen.
    frozen_at_bytes: u64,
    /// Newest first.
    runs: Vec<Run>,
    pages: PageCache,
    next_run: u32,
    /// As the durable manifest says it.
    checkpoint: Checkpoint,
    /// As it says, too.
    erased: Stamp,
    /// Open legs whose batches were applied.
    applied_legs: BTreeSet<Lsn>,
    upkeep: Upkeep,
}

impl Directory {
    /// Of `runs`, newest first, which say what happened up to `checkpoint`.
    pub(crate) fn open(
        identity: Identity,
        settings: &Settings,
        next_run: u32,
        checkpoint: Checkpoint,
        runs: Vec<Run>,
    ) -> Self {
        let applied = checkpoint.legs.iter().filter(|leg| leg.is_applied);
        let mut directory = Self {
            identity,
            memtable_bytes_max: settings.directory.memtable_bytes / 2,
            checkpoint_bytes: settings.checkpoint_bytes,
            memtable: Memtable::default(),
            newest: Stamp::ZERO,
            frozen: None,
            discarded: Memtable::default(),
            frozen_at_bytes: 0,
            runs,
            pages: PageCache::new(settings.directory.cache_bytes),
            next_run,
            applied_legs: applied.map(|leg| leg.lsn).collect(),
            checkpoint,
            erased: Stamp::ZERO,
            upkeep: Upkeep::default(),
        };
        directory.divide_cache();
        directory
    }

    /// The same, after what was to be erased up to `erased` is gone.
    pub(crate) fn with_erased(mut self, erased: Stamp) -> Self {
        (self.erased, self.upkeep.erased) = (erased, erased);
        self
    }

    /// Whether `batch` continues what the memtable knows of `key`; no run is asked.
    pub(crate) fn continues(&self, key: &AggregateKey, batch: &AppliedBatch) -> bool {
        self.memtable.continues(key, batch)
    }

    /// Takes a committed batch in. Batches of an aggregate come in version order.
    ///
    /// # Panics
    /// When it does not continue what the memtable has of the aggregate.
    pub fn apply(&mut self, key: &AggregateKey, batch: &AppliedBatch) {
        self.newest = self.newest.max(batch.last_stamp);
        self.memtable.apply(key, batch);
    }

    /// The leg at `leg_lsn` is decided for good, and if that is to commit, its batches have just
    /// been applied. Its `Resolve` need not be durable.
    pub fn note_outcome(&mut self, txn: TxnId, leg_lsn: Lsn, commit: bool) {
        if commit {
            self.applied_legs.insert(leg_lsn);
        }
        self.memtable.note_outcome(txn, Outcome { leg_lsn, commit });
    }

    /// The `Resolve` at `stamp`, which is committed, aborts the leg of `txn` with these batches.
    pub fn note_aborted(
        &mut self,
        stamp: Stamp,
        txn: TxnId,
        batches: &[(AggregateKey, AppliedBatch)],
    ) {
        let has_events = batches.iter().any(|(_, batch)| batch.retention.is_none());
        if let Some((_, first)) = batches.first().filter(|_| has_events) {
            self.newest = self.newest.max(stamp);
            self.memtable.note_aborted(AbortedLeg { stamp, txn, location: first.location });
        }
    }

    /// What its memtables may take, in bytes.
    pub fn memtable_bytes_max(&self) -> usize {
        2 * self.memtable_bytes_max
    }

    /// Bytes that are not written out yet, about.
    pub fn unwritten_bytes(&self) -> usize {
        self.memtable.bytes() + self.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes())
    }

    /// Runs on disk.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
#[path = "directory/directory_test.rs"]
mod tests;
