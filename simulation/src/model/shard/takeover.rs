//! Claim → promise → seal → recover → place → activate (R6 to R8, R11, R13, §3 "take-over").

use super::state::{Chain, Config, Entry, Log, Node, NodeId, Reached, Role, Set, State};
use super::{Invariant, NAMES, Shard, Steps};
use crate::model::Mutation;

impl Shard {
    /// Steps of a node that takes over, or may.
    pub(super) fn take_over(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        match state.node(id).role {
            Role::Follower => {
                self.claim(state, id, steps);
                self.take_what_was_handed_over(state, id, steps);
            }
            Role::Claiming(sent) => self.learn_claim(state, id, &sent, steps),
            Role::Sealing(config) => self.seal(state, id, &config, steps),
            Role::Placing(config, chain, reached) => {
                self.place(state, id, &config, chain, reached, steps);
            }
            Role::Activating(sent, reached) => {
                self.learn_activation(state, id, &sent, reached, steps);
            }
            Role::Leading(..) => {}
        }
    }

    /// Whether the active configuration lets this node claim, by (a) or (b).
    fn may_claim(&self, config: &Config, node: &Node, id: NodeId) -> bool {
        let at = usize::from(id);
        let base = config.chain.base();
        let member = config.members[at] == node.store;
        self.broken_by(Mutation::WipedClaims)
            || member
                && match config.set {
                    Set::Pair => config.stores[at] == node.store,
                    Set::Bucket => {
                        node.durable >= base && node.log.at(base) == config.chain.base_entry
                    }
                }
    }

    /// 1: the register says who may try.
    fn claim(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let node = state.node(id);
        let epoch = state.config.epoch + 1;
        if epoch > self.bounds.epochs || !self.may_claim(&state.config, node, id) {
            return;
        }
        let ver = state.config.ver + 1;
        let (leader, boot) = (id, node.boot);
        let sent = Config { ver, epoch, claimed: true, leader, boot, ..state.config };
        let mut next = *state;
        if self.swap(&mut next, sent) {
            next.node_mut(id).role = Role::Claiming(sent);
            let name = NAMES[usize::from(id)];
            steps.add(next, || format!("{name} sends a claim of epoch {epoch}"));
        }
    }

    /// 2: known to be won, so promise, durably. Until then it goes on as a follower.
    fn learn_claim(&self, state: &State, id: NodeId, sent: &Config, steps: &mut Steps<State>) {
        let name = NAMES[usize::from(id)];
        let mut next = *state;
        if state.config.is(sent) {
            let node = next.node_mut(id);
            if !self.broken_by(Mutation::NoPromise) {
                node.promised = sent.epoch;
            }
            node.role = Role::Sealing(state.config);
            steps.add(next, || format!("{name} won the claim, promises epoch {}", sent.epoch));
        } else if state.config.ver >= sent.ver {
            next.node_mut(id).role = Role::Follower;
            steps.add(next, || format!("{name} learns that its claim lost"));
        }
    }

    /// 3: (a) own log; (b) fence the last bucket log, then base and slots.
    fn seal(&self, state: &State, id: NodeId, config: &Config, steps: &mut Steps<State>) {
        let (node, name) = (state.node(id), NAMES[usize::from(id)]);
        let mut next = *state;
        if config.set == Set::Pair {
            let chain = Chain::of(config.epoch, node.commit, node.log.at(node.commit));
            next.node_mut(id).durable = node.log.tip();
            let reached = Reached { since: config.epoch, peer: None, bucket: node.commit };
            next.node_mut(id).role = Role::Placing(*config, chain, reached);
            return steps.add(next, || format!("{name} recovers: its own log"));
        }
        let (epoch, base) = config.chain.last();
        let end = state.wal(epoch).end();
        let fenced = state.wal(epoch).slots[usize::from(end)] == Entry::FENCE;
        if !fenced && !self.broken_by(Mutation::NoFence) {
            if state.wal(epoch).fences >> end & 1 == 0 {
                next.wal_mut(epoch).fences |= 1 << end;
                steps.add(next, || format!("{name} PUTs the fence to {epoch}/{end}"));
            }
            return;
        }
        let Some(chain) = config.chain.extended(config.epoch, base + end) else { return };
        if let Err(invariant) = self.recover(&mut next, id, config, base + end) {
            next.broken = Some(invariant);
        }
        let reached = Reached { since: config.epoch, peer: None, bucket: base + end };
        next.node_mut(id).role = Role::Placing(*config, chain, reached);
        let log = next.node(id).log;
        steps.add(next, || {
            format!("{name} finds the fence in {epoch}/{end}, recovers {}", log.name())
        });
    }

