//! Reading records back. Nothing here trusts a length: every access is checked, nothing is
//! allocated by a claimed count.

use std::ops::Range;

use bytes::Bytes;

use super::{
    BATCH_FLAG_TOMBSTONE, BATCH_HEADER, ERASED, EVENT_HEADER, EpochStart, FLAG_COMPACTED,
    HASHED_FROM, INLINE, KIND_EPOCH_START, KIND_LEG, KIND_RESOLVE, KIND_WRITE, Resolve, TOMBSTONE,
    WRITE_HEADER,
};
use crate::event::{DecodeError, EventBody, EventHead};
use crate::hash::{Hash, plain_record_hash, record_hasher};
use crate::ids::{BootId, ClientId, Epoch, Lsn, Sequence, ShardId, Stamp, TxnId, Version, WriteId};
use crate::key::AggregateKey;
use crate::limits::NUMBER_MAX;
use crate::request::{Guard, Retention};
use crate::response::{BatchHeader, ReadEvent};

const CUT: DecodeError = DecodeError::new("record is cut short");

/// One record of a shard's log.
#[derive(Clone, Debug)]
pub enum Record {
    /// A write of this shard alone.
    Write(WriteRecord),
    /// This shard's part of a write over several.
    Leg(WriteRecord),
    /// The decision over a leg.
    Resolve(Resolve),
    /// A leader begins.
    EpochStart(EpochStart),
}

/// A write or a leg, taken apart.
#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// Who wrote.
    pub client_id: ClientId,
    /// The attempt; of a leg, the transaction.
    pub write_id: WriteId,
    /// Zero without sequences.
    pub write_hash: Hash,
    /// Server clock, µs since 1970.
    pub server_time: i64,
    /// Of the first event, or of a leg without events.
    pub stamp: Stamp,
    /// All shards of the write; empty unless it is a leg.
    pub participants: Vec<ShardId>,
    /// Its batches.
    pub batches: Vec<BatchView>,
}

/// One batch, taken apart.
#[derive(Clone, Debug)]
pub struct BatchView {
    /// From the record's start, in bytes.
    pub offset: u32,
    /// Which aggregate.
    pub key: AggregateKey,
    /// What was checked.
    pub guard: Guard,
    /// The writer's.
    pub sequence: Option<Sequence>,
    /// Version of the first event.
    pub first_version: Version,
    /// Version of the last event; without events the one before `first_version`.
    pub last_version: Version,
    /// Chain hash after the last event.
    pub hash: Hash,
    /// Of the first event.
    pub stamp: Stamp,
    /// Of the last event.
    pub last_stamp: Stamp,
    /// What it does instead of appending events.
    pub retention: Option<Retention>,
    events: Bytes,
    count: u32,
}

/// One event in a frame: its hash, its bytes before the payload, its payload. Of an event that was
/// erased only the hash is left.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Chain hash after it.
    pub hash: Hash,
    /// Canonical bytes before the payload.
    pub head: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// Canonical bytes in one piece, where they lie in one piece.
    whole: Option<Bytes>,
}

impl StoredEvent {
    /// The canonical bytes; copies only a payload that was stored apart.
    /// Empty when it was erased.
    pub fn body(&self) -> Bytes {
        self.whole.clone().unwrap_or_else(|| [&self.head[..], &self.payload[..]].concat().into())
    }

    /// Its bytes are gone: it was deleted, trimmed away or aborted, and the log compacted since.
    pub fn is_erased(&self) -> bool {
        self.head.is_empty()
    }
}

/// The records of a frame, in order: each with its offset in `meta` and its hash. Ends after
/// `count`, or at the first that is malformed.
pub fn decode_records<'a>(
    meta: &'a Bytes,
    blobs: &'a Bytes,
    count: u32,
) -> impl Iterator<Item = Result<(u32, Record, Hash), DecodeError>> + 'a {
    let mut at = 0;
    let mut left = count;
    std::iter::from_fn(move || {
        if left == 0 {
            if at < meta.len() {
                at = meta.len();
                return Some(Err(DecodeError::new("bytes after the last record")));
            }
            return None;
        }
        left -= 1;
        match record_bytes(meta, at).and_then(|bytes| Ok((bytes.len(), decode(&bytes, blobs)?))) {
            Ok((len, (record, hash))) => {
                let offset = at as u32;
                at += len;
                Some(Ok((offset, record, hash)))
            }
            Err(error) => {
                (left, at) = (0, meta.len());
                Some(Err(error))
            }
        }
    })
}

