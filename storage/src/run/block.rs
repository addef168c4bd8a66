//! A page that is being filled with rows.

use super::page::{HEADER_BYTES, Header, Kind, RESTART_ROWS, ROW_HEADER_BYTES, common_prefix};
use super::{PAGE_BYTES, ROW_KEY_BYTES_MAX};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::codec::put;

/// Rows in ascending order, as many as fit.
#[derive(Debug)]
pub(super) struct Block {
    content: Vec<u8>,
    restarts: Vec<u16>,
    rows: u16,
    /// Key of the last row.
    last: Vec<u8>,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            content: Vec::with_capacity(PAGE_BYTES),
            restarts: Vec::new(),
            rows: 0,
            last: Vec::with_capacity(ROW_KEY_BYTES_MAX),
        }
    }

    pub(super) fn rows(&self) -> u16 {
        self.rows
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Key of the last row that was pushed, also after the page was sealed.
    pub(super) fn last(&self) -> &[u8] {
        &self.last
    }

    /// Adds a row; `false` when it doesn't fit. Any row fits into an empty page.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let is_restart = usize::from(self.rows).is_multiple_of(RESTART_ROWS);
        let shared = if is_restart { 0 } else { common_prefix(&self.last, key) };
        let rest = &key[shared..];
        let restarts = self.restarts.len() + usize::from(is_restart);
        let bytes = self.content.len() + ROW_HEADER_BYTES + rest.len() + value.len();
        if HEADER_BYTES + bytes + 2 * restarts > PAGE_BYTES {
            assert!(self.rows > 0, "a row of {} + {} bytes", key.len(), value.len());
            return false;
        }
        if is_restart {
            self.restarts.push((HEADER_BYTES + self.content.len()) as u16);
        }
        let number = shared | rest.len() << 10 | value.len() << 20;
        self.content.extend_from_slice(&(number as u32).to_le_bytes());
        self.content.extend_from_slice(rest);
        self.content.extend_from_slice(value);
        self.rows += 1;
        self.last.truncate(shared);
        self.last.extend_from_slice(rest);
        true
    }

    /// Appends the page to `out` and begins an empty one.
    pub(super) fn seal(
        &mut self,
        out: &mut AlignedBuffer,
        (identity, run, page): (Identity, u32, u32),
        kind: Kind,
    ) {
        let to = out.extend_zeroed(PAGE_BYTES);
        put(to, HEADER_BYTES, &self.content);
        let mut at = PAGE_BYTES - 2 * self.restarts.len();
        for restart in self.restarts.drain(..) {
            put(to, at, &restart.to_le_bytes());
            at += 2;
        }
        let end = (HEADER_BYTES + self.content.len()) as u16;
        Header { identity, run, page, kind, rows: self.rows, end }.seal(to);
        self.content.clear();
        self.rows = 0;
    }
}
