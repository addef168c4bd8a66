//! What can go wrong in a run, each kind with a counter of how often it really did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::timeline::Micros;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];
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
}

/// One thing to go wrong.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Virtual time, in µs.
    pub at: Micros,
    /// What.
    pub kind: Kind,
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
            | Kind::RotSegmentHeader => (rng.number() >> 16, rng.between(500_000, 3_000_000)),
            Kind::ClockAhead | Kind::ClockBack => (rng.between(1, 100_000_000_000), 0),
            Kind::ClockFast => (rng.between(10, 3_000), rng.between(100_000, 3_000_000)),
            Kind::ClockSlow => (rng.between(10, 900), rng.between(100_000, 3_000_000)),
            Kind::ClockFrozen => (0, rng.between(10_000, 2_000_000)),
            Kind::CutOne => (rng.number() >> 16, 0),
            Kind::SlowAnswers => (rng.between(1_000, 400_000), rng.between(50_000, 1_000_000)),
            Kind::SlowRequests => (rng.between(1_000, 100_000), rng.between(50_000, 1_000_000)),
            Kind::Burst => (rng.between(3, 40), 0),
            _ => (0, 0),
        };
        Self { at, kind, shard, amount, lasts }
    }
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
