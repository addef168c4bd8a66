//! What a shard knows of its aggregates without reading the log.
//!
//! ```text
//!   key ──hash──► slot ──► Aggregate { head, batch locations, sequences per client, parts }
//!   key order ──► names, for listings
//!   parts: per segment without index, the state at that segment's end ──► index block (index.rs)
//! ```
//! Holds only what is committed. In memory for now: it is rebuilt at start from the index files and
//! the tail. Its answers do not depend on the hash map's order.
//!
//! Deliberately absent: payloads, uncommitted state (the shard's core has it), I/O.

mod listing;
mod sequences;

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::{AggregateKey, ClientId, Hash, Lsn, Sequence, Stamp, TxnId, Version};
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

use crate::disk::{Completion, Op, Token};
use crate::error::{Damage, Error};
use crate::index::{Entry, EntryBatch, EntryClient, SealedSegment};
use crate::log::Log;
use listing::Names;
pub use sequences::{ClientSequences, Remembered};

/// Where a batch lies. Read `frame_bytes` at `frame_offset × 4,096` of the segment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BatchLocation {
    /// Number of the segment.
    pub segment: u32,
    /// Start of the frame in the segment, in sectors of 4,096 bytes.
    pub frame_offset: u32,
    /// Size of the frame, in bytes, padding included.
    pub frame_bytes: u32,
    /// Start of the record in the frame's records, in bytes.
    pub record_offset: u32,
    /// Start of the batch in the record, in bytes.
    pub batch_offset: u32,
}

/// Committed state of an aggregate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Newest version.
    pub version: Version,
    /// Chain hash at that version.
    pub hash: Hash,
    /// Server time of the first event, µs since 1970.
    pub created: i64,
    /// Server time of the newest event, µs since 1970.
    pub updated: i64,
    /// Stamp of the newest event.
    pub stamp: Stamp,
    /// Deleted and not recreated.
    pub deleted: bool,
    /// Lowest version that can be read.
    pub first_available: Version,
}

/// Where an aggregate stands: what a write needs to know of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Newest version.
    pub version: Version,
    /// Chain hash at that version.
    pub hash: Hash,
    /// Deleted and not recreated.
    pub deleted: bool,
}

/// A page of the directory that a lookup needs and that is not in memory: [`Directory::load`] it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Missing(u64);

/// Pages that were loaded for one piece of work. With them it makes progress however small the
/// page cache is.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    pages: Vec<(Missing, Bytes)>,
}

impl Pins {
    /// Keeps a page as [`Directory::complete`] brought it.
    pub fn add(&mut self, page: Missing, bytes: Bytes) {
        self.pages.push((page, bytes));
    }
}

/// Why a lookup has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not yet: load this page, then ask again with it pinned.
    #[error("a page of the directory is not in memory")]
    Missing(Missing),
    /// Never: see [`Directory::condemn`].
    #[error("{0}")]
    Damaged(Damage),
}

/// Tokens of a directory have this bit set, and not bit 63, which is the log's.
const DIRECTORY_BIT: Token = 1 << 62;

/// A batch that is committed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AppliedBatch {
    /// Version of its first event.
    pub first_version: Version,
    /// Version of its last event.
    pub last_version: Version,
    /// Chain hash after it.
    pub hash: Hash,
    /// Server time, µs since 1970.
    pub server_time: i64,
    /// Stamp of its first event.
    pub stamp: Stamp,
    /// Stamp of its last event.
    pub last_stamp: Stamp,
    /// Largest stamp of its write in this shard: what a receipt says.
    pub write_stamp: Stamp,
    /// Who wrote it.
    pub client_id: ClientId,
    /// The writer's number for it.
    pub sequence: Option<Sequence>,
    /// Hash of its write; only meaningful with a sequence.
    pub write_hash: Hash,
    /// Where it lies.
    pub location: BatchLocation,
}

/// State of an aggregate at the end of one segment that has no index yet.
#[derive(Clone, Copy, Debug)]
struct Part {
    segment: u32,
    first_version: Version,
    last_version: Version,
    hash: Hash,
    updated: i64,
    stamp: Stamp,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    first_version: Version,
    location: BatchLocation,
}

