//! From records to the state that they leave: directory, undecided legs, outcomes.
//!
//! A leg's batches count from its `Resolve` on: nothing else touches its aggregates in between.
//! Legs that were open at the checkpoint are brought back before the first frame.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::record::{BatchView, Record, Resolve, WriteRecord};
use celeriant_schema::{AggregateKey, Lsn, ShardId, Stamp, TxnId};

use crate::directory::{AppliedBatch, BatchLocation, Directory};
use crate::error::Flaw;
use crate::frame::FrameHeader;
use crate::log::{Legs, Placed};
use crate::manifest::OpenLeg;

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
    /// To be applied when it is decided to commit. Empty when the directory has them already: the
    /// write had been decided, and shown, before the crash.
    pub batches: Vec<(AggregateKey, AppliedBatch)>,
}

/// Where a frame lies.
pub(super) type FramePlace = Placed;

impl FramePlace {
    fn batch(&self, record_offset: u32, batch_offset: u32) -> BatchLocation {
        let Self { segment, frame_offset, frame_bytes, .. } = *self;
        BatchLocation { segment, frame_offset, frame_bytes, record_offset, batch_offset }
    }
}

/// State while the log is read.
pub(super) struct Replay {
    pub(super) directory: Directory,
    pub(super) legs: Legs,
    pub(super) pending: BTreeMap<Lsn, PendingLeg>,
    /// Those of them that the directory has already.
    applied: BTreeSet<Lsn>,
    pub(super) outcomes: BTreeMap<TxnId, bool>,
}

impl Replay {
    pub(super) fn new(directory: Directory) -> Self {
        Self {
            directory,
            legs: Legs::default(),
            pending: BTreeMap::new(),
            applied: BTreeSet::new(),
            outcomes: BTreeMap::new(),
        }
    }

    /// Brings back a leg that was open at the checkpoint, from the records of its frame.
    pub(super) fn reopen(
        &mut self,
        open: &OpenLeg,
        first_lsn: Lsn,
        place: FramePlace,
        records: Vec<(u32, Record)>,
    ) -> Result<(), Flaw> {
        let at = open.lsn.value().checked_sub(first_lsn.value());
        let record = at.and_then(|at| records.into_iter().nth(usize::try_from(at).ok()?));
        match record {
            Some((offset, Record::Leg(leg))) if leg.write_id == open.txn => {
                self.open(open.lsn, place, offset, leg);
            }
            _ => return Err(Flaw::Chain("a leg of the checkpoint")),
        }
        if open.is_applied {
            self.applied.insert(open.lsn);
            if let Some(leg) = self.pending.get_mut(&open.lsn) {
                leg.batches.clear();
            }
        }
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
                self.open(lsn, place, offset, leg);
                Ok(())
            }
            Record::Resolve(resolve) => self.resolve(lsn, &resolve),
            Record::EpochStart(_) => Ok(()),
        }
    }

    fn open(&mut self, lsn: Lsn, place: FramePlace, offset: u32, leg: WriteRecord) {
        let mut batches = applied(&leg, |batch| place.batch(offset, batch));
        batches.iter_mut().for_each(|(key, _)| *key = key.detached());
        self.legs.open_placed(lsn, leg.write_id, place);
        let pending = PendingLeg {
            txn: leg.write_id,
            participants: leg.participants,
            lsn,
            stamp: leg.stamp,
            keys: batches.iter().map(|(key, _)| key.clone()).collect(),
            batches,
        };
        self.pending.insert(lsn, pending);
    }

    fn resolve(&mut self, lsn: Lsn, resolve: &Resolve) -> Result<(), Flaw> {
        let Some(leg) = self.pending.remove(&resolve.leg_lsn) else {
            return Err(Flaw::Chain("a Resolve without its leg"));
        };
        let was_applied = self.applied.remove(&leg.lsn);
        if leg.txn != resolve.txn || (was_applied && !resolve.commit) {
            return Err(Flaw::Chain("a Resolve of another write than its leg"));
        }
        self.legs.resolve(leg.lsn, leg.txn, lsn);
        self.outcomes.insert(leg.txn, resolve.commit);
        if resolve.commit {
            leg.batches.iter().try_for_each(|(key, batch)| self.apply(key, batch))?;
        }
        self.directory.note_outcome(leg.txn, leg.lsn, resolve.commit);
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
