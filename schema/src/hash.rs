//! Blake3 over what must not change unnoticed: event chain, record, frame, write.
//!
//! A frame's hash covers its records' hashes; a record's hash covers its events' hashes; an event's
//! hash covers the one before it and its own bytes. So compaction can drop payloads and keep only
//! hashes, and everything that remains still verifies. The exact bytes are listed in
//! `docs/record.md`.
//!
//! Event, record and write hashes use BLAKE3's keyed mode, each with a fixed public key: a hash of
//! one kind can never pass for one of another kind, at no cost. Nothing here allocates.

use std::fmt;

use crate::ids::{BootId, ClientId, ClusterId, Epoch, Lsn, Sequence, ShardId, Stamp, Version};
use crate::key::AggregateKey;
use crate::request::Write;

/// 32 bytes of Blake3. All zero stands for "nothing before".
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Before the first frame of a log.
    pub const ZERO: Self = Self([0; 32]);
}

/// Key of event hashes. Public: it only tells kinds of hashes apart.
pub const EVENT_HASH_KEY: &[u8; 32] = b"celeriant event hash v1         ";
/// Key of record hashes.
pub const RECORD_HASH_KEY: &[u8; 32] = b"celeriant record hash v1        ";
/// Key of write hashes.
pub const WRITE_HASH_KEY: &[u8; 32] = b"celeriant write hash v1         ";

/// What an event's hash covers besides the event's own bytes.
#[derive(Clone, Copy, Debug)]
pub struct EventContext {
    /// Hash of the aggregate's event before it; [`chain_start`] for the first.
    pub prev: Hash,
    /// Its version.
    pub version: Version,
    /// Its stamp.
    pub stamp: Stamp,
    /// Server clock at acceptance, µs since 1970.
    pub server_time: i64,
    /// Who wrote it.
    pub client_id: ClientId,
    /// The batch's sequence, if there is one.
    pub sequence: Option<Sequence>,
}

/// Hash of an aggregate at version 0: of its key, so that a chain cannot be moved to another
/// aggregate.
pub fn chain_start(key: &AggregateKey) -> Hash {
    blake3::hash(key.as_bytes()).into()
}

/// Hash of one event, keyed with [`EVENT_HASH_KEY`], over `prev ‖ version ‖ stamp ‖ server time ‖
/// client id ‖ sequence (0 = none) ‖ body`, numbers little-endian. `body` is given in two pieces,
/// so that a payload stored apart is not copied.
pub fn event_hash(context: &EventContext, head: &[u8], payload: &[u8]) -> Hash {
    let mut fixed = [0; 80];
    fixed[..32].copy_from_slice(&context.prev.0);
    fixed[32..40].copy_from_slice(&context.version.value().to_le_bytes());
    fixed[40..48].copy_from_slice(&context.stamp.value().to_le_bytes());
    fixed[48..56].copy_from_slice(&context.server_time.to_le_bytes());
    fixed[56..72].copy_from_slice(&context.client_id.value().to_le_bytes());
    fixed[72..].copy_from_slice(&sequence_number(context.sequence).to_le_bytes());
    let mut hasher = Hasher::new(EVENT_HASH_KEY);
    hasher.update(&fixed);
    hasher.update(head);
    hasher.update(payload);
    hasher.finish()
}

/// What a frame's hash covers besides the hashes of its records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameFields {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the leader that made it.
    pub epoch: Epoch,
    /// Process that made it.
    pub boot: BootId,
    /// Its first record.
    pub first_lsn: Lsn,
    /// How many records.
    pub count: u32,
    /// Its first stamp.
    pub first_stamp: Stamp,
    /// Its last stamp.
    pub last_stamp: Stamp,
    /// Hash of the frame before it.
    pub prev_hash: Hash,
}

/// Hash of a frame: the link of a shard's chain (the storage crate's `docs/format.md` §2).
pub fn frame_hash(fields: &FrameFields, records: impl IntoIterator<Item = Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fields.cluster.value().to_le_bytes());
    hasher.update(&fields.shard.value().to_le_bytes());
    hasher.update(&fields.epoch.value().to_le_bytes());
    hasher.update(&fields.boot.value().to_le_bytes());
    hasher.update(&fields.first_lsn.value().to_le_bytes());
    hasher.update(&fields.count.to_le_bytes());
    hasher.update(&fields.first_stamp.value().to_le_bytes());
    hasher.update(&fields.last_stamp.value().to_le_bytes());
    hasher.update(&fields.prev_hash.0);
    for record in records {
        hasher.update(&record.0);
    }
    hasher.finalize().into()
}

/// Identity of a write for exactly-once: over every member's key and events (types, payloads, ids),
/// in order, without guards, times and sequences: a retry may carry a newer guard or clock.
pub fn write_hash(write: &Write) -> Hash {
    let mut hasher = Hasher::new(WRITE_HASH_KEY);
    for member in &write.members {
        hasher.update(&(member.key.as_bytes().len() as u16).to_le_bytes());
        hasher.update(member.key.as_bytes());
        // No batch has so many events.
        let taken = member.retention.map_or(0, |_| 1 << 31);
        hasher.update(&(member.events.len() as u32 | taken).to_le_bytes());
        if let Some(retention) = member.retention {
            hasher.update(&retention.to_bytes());
        }
        for body in member.events.iter() {
            let kind = body.event_type_bytes();
            let id = body.event_id().unwrap_or_default();
            let mut fixed = [0; 24];
            fixed[..4].copy_from_slice(&(kind.len() as u32).to_le_bytes());
            fixed[4..8].copy_from_slice(&(body.payload().len() as u32).to_le_bytes());
            fixed[8..].copy_from_slice(&id.value().to_le_bytes());
            hasher.update(&fixed);
            hasher.update(kind);
            hasher.update(body.payload());
        }
    }
    hasher.finish()
}

