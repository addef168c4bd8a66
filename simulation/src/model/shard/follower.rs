//! What a follower does with what it is sent, and what happens to nodes (R4, R6, R8 to R10).

use super::state::{Ack, Append, Log, Node, NodeId, Reached, Role, Set, State};
use super::{Invariant, NAMES, Shard, Steps};
use crate::model::Mutation;

impl Shard {
    /// Messages that this node may get now. They stay: each may come again, or never have come.
    pub(super) fn receive(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let (other, name) = (id ^ 1, NAMES[usize::from(id)]);
        for append in state.appends[usize::from(other)].iter().flatten() {
            if !self.hears(state.node(id), append) {
                continue;
            }
            let mut next = *state;
            self.take(&mut next, id, append);
            steps.add(next, || {
                format!(
                    "{name} takes {} of epoch {}, acknowledges",
                    append.log.name(),
                    append.epoch
                )
            });
            if append.epoch > state.node(id).promised {
                let mut next = *state;
                self.promise(&mut next, id, append);
                steps.add(next, || format!("{name} promises epoch {}", append.epoch));
            }
        }
        if let Some(ack) = state.acks[usize::from(other)] {
            let mut next = *state;
            if self.take_ack(&mut next, id, ack) {
                steps.add(next, || format!("{name} gets the acknowledgement of {}", ack.upto));
            }
        }
    }

    /// R6: nothing below the promise, nor what another leads in the epoch that it leads itself.
    fn hears(&self, node: &Node, append: &Append) -> bool {
        let leads = !matches!(node.role, Role::Follower | Role::Claiming(_));
        let own_epoch = leads && node.promised >= append.epoch;
        self.broken_by(Mutation::NoPromise) || append.epoch >= node.promised && !own_epoch
    }

    /// The promise is durable before anything of its epoch is done. Whoever crashes in between
    /// promised without having looked at its log.
    fn promise(&self, state: &mut State, id: NodeId, append: &Append) {
        let node = state.node_mut(id);
        if !matches!(node.role, Role::Claiming(_)) && !self.broken_by(Mutation::NoPromise) {
            node.role = Role::Follower;
        }
        node.promised = node.promised.max(append.epoch);
    }

    /// R10: makes its log the sender's on first contact, remembers that, acknowledges.
    fn take(&self, state: &mut State, id: NodeId, append: &Append) {
        let first_contact = match self.broken_by(Mutation::PromiseIsContact) {
            true => append.epoch > state.node(id).promised,
            false => append.epoch > state.node(id).reconciled,
        };
        self.promise(state, id, append);
        let node = state.node_mut(id);
        node.reconciled = node.reconciled.max(append.epoch);
        let common = node.log.common(&append.log);
        let behind = append.log.tip() > common;
        let keep = match (behind, first_contact) {
            (true, _) if self.broken_by(Mutation::HashIgnored) => node.log.tip(),
            (false, true) if self.broken_by(Mutation::LongerLogKept) => node.log.tip(),
            (_, true) if self.broken_by(Mutation::CutTooLow) => common.min(append.commit),
            (true, _) | (false, true) => common,
            (false, false) => node.log.tip(),
        };
        let cut_exposed = keep < node.exposed;
        node.log.cut(keep);
        for position in node.log.tip() + 1..=append.log.tip() {
            node.log.push(append.log.at(position));
        }
        if !self.broken_by(Mutation::FollowerAcksBeforeDurable) {
            node.durable = node.log.tip();
        } else {
            node.durable = node.durable.min(keep);
        }
        node.commit = node.commit.max(append.commit.min(append.log.tip()));
        node.exposed = node.exposed.max(node.commit);
        let ack = Ack { epoch: append.epoch, upto: append.log.tip(), store: node.store };
        state.acks[usize::from(id)] = Some(ack);
        if cut_exposed {
            state.broken.get_or_insert(Invariant::I12);
        }
    }

    /// Counts an answer to this leadership.
    fn take_ack(&self, state: &mut State, id: NodeId, ack: Ack) -> bool {
        let (Role::Placing(config, _, reached) | Role::Leading(config, _, reached)) =
            &mut state.node_mut(id).role
        else {
            return false;
        };
        let newer = match reached.peer {
            Some((upto, store)) => store < ack.store || store == ack.store && upto < ack.upto,
            None => true,
        };
        if !newer || !(reached.since..=config.epoch).contains(&ack.epoch) {
            return false;
        }
        reached.peer = Some((ack.upto, ack.store));
        self.acknowledge(state, id);
        true
    }

    /// Power loss and restart: a new process, any part of what was not durable is gone. A node that
    /// is down for a while is one that takes no step.
    pub(super) fn crash(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let (boots, wipes) = (
            state.nodes.iter().map(|node| node.boot).sum::<u8>(),
            state.nodes.iter().map(|node| node.store).sum::<u8>(),
        );
        let (node, name) = (state.node(id), NAMES[usize::from(id)]);
        if boots - wipes < self.bounds.crashes {
            for left in node.durable..=node.log.tip() {
                let mut next = *state;
                let node = next.node_mut(id);
                node.log.cut(left);
                node.durable = left;
                node.commit = 0;
                node.boot += 1;
                if self.broken_by(Mutation::PromiseForgotten) {
                    node.promised = 0;
                }
                node.role = self.after_restart(node.role);
                steps
                    .add_fault(next, || format!("{name} crashes and restarts with {left} entries"));
            }
        }
        if wipes < self.bounds.wipes {
            let mut next = *state;
            let node = next.node_mut(id);
            (node.log, node.durable) = (Log::default(), 0);
            (node.promised, node.reconciled) = (0, 0);
            (node.commit, node.exposed) = (0, 0);
            node.boot += 1;
            node.store += 1;
            node.role = Role::Follower;
            steps
                .add_fault(next, || format!("{name} loses its disk, starts with another store id"));
        }
    }

    /// R8: whatever it was, it is a follower now.
    fn after_restart(&self, role: Role) -> Role {
        match role {
            Role::Leading(config, _, reached) if self.broken_by(Mutation::EpochReused) => {
                let bucket = if config.set == Set::Bucket { config.chain.last().1 } else { 0 };
                Role::Leading(config, None, Reached { peer: None, bucket, ..reached })
            }
            _ => Role::Follower,
        }
    }
}
