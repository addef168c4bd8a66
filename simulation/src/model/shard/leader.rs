//! What the leader does: append, bring it to the second place, acknowledge, reconfigure (R1, R2,
//! R9).

use super::state::{Append, Chain, Config, Entry, NodeId, POSITIONS, Reached, Role, Set, State};
use super::{Invariant, NAMES, Shard, Steps};
use crate::model::Mutation;

/// Slots that a leader uploads at once.
const UPLOADS_MAX: u8 = 2;

impl Shard {
    /// Steps of a node that leads, or believes so.
    pub(super) fn lead(&self, state: &State, id: NodeId, steps: &mut Steps<State>) {
        let Role::Leading(config, pending, reached) = state.node(id).role else { return };
        let (node, name) = (state.node(id), NAMES[usize::from(id)]);
        let handing_over = pending.is_some_and(|pending| pending.leader != id);
        let room = node.log.tip() < self.bounds.entries.min(POSITIONS as u8);
        if room && !handing_over {
            let mut next = *state;
            next.node_mut(id).log.push(Entry::by(config.epoch, id, node.boot));
            steps.add(next, || format!("{name} appends an entry in epoch {}", config.epoch));
        }
        if node.durable < node.log.tip() {
            let mut next = *state;
            next.node_mut(id).durable = node.log.tip();
            self.acknowledge(&mut next, id);
            steps.add(next, || format!("{name}'s disk has its whole log"));
        }
        self.send(state, id, config.epoch, steps);
        if config.set == Set::Bucket || self.broken_by(Mutation::LeaseDecides) {
            let (epoch, base) = match config.set {
                Set::Bucket => config.chain.last(),
                Set::Pair => (config.epoch, 0),
            };
            self.upload(state, id, (epoch, base), reached, steps);
            self.learn_slot(state, id, (epoch, base), steps);
        }
        match pending {
            None => {
                self.reconfigure(state, id, &config, reached, steps);
                self.notice(state, id, &config, steps);
            }
            Some(sent) => self.learn_reconfiguration(state, id, &sent, steps),
        }
    }

    /// Brings the whole log to the other node; the message before it may be lost to make room.
    pub(super) fn send(&self, state: &State, id: NodeId, epoch: u8, steps: &mut Steps<State>) {
        let (node, name) = (state.node(id), NAMES[usize::from(id)]);
        let append = Append { epoch, log: node.log, commit: node.commit };
        let sent = &state.appends[usize::from(id)];
        if sent.contains(&Some(append)) {
            return;
        }
        for place in 0..self.bounds.messages {
            let mut next = *state;
            next.appends[usize::from(id)][place] = Some(append);
            next.sort();
            steps.add(next, || {
                format!(
                    "{name} sends {} in epoch {epoch}, commit {}",
                    append.log.name(),
                    append.commit
                )
            });
        }
    }

    /// PUTs the next slots of its bucket log.
    pub(super) fn upload(
        &self,
        state: &State,
        id: NodeId,
        (epoch, base): (u8, u8),
        reached: Reached,
        steps: &mut Steps<State>,
    ) {
        let log = &state.node(id).log;
        let last = log.tip().min(reached.bucket + UPLOADS_MAX);
        for position in reached.bucket + 1..=last {
            let slot = usize::from(position - base - 1);
            let wal = state.wal(epoch);
            let over_fence =
                self.broken_by(Mutation::LatePutAccepted) && wal.slots[slot] == Entry::FENCE;
            if wal.data[slot] != Entry::NONE || wal.slots[slot] != Entry::NONE && !over_fence {
                continue;
            }
            let mut next = *state;
            next.wal_mut(epoch).data[slot] = log.at(position);
            let name = NAMES[usize::from(id)];
            steps.add(next, || {
                format!("{name} PUTs slot {epoch}/{slot}: {}", log.at(position).name())
            });
        }
    }

