//! Making events' bytes disappear from a record that stays where it is.
//!
//! An erased event keeps its hash and its length, so record, batch and frame keep their hashes and
//! every place in them; its head and its payload become zeroes.

use bytes::Bytes;

use super::view::{BatchView, WriteHeader, holds_batches, placed_batch, record_range};
use super::{ERASED, EVENT_HEADER, FLAG_COMPACTED, HASHED_FROM, INLINE, KIND_LEG};
use crate::codec::DecodeError;
use crate::event::EventHead;
use crate::ids::{TxnId, Version};
use crate::key::AggregateKey;

/// Erases the events up to `upto` of the batch of `key` that begins with version `first`, at a
/// place of a frame's `meta`data. Returns how many bytes that were there are gone; 0 when they have
/// been before.
///
/// # Errors
/// When that batch is not at that place. Both areas are then to be thrown away: part of the batch
/// may be erased.
pub fn erase(
    meta: &mut [u8],
    blobs: &mut [u8],
    (record_offset, batch_offset): (u32, u32),
    key: &AggregateKey,
    (first, upto): (Version, Version),
) -> Result<u64, DecodeError> {
    let range = record_range(meta, record_offset as usize)?;
    let record = &mut meta[range];
    let (_, batch) = placed_batch(&Bytes::copy_from_slice(record), batch_offset)?;
    if batch.key != *key {
        return Err(DecodeError::new("the batch at this place is of another aggregate"));
    }
    // A write that went astray may lie there, of the same aggregate.
    if batch.first_version != first {
        return Err(DecodeError::new("the batch at this place is another one of its aggregate"));
    }
    erase_batch(record, blobs, &batch, upto)
}

/// Erases all events of the leg of `txn`, which was aborted, at an offset of a frame's `meta`data.
/// Returns how many bytes that were there are gone; 0 when they have been before.
///
/// # Errors
/// When there is no leg of `txn` at that place. Both areas are then to be thrown away: part of it
/// may be erased.
pub fn erase_leg(
    meta: &mut [u8],
    blobs: &mut [u8],
    record_offset: u32,
    txn: TxnId,
) -> Result<u64, DecodeError> {
    let range = record_range(meta, record_offset as usize)?;
    let record = &mut meta[range];
    let bytes = Bytes::copy_from_slice(record);
    if !holds_batches(&bytes) || bytes[HASHED_FROM] != KIND_LEG {
        return Err(DecodeError::new("no leg at this place"));
    }
    let leg = WriteHeader::read(&bytes)?;
    if leg.write_id != txn {
        return Err(DecodeError::new("the leg at this place is of another write"));
    }
    let (mut erased, mut start) = (0, leg.end);
    for _ in 0..leg.batches {
        let (batch, end) = BatchView::read(&bytes, start, leg.stamp)?;
        erased += erase_batch(record, blobs, &batch, batch.last_version)?;
        start = end;
    }
    Ok(erased)
}

fn erase_batch(
    record: &mut [u8],
    blobs: &mut [u8],
    batch: &BatchView,
    upto: Version,
) -> Result<u64, DecodeError> {
    let mut erased = 0;
    let versions = batch.first_version.value()..=upto.value();
    for (place, _) in batch.places().zip(versions) {
        let (at, len, payload_at) = place?;
        let body = at + EVENT_HEADER..at + EVENT_HEADER + len;
        let bytes = record.get_mut(body).ok_or(DecodeError::new("event is cut short"))?;
        match payload_at {
            ERASED => continue,
            INLINE => {}
            from => {
                let from = from as usize;
                let payload = from..from + EventHead::first(bytes)?.payload_len();
                let payload = blobs.get_mut(payload);
                let payload = payload.ok_or(DecodeError::new("payload is cut short"))?;
                erased += payload.len() as u64;
                payload.fill(0);
            }
        }
        erased += bytes.len() as u64;
        bytes.fill(0);
        record[at + EVENT_HEADER - 4..at + EVENT_HEADER].copy_from_slice(&ERASED.to_le_bytes());
        record[4] |= FLAG_COMPACTED;
    }
    Ok(erased)
}
