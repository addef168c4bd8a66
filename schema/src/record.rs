//! What one entry of a shard's log is, in bytes: encoding. Reading them back is in [`view`].
//!
//! ```text
//! frame's metadata area: record │ record │ …          frame's blob area: payload │ payload │ …
//!                          │
//!                          └ header │ participants │ batch │ batch │ …
//!                                                      │
//!                                                      └ header │ key │ event │ event │ …
//! ```
//!
//! A payload above `INLINE_PAYLOAD_BYTES_MAX` lies in the blob area, so that scanning metadata
//! skips it. The byte tables, and what each hash covers, are in `docs/record.md`.

use bytes::Bytes;

use crate::event::EncodedEvents;
use crate::hash::{
    EventContext, Hash, Hasher, event_hash, plain_record_hash, record_hasher, sequence_number,
};
use crate::ids::{BootId, ClientId, Epoch, Lsn, Sequence, ShardId, Stamp, TxnId, Version, WriteId};
use crate::key::AggregateKey;
use crate::limits::INLINE_PAYLOAD_BYTES_MAX;
use crate::request::{Guard, Retention};

mod batches;
mod erase;
pub mod view;

pub use batches::{FrameBatch, decode_batches};
pub use erase::{erase, erase_leg};
pub use view::{BatchView, Record, WriteRecord, batch_at, decode_records};

pub(crate) const KIND_WRITE: u8 = 1;
pub(crate) const KIND_LEG: u8 = 2;
pub(crate) const KIND_RESOLVE: u8 = 3;
pub(crate) const KIND_EPOCH_START: u8 = 4;
/// Some events' bytes are gone; their hashes remain.
pub(crate) const FLAG_COMPACTED: u8 = 1;
/// The batch deletes or trims instead of appending.
pub(crate) const BATCH_FLAG_TOMBSTONE: u8 = 1;
/// Bytes of a write's or leg's header, before the participants.
pub(crate) const WRITE_HEADER: usize = 104;
/// Bytes of a batch's header, before the key.
pub(crate) const BATCH_HEADER: usize = 40;
/// Bytes of a batch that deletes or trims, behind its key: what it does, and the chain hash there.
pub(crate) const TOMBSTONE: usize = Retention::BYTES + 32;
/// Bytes before an event's own: hash, head length, place of the payload.
pub(crate) const EVENT_HEADER: usize = 40;
/// "The payload follows the head."
pub(crate) const INLINE: u32 = u32::MAX;
/// "The event's bytes are gone": zeroes stand where they were.
pub(crate) const ERASED: u32 = u32::MAX - 1;
/// A record's hash covers everything from here: neither its length nor its flags, which compaction
/// changes.
pub(crate) const HASHED_FROM: usize = 5;

/// A write, or a leg of one, before it has a place in the log.
#[derive(Clone, Copy, Debug)]
pub struct WriteDraft<'a> {
    /// Who writes.
    pub client_id: ClientId,
    /// The attempt; of a leg, the transaction.
    pub write_id: WriteId,
    /// [`crate::hash::write_hash`] if there are sequences, else zero.
    pub write_hash: Hash,
    /// Server clock, µs since 1970.
    pub server_time: i64,
    /// Of the first event; event i over all batches has `stamp + i`, and a batch that deletes or
    /// trims has one, too. Of a leg without batches, its own.
    pub stamp: Stamp,
    /// All shards of the write, if it is a leg.
    pub leg: Option<&'a [ShardId]>,
    /// Members that change something.
    pub batches: &'a [BatchDraft<'a>],
}

/// One aggregate's batch, before it has a place in the log.
#[derive(Clone, Copy, Debug)]
pub struct BatchDraft<'a> {
    /// Which aggregate.
    pub key: &'a AggregateKey,
    /// What was checked.
    pub guard: Guard,
    /// The writer's.
    pub sequence: Option<Sequence>,
    /// Version of its first event: the aggregate's next one.
    pub first_version: Version,
    /// Chain hash before it.
    pub prev_hash: Hash,
    /// The events.
    pub events: &'a EncodedEvents,
    /// What it does instead of appending; then there are no events.
    pub retention: Option<Retention>,
}

