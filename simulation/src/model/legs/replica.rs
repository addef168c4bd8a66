//! What the one-shard protocol gives: durability, replication, commit, crash, claim, activation.

use super::state::{Role, State};
use super::{Fault, Legs, NAMES, Steps};
use crate::model::Mutation;

impl Legs {
    /// Steps of a node that leads or claims, towards its own disk and the other node.
    pub(super) fn replicate(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let (node, other) = (&state.nodes[id], &state.nodes[1 - id]);
        for shard in self.scenario.shards() {
            let tip = node.logs[shard].tip();
            if node.role != Role::Follower && node.durable[shard] < tip {
                let mut next = *state;
                next.nodes[id].durable[shard] = tip;
                steps.add(next, || format!("{}'s disk has all of shard {shard}", NAMES[id]));
            }
            if state.rules(id) && other.role == Role::Follower {
                self.ship(state, id, shard, steps);
            }
            // Acknowledgements that were on their way when the other node promised count too.
            let common = node.logs[shard].common(&other.logs[shard]);
            let held = node.durable[shard].min(common);
            let counts = !state.rules(id) || other.role == Role::Follower;
            if node.role == Role::Leading && counts && held > node.commit[shard] {
                let mut next = *state;
                next.nodes[id].commit[shard] = held;
                steps.add(next, || format!("{} commits shard {shard} up to {held}", NAMES[id]));
            }
        }
    }

    /// R10, then the next record. Shipping is not atomic over shards.
    fn ship(&self, state: &State, id: usize, shard: usize, steps: &mut Steps<State>) {
        let (from, to) = (&state.nodes[id], &state.nodes[1 - id]);
        let common = from.logs[shard].common(&to.logs[shard]);
        let (own, theirs) = (from.logs[shard].tip(), to.logs[shard].tip());
        let mut next = *state;
        let peer = &mut next.nodes[1 - id];
        if theirs > common {
            if common < peer.commit[shard] {
                next.broken.get_or_insert(Fault::Cut);
            }
            let peer = &mut next.nodes[1 - id];
            peer.logs[shard].cut(common);
            peer.durable[shard] = common;
            steps.add(next, || format!("{} is cut to {common} in shard {shard}", NAMES[1 - id]));
        } else if own > common {
            let record = from.logs[shard].records()[usize::from(common)];
            let bit = 1 << record.id();
            peer.logs[shard].push(record);
            peer.durable[shard] = common + 1;
            if record.kind() == Some(super::Kind::Leg) {
                peer.legs_gone[shard] |= from.legs_gone[shard] & bit;
                peer.resolves_gone[shard] |= from.resolves_gone[shard] & bit;
            }
            steps.add(next, || {
                format!("{} takes {} into shard {shard}", NAMES[1 - id], record.name())
            });
        }
    }

    /// A follower learns how far the leader is (R4).
    pub(super) fn follow(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let (node, leader) = (&state.nodes[id], &state.nodes[1 - id]);
        if !state.rules(1 - id) || leader.role != Role::Leading {
            return;
        }
        for shard in self.scenario.shards() {
            let common = node.logs[shard].common(&leader.logs[shard]);
            let commit = common.min(leader.commit[shard]);
            if commit > node.commit[shard] {
                let mut next = *state;
                next.nodes[id].commit[shard] = commit;
                steps.add(next, || {
                    format!("{} learns that shard {shard} is committed up to {commit}", NAMES[id])
                });
            }
        }
    }

    /// A claim that won, with the promise. Against a living leader it is a wrong suspicion.
    pub(super) fn claim(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let alive = state.rules(1 - id);
        if state.nodes[id].role != Role::Follower || state.rules(id) || alive && state.claims == 0 {
            return;
        }
        let mut next = *state;
        next.claims -= u8::from(alive);
        next.claimed = Some(id);
        let node = &mut next.nodes[id];
        node.role = Role::Claimed;
        if self.broken_by(Mutation::AbortToldAtClaim) {
            let node = &state.nodes[id];
            for txn in (0..self.scenario.txns.len()).filter(|txn| node.open(*txn)) {
                next.told_abort |= u8::from(!self.decide(node, txn)) << txn;
            }
        }
        let label = || format!("{} wins a claim", NAMES[id]);
        if alive { steps.add_fault(next, label) } else { steps.add(next, label) }
    }

    /// Both nodes hold the claimant's whole log of every shard: it leads, and decides.
    pub(super) fn activate(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        let (node, other) = (&state.nodes[id], &state.nodes[1 - id]);
        let needed = match self.broken_by(Mutation::OneShardActivated) {
            true => 1,
            false => self.scenario.shards,
        };
        let placed = (0..needed).all(|shard| node.logs[shard] == other.logs[shard]);
        let durable = (0..needed).all(|shard| node.durable[shard] == node.logs[shard].tip());
        let promised = other.role == Role::Follower;
        if node.role != Role::Claimed || !state.rules(id) || !promised || !placed || !durable {
            return;
        }
        let mut next = *state;
        (next.leader, next.claimed) = (id, None);
        let leader = &mut next.nodes[id];
        leader.role = Role::Leading;
        for shard in self.scenario.shards() {
            leader.commit[shard] = leader.logs[shard].tip();
            leader.durable[shard] = leader.logs[shard].tip();
        }
        for txn in (0..self.scenario.txns.len()).filter(|txn| node.open(*txn)) {
            let outcome = self.decide(node, txn);
            next.nodes[id].outcome[txn] = Some(outcome);
            if self.mutation.is_none() && outcome != self.complete(node, txn) {
                next.broken.get_or_insert(Fault::Contradiction);
            }
        }
        steps.add(next, || format!("{} is activated, decides what is open", NAMES[id]));
    }

    /// R9: answers nobody any more, keeps its logs.
    pub(super) fn step_down(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        if state.nodes[id].role == Role::Follower || state.rules(id) {
            return;
        }
        let mut next = *state;
        let node = &mut next.nodes[id];
        node.forget();
        for shard in self.scenario.shards() {
            node.durable[shard] = node.logs[shard].tip();
        }
        steps.add(next, || format!("{} learns that it is deposed", NAMES[id]));
    }

    /// Power loss and restart.
    pub(super) fn crash(&self, state: &State, id: usize, steps: &mut Steps<State>) {
        if state.crashes == 0 {
            return;
        }
        let mut next = *state;
        next.crashes -= 1;
        let node = &mut next.nodes[id];
        for shard in self.scenario.shards() {
            node.logs[shard].cut(node.durable[shard]);
        }
        node.forget();
        node.commit = [0; super::SHARDS];
        steps.add_fault(next, || format!("{} crashes and restarts", NAMES[id]));
    }
}
