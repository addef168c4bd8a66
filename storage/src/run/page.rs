//! A page: header, rows that share the front of their keys with the one before, and restarts.
//!
//! ```text
//! | header 36 | row row … row | 0 … 0 | restart restart … |      4,096 bytes
//!               └─ number 4: shared, rest, value │ rest of the key │ value
//! ```
//! Every eighth row has its whole key and its offset among the restarts, so a key is found by a
//! binary search over those and a look at seven rows. Bytes in docs/format.md §3.
//!
//! Nothing here believes a page: [`verify`] goes through all of it once, and reading checks every
//! length again.

use std::cmp::Ordering;
use std::ops::Range;

use celeriant_schema::{ClusterId, ShardId};

use super::{PAGE_BYTES, ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX};
use crate::Identity;
use crate::codec::{Reader, crc32c, put};
use crate::error::Flaw;

/// Bytes before a page's content.
pub(super) const HEADER_BYTES: usize = 36;
/// Bytes before a row's key.
pub(super) const ROW_HEADER_BYTES: usize = 4;
/// So many rows from one with a whole key to the next.
pub(super) const RESTART_ROWS: usize = 8;

/// What a page is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Rows.
    Leaf = 1,
    /// First keys of leaves.
    Node = 2,
    /// Which rows are under a node.
    Filter = 3,
    /// First keys and places of nodes.
    Top = 4,
    /// The end of the file.
    Footer = 5,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Leaf => "leaf of a run",
            Self::Node => "node of a run",
            Self::Filter => "filter of a run",
            Self::Top => "top of a run",
            Self::Footer => "footer of a run",
        }
    }

    fn of(byte: u8) -> Result<Self, Flaw> {
        let kinds = [Self::Leaf, Self::Node, Self::Filter, Self::Top, Self::Footer];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == byte);
        kind.ok_or(Flaw::Magic("page of a run"))
    }
}

/// What a header says besides what its page is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) identity: Identity,
    pub(super) run: u32,
    pub(super) page: u32,
    pub(super) kind: Kind,
    pub(super) rows: u16,
    pub(super) end: u16,
}

impl Header {
    /// Writes the header of a page whose content is in place, and its checksum.
    pub(super) fn seal(&self, page: &mut [u8]) {
        page[4] = self.kind as u8;
        put(page, 6, &self.identity.shard.value().to_le_bytes());
        put(page, 8, &self.identity.cluster.value().to_le_bytes());
        put(page, 24, &self.run.to_le_bytes());
        put(page, 28, &self.page.to_le_bytes());
        put(page, 32, &self.rows.to_le_bytes());
        put(page, 34, &self.end.to_le_bytes());
        let checksum = crc32c(&page[4..]);
        put(page, 0, &checksum.to_le_bytes());
    }

    fn decode(page: &[u8]) -> Result<Self, Flaw> {
        let mut reader = Reader::new(page);
        reader.u32()?;
        let [kind, _] = reader.array()?;
        let shard = ShardId::new(reader.u16()?);
        let cluster = ClusterId::new(reader.u128()?);
        let (run, number) = (reader.u32()?, reader.u32()?);
        let (rows, end) = (reader.u16()?, reader.u16()?);
        let identity = Identity { cluster, shard };
        Ok(Self { identity, run, page: number, kind: Kind::of(kind)?, rows, end })
    }
}

/// Checks a page, whatever its kind, and says which it is.
pub(super) fn verify(
    page: &[u8],
    identity: &Identity,
    run: u32,
    number: u32,
) -> Result<Kind, Flaw> {
    let (Some(checksum), PAGE_BYTES) = (page.first_chunk(), page.len()) else {
        return Err(Flaw::Lengths);
    };
    if u32::from_le_bytes(*checksum) != crc32c(&page[4..]) {
        return Err(Flaw::BodyChecksum);
    }
    let header = Header::decode(page)?;
    if header.identity != *identity {
        return Err(Flaw::Foreign("shard"));
    }
    if header.run != run {
        return Err(Flaw::Foreign("run"));
    }
    if header.page != number {
        return Err(Flaw::Foreign("page"));
    }
    if matches!(header.kind, Kind::Leaf | Kind::Node | Kind::Top) {
        Rows::of(page, header.kind)?.check()?;
    }
    Ok(header.kind)
}

