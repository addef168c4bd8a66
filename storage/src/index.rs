//! The index of a full segment: what a start needs to know of it without reading it.
//!
//! ```text
//! NNNNNNNN.idx   | header 64 | entries, sorted by key | outcomes of legs | footer 160 |
//! ```
//! An entry is the state of one aggregate at the segment's end and the places of its batches in it.
//! Written whole with one `Put` when everything in the segment is durable and decided; can be made
//! again from the segments at any time, so a damaged one is thrown away, never believed. Bytes in
//! docs/format.md §3.
//!
//! Deliberately absent: partial reads. The directory takes in whole blocks for now.

use bytes::Bytes;
use celeriant_schema::limits::SEQUENCES_REMEMBERED;
use celeriant_schema::{
    AggregateKey, BootId, ClientId, ClusterId, Epoch, Hash, Lsn, Sequence, ShardId, Stamp, TxnId,
    Version,
};

use crate::codec::{Reader, crc32c};
use crate::directory::{BatchLocation, Remembered};
use crate::error::Flaw;
use crate::{FORMAT, Identity};

const MAGIC: u64 = u64::from_le_bytes(*b"CLRIDX\r\n");
const HEADER_BYTES: usize = 64;
const FOOTER_BYTES: usize = 160;
const OUTCOME_BYTES: usize = 40;

/// A segment that takes no more frames.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedSegment {
    /// Whose log it is.
    pub identity: Identity,
    /// Number of the segment.
    pub segment: u32,
    /// Its first record.
    pub first_lsn: Lsn,
    /// Its last record.
    pub last_lsn: Lsn,
    /// Hash of the frame before its first.
    pub prev_hash: Hash,
    /// Hash of its last frame.
    pub last_hash: Hash,
    /// Behind its last frame, in bytes.
    pub end: u64,
    /// Highest stamp up to its end.
    pub last_stamp: Stamp,
    /// Highest epoch up to its end.
    pub max_epoch: Epoch,
    /// The directory must have applied every record up to here before it makes the index.
    pub applied_upto: Lsn,
    /// What became of the legs in it, in log order.
    pub outcomes: Vec<LegOutcome>,
}

/// What became of one shard's part of a write over several shards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LegOutcome {
    /// Which write.
    pub txn: TxnId,
    /// Where its leg is.
    pub leg_lsn: Lsn,
    /// Committed, or aborted.
    pub commit: bool,
}

/// One aggregate in an index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: AggregateKey,
    pub(crate) first_version: Version,
    pub(crate) last_version: Version,
    pub(crate) hash: Hash,
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) stamp: Stamp,
    pub(crate) batches: Vec<EntryBatch>,
    pub(crate) clients: Vec<EntryClient>,
}

/// Place of one batch in the index's segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EntryBatch {
    first_version: Version,
    frame_offset: u32,
    frame_bytes: u32,
    record_offset: u32,
    batch_offset: u32,
}

/// One client's sequences in an index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EntryClient {
    pub(crate) id: ClientId,
    pub(crate) remembered: Vec<Remembered>,
}

impl EntryBatch {
    pub(crate) fn of(first_version: Version, location: &BatchLocation) -> Self {
        let BatchLocation { frame_offset, frame_bytes, record_offset, batch_offset, .. } =
            *location;
        Self { first_version, frame_offset, frame_bytes, record_offset, batch_offset }
    }

    pub(crate) fn place(&self, segment: u32) -> (Version, BatchLocation) {
        let location = BatchLocation {
            segment,
            frame_offset: self.frame_offset,
            frame_bytes: self.frame_bytes,
            record_offset: self.record_offset,
            batch_offset: self.batch_offset,
        };
        (self.first_version, location)
    }
}

