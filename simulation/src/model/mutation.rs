//! Every rule of the protocol, broken on purpose, one at a time.
//!
//! A model that cannot find a planted mistake proves nothing. Each mutation names the rule that it
//! breaks and the smallest run in which the counterexample is known to be.

use clap::ValueEnum;

use super::Run;
use super::legs::scenarios::Scenario;
use super::shard::Bounds;
use super::shard::state::Set;

/// A rule of replication.md, broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mutation {
    /// R6: a place that promised goes on acknowledging lower epochs.
    NoPromise,
    /// R6: the promise does not survive a crash.
    PromiseForgotten,
    /// R13: recovers from the slots that are there, without a fence.
    NoFence,
    /// R14: a fence is deleted with its slots.
    FenceCollected,
    /// R14: slots are deleted while the chain still needs them.
    SlotsCollectedEarly,
    /// R12: a PUT that comes after the fence replaces it.
    LatePutAccepted,
    /// R12: a slot counts while one below it is missing.
    SlotGapCounts,
    /// R1: a timer that ran out stands in for the register; acknowledged over {L,S3} without a CAS.
    LeaseDecides,
    /// R2: acknowledged by the old set alone while a reconfiguration is in doubt.
    AckInDoubt,
    /// R2: acknowledged by the new set alone while the follower's return is in doubt.
    JointSkipped,
    /// §3: the follower returns to the set without holding what is committed.
    LearnerTooShort,
    /// R1: acknowledged before the leader's own disk has it.
    AckBeforeDurable,
    /// R1: a follower acknowledges before its disk has it.
    FollowerAcksBeforeDurable,
    /// R10: the follower cuts to the leader's commit position instead of the common beginning.
    CutTooLow,
    /// §3: a take-over from {Y,S3} keeps its own log and does not read the slots.
    SlotsIgnored,
    /// R8: a restarted process goes on in its epoch.
    EpochReused,
    /// R7: activated with the bucket before the log is there.
    ActivatedBeforePlaced,
    /// R7: serves before the activation is known.
    ServedBeforeActivation,
    /// §1: the register is written without `If-Match`.
    SwapUnconditional,
    /// R10: who promised an epoch counts as one that compared its log in it.
    PromiseIsContact,
    /// R10: a log longer than the leader's is kept on first contact.
    LongerLogKept,
    /// R10: what overlaps is acknowledged without a look at hashes.
    HashIgnored,
    /// §1: what a store acknowledged or promised counts for the store that came after it.
    WipedCounts,
    /// §3: a store that lost its disk claims.
    WipedClaims,
    /// §3: handed over to a follower that lacks the tip.
    HandoverEarly,
    /// §3: base is the tip instead of the commit position.
    BaseAboveCommit,
    /// R5: a leader answers linearizable reads without proof.
    ReadUnproven,
    /// R9: a leader whose CAS lost goes on.
    DeposedGoesOn,
    /// §6: answered when the first leg is committed.
    AckAtFirstLeg,
    /// §6: each leg is visible as soon as it is committed in its shard.
    LegVisibleAlone,
    /// §6 (F2): each leg becomes visible at its Resolve.
    VisibleAtResolve,
    /// §6 (F1): a claimant writes Resolves before its activation.
    SettledBeforeActivation,
    /// §6 (F3): feeds pass an undecided leg.
    FeedPassesUndecided,
    /// §6 (F4): the second attempt has the id of the first.
    TxnReused,
    /// §6 (F5): a shard that is only guarded has no leg.
    GuardWithoutLeg,
    /// §6 (F6): Resolves are compacted while their legs are still there.
    ResolveCompactedFirst,
    /// §6: abort is answered at the claim.
    AbortToldAtClaim,
    /// §6: a write is admitted on an aggregate that is held.
    WriteOnHeld,
    /// §6: an aggregate is let go when its own leg is committed.
    HoldReleasedEarly,
    /// §6: Resolves are written when all legs are appended, not committed.
    ResolvedBeforeCommitted,
    /// §6: a leg is compacted at its own Resolve, not at all of them.
    LegCompactedEarly,
    /// §6: activated when one shard's log is at the other node.
    OneShardActivated,
    /// §6: reserved in any order of shards.
    ReservedUnordered,
    /// I9: a retry's receipt is computed from the present.
    ReceiptRecomputed,
    /// §6: a follower shows what follows an undecided leg on its aggregate.
    ShownPastUndecided,
}

/// Small enough that most counterexamples are found among some thousands of states.
const SMALL: Bounds = Bounds {
    entries: 1,
    epochs: 3,
    crashes: 0,
    wipes: 0,
    messages: 1,
    handover: false,
    collect: false,
    start: Set::Pair,
};

impl Mutation {
    /// The small run whose counterexample is to be found.
    pub fn nearest(self) -> Run {
        let bucket = Bounds { start: Set::Bucket, ..SMALL };
        match self {
            Self::PromiseForgotten
            | Self::EpochReused
            | Self::AckBeforeDurable
            | Self::FollowerAcksBeforeDurable => Run::Shard(Bounds { crashes: 1, ..SMALL }),
            Self::HandoverEarly | Self::LongerLogKept | Self::PromiseIsContact => {
                Run::Shard(Bounds { handover: true, ..SMALL })
            }
            Self::WipedCounts | Self::WipedClaims => Run::Shard(Bounds { wipes: 1, ..SMALL }),
            Self::FenceCollected | Self::SlotsCollectedEarly => {
                Run::Shard(Bounds { collect: true, ..bucket })
            }
            Self::SlotGapCounts => Run::Shard(Bounds { entries: 2, ..bucket }),
            Self::NoFence
            | Self::LatePutAccepted
            | Self::SlotsIgnored
            | Self::LearnerTooShort
            | Self::JointSkipped => Run::Shard(bucket),
            _ => self.nearest_of_legs().unwrap_or(Run::Shard(SMALL)),
        }
    }

    fn nearest_of_legs(self) -> Option<Run> {
        let (name, crashes, claims) = match self {
            Self::AckAtFirstLeg
            | Self::LegVisibleAlone
            | Self::VisibleAtResolve
            | Self::WriteOnHeld
            | Self::HoldReleasedEarly
            | Self::ReceiptRecomputed
            | Self::ResolvedBeforeCommitted
            | Self::ShownPastUndecided
            | Self::OneShardActivated
            | Self::AbortToldAtClaim
            | Self::SettledBeforeActivation => ("one", 1, 1),
            Self::FeedPassesUndecided => ("beside", 0, 0),
            Self::TxnReused => ("again", 1, 1),
            Self::GuardWithoutLeg => ("guard", 1, 0),
            Self::ResolveCompactedFirst | Self::LegCompactedEarly => ("compaction", 1, 1),
            Self::ReservedUnordered => ("two", 0, 0),
            _ => return None,
        };
        Scenario::named(name).map(|scenario| Run::Legs(Scenario { crashes, claims, ..scenario }))
    }
}