/// The rows of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    page: &'a [u8],
    rows: usize,
    end: usize,
}

/// A row as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored<'a> {
    /// Bytes of the key before that this one begins with.
    shared: usize,
    /// The other bytes of the key.
    rest: &'a [u8],
    /// Where in the page the value is.
    pub(super) value: Range<usize>,
}

/// A row at or below what was looked for.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its number in the page.
    pub(super) row: usize,
    /// It is the very key.
    pub(super) exact: bool,
    /// Where in the page its value is.
    pub(super) value: Range<usize>,
}

impl<'a> Rows<'a> {
    /// # Errors
    /// It is not a page of that kind, or its lengths contradict each other.
    pub(super) fn of(page: &'a [u8], kind: Kind) -> Result<Self, Flaw> {
        if page.len() != PAGE_BYTES {
            return Err(Flaw::Lengths);
        }
        if page[4] != kind as u8 {
            return Err(Flaw::Magic(kind.name()));
        }
        let rows = usize::from(u16::from_le_bytes([page[32], page[33]]));
        let end = usize::from(u16::from_le_bytes([page[34], page[35]]));
        let restarts = rows.div_ceil(RESTART_ROWS);
        if rows == 0 || end < HEADER_BYTES || end + 2 * restarts > PAGE_BYTES {
            return Err(Flaw::Lengths);
        }
        Ok(Self { page, rows, end })
    }

    /// How many there are, at least one.
    pub(super) fn count(&self) -> usize {
        self.rows
    }

    /// Number of the last row.
    pub(super) fn last(&self) -> usize {
        self.rows - 1
    }

    /// The greatest row at or below `key`.
    pub(super) fn search(&self, key: &[u8]) -> Result<Option<Found>, Flaw> {
        let (mut low, mut high) = (0, self.restarts());
        while low < high {
            let middle = (low + high) / 2;
            if self.restart_key(middle)? <= key { low = middle + 1 } else { high = middle }
        }
        match low.checked_sub(1) {
            Some(restart) => self.search_from(restart, key).map(Some),
            None => Ok(None),
        }
    }

    /// The same among the eight rows of a restart whose key is at or below `key`. No key is put
    /// together: `matched` bytes of the row before are those of `key`, and it is below in the next.
    fn search_from(&self, restart: usize, key: &[u8]) -> Result<Found, Flaw> {
        let mut row = restart * RESTART_ROWS;
        let until = (row + RESTART_ROWS).min(self.rows);
        let first = self.stored(self.restart(restart)?)?;
        let mut matched = common_prefix(first.rest, key);
        let exact = matched == key.len() && matched == first.rest.len();
        let mut at = first.value.end;
        let mut found = Found { row, exact, value: first.value };
        while !found.exact && row + 1 < until {
            row += 1;
            let next = self.stored(at)?;
            at = next.value.end;
            match next.shared.cmp(&matched) {
                // It has the byte in which the row before is below.
                Ordering::Greater => {}
                // It is above the row before in a byte that is the key's.
                Ordering::Less => break,
                Ordering::Equal => {
                    let rest = key.get(matched..).unwrap_or_default();
                    let more = common_prefix(next.rest, rest);
                    found.exact = more == rest.len() && more == next.rest.len();
                    if next.rest.get(more) > rest.get(more) {
                        break;
                    }
                    matched += more;
                }
            }
            found = Found { row, value: next.value, ..found };
        }
        Ok(found)
    }

