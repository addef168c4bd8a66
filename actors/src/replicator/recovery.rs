//! A claimant's log, made from a chain of bucket logs (replication.md §3, step 3b).
//!
//! ```text
//!   bucket logs ── Find, Cut, Frames ──► shards ── Found, Durable ──► bucket logs ── Recovered ──►
//! ```
//! Orders to a shard go in the order in which the reader gives them, in the claimed epoch, which
//! every shard has promised. What a shard refuses ends the claim.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::peer::Position;
use celeriant_schema::{Epoch, Lsn, ShardId};

use super::bucket::{LogNews, LogOrder};
use super::core::Effect;
use super::orders::{Order, Report};
use crate::election::vocabulary::Event as Fact;

#[derive(Debug)]
pub(super) struct Recovery {
    epoch: Epoch,
    /// What the reader wants to find, by request.
    searches: BTreeMap<u64, Lsn>,
    /// Ends of what was handed to each shard and is not durable there.
    handed: BTreeMap<ShardId, VecDeque<Lsn>>,
}

impl Recovery {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, searches: BTreeMap::new(), handed: BTreeMap::new() }
    }

    /// Where the reader looked, if it was the reader.
    pub(super) fn take_search(&mut self, request: u64) -> Option<Lsn> {
        self.searches.remove(&request)
    }

    /// What the reader wants; in the end, where the chain ends.
    pub(super) fn news(
        &mut self,
        news: LogNews,
        requests: &mut u64,
        effects: &mut Vec<Effect>,
    ) -> Option<(Epoch, Vec<Position>)> {
        let epoch = self.epoch;
        let (shard, order) = match news {
            LogNews::Find { shard, lsn } => {
                *requests += 1;
                self.searches.insert(*requests, lsn);
                (shard, Order::Find { request: *requests, lsn })
            }
            LogNews::Cut(shard, to) => {
                *requests += 1;
                (shard, Order::Cut { request: *requests, epoch, to })
            }
            LogNews::Frames(shard, frames) => {
                self.handed.entry(shard).or_default().push_back(frames.end.lsn);
                (shard, Order::Accept { epoch, before: frames.before, bytes: frames.bytes })
            }
            LogNews::Recovered { epoch: of, ends } => return (of == epoch).then_some((of, ends)),
            LogNews::Failed { epoch: of, why } => {
                if of == epoch {
                    effects.push(Effect::Election(Fact::RecoverFailed { epoch, why }));
                }
                return None;
            }
            // Of uploads that are over.
            _ => return None,
        };
        effects.push(Effect::Shard(shard, order));
        None
    }

    /// What a shard made of it.
    pub(super) fn report(&mut self, report: &Report, effects: &mut Vec<Effect>) {
        match report {
            Report::Durable { epoch, tip } if *epoch == self.epoch => {
                let Some(handed) = self.handed.get_mut(&tip.shard) else { return };
                while handed.pop_front_if(|end| *end <= tip.durable.lsn).is_some() {
                    effects.push(Effect::Log(LogOrder::Taken(tip.shard)));
                }
            }
            Report::Refused { epoch, tip } if *epoch == self.epoch => {
                let (shard, end) = (tip.shard, tip.durable.lsn);
                let why = format!("shard {shard}, which ends at lsn {end}, refuses a bucket log");
                effects.push(Effect::Election(Fact::RecoverFailed { epoch: *epoch, why }));
            }
            _ => {}
        }
    }
}
