//! One shard's way along a chain of bucket logs: what of it the own log has already, and what not.
//!
//! ```text
//!   own log      base ── a ── b ── x             x was never in the bucket
//!   chain        base ── a ── b ── c ── d
//!                         held ┘ cut x, then frames c, d
//! ```
//! Equal hashes mean equal prefixes, so of the frames of a slot the own log holds the first few and
//! none behind them: the last one that it holds is found by halving, each question being one for
//! the frame at a place. Mostly the first question, for the last frame, is the only one. Once the
//! own log ends where the chain is, nothing is asked any more.

use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{ClusterId, Lsn, ShardId};
use celeriant_storage::frame::FrameHeader;
use celeriant_storage::{Flaw, Identity};

use super::slot::Part;
use crate::replicator::core::Frames;

/// How far a shard has come.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) shard: ShardId,
    /// The chain up to here is what the own log is, or will be with what was handed out.
    pub(super) position: Position,
    /// Where the own log ended at the start.
    own: Position,
    /// The own log ends, or will end, at `position`.
    is_level: bool,
}

/// Why a part does not go on from there.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Broken {
    /// It begins elsewhere.
    Gap(Position),
    /// Its frames are not what it says.
    Frames(Flaw),
    /// None of its frames ends where the next log begins.
    Missed,
}

/// A frame of a part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Piece {
    end: Position,
    /// Bytes of the part up to its end.
    upto: usize,
}

/// A part whose frames the own log may hold.
#[derive(Debug)]
pub(super) struct Arrival {
    shard: ShardId,
    frames: Frames,
    pieces: Vec<Piece>,
    own: Position,
    /// So many of its frames are held.
    low: usize,
    /// No more than so many are.
    high: usize,
    /// Nothing was asked yet.
    is_fresh: bool,
    /// The question that is open: are so many held?
    asked: Option<usize>,
}

/// What the caller does about a shard, in this order.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Step {
    /// Cut the own log there.
    pub(super) cut: Option<Position>,
    /// Take these.
    pub(super) frames: Option<Frames>,
}

impl Track {
    /// From the base of the chain on, with an own log that ends at `own`.
    pub(super) fn new(shard: ShardId, base: Position, own: Position) -> Self {
        Self { shard, position: base, own, is_level: own == base }
    }

    /// Whether the own log, which is longer, must be asked if it holds the base.
    ///
    /// # Errors
    /// When it cannot.
    pub(super) fn asks_for_base(&self) -> Result<bool, ()> {
        let is_beginning = self.position == Position::default();
        if self.is_level || is_beginning {
            return Ok(false);
        }
        if self.own.lsn > self.position.lsn { Ok(true) } else { Err(()) }
    }

    /// Looks into a part. `limit` is where the next log of the chain begins: what lies above is
    /// void. `None`: nothing in it matters.
    ///
    /// # Errors
    /// When it does not go on from where the chain is, or misses the limit.
    pub(super) fn arrive(
        &self,
        cluster: ClusterId,
        part: &Part,
        limit: Option<Position>,
    ) -> Result<Option<Arrival>, Broken> {
        if limit == Some(self.position) {
            return Ok(None);
        }
        let Part { shard, frames } = part;
        if frames.before != self.position {
            return Err(Broken::Gap(frames.before));
        }
        let identity = Identity { cluster, shard: *shard };
        let mut pieces = walk(&identity, frames).map_err(Broken::Frames)?;
        if let Some(limit) = limit.filter(|limit| limit.lsn <= frames.end.lsn) {
            pieces.retain(|piece| piece.end.lsn <= limit.lsn);
            if pieces.last().map(|piece| piece.end) != Some(limit) {
                return Err(Broken::Missed);
            }
        }
        let own = if self.is_level { Position::default() } else { self.own };
        let high = pieces.partition_point(|piece| piece.end.lsn <= own.lsn);
        let (shard, frames) = (*shard, frames.clone());
        let (low, is_fresh, asked) = (0, true, None);
        Ok(Some(Arrival { shard, frames, pieces, own, low, high, is_fresh, asked }))
    }

    /// Moves on by a part of which it is known how much the own log holds.
    pub(super) fn settle(&mut self, arrival: Arrival) -> Step {
        let Arrival { frames, pieces, low: held, .. } = arrival;
        let Frames { before, bytes, .. } = frames;
        let (kept, from) = match held.checked_sub(1).map(|at| pieces[at]) {
            Some(piece) => (piece.end, piece.upto),
            None => (before, 0),
        };
        self.position = kept;
        let mut cut = None;
        if held < pieces.len() {
            cut = self.close();
        } else {
            self.is_level |= self.own == kept;
        }
        let last = pieces.last().filter(|_| held < pieces.len());
        let frames = last.map(|last| {
            self.position = last.end;
            Frames { before: kept, end: last.end, bytes: bytes.slice(from..last.upto) }
        });
        Step { cut, frames }
    }

    /// The own log is not the chain's above `position`: where to cut it, if it goes on there.
    pub(super) fn close(&mut self) -> Option<Position> {
        let was_level = std::mem::replace(&mut self.is_level, true);
        (!was_level && self.own != self.position).then_some(self.position)
    }
}

impl Arrival {
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    /// The place whose frame must be found in the own log next, if it was not asked for yet.
    pub(super) fn question(&mut self) -> Option<Lsn> {
        if self.asked.is_some() {
            return None;
        }
        while self.low < self.high {
            // The last one first: mostly the own log holds all that it is long enough for.
            let is_first = std::mem::take(&mut self.is_fresh);
            let probe = if is_first { self.high } else { (self.low + self.high).div_ceil(2) };
            let end = self.pieces[probe - 1].end;
            if end.lsn < self.own.lsn {
                self.asked = Some(probe);
                return Some(end.lsn);
            }
            // At its very end the own log needs no asking.
            self.learn(probe, end == self.own);
        }
        None
    }

    /// Nothing is left to ask.
    pub(super) fn is_known(&self) -> bool {
        self.low == self.high
    }

    /// The own log's frame that contains a place, or is the last before it. `false`: nobody asked.
    pub(super) fn answer(&mut self, lsn: Lsn, frame: Option<FramePlace>) -> bool {
        let asks = |probe: &mut usize| self.pieces[*probe - 1].end.lsn == lsn;
        let Some(probe) = self.asked.take_if(asks) else { return false };
        self.learn(probe, frame.map(|frame| frame.end) == Some(self.pieces[probe - 1].end));
        true
    }

    fn learn(&mut self, probe: usize, is_held: bool) {
        match is_held {
            true => self.low = probe,
            false => self.high = probe - 1,
        }
    }
}

/// The frames of a part, which must continue each other from its beginning to its end.
fn walk(identity: &Identity, frames: &Frames) -> Result<Vec<Piece>, Flaw> {
    let mut pieces = Vec::new();
    let mut end = frames.before;
    let mut upto = 0;
    while upto < frames.bytes.len() {
        let header = FrameHeader::decode(&frames.bytes[upto..])?;
        header.check_identity(identity)?;
        let place = header.place();
        if place.before != end {
            return Err(Flaw::Chain("frame before"));
        }
        end = place.end;
        upto += header.frame_bytes();
        pieces.push(Piece { end, upto });
    }
    match end == frames.end && upto == frames.bytes.len() {
        true => Ok(pieces),
        false => Err(Flaw::Lengths),
    }
}
