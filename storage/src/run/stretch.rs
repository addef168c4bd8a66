//! Pages of a run that follow each other, read in one go: what a merge reads instead of one page
//! at a time.

use bytes::Bytes;

use super::{Fault, PAGE_BYTES, PagePlace, Pages, page};
use crate::Identity;
use crate::error::Flaw;

/// Some pages of one run, all of them checked.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    run: u32,
    first: u32,
    content: Bytes,
}

impl Stretch {
    /// Checks what was read of run number `run` from page `first` on; whole pages.
    ///
    /// # Errors
    /// `Damaged`: a page is not what was written.
    pub(crate) fn verified(
        content: Bytes,
        identity: &Identity,
        run: u32,
        first: u32,
    ) -> Result<Self, Fault> {
        for (page, number) in content.chunks(PAGE_BYTES).zip(first..) {
            let damaged = |flaw: Flaw| Fault::Damaged(PagePlace::leaf(run, number), flaw);
            page::verify(page, identity, run, number).map_err(damaged)?;
        }
        Ok(Self { run, first, content })
    }
}

impl Pages for Stretch {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        if place.run != self.run {
            return None;
        }
        let start = place.page.checked_sub(self.first)? as usize * PAGE_BYTES;
        let end = start + place.bytes() as usize;
        // Which kind it is shows when it is read.
        (end <= self.content.len()).then(|| self.content.slice(start..end))
    }
}
