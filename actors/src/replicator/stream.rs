//! One shard's way from the leader to the follower.
//!
//! ```text
//! Unknown ─tip─► Comparing ─► Cutting ─► Behind ─caught up─► Level
//!    ▲ session lost                         ▲  no room in the window │
//!    └────────── from everywhere            └────────────────────────┘
//! ```
//! Behind, frames are read from this node's log, one read at a time; level, each is sent as it is
//! sealed, while it is written here. What was sent is remembered by its ends only: an
//! acknowledgement names one of them, hash included, or it is not one.

use std::collections::VecDeque;

use celeriant_schema::peer::{Committed, FramePlace, Message, Position, Tip};
use celeriant_schema::{Epoch, Lsn, ShardId, Stamp};

use super::core::Effect;
use super::orders::{Frames, Order};
use super::reconcile::{Comparison, Next};

/// Bytes that one read of the log brings, about.
pub(super) const READ_BYTES: u32 = celeriant_schema::peer::FRAMES_BYTES_TARGET as u32;
/// A follower that was sent all but so many records, and holds what was sealed then, has caught up:
/// what waits for it waits for about as long as for a few frames.
const NEARLY_RECORDS: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Stream {
    shard: ShardId,
    /// In which this node leads.
    epoch: Epoch,
    stage: Stage,
    /// Ends of what was sent and is not acknowledged, and bytes of each.
    in_flight: VecDeque<(Position, usize)>,
    in_flight_bytes: usize,
    /// The follower durably holds the log up to here.
    held: Position,
    /// It has acknowledged this much, whatever has become of it.
    owed: Lsn,
    /// What was sealed when for the first time nearly all of it was sent.
    nearly: Option<Lsn>,
    /// The end of what this node has sealed.
    sealed: Position,
    commit: Lsn,
    closed: Stamp,
    /// Commit or closed stamp have changed since they were last sent.
    is_news: bool,
}

#[derive(Debug)]
enum Stage {
    /// Nobody has said what the follower has.
    Unknown,
    Comparing {
        request: u64,
        comparison: Comparison,
    },
    Cutting {
        request: u64,
        to: Position,
    },
    /// Everything up to `next` was sent.
    Behind {
        next: Position,
        reading: bool,
    },
    /// Everything that is sealed was sent.
    Level,
}

impl Stream {
    /// Everything up to `sealed` is in this node's log when it begins to lead.
    pub(super) fn new(shard: ShardId, epoch: Epoch, sealed: Position) -> Self {
        Self {
            shard,
            epoch,
            stage: Stage::Unknown,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            held: Position::default(),
            owed: Lsn::ZERO,
            nearly: None,
            sealed,
            commit: Lsn::ZERO,
            closed: Stamp::ZERO,
            is_news: false,
        }
    }

    /// The follower is out of reach: what it has is not known any more, but what it has
    /// acknowledged it holds.
    pub(super) fn reset(&mut self) {
        self.stage = Stage::Unknown;
        self.nearly = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.is_news = true;
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Another store: what was held says nothing.
    pub(super) fn forget(&mut self) {
        self.reset();
        (self.held, self.owed) = (Position::default(), Lsn::ZERO);
    }

    /// The leadership goes on in a further epoch: the log is the same, so what was acknowledged
    /// still is held; what is on its way is compared in the new epoch.
    pub(super) fn renew(&mut self, epoch: Epoch) {
        self.reset();
        self.epoch = epoch;
    }

    /// The end of what is sealed.
    pub(super) fn sealed_end(&self) -> Position {
        self.sealed
    }

    /// The same as a tip.
    pub(super) fn tip(&self, epoch: Epoch) -> Tip {
        Tip { shard: self.shard, epoch, durable: self.sealed, floor: self.commit }
    }

    /// Something is asked of the follower, or on its way to it.
    pub(super) fn waits(&self) -> bool {
        let asks = match self.stage {
            Stage::Comparing { mut comparison, .. } => matches!(comparison.next(), Next::Theirs(_)),
            Stage::Cutting { .. } => true,
            Stage::Unknown | Stage::Behind { .. } | Stage::Level => false,
        };
        asks || !self.in_flight.is_empty()
    }

    /// The follower has lost what it had acknowledged, and does not hold all of it again.
    pub(super) fn is_short(&self) -> bool {
        self.held.lsn < self.owed
    }

    /// The follower holds nearly all that is sealed. What has been sealed since may be on its way:
    /// a busy leader's follower is never quite there.
    pub(super) fn has_caught_up(&self) -> bool {
        let is_near = match &self.stage {
            Stage::Level => true,
            Stage::Behind { next, .. } => is_nearly(next, &self.sealed),
            _ => false,
        };
        is_near && !self.is_short() && self.nearly.is_some_and(|sealed| self.held.lsn >= sealed)
    }

    /// The follower durably holds the log up to here.
    pub(super) fn held(&self) -> Position {
        self.held
    }

    /// The follower has acknowledged everything up to here in this epoch, and it is committed: on
    /// both disks.
    pub(super) fn is_twice_upto(&self, lsn: Lsn) -> bool {
        let is_compared = matches!(self.stage, Stage::Behind { .. } | Stage::Level);
        is_compared && self.held.lsn >= lsn && self.commit >= lsn
    }

    /// The end of what was sent last and is not acknowledged.
    pub(super) fn sent(&self) -> Option<Lsn> {
        self.in_flight.back().map(|(end, _)| end.lsn)
    }

    /// The follower holds all that is sealed.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Level | Stage::Behind { .. }) && self.held == self.sealed
    }

