//! Reading whole frames back by their place in the log: for catching up, reconciling, repairing.
//!
//! ```text
//! lsn or stamp ─► a landmark shortly before it? ──yes──► hop from header to header ─► its frame
//!              └──no──► halve the segments by their first frames ──┘            │
//!                                                   place, or whole frames from there on
//! ```
//! One operation at a time, as a value: [`Step::Read`] is started by the owner, whose token it
//! gets, and its buffer comes back through [`Log::found`]. Only what is durable is looked at. The
//! work grows with what is returned, and at the first read of an old part with one segment at most:
//! where a reader leaves off, the next one begins.
//!
//! Deliberately absent: frames that are not durable ([`Log::sealed`]), caching, and the hashes of
//! records: whoever takes frames in checks them.

use bytes::Bytes;
use celeriant_schema::limits::{FRAME_BYTES_MAX, SECTOR_BYTES};
use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{Lsn, Stamp};

use super::landmarks::{Landmark, Sought, below};
use super::{Fetch, Log};
use crate::buffer::AlignedBuffer;
use crate::disk::Op;
use crate::error::{Damage, Flaw};
use crate::frame::{self, FrameHeader, TORN_BYTES};
use crate::scan::is_zero;
use crate::segment::{FIRST_FRAME_OFFSET, segment_name};

/// What is read at a time while a frame is looked for, in bytes.
const HOP_BYTES: usize = 64 << 10;

/// A search that waits for its read.
#[derive(Debug)]
pub struct Search {
    goal: Goal,
    sought: Sought,
    at: At,
    fetch: Fetch,
}

#[derive(Clone, Copy, Debug)]
enum Goal {
    Place,
    Frames { upto: Lsn, bytes_max: usize },
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// The frame is at or behind `low` and before the first one of segment `high`; the first frame
    /// of the segment halfway is being read.
    Halving { low: Landmark, high: u32 },
    /// Reading on from here.
    Hopping(Landmark),
}

impl At {
    /// What is being read: segment, and offset in bytes.
    fn place(self) -> (u32, u64) {
        match self {
            Self::Halving { low, high } => (halfway(low, high), FIRST_FRAME_OFFSET),
            Self::Hopping(from) => (from.segment, from.offset),
        }
    }

    fn low(self) -> Landmark {
        match self {
            Self::Halving { low, .. } | Self::Hopping(low) => low,
        }
    }
}

/// What a search comes to.
#[derive(Debug)]
pub enum Step {
    /// Start this, and give what it reads to [`Log::found`]. After an error of it, stop the node.
    Read(Search, Op),
    /// The frame that was asked for.
    Place(FramePlace),
    /// Whole frames, one behind the other, intact by their checksums.
    Frames {
        /// The position before the first of them.
        before: Position,
        /// The end of the last one.
        end: Position,
        /// Segment that they lie in.
        segment: u32,
        /// Where the first one starts in it, in bytes.
        offset: u64,
        /// Byte for byte as on disk.
        frames: Bytes,
    },
    /// Nothing durable is there.
    Nothing,
}

impl Log {
    /// Looks for the durable frame that contains `lsn`, or is the last before it.
    pub fn locate(&self, lsn: Lsn) -> Step {
        self.search(Goal::Place, Sought::Lsn(lsn.min(self.durable)))
    }

    /// Looks for the durable frames behind `after`, up to the one that contains `upto`: about
    /// `bytes_max` bytes of them, at least one. The first may begin before `after`.
    pub fn read_after(&self, after: Lsn, upto: Lsn, bytes_max: usize) -> Step {
        let bytes_max = bytes_max.clamp(SECTOR_BYTES, FRAME_BYTES_MAX);
        if after >= self.durable.min(upto) {
            return Step::Nothing;
        }
        self.search(Goal::Frames { upto, bytes_max }, Sought::Lsn(after.next()))
    }

    /// Looks for the first durable frame with a stamp greater than `after`, and those behind it, up
    /// to the one that contains `upto`: about `bytes_max` bytes, at least one frame.
    pub fn read_behind(&self, after: Stamp, upto: Lsn, bytes_max: usize) -> Step {
        let bytes_max = bytes_max.clamp(SECTOR_BYTES, FRAME_BYTES_MAX);
        if upto.min(self.durable) == Lsn::ZERO {
            return Step::Nothing;
        }
        self.search(Goal::Frames { upto, bytes_max }, Sought::Behind(after))
    }

