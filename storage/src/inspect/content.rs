//! What a segment holds, whether it is packed or not.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;

use super::walk::read_at;
use crate::error::Flaw;
use crate::packed::{Footer, PIECE_BYTES, Table, parse_packed_name};
use crate::segment::SegmentHeader;

/// Stands for what cannot be unpacked: no frame and, unlike zeroes, no end either.
const LOST: u8 = 0xff;

/// An open segment.
#[derive(Debug)]
pub(super) struct Content {
    file: File,
    /// Size of the segment, in bytes.
    pub(super) bytes: u64,
    table: Option<Table>,
}

impl Content {
    /// Opens a `.seg` or `.pack` file. The flaw: it is no packed segment, or not a whole one.
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Result<Self, Flaw>> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if parse_packed_name(&name).is_none() {
            return Ok(Ok(Self { file, bytes, table: None }));
        }
        let last = read_at(&file, bytes.saturating_sub(SECTOR_BYTES as u64), SECTOR_BYTES)?;
        let footer = match Footer::whose(&last, number, bytes) {
            Ok(footer) => footer,
            Err(flaw) => return Ok(Err(flaw)),
        };
        let table = read_at(&file, footer.table_at(), footer.table_len())?;
        Ok(Table::decode(&footer, &table).map(|table| Self {
            file,
            bytes: table.bytes(),
            table: Some(table),
        }))
    }

    /// The page that every segment starts with.
    pub(super) fn header(&self, number: u32) -> io::Result<Result<SegmentHeader, Flaw>> {
        let page = self.read_at(0, SECTOR_BYTES)?;
        Ok(SegmentHeader::decode(&page)
            .and_then(|header| header.check(&header.identity, number, self.bytes).map(|()| header)))
    }

    /// Up to `len` bytes at `offset`; fewer at the end.
    pub(super) fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let Some(table) = &self.table else { return read_at(&self.file, offset, len) };
        let end = self.bytes.min(offset + len as u64);
        let mut found = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let piece_end = (at / PIECE_BYTES as u64 + 1) * PIECE_BYTES as u64;
            let part = (piece_end.min(end) - at) as u32;
            let range = table.range(at, part);
            let read = read_at(&self.file, range.start, (range.end - range.start) as usize)?;
            match table.unpack(at, part, &read) {
                Ok(bytes) => found.extend_from_slice(&bytes),
                Err(_) => found.resize(found.len() + part as usize, LOST),
            }
            at += u64::from(part);
        }
        Ok(found.into())
    }
}
