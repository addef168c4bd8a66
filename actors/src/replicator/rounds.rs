//! What must be heard from every shard before it may be said: confirmed rules, the base of a claim,
//! what a log holds, and where a leader that quiesces ends.
//!
//! ```text
//!   AckRule ─► Confirm ─► Confirmed (all) ─► Ruled        Check ─► Find ─► Found (all) ─► Checked
//!   Recover ─► Confirm ─► Confirmed (all) ─► Recovered    Quiesce ─► Quiesced (all) ─┐
//!                                                     follower holds the ends ───────┴► TipHeld…
//! ```

use std::collections::BTreeMap;

use celeriant_schema::peer::{FramePlace, Position, Tip};
use celeriant_schema::{Epoch, ShardId};

use super::activation::all;
use super::core::Effect;
use super::orders::Order;
use crate::election::vocabulary::Event as Fact;

#[derive(Debug)]
pub(super) struct Rounds {
    shards: u16,
    /// Numbers confirmations.
    number: u64,
    confirmations: BTreeMap<u64, Confirmation>,
    check: Option<Check>,
    quiesce: Option<Quiesce>,
}

#[derive(Debug)]
struct Confirmation {
    what: What,
    heard: BTreeMap<ShardId, Position>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum What {
    /// The rule with this number.
    Rule(u64),
    /// The log of this claim, and where its epoch's bucket log begins, if that isn't what is
    /// committed.
    Recovery(Epoch, Option<Vec<Position>>),
}

#[derive(Debug)]
struct Check {
    chain: Epoch,
    /// What must be found, by request.
    expected: BTreeMap<u64, Position>,
    held: bool,
}

/// A leader that stops appending.
#[derive(Debug)]
struct Quiesce {
    epoch: Epoch,
    tips: BTreeMap<ShardId, Tip>,
    is_told: bool,
}

impl Rounds {
    pub(super) fn new(shards: u16) -> Self {
        let (confirmations, check, quiesce) = (BTreeMap::new(), None, None);
        Self { shards, number: 0, confirmations, check, quiesce }
    }

    /// A later rule takes the place of one that is not confirmed yet.
    pub(super) fn confirm_rule(&mut self, number: u64, effects: &mut Vec<Effect>) {
        self.confirmations.retain(|_, round| !matches!(round.what, What::Rule(_)));
        self.confirm(What::Rule(number), effects);
    }

    /// The base of a claim is `ends`, or else what is committed.
    pub(super) fn confirm_recovery(
        &mut self,
        epoch: Epoch,
        ends: Option<Vec<Position>>,
        effects: &mut Vec<Effect>,
    ) {
        self.confirmations.retain(|_, round| matches!(round.what, What::Rule(_)));
        self.confirm(What::Recovery(epoch, ends), effects);
    }

    fn confirm(&mut self, what: What, effects: &mut Vec<Effect>) {
        self.number += 1;
        let number = self.number;
        let heard = BTreeMap::new();
        self.confirmations.insert(number, Confirmation { what, heard });
        let order = |shard| Effect::Shard(shard, Order::Confirm { number });
        effects.extend(all(self.shards).map(order));
    }

    pub(super) fn confirmed(
        &mut self,
        shard: ShardId,
        number: u64,
        commit: Position,
        effects: &mut Vec<Effect>,
    ) {
        let Some(round) = self.confirmations.get_mut(&number) else { return };
        round.heard.insert(shard, commit);
        if round.heard.len() < usize::from(self.shards) {
            return;
        }
        let Some(Confirmation { what, heard }) = self.confirmations.remove(&number) else { return };
        let commit = heard.into_values().collect();
        effects.push(Effect::Election(match what {
            What::Rule(number) => Fact::Ruled { number, commit },
            What::Recovery(epoch, ends) => Fact::Recovered { epoch, base: ends.unwrap_or(commit) },
        }));
    }

    /// Asks every shard whether its log holds a position.
    pub(super) fn check(
        &mut self,
        chain: Epoch,
        base: Vec<Position>,
        requests: &mut u64,
        effects: &mut Vec<Effect>,
    ) {
        let held = base.len() == usize::from(self.shards);
        let mut check = Check { chain, expected: BTreeMap::new(), held };
        for (shard, position) in all(self.shards).zip(base) {
            // Every log holds its beginning.
            if position != Position::default() {
                *requests += 1;
                check.expected.insert(*requests, position);
                let order = Order::Find { request: *requests, lsn: position.lsn };
                effects.push(Effect::Shard(shard, order));
            }
        }
        self.check = Some(check);
        self.answer_check(effects);
    }

    /// Whether that was asked here.
    pub(super) fn found(
        &mut self,
        request: u64,
        frame: Option<FramePlace>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(check) = &mut self.check else { return false };
        let Some(expected) = check.expected.remove(&request) else { return false };
        check.held &= frame.is_some_and(|frame| frame.end == expected);
        self.answer_check(effects);
        true
    }

    fn answer_check(&mut self, effects: &mut Vec<Effect>) {
        if let Some(check) = self.check.take_if(|check| check.expected.is_empty()) {
            let Check { chain, held, .. } = check;
            effects.push(Effect::Election(Fact::Checked { chain, held }));
        }
    }

    pub(super) fn quiesce(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.quiesce = Some(Quiesce { epoch, tips: BTreeMap::new(), is_told: false });
        let order = |shard| Effect::Shard(shard, Order::Quiesce { epoch });
        effects.extend(all(self.shards).map(order));
    }

    pub(super) fn quiesced(&mut self, epoch: Epoch, tip: Tip) {
        if let Some(quiesce) = self.quiesce.as_mut().filter(|quiesce| quiesce.epoch == epoch) {
            quiesce.tips.insert(tip.shard, tip);
        }
    }

    /// Where the quiet log ends, when every shard has said so and `is_held` says that the follower
    /// has each end; once.
    pub(super) fn take_quiet(
        &mut self,
        is_held: impl Fn(&Tip) -> bool,
    ) -> Option<(Epoch, Vec<Tip>)> {
        let quiesce = self.quiesce.as_mut().filter(|quiesce| !quiesce.is_told)?;
        let all = quiesce.tips.len() == usize::from(self.shards);
        if !all || !quiesce.tips.values().all(is_held) {
            return None;
        }
        quiesce.is_told = true;
        Some((quiesce.epoch, quiesce.tips.values().copied().collect()))
    }

    pub(super) fn resume(&mut self) {
        self.quiesce = None;
    }

    /// Nothing of a claim or leadership is waited for any more.
    pub(super) fn step_down(&mut self) {
        self.quiesce = None;
        self.confirmations.retain(|_, round| matches!(round.what, What::Rule(_)));
    }
}
