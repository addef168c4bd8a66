//! A run as data: shape, workload, faults with virtual times. A seed makes one; a file keeps one.
//!
//! Everything that happens in a run follows from its scenario, so a scenario can be replayed
//! anywhere, and shrunk by leaving faults out.

use celeriant_actors::election;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Kind};
use crate::incident;
use crate::rng::Rng;
use crate::timeline::Micros;
use crate::workload::Workload;

/// How hard a run is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A random subset of faults, each seed another one, at random rates.
    #[default]
    Swarm,
    /// No faults.
    Calm,
}

/// What a run is to come to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// No violation.
    #[default]
    Holds,
    /// At least one violation: a planted bug.
    Violated,
}

fn one() -> u64 {
    1
}

fn is_one(number: &u64) -> bool {
    *number == 1
}

/// A run as data.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Where all chances come from.
    pub seed: u64,
    /// How it was made; for people.
    #[serde(default)]
    pub profile: Profile,
    /// What it shows; for people.
    #[serde(default)]
    pub about: String,
    /// What it is to come to.
    #[serde(default)]
    pub expect: Expectation,
    /// It is to come to that with one of so many seeds, from `seed` on: what a planted bug takes
    /// to do harm may come about a little earlier or later with every change of anything.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub within: u64,
    /// Violations that it came to when it was recorded; for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// What is deliberately broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sabotage: Option<crate::sabotage::Sabotage>,
    /// How long clients work and faults happen, in virtual ms.
    pub duration_ms: u64,
    /// A last order to compact is given at rest, and must be carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compacts_at_rest: bool,
    /// The node.
    pub shape: Shape,
    /// Two of them, a bucket and what is between them, instead of one on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair: Option<PairShape>,
    /// The clients.
    pub workload: Workload,
    /// What goes wrong, in order of time.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// The node of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Shards of the cluster.
    pub shards: u16,
    /// Threads to deal them to.
    pub threads: usize,
    /// Frames in flight.
    pub write_depth: usize,
    /// Size of the first segment, in bytes.
    pub segment_bytes_first: u64,
    /// Size at which segments stop growing, in bytes.
    pub segment_bytes_max: u64,
    /// A frame that has grown to this takes no more records, in bytes.
    pub frame_bytes_soft: usize,
    /// While a write is in flight, a further frame waits until it has this many bytes or as many
    /// as the largest in flight.
    #[serde(default)]
    pub fill_bytes: usize,
    /// Bytes of frames kept in memory.
    pub cache_bytes: usize,
    /// Bytes of rows that a shard's directory has not written out.
    #[serde(default = "Shape::default_memtable_bytes")]
    pub memtable_bytes: usize,
    /// Bytes of pages that a shard's directory keeps in memory.
    #[serde(default = "Shape::default_page_cache_bytes")]
    pub page_cache_bytes: usize,
    /// Bytes of log that a start replays.
    #[serde(default = "Shape::default_checkpoint_bytes")]
    pub checkpoint_bytes: u64,
    /// Gone through per second for what was deleted, in bytes of a shard; 0: only when ordered.
    #[serde(default)]
    pub compaction_bytes: u64,
    /// Bytes of unanswered requests.
    pub admission_bytes: usize,
}

/// A pair.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairShape {
    /// Least and most of the pause between a follower's loss and its return, in ms.
    pub rejoin_ms: (u64, u64),
    /// Of the election.
    #[serde(skip_serializing_if = "Timing::is_default")]
    pub timing: Timing,
    /// Once nothing is wrong any more, a write must be acknowledged within so many ms.
    pub resumes_within_ms: u64,
    /// The real link between the nodes, over simulated datagrams. Such a run has no trace of its
    /// own: see [`crate::air`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quic: bool,
    /// While clients work, at most so long may no new write be acknowledged, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms_max: Option<u64>,
    /// What is deliberately broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub betrayal: Option<crate::pair::betrayal::Betrayal>,
}

impl Default for PairShape {
    fn default() -> Self {
        Self {
            rejoin_ms: (5_000, 20_000),
            timing: Timing::default(),
            resumes_within_ms: 30_000,
            quic: false,
            pause_ms_max: None,
            betrayal: None,
        }
    }
}

/// Durations of the election, in ms. No write depends on any of them; linearizable reads don't
/// depend on how they compare with each other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Between a leader's signs of life.
    pub heartbeat: u64,
    /// Silence of the follower until the leader goes on with the bucket.
    pub suspect_after: u64,
    /// For so long a follower promises not to claim.
    pub grant: u64,
    /// Silence of the leader until its follower claims.
    pub claim_after: u64,
    /// Lease in the register.
    pub lease: u64,
    /// Between renewals of it.
    pub renew_every: u64,
}

