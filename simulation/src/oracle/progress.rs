//! What had been told by when: to anybody, and by each process.
//!
//! A linearizable answer contains everything that anybody had been told before it was asked for; an
//! answer of a node that may be behind contains everything that the same process had told (I7,
//! I11). And a write over several aggregates shows whole or not at all: whoever has told one of its
//! batches shows all of them from then on (I10).

use std::collections::BTreeMap;

use celeriant_schema::{AggregateKey, ShardId, Stamp, Version};

use crate::history::History;
use crate::ledger::{Operation, Order, Place, proves};

/// A value that only grows, with the times at which it did.
type Steps<T> = Vec<(Order, T)>;

/// What had been told by when.
#[derive(Debug, Default)]
pub(super) struct Progress {
    anywhere: BTreeMap<AggregateKey, Steps<Version>>,
    at: BTreeMap<(Place, AggregateKey), Steps<Version>>,
    stamps: BTreeMap<(Place, ShardId), Steps<Stamp>>,
}

impl Progress {
    /// Of a run that has come to rest.
    pub(super) fn of(operations: &[Operation], history: &History, shards: u16) -> Self {
        let mut told = Vec::new();
        for operation in operations {
            for attempt in &operation.attempts {
                let Some((order, response)) = &attempt.answer else { continue };
                for (key, version, stamp) in proves(&operation.request, response) {
                    told.push((*order, attempt.place, key, version, stamp));
                }
            }
        }
        told.sort_by_key(|(order, ..)| *order);
        let siblings = siblings(history);
        let mut progress = Self::default();
        for (order, place, key, version, stamp) in told {
            if let Some(stamp) = stamp {
                let steps = progress.stamps.entry((place, key.shard(shards))).or_default();
                raise(steps, order, stamp);
            }
            progress.tell(order, place, key, version, history, &siblings);
        }
        progress
    }

    /// Version of an aggregate that had been told before `before`: by `place`, or by anybody.
    pub(super) fn version(
        &self,
        place: Option<Place>,
        key: &AggregateKey,
        before: Order,
    ) -> Version {
        let steps = match place {
            Some(place) => self.at.get(&(place, key.clone())),
            None => self.anywhere.get(key),
        };
        steps.map_or(Version::NONE, |steps| value_at(steps, before))
    }

    /// When anybody was told first that an aggregate exists.
    pub(super) fn born(&self, place: Option<Place>, key: &AggregateKey) -> Order {
        let steps = match place {
            Some(place) => self.at.get(&(place, key.clone())),
            None => self.anywhere.get(key),
        };
        let first = steps.and_then(|steps| steps.iter().find(|(_, v)| *v > Version::NONE));
        first.map_or(Order::MAX, |(order, _)| *order)
    }

    /// Up to which stamp a process had said that it shows everything of a shard.
    pub(super) fn stamp(&self, place: Place, shard: ShardId, before: Order) -> Stamp {
        self.stamps.get(&(place, shard)).map_or(Stamp::ZERO, |steps| value_at(steps, before))
    }

    fn tell(
        &mut self,
        order: Order,
        place: Place,
        key: AggregateKey,
        version: Version,
        history: &History,
        siblings: &Siblings,
    ) {
        let mut open = vec![(key, version)];
        while let Some((key, version)) = open.pop() {
            raise(self.anywhere.entry(key.clone()).or_default(), order, version);
            let steps = self.at.entry((place, key.clone())).or_default();
            let from = steps.last().map_or(Version::NONE, |(_, highest)| *highest);
            if !raise(steps, order, version) {
                continue;
            }
            let batches = history.batches(&key).iter();
            let new = batches
                .filter(|batch| from < batch.header.last_version)
                .take_while(|batch| batch.header.last_version <= version);
            for batch in new {
                let landing = siblings.get(&batch.header.write_id).into_iter().flatten();
                open.extend(landing.filter(|(other, _)| *other != key).cloned());
            }
        }
    }
}

/// Writes over several aggregates: what each came to.
type Siblings = BTreeMap<celeriant_schema::WriteId, Vec<(AggregateKey, Version)>>;

fn siblings(history: &History) -> Siblings {
    let landings = history.landings().into_iter().filter(|(_, landing)| landing.len() > 1);
    let ends = landings.map(|(id, landing)| {
        let end = |(key, batch): (&AggregateKey, &crate::history::Batch)| {
            (key.clone(), batch.header.last_version)
        };
        (id, landing.into_iter().map(end).collect())
    });
    ends.collect()
}

fn raise<T: Copy + Ord>(steps: &mut Steps<T>, order: Order, value: T) -> bool {
    let grows = steps.last().is_none_or(|(_, highest)| *highest < value);
    if grows {
        steps.push((order, value));
    }
    grows
}

fn value_at<T: Copy + Default>(steps: &Steps<T>, before: Order) -> T {
    let told = steps.partition_point(|(order, _)| *order < before);
    told.checked_sub(1).map_or_else(T::default, |at| steps[at].1)
}
