//! Random lives of a bucket log: leaders upload, claimants take over one after the other at any
//! moment, and the bucket does whatever it may.
//!
//! Whatever was ever counted as held, also by a leader that does not know yet that it is deposed,
//! is in what the claimant reads; after its fence no leader counts anything; everybody comes to an
//! end.

use std::collections::{BTreeMap, VecDeque};

use celeriant_schema::peer::Position;
use celeriant_schema::{Epoch, Lsn, ShardId};
use celeriant_storage::bucket::Completion;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::chain::{self, Reader};
use super::rig::{CLUSTER, FakeBucket, FakeLog, settings};
use super::rounds::{self, Uploader};
use super::{Seal, slot};
use crate::clock::Micros;
use crate::election::register::Link;
use crate::replicator::core::Frames;

const SHARDS: u16 = 3;
const LIVES: u64 = 600;
/// More than any life takes.
const STEPS_MAX: usize = 40_000;

fn seal() -> Seal {
    Seal::new(Some(b"s"))
}

fn ends(logs: &[FakeLog]) -> Vec<Position> {
    logs.iter().map(FakeLog::end).collect()
}

/// What the lives together must have met, or they prove nothing.
#[derive(Debug, Default)]
struct Reached {
    fenced_leaders: usize,
    late_rounds: usize,
    cuts: usize,
    finds: usize,
    reads: usize,
    restarts: usize,
    voids: usize,
    long_chains: usize,
}

struct Leader {
    uploader: Uploader,
    epoch: u64,
    logs: Vec<FakeLog>,
    reads: Vec<(ShardId, Lsn, u32)>,
    held: Vec<Position>,
    is_fenced: bool,
    is_complete: bool,
    /// So many frames it will still seal: a deposed leader hears of it some time.
    seals: usize,
}

struct Claimant {
    reader: Reader,
    logs: Vec<FakeLog>,
    finds: Vec<(ShardId, Lsn)>,
    orders: Vec<VecDeque<Order>>,
    done: Option<Vec<Position>>,
}

enum Order {
    Cut(Position),
    Take(Frames),
}

enum Actor {
    Leader(Leader),
    Claimant(Claimant),
    Gone,
}