/// The file's bytes. Entries come sorted by key.
pub(crate) fn encode(sealed: &SealedSegment, entries: impl Iterator<Item = Entry>) -> Bytes {
    let mut out = vec![0; HEADER_BYTES];
    let mut count = 0u32;
    for entry in entries {
        encode_entry(&entry, &mut out);
        count += 1;
    }
    for outcome in &sealed.outcomes {
        encode_outcome(outcome, &mut out);
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC.to_le_bytes());
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&sealed.identity.shard.value().to_le_bytes());
    header.extend_from_slice(&sealed.segment.to_le_bytes());
    header.extend_from_slice(&sealed.identity.cluster.value().to_le_bytes());
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&(sealed.outcomes.len() as u32).to_le_bytes());
    out[..header.len()].copy_from_slice(&header);
    encode_footer(sealed, &mut out);
    out.into()
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let key = entry.key.as_bytes();
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    // Flags: reserved for deleted and trimmed aggregates.
    out.extend_from_slice(&0u16.to_le_bytes());
    out.extend_from_slice(&(entry.batches.len() as u32).to_le_bytes());
    out.extend_from_slice(&(entry.clients.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.first_version.value().to_le_bytes());
    out.extend_from_slice(&entry.last_version.value().to_le_bytes());
    out.extend_from_slice(&entry.hash.0);
    out.extend_from_slice(&entry.created.to_le_bytes());
    out.extend_from_slice(&entry.updated.to_le_bytes());
    out.extend_from_slice(&entry.stamp.value().to_le_bytes());
    out.extend_from_slice(key);
    for batch in &entry.batches {
        out.extend_from_slice(&batch.first_version.value().to_le_bytes());
        out.extend_from_slice(&batch.frame_offset.to_le_bytes());
        out.extend_from_slice(&batch.frame_bytes.to_le_bytes());
        out.extend_from_slice(&batch.record_offset.to_le_bytes());
        out.extend_from_slice(&batch.batch_offset.to_le_bytes());
    }
    for client in &entry.clients {
        out.extend_from_slice(&client.id.value().to_le_bytes());
        out.extend_from_slice(&(client.remembered.len() as u32).to_le_bytes());
        for it in &client.remembered {
            out.extend_from_slice(&it.sequence.value().to_le_bytes());
            out.extend_from_slice(&it.first_version.value().to_le_bytes());
            out.extend_from_slice(&it.last_version.value().to_le_bytes());
            out.extend_from_slice(&it.hash.0);
            out.extend_from_slice(&it.stamp.value().to_le_bytes());
            out.extend_from_slice(&it.write_hash.0);
        }
    }
}

fn encode_outcome(outcome: &LegOutcome, out: &mut Vec<u8>) {
    out.extend_from_slice(&outcome.txn.epoch.value().to_le_bytes());
    out.extend_from_slice(&outcome.txn.boot.value().to_le_bytes());
    out.extend_from_slice(&outcome.txn.counter.to_le_bytes());
    out.extend_from_slice(&outcome.leg_lsn.value().to_le_bytes());
    out.extend_from_slice(&u64::from(outcome.commit).to_le_bytes());
}

