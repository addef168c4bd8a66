//! A read-only walk over the files of a data directory, for people and tools: no node may run
//! meanwhile for the picture to be exact, and nothing is changed.
//!
//! ```text
//! folders(data dir) ─► Folder { segments, watermark slots, manifest, runs, strangers }
//!                └ walk() ─► Segment · Frame { header, records } · Unfinished · Damage · End …
//! ```
//! Unlike recovery it goes on behind damage: it names the place and looks for the next intact
//! frame. Plain structs; printing is the command line's. Deliberately absent: the `Disk` seam (this
//! is an offline tool), repair.

mod content;
pub(crate) mod rows;
mod walk;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use celeriant_schema::limits::SECTOR_BYTES;

use crate::Identity;
use crate::error::Flaw;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::packed::parse_packed_name;
use crate::segment::{SegmentHeader, number_of};
use crate::watermark::{WATERMARK_NAME, Watermark};
use content::Content;
pub use rows::{RunFile, RunRows};
pub use walk::{Frame, Item, PlacedRecord, Walk};

/// What lies in one shard's folder.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is, as its first intact segment says.
    pub identity: Option<Identity>,
    /// Segments by number.
    pub segments: Vec<SegmentFile>,
    /// What the directory consists of, and from where the log is replayed; `None` when there is no
    /// such file.
    pub manifest: Option<Result<Manifest, Flaw>>,
    /// Runs by number, whether the manifest names them or not.
    pub runs: Vec<RunFile>,
    /// The slots of the watermark; empty when there is no such file.
    pub watermark: Vec<Result<Option<Watermark>, Flaw>>,
    /// Names of files that do not belong here.
    pub strangers: Vec<String>,
}

/// One segment file.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Its number, from its name.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Its size, in bytes; as it was written, also when it is packed.
    pub bytes: u64,
    /// Size of its file, in bytes.
    pub file_bytes: u64,
    /// What its header page says.
    pub header: Result<SegmentHeader, Flaw>,
}

/// The shards' folders in a data directory, in order; `dir` itself when it holds segments.
///
/// # Errors
/// When the directory cannot be read.
pub fn folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut is_folder = false;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        is_folder |= segment_of(&name).is_some() || name == WATERMARK_NAME;
        if name.starts_with("shard-") && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    if is_folder {
        return Ok(vec![dir.to_owned()]);
    }
    found.sort();
    Ok(found)
}

impl Folder {
    /// Looks at every file of a shard's folder, but not into the segments. Reads every row of runs.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_of(path, None, true)
    }

    /// The same, of a shard that is known otherwise than from its segments; without its runs if a
    /// node may remove them meanwhile.
    pub(crate) fn open_of(
        path: &Path,
        known: Option<Identity>,
        has_runs: bool,
    ) -> io::Result<Self> {
        let mut folder = Self {
            path: path.to_owned(),
            identity: None,
            segments: Vec::new(),
            manifest: None,
            runs: Vec::new(),
            watermark: Vec::new(),
            strangers: Vec::new(),
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        // Of several files of one segment the oldest counts, which is the first of the list.
        let mut segments: Vec<_> =
            names.iter().filter_map(|name| segment_of(name).map(|place| (place, name))).collect();
        segments.sort();
        segments.dedup_by_key(|((number, _), _)| *number);
        for ((number, _), name) in segments {
            folder.segments.push(SegmentFile::open(number, path.join(name))?);
        }
        let mut headers = folder.segments.iter().filter_map(|file| file.header.as_ref().ok());
        folder.identity = known.or_else(|| headers.next().map(|header| header.identity));
        let identity = folder.identity.unwrap_or_default();
        for name in names {
            if let Some(number) = number_of(&name, "run") {
                if has_runs {
                    folder.runs.push(RunFile::open(number, path.join(name), &identity)?);
                }
            } else if name == MANIFEST_NAME {
                let content = fs::read(path.join(name))?;
                folder.manifest = Some(Manifest::decode(&content, &identity));
            } else if name == WATERMARK_NAME {
                let content = fs::read(path.join(name))?;
                let slots = content.chunks(SECTOR_BYTES).zip(0..);
                folder.watermark =
                    slots.map(|(page, slot)| Watermark::decode(page, slot, &identity)).collect();
            } else if segment_of(&name).is_none() {
                folder.strangers.push(name);
            }
        }
        Ok(folder)
    }

    /// Every frame and every damage, in log order.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }
}

impl SegmentFile {
    fn open(number: u32, path: PathBuf) -> io::Result<Self> {
        let file_bytes = fs::metadata(&path)?.len();
        let (bytes, header) = match Content::open(&path, number)? {
            Ok(content) => (content.bytes, content.header(number)?),
            Err(flaw) => (file_bytes, Err(flaw)),
        };
        Ok(Self { number, path, bytes, file_bytes, header })
    }

    /// Name of its file.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Number of the segment that the file `name` holds, and how often it was packed.
fn segment_of(name: &str) -> Option<(u32, u32)> {
    number_of(name, "seg").map(|number| (number, 0)).or_else(|| parse_packed_name(name))
}

#[cfg(test)]
#[path = "inspect/inspect_test.rs"]
mod tests;
