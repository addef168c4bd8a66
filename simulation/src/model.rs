//! The replication protocol as models whose every state is visited.
mod explorer;
mod seen;
pub mod shard;
pub use explorer::*;

/// A rule of replication.md, broken on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum Mutation { NoPromise, PromiseForgotten, NoFence, FenceCollected, SlotsCollectedEarly, LatePutAccepted, SlotGapCounts, LeaseDecides, AckInDoubt, JointSkipped, LearnerTooShort, AckBeforeDurable, FollowerAcksBeforeDurable, CutTooLow, SlotsIgnored, EpochReused, ActivatedBeforePlaced, ServedBeforeActivation, SwapUnconditional, LongerLogKept, HashIgnored, WipedCounts, WipedClaims, HandoverEarly, BaseAboveCommit, ReadUnproven, DeposedGoesOn }
