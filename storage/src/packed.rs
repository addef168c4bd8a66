//! A packed segment: the same bytes as the segment file, compressed piece by piece.
//!
//! ```text
//! NNNNNNNN.G.pack  | piece | piece | … | table: end of each piece | footer 4,096 |
//!                      └ checksum, length, zstd, zeroes to n × 4,096; nothing if all is zero
//! ```
//! A piece holds 128 KiB of the original file, whatever lies there: so every place in a segment
//! keeps its meaning, and one read gets any part of it back. `G` counts how often the segment was
//! packed. The file is written once, front to back, and synced before anything else happens; as
//! long as an older one of the same segment is there, that one counts. Bytes in docs/format.md §6.

use std::ops::Range;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{ClusterId, ShardId};

use crate::buffer::AlignedBuffer;
use crate::codec::{Reader, crc32c, put};
use crate::error::Flaw;
use crate::scan::is_zero;
use crate::{FORMAT, Identity};

/// Bytes of the original in one piece. Reading one byte costs unpacking this much, some 100 µs.
pub(crate) const PIECE_BYTES: usize = 128 << 10;
const PIECE_HEADER: usize = 8;
/// The fastest that still finds what repeats: packing shares a thread with writers.
const LEVEL: i32 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"CLRPCK\r\n");
const CHECKSUM_AT: usize = SECTOR_BYTES - 4;
const SECTOR: u64 = SECTOR_BYTES as u64;

/// Name of segment `number`, packed for the `generation`-th time.
pub(crate) fn packed_name(number: u32, generation: u32) -> String {
    format!("{number:08}.{generation}.pack")
}

/// Number and generation of the file `name`, if it is one of those.
pub(crate) fn parse_packed_name(name: &str) -> Option<(u32, u32)> {
    let (digits, generation) = name.strip_suffix(".pack")?.split_once('.')?;
    let generation: u32 = generation.parse().ok().filter(|it| *it > 0)?;
    let number = digits.parse().ok().filter(|it: &u32| *it > 0)?;
    (packed_name(number, generation) == name).then_some((number, generation))
}

/// Where the pieces lie, in memory: 4 bytes each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Table {
    /// Size of the original, in bytes.
    bytes: u64,
    /// Where each piece ends in the file, in sectors. A piece of zeroes ends where it starts.
    ends: Vec<u32>,
}

/// What the last page of a packed segment says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Footer {
    identity: Identity,
    /// Size of the original, in bytes.
    bytes: u64,
    /// Where the table starts in the file, in bytes.
    table_at: u64,
    table_checksum: u32,
}

impl Table {
    /// Of an original of `bytes` bytes; no piece yet.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, ends: Vec::new() }
    }

    /// The size of the original, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes of the file are pieces.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.ends.last().copied().unwrap_or(0)) * SECTOR
    }

    /// Which part of the original the next piece holds; `None` when there are all.
    pub(crate) fn next_piece(&self) -> Option<Range<u64>> {
        let start = (self.ends.len() * PIECE_BYTES) as u64;
        let end = self.bytes.min(start + PIECE_BYTES as u64);
        (start < self.bytes).then_some(start..end)
    }

    /// Packs what [`Self::next_piece`] named. The piece goes to the end of the file; `None`: there
    /// is nothing to write.
    ///
    /// # Panics
    /// When `original` has another length than the piece.
    pub(crate) fn pack(&mut self, original: &[u8]) -> Option<AlignedBuffer> {
        let expected = self.next_piece().map(|piece| piece.end - piece.start);
        assert_eq!(Some(original.len() as u64), expected, "a piece has its length");
        let end = self.ends.last().copied().unwrap_or(0);
        if is_zero(original) {
            self.ends.push(end);
            return None;
        }
        let piece = pack_piece(original);
        self.ends.push(end + (piece.len() / SECTOR_BYTES) as u32);
        Some(piece)
    }

    /// Table and footer, which end the file of segment `number`.
    pub(crate) fn encode(&self, identity: &Identity, number: u32) -> AlignedBuffer {
        let table: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        let mut page = [0; SECTOR_BYTES];
        put(&mut page, 0, &MAGIC.to_le_bytes());
        put(&mut page, 8, &FORMAT.to_le_bytes());
        put(&mut page, 10, &identity.shard.value().to_le_bytes());
        put(&mut page, 12, &number.to_le_bytes());
        put(&mut page, 16, &identity.cluster.value().to_le_bytes());
        put(&mut page, 32, &self.bytes.to_le_bytes());
        put(&mut page, 40, &self.end().to_le_bytes());
        put(&mut page, 48, &crc32c(&table).to_le_bytes());
        let checksum = crc32c(&page[..CHECKSUM_AT]);
        put(&mut page, CHECKSUM_AT, &checksum.to_le_bytes());
        let mut out = AlignedBuffer::copy_of(&table);
        out.pad_to_block();
        out.extend_from_slice(&page);
        out
    }

    /// Reads the table that `footer` speaks of.
    ///
    /// # Errors
    /// When it is not intact.
    pub(crate) fn decode(footer: &Footer, bytes: &[u8]) -> Result<Self, Flaw> {
        let table = bytes.get(..footer.pieces() * 4).ok_or(Flaw::Lengths)?;
        if crc32c(table) != footer.table_checksum {
            return Err(Flaw::BodyChecksum);
        }
        let mut reader = Reader::new(table);
        let mut ends = Vec::with_capacity(footer.pieces());
        let mut before = 0;
        for _ in 0..footer.pieces() {
            let end = reader.u32()?;
            if end < before {
                return Err(Flaw::Lengths);
            }
            ends.push(end);
            before = end;
        }
        let table = Self { bytes: footer.bytes, ends };
        if table.end() == footer.table_at { Ok(table) } else { Err(Flaw::Lengths) }
    }

    /// Which bytes of the file to read for `len` bytes at `offset` of the original.
    pub(crate) fn range(&self, offset: u64, len: u32) -> Range<u64> {
        let pieces = self.pieces(offset, len);
        let start = self.start_of(pieces.start);
        start..self.start_of(pieces.end).max(start)
    }

    /// The part of the original, fewer bytes at its end, from what was read of [`Self::range`].
    ///
    /// # Errors
    /// When that is not what was packed.
    pub(crate) fn unpack(&self, offset: u64, len: u32, read: &[u8]) -> Result<Bytes, Flaw> {
        let pieces = self.pieces(offset, len);
        let (first, base) = (pieces.start, self.start_of(pieces.start));
        let from = (first * PIECE_BYTES) as u64;
        let to = self.bytes.min((pieces.end * PIECE_BYTES) as u64);
        let mut original = vec![0; to.saturating_sub(from) as usize];
        for (index, out) in pieces.zip(original.chunks_mut(PIECE_BYTES)) {
            let (start, end) = (self.start_of(index) - base, self.start_of(index + 1) - base);
            if start < end {
                let piece = read.get(start as usize..end as usize).ok_or(Flaw::Lengths)?;
                unpack_piece(piece, out)?;
            }
        }
        let start = (offset.min(to) - from.min(offset)) as usize;
        let end = original.len().min(start + len as usize);
        Ok(Bytes::from(original).slice(start.min(end)..end))
    }

    /// Pieces that have a part of `len` bytes at `offset`.
    fn pieces(&self, offset: u64, len: u32) -> Range<usize> {
        let end = self.bytes.min(offset + u64::from(len));
        let first = (offset.min(end) / PIECE_BYTES as u64) as usize;
        first..(end.div_ceil(PIECE_BYTES as u64) as usize).max(first)
    }

    fn start_of(&self, piece: usize) -> u64 {
        let before = piece.checked_sub(1).and_then(|before| self.ends.get(before));
        u64::from(before.copied().unwrap_or(0)) * SECTOR
    }
}

