//! From records to the state that they leave: the one way of committed frames into the directory.
//!
//! ```text
//!   Write ───────────────────────────► rows
//!   Leg ─► pending ─┬─ Resolve ──────► rows, if it commits      what recovery does
//!                   └─ show ─► rows ─► Resolve changes nothing  a node that knows all shards
//! ```
//! A leg's batches count from its `Resolve` on, or from when its owner knows the decision and shows
//! it: nothing else touches its aggregates in between. Recovery and a follower go this way; a
//! leader knows what its records do and needs none.
//!
//! Deliberately absent: what is committed, and any decision.

use std::collections::BTreeMap;

use celeriant_schema::record::{BatchView, Record, Resolve, WriteRecord, decode_records};
use celeriant_schema::{AggregateKey, Lsn, ShardId, Stamp, TxnId};

use super::{AppliedBatch, BatchLocation, Directory};
use crate::error::{Damage, Flaw};
use crate::frame::FrameHeader;
use crate::log::{DurableFrame, Placed};
use crate::segment::segment_name;

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
    /// To be applied when it is decided to commit. Empty when the directory has them already.
    pub batches: Vec<(AggregateKey, AppliedBatch)>,
    /// The directory has its batches: the write had been decided, and shown.
    pub is_shown: bool,
}

/// Applies frames in log order. Keeps the legs that are not resolved.
#[derive(Debug, Default)]
pub struct Applier {
    pending: BTreeMap<Lsn, PendingLeg>,
}

impl Applier {
    /// Goes on from what recovery left.
    pub fn new(pending: Vec<PendingLeg>) -> Self {
        Self { pending: pending.into_iter().map(|leg| (leg.lsn, leg)).collect() }
    }

    /// Legs without a `Resolve`, in log order.
    pub fn pending(&self) -> impl Iterator<Item = &PendingLeg> {
        self.pending.values()
    }

    /// The same, for whoever decides them.
    pub fn into_pending(self) -> Vec<PendingLeg> {
        self.pending.into_values().collect()
    }

    /// Takes in a committed frame, the next one of the log.
    ///
    /// # Errors
    /// When it contradicts what was before it: this log is not to be believed. A part of the frame
    /// may have been applied.
    pub fn frame(&mut self, directory: &mut Directory, frame: &DurableFrame) -> Result<(), Damage> {
        let first_lsn = frame.first_lsn;
        let (header, records) = decode(frame).map_err(|flaw| at(frame, first_lsn, flaw))?;
        let place = Placed::of(&header, frame.segment, offset_of(frame));
        self.records(directory, first_lsn, place, records)
            .map_err(|(lsn, flaw)| at(frame, lsn, flaw))
    }

