//! Parts of writes over several shards that are in segments without index.
//!
//! A segment's index says what its legs did, so it waits until all of them are decided and the
//! decisions are durable. Every unresolved leg keeps space for its `Resolve`, so that a full disk
//! cannot hold its aggregates for ever.

use std::collections::BTreeMap;

use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{Lsn, TxnId};

use crate::index::LegOutcome;

#[derive(Clone, Copy, Debug)]
struct Leg {
    txn: TxnId,
    resolve: Option<Resolution>,
}

#[derive(Clone, Copy, Debug)]
struct Resolution {
    lsn: Lsn,
    commit: bool,
}

/// Legs by their place in the log.
#[derive(Debug, Default)]
pub(crate) struct Legs {
    legs: BTreeMap<Lsn, Leg>,
    unresolved: usize,
    durable: Lsn,
}

impl Legs {
    pub(crate) fn open(&mut self, lsn: Lsn, txn: TxnId) {
        let before = self.legs.insert(lsn, Leg { txn, resolve: None });
        assert!(before.is_none(), "two legs at lsn {lsn}");
        self.unresolved += 1;
    }

    pub(crate) fn resolve(&mut self, leg_lsn: Lsn, txn: TxnId, commit: bool, lsn: Lsn) {
        let Some(leg) = self.legs.get_mut(&leg_lsn).filter(|leg| leg.txn == txn) else {
            panic!("no leg of {txn} at lsn {leg_lsn}")
        };
        assert!(leg.resolve.is_none(), "the leg of {txn} at {leg_lsn} is resolved twice");
        leg.resolve = Some(Resolution { lsn, commit });
        self.unresolved -= 1;
    }

    /// Everything up to `durable` is durable.
    pub(crate) fn settle(&mut self, durable: Lsn) {
        self.durable = durable;
    }

    /// Space to keep for `Resolve`s: in the worst case each gets a frame of its own.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        (self.unresolved * SECTOR_BYTES) as u64
    }

    /// What became of every leg up to `last`; `None` while one is not durably decided.
    pub(crate) fn outcomes(&self, last: Lsn) -> Option<Vec<LegOutcome>> {
        let is_open = |leg: &Leg| leg.resolve.is_none_or(|resolve| resolve.lsn > self.durable);
        // The newest are the likeliest to be open: asked after every frame, so look there first.
        if self.legs.range(..=last).rev().any(|(_, leg)| is_open(leg)) {
            return None;
        }
        let legs = self.legs.range(..=last).map(|(lsn, leg)| {
            let commit = leg.resolve.is_some_and(|resolve| resolve.commit);
            LegOutcome { txn: leg.txn, leg_lsn: *lsn, commit }
        });
        Some(legs.collect())
    }

    /// Lsn of the last decision on a leg up to `last`; 0 without legs.
    pub(crate) fn decided_at(&self, last: Lsn) -> Lsn {
        let resolves = self.legs.range(..=last).filter_map(|(_, leg)| leg.resolve);
        resolves.map(|resolve| resolve.lsn).max().unwrap_or_default()
    }

    /// The index that says what became of the legs up to `last` is durable.
    pub(crate) fn forget(&mut self, last: Lsn) {
        self.legs = self.legs.split_off(&last.next());
    }
}
