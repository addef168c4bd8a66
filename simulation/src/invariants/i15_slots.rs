//! I15: slots are contiguous to the fence, and continue each other; I16: they go only by R14.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_actors::bucket_log::Seal;
use celeriant_actors::bucket_log::slot::{Content, Name, Part, Slot};
use celeriant_actors::election::register::{Config, Link, Set};
use celeriant_schema::peer::Position;
use celeriant_schema::{ClusterId, Epoch, ShardId};
use celeriant_storage::Identity;

use super::Violations;
use super::i02_log_matching::Logs;
use super::i04_two_places::Entry;
use super::i06_acknowledged_is_durable::Durable;
use crate::walk::Walked;

const RULE: &str = "I15";

/// All logs in the bucket.
#[derive(Debug, Default)]
pub struct Slots {
    logs: BTreeMap<Epoch, Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// Slots that are there and do not count yet.
    waiting: BTreeMap<u64, Content>,
    /// The first that is not there.
    next: u64,
    fence: Option<u64>,
    held: Durable,
    ends: BTreeMap<ShardId, Position>,
}

impl Slots {
    /// Whether the logs of a chain hold an entry.
    pub fn holds(&self, chain: &[Link], (key, version, hash): Entry<'_>) -> bool {
        let logs = chain.iter().filter_map(|link| self.logs.get(&link.epoch));
        logs.into_iter().any(|log| log.held.has(key, version, hash))
    }

    /// Whether the log of that slot held an entry.
    pub fn held(&self, key: &str, (of, version, hash): Entry<'_>) -> bool {
        let log = Name::numbers_of(key).and_then(|(epoch, _)| self.logs.get(&epoch));
        log.is_some_and(|log| log.held.has(of, version, hash))
    }

    /// Whether anybody has fenced the log of `epoch`.
    pub fn is_fenced(&self, epoch: Epoch) -> bool {
        self.logs.get(&epoch).is_some_and(|log| log.fence.is_some())
    }

    /// A slot was written.
    pub fn written(
        &mut self,
        cluster: ClusterId,
        (key, before, body): (&str, Option<&[u8]>, &Bytes),
        logs: &mut Logs,
        violations: &Violations,
    ) {
        violations.check(RULE, before.is_none(), || format!("{key} was written again"));
        let Some((epoch, slot)) = Name::numbers_of(key) else {
            return violations.add(RULE, format_args!("{key} is no slot's name"));
        };
        let name = Name { cluster, epoch, slot };
        let decoded = match Slot::decode(&name, body, &Seal::new(None)) {
            Ok(decoded) => decoded,
            Err(error) => return violations.add(RULE, format_args!("{key} {error}")),
        };
        let log = self.logs.entry(epoch).or_default();
        log.waiting.insert(slot, decoded.content);
        while log.fence.is_none()
            && let Some(content) = log.waiting.remove(&log.next)
        {
            match content {
                Content::Fence => log.fence = Some(log.next),
                Content::Data(parts) => {
                    parts.iter().for_each(|part| log.count(part, cluster, logs, violations));
                    log.next += 1;
                }
            }
        }
    }

    /// The configuration `config` rests on a chain: each of its logs begins where its link says.
    pub fn check_chain(&self, config: &Config, violations: &Violations) {
        for pair in config.active.chain.windows(2) {
            let ends = self.logs.get(&pair[0].epoch).map(|log| &log.ends);
            for (shard, base) in pair[1].base.iter().enumerate() {
                let end = ends.and_then(|ends| ends.get(&ShardId::new(shard as u16)));
                let end = end.copied().unwrap_or(pair[0].base[shard]);
                violations.check(RULE, base.lsn <= end.lsn, || {
                    let epochs = (pair[0].epoch, pair[1].epoch);
                    format!("a hole in the chain {epochs:?}, shard {shard}: {end:?}, {base:?}")
                });
            }
        }
    }

    /// A claim over a configuration with the bucket is activated: the last log of its chain must
    /// have been ended by a fence, or a slot may come late that nobody reads.
    pub fn check_fenced(&self, before: &Config, violations: &Violations) {
        let over_bucket = matches!(before.active.set, Set::Bucket(_));
        let last = before.active.chain.last().filter(|_| over_bucket);
        violations.check(RULE, last.is_none_or(|link| self.is_fenced(link.epoch)), || {
            format!("epoch {} is taken over without a fence", before.active.epoch)
        });
    }

    /// A node deleted a slot. It was ordered while a pair ruled; a request that is under way when
    /// the set changes may arrive later, so that what counts is whether anything rests on the slot.
    pub fn deleted(&mut self, key: &str, config: Option<&Config>, violations: &Violations) {
        let Some((epoch, slot)) = Name::numbers_of(key) else { return };
        let unneeded = config.is_some_and(|config| {
            let chain = &config.active.chain;
            config.active.epoch > epoch && chain.iter().all(|link| link.epoch != epoch)
        });
        violations.check("I16", unneeded, || format!("{key} is gone, the register is {config:?}"));
        let fence = self.logs.get(&epoch).and_then(|log| log.fence);
        violations.check("I16", fence != Some(slot), || format!("the fence {key} is gone"));
    }
}

impl Log {
    fn count(&mut self, part: &Part, cluster: ClusterId, logs: &mut Logs, violations: &Violations) {
        let (shard, frames) = (part.shard, &part.frames);
        let before = self.ends.insert(shard, frames.end);
        violations.check(RULE, before.is_none_or(|before| before == frames.before), || {
            format!(
                "shard {shard}: slot {} continues {:?}, not {before:?}",
                self.next, frames.before
            )
        });
        let identity = Identity { cluster, shard };
        for frame in Walked::parse_all("slot", 0, &frames.bytes, &identity) {
            logs.note(shard, &frame, violations);
            self.held.note(&frame);
        }
    }
}