    /// Legs that a committed frame, not taken in yet, decides: which, and whether to commit. Costs
    /// nothing while no leg is open.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn decided_by(&self, frame: &DurableFrame) -> Result<Vec<(TxnId, bool)>, Damage> {
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let (_, records) = decode(frame).map_err(|flaw| at(frame, frame.first_lsn, flaw))?;
        let decided = records.into_iter().filter_map(|(_, record)| match record {
            Record::Resolve(resolve) => Some((resolve.txn, resolve.commit)),
            _ => None,
        });
        Ok(decided.collect())
    }

    /// The leg at `lsn` is decided to commit: its batches count from now on. Does nothing the
    /// second time, or when it was resolved.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn show(&mut self, directory: &mut Directory, lsn: Lsn) -> Result<(), Flaw> {
        let Some(leg) = self.pending.get_mut(&lsn).filter(|leg| !leg.is_shown) else {
            return Ok(());
        };
        leg.is_shown = true;
        for (key, batch) in std::mem::take(&mut leg.batches) {
            apply(directory, &key, &batch)?;
        }
        directory.note_outcome(leg.txn, lsn, true);
        Ok(())
    }

    /// The leg at `lsn`, if nobody decided it yet.
    pub fn leg(&self, lsn: Lsn) -> Option<&PendingLeg> {
        self.pending.get(&lsn)
    }

    /// Legs that were opened behind `lsn`, and are open.
    pub fn opened_behind(&self, lsn: Lsn) -> impl Iterator<Item = &PendingLeg> {
        self.pending.range(lsn.next()..).map(|(_, leg)| leg)
    }

    /// Takes in the records of one frame.
    pub(crate) fn records(
        &mut self,
        directory: &mut Directory,
        first_lsn: Lsn,
        place: Placed,
        records: Vec<(u32, Record)>,
    ) -> Result<(), (Lsn, Flaw)> {
        let mut lsn = first_lsn;
        for (offset, record) in records {
            self.record(directory, lsn, place, offset, record).map_err(|flaw| (lsn, flaw))?;
            lsn = lsn.next();
        }
        Ok(())
    }

    fn record(
        &mut self,
        directory: &mut Directory,
        lsn: Lsn,
        place: Placed,
        offset: u32,
        record: Record,
    ) -> Result<(), Flaw> {
        match record {
            Record::Write(write) => {
                let batches = applied(&write, place, offset);
                batches.iter().try_for_each(|(key, batch)| apply(directory, key, batch))
            }
            Record::Leg(leg) => {
                self.open(lsn, place, offset, leg);
                Ok(())
            }
            Record::Resolve(resolve) => self.resolve(directory, &resolve),
            Record::EpochStart(_) => Ok(()),
        }
    }

    /// A leg is there.
    pub(crate) fn open(&mut self, lsn: Lsn, place: Placed, offset: u32, leg: WriteRecord) {
        let mut batches = applied(&leg, place, offset);
        batches.iter_mut().for_each(|(key, _)| *key = key.detached());
        let pending = PendingLeg {
            txn: leg.write_id,
            participants: leg.participants,
            lsn,
            stamp: leg.stamp,
            keys: batches.iter().map(|(key, _)| key.clone()).collect(),
            batches,
            is_shown: false,
        };
        self.pending.insert(lsn, pending);
    }

    /// The directory has the batches of the leg at `lsn` already.
    pub(crate) fn was_shown(&mut self, lsn: Lsn) {
        if let Some(leg) = self.pending.get_mut(&lsn) {
            leg.is_shown = true;
            leg.batches.clear();
        }
    }

    fn resolve(&mut self, directory: &mut Directory, resolve: &Resolve) -> Result<(), Flaw> {
        let Some(leg) = self.pending.remove(&resolve.leg_lsn) else {
            return Err(Flaw::Chain("a Resolve without its leg"));
        };
        if leg.txn != resolve.txn || (leg.is_shown && !resolve.commit) {
            return Err(Flaw::Chain("a Resolve of another write than its leg"));
        }
        if resolve.commit {
            leg.batches.iter().try_for_each(|(key, batch)| apply(directory, key, batch))?;
        } else {
            directory.note_aborted(resolve.stamp, leg.txn, &leg.batches);
        }
        directory.note_outcome(leg.txn, leg.lsn, resolve.commit);
        Ok(())
    }
}

/// Where the frame starts in its segment, in bytes.
fn offset_of(frame: &DurableFrame) -> u64 {
    u64::from(frame.frame_offset) * celeriant_schema::limits::SECTOR_BYTES as u64
}

fn at(frame: &DurableFrame, lsn: Lsn, flaw: Flaw) -> Damage {
    flaw.at(segment_name(frame.segment), frame.segment, offset_of(frame), lsn)
}

fn decode(frame: &DurableFrame) -> Result<(FrameHeader, Vec<(u32, Record)>), Flaw> {
    let header = FrameHeader::decode(&frame.bytes)?;
    let (meta, blobs) = (header.meta(&frame.bytes), header.blobs(&frame.bytes));
    let records = decode_records(&meta, &blobs, header.count)
        .map(|record| record.map(|(offset, record, _)| (offset, record)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Flaw::Decode(error.to_string()))?;
    Ok((header, records))
}

fn apply(directory: &mut Directory, key: &AggregateKey, batch: &AppliedBatch) -> Result<(), Flaw> {
    if !directory.continues(key, batch) {
        return Err(Flaw::Chain("versions of an aggregate"));
    }
    directory.apply(key, batch);
    Ok(())
}

/// Batches of the record at `record_offset` of a frame, as the directory takes them.
fn applied(
    record: &WriteRecord,
    place: Placed,
    record_offset: u32,
) -> Vec<(AggregateKey, AppliedBatch)> {
    let Placed { segment, frame_offset, frame_bytes, .. } = place;
    let located = |batch_offset| BatchLocation {
        segment,
        frame_offset,
        frame_bytes,
        record_offset,
        batch_offset,
    };
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
        retention: batch.retention,
        location: located(batch.offset),
    };
    record.batches.iter().map(|batch| (batch.key.clone(), describe(batch))).collect()
}
