//! Which runs the directory consists of, and from where the log must be replayed on top of them.
//!
//! ```text
//! manifest   | header 40 | checkpoint 88 | legs 80 each | runs 8 each, newest first | checksum 4 |
//! ```
//! Replaced as a whole, atomically; what it says is durable when it is written: its runs, and the
//! log up to the checkpoint. It is never needed: without it the directory is made anew from the
//! first segment. Bytes in docs/format.md §4.

use bytes::Bytes;
use celeriant_schema::{BootId, ClusterId, Epoch, Hash, Lsn, ShardId, Stamp, TxnId};

use crate::codec::{Reader, crc32c};
use crate::error::Flaw;
use crate::frame::FrameHeader;
use crate::{FORMAT, Identity};

/// Name of the file.
pub const MANIFEST_NAME: &str = "manifest";
const MAGIC: u64 = u64::from_le_bytes(*b"CLRMAN\r\n");
const APPLIED: u32 = 1;
const KNOWS_ABORTED: u64 = 1;

/// A place in the log, behind a frame, and what the next frame must continue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// Last record before it; 0 at the log's start.
    pub lsn: Lsn,
    /// Segment of the frame before it.
    pub segment: u32,
    /// Size of that frame, in bytes.
    pub frame_bytes: u32,
    /// Where it ends in its segment, in bytes.
    pub offset: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its last stamp.
    pub last_stamp: Stamp,
    /// Its epoch, the highest so far.
    pub max_epoch: Epoch,
}

impl Position {
    /// Behind the frame of `header` at `offset` of `segment`.
    pub(crate) fn behind(header: &FrameHeader, segment: u32, offset: u64) -> Self {
        Self {
            lsn: header.last_lsn(),
            segment,
            frame_bytes: header.frame_bytes() as u32,
            offset: offset + header.frame_bytes() as u64,
            hash: header.hash,
            last_stamp: header.last_stamp,
            max_epoch: header.epoch,
        }
    }
}

/// A leg whose `Resolve` is not before the checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenLeg {
    /// Which write.
    pub txn: TxnId,
    /// Where the leg is.
    pub lsn: Lsn,
    /// Segment of its frame.
    pub segment: u32,
    /// Start of the frame, in sectors of 4,096 bytes.
    pub frame_offset: u32,
    /// Size of the frame, in bytes.
    pub frame_bytes: u32,
    /// The runs have its batches: it was shown before its `Resolve` was durable.
    pub is_applied: bool,
    /// Hash of the frame.
    pub hash: Hash,
}

/// From where the log is replayed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checkpoint {
    /// The runs say what every record before this place did.
    pub position: Position,
    /// Legs before it that were not decided.
    pub legs: Vec<OpenLeg>,
}

/// The file's content.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Manifest {
    /// Number that the next run gets.
    pub next_run: u32,
    /// From where the log is replayed.
    pub checkpoint: Checkpoint,
    /// What was deleted, trimmed and aborted up to this stamp has left this disk.
    pub erased: Stamp,
    /// The runs name every leg before the checkpoint that was aborted. Builds before this one left
    /// them out.
    pub knows_aborted: bool,
    /// Numbers and sizes, in pages, of the runs, newest first.
    pub runs: Vec<(u32, u32)>,
}

impl Manifest {
    /// The file's bytes.
    pub fn encode(&self, identity: &Identity) -> Bytes {
        let mut out = Vec::with_capacity(160 + self.runs.len() * 8);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&identity.shard.value().to_le_bytes());
        out.extend_from_slice(&self.next_run.to_le_bytes());
        out.extend_from_slice(&identity.cluster.value().to_le_bytes());
        out.extend_from_slice(&(self.checkpoint.legs.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        let at = &self.checkpoint.position;
        out.extend_from_slice(&at.lsn.value().to_le_bytes());
        out.extend_from_slice(&at.segment.to_le_bytes());
        out.extend_from_slice(&at.frame_bytes.to_le_bytes());
        out.extend_from_slice(&at.offset.to_le_bytes());
        out.extend_from_slice(&at.hash.0);
        out.extend_from_slice(&at.last_stamp.value().to_le_bytes());
        out.extend_from_slice(&at.max_epoch.value().to_le_bytes());
        out.extend_from_slice(&self.erased.value().to_le_bytes());
        let knows_aborted = if self.knows_aborted { KNOWS_ABORTED } else { 0 };
        out.extend_from_slice(&knows_aborted.to_le_bytes());
        for leg in &self.checkpoint.legs {
            out.extend_from_slice(&leg.txn.epoch.value().to_le_bytes());
            out.extend_from_slice(&leg.txn.boot.value().to_le_bytes());
            out.extend_from_slice(&leg.txn.counter.to_le_bytes());
            out.extend_from_slice(&leg.lsn.value().to_le_bytes());
            out.extend_from_slice(&leg.segment.to_le_bytes());
            out.extend_from_slice(&leg.frame_offset.to_le_bytes());
            out.extend_from_slice(&leg.frame_bytes.to_le_bytes());
            out.extend_from_slice(&(if leg.is_applied { APPLIED } else { 0 }).to_le_bytes());
            out.extend_from_slice(&leg.hash.0);
        }
        for (number, pages) in &self.runs {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&pages.to_le_bytes());
        }
        let checksum = crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.into()
    }

