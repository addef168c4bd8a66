//! The decisions of a node's replicator: a state machine without I/O, clock or randomness.
//!
//! Which places an acknowledgement needs is the election's to say ([`Rule`]); what each place holds
//! is known here. A shard is told the minimum, and what it was told stays true (R1).

use std::collections::BTreeMap;

use celeriant_schema::peer::{Durable, Message, NoFrames, Tip};
use celeriant_schema::{Epoch, ShardId};

use super::following::Following;
use super::orders::{Order, Report};
use super::stream::Stream;

/// What commit needs besides the leader's own disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Rule {
    /// Nothing may be acknowledged: not active, or deposed, or in doubt without a second place.
    #[default]
    Nobody,
    /// The follower's.
    Follower,
}

/// What a replicator learns.
#[derive(Debug)]
pub enum Event {
    /// There is a session with the peer.
    Up,
    /// It is over.
    Down,
    /// The peer says something.
    Received(Message),
    /// This node leads, or places its log before it does. Ends of its shards' logs, all of them
    /// durable.
    Lead {
        /// The epoch, durably promised.
        epoch: Epoch,
        /// Version of the register.
        ver: u64,
        /// Ends of all shards.
        tips: Vec<Tip>,
    },
    /// What acknowledgements need from here on.
    Rule(Rule),
    /// This node follows; ends of its shards' logs.
    Follow {
        /// Durably promised.
        promised: Epoch,
        /// Ends of all shards.
        tips: Vec<Tip>,
    },
    /// A higher epoch is durably promised to the peer.
    Promised(Epoch),
    /// One of this node's shards says something.
    Shard(ShardId, Report),
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Tell the peer.
    Send(Message),
    /// Tell a shard of this node.
    Shard(ShardId, Order),
    /// Tell the election what the peer said.
    Election(Message),
    /// The peer speaks in an older epoch than was promised or is led: it does not know that it is
    /// deposed.
    Stale(Epoch),
    /// The follower holds everything that this node has sealed, in the epoch that it leads.
    Complete(Epoch),
}

/// A node's replicator.
#[derive(Debug)]
pub struct Core {
    /// Bytes that may be on their way to the follower.
    window_bytes: usize,
    is_up: bool,
    requests: u64,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Leading(Leading),
    Following(Following),
}

#[derive(Debug)]
struct Leading {
    epoch: Epoch,
    ver: u64,
    rule: Rule,
    streams: BTreeMap<ShardId, Stream>,
    /// Which stream reads next, so that none waits for ever.
    turn: usize,
    was_complete: bool,
    heartbeats: u64,
}

impl Core {
    /// A node that follows, until it is told otherwise. Up to `window_bytes` are on their way at a
    /// time, and one read or frame more.
    pub fn new(window_bytes: usize, promised: Epoch, tips: Vec<Tip>) -> Self {
        let role = Role::Following(Following::new(promised, tips));
        Self { window_bytes, is_up: false, requests: 0, role }
    }

