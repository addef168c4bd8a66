//! Names in order: orgs, an org's types, a type's ids.
//!
//! A merge over memtable and runs that skips: the next org or type is found by seeking behind
//! everything of the one before, so a page costs what it returns. `01`, which is in no name, ranks
//! above the `00` behind a name and below every longer name that starts with it.

use celeriant_schema::ListPage;

use super::lookup::{Source, View};
use super::memtable::Memtable;
use super::{Directory, Fault, Pins};
use crate::run::Cursor;

/// Ranks behind everything of a name, before the next.
const BEHIND: u8 = 1;
/// Ranks before every name.
const NAMES: u8 = 2;
/// So many rows are passed one by one before a run is sought in anew.
const STEPS_MAX: usize = 16;

/// One source, and its first row at or behind the place where the listing is.
enum Stream<'a> {
    Table { table: &'a Memtable, row: Option<&'a [u8]>, is_sought: bool },
    Run { view: View<'a>, cursor: Cursor, is_on: bool, is_at_end: bool },
}

impl<'a> Stream<'a> {
    fn new(source: Source<'a>, from: &[u8]) -> Self {
        match source {
            Source::Table(table) => Self::Table { table, row: None, is_sought: false },
            Source::Run(run, view) => {
                Self::Run { view, cursor: run.cursor(from), is_on: false, is_at_end: false }
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
            Self::Run { view, cursor, is_on, is_at_end } => {
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
    /// Fills `page` with names that start with `prefix`, after `after`, up to `limit` of them:
    /// orgs, the types of an org or the ids of an org's type, which `parents` names. Goes on
    /// behind what is in the page already.
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
        page: &mut ListPage,
        pins: &Pins,
    ) -> Result<(), Fault> {
        let mut parent = Vec::new();
        for part in parents {
            parent.extend_from_slice(part.as_bytes());
            parent.push(0);
        }
        let mut from = parent.clone();
        match page.names.last().map(String::as_str).or(after) {
            Some(after) if after >= prefix => {
                from.extend_from_slice(after.as_bytes());
                from.push(BEHIND);
            }
            _ => from.extend_from_slice(prefix.as_bytes()),
        }
        // Outcomes and erasures lie before the first name.
        if from.is_empty() {
            from.push(NAMES);
        }
        let sources = self.sources(pins);
        let mut streams: Vec<_> = sources.map(|source| Stream::new(source, &from)).collect();
        loop {
            streams.iter_mut().try_for_each(|stream| stream.seek(&from))?;
            let first = streams.iter().filter_map(Stream::row).min();
            let Some(name) = first.and_then(|row| name_below(row, &parent, prefix)) else { break };
            if page.names.len() == limit {
                page.more = true;
                break;
            }
            from.truncate(parent.len());
            from.extend_from_slice(name.as_bytes());
            from.push(BEHIND);
            page.names.push(name.to_owned());
        }
        Ok(())
    }
}

/// The name in `row` that follows `parent`, if it starts with `prefix`.
fn name_below<'a>(row: &'a [u8], parent: &[u8], prefix: &str) -> Option<&'a str> {
    let rest = row.strip_prefix(parent)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    name.starts_with(prefix).then_some(name)
}
