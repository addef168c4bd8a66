//! Two nodes' replicators and electors with everything around them in memory: the cluster is
//! created, becomes a pair, loses a node, gets it back, is handed over.

// A test is its own node.rs.
#![allow(clippy::disallowed_methods)]

mod rig;

use std::time::Duration;

use celeriant_schema::peer::{Features, Tip};
use celeriant_schema::{BootId, ClusterId, Lsn, Refusal, ShardId, StoreId};
use kameo::actor::{PreparedActor, Spawn};
use kameo::mailbox;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::sync::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::rig::{
    Cable, CableEnd, Epochs, InstantLog, MemoryBucket, Objects, RatedClock, Superblock, hello,
};
use super::activation::all;
use super::bucket::NoBucketLog;
use super::core::rig::{FakeLog, FakeShard, SHARDS};
use super::*;
use crate::election::register::{Seal, Set};
use crate::election::vocabulary::{self, Local, May, RoleName};
use crate::election::{self, Board, CommandMail, Elector};

type Disk = Arc<Mutex<FakeShard>>;

/// A shard in memory, which everybody may look at.
struct ShardActor {
    number: ShardId,
    disk: Disk,
    replicator: Recipient<ReportMail>,
    rng: SmallRng,
}

/// Asks a shard to append something, if it may.
struct Write;

impl Actor for ShardActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(shard: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(shard)
    }
}

impl ShardActor {
    fn tell(&self, reports: Vec<orders::Report>) {
        if !reports.is_empty() {
            let _ = self.replicator.tell(ReportMail(self.number, reports)).try_send();
        }
    }
}

impl Message<OrderMail> for ShardActor {
    type Reply = ();

    async fn handle(&mut self, mail: OrderMail, _: &mut Context<Self, ()>) {
        let mut shard = self.disk.lock().expect("no panic");
        let mut reports = Vec::new();
        for order in mail.0 {
            reports.extend(shard.work(self.number, order, &mut self.rng));
        }
        shard.flush(self.number, &mut reports);
        self.tell(reports);
    }
}

impl Message<Write> for ShardActor {
    type Reply = ();

    async fn handle(&mut self, _: Write, _: &mut Context<Self, ()>) {
        let mut shard = self.disk.lock().expect("no panic");
        if shard.leads.is_some() && !shard.is_quiet {
            let mut reports = vec![shard.seal(&mut self.rng)];
            shard.flush(self.number, &mut reports);
            self.tell(reports);
        }
    }
}

/// A process.
struct Process {
    tasks: Vec<JoinHandle<()>>,
    shards: Vec<ActorRef<ShardActor>>,
    elector: ActorRef<Elector<MemoryBucket>>,
    board: Board,
    standing: Arc<Standing>,
}

struct World {
    start: Instant,
    objects: Objects,
    cable: Arc<Mutex<Cable>>,
    disks: [Vec<Disk>; 2],
    epochs: [Epochs; 2],
    boots: u64,
    processes: [Option<Process>; 2],
    has_bucket_log: bool,
    /// Superblocks cannot be written.
    is_broken: bool,
}

fn store(at: usize) -> StoreId {
    StoreId::new(at as u128 + 1)
}

fn spawn<A: Actor>(actor: PreparedActor<A>, args: A::Args) -> JoinHandle<()> {
    let running = actor.spawn(args);
    tokio::spawn(async move {
        // Killed ones are told by their own abort.
        if let Ok(Err(panic)) = running.await {
            panic!("{panic:?}");
        }
    })
}

impl World {
    fn new(has_bucket_log: bool) -> Self {
        Self {
            start: Instant::now(),
            objects: Objects::default(),
            cable: Arc::default(),
            disks: [0, 1].map(|_| all(SHARDS).map(|_| Disk::default()).collect()),
            epochs: Default::default(),
            boots: 0,
            processes: [None, None],
            has_bucket_log,
            is_broken: false,
        }
    }

