//! A frame that survives power loss, as whoever applies it needs it.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{Hash, Lsn, Stamp};

use crate::error::{Damage, Flaw};
use crate::frame::FrameHeader;
use crate::segment::segment_name;

/// A frame that is durable, with everything before it.
#[derive(Clone, Debug)]
pub struct DurableFrame {
    /// Its first record.
    pub first_lsn: Lsn,
    /// Its last record.
    pub last_lsn: Lsn,
    /// Segment that it lies in.
    pub segment: u32,
    /// Where it starts in the segment, in sectors of 4,096 bytes.
    pub frame_offset: u32,
    /// Its size in bytes, padding included.
    pub frame_bytes: u32,
    /// Stamp of its last event.
    pub last_stamp: Stamp,
    /// Its hash.
    pub hash: Hash,
    /// The frame itself. That of another leader may share memory with what arrived together.
    pub bytes: Bytes,
}

impl DurableFrame {
    /// The frames that lie one behind the other at `offset`, in bytes, of `segment`: as
    /// [`super::Step::Frames`] gives them.
    ///
    /// # Errors
    /// What is wrong with the first one that is none.
    pub fn split(segment: u32, offset: u64, frames: &Bytes) -> Result<Vec<Self>, Damage> {
        let mut split: Vec<Self> = Vec::new();
        let mut at = 0;
        while at < frames.len() {
            let place = offset + at as u64;
            let flawed = |flaw: Flaw| flaw.at(segment_name(segment), segment, place, Lsn::ZERO);
            let header = FrameHeader::decode(&frames[at..]).map_err(flawed)?;
            let end = at + header.frame_bytes();
            if end > frames.len() {
                return Err(flawed(Flaw::Lengths));
            }
            split.push(Self::of(&header, segment, place, frames.slice(at..end)));
            at = end;
        }
        Ok(split)
    }

    /// The frame of `header` at `offset`, in bytes, of `segment`.
    pub(crate) fn of(header: &FrameHeader, segment: u32, offset: u64, bytes: Bytes) -> Self {
        Self {
            first_lsn: header.first_lsn,
            last_lsn: header.last_lsn(),
            segment,
            frame_offset: (offset / SECTOR_BYTES as u64) as u32,
            frame_bytes: header.frame_bytes() as u32,
            last_stamp: header.last_stamp,
            hash: header.hash,
            bytes,
        }
    }
}
