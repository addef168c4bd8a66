//! That an event is in a log that an audit head stands for, checked without a server.
//!
//! ```text
//! event's bytes ─► event hash ─┐ its batch's other hashes      record hash ─┐ the frame's others
//!                              └─► batch fields, record fields ─► ──────────┘
//!                                            frame hash ─► path up its mountain ─► head
//! ```
//! Of other events and records there are only hashes; of the event's own record also the keys of
//! the aggregates that the same write appended to. The size grows with the records of one frame and
//! the logarithm of the number of frames.
//!
//! A leg of a write over several shards is in the log whether the write counted or not:
//! [`Included::is_leg`] says so.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::head::AuditHead;
use super::hex::Hex;
use super::mountains::Proof;
use crate::codec::DecodeError;
use crate::codec::Reader;
use crate::event::EventBody;
use crate::hash::{
    EventContext, FrameFields, Hash, chain_start, event_hash, frame_hash, record_hasher,
};
use crate::ids::{BootId, ClientId, ClusterId, Epoch, Lsn, Sequence, ShardId, Stamp, Version};
use crate::key::AggregateKey;
use crate::record::{
    BATCH_FLAG_TOMBSTONE, BATCH_HEADER, HASHED_FROM, KIND_LEG, KIND_WRITE, Record, TOMBSTONE,
    WRITE_HEADER, decode_records,
};
use crate::response::ReadBatch;

/// An event with everything that leads from it to a head. One JSON object.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    /// The aggregate.
    pub key: String,
    /// The event's version.
    pub version: u64,
    /// Hash of the aggregate's event before it, or its chain's start.
    pub prev: Hash,
    /// The event's canonical bytes.
    pub event: Hex,
    /// What is around it.
    pub evidence: Evidence,
    /// Where its frame is among those of the head: [`Proof::encode`].
    pub path: Hex,
}

/// What is around an event, as a server answers `{"order":"audit","do":"event"}`: no content.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What the frame's hash covers besides its records' hashes.
    pub frame: FrameEvidence,
    /// Hashes of the frame's records, in order.
    pub records: Vec<Hash>,
    /// Which of them is the event's.
    pub record: usize,
    /// That record's bytes from the kind to the first batch.
    pub fields: Hex,
    /// Its batches.
    pub batches: Vec<BatchEvidence>,
}

/// What a frame's hash covers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameEvidence {
    /// The cluster, as a UUID.
    pub cluster: String,
    /// Which shard.
    pub shard: u16,
    /// Epoch of the leader that made it.
    pub epoch: u64,
    /// The process that made it, as 16 hex digits: it may be above 2^53.
    pub boot: String,
    /// Its first record.
    pub first_lsn: u64,
    /// Its first stamp.
    pub first_stamp: u64,
    /// Its last stamp.
    pub last_stamp: u64,
    /// Hash of the frame before it.
    pub prev_hash: Hash,
}

/// One batch of a record.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEvidence {
    /// Its bytes from the length of the key to the end of the key, or of the tombstone.
    pub fields: Hex,
    /// Hashes of its events.
    pub events: Vec<Hash>,
}

/// Looks for an event, and the hash before it, in pages of a read without filters.
#[derive(Clone, Debug)]
pub struct Seek {
    version: Version,
    prev: Option<Hash>,
}

/// An event that is to be proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sought {
    /// Hash of the one before it, or its chain's start.
    pub prev: Hash,
    /// Its canonical bytes.
    pub event: Bytes,
    /// Its stamp.
    pub stamp: Stamp,
}

impl Seek {
    /// For one event of `key`.
    pub fn new(key: &AggregateKey, version: Version) -> Self {
        let is_first = version.value() <= 1;
        Self { version, prev: is_first.then(|| chain_start(key)) }
    }

    /// Lowest version to read; the event's is the highest.
    pub fn from(&self) -> Version {
        Version::new(self.version.value().saturating_sub(1))
    }

    /// Takes the next page's batches.
    pub fn take(&mut self, batches: &[ReadBatch]) -> Option<Sought> {
        for ReadBatch { header, events } in batches {
            for event in events {
                if event.version == self.from() {
                    self.prev = Some(event.hash);
                }
                if let Some(prev) = self.prev.filter(|_| event.version == self.version) {
                    let ahead = self.version.value().saturating_sub(header.first_version.value());
                    let stamp = header.stamp.value().saturating_add(ahead).into();
                    return Some(Sought { prev, event: event.body.clone(), stamp });
                }
            }
        }
        None
    }
}

