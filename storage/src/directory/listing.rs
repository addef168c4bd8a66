//! Names in order: orgs, an org's types, a type's ids.
//!
//! A merge over memtable and runs that skips: the next org or type is found by seeking behind
//! everything of the one before, so a page costs what it returns. `01`, which is in no name, ranks
//! above the `00` behind a name and below every longer name that starts with it.
//!
//! A deleted aggregate is in no listing. Its head says so, which is the row that leads to its name:
//! to pass it costs what naming it would, and only so many are passed at a time. Orgs and types
//! stay in listings whatever became of what is in them.

use celeriant_schema::ListPage;

use super::lookup::{Source, View, damage};
use super::memtable::Memtable;
use super::rows::{HEAD, HeadRow};
use super::{Directory, Fault, Pins};
use crate::error::Flaw;
use crate::run::{Cursor, PagePlace};

/// Ranks behind everything of a name, before the next.
const BEHIND: u8 = 1;
/// Ranks before every name.
const NAMES: u8 = 3;
/// So many rows are passed one by one before a run is sought in anew.
const STEPS_MAX: usize = 16;
/// So many deleted aggregates are passed before others have their turn: about a millisecond.
const PASSED_MAX: usize = 1024;
/// Parents of aggregates.
const OF_AGGREGATES: usize = 2;

/// What a listing has found, and where it is.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The names.
    pub page: ListPage,
    /// Names deleted aggregates, too.
    with_deleted: bool,
    /// The last name that was passed and is not on the page, if it is behind those that are.
    passed: Option<String>,
    seen: u64,
}

impl Listing {
    /// Of everything that ever was, for whoever checks it.
    pub fn with_deleted() -> Self {
        Self { with_deleted: true, ..Self::default() }
    }

    /// The last name that needs not to be looked at again.
    fn at(&self) -> Option<&str> {
        self.passed.as_deref().or(self.page.names.last().map(String::as_str))
    }

    /// Names that were found or passed.
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

/// One source, and its first row at or behind the place where the listing is.
enum Stream<'a> {
    Table { table: &'a Memtable, row: Option<&'a [u8]>, is_sought: bool },
    Run { number: u32, view: View<'a>, cursor: Cursor, is_on: bool, is_at_end: bool },
}

impl<'a> Stream<'a> {
    fn new(source: Source<'a>, from: &[u8]) -> Self {
        match source {
            Source::Table(table) => Self::Table { table, row: None, is_sought: false },
            Source::Run(run, view) => {
                let (number, cursor) = (run.number(), run.cursor(from));
                Self::Run { number, view, cursor, is_on: false, is_at_end: false }
            }
        }
    }

    /// Moves to the first row at or above `from`.
    fn seek(&mut self, from: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Table { table, row, is_sought } => {
                let is_behind = !*is_sought || row.is_some_and(|row| row < from);
                if is_behind {
                    *row = table.seek(from);
                    *is_sought = true;
                }
            }
            Self::Run { view, cursor, is_on, is_at_end, .. } => {
                let mut steps = 0;
                while !*is_at_end && (!*is_on || cursor.key() < from) {
                    if steps == STEPS_MAX {
                        cursor.seek(from);
                    }
                    steps += 1;
                    *is_at_end = !cursor.advance(view)?;
                    *is_on = true;
                }
            }
        }
        Ok(())
    }

    /// Whether the aggregate whose rows start with `prefix` was deleted, as far as this source
    /// knows; `None`: it knows nothing of it.
    fn is_deleted(&self, prefix: &[u8]) -> Result<Option<bool>, Fault> {
        let Some(row) = self.row().filter(|row| row.starts_with(prefix)) else { return Ok(None) };
        match self {
            Self::Table { table, .. } => Ok(table.entry(row).map(|entry| entry.head().deleted)),
            Self::Run { cursor, .. } if row[prefix.len()..] == [HEAD] => {
                let head = HeadRow::decode(&cursor.value());
                head.map(|head| Some(head.deleted)).map_err(|flaw| self.flawed(flaw))
            }
            // A head is the first of an aggregate's rows.
            Self::Run { .. } => Err(self.flawed(Flaw::Chain("rows of an aggregate"))),
        }
    }

    fn flawed(&self, flaw: Flaw) -> Fault {
        let run = match self {
            Self::Table { .. } => 0,
            Self::Run { number, .. } => *number,
        };
        Fault::Damaged(damage(PagePlace { run, page: 0, count: 1 }, flaw))
    }

    fn row(&self) -> Option<&[u8]> {
        match self {
            Self::Table { row, .. } => *row,
            Self::Run { cursor, is_on, is_at_end, .. } => {
                (*is_on && !*is_at_end).then(|| cursor.key())
            }
        }
    }
}

impl Directory {
    /// Fills `listing` with names that start with `prefix`, after `after`, up to `limit` of them:
    /// orgs, the types of an org or the ids of an org's type, which `parents` names. Goes on
    /// behind what is in the listing already. `false`: there is more to pass, ask again.
    ///
    /// # Errors
    /// A page of the directory is missing or damaged; the names found before it are kept, so that
    /// asking again does not begin anew.
    pub fn list(
        &self,
        parents: &[&str],
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        listing: &mut Listing,
        pins: &Pins,
    ) -> Result<bool, Fault> {
        let mut parent = Vec::new();
        for part in parents {
            parent.extend_from_slice(part.as_bytes());
            parent.push(0);
        }
        let mut from = parent.clone();
        match listing.at().or(after) {
            Some(after) if after >= prefix => behind(after, &mut from),
            _ => from.extend_from_slice(prefix.as_bytes()),
        }
        // Outcomes, erasures and aborted legs lie before the first name.
        if from.is_empty() {
            from.push(NAMES);
        }
        let may_pass = parents.len() == OF_AGGREGATES && !listing.with_deleted;
        let sources = self.sources(pins);
        let mut streams: Vec<_> = sources.map(|source| Stream::new(source, &from)).collect();
        for _ in 0..limit + PASSED_MAX {
            streams.iter_mut().try_for_each(|stream| stream.seek(&from))?;
            let first = streams.iter().filter_map(Stream::row).min();
            let name = first.and_then(|row| name_below(row, &parent, prefix)).map(str::to_owned);
            let Some(name) = name else { return Ok(true) };
            from.truncate(parent.len());
            behind(&name, &mut from);
            let is_passed = may_pass && is_deleted(&streams, &parent, &name)?;
            listing.seen += 1;
            if is_passed {
                listing.passed = Some(name);
            } else if listing.page.names.len() == limit {
                listing.page.more = true;
                return Ok(true);
            } else {
                listing.page.names.push(name);
                listing.passed = None;
            }
        }
        Ok(false)
    }
}

/// Above all rows of `name`, below those of the next one.
fn behind(name: &str, from: &mut Vec<u8>) {
    from.extend_from_slice(name.as_bytes());
    from.push(BEHIND);
}

/// What the newest of those who know the aggregate says.
fn is_deleted(streams: &[Stream<'_>], parent: &[u8], name: &str) -> Result<bool, Fault> {
    let prefix = [parent, name.as_bytes(), &[0]].concat();
    for stream in streams {
        if let Some(is_deleted) = stream.is_deleted(&prefix)? {
            return Ok(is_deleted);
        }
    }
    Ok(false)
}

/// The name in `row` that follows `parent`, if it starts with `prefix`.
fn name_below<'a>(row: &'a [u8], parent: &[u8], prefix: &str) -> Option<&'a str> {
    let rest = row.strip_prefix(parent)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    name.starts_with(prefix).then_some(name)
}
