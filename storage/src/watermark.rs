//! What a shard knows to be durable, written beside the log: two pages, used in turn.
//!
//! ```text
//! watermark   | slot 0: 4,096 | slot 1: 4,096 |     the valid slot with the higher turn rules
//! ```
//! Everything a slot says lies in its first 512 bytes, which a crash leaves either old or new. So a
//! slot that is neither valid nor all zero is damage, not a torn write. A recovered tail below the
//! watermark is damage too: acknowledged frames are gone. Deliberately absent: any use of it to
//! find the tail, but for a log that is being cut.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{ClusterId, Epoch, Hash, Lsn, ShardId};

use crate::buffer::AlignedBuffer;
use crate::codec::{Reader, crc32c, put};
use crate::error::Flaw;
use crate::{FORMAT, Identity};

/// Name of the file.
pub const WATERMARK_NAME: &str = "watermark";
/// Size of the file, in bytes.
pub const WATERMARK_BYTES: u64 = 2 * SECTOR_BYTES as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"CLRWMK\r\n");

const CHECKSUM_AT: usize = 104;
const CUT: u32 = 1;

/// [`Watermark::made_in`] when nothing is known to be made here.
pub const NOWHERE: Epoch = Epoch::new(u64::MAX);

/// One note of what is durable.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Watermark {
    /// Counts the notes; the slot is `turn % 2`.
    pub turn: u64,
    /// Every record up to here is durable.
    pub durable: Lsn,
    /// Hash of the frame that ends there.
    pub hash: Hash,
    /// Highest segment that is completely made. A higher one holds nothing.
    pub segments_made: u32,
    /// The log ends at `durable`: what lies behind is void, whatever it is.
    pub is_cut: bool,
    /// Every record up to here is committed; never above `durable`.
    pub committed: Lsn,
    /// Frames of this epoch were made on this disk. 0: all were. [`NOWHERE`]: perhaps none.
    pub made_in: Epoch,
}

impl Watermark {
    /// Whether the `durable_upto` of a frame holds on this disk. It says what was durable where the
    /// frame was made: a follower may have it on disk before frames that it says are durable.
    pub fn vouches(&self, epoch: Epoch) -> bool {
        self.made_in == Epoch::default() || self.made_in == epoch
    }

    /// Byte offset of its slot.
    pub fn slot_offset(&self) -> u64 {
        (self.turn % 2) * SECTOR_BYTES as u64
    }

    /// Its slot's page.
    pub fn encode(&self, identity: &Identity) -> AlignedBuffer {
        assert!(self.committed <= self.durable, "committed, and not durable: {self:?}");
        let mut page = AlignedBuffer::zeroed(SECTOR_BYTES);
        put(&mut page, 0, &MAGIC.to_le_bytes());
        put(&mut page, 8, &FORMAT.to_le_bytes());
        put(&mut page, 10, &identity.shard.value().to_le_bytes());
        put(&mut page, 16, &identity.cluster.value().to_le_bytes());
        put(&mut page, 32, &self.turn.to_le_bytes());
        put(&mut page, 40, &self.durable.value().to_le_bytes());
        put(&mut page, 48, &self.hash.0);
        put(&mut page, 80, &self.segments_made.to_le_bytes());
        put(&mut page, 84, &(if self.is_cut { CUT } else { 0 }).to_le_bytes());
        put(&mut page, 88, &self.committed.value().to_le_bytes());
        put(&mut page, 96, &self.made_in.value().to_le_bytes());
        let checksum = crc32c(&page[..CHECKSUM_AT]);
        put(&mut page, CHECKSUM_AT, &checksum.to_le_bytes());
        page
    }

    /// Reads one slot. `None` is a slot that was never written.
    ///
    /// # Errors
    /// When it is neither empty nor a note of this shard.
    pub fn decode(page: &[u8], slot: u64, identity: &Identity) -> Result<Option<Self>, Flaw> {
        if page.len() < SECTOR_BYTES {
            return Err(Flaw::Missing);
        }
        if page.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut reader = Reader::new(page);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic("watermark"));
        }
        if Reader::new(&page[CHECKSUM_AT..]).u32()? != crc32c(&page[..CHECKSUM_AT])
            || page[CHECKSUM_AT + 4..SECTOR_BYTES].iter().any(|byte| *byte != 0)
        {
            return Err(Flaw::HeaderChecksum);
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("watermark of a format that this build knows"));
        }
        let shard = ShardId::new(reader.u16()?);
        reader.zeroes(4)?;
        let cluster = ClusterId::new(reader.u128()?);
        if cluster != identity.cluster {
            return Err(Flaw::Foreign("cluster"));
        }
        if shard != identity.shard {
            return Err(Flaw::Foreign("shard"));
        }
        let note = Self {
            turn: reader.u64()?,
            durable: Lsn::new(reader.u64()?),
            hash: reader.hash()?,
            segments_made: reader.u32()?,
            is_cut: match reader.u32()? {
                0 => false,
                CUT => true,
                other => return Err(Flaw::Decode(format!("{other} for whether it was cut"))),
            },
            committed: Lsn::new(reader.u64()?),
            made_in: Epoch::new(reader.u64()?),
        };
        if note.turn % 2 != slot {
            return Err(Flaw::Chain("a note in the other slot"));
        }
        if note.committed > note.durable {
            return Err(Flaw::Lengths);
        }
        Ok(Some(note))
    }
}

/// The file as it is first made: slot 0 says that nothing is durable, slot 1 is empty.
pub fn first_page(identity: &Identity) -> Bytes {
    Watermark::default().encode(identity).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { cluster: ClusterId::new(1 << 100), shard: ShardId::new(9) }
    }

    #[test]
    fn a_note_comes_back_from_its_own_slot_only() {
        let note = Watermark {
            turn: 7,
            durable: Lsn::new(41),
            hash: Hash([3; 32]),
            segments_made: 2,
            is_cut: true,
            committed: Lsn::new(40),
            made_in: Epoch::new(6),
        };
        let page = note.encode(&identity());
        assert_eq!(note.slot_offset(), 4096);
        assert_eq!(Watermark::decode(&page, 1, &identity()), Ok(Some(note)));
        assert!(Watermark::decode(&page, 0, &identity()).is_err());
        assert_eq!(Watermark::decode(&[0; SECTOR_BYTES], 0, &identity()), Ok(None));
    }

    #[test]
    fn only_frames_that_were_made_here_vouch_for_others() {
        let note = |made_in| Watermark { made_in, ..Watermark::default() };
        assert!(note(Epoch::new(0)).vouches(Epoch::new(4)));
        assert!(note(Epoch::new(4)).vouches(Epoch::new(4)));
        assert!(!note(Epoch::new(4)).vouches(Epoch::new(5)));
        assert!(!note(NOWHERE).vouches(Epoch::new(4)));
    }

    #[test]
    fn every_flipped_byte_of_a_slot_is_seen() {
        let page = Watermark::default().encode(&identity());
        for at in 0..page.len() {
            let mut flipped = page.to_vec();
            flipped[at] ^= 1;
            assert!(Watermark::decode(&flipped, 0, &identity()).is_err(), "byte {at}");
        }
    }
}