/// One batch as a reader gets it, from the place an index remembers, without the events that were
/// erased.
///
/// # Errors
/// When there is no batch at that place.
pub fn batch_at(
    meta: &Bytes,
    blobs: &Bytes,
    record_offset: u32,
    batch_offset: u32,
) -> Result<(BatchHeader, AggregateKey, Vec<ReadEvent>), DecodeError> {
    let bytes = record_bytes(meta, record_offset as usize)?;
    let (header, batch) = placed_batch(&bytes, batch_offset)?;
    let events = batch.read_events(blobs)?;
    Ok((header.batch(&batch), batch.key, events))
}

/// The batch at `offset` of a record's `bytes`, and what the record says of it.
pub(super) fn placed_batch(
    bytes: &Bytes,
    offset: u32,
) -> Result<(WriteHeader, BatchView), DecodeError> {
    if !holds_batches(bytes) {
        return Err(DecodeError::new("no write at this place"));
    }
    let header = WriteHeader::read(bytes)?;
    let start = offset as usize;
    if start < WRITE_HEADER || start >= bytes.len() {
        return Err(DecodeError::new("no batch at this place"));
    }
    let batch = BatchView::read(bytes, start, header.stamp)?.0;
    Ok((header, batch))
}

/// Where the batch at `start` of a record lies, and its key.
pub(super) fn batch_range(
    record: &[u8],
    start: usize,
) -> Result<(Range<usize>, Range<usize>), DecodeError> {
    let bytes = record.get(start..).ok_or(CUT)?;
    let len = u32_at(bytes, 0)? as usize;
    if len < BATCH_HEADER || !len.is_multiple_of(8) || len > bytes.len() {
        return Err(DecodeError::new("batch's length is impossible"));
    }
    let key_end = BATCH_HEADER + usize::from(u16_at(bytes, 4)?);
    if key_end > len {
        return Err(CUT);
    }
    Ok((start..start + len, start + BATCH_HEADER..start + key_end))
}

/// A write or a leg, compacted or not.
pub(super) fn holds_batches(record: &[u8]) -> bool {
    record[4] & !FLAG_COMPACTED == 0 && matches!(record[HASHED_FROM], KIND_WRITE | KIND_LEG)
}

pub(super) fn record_bytes(meta: &Bytes, at: usize) -> Result<Bytes, DecodeError> {
    record_range(meta, at).map(|range| meta.slice(range))
}

/// Where the record that starts `at` lies.
pub(super) fn record_range(meta: &[u8], at: usize) -> Result<Range<usize>, DecodeError> {
    let head = meta.get(at..).ok_or(CUT)?;
    let len = u32_at(head, 0)? as usize;
    if len < 8 || !len.is_multiple_of(8) || len > head.len() {
        return Err(DecodeError::new("record's length is impossible"));
    }
    Ok(at..at + len)
}

fn decode(bytes: &Bytes, blobs: &Bytes) -> Result<(Record, Hash), DecodeError> {
    if bytes[4] & !FLAG_COMPACTED != 0 {
        return Err(DecodeError::new("unknown record flag"));
    }
    match bytes[HASHED_FROM] {
        KIND_RESOLVE | KIND_EPOCH_START if bytes[4] != 0 => {
            Err(DecodeError::new("there is nothing to compact in this kind of record"))
        }
        KIND_WRITE => decode_write(bytes, blobs).map(|(write, hash)| (Record::Write(write), hash)),
        KIND_LEG => decode_write(bytes, blobs).map(|(write, hash)| (Record::Leg(write), hash)),
        KIND_RESOLVE if bytes.len() == Resolve::LEN => {
            let hash = plain_record_hash(&bytes[HASHED_FROM..]);
            if bytes[48] > 1 {
                return Err(DecodeError::new("a decision is yes or no"));
            }
            check_zeroes(&bytes[6..8])?;
            check_zeroes(&bytes[49..])?;
            let resolve = Resolve {
                txn: write_id_at(bytes, 8)?,
                commit: bytes[48] == 1,
                leg_lsn: Lsn::new(u64_at(bytes, 32)?),
                stamp: stamp_at(bytes, 40)?,
            };
            Ok((Record::Resolve(resolve), hash))
        }
        KIND_EPOCH_START if bytes.len() == EpochStart::LEN => {
            let hash = plain_record_hash(&bytes[HASHED_FROM..]);
            check_zeroes(&bytes[6..8])?;
            let start = EpochStart {
                epoch: Epoch::new(u64_at(bytes, 8)?),
                boot: BootId::new(u64_at(bytes, 16)?),
                server_time: u64_at(bytes, 24)? as i64,
                stamp: stamp_at(bytes, 32)?,
            };
            Ok((Record::EpochStart(start), hash))
        }
        _ => Err(DecodeError::new("unknown kind of record")),
    }
}