    /// The same, of who knows that it is the frame that starts at `sector` of `segment`, or one
    /// behind it.
    pub fn read_behind_from(
        &self,
        (segment, sector): (u32, u32),
        after: Stamp,
        upto: Lsn,
        bytes_max: usize,
    ) -> Step {
        let bytes_max = bytes_max.clamp(SECTOR_BYTES, FRAME_BYTES_MAX);
        let offset = u64::from(sector) * SECTOR_BYTES as u64;
        let from = Landmark { lsn: Lsn::ZERO, after, segment, offset };
        self.hop(Goal::Frames { upto, bytes_max }, Sought::Behind(after), from, 0)
    }

    fn search(&self, goal: Goal, sought: Sought) -> Step {
        if sought == Sought::Lsn(Lsn::ZERO) {
            return Step::Nothing;
        }
        if let Some(near) = self.landmarks.near(sought) {
            return self.hop(goal, sought, near, 0);
        }
        let (segment, offset) = (1, FIRST_FRAME_OFFSET);
        let start = Landmark { lsn: Lsn::new(1), after: Stamp::ZERO, segment, offset };
        let low = self.landmarks.before(sought).unwrap_or(start);
        let last = self.landmarks.oldest().map_or(self.durable_end.segment, |it| it.segment);
        self.halve(goal, sought, low, last + 1)
    }

    /// Goes on with what a search has read.
    ///
    /// # Errors
    /// When something that was durable is not what was written.
    pub fn found(&mut self, search: Search, read: AlignedBuffer) -> Result<Step, Damage> {
        let Search { goal, sought, at, fetch } = search;
        let (segment, offset) = at.place();
        let lsn = at.low().lsn;
        let read = fetch.take(read).map_err(|flaw| damage(flaw, segment, offset, lsn))?;
        match at {
            At::Halving { low, high } => {
                let first = self.header(&read, lsn, segment, offset)?;
                Ok(match sought.is_from_header(&first) {
                    true => {
                        let after = below(first.first_stamp);
                        let low = Landmark { lsn: first.first_lsn, after, segment, offset };
                        self.halve(goal, sought, low, high)
                    }
                    false => self.halve(goal, sought, low, segment),
                })
            }
            At::Hopping(from) => self.look_through(goal, sought, from, &read),
        }
    }

    fn halve(&self, goal: Goal, sought: Sought, low: Landmark, high: u32) -> Step {
        if high <= low.segment + 1 {
            return self.hop(goal, sought, low, 0);
        }
        self.read(goal, sought, At::Halving { low, high }, SECTOR_BYTES)
    }

    /// Reads on from `from`, at least `bytes`.
    fn hop(&self, goal: Goal, sought: Sought, from: Landmark, bytes: usize) -> Step {
        let wanted = match goal {
            Goal::Place => HOP_BYTES,
            Goal::Frames { bytes_max, .. } => bytes_max.max(HOP_BYTES),
        };
        let end = &self.durable_end;
        let mut len = wanted.max(bytes).next_multiple_of(SECTOR_BYTES);
        if from.segment == end.segment {
            // Behind it frames may be on their way.
            len = len.min(end.offset.saturating_sub(from.offset) as usize);
        }
        if len == 0 {
            return Step::Nothing;
        }
        self.read(goal, sought, At::Hopping(from), len)
    }

    fn read(&self, goal: Goal, sought: Sought, at: At, len: usize) -> Step {
        let (segment, offset) = at.place();
        let Some((fetch, op)) = self.fetch(segment, offset, len as u32) else {
            unreachable!("frames lie in segments")
        };
        Step::Read(Search { goal, sought, at, fetch }, op)
    }