struct World {
    rng: SmallRng,
    now: Micros,
    /// How much of the time the newest actor takes, in tenths.
    haste: u32,
    bucket: FakeBucket,
    /// Askers of the bucket by their places.
    actors: Vec<Actor>,
    chain: Vec<Link>,
    /// Everything that anybody counted.
    held: Vec<(ShardId, Position)>,
    /// All frames by shard and end.
    truth: BTreeMap<(ShardId, Position), bytes::Bytes>,
    reached: Reached,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let trouble = [0, 30, 150, 400][rng.random_range(0..4)];
        Self {
            now: 0,
            haste: rng.random_range(0..9),
            bucket: FakeBucket::new(seed, trouble),
            actors: Vec::new(),
            chain: Vec::new(),
            held: Vec::new(),
            truth: BTreeMap::new(),
            reached: Reached::default(),
            rng,
        }
    }

    fn seal_one(&mut self, log: &mut FakeLog, shard: ShardId, epoch: u64) -> Frames {
        let frames = log.seal(shard, epoch, &mut self.rng);
        self.truth.insert((shard, frames.end), frames.bytes.clone());
        frames
    }

    /// Logs of two nodes that are equal up to where the chain will begin.
    fn first_logs(&mut self) -> (Vec<FakeLog>, Vec<FakeLog>) {
        let mut leader = vec![FakeLog::default(); SHARDS.into()];
        let mut other = Vec::new();
        for (shard, log) in (0..SHARDS).map(ShardId::new).zip(&mut leader) {
            for _ in 0..self.rng.random_range(0..4) {
                self.seal_one(log, shard, 1);
            }
            other.push(log.clone());
            for _ in 0..self.rng.random_range(0..8) {
                self.seal_one(log, shard, 1);
            }
        }
        (leader, other)
    }

    fn lead(&mut self, link: &Link, logs: Vec<FakeLog>) -> usize {
        let start = rounds::Start {
            cluster: CLUSTER,
            epoch: link.epoch,
            base: link.base.clone(),
            sealed: ends(&logs),
            seed: self.rng.random(),
        };
        let leader = Leader {
            uploader: Uploader::new(start, seal(), settings()),
            epoch: link.epoch.value(),
            held: link.base.clone(),
            logs,
            reads: Vec::new(),
            is_fenced: false,
            is_complete: false,
            seals: self.rng.random_range(0..150),
        };
        self.actors.push(Actor::Leader(leader));
        self.actors.len() - 1
    }

    fn claim(&mut self, logs: Vec<FakeLog>) -> usize {
        let start = chain::Start {
            cluster: CLUSTER,
            links: self.chain.clone(),
            own: ends(&logs),
            nonce: self.rng.random(),
        };
        let claimant = Claimant {
            reader: Reader::new(start, seal(), settings()).expect("a chain"),
            logs,
            finds: Vec::new(),
            orders: (0..SHARDS).map(|_| VecDeque::new()).collect(),
            done: None,
        };
        self.actors.push(Actor::Claimant(claimant));
        self.actors.len() - 1
    }

    /// Something happens.
    fn step(&mut self) {
        self.now += self.rng.random_range(0..3_000);
        if self.rng.random_bool(0.5) {
            if let Some((asker, completion)) = self.bucket.step() {
                self.deliver(asker, completion);
            }
            return;
        }
        let last = self.actors.len() - 1;
        let at = match self.rng.random_ratio(self.haste, 10) {
            true => last,
            false => self.rng.random_range(0..=last),
        };
        match std::mem::replace(&mut self.actors[at], Actor::Gone) {
            Actor::Leader(mut leader) => {
                self.step_leader(at, &mut leader);
                self.actors[at] = Actor::Leader(leader);
            }
            Actor::Claimant(mut claimant) => {
                self.step_claimant(at, &mut claimant);
                self.actors[at] = Actor::Claimant(claimant);
            }
            Actor::Gone => {}
        }
    }

    fn deliver(&mut self, at: usize, completion: Completion) {
        match std::mem::replace(&mut self.actors[at], Actor::Gone) {
            Actor::Leader(mut leader) => {
                let event = rounds::Event::Bucket(completion);
                self.tell_leader(at, &mut leader, Some(event));
                self.actors[at] = Actor::Leader(leader);
            }
            Actor::Claimant(mut claimant) => {
                self.tell_claimant(at, &mut claimant, chain::Event::Bucket(completion));
                self.actors[at] = Actor::Claimant(claimant);
            }
            Actor::Gone => {}
        }
    }

    fn step_leader(&mut self, at: usize, leader: &mut Leader) {
        let number = self.rng.random_range(0..SHARDS);
        let shard = ShardId::new(number);
        match self.rng.random_range(0..3) {
            0 if leader.seals > 0 => {
                leader.seals -= 1;
                let log = &mut leader.logs[usize::from(number)];
                let frames = self.seal_one(log, shard, leader.epoch);
                leader.is_complete = false;
                self.tell_leader(at, leader, Some(rounds::Event::Sealed(shard, frames)));
            }
            1 if !leader.reads.is_empty() => {
                let (shard, after, bytes) = leader.reads.remove(0);
                let frames = leader.logs[usize::from(shard.value())].read(after, bytes as usize);
                self.reached.reads += 1;
                self.tell_leader(at, leader, Some(rounds::Event::Read(shard, frames)));
            }
            _ => self.tell_leader(at, leader, None),
        }
    }

    /// An event, or else a flush.
    fn tell_leader(&mut self, at: usize, leader: &mut Leader, event: Option<rounds::Event>) {
        let mut effects = Vec::new();
        match event {
            Some(event) => leader.uploader.handle(self.now, event, &mut effects),
            None => leader.uploader.flush(self.now, &mut effects),
        }
        for effect in effects {
            assert!(!leader.is_fenced, "{effect:?} behind the fence");
            match effect {
                rounds::Effect::Bucket(token, request) => self.bucket.start(at, token, request),
                rounds::Effect::Read { shard, after, bytes_max } => {
                    leader.reads.push((shard, after, bytes_max));
                }
                rounds::Effect::Held { shard, upto } => {
                    let own = usize::from(shard.value());
                    assert!(leader.logs[own].holds(upto) && upto.lsn > leader.held[own].lsn);
                    leader.held[own] = upto;
                    self.held.push((shard, upto));
                }
                rounds::Effect::Complete => {
                    assert_eq!(leader.held, ends(&leader.logs), "complete, but not held");
                    leader.is_complete = true;
                }
                rounds::Effect::Fenced { .. } => {
                    leader.is_fenced = true;
                    self.reached.fenced_leaders += 1;
                }
            }
        }
        // 4 rounds of 16 KiB or one frame of 24 KiB, what is pending, and 4 reads of 4 KiB that may
        // each bring such a frame.
        let most = 4 * (25 << 10) + (16 << 10) + 5 * (24 << 10);
        assert!(leader.uploader.memory_bytes() <= most, "{}", leader.uploader.memory_bytes());
    }

    fn step_claimant(&mut self, at: usize, claimant: &mut Claimant) {
        let number = self.rng.random_range(0..usize::from(SHARDS));
        let shard = ShardId::new(number as u16);
        match self.rng.random_range(0..3) {
            0 if !claimant.finds.is_empty() => {
                let which = self.rng.random_range(0..claimant.finds.len());
                let (shard, lsn) = claimant.finds.swap_remove(which);
                let own = usize::from(shard.value());
                assert!(claimant.orders[own].is_empty(), "asked about a log that changes");
                let frame = claimant.logs[own].find(lsn);
                self.reached.finds += 1;
                self.tell_claimant(at, claimant, chain::Event::Found { shard, lsn, frame });
            }
            1 => match claimant.orders[number].pop_front() {
                Some(Order::Cut(to)) => claimant.logs[number].cut(to),
                Some(Order::Take(frames)) => {
                    claimant.logs[number].take(&frames);
                    self.tell_claimant(at, claimant, chain::Event::Taken(shard));
                }
                None => {}
            },
            _ => self.tell_claimant(at, claimant, chain::Event::Tick),
        }
    }

    fn tell_claimant(&mut self, at: usize, claimant: &mut Claimant, event: chain::Event) {
        let mut effects = Vec::new();
        claimant.reader.handle(self.now, event, &mut effects);
        for effect in effects {
            assert!(claimant.done.is_none(), "{effect:?} after the end");
            match effect {
                chain::Effect::Bucket(token, request) => self.bucket.start(at, token, request),
                chain::Effect::Find { shard, lsn } => claimant.finds.push((shard, lsn)),
                chain::Effect::Cut { shard, to } => {
                    self.reached.cuts += 1;
                    claimant.orders[usize::from(shard.value())].push_back(Order::Cut(to));
                }
                chain::Effect::Frames { shard, frames } => {
                    let orders = &mut claimant.orders[usize::from(shard.value())];
                    orders.push_back(Order::Take(frames));
                    let waiting = orders.iter().filter(|it| matches!(it, Order::Take(_))).count();
                    assert!(waiting <= settings().in_flight_max, "{waiting} parts are not taken");
                }
                chain::Effect::Done { ends } => claimant.done = Some(ends),
                chain::Effect::Failed(error) => panic!("{error}"),
            }
        }
    }

    fn run_until(&mut self, is_there: impl Fn(&Self) -> bool) {
        for _ in 0..STEPS_MAX {
            if is_there(self) {
                return;
            }
            self.step();
        }
        panic!("no end");
    }

    fn claimant(&self, at: usize) -> &Claimant {
        let Actor::Claimant(claimant) = &self.actors[at] else { panic!("no claimant") };
        claimant
    }

    fn leader(&mut self, at: usize) -> &mut Leader {
        let Actor::Leader(leader) = &mut self.actors[at] else { panic!("no leader") };
        leader
    }

    /// Takes over with one of two logs; returns its log afterwards.
    fn take_over(&mut self, logs: Vec<FakeLog>) -> Vec<FakeLog> {
        let mut at = self.claim(logs);
        while self.rng.random_bool(0.2) {
            // It crashes anywhere; what it has taken so far is there afterwards.
            let steps = self.rng.random_range(0..60);
            (0..steps).for_each(|_| self.step());
            let Actor::Claimant(crashed) = std::mem::replace(&mut self.actors[at], Actor::Gone)
            else {
                panic!("no claimant")
            };
            self.reached.restarts += 1;
            at = self.claim(crashed.logs);
        }
        let is_idle = |it: &Claimant| it.orders.iter().all(VecDeque::is_empty);
        self.run_until(|world| {
            let claimant = world.claimant(at);
            claimant.done.is_some() && is_idle(claimant)
        });
        let Actor::Claimant(claimant) = std::mem::replace(&mut self.actors[at], Actor::Gone) else {
            panic!("no claimant")
        };
        assert_eq!(claimant.done, Some(ends(&claimant.logs)), "the log ends where the chain does");
        self.check(&claimant.logs);
        claimant.logs
    }

    /// Everything that anybody ever counted is there, and every frame is what was sealed.
    fn check(&self, logs: &[FakeLog]) {
        for (shard, position) in &self.held {
            let log = &logs[usize::from(shard.value())];
            assert!(log.holds(*position), "shard {shard} lost {position:?}");
        }
        for (shard, log) in (0..SHARDS).map(ShardId::new).zip(logs) {
            let mut end = Position::default();
            for frame in &log.frames {
                assert_eq!(frame.before, end);
                end = frame.end;
                assert_eq!(self.truth.get(&(shard, end)), Some(&frame.bytes), "other bytes");
            }
        }
    }

    /// Late rounds and void ones, from what the bucket saw.
    fn count_slots(&mut self) {
        let mut fences = BTreeMap::new();
        for key in &self.bucket.made {
            let (epoch, slot) = slot::Name::numbers_of(key).expect("a slot");
            if self.bucket.objects[key].len() == slot::FENCE_BYTES {
                fences.insert(epoch, slot);
            } else if fences.get(&epoch).is_some_and(|fence| slot > *fence) {
                self.reached.voids += 1;
            }
        }
        self.reached.late_rounds += self.bucket.late_rounds;
        self.reached.long_chains += usize::from(self.chain.len() > 2);
    }
}

