//! The open frame: records are encoded straight into the memory that the device will read.
//!
//! A payload is copied once, from the request's buffer into the frame: small ones when their record
//! is encoded, large ones when the frame is sealed.

use bytes::Bytes;
use celeriant_schema::limits::{FRAME_RECORDS_MAX, SECTOR_BYTES};
use celeriant_schema::{BootId, Epoch, Hash, Lsn, Stamp};

use super::{FRAME_HEADER_BYTES, FrameHeader};
use crate::Identity;
use crate::buffer::AlignedBuffer;
use crate::codec::crc32c;

/// Memory that a fresh frame starts with, in bytes: most frames of a busy shard fit.
const BUFFER_BYTES: usize = 64 << 10;

/// What a frame gets from its log when it is sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) epoch: Epoch,
    pub(crate) boot: BootId,
    pub(crate) first_lsn: Lsn,
    pub(crate) durable_upto: Lsn,
    pub(crate) prev_hash: Hash,
}

/// A frame that still takes records.
#[derive(Debug)]
pub(crate) struct Builder {
    buffer: AlignedBuffer,
    blobs: Vec<Bytes>,
    blob_len: usize,
    record_hashes: Vec<Hash>,
    stamps: Option<(Stamp, Stamp)>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut builder = Self {
            buffer: AlignedBuffer::with_capacity(BUFFER_BYTES),
            blobs: Vec::new(),
            blob_len: 0,
            record_hashes: Vec::new(),
            stamps: None,
        };
        builder.buffer.extend_zeroed(FRAME_HEADER_BYTES);
        builder
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.record_hashes.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.record_hashes.len()
    }

    /// Header, records and large payloads so far, in bytes.
    pub(crate) fn content_bytes(&self) -> usize {
        self.buffer.len() + self.blob_len
    }

    /// Size that the frame would have with `more` bytes, in bytes.
    pub(crate) fn frame_bytes_with(&self, more: usize) -> usize {
        (self.content_bytes() + more).next_multiple_of(SECTOR_BYTES)
    }

    pub(crate) fn has_room_for_record(&self) -> bool {
        self.count() < FRAME_RECORDS_MAX
    }

    /// Adds a record with `meta_len` bytes of its own, filled in by `encode`, which also gets the
    /// place of its large payloads, hands them over and returns the record's hash. Returns its
    /// offset.
    pub(crate) fn push(
        &mut self,
        stamps: (Stamp, Stamp),
        meta_len: usize,
        encode: impl FnOnce(&mut [u8], u32, &mut Vec<Bytes>) -> Hash,
    ) -> u32 {
        let offset = self.buffer.len() - FRAME_HEADER_BYTES;
        let blobs_before = self.blobs.len();
        let meta = self.buffer.extend_zeroed(meta_len);
        let hash = encode(meta, self.blob_len as u32, &mut self.blobs);
        self.blob_len += self.blobs[blobs_before..].iter().map(Bytes::len).sum::<usize>();
        self.record_hashes.push(hash);
        let first = self.stamps.map_or(stamps.0, |(first, _)| first);
        self.stamps = Some((first, stamps.1));
        offset as u32
    }

    /// Finishes the frame and starts over with `next` as memory.
    pub(crate) fn seal(
        &mut self,
        context: &Context,
        next: Option<AlignedBuffer>,
    ) -> (FrameHeader, AlignedBuffer) {
        let meta_len = self.buffer.len() - FRAME_HEADER_BYTES;
        self.buffer.reserve(self.blob_len);
        for blob in self.blobs.drain(..) {
            self.buffer.extend_from_slice(&blob);
        }
        self.buffer.pad_to_block();
        let (first_stamp, last_stamp) = self.stamps.take().unwrap_or_default();
        let mut header = FrameHeader {
            identity: context.identity,
            epoch: context.epoch,
            boot: context.boot,
            first_lsn: context.first_lsn,
            count: self.record_hashes.len() as u32,
            meta_len: meta_len as u32,
            blob_len: self.blob_len as u32,
            durable_upto: context.durable_upto,
            first_stamp,
            last_stamp,
            prev_hash: context.prev_hash,
            hash: Hash::ZERO,
            body_checksum: crc32c(&self.buffer[FRAME_HEADER_BYTES..]),
        };
        header.hash = header.hash_over(self.record_hashes.drain(..));
        header.encode(&mut self.buffer);
        self.blob_len = 0;
        // The next frame will be about as large as this one: growing would copy it several times.
        let expected = BUFFER_BYTES.max(self.buffer.len());
        let mut next = next.unwrap_or_else(|| AlignedBuffer::with_capacity(expected));
        next.clear();
        next.extend_zeroed(FRAME_HEADER_BYTES);
        (header, std::mem::replace(&mut self.buffer, next))
    }
}