/// What encoding a batch found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EncodedBatch {
    /// From the record's start, in bytes.
    pub offset: u32,
    /// Version of its first event.
    pub first_version: Version,
    /// Version of its last event.
    pub last_version: Version,
    /// Chain hash after it.
    pub hash: Hash,
}

/// The decision over a write that spans shards, as written down in each of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resolve {
    /// Which write.
    pub txn: TxnId,
    /// Whether its leg here counts.
    pub commit: bool,
    /// Where its leg is in this shard.
    pub leg_lsn: Lsn,
    /// Of this record.
    pub stamp: Stamp,
}

/// First record of a leader's epoch in a shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// The process.
    pub boot: BootId,
    /// Server clock, µs since 1970.
    pub server_time: i64,
    /// Of this record.
    pub stamp: Stamp,
}

/// Metadata and blob bytes of a record with these members (those that only guard take no room).
pub fn write_size<'a>(
    members: impl Iterator<Item = (&'a AggregateKey, &'a EncodedEvents, Option<Retention>)>,
    participants: usize,
) -> (usize, usize) {
    let mut meta = WRITE_HEADER + (participants * 2).next_multiple_of(8);
    let mut blobs = 0;
    for (key, events, retention) in members {
        if events.is_empty() && retention.is_none() {
            continue;
        }
        let apart = events.large_bytes();
        let own = retention.map_or(0, |_| TOMBSTONE);
        let bytes = events.as_bytes().len() - apart + events.len() * EVENT_HEADER + own;
        meta += (BATCH_HEADER + key.as_bytes().len() + bytes).next_multiple_of(8);
        blobs += apart;
    }
    (meta, blobs)
}

