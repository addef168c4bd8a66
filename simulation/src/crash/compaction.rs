//! What of the harness' log is packed, and what of it must be gone then.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::{AggregateKey, Version};
use celeriant_storage::compact::Outcome;
use celeriant_storage::directory::BatchLocation;
use celeriant_storage::disk::Disk;
use celeriant_storage::frame::Erase;

use super::{Process, ToldBatch};
use crate::disk::Files;
use crate::invariants::Violations;
use crate::mark::{Mark, marks};
use crate::packed;
use crate::rng::Rng;
use crate::walk::Walked;

/// Packings of a thousand records, and batches of a thousand that are erased then.
const PACKED_PER_MILLE: u64 = 250;
const ERASED_PER_MILLE: u64 = 300;

/// Which events need not be there, and which must not.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    /// An erasure of it was begun.
    may_be: BTreeSet<(AggregateKey, Version)>,
    /// It was reported done.
    must_be: BTreeSet<Mark>,
}

/// Where batches lie, and which of them are being erased.
#[derive(Debug, Default)]
pub(super) struct Erasing {
    by_segment: BTreeMap<u32, Vec<(ToldBatch, BatchLocation)>>,
    in_hand: Vec<Mark>,
}

impl<D: Disk> Process<D> {
    /// Begins to pack a sealed segment, by chance.
    pub(super) fn perhaps_pack(&mut self, rng: &mut Rng) {
        let log = &self.recovered.log;
        let sealed = u64::from(log.sealed_upto());
        if sealed == 0 || !self.compactor.is_idle() || !rng.chance(PACKED_PER_MILLE) {
            return;
        }
        let segment = rng.between(1, sealed) as u32;
        let erases = self.erasing.begin(segment, &mut self.told.missing, rng);
        self.compactor.pack(log, segment, erases);
        self.compactor.advance(&mut self.ops);
    }
}

impl Erasing {
    /// A batch lies there.
    pub(super) fn note(&mut self, batch: &ToldBatch, location: BatchLocation) {
        self.by_segment.entry(location.segment).or_default().push((batch.clone(), location));
    }

    /// Chooses what to erase from a segment.
    fn begin(&mut self, segment: u32, missing: &mut Missing, rng: &mut Rng) -> Vec<Erase> {
        let mut erases = Vec::new();
        for (batch, location) in self.by_segment.get(&segment).into_iter().flatten() {
            if !rng.chance(ERASED_PER_MILLE) {
                continue;
            }
            let (first, last) = (batch.first_version.value(), batch.last_version.value());
            let upto = Version::new(rng.between(first, last));
            for version in first..=upto.value() {
                missing.may_be.insert((batch.key.clone(), Version::new(version)));
                self.in_hand.push((batch.number as usize, 0, (version - first) as usize));
            }
            let (key, first) = (batch.key.clone(), batch.first_version);
            erases.push(Erase::Batch { key, location: *location, first, upto });
        }
        erases
    }

    /// The compactor is done with a segment.
    pub(super) fn done(&mut self, outcome: Outcome, missing: &mut Missing) {
        match outcome {
            Outcome::Packed { .. } => missing.must_be.extend(self.in_hand.drain(..)),
            Outcome::NoRoom { .. } => self.in_hand.clear(),
        }
    }
}

impl Missing {
    /// How many events were reported erased.
    pub(super) fn erased(&self) -> u64 {
        self.must_be.len() as u64
    }

    /// Every event of `batches` is there with what was written, unless it may be missing.
    pub(super) fn check_frames(
        &self,
        frames: &[Walked],
        batches: &[ToldBatch],
        when: &str,
        violations: &Violations,
    ) {
        let stored = frames.iter().flat_map(Walked::stored);
        let there: BTreeMap<_, _> =
            stored.map(|(key, version, event)| ((key.clone(), version), event)).collect();
        for ToldBatch { key, number, first_version, last_version, .. } in batches {
            for version in first_version.value()..=last_version.value() {
                let place = (key.clone(), Version::new(version));
                let Some(event) = there.get(&place) else { continue };
                let index = (version - first_version.value()) as usize;
                let expected = (*number as usize, 0, index);
                let is_it = marks(&event.payload).all(|mark| mark == expected);
                let is_right = is_it && (!event.is_erased() || self.may_be.contains(&place));
                violations.check("crash", is_right, || {
                    format!("{when}: {key} version {version} is not what was written: {event:?}")
                });
            }
        }
    }

    /// Nothing that was reported erased is in any file.
    pub(super) fn check_files(&self, files: &Files, when: &str, violations: &Violations) {
        for (name, content) in files.iter() {
            let is_packed = packed::segment_of(name).is_some_and(|(_, generation)| generation > 0);
            let pieces = is_packed.then(|| packed::pieces(content)).into_iter().flatten();
            let is_gone = |mark: &Mark| self.must_be.contains(mark);
            let packed = pieces.into_iter().find_map(|piece| marks(&piece).find(is_gone));
            let found = marks(content).find(is_gone).or(packed);
            violations.check("crash", found.is_none(), || {
                format!("{when}: {name} holds what was reported erased: {found:?}")
            });
        }
    }
}