    fn start(&mut self, at: usize) {
        self.boots += 1;
        let boot = BootId::new(self.boots);
        let clock = Arc::new(RatedClock { start: self.start, rate: 1_000 + 30 * at as u64 });
        let replicator =
            Replicator::<CableEnd, MemoryBucket>::prepare_with_mailbox(mailbox::unbounded());
        let elector = Elector::<MemoryBucket>::prepare_with_mailbox(mailbox::unbounded());
        let (mut tasks, mut shards) = (Vec::new(), Vec::new());
        for (number, disk) in all(SHARDS).zip(&self.disks[at]) {
            let actor = ShardActor::prepare_with_mailbox(mailbox::unbounded());
            shards.push(actor.actor_ref().clone());
            // What is not durable is lost with the process.
            let log = disk.lock().expect("no panic").log.clone();
            *disk.lock().expect("no panic") = FakeShard::of(log);
            let (disk, rng) = (Arc::clone(disk), SmallRng::seed_from_u64(self.boots));
            let replicator = replicator.actor_ref().clone().recipient();
            tasks.push(spawn(actor, ShardActor { number, disk, replicator, rng }));
        }
        let (promised, max_epoch_seen) = *self.epochs[at].lock().expect("no panic");
        let standing = Arc::new(Standing::default());
        let board = Board::default();
        let tip = |shard| Tip { shard, ..Tip::default() };
        let local = Local {
            promised,
            max_epoch_seen,
            tips: all(SHARDS).map(tip).collect(),
            may: May { create: (at == 0).then_some(1), join: true },
        };
        let me = vocabulary::Identity { cluster: ClusterId::new(9), boot, member: member(at) };
        let elector_ref = elector.actor_ref().clone();
        let election = elector_ref.clone().recipient();
        let election_args = election::Args {
            core: election::Core::new(
                election::Settings::default(),
                Seal::new(None),
                me,
                local,
                self.boots,
                clock.now(),
            ),
            bucket: MemoryBucket::new(&self.objects),
            keeper: Box::new(Superblock {
                epochs: Arc::clone(&self.epochs[at]),
                is_broken: self.is_broken,
            }),
            replicator: replicator.actor_ref().clone().recipient(),
            clock: clock.clone(),
            standing: Arc::clone(&standing),
            board: board.clone(),
        };
        let log: Box<dyn BucketLog> =
            if self.has_bucket_log { Box::new(InstantLog) } else { Box::new(NoBucketLog) };
        let args = Args {
            identity: Identity { store: store(at), boot, shards: SHARDS },
            promised,
            settings: Settings::default(),
            shards: shards.iter().map(|shard| shard.clone().recipient()).collect(),
            election,
            link: Cable::attach(&self.cable, at, hello(store(at), self.boots)),
            bucket: MemoryBucket::new(&self.objects),
            log,
            clock,
            standing: Arc::clone(&standing),
        };
        tasks.push(spawn(replicator, args));
        tasks.push(spawn(elector, election_args));
        self.processes[at] = Some(Process { tasks, shards, elector: elector_ref, board, standing });
    }

    /// Ends a process in the middle of anything.
    fn kill(&mut self, at: usize) {
        let process = self.process_mut(at);
        process.tasks.iter().for_each(JoinHandle::abort);
        process.shards.iter().for_each(ActorRef::kill);
        process.elector.kill();
        self.processes[at] = None;
        self.cable.lock().expect("no panic").detach(at);
    }

    fn process(&self, at: usize) -> &Process {
        self.processes[at].as_ref().expect("it runs")
    }

    fn process_mut(&mut self, at: usize) -> &mut Process {
        self.processes[at].as_mut().expect("it runs")
    }

    /// What the register was seen to say, if that node leads.
    fn leads(&self, at: usize) -> Option<Set> {
        let status = self.process(at).board.status()?;
        status.set.filter(|_| status.role == RoleName::Leading)
    }

    fn logs(&self, at: usize) -> Vec<FakeLog> {
        self.disks[at].iter().map(|disk| disk.lock().expect("no panic").log.clone()).collect()
    }

    fn committed(&self, at: usize) -> Vec<Lsn> {
        self.logs(at).iter().map(|log| log.commit).collect()
    }

    fn all_committed(&self, at: usize) -> bool {
        self.logs(at).iter().all(|log| log.commit == log.end().lsn && !log.ends.is_empty())
    }

    fn write(&self, at: usize) {
        for shard in &self.process(at).shards {
            let _ = shard.tell(Write).try_send();
        }
    }

