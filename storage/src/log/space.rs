//! Where frames go: the segment in use, those made ahead, those that are full.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::{Epoch, Hash, Lsn, Stamp};

use crate::disk::{FileId, Op};
use crate::frame::FrameHeader;
use crate::index::SealedSegment;
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
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) segment: Segment,
    /// Where the next frame goes.
    pub(crate) next_offset: u64,
    /// What its index will say; `end` and the last-s follow the frames.
    pub(crate) so_far: SealedSegment,
}

impl Active {
    /// Nothing in it yet, continuing a log that ends at `last_lsn`.
    pub(crate) fn fresh(segment: Segment, before: &SealedSegment) -> Self {
        let so_far = SealedSegment {
            segment: segment.number,
            first_lsn: before.last_lsn.next(),
            prev_hash: before.last_hash,
            end: FIRST_FRAME_OFFSET,
            applied_upto: Lsn::ZERO,
            outcomes: Vec::new(),
            ..before.clone()
        };
        Self { segment, next_offset: FIRST_FRAME_OFFSET, so_far }
    }

    /// Takes a frame in at the end.
    pub(crate) fn extend(&mut self, header: &FrameHeader) -> u64 {
        let offset = self.next_offset;
        self.next_offset += header.frame_bytes() as u64;
        assert!(self.next_offset <= self.segment.bytes, "a frame ends behind its segment");
        let so_far = &mut self.so_far;
        so_far.end = self.next_offset;
        so_far.last_lsn = header.last_lsn();
        so_far.last_hash = header.hash;
        so_far.last_stamp = so_far.last_stamp.max(header.last_stamp);
        so_far.max_epoch = so_far.max_epoch.max(header.epoch);
        offset
    }

    fn rest(&self) -> u64 {
        self.segment.bytes - self.next_offset
    }
}

/// What a log that is empty ends with.
pub(crate) fn nothing_before(identity: Identity) -> SealedSegment {
    SealedSegment {
        identity,
        segment: 0,
        first_lsn: Lsn::ZERO,
        last_lsn: Lsn::ZERO,
        prev_hash: Hash::ZERO,
        last_hash: Hash::ZERO,
        end: 0,
        last_stamp: Stamp::ZERO,
        max_epoch: Epoch::default(),
        applied_upto: Lsn::ZERO,
        outcomes: Vec::new(),
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
    /// Full segments without index, oldest first.
    sealed: VecDeque<SealedSegment>,
    /// The index of this segment is being written.
    pub(crate) indexing: Option<u32>,
    index_waits_for_space: bool,
    files: BTreeMap<u32, FileId>,
}

impl Space {
    pub(crate) fn new(
        active: Active,
        spares: VecDeque<Segment>,
        sealed: VecDeque<SealedSegment>,
        files: BTreeMap<u32, FileId>,
    ) -> Self {
        Self {
            active,
            spares,
            making: Making::Nothing,
            sealed,
            indexing: None,
            index_waits_for_space: false,
            files,
        }
    }

    pub(crate) fn file(&self, segment: u32) -> Option<FileId> {
        self.files.get(&segment).copied()
    }

    /// Full segments with an index, newest first.
    pub(crate) fn indexed_segments(&self) -> impl Iterator<Item = u32> {
        let is_sealed = |number: u32| self.sealed.iter().any(|it| it.segment == number);
        let full = self.files.range(..self.active.segment.number).rev();
        full.map(|(number, _)| *number).filter(move |number| !is_sealed(*number))
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
        let fresh = Active::fresh(spare, &self.active.so_far);
        let full = std::mem::replace(&mut self.active, fresh);
        self.sealed.push_back(full.so_far);
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
        self.index_waits_for_space = false;
    }

    pub(crate) fn next_to_index(&self) -> Option<&SealedSegment> {
        self.sealed.front().filter(|_| !self.index_waits_for_space)
    }

    /// The index of `segment` is durable; returns the segment's last record.
    pub(crate) fn indexed(&mut self, segment: u32) -> Lsn {
        assert_eq!(self.indexing.take(), Some(segment), "an index that nobody asked for");
        match self.sealed.pop_front() {
            Some(sealed) if sealed.segment == segment => sealed.last_lsn,
            other => panic!("indexed segment {segment}, but {other:?} is the oldest"),
        }
    }

    pub(crate) fn index_failed(&mut self) {
        self.indexing = None;
        self.index_waits_for_space = true;
    }

    pub(crate) fn assert_invariants(&self) {
        let active = &self.active;
        assert!(active.next_offset <= active.segment.bytes, "frames end within their segment");
        let mut numbers = self.sealed.iter().map(|sealed| sealed.segment);
        assert!(numbers.all(|number| number < active.segment.number), "full segments are older");
        let mut next = active.segment.number;
        for spare in &self.spares {
            assert!(spare.number == next + 1, "segment {} follows {next}", spare.number);
            next = spare.number;
        }
    }
}