#[derive(Debug)]
struct Aggregate {
    key: AggregateKey,
    head: Head,
    batches: Vec<Place>,
    clients: Vec<(ClientId, ClientSequences)>,
    parts: Vec<Part>,
}

/// All aggregates of one shard.
#[derive(Debug)]
pub struct Directory {
    hasher: FixedState,
    slots: HashTable<u32>,
    aggregates: Vec<Aggregate>,
    names: Names,
    /// Per segment without index: slots of the aggregates with batches in it.
    touched: BTreeMap<u32, Vec<u32>>,
}

impl Directory {
    /// An empty one. `hash_seed` should be random where clients choose keys.
    pub fn new(hash_seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(hash_seed),
            slots: HashTable::new(),
            aggregates: Vec::new(),
            names: Names::default(),
            touched: BTreeMap::new(),
        }
    }

    /// Number of aggregates.
    pub fn len(&self) -> usize {
        self.aggregates.len()
    }

    /// There are no aggregates.
    pub fn is_empty(&self) -> bool {
        self.aggregates.is_empty()
    }

    /// Committed state of `key`; `None` if it never existed.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn head(&self, key: &AggregateKey, _: &Pins) -> Result<Option<Head>, Fault> {
        Ok(self.known(key).copied())
    }

    /// Where `key` stands: as [`Self::head`], but the newest row is enough.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn standing(&self, key: &AggregateKey, _: &Pins) -> Result<Option<Standing>, Fault> {
        Ok(self.known(key).map(|head| Standing {
            version: head.version,
            hash: head.hash,
            deleted: head.deleted,
        }))
    }

    fn known(&self, key: &AggregateKey) -> Option<&Head> {
        self.aggregate(key).map(|aggregate| &aggregate.head)
    }

    /// Whether a completion with this token belongs to a directory.
    pub fn owns(token: Token) -> bool {
        token & DIRECTORY_BIT != 0 && token >> 63 == 0
    }

    /// Starts to read a page that a lookup lacks, unless that is under way.
    pub fn load(&mut self, _: Missing, _: &mut Vec<(Token, Op)>) {}

    /// Takes the end of one of the directory's operations. Returns pages that arrived.
    ///
    /// # Errors
    /// Every error but a full disk. It is final: stop the node and recover.
    pub fn complete(
        &mut self,
        _: Completion,
        _: &mut Vec<(Token, Op)>,
    ) -> Result<Vec<(Missing, Bytes)>, Error> {
        Ok(Vec::new())
    }

    /// Starts what is due: writing rows out, merging. Call it after commits and completions, when
    /// everything up to `log.durable()` has been applied.
    pub fn maintain(&mut self, _: &Log, _: &mut Vec<(Token, Op)>) {}

    /// There is no place for further rows: take no write until a completion of the directory.
    pub fn is_full(&self) -> bool {
        false
    }

    /// The device has no room for what must be written out; see [`Self::retry_space`].
    pub fn lacks_space(&self) -> bool {
        false
    }

    /// Lets the next [`Self::maintain`] try again what did not fit on the device.
    pub fn retry_space(&mut self) {}

    /// No operation of the directory is in flight.
    pub fn idle(&self) -> bool {
        true
    }

    /// The leg at `leg_lsn` is decided, and if that is to commit, its batches have just been
    /// applied. Its `Resolve` need not be durable.
    pub fn note_outcome(&mut self, _: TxnId, _: Lsn, _: bool) {}

    /// A lookup found damage: sees to it that the next start makes the directory anew from the log.
    /// When that is durable, [`Self::complete`] fails with `damage`.
    pub fn condemn(&mut self, _: Damage, _: &mut Vec<(Token, Op)>) {}

    /// What is remembered of `client` in `key`; `None` if it never used a sequence there.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn sequences(
        &self,
        key: &AggregateKey,
        client: ClientId,
        _: &Pins,
    ) -> Result<Option<ClientSequences>, Fault> {
        let clients = self.aggregate(key).map(|it| it.clients.as_slice()).unwrap_or_default();
        let found = clients.iter().find(|(id, _)| *id == client);
        Ok(found.map(|(_, sequences)| sequences.clone()))
    }

    /// Whether `batch` continues what is known of `key`.
    pub fn continues(&self, key: &AggregateKey, batch: &AppliedBatch) -> bool {
        let version = self.known(key).map_or(Version::NONE, |head| head.version);
        batch.first_version == version.next() && batch.last_version >= batch.first_version
    }

    /// Takes a committed batch in. Batches of an aggregate come in version order.
    ///
    /// # Panics
    /// When it does not continue the aggregate; see [`Self::continues`].
    pub fn apply(&mut self, key: &AggregateKey, batch: &AppliedBatch) {
        let slot = self.slot_or_new(key, batch.server_time);
        let aggregate = &mut self.aggregates[slot as usize];
        assert!(
            batch.first_version == aggregate.head.version.next()
                && batch.last_version >= batch.first_version,
            "{key}: batch {}..={} on version {}",
            batch.first_version,
            batch.last_version,
            aggregate.head.version
        );
        if aggregate.enter_part(batch) {
            self.touched.entry(batch.location.segment).or_default().push(slot);
        }
        aggregate.apply(batch);
    }

    /// Batches that hold versions `from..=to`, in reading order, at most `batches_max`. It may be
    /// fewer, but not none when there are some.
    ///
    /// # Errors
    /// A page is missing or damaged.
    pub fn locate(
        &self,
        key: &AggregateKey,
        from: Version,
        to: Version,
        backwards: bool,
        batches_max: usize,
        _: &Pins,
    ) -> Result<Vec<(Version, Version, BatchLocation)>, Fault> {
        let Some(aggregate) = self.aggregate(key) else { return Ok(Vec::new()) };
        let places = &aggregate.batches;
        let to = to.min(aggregate.head.version);
        if from > to {
            return Ok(Vec::new());
        }
        // The batch that holds a version is the last one that starts at or before it.
        let first = places.partition_point(|place| place.first_version <= from).max(1) - 1;
        let end = places.partition_point(|place| place.first_version <= to);
        let described = |at: usize| {
            let last = places
                .get(at + 1)
                .map_or(aggregate.head.version.value(), |next| next.first_version.value() - 1);
            (places[at].first_version, Version::new(last), places[at].location)
        };
        Ok(if backwards {
            (first..end).rev().take(batches_max).map(described).collect()
        } else {
            (first..end).take(batches_max).map(described).collect()
        })
    }

    /// The index of a full segment, to be written by [`crate::log::Log::put_index`]. Everything up
    /// to
    /// `sealed.applied_upto` must have been applied.
    pub fn index_block(&self, sealed: &SealedSegment) -> Bytes {
        let mut slots = self.touched.get(&sealed.segment).cloned().unwrap_or_default();
        slots.sort_unstable_by(|a, b| {
            self.aggregates[*a as usize].key.cmp(&self.aggregates[*b as usize].key)
        });
        let entries =
            slots.iter().filter_map(|slot| self.aggregates[*slot as usize].entry(sealed.segment));
        crate::index::encode(sealed, entries)
    }

    /// The index of `segment` is durable: what was kept to make it can go.
    pub fn segment_indexed(&mut self, segment: u32) {
        for slot in self.touched.remove(&segment).unwrap_or_default() {
            self.aggregates[slot as usize].parts.retain(|part| part.segment != segment);
        }
    }

    /// Whether [`Self::load`] would accept `entry`.
    pub(crate) fn accepts(&self, entry: &Entry) -> bool {
        let version = self.known(&entry.key).map_or(Version::NONE, |head| head.version);
        entry.first_version == version.next()
    }

    /// Takes in what the index of `segment` says of one aggregate.
    pub(crate) fn load_entry(&mut self, segment: u32, entry: Entry) {
        assert!(self.accepts(&entry), "{} does not continue", entry.key);
        let slot = self.slot_or_new(&entry.key, entry.created);
        let aggregate = &mut self.aggregates[slot as usize];
        aggregate.head.version = entry.last_version;
        aggregate.head.hash = entry.hash;
        aggregate.head.updated = entry.updated;
        aggregate.head.stamp = entry.stamp;
        let places = entry.batches.iter().map(|batch| batch.place(segment));
        aggregate
            .batches
            .extend(places.map(|(first_version, location)| Place { first_version, location }));
        for client in entry.clients {
            let sequences = aggregate.client(client.id);
            client.remembered.into_iter().for_each(|remembered| sequences.remember(remembered));
        }
    }

    fn aggregate(&self, key: &AggregateKey) -> Option<&Aggregate> {
        let hash = self.hasher.hash_one(key);
        let slot = self.slots.find(hash, |slot| self.aggregates[*slot as usize].key == *key)?;
        Some(&self.aggregates[*slot as usize])
    }

    fn slot_or_new(&mut self, key: &AggregateKey, created: i64) -> u32 {
        let hash = self.hasher.hash_one(key);
        let aggregates = &mut self.aggregates;
        if let Some(slot) = self.slots.find(hash, |slot| aggregates[*slot as usize].key == *key) {
            return *slot;
        }
        // A key that came with a request or frame must not keep that buffer alive.
        let key = key.detached();
        let slot = aggregates.len() as u32;
        self.names.insert(&key);
        aggregates.push(Aggregate::new(key, created));
        let hasher = &self.hasher;
        self.slots
            .insert_unique(hash, slot, |slot| hasher.hash_one(&aggregates[*slot as usize].key));
        slot
    }
}

