//! Where frames go: the segment in use and those made ahead.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::Lsn;

use crate::disk::{FileId, Op};
use crate::frame::FrameHeader;
use crate::segment::{FIRST_FRAME_OFFSET, SegmentHeader, segment_name};
use crate::{Identity, Settings};

/// A segment file that is open and completely made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) file: FileId,
    pub(crate) bytes: u64,
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
    files: BTreeMap<u32, FileId>,
}

impl Space {
    pub(crate) fn new(
        active: Active,
        spares: VecDeque<Segment>,
        files: BTreeMap<u32, FileId>,
    ) -> Self {
        Self { active, spares, making: Making::Nothing, files }
    }

    pub(crate) fn file(&self, segment: u32) -> Option<FileId> {
        self.files.get(&segment).copied()
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
        let header = SegmentHeader { identity: *identity, number, bytes, lsn_hint };
        self.making = Making::File;
        Some((number, Op::Create { name: segment_name(number), len: bytes, head: header.encode() }))
    }

    pub(crate) fn created(&mut self, number: u32, file: FileId, bytes: u64) {
        assert_eq!(self.making, Making::File, "a segment was made that nobody asked for");
        self.files.insert(number, file);
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
