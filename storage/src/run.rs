//! Runs: sorted rows in a file that is written once, front to back, and never changed.
//!
//! ```text
//! NNNNNNNN.run  | leaf … leaf | node | leaf … leaf | node | … | top | footer |    pages of 4,096
//!
//!   get, floor:  top (memory) ──► node: which leaf, and a filter ──► leaf: the row
//!   cursor:      leaf by leaf; top says where a node lies in between
//!   Merge:       several cursors, newest first ──► rows of a new run
//! ```
//! A node is two pages: first keys of the leaves right before it, and a Bloom filter of the rows in
//! them. A page of the top stands for some 60 MiB of run, so all of it is in memory: a key that a
//! run doesn't have costs one page (or none, once that is cached), any other two.
//!
//! No I/O here: what is needed and not there comes back as [`Fault::Missing`], nothing has moved,
//! and the caller tries again once it has the page. Rows are bytes; what they say is the
//! directory's. Bytes in docs/format.md §3.
//!
//! Deliberately absent: deletion of rows, a cache, knowledge of other runs.

mod block;
mod builder;
mod cursor;
mod filter;
mod footer;
pub(crate) mod forge;
mod merge;
mod page;
mod stretch;

#[cfg(test)]
mod run_test;

use bytes::Bytes;

use crate::Identity;
use crate::disk::FileId;
use crate::error::Flaw;
pub(crate) use builder::Builder;
pub(crate) use cursor::Cursor;
use filter::{Filter, hash};
pub(crate) use footer::{Footer, Holds};
pub(crate) use merge::Merge;
use page::{Found, Kind, Rows};
pub(crate) use stretch::Stretch;

/// Size of every page, in bytes.
pub(crate) const PAGE_BYTES: usize = crate::buffer::BLOCK_BYTES;
/// Longest key of a row, in bytes.
pub(crate) const ROW_KEY_BYTES_MAX: usize = 512;
/// Longest value of a row, in bytes.
pub(crate) const ROW_VALUE_BYTES_MAX: usize = 3072;

const _: () = {
    // Any row fits into an empty leaf, and an index page holds some of the longest keys.
    let row = page::ROW_HEADER_BYTES + 2;
    assert!(page::HEADER_BYTES + row + ROW_KEY_BYTES_MAX + ROW_VALUE_BYTES_MAX <= PAGE_BYTES);
    assert!(page::HEADER_BYTES + 4 * (row + ROW_KEY_BYTES_MAX + SPAN_BYTES) <= PAGE_BYTES);
};

/// Bytes of a value in the top: first leaf and node.
const SPAN_BYTES: usize = 8;

/// Name of run `number`.
pub(crate) fn run_name(number: u32) -> String {
    format!("{number:08}.run")
}

/// One or two pages of a run that are read together.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct PagePlace {
    /// Number of the run.
    pub(crate) run: u32,
    /// Number of the first page in its file.
    pub(crate) page: u32,
    /// How many: 1 is a leaf, 2 a node.
    pub(crate) count: u8,
}

impl PagePlace {
    fn leaf(run: u32, page: u32) -> Self {
        Self { run, page, count: 1 }
    }

    fn node(run: u32, page: u32) -> Self {
        Self { run, page, count: 2 }
    }

    /// Where it starts in the file, in bytes.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.page) * PAGE_BYTES as u64
    }

    /// How long it is, in bytes.
    pub(crate) fn bytes(self) -> u32 {
        u32::from(self.count) * PAGE_BYTES as u32
    }
}

/// Where a lookup finds pages: a cache, or what was read for it.
pub(crate) trait Pages {
    /// Content that passed [`verify`], if it is there.
    fn page(&self, place: PagePlace) -> Option<Bytes>;
}

impl<P: Pages + ?Sized> Pages for &P {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        (**self).page(place)
    }
}