fn decode_write(bytes: &Bytes, blobs: &Bytes) -> Result<(WriteRecord, Hash), DecodeError> {
    let header = WriteHeader::read(bytes)?;
    let mut hasher = record_hasher();
    hasher.update(&bytes[HASHED_FROM..header.end]);
    let mut batches = Vec::new();
    let mut is_compacted = false;
    let mut at = header.end;
    for _ in 0..header.batches {
        let (batch, end) = BatchView::read(bytes, at, header.stamp)?;
        let own = batch.retention.map_or(0, |_| TOMBSTONE);
        let events_at = at + BATCH_HEADER + batch.key.as_bytes().len() + own;
        hasher.update(&bytes[at + 4..events_at]);
        for event in batch.events(blobs) {
            let event = event?;
            is_compacted |= event.is_erased();
            hasher.update(&event.hash.0);
        }
        batches.push(batch);
        at = end;
    }
    if at != bytes.len() {
        return Err(DecodeError::new("record's batches do not add up to its length"));
    }
    if is_compacted != (bytes[4] & FLAG_COMPACTED != 0) {
        return Err(DecodeError::new("record does not say whether events are erased"));
    }
    let record = WriteRecord {
        client_id: header.client_id,
        write_id: header.write_id,
        write_hash: header.write_hash,
        server_time: header.server_time,
        stamp: header.stamp,
        participants: header.participants,
        batches,
    };
    Ok((record, hasher.finish()))
}

pub(super) struct WriteHeader {
    client_id: ClientId,
    pub(super) write_id: WriteId,
    write_hash: Hash,
    server_time: i64,
    pub(super) stamp: Stamp,
    participants: Vec<ShardId>,
    pub(super) batches: u16,
    /// Where the first batch starts.
    pub(super) end: usize,
}

impl WriteHeader {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < WRITE_HEADER {
            return Err(CUT);
        }
        let count = usize::from(u16_at(bytes, 96)?);
        if (bytes[HASHED_FROM] == KIND_LEG) != (count > 0) {
            return Err(DecodeError::new("a leg names its shards, a write has none"));
        }
        let end = WRITE_HEADER + (count * 2).next_multiple_of(8);
        let listed = bytes.get(WRITE_HEADER..end).ok_or(CUT)?;
        check_zeroes(&bytes[98..WRITE_HEADER])?;
        check_zeroes(&listed[count * 2..])?;
        let listed = listed[..count * 2].chunks_exact(2);
        let batches = u16_at(bytes, 6)?;
        if batches == 0 && count == 0 {
            return Err(DecodeError::new("a write has at least one batch"));
        }
        let shard = |pair: &[u8]| ShardId::new(u16::from_le_bytes([pair[0], pair[1]]));
        Ok(Self {
            client_id: ClientId::new(u128_at(bytes, 8)?),
            write_id: write_id_at(bytes, 24)?,
            write_hash: hash_at(bytes, 48)?,
            server_time: u64_at(bytes, 80)? as i64,
            stamp: stamp_at(bytes, 88)?,
            participants: listed.map(shard).collect(),
            batches,
            end,
        })
    }
}

impl WriteHeader {
    /// What a reader is told of one of its batches.
    pub(super) fn batch(&self, view: &BatchView) -> BatchHeader {
        BatchHeader {
            first_version: view.first_version,
            last_version: view.last_version,
            client_id: self.client_id,
            sequence: view.sequence,
            server_time: self.server_time,
            stamp: view.stamp,
            write_id: self.write_id,
        }
    }
}

