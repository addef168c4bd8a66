//! Parts of writes over several shards whose decision is not durable here.
//!
//! A checkpoint names them, with the places of their frames: a replay from there needs them for
//! their `Resolve`s. Every unresolved leg keeps space for its `Resolve`, so that a full disk cannot
//! hold its aggregates for ever.

use std::collections::BTreeMap;

use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{Hash, Lsn, TxnId};

use crate::frame::FrameHeader;
use crate::manifest::OpenLeg;

#[derive(Clone, Copy, Debug)]
struct Leg {
    txn: TxnId,
    /// Once its frame is durable.
    placed: Option<Placed>,
    is_resolved: bool,
}

/// The frame that a leg is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Placed {
    pub(crate) segment: u32,
    /// In sectors of 4,096 bytes.
    pub(crate) frame_offset: u32,
    pub(crate) frame_bytes: u32,
    pub(crate) hash: Hash,
}

impl Placed {
    /// Of the frame at `offset`, in bytes, of `segment`.
    pub(crate) fn of(header: &FrameHeader, segment: u32, offset: u64) -> Self {
        Self {
            segment,
            frame_offset: (offset / SECTOR_BYTES as u64) as u32,
            frame_bytes: header.frame_bytes() as u32,
            hash: header.hash,
        }
    }
}

/// Legs by their place in the log.
#[derive(Debug, Default)]
pub(crate) struct Legs {
    legs: BTreeMap<Lsn, Leg>,
    /// Legs by the place of their `Resolve`, which is not durable.
    resolving: BTreeMap<Lsn, Lsn>,
    unresolved: usize,
}

impl Legs {
    pub(crate) fn open(&mut self, lsn: Lsn, txn: TxnId) {
        let before = self.legs.insert(lsn, Leg { txn, placed: None, is_resolved: false });
        assert!(before.is_none(), "two legs at lsn {lsn}");
        self.unresolved += 1;
    }

    /// A leg whose frame is durable.
    pub(crate) fn open_placed(&mut self, lsn: Lsn, txn: TxnId, placed: Placed) {
        self.open(lsn, txn);
        if let Some(leg) = self.legs.get_mut(&lsn) {
            leg.placed = Some(placed);
        }
    }

    pub(crate) fn resolve(&mut self, leg_lsn: Lsn, txn: TxnId, lsn: Lsn) {
        let Some(leg) = self.legs.get_mut(&leg_lsn).filter(|leg| leg.txn == txn) else {
            panic!("no leg of {txn} at lsn {leg_lsn}")
        };
        assert!(!leg.is_resolved, "the leg of {txn} at {leg_lsn} is resolved twice");
        leg.is_resolved = true;
        self.resolving.insert(lsn, leg_lsn);
        self.unresolved -= 1;
    }

    /// A frame became durable.
    pub(crate) fn placed(&mut self, header: &FrameHeader, segment: u32, offset: u64) {
        let placed = Placed::of(header, segment, offset);
        for (_, leg) in self.legs.range_mut(header.first_lsn..=header.last_lsn()) {
            leg.placed = Some(placed);
        }
    }

    /// Everything up to `durable` is durable.
    pub(crate) fn settle(&mut self, durable: Lsn) {
        while let Some(entry) = self.resolving.first_entry().filter(|it| *it.key() <= durable) {
            self.legs.remove(&entry.remove());
        }
    }

    /// Space to keep for `Resolve`s: in the worst case each gets a frame of its own.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        (self.unresolved * SECTOR_BYTES) as u64
    }

    /// Durable legs up to `upto` without a durable `Resolve`. What is applied of them, others know.
    pub(crate) fn open_at(&self, upto: Lsn) -> impl Iterator<Item = OpenLeg> {
        self.legs.range(..=upto).map(|(lsn, leg)| {
            let Some(placed) = leg.placed else { panic!("the leg at {lsn} has no place") };
            let Placed { segment, frame_offset, frame_bytes, hash } = placed;
            let (txn, lsn, is_applied) = (leg.txn, *lsn, false);
            OpenLeg { txn, lsn, segment, frame_offset, frame_bytes, is_applied, hash }
        })
    }
}
