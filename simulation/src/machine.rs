//! The simulated machine: disks, power and clock that outlive every process of the node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_actors::clock::Clock;
use celeriant_actors::keys::Random;
use celeriant_actors::node::{Components, Disks, Error, Membership, Node, Placement, Settings};
use celeriant_net::Service;
use celeriant_schema::{BootId, ClusterId, Epoch, ShardId, Stamp};
use celeriant_storage::DirectoryBudget;
use celeriant_storage::Identity;

use crate::disk::{Media, Observer, Power, SimDisk};
use crate::fault::Reached;
use crate::gate::{Gate, Gated};
use crate::history::History;
use crate::invariants::{Violations, i22_caps};
use crate::originals::Originals;
use crate::power_cut::Crash;
use crate::rng::Rng;
use crate::sabotage::Submit;
use crate::scenario::Shape;
use crate::timeline::{Micros, Timeline};
use crate::trace::Trace;
use crate::watcher::Watcher;

/// A machine with one disk a shard.
pub struct Machine {
    /// By shard.
    pub medias: Vec<Media>,
    /// Of all of them.
    pub power: Arc<Power>,
    /// The node's time.
    pub clock: Arc<SimClock>,
    /// Holds the process still.
    pub gate: Gate,
    /// Of all logs.
    pub log: celeriant_storage::Settings,
    shape: Shape,
    /// Whose data is on it.
    pub cluster: ClusterId,
    epoch: Arc<AtomicU64>,
    rng: Rng,
}

impl Machine {
    /// A machine with empty disks.
    pub fn new(
        shape: &Shape,
        rng: &Rng,
        timeline: &Timeline,
        trace: &Trace,
        watcher: &Watcher,
    ) -> Self {
        let cluster = ClusterId::new(u128::from(rng.fork("cluster").number()));
        let observer = |shard| -> Observer {
            let (watcher, identity) = (watcher.clone(), identity(cluster, shard));
            Arc::new(move |name, offset, bytes| watcher.durable(&identity, name, offset, bytes))
        };
        Self::of_node(shape, cluster, (0, rng), timeline, trace, &observer)
    }

    /// The machine of node `node` of a cluster, with empty disks; `observer` makes those that see
    /// what becomes durable in a shard.
    pub fn of_node(
        shape: &Shape,
        cluster: ClusterId,
        (node, rng): (usize, &Rng),
        timeline: &Timeline,
        trace: &Trace,
        observer: &dyn Fn(usize) -> Observer,
    ) -> Self {
        let power = Arc::new(Power::default());
        let medias = (0..usize::from(shape.shards))
            .map(|shard| {
                let rng = rng.fork(&format!("disk {shard}"));
                let (id, timeline) = ((100 * node + shard) as u64, Some(timeline.clone()));
                let media = Media::new(id, rng, Arc::clone(&power), timeline, trace.clone());
                media.observe(observer(shard));
                media
            })
            .collect();
        let log = log_settings(shape);
        let clock = Arc::new(SimClock::new(timeline.clone()));
        let rng = rng.fork("machine");
        Self {
            medias,
            power,
            clock,
            gate: Gate::default(),
            log,
            shape: shape.clone(),
            cluster,
            epoch: Arc::default(),
            rng,
        }
    }

    /// Starts a process of the node on it.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start(&mut self) -> Result<Node, Error> {
        let epoch = Arc::clone(&self.epoch);
        let boot = BootId::new(self.rng.number());
        let components: Components<Gated<SimDisk>> = Components {
            cluster: self.cluster,
            boot,
            random: random_of(boot),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            disks: self.disks(),
            placement: Placement::Here,
            membership: Membership::Alone(Arc::new(move |highest: Epoch| {
                let next = highest.value().max(epoch.load(Ordering::Relaxed)) + 1;
                epoch.store(next, Ordering::Relaxed);
                Ok(Epoch::new(next))
            })),
        };
        Node::start(self.settings(), components).await
    }

    /// What a process opens its shards' disks with.
    pub fn disks(&self) -> Disks<Gated<SimDisk>> {
        let (medias, gate) = (self.medias.clone(), self.gate.clone());
        Arc::new(move |shard: ShardId| {
            Ok(Gated::new(medias[usize::from(shard.value())].attach(), &gate))
        })
    }

    /// Settings of every node that runs on it.
    pub fn settings(&self) -> Settings {
        Settings {
            shards: self.shape.shards,
            threads: self.shape.threads,
            admission_bytes: self.shape.admission_bytes,
            quotas: Default::default(),
            cache_bytes: self.shape.cache_bytes,
            log: self.log,
            net: Arc::new(celeriant_net::Settings::default()),
        }
    }

    /// A number that no process of it has had.
    pub fn next_boot(&mut self) -> BootId {
        BootId::new(self.rng.number())
    }

    /// The process is gone: what its disks have in flight ends as `crash` says. Returns how much
    /// that was.
    pub fn lose_flights(&self, crash: &mut Crash, rng: &mut Rng) -> usize {
        let in_flight: usize = self.medias.iter().map(|media| media.in_flight().len()).sum();
        let chosen = rng.below(in_flight.max(1) as u64);
        let mut index = 0;
        for media in &self.medias {
            media.crash(&mut |flight| {
                index += 1;
                crash.fate(flight, index - 1 == chosen, rng)
            });
        }
        in_flight
    }

    /// What its disks say.
    pub fn history(&self, originals: &Originals, violations: &Violations) -> History {
        let images: Vec<_> = self.medias.iter().map(|media| media.image()).collect();
        let identities = (0..images.len()).map(|shard| self.identity(shard));
        History::of_logs(identities.zip(&images), originals, violations)
    }

    /// Whose log shard `shard` is.
    pub fn identity(&self, shard: usize) -> Identity {
        identity(self.cluster, shard)
    }

    /// Its disks, with whose logs they hold.
    pub fn logs(&self) -> Vec<(Identity, Media)> {
        let medias = self.medias.iter().cloned().enumerate();
        medias.map(|(shard, media)| (self.identity(shard), media)).collect()
    }
}

