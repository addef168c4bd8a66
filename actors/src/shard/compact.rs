//! Making the bytes of what was deleted or trimmed leave this node's disk, segment by segment.
//!
//! ```text
//!   erasures behind what is noted ─► where are their batches? ─► a pass: segments, and what goes
//!     ─► pack one after the other ─► note durably: erased up to this stamp ─► look again
//! ```
//! Every node does it for itself, whatever its role; lsns, versions and hashes stay. Passes are
//! bounded, and so is what is done in a second: writers of this thread come first. What lies in a
//! segment that still takes frames waits until that is full, or until an operator orders to
//! compact: then the log goes on in a new one. Such an order packs everything else that is sealed,
//! too. It is about all that the log has when it comes, and so it waits until that is committed and
//! decided.
//!
//! Deliberately absent: the bucket. Its rounds hold what they hold until they are collected (R14).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use celeriant_schema::{Stamp, Version};
use celeriant_storage::compact::{Compactor, Outcome};
use celeriant_storage::directory::{Erasure, Fault, Missing, Pins};
use celeriant_storage::disk::Completion;
use celeriant_storage::frame::Erase;
use celeriant_storage::{Error, Identity};

use super::core::{Core, Effect};

/// Deletes and trims that are looked up at a time.
const ERASURES_MAX: usize = 256;
/// Batches that are looked up at a time.
const BATCHES_MAX: usize = 512;
/// Batches in one pass, about 128 bytes each; some more when they are found together.
const PLACES_MAX: usize = 4096;
/// What one operation goes through, reading or writing, in bytes; large frames with something to
/// erase take more.
const STEP_BYTES: u64 = 64 << 10;
/// Operations in a second while somebody waits for it.
const STEPS_PER_TICK_ORDERED: u32 = 512;
/// Ticks until a full disk is tried again.
const PAUSE_TICKS: u32 = 30;

/// What a shard has compacted since it was opened, and what it is to do.
#[derive(Debug)]
pub(super) struct Compaction {
    compactor: Compactor,
    stage: Stage,
    /// Where the next pass goes on in an erasure that is larger than one.
    resume: Option<(Stamp, Version)>,
    pins: Pins,
    awaited: Option<Missing>,
    steps_left: u32,
    pause: u32,
    /// Number of the last order, and of the last that is carried out.
    ordered: u64,
    done: u64,
    /// What the last order is about: all that the log had, committed or not, up to this stamp, and
    /// segments up to this one. What is deleted later is not waited for, or an order might never be
    /// done.
    order: (Stamp, u32),
    /// Bytes of files, and of events, that are gone.
    reclaimed: u64,
    erased: u64,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known to be done until the next tick.
    Resting,
    Looking,
    Collecting(VecDeque<Erasure>, Pass),
    Packing(Pass),
    Noting(Stamp),
}

/// Segments that are packed before anything is noted.
#[derive(Debug, Default)]
struct Pass {
    segments: BTreeMap<u32, Vec<Erase>>,
    places: usize,
    /// Then everything is erased up to here.
    upto: Stamp,
}

impl Compaction {
    /// After `ordered` orders, which may not have been carried out before the log, which ends at
    /// stamp `end`, was opened anew.
    pub(super) fn new(identity: Identity, ordered: u64, end: Stamp) -> Self {
        Self {
            compactor: Compactor::new(identity),
            stage: Stage::Resting,
            resume: None,
            pins: Pins::default(),
            awaited: None,
            steps_left: 0,
            pause: 0,
            ordered,
            done: 0,
            order: (end, u32::MAX),
            reclaimed: 0,
            erased: 0,
        }
    }

    fn is_ordered(&self) -> bool {
        self.ordered > self.done
    }

    /// A page of the directory has been read.
    pub(super) fn arrived(&mut self, page: Missing, bytes: &Bytes) {
        if self.awaited == Some(page) {
            self.awaited = None;
            self.pins.add(page, bytes.clone());
        }
    }
}

impl<R> Core<R> {
    /// An operator's order: everything that was deleted until now shall leave the disk.
    pub(super) fn order_compaction(&mut self, number: u64, effects: &mut Vec<Effect<R>>) {
        let compaction = &mut self.compaction;
        compaction.ordered = compaction.ordered.max(number);
        compaction.order = (self.log.last_stamp(), self.log.sealed_upto());
        compaction.pause = 0;
        compaction.steps_left = STEPS_PER_TICK_ORDERED;
        if matches!(compaction.stage, Stage::Resting) {
            compaction.stage = Stage::Looking;
        }
        self.compact(effects);
    }

