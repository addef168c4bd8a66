//! Recovery's view of a shard's folder: what is there, and whole operations on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::Lsn;
use celeriant_schema::limits::SECTOR_BYTES;

use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::disk::{Disk, DiskError, Done, FileId, Op, run};
use crate::error::{Error, Flaw};
use crate::log::{Segment, Source};
use crate::manifest::MANIFEST_NAME;
use crate::packed::{Footer, Table, packed_name, parse_packed_name};
use crate::segment::{SegmentHeader, number_of, segment_name};
use crate::watermark::WATERMARK_NAME;

/// How much of a file is read at a time, unless a single frame is larger.
pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// What a shard's folder holds.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Sizes of the segment files.
    pub(super) segments: BTreeMap<u32, u64>,
    /// Sizes of the packed segments, by number and generation.
    pub(super) packs: BTreeMap<(u32, u32), u64>,
    /// Sizes of the run files.
    pub(super) runs: BTreeMap<u32, u64>,
    pub(super) has_manifest: bool,
    /// Size of the watermark file.
    pub(super) watermark: Option<u64>,
    /// Files that no version of this crate makes.
    pub(super) strangers: Vec<String>,
}

impl Inventory {
    pub(super) async fn take<D: Disk>(disk: &mut D) -> Result<Self, DiskError> {
        let Done::Listed(files) = run(disk, Op::List).await? else { unreachable!("List lists") };
        let mut inventory = Self::default();
        for (name, bytes) in files {
            if let Some(number) = number_of(&name, "seg") {
                inventory.segments.insert(number, bytes);
            } else if let Some(pack) = parse_packed_name(&name) {
                inventory.packs.insert(pack, bytes);
            } else if let Some(number) = number_of(&name, "run") {
                inventory.runs.insert(number, bytes);
            } else if name == MANIFEST_NAME {
                inventory.has_manifest = true;
            } else if name == WATERMARK_NAME {
                inventory.watermark = Some(bytes);
            } else {
                inventory.strangers.push(name);
            }
        }
        Ok(inventory)
    }

    /// Nothing that a log consists of is there.
    pub(super) fn is_new(&self) -> bool {
        let has_log = !self.segments.is_empty() || !self.packs.is_empty();
        !has_log && self.runs.is_empty() && !self.has_manifest
    }

    /// Generations in which segment `number` is there; 0 is the segment as it was written.
    pub(super) fn generations(&self, number: u32) -> impl Iterator<Item = u32> {
        let plain = self.segments.contains_key(&number).then_some(0);
        let packs = self.packs.range((number, 0)..=(number, u32::MAX));
        plain.into_iter().chain(packs.map(|((_, generation), _)| *generation))
    }
}

pub(super) async fn open<D: Disk>(disk: &mut D, name: &str) -> Result<(FileId, u64), DiskError> {
    match run(disk, Op::Open { name: name.to_owned() }).await? {
        Done::Opened { file, len } => Ok((file, len)),
        other => panic!("Open ended with {other:?}"),
    }
}

pub(super) async fn create<D: Disk>(
    disk: &mut D,
    name: &str,
    len: u64,
    head: Bytes,
) -> Result<FileId, DiskError> {
    match run(disk, Op::Create { name: name.to_owned(), len, written: len, head }).await? {
        Done::Opened { file, .. } => Ok(file),
        other => panic!("Create ended with {other:?}"),
    }
}

pub(super) async fn read<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    len: usize,
) -> Result<Bytes, DiskError> {
    match run(disk, Op::Read { file, offset, len: len as u32 }).await? {
        Done::Read(buffer) => Ok(buffer.into_bytes()),
        other => panic!("Read ended with {other:?}"),
    }
}

pub(super) async fn write<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    buffer: AlignedBuffer,
) -> Result<(), DiskError> {
    run(disk, Op::Write { file, offset, buffer }).await.map(|_| ())
}

pub(super) async fn remove<D: Disk>(disk: &mut D, name: String) -> Result<(), DiskError> {
    run(disk, Op::Remove { name }).await.map(|_| ())
}

/// A whole file, read in windows: its size is the only thing that bounds the memory.
pub(super) async fn read_whole<D: Disk>(disk: &mut D, name: &str) -> Result<Bytes, DiskError> {
    let (file, len) = open(disk, name).await?;
    let mut content = Vec::new();
    while (content.len() as u64) < len {
        let piece = read(disk, file, content.len() as u64, WINDOW_BYTES).await?;
        if piece.is_empty() {
            break;
        }
        content.extend_from_slice(&piece);
    }
    run(disk, Op::Close { file }).await?;
    Ok(content.into())
}

