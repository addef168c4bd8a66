//! Parts of writes over several shards whose decision is not durable here.
//!
//! A checkpoint names them, with the places of their frames: a replay from there needs them for
//! their `Resolve`s. Every unresolved leg keeps space for its `Resolve`, so that a full disk cannot
//! hold its aggregates for ever.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::{Record, Resolve};
use celeriant_schema::{Hash, Lsn, TxnId};

use crate::error::Flaw;
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

    /// Whether records from `first_lsn` on decide only legs that are there, each once.
    pub(crate) fn check(
        &self,
        first_lsn: Lsn,
        records: &[(u32, Record)],
    ) -> Result<(), (Lsn, Flaw)> {
        let mut decided = BTreeSet::new();
        for (at, (_, record)) in records.iter().enumerate() {
            let Record::Resolve(resolve) = record else { continue };
            let is_undecided = match self.legs.get(&resolve.leg_lsn) {
                Some(leg) => leg.txn == resolve.txn && !leg.is_resolved,
                None => has_leg(&records[..at], first_lsn, resolve),
            };
            if !is_undecided || !decided.insert(resolve.leg_lsn) {
                let flaw = Flaw::Chain("a Resolve without its leg");
                return Err((first_lsn.plus(at as u64), flaw));
            }
        }
        Ok(())
    }

    /// Takes in records that were checked. `placed`: their frame, once it is durable.
    pub(crate) fn take(
        &mut self,
        first_lsn: Lsn,
        records: &[(u32, Record)],
        placed: Option<Placed>,
    ) {
        for (at, (_, record)) in records.iter().enumerate() {
            let lsn = first_lsn.plus(at as u64);
            match (record, placed) {
                (Record::Leg(leg), Some(placed)) => self.open_placed(lsn, leg.write_id, placed),
                (Record::Leg(leg), None) => self.open(lsn, leg.write_id),
                (Record::Resolve(resolve), _) => {
                    self.resolve(resolve.leg_lsn, resolve.txn, lsn);
                }
                (Record::Write(_) | Record::EpochStart(_), _) => {}
            }
        }
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

    /// Legs without a `Resolve`.
    pub(crate) fn unresolved(&self) -> usize {
        self.unresolved
    }

    /// Space to keep for `Resolve`s: in the worst case each gets a frame of its own.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        (self.unresolved * SECTOR_BYTES) as u64
    }

    /// The same when these records, which were checked, are taken in.
    pub(crate) fn reserve_bytes_with(&self, records: &[(u32, Record)]) -> u64 {
        let count = |is_it: fn(&Record) -> bool| records.iter().filter(|it| is_it(&it.1)).count();
        let opened = count(|record| matches!(record, Record::Leg(_)));
        let decided = count(|record| matches!(record, Record::Resolve(_)));
        ((self.unresolved + opened - decided) * SECTOR_BYTES) as u64
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

/// Whether the leg that `resolve` decides is among `records`.
fn has_leg(records: &[(u32, Record)], first_lsn: Lsn, resolve: &Resolve) -> bool {
    let at = resolve.leg_lsn.value().checked_sub(first_lsn.value());
    let record = at.and_then(|at| records.get(usize::try_from(at).ok()?));
    matches!(record, Some((_, Record::Leg(leg))) if leg.write_id == resolve.txn)
}