/// Why a lookup has no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// It needs this first. Nothing has moved: the same call again goes on.
    Missing(PagePlace),
    /// What is there is not what was written.
    Damaged(PagePlace, Flaw),
}

/// Checks what was read of a run: that it is this place's content, whole and in order.
///
/// # Errors
/// It isn't. Don't give it to a lookup.
pub(crate) fn verify(bytes: &Bytes, identity: &Identity, place: PagePlace) -> Result<(), Flaw> {
    if bytes.len() != place.bytes() as usize {
        return Err(Flaw::Lengths);
    }
    let kinds: &[Kind] = match place.count {
        1 => &[Kind::Leaf],
        2 => &[Kind::Node, Kind::Filter],
        _ => return Err(Flaw::Lengths),
    };
    for ((page, number), kind) in bytes.chunks(PAGE_BYTES).zip(place.page..).zip(kinds) {
        if page::verify(page, identity, place.run, number)? != *kind {
            return Err(Flaw::Magic(kind.name()));
        }
    }
    Ok(())
}

/// A finished run. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    footer: Footer,
    file: FileId,
    /// Pages with the places of all nodes.
    top: Bytes,
}

/// A node and the leaves that belong to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    /// Its place in the top: page and row.
    at: (usize, usize),
    /// First leaf.
    first: u32,
    /// The node; its leaves end here.
    node: u32,
}

impl Run {
    /// Takes in a run whose footer is known; `top` is what the footer says to read.
    ///
    /// # Errors
    /// `Damaged`: the top is not what was written.
    pub(crate) fn open(
        identity: &Identity,
        footer: Footer,
        file: FileId,
        top: Bytes,
    ) -> Result<Self, Fault> {
        let run = Self { footer, file, top };
        let first = run.footer.top_first;
        let damaged = |page, flaw| Fault::Damaged(PagePlace::leaf(run.number(), page), flaw);
        if run.top.len() != run.footer.top_bytes() as usize {
            return Err(damaged(first, Flaw::Lengths));
        }
        for (content, page) in run.top.chunks(PAGE_BYTES).zip(first..) {
            page::verify(content, identity, run.number(), page)
                .and_then(|_| Rows::of(content, Kind::Top))
                .map_err(|flaw| damaged(page, flaw))?;
        }
        run.check_spans()?;
        Ok(run)
    }

    /// The spans follow each other from the first page to the top, without gaps.
    fn check_spans(&self) -> Result<(), Fault> {
        let mut end = 0;
        let mut span = self.first_span()?;
        while let Some(it) = span {
            if it.first != end || it.node <= it.first {
                return Err(self.damaged_top(it.at.0, Flaw::Chain("nodes out of order")));
            }
            end = it.node.checked_add(2).ok_or(self.damaged_top(it.at.0, Flaw::Lengths))?;
            span = self.next_span(it)?;
        }
        if end != self.footer.top_first {
            return Err(self.damaged_top(0, Flaw::Chain("nodes end before the top")));
        }
        Ok(())
    }

    /// Number of the run; its file's name.
    pub(crate) fn number(&self) -> u32 {
        self.footer.run
    }

    /// Where it is.
    pub(crate) fn file(&self) -> FileId {
        self.file
    }