impl Aggregate {
    fn new(key: AggregateKey, created: i64) -> Self {
        let head = Head {
            version: Version::NONE,
            hash: Hash::ZERO,
            created,
            updated: created,
            stamp: Stamp::ZERO,
            deleted: false,
            first_available: Version::new(1),
        };
        let batches = Vec::with_capacity(1);
        Self { key, head, batches, clients: Vec::new(), parts: Vec::with_capacity(1) }
    }

    /// Notes the state at the end of the batch's segment; true if it is the first batch there.
    fn enter_part(&mut self, batch: &AppliedBatch) -> bool {
        let segment = batch.location.segment;
        let is_new = self.parts.last().is_none_or(|part| part.segment != segment);
        if is_new {
            self.parts.push(Part {
                segment,
                first_version: batch.first_version,
                last_version: batch.last_version,
                hash: batch.hash,
                updated: batch.server_time,
                stamp: batch.last_stamp,
            });
        }
        if let Some(part) = self.parts.last_mut() {
            part.last_version = batch.last_version;
            part.hash = batch.hash;
            part.updated = batch.server_time;
            part.stamp = batch.last_stamp;
        }
        is_new
    }

    fn apply(&mut self, batch: &AppliedBatch) {
        self.head.version = batch.last_version;
        self.head.hash = batch.hash;
        self.head.updated = batch.server_time;
        self.head.stamp = batch.last_stamp;
        self.batches.push(Place { first_version: batch.first_version, location: batch.location });
        if let Some(sequence) = batch.sequence {
            self.client(batch.client_id).remember(Remembered {
                sequence,
                first_version: batch.first_version,
                last_version: batch.last_version,
                hash: batch.hash,
                stamp: batch.write_stamp,
                write_hash: batch.write_hash,
            });
        }
    }

