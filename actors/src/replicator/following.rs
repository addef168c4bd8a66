//! The follower's side: what the leader sends goes to the shards; what they durably hold goes back.
//!
//! Nothing is acknowledged below the promised epoch (R6): what was accepted in an older one counts
//! only after the new leader has compared the logs. Whether frames continue a shard's log is the
//! shard's to judge, by position and hash.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::peer::{Committed, Durable, Message, Position, Tip};
use celeriant_schema::{Epoch, ShardId};

use super::activation::all;
use super::core::Effect;
use super::orders::{Order, Report};
use crate::election::vocabulary::Event as Fact;

#[derive(Debug)]
pub(super) struct Following {
    /// Durably promised.
    promised: Epoch,
    /// Shards that have not said yet where their logs end, now that it is promised.
    unheard: BTreeSet<ShardId>,
    /// The answer to a promise is on its way out. Until the leader can have it, nothing that it
    /// says counts: it would belong to an earlier answer.
    is_answering: bool,
    shards: BTreeMap<ShardId, Part>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    tip: Tip,
    /// Epoch in which its log was made its leader's. From then on it holds nothing else, and is
    /// never cut in that epoch.
    made: Epoch,
    /// The leader of the promised epoch has compared it: what it sends continues the log.
    is_reconciled: bool,
    /// Not acknowledged yet.
    is_news: bool,
    /// The leader must compare again, and learns of it when all that the shard took is durable.
    is_asked: bool,
}

impl Following {
    /// Knows nothing of the shards but how many there are.
    pub(super) fn new(promised: Epoch, shards: u16) -> Self {
        let part =
            |shard| (shard, Part { tip: Tip { shard, ..Tip::default() }, ..Part::default() });
        let shards = all(shards).map(part).collect();
        Self { promised, unheard: BTreeSet::new(), is_answering: false, shards }
    }

    /// Ends of all logs, exact once a promise is carried out and until something is accepted.
    pub(super) fn tips(&self) -> Vec<Tip> {
        self.shards.values().map(|part| part.tip).collect()
    }

    /// A promise is durable. Every shard is told, behind whatever it was told before, and says
    /// where its log ends once it will grow no more by an older leader's frames.
    pub(super) fn promise(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        if epoch < self.promised {
            return;
        }
        self.promised = epoch;
        self.session_changes();
        self.is_answering = true;
        self.unheard = self.shards.keys().copied().collect();
        let tell = |shard: &ShardId| Effect::Shard(*shard, Order::Promise { epoch });
        effects.extend(self.unheard.iter().map(tell));
    }

    /// What the election says to the peer.
    pub(super) fn answers(&mut self, message: &Message) {
        if matches!(message, Message::Promised { epoch, .. } if *epoch == self.promised) {
            self.is_answering = false;
        }
    }

    /// What a shard says.
    pub(super) fn report(&mut self, report: Report, effects: &mut Vec<Effect>) {
        match report {
            Report::Promised { epoch, tip } => self.promised(epoch, tip, effects),
            Report::Refused { epoch, tip } => self.refused(epoch, tip, effects),
            Report::Durable { epoch, tip } => self.durable(epoch, tip),
            Report::Cut { request, epoch, tip } => self.cut_done(request, epoch, tip, effects),
            // Of a role that it had before.
            _ => {}
        }
    }

    /// A shard has promised, too. After the last one, the election learns of it. The session in
    /// which it was asked for may be over: the promise holds all the same.
    fn promised(&mut self, epoch: Epoch, tip: Tip, effects: &mut Vec<Effect>) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch != self.promised {
            return;
        }
        if std::mem::take(&mut part.is_asked) {
            effects.push(Effect::Send(Message::Promised { epoch, tips: vec![tip] }));
        }
        if self.unheard.remove(&tip.shard) && self.unheard.is_empty() {
            let tips = self.tips();
            effects.push(Effect::Election(Fact::PromiseDurable { epoch, tips }));
        }
    }

    /// A shard's log does not end where the leader thinks: it must compare again.
    fn refused(&mut self, epoch: Epoch, tip: Tip, effects: &mut Vec<Effect>) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch == self.promised && part.is_reconciled {
            part.compare_again(epoch, effects);
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
                    if self.has_reconciled(epoch, shard) {
                        effects.push(Effect::Shard(shard, Order::Commit { commit, closed }));
                    }
                }
                let message = Message::Heartbeat { number, epoch, ver, shards };
                effects.push(Effect::Election(Fact::Message(message)));
            }
            // What only a leader wants to hear.
            Message::Ack { .. } | Message::Located { .. } | Message::CutDone { .. } => {}
            message => effects.push(Effect::Election(Fact::Message(message))),
        }
    }

    /// A session begins or ends: the leader asks and compares again before anything counts.
    pub(super) fn session_changes(&mut self) {
        for part in self.shards.values_mut() {
            (part.is_reconciled, part.is_news, part.is_asked) = (false, false, false);
        }
    }

    /// Whether a shard takes what the leader says in `epoch`: if it is promised and their logs are
    /// compared. Positions of different logs mean nothing to each other.
    fn takes(&self, epoch: Epoch, shard: ShardId, effects: &mut Vec<Effect>) -> bool {
        self.depose(epoch, effects);
        self.has_reconciled(epoch, shard)
    }

    fn has_reconciled(&self, epoch: Epoch, shard: ShardId) -> bool {
        let is_reconciled = || self.shards.get(&shard).is_some_and(|part| part.is_reconciled);
        epoch == self.promised && is_reconciled()
    }

    /// R9: whoever speaks in a lower epoch does not know that it is deposed.
    fn depose(&self, epoch: Epoch, effects: &mut Vec<Effect>) {
        if epoch < self.promised {
            // Which version of the register says so, the election knows; the epoch is enough.
            let message = Message::Deposed { epoch: self.promised, ver: 0 };
            effects.push(Effect::Send(message));
        }
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
        self.depose(epoch, effects);
        let Some(part) = self.shards.get_mut(&shard) else { return };
        // Of a comparison that began with an earlier answer.
        if epoch != self.promised || self.is_answering || part.is_asked {
            return;
        }
        if part.tip.durable == to {
            (part.made, part.is_reconciled) = (epoch, true);
            effects.push(Effect::Send(Message::CutDone { request, tip: part.tip }));
        } else if part.made == epoch {
            part.compare_again(epoch, effects);
        } else {
            effects.push(Effect::Shard(shard, Order::Cut { request, epoch, to }));
        }
    }

    /// A shard has cut its log, durably.
    fn cut_done(&mut self, request: u64, epoch: Epoch, tip: Tip, effects: &mut Vec<Effect>) {
        let Some(part) = self.shards.get_mut(&tip.shard) else { return };
        part.tip = tip;
        if epoch == self.promised {
            part.made = epoch;
            if !self.is_answering && !part.is_asked {
                part.is_reconciled = true;
                effects.push(Effect::Send(Message::CutDone { request, tip }));
            }
        }
    }

    /// A shard durably holds more, accepted in `epoch`.
    fn durable(&mut self, epoch: Epoch, tip: Tip) {
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

impl Part {
    /// Takes nothing more until the leader has heard where the log ends, when all of it is durable:
    /// an end that is out of date would let the leader cut what it knows to be held.
    fn compare_again(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        (self.is_reconciled, self.is_news, self.is_asked) = (false, false, true);
        effects.push(Effect::Shard(self.tip.shard, Order::Promise { epoch }));
    }
}
