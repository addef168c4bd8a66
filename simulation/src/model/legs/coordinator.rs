//! Reserve, append, resolve, answer, compact: what a leader does for clients (§6, 1 to 3).

use super::state::{Kind, Record, Role, State};
use super::{Fault, Legs, NAMES, Steps};
use crate::model::Mutation;

impl Legs {
    /// A write in one shard. It waits while its aggregate is held.
    pub(super) fn write(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let node = &state.nodes[id];
        for (at, write) in self.scenario.writes.iter().enumerate() {
            let held = write.aggregate == 0 && self.held(node, write.shard, None);
            if state.sent.0 >> at & 1 == 1 || held && !self.broken_by(Mutation::WriteOnHeld) {
                continue;
            }
            let mut next = *state;
            next.sent.0 |= 1 << at;
            let version = self.accepted(node, write.shard, write.aggregate) + 1;
            next.nodes[id].logs[write.shard].push(Record::new(Kind::Write, at, version));
            steps.add(next, || {
                format!(
                    "{} appends W{} to shard {}: version {version}",
                    NAMES[id],
                    at + 1,
                    write.shard
                )
            });
        }
    }

    /// 1 Reserve, in ascending order of shards; 2 append all legs.
    pub(super) fn reserve_and_append(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        for (txn, asked) in self.scenario.txns.iter().enumerate() {
            let name = self.txn_name(txn);
            let node = &state.nodes[id];
            let mine = node.mine >> txn & 1 == 1;
            if !mine && !self.may_begin(state, id, txn) {
                continue;
            }
            let legs = self.scenario.shards_of(asked.shards);
            let appended = legs.clone().any(|shard| mine && node.logs[shard].leg(txn).is_some());
            let missing = |shard: &usize| node.reserved[txn] >> shard & 1 == 0;
            let free = match self.broken_by(Mutation::ReservedUnordered) && txn == 1 {
                true => legs.clone().filter(missing).last(),
                false => legs.clone().find(missing),
            };
            match free {
                Some(shard) if !appended => self.reserve(state, id, txn, shard, steps),
                _ => {
                    for shard in legs.filter(|shard| node.reserved[txn] >> shard & 1 == 1) {
                        let mut next = *state;
                        let guards = asked.guards_only(shard);
                        next.nodes[id].reserved[txn] &= !(1 << shard);
                        if guards && self.broken_by(Mutation::GuardWithoutLeg) {
                            if !self.decided(node, txn) {
                                continue;
                            }
                            steps.add(next, || format!("{} lets go of {name}'s guard", NAMES[id]));
                            continue;
                        }
                        let version = self.accepted(node, shard, 0) + u8::from(!guards);
                        let leg = Record::new(Kind::Leg, txn, version);
                        next.nodes[id].logs[shard].push(leg);
                        steps.add(next, || {
                            format!("{} appends the leg of {name} to shard {shard}", NAMES[id])
                        });
                    }
                }
            }
        }
    }

    /// A client sends it: for the first time, or again because it got no answer.
    fn may_begin(&self, state: &State, id: usize, txn: usize) -> bool {
        let sent = |txn: usize| state.sent.1 >> txn & 1 == 1;
        if sent(txn) || !state.rules(id) {
            return false;
        }
        let Some(first) = self.scenario.txns[txn].retry_of else { return true };
        let answered = (state.acked | state.refused) >> first & 1 == 1;
        let coordinated = state.nodes.iter().any(|node| node.mine >> first & 1 == 1);
        // While a leg of the first attempt is there, sequences say: wait, then give its receipt.
        let node = &state.nodes[id];
        let there = |shard| node.has_leg(shard, first) || node.unresolved(shard, first);
        sent(first) && !answered && !coordinated && !self.scenario.shards().any(there)
    }

    fn reserve(
        &self,
        state: &State,
        id: usize,
        txn: usize,
        shard: usize,
        steps: &mut Steps<State>,
    ) {
        let node = &state.nodes[id];
        if self.held(node, shard, Some(txn)) {
            return;
        }
        let name = self.txn_name(txn);
        let mut next = *state;
        next.sent.1 |= 1 << txn;
        let guard = self.scenario.txns[txn].guards[shard];
        if guard.is_some_and(|version| version != self.accepted(node, shard, 0)) {
            next.refused |= 1 << txn;
            next.nodes[id].reserved[txn] = 0;
            next.nodes[id].mine &= !(1 << txn);
            return steps
                .add(next, || format!("{} refuses {name}: guard of shard {shard}", NAMES[id]));
        }
        next.nodes[id].mine |= 1 << txn;
        next.nodes[id].reserved[txn] |= 1 << shard;
        steps.add(next, || format!("{} reserves {name} in shard {shard}", NAMES[id]));
    }

