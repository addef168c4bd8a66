//! One shard: two nodes, a bucket and a network that loses, repeats and reorders.
//!
//! ```text
//!            claim        promise      seal, recover    place           activate
//! Follower ─────────► Claiming ──► Sealing ─────────► Placing ───────► Activating ──► Leading
//!    ▲ lost, deposed, crashed: from everywhere            └ bucket slots, or the peer     │
//!    └─────────────────────────────────────────────────────────────────────────────────-──┘
//! leader     appends, R1, R2, reconfigurations     takeover    §3 "take-over", hand-over
//! follower   R6, R9, R10, crash, lost disk         bucket      register, slots, fences, R14
//! invariants replication.md §7                     state       what there is, as small numbers
//! ```
//! Steps are named in the words of replication.md. Messages may be lost, repeated and reordered
//! (the last one or two of each kind stay and may arrive at any time); requests to the bucket are
//! carried out at any later time, also when their sender is dead; a crash keeps any part of what
//! wasn't durable. One slot holds one entry, which is the finest a round can be; a whole log goes
//! into one message, which is all a catch-up can come to. Nothing is timed: whoever may claim,
//! suspect or reconfigure may do so at any moment, which covers every setting of R16 and R17.
//! States that differ only in the names of A and B count once.
//!
//! Deliberately absent: damaged logs, a register that loses or forgets, feature levels, R3.

mod bucket;
mod follower;
mod invariants;
mod leader;
pub mod state;
mod takeover;

use state::{Chain, Config, Log, Node, Reached, Role, Set, State, Wal};

use super::Mutation;
use super::explorer::{Broken, Model, Steps};
use super::seen::Print;

/// Names of the two nodes.
const NAMES: [&str; 2] = ["A", "B"];

/// How much may happen.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest log.
    pub entries: u8,
    /// Highest epoch; the first is 1.
    pub epochs: u8,
    /// Crashes of both nodes together.
    pub crashes: u8,
    /// Disks lost.
    pub wipes: u8,
    /// Appends of one node on their way, 1 or 2.
    pub messages: usize,
    /// Planned hand-overs happen.
    pub handover: bool,
    /// The bucket is collected.
    pub collect: bool,
    /// Set that it starts with.
    pub start: Set,
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Shard {
    /// How much may happen.
    pub bounds: Bounds,
    /// The rule that is broken.
    pub mutation: Option<Mutation>,
}

/// What must hold; numbers of replication.md §7.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Invariant {
    /// One leader an epoch.
    I1,
    /// Log matching.
    I2,
    /// The active set is complete.
    I4,
    /// A leader has everything.
    I5,
    /// Two places.
    I6,
    /// Exposed is final.
    I7,
    /// One entry per position.
    I8,
    /// Linearizable reads are.
    I11,
    /// No cut.
    I12,
    /// Chain without hole.
    I15,
    /// A short log never claims.
    I19,
}

impl Invariant {
    fn broken(self) -> Broken {
        let (invariant, what) = match self {
            Self::I1 => ("I1", "two processes lead one epoch"),
            Self::I2 => ("I2", "logs differ where epoch or entry are the same"),
            Self::I4 => ("I4", "a place of the active set lacks an acknowledged entry"),
            Self::I5 => ("I5", "a leader begins without an acknowledged entry"),
            Self::I6 => ("I6", "acknowledged, but not in two places"),
            Self::I7 => ("I7", "a node showed what is no longer, or never was, acknowledged"),
            Self::I8 => ("I8", "two different entries acknowledged at one position"),
            Self::I11 => ("I11", "a read counts as proven and misses an acknowledged entry"),
            Self::I12 => ("I12", "a cut below what was exposed"),
            Self::I15 => ("I15", "a hole in the bucket logs"),
            Self::I19 => ("I19", "a log shorter than the base claims"),
        };
        Broken { invariant, what }
    }
}

impl Shard {
    fn broken_by(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl Model for Shard {
    type State = State;

    fn initial(&self) -> State {
        let mut config = Config {
            ver: 1,
            epoch: 1,
            claimed: false,
            leader: 0,
            boot: 0,
            members: [0; 2],
            active_leader: 0,
            set: self.bounds.start,
            stores: [0; 2],
            chain: Chain::default(),
        };
        if config.set == Set::Bucket {
            config.chain = Chain::of(1, 0, state::Entry::NONE);
        }
        let node = |role| Node {
            log: Log::default(),
            durable: 0,
            promised: 1,
            reconciled: 1,
            commit: 0,
            exposed: 0,
            boot: 0,
            store: 0,
            role,
        };
        let reached = Reached { since: 1, peer: None, bucket: 0 };
        State {
            nodes: [node(Role::Leading(config, None, reached)), node(Role::Follower)],
            config,
            swaps: [None; state::SWAPS],
            wals: [Wal::default(); state::EPOCHS],
            appends: [[None; 2]; 2],
            acks: [None; 2],
            acked: Log::default(),
            broken: None,
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for id in 0..2 {
            self.lead(state, id, steps);
            self.take_over(state, id, steps);
            self.receive(state, id, steps);
            self.crash(state, id, steps);
            self.replace(state, id, steps);
            self.collect(state, id, steps);
        }
        self.bucket(state, steps);
    }

    fn broken(&self, state: &State) -> Option<Broken> {
        self.first_broken(state).map(Invariant::broken)
    }

    /// A and B may change places.
    fn print(&self, state: &State) -> Print {
        Print::of(state).min(Print::of(&state.mirrored()))
    }
}