    /// Own log up to the base, then the slots in the order of the chain.
    fn recover(
        &self,
        state: &mut State,
        id: NodeId,
        config: &Config,
        tip: u8,
    ) -> Result<(), Invariant> {
        let node = state.node(id);
        let mut log = node.log;
        let base = config.chain.base();
        if log.tip() < base && !self.broken_by(Mutation::WipedClaims) {
            return Err(Invariant::I19);
        }
        if !self.broken_by(Mutation::SlotsIgnored) {
            log.cut(base);
            for position in log.tip() + 1..=tip {
                let found = config
                    .chain
                    .slot_of(position)
                    .map(|(epoch, slot)| state.wal(epoch).slots[usize::from(slot)]);
                match found {
                    Some(entry) if entry != Entry::NONE && entry != Entry::FENCE => log.push(entry),
                    _ => return Err(Invariant::I15),
                }
            }
        }
        let cut = log.common(&node.log) < node.exposed;
        let node = state.node_mut(id);
        node.log = log;
        node.durable = log.tip();
        if cut { Err(Invariant::I12) } else { Ok(()) }
    }

    /// 4: to the bucket or to the peer; 5: the activating write.
    fn place(
        &self,
        state: &State,
        id: NodeId,
        config: &Config,
        chain: Chain,
        reached: Reached,
        steps: &mut Steps<State>,
    ) {
        let (node, name) = (state.node(id), NAMES[usize::from(id)]);
        let tip = node.log.tip();
        if !state.config.is(config) {
            let mut next = *state;
            next.node_mut(id).role = Role::Follower;
            steps.add(next, || format!("{name} reads that its claim is over"));
        }
        self.send(state, id, config.epoch, steps);
        self.upload(state, id, chain.last(), reached, steps);
        self.learn_slot(state, id, chain.last(), steps);
        let early = self.broken_by(Mutation::ActivatedBeforePlaced);
        if reached.bucket == tip || early {
            let sent = config.activated(config.epoch, Set::Bucket, chain);
            self.activate(state, id, sent, reached, steps, || format!("{{{name},S3}}"));
        }
        if reached.peer(config.members[usize::from(id ^ 1)]) == Some(tip) {
            let sent = config.activated(config.epoch, Set::Pair, Chain::default());
            self.activate(state, id, sent, reached, steps, || "{A,B}".into());
        }
    }

    fn activate(
        &self,
        state: &State,
        id: NodeId,
        sent: Config,
        reached: Reached,
        steps: &mut Steps<State>,
        set: impl FnOnce() -> String,
    ) {
        let mut next = *state;
        if !self.swap(&mut next, sent) {
            return;
        }
        // R7 is broken when it serves before the register says that it may.
        if self.broken_by(Mutation::ServedBeforeActivation) {
            next.node_mut(id).role = Role::Leading(sent, None, reached);
            self.acknowledge(&mut next, id);
        } else {
            next.node_mut(id).role = Role::Activating(sent, reached);
        }
        let name = NAMES[usize::from(id)];
        steps.add(next, || format!("{name} sends: epoch {}, active, {}", sent.epoch, set()));
    }

    /// 6: known, so that commit becomes the end of the log (R11).
    fn learn_activation(
        &self,
        state: &State,
        id: NodeId,
        sent: &Config,
        reached: Reached,
        steps: &mut Steps<State>,
    ) {
        let name = NAMES[usize::from(id)];
        let mut next = *state;
        if state.config.is(sent) {
            self.serve(&mut next, id, state.config, reached);
            steps
                .add(next, || format!("{name} learns its activation, serves epoch {}", sent.epoch));
        } else if state.config.ver >= sent.ver {
            next.node_mut(id).role = Role::Follower;
            steps.add(next, || format!("{name} learns that its activation lost"));
        }
    }

    /// Planned hand-over: it holds the tip, so that it leads at once.
    fn take_what_was_handed_over(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let (node, config) = (state.node(id), state.config);
        let named = !config.claimed && config.leader == id && config.boot == node.boot;
        let tip = node.log.tip();
        let with_bucket = config.set == Set::Bucket;
        // Whoever ejected its follower finds itself named too; it leads already, or no more.
        let is_heir = !with_bucket || config.chain.base() == tip;
        if !named || !is_heir || config.epoch <= node.promised {
            return;
        }
        let mut next = *state;
        next.node_mut(id).promised = config.epoch;
        next.node_mut(id).durable = tip;
        let peer = (!with_bucket).then(|| (tip, config.stores[usize::from(id ^ 1)]));
        let bucket = if with_bucket { tip } else { 0 };
        let reached = Reached { since: config.epoch, peer, bucket };
        self.serve(&mut next, id, config, reached);
        let name = NAMES[usize::from(id)];
        steps.add(next, || format!("{name} takes epoch {}, handed over to it", config.epoch));
    }

    /// Begins to lead: I5 must hold.
    fn serve(&self, state: &mut State, id: NodeId, config: Config, reached: Reached) {
        let acked: Log = state.acked;
        if state.node(id).log.common(&acked) < acked.tip() {
            state.broken.get_or_insert(Invariant::I5);
        }
        state.node_mut(id).role = Role::Leading(config, None, reached);
        self.acknowledge(state, id);
    }
}