    /// About once a second.
    pub(super) fn tick_compaction(&mut self, effects: &mut Vec<Effect<R>>) {
        let compaction = &mut self.compaction;
        compaction.pause = compaction.pause.saturating_sub(1);
        let is_ordered = compaction.is_ordered();
        let steps = (self.log.settings().compaction_bytes / STEP_BYTES) as u32;
        compaction.steps_left = if is_ordered { STEPS_PER_TICK_ORDERED } else { steps };
        let may_look = compaction.steps_left > 0 && compaction.pause == 0;
        if matches!(compaction.stage, Stage::Resting) && may_look {
            compaction.stage = Stage::Looking;
        }
        self.compact(effects);
    }

    /// Takes the end of an operation of the compactor.
    pub(super) fn complete_compaction(
        &mut self,
        completion: Completion,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let compaction = &mut self.compaction;
        match compaction.compactor.complete(completion, &mut self.log)? {
            None => {}
            Some(Outcome::Packed { segment, bytes_before, bytes_after, bytes_erased }) => {
                // They hold what was erased.
                self.cache.forget_segment(segment);
                compaction.reclaimed += bytes_before.saturating_sub(bytes_after);
                compaction.erased += bytes_erased;
                tracing::info!(segment, bytes_before, bytes_after, bytes_erased, "packed");
            }
            Some(Outcome::NoRoom { segment, error }) => {
                tracing::warn!(segment, %error, "no room to pack a segment: it waits");
                compaction.stage = Stage::Resting;
                compaction.resume = None;
                compaction.pause = PAUSE_TICKS;
            }
        }
        self.compact(effects);
        Ok(())
    }

    /// A page of the directory or a frame of the log may be what was waited for.
    pub(super) fn go_on_compacting(&mut self, effects: &mut Vec<Effect<R>>) {
        match &self.compaction.stage {
            Stage::Resting | Stage::Packing(_) => {}
            Stage::Looking | Stage::Collecting(..) | Stage::Noting(_) => self.compact(effects),
        }
    }

    /// Goes on as far as that is possible now.
    fn compact(&mut self, effects: &mut Vec<Effect<R>>) {
        if self.is_closing || self.compaction.awaited.is_some() {
            return;
        }
        loop {
            let stage = std::mem::replace(&mut self.compaction.stage, Stage::Resting);
            let (next, goes_on) = match stage {
                Stage::Resting => (Stage::Resting, false),
                Stage::Looking => self.look(effects),
                Stage::Collecting(erasures, pass) => self.collect(erasures, pass, effects),
                Stage::Packing(pass) => self.pack(pass, effects),
                Stage::Noting(upto) => match self.directory.erased() >= upto {
                    true => (Stage::Looking, true),
                    false => (Stage::Noting(upto), false),
                },
            };
            self.compaction.stage = next;
            if !goes_on {
                break;
            }
        }
        self.tell_compaction();
    }

    /// What is to be done next?
    fn look(&mut self, effects: &mut Vec<Effect<R>>) -> (Stage, bool) {
        let (after, pins) = (self.directory.erased(), &self.compaction.pins);
        let mut found = match self.directory.erasures(after, ERASURES_MAX, pins) {
            Ok(found) => found,
            Err(fault) => return (self.wait_for_page(fault, Stage::Looking, effects), false),
        };
        // Up to here nothing is missing in it: not a part of a write over several shards that is
        // decided later, nor what this node has and does not know to be committed.
        let closed = self.closed_stamp();
        found.retain(|erasure| erasure.stamp <= closed);
        let compaction = &mut self.compaction;
        compaction.pins = Pins::default();
        let (stamp, segment) = compaction.order;
        let is_erased =
            closed >= stamp && found.first().is_none_or(|erasure| erasure.stamp > stamp);
        if compaction.is_ordered() && is_erased {
            if let Some(segment) = self.log.next_unpacked().filter(|next| *next <= segment) {
                let segments = BTreeMap::from([(segment, Vec::new())]);
                return (Stage::Packing(Pass { segments, places: 0, upto: after }), true);
            }
            compaction.done = compaction.ordered;
        }
        match found.is_empty() {
            true => (Stage::Resting, false),
            false => {
                let pass = Pass { upto: after, ..Pass::default() };
                (Stage::Collecting(found.into(), pass), true)
            }
        }
    }

