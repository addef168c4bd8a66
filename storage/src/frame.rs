//! A frame: one group commit, one durable write, in a shape that proves itself.
//!
//! ```text
//! | header 192 | records: metadata, small payloads | large payloads | zeroes to n × 4,096 |
//!      │         └────────── meta_len ─────────────┘└── blob_len ──┘
//!      └ magic, identity, epoch, boot, lsns, durable_upto, stamps, two hashes, two checksums
//! ```
//! Frames start at multiples of 4,096 bytes and share no sector, so nothing acknowledged is ever
//! written again. The body's checksum covers the padding too. A frame's hash covers its identity,
//! its place, the hash of the frame before it and its records' hashes, so equal hashes mean equal
//! logs up to there; it does not cover `durable_upto`, which differs between writers. Bytes in
//! docs/format.md §2.
//!
//! Deliberately absent: compression, encryption, anything that spans two frames.

mod builder;
mod erase;
mod evidence;

use bytes::Bytes;
use celeriant_schema::hash::{FrameFields, frame_hash};
use celeriant_schema::limits::{FRAME_BYTES_MAX, FRAME_RECORDS_MAX, SECTOR_BYTES};
use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::record::batch_at;
use celeriant_schema::{
    AggregateKey, BatchHeader, BootId, ClusterId, Epoch, Hash, Lsn, ReadEvent, ShardId, Stamp,
};

use crate::codec::{Reader, crc32c, put};
use crate::directory::BatchLocation;
use crate::error::Flaw;
use crate::{FORMAT, Identity};

pub(crate) use builder::{Builder, Context};
pub use erase::Erase;
pub(crate) use erase::erase;
pub use evidence::evidence;

/// Size of a frame's header, in bytes. It lies in the frame's first 512 bytes: a torn write leaves
/// all or nothing of it.
pub const FRAME_HEADER_BYTES: usize = 192;
/// Smallest piece that a device writes whole, in bytes.
pub const TORN_BYTES: usize = 512;
/// Most bytes that are in flight at a time: how far behind the last durable frame recovery must
/// look for what a crash left there.
pub const IN_FLIGHT_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

const MAGIC: u64 = u64::from_le_bytes(*b"CLRFRM\r\n");
const HEADER_CHECKSUM_AT: usize = FRAME_HEADER_BYTES - 4;

const _: () = assert!(FRAME_HEADER_BYTES <= TORN_BYTES);

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// Cluster and shard.
    pub identity: Identity,
    /// Epoch of the leader that made it.
    pub epoch: Epoch,
    /// Process that made it.
    pub boot: BootId,
    /// Its first record.
    pub first_lsn: Lsn,
    /// How many records, at least 1.
    pub count: u32,
    /// Bytes of records.
    pub meta_len: u32,
    /// Bytes of large payloads.
    pub blob_len: u32,
    /// Every record up to here was durable when the frame was made.
    pub durable_upto: Lsn,
    /// Stamp of its first event or record.
    pub first_stamp: Stamp,
    /// Stamp of its last event or record.
    pub last_stamp: Stamp,
    /// Hash of the frame before it; zero for a log's first.
    pub prev_hash: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// CRC-32C of everything behind the header, padding included.
    pub body_checksum: u32,
}

impl FrameHeader {
    /// Its last record.
    pub fn last_lsn(&self) -> Lsn {
        self.first_lsn.plus(u64::from(self.count) - 1)
    }