    /// Takes one event and says what must happen.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        self.apply(event, effects);
        if !self.is_up {
            // Answers to a peer that is gone: in the next session it asks again.
            effects.retain(|effect| !matches!(effect, Effect::Send(_)));
        }
    }

    fn apply(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Up => {
                self.is_up = true;
                match &mut self.role {
                    Role::Leading(leading) => effects.push(Effect::Send(leading.promise())),
                    Role::Following(following) => following.session_changes(),
                }
            }
            Event::Down => {
                self.is_up = false;
                match &mut self.role {
                    Role::Leading(leading) => {
                        leading.streams.values_mut().for_each(Stream::reset);
                        leading.was_complete = false;
                    }
                    Role::Following(following) => following.session_changes(),
                }
            }
            Event::Lead { epoch, ver, tips } => self.lead(epoch, ver, tips, effects),
            Event::Rule(rule) => {
                if let Role::Leading(leading) = &mut self.role {
                    leading.rule = rule;
                    leading.tell_all_held(effects);
                }
            }
            Event::Follow { promised, tips } => {
                self.role = Role::Following(Following::new(promised, tips));
            }
            Event::Promised(epoch) => {
                if let Role::Following(following) = &mut self.role {
                    following.promise(epoch, effects);
                }
            }
            Event::Received(message) => self.receive(message, effects),
            Event::Shard(shard, report) => self.report(shard, report, effects),
        }
    }

    /// Nothing more has arrived: acknowledges, and sends what there is room for. Several events are
    /// handled before, so that what belongs together travels together.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Following(following) if self.is_up => following.acknowledge(effects),
            Role::Leading(leading) if self.is_up => {
                leading.catch_up(self.window_bytes, effects);
                let is_complete = leading.streams.values().all(Stream::is_complete);
                if is_complete && !leading.was_complete {
                    effects.push(Effect::Complete(leading.epoch));
                }
                leading.was_complete = is_complete;
            }
            _ => {}
        }
        self.assert_invariants();
    }

    /// Time for a heartbeat: what is committed, and that the leader lives. Returns its number.
    pub fn heartbeat(&mut self, effects: &mut Vec<Effect>) -> Option<u64> {
        let Role::Leading(leading) = &mut self.role else { return None };
        if !self.is_up {
            return None;
        }
        leading.heartbeats += 1;
        let shards = leading.streams.values_mut().filter_map(Stream::take_news).collect();
        let (number, epoch, ver) = (leading.heartbeats, leading.epoch, leading.ver);
        effects.push(Effect::Send(Message::Heartbeat { number, epoch, ver, shards }));
        Some(number)
    }

    fn lead(&mut self, epoch: Epoch, ver: u64, tips: Vec<Tip>, effects: &mut Vec<Effect>) {
        let stream = |tip: Tip| (tip.shard, Stream::new(tip.shard, epoch, tip.durable));
        let leading = Leading {
            epoch,
            ver,
            rule: Rule::Nobody,
            streams: tips.into_iter().map(stream).collect(),
            turn: 0,
            was_complete: false,
            heartbeats: 0,
        };
        effects.push(Effect::Send(leading.promise()));
        self.role = Role::Leading(leading);
    }

    fn receive(&mut self, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Locate { request, shard, lsn } => {
                effects.push(Effect::Shard(shard, Order::Locate { request, lsn }));
            }
            // Full copies and repair come later; an honest no keeps the peer from waiting.
            Message::Fetch { request, .. } => {
                effects.push(Effect::Send(Message::NoFrames { request, why: NoFrames::Busy }));
            }
            message => match &mut self.role {
                Role::Leading(leading) => leading.receive(message, &mut self.requests, effects),
                Role::Following(following) => following.receive(message, effects),
            },
        }
    }

    fn report(&mut self, shard: ShardId, report: Report, effects: &mut Vec<Effect>) {
        match (&mut self.role, report) {
            (_, Report::Located { request, frame }) => {
                effects.push(Effect::Send(Message::Located { request, shard, frame }));
            }
            (_, Report::Quarantined(reason)) => {
                effects.push(Effect::Send(Message::Quarantined { shard, reason }));
            }
            (Role::Leading(leading), report) => {
                leading.report(shard, report, self.window_bytes, effects);
            }
            (Role::Following(following), Report::Promised { epoch, tip }) => {
                following.promised(epoch, tip, effects);
            }
            (Role::Following(following), Report::Refused { epoch, tip }) => {
                following.refused(epoch, tip, effects);
            }
            (Role::Following(following), Report::Durable { epoch, tip }) => {
                following.durable(epoch, tip);
            }
            (Role::Following(following), Report::Cut { request, epoch, tip }) => {
                following.cut_done(request, epoch, tip, effects);
            }
            // Of a role that it had before.
            (Role::Following(_), _) => {}
        }
    }

    fn assert_invariants(&self) {
        let Role::Leading(leading) = &self.role else { return };
        let in_flight = leading.in_flight_bytes();
        assert!(
            self.is_up || in_flight == 0,
            "{in_flight} bytes are on their way without a session"
        );
    }
}

