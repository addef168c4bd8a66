//! What can go wrong in a run, each kind with a counter of how often it really did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::timeline::Micros;

macro_rules! kinds {
    (
        $($(#[$doc:meta])* $name:ident,)*
        --- $($(#[$pair_doc:meta])* $pair:ident,)*
        --- $($(#[$own_doc:meta])* $own:ident,)*
    ) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $($(#[$doc])* $name,)*
            $($(#[$pair_doc])* $pair,)*
            $($(#[$own_doc])* $own,)*
        }

        impl Kind {
            /// Every kind that can befall a node on its own.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];
            /// Every kind that needs a pair.
            pub const OF_PAIR: [Self; [$(stringify!($pair)),*].len()] = [$(Self::$pair),*];
        }
    };
}

kinds! {
    /// Power goes; each operation in flight is dropped, kept or torn by chance.
    Crash,
    /// Power goes; nothing in flight survives.
    CrashDropAll,
    /// Power goes; everything in flight survives, unacknowledged.
    CrashKeepAll,
    /// Power goes; everything in flight is torn.
    CrashTearAll,
    /// Power goes; one operation in flight is lost, the others survive: a hole.
    CrashDropOne,
    /// Power goes; one operation in flight is torn, the others survive.
    CrashTearOne,
    /// Power goes with the `amount`-th disk operation from here.
    CrashAtOperation,
    /// Power goes, and again with the `amount`-th operation of the recovery.
    CrashWhileStarting,
    /// Power goes three times, each time during the start.
    CrashThrice,
    /// The process ends with everything answered.
    CleanStop,
    /// The process dies; nothing is lost but what was in flight, and it is back at once.
    Kill,
    /// Every client sends `amount` appends at once, and the process dies of them.
    OutOfMemory,
    /// The next write of a shard's log fails.
    FailWrite,
    /// The next read fails.
    FailRead,
    /// The next making of a file fails.
    FailCreate,
    /// The next replacing of a file fails.
    FailPut,
    /// The next removing of a file fails.
    FailRemove,
    /// No space for new files, for a while.
    DiskFull,
    /// Operations take `amount` times as long, for a while.
    DiskSlow,
    /// Nothing completes, for a while.
    DiskStall,
    /// Very uneven latencies, for a while: completions out of order.
    DiskUneven,
    /// A bit of a durable frame flips; it is repaired after a while.
    RotFrame,
    /// A bit of a run of the directory flips; the node makes the directory anew.
    RotRun,
    /// A bit of the directory's manifest flips; the node makes the directory anew.
    RotManifest,
    /// A bit of the watermark flips; it is repaired after a while.
    RotWatermark,
    /// A bit of a segment's header page flips; it is repaired after a while.
    RotSegmentHeader,
    /// A write of a shard's log that was reported done was not; it is repaired after a while.
    LoseWrite,
    /// A write of a shard's log went to where another one was; it is repaired after a while.
    MisdirectWrite,
    /// A run of the directory is gone after a crash.
    LoseRun,
    /// The directory's manifest is gone after a crash.
    LoseManifest,
    /// The wall clock is `amount` µs ahead from here on.
    ClockAhead,
    /// The wall clock is `amount` µs back from here on.
    ClockBack,
    /// The monotonic clock runs `amount` ‰ too fast, for a while.
    ClockFast,
    /// The monotonic clock runs `amount` ‰ too slow, for a while.
    ClockSlow,
    /// The monotonic clock stands still, for a while.
    ClockFrozen,
    /// All connections are lost, with every answer under way.
    CutAll,
    /// One connection is lost.
    CutOne,
    /// Answers take `amount` µs longer, for a while.
    SlowAnswers,
    /// Requests take up to `amount` µs longer, each its own: they overtake each other.
    SlowRequests,
    /// Every client sends `amount` appends at once.
    Burst,
    ---
    /// Both machines lose power.
    CrashBoth,
    /// A machine loses power, for a while.
    StayDown,
    /// A process stands still, for a while: SIGSTOP, a stolen virtual processor.
    Pause,
    /// An operator orders a hand-over.
    HandOver,
    /// A follower's disks are replaced by empty ones; after a while an operator says so.
    Wipe,
    /// A follower starts on a copy of the leader's directory; after a while an operator sees it.
    Clone,
    /// A follower's directory is, after a while, what it is now: a snapshot is restored.
    Restore,
    /// The next change of a superblock fails.
    FailPromise,
    /// No client reaches a node, for a while.
    Isolate,
    /// Nothing from its peer reaches a node, for a while.
    LinkCut,
    /// The nodes don't reach each other, for a while.
    LinkPartition,
    /// The nodes reach each other in turns of `amount` µs, for a while.
    LinkFlap,
    /// Messages between the nodes take `amount` µs longer, for a while.
    LinkSlow,
    /// Messages between the nodes take very different times, for a while.
    LinkUneven,
    /// Frames pass at `amount` bytes a ms, for a while.
    LinkNarrow,
    /// The session between the nodes is lost.
    LinkReset,
    /// Another session between the nodes comes about.
    LinkDuplicate,
    /// The bucket refuses connections, for a while.
    BucketRefuses,
    /// The bucket is silent, for a while.
    BucketSilent,
    /// The bucket answers 503, for a while.
    BucketUnavailable,
    /// The bucket takes `amount` times as long, for a while.
    BucketSlow,
    /// A node's requests don't reach the bucket, for a while.
    BucketCutTo,
    /// The bucket's answers don't reach a node, for a while.
    BucketCutFrom,
    /// A node's credentials are gone, for a while.
    BucketDenied,
    /// Everything that can befall a request befalls `amount` in a thousand, for a while.
    BucketFlaky,
    /// The next put is answered 409.
    BucketConflict,
    /// The next put wins and is answered 412.
    BucketRefusedAfterSuccess,
    /// The next request is answered 500.
    BucketError,
    /// The next put or delete is carried out and answered 500.
    BucketErrorAfterSuccess,
    /// The next put or delete is not answered and carried out up to a minute later.
    BucketAppliedLater,
    /// The next request is carried out, its answer is lost.
    BucketLostReply,
    /// The next request is lost.
    BucketLostRequest,
    /// The next request is answered 503 SlowDown.
    BucketThrottled,
    /// The register is deleted; after a while it is put back.
    ConfigDeleted,
    /// An older version of the register is restored; after a while the newest is put back.
    ConfigRestored,
    ---
    /// An operator orders to compact: a node, or both of a pair if `amount` is even.
    Compact,
    /// A bit of a packed segment flips; it is repaired after a while.
    RotPacked,
    /// A client deletes `amount` times at once, also several aggregates together.
    Purge,
}

impl Kind {
    /// What can be wrong with a disk.
    pub const DISK: [Self; 9] = [
        Self::FailWrite,
        Self::FailRead,
        Self::FailCreate,
        Self::FailPut,
        Self::FailRemove,
        Self::DiskFull,
        Self::DiskSlow,
        Self::DiskStall,
        Self::DiskUneven,
    ];

    /// What can be wrong between two nodes.
    pub const LINK: [Self; 8] = [
        Self::LinkCut,
        Self::LinkPartition,
        Self::LinkFlap,
        Self::LinkSlow,
        Self::LinkUneven,
        Self::LinkNarrow,
        Self::LinkReset,
        Self::LinkDuplicate,
    ];

    /// What can be wrong with a bucket.
    pub const BUCKET: [Self; 18] = [
        Self::BucketRefuses,
        Self::BucketSilent,
        Self::BucketUnavailable,
        Self::BucketSlow,
        Self::BucketCutTo,
        Self::BucketCutFrom,
        Self::BucketDenied,
        Self::BucketFlaky,
        Self::BucketConflict,
        Self::BucketRefusedAfterSuccess,
        Self::BucketError,
        Self::BucketErrorAfterSuccess,
        Self::BucketAppliedLater,
        Self::BucketLostReply,
        Self::BucketLostRequest,
        Self::BucketThrottled,
        Self::ConfigDeleted,
        Self::ConfigRestored,
    ];

    /// Every kind that can befall a pair: no bits that flip, no lost files.
    pub fn all_of_pair() -> Vec<Self> {
        let alone = Self::ALL.into_iter().filter(|kind| {
            !matches!(
                kind,
                Self::RotFrame
                    | Self::RotRun
                    | Self::RotManifest
                    | Self::RotWatermark
                    | Self::RotSegmentHeader
                    | Self::LoseRun
                    | Self::LoseManifest
            )
        });
        alone.chain(Self::OF_PAIR).collect()
    }
}

/// [`Fault::node`]: whoever leads then.
pub const LEADER: u16 = 2;
/// [`Fault::node`]: the other one.
pub const FOLLOWER: u16 = 3;

/// One thing to go wrong.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Virtual time, in µs.
    pub at: Micros,
    /// What.
    pub kind: Kind,
    /// Which node, of a pair: 0 or 1; or [`LEADER`] or [`FOLLOWER`], as it is at that moment.
    #[serde(default, skip_serializing_if = "is_first")]
    pub node: u16,
    /// Which shard's disk, where it matters.
    #[serde(default)]
    pub shard: u16,
    /// How much; the kind says of what.
    #[serde(default)]
    pub amount: u64,
    /// For how long, in µs.
    #[serde(default)]
    pub lasts: Micros,
}

impl Fault {
    /// A fault of `kind` with amounts from `rng`.
    pub fn of(kind: Kind, at: Micros, shard: u16, rng: &mut Rng) -> Self {
        let (amount, lasts) = match kind {
            Kind::CrashAtOperation => (rng.between(1, 40), 0),
            Kind::CrashWhileStarting | Kind::CrashThrice => (rng.between(1, 25), 0),
            Kind::DiskFull => (0, rng.between(100_000, 3_000_000)),
            Kind::DiskSlow => (rng.between(5, 200), rng.between(50_000, 1_500_000)),
            Kind::DiskStall => (0, rng.between(10_000, 1_500_000)),
            Kind::DiskUneven => (0, rng.between(200_000, 3_000_000)),
            Kind::RotFrame
            | Kind::RotRun
            | Kind::RotManifest
            | Kind::RotWatermark
            | Kind::RotSegmentHeader
            | Kind::RotPacked
            | Kind::LoseWrite
            | Kind::MisdirectWrite => (rng.number() >> 16, rng.between(500_000, 3_000_000)),
            Kind::ClockAhead | Kind::ClockBack => (rng.between(1, 100_000_000_000), 0),
            Kind::ClockFast => (rng.between(10, 3_000), rng.between(100_000, 3_000_000)),
            Kind::ClockSlow => (rng.between(10, 900), rng.between(100_000, 3_000_000)),
            Kind::ClockFrozen => (0, rng.between(10_000, 2_000_000)),
            Kind::CutOne | Kind::Compact => (rng.number() >> 16, 0),
            Kind::SlowAnswers => (rng.between(1_000, 400_000), rng.between(50_000, 1_000_000)),
            Kind::SlowRequests => (rng.between(1_000, 100_000), rng.between(50_000, 1_000_000)),
            Kind::Burst | Kind::OutOfMemory | Kind::Purge => (rng.between(3, 40), 0),
            _ => (0, 0),
        };
        Self { at, kind, node: 0, shard, amount, lasts }
    }

    /// A fault of `kind` of a pair, with amounts from `rng`.
    pub fn of_pair(kind: Kind, at: Micros, shard: u16, rng: &mut Rng) -> Self {
        let node = rng.below(4) as u16;
        // Most incidents are short, some outlast every patience.
        let lasts = match rng.chance(300) {
            true => rng.between(2_000_000, 15_000_000),
            false => rng.between(1_000, 2_000_000),
        };
        let (amount, lasts) = match kind {
            Kind::LinkFlap => (rng.between(1_000, 2_000_000), lasts),
            Kind::LinkSlow => (rng.between(1_000, 400_000), lasts),
            Kind::LinkNarrow => (rng.between(1, 20_000), lasts),
            Kind::BucketSlow => (rng.between(2, 60), lasts),
            Kind::BucketFlaky => (rng.between(5, 150), lasts),
            Kind::ConfigRestored => (rng.below(4), lasts),
            // As far apart as two clocks may be.
            Kind::ClockFast | Kind::ClockSlow => (rng.below(50), lasts),
            Kind::StayDown
            | Kind::Pause
            | Kind::Wipe
            | Kind::Clone
            | Kind::Restore
            | Kind::Isolate
            | Kind::ConfigDeleted
            | Kind::LinkCut
            | Kind::LinkPartition
            | Kind::LinkUneven
            | Kind::BucketRefuses
            | Kind::BucketSilent
            | Kind::BucketUnavailable
            | Kind::BucketCutTo
            | Kind::BucketCutFrom
            | Kind::BucketDenied => (0, lasts),
            kind => return Self { node, ..Self::of(kind, at, shard, rng) },
        };
        Self { at, kind, node, shard, amount, lasts }
    }
}

fn is_first(node: &u16) -> bool {
    *node == 0
}

/// How often each thing was really reached. Cheap to clone: all clones are one set of counters.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    counters: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Reached {
    /// Counts one.
    pub fn note(&self, what: impl Into<String>) {
        self.add(what, 1);
    }

    /// Counts some.
    pub fn add(&self, what: impl Into<String>, count: u64) {
        if count > 0 {
            let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
            *counters.entry(what.into()).or_default() += count;
        }
    }

    /// Adds those of another run.
    pub fn merge(&self, other: &Self) {
        for (what, count) in other.counts() {
            self.add(what, count);
        }
    }

    /// All of them, by name.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
