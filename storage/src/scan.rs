//! Judging bytes that may be a frame: intact, cut short by a crash, or damaged.
//!
//! ```text
//!   first 512 bytes zero ───────────────────────────► Unfinished (or the end of the log)
//!   header not intact, foreign, or off the chain ───► Damaged
//!   body does not match ── a piece of it is zero ───► Unfinished
//!                       └─ no piece is zero ────────► Damaged   (tearing leaves zeroes)
//!   hash, records ──────── do not match ────────────► Damaged
//! ```
//! Segments are zeroed ahead and what recovery cuts is zeroed again, so before a frame is written
//! its place holds zeroes. That makes the third line true. Pure: recovery, `inspect` and the fuzz
//! bodies bring the bytes.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::record::{Record, decode_records};
use celeriant_schema::{Epoch, Hash, Lsn, Stamp};

use crate::Identity;
use crate::codec::crc32c;
use crate::error::Flaw;
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, TORN_BYTES, may_be_torn};
use crate::manifest::Position;

/// What the log must go on with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Chain {
    pub(crate) identity: Identity,
    pub(crate) next_lsn: Lsn,
    pub(crate) prev_hash: Hash,
    pub(crate) last_stamp: Stamp,
    pub(crate) max_epoch: Epoch,
}

/// Why no frame was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// Never written, or not fully.
    Unfinished,
    /// Was written, and is not what was written.
    Damaged(Flaw),
}

/// A record with its offset in the frame's records.
pub(crate) type Placed = (u32, Record);

impl Chain {
    pub(crate) fn start(identity: Identity) -> Self {
        Self {
            identity,
            next_lsn: Lsn::ZERO.next(),
            prev_hash: Hash::ZERO,
            last_stamp: Stamp::ZERO,
            max_epoch: Epoch::default(),
        }
    }

    /// What goes on from `position`.
    pub(crate) fn from(identity: Identity, position: &Position) -> Self {
        Self {
            identity,
            next_lsn: position.lsn.next(),
            prev_hash: position.hash,
            last_stamp: position.last_stamp,
            max_epoch: position.max_epoch,
        }
    }

    /// Last record so far.
    pub(crate) fn tip(&self) -> Lsn {
        Lsn::new(self.next_lsn.value() - 1)
    }

    /// Reads the header of the frame that starts with `page`, of which at most `room` bytes can
    /// exist.
    pub(crate) fn header(&self, page: &[u8], room: u64) -> Result<FrameHeader, Stop> {
        if is_zero(&page[..TORN_BYTES.min(page.len())]) {
            return Err(Stop::Unfinished);
        }
        let header = FrameHeader::decode(page).map_err(Stop::Damaged)?;
        header.check_identity(&self.identity).map_err(Stop::Damaged)?;
        if header.frame_bytes() as u64 > room {
            return Err(Stop::Damaged(Flaw::Lengths));
        }
        self.check(&header).map_err(|what| Stop::Damaged(Flaw::Chain(what)))?;
        Ok(header)
    }

    fn check(&self, header: &FrameHeader) -> Result<(), &'static str> {
        match () {
            () if header.first_lsn != self.next_lsn => Err("lsn"),
            () if header.prev_hash != self.prev_hash => Err("hash of the frame before"),
            () if header.first_stamp <= self.last_stamp => Err("stamp"),
            () if header.epoch < self.max_epoch => Err("epoch"),
            () => Ok(()),
        }
    }

    /// Checks the whole frame of a header that [`Self::header`] accepted, and reads its records.
    pub(crate) fn records(&self, header: &FrameHeader, frame: &Bytes) -> Result<Vec<Placed>, Stop> {
        if crc32c(&frame[FRAME_HEADER_BYTES..]) != header.body_checksum {
            let is_torn = may_be_torn(frame, header);
            return Err(if is_torn { Stop::Unfinished } else { Stop::Damaged(Flaw::BodyChecksum) });
        }
        let (meta, blobs) = (header.meta(frame), header.blobs(frame));
        let mut hashes = Vec::new();
        let mut records = Vec::new();
        for record in decode_records(&meta, &blobs, header.count) {
            let (offset, record, hash) =
                record.map_err(|error| Stop::Damaged(Flaw::Decode(error.to_string())))?;
            hashes.push(hash);
            records.push((offset, record));
        }
        if records.len() != header.count as usize || header.hash_over(hashes) != header.hash {
            return Err(Stop::Damaged(Flaw::Hash));
        }
        Ok(records)
    }

    pub(crate) fn advance(&mut self, header: &FrameHeader) {
        self.next_lsn = header.last_lsn().next();
        self.prev_hash = header.hash;
        self.last_stamp = header.last_stamp;
        self.max_epoch = header.epoch;
    }

    /// Whether `page` starts a frame that was made when the record which is missing here was
    /// durable.
    pub(crate) fn is_behind(&self, page: &[u8]) -> Option<FrameHeader> {
        let header = FrameHeader::decode(page).ok()?;
        header.check_identity(&self.identity).ok()?;
        (header.first_lsn > self.next_lsn).then_some(header)
    }
}

/// Whole sectors of `bytes` with anything but zeroes, as `(offset, length)` of each run.
pub(crate) fn runs_of_content(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        if is_zero(sector) {
            continue;
        }
        let offset = at * SECTOR_BYTES;
        match runs.last_mut() {
            Some((start, len)) if *start + *len == offset => *len += sector.len(),
            _ => runs.push((offset, sector.len())),
        }
    }
    runs
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROES: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
    bytes.chunks(SECTOR_BYTES).all(|piece| piece == &ZEROES[..piece.len()])
}
