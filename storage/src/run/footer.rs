//! The last page of a run: what it is, and where its top begins.

use super::PAGE_BYTES;
use super::page::{self, HEADER_BYTES, Header, Kind};
use crate::buffer::AlignedBuffer;
use crate::codec::{Reader, put};
use crate::error::Flaw;
use crate::{FORMAT, Identity};

/// Some of its aggregates were cut.
const FLAG_CUTS: u16 = 1;
/// Some legs were aborted.
const FLAG_ABORTED: u16 = 2;
const MAGIC: u64 = u64::from_le_bytes(*b"CLRRUN\r\n");

/// Rows that few runs have: whoever looks for them passes over those that have none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Holds {
    /// Some of its aggregates were deleted or trimmed.
    pub(crate) cuts: bool,
    /// Some legs were aborted.
    pub(crate) aborted: bool,
}

/// What a run says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Footer {
    pub(super) run: u32,
    /// Pages of the file, this one included.
    pub(super) pages: u32,
    pub(super) top_first: u32,
    pub(super) rows: u64,
    pub(super) filtered: u64,
    pub(super) aggregates: u64,
    pub(super) holds: Holds,
}

impl Footer {
    /// Reads the last page of a file of `file_bytes`.
    ///
    /// # Errors
    /// The file is not a whole run of that number.
    pub(crate) fn decode(
        content: &[u8],
        identity: &Identity,
        run: u32,
        file_bytes: u64,
    ) -> Result<Self, Flaw> {
        let pages = u32::try_from(file_bytes / PAGE_BYTES as u64).map_err(|_| Flaw::Lengths)?;
        if pages == 0 || !file_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(Flaw::Lengths);
        }
        if page::verify(content, identity, run, pages - 1)? != Kind::Footer {
            return Err(Flaw::Magic(Kind::Footer.name()));
        }
        let mut reader = Reader::new(&content[HEADER_BYTES..]);
        if reader.u64()? != MAGIC {
            return Err(Flaw::Magic(Kind::Footer.name()));
        }
        if reader.u16()? != FORMAT {
            return Err(Flaw::Magic("run of a format that this build knows"));
        }
        let flags = reader.u16()?;
        let (rows, filtered, aggregates) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let top_first = reader.u32()?;
        let holds = Holds { cuts: flags & FLAG_CUTS != 0, aborted: flags & FLAG_ABORTED != 0 };
        let footer = Self { run, pages, top_first, rows, filtered, aggregates, holds };
        let consistent = reader.u32()? == pages
            && flags & !(FLAG_CUTS | FLAG_ABORTED) == 0
            && top_first < pages
            && footer.top_pages() <= u32::MAX / PAGE_BYTES as u32;
        if consistent { Ok(footer) } else { Err(Flaw::Lengths) }
    }

    /// Where the top begins in the file, in bytes.
    pub(crate) fn top_offset(&self) -> u64 {
        u64::from(self.top_first) * PAGE_BYTES as u64
    }

    /// How long it is, in bytes; nothing if the run has no rows.
    pub(crate) fn top_bytes(&self) -> u32 {
        self.top_pages() * PAGE_BYTES as u32
    }

    fn top_pages(&self) -> u32 {
        self.pages - 1 - self.top_first
    }

    pub(super) fn seal(&self, out: &mut AlignedBuffer, identity: Identity) {
        let to = out.extend_zeroed(PAGE_BYTES);
        put(to, 36, &MAGIC.to_le_bytes());
        put(to, 44, &FORMAT.to_le_bytes());
        let cuts = if self.holds.cuts { FLAG_CUTS } else { 0 };
        let aborted = if self.holds.aborted { FLAG_ABORTED } else { 0 };
        put(to, 46, &(cuts | aborted).to_le_bytes());
        put(to, 48, &self.rows.to_le_bytes());
        put(to, 56, &self.filtered.to_le_bytes());
        put(to, 64, &self.aggregates.to_le_bytes());
        put(to, 72, &self.top_first.to_le_bytes());
        put(to, 76, &self.pages.to_le_bytes());
        let (run, page) = (self.run, self.pages - 1);
        Header { identity, run, page, kind: Kind::Footer, rows: 0, end: 0 }.seal(to);
    }
}
