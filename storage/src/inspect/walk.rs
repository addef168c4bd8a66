//! The walk itself: frame after frame, and past what is not one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::Record;
use celeriant_schema::{Lsn, Stamp};

use super::content::Content;
use super::{Folder, SegmentFile};
use crate::error::{Damage, Flaw};
use crate::frame::{FrameHeader, verify};
use crate::scan::{Chain, Stop, is_zero};
use crate::segment::FIRST_FRAME_OFFSET;

/// How much is read at a time when looking for an intact frame, in bytes.
const WINDOW_BYTES: usize = 1 << 20;

/// What a walk meets.
#[derive(Clone, Debug)]
pub enum Item {
    /// A segment begins.
    Segment(SegmentFile),
    /// An intact frame that continues the one before.
    Frame(Frame),
    /// Bytes of frames that were not fully written, or lie behind such: recovery cuts them.
    Unfinished {
        /// In which segment.
        segment: u32,
        /// From here, in bytes.
        offset: u64,
        /// So many bytes.
        bytes: u64,
    },
    /// Bytes that are not what was written.
    Damage(Damage),
    /// No more frames in this segment.
    End {
        /// Which segment.
        segment: u32,
        /// Behind the last frame, in bytes.
        offset: u64,
        /// Never used, in bytes.
        unused: u64,
    },
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// In which segment.
    pub segment: u32,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// What its header says.
    pub header: FrameHeader,
    /// Its records, in order.
    pub records: Vec<PlacedRecord>,
    /// Its large payloads, for [`celeriant_schema::record::BatchView::events`].
    pub blobs: Bytes,
}

/// One record of a frame.
#[derive(Clone, Debug)]
pub struct PlacedRecord {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Where it starts in the frame's records, in bytes.
    pub offset: u32,
    /// What it says.
    pub record: Record,
}

/// Iterator over a folder's log.
#[derive(Debug)]
pub struct Walk<'a> {
    folder: &'a Folder,
    next_segment: usize,
    current: Option<Current<'a>>,
    chain: Chain,
    /// The segment before ended in damage: its successor cannot continue it.
    is_lost: bool,
}

#[derive(Debug)]
struct Current<'a> {
    segment: &'a SegmentFile,
    content: Content,
    offset: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(folder: &'a Folder) -> Self {
        let chain = Chain::start(folder.identity.unwrap_or_default());
        Self { folder, next_segment: 0, current: None, chain, is_lost: false }
    }

    fn enter_segment(&mut self) -> Option<io::Result<Item>> {
        let segment = self.folder.segments.get(self.next_segment)?;
        self.next_segment += 1;
        let content = match Content::open(&segment.path, segment.number) {
            Ok(Ok(content)) => content,
            Ok(Err(flaw)) => {
                self.is_lost = true;
                let name = segment.name();
                let damage = flaw.at(name, segment.number, 0, self.chain.next_lsn);
                return Some(Ok(Item::Damage(damage)));
            }
            Err(error) => return Some(Err(error)),
        };
        let current = Current { segment, content, offset: FIRST_FRAME_OFFSET };
        if std::mem::take(&mut self.is_lost)
            && let Err(error) = self.find_again(&current)
        {
            return Some(Err(error));
        }
        self.current = Some(current);
        Some(Ok(Item::Segment(segment.clone())))
    }

    /// Behind damage, the first frame of a segment is believed if it is intact.
    fn find_again(&mut self, current: &Current<'_>) -> io::Result<()> {
        let page = current.content.read_at(current.offset, SECTOR_BYTES)?;
        if current.is_intact(&self.chain, current.offset, &page)?
            && let Ok(header) = FrameHeader::decode(&page)
        {
            self.resume_at(&header);
        }
        Ok(())
    }

    fn step(&mut self) -> io::Result<Item> {
        let Some(current) = &mut self.current else { unreachable!("asked between segments") };
        match current.frame(&self.chain)? {
            Ok(frame) => {
                self.chain.advance(&frame.header);
                current.offset += frame.header.frame_bytes() as u64;
                Ok(Item::Frame(frame))
            }
            Err(stop) => self.pass(stop),
        }
    }

    /// There is no frame at the current offset: says why, and finds the next place to read.
    fn pass(&mut self, stop: Stop) -> io::Result<Item> {
        let Some(current) = &mut self.current else { unreachable!("asked between segments") };
        let (segment, offset, lsn) = (current.segment, current.offset, self.chain.next_lsn);
        let found = current.next_intact(&self.chain)?;
        if let (Stop::Unfinished, None, true) = (&stop, &found.frame, found.is_empty) {
            let unused = segment.bytes.saturating_sub(offset);
            self.current = None;
            return Ok(Item::End { segment: segment.number, offset, unused });
        }
        let next = found.frame;
        current.offset = next.as_ref().map_or(segment.bytes, |(at, _)| *at);
        let bytes = current.offset - offset;
        match &next {
            Some((_, header)) => self.resume_at(header),
            None => self.is_lost = true,
        }
        let was_durable = next.is_some_and(|(_, later)| later.durable_upto >= lsn);
        let flaw = match stop {
            Stop::Damaged(flaw) => flaw,
            Stop::Unfinished if was_durable => Flaw::Durable("a later frame"),
            Stop::Unfinished => {
                return Ok(Item::Unfinished { segment: segment.number, offset, bytes });
            }
        };
        Ok(Item::Damage(flaw.at(segment.name(), segment.number, offset, lsn)))
    }

    /// Takes an intact frame behind damage for the new start of the chain.
    fn resume_at(&mut self, header: &FrameHeader) {
        self.chain.next_lsn = header.first_lsn;
        self.chain.prev_hash = header.prev_hash;
        self.chain.last_stamp = Stamp::new(header.first_stamp.value().saturating_sub(1));
        self.chain.max_epoch = header.epoch;
    }
}