/// Makes segment `number` and opens it.
pub(super) async fn create_segment<D: Disk>(
    disk: &mut D,
    identity: &Identity,
    number: u32,
    bytes: u64,
    lsn_hint: Lsn,
) -> Result<Segment, DiskError> {
    let header = SegmentHeader { identity: *identity, number, bytes, lsn_hint };
    let file = create(disk, &segment_name(number), bytes, header.encode()).await?;
    Ok(Segment { number, file, bytes })
}

/// Opens segment `number`, which must be there, packed so often.
pub(super) async fn open_segment<D: Disk>(
    disk: &mut D,
    identity: &Identity,
    number: u32,
    generation: u32,
) -> Result<Arc<Source>, Error> {
    if generation == 0 {
        let (file, bytes) = open(disk, &segment_name(number)).await?;
        return Ok(Source::plain(file, bytes));
    }
    let name = packed_name(number, generation);
    let (file, len) = open(disk, &name).await?;
    let flawed = |flaw: Flaw, offset| flaw.at(name.clone(), number, offset, Lsn::ZERO);
    let Some(footer_at) = len.checked_sub(SECTOR_BYTES as u64) else {
        return Err(flawed(Flaw::Lengths, 0).into());
    };
    let page = read(disk, file, footer_at, SECTOR_BYTES).await?;
    let footer = Footer::decode(&page, identity, number, len);
    let footer = footer.map_err(|flaw| flawed(flaw, footer_at))?;
    let bytes = read(disk, file, footer.table_at(), footer.table_len()).await?;
    let table = Table::decode(&footer, &bytes);
    let table = table.map_err(|flaw| flawed(flaw, footer.table_at()))?;
    Ok(Source::packed(file, len, generation, table))
}

/// `len` bytes at `offset` of segment `number`, fewer at its end.
pub(super) async fn fetch<D: Disk>(
    disk: &mut D,
    source: &Arc<Source>,
    number: u32,
    offset: u64,
    len: usize,
) -> Result<Bytes, Error> {
    let (fetch, op) = source.fetch(offset, len as u32);
    match run(disk, op).await? {
        Done::Read(buffer) => fetch
            .take(buffer)
            .map_err(|flaw| flaw.at(source.name(number), number, offset, Lsn::ZERO).into()),
        other => panic!("Read ended with {other:?}"),
    }
}

/// Checks the header page of a segment whose frames are to be read.
pub(super) async fn check_segment<D: Disk>(
    disk: &mut D,
    identity: &Identity,
    number: u32,
    source: &Arc<Source>,
) -> Result<(), Error> {
    let bytes = source.bytes();
    let page = fetch(disk, source, number, 0, SECTOR_BYTES).await?;
    SegmentHeader::decode(&page)
        .and_then(|header| header.check(identity, number, bytes))
        .map_err(|flaw| flaw.at(source.name(number), number, 0, Lsn::ZERO).into())
}

/// Reads a segment front to back in windows.
pub(super) struct SegmentReader {
    number: u32,
    source: Arc<Source>,
    window: Bytes,
    window_at: u64,
}

impl SegmentReader {
    pub(super) fn new(number: u32, source: Arc<Source>) -> Self {
        Self { number, source, window: Bytes::new(), window_at: 0 }
    }

    /// `len` bytes at `offset`, fewer at the end of the file.
    pub(super) async fn slice<D: Disk>(
        &mut self,
        disk: &mut D,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, Error> {
        let len = (len as u64).min(self.source.bytes().saturating_sub(offset)) as usize;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let is_inside = offset >= self.window_at
            && offset + len as u64 <= self.window_at + self.window.len() as u64;
        if !is_inside {
            let ahead = (self.source.bytes() - offset).min(WINDOW_BYTES as u64) as usize;
            let len = len.max(ahead);
            self.window = fetch(disk, &self.source, self.number, offset, len).await?;
            self.window_at = offset;
        }
        let start = (offset - self.window_at) as usize;
        if start + len > self.window.len() {
            let name = self.source.name(self.number);
            let at = self.window_at + self.window.len() as u64;
            return Err(Flaw::Lengths.at(name, self.number, at, Lsn::ZERO).into());
        }
        Ok(self.window.slice(start..start + len))
    }
}