impl BatchView {
    /// Its events as readers get them, in order, without those that were erased.
    ///
    /// # Errors
    /// At the first that is malformed.
    pub fn read_events(&self, blobs: &Bytes) -> Result<Vec<ReadEvent>, DecodeError> {
        let mut version = self.first_version;
        let mut events = Vec::with_capacity(self.count.min(4096) as usize);
        for event in self.events(blobs) {
            let event = event?;
            if !event.is_erased() {
                events.push(ReadEvent { version, hash: event.hash, body: event.body() });
            }
            version = version.next();
        }
        Ok(events)
    }

    /// Reads the batch at `start` of a record; returns it and where the next one starts.
    pub(super) fn read(
        record: &Bytes,
        start: usize,
        stamp: Stamp,
    ) -> Result<(Self, usize), DecodeError> {
        let (range, key) = batch_range(record, start)?;
        let bytes = &record[range];
        let (len, events_at) = (bytes.len(), key.end - start);
        if bytes[7] & !BATCH_FLAG_TOMBSTONE != 0 {
            return Err(DecodeError::new("unknown batch flag"));
        }
        let is_tombstone = bytes[7] != 0;
        let key = AggregateKey::from_bytes(record.slice(key))
            .map_err(|_| DecodeError::new("batch's key is not org/type/id"))?;
        let count = u32_at(bytes, 32)?;
        let first = u64_at(bytes, 24)?;
        let first_stamp = stamp.value() + u64::from(u32_at(bytes, 36)?);
        // A stamp has what takes away, too.
        let more = u64::from(count).max(1);
        let impossible = |number: u64| number >= NUMBER_MAX || number + more > NUMBER_MAX;
        if (count == 0) != is_tombstone
            || first == 0
            || impossible(first)
            || impossible(first_stamp)
        {
            return Err(DecodeError::new("batch's numbers are impossible"));
        }
        let events = record.slice(start + events_at..start + len);
        let (retention, hash) = match is_tombstone {
            true => tombstone(&events).map(|(retention, hash)| (Some(retention), hash))?,
            false => (None, last_hash(&events, count)?),
        };
        let view = Self {
            offset: start as u32,
            key,
            guard: guard_at(bytes)?,
            sequence: Some(u64_at(bytes, 16)?).filter(|s| *s > 0).map(Sequence::new),
            first_version: Version::new(first),
            last_version: Version::new(first + u64::from(count) - 1),
            hash,
            stamp: Stamp::new(first_stamp),
            last_stamp: Stamp::new(first_stamp + more - 1),
            retention,
            events,
            count,
        };
        Ok((view, start + len))
    }

    /// Where each event starts, its hash first, from the record's start; with how many bytes follow
    /// its header and where its payload is.
    pub(super) fn places(&self) -> impl Iterator<Item = Result<(usize, usize, u32), DecodeError>> {
        let mut at = 0;
        let start = self.offset as usize + BATCH_HEADER + self.key.as_bytes().len();
        (0..self.count).map(move |_| {
            let here = at;
            let len = u32_at(&self.events, here + 32)? as usize;
            at = here.checked_add(EVENT_HEADER + len).ok_or(CUT)?;
            Ok((start + here, len, u32_at(&self.events, here + 36)?))
        })
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it takes away instead of appending.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The events in order. Ends at the first that is malformed.
    pub fn events<'a>(
        &'a self,
        blobs: &'a Bytes,
    ) -> impl Iterator<Item = Result<StoredEvent, DecodeError>> + 'a {
        let mut at = 0;
        let mut failed = false;
        (0..self.count).map_while(move |_| {
            if failed {
                return None;
            }
            let event = stored_event(&self.events, at, blobs);
            match &event {
                Ok((_, end)) => at = *end,
                Err(_) => failed = true,
            }
            Some(event.map(|(event, _)| event))
        })
    }
}

