//! The bucket: a register, create-only slots, requests that arrive late; operator and collector.

use super::state::{Config, EPOCHS, Entry, NodeId, Role, Set, State, Wal};
use super::{NAMES, Shard, Steps};
use crate::model::Mutation;

impl Shard {
    /// Requests that the bucket may carry out now, in any order; those of dead processes too.
    pub(super) fn bucket(&self, state: &State, steps: &mut Steps<State>) {
        for sent in state.swaps.iter().flatten() {
            let mut next = *state;
            next.config = *sent;
            for swap in &mut next.swaps {
                let done = *swap == Some(*sent);
                let void = swap.is_some_and(|swap| swap.ver <= sent.ver);
                if done || void && !self.broken_by(Mutation::SwapUnconditional) {
                    *swap = None;
                }
            }
            next.sort();
            let who = NAMES[usize::from(sent.leader)];
            steps.add(next, || {
                let phase = if sent.claimed { "claimed" } else { "active" };
                format!(
                    "the bucket applies: ver {}, epoch {}, {phase}, {who}",
                    sent.ver, sent.epoch
                )
            });
        }
        for epoch in 1..=EPOCHS as u8 {
            for slot in 0..state.wal(epoch).slots.len() {
                self.apply_puts(state, epoch, slot, steps);
            }
        }
    }

    /// R12: create-only, so the first to arrive decides.
    fn apply_puts(&self, state: &State, epoch: u8, slot: usize, steps: &mut Steps<State>) {
        let wal = state.wal(epoch);
        let mut put = |content: Entry, label: &str| {
            let mut next = *state;
            let wal = next.wal_mut(epoch);
            wal.slots[slot] = content;
            self.drop_void(wal, slot);
            steps.add(next, || format!("the bucket creates {epoch}/{slot}: {label}"));
        };
        if wal.data[slot] != Entry::NONE {
            put(wal.data[slot], &wal.data[slot].name());
        }
        if wal.fences >> slot & 1 == 1 {
            put(Entry::FENCE, "fence");
        }
    }

    /// A PUT to a slot that exists never has an effect any more: forget it.
    fn drop_void(&self, wal: &mut Wal, slot: usize) {
        wal.fences &= !(1 << slot);
        let fence = wal.slots[slot] == Entry::FENCE;
        if !(fence && self.broken_by(Mutation::LatePutAccepted)) {
            wal.data[slot] = Entry::NONE;
        }
    }

    /// Sends a conditional PUT of the register. False: too many are on their way.
    pub(super) fn swap(&self, state: &mut State, sent: Config) -> bool {
        let void = sent.ver != state.config.ver + 1;
        if state.swaps.contains(&Some(sent)) {
            return false;
        }
        // One that cannot apply any more need not be on its way.
        if void && !self.broken_by(Mutation::SwapUnconditional) {
            return true;
        }
        let Some(free) = state.swaps.iter_mut().find(|swap| swap.is_none()) else { return false };
        *free = Some(sent);
        state.sort();
        true
    }

    /// Node replaced: the operator writes the new store id into the register.
    pub(super) fn replace(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let (at, node) = (usize::from(id), state.node(id));
        if state.config.claimed || state.config.members[at] == node.store {
            return;
        }
        let mut sent = state.config;
        sent.ver += 1;
        sent.members[at] = node.store;
        let mut next = *state;
        if self.swap(&mut next, sent) {
            let name = NAMES[at];
            steps.add(next, || format!("the operator names {name}'s new store"));
        }
    }

    /// R14: data slots go when both nodes hold them and acknowledged in a higher epoch.
    pub(super) fn collect(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let Role::Leading(config, None, reached) = state.node(id).role else { return };
        let hasty = self.broken_by(Mutation::SlotsCollectedEarly);
        let fences = self.broken_by(Mutation::FenceCollected);
        let peer = self.peer_holds(id, &config, reached);
        let held = config.set == Set::Pair && peer == Some(state.node(id).log.tip());
        if !self.bounds.collect || !(held || hasty || fences) {
            return;
        }
        for epoch in 1..config.epoch {
            let mut next = *state;
            for slot in &mut next.wal_mut(epoch).slots {
                let fence = *slot == Entry::FENCE;
                if *slot != Entry::NONE && if fence { fences } else { held || hasty } {
                    *slot = Entry::NONE;
                }
            }
            if next != *state {
                let name = NAMES[usize::from(id)];
                steps.add(next, || format!("{name} deletes slots of epoch {epoch}"));
            }
        }
    }
}