/// What an accepted proof says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Included {
    /// The event's hash: the aggregate's chain hash after it.
    pub hash: Hash,
    /// Its stamp.
    pub stamp: Stamp,
    /// When the server took it, µs since 1970.
    pub server_time: i64,
    /// Who wrote it.
    pub client_id: ClientId,
    /// Its record in the shard's log.
    pub lsn: Lsn,
    /// The shard.
    pub shard: ShardId,
    /// It is part of a write over several shards. The proof does not show that the write was
    /// decided to count: nothing of one that was given up is ever shown to a reader.
    pub is_leg: bool,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InclusionError {
    /// It is not of a possible shape.
    #[error("not a proof: {0}")]
    Shape(&'static str),
    /// The event's bytes, or what is said about it, are not what was hashed.
    #[error("the event does not have the hash that its record has for it")]
    Event,
    /// The record is not the one that the frame has there.
    #[error("the record does not have the hash that its frame has for it")]
    Record,
    /// The frame is not at that place of the head's log.
    #[error("the frame is not among those that the head stands for")]
    Frame,
    /// The head is of another cluster, or has no such shard.
    #[error("the head is of another cluster, or does not have the shard")]
    Foreign,
}

/// Why a frame has no evidence for an event.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    /// The event is not in it.
    #[error("the event is not in the frame")]
    Absent,
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] DecodeError),
}

impl Evidence {
    /// The record's place in its shard's log.
    pub fn lsn(&self) -> u64 {
        self.frame.first_lsn.saturating_add(self.record as u64)
    }

    /// What is around one event, from the records of its frame: where the frame's parts are and
    /// what its header says comes from whoever knows frames.
    ///
    /// # Errors
    /// When the event is not there.
    pub fn of(
        key: &AggregateKey,
        version: Version,
        fields: &FrameFields,
        (meta, blobs): (&Bytes, &Bytes),
    ) -> Result<Self, EvidenceError> {
        let (mut records, mut found) = (Vec::new(), None);
        for record in decode_records(meta, blobs, fields.count) {
            let (offset, record, hash) = record?;
            if let Record::Write(write) | Record::Leg(write) = &record {
                let holds = write.batches.iter().any(|batch| {
                    batch.key == *key
                        && (batch.first_version..=batch.last_version).contains(&version)
                });
                let first = write.batches.first().filter(|_| holds);
                if let Some(first) = first {
                    let bytes = &meta[offset as usize..];
                    let batches = write.batches.iter().map(|batch| {
                        let at = batch.offset as usize;
                        let own = batch.retention.map_or(0, |_| TOMBSTONE);
                        let end = at + BATCH_HEADER + batch.key.as_bytes().len() + own;
                        let events = batch.events(blobs).map(|event| Ok(event?.hash));
                        let events = events.collect::<Result<_, DecodeError>>()?;
                        Ok(BatchEvidence { fields: Hex(bytes[at + 4..end].to_vec()), events })
                    });
                    let batches = batches.collect::<Result<Vec<_>, DecodeError>>()?;
                    let header = bytes[HASHED_FROM..first.offset as usize].to_vec();
                    found = Some((records.len(), Hex(header), batches));
                }
            }
            records.push(hash);
        }
        let Some((record, header, batches)) = found else { return Err(EvidenceError::Absent) };
        let frame = FrameEvidence {
            cluster: fields.cluster.to_string(),
            shard: fields.shard.value(),
            epoch: fields.epoch.value(),
            boot: format!("{:016x}", fields.boot.value()),
            first_lsn: fields.first_lsn.value(),
            first_stamp: fields.first_stamp.value(),
            last_stamp: fields.last_stamp.value(),
            prev_hash: fields.prev_hash,
        };
        Ok(Self { frame, records, record, fields: header, batches })
    }

    fn record_hash(&self) -> Hash {
        let mut hasher = record_hasher();
        hasher.update(&self.fields.0);
        for batch in &self.batches {
            hasher.update(&batch.fields.0);
            batch.events.iter().for_each(|event| hasher.update(&event.0));
        }
        hasher.finish()
    }

    fn frame_fields(&self) -> Result<FrameFields, InclusionError> {
        let shape = InclusionError::Shape;
        let frame = &self.frame;
        Ok(FrameFields {
            cluster: frame.cluster.parse().map_err(|_| shape("the cluster is no UUID"))?,
            shard: ShardId::new(frame.shard),
            epoch: Epoch::new(frame.epoch),
            boot: BootId::new(
                u64::from_str_radix(&frame.boot, 16).map_err(|_| shape("boot is not hex"))?,
            ),
            first_lsn: Lsn::new(frame.first_lsn),
            count: u32::try_from(self.records.len()).map_err(|_| shape("too many records"))?,
            first_stamp: Stamp::new(frame.first_stamp),
            last_stamp: Stamp::new(frame.last_stamp),
            prev_hash: frame.prev_hash,
        })
    }
}

impl InclusionProof {
    /// Of an event that was found, what is around it, and its frame's way up to a head.
    pub fn new(
        key: &AggregateKey,
        version: Version,
        Sought { prev, event, .. }: Sought,
        evidence: Evidence,
        path: &Proof,
    ) -> Self {
        Self {
            key: key.as_str().to_owned(),
            version: version.value(),
            prev,
            event: Hex(event.to_vec()),
            evidence,
            path: Hex(path.encode()),
        }
    }

