//! Where a log ends: sealed, durable, committed.
//!
//! ```text
//! ─ frame ─ frame ─┬─ frame ─ frame ─┬─ frame ─ frame ─┬─ open frame
//!              committed          durable           sealed
//!   directory, checkpoint │  the tail  │  in flight
//! ```
//! A node on its own commits what is durable; one of a pair is told. What lies behind may still be
//! cut. Kept of the tail are the ends of its frames, so that a checkpoint can be taken at each.

use std::collections::VecDeque;

use celeriant_schema::peer::{self, Tip};
use celeriant_schema::{Epoch, Lsn};

use super::{InFlight, Log, Notes, SealedFrame};
use crate::manifest::{OpenLeg, Position};

/// Who says what is committed.
#[derive(Debug)]
pub(crate) enum Commits {
    /// Nobody: what is durable is committed.
    Durable,
    /// The log's owner.
    Told {
        /// Behind the last frame that is committed.
        end: Position,
        /// Behind every durable frame after it.
        tail: VecDeque<Position>,
    },
}

impl Commits {
    /// A frame is durable that ends there.
    pub(super) fn durable(&mut self, end: Position) {
        if let Self::Told { tail, .. } = self {
            tail.push_back(end);
        }
    }

    /// Frames of `epoch` will be made here: among those of others that is worth a note.
    pub(super) fn lead(&self, epoch: Epoch, notes: &mut Notes) {
        if let Self::Told { .. } = self {
            notes.made_in(epoch);
        }
    }
}

impl Log {
    /// Its end, frames in flight included: what the next frame must continue.
    pub fn sealed_end(&self) -> peer::Position {
        let lsn = Lsn::new(self.next_lsn.value() - 1 - self.open.count() as u64);
        peer::Position { lsn, hash: self.tip_hash }
    }

    /// Its durable end and its floor, as a peer is told.
    pub fn tip(&self) -> Tip {
        Tip {
            shard: self.identity.shard,
            epoch: self.durable_end.max_epoch,
            durable: peer::Position { lsn: self.durable, hash: self.durable_end.hash },
            floor: self.committed(),
        }
    }

    /// Frames behind `after` that are sealed and not durable, in log order: ask after every pump,
    /// and nobody waits for the disk. Costs nothing when nobody asks.
    pub fn sealed(&self, after: Lsn) -> impl Iterator<Item = SealedFrame> {
        let first = self.in_flight.partition_point(|frame| frame.header.first_lsn <= after);
        let sealed = |frame: &InFlight| SealedFrame {
            place: frame.header.place(),
            bytes: frame.bytes.clone(),
        };
        self.in_flight.range(first..).map(sealed)
    }

    /// Everything up to here is committed.
    pub fn committed(&self) -> Lsn {
        self.committed_end().lsn
    }

    /// The end of what is committed, with the hash of the frame that ends there.
    pub fn committed_position(&self) -> peer::Position {
        let end = self.committed_end();
        peer::Position { lsn: end.lsn, hash: end.hash }
    }

    /// Everything that is sealed is durable: what the log ends with now survives power loss.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Says that everything up to `upto` is committed: in the log of a node that is one of a pair.
    /// Apply those frames to the directory first. A frame commits as a whole, with its last record.
    /// The note of it is not durable until [`Log::note_watermark`] has made it so.
    ///
    /// # Panics
    /// When that is not durable.
    pub fn commit(&mut self, upto: Lsn) {
        assert!(upto <= self.durable, "{upto} is committed, {} is durable", self.durable);
        if let Commits::Told { end, tail } = &mut self.commits {
            while let Some(next) = tail.pop_front_if(|next| next.lsn <= upto) {
                *end = next;
            }
        }
        self.settle_committed();
    }

    /// Forgets legs whose decision is committed, and keeps in mind what a note must say.
    pub(super) fn settle_committed(&mut self) {
        let committed = self.committed();
        self.legs.settle(committed);
        self.notes.committed(committed);
    }

    /// Behind the last committed frame, and the legs that are open there.
    pub(crate) fn checkpoint(&self) -> (Position, impl Iterator<Item = OpenLeg>) {
        let end = *self.committed_end();
        (end, self.legs.open_at(end.lsn))
    }

    /// Behind the first durable frame that is not committed.
    pub(super) fn first_uncommitted(&self) -> Option<&Position> {
        match &self.commits {
            Commits::Durable => None,
            Commits::Told { tail, .. } => tail.front(),
        }
    }

    pub(super) fn committed_end(&self) -> &Position {
        match &self.commits {
            Commits::Durable => &self.durable_end,
            Commits::Told { end, .. } => end,
        }
    }
}