    /// Learns what became of its next slot (R12, R13).
    pub(super) fn learn_slot(
        &self,
        state: &State,
        id: NodeId,
        (epoch, base): (u8, u8),
        steps: &mut Steps<State>,
    ) {
        let (log, name) = (&state.node(id).log, NAMES[usize::from(id)]);
        let mut next = *state;
        let reached = match &mut next.node_mut(id).role {
            Role::Leading(.., reached) | Role::Placing(.., reached) => reached,
            _ => return,
        };
        let ahead = match self.broken_by(Mutation::SlotGapCounts) {
            true => UPLOADS_MAX,
            false => 1,
        };
        for position in reached.bucket + 1..=log.tip().min(reached.bucket + ahead) {
            let slot = usize::from(position - base - 1);
            let found = state.wal(epoch).slots[slot];
            if found == Entry::NONE {
                continue;
            }
            if found == log.at(position) {
                reached.bucket = position;
                self.acknowledge(&mut next, id);
                steps.add(next, || format!("{name} learns that slot {epoch}/{slot} is there"));
            } else {
                next.node_mut(id).role = Role::Follower;
                steps.add(next, || format!("{name} finds the fence in {epoch}/{slot}, steps down"));
            }
            return;
        }
    }

    /// Changes the set, or hands leadership over.
    fn reconfigure(
        &self,
        state: &State,
        id: NodeId,
        config: &Config,
        reached: Reached,
        steps: &mut Steps<State>,
    ) {
        let node = state.node(id);
        let (epoch, other) = (config.epoch + 1, id ^ 1);
        if epoch > self.bounds.epochs {
            return;
        }
        let name = NAMES[usize::from(id)];
        match config.set {
            Set::Pair => {
                let base = match self.broken_by(Mutation::BaseAboveCommit) {
                    true => node.log.tip(),
                    false => node.commit,
                };
                let chain = Chain::of(epoch, base, node.log.at(base));
                let sent = config.activated(epoch, Set::Bucket, chain);
                self.send_reconfiguration(state, id, sent, steps, || {
                    format!("{name} sends: epoch {epoch}, active, {{{name},S3}}, base {base}")
                });
                // The process that is named is one that L talks to, of the store that acknowledged.
                let heir = state.node(other);
                let same_store = config.stores == config.members
                    && heir.store == config.stores[usize::from(other)];
                let holds = self.peer_holds(id, config, reached) == Some(node.log.tip())
                    && node.durable == node.log.tip();
                if self.bounds.handover
                    && same_store
                    && (holds || self.broken_by(Mutation::HandoverEarly))
                {
                    let named = Config { leader: other, boot: heir.boot, ..*config };
                    let sent = named.activated(epoch, Set::Pair, Chain::default());
                    self.send_reconfiguration(state, id, sent, steps, || {
                        format!("{name} sends: epoch {epoch}, active, handed over")
                    });
                    // A process that ends: on with the bucket, whose log begins at the tip.
                    let tip = node.log.tip();
                    let chain = Chain::of(epoch, tip, node.log.at(tip));
                    let sent = named.activated(epoch, Set::Bucket, chain);
                    self.send_reconfiguration(state, id, sent, steps, || {
                        format!("{name} sends: epoch {epoch}, active, handed over with the bucket")
                    });
                }
            }
            Set::Bucket => {
                let upto = self.peer_holds(id, config, reached);
                let holds = upto.is_some_and(|upto| upto >= node.commit);
                if holds || self.broken_by(Mutation::LearnerTooShort) {
                    let sent = config.activated(epoch, Set::Pair, Chain::default());
                    self.send_reconfiguration(state, id, sent, steps, || {
                        format!("{name} sends: epoch {epoch}, active, {{A,B}}")
                    });
                }
            }
        }
    }

    fn send_reconfiguration(
        &self,
        state: &State,
        id: NodeId,
        sent: Config,
        steps: &mut Steps<State>,
        label: impl FnOnce() -> String,
    ) {
        let mut next = *state;
        if !self.swap(&mut next, sent) {
            return;
        }
        if let Role::Leading(_, pending, _) = &mut next.node_mut(id).role {
            *pending = Some(sent);
        }
        steps.add(next, label);
    }