    /// The follower has said where its log ends. Returns what it had acknowledged, if that is more:
    /// a disk that is what it was some time ago, or that lied.
    pub(super) fn compare(
        &mut self,
        tip: &Tip,
        request: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<Position> {
        self.reset();
        let is_short = tip.durable.lsn < self.held.lsn;
        // What it has left was not compared yet.
        let lost = is_short.then(|| std::mem::take(&mut self.held));
        let comparison = Comparison::new(tip.durable);
        self.stage = Stage::Comparing { request, comparison };
        self.go_on_comparing(effects);
        lost
    }

    fn go_on_comparing(&mut self, effects: &mut Vec<Effect>) {
        let Stage::Comparing { request, comparison } = &mut self.stage else { return };
        let (shard, request) = (self.shard, *request);
        match comparison.next() {
            Next::Own(lsn) => effects.push(Effect::Shard(shard, Order::Find { request, lsn })),
            Next::Theirs(lsn) => {
                effects.push(Effect::Send(Message::Locate { request, shard, lsn }))
            }
            Next::Common(to) => {
                self.stage = Stage::Cutting { request, to };
                let epoch = self.epoch;
                effects.push(Effect::Send(Message::Cut { request, shard, epoch, to }));
            }
        }
    }

    /// This node's frame that the comparison asked for.
    pub(super) fn found(
        &mut self,
        number: u64,
        frame: Option<FramePlace>,
        effects: &mut Vec<Effect>,
    ) {
        if let Stage::Comparing { request, comparison } = &mut self.stage
            && *request == number
        {
            comparison.own(frame);
            self.go_on_comparing(effects);
        }
    }

    /// The follower's.
    pub(super) fn located(
        &mut self,
        number: u64,
        frame: Option<FramePlace>,
        effects: &mut Vec<Effect>,
    ) {
        if let Stage::Comparing { request, comparison } = &mut self.stage
            && *request == number
        {
            comparison.theirs(frame);
            self.go_on_comparing(effects);
        }
    }

    /// The follower's log ends where both were equal. Returns what it had acknowledged, as
    /// [`Stream::compare`] does: what it has in its place was longer, and another log's.
    pub(super) fn cut_done(&mut self, number: u64, tip: &Tip) -> Option<Position> {
        let Stage::Cutting { request, to } = self.stage else { return None };
        if request != number || tip.durable != to {
            return None;
        }
        self.stage = Stage::Behind { next: to, reading: false };
        self.owed = self.owed.max(to.lsn);
        let before = std::mem::replace(&mut self.held, to);
        (to.lsn < before.lsn).then_some(before)
    }

    /// Where to read on, if it is behind and nothing is being read.
    pub(super) fn catch_up(&mut self) -> Option<Lsn> {
        let Stage::Behind { next, reading } = &mut self.stage else { return None };
        if self.nearly.is_none() && is_nearly(next, &self.sealed) {
            self.nearly = Some(self.sealed.lsn);
        }
        if *next == self.sealed {
            self.stage = Stage::Level;
            return None;
        }
        let begins = !std::mem::replace(reading, true);
        begins.then_some(next.lsn)
    }

    /// Frames that were read from this node's log.
    pub(super) fn read(&mut self, frames: Frames, effects: &mut Vec<Effect>) {
        let Stage::Behind { next, reading } = &mut self.stage else { return };
        // Of a read that was begun before a session was lost.
        if *next != frames.before {
            return;
        }
        (*next, *reading) = (frames.end, false);
        self.send(frames, effects);
    }

    /// A frame is sealed. With `has_room` it is sent at once, else read from the log later.
    pub(super) fn sealed(&mut self, frame: Frames, has_room: bool, effects: &mut Vec<Effect>) {
        assert_eq!(frame.before, self.sealed, "shard {}: frames are sealed in order", self.shard);
        self.sealed = frame.end;
        match self.stage {
            Stage::Level if has_room => self.send(frame, effects),
            Stage::Level => self.stage = Stage::Behind { next: frame.before, reading: false },
            _ => {}
        }
    }

    fn send(&mut self, frames: Frames, effects: &mut Vec<Effect>) {
        let Frames { before, end, bytes } = frames;
        self.in_flight.push_back((end, bytes.len()));
        self.in_flight_bytes += bytes.len();
        self.is_news = false;
        effects.push(Effect::Send(Message::Append {
            shard: self.shard,
            epoch: self.epoch,
            before,
            commit: self.commit,
            closed: self.closed,
            frames: bytes,
        }));
    }

    /// The follower durably holds the log up to `position`. One that is not the end of something on
    /// its way was meant for an earlier comparison and is worth nothing: `false`.
    pub(super) fn acknowledged(&mut self, position: Position) -> bool {
        let Some(at) = self.in_flight.iter().position(|(end, _)| *end == position) else {
            return false;
        };
        let freed: usize = self.in_flight.drain(..=at).map(|(_, bytes)| bytes).sum();
        self.in_flight_bytes -= freed;
        self.held = position;
        self.owed = self.owed.max(position.lsn);
        true
    }

    /// The shard has committed up to here.
    pub(super) fn committed(&mut self, commit: Lsn, closed: Stamp) {
        self.is_news |= commit > self.commit || closed > self.closed;
        self.commit = self.commit.max(commit);
        self.closed = self.closed.max(closed);
    }

    /// Commit and closed stamp, if the follower does not know them yet and can make use of them.
    pub(super) fn take_news(&mut self) -> Option<Committed> {
        if !matches!(self.stage, Stage::Behind { .. } | Stage::Level) {
            return None;
        }
        let news = std::mem::take(&mut self.is_news);
        let (shard, commit, closed) = (self.shard, self.commit, self.closed);
        news.then_some(Committed { shard, commit, closed })
    }
}

/// Whether who was sent everything up to `sent` lacks little of what is sealed.
fn is_nearly(sent: &Position, sealed: &Position) -> bool {
    sealed.lsn.value() - sent.lsn.value() <= NEARLY_RECORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn::new(lsn), ..Position::default() }
    }

    fn frames(before: u64, end: u64) -> Frames {
        Frames { before: at(before), end: at(end), bytes: vec![0; 4096].into() }
    }

    #[test]
    fn a_follower_that_was_sent_everything_has_caught_up_when_it_holds_it() {
        let (shard, epoch) = (ShardId::new(0), Epoch::new(3));
        let mut effects = Vec::new();
        let mut stream = Stream::new(shard, epoch, at(100));
        let empty = Tip { shard, epoch, durable: at(0), floor: Lsn::ZERO };
        stream.compare(&empty, 1, &mut effects);
        stream.found(1, None, &mut effects);
        stream.cut_done(1, &empty);
        assert_eq!(stream.catch_up(), Some(Lsn::ZERO));
        assert!(!stream.has_caught_up(), "it lacks little, and holds nothing of it");
        stream.read(frames(0, 100), &mut effects);
        stream.sealed(frames(100, 101), true, &mut effects);
        stream.catch_up();
        stream.read(frames(100, 101), &mut effects);
        stream.catch_up();
        assert!(!stream.has_caught_up(), "all is on its way");
        assert!(stream.acknowledged(at(100)));
        assert!(stream.has_caught_up(), "all but what was sealed since");
        stream.reset();
        assert!(!stream.has_caught_up(), "out of reach");
    }
}
