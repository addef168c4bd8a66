//! Where frames go: the segment in use and those made ahead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use celeriant_schema::Lsn;

use super::source::Source;
use crate::disk::{FileId, Op};
use crate::frame::FrameHeader;
use crate::segment::{FIRST_FRAME_OFFSET, SegmentHeader, segment_name};
use crate::{Identity, Settings};

/// Segments are written full of zeroes ahead, so that a small durable write needs no commit of the
/// file system's journal: 93 µs instead of some 200 (measured, 4 KiB). That writes every byte
/// twice. From frames of this size on the journal's part is small, and halving what the device has
/// to write is worth more.
const LARGE_FRAME_BYTES: u64 = 64 << 10;

/// A segment file that is open and completely made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) file: FileId,
    pub(crate) bytes: u64,
}

impl Segment {
    pub(crate) fn of(number: u32, source: &Source) -> Self {
        Self { number, file: source.file, bytes: source.bytes() }
    }
}

/// The segment that takes frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    /// Where the next frame goes.
    pub(crate) next_offset: u64,
}

impl Active {
    /// Nothing in it yet.
    pub(crate) fn fresh(segment: Segment) -> Self {
        Self { segment, next_offset: FIRST_FRAME_OFFSET }
    }

    /// Takes a frame in at the end.
    pub(crate) fn extend(&mut self, header: &FrameHeader) -> u64 {
        let offset = self.next_offset;
        self.next_offset += header.frame_bytes() as u64;
        assert!(self.next_offset <= self.segment.bytes, "a frame ends behind its segment");
        offset
    }

