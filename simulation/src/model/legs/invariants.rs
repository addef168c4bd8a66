//! What must hold in every state, by its number in replication.md §7, and what must hold at rest.

use super::state::{Role, State};
use super::{Fault, Legs};

impl Legs {
    /// Writes down what readers and watchers at each node can see now.
    pub(super) fn remember(&self, state: &mut State) {
        for id in 0..2 {
            let node = state.nodes[id];
            let visible = self.visible(&node);
            state.seen_writes |= self.visible_writes(&node, &visible);
            for (txn, shards) in visible.iter().enumerate() {
                state.seen |= u8::from(*shards != 0) << txn;
                state.aborted |= u8::from(self.abort_committed(&node, txn)) << txn;
            }
            for shard in self.scenario.shards() {
                let end = self.feed_end(&node, shard, &visible);
                state.passed |= self.passed(&node, shard, end, &visible);
            }
        }
    }

    /// The first invariant that does not hold.
    pub(super) fn first_broken(&self, state: &State) -> Option<Fault> {
        if state.broken.is_some() {
            return state.broken;
        }
        if state.acked & (state.told_abort | state.aborted) != 0
            || state.seen & state.told_abort != 0
        {
            return Some(Fault::BothWays);
        }
        if state.seen & state.aborted != 0 {
            return Some(Fault::Vanished);
        }
        if state.seen & state.passed != 0 {
            return Some(Fault::Missed);
        }
        let twice = self.scenario.txns.iter().enumerate().any(|(txn, asked)| {
            let bits = asked.retry_of.map_or(0, |first| 1 << first | 1u8 << txn);
            bits != 0 && state.seen & bits == bits
        });
        if twice {
            return Some(Fault::Twice);
        }
        (0..2).find_map(|id| self.broken_at(state, id))
    }

    fn broken_at(&self, state: &State, id: usize) -> Option<Fault> {
        let node = &state.nodes[id];
        let visible = self.visible(node);
        let writes = self.visible_writes(node, &visible);
        for (txn, asked) in self.scenario.txns.iter().enumerate() {
            if visible[txn] != 0 && visible[txn] != self.all_legs(txn) {
                return Some(Fault::Half);
            }
            // A guard's basis is part of what was committed with it.
            let unfounded = |shard: usize| {
                let guard = asked.guards[shard].unwrap_or(0);
                visible[txn] != 0 && self.accepted(node, shard, 0) < guard
            };
            let serves = state.rules(id) && node.role == Role::Leading;
            if serves && self.scenario.shards().any(unfounded) {
                return Some(Fault::Replay);
            }
            // Replay after a restart applies a leg at its Resolve: then all of them must be there.
            let resolved =
                |shard: usize| node.logs[shard].resolve(txn).is_some_and(|(_, commit)| commit);
            let lacking =
                |shard: usize| self.all_legs(txn) >> shard & 1 == 1 && !node.has_leg(shard, txn);
            if serves && self.scenario.shards().any(resolved) && self.scenario.shards().any(lacking)
            {
                return Some(Fault::Half);
            }
        }
        if self.scenario.shards().any(|s| !self.replay_is_right(node, s, &visible, writes)) {
            return Some(Fault::Replay);
        }
        if node.role == Role::Leading && state.rules(id) {
            let shown = (0..self.scenario.txns.len())
                .fold(0, |bits, txn| bits | u8::from(visible[txn] != 0) << txn);
            if (state.acked | state.seen) & !shown != 0 || state.seen_writes & !writes != 0 {
                return Some(Fault::Vanished);
            }
        }
        None
    }

    fn all_legs(&self, txn: usize) -> u8 {
        let asked = &self.scenario.txns[txn];
        let without = self.broken_by(crate::model::Mutation::GuardWithoutLeg);
        let legs = self.scenario.shards_of(asked.shards);
        legs.filter(|shard| !(without && asked.guards_only(*shard)))
            .fold(0, |bits, s| bits | 1 << s)
    }

    /// I13 in small: when only faults are left, nothing may be.
    pub(super) fn unfinished(&self, state: &State) -> bool {
        let Some(leader) = (0..2).find(|id| state.rules(*id)) else { return true };
        let node = &state.nodes[leader];
        let sent = (0..self.scenario.txns.len())
            .all(|txn| self.scenario.txns[txn].retry_of.is_some() || state.sent.1 >> txn & 1 == 1);
        let open =
            (0..self.scenario.txns.len()).any(|txn| node.reserved[txn] != 0 || node.open(txn));
        let writes = (1u8 << self.scenario.writes.len()) - 1;
        open || !sent || state.sent.0 != writes || node.logs != state.nodes[1 - leader].logs
    }
}