impl Iterator for Walk<'_> {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<io::Result<Item>> {
        if self.current.is_none() {
            return self.enter_segment();
        }
        Some(self.step())
    }
}

/// What lies behind a place without a frame.
struct Found {
    /// The next intact frame.
    frame: Option<(u64, FrameHeader)>,
    /// There are only zeroes before it, or up to the segment's end.
    is_empty: bool,
}

impl Current<'_> {
    fn frame(&self, chain: &Chain) -> io::Result<Result<Frame, Stop>> {
        let room = self.segment.bytes.saturating_sub(self.offset);
        let page = self.content.read_at(self.offset, SECTOR_BYTES)?;
        let header = match chain.header(&page, room) {
            Ok(header) => header,
            Err(stop) => return Ok(Err(stop)),
        };
        let bytes = self.content.read_at(self.offset, header.frame_bytes())?;
        if bytes.len() < header.frame_bytes() {
            return Ok(Err(Stop::Damaged(Flaw::Lengths)));
        }
        let records = match chain.records(&header, &bytes) {
            Ok(records) => records,
            Err(stop) => return Ok(Err(stop)),
        };
        let lsns = (0..).map(|number| header.first_lsn.plus(number));
        let placed =
            lsns.zip(records).map(|(lsn, (offset, record))| PlacedRecord { lsn, offset, record });
        Ok(Ok(Frame {
            segment: self.segment.number,
            offset: self.offset,
            header,
            records: placed.collect(),
            blobs: header.blobs(&bytes),
        }))
    }

    /// Looks for an intact frame behind the current offset.
    fn next_intact(&self, chain: &Chain) -> io::Result<Found> {
        let mut found = Found { frame: None, is_empty: true };
        let mut at = self.offset;
        loop {
            let window = self.content.read_at(at, WINDOW_BYTES)?;
            if window.is_empty() {
                return Ok(found);
            }
            for (sector, page) in window.chunks(SECTOR_BYTES).enumerate() {
                let offset = at + (sector * SECTOR_BYTES) as u64;
                if offset > self.offset && self.is_intact(chain, offset, page)? {
                    found.frame = FrameHeader::decode(page).ok().map(|header| (offset, header));
                    return Ok(found);
                }
                found.is_empty &= is_zero(page);
            }
            at += window.len() as u64;
        }
    }

    fn is_intact(&self, chain: &Chain, offset: u64, page: &[u8]) -> io::Result<bool> {
        let Ok(header) = FrameHeader::decode(page) else { return Ok(false) };
        // Not a frame from before: those can only be copies inside a payload.
        if header.first_lsn < chain.next_lsn {
            return Ok(false);
        }
        let bytes = self.content.read_at(offset, header.frame_bytes())?;
        Ok(verify(&bytes, &chain.identity).is_ok())
    }
}

/// Up to `len` bytes at `offset`; fewer at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}
