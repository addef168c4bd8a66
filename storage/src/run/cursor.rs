//! Goes through the rows of a run, upwards.

use std::ops::Range;

use bytes::Bytes;

use super::page::{HEADER_BYTES, Kind, Rows};
use super::{Fault, PagePlace, Pages, Run, Span};
use crate::error::Flaw;

/// A place between two rows of a run, and the row before it.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    run: Run,
    state: State,
    /// Key of the row that it stands behind.
    key: Vec<u8>,
    value: Range<usize>,
    /// Content of the leaf that row is in.
    leaf: Bytes,
}

#[derive(Clone, Debug)]
enum State {
    /// Looks for the first row at or above this.
    Seek(Vec<u8>),
    /// Goes on at the start of this leaf.
    Load(Span, u32),
    /// The next row is this one, at this offset of the leaf.
    Within {
        span: Span,
        page: u32,
        row: usize,
        at: usize,
    },
    End,
}

impl Cursor {
    pub(super) fn new(run: Run, from: &[u8]) -> Self {
        let state = State::Seek(from.to_vec());
        Self { run, state, key: Vec::new(), value: 0..0, leaf: Bytes::new() }
    }

    /// Goes to before the first row at or above `from`, wherever it stands now.
    pub(crate) fn seek(&mut self, from: &[u8]) {
        self.state = State::Seek(from.to_vec());
    }

    /// Goes on by one row. `false`: there is none any more.
    ///
    /// # Errors
    /// As [`Fault`] says.
    pub(crate) fn advance(&mut self, pages: &impl Pages) -> Result<bool, Fault> {
        loop {
            match &self.state {
                State::Seek(from) => {
                    let from = from.clone();
                    self.state = self.find(&from, pages)?;
                }
                State::Load(span, page) => {
                    let (span, page) = (*span, *page);
                    self.leaf = self.run.leaf(page, pages)?;
                    self.state = State::Within { span, page, row: 0, at: HEADER_BYTES };
                }
                State::Within { span, page, row, at } => {
                    let (span, page, row, at) = (*span, *page, *row, *at);
                    let rows = self.run.within(page, Rows::of(&self.leaf, Kind::Leaf))?;
                    if row < rows.count() {
                        let stored = self.run.within(page, rows.read(at, &mut self.key))?;
                        let at = stored.value.end;
                        self.value = stored.value;
                        self.state = State::Within { span, page, row: row + 1, at };
                        return Ok(true);
                    }
                    self.state = self.after(span, page)?;
                }
                State::End => return Ok(false),
            }
        }
    }

    /// Key of the row that it stands behind. Only after an [`Cursor::advance`] that was `true`.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Value of that row.
    pub(crate) fn value(&self) -> Bytes {
        self.leaf.slice(self.value.clone())
    }

    /// Says that the leaf it is in can't be right.
    pub(super) fn damaged(&self, flaw: Flaw) -> Fault {
        let page = match self.state {
            State::Within { page, .. } | State::Load(_, page) => page,
            State::Seek(_) | State::End => 0,
        };
        Fault::Damaged(PagePlace::leaf(self.run.number(), page), flaw)
    }

    fn find(&mut self, from: &[u8], pages: &impl Pages) -> Result<State, Fault> {
        let Some(span) = self.run.span_of(from)? else { return Ok(State::End) };
        if from.is_empty() {
            return Ok(State::Load(span, span.first));
        }
        let node = self.run.node(span, pages)?;
        let page = self.run.leaf_of(span, &node, from)?;
        let leaf = self.run.leaf(page, pages)?;
        let rows = self.run.within(page, Rows::of(&leaf, Kind::Leaf))?;
        let row = match self.run.within(page, rows.search(from))? {
            Some(found) => found.row + usize::from(!found.exact),
            None => 0,
        };
        if row == rows.count() {
            return self.after(span, page);
        }
        let at = self.run.within(page, rows.walk_to(row, &mut self.key))?;
        self.leaf = leaf;
        Ok(State::Within { span, page, row, at })
    }

    fn after(&self, span: Span, page: u32) -> Result<State, Fault> {
        if page + 1 < span.node {
            return Ok(State::Load(span, page + 1));
        }
        let next = self.run.next_span(span)?;
        Ok(next.map_or(State::End, |next| State::Load(next, next.first)))
    }
}
