//! What a run file holds: every page checked, every row read.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use super::walk::read_at;
use crate::Identity;
use crate::directory::count_row;
use crate::disk::FileId;
use crate::error::Flaw;
use crate::run::{Fault, Footer, PAGE_BYTES, PagePlace, Pages, Run, Stretch};

/// Pages that are checked at a time.
const STRETCH_PAGES: u32 = 256;

/// One run file.
#[derive(Clone, Debug)]
pub struct RunFile {
    /// Its number, from its name.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub bytes: u64,
    /// What it holds.
    pub rows: Result<RunRows, Flaw>,
}

/// Rows of a run, by kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RunRows {
    /// Aggregates as a whole.
    pub heads: u64,
    /// Clients' memories of sequences.
    pub clients: u64,
    /// Places of batches: up to 64 batches a row.
    pub places: u64,
    /// Batches in them.
    pub batches: u64,
    /// Outcomes of legs.
    pub outcomes: u64,
    /// Aggregates that were deleted or trimmed.
    pub cuts: u64,
    /// Deletes and trims, one by one.
    pub erasures: u64,
}

struct Reading<'a>(&'a File);

impl Pages for Reading<'_> {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        let page = read_at(self.0, place.offset(), place.bytes() as usize).ok()?;
        (page.len() == place.bytes() as usize).then_some(page)
    }
}

impl RunFile {
    pub(super) fn open(number: u32, path: PathBuf, identity: &Identity) -> io::Result<Self> {
        let file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let rows = read(&file, bytes, number, identity)?;
        Ok(Self { number, path, bytes, rows })
    }
}

fn read(
    file: &File,
    bytes: u64,
    number: u32,
    identity: &Identity,
) -> io::Result<Result<RunRows, Flaw>> {
    let last = read_at(file, bytes.saturating_sub(PAGE_BYTES as u64), PAGE_BYTES)?;
    let footer = match Footer::decode(&last, identity, number, bytes) {
        Ok(footer) => footer,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let mut page = 0;
    while u64::from(page) * (PAGE_BYTES as u64) < bytes {
        let offset = u64::from(page) * PAGE_BYTES as u64;
        let stretch = read_at(file, offset, STRETCH_PAGES as usize * PAGE_BYTES)?;
        if let Err(fault) = Stretch::verified(stretch, identity, number, page) {
            return Ok(Err(flaw(fault)));
        }
        page += STRETCH_PAGES;
    }
    let top = read_at(file, footer.top_offset(), footer.top_bytes() as usize)?;
    Ok(Run::open(identity, footer, FileId(0), top)
        .map_err(flaw)
        .and_then(|run| count(&run, &Reading(file))))
}

fn count(run: &Run, pages: &Reading<'_>) -> Result<RunRows, Flaw> {
    let mut rows = RunRows::default();
    let mut cursor = run.cursor(&[]);
    let mut before = Vec::new();
    while cursor.advance(pages).map_err(flaw)? {
        if *cursor.key() <= before[..] && !before.is_empty() {
            return Err(Flaw::Chain("rows out of order"));
        }
        before.clear();
        before.extend_from_slice(cursor.key());
        count_row(cursor.key(), &cursor.value(), &mut rows)?;
    }
    let cuts = rows.cuts + rows.erasures;
    let counted = rows.heads + rows.clients + rows.places + rows.outcomes + cuts;
    let is_whole = counted == run.rows() && rows.heads == run.aggregates();
    is_whole.then_some(rows).ok_or(Flaw::Lengths)
}

fn flaw(fault: Fault) -> Flaw {
    match fault {
        Fault::Damaged(_, flaw) => flaw,
        Fault::Missing(_) => Flaw::Missing,
    }
}
