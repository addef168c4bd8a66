//! Ending a log at a place for good: what follows is not the leader's (R10).
//!
//! ```text
//!   read up to the place, its hash is right ─► everything before it durable ─► note: ends there
//!     ─► later segments go, the rest of the last becomes zeroes ─► note: goes on from there
//! ```
//! The first note is the cut: before it nothing is touched, and a start that finds it ends what was
//! begun, whatever lies behind the place by then. So a crash at any step leaves the one log or the
//! other. The second note goes into both slots.

use celeriant_schema::peer;

use super::files::{self, WINDOW_BYTES};
use super::{Floor, Recovery};
use crate::buffer::AlignedBuffer;
use crate::disk::Disk;
use crate::error::{Error, Uncut};
use crate::log::Segment;
use crate::scan::runs_of_content;
use crate::segment::{FIRST_FRAME_OFFSET, segment_name};
use crate::watermark::Watermark;

impl<D: Disk> Recovery<'_, D> {
    /// What was noted as committed counts beside what the caller knows. Nothing of it is cut, and
    /// behind a cut that was begun there is nothing.
    pub(super) fn raise_floor(&mut self) -> Result<(), Error> {
        if let (Some(end), Some(begun)) = (self.end, self.marks.cut())
            && end.lsn > begun.lsn
        {
            return Err(Error::Uncut { lsn: end.lsn, why: Uncut::NotThere });
        }
        let noted = self.marks.newest.committed.max(self.claim.lsn);
        let Floor::At(floor) = &mut self.floor else { return Ok(()) };
        *floor = noted.max(*floor);
        match self.end {
            Some(end) if end.lsn < *floor => {
                Err(Error::Uncut { lsn: end.lsn, why: Uncut::Committed(*floor) })
            }
            _ => Ok(()),
        }
    }

    /// Nothing more is to be read: the log shall end here, or should have ended before.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some_and(|end| self.chain.tip() >= end.lsn)
    }

    /// The log has been read up to `end`, or as far as it goes: makes it end there.
    pub(super) async fn cut(&mut self, end: peer::Position) -> Result<(), Error> {
        if (self.chain.tip(), self.chain.prev_hash) != (end.lsn, end.hash) {
            // Shorter than it was: that goes first.
            if self.chain.tip() < end.lsn {
                self.check_watermark()?;
            }
            return Err(Error::Uncut { lsn: end.lsn, why: Uncut::NotThere });
        }
        self.secure().await?;
        let last = self.position.segment.max(1);
        let note = Watermark {
            durable: end.lsn,
            hash: end.hash,
            segments_made: last.min(self.marks.newest.segments_made),
            is_cut: true,
            ..self.marks.newest
        };
        if note != self.marks.newest {
            self.marks.note(self.disk, &self.identity, note).await?;
        }
        for (number, _) in self.sources.split_off(&(last + 1)) {
            files::remove(self.disk, segment_name(number)).await?;
            self.report.removed.push(segment_name(number));
        }
        self.spares.retain(|spare| spare.number <= last);
        match self.segment(last) {
            // Behind a packed segment's last frame are zeroes already.
            Some(segment) if self.source(segment).is_packed() => Ok(()),
            Some(segment) => self.void(segment, self.position.offset.max(FIRST_FRAME_OFFSET)).await,
            None => Ok(()),
        }
    }

    /// Makes everything in `segment` from `offset` on zeroes.
    async fn void(&mut self, segment: Segment, mut offset: u64) -> Result<(), Error> {
        while offset < segment.bytes {
            let len = (segment.bytes - offset).min(WINDOW_BYTES as u64) as usize;
            let window = files::read(self.disk, segment.file, offset, len).await?;
            if window.is_empty() {
                break;
            }
            for (at, len) in runs_of_content(&window) {
                self.report.cut_bytes += len as u64;
                let zeroes = AlignedBuffer::zeroed(len);
                files::write(self.disk, segment.file, offset + at as u64, zeroes).await?;
            }
            offset += window.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cut_test.rs"]
mod tests;