impl Footer {
    /// Reads the last page of the packed segment `number` of `identity`, a file of `len` bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn decode(
        page: &[u8],
        identity: &Identity,
        number: u32,
        len: u64,
    ) -> Result<Self, Flaw> {
        let footer = Self::whose(page, number, len)?;
        match footer.identity {
            found if found.cluster != identity.cluster => Err(Flaw::Foreign("cluster")),
            found if found.shard != identity.shard => Err(Flaw::Foreign("shard")),
            _ => Ok(footer),
        }
    }

    /// The same, whoever it belongs to: the segment's own header page says so, too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn whose(page: &[u8], number: u32, len: u64) -> Result<Self, Flaw> {
        let page = page.get(..SECTOR_BYTES).ok_or(Flaw::Lengths)?;
        let mut reader = Reader::new(page);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic("packed segment"));
        }
        if Reader::new(&page[CHECKSUM_AT..]).u32()? != crc32c(&page[..CHECKSUM_AT]) {
            return Err(Flaw::HeaderChecksum);
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("packed segment of a format that this build knows"));
        }
        let (shard, found) = (ShardId::new(reader.u16()?), reader.u32()?);
        let cluster = ClusterId::new(reader.u128()?);
        if found != number {
            return Err(Flaw::Foreign("segment"));
        }
        let identity = Identity { cluster, shard };
        let footer = Self {
            identity,
            bytes: reader.u64()?,
            table_at: reader.u64()?,
            table_checksum: reader.u32()?,
        };
        let is_sized = footer.bytes > 0 && footer.bytes <= 1 << 40;
        let adds_up = || footer.table_at.checked_add(footer.table_len() as u64 + SECTOR);
        if is_sized && adds_up() == Some(len) { Ok(footer) } else { Err(Flaw::Lengths) }
    }

    /// Where to read the table, in bytes of the file.
    pub(crate) fn table_at(&self) -> u64 {
        self.table_at
    }

    /// How much to read for it, in bytes.
    pub(crate) fn table_len(&self) -> usize {
        (self.pieces() * 4).next_multiple_of(SECTOR_BYTES)
    }

    fn pieces(&self) -> usize {
        self.bytes.div_ceil(PIECE_BYTES as u64) as usize
    }
}

fn pack_piece(original: &[u8]) -> AlignedBuffer {
    // In memory, with room for what does not shrink: nothing is left that could fail.
    let packed = match zstd::bulk::compress(original, LEVEL) {
        Ok(packed) => packed,
        Err(error) => panic!("{} bytes are not packed: {error}", original.len()),
    };
    let mut piece = AlignedBuffer::with_capacity(PIECE_HEADER + packed.len());
    piece.extend_from_slice(&crc32c(&packed).to_le_bytes());
    piece.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    piece.extend_from_slice(&packed);
    piece.pad_to_block();
    piece
}

fn unpack_piece(piece: &[u8], out: &mut [u8]) -> Result<(), Flaw> {
    let mut reader = Reader::new(piece);
    let (checksum, len) = (reader.u32()?, reader.u32()?);
    let packed = reader.take(len as usize)?;
    if crc32c(packed) != checksum {
        return Err(Flaw::BodyChecksum);
    }
    let unpacked = zstd::bulk::decompress_to_buffer(packed, out)
        .map_err(|error| Flaw::Decode(error.to_string()))?;
    if unpacked == out.len() { Ok(()) } else { Err(Flaw::Lengths) }
}

#[cfg(test)]
#[path = "packed/packed_test.rs"]
mod tests;