    /// Finds out where the batches of the next erasure are.
    fn collect(
        &mut self,
        mut erasures: VecDeque<Erasure>,
        mut pass: Pass,
        effects: &mut Vec<Effect<R>>,
    ) -> (Stage, bool) {
        let next = erasures.front().filter(|_| pass.places < PLACES_MAX);
        let Some(Erasure { stamp, key, upto }) = next.cloned() else {
            return (Stage::Packing(pass), true);
        };
        let from = match self.compaction.resume {
            Some((of, from)) if of == stamp => from,
            _ => Version::new(1),
        };
        let pins = &self.compaction.pins;
        let newest = self.directory.locate(&key, Version::new(1), upto, true, 1, pins);
        let found = newest.and_then(|newest| {
            let found = self.directory.locate(&key, from, upto, false, BATCHES_MAX, pins)?;
            Ok((newest, found))
        });
        let (newest, found) = match found {
            Ok(found) => found,
            Err(fault) => {
                let stage = Stage::Collecting(erasures, pass);
                return (self.wait_for_page(fault, stage, effects), false);
            }
        };
        self.compaction.pins = Pins::default();
        if newest.iter().any(|(_, _, at)| !self.log.is_sealed(at.segment)) {
            let is_pass = !pass.segments.is_empty() || pass.upto > self.directory.erased();
            let is_awaited = self.compaction.is_ordered() && stamp <= self.compaction.order.0;
            return match is_awaited && !is_pass {
                // What is in the segment that takes frames can go when that takes no more.
                true if self.log.roll(self.promised_bytes) => {
                    let is_sealed = newest.iter().all(|(_, _, at)| self.log.is_sealed(at.segment));
                    (Stage::Collecting(erasures, pass), is_sealed)
                }
                true => (Stage::Collecting(erasures, pass), false),
                false if is_pass => (Stage::Packing(pass), true),
                false => (Stage::Resting, false),
            };
        }
        let last = found.last().map_or(upto, |(_, last, _)| *last);
        pass.places += found.len();
        for (_, _, location) in found {
            let erase = Erase { key: key.clone(), location, upto };
            pass.segments.entry(location.segment).or_default().push(erase);
        }
        if last >= upto {
            pass.upto = stamp;
            self.compaction.resume = None;
            erasures.pop_front();
        } else {
            self.compaction.resume = Some((stamp, last.next()));
        }
        (Stage::Collecting(erasures, pass), true)
    }

    /// Packs the next segment of a pass, step by step; notes that there is none left.
    fn pack(&mut self, mut pass: Pass, effects: &mut Vec<Effect<R>>) -> (Stage, bool) {
        let mut ops = std::mem::take(&mut self.ops);
        let compaction = &mut self.compaction;
        let is_done = compaction.compactor.is_idle() && pass.segments.is_empty();
        if is_done {
            if pass.upto > self.directory.erased() {
                self.directory.note_erased(pass.upto, &mut ops);
            }
        } else {
            if compaction.compactor.is_idle()
                && let Some((segment, erases)) = pass.segments.pop_first()
            {
                compaction.compactor.pack(&self.log, segment, erases);
            }
            if compaction.steps_left > 0 && !compaction.compactor.is_busy() {
                compaction.steps_left -= 1;
                compaction.compactor.advance(&mut ops);
            }
        }
        self.start(ops, effects);
        match is_done {
            true => (Stage::Noting(pass.upto), true),
            false => (Stage::Packing(pass), false),
        }
    }

    /// `stage` goes on when a page of the directory has been read.
    fn wait_for_page(&mut self, fault: Fault, stage: Stage, effects: &mut Vec<Effect<R>>) -> Stage {
        let mut ops = std::mem::take(&mut self.ops);
        match fault {
            Fault::Missing(page) => {
                self.compaction.awaited = Some(page);
                self.directory.load(page, &mut ops);
            }
            Fault::Damaged(damage) => self.directory.condemn(damage, &mut ops),
        }
        self.start(ops, effects);
        stage
    }

    /// Says how far it is.
    fn tell_compaction(&self) {
        let Compaction { done, reclaimed, erased, .. } = self.compaction;
        let upto = self.directory.erased().value();
        if let Some(told) = self.standing.compacted().get(usize::from(self.shard.value())) {
            told.set([done, upto, reclaimed, erased]);
        }
    }
}

#[cfg(test)]
#[path = "compact/compact_test.rs"]
mod tests;
