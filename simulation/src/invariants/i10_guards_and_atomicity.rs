//! I10: guards = replay of the log at that position; a multi-aggregate write all or nothing;
//! versions 1, 2, 3 …; hash chains unbroken.

use std::collections::BTreeMap;

use celeriant_schema::event::EventBody;
use celeriant_schema::hash::{EventContext, chain_start, event_hash};
use celeriant_schema::record::{BatchView, Record};
use celeriant_schema::{AggregateKey, Hash, ShardId, Stamp, Version, WriteId};

use super::Violations;
use super::i04_two_places::Entry;
use crate::history::{Batch, History, Landing, Standing};
use crate::ledger::Operation;
use crate::walk::Walked;

const RULE: &str = "I10";

/// The writes over several shards that were ever on a disk: what belongs together.
#[derive(Debug, Default)]
pub struct Legs {
    writes: BTreeMap<WriteId, Whole>,
    /// By the end of each batch, as [`Walked::events`] says it.
    of: BTreeMap<(AggregateKey, Version, Hash), WriteId>,
}

#[derive(Debug, Default)]
struct Whole {
    participants: Vec<ShardId>,
    /// Ends of each leg's batches; none of one that only guards.
    legs: BTreeMap<ShardId, Vec<(AggregateKey, Version, Hash)>>,
}

impl Legs {
    /// A frame is on a shard's disk.
    pub fn note(&mut self, shard: ShardId, frame: &Walked) {
        for (_, record, _) in &frame.records {
            let Record::Leg(leg) = record else { continue };
            let last = |batch: &BatchView| batch.first_version.max(batch.last_version);
            let ends = leg.batches.iter().map(|it| (it.key.clone(), last(it), it.hash));
            let ends: Vec<_> = ends.collect();
            self.of.extend(ends.iter().map(|end| (end.clone(), leg.write_id)));
            let whole = self.writes.entry(leg.write_id).or_default();
            whole.participants.clone_from(&leg.participants);
            whole.legs.insert(shard, ends);
        }
    }

    /// An entry is shown: if it is of a leg, all of the write must be `held` where it counts.
    pub fn check_shown(
        &self,
        (key, version, hash): Entry<'_>,
        held: impl Fn(Entry<'_>) -> bool,
        violations: &Violations,
    ) {
        let txn = self.of.get(&(key.clone(), version, hash));
        let Some(whole) = txn.and_then(|txn| self.writes.get(txn)) else { return };
        for shard in &whole.participants {
            let leg = whole.legs.get(shard);
            let there = leg.is_some_and(|ends| ends.iter().all(|(k, v, h)| held((k, *v, *h))));
            violations.check(RULE, there, || {
                format!(
                    "{key} version {version} is shown without its leg in shard {shard}: {leg:?}"
                )
            });
        }
    }
}

/// Checks the final log by itself and against what was asked.
pub fn check_final(operations: &[Operation], history: &History, violations: &Violations) {
    let mut stamps = BTreeMap::new();
    for (key, batches) in &history.aggregates {
        check_chain(key, batches, violations);
        for batch in batches {
            let before = stamps.insert(batch.header.stamp, key);
            violations.check(RULE, before.is_none(), || {
                format!("stamp {} is in {key} and in {before:?}", batch.header.stamp)
            });
        }
    }
    for (write_id, landing) in history.landings() {
        let Some(id) = landing[0].1.origin else {
            violations.add(RULE, format_args!("nobody asked for {write_id}: {landing:?}"));
            continue;
        };
        match operations.get(id) {
            Some(operation) => check_landing(id, operation, &landing, history, violations),
            None => violations.add(RULE, format_args!("nobody asked for operation {id}")),
        }
    }
}

/// Versions, stamps and hashes of one aggregate.
fn check_chain(key: &AggregateKey, batches: &[Batch], violations: &Violations) {
    let mut version = Version::NONE;
    let mut stamp = Stamp::ZERO;
    let mut prev = chain_start(key);
    for batch in batches {
        let header = &batch.header;
        let last = version.plus(batch.events.len() as u64);
        let dense = header.first_version == version.next() && header.last_version == last;
        let whole = batch.events.is_empty() == batch.retention.is_some();
        violations.check(RULE, dense && whole, || {
            format!("{key}: {header:?} with {} events follows {version}", batch.events.len())
        });
        violations.check(RULE, batch.retention.is_none() || batch.hash == prev, || {
            format!("{key}: what was taken away at {version} breaks the hash chain")
        });
        violations.check(RULE, header.stamp > stamp, || {
            format!("{key}: stamp {} follows {stamp}", header.stamp)
        });
        for (index, event) in batch.events.iter().enumerate() {
            version = version.next();
            stamp = Stamp::new(header.stamp.value() + index as u64);
            let context = EventContext {
                prev,
                version,
                stamp,
                server_time: header.server_time,
                client_id: header.client_id,
                sequence: header.sequence,
            };
            let Ok(body) = EventBody::new(&event.body) else {
                return violations.add(RULE, format_args!("{key}: {version} cannot be decoded"));
            };
            let hash = event_hash(&context, body.head(), body.payload());
            violations.check(RULE, hash == event.hash && event.version == version, || {
                format!("{key}: version {version} breaks the hash chain")
            });
            prev = event.hash;
        }
        stamp = batch.last_stamp();
    }
}

/// All members or none, each as asked, each guard true at its place.
fn check_landing(
    id: usize,
    operation: &Operation,
    landing: &Landing<'_>,
    history: &History,
    violations: &Violations,
) {
    let Some(write) = operation.write() else {
        return violations.add(RULE, format_args!("operation {id} is no write and landed"));
    };
    let changing = write.members.iter().filter(|member| member.changes()).count();
    violations.check(RULE, landing.len() == changing, || {
        format!("operation {id} landed with {} of {changing} members", landing.len())
    });
    let newest = landing.iter().map(|(_, batch)| batch.last_stamp()).max().unwrap_or_default();
    for member in &write.members {
        let found = landing.iter().find(|(key, _)| **key == member.key);
        let before = match found {
            Some((_, batch)) => {
                let same = member
                    .events
                    .iter()
                    .map(|body| body.whole())
                    .eq(batch.bodies().map(|b| &b[..]))
                    && batch.retention == member.retention
                    && batch.header.sequence == member.sequence
                    && batch.header.client_id == write.client_id;
                violations.check(RULE, same, || {
                    format!("operation {id}: {} is not what was written", member.key)
                });
                before(history, &member.key, batch)
            }
            // It was held from before the first stamp of the write to after its last.
            None if !member.changes() => {
                history.standing(&member.key, history.step_at(&member.key, newest))
            }
            None => {
                violations.add(RULE, format_args!("operation {id} landed without {}", member.key));
                continue;
            }
        };
        let takes = before.passes(member.guard) && before.bars(member).is_none();
        violations.check(RULE, takes, || {
            format!("operation {id}: {} was at {before:?} against {member:?}", member.key)
        });
    }
}

/// Where an aggregate stood before one of its batches.
fn before(history: &History, key: &AggregateKey, batch: &Batch) -> Standing {
    let stamp = Stamp::new(batch.header.stamp.value().saturating_sub(1));
    history.standing(key, history.step_at(key, stamp))
}