    /// Offset of a row; `key` becomes the key of the row before it, as far as that matters.
    pub(super) fn walk_to(&self, row: usize, key: &mut Vec<u8>) -> Result<usize, Flaw> {
        let mut at = self.restart(row / RESTART_ROWS)?;
        for _ in 0..row % RESTART_ROWS {
            at = self.read(at, key)?.value.end;
        }
        Ok(at)
    }

    /// The row at an offset; `key`, which is that of the row before, becomes its own.
    pub(super) fn read(&self, at: usize, key: &mut Vec<u8>) -> Result<Stored<'a>, Flaw> {
        let stored = self.stored(at)?;
        if stored.shared > key.len() {
            return Err(Flaw::Lengths);
        }
        key.truncate(stored.shared);
        key.extend_from_slice(stored.rest);
        Ok(stored)
    }

    /// A row's value.
    pub(super) fn value(&self, row: usize) -> Result<&'a [u8], Flaw> {
        let mut at = self.restart(row / RESTART_ROWS)?;
        for _ in 0..row % RESTART_ROWS {
            at = self.stored(at)?.value.end;
        }
        self.page.get(self.stored(at)?.value).ok_or(Flaw::Lengths)
    }

    /// The whole key of every eighth row.
    pub(super) fn restart_key(&self, restart: usize) -> Result<&'a [u8], Flaw> {
        Ok(self.stored(self.restart(restart)?)?.rest)
    }

    fn restarts(&self) -> usize {
        self.rows.div_ceil(RESTART_ROWS)
    }

    fn restart(&self, restart: usize) -> Result<usize, Flaw> {
        let at = PAGE_BYTES - 2 * self.restarts() + 2 * restart;
        match self.page.get(at..at + 2) {
            Some(&[low, high]) => Ok(usize::from(u16::from_le_bytes([low, high]))),
            _ => Err(Flaw::Lengths),
        }
    }

    fn stored(&self, at: usize) -> Result<Stored<'a>, Flaw> {
        let number = self.page.get(at..).and_then(|bytes| bytes.first_chunk());
        let number = u32::from_le_bytes(*number.ok_or(Flaw::Lengths)?) as usize;
        let (shared, rest, value) = (number & 0x3ff, number >> 10 & 0x3ff, number >> 20);
        let rest_at = at + ROW_HEADER_BYTES;
        let value_at = rest_at + rest;
        let end = value_at + value;
        if at < HEADER_BYTES || end > self.end {
            return Err(Flaw::Lengths);
        }
        Ok(Stored { shared, rest: &self.page[rest_at..value_at], value: value_at..end })
    }

    /// Goes through all rows: keys strictly ascend and share exactly what they say, restarts are
    /// where they are said to be, and the last row ends at the end.
    fn check(&self) -> Result<(), Flaw> {
        let mut key = Vec::with_capacity(ROW_KEY_BYTES_MAX);
        let mut at = HEADER_BYTES;
        for row in 0..self.rows {
            let stored = self.stored(at)?;
            let key_bytes = stored.shared + stored.rest.len();
            if key_bytes > ROW_KEY_BYTES_MAX || stored.value.len() > ROW_VALUE_BYTES_MAX {
                return Err(Flaw::Lengths);
            }
            let ascends = if row.is_multiple_of(RESTART_ROWS) {
                if self.restart(row / RESTART_ROWS)? != at || stored.shared != 0 {
                    return Err(Flaw::Lengths);
                }
                row == 0 || stored.rest > key.as_slice()
            } else {
                // Searching relies on it that the first byte not shared differs.
                stored.shared <= key.len() && stored.rest.first() > key.get(stored.shared)
            };
            if !ascends {
                return Err(Flaw::Chain("rows out of order"));
            }
            at = self.read(at, &mut key)?.value.end;
        }
        if at == self.end { Ok(()) } else { Err(Flaw::Lengths) }
    }
}

/// How many bytes two keys begin with in common.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let mut same = 0;
    for (a, b) in words_a.iter().zip(words_b) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return same + differ.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}
