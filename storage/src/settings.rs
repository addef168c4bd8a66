//! Sizes that a log works with. Plain data; defaults are for production.

use celeriant_schema::limits::{FRAME_BYTES_MAX, FRAME_BYTES_SOFT, SECTOR_BYTES};

use crate::error::Error;

/// How a log lays itself out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Frames in flight at a time, 1–16. More hides device latency; recovery must look this many
    /// frames behind a hole.
    pub write_depth: usize,
    /// Size of the first segment, in bytes; each further one has twice the size of the one before.
    pub segment_bytes_first: u64,
    /// Size at which segments stop growing, in bytes.
    pub segment_bytes_max: u64,
    /// A frame that has grown to this takes no more records, in bytes.
    pub frame_bytes_soft: usize,
    /// While a write is in flight, a further frame is only sealed when it has this many bytes, or
    /// as many as the largest one in flight. 0: at once.
    pub fill_bytes: usize,
    /// Memory of the shard's directory.
    pub directory: DirectoryBudget,
    /// So many bytes of log are replayed at a start: then the directory is written out, however
    /// little changed in it.
    pub checkpoint_bytes: u64,
    /// So many bytes of segments are gone through in a second, at most, to erase what was deleted
    /// or trimmed. 0: only when that is ordered.
    pub compaction_bytes: u64,
}

/// Memory that the directory of a shard may use, in bytes, whatever the number of aggregates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirectoryBudget {
    /// Rows that are not written out yet, those being written out included.
    pub memtable_bytes: usize,
    /// Pages of the rows that are.
    pub cache_bytes: usize,
}

impl Default for DirectoryBudget {
    fn default() -> Self {
        Self { memtable_bytes: 16 << 20, cache_bytes: 32 << 20 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            write_depth: 4,
            segment_bytes_first: 16 << 20,
            segment_bytes_max: 256 << 20,
            frame_bytes_soft: FRAME_BYTES_SOFT,
            fill_bytes: 128 << 10,
            directory: DirectoryBudget::default(),
            checkpoint_bytes: 32 << 20,
            compaction_bytes: 8 << 20,
        }
    }
}

/// Most frames that may be in flight at a time.
pub const WRITE_DEPTH_MAX: usize = 16;

impl Settings {
    /// Checks them against each other.
    ///
    /// # Errors
    /// What cannot work.
    pub fn validate(&self) -> Result<(), Error> {
        let sector = SECTOR_BYTES as u64;
        let checks = [
            ((1..=WRITE_DEPTH_MAX).contains(&self.write_depth), "write_depth must be 1 to 16"),
            (
                self.segment_bytes_first.is_multiple_of(sector)
                    && self.segment_bytes_max.is_multiple_of(sector),
                "segment sizes must be multiples of 4096",
            ),
            (self.segment_bytes_first >= 4 * sector, "segment_bytes_first must be at least 16384"),
            (
                self.segment_bytes_max >= self.segment_bytes_first,
                "segment_bytes_max must not be below segment_bytes_first",
            ),
            (self.segment_bytes_max <= 1 << 40, "segment_bytes_max must be at most 1 TiB"),
            (self.frame_bytes_soft <= FRAME_BYTES_MAX, "frame_bytes_soft is above a frame's limit"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(Error::Settings(why)),
            None => Ok(()),
        }
    }

    /// Size of segment `number` (from 1), in bytes.
    pub fn segment_bytes(&self, number: u32) -> u64 {
        let doublings = number.saturating_sub(1).min(40);
        self.segment_bytes_first.saturating_mul(1 << doublings).min(self.segment_bytes_max)
    }

    /// Largest frame, in bytes: one must fit into the smallest segment beside its header page.
    pub fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX.min((self.segment_bytes_first as usize).saturating_sub(SECTOR_BYTES))
    }
}