    /// Looks for what is sought in what was read at `from`.
    fn look_through(
        &mut self,
        goal: Goal,
        sought: Sought,
        from: Landmark,
        window: &Bytes,
    ) -> Result<Step, Damage> {
        let Landmark { lsn: mut next, mut after, segment, .. } = from;
        let mut at = 0;
        while at < window.len() {
            let (page, offset) = (&window[at..], from.offset + at as u64);
            // Who came by a place knows that a frame begins there.
            let may_end = next != Lsn::ZERO && segment < self.durable_end.segment;
            if may_end && is_end(page) {
                return Ok(self.hop(goal, sought, next_segment(next, after, segment), 0));
            }
            let header = self.header(page, next, segment, offset)?;
            // Who came by a place does not know it of the first.
            if header.first_lsn != next && next != Lsn::ZERO {
                return Err(damage(Flaw::Chain("lsn"), segment, offset, next));
            }
            next = header.first_lsn;
            if sought.is_upto(&header) {
                let here = Landmark { lsn: next, after, segment, offset };
                return match goal {
                    Goal::Place => Ok(Step::Place(header.place())),
                    Goal::Frames { upto, bytes_max } if header.frame_bytes() <= page.len() => {
                        self.collect(here, upto, bytes_max, &window.slice(at..))
                    }
                    Goal::Frames { .. } => Ok(self.hop(goal, sought, here, header.frame_bytes())),
                };
            }
            (next, after) = (header.last_lsn().next(), header.last_stamp);
            at += header.frame_bytes();
        }
        if window.is_empty() {
            // The last frame reaches to the end of the file.
            return match segment < self.durable_end.segment {
                true => Ok(self.hop(goal, sought, next_segment(next, after, segment), 0)),
                false => Err(damage(Flaw::Missing, segment, from.offset, next)),
            };
        }
        let on = Landmark { lsn: next, after, segment, offset: from.offset + at as u64 };
        Ok(self.hop(goal, sought, on, 0))
    }

    /// Takes whole frames from the front of `window`, which begins with one.
    fn collect(
        &mut self,
        first: Landmark,
        upto: Lsn,
        bytes_max: usize,
        window: &Bytes,
    ) -> Result<Step, Damage> {
        let Landmark { lsn: mut next, mut after, segment, offset } = first;
        let mut end = 0;
        let mut before = None;
        let mut last = Position::default();
        while end < window.len() && (end == 0 || !is_end(&window[end..])) {
            let at = offset + end as u64;
            let header = self.header(&window[end..], next, segment, at)?;
            let (bytes, place) = (header.frame_bytes(), header.place());
            let is_enough = end > 0 && (end + bytes > bytes_max || place.before.lsn >= upto);
            if is_enough || end + bytes > window.len() {
                break;
            }
            frame::verify(&window[end..end + bytes], &self.identity)
                .map_err(|flaw| damage(flaw, segment, at, next))?;
            if before.is_some() && place.before != last {
                return Err(damage(Flaw::Chain("hash of the frame before"), segment, at, next));
            }
            before.get_or_insert(place.before);
            (last, next, after) = (place.end, place.end.lsn.next(), header.last_stamp);
            end += bytes;
        }
        let offset_behind = offset + end as u64;
        self.landmarks.learn(Landmark { lsn: next, after, segment, offset: offset_behind });
        let (before, frames) = (before.unwrap_or_default(), window.slice(..end));
        Ok(Step::Frames { before, end: last, segment, offset, frames })
    }

    fn header(
        &self,
        page: &[u8],
        lsn: Lsn,
        segment: u32,
        offset: u64,
    ) -> Result<FrameHeader, Damage> {
        FrameHeader::decode(page)
            .and_then(|header| header.check_identity(&self.identity).map(|()| header))
            .map_err(|flaw| damage(flaw, segment, offset, lsn))
    }
}

fn halfway(low: Landmark, high: u32) -> u32 {
    low.segment + (high - low.segment) / 2
}

fn next_segment(lsn: Lsn, after: Stamp, segment: u32) -> Landmark {
    Landmark { lsn, after, segment: segment + 1, offset: FIRST_FRAME_OFFSET }
}

/// No frame begins there.
fn is_end(page: &[u8]) -> bool {
    is_zero(&page[..TORN_BYTES.min(page.len())])
}

fn damage(flaw: Flaw, segment: u32, offset: u64, lsn: Lsn) -> Damage {
    flaw.at(segment_name(segment), segment, offset, lsn)
}

#[cfg(test)]
#[path = "read_test.rs"]
mod tests;