    fn rest(&self) -> u64 {
        self.segment.bytes - self.next_offset
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Making {
    Nothing,
    /// `Create` is in flight.
    File,
    /// The file is made; that is not noted in the watermark yet.
    Note(Segment),
    /// The device was full.
    Full,
}

/// All segments of a log.
#[derive(Debug)]
pub(crate) struct Space {
    active: Active,
    spares: VecDeque<Segment>,
    making: Making,
    files: BTreeMap<u32, Arc<Source>>,
    /// Frames, and their bytes, since a segment was last made.
    frames: u64,
    frame_bytes: u64,
}

impl Space {
    pub(crate) fn new(
        active: Active,
        spares: VecDeque<Segment>,
        files: BTreeMap<u32, Arc<Source>>,
    ) -> Self {
        Self { active, spares, making: Making::Nothing, files, frames: 0, frame_bytes: 0 }
    }

    /// Where to read a segment.
    pub(crate) fn source(&self, segment: u32) -> Option<&Arc<Source>> {
        self.files.get(&segment)
    }

    /// From here on the segment is read there.
    pub(crate) fn replace(&mut self, segment: u32, source: Arc<Source>) {
        assert!(segment < self.active.segment.number, "segment {segment} still takes frames");
        self.files.insert(segment, source);
    }

    /// Number of the segment that takes frames.
    pub(crate) fn active_number(&self) -> u32 {
        self.active.segment.number
    }

    /// Nothing is in the segment that takes frames.
    pub(crate) fn is_fresh(&self) -> bool {
        self.active.next_offset == FIRST_FRAME_OFFSET
    }

    /// There is a segment to go on in, with so many bytes at least.
    pub(crate) fn has_spare(&self, reserve: u64) -> bool {
        self.spares.front().is_some_and(|spare| reserve <= spare.bytes - FIRST_FRAME_OFFSET)
    }

    /// Whether a frame of `bytes` and then `reserve` bytes in small frames have a place.
    pub(crate) fn has_place(&self, bytes: u64, reserve: u64) -> bool {
        let spare = self.spares.front().map_or(0, |spare| spare.bytes - FIRST_FRAME_OFFSET);
        match self.active.rest().checked_sub(bytes) {
            Some(rest) => reserve <= rest + spare,
            None => bytes + reserve <= spare,
        }
    }

    pub(crate) fn active_has_place(&self, bytes: u64) -> bool {
        bytes <= self.active.rest()
    }

    /// The full segment is closed; the oldest spare takes its place.
    pub(crate) fn rotate(&mut self) {
        let Some(spare) = self.spares.pop_front() else { panic!("no segment to rotate to") };
        self.active = Active::fresh(spare);
    }

    /// The place of a frame, from here on taken.
    pub(crate) fn place(&mut self, header: &FrameHeader) -> (u32, FileId, u64) {
        let Segment { number, file, .. } = self.active.segment;
        self.frames += 1;
        self.frame_bytes += header.frame_bytes() as u64;
        (number, file, self.active.extend(header))
    }

    /// Makes the next segment ahead: when a quarter of the present one is used, or space is wanted.
    pub(crate) fn create_if_due(
        &mut self,
        identity: &Identity,
        settings: &Settings,
        lsn_hint: Lsn,
        is_starved: bool,
    ) -> Option<(u32, Op)> {
        let is_used = self.active.next_offset >= self.active.segment.bytes / 4;
        let has_spare = !self.spares.is_empty() || self.making != Making::Nothing;
        if has_spare || !(is_used || is_starved) {
            return None;
        }
        let number = self.active.segment.number + 1;
        let bytes = settings.segment_bytes(number);
        let is_large = self.frame_bytes >= self.frames.max(1) * LARGE_FRAME_BYTES;
        (self.frames, self.frame_bytes) = (0, 0);
        self.making = Making::File;
        Some((
            number,
            Op::Create {
                name: segment_name(number),
                len: bytes,
                written: if is_large { FIRST_FRAME_OFFSET } else { bytes },
                head: SegmentHeader { identity: *identity, number, bytes, lsn_hint }.encode(),
            },
        ))
    }

    pub(crate) fn created(&mut self, number: u32, file: FileId, bytes: u64) {
        assert_eq!(self.making, Making::File, "a segment was made that nobody asked for");
        self.files.insert(number, Source::plain(file, bytes));
        self.making = Making::Note(Segment { number, file, bytes });
    }

    pub(crate) fn create_failed(&mut self) {
        self.making = Making::Full;
    }

    /// The watermark says durably that segments up to `made` are made.
    pub(crate) fn noted(&mut self, made: u32) {
        if let Making::Note(segment) = self.making
            && segment.number <= made
        {
            self.spares.push_back(segment);
            self.making = Making::Nothing;
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.making == Making::Full
    }

    pub(crate) fn retry(&mut self) {
        if self.is_full() {
            self.making = Making::Nothing;
        }
    }

    pub(crate) fn assert_invariants(&self) {
        let active = &self.active;
        assert!(active.next_offset <= active.segment.bytes, "frames end within their segment");
        let mut next = active.segment.number;
        for spare in &self.spares {
            assert!(spare.number == next + 1, "segment {} follows {next}", spare.number);
            next = spare.number;
        }
    }
}

#[cfg(test)]
mod tests {
    use celeriant_schema::{ClusterId, ShardId};

    use super::*;

    fn written_ahead(frames: u64, frame_bytes: u64) -> u64 {
        let segment = Segment { number: 1, file: FileId(1), bytes: 1 << 20 };
        let mut space = Space::new(Active::fresh(segment), VecDeque::new(), BTreeMap::new());
        (space.frames, space.frame_bytes) = (frames, frames * frame_bytes);
        let identity = Identity { cluster: ClusterId::new(1), shard: ShardId::new(0) };
        let settings = Settings::default();
        match space.create_if_due(&identity, &settings, Lsn::new(1), true) {
            Some((2, Op::Create { len, written, .. })) if written < len => written,
            Some((2, Op::Create { len, written, .. })) if written == len => u64::MAX,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_for_small_frames_a_segment_is_written_ahead() {
        assert_eq!(written_ahead(0, 0), u64::MAX, "nobody knows yet");
        assert_eq!(written_ahead(100, 4096), u64::MAX);
        assert_eq!(written_ahead(3, LARGE_FRAME_BYTES), FIRST_FRAME_OFFSET);
    }
}
