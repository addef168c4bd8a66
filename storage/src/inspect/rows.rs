//! What a run file holds: every page checked, every row read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use celeriant_schema::{AggregateKey, Hash, Lsn, Version};

use super::walk::read_at;
use crate::Identity;
use crate::directory::{count_row, head_in};
use crate::disk::FileId;
use crate::error::{Damage, Flaw};
use crate::run::{Fault, Footer, Merge, PAGE_BYTES, PagePlace, Pages, Run, Stretch, run_name};

/// Pages that are checked at a time.
const STRETCH_PAGES: u32 = 256;
/// Rows that are merged at a time.
const ROWS_AT_A_TIME: usize = 4096;

/// One run file.
#[derive(Clone, Debug)]
pub struct RunFile {
    /// Its number, from its name.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub bytes: u64,
    /// What it holds, or the first place that is not as it should be.
    pub rows: Result<RunRows, Damage>,
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
    /// Legs that were aborted.
    pub aborted: u64,
}

/// Files of runs by number.
struct Reading<'a>(BTreeMap<u32, &'a File>);

impl Pages for Reading<'_> {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        let file = self.0.get(&place.run)?;
        let page = read_at(file, place.offset(), place.bytes() as usize).ok()?;
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
) -> io::Result<Result<RunRows, Damage>> {
    // Pages first, so that what is named is the page with the changed byte.
    let mut page = 0;
    while u64::from(page) * (PAGE_BYTES as u64) < bytes {
        let offset = u64::from(page) * PAGE_BYTES as u64;
        let stretch = read_at(file, offset, STRETCH_PAGES as usize * PAGE_BYTES)?;
        if let Err(fault) = Stretch::verified(stretch, identity, number, page) {
            return Ok(Err(damage(fault)));
        }
        page += STRETCH_PAGES;
    }
    Ok(match open(file, bytes, number, identity)? {
        Ok(run) => count(&run, &Reading([(number, file)].into())),
        Err(damage) => Err(damage),
    })
}

fn open(
    file: &File,
    bytes: u64,
    number: u32,
    identity: &Identity,
) -> io::Result<Result<Run, Damage>> {
    let footer_at = bytes.saturating_sub(PAGE_BYTES as u64);
    let last = read_at(file, footer_at, PAGE_BYTES)?;
    let footer = match Footer::decode(&last, identity, number, bytes) {
        Ok(footer) => footer,
        Err(flaw) => return Ok(Err(at(number, footer_at, flaw))),
    };
    let top = read_at(file, footer.top_offset(), footer.top_bytes() as usize)?;
    Ok(Run::open(identity, footer, FileId(0), top).map_err(damage))
}

fn count(run: &Run, pages: &Reading<'_>) -> Result<RunRows, Damage> {
    let mut rows = RunRows::default();
    let mut cursor = run.cursor(&[]);
    let mut before = Vec::new();
    let whole = |flaw| at(run.number(), 0, flaw);
    while cursor.advance(pages).map_err(damage)? {
        if *cursor.key() <= before[..] && !before.is_empty() {
            return Err(whole(Flaw::Chain("rows out of order")));
        }
        before.clear();
        before.extend_from_slice(cursor.key());
        count_row(cursor.key(), &cursor.value(), &mut rows).map_err(whole)?;
    }
    let gone = rows.cuts + rows.erasures + rows.aborted;
    let counted = rows.heads + rows.clients + rows.places + rows.outcomes + gone;
    let is_whole = counted == run.rows() && rows.heads == run.aggregates();
    is_whole.then_some(rows).ok_or(whole(Flaw::Lengths))
}

/// Gives what `runs`, newest first, together say of every aggregate: its newest version, and the
/// chain hash there. In bounded memory, in the order of keys.
pub(crate) fn heads(
    runs: &[&RunFile],
    identity: &Identity,
    mut each: impl FnMut(AggregateKey, Version, Hash),
) -> io::Result<Result<(), Damage>> {
    let newest = runs.first().map_or(0, |run| run.number);
    let (mut files, mut opened) = (Vec::new(), Vec::new());
    for run in runs {
        let file = File::open(&run.path)?;
        match open(&file, run.bytes, run.number, identity)? {
            Ok(open) => opened.push(open),
            Err(damage) => return Ok(Err(damage)),
        }
        files.push((run.number, file));
    }
    let reading = Reading(files.iter().map(|(number, file)| (*number, file)).collect());
    let (mut merge, mut flaw) = (Merge::new(opened), None);
    let mut row = |key: &[u8], values: &[Bytes]| match head_in(key, values) {
        Ok(head) => head.into_iter().for_each(|(key, version, hash)| each(key, version, hash)),
        Err(found) => flaw = flaw.take().or(Some(found)),
    };
    loop {
        match merge.step(&reading, ROWS_AT_A_TIME, &mut row) {
            Ok(false) => {}
            Ok(true) => break,
            Err(fault) => return Ok(Err(damage(fault))),
        }
    }
    Ok(flaw.map_or(Ok(()), |flaw| Err(at(newest, 0, flaw))))
}

fn at(run: u32, offset: u64, flaw: Flaw) -> Damage {
    flaw.at(run_name(run), 0, offset, Lsn::ZERO)
}

fn damage(fault: Fault) -> Damage {
    match fault {
        Fault::Damaged(place, flaw) => at(place.run, place.offset(), flaw),
        Fault::Missing(place) => at(place.run, place.offset(), Flaw::Missing),
    }
}
