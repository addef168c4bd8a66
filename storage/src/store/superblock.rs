//! The file `node`: which store a directory holds, and what this node promised. Two equal slots.
//!
//! ```text
//!      0  slot 0          4,096 bytes    both slots hold the same; an update writes one after the
//!   4096  slot 1          4,096 bytes    other, so at any moment one of them is whole
//!
//!   a slot, little-endian
//!      0  magic           8    "CELNODE" and a zero
//!      8  format          2
//!     10  shard count     2
//!     12  zero            4
//!     16  generation      8    of the update; the higher of two valid slots counts
//!     24  store id       16
//!     40  cluster id     16
//!     56  epoch promised  8    never vote for or follow a lower one
//!     64  epoch seen      8    highest that any log or peer showed
//!     72  zero         4020
//!   4092  checksum        4    crc32c of everything before it
//! ```
//! Because both slots are written before an update counts, one damaged slot loses nothing: what it
//! held was either also in the other, or had not been acknowledged yet.

use celeriant_schema::limits::SHARDS_MAX;
use celeriant_schema::{ClusterId, Epoch, StoreId};

use crate::codec::{Reader, crc32c, put};
use crate::error::Flaw;

/// Bytes of one slot.
pub(crate) const SLOT_BYTES: usize = 4096;

const MAGIC: &[u8; 8] = b"CELNODE\0";
const CHECKSUM_AT: usize = SLOT_BYTES - 4;

/// What the file `node` says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Superblock {
    /// This formatted directory.
    pub store: StoreId,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Shards of the cluster. Never changes.
    pub shard_count: u16,
    /// Number of updates so far.
    pub generation: u64,
    /// The node never votes for or follows a lower epoch.
    pub epoch_promised: Epoch,
    /// Highest epoch that any log or peer showed.
    pub epoch_seen: Epoch,
}

/// What one slot holds.
#[derive(Debug)]
pub(super) enum Slot {
    Valid(Superblock),
    /// Intact, of a format that this build doesn't know.
    Newer(u16),
    Bad(Flaw),
}

/// What both slots together say.
#[derive(Debug)]
pub(crate) enum Reading {
    /// `whole`: both slots say so.
    Valid {
        superblock: Superblock,
        whole: bool,
    },
    Newer(u16),
    Damaged(Flaw),
}

/// Reads the content of the file `node`, of whatever length.
pub(crate) fn read(content: &[u8]) -> Reading {
    let (first, rest) = content.split_at(content.len().min(SLOT_BYTES));
    let second = &rest[..rest.len().min(SLOT_BYTES)];
    match (Superblock::decode(first), Superblock::decode(second)) {
        (Slot::Newer(format), _) | (_, Slot::Newer(format)) => Reading::Newer(format),
        (Slot::Valid(a), Slot::Valid(b)) => {
            let superblock = if b.generation > a.generation { b } else { a };
            Reading::Valid { superblock, whole: a == b }
        }
        (Slot::Valid(superblock), Slot::Bad(_)) | (Slot::Bad(_), Slot::Valid(superblock)) => {
            Reading::Valid { superblock, whole: false }
        }
        (Slot::Bad(flaw), Slot::Bad(_)) => Reading::Damaged(flaw),
    }
}

/// What each slot of the content of the file `node` says.
pub(super) fn slots(content: &[u8]) -> [Result<Superblock, Flaw>; 2] {
    let (first, rest) = content.split_at(content.len().min(SLOT_BYTES));
    [first, rest].map(|slot| match Superblock::decode(slot) {
        Slot::Valid(superblock) => Ok(superblock),
        Slot::Newer(_) => Err(Flaw::Magic("superblock of a format that this build knows")),
        Slot::Bad(flaw) => Err(flaw),
    })
}

