//! The follower's side: what the leader sends goes to the shards; what they durably hold goes back.
//!
//! Nothing is acknowledged below the promised epoch (R6): what was accepted in an older one counts
//! only after the new leader has compared the logs. Whether frames continue a shard's log is the
//! shard's to judge, by position and hash.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::peer::{Committed, Durable, Message, Position, Tip};
use celeriant_schema::{Epoch, ShardId};

use super::core::Effect;
use super::orders::Order;

#[derive(Debug)]
pub(super) struct Following {
    /// Durably promised.
    promised: Epoch,
    /// Shards that have not said yet where their logs end, now that it is promised.
    unheard: BTreeSet<ShardId>,
    shards: BTreeMap<ShardId, Part>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    tip: Tip,
    /// The leader of the promised epoch has compared it: its log is the leader's so far.
    is_reconciled: bool,
    /// Not acknowledged yet.
    is_news: bool,
}

impl Following {
    pub(super) fn new(promised: Epoch, tips: impl IntoIterator<Item = Tip>) -> Self {
        let part = |tip| Part { tip, ..Part::default() };
        let unheard = BTreeSet::new();
        Self {
            promised,
            unheard,
            shards: tips.into_iter().map(|tip| (tip.shard, part(tip))).collect(),
        }
    }

    /// A promise is durable. Every shard is told, behind whatever it was told before, and says
    /// where its log ends once it will grow no more by an older leader's frames.
    pub(super) fn promise(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        assert!(epoch >= self.promised, "promised {} and now {epoch}", self.promised);
        self.promised = epoch;
        self.session_changes();
        self.unheard = self.shards.keys().copied().collect();
        let tell = |shard: &ShardId| Effect::Shard(*shard, Order::Promise { epoch });
        effects.extend(self.unheard.iter().map(tell));
    }

    /// A shard has promised, too. After the last one, the leader learns of it.
    pub(super) fn promised(&mut self, epoch: Epoch, tip: Tip, effects: &mut Vec<Effect>) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch != self.promised {
            return;
        }
        if self.unheard.remove(&tip.shard) && self.unheard.is_empty() {
            let tips = self.shards.values().map(|part| part.tip).collect();
            effects.push(Effect::Send(Message::Promised { epoch, tips }));
        }
    }

    /// A shard's log does not end where the leader thinks: it must compare again.
    pub(super) fn refused(&mut self, epoch: Epoch, tip: Tip, effects: &mut Vec<Effect>) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch == self.promised && std::mem::take(&mut part.is_reconciled) {
            part.is_news = false;
            effects.push(Effect::Send(Message::Promised { epoch, tips: vec![tip] }));
        }
    }

    pub(super) fn receive(&mut self, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Append { shard, epoch, before, commit, closed, frames } => {
                if self.takes(epoch, shard, effects) {
                    let accept = Order::Accept { epoch, before, bytes: frames };
                    effects.push(Effect::Shard(shard, accept));
                    effects.push(Effect::Shard(shard, Order::Commit { commit, closed }));
                }
            }
            Message::Cut { request, shard, epoch, to } => {
                self.cut(request, shard, epoch, to, effects);
            }
            Message::Heartbeat { number, epoch, ver, shards } => {
                for Committed { shard, commit, closed } in shards.iter().copied() {
                    if self.takes(epoch, shard, effects) {
                        effects.push(Effect::Shard(shard, Order::Commit { commit, closed }));
                    }
                }
                let message = Message::Heartbeat { number, epoch, ver, shards };
                effects.push(Effect::Election(message));
            }
            // What only a leader wants to hear.
            Message::Ack { .. } | Message::Located { .. } | Message::CutDone { .. } => {}
            message => effects.push(Effect::Election(message)),
        }
    }

    /// A session begins or ends: the leader asks and compares again before anything counts.
    pub(super) fn session_changes(&mut self) {
        self.unheard.clear();
        for part in self.shards.values_mut() {
            (part.is_reconciled, part.is_news) = (false, false);
        }
    }

    /// Whether a shard takes what the leader says in `epoch`: if it is promised and their logs are
    /// compared. Positions of different logs mean nothing to each other.
    fn takes(&self, epoch: Epoch, shard: ShardId, effects: &mut Vec<Effect>) -> bool {
        if epoch < self.promised {
            effects.push(Effect::Stale(epoch));
        }
        let is_reconciled = || self.shards.get(&shard).is_some_and(|part| part.is_reconciled);
        epoch == self.promised && is_reconciled()
    }

    /// The leader orders a cut. That the log already ends there is the common case.
    fn cut(
        &mut self,
        request: u64,
        shard: ShardId,
        epoch: Epoch,
        to: Position,
        effects: &mut Vec<Effect>,
    ) {
        let Some(part) = self.shards.get_mut(&shard) else { return };
        if epoch != self.promised {
            return if epoch < self.promised {
                effects.push(Effect::Stale(epoch))
            };
        }
        if part.tip.durable == to {
            part.is_reconciled = true;
            effects.push(Effect::Send(Message::CutDone { request, tip: part.tip }));
        } else {
            effects.push(Effect::Shard(shard, Order::Cut { request, epoch, to }));
        }
    }

    /// A shard has cut its log, durably.
    pub(super) fn cut_done(
        &mut self,
        request: u64,
        epoch: Epoch,
        tip: Tip,
        effects: &mut Vec<Effect>,
    ) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch == self.promised {
            part.is_reconciled = true;
            effects.push(Effect::Send(Message::CutDone { request, tip }));
        }
    }

    /// A shard durably holds more, accepted in `epoch`.
    pub(super) fn durable(&mut self, epoch: Epoch, tip: Tip) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        part.is_news |= epoch == self.promised && part.is_reconciled;
    }

    /// Acknowledges everything that has become durable since the last time, in one message.
    pub(super) fn acknowledge(&mut self, effects: &mut Vec<Effect>) {
        let news = self.shards.iter_mut().filter(|(_, part)| part.is_news);
        let durable: Vec<_> = news
            .map(|(shard, part)| {
                part.is_news = false;
                Durable { shard: *shard, position: part.tip.durable }
            })
            .collect();
        if !durable.is_empty() {
            effects.push(Effect::Send(Message::Ack { epoch: self.promised, durable }));
        }
    }
}
