//! Where the bytes of a segment are: in its own file, or packed. The only way to read them.

use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::limits::SECTOR_BYTES;

use super::Log;
use crate::buffer::AlignedBuffer;
use crate::disk::{FileId, Op};
use crate::error::Flaw;
use crate::packed::{Table, packed_name};
use crate::segment::segment_name;

/// The file that a segment is read from. Whoever reads of it holds on to it: when nobody else
/// does, the file can go.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: FileId,
    /// How often the segment was packed.
    pub(crate) generation: u32,
    /// Size of the file, in bytes.
    pub(crate) file_bytes: u64,
    /// `None`: the file is the segment.
    table: Option<Table>,
}

/// A part of a segment that is being read.
#[derive(Clone, Debug)]
pub struct Fetch {
    source: Arc<Source>,
    offset: u64,
    len: u32,
}

impl Source {
    /// A segment as it was written.
    pub(crate) fn plain(file: FileId, bytes: u64) -> Arc<Self> {
        Arc::new(Self { file, generation: 0, file_bytes: bytes, table: None })
    }

    /// A segment that was packed.
    pub(crate) fn packed(
        file: FileId,
        file_bytes: u64,
        generation: u32,
        table: Table,
    ) -> Arc<Self> {
        Arc::new(Self { file, generation, file_bytes, table: Some(table) })
    }

    pub(crate) fn is_packed(&self) -> bool {
        self.table.is_some()
    }

    /// Size of the segment, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.as_ref().map_or(self.file_bytes, Table::bytes)
    }

    /// Name of the file, of segment `number`.
    pub(crate) fn name(&self, number: u32) -> String {
        match self.generation {
            0 => segment_name(number),
            generation => packed_name(number, generation),
        }
    }

    /// What to read for `len` bytes at `offset` of the segment.
    pub(crate) fn fetch(self: &Arc<Self>, offset: u64, len: u32) -> (Fetch, Op) {
        let file = self.file;
        let op = match &self.table {
            None => Op::Read { file, offset, len },
            Some(table) => {
                let range = table.range(offset, len);
                // Of zeroes there is nothing to read; a read of nothing is none.
                let len = ((range.end - range.start) as u32).max(SECTOR_BYTES as u32);
                Op::Read { file, offset: range.start, len }
            }
        };
        (Fetch { source: self.clone(), offset, len }, op)
    }
}

impl Log {
    /// What to read for `len` bytes at `offset` of a segment, and what turns it into those bytes.
    /// Both are multiples of 4,096. `None`: there is no such segment.
    pub fn fetch(&self, segment: u32, offset: u64, len: u32) -> Option<(Fetch, Op)> {
        self.source(segment).map(|source| source.fetch(offset, len))
    }

    /// Whether segment `number` is made.
    pub fn has_segment(&self, number: u32) -> bool {
        self.source(number).is_some()
    }

    pub(crate) fn source(&self, segment: u32) -> Option<&Arc<Source>> {
        self.space.source(segment)
    }

    /// From here on `segment`, which is sealed, is read there.
    pub(crate) fn replace_source(&mut self, segment: u32, source: Arc<Source>) {
        self.space.replace(segment, source);
    }

    /// Whether `segment` takes no more frames, and all that it has are committed: it can be packed.
    pub fn is_sealed(&self, segment: u32) -> bool {
        (1..=self.sealed_upto()).contains(&segment)
    }

    /// The last segment that is sealed; 0 if none is. Never less than it was.
    pub fn sealed_upto(&self) -> u32 {
        // A segment's first frame waits until all before it are durable, and is committed after
        // them: segments before that of the first frame that is not are sealed.
        let open = self.first_uncommitted().map_or(self.space.active_number(), |end| end.segment);
        open.saturating_sub(1)
    }

    /// The first sealed segment that is not packed.
    pub fn next_unpacked(&self) -> Option<u32> {
        let is_plain = |segment: &u32| self.source(*segment).is_some_and(|it| !it.is_packed());
        (1..=self.sealed_upto()).find(is_plain)
    }

    /// Lets the next frame begin a new segment, so that what has been written is sealed. `beside`:
    /// as for [`Log::fits_beside`]. False when that must wait: for frames in flight, or for a
    /// segment; pump and ask again after a completion.
    pub fn roll(&mut self, beside: u64) -> bool {
        if self.space.is_fresh() {
            return true;
        }
        let open = if self.open.is_empty() { 0 } else { self.open.frame_bytes_with(0) as u64 };
        let reserve = self.legs.reserve_bytes() + beside + open;
        let may_roll = self.in_flight.is_empty() && !self.poisoned;
        if !may_roll || !self.space.has_spare(reserve) {
            *self.starved.get_mut() |= may_roll;
            return false;
        }
        self.space.rotate();
        self.notes.want();
        true
    }
}

impl Fetch {
    /// The segment's bytes from those of its file; fewer only at its end.
    ///
    /// # Errors
    /// When the file does not hold what was written.
    pub fn take(self, read: AlignedBuffer) -> Result<Bytes, Flaw> {
        match &self.source.table {
            None => Ok(read.into_bytes()),
            Some(table) => table.unpack(self.offset, self.len, &read),
        }
    }
}
