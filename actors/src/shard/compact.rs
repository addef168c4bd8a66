//! Making the bytes of what was deleted, trimmed or aborted leave this node's disk, segment by
//! segment.
//!
//! ```text
//!   what is due behind what is noted ─► where is it? ─► a pass: segments, and what goes
//!     ─► pack one after the other ─► note durably: erased up to this stamp ─► look again
//! ```
//! Every node does it for itself, whatever its role; lsns, versions and hashes stay. Passes are
//! bounded, and so is what is done in a second: writers of this thread come first. What lies in a
//! segment that still takes frames waits until that is full, or until an operator orders to
//! compact: then the log goes on in a new one. Such an order packs everything else that is sealed,
//! too. It is about all that the log has when it comes, and so it waits until that is committed and
//! decided.
//!
//! Notes go in the order of stamps. So whatever is due waits for what may yet become due below it:
//! legs that are not decided, whose deletes have the stamps of then.
//!
//! Deliberately absent: the bucket. Its rounds hold what they hold until they are collected (R14).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use celeriant_schema::{Lsn, Stamp, Version};
use celeriant_storage::compact::{Compactor, Outcome};
use celeriant_storage::directory::{Due, Erasure, Fault, Missing, Pins};
use celeriant_storage::disk::Completion;
use celeriant_storage::frame::Erase;
use celeriant_storage::log::Log;
use celeriant_storage::recovery::PendingLeg;
use celeriant_storage::{Error, Identity};

use super::core::{Core, Effect, Role};

/// Deletes, trims and aborted legs that are looked up at a time.
const DUE_MAX: usize = 256;
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
    /// Legs that are aborted; their `Resolve`s are not committed. In the order of those.
    aborting: VecDeque<PendingLeg>,
    /// Where the next pass goes on in an erasure that is larger than one.
    resume: Option<(Stamp, Version)>,
    pins: Pins,
    awaited: Option<Missing>,
    steps_left: u32,
    pause: u32,
    /// Number of the last order, and of the last that is carried out.
    ordered: u64,
    done: u64,
    order: Order,
    /// Bytes of files, and of events, that are gone.
    reclaimed: u64,
    erased: u64,
}

/// What the last order is about: the log as it was then. What is deleted later is not waited for,
/// or an order might never be done.
#[derive(Clone, Copy, Debug)]
struct Order {
    lsn: Lsn,
    stamp: Stamp,
    /// The last one that was sealed.
    segment: u32,
    /// All of that log is committed and decided, and what it deletes and aborts is due up to
    /// `stamp`.
    is_known: bool,
}

impl Order {
    fn of(log: &Log) -> Self {
        let lsn = Lsn::new(log.next_lsn().value() - 1);
        let (stamp, segment) = (log.last_stamp(), log.sealed_upto());
        Self { lsn, stamp, segment, is_known: false }
    }
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known to be done until the next tick.
    Resting,
    Looking,
    Collecting(VecDeque<Due>, Pass),
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

/// Where what is due lies, or the next of it.
struct Found {
    /// The last segment that holds any of it.
    newest: Option<u32>,
    erases: Vec<Erase>,
    /// The version from which on there is more.
    rest: Option<Version>,
}

impl Compaction {
    /// After `ordered` orders, which may not have been carried out before the log was opened anew.
    pub(super) fn new(identity: Identity, ordered: u64, log: &Log) -> Self {
        Self {
            compactor: Compactor::new(identity),
            stage: Stage::Resting,
            aborting: VecDeque::new(),
            resume: None,
            pins: Pins::default(),
            awaited: None,
            steps_left: 0,
            pause: 0,
            ordered,
            done: 0,
            order: Order::of(log),
            reclaimed: 0,
            erased: 0,
        }
    }

    fn is_ordered(&self) -> bool {
        self.ordered > self.done
    }

