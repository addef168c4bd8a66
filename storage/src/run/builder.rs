//! Makes a run: rows in ascending order go in, whole pages come out.
//!
//! ```text
//!   push ──► leaf ──full──► out ──take──► Op::Extend
//!             ├ first key ─► node ─┐
//!             └ hash ──────► filter┴─full──► out, and its place to the top
//! ```
//! Memory is one open page of each kind, what was not taken yet, and the top: 4 KiB for some 60 MiB
//! of run.

use bytes::Bytes;

use super::block::Block;
use super::filter::{Filling, hash};
use super::footer::{Footer, Holds};
use super::page::{Kind, common_prefix};
use super::{PAGE_BYTES, ROW_KEY_BYTES_MAX, ROW_VALUE_BYTES_MAX, Run};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::disk::FileId;

/// Worth a write.
const READY_BYTES: usize = 256 << 10;
/// One row completes at most a leaf and a node.
const OUT_BYTES: usize = READY_BYTES + 4 * PAGE_BYTES;

/// A run that is being made.
#[derive(Debug)]
pub(crate) struct Builder {
    identity: Identity,
    run: u32,
    out: AlignedBuffer,
    /// Number of the next page that is completed.
    page: u32,
    leaf: Block,
    node: Block,
    filter: Filling,
    /// First leaf of the open node, and the key that separates it from what is before.
    span_first: u32,
    span_key: Vec<u8>,
    top: Vec<Block>,
    rows: u64,
    filtered: u64,
}

impl Builder {
    /// Begins run number `run`.
    pub(crate) fn new(identity: Identity, run: u32) -> Self {
        Self {
            identity,
            run,
            out: AlignedBuffer::with_capacity(OUT_BYTES),
            page: 0,
            leaf: Block::new(),
            node: Block::new(),
            filter: Filling::new(),
            span_first: 0,
            span_key: Vec::new(),
            top: Vec::new(),
            rows: 0,
            filtered: 0,
        }
    }

    /// Adds a row above all before. Only a `filtered` one is sure to be found by [`Run::get`].
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8], filtered: bool) {
        assert!(
            key.len() <= ROW_KEY_BYTES_MAX && value.len() <= ROW_VALUE_BYTES_MAX,
            "a row of {} + {} bytes",
            key.len(),
            value.len()
        );
        assert!(self.rows == 0 || key > self.leaf.last(), "rows out of order");
        if filtered && self.filter.is_full() {
            self.close_leaf();
            self.close_node();
        }
        if self.leaf.is_empty() || !self.leaf.push(key, value) {
            self.close_leaf();
            self.open_leaf(key);
            let fits = self.leaf.push(key, value);
            assert!(fits, "a row of {} + {} bytes", key.len(), value.len());
        }
        if filtered {
            self.filter.add(hash(key));
            self.filtered += 1;
        }
        self.rows += 1;
    }

    /// There is enough to write.
    pub(crate) fn ready(&self) -> bool {
        self.out.len() >= READY_BYTES
    }

    /// Whole pages that follow those taken before; perhaps none.
    pub(crate) fn take(&mut self) -> AlignedBuffer {
        std::mem::replace(&mut self.out, AlignedBuffer::with_capacity(OUT_BYTES))
    }

    /// Ends the run: the last pages, and the run as it is once those are in `file`.
    pub(crate) fn finish(
        mut self,
        file: FileId,
        aggregates: u64,
        holds: Holds,
    ) -> (AlignedBuffer, Run) {
        self.close_leaf();
        self.close_node();
        let (top_first, top_at) = (self.page, self.out.len());
        for mut block in std::mem::take(&mut self.top) {
            let place = self.next_page();
            block.seal(&mut self.out, place, Kind::Top);
        }
        let top = Bytes::copy_from_slice(&self.out[top_at..]);
        let footer = Footer {
            run: self.run,
            pages: self.page + 1,
            top_first,
            rows: self.rows,
            filtered: self.filtered,
            aggregates,
            holds,
        };
        footer.seal(&mut self.out, self.identity);
        (self.out, Run { footer, file, top })
    }

    /// Enters a leaf that begins with `key` into the node, by as much of the key as tells it from
    /// the row before.
    fn open_leaf(&mut self, key: &[u8]) {
        let before = self.leaf.last();
        let separator = match self.rows {
            // The lowest of all, so that every key is somewhere.
            0 => &[],
            _ => &key[..common_prefix(before, key) + 1],
        };
        if self.node.is_empty() || !self.node.push(separator, &[]) {
            self.close_node();
            self.span_first = self.page;
            self.span_key.clear();
            self.span_key.extend_from_slice(separator);
            self.node.push(separator, &[]);
        }
    }

    fn close_leaf(&mut self) {
        if !self.leaf.is_empty() {
            let place = self.next_page();
            self.leaf.seal(&mut self.out, place, Kind::Leaf);
        }
    }

    fn close_node(&mut self) {
        if self.node.is_empty() {
            return;
        }
        let place = self.next_page();
        let node = place.2;
        assert_eq!(node - self.span_first, u32::from(self.node.rows()), "leaves of a node");
        self.node.seal(&mut self.out, place, Kind::Node);
        let place = self.next_page();
        self.filter.seal(&mut self.out, place);
        let mut span = [0; 8];
        span[..4].copy_from_slice(&self.span_first.to_le_bytes());
        span[4..].copy_from_slice(&node.to_le_bytes());
        if !self.top.last_mut().is_some_and(|open| open.push(&self.span_key, &span)) {
            let mut open = Block::new();
            open.push(&self.span_key, &span);
            self.top.push(open);
        }
    }

    fn next_page(&mut self) -> (Identity, u32, u32) {
        let place = (self.identity, self.run, self.page);
        let Some(next) = self.page.checked_add(1) else { panic!("a run of {} pages", self.page) };
        self.page = next;
        place
    }
}
