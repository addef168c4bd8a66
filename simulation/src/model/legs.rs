//! Writes over several shards: replication.md §6 on top of what the one-shard protocol guarantees.
//!
//! ```text
//! client ── T{x,y} ──► reserve x, y ──► leg ──► shard 0   committed ┐
//!                                      leg ──► shard 1   committed ┴► decided: seen, answered
//!                                                                      └─► Resolve in each shard
//! claim ─► logs to the other node, shard by shard ─► activation decides every open leg ─► Resolve
//!
//! coordinator  what a leader does for clients      replica     what the one-shard protocol gives
//! view         what a node concludes and shows     invariants  replication.md §7
//! ```
//! Two nodes, two or three shards, each with one aggregate that everybody wants (and another, to
//! see that it does not wait). Shipping, committing and learning are not atomic over shards,
//! crashes come between any two steps, a deposed leader goes on until it notices, clients send
//! again.
//! The bucket as second place is left out: to this rule it is a peer's log that is read later.
//! States that differ only in the names of A and B count once.
//!
//! Deliberately absent: several aggregates a leg, bounds of queues, refusals that wait (R3).

mod coordinator;
mod invariants;
mod replica;
pub mod scenarios;
pub mod state;
mod view;

use scenarios::Scenario;
use state::{Kind, Log, Node, Record, Role, SHARDS, State, TXNS};

use super::Mutation;
use super::explorer::{Broken, Model, Steps};
use super::seen::Print;

/// Names of the two nodes.
const NAMES: [&str; 2] = ["A", "B"];

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Legs {
    /// What clients do and how much may happen.
    pub scenario: Scenario,
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
}

/// What must not happen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Fault {
    /// I12
    Cut,
    /// I10
    Contradiction,
    /// I8
    BothWays,
    /// I7
    Vanished,
    /// I20
    Missed,
    /// I9
    Twice,
    /// I9
    Receipt,
    /// I10
    Half,
    /// I10
    Replay,
    /// I13
    Stuck,
}

impl Fault {
    fn broken(self) -> Broken {
        let (invariant, what) = match self {
            Self::Cut => ("I12", "a cut below what was committed there"),
            Self::Contradiction => ("I10", "a Resolve contradicts the legs of the activated log"),
            Self::BothWays => ("I8", "one client was told that it is written, another that not"),
            Self::Vanished => ("I7", "what was seen or acknowledged is not there any more"),
            Self::Missed => ("I20", "a watcher's cursor passed what became visible later"),
            Self::Twice => ("I9", "one request was written twice"),
            Self::Receipt => ("I9", "a retry got another receipt"),
            Self::Half => ("I10", "half of a write is visible"),
            Self::Replay => ("I10", "versions or guards do not follow from the visible log"),
            Self::Stuck => ("I13", "nothing can happen any more and something is not finished"),
        };
        Broken { invariant, what }
    }
}

impl Legs {
    fn broken_by(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Model for Legs {
    type State = State;

    fn initial(&self) -> State {
        let node = Node {
            logs: [Log::default(); SHARDS],
            durable: [0; SHARDS],
            commit: [0; SHARDS],
            role: Role::Follower,
            reserved: [0; TXNS],
            mine: 0,
            outcome: [None; TXNS],
            legs_gone: [0; SHARDS],
            resolves_gone: [0; SHARDS],
        };
        State {
            nodes: [Node { role: Role::Leading, ..node }, node],
            leader: 0,
            claimed: None,
            crashes: self.scenario.crashes,
            claims: self.scenario.claims,
            sent: (0, 0),
            refused: 0,
            seen: 0,
            seen_writes: 0,
            acked: 0,
            told_abort: 0,
            aborted: 0,
            passed: 0,
            receipts: [0; TXNS],
            broken: None,
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for id in 0..2 {
            self.crash(state, id, steps);
            self.claim(state, id, steps);
            self.step_down(state, id, steps);
            self.replicate(state, id, steps);
            match state.nodes[id].role {
                Role::Follower => self.follow(state, id, steps),
                Role::Claimed => {
                    self.resolve(state, id, steps);
                    self.activate(state, id, steps);
                }
                Role::Leading => {
                    self.write(state, id, steps);
                    self.reserve_and_append(state, id, steps);
                    self.resolve(state, id, steps);
                    self.answer(state, id, steps);
                    self.compact(state, id, steps);
                }
            }
        }
        steps.for_each(|next| self.remember(next));
    }

    fn broken(&self, state: &State) -> Option<Broken> {
        self.first_broken(state).map(Fault::broken)
    }

    fn stuck(&self, state: &State) -> Option<Broken> {
        self.unfinished(state).then(|| Fault::Stuck.broken())
    }

    /// A and B may change places.
    fn print(&self, state: &State) -> Print {
        Print::of(state).min(Print::of(&state.mirrored()))
    }
}