    /// Time passes until it is so, or too much of it has.
    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is_so(self) {
            let statuses = self.processes.iter().flatten().map(|p| p.board.status());
            assert!(
                Instant::now() < end,
                "never: {what}; {:?}; {:?}",
                statuses.collect::<Vec<_>>(),
                [self.committed(0), self.committed(1)]
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Writes at `leader` in the pair: nothing is committed there that the other has not.
    async fn write_as_pair(&self, leader: usize) {
        let before = self.committed(leader);
        for _ in 0..20 {
            self.write(leader);
            for _ in 0..3 {
                tokio::task::yield_now().await;
                self.check_pair(leader);
            }
        }
        self.until("writes are committed", |world| {
            world.check_pair(leader);
            world.all_committed(leader) && world.committed(leader) > before
        })
        .await;
        // The follower learns of it with the next heartbeat.
        self.until("the follower commits", |world| {
            world.committed(leader) == world.committed(leader ^ 1)
        })
        .await;
    }

    fn check_pair(&self, leader: usize) {
        let (own, theirs) = (self.logs(leader), self.logs(leader ^ 1));
        for (own, theirs) in own.iter().zip(&theirs) {
            let durable = &theirs.ends[..theirs.durable];
            let committed = own.ends.iter().filter(|end| end.lsn <= own.commit);
            committed.for_each(|end| assert!(durable.contains(end), "{end:?} is in one place"));
        }
    }
}

fn member(at: usize) -> Member {
    Member {
        store: store(at),
        node: format!("node-{at}"),
        clients: format!("node-{at}:1"),
        features: Features { min: 1, max: 1 },
        ..Member::default()
    }
}

const A: usize = 0;
const B: usize = 1;

fn pair() -> Set {
    Set::pair(store(A), store(B))
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_made_loses_its_leader_gets_it_back_and_is_handed_over() {
    let mut world = World::new(true);
    world.start(A);
    world.until("A leads alone", |world| world.leads(A) == Some(Set::Bucket(store(A)))).await;
    world.write(A);
    world.until("it commits in the bucket", |world| world.all_committed(A)).await;
    world.start(B);
    world.until("a pair", |world| world.leads(A) == Some(pair())).await;
    world.write_as_pair(A).await;
    let until = |world: &World| {
        world.process(A).standing.holds_lease(world.start.elapsed().as_micros() as u64)
    };
    assert!(until(&world), "the follower grants");
    let leader = Some("node-0:1".into());
    assert_eq!(world.process(B).standing.refusal(), Refusal::NotLeader { leader });

    world.write(A);
    tokio::task::yield_now().await;
    world.kill(A);
    let acknowledged = world.logs(A);
    world.until("B takes over", |world| world.leads(B) == Some(Set::Bucket(store(B)))).await;
    world.until("B commits all of its log", |world| world.all_committed(B)).await;
    for (of_a, of_b) in acknowledged.iter().zip(world.logs(B)) {
        let lost =
            of_a.ends.iter().filter(|end| end.lsn <= of_a.commit && !of_b.ends.contains(end));
        assert_eq!(lost.count(), 0, "acknowledged and lost");
    }
    world.write(B);

    world.start(A);
    world.until("a pair again", |world| world.leads(B) == Some(pair())).await;
    world.write_as_pair(B).await;

    let (reply, outcome) = oneshot::channel();
    let command = vocabulary::Command::HandOver;
    let reply = Box::new(|result| drop(reply.send(result)));
    let _ = world.process(B).elector.tell(CommandMail { command, reply }).try_send();
    assert_eq!(outcome.await.expect("an answer"), Ok(()));
    world.until("A leads", |world| world.leads(A) == Some(pair())).await;
    world.write_as_pair(A).await;
    let epochs = world.epochs.each_ref().map(|epochs| *epochs.lock().expect("no panic"));
    assert_eq!(epochs[A].0, epochs[B].0, "both promised the same");
    assert_eq!(world.process(A).standing.epoch(), epochs[A].0);
}

#[tokio::test(start_paused = true)]
async fn without_bucket_logs_nothing_is_committed_until_there_are_two_nodes() {
    let mut world = World::new(false);
    world.start(A);
    world.until("A leads", |world| world.leads(A) == Some(Set::Bucket(store(A)))).await;
    for _ in 0..100 {
        world.write(A);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.committed(A), vec![Lsn::ZERO; SHARDS.into()]);
    world.start(B);
    world.until("a pair", |world| world.leads(A) == Some(pair())).await;
    world.write_as_pair(A).await;
}

#[tokio::test(start_paused = true)]
async fn a_promise_that_is_not_durable_ends_the_election_and_nothing_rests_on_it() {
    let mut world = World::new(true);
    world.is_broken = true;
    world.start(A);
    world.until("it stops", |world| !world.process(A).elector.is_alive()).await;
    assert_eq!(world.leads(A), None);
    assert!(world.disks[A].iter().all(|disk| disk.lock().expect("no panic").leads.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_makes_no_sense_costs_the_session_and_nothing_else() {
    let mut world = World::new(true);
    world.start(A);
    world.start(B);
    world.until("a pair", |world| world.leads(A) == Some(pair())).await;
    world.write_as_pair(A).await;
    let session = world.cable.lock().expect("no panic").session();
    world.cable.lock().expect("no panic").garble(A);
    world
        .until("a new session", |world| world.cable.lock().expect("no panic").session() > session)
        .await;
    world.write_as_pair(A).await;
    assert_eq!(world.leads(A), Some(pair()), "in the same set");
}