impl WriteDraft<'_> {
    /// The last stamp that it takes.
    pub fn last_stamp(&self) -> Stamp {
        let taken =
            |it: &BatchDraft<'_>| it.events.len() as u64 + u64::from(it.retention.is_some());
        let taken: u64 = self.batches.iter().map(taken).sum();
        Stamp::new(self.stamp.value() + taken.saturating_sub(1))
    }

    /// Metadata bytes of the record, exactly; a multiple of 8.
    pub fn meta_len(&self) -> usize {
        self.size().0
    }

    /// Blob bytes of the record, exactly.
    pub fn blob_len(&self) -> usize {
        self.size().1
    }

    fn size(&self) -> (usize, usize) {
        let members = self.batches.iter().map(|it| (it.key, it.events, it.retention));
        write_size(members, self.leg.map_or(0, <[ShardId]>::len))
    }

    /// Encodes into `meta`, which has exactly [`Self::meta_len`] bytes. Large payloads are pushed
    /// to
    /// `blobs`, uncopied; their places count from `blob_base`. What became of each batch goes to
    /// `out`. Returns the record's hash.
    ///
    /// # Panics
    /// When `meta` has another length.
    pub fn encode(
        &self,
        meta: &mut [u8],
        blob_base: u32,
        blobs: &mut Vec<Bytes>,
        out: &mut Vec<EncodedBatch>,
    ) -> Hash {
        let participants = self.leg.unwrap_or_default();
        let mut hasher = record_hasher();
        let mut at = WRITE_HEADER + (participants.len() * 2).next_multiple_of(8);
        self.encode_header(meta, participants, at);
        hasher.update(&meta[HASHED_FROM..at]);
        let mut place = Placement { blob_at: blob_base, blobs, stamp: self.stamp };
        for batch in self.batches {
            let end = self.encode_batch(batch, meta, at, &mut place, &mut hasher, out);
            at = end;
        }
        assert_eq!(at, meta.len(), "a record's length was computed otherwise");
        hasher.finish()
    }

    fn encode_header(&self, meta: &mut [u8], participants: &[ShardId], end: usize) {
        let len = meta.len() as u32;
        meta[..end].fill(0);
        meta[..4].copy_from_slice(&len.to_le_bytes());
        meta[5] = if self.leg.is_some() { KIND_LEG } else { KIND_WRITE };
        meta[6..8].copy_from_slice(&(self.batches.len() as u16).to_le_bytes());
        meta[8..24].copy_from_slice(&self.client_id.value().to_le_bytes());
        put_write_id(&mut meta[24..48], self.write_id);
        meta[48..80].copy_from_slice(&self.write_hash.0);
        meta[80..88].copy_from_slice(&self.server_time.to_le_bytes());
        meta[88..96].copy_from_slice(&self.stamp.value().to_le_bytes());
        meta[96..98].copy_from_slice(&(participants.len() as u16).to_le_bytes());
        for (at, shard) in (WRITE_HEADER..).step_by(2).zip(participants) {
            meta[at..at + 2].copy_from_slice(&shard.value().to_le_bytes());
        }
    }

    /// Encodes one batch at `start`; returns where the next one starts.
    fn encode_batch(
        &self,
        batch: &BatchDraft<'_>,
        meta: &mut [u8],
        start: usize,
        place: &mut Placement<'_>,
        hasher: &mut Hasher,
        out: &mut Vec<EncodedBatch>,
    ) -> usize {
        let key = batch.key.as_bytes();
        let events_at = start + BATCH_HEADER + key.len();
        let offset = (place.stamp.value() - self.stamp.value()) as u32;
        put_batch_header(&mut meta[start..start + BATCH_HEADER], batch, offset);
        meta[start + BATCH_HEADER..events_at].copy_from_slice(key);
        if let Some(retention) = batch.retention {
            return encode_tombstone(batch, retention, meta, start, place, hasher, out);
        }
        hasher.update(&meta[start + 4..events_at]);
        let mut context = EventContext {
            prev: batch.prev_hash,
            version: batch.first_version,
            stamp: place.stamp,
            server_time: self.server_time,
            client_id: self.client_id,
            sequence: batch.sequence,
        };
        let mut at = events_at;
        let mut last_version = batch.first_version;
        for body in batch.events.iter() {
            let hash = event_hash(&context, body.head(), body.payload());
            hasher.update(&hash.0);
            let (bytes, blob) = place.of(batch.events, &body);
            meta[at..at + 32].copy_from_slice(&hash.0);
            meta[at + 32..at + 36].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            meta[at + 36..at + 40].copy_from_slice(&blob.to_le_bytes());
            at += EVENT_HEADER;
            meta[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
            last_version = context.version;
            context.prev = hash;
            context.version = context.version.next();
            context.stamp = Stamp::new(context.stamp.value() + 1);
        }
        place.stamp = context.stamp;
        let end = close_batch(meta, start, at);
        out.push(EncodedBatch {
            offset: start as u32,
            first_version: batch.first_version,
            last_version,
            hash: context.prev,
        });
        end
    }
}

/// Encodes what a batch takes away, behind its header and key; returns where the next one starts.
fn encode_tombstone(
    batch: &BatchDraft<'_>,
    retention: Retention,
    meta: &mut [u8],
    start: usize,
    place: &mut Placement<'_>,
    hasher: &mut Hasher,
    out: &mut Vec<EncodedBatch>,
) -> usize {
    let at = start + BATCH_HEADER + batch.key.as_bytes().len();
    let (hash_at, content_end) = (at + Retention::BYTES, at + TOMBSTONE);
    meta[at..hash_at].copy_from_slice(&retention.to_bytes());
    meta[hash_at..content_end].copy_from_slice(&batch.prev_hash.0);
    hasher.update(&meta[start + 4..content_end]);
    let end = close_batch(meta, start, content_end);
    place.stamp = Stamp::new(place.stamp.value() + 1);
    out.push(EncodedBatch {
        offset: start as u32,
        first_version: batch.first_version,
        last_version: Version::new(batch.first_version.value() - 1),
        hash: batch.prev_hash,
    });
    end
}