    /// R2: only now is the doubt over.
    fn learn_reconfiguration(
        &self,
        state: &State,
        id: NodeId,
        sent: &Config,
        steps: &mut Steps<State>,
    ) {
        let Role::Leading(config, _, reached) = state.node(id).role else { return };
        let name = NAMES[usize::from(id)];
        let mut next = *state;
        if state.config.is(sent) {
            if sent.leader != id {
                next.node_mut(id).role = Role::Follower;
                return steps.add(next, || format!("{name} learns that it handed over"));
            }
            let bucket = if sent.set == Set::Bucket { sent.chain.base() } else { 0 };
            next.node_mut(id).role =
                Role::Leading(state.config, None, Reached { bucket, ..reached });
            self.acknowledge(&mut next, id);
            return steps
                .add(next, || format!("{name} learns that epoch {} is its own", sent.epoch));
        }
        if state.config.ver < sent.ver {
            return;
        }
        // Somebody else's write came first, so that its own can never apply any more.
        if self.broken_by(Mutation::DeposedGoesOn) {
            next.node_mut(id).role = Role::Leading(config, None, reached);
            steps.add(next, || format!("{name} learns that it lost and goes on"));
        } else if state.config.is(&config) {
            self.adopt(&mut next, id, reached);
            steps.add(next, || format!("{name} learns that an operator was faster, goes on"));
        } else {
            next.node_mut(id).role = Role::Follower;
            steps.add(next, || format!("{name} learns that it lost, steps down"));
        }
    }

    /// R9, by reading the register.
    fn notice(&self, state: &State, id: NodeId, config: &Config, steps: &mut Steps<State>) {
        let Role::Leading(.., reached) = state.node(id).role else { return };
        let name = NAMES[usize::from(id)];
        let mut next = *state;
        if state.config.ver == config.ver || self.broken_by(Mutation::DeposedGoesOn) {
            return;
        }
        if state.config.is(config) {
            self.adopt(&mut next, id, reached);
            steps.add(next, || format!("{name} reads that the members changed"));
        } else {
            next.node_mut(id).role = Role::Follower;
            steps.add(next, || format!("{name} reads that it is deposed"));
        }
    }

    /// Same epoch, same leader: only the members can differ, and nothing ends.
    fn adopt(&self, state: &mut State, id: NodeId, reached: Reached) {
        state.node_mut(id).role = Role::Leading(state.config, None, reached);
        self.acknowledge(state, id);
    }

    /// What the store that counts acknowledged: the one that the set names, or that is to enter it.
    pub(super) fn peer_holds(&self, id: NodeId, config: &Config, reached: Reached) -> Option<u8> {
        let other = usize::from(id ^ 1);
        let stores = if config.set == Set::Pair { config.stores } else { config.members };
        match self.broken_by(Mutation::WipedCounts) {
            true => reached.peer.map(|(upto, _)| upto),
            false => reached.peer(stores[other]),
        }
    }

    /// R1, R2: acknowledges (and shows) what both places of the set are known to hold.
    pub(super) fn acknowledge(&self, state: &mut State, id: NodeId) {
        let Role::Leading(config, pending, reached) = state.node(id).role else { return };
        let limit = self.limit(state, id, &config, pending, reached);
        while state.node(id).commit < limit {
            let position = state.node(id).commit + 1;
            let entry = state.node(id).log.at(position);
            if position > state.acked.tip() {
                state.acked.push(entry);
            } else if state.acked.at(position) != entry {
                state.broken.get_or_insert(Invariant::I8);
                return;
            }
            if !self.in_two_places(state, id, &config, position) {
                state.broken.get_or_insert(Invariant::I6);
            }
            let node = state.node_mut(id);
            node.commit = position;
            node.exposed = node.exposed.max(position);
        }
    }

    fn limit(
        &self,
        state: &State,
        id: NodeId,
        config: &Config,
        pending: Option<Config>,
        reached: Reached,
    ) -> u8 {
        let node = state.node(id);
        let own = match self.broken_by(Mutation::AckBeforeDurable) {
            true => node.log.tip(),
            false => node.durable,
        };
        // In the joint phase the new set is {L,F} of the members, which is who counts already.
        let pair = own.min(self.peer_holds(id, config, reached).unwrap_or(0));
        let bucket = own.min(reached.bucket);
        let in_doubt = self.broken_by(Mutation::AckInDoubt);
        match (config.set, pending) {
            (Set::Pair, None) if self.broken_by(Mutation::LeaseDecides) => pair.max(bucket),
            (Set::Pair, None) => pair,
            (Set::Bucket, None) => bucket,
            // Handing over: everything was acknowledged before, by the same two nodes.
            (Set::Pair, Some(sent)) if sent.leader != id || in_doubt => pair,
            // The new set's slots cannot exist before it is known: frozen.
            (Set::Pair, Some(_)) => 0,
            (Set::Bucket, Some(_)) if in_doubt => bucket,
            (Set::Bucket, Some(_)) if self.broken_by(Mutation::JointSkipped) => pair,
            (Set::Bucket, Some(_)) => pair.min(bucket),
        }
    }
}
