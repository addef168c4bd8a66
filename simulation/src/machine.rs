//! The simulated machine: disks, power and clock that outlive every process of the node.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_actors::clock::Clock;
use celeriant_actors::node::{Components, Error, Membership, Node, Placement, Settings};
use celeriant_schema::{BootId, ClusterId, Epoch, ShardId, Stamp};
use celeriant_storage::DirectoryBudget;
use celeriant_storage::Identity;

use crate::disk::{Media, Power, SimDisk};
use crate::rng::Rng;
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
    /// Of all logs.
    pub log: celeriant_storage::Settings,
    shape: Shape,
    cluster: ClusterId,
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
        let power = Arc::new(Power::default());
        let cluster = ClusterId::new(u128::from(rng.fork("cluster").number()));
        let medias = (0..usize::from(shape.shards))
            .map(|shard| {
                let rng = rng.fork(&format!("disk {shard}"));
                let timeline = Some(timeline.clone());
                let media =
                    Media::new(shard as u64, rng, Arc::clone(&power), timeline, trace.clone());
                let (watcher, identity) = (watcher.clone(), identity(cluster, shard));
                media.observe(Arc::new(move |name, offset, bytes| {
                    watcher.durable(&identity, name, offset, bytes);
                }));
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
        let (medias, epoch) = (self.medias.clone(), Arc::clone(&self.epoch));
        let components: Components<SimDisk> = Components {
            cluster: self.cluster,
            boot: BootId::new(self.rng.number()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            disks: Arc::new(move |shard: ShardId| Ok(medias[usize::from(shard.value())].attach())),
            placement: Placement::Here,
            membership: Membership::Alone(Box::new(move |highest: Epoch| {
                let next = highest.value().max(epoch.load(Ordering::Relaxed)) + 1;
                epoch.store(next, Ordering::Relaxed);
                Ok(Epoch::new(next))
            })),
        };
        let settings = Settings {
            shards: self.shape.shards,
            threads: self.shape.threads,
            admission_bytes: self.shape.admission_bytes,
            cache_bytes: self.shape.cache_bytes,
            log: self.log,
            net: Arc::new(celeriant_net::Settings::default()),
        };
        Node::start(settings, components).await
    }

    /// Whose log shard `shard` is.
    pub fn identity(&self, shard: usize) -> Identity {
        identity(self.cluster, shard)
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
    }
}

fn identity(cluster: ClusterId, shard: usize) -> Identity {
    Identity { cluster, shard: ShardId::new(shard as u16) }
}

/// The node's clocks: the world's time with a rate of its own, and a wall that may jump.
pub struct SimClock {
    timeline: Timeline,
    pace: Mutex<Pace>,
    wall: AtomicI64,
}

/// Monotonic time runs at `per_mille` of the world's from (world, own) on.
#[derive(Clone, Copy)]
struct Pace {
    from: (Micros, Micros),
    per_mille: u64,
}

impl SimClock {
    fn new(timeline: Timeline) -> Self {
        let pace = Mutex::new(Pace { from: (0, 0), per_mille: 1000 });
        // A while after stamp 0, so that a wall that jumps back still has somewhere to go.
        let wall = AtomicI64::new(Stamp::ORIGIN_UNIX_MICROS + 1_000_000_000_000);
        Self { timeline, pace, wall }
    }

    /// Monotonic time runs at this rate from here on.
    pub fn run_at(&self, per_mille: u64) {
        let own = self.now();
        *self.lock() = Pace { from: (self.timeline.now(), own), per_mille };
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
        let Pace { from: (world, own), per_mille } = *self.lock();
        own + (self.timeline.now() - world) * per_mille / 1000
    }

    fn wall(&self) -> i64 {
        self.wall.load(Ordering::Relaxed) + self.timeline.now() as i64
    }
}
