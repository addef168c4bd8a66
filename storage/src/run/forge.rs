//! For fuzzing: takes any bytes for a run, with identities, numbers and checksums put right.
//!
//! Only the numbers that tell a page from another are forged; what its rows claim stays as it is.

use bytes::Bytes;

use super::page::{Header, Kind};
use super::{Builder, Fault, Footer, Holds, Merge, PAGE_BYTES, PagePlace, Pages, Run, verify};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::disk::FileId;

const NUMBER: u32 = 1;
/// More rows than any input's pages hold.
const ROWS_MAX: usize = 100_000;

struct Forged {
    content: Bytes,
    /// Looks at pages before they are given out, as everybody should.
    verifies: bool,
}

impl Pages for Forged {
    fn page(&self, place: PagePlace) -> Option<Bytes> {
        let start = usize::try_from(place.offset()).ok()?;
        let end = start + place.bytes() as usize;
        let page = (end <= self.content.len()).then(|| self.content.slice(start..end))?;
        let is_right = !self.verifies || verify(&page, &Identity::default(), place).is_ok();
        is_right.then_some(page)
    }
}

/// Reads whole pages of `data` as a run in every way that there is. Panics if that can be had.
/// Returns how many rows a merge found.
pub(crate) fn read(data: &[u8]) -> u64 {
    let mut found = 0;
    if let Some((content, run)) = forge(data) {
        for verifies in [false, true] {
            let pages = Forged { content: content.clone(), verifies };
            for key in data.chunks(17).take(40).chain([&[][..], b"a", b"acme\0order\0"]) {
                let _ = (run.get(key, &pages), run.may_hold(key, &pages), run.floor(key, &pages));
                let mut cursor = run.cursor(key);
                for _ in 0..20 {
                    if let Ok(true) = cursor.advance(&pages) {
                        let _ = (cursor.key().len(), cursor.value().len());
                    }
                }
            }
            found += merge(&run, &pages, verifies);
        }
    }
    found
}

fn merge(run: &Run, pages: &Forged, builds: bool) -> u64 {
    let mut merge = Merge::new(vec![run.clone(), run.clone()]);
    let mut builder = Builder::new(Identity::default(), 2);
    let mut rows = 0;
    let mut row = |key: &[u8], values: &[Bytes]| {
        rows += 1;
        if builds {
            builder.push(key, &values[0], true);
        }
    };
    let _: Result<bool, Fault> = merge.step(pages, ROWS_MAX, &mut row);
    let _ = builder.finish(FileId(0), 0, Holds::default());
    rows
}

/// Pages with right headers and checksums, and a footer of their own that finds the top by itself.
fn forge(data: &[u8]) -> Option<(Bytes, Run)> {
    let identity = Identity::default();
    let mut content = AlignedBuffer::copy_of(data);
    content.pad_to_block();
    let mut top_first = 0;
    for (page, number) in content.chunks_mut(PAGE_BYTES).zip(0..) {
        let kinds = [Kind::Leaf, Kind::Node, Kind::Filter, Kind::Top];
        let kind = kinds[usize::from(page[4].wrapping_sub(1)) % kinds.len()];
        let word = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let (rows, end) = (word(32), word(34));
        Header { identity, run: NUMBER, page: number, kind, rows, end }.seal(page);
        if kind != Kind::Top {
            top_first = number + 1;
        }
    }
    let pages = (content.len() / PAGE_BYTES) as u32 + 1;
    let footer = Footer {
        run: NUMBER,
        pages,
        top_first,
        rows: 1,
        filtered: 1,
        aggregates: 1,
        holds: Holds { cuts: true, aborted: true },
    };
    footer.seal(&mut content, identity);
    let content = content.into_bytes();
    let last = &content[content.len() - PAGE_BYTES..];
    let read = Footer::decode(last, &identity, NUMBER, content.len() as u64);
    assert_eq!(read.as_ref(), Ok(&footer), "a footer has two meanings");
    let start = usize::try_from(footer.top_offset()).ok()?;
    let top = content.slice(start..start + footer.top_bytes() as usize);
    Some((content, Run::open(&identity, footer, FileId(0), top).ok()?))
}