    /// Reads the file of `identity`.
    ///
    /// # Errors
    /// When it is not an intact manifest of that shard. Never believe a part of it then.
    pub fn decode(content: &[u8], identity: &Identity) -> Result<Self, Flaw> {
        let Some(end) = content.len().checked_sub(4) else { return Err(Flaw::Lengths) };
        let mut reader = Reader::new(content);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic("manifest"));
        }
        if Reader::new(&content[end..]).u32()? != crc32c(&content[..end]) {
            return Err(Flaw::BodyChecksum);
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("manifest of a format that this build knows"));
        }
        let shard = ShardId::new(reader.u16()?);
        let next_run = reader.u32()?;
        if ClusterId::new(reader.u128()?) != identity.cluster {
            return Err(Flaw::Foreign("cluster"));
        }
        if shard != identity.shard {
            return Err(Flaw::Foreign("shard"));
        }
        let (leg_count, run_count) = (reader.u32()?, reader.u32()?);
        let position = Position {
            lsn: Lsn::new(reader.u64()?),
            segment: reader.u32()?,
            frame_bytes: reader.u32()?,
            offset: reader.u64()?,
            hash: reader.hash()?,
            last_stamp: Stamp::new(reader.u64()?),
            max_epoch: Epoch::new(reader.u64()?),
        };
        let erased = Stamp::new(reader.u64()?);
        let knows_aborted = reader.u64()? & KNOWS_ABORTED != 0;
        let legs = (0..leg_count).map(|_| decode_leg(&mut reader)).collect::<Result<_, _>>()?;
        let mut runs = Vec::new();
        for _ in 0..run_count {
            runs.push((reader.u32()?, reader.u32()?));
        }
        let are_older = runs.iter().all(|(number, _)| *number < next_run);
        if reader.left() != 4 || !are_older {
            return Err(Flaw::Lengths);
        }
        let checkpoint = Checkpoint { position, legs };
        Ok(Self { next_run, checkpoint, erased, knows_aborted, runs })
    }
}

fn decode_leg(reader: &mut Reader<'_>) -> Result<OpenLeg, Flaw> {
    let (epoch, boot) = (Epoch::new(reader.u64()?), BootId::new(reader.u64()?));
    Ok(OpenLeg {
        txn: TxnId { epoch, boot, counter: reader.u64()? },
        lsn: Lsn::new(reader.u64()?),
        segment: reader.u32()?,
        frame_offset: reader.u32()?,
        frame_bytes: reader.u32()?,
        is_applied: reader.u32()? == APPLIED,
        hash: reader.hash()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::identity;

    fn manifest() -> Manifest {
        let position = Position {
            lsn: Lsn::new(90),
            segment: 3,
            frame_bytes: 4096,
            offset: 8192,
            hash: Hash([4; 32]),
            last_stamp: Stamp::new(1 << 40),
            max_epoch: Epoch::new(6),
        };
        let leg = OpenLeg {
            txn: TxnId { epoch: Epoch::new(6), boot: BootId::new(7), counter: 8 },
            lsn: Lsn::new(80),
            segment: 2,
            frame_offset: 5,
            frame_bytes: 8192,
            is_applied: true,
            hash: Hash([5; 32]),
        };
        let checkpoint =
            Checkpoint { position, legs: vec![leg, OpenLeg { is_applied: false, ..leg }] };
        let (erased, runs) = (Stamp::new(77), vec![(8, 100), (3, 7)]);
        Manifest { next_run: 9, checkpoint, erased, knows_aborted: true, runs }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        let content = manifest().encode(&identity());
        assert_eq!(content.len(), 40 + 88 + 2 * 80 + 2 * 8 + 4);
        assert_eq!(Manifest::decode(&content, &identity()), Ok(manifest()));
        let other = Identity { shard: ShardId::new(99), ..identity() };
        assert_eq!(Manifest::decode(&content, &other), Err(Flaw::Foreign("shard")));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_of_a_manifest_is_seen() {
        let content = manifest().encode(&identity());
        for at in 0..content.len() {
            let mut flipped = content.to_vec();
            flipped[at] ^= 0x40;
            assert!(Manifest::decode(&flipped, &identity()).is_err(), "byte {at}");
            assert!(Manifest::decode(&content[..at], &identity()).is_err(), "cut at {at}");
        }
    }
}
