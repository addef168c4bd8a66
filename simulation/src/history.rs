//! What is in the store in the end: every batch of every aggregate, as a read returns it.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::event::EventBody;
use celeriant_schema::{
    AggregateKey, BatchHeader, ClientId, Guard, Hash, ReadBatch, ReadEvent, Sequence, Stamp,
    Version, WriteId,
};

use crate::ledger::{OperationId, untag};

/// One batch of one aggregate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// What a page says once for all of its events.
    pub header: BatchHeader,
    /// Its events, all of them.
    pub events: Vec<ReadEvent>,
    /// Operation and member that put it there, by the first event's id.
    pub origin: Option<(OperationId, usize)>,
}

impl Batch {
    /// Chain hash after it.
    pub fn hash(&self) -> Hash {
        self.events.last().map_or(Hash::ZERO, |event| event.hash)
    }

    /// Stamp of its last event.
    pub fn last_stamp(&self) -> Stamp {
        Stamp::new(self.header.stamp.value() + (self.events.len() as u64).saturating_sub(1))
    }

    /// Its events' canonical bytes.
    pub fn bodies(&self) -> impl Iterator<Item = &Bytes> {
        self.events.iter().map(|event| &event.body)
    }
}

impl From<ReadBatch> for Batch {
    fn from(batch: ReadBatch) -> Self {
        let first =
            batch.events.first().and_then(|event| EventBody::new(&event.body).ok()?.event_id());
        let origin = first.and_then(untag).map(|(operation, member, _)| (operation, member));
        Self { header: batch.header, events: batch.events, origin }
    }
}

/// All aggregates with their batches in version order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// By key.
    pub aggregates: BTreeMap<AggregateKey, Vec<Batch>>,
    /// The store's own.
    pub own: BTreeMap<AggregateKey, Vec<Batch>>,
}

/// The batches of one attempt of a write.
pub type Landing<'a> = Vec<(&'a AggregateKey, &'a Batch)>;

impl History {
    /// What was read of an aggregate. Of the store's own it counts also that there is nothing.
    pub fn put(&mut self, key: AggregateKey, batches: Vec<Batch>) {
        match key.is_system() {
            true => drop(self.own.insert(key, batches)),
            false if batches.is_empty() => {}
            false => drop(self.aggregates.insert(key, batches)),
        }
    }

    /// The batches of an aggregate; none if it never existed.
    pub fn batches(&self, key: &AggregateKey) -> &[Batch] {
        let of = if key.is_system() { &self.own } else { &self.aggregates };
        of.get(key).map_or(&[], Vec::as_slice)
    }

    /// Newest version of an aggregate.
    pub fn version(&self, key: &AggregateKey) -> Version {
        self.batches(key).last().map_or(Version::NONE, |batch| batch.header.last_version)
    }

    /// Version of an aggregate when everything up to `stamp` was in.
    pub fn version_at(&self, key: &AggregateKey, stamp: Stamp) -> Version {
        let batches = self.batches(key);
        let upto = batches.partition_point(|batch| batch.header.stamp <= stamp);
        upto.checked_sub(1).map_or(Version::NONE, |last| batches[last].header.last_version)
    }

    /// The batch that ends at `version`.
    pub fn ending_at(&self, key: &AggregateKey, version: Version) -> Option<&Batch> {
        let batches = self.batches(key);
        let at = batches.partition_point(|batch| batch.header.last_version < version);
        batches.get(at).filter(|batch| batch.header.last_version == version)
    }

    /// Highest sequence of a client among the versions up to `version`; 0 = none.
    pub fn highest_sequence(
        &self,
        key: &AggregateKey,
        client: ClientId,
        version: Version,
    ) -> Sequence {
        let mine = |batch: &&Batch| batch.header.client_id == client;
        self.batches(key)
            .iter()
            .take_while(|batch| batch.header.last_version <= version)
            .filter(mine)
            .filter_map(|batch| batch.header.sequence)
            .max()
            .unwrap_or_default()
    }

    /// All batches by the attempt that wrote them.
    pub fn landings(&self) -> BTreeMap<WriteId, Landing<'_>> {
        let mut landings: BTreeMap<WriteId, Landing<'_>> = BTreeMap::new();
        for (key, batches) in &self.aggregates {
            for batch in batches {
                landings.entry(batch.header.write_id).or_default().push((key, batch));
            }
        }
        landings
    }

    /// How many events there are.
    pub fn events(&self) -> u64 {
        let batches = self.aggregates.values().flatten();
        batches.map(|batch| batch.events.len() as u64).sum()
    }
}

/// Whether a guard passes for an aggregate at `version` (nothing is ever deleted here).
pub fn passes(guard: Guard, version: Version) -> bool {
    match guard {
        Guard::Any => true,
        Guard::NoStream => version == Version::NONE,
        Guard::Exists => version > Version::NONE,
        Guard::Exact(expected) => version == expected,
    }
}
