//! Which rows a node may have under it: a Bloom filter in one page.
//!
//! At least twelve bits a row and eight probes: one in three hundred rows that aren't there looks
//! as if it were, (1 − e^(−8/12))^8 = 0.31 %.

use super::PAGE_BYTES;
use super::page::{HEADER_BYTES, Header, Kind};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::codec::put;
use crate::error::Flaw;

const BYTES: usize = PAGE_BYTES - HEADER_BYTES;
const BITS: u64 = BYTES as u64 * 8;
const PROBES: u32 = 8;
/// Most rows of one filter.
pub(super) const FILTER_ROWS_MAX: u16 = (BITS / 12) as u16;

/// Odd, with bits all over: the golden ratio, and a prime of xxHash.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// The hash of a key by which filters know it. Part of the format.
pub(super) fn hash(key: &[u8]) -> u64 {
    let (words, rest) = key.as_chunks::<8>();
    let mut state = key.len() as u64 ^ MIX[1];
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), MIX[0]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    state = fold(state ^ u64::from_le_bytes(last), MIX[0]);
    fold(state ^ MIX[0], MIX[1])
}

/// Both halves of the product, one upon the other.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The bits of a hash: as byte and mask.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let (start, step) = (hash as u32, (hash >> 32) as u32 | 1);
    (0..PROBES).map(move |probe| {
        let at = start.wrapping_add(probe.wrapping_mul(step));
        let bit = (u64::from(at) * BITS) >> 32;
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

/// A filter that was read.
pub(super) struct Filter<'a> {
    bits: &'a [u8; BYTES],
}

impl<'a> Filter<'a> {
    pub(super) fn of(page: &'a [u8]) -> Result<Self, Flaw> {
        if page.len() != PAGE_BYTES {
            return Err(Flaw::Lengths);
        }
        if page[4] != Kind::Filter as u8 {
            return Err(Flaw::Magic(Kind::Filter.name()));
        }
        Ok(Self { bits: page[HEADER_BYTES..].as_array().ok_or(Flaw::Lengths)? })
    }

    /// `false` is certain.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        probes(hash).all(|(byte, mask)| self.bits[byte] & mask != 0)
    }
}

/// A filter that is being filled.
#[derive(Debug)]
pub(super) struct Filling {
    bits: Box<[u8; BYTES]>,
    rows: u16,
}

impl Filling {
    pub(super) fn new() -> Self {
        Self { bits: Box::new([0; BYTES]), rows: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows == FILTER_ROWS_MAX
    }

    pub(super) fn add(&mut self, hash: u64) {
        assert!(!self.is_full(), "{} rows in a filter", self.rows);
        self.rows += 1;
        for (byte, mask) in probes(hash) {
            self.bits[byte] |= mask;
        }
    }

    /// Appends the page to `out` and begins an empty one.
    pub(super) fn seal(
        &mut self,
        out: &mut AlignedBuffer,
        (identity, run, page): (Identity, u32, u32),
    ) {
        let to = out.extend_zeroed(PAGE_BYTES);
        put(to, HEADER_BYTES, &self.bits[..]);
        Header { identity, run, page, kind: Kind::Filter, rows: self.rows, end: 0 }.seal(to);
        self.bits.fill(0);
        self.rows = 0;
    }
}