    /// Checks that the event is in the log that `head` stands for. Trusts nothing but `head`.
    ///
    /// # Errors
    /// The first step, from the event up, that does not hold.
    pub fn check(&self, head: &AuditHead) -> Result<Included, InclusionError> {
        let evidence = &self.evidence;
        let fields = evidence.frame_fields()?;
        let included = self.check_event(&fields)?;
        if evidence.records.get(evidence.record) != Some(&evidence.record_hash()) {
            return Err(InclusionError::Record);
        }
        let hash = frame_hash(&fields, evidence.records.iter().copied());
        let is_own = head.cluster.parse::<ClusterId>() == Ok(fields.cluster);
        let shard = head.shards.iter().find(|shard| shard.shard == evidence.frame.shard);
        let Some(shard) = shard.filter(|_| is_own) else { return Err(InclusionError::Foreign) };
        let path = Proof::decode(&self.path.0).map_err(|_| InclusionError::Shape("the path"))?;
        if !path.proves(hash, &shard.head()) {
            return Err(InclusionError::Frame);
        }
        Ok(included)
    }

    /// The event has the hash that its batch has for it. Also that the record is of the only shape
    /// that its bytes can have: then its hash stands for its parts.
    fn check_event(&self, frame: &FrameFields) -> Result<Included, InclusionError> {
        let Self { version, prev, event, evidence, .. } = self;
        let record = RecordFields::read(&evidence.fields.0).ok_or(BAD_RECORD)?;
        if usize::from(record.batches) != evidence.batches.len() {
            return Err(BAD_RECORD);
        }
        let mut found = None;
        for batch in &evidence.batches {
            let fields = BatchFields::read(&batch.fields.0).ok_or(BAD_BATCH)?;
            if fields.count as usize != batch.events.len() {
                return Err(BAD_BATCH);
            }
            let at = version.checked_sub(fields.first_version);
            if let Some(at) = at.filter(|at| *at < fields.count.into())
                && fields.key == self.key.as_bytes()
            {
                found = Some((batch, fields, at));
            }
        }
        let (batch, fields, at) = found.ok_or(InclusionError::Shape("the event is not in it"))?;
        let body = EventBody::new(&event.0).map_err(|_| InclusionError::Event)?;
        let before = (at as usize).checked_sub(1).map_or(*prev, |before| batch.events[before]);
        let ahead = u64::from(fields.stamp_ahead).checked_add(at).ok_or(BAD_BATCH)?;
        let stamp = Stamp::new(record.stamp.checked_add(ahead).ok_or(BAD_BATCH)?);
        let context = EventContext {
            prev: before,
            version: Version::new(*version),
            stamp,
            server_time: record.server_time,
            client_id: record.client_id,
            sequence: Some(fields.sequence).filter(|n| *n > 0).map(Sequence::new),
        };
        let hash = event_hash(&context, body.head(), body.payload());
        if hash != batch.events[at as usize] || (at > 0 && *prev != before) {
            return Err(InclusionError::Event);
        }
        let lsn = frame.first_lsn.value().checked_add(evidence.record as u64).ok_or(BAD_RECORD)?;
        Ok(Included {
            hash,
            stamp,
            server_time: record.server_time,
            client_id: record.client_id,
            lsn: Lsn::new(lsn),
            shard: frame.shard,
            is_leg: record.is_leg,
        })
    }
}

const BAD_RECORD: InclusionError = InclusionError::Shape("the record's fields");
const BAD_BATCH: InclusionError = InclusionError::Shape("a batch's fields");

/// What a write's hashed fields say: docs/record.md, from offset 5 on.
struct RecordFields {
    is_leg: bool,
    batches: u16,
    client_id: ClientId,
    server_time: i64,
    stamp: u64,
}

impl RecordFields {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes, "record");
        let (kind, batches) = (input.u8().ok()?, input.u16().ok()?);
        let client_id = ClientId::new(input.u128().ok()?);
        input.take(24 + 32).ok()?;
        let (server_time, stamp) = (input.u64().ok()? as i64, input.u64().ok()?);
        let participants = usize::from(input.u16().ok()?);
        let len = WRITE_HEADER + (participants * 2).next_multiple_of(8) - HASHED_FROM;
        let is_leg = kind == KIND_LEG;
        let fits = bytes.len() == len && matches!(kind, KIND_WRITE | KIND_LEG);
        fits.then_some(Self { is_leg, batches, client_id, server_time, stamp })
    }
}

/// What a batch's hashed fields say: docs/record.md, from offset 4 on.
struct BatchFields<'a> {
    sequence: u64,
    first_version: u64,
    count: u32,
    stamp_ahead: u32,
    key: &'a [u8],
}

impl<'a> BatchFields<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut input = Reader::new(bytes, "batch");
        let key_len = usize::from(input.u16().ok()?);
        let (_guard, flags, _version) = (input.u8().ok()?, input.u8().ok()?, input.u64().ok()?);
        let (sequence, first_version) = (input.u64().ok()?, input.u64().ok()?);
        let (count, stamp_ahead) = (input.u32().ok()?, input.u32().ok()?);
        let key = input.take(key_len).ok()?;
        if flags & BATCH_FLAG_TOMBSTONE != 0 {
            input.take(TOMBSTONE).ok()?;
        }
        input.finish().ok()?;
        Some(Self { sequence, first_version, count, stamp_ahead, key })
    }
}