impl Default for Timing {
    fn default() -> Self {
        let defaults = election::Settings::default();
        let ms = |micros: Micros| micros / 1_000;
        Self {
            heartbeat: ms(defaults.heartbeat),
            suspect_after: ms(defaults.suspect_after),
            grant: ms(defaults.grant),
            claim_after: ms(defaults.claim_after),
            lease: ms(defaults.lease),
            renew_every: ms(defaults.renew_every),
        }
    }
}

impl Timing {
    /// One by chance: half of the time the default.
    fn of(rng: &mut Rng) -> Self {
        if rng.chance(500) {
            return Self::default();
        }
        let lease = rng.between(1_500, 6_000);
        Self {
            heartbeat: rng.between(50, 200),
            suspect_after: rng.between(400, 1_000),
            grant: rng.between(500, 3_000),
            claim_after: rng.between(300, 1_500),
            lease,
            renew_every: lease / 3,
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// As the election takes them.
    pub(crate) fn settings(&self) -> election::Settings {
        let us = |ms: u64| ms * 1_000;
        election::Settings {
            heartbeat: us(self.heartbeat),
            suspect_after: us(self.suspect_after),
            grant: us(self.grant),
            claim_after: us(self.claim_after),
            lease: us(self.lease),
            renew_every: us(self.renew_every),
            ..election::Settings::default()
        }
    }
}

impl Scenario {
    /// The run of a pair that `seed` stands for.
    pub fn of_pair_seed(seed: u64, profile: Profile) -> Self {
        let mut scenario = Self::of_seed_without_compaction(seed, Profile::Calm);
        let mut choices = Rng::new(seed).fork("pair scenario");
        let rejoin = *choices.pick(&[200, 1_000, 5_000]);
        scenario.pair = Some(PairShape {
            rejoin_ms: (rejoin, 4 * rejoin),
            timing: Timing::of(&mut choices),
            ..PairShape::default()
        });
        scenario.profile = profile;
        if profile == Profile::Swarm {
            let duration = scenario.duration_ms * 1000;
            scenario.faults = pair_faults(&mut choices, duration, &scenario.shape);
        }
        scenario.compacts(&mut Rng::new(seed).fork("compaction"));
        scenario
    }

    /// The run that `seed` stands for.
    pub fn of_seed(seed: u64, profile: Profile) -> Self {
        let mut scenario = Self::of_seed_without_compaction(seed, profile);
        scenario.compacts(&mut Rng::new(seed).fork("compaction"));
        scenario
    }

    /// How it compacts, by chance: by itself, by orders, at rest; and what befalls it then.
    fn compacts(&mut self, rng: &mut Rng) {
        self.shape.compaction_bytes = *rng.pick(&[0, 256 << 10, 1 << 20, 8 << 20]);
        self.compacts_at_rest = rng.chance(500);
        let mean = *rng.pick(&[3_000_000, 8_000_000, 20_000_000]);
        let (is_cut, is_rotten) = (rng.chance(300), rng.chance(100));
        let mut stalls = rng.fork("stalls");
        let is_stalled = stalls.chance(300);
        let harms = self.profile == Profile::Swarm;
        let mut at = 0;
        loop {
            at += rng.between(1, 2 * mean);
            if at >= self.duration_ms * 1000 {
                break;
            }
            let shard = rng.below(u64::from(self.shape.shards)) as u16;
            let is_pair = self.pair.is_some();
            let fault = |kind, at, rng: &mut Rng| match is_pair {
                true => Fault::of_pair(kind, at, shard, rng),
                false => Fault::of(kind, at, shard, rng),
            };
            self.faults.push(fault(Kind::Compact, at, rng));
            if harms && is_stalled {
                // Deletes over several shards wait for this one while others compact; an order
                // that comes later is about them, too.
                let since = at.saturating_sub(stalls.below(500_000));
                let lasts = stalls.between(500_000, 1_500_000);
                let stall = fault(Kind::DiskStall, since, &mut stalls);
                self.faults.push(Fault { lasts, ..stall });
                if self.workload.weights.take_away > 0 {
                    self.faults.push(fault(Kind::Purge, since.midpoint(at), &mut stalls));
                }
                self.faults.push(fault(Kind::Compact, since + 2 * lasts, &mut stalls));
            }
            if harms && is_cut {
                self.faults.push(fault(Kind::CrashAtOperation, at + rng.below(30_000), rng));
            }
            if harms && is_rotten && !is_pair {
                self.faults.push(fault(Kind::RotPacked, at + rng.below(mean), rng));
            }
        }
        self.faults.sort_by_key(|fault| fault.at);
    }

    /// Nothing is ever erased from a disk.
    fn of_seed_without_compaction(seed: u64, profile: Profile) -> Self {
        let rng = Rng::new(seed);
        let mut choices = rng.fork("scenario");
        let duration_ms = choices.between(8_000, 25_000);
        let shape = Shape::of(&mut choices);
        let mut workload = Workload::of(&mut choices);
        workload.watchers = rng.fork("watchers").below(4) as usize;
        workload.registrars = rng.fork("registrars").below(3) as usize;
        workload.weights.take_away = rng.fork("retention").below(4);
        let faults = match profile {
            Profile::Calm => Vec::new(),
            Profile::Swarm => faults(&mut rng.fork("faults"), duration_ms * 1000, &shape),
        };
        Self {
            seed,
            profile,
            about: String::new(),
            expect: Expectation::Holds,
            within: 1,
            found: Vec::new(),
            sabotage: None,
            duration_ms,
            shape,
            pair: None,
            workload,
            compacts_at_rest: false,
            faults,
        }
    }
}

impl Shape {
    fn of(rng: &mut Rng) -> Self {
        let shards = *rng.pick(&[1, 1, 2, 3, 4, 7]);
        let first = *rng.pick(&[64 << 10, 128 << 10, 256 << 10]);
        Self {
            shards,
            threads: rng.between(1, 3) as usize,
            write_depth: *rng.pick(&[1, 2, 4, 4, 8]),
            segment_bytes_first: first,
            segment_bytes_max: first * *rng.pick(&[1, 2, 4]),
            frame_bytes_soft: *rng.pick(&[8 << 10, 32 << 10, 1 << 20]),
            fill_bytes: *rng.pick(&[0, 16 << 10, 128 << 10]),
            cache_bytes: *rng.pick(&[256 << 10, 1 << 20, 4 << 20]),
            admission_bytes: *rng.pick(&[64 << 10, 1 << 20, 16 << 20]),
            memtable_bytes: *rng.pick(&[8 << 10, 32 << 10, 1 << 20]),
            page_cache_bytes: *rng.pick(&[16 << 10, 64 << 10, 1 << 20]),
            checkpoint_bytes: *rng.pick(&[16 << 10, 64 << 10, 1 << 20]),
            compaction_bytes: 0,
        }
    }

    /// Of scenarios that were recorded before it could be chosen.
    fn default_memtable_bytes() -> usize {
        16 << 10
    }

    fn default_page_cache_bytes() -> usize {
        32 << 10
    }

    fn default_checkpoint_bytes() -> u64 {
        32 << 10
    }
}

/// A random subset of kinds, each at a rate of its own: seeds that have everything at once rarely
/// get deep, seeds that have one thing often do.
fn faults(rng: &mut Rng, duration: Micros, shape: &Shape) -> Vec<Fault> {
    let share = rng.between(100, 700);
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| rng.chance(share)).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let mean = *rng.pick(&[150_000, 400_000, 1_000_000]);
    let mut faults = Vec::new();
    let mut at = 0;
    loop {
        at += rng.between(1, 2 * mean);
        if at >= duration {
            return faults;
        }
        let kind = *rng.pick(&kinds);
        let shard = rng.below(u64::from(shape.shards)) as u16;
        faults.push(Fault::of(kind, at, shard, rng));
    }
}

/// As [`faults`], of a pair.
fn pair_faults(rng: &mut Rng, duration: Micros, shape: &Shape) -> Vec<Fault> {
    let share = rng.between(50, 500);
    let mut kinds: Vec<Kind> =
        Kind::all_of_pair().into_iter().filter(|_| rng.chance(share)).collect();
    let meddles = kinds.iter().any(|k| matches!(k, Kind::ConfigDeleted | Kind::ConfigRestored));
    if meddles {
        // A change that was meant for the older version would find it.
        kinds.retain(|kind| !matches!(kind, Kind::BucketAppliedLater | Kind::BucketFlaky));
    }
    if kinds.is_empty() {
        return Vec::new();
    }
    let mean = *rng.pick(&[150_000, 700_000, 3_000_000]);
    let incidents = if meddles { 0 } else { *rng.pick(&[0, 100, 1_000]) };
    let mut faults = Vec::new();
    let mut at = 0;
    loop {
        at += rng.between(1, 2 * mean);
        if at >= duration {
            faults.sort_by_key(|fault: &Fault| fault.at);
            return faults;
        }
        if rng.chance(incidents) {
            faults.extend(incident::any(at, shape.shards, rng));
            // Each comes to its end, more or less.
            at += rng.between(2_000_000, 10_000_000);
            continue;
        }
        let kind = *rng.pick(&kinds);
        let shard = rng.below(u64::from(shape.shards)) as u16;
        faults.push(Fault::of_pair(kind, at, shard, rng));
    }
}