/// 0 stands for "no sequence": sequences start at 1.
pub(crate) fn sequence_number(sequence: Option<Sequence>) -> u64 {
    sequence.map_or(0, Sequence::value)
}

/// Hash of a record: of its header and batch headers (`fields`, in the order of the byte table) and
/// of its events' hashes, but of no event's bytes.
pub(crate) fn record_hasher() -> Hasher {
    Hasher::new(RECORD_HASH_KEY)
}

/// Keyed BLAKE3 of pieces. Feeding `blake3` piece by piece costs as much as half of the hashing, so
/// pieces that are small together are put together first.
pub(crate) struct Hasher {
    key: &'static [u8; 32],
    bytes: [u8; SMALL_BYTES],
    len: usize,
    /// Once they don't fit.
    large: Option<blake3::Hasher>,
}

/// What an event or record of a hundred bytes needs, and some more.
const SMALL_BYTES: usize = 512;

impl Hasher {
    fn new(key: &'static [u8; 32]) -> Self {
        Self { key, bytes: [0; SMALL_BYTES], len: 0, large: None }
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        let end = self.len + piece.len();
        if self.large.is_none() && end <= SMALL_BYTES {
            self.bytes[self.len..end].copy_from_slice(piece);
            self.len = end;
            return;
        }
        let (key, small) = (self.key, &self.bytes[..self.len]);
        let start = || {
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(small);
            hasher
        };
        self.large.get_or_insert_with(start).update(piece);
    }

    pub(crate) fn finish(&self) -> Hash {
        match &self.large {
            None => blake3::keyed_hash(self.key, &self.bytes[..self.len]).into(),
            Some(hasher) => hasher.finalize().into(),
        }
    }
}

/// Hash of a record without events.
pub(crate) fn plain_record_hash(fields: &[u8]) -> Hash {
    blake3::keyed_hash(RECORD_HASH_KEY, fields).into()
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EncodedEvents;
    use crate::request::Guard;
    use crate::samples::{plain_event, sample_key, sample_write};

    fn context() -> EventContext {
        EventContext {
            prev: chain_start(&sample_key()),
            version: Version::new(1),
            stamp: Stamp::new(2),
            server_time: 3,
            client_id: ClientId::new(4),
            sequence: Some(Sequence::new(5)),
        }
    }

    #[test]
    fn hashes_never_change() {
        let event = event_hash(&context(), b"head", b"payload");
        assert_eq!(chain_start(&sample_key()).to_string(), GOLDEN_START);
        assert_eq!(event.to_string(), GOLDEN_EVENT);
        assert_eq!(write_hash(&sample_write()).to_string(), GOLDEN_WRITE);
    }

    const GOLDEN_START: &str = "ed5b6fce926677a9c1107299856a22ac4073c0e78480d03bd0673b96cf3b7ba1";
    const GOLDEN_EVENT: &str = "7297bea94e19b7c58df8bc199f95e790ac9a8a97493298cdaebffb440285ea96";
    const GOLDEN_WRITE: &str = "e5f443fb2c4d3c1397ab12f3f4b86624be3b36dd185b2791757204aea580e487";

    #[test]
    fn an_event_hash_is_what_the_document_says() {
        let mut bytes = chain_start(&sample_key()).0.to_vec();
        for number in [1_u64, 2, 3] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&4_u128.to_le_bytes());
        bytes.extend_from_slice(&5_u64.to_le_bytes());
        bytes.extend_from_slice(b"headpayload");
        let key = b"celeriant event hash v1         ";
        let expected: Hash = blake3::keyed_hash(key, &bytes).into();
        assert_eq!(event_hash(&context(), b"head", b"payload"), expected);
    }

    #[test]
    fn an_event_hash_covers_its_place_and_its_bytes_but_not_where_they_are_split() {
        let hash = event_hash(&context(), b"head", b"payload");
        assert_eq!(event_hash(&context(), b"headpay", b"load"), hash);
        let others = [
            EventContext { prev: Hash::ZERO, ..context() },
            EventContext { version: Version::new(2), ..context() },
            EventContext { stamp: Stamp::new(3), ..context() },
            EventContext { server_time: 4, ..context() },
            EventContext { client_id: ClientId::new(5), ..context() },
            EventContext { sequence: None, ..context() },
        ];
        for other in others {
            assert_ne!(event_hash(&other, b"head", b"payload"), hash, "{other:?}");
        }
        assert_ne!(event_hash(&context(), b"head", b"Payload"), hash);
    }

    #[test]
    fn kinds_of_hashes_cannot_be_mistaken_for_each_other() {
        let mut record = record_hasher();
        record.update(b"same");
        let record = record.finish();
        assert_eq!(plain_record_hash(b"same"), record);
        let event: Hash = blake3::keyed_hash(EVENT_HASH_KEY, b"same").into();
        let write: Hash = blake3::keyed_hash(WRITE_HASH_KEY, b"same").into();
        let plain: Hash = blake3::hash(b"same").into();
        let mut all = [record, event, write, plain];
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_write_hash_leaves_guards_and_times_out() {
        let hash = write_hash(&sample_write());
        let mut other = sample_write();
        other.members[0].guard = Guard::Any;
        assert_eq!(write_hash(&other), hash);
        let mut event = plain_event("Seen", b"");
        event.client_time += 1;
        other.members[2].events = EncodedEvents::encode(&[event.clone()]).expect("valid");
        assert_eq!(write_hash(&other), hash);
        event.event_type = "Saw".into();
        other.members[2].events = EncodedEvents::encode(&[event]).expect("valid");
        assert_ne!(write_hash(&other), hash);
    }
}
