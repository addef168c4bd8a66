//! The decisions of a coordinator: a state machine without I/O, clock or randomness.
//!
//! ```text
//!           all held                     all committed
//! Trying ─────────────► Appending ─────────────────────► decided: flag, answer, Settle to all
//!   │ one busy              ▲
//!   ▼                       │ all held
//! Ordered (ascending) ──────┘
//!   │ refused, here or there
//!   ▼
//! Checking the rest without holds ──► Refuse, naming every conflict
//! ```
//!
//! The router has sent the first round of `Reserve { Try }` itself, in the order in which requests
//! arrived, so that a connection's later requests for the same aggregates queue behind it.

use std::sync::Arc;

use celeriant_schema::{
    AggregateKey, AggregateReceipt, ListPage, Receipt, Refusal, Response, ShardId, Stamp, TxnId,
};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::clock::Micros;
use crate::shard::sequenced;
use crate::verdict::{Findings, Verdict, judge, places};
use crate::work::{Answer, AnswerKind, Decision, Mode, Part, Step};

/// Something new to coordinate; its first steps are on their way to the shards already.
#[derive(Debug)]
pub enum Begin<R> {
    /// A write over several shards.
    Write {
        /// The attempt.
        txn: TxnId,
        /// The way back to the client.
        route: R,
        /// After this nobody waits.
        deadline: Option<Micros>,
        /// All aggregates with events, in the request's order.
        order: Vec<AggregateKey>,
        /// The parts, by ascending shard.
        parts: Vec<(ShardId, Arc<Part>)>,
    },
    /// A listing, asked of every shard.
    List {
        /// Its number.
        gather: u64,
        /// The way back to the client.
        route: R,
        /// Most names wanted.
        limit: usize,
        /// How many shards were asked.
        shards: usize,
    },
}

/// What the shell must do.
#[derive(Debug)]
pub enum Effect<R> {
    /// Tell a shard.
    Step(ShardId, Step),
    /// Answer a client.
    Reply(R, Response),
    /// Refuse a client because of what the shards found, if a lease proves that they are the
    /// leader's and nothing is newer (R5); else nothing is known, and the leader is to be asked.
    Refuse(R, Refusal),
}

/// One coordinator.
#[derive(Debug)]
pub struct Core<R> {
    index: usize,
    writes: HashMap<TxnId, InFlight<R>, FixedState>,
    lists: HashMap<u64, Gathering<R>, FixedState>,
}

#[derive(Debug)]
struct InFlight<R> {
    route: R,
    deadline: Option<Micros>,
    order: Vec<AggregateKey>,
    parts: Vec<PartState>,
    phase: Phase,
    findings: Findings,
    refusal: Option<Refusal>,
    decision: Decision,
    receipts: Vec<AggregateReceipt>,
    stamp: Stamp,
}

#[derive(Debug)]
struct PartState {
    shard: ShardId,
    part: Arc<Part>,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Not asked in this phase.
    Idle,
    /// Asked; the answer is on its way.
    Asked,
    Held,
    Busy,
    /// Answered with findings; nothing is held.
    Found,
    /// Cannot take its part; nothing is held.
    Refused,
    Committed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Trying,
    Ordered,
    Checking,
    Appending,
}

#[derive(Debug)]
struct Gathering<R> {
    route: R,
    limit: usize,
    remaining: usize,
    names: Vec<String>,
    more: bool,
}

impl<R> Core<R> {
    /// Coordinator number `index`; shards answer to that number.
    pub fn new(index: usize) -> Self {
        Self {
            index,
            writes: HashMap::with_hasher(FixedState::default()),
            lists: HashMap::with_hasher(FixedState::default()),
        }
    }

    /// Nothing is being coordinated.
    pub fn is_quiet(&self) -> bool {
        self.writes.is_empty() && self.lists.is_empty()
    }

    /// Takes charge of something whose first steps have been sent.
    pub fn begin(&mut self, begin: Begin<R>) {
        match begin {
            Begin::Write { txn, route, deadline, order, parts } => {
                assert!(
                    parts.is_sorted_by_key(|(shard, _)| *shard),
                    "{txn}: ascending, or deadlock"
                );
                let asked = |(shard, part)| PartState { shard, part, state: State::Asked };
                let write = InFlight {
                    route,
                    deadline,
                    order,
                    parts: parts.into_iter().map(asked).collect(),
                    phase: Phase::Trying,
                    findings: Findings::default(),
                    refusal: None,
                    decision: Decision::default(),
                    receipts: Vec::new(),
                    stamp: Stamp::ZERO,
                };
                let before = self.writes.insert(txn, write);
                assert!(before.is_none(), "{txn} is used twice");
            }
            Begin::List { gather, route, limit, shards } => {
                let names = Vec::new();
                let gathering = Gathering { route, limit, remaining: shards, names, more: false };
                self.lists.insert(gather, gathering);
            }
        }
    }