    /// Size of its file, in pages.
    pub(crate) fn pages(&self) -> u32 {
        self.footer.pages
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> u64 {
        self.footer.rows
    }

    /// How many aggregates have rows in it, as its maker said.
    pub(crate) fn aggregates(&self) -> u64 {
        self.footer.aggregates
    }

    /// Whether some of its aggregates were deleted or trimmed, as its maker said.
    pub(crate) fn has_cuts(&self) -> bool {
        self.footer.holds.cuts
    }

    /// Whether it says of some legs that they were aborted, as its maker said.
    pub(crate) fn has_aborted(&self) -> bool {
        self.footer.holds.aborted
    }

    /// The value of a row that was pushed as filtered; others may not be found. One page if there
    /// is none, two if there is.
    ///
    /// # Errors
    /// As [`Fault`] says.
    pub(crate) fn get(&self, key: &[u8], pages: &impl Pages) -> Result<Option<Bytes>, Fault> {
        let Some(span) = self.span_of(key)? else { return Ok(None) };
        let node = self.node(span, pages)?;
        if !self.filter_of(span, &node)?.may_hold(hash(key)) {
            return Ok(None);
        }
        let page = self.leaf_of(span, &node, key)?;
        let leaf = self.leaf(page, pages)?;
        let found = self.within(page, Rows::of(&leaf, Kind::Leaf).and_then(|it| it.search(key)))?;
        Ok(found.filter(|found| found.exact).map(|found| leaf.slice(found.value)))
    }

    /// Whether [`Run::get`] might find a row, by the filter alone: one page.
    ///
    /// # Errors
    /// As [`Fault`] says.
    pub(crate) fn may_hold(&self, key: &[u8], pages: &impl Pages) -> Result<bool, Fault> {
        let Some(span) = self.span_of(key)? else { return Ok(false) };
        let node = self.node(span, pages)?;
        Ok(self.filter_of(span, &node)?.may_hold(hash(key)))
    }

    /// Key and value of the greatest row at or below `key`, filtered or not. Two pages, sometimes
    /// three.
    ///
    /// # Errors
    /// As [`Fault`] says.
    pub(crate) fn floor(
        &self,
        key: &[u8],
        pages: &impl Pages,
    ) -> Result<Option<(Vec<u8>, Bytes)>, Fault> {
        let Some(span) = self.span_of(key)? else { return Ok(None) };
        let node = self.node(span, pages)?;
        let mut page = self.leaf_of(span, &node, key)?;
        let mut leaf = self.leaf(page, pages)?;
        let rows = self.within(page, Rows::of(&leaf, Kind::Leaf))?;
        let row = match self.within(page, rows.search(key))? {
            Some(Found { row, .. }) => row,
            // The key is between what separates this leaf from the one before, and its first row.
            None => {
                let Some(before) = leaf_before(span, page) else { return Ok(None) };
                page = before;
                leaf = self.leaf(page, pages)?;
                self.within(page, Rows::of(&leaf, Kind::Leaf))?.last()
            }
        };
        let mut found = Vec::new();
        let value = Rows::of(&leaf, Kind::Leaf).and_then(|rows| {
            let at = rows.walk_to(row, &mut found)?;
            rows.read(at, &mut found).map(|row| row.value)
        });
        let value = self.within(page, value)?;
        Ok(Some((found, leaf.slice(value))))
    }

    /// Stands before the first row at or above `from`.
    pub(crate) fn cursor(&self, from: &[u8]) -> Cursor {
        Cursor::new(self.clone(), from)
    }

    fn node(&self, span: Span, pages: &impl Pages) -> Result<Bytes, Fault> {
        let place = PagePlace::node(self.number(), span.node);
        let node = pages.page(place).ok_or(Fault::Missing(place))?;
        if node.len() != 2 * PAGE_BYTES {
            return Err(Fault::Damaged(place, Flaw::Lengths));
        }
        Ok(node)
    }

    fn filter_of<'a>(&self, span: Span, node: &'a Bytes) -> Result<Filter<'a>, Fault> {
        Filter::of(&node[PAGE_BYTES..])
            .map_err(|flaw| Fault::Damaged(PagePlace::node(self.number(), span.node), flaw))
    }

    /// The leaf in which `key` is, if it is anywhere.
    fn leaf_of(&self, span: Span, node: &Bytes, key: &[u8]) -> Result<u32, Fault> {
        let found = Rows::of(&node[..PAGE_BYTES], Kind::Node).and_then(|rows| {
            if rows.count() != (span.node - span.first) as usize {
                return Err(Flaw::Lengths);
            }
            rows.search(key)?.ok_or(Flaw::Chain("a node's first key is above the top's"))
        });
        match found {
            Ok(found) => Ok(span.first + found.row as u32),
            Err(flaw) => Err(Fault::Damaged(PagePlace::node(self.number(), span.node), flaw)),
        }
    }

    fn leaf(&self, page: u32, pages: &impl Pages) -> Result<Bytes, Fault> {
        let place = PagePlace::leaf(self.number(), page);
        pages.page(place).ok_or(Fault::Missing(place))
    }

    fn within<T>(&self, page: u32, outcome: Result<T, Flaw>) -> Result<T, Fault> {
        outcome.map_err(|flaw| Fault::Damaged(PagePlace::leaf(self.number(), page), flaw))
    }

    /// The span in which `key` is, if it is anywhere. `None` if there are no rows.
    fn span_of(&self, key: &[u8]) -> Result<Option<Span>, Fault> {
        // The last page whose first key isn't above: every page but the first is a candidate.
        let (mut low, mut high) = (0, (self.top.len() / PAGE_BYTES).max(1) - 1);
        while low < high {
            let middle = (low + high).div_ceil(2);
            let first = self.in_top(middle, |rows| rows.restart_key(0))?;
            (low, high) = if first <= key { (middle, high) } else { (low, middle - 1) };
        }
        if self.top.is_empty() {
            return Ok(None);
        }
        let found = self.in_top(low, |rows| {
            rows.search(key)?.ok_or(Flaw::Chain("the top begins above the lowest key"))
        })?;
        self.span((low, found.row), self.top_page(low).get(found.value).unwrap_or_default())
            .map(Some)
    }

    fn first_span(&self) -> Result<Option<Span>, Fault> {
        if self.top.is_empty() { Ok(None) } else { self.span_at((0, 0)).map(Some) }
    }

    fn next_span(&self, span: Span) -> Result<Option<Span>, Fault> {
        let (page, row) = span.at;
        let next = if row < self.in_top(page, |rows| Ok(rows.last()))? {
            (page, row + 1)
        } else {
            (page + 1, 0)
        };
        if next.0 * PAGE_BYTES >= self.top.len() {
            return Ok(None);
        }
        self.span_at(next).map(Some)
    }

    fn span_at(&self, at: (usize, usize)) -> Result<Span, Fault> {
        let value = self.in_top(at.0, |rows| rows.value(at.1))?;
        self.span(at, value)
    }

    fn span(&self, at: (usize, usize), value: &[u8]) -> Result<Span, Fault> {
        match value.as_array::<SPAN_BYTES>() {
            Some([a, b, c, d, e, f, g, h]) => {
                let first = u32::from_le_bytes([*a, *b, *c, *d]);
                let node = u32::from_le_bytes([*e, *f, *g, *h]);
                Ok(Span { at, first, node })
            }
            None => Err(self.damaged_top(at.0, Flaw::Lengths)),
        }
    }

    fn top_page(&self, page: usize) -> &[u8] {
        let start = page * PAGE_BYTES;
        self.top.get(start..start + PAGE_BYTES).unwrap_or_default()
    }

    fn in_top<'a, T>(
        &'a self,
        page: usize,
        read: impl FnOnce(&Rows<'a>) -> Result<T, Flaw>,
    ) -> Result<T, Fault> {
        Rows::of(self.top_page(page), Kind::Top)
            .and_then(|rows| read(&rows))
            .map_err(|flaw| self.damaged_top(page, flaw))
    }

    fn damaged_top(&self, page: usize, flaw: Flaw) -> Fault {
        let page = self.footer.top_first.saturating_add(page as u32);
        Fault::Damaged(PagePlace::leaf(self.number(), page), flaw)
    }
}

/// The leaf before one of a span.
fn leaf_before(span: Span, page: u32) -> Option<u32> {
    // Before a span's first leaf is the node of the span before, two pages.
    if page > span.first { Some(page - 1) } else { span.first.checked_sub(3) }
}
