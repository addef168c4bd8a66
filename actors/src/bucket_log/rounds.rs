//! A leader's uploads: what its shards seal becomes rounds, rounds become slots (R12).
//!
//! ```text
//! shard ─ Sealed ─► lane ─ room ──► pending ── a round ──► up to 4 slots ─ PutIfAbsent ─► bucket
//!                    │ none: remembered by its end, ▲          │ in order, none missing below
//!                    └─ read from the log later ────┘          └──► Held ─► shard
//! ```
//! A round begins as soon as it may and takes whatever is pending, frames of any shards: at once
//! when nothing was sent for an interval, else when the interval is over or a round is full. So the
//! interval bounds how often there are requests, not how long an idle store takes to answer. An
//! epoch's first rounds wait for no interval: they end a pause that somebody feels. While four
//! slots are under way what comes is grouped, then only remembered by its place.
//!
//! Slot k counts when all below it are there. Another body at one of our slots is the fence of
//! somebody who takes over, or a second writer of this epoch: nothing counts from then on.
//!
//! One machine an epoch and process (R8: a restarted process never continues one, so the first slot
//! is always 0). Deliberately absent: whether a slot is needed for an acknowledgement, reading
//! slots back, deleting them.

mod lane;

#[cfg(test)]
mod rounds_test;

use std::collections::VecDeque;

use celeriant_schema::peer::Position;
use celeriant_schema::{ClusterId, Epoch, Lsn, ShardId};
use celeriant_storage::bucket::{Completion, Request, Token};

use self::lane::Lane;
use super::create::{Creation, News};
use super::slot::{self, Name, Round};
use super::{Seal, Settings};
use crate::clock::Micros;
use crate::replicator::orders::Frames;

/// Rounds of an epoch that wait for no interval: what a take-over places, its settlement, and the
/// first writes.
const FIRST_ROUNDS: u64 = 4;
/// Tells nonces from other uses of the seed.
const NONCE_CONTEXT: &str = "celeriant 2026-11 bucket log v1 nonces of slots";

/// What the uploader learns.
#[derive(Debug)]
pub enum Event {
    /// A shard has sealed this, behind everything that it has sealed before.
    Sealed(ShardId, Frames),
    /// Answers [`Effect::Read`]: at least one whole frame behind the place that was asked for, as
    /// soon as there is a durable one.
    Read(ShardId, Frames),
    /// An operation of the bucket ended.
    Bucket(Completion),
}

/// What must happen, in order.
#[derive(Debug)]
pub enum Effect {
    /// Start an operation of the bucket, without retries.
    Bucket(Token, Request),
    /// Read about so many bytes of a shard's durable frames, at least one frame.
    Read {
        /// Whose.
        shard: ShardId,
        /// Behind this, the end of a frame.
        after: Lsn,
        /// In bytes.
        bytes_max: u32,
    },
    /// The bucket holds this shard's log up to here, from the epoch's base on.
    Held {
        /// Whose.
        shard: ShardId,
        /// The end of a frame. Never goes back.
        upto: Position,
    },
    /// The bucket holds everything that was sealed. Said again whenever it becomes true.
    Complete,
    /// Something else is at a slot of ours. Nothing is uploaded or counted any more.
    Fenced {
        /// Which slot.
        slot: u64,
    },
}

/// Where an uploader begins.
#[derive(Debug)]
pub struct Start {
    /// Whose log it is.
    pub cluster: ClusterId,
    /// The leader's or claimant's.
    pub epoch: Epoch,
    /// For each shard, what lies below the epoch's first slot.
    pub base: Vec<Position>,
    /// For each shard, the end of what is sealed: everything between is read from the log.
    pub sealed: Vec<Position>,
    /// Random and never used before: nonces are made from it.
    pub seed: u128,
}

/// The bucket log of one epoch, as its leader writes it.
#[derive(Debug)]
pub struct Uploader {
    cluster: ClusterId,
    epoch: Epoch,
    seed: u128,
    seal: Seal,
    settings: Settings,
    /// By shard.
    lanes: Vec<Lane>,
    /// What the next rounds are made of, in the order in which it came.
    pending: VecDeque<(ShardId, Frames)>,
    pending_bytes: usize,
    /// Asked for with [`Effect::Read`].
    reading_bytes: usize,
    /// Slots that are not known to be there, and those above them.
    slots: VecDeque<Upload>,
    next_slot: u64,
    /// When the last round began.
    last_start: Option<Micros>,
    /// Which shard reads next, so that none waits for ever.
    turn: usize,
    is_fenced: bool,
    was_complete: bool,
    tokens: Token,
}