/// What the disk of a leader may have after its death: everything that was counted, and any part
/// of the rest.
fn left_of(leader: &Leader, rng: &mut SmallRng) -> Vec<FakeLog> {
    let mut logs = leader.logs.clone();
    for (log, held) in logs.iter_mut().zip(&leader.held) {
        let extra = log.frames.iter().filter(|frame| frame.end.lsn > held.lsn).count();
        let lost = rng.random_range(0..=extra);
        log.frames.truncate(log.frames.len() - lost);
    }
    logs
}

fn live(seed: u64) -> Reached {
    let mut world = World::new(seed);
    let (logs, mut other) = world.first_logs();
    let base = ends(&other);
    let mut link = Link { epoch: Epoch::new(2), base };
    world.chain.push(link.clone());
    let mut leading = world.lead(&link, logs);
    for _ in 0..world.rng.random_range(1..4) {
        let steps = world.rng.random_range(0..400);
        (0..steps).for_each(|_| world.step());
        let claims_again = world.rng.random_bool(0.3);
        let logs = if claims_again {
            // Its process died; its requests still travel.
            let Actor::Leader(leader) = std::mem::replace(&mut world.actors[leading], Actor::Gone)
            else {
                panic!("no leader")
            };
            left_of(&leader, &mut world.rng)
        } else {
            let mut rng = world.rng.clone();
            let left = left_of(world.leader(leading), &mut rng);
            world.rng = rng;
            std::mem::replace(&mut other, left)
        };
        let logs = world.take_over(logs);
        let epoch = Epoch::new(link.epoch.value() + 1);
        let ends = ends(&logs);
        // As the election does: an empty log is left out; sometimes the own one begins anew.
        if world.chain.last().is_some_and(|last| last.base == ends) {
            world.chain.pop();
        }
        link = Link { epoch, base: ends };
        if !world.chain.is_empty() && world.rng.random_bool(0.2) {
            link.base = world.chain.swap_remove(0).base;
            // Held only once all of it is there: the leader is not activated before.
            leading = world.lead(&link, logs);
            let seals = std::mem::take(&mut world.leader(leading).seals);
            world.run_until(|world| {
                matches!(&world.actors[leading], Actor::Leader(leader) if leader.is_complete)
            });
            world.leader(leading).seals = seals;
            world.chain = vec![link.clone()];
        } else {
            world.chain.push(link.clone());
            leading = world.lead(&link, logs);
        }
    }
    end(&mut world, leading);
    world.count_slots();
    world.reached
}

