//! What had been told by when: to anybody, and by each process. What an answer proves is the first
//! step of an aggregate at which it can be right.
//!
//! A linearizable answer contains everything that anybody had been told before it was asked for; an
//! answer of a node that may be behind contains everything that the same process had told (I7,
//! I11). And a write over several aggregates shows whole or not at all: whoever has told one of its
//! batches shows all of them from then on (I10).

use std::collections::BTreeMap;

use celeriant_schema::{AggregateKey, Refusal, Request, Response, ShardId, Stamp};

use crate::history::{History, Standing, Step};
use crate::ledger::{Operation, Order, Place, receipt_of};

/// A value that only grows, with the times at which it did.
type Growth<T> = Vec<(Order, T)>;

/// What had been told by when.
#[derive(Debug, Default)]
pub(super) struct Progress {
    anywhere: BTreeMap<AggregateKey, Growth<Step>>,
    at: BTreeMap<(Place, AggregateKey), Growth<Step>>,
    stamps: BTreeMap<(Place, ShardId), Growth<Stamp>>,
}

impl Progress {
    /// Of a run that has come to rest.
    pub(super) fn of(operations: &[Operation], history: &History, shards: u16) -> Self {
        let mut told = Vec::new();
        for operation in operations {
            for attempt in &operation.attempts {
                let Some((order, response)) = &attempt.answer else { continue };
                for (key, step, stamp) in proves(history, &operation.request, response) {
                    told.push((*order, attempt.place, key, step, stamp));
                }
            }
        }
        told.sort_by_key(|(order, ..)| *order);
        let siblings = siblings(history);
        let mut progress = Self::default();
        for (order, place, key, step, stamp) in told {
            if let Some(stamp) = stamp {
                let growth = progress.stamps.entry((place, key.shard(shards))).or_default();
                raise(growth, order, stamp);
            }
            progress.tell(order, place, key, step, history, &siblings);
        }
        progress
    }

    /// Step of an aggregate that had been told of before `before`: by `place`, or by anybody.
    pub(super) fn step(&self, place: Option<Place>, key: &AggregateKey, before: Order) -> Step {
        self.growth(place, key).map_or(0, |growth| value_at(growth, before))
    }

    fn growth(&self, place: Option<Place>, key: &AggregateKey) -> Option<&Growth<Step>> {
        match place {
            Some(place) => self.at.get(&(place, key.clone())),
            None => self.anywhere.get(key),
        }
    }

    /// When anybody was told first that an aggregate exists.
    pub(super) fn born(&self, place: Option<Place>, key: &AggregateKey) -> Order {
        let first = self.growth(place, key).and_then(|growth| growth.iter().find(|it| it.1 > 0));
        first.map_or(Order::MAX, |(order, _)| *order)
    }

    /// Up to which stamp a process had said that it shows everything of a shard.
    pub(super) fn stamp(&self, place: Place, shard: ShardId, before: Order) -> Stamp {
        self.stamps.get(&(place, shard)).map_or(Stamp::ZERO, |growth| value_at(growth, before))
    }

    fn tell(
        &mut self,
        order: Order,
        place: Place,
        key: AggregateKey,
        step: Step,
        history: &History,
        siblings: &Siblings,
    ) {
        let mut open = vec![(key, step)];
        while let Some((key, step)) = open.pop() {
            raise(self.anywhere.entry(key.clone()).or_default(), order, step);
            let growth = self.at.entry((place, key.clone())).or_default();
            let from = growth.last().map_or(0, |(_, highest)| *highest);
            if !raise(growth, order, step) {
                continue;
            }
            for batch in history.batches(&key).iter().take(step).skip(from) {
                let landing = siblings.get(&batch.header.write_id).into_iter().flatten();
                open.extend(landing.filter(|(other, _)| *other != key).cloned());
            }
        }
    }
}

/// What an answer proves to be committed, and up to which stamp the process shows everything of the
/// aggregate's shard, where it says so.
fn proves(
    history: &History,
    request: &Request,
    response: &Response,
) -> Vec<(AggregateKey, Step, Option<Stamp>)> {
    let mut proven = Vec::new();
    if let Some(receipt) = receipt_of(response) {
        let landed = receipt.writes.iter().filter_map(|part| {
            let (step, _) = history.landed(part, receipt.stamp)?;
            Some((part.key.clone(), step, None))
        });
        proven.extend(landed);
    }
    let mut first = |key: &AggregateKey, fits: &dyn Fn(&Standing) -> bool| {
        proven.extend(history.first_step(key, fits).map(|step| (key.clone(), step, None)));
    };
    match (request, response) {
        (_, Response::Refused(Refusal::Conflict { conflicts, .. })) => {
            for it in conflicts {
                first(&it.key, &|at| at.version == it.actual && !at.passes(it.expected));
            }
        }
        (_, Response::Refused(Refusal::Deleted { key })) => first(key, &|at| at.deleted),
        (_, Response::Refused(Refusal::Trimmed { key, first_available })) => {
            first(key, &|at| at.first_available == *first_available);
        }
        (Request::Read(query), Response::Page(page)) => {
            let (key, complete) = (&query.key, history.step_at(&query.key, page.stamp));
            let step = history.first_step(key, |at| at.version == page.version && !at.deleted);
            let step = step.unwrap_or_default().max(complete);
            proven.push((key.clone(), step, Some(page.stamp)));
        }
        (Request::Head(query), Response::Head(head)) => {
            let step = history.step_at(&query.key, head.stamp.max(head.read_stamp));
            proven.push((query.key.clone(), step, Some(head.read_stamp)));
        }
        _ => {}
    }
    proven
}

/// Writes over several aggregates: what each came to.
type Siblings = BTreeMap<celeriant_schema::WriteId, Vec<(AggregateKey, Step)>>;

fn siblings(history: &History) -> Siblings {
    let landings = history.landings().into_iter().filter(|(_, landing)| landing.len() > 1);
    let ends = landings.map(|(id, landing)| {
        let end = |(key, batch): (&AggregateKey, &crate::history::Batch)| {
            (key.clone(), history.step_at(key, batch.header.stamp))
        };
        (id, landing.into_iter().map(end).collect())
    });
    ends.collect()
}

fn raise<T: Copy + Ord>(growth: &mut Growth<T>, order: Order, value: T) -> bool {
    let grows = growth.last().is_none_or(|(_, highest)| *highest < value);
    if grows {
        growth.push((order, value));
    }
    grows
}

fn value_at<T: Copy + Default>(growth: &Growth<T>, before: Order) -> T {
    let told = growth.partition_point(|(order, _)| *order < before);
    told.checked_sub(1).map_or_else(T::default, |at| growth[at].1)
}
