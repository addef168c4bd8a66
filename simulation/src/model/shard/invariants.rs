//! What must hold in every state, by its number in replication.md §7.
//!
//! Absent, because nothing here can break them: I9, I10, I20 (see the model of several shards),
//! I13, I18 (liveness: the simulator), I14, I21, I22. I3 and I16 are rules whose breach shows as
//! I4 to I8.

use super::state::{Config, Entry, NodeId, Role, Set, State};
use super::{Invariant, Shard};
use crate::model::Mutation;

impl Shard {
    /// The first invariant that does not hold.
    pub(super) fn first_broken(&self, state: &State) -> Option<Invariant> {
        let checks = [
            state.broken,
            one_leader_an_epoch(state),
            logs_match(state),
            exposed_is_acknowledged(state),
            self.active_set_is_complete(state),
            self.proven_reads_are_fresh(state),
        ];
        checks.into_iter().flatten().next()
    }

    /// I6: at the moment of the answer two places hold it.
    pub(super) fn in_two_places(
        &self,
        state: &State,
        id: NodeId,
        config: &Config,
        position: u8,
    ) -> bool {
        let (node, other) = (state.node(id), state.node(id ^ 1));
        let entry = node.log.at(position);
        // What a disk lost after it had answered is the one failure that is allowed.
        let lost = other.store != config.stores[usize::from(id ^ 1)] && self.bounds.wipes > 0;
        let peer = other.durable >= position && other.log.at(position) == entry;
        let slot = config
            .chain
            .slot_of(position)
            .is_some_and(|(epoch, slot)| state.wal(epoch).slots[usize::from(slot)] == entry);
        node.durable >= position && (peer || slot || lost || position <= config.chain.base())
    }

    /// I4: every place of the active set holds every acknowledged entry. A store that lost its disk
    /// isn't the one that the set names.
    fn active_set_is_complete(&self, state: &State) -> Option<Invariant> {
        let (config, acked) = (&state.config, &state.acked);
        let holds = |id: NodeId, upto: u8| {
            let node = state.node(id);
            let gone = node.store != config.stores[usize::from(id)];
            gone || node.log.common(acked).min(node.durable) >= upto.min(acked.tip())
        };
        let leader = config.active_leader;
        let other = match config.set {
            Set::Pair => holds(leader ^ 1, acked.tip()),
            Set::Bucket => {
                let base = config.chain.base();
                let slots = (base + 1..=acked.tip()).all(|position| {
                    config.chain.slot_of(position).is_some_and(|(epoch, slot)| {
                        state.wal(epoch).slots[usize::from(slot)] == acked.at(position)
                    })
                });
                slots && (self.bounds.wipes > 0 || holds(leader ^ 1, base))
            }
        };
        (!holds(leader, acked.tip()) || !other).then_some(Invariant::I4)
    }

    /// I11, R5: where a leader could prove a linearizable read now, nothing was acknowledged that
    /// it doesn't know. A later proof speaks for an earlier commit position: promises and `ver`
    /// only grow. The answer counts only from the store that the set names: one that lost its disk
    /// has promised nothing.
    fn proven_reads_are_fresh(&self, state: &State) -> Option<Invariant> {
        (0..2).find_map(|id: NodeId| {
            let node = state.node(id);
            let Role::Leading(config, ..) = node.role else { return None };
            let other = state.node(id ^ 1);
            let named = other.store == config.stores[usize::from(id ^ 1)]
                || self.broken_by(Mutation::WipedCounts);
            let follows = matches!(other.role, Role::Follower | Role::Claiming(_));
            let proven = match config.set {
                Set::Pair => named && other.promised <= config.epoch && follows,
                Set::Bucket => state.config == config,
            };
            let proven = proven || self.broken_by(Mutation::ReadUnproven);
            (proven && node.commit < state.acked.tip()).then_some(Invariant::I11)
        })
    }
}

/// I1: at most one process leads an epoch.
fn one_leader_an_epoch(state: &State) -> Option<Invariant> {
    let epoch = |id: NodeId| match state.node(id).role {
        Role::Leading(config, ..) => Some(config.epoch),
        _ => None,
    };
    (epoch(0).is_some() && epoch(0) == epoch(1)).then_some(Invariant::I1)
}

/// I2: same place and epoch, same entry; same entry, same beginning.
fn logs_match(state: &State) -> Option<Invariant> {
    let (a, b) = (&state.nodes[0].log, &state.nodes[1].log);
    let common = a.common(b);
    let differs = (common + 1..=a.tip().min(b.tip())).any(|position| {
        let (a, b): (Entry, Entry) = (a.at(position), b.at(position));
        a == b || a.epoch() == b.epoch()
    });
    differs.then_some(Invariant::I2)
}

/// I7: what a node showed stays in its log, and is what was acknowledged.
fn exposed_is_acknowledged(state: &State) -> Option<Invariant> {
    state.nodes.iter().find_map(|node| {
        let kept = node.log.common(&state.acked);
        (kept < node.exposed).then_some(Invariant::I7)
    })
}
