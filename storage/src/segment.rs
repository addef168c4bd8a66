//! A segment file: one header page, then frames, then zeroes to the end.
//!
//! ```text
//! NNNNNNNN.seg   | header page 4,096 | frame | frame | … | zeroes … |   fixed size
//! ```
//! The header page is written when the file is made and never again. Deliberately absent: an end
//! mark; the tail validates itself. Bytes in docs/format.md §1.

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{ClusterId, Lsn, ShardId};

use crate::codec::{Reader, crc32c, put};
use crate::error::Flaw;
use crate::{FORMAT, Identity};

/// First frame of every segment: behind the header page.
pub const FIRST_FRAME_OFFSET: u64 = SECTOR_BYTES as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"CLRSEG\r\n");
const CHECKSUM_AT: usize = SECTOR_BYTES - 4;

/// What the header page of a segment says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentHeader {
    /// Cluster and shard that it belongs to.
    pub identity: Identity,
    /// Its number, from 1, without gaps.
    pub number: u32,
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// No record of the segment has a lower lsn. A hint: segments are made ahead.
    pub lsn_hint: Lsn,
}

impl SegmentHeader {
    /// The page, checksum included.
    pub fn encode(&self) -> Bytes {
        let mut page = vec![0; SECTOR_BYTES];
        put(&mut page, 0, &MAGIC.to_le_bytes());
        put(&mut page, 8, &FORMAT.to_le_bytes());
        put(&mut page, 10, &self.identity.shard.value().to_le_bytes());
        put(&mut page, 12, &self.number.to_le_bytes());
        put(&mut page, 16, &self.identity.cluster.value().to_le_bytes());
        put(&mut page, 32, &self.bytes.to_le_bytes());
        put(&mut page, 40, &self.lsn_hint.value().to_le_bytes());
        let checksum = crc32c(&page[..CHECKSUM_AT]);
        put(&mut page, CHECKSUM_AT, &checksum.to_le_bytes());
        page.into()
    }

    /// Reads a page without judging whose it is.
    ///
    /// # Errors
    /// When it is not an intact header page of this format.
    pub fn decode(page: &[u8]) -> Result<Self, Flaw> {
        if page.len() < SECTOR_BYTES {
            return Err(Flaw::Missing);
        }
        let mut reader = Reader::new(&page[..CHECKSUM_AT]);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic("segment"));
        }
        let mut tail = Reader::new(&page[CHECKSUM_AT..SECTOR_BYTES]);
        if tail.u32()? != crc32c(&page[..CHECKSUM_AT]) {
            return Err(Flaw::HeaderChecksum);
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("segment of a format that this build knows"));
        }
        let shard = ShardId::new(reader.u16()?);
        let number = reader.u32()?;
        let cluster = ClusterId::new(reader.u128()?);
        let bytes = reader.u64()?;
        let lsn_hint = Lsn::new(reader.u64()?);
        reader.zeroes(reader.left())?;
        Ok(Self { identity: Identity { cluster, shard }, number, bytes, lsn_hint })
    }

    /// Whether it is the header that file `number` of `identity` with `bytes` bytes must have.
    ///
    /// # Errors
    /// What does not agree.
    pub fn check(&self, identity: &Identity, number: u32, bytes: u64) -> Result<(), Flaw> {
        match () {
            () if self.identity.cluster != identity.cluster => Err(Flaw::Foreign("cluster")),
            () if self.identity.shard != identity.shard => Err(Flaw::Foreign("shard")),
            () if self.number != number => Err(Flaw::Foreign("segment")),
            () if self.bytes != bytes => Err(Flaw::Lengths),
            () => Ok(()),
        }
    }
}

/// Name of segment `number`.
pub fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
}

/// Number of the file `name`, if it is `NNNNNNNN.` + `extension`.
pub fn number_of(name: &str, extension: &str) -> Option<u32> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let canonical = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| *number > 0 && canonical)?;
    (format!("{number:08}") == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        let identity = Identity { cluster: ClusterId::new(7 << 90), shard: ShardId::new(3) };
        SegmentHeader { identity, number: 5, bytes: 1 << 20, lsn_hint: Lsn::new(99) }
    }

    #[test]
    fn a_header_page_comes_back_as_it_was() {
        let page = header().encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header()));
        assert_eq!(header().check(&header().identity, 5, 1 << 20), Ok(()));
        assert_eq!(header().check(&header().identity, 6, 1 << 20), Err(Flaw::Foreign("segment")));
    }

    #[test]
    fn every_flipped_byte_of_a_header_page_is_seen() {
        let page = header().encode();
        for at in 0..page.len() {
            let mut flipped = page.to_vec();
            flipped[at] ^= 0x40;
            assert!(SegmentHeader::decode(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(segment_name(12), "00000012.seg");
        assert_eq!(number_of("00000012.seg", "seg"), Some(12));
        assert_eq!(number_of("4000000000.run", "run"), Some(4_000_000_000));
        for stranger in ["12.seg", "00000000.seg", "0000001x.seg", "00000001.run", "000000012.seg"]
        {
            assert_eq!(number_of(stranger, "seg"), None, "{stranger}");
        }
    }
}