    /// Header, records and large payloads, in bytes.
    pub fn content_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.meta_len as usize + self.blob_len as usize
    }

    /// Size of the frame, padding included, in bytes.
    pub fn frame_bytes(&self) -> usize {
        self.content_bytes().next_multiple_of(SECTOR_BYTES)
    }

    /// Its epoch and its ends, as the nodes of a pair name them.
    pub fn place(&self) -> FramePlace {
        let before = Position { lsn: Lsn::new(self.first_lsn.value() - 1), hash: self.prev_hash };
        let end = Position { lsn: self.last_lsn(), hash: self.hash };
        FramePlace { epoch: self.epoch, before, end }
    }

    /// Where the records lie in the frame.
    fn meta_range(&self) -> std::ops::Range<usize> {
        FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.meta_len as usize
    }

    /// The records of `frame`.
    pub fn meta(&self, frame: &Bytes) -> Bytes {
        frame.slice(self.meta_range())
    }

    /// The large payloads of `frame`.
    pub fn blobs(&self, frame: &Bytes) -> Bytes {
        frame.slice(self.meta_range().end..self.content_bytes())
    }

    pub(crate) fn encode(&self, out: &mut [u8]) {
        put(out, 0, &MAGIC.to_le_bytes());
        put(out, 8, &FORMAT.to_le_bytes());
        put(out, 10, &self.identity.shard.value().to_le_bytes());
        put(out, 12, &self.count.to_le_bytes());
        put(out, 16, &self.identity.cluster.value().to_le_bytes());
        put(out, 32, &self.epoch.value().to_le_bytes());
        put(out, 40, &self.boot.value().to_le_bytes());
        put(out, 48, &self.first_lsn.value().to_le_bytes());
        put(out, 56, &self.durable_upto.value().to_le_bytes());
        put(out, 64, &self.first_stamp.value().to_le_bytes());
        put(out, 72, &self.last_stamp.value().to_le_bytes());
        put(out, 80, &self.meta_len.to_le_bytes());
        put(out, 84, &self.blob_len.to_le_bytes());
        put(out, 88, &self.prev_hash.0);
        put(out, 120, &self.hash.0);
        put(out, 152, &self.body_checksum.to_le_bytes());
        put(out, 156, &[0; HEADER_CHECKSUM_AT - 156]);
        let checksum = crc32c(&out[..HEADER_CHECKSUM_AT]);
        put(out, HEADER_CHECKSUM_AT, &checksum.to_le_bytes());
    }

    /// Reads the header at the start of `frame`, which may be longer or shorter than the frame.
    ///
    /// # Errors
    /// When there is no intact header of this format.
    pub fn decode(frame: &[u8]) -> Result<Self, Flaw> {
        let header = frame.get(..FRAME_HEADER_BYTES).ok_or(Flaw::Lengths)?;
        let mut reader = Reader::new(header);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic("frame"));
        }
        if Reader::new(&header[HEADER_CHECKSUM_AT..]).u32()?
            != crc32c(&header[..HEADER_CHECKSUM_AT])
        {
            return Err(Flaw::HeaderChecksum);
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("frame of a format that this build knows"));
        }
        let shard = ShardId::new(reader.u16()?);
        let count = reader.u32()?;
        let cluster = ClusterId::new(reader.u128()?);
        let header = Self {
            identity: Identity { cluster, shard },
            count,
            epoch: Epoch::new(reader.u64()?),
            boot: BootId::new(reader.u64()?),
            first_lsn: Lsn::new(reader.u64()?),
            durable_upto: Lsn::new(reader.u64()?),
            first_stamp: Stamp::new(reader.u64()?),
            last_stamp: Stamp::new(reader.u64()?),
            meta_len: reader.u32()?,
            blob_len: reader.u32()?,
            prev_hash: reader.hash()?,
            hash: reader.hash()?,
            body_checksum: reader.u32()?,
        };
        reader.zeroes(HEADER_CHECKSUM_AT - 156)?;
        header.check_numbers().map(|()| header)
    }

    fn check_numbers(&self) -> Result<(), Flaw> {
        let meta = self.meta_len as usize;
        let sizes = meta <= FRAME_BYTES_MAX && self.blob_len as usize <= FRAME_BYTES_MAX;
        if !sizes || self.frame_bytes() > FRAME_BYTES_MAX {
            return Err(Flaw::Lengths);
        }
        let counted = (1..=FRAME_RECORDS_MAX as u32).contains(&self.count);
        let placed = self.first_lsn > Lsn::ZERO
            && self.first_lsn.value() < u64::MAX / 2
            && self.durable_upto < self.first_lsn
            && self.first_stamp <= self.last_stamp;
        if counted && placed { Ok(()) } else { Err(Flaw::Lengths) }
    }

    /// Whether it belongs to this log.
    ///
    /// # Errors
    /// What it belongs to instead.
    pub fn check_identity(&self, identity: &Identity) -> Result<(), Flaw> {
        if self.identity.cluster != identity.cluster {
            return Err(Flaw::Foreign("cluster"));
        }
        if self.identity.shard != identity.shard {
            return Err(Flaw::Foreign("shard"));
        }
        Ok(())
    }

    /// The hash that a frame with this header and these records' hashes must have.
    pub fn hash_over(&self, records: impl IntoIterator<Item = Hash>) -> Hash {
        frame_hash(&self.fields(), records)
    }

    /// What its hash covers besides its records' hashes.
    pub fn fields(&self) -> FrameFields {
        FrameFields {
            cluster: self.identity.cluster,
            shard: self.identity.shard,
            epoch: self.epoch,
            boot: self.boot,
            first_lsn: self.first_lsn,
            count: self.count,
            first_stamp: self.first_stamp,
            last_stamp: self.last_stamp,
            prev_hash: self.prev_hash,
        }
    }
}

/// Checks both checksums of a whole frame and whose it is. Once after reading from disk is enough.
///
/// # Errors
/// What is wrong with it.
pub fn verify(frame: &[u8], identity: &Identity) -> Result<FrameHeader, Flaw> {
    let header = FrameHeader::decode(frame)?;
    header.check_identity(identity)?;
    if frame.len() != header.frame_bytes() {
        return Err(Flaw::Lengths);
    }
    if crc32c(&frame[FRAME_HEADER_BYTES..]) != header.body_checksum {
        return Err(Flaw::BodyChecksum);
    }
    Ok(header)
}

/// Reads one batch out of a frame that was verified.
///
/// # Errors
/// When there is no batch at that place of the frame.
pub fn read_batch(
    frame: &Bytes,
    identity: &Identity,
    location: &BatchLocation,
) -> Result<(BatchHeader, AggregateKey, Vec<ReadEvent>), Flaw> {
    let header = FrameHeader::decode(frame)?;
    header.check_identity(identity)?;
    if frame.len() != header.frame_bytes() || frame.len() != location.frame_bytes as usize {
        return Err(Flaw::Lengths);
    }
    let (meta, blobs) = (header.meta(frame), header.blobs(frame));
    batch_at(&meta, &blobs, location.record_offset, location.batch_offset)
        .map_err(|error| Flaw::Decode(error.to_string()))
}

/// A write that a crash cut short leaves every 512 bytes either as they were sent or as they were
/// before: zero. So a frame whose body does not match, but which has no zero piece in its content,
/// is damage.
pub(crate) fn may_be_torn(frame: &[u8], header: &FrameHeader) -> bool {
    let content = &frame[..header.content_bytes().min(frame.len())];
    content.chunks(TORN_BYTES).any(|piece| piece.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
#[path = "frame/frame_test.rs"]
mod tests;
