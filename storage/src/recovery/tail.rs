//! The end of the log: what is behind it, and what is not known to be durable before it.

use std::collections::VecDeque;

use bytes::Bytes;
use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;

use super::Recovery;
use super::files;
use crate::buffer::AlignedBuffer;
use crate::disk::Disk;
use crate::error::{Error, Flaw};
use crate::frame::IN_FLIGHT_BYTES_MAX;
use crate::log::Segment;
use crate::scan::runs_of_content;
use crate::segment::FIRST_FRAME_OFFSET;

/// A frame that no later one vouches for.
struct Unsecured {
    segment: Segment,
    offset: u64,
    last_lsn: Lsn,
    frame: Bytes,
}

/// Where reading stopped.
#[derive(Clone, Copy)]
struct End {
    segment: Segment,
    offset: u64,
    /// Nothing was there.
    is_clean: bool,
}

/// What recovery must remember of the log's end.
#[derive(Default)]
pub(super) struct Tail {
    end: Option<End>,
    unsecured: VecDeque<Unsecured>,
    unsecured_bytes: usize,
}

impl Tail {
    /// A frame was taken in; it vouches for those up to `vouched`.
    pub(super) fn read(
        &mut self,
        segment: Segment,
        offset: u64,
        last_lsn: Lsn,
        frame: Bytes,
        vouched: Option<Lsn>,
    ) {
        self.secured(vouched.unwrap_or_default());
        self.unsecured_bytes += frame.len();
        self.unsecured.push_back(Unsecured { segment, offset, last_lsn, frame });
    }

    /// Frames up to `upto` are durable.
    pub(super) fn secured(&mut self, upto: Lsn) {
        while let Some(frame) = self.unsecured.pop_front_if(|frame| frame.last_lsn <= upto) {
            self.unsecured_bytes -= frame.frame.len();
        }
    }

    /// Bytes of frames that nobody vouches for yet.
    pub(super) fn unsecured_bytes(&self) -> usize {
        self.unsecured_bytes
    }

    /// Reading `segment` ended at `offset`.
    pub(super) fn stopped_at(&mut self, segment: Segment, offset: u64, is_clean: bool) {
        self.end = Some(End { segment, offset, is_clean });
    }

    /// Last segment with frames, and the end of its last frame.
    pub(super) fn end(&self) -> Option<(Segment, u64)> {
        self.end.map(|end| (end.segment, end.offset))
    }

    /// The end, if something lies there that is not a frame.
    pub(super) fn unclean_end(&self) -> Option<(Segment, u64)> {
        self.end.filter(|end| !end.is_clean).map(|end| (end.segment, end.offset))
    }
}

impl<D: Disk> Recovery<'_, D> {
    /// Makes the tail what it seems to be: nothing behind it, everything before it durable.
    pub(super) async fn settle_tail(&mut self) -> Result<(), Error> {
        // What was in flight lies behind the last frame, or, if its segment was complete, at the
        // start of the next one. First look everywhere, then touch anything.
        let mut places: Vec<(Segment, u64)> = self.tail.end().into_iter().collect();
        places.extend(self.spares.front().map(|spare| (*spare, FIRST_FRAME_OFFSET)));
        let mut remains = Vec::new();
        for (segment, offset) in places {
            self.look_behind(segment, offset, &mut remains).await?;
        }
        for (segment, offset, len) in remains {
            self.report.cut_bytes += len as u64;
            let zeroes = AlignedBuffer::zeroed(len);
            files::write(self.disk, segment.file, offset, zeroes).await?;
        }
        self.secure().await
    }

    /// Makes every frame durable that was read and that nobody vouches for: what is read here may
    /// only sit in a cache.
    pub(super) async fn secure(&mut self) -> Result<(), Error> {
        self.tail.secured(self.marks.newest.durable.max(self.claim.lsn));
        self.tail.unsecured_bytes = 0;
        for Unsecured { segment, offset, frame, .. } in std::mem::take(&mut self.tail.unsecured) {
            self.report.secured_bytes += frame.len() as u64;
            let buffer = AlignedBuffer::copy_of(&frame);
            files::write(self.disk, segment.file, offset, buffer).await?;
        }
        Ok(())
    }

    /// Finds what a crash left from `start` on. Damage if one of the frames there was made when the
    /// record that is missing at the tail was already durable.
    async fn look_behind(
        &mut self,
        segment: Segment,
        start: u64,
        remains: &mut Vec<(Segment, u64, usize)>,
    ) -> Result<(), Error> {
        if self.source(segment).is_packed() {
            return Ok(());
        }
        let end = segment.bytes.min(start + IN_FLIGHT_BYTES_MAX as u64);
        let mut offset = start;
        while offset < end {
            let len = (end - offset).min(files::WINDOW_BYTES as u64) as usize;
            let window = files::read(self.disk, segment.file, offset, len).await?;
            if window.is_empty() {
                break;
            }
            for (at, len) in runs_of_content(&window) {
                for sector in (at..at + len).step_by(SECTOR_BYTES) {
                    let Some(later) = self.chain.is_behind(&window[sector..]) else { continue };
                    let vouches = self.marks.newest.vouches(later.epoch);
                    if vouches && later.durable_upto >= self.chain.next_lsn {
                        let flaw = Flaw::Durable("a later frame");
                        return Err(self.damage(segment, start, flaw).into());
                    }
                    self.report.cut_frames += 1;
                }
                remains.push((segment, offset + at as u64, len));
            }
            offset += window.len() as u64;
        }
        Ok(())
    }
}
