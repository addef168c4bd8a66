//! The batches of a frame, for whoever reads along: feeds, and searches for evidence.

use bytes::Bytes;

use super::view::{BatchView, WriteHeader, batch_range, holds_batches, record_bytes};
use super::{HASHED_FROM, KIND_LEG};
use crate::event::DecodeError;
use crate::response::BatchHeader;

/// One batch of a frame, before its events are looked at.
#[derive(Clone, Debug)]
pub struct FrameBatch {
    /// What its events share.
    pub header: BatchHeader,
    /// Of a write over several shards, which may have been given up.
    pub is_leg: bool,
    /// The batch.
    pub view: BatchView,
}

/// The batches of a frame's writes and legs whose keys, as bytes, are `wanted`, in order, for
/// whoever reads along: without the hashes that
/// [`decode_records`](super::decode_records) computes. Of the others only the length is looked at.
/// Ends behind the first record that is malformed.
pub fn decode_batches(
    meta: &Bytes,
    count: u32,
    wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = Result<FrameBatch, DecodeError>> {
    let mut batches = FrameBatches { meta, wanted, at: 0, left: count, record: None };
    std::iter::from_fn(move || {
        let next = batches.next().transpose();
        if matches!(next, Some(Err(_))) {
            (batches.left, batches.record) = (0, None);
        }
        next
    })
}

struct FrameBatches<'a, W> {
    meta: &'a Bytes,
    wanted: W,
    /// Where the next record begins, and how many there are.
    at: usize,
    left: u32,
    record: Option<OpenRecord>,
}

/// A record of which some batches are left.
struct OpenRecord {
    bytes: Bytes,
    write: WriteHeader,
    /// Where the next batch begins, and how many there are.
    at: usize,
    left: u16,
}

impl<W: Fn(&[u8]) -> bool> FrameBatches<'_, W> {
    fn next(&mut self) -> Result<Option<FrameBatch>, DecodeError> {
        loop {
            if let Some(record) = self.record.as_mut().filter(|record| record.left > 0) {
                let (bytes, key) = batch_range(&record.bytes, record.at)?;
                if !(self.wanted)(&record.bytes[key]) {
                    (record.at, record.left) = (bytes.end, record.left - 1);
                    continue;
                }
                let (view, end) = BatchView::read(&record.bytes, record.at, record.write.stamp)?;
                (record.at, record.left) = (end, record.left - 1);
                let header = record.write.batch(&view);
                let is_leg = record.bytes[HASHED_FROM] == KIND_LEG;
                return Ok(Some(FrameBatch { header, is_leg, view }));
            }
            if self.left == 0 {
                return Ok(None);
            }
            self.left -= 1;
            let bytes = record_bytes(self.meta, self.at)?;
            self.at += bytes.len();
            if holds_batches(&bytes) {
                let write = WriteHeader::read(&bytes)?;
                let (at, left) = (write.end, write.batches);
                self.record = Some(OpenRecord { bytes, write, at, left });
            }
        }
    }
}