    /// 3 Resolve: after the decision, or after the activation that decided.
    pub(super) fn resolve(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let node = &state.nodes[id];
        let early = node.role == Role::Claimed;
        for txn in 0..self.scenario.txns.len() {
            let outcome = if early {
                self.broken_by(Mutation::SettledBeforeActivation).then(|| self.decide(node, txn))
            } else if node.outcome[txn].is_some() {
                node.outcome[txn]
            } else if self.broken_by(Mutation::ResolvedBeforeCommitted) {
                self.complete(node, txn).then_some(true)
            } else {
                self.decided(node, txn).then_some(true)
            };
            let Some(commit) = outcome else { continue };
            // The process that wrote a Resolve remembers it; one that begins reads its log.
            let begins = node.outcome[txn].is_some();
            let open = |shard: &usize| {
                let log = &node.logs[*shard];
                let waits = node.unresolved(*shard, txn);
                waits && (begins || log.resolve(txn).is_none()) && !log.is_full()
            };
            for shard in self.scenario.shards().filter(open) {
                let mut next = *state;
                let kind = if commit { Kind::Commit } else { Kind::Abort };
                let record = Record::new(kind, txn, 0);
                let node = &mut next.nodes[id];
                node.logs[shard].push(record);
                if !node.open(txn) {
                    node.outcome[txn] = None;
                    node.mine &= !(1 << txn);
                }
                steps.add(next, || {
                    format!("{} appends {} to shard {shard}", NAMES[id], record.name())
                });
            }
        }
    }

    /// Answers: written, as soon as decided; not written, as soon as that is committed.
    pub(super) fn answer(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let node = &state.nodes[id];
        for txn in 0..self.scenario.txns.len() {
            let asked = node.mine >> txn & 1 == 1 || state.rules(id);
            let first = self.scenario.shards_of(self.scenario.txns[txn].shards).next().unwrap_or(0);
            let at = node.logs[first].leg(txn);
            let written = match self.broken_by(Mutation::AckAtFirstLeg) {
                true => at.is_some_and(|at| at < usize::from(node.commit[first])),
                false => self.decided(node, txn),
            };
            if asked && written && node.has_leg(first, txn) {
                let mut next = *state;
                let receipt = match (self.broken_by(Mutation::ReceiptRecomputed), at) {
                    (false, Some(at)) => node.logs[first].records()[at].version(),
                    _ => self.accepted(node, first, 0),
                };
                let given = state.acked >> txn & 1 == 1;
                if given && state.receipts[txn] != receipt {
                    next.broken.get_or_insert(Fault::Receipt);
                }
                next.acked |= 1 << txn;
                next.receipts[txn] = receipt;
                let name = self.txn_name(txn);
                steps.add(next, || format!("{} answers {name}: written, {receipt}", NAMES[id]));
            }
            if self.abort_committed(node, txn) && state.told_abort >> txn & 1 == 0 {
                let mut next = *state;
                next.told_abort |= 1 << txn;
                let name = self.txn_name(txn);
                steps.add(next, || format!("{} answers {name}: not written", NAMES[id]));
            }
        }
    }

    /// A leg goes when all Resolves of its write are committed, its Resolve after the leg.
    pub(super) fn compact(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        if !self.scenario.compaction {
            return;
        }
        let node = &state.nodes[id];
        for (txn, asked) in self.scenario.txns.iter().enumerate() {
            let settled = |shard: usize| {
                let resolve = node.logs[shard].resolve(txn);
                resolve.is_some_and(|(at, commit)| commit && at < usize::from(node.commit[shard]))
            };
            let all = self.scenario.shards_of(asked.shards).all(settled);
            for shard in self.scenario.shards_of(asked.shards).filter(|shard| settled(*shard)) {
                let name = self.txn_name(txn);
                let leg_gone = node.legs_gone[shard] >> txn & 1 == 1;
                let resolve_gone = node.resolves_gone[shard] >> txn & 1 == 1;
                if !leg_gone && (all || self.broken_by(Mutation::LegCompactedEarly)) {
                    let mut next = *state;
                    next.nodes[id].legs_gone[shard] |= 1 << txn;
                    steps.add(next, || {
                        format!("{} compacts the leg of {name} in shard {shard}", NAMES[id])
                    });
                }
                let hasty = all && self.broken_by(Mutation::ResolveCompactedFirst);
                if !resolve_gone && (leg_gone || hasty) {
                    let mut next = *state;
                    next.nodes[id].resolves_gone[shard] |= 1 << txn;
                    steps.add(next, || {
                        format!("{} compacts the Resolve of {name} in shard {shard}", NAMES[id])
                    });
                }
            }
        }
    }
}
