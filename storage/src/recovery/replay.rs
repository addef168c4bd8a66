//! From records to the state that they leave: directory, undecided legs, outcomes.
//!
//! A leg's batches count from its `Resolve` on: nothing else touches its aggregates in between. A
//! `Resolve` whose leg is in a segment with an index is known there already.

use std::collections::BTreeMap;

use celeriant_schema::record::{BatchView, Record, Resolve, WriteRecord};
use celeriant_schema::{AggregateKey, Lsn, ShardId, Stamp, TxnId};

use crate::directory::{AppliedBatch, BatchLocation, Directory};
use crate::error::Flaw;
use crate::frame::FrameHeader;
use crate::index::Index;
use crate::log::Legs;

/// A leg that nobody decided yet.
#[derive(Clone, Debug)]
pub struct PendingLeg {
    /// Which write.
    pub txn: TxnId,
    /// All shards that it spans.
    pub participants: Vec<ShardId>,
    /// Where the leg is.
    pub lsn: Lsn,
    /// Stamp of its first event, or its own.
    pub stamp: Stamp,
    /// Aggregates to hold until it is decided.
    pub keys: Vec<AggregateKey>,
    /// To be applied when its `Resolve` with `commit` is durable.
    pub batches: Vec<(AggregateKey, AppliedBatch)>,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct FramePlace {
    pub(super) segment: u32,
    pub(super) frame_offset: u32,
    pub(super) frame_bytes: u32,
}

impl FramePlace {
    fn batch(&self, record_offset: u32, batch_offset: u32) -> BatchLocation {
        let Self { segment, frame_offset, frame_bytes } = *self;
        BatchLocation { segment, frame_offset, frame_bytes, record_offset, batch_offset }
    }
}

/// State while the log is read.
pub(super) struct Replay {
    pub(super) directory: Directory,
    pub(super) legs: Legs,
    pub(super) pending: BTreeMap<Lsn, PendingLeg>,
    pub(super) outcomes: BTreeMap<TxnId, bool>,
    /// Lsn ranges of the segments whose index was taken.
    indexed: Vec<(Lsn, Lsn)>,
}

impl Replay {
    pub(super) fn new(hash_seed: u64) -> Self {
        Self {
            directory: Directory::new(hash_seed),
            legs: Legs::default(),
            pending: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            indexed: Vec::new(),
        }
    }

    /// Takes in a whole segment from its index.
    pub(super) fn load(&mut self, index: &Index) -> Result<(), Flaw> {
        let sealed = &index.sealed;
        for entry in index.entries() {
            let entry = entry?;
            if !self.directory.accepts(&entry) {
                return Err(Flaw::Chain("versions of an aggregate"));
            }
            self.directory.load_entry(sealed.segment, entry);
        }
        self.indexed.push((sealed.first_lsn, sealed.last_lsn));
        Ok(())
    }

    /// Takes in the records of one frame.
    pub(super) fn frame(
        &mut self,
        header: &FrameHeader,
        place: FramePlace,
        records: Vec<(u32, Record)>,
    ) -> Result<(), (Lsn, Flaw)> {
        let mut lsn = header.first_lsn;
        for (offset, record) in records {
            self.record(lsn, place, offset, record).map_err(|flaw| (lsn, flaw))?;
            lsn = lsn.next();
        }
        Ok(())
    }

    fn record(
        &mut self,
        lsn: Lsn,
        place: FramePlace,
        offset: u32,
        record: Record,
    ) -> Result<(), Flaw> {
        match record {
            Record::Write(write) => {
                let batches = applied(&write, |batch| place.batch(offset, batch));
                batches.iter().try_for_each(|(key, batch)| self.apply(key, batch))
            }
            Record::Leg(leg) => {
                let mut batches = applied(&leg, |batch| place.batch(offset, batch));
                batches.iter_mut().for_each(|(key, _)| *key = key.detached());
                self.legs.open(lsn, leg.write_id);
                self.pending.insert(
                    lsn,
                    PendingLeg {
                        txn: leg.write_id,
                        participants: leg.participants,
                        lsn,
                        stamp: leg.stamp,
                        keys: batches.iter().map(|(key, _)| key.clone()).collect(),
                        batches,
                    },
                );
                Ok(())
            }
            Record::Resolve(resolve) => self.resolve(lsn, &resolve),
            Record::EpochStart(_) => Ok(()),
        }
    }

    fn resolve(&mut self, lsn: Lsn, resolve: &Resolve) -> Result<(), Flaw> {
        let Some(leg) = self.pending.remove(&resolve.leg_lsn) else {
            let in_index = |(first, last): &(Lsn, Lsn)| (first..=last).contains(&&resolve.leg_lsn);
            let is_known = self.indexed.iter().any(in_index);
            return is_known.then_some(()).ok_or(Flaw::Chain("a Resolve without its leg"));
        };
        if leg.txn != resolve.txn {
            return Err(Flaw::Chain("a Resolve of another write than its leg"));
        }
        self.legs.resolve(leg.lsn, leg.txn, resolve.commit, lsn);
        self.outcomes.insert(leg.txn, resolve.commit);
        if resolve.commit {
            leg.batches.iter().try_for_each(|(key, batch)| self.apply(key, batch))?;
        }
        Ok(())
    }

    fn apply(&mut self, key: &AggregateKey, batch: &AppliedBatch) -> Result<(), Flaw> {
        if !self.directory.continues(key, batch) {
            return Err(Flaw::Chain("versions of an aggregate"));
        }
        self.directory.apply(key, batch);
        Ok(())
    }
}

/// A record's batches as the directory takes them.
fn applied(
    record: &WriteRecord,
    place: impl Fn(u32) -> BatchLocation,
) -> Vec<(AggregateKey, AppliedBatch)> {
    let write_stamp = record.batches.last().map_or(record.stamp, |batch| batch.last_stamp);
    let describe = |batch: &BatchView| AppliedBatch {
        first_version: batch.first_version,
        last_version: batch.last_version,
        hash: batch.hash,
        server_time: record.server_time,
        stamp: batch.stamp,
        last_stamp: batch.last_stamp,
        write_stamp,
        client_id: record.client_id,
        sequence: batch.sequence,
        write_hash: record.write_hash,
        location: place(batch.offset),
    };
    record.batches.iter().map(|batch| (batch.key.clone(), describe(batch))).collect()
}