impl Superblock {
    /// One slot.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut slot = vec![0; SLOT_BYTES];
        put(&mut slot, 0, MAGIC);
        put(&mut slot, 8, &crate::FORMAT.to_le_bytes());
        put(&mut slot, 10, &self.shard_count.to_le_bytes());
        put(&mut slot, 16, &self.generation.to_le_bytes());
        put(&mut slot, 24, &self.store.value().to_le_bytes());
        put(&mut slot, 40, &self.cluster.value().to_le_bytes());
        put(&mut slot, 56, &self.epoch_promised.value().to_le_bytes());
        put(&mut slot, 64, &self.epoch_seen.value().to_le_bytes());
        let checksum = crc32c(&slot[..CHECKSUM_AT]);
        put(&mut slot, CHECKSUM_AT, &checksum.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Slot {
        let decoded = (|| {
            let (content, checksum) = slot.split_at_checked(CHECKSUM_AT).ok_or(Flaw::Lengths)?;
            let mut reader = Reader::new(content);
            if reader.array()? != *MAGIC {
                return Err(Flaw::Magic("superblock"));
            }
            if Reader::new(checksum).u32()? != crc32c(content) {
                return Err(Flaw::HeaderChecksum);
            }
            let format = reader.u16()?;
            if format != crate::FORMAT {
                return Ok(Slot::Newer(format));
            }
            let shard_count = reader.u16()?;
            reader.zeroes(4)?;
            let superblock = Self {
                shard_count,
                generation: reader.u64()?,
                store: StoreId::new(reader.u128()?),
                cluster: ClusterId::new(reader.u128()?),
                epoch_promised: Epoch::new(reader.u64()?),
                epoch_seen: Epoch::new(reader.u64()?),
            };
            reader.zeroes(reader.left())?;
            if shard_count == 0 || shard_count > SHARDS_MAX {
                return Err(Flaw::Decode(format!("{shard_count} shards")));
            }
            Ok(Slot::Valid(superblock))
        })();
        decoded.unwrap_or_else(Slot::Bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(generation: u64) -> Superblock {
        Superblock {
            store: StoreId::new(0x1111_2222_3333_4444_5555_6666_7777_8888),
            cluster: ClusterId::new(0xaaaa_bbbb_cccc_dddd_eeee_ffff_0000_1111),
            shard_count: 8,
            generation,
            epoch_promised: Epoch::new(generation * 2),
            epoch_seen: Epoch::new(generation * 2 + 1),
        }
    }

    fn file(first: &Superblock, second: &Superblock) -> Vec<u8> {
        [first.encode(), second.encode()].concat()
    }

    #[track_caller]
    fn valid(content: &[u8]) -> (Superblock, bool) {
        match read(content) {
            Reading::Valid { superblock, whole } => (superblock, whole),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_are_where_the_format_says() {
        let slot = superblock(5).encode();
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(&slot[..16], b"CELNODE\0\x01\0\x08\0\0\0\0\0");
        assert_eq!(slot[16..24], 5u64.to_le_bytes());
        assert_eq!(slot[24..26], [0x88, 0x88]);
        assert_eq!(slot[40..42], [0x11, 0x11]);
        assert_eq!(slot[56..72], [10, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
        assert!(slot[72..CHECKSUM_AT].iter().all(|&byte| byte == 0));
        assert_eq!(slot[CHECKSUM_AT..], 0xe48a_a329_u32.to_le_bytes());
    }

    #[test]
    fn the_higher_generation_counts_wherever_it_is() {
        let (old, new) = (superblock(3), superblock(4));
        assert_eq!(valid(&file(&new, &new)), (new, true));
        assert_eq!(valid(&file(&new, &old)), (new, false));
        assert_eq!(valid(&file(&old, &new)), (new, false));
    }

    #[test]
    fn any_flipped_byte_is_noticed_and_the_other_slot_used() {
        let whole = superblock(4);
        let content = file(&whole, &whole);
        for at in 0..content.len() {
            let mut flipped = content.clone();
            flipped[at] ^= 0x40;
            assert_eq!(valid(&flipped), (whole, false), "byte {at}");
            flipped[(at + SLOT_BYTES) % (2 * SLOT_BYTES)] ^= 0x01;
            assert!(matches!(read(&flipped), Reading::Damaged(_)), "byte {at} in both");
        }
    }

    #[test]
    fn an_update_torn_at_any_sector_leaves_the_old_or_the_new() {
        let (old, new) = (superblock(3), superblock(4));
        let (before, after) = (file(&old, &old), file(&new, &new));
        for torn_slot in [0, SLOT_BYTES] {
            for sectors in 0u32..256 {
                // The first slot is whole before the second is written.
                let mut content = before.clone();
                content[..torn_slot].copy_from_slice(&after[..torn_slot]);
                for sector in (0..8).filter(|sector| sectors & (1 << sector) != 0) {
                    let bytes = torn_slot + sector * 512..torn_slot + (sector + 1) * 512;
                    content[bytes.clone()].copy_from_slice(&after[bytes]);
                }
                let (found, _) = valid(&content);
                assert!(found == new || torn_slot == 0 && found == old, "{sectors:08b}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_not_taken_for_damage() {
        let mut slot = superblock(4).encode();
        put(&mut slot, 8, &9u16.to_le_bytes());
        let checksum = crc32c(&slot[..CHECKSUM_AT]);
        put(&mut slot, CHECKSUM_AT, &checksum.to_le_bytes());
        let mixed = [superblock(4).encode(), slot.clone()].concat();
        assert!(matches!(read(&mixed), Reading::Newer(9)));
        assert!(matches!(read(&[slot.clone(), slot].concat()), Reading::Newer(9)));
    }

    #[test]
    fn a_file_cut_anywhere_uses_the_first_slot_or_is_damaged() {
        let whole = superblock(4);
        let content = file(&whole, &whole);
        for len in 0..content.len() {
            match read(&content[..len]) {
                Reading::Valid { superblock, whole: false } => {
                    assert!(len >= SLOT_BYTES);
                    assert_eq!(superblock, whole);
                }
                Reading::Damaged(_) => assert!(len < SLOT_BYTES),
                other => panic!("{len}: {other:?}"),
            }
        }
    }
}