/// Fills a batch up behind its content and says how long it is; returns where the next one starts.
fn close_batch(meta: &mut [u8], start: usize, content_end: usize) -> usize {
    let end = content_end.next_multiple_of(8);
    meta[content_end..end].fill(0);
    meta[start..start + 4].copy_from_slice(&((end - start) as u32).to_le_bytes());
    end
}

/// Where the next event's payload and stamp go.
struct Placement<'a> {
    blob_at: u32,
    blobs: &'a mut Vec<Bytes>,
    stamp: Stamp,
}

impl Placement<'_> {
    /// The event's bytes in the metadata area, and its payload's place.
    fn of<'e>(
        &mut self,
        events: &EncodedEvents,
        body: &crate::event::EventBody<'e>,
    ) -> (&'e [u8], u32) {
        let payload = body.payload();
        if payload.len() <= INLINE_PAYLOAD_BYTES_MAX {
            return (body.whole(), INLINE);
        }
        let at = self.blob_at;
        self.blob_at += payload.len() as u32;
        self.blobs.push(events.as_bytes().slice_ref(payload));
        (body.head(), at)
    }
}

impl Resolve {
    /// Bytes of the record.
    pub const LEN: usize = 64;

    /// Encodes into `meta`, which has exactly [`Self::LEN`] bytes. Returns the record's hash.
    pub fn encode(&self, meta: &mut [u8]) -> Hash {
        meta.fill(0);
        meta[..4].copy_from_slice(&(Self::LEN as u32).to_le_bytes());
        meta[5] = KIND_RESOLVE;
        put_write_id(&mut meta[8..32], self.txn);
        meta[32..40].copy_from_slice(&self.leg_lsn.value().to_le_bytes());
        meta[40..48].copy_from_slice(&self.stamp.value().to_le_bytes());
        meta[48] = u8::from(self.commit);
        plain_record_hash(&meta[HASHED_FROM..])
    }
}

impl EpochStart {
    /// Bytes of the record.
    pub const LEN: usize = 40;

    /// Encodes into `meta`, which has exactly [`Self::LEN`] bytes. Returns the record's hash.
    pub fn encode(&self, meta: &mut [u8]) -> Hash {
        meta.fill(0);
        meta[..4].copy_from_slice(&(Self::LEN as u32).to_le_bytes());
        meta[5] = KIND_EPOCH_START;
        meta[8..16].copy_from_slice(&self.epoch.value().to_le_bytes());
        meta[16..24].copy_from_slice(&self.boot.value().to_le_bytes());
        meta[24..32].copy_from_slice(&self.server_time.to_le_bytes());
        meta[32..40].copy_from_slice(&self.stamp.value().to_le_bytes());
        plain_record_hash(&meta[HASHED_FROM..])
    }
}

fn put_write_id(bytes: &mut [u8], id: WriteId) {
    bytes[..8].copy_from_slice(&id.epoch.value().to_le_bytes());
    bytes[8..16].copy_from_slice(&id.boot.value().to_le_bytes());
    bytes[16..24].copy_from_slice(&id.counter.to_le_bytes());
}

/// The length, at the start, is filled in when it is known.
fn put_batch_header(bytes: &mut [u8], batch: &BatchDraft<'_>, stamp_offset: u32) {
    let (guard, guard_version) = batch.guard.to_numbers();
    let sequence = sequence_number(batch.sequence);
    bytes[4..6].copy_from_slice(&(batch.key.as_bytes().len() as u16).to_le_bytes());
    bytes[6] = guard;
    bytes[7] = if batch.retention.is_some() { BATCH_FLAG_TOMBSTONE } else { 0 };
    bytes[8..16].copy_from_slice(&guard_version.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..32].copy_from_slice(&batch.first_version.value().to_le_bytes());
    bytes[32..36].copy_from_slice(&(batch.events.len() as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&stamp_offset.to_le_bytes());
}

#[cfg(test)]
#[path = "record/record_test.rs"]
mod tests;