/// Nobody writes any more: the leader completes, the deposed ones too or find the fence.
fn end(world: &mut World, leading: usize) {
    for actor in &mut world.actors {
        if let Actor::Leader(leader) = actor {
            leader.seals = 0;
        }
    }
    world.run_until(|world| {
        let ended = |actor: &Actor| match actor {
            Actor::Leader(leader) => leader.is_complete || leader.is_fenced,
            _ => true,
        };
        world.actors.iter().all(ended) && !world.bucket.is_busy()
    });
    let leader = world.leader(leading);
    assert!(leader.is_complete, "who leads is not fenced");
    let logs = leader.logs.clone();
    world.check(&logs);
}

#[test]
fn whatever_was_counted_is_read_by_whoever_takes_over() {
    let mut sum = Reached::default();
    for seed in 0..LIVES {
        let life = std::panic::catch_unwind(|| live(seed));
        let Ok(reached) = life else { panic!("seed {seed}") };
        sum.fenced_leaders += reached.fenced_leaders;
        sum.late_rounds += reached.late_rounds;
        sum.cuts += reached.cuts;
        sum.finds += reached.finds;
        sum.reads += reached.reads;
        sum.restarts += reached.restarts;
        sum.voids += reached.voids;
        sum.long_chains += reached.long_chains;
    }
    let Reached { fenced_leaders, late_rounds, cuts, finds, .. } = sum;
    let Reached { reads, restarts, voids, long_chains, .. } = sum;
    let counts = [fenced_leaders, late_rounds, cuts, finds, reads, restarts, voids, long_chains];
    assert!(counts.iter().all(|count| *count > 20), "{sum:?}");
}