#[derive(Debug)]
struct Upload {
    slot: u64,
    creation: Creation,
    ends: Vec<(ShardId, Position)>,
}

impl Uploader {
    /// Nothing happens before the first [`Uploader::flush`].
    ///
    /// # Panics
    /// When base and sealed ends are not of the same shards, or an end lies below its base.
    pub fn new(start: Start, seal: Seal, settings: Settings) -> Self {
        let Start { cluster, epoch, base, sealed, seed } = start;
        assert_eq!(base.len(), sealed.len(), "a base and an end for every shard");
        let lanes = base.into_iter().zip(sealed).map(|(base, sealed)| Lane::new(base, sealed));
        Self {
            cluster,
            epoch,
            seed,
            seal,
            settings,
            lanes: lanes.collect(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            reading_bytes: 0,
            slots: VecDeque::new(),
            next_slot: 0,
            last_start: None,
            turn: 0,
            is_fenced: false,
            was_complete: false,
            tokens: 0,
        }
    }

    /// Takes one event. What is to be sent is decided by [`Uploader::flush`].
    pub fn handle(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        if self.is_fenced {
            return;
        }
        match event {
            Event::Sealed(shard, frames) => {
                let has_room = self.has_room();
                let lane = &mut self.lanes[usize::from(shard.value())];
                self.was_complete = false;
                if let Some(frames) = lane.sealed(frames, has_room) {
                    self.enqueue(shard, frames);
                }
            }
            Event::Read(shard, frames) => {
                let lane = &mut self.lanes[usize::from(shard.value())];
                let frames = lane.read(frames);
                self.reading_bytes -= self.read_bytes();
                self.enqueue(shard, frames);
            }
            Event::Bucket(completion) => self.complete(now, completion, effects),
        }
        self.assert_invariants();
    }

    /// Nothing more has arrived, or the deadline is there: begins rounds and reads. Several events
    /// are handled before, so that what belongs together travels together.
    pub fn flush(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        if self.is_fenced {
            return;
        }
        while self.may_begin(now) {
            self.begin_round();
            self.last_start = Some(now);
        }
        self.send_what_is_due(now, effects);
        self.catch_up(effects);
        let is_complete = self.lanes.iter().all(Lane::is_complete);
        if is_complete && !self.was_complete {
            effects.push(Effect::Complete);
        }
        self.was_complete = is_complete;
        self.assert_invariants();
    }

    /// When [`Uploader::flush`] has something to do though nothing happens.
    pub fn next_deadline(&self) -> Option<Micros> {
        if self.is_fenced {
            return None;
        }
        let due = self.slots.iter().filter_map(|upload| upload.creation.due()).min();
        due.into_iter().chain(self.round_due()).min()
    }

    /// Bytes of frames that it keeps, or will be given, in memory.
    pub fn memory_bytes(&self) -> usize {
        let slots: usize = self.slots.iter().map(|upload| upload.creation.body().len()).sum();
        slots + self.pending_bytes + self.reading_bytes
    }

    /// Bytes that one read of the log brings, about.
    fn read_bytes(&self) -> usize {
        self.settings.round_bytes / 4
    }

    fn has_room(&self) -> bool {
        self.pending_bytes + self.reading_bytes < self.settings.round_bytes
    }

    fn enqueue(&mut self, shard: ShardId, frames: Frames) {
        self.pending_bytes += frames.bytes.len();
        self.pending.push_back((shard, frames));
    }

    /// When the next round may begin; `None`: nothing is pending, or as many are under way as may
    /// be.
    fn round_due(&self) -> Option<Micros> {
        if self.pending.is_empty() || self.slots.len() >= self.settings.in_flight_max {
            return None;
        }
        let is_full = self.pending_bytes >= self.settings.round_bytes;
        let is_first = self.next_slot < FIRST_ROUNDS;
        let next = self.last_start.map(|at| at.saturating_add(self.settings.interval));
        Some(next.filter(|_| !is_full && !is_first).unwrap_or(0))
    }

    fn may_begin(&self, now: Micros) -> bool {
        self.round_due().is_some_and(|at| at <= now)
    }

    /// Makes a slot of what is pending.
    fn begin_round(&mut self) {
        let round = self.take_round();
        let slot = self.next_slot;
        self.next_slot += 1;
        let name = Name { cluster: self.cluster, epoch: self.epoch, slot };
        let ends = round.iter().filter_map(|(shard, pieces)| Some((*shard, pieces.last()?.end)));
        let ends = ends.collect();
        let body = slot::data(&name, self.nonce(slot), &round, &self.seal);
        self.slots.push_back(Upload { slot, creation: Creation::new(name.key(), body), ends });
    }

    /// As much as fits, at least something.
    fn take_round(&mut self) -> Round {
        let mut round = Round::new();
        let mut bytes = 0;
        while let Some((shard, frames)) = self.pending.pop_front() {
            let more = frames.bytes.len();
            if bytes > 0 && bytes + more > self.settings.round_bytes {
                self.pending.push_front((shard, frames));
                break;
            }
            bytes += more;
            round.entry(shard).or_default().push(frames);
        }
        self.pending_bytes -= bytes;
        round
    }

    /// Fresh for every slot, the same whenever it is asked for.
    fn nonce(&self, slot: u64) -> u128 {
        let mut material = [0; 32];
        material[..16].copy_from_slice(&self.seed.to_le_bytes());
        material[16..24].copy_from_slice(&self.epoch.value().to_le_bytes());
        material[24..].copy_from_slice(&slot.to_le_bytes());
        let derived = blake3::derive_key(NONCE_CONTEXT, &material);
        derived[..16].iter().fold(0, |nonce, byte| nonce << 8 | u128::from(*byte))
    }

    fn send_what_is_due(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        for upload in &mut self.slots {
            if upload.creation.due().is_some_and(|at| at <= now) {
                self.tokens += 1;
                let request = upload.creation.request(self.tokens, &self.settings, Request::data);
                effects.push(Effect::Bucket(self.tokens, request));
            }
        }
    }

    /// Lets those that are behind read, in turn, while there is room.
    fn catch_up(&mut self, effects: &mut Vec<Effect>) {
        let count = self.lanes.len();
        for step in 0..count {
            if !self.has_room() {
                self.turn = (self.turn + step) % count;
                return;
            }
            let at = (self.turn + step) % count;
            if let Some(after) = self.lanes[at].wants_read() {
                let (shard, bytes) = (ShardId::new(at as u16), self.read_bytes());
                self.reading_bytes += bytes;
                effects.push(Effect::Read { shard, after, bytes_max: bytes as u32 });
            }
        }
    }

    fn complete(&mut self, now: Micros, completion: Completion, effects: &mut Vec<Effect>) {
        let Completion { token, outcome } = completion;
        let Some(upload) = self.slots.iter_mut().find(|it| it.creation.awaits(token)) else {
            // It came twice.
            return;
        };
        match upload.creation.complete(now, outcome, &self.settings) {
            News::Nothing => {}
            News::Made => self.count(effects),
            News::Other(_) => {
                let slot = upload.slot;
                self.is_fenced = true;
                self.slots.clear();
                self.pending.clear();
                (self.pending_bytes, self.reading_bytes) = (0, 0);
                effects.push(Effect::Fenced { slot });
            }
        }
    }

    /// Slots count in order: one that is there above one that may not be is worth nothing.
    fn count(&mut self, effects: &mut Vec<Effect>) {
        while let Some(upload) = self.slots.pop_front_if(|it| it.creation.is_settled()) {
            for (shard, upto) in upload.ends {
                self.lanes[usize::from(shard.value())].held(upto);
                effects.push(Effect::Held { shard, upto });
            }
        }
    }

    fn assert_invariants(&self) {
        let (slots, max) = (self.slots.len(), self.settings.in_flight_max);
        assert!(slots <= max, "{slots} slots under way, at most {max}");
        let first = self.next_slot - slots as u64;
        let dense = self.slots.iter().zip(first..).all(|(upload, slot)| upload.slot == slot);
        assert!(dense, "slots of epoch {} are not dense", self.epoch);
    }
}