fn stored_event(
    events: &Bytes,
    at: usize,
    blobs: &Bytes,
) -> Result<(StoredEvent, usize), DecodeError> {
    let hash = hash_at(events, at)?;
    let len = u32_at(events, at + 32)? as usize;
    let blob = u32_at(events, at + 36)?;
    let start = at + EVENT_HEADER;
    let end = start.checked_add(len).filter(|end| *end <= events.len()).ok_or(CUT)?;
    let bytes = events.slice(start..end);
    if blob == ERASED {
        check_zeroes(&bytes)?;
        let gone = Bytes::new();
        return Ok((StoredEvent { hash, head: gone.clone(), payload: gone, whole: None }, end));
    }
    if blob == INLINE {
        let payload_at = EventBody::new(&bytes)?.head().len();
        let (head, payload) = (bytes.slice(..payload_at), bytes.slice(payload_at..));
        return Ok((StoredEvent { hash, head, payload, whole: Some(bytes) }, end));
    }
    let head = EventHead::first(&bytes)?;
    if head.bytes().len() != bytes.len() {
        return Err(DecodeError::new("event's lengths contradict each other"));
    }
    let from = blob as usize;
    let to = from.checked_add(head.payload_len()).filter(|to| *to <= blobs.len()).ok_or(CUT)?;
    let payload = blobs.slice(from..to);
    Ok((StoredEvent { hash, head: bytes, payload, whole: None }, end))
}

/// The chain hash after a batch is that of its last event; found by walking lengths only, which
/// also proves that there are `count` events and nothing but padding behind them.
fn last_hash(events: &[u8], count: u32) -> Result<Hash, DecodeError> {
    let mut at = 0;
    let mut hash = Err(CUT);
    for _ in 0..count {
        hash = Ok(hash_at(events, at)?);
        let len = u32_at(events, at + 32)? as usize;
        at = at.checked_add(EVENT_HEADER + len).ok_or(CUT)?;
    }
    let padding = events.get(at..).ok_or(CUT)?;
    if padding.len() >= 8 {
        return Err(DecodeError::new("batch's events do not add up to its length"));
    }
    check_zeroes(padding)?;
    hash
}

/// What a batch without events has behind its key: what it takes away, and the chain hash there.
fn tombstone(content: &[u8]) -> Result<(Retention, Hash), DecodeError> {
    let retention = Retention::from_bytes(array_at(content, 0)?);
    let retention = retention.ok_or(DecodeError::new("a retention that is not known"))?;
    let padding = content.get(TOMBSTONE..).ok_or(CUT)?;
    if padding.len() >= 8 {
        return Err(DecodeError::new("a tombstone is longer than it says"));
    }
    check_zeroes(padding)?;
    Ok((retention, hash_at(content, Retention::BYTES)?))
}

fn check_zeroes(reserved: &[u8]) -> Result<(), DecodeError> {
    let clear = reserved.iter().all(|byte| *byte == 0);
    clear.then_some(()).ok_or(DecodeError::new("reserved bytes are not zero"))
}

fn guard_at(batch: &[u8]) -> Result<Guard, DecodeError> {
    let guard = Guard::from_numbers(batch[6], u64_at(batch, 8)?);
    guard.ok_or(DecodeError::new("unknown guard"))
}

fn write_id_at(bytes: &[u8], at: usize) -> Result<TxnId, DecodeError> {
    Ok(TxnId {
        epoch: Epoch::new(u64_at(bytes, at)?),
        boot: BootId::new(u64_at(bytes, at + 8)?),
        counter: u64_at(bytes, at + 16)?,
    })
}

fn stamp_at(bytes: &[u8], at: usize) -> Result<Stamp, DecodeError> {
    let stamp = u64_at(bytes, at)?;
    let fits = stamp < NUMBER_MAX;
    fits.then(|| Stamp::new(stamp)).ok_or(DecodeError::new("a stamp is below 2^53"))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DecodeError> {
    let end = at.checked_add(N).ok_or(CUT)?;
    bytes.get(at..end).and_then(|slice| slice.try_into().ok()).ok_or(CUT)
}

fn hash_at(bytes: &[u8], at: usize) -> Result<Hash, DecodeError> {
    array_at(bytes, at).map(Hash)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, DecodeError> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, DecodeError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, DecodeError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn u128_at(bytes: &[u8], at: usize) -> Result<u128, DecodeError> {
    array_at(bytes, at).map(u128::from_le_bytes)
}