fn encode_footer(sealed: &SealedSegment, out: &mut Vec<u8>) {
    let bytes = out.len() + FOOTER_BYTES;
    out.extend_from_slice(&sealed.first_lsn.value().to_le_bytes());
    out.extend_from_slice(&sealed.last_lsn.value().to_le_bytes());
    out.extend_from_slice(&sealed.end.to_le_bytes());
    out.extend_from_slice(&sealed.last_stamp.value().to_le_bytes());
    out.extend_from_slice(&sealed.max_epoch.value().to_le_bytes());
    out.extend_from_slice(&sealed.applied_upto.value().to_le_bytes());
    out.extend_from_slice(&sealed.prev_hash.0);
    out.extend_from_slice(&sealed.last_hash.0);
    out.resize(bytes - 20, 0);
    out.extend_from_slice(&(bytes as u64).to_le_bytes());
    let checksum = crc32c(out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(&MAGIC.to_le_bytes());
}

/// An intact index file.
#[derive(Clone, Debug)]
pub struct Index {
    /// What it says of its segment as a whole.
    pub sealed: SealedSegment,
    content: Bytes,
    entries: u32,
}

impl Index {
    /// Checks the whole file and reads what it says of the segment.
    ///
    /// # Errors
    /// When it is not an intact index of that segment. Never believe a part of it then.
    pub fn decode(content: Bytes, identity: &Identity, segment: u32) -> Result<Self, Flaw> {
        if content.len() < HEADER_BYTES + FOOTER_BYTES {
            return Err(Flaw::Lengths);
        }
        let footer = &content[content.len() - FOOTER_BYTES..];
        let mut end = Reader::new(&footer[FOOTER_BYTES - 20..]);
        let mut header = Reader::new(&content);
        let bytes = end.u64()?;
        let checksum = end.u32()?;
        if header.u64()? != MAGIC || end.u64()? != MAGIC {
            return Err(Flaw::Magic("segment index"));
        }
        if bytes != content.len() as u64 {
            return Err(Flaw::Lengths);
        }
        if checksum != crc32c(&content[..content.len() - 12]) {
            return Err(Flaw::BodyChecksum);
        }
        if header.u16()? != FORMAT {
            return Err(Flaw::Magic("segment index of a format that this build knows"));
        }
        let shard = ShardId::new(header.u16()?);
        let number = header.u32()?;
        let cluster = ClusterId::new(header.u128()?);
        let (entries, outcome_count) = (header.u32()?, header.u32()? as usize);
        if (Identity { cluster, shard }) != *identity {
            return Err(Flaw::Foreign("shard"));
        }
        if number != segment {
            return Err(Flaw::Foreign("segment"));
        }
        let outcomes_bytes = outcome_count.checked_mul(OUTCOME_BYTES).ok_or(Flaw::Lengths)?;
        let outcomes_end = content.len() - FOOTER_BYTES;
        let outcomes_at = outcomes_end
            .checked_sub(outcomes_bytes)
            .filter(|at| *at >= HEADER_BYTES)
            .ok_or(Flaw::Lengths)?;
        let outcomes = decode_outcomes(&content[outcomes_at..outcomes_end])?;
        let sealed = decode_footer(footer, *identity, segment, outcomes)?;
        Ok(Self { sealed, content: content.slice(HEADER_BYTES..outcomes_at), entries })
    }

    /// Every aggregate, in key order.
    pub(crate) fn entries(&self) -> Entries<'_> {
        Entries { index: self, at: 0, left: self.entries, previous: None }
    }

    /// Number of aggregates with batches in the segment.
    pub fn aggregates(&self) -> u32 {
        self.entries
    }
}

fn decode_outcomes(bytes: &[u8]) -> Result<Vec<LegOutcome>, Flaw> {
    let mut reader = Reader::new(bytes);
    let mut outcomes = Vec::with_capacity(bytes.len() / OUTCOME_BYTES);
    while reader.left() > 0 {
        let (epoch, boot) = (Epoch::new(reader.u64()?), BootId::new(reader.u64()?));
        let txn = TxnId { epoch, boot, counter: reader.u64()? };
        let leg_lsn = Lsn::new(reader.u64()?);
        outcomes.push(LegOutcome { txn, leg_lsn, commit: reader.u64()? == 1 });
    }
    Ok(outcomes)
}

fn decode_footer(
    footer: &[u8],
    identity: Identity,
    segment: u32,
    outcomes: Vec<LegOutcome>,
) -> Result<SealedSegment, Flaw> {
    let mut reader = Reader::new(footer);
    Ok(SealedSegment {
        identity,
        segment,
        first_lsn: Lsn::new(reader.u64()?),
        last_lsn: Lsn::new(reader.u64()?),
        end: reader.u64()?,
        last_stamp: Stamp::new(reader.u64()?),
        max_epoch: Epoch::new(reader.u64()?),
        applied_upto: Lsn::new(reader.u64()?),
        prev_hash: reader.hash()?,
        last_hash: reader.hash()?,
        outcomes,
    })
}