impl Leading {
    fn promise(&self) -> Message {
        Message::Promise { epoch: self.epoch, ver: self.ver }
    }

    fn receive(&mut self, message: Message, requests: &mut u64, effects: &mut Vec<Effect>) {
        match message {
            Message::Promised { epoch, tips } => {
                for tip in tips.iter().filter(|_| epoch == self.epoch) {
                    if let Some(stream) = self.streams.get_mut(&tip.shard) {
                        *requests += 1;
                        stream.compare(tip, *requests, effects);
                    }
                }
                effects.push(Effect::Election(Message::Promised { epoch, tips }));
            }
            Message::Ack { epoch, durable } if epoch == self.epoch => {
                self.acknowledged(&durable, effects);
            }
            Message::Located { request, shard, frame } => {
                if let Some(stream) = self.streams.get_mut(&shard) {
                    stream.located(request, frame, effects);
                }
            }
            Message::CutDone { request, tip } => {
                if let Some(stream) = self.streams.get_mut(&tip.shard) {
                    stream.cut_done(request, &tip);
                    self.tell_held(tip.shard, effects);
                }
            }
            Message::Append { epoch, .. } | Message::Cut { epoch, .. } if epoch < self.epoch => {
                effects.push(Effect::Stale(epoch));
            }
            // Of another term of this session; a promise settles who leads.
            Message::Append { .. } | Message::Cut { .. } | Message::Ack { .. } => {}
            message => effects.push(Effect::Election(message)),
        }
    }

    fn in_flight_bytes(&self) -> usize {
        self.streams.values().map(Stream::in_flight_bytes).sum()
    }

    fn report(
        &mut self,
        shard: ShardId,
        report: Report,
        window_bytes: usize,
        effects: &mut Vec<Effect>,
    ) {
        let has_room = self.in_flight_bytes() < window_bytes;
        let Some(stream) = self.streams.get_mut(&shard) else { return };
        match report {
            Report::Sealed(frame) => {
                self.was_complete = false;
                stream.sealed(frame, has_room, effects);
            }
            Report::Committed { commit, closed } => stream.committed(commit, closed),
            Report::Read(frames) => stream.read(frames, effects),
            Report::Found { request, frame } => stream.found(request, frame, effects),
            // Of a role that it had before.
            _ => {}
        }
    }

    fn acknowledged(&mut self, durable: &[Durable], effects: &mut Vec<Effect>) {
        for Durable { shard, position } in durable {
            let Some(stream) = self.streams.get_mut(shard) else { continue };
            stream.acknowledged(*position);
            self.tell_held(*shard, effects);
        }
    }

    /// Lets those that are behind read, in turn, while the window has room.
    fn catch_up(&mut self, window_bytes: usize, effects: &mut Vec<Effect>) {
        let count = self.streams.len().max(1);
        for step in 0..count {
            if self.in_flight_bytes() >= window_bytes {
                return;
            }
            let at = (self.turn + step) % count;
            if let Some(stream) = self.streams.values_mut().nth(at) {
                stream.catch_up(effects);
            }
        }
        self.turn = (self.turn + 1) % count;
    }

    fn tell_held(&self, shard: ShardId, effects: &mut Vec<Effect>) {
        if let (Rule::Follower, Some(stream)) = (self.rule, self.streams.get(&shard)) {
            effects.push(Effect::Shard(shard, Order::Held(stream.held().lsn)));
        }
    }

    fn tell_all_held(&self, effects: &mut Vec<Effect>) {
        self.streams.keys().for_each(|shard| self.tell_held(*shard, effects));
    }
}

#[cfg(test)]
mod core_test;