    /// The `Resolve` of this leg will say abort, behind those that were told before.
    pub(super) fn abort(&mut self, leg: PendingLeg) {
        self.aborting.push_back(leg);
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
        compaction.order = Order::of(&self.log);
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
                Stage::Collecting(due, pass) => self.collect(due, pass, effects),
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

    /// The `Resolve` at `stamp`, which aborts the first of `aborting`, is committed.
    pub(super) fn leg_aborted(&mut self, stamp: Stamp) {
        let Some(leg) = self.compaction.aborting.pop_front() else {
            unreachable!("every abort is told before it is appended");
        };
        self.directory.note_aborted(stamp, leg.txn, &leg.batches);
    }

    /// Everything below this stamp that is ever due is in the directory.
    fn due_below(&self) -> Stamp {
        let undecided = match &self.role {
            Role::Leading(_) => self.first_undecided(),
            Role::Following(follower) => follower.first_undecided(),
        };
        undecided.unwrap_or(Stamp::new(u64::MAX))
    }

    /// What is to be done next?
    fn look(&mut self, effects: &mut Vec<Effect<R>>) -> (Stage, bool) {
        let (after, pins) = (self.directory.erased(), &self.compaction.pins);
        let mut found = match self.directory.due(after, DUE_MAX, pins) {
            Ok(found) => found,
            Err(fault) => return (self.wait_for_page(fault, Stage::Looking, effects), false),
        };
        let below = self.due_below();
        let compaction = &mut self.compaction;
        compaction.pins = Pins::default();
        let order = &mut compaction.order;
        if !order.is_known && self.committed >= order.lsn && order.stamp < below {
            // Decisions have stamps of their own, behind those of their legs.
            (order.is_known, order.stamp) = (true, self.log.last_stamp());
        }
        let Order { stamp, segment, is_known, .. } = *order;
        let is_erased = is_known && found.first().is_none_or(|due| due.stamp() > stamp);
        found.retain(|due| due.stamp() < below);
        if compaction.is_ordered() && is_erased {
            if let Some(segment) = self.log.next_unpacked().filter(|next| *next <= segment) {
                let segments = BTreeMap::from([(segment, Vec::new())]);
                return (Stage::Packing(Pass { segments, places: 0, upto: after }), true);
            }
            compaction.done = compaction.ordered;
        }
        match found.is_empty() {
            // It waits for what is not committed, or not decided.
            true if compaction.is_ordered() => (Stage::Looking, false),
            true => (Stage::Resting, false),
            false => {
                let pass = Pass { upto: after, ..Pass::default() };
                (Stage::Collecting(found.into(), pass), true)
            }
        }
    }

    /// Finds out where the next of what is due lies.
    fn collect(
        &mut self,
        mut due: VecDeque<Due>,
        mut pass: Pass,
        effects: &mut Vec<Effect<R>>,
    ) -> (Stage, bool) {
        let Some(next) = due.front().filter(|_| pass.places < PLACES_MAX) else {
            return (Stage::Packing(pass), true);
        };
        let stamp = next.stamp();
        let Found { newest, erases, rest } = match self.find(next) {
            Ok(found) => found,
            Err(fault) => {
                let stage = Stage::Collecting(due, pass);
                return (self.wait_for_page(fault, stage, effects), false);
            }
        };
        self.compaction.pins = Pins::default();
        if let Some(newest) = newest.filter(|newest| !self.log.is_sealed(*newest)) {
            let is_pass = !pass.segments.is_empty() || pass.upto > self.directory.erased();
            let is_awaited = self.compaction.is_ordered() && stamp <= self.compaction.order.stamp;
            return match is_awaited && !is_pass {
                // What is in the segment that takes frames can go when that takes no more.
                true if self.log.roll(self.promised_bytes) => {
                    (Stage::Collecting(due, pass), self.log.is_sealed(newest))
                }
                true => (Stage::Collecting(due, pass), false),
                false if is_pass => (Stage::Packing(pass), true),
                false => (Stage::Resting, false),
            };
        }
        pass.places += erases.len();
        for erase in erases {
            pass.segments.entry(erase.location().segment).or_default().push(erase);
        }
        self.compaction.resume = rest.map(|from| (stamp, from));
        if rest.is_none() {
            pass.upto = stamp;
            due.pop_front();
        }
        (Stage::Collecting(due, pass), true)
    }

    fn find(&self, due: &Due) -> Result<Found, Fault> {
        let (stamp, key, upto) = match due {
            Due::Leg(leg) => {
                let (newest, erases) = (Some(leg.location.segment), vec![Erase::Leg(*leg)]);
                return Ok(Found { newest, erases, rest: None });
            }
            Due::Erasure(Erasure { stamp, key, upto }) => (*stamp, key, *upto),
        };
        let from = match self.compaction.resume {
            Some((of, from)) if of == stamp => from,
            _ => Version::new(1),
        };
        let pins = &self.compaction.pins;
        let newest = self.directory.locate(key, Version::new(1), upto, true, 1, pins)?;
        let found = self.directory.locate(key, from, upto, false, BATCHES_MAX, pins)?;
        let last = found.last().map_or(upto, |(_, last, _)| *last);
        let erase = |(first, _, location)| Erase::Batch { key: key.clone(), location, first, upto };
        Ok(Found {
            newest: newest.first().map(|(_, _, at)| at.segment),
            erases: found.into_iter().map(erase).collect(),
            rest: (last < upto).then(|| last.next()),
        })
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