/// The way into a node: connections are dealt to threads in the order in which they show up; each
/// stays on its own. What the node lets in is counted.
pub fn way_into(node: &Node, shape: &Shape, violations: &Violations) -> Submit {
    let routers: Vec<_> = (0..shape.threads).map(|thread| node.router(thread).clone()).collect();
    let (budget, violations) = (shape.admission_bytes, violations.clone());
    let dealt: Mutex<BTreeMap<u64, usize>> = Mutex::default();
    Arc::new(move |requests, replies| {
        let mut dealt = dealt.lock().unwrap_or_else(PoisonError::into_inner);
        let next = dealt.len();
        let thread = *dealt.entry(replies.connection()).or_insert(next) % routers.len();
        drop(dealt);
        routers[thread].submit(requests, replies);
        i22_caps::check_admitted(routers[thread].unanswered_bytes(), budget, &violations);
    })
}

/// Counts what recovery found.
pub fn note_recovery(node: &Node, reached: &Reached) {
    for report in node.recovery_reports() {
        reached.add("recovery cut frames", u64::from(report.cut_frames));
        reached.add("recovery cut bytes", report.cut_bytes);
        reached.add("recovery opened a run", u64::from(report.runs_opened));
        reached.add("recovery rebuilt a directory", u64::from(report.rebuilt));
        reached.add("recovery removed a file", report.removed.len() as u64);
    }
}

/// Log settings of a shape.
pub fn log_settings(shape: &Shape) -> celeriant_storage::Settings {
    celeriant_storage::Settings {
        write_depth: shape.write_depth,
        segment_bytes_first: shape.segment_bytes_first,
        segment_bytes_max: shape.segment_bytes_max,
        frame_bytes_soft: shape.frame_bytes_soft,
        fill_bytes: shape.fill_bytes,
        directory: DirectoryBudget {
            memtable_bytes: shape.memtable_bytes,
            cache_bytes: shape.page_cache_bytes,
        },
        checkpoint_bytes: shape.checkpoint_bytes,
        compaction_bytes: shape.compaction_bytes,
    }
}

/// Whose log shard `shard` of a cluster is.
pub fn identity(cluster: ClusterId, shard: usize) -> Identity {
    Identity { cluster, shard: ShardId::new(shard as u16) }
}

/// The node's clocks: the world's time with a rate of its own, and a wall that may jump.
pub struct SimClock {
    timeline: Timeline,
    pace: Mutex<Pace>,
    /// What its process sees while that stands still.
    stopped_at: Mutex<Option<Micros>>,
    wall: AtomicI64,
}

/// Monotonic time runs at `per_mille` of the world's from (world, own) on.
#[derive(Clone, Copy)]
struct Pace {
    from: (Micros, Micros),
    per_mille: u64,
}

impl Pace {
    /// Monotonic time at the world's time `now`.
    fn at(&self, now: Micros) -> Micros {
        let (world, own) = self.from;
        own + (now - world) * self.per_mille / 1000
    }
}

impl SimClock {
    fn new(timeline: Timeline) -> Self {
        let pace = Mutex::new(Pace { from: (0, 0), per_mille: 1000 });
        // A while after stamp 0, so that a wall that jumps back still has somewhere to go.
        let wall = AtomicI64::new(Stamp::ORIGIN_UNIX_MICROS + 1_000_000_000_000);
        Self { timeline, pace, stopped_at: Mutex::default(), wall }
    }

    /// The process stands still, and time with it, until it goes on; then it sees how late it is.
    pub fn stand_still(&self, still: bool) {
        let now = still.then(|| self.now());
        *self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Monotonic time runs at this rate from here on.
    pub fn run_at(&self, per_mille: u64) {
        let mut pace = self.lock();
        let now = self.timeline.now();
        *pace = Pace { from: (now, pace.at(now)), per_mille };
    }

    /// The wall clock jumps.
    pub fn jump(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Micros {
        let stopped_at = *self.stopped_at.lock().unwrap_or_else(PoisonError::into_inner);
        stopped_at.unwrap_or_else(|| self.lock().at(self.timeline.now()))
    }

    fn wall(&self) -> i64 {
        self.wall.load(Ordering::Relaxed) + self.timeline.now() as i64
    }
}

/// Random bits of a process: others than those of any other one, and always the same.
pub fn random_of(boot: BootId) -> Random {
    let rng = Mutex::new(Rng::new(boot.value()).fork("keys"));
    Arc::new(move |bytes| {
        // Poisoned: a generator is whole between two numbers.
        let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.fill_with(|| rng.number() as u8);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_behind_a_process_that_stands_still_whatever_its_rate() {
        let timeline = Timeline::default();
        let runtime = timeline.runtime();
        runtime.block_on(async {
            tokio::spawn(timeline.clone().drive());
            let clock = SimClock::new(timeline.clone());
            timeline.sleep(1_000_000).await;
            clock.stand_still(true);
            timeline.sleep(1_000_000).await;
            clock.run_at(900);
            assert_eq!(clock.now(), 1_000_000);
            timeline.sleep(1_000_000).await;
            clock.run_at(1_000);
            timeline.sleep(1_000_000).await;
            clock.stand_still(false);
            assert_eq!(clock.now(), 3_900_000);
        });
    }
}