/// Iterator over an index's aggregates.
pub(crate) struct Entries<'a> {
    index: &'a Index,
    at: usize,
    left: u32,
    previous: Option<AggregateKey>,
}

impl Entries<'_> {
    fn entry(&mut self) -> Result<Entry, Flaw> {
        let bytes = &self.index.content[self.at..];
        let mut reader = Reader::new(bytes);
        let key_len = reader.u16()? as usize;
        reader.u16()?;
        let (batch_count, client_count) = (reader.u32()?, reader.u32()?);
        let (first_version, last_version) = (reader.u64()?, reader.u64()?);
        let hash = reader.hash()?;
        let (created, updated, stamp) = (reader.i64()?, reader.i64()?, reader.u64()?);
        let key_at = self.at + bytes.len() - reader.left();
        reader.take(key_len)?;
        let key = AggregateKey::from_bytes(self.index.content.slice(key_at..key_at + key_len))
            .map_err(|error| Flaw::Decode(error.to_string()))?;
        let mut batches = Vec::new();
        for _ in 0..batch_count {
            batches.push(decode_batch(&mut reader)?);
        }
        let mut clients = Vec::new();
        for _ in 0..client_count {
            clients.push(decode_client(&mut reader)?);
        }
        self.at += bytes.len() - reader.left();
        let entry = Entry {
            key,
            first_version: Version::new(first_version),
            last_version: Version::new(last_version),
            hash,
            created,
            updated,
            stamp: Stamp::new(stamp),
            batches,
            clients,
        };
        self.check(&entry)?;
        Ok(entry)
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Flaw> {
        if self.previous.as_ref().is_some_and(|previous| *previous >= entry.key) {
            return Err(Flaw::Chain("keys out of order"));
        }
        let starts: Vec<_> = entry.batches.iter().map(|batch| batch.first_version).collect();
        let in_order = starts.windows(2).all(|pair| pair[0] < pair[1]);
        if starts.first() != Some(&entry.first_version)
            || starts.last().is_none_or(|last| *last > entry.last_version)
            || !in_order
        {
            return Err(Flaw::Chain("versions out of order"));
        }
        self.previous = Some(entry.key.clone());
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let end = self.index.content.len();
            let rest = end - std::mem::replace(&mut self.at, end);
            return (rest > 0).then_some(Err(Flaw::Lengths));
        }
        self.left -= 1;
        let entry = self.entry();
        if entry.is_err() {
            self.left = 0;
            self.at = self.index.content.len();
        }
        Some(entry)
    }
}

fn decode_batch(reader: &mut Reader<'_>) -> Result<EntryBatch, Flaw> {
    Ok(EntryBatch {
        first_version: Version::new(reader.u64()?),
        frame_offset: reader.u32()?,
        frame_bytes: reader.u32()?,
        record_offset: reader.u32()?,
        batch_offset: reader.u32()?,
    })
}

fn decode_client(reader: &mut Reader<'_>) -> Result<EntryClient, Flaw> {
    let id = ClientId::new(reader.u128()?);
    let count = reader.u32()? as usize;
    if count > SEQUENCES_REMEMBERED {
        return Err(Flaw::Lengths);
    }
    let mut remembered = Vec::with_capacity(count);
    for _ in 0..count {
        remembered.push(Remembered {
            sequence: Sequence::new(reader.u64()?),
            first_version: Version::new(reader.u64()?),
            last_version: Version::new(reader.u64()?),
            hash: reader.hash()?,
            stamp: Stamp::new(reader.u64()?),
            write_hash: reader.hash()?,
        });
    }
    Ok(EntryClient { id, remembered })
}

#[cfg(test)]
#[path = "index/index_test.rs"]
mod tests;