    /// Takes what a shard says.
    pub fn handle(&mut self, now: Micros, answer: Answer, effects: &mut Vec<Effect<R>>) {
        let shard = answer.shard;
        let (txn, state, findings) = match answer.kind {
            AnswerKind::Listed { gather, page } => return self.gather(gather, page, effects),
            AnswerKind::StoppedLeading => return self.abandon(shard, effects),
            AnswerKind::Committed { txn, receipts, stamp } => {
                return self.committed(txn, shard, receipts, stamp, effects);
            }
            AnswerKind::Held { txn } => (txn, State::Held, None),
            AnswerKind::Busy { txn } => (txn, State::Busy, None),
            AnswerKind::Refused { txn, refusal } => {
                if let Some(write) = self.writes.get_mut(&txn) {
                    write.refusal.get_or_insert(refusal);
                }
                (txn, State::Refused, None)
            }
            AnswerKind::Found { txn, findings } => (txn, State::Found, Some(findings)),
        };
        // A write waits for every answer before it ends, unless a shard has stopped leading.
        let Some(write) = self.writes.get_mut(&txn) else { return };
        write.set(shard, State::Asked, state);
        if let Some(findings) = findings {
            write.findings.merge(findings);
        }
        self.advance(now, txn, effects);
    }

    /// Goes on when every part that was asked has answered.
    fn advance(&mut self, now: Micros, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        let Some(write) = self.writes.get_mut(&txn) else { return };
        if write.any(State::Asked) {
            return;
        }
        if write.deadline.is_some_and(|deadline| now >= deadline) {
            let refusal = Refusal::DeadlineExceeded { definite: true };
            return self.refuse(txn, refusal, effects);
        }
        match write.refusal.take() {
            None => {}
            // It rests on what the shard knows of schemas.
            Some(refusal @ Refusal::SchemaViolation { .. }) => {
                return self.end(txn, effects, |route| Effect::Refuse(route, refusal));
            }
            Some(refusal) => return self.refuse(txn, refusal, effects),
        }
        match write.phase {
            _ if write.parts.iter().all(|part| part.state == State::Held) => {
                write.append(txn, effects);
            }
            Phase::Trying if write.any(State::Busy) => {
                // Under contention: let go of everything and take the shards in ascending order, so
                // that two writes never wait for each other.
                write.release_held(txn, effects);
                write.restart(Phase::Ordered);
                write.ask_next(txn, self.index, effects);
            }
            Phase::Ordered if !write.any(State::Found) => {
                write.ask_next(txn, self.index, effects);
            }
            Phase::Ordered => {
                write.release_held(txn, effects);
                write.phase = Phase::Checking;
                write.ask_rest(txn, self.index, effects);
                self.advance(now, txn, effects);
            }
            Phase::Trying | Phase::Checking => self.conclude(txn, effects),
            Phase::Appending => {}
        }
    }

    /// Every shard has said what it found, and something speaks against the write.
    fn conclude(&mut self, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        let Some(write) = self.writes.get_mut(&txn) else { return };
        let findings = std::mem::take(&mut write.findings);
        // Also those that a shard holds and has found nothing about.
        let sequenced = write.parts.iter().map(|it| sequenced(&it.part.members)).sum();
        match judge(findings, write.order.iter(), sequenced) {
            Verdict::Refuse(refusal) => {
                self.end(txn, effects, |route| Effect::Refuse(route, refusal));
            }
            Verdict::Landed(receipt) => {
                self.end(txn, effects, |route| Effect::Reply(route, Response::Receipt(receipt)));
            }
            Verdict::Accept => unreachable!("{txn}: a shard that does not hold has findings"),
        }
    }

    fn refuse(&mut self, txn: TxnId, refusal: Refusal, effects: &mut Vec<Effect<R>>) {
        self.end(txn, effects, |route| Effect::Reply(route, Response::Refused(refusal)));
    }

    /// Ends a write that appended nothing.
    fn end(
        &mut self,
        txn: TxnId,
        effects: &mut Vec<Effect<R>>,
        answer: impl FnOnce(R) -> Effect<R>,
    ) {
        let Some(mut write) = self.writes.remove(&txn) else { return };
        write.release_held(txn, effects);
        effects.push(answer(write.route));
    }