    fn client(&mut self, id: ClientId) -> &mut ClientSequences {
        let at = match self.clients.iter().position(|(known, _)| *known == id) {
            Some(at) => at,
            None => {
                self.clients.push((id, ClientSequences::default()));
                self.clients.len() - 1
            }
        };
        &mut self.clients[at].1
    }

    /// What the index of `segment` says of this aggregate.
    fn entry(&self, segment: u32) -> Option<Entry> {
        let part = self.parts.iter().find(|part| part.segment == segment)?;
        let within = |version: Version| (part.first_version..=part.last_version).contains(&version);
        let first = self.batches.partition_point(|p| p.first_version < part.first_version);
        let end = self.batches.partition_point(|p| p.first_version <= part.last_version);
        let batches = &self.batches[first..end];
        let clients = self.clients.iter().filter_map(|(id, sequences)| {
            let remembered: Vec<_> =
                sequences.iter().filter(|it| within(it.first_version)).copied().collect();
            (!remembered.is_empty()).then_some(EntryClient { id: *id, remembered })
        });
        Some(Entry {
            key: self.key.clone(),
            first_version: part.first_version,
            last_version: part.last_version,
            hash: part.hash,
            created: self.head.created,
            updated: part.updated,
            stamp: part.stamp,
            batches: batches.iter().map(|p| EntryBatch::of(p.first_version, &p.location)).collect(),
            clients: clients.collect(),
        })
    }
}

#[cfg(test)]
#[path = "directory/directory_test.rs"]
mod tests;