    /// One leg is committed. The last one decides the write.
    fn committed(
        &mut self,
        txn: TxnId,
        shard: ShardId,
        receipts: Vec<AggregateReceipt>,
        stamp: Stamp,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(write) = self.writes.get_mut(&txn) else { return };
        write.set(shard, State::Held, State::Committed);
        if !receipts.is_empty() {
            // The stamp of a leg that only guards is nobody's event: a retry, answered from what
            // was remembered with the events, could not name it again.
            write.stamp = write.stamp.max(stamp);
        }
        write.receipts.extend(receipts);
        if !write.parts.iter().all(|part| part.state == State::Committed) {
            return;
        }
        let Some(mut write) = self.writes.remove(&txn) else { return };
        write.decision.decide();
        let places = places(write.order.iter());
        write.receipts.sort_by_key(|receipt| places.get(&receipt.key).copied());
        let (stamp, writes) = (write.stamp, write.receipts);
        let receipt = Receipt { stamp, already_applied: false, writes };
        effects.push(Effect::Reply(write.route, Response::Receipt(receipt)));
        for part in &write.parts {
            effects.push(Effect::Step(part.shard, Step::Settle { txn }));
        }
    }

    /// A shard leads no more, and with it goes what it had of every write: those that were being
    /// appended have an unknown outcome, the others have certainly not happened.
    fn abandon(&mut self, shard: ShardId, effects: &mut Vec<Effect<R>>) {
        let has_part = |write: &InFlight<R>| write.parts.iter().any(|part| part.shard == shard);
        let lost = self.writes.iter().filter(|(_, write)| has_part(write));
        let mut lost: Vec<TxnId> = lost.map(|(txn, _)| *txn).collect();
        lost.sort_unstable();
        for txn in lost {
            let phase = self.writes.get(&txn).map(|write| write.phase);
            if phase != Some(Phase::Appending) {
                self.refuse(txn, Refusal::NoLeader, effects);
            } else if let Some(write) = self.writes.remove(&txn) {
                let unknown = Response::Refused(Refusal::UnknownOutcome);
                effects.push(Effect::Reply(write.route, unknown));
            }
        }
    }

    fn gather(&mut self, gather: u64, page: ListPage, effects: &mut Vec<Effect<R>>) {
        let Some(gathering) = self.lists.get_mut(&gather) else { return };
        gathering.names.extend(page.names);
        gathering.more |= page.more;
        gathering.remaining -= 1;
        if gathering.remaining > 0 {
            return;
        }
        let Some(mut done) = self.lists.remove(&gather) else { return };
        // An org or a type lives in many shards; each name is told once.
        done.names.sort_unstable();
        done.names.dedup();
        let more = done.more || done.names.len() > done.limit;
        done.names.truncate(done.limit);
        let page = ListPage { names: done.names, more };
        effects.push(Effect::Reply(done.route, Response::List(page)));
    }
}

impl<R> InFlight<R> {
    fn any(&self, state: State) -> bool {
        self.parts.iter().any(|part| part.state == state)
    }

    fn set(&mut self, shard: ShardId, from: State, to: State) {
        let Some(part) = self.parts.iter_mut().find(|part| part.shard == shard) else {
            unreachable!("shard {shard} answers a write that it has no part in");
        };
        assert_eq!(part.state, from, "shard {shard} answers out of turn with {to:?}");
        part.state = to;
    }

    fn restart(&mut self, phase: Phase) {
        self.phase = phase;
        self.findings = Findings::default();
        self.parts.iter_mut().for_each(|part| part.state = State::Idle);
    }

    fn release_held(&mut self, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        for part in self.parts.iter_mut().filter(|part| part.state == State::Held) {
            effects.push(Effect::Step(part.shard, Step::Release { txn }));
            part.state = State::Idle;
        }
    }

    fn ask_next(&mut self, txn: TxnId, coordinator: usize, effects: &mut Vec<Effect<R>>) {
        let next = self.parts.iter_mut().find(|part| part.state == State::Idle);
        let Some(part) = next else { unreachable!("{txn}: all held was handled before") };
        part.ask(txn, coordinator, Mode::Wait, effects);
    }

    fn ask_rest(&mut self, txn: TxnId, coordinator: usize, effects: &mut Vec<Effect<R>>) {
        for part in self.parts.iter_mut().filter(|part| part.state == State::Idle) {
            part.ask(txn, coordinator, Mode::Check, effects);
        }
    }

    fn append(&mut self, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        self.phase = Phase::Appending;
        let participants: Arc<[ShardId]> = self.parts.iter().map(|part| part.shard).collect();
        for part in &self.parts {
            let participants = Arc::clone(&participants);
            let decision = self.decision.clone();
            effects.push(Effect::Step(part.shard, Step::Append { txn, participants, decision }));
        }
    }
}

impl PartState {
    fn ask<R>(&mut self, txn: TxnId, coordinator: usize, mode: Mode, effects: &mut Vec<Effect<R>>) {
        self.state = State::Asked;
        let part = Arc::clone(&self.part);
        effects.push(Effect::Step(self.shard, Step::Reserve { txn, coordinator, mode, part }));
    }
}

#[cfg(test)]
mod core_test;
