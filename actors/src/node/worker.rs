//! One thread of a node: recovers its shards, runs them, and does what the root orders.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use celeriant_net::{Door, Shutdown};
use celeriant_schema::peer::Tip;
use celeriant_schema::{ClusterId, Lsn, ShardId, Stamp};
use celeriant_storage::disk::Disk;
use celeriant_storage::recovery::{Known, Recovered, Report, recover, recover_member};
use celeriant_storage::{Error as StorageError, Identity};
use kameo::actor::{ActorRef, PreparedActor, Recipient, Spawn};
use kameo::mailbox;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Error, Placement, Settings, TakeEpoch};
use crate::clock::{Clock, Micros, StampClock};
use crate::coordinator::{AnswerMail, BeginMail, Coordinator, ShardMail};
use crate::replicator::orders::{OrderMail, ReportMail};
use crate::router::Router;
use crate::schemas::WantedMail;
use crate::shard::{Args, Disks, Drain, Elsewhere, Joints, Orgs, Shard, Surroundings, Tick};
use crate::standing::Standing;
use crate::watch::{Busy, NewsMail, Release, Watch, WatchMail};

/// How often shards note what is durable and look at deadlines.
const TICK: Duration = Duration::from_secs(1);

/// How long a stop waits for shards to come to rest.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What the root tells a thread.
pub(super) enum Order {
    /// Start the actors.
    Run(Box<Run>),
    /// Accept connections.
    Listen {
        addr: SocketAddr,
        door: Box<Door>,
        reply: oneshot::Sender<std::io::Result<SocketAddr>>,
    },
    /// Take no more requests; answer what was taken.
    Quiesce,
    /// Make everything accepted durable, and note that it is.
    Drain,
    /// End.
    End,
}

/// What a thread needs to start its actors.
pub(super) struct Run {
    pub(super) stamps: StampClock,
    pub(super) joints: Joints,
    pub(super) standing: Arc<Standing>,
    pub(super) shards: Arc<[Recipient<ShardMail>]>,
    pub(super) coordinators: Arc<[Recipient<AnswerMail>]>,
    pub(super) watches: Arc<[Recipient<NewsMail>]>,
    pub(super) orderer: Recipient<ReportMail>,
    pub(super) registrar: Recipient<WantedMail>,
    pub(super) orgs: Arc<Orgs>,
    pub(super) router: Router,
}

/// What a thread tells the root.
#[derive(Debug)]
pub(super) enum News {
    Surveyed {
        index: usize,
        shards: Vec<Survey>,
        begin: Recipient<BeginMail>,
        answers: Recipient<AnswerMail>,
        watch: (Recipient<WatchMail>, Recipient<NewsMail>),
    },
    Leading,
    Failed(Error),
    Quiet,
    Drained,
}

/// What recovery found in one shard.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) shard: ShardId,
    pub(super) mail: Recipient<ShardMail>,
    pub(super) orders: Recipient<OrderMail>,
    pub(super) max_stamp: Stamp,
    pub(super) tip: Tip,
    pub(super) report: Report,
}

/// What the threads of a node have in common.
pub(super) struct Common<D> {
    pub(super) cluster: ClusterId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) disks: Disks<D>,
    /// One of a pair: what is durable here is not committed for that.
    pub(super) is_member: bool,
    pub(super) placement: Placement,
    /// Holds the data directory of a node on its own until the last thread ends.
    pub(super) _owner: Option<TakeEpoch>,
}

/// One thread's work.
pub(super) struct Worker<D: Disk> {
    index: usize,
    settings: Arc<Settings>,
    common: Arc<Common<D>>,
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::UnboundedSender<News>,
    recovered: Vec<RecoveredShard<D>>,
    coordinator: Option<PreparedActor<Coordinator>>,
    watch: Option<PreparedActor<Watch>>,
    watching: Option<ActorRef<Watch>>,
    running: Vec<ActorRef<Shard<D>>>,
    /// Everything spawned; dropped with the worker, which ends it.
    tasks: Vec<AbortOnDrop>,
    shutdown: Shutdown,
    listening: Vec<JoinHandle<()>>,
    router: Option<Router>,
    /// Told to end, or has said why it cannot go on.
    ended: bool,
}

struct RecoveredShard<D: Disk> {
    identity: Identity,
    disk: D,
    recovered: Recovered,
    actor: PreparedActor<Shard<D>>,
}

/// A task that ends with its owner.
pub(super) struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs an actor; its end is the node's end and is reported.
pub(super) fn watch<A: kameo::Actor>(
    news: &mpsc::UnboundedSender<News>,
    actor: String,
    prepared: PreparedActor<A>,
    args: A::Args,
) -> AbortOnDrop {
    let news = news.clone();
    AbortOnDrop(tokio::spawn(async move {
        let reason = match prepared.run(args).await {
            Ok((_, reason)) => format!("{reason:?}"),
            Err(panic) => format!("{panic:?}"),
        };
        let _ = news.send(News::Failed(Error::Stopped { actor, reason }));
    }))
}

impl<D: Disk> Worker<D> {
    pub(super) fn new(
        index: usize,
        settings: Arc<Settings>,
        common: Arc<Common<D>>,
        orders: mpsc::UnboundedReceiver<Order>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        Self {
            index,
            settings,
            common,
            orders,
            news,
            recovered: Vec::new(),
            coordinator: None,
            watch: None,
            watching: None,
            running: Vec::new(),
            tasks: Vec::new(),
            shutdown: Shutdown::new(),
            listening: Vec::new(),
            router: None,
            ended: false,
        }
    }

    /// Everything this thread does, to its end.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.survey().await {
            return self.fail(error);
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                biased;
                order = self.orders.recv() => order,
                _ = ticks.tick() => {
                    self.tick();
                    continue;
                }
            };
            match order {
                Some(Order::Run(run)) => self.start(*run),
                Some(Order::Listen { addr, door, reply }) => {
                    let _ = reply.send(self.listen(addr, *door));
                }
                Some(Order::Quiesce) => {
                    self.quiesce().await;
                    self.tell(News::Quiet);
                }
                Some(Order::Drain) => {
                    self.drain().await;
                    self.tell(News::Drained);
                }
                Some(Order::End) | None => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn tell(&self, news: News) {
        // Without a root nobody is left to tell.
        let _ = self.news.send(news);
    }

    fn fail(&mut self, error: Error) {
        self.tell(News::Failed(error));
        self.ended = true;
    }

    async fn survey(&mut self) -> Result<(), Error> {
        let mut surveys = Vec::new();
        let mine = |shard: &u16| usize::from(*shard) % self.settings.threads == self.index;
        for shard in (0..self.settings.shards).filter(mine).map(ShardId::new) {
            let fail = |source| Error::Storage { shard, source };
            let identity = Identity { cluster: self.common.cluster, shard };
            let mut disk =
                (self.common.disks)(shard).map_err(|error| fail(StorageError::Io(error)))?;
            let log = &self.settings.log;
            let recovered = match self.common.is_member {
                true => recover_member(&mut disk, identity, log, Known::default()).await,
                false => recover(&mut disk, identity, log).await,
            };
            let recovered = recovered.map_err(fail)?;
            let actor = Shard::<D>::prepare_with_mailbox(mailbox::unbounded());
            surveys.push(Survey {
                shard,
                mail: actor.actor_ref().clone().recipient(),
                orders: actor.actor_ref().clone().recipient(),
                max_stamp: recovered.max_stamp,
                tip: recovered.log.tip(),
                report: recovered.report.clone(),
            });
            self.recovered.push(RecoveredShard { identity, disk, recovered, actor });
        }
        let coordinator = Coordinator::prepare_with_mailbox(mailbox::unbounded());
        let begin = coordinator.actor_ref().clone().recipient();
        let answers = coordinator.actor_ref().clone().recipient();
        self.coordinator = Some(coordinator);
        let prepared = Watch::prepare_with_mailbox(mailbox::unbounded());
        let mail = prepared.actor_ref().clone();
        let watch = (mail.clone().recipient(), mail.recipient());
        self.watch = Some(prepared);
        let index = self.index;
        self.tell(News::Surveyed { index, shards: surveys, begin, answers, watch });
        Ok(())
    }

    /// Starts the actors. One that dies is reported by its own watcher.
    fn start(&mut self, run: Run) {
        let clock = &self.common.clock;
        if let Some(prepared) = self.coordinator.take() {
            let (clock, standing) = (Arc::clone(clock), Arc::clone(&run.standing));
            let coordinator =
                Coordinator::new(self.index, clock, standing, Arc::clone(&run.shards));
            let task =
                watch(&self.news, format!("coordinator {}", self.index), prepared, coordinator);
            self.tasks.push(task);
        }
        if let Some(prepared) = self.watch.take() {
            self.watching = Some(prepared.actor_ref().clone());
            let shards = Arc::clone(&run.shards);
            let actor = Watch::new(self.index, Arc::clone(clock), self.busy(), shards);
            self.tasks.push(watch(&self.news, format!("watch {}", self.index), prepared, actor));
        }
        let cache_bytes = self.settings.cache_bytes / usize::from(self.settings.shards.max(1));
        for RecoveredShard { identity, disk, recovered, actor } in
            std::mem::take(&mut self.recovered)
        {
            let elsewhere = match self.common.is_member {
                true => Elsewhere::Upto(Lsn::ZERO),
                false => Elsewhere::Alone,
            };
            if self.common.is_member && recovered.log.committed() < recovered.log.durable() {
                run.standing.unsettle(identity.shard);
            }
            let surroundings = Surroundings {
                identity,
                settings: self.settings.log,
                cache_bytes: cache_bytes as u64,
                stamps: run.stamps.clone(),
                elsewhere,
                joints: run.joints.clone(),
                standing: Arc::clone(&run.standing),
                orgs: Arc::clone(&run.orgs),
                shards: run.shards.len() as u16,
            };
            let args = Args {
                surroundings,
                recovered,
                disk,
                disks: Arc::clone(&self.common.disks),
                clock: Arc::clone(&self.common.clock),
                coordinators: Arc::clone(&run.coordinators),
                watches: Arc::clone(&run.watches),
                shards: Arc::clone(&run.shards),
                orderer: run.orderer.clone(),
                registrar: run.registrar.clone(),
            };
            self.running.push(actor.actor_ref().clone());
            let name = format!("shard {}", identity.shard);
            self.tasks.push(watch(&self.news, name, actor, args));
        }
        self.router = Some(run.router);
    }

    /// How long this thread has worked. In a simulation it always does, so that a watch rests
    /// there, too.
    fn busy(&self) -> Busy {
        match self.common.placement {
            Placement::Threads => {
                let metrics = tokio::runtime::Handle::current().metrics();
                Box::new(move || metrics.worker_total_busy_duration(0).as_micros() as Micros)
            }
            Placement::Here => {
                let clock = Arc::clone(&self.common.clock);
                Box::new(move || clock.now())
            }
        }
    }

    fn tick(&self) {
        for shard in &self.running {
            let _ = shard.tell(Tick).try_send();
        }
        if let Some(watch) = &self.watching {
            let _ = watch.tell(crate::watch::Tick).try_send();
        }
    }

    fn listen(&mut self, addr: SocketAddr, door: Door) -> std::io::Result<SocketAddr> {
        let addr = match self.index {
            // A shared port can be joined by any process of the same user: make sure that nobody
            // else listens there before this node's threads share it.
            0 => celeriant_net::bind(addr, false)?.local_addr()?,
            _ => addr,
        };
        let listener = celeriant_net::bind(addr, true)?;
        let bound = listener.local_addr()?;
        let Some(router) = self.router.clone() else {
            unreachable!("a node listens only after it runs");
        };
        let (net, stop) = (Arc::clone(&self.settings.net), self.shutdown.stop());
        let serving = celeriant_net::serve(listener, router, net, door, stop);
        self.listening.push(tokio::spawn(serving));
        Ok(bound)
    }

    /// Lets connections answer what they were asked. Shards of all threads still run.
    async fn quiesce(&mut self) {
        if let Some(watch) = &self.watching {
            let _ = watch.tell(Release).try_send();
        }
        self.shutdown.trigger();
        let mut listening = std::mem::take(&mut self.listening);
        let answered = async move {
            for connections in &mut listening {
                // A listener that panicked has nothing left to answer.
                let _ = connections.await;
            }
        };
        self.while_ticking(answered).await;
    }

    /// Waits until everything that the shards accepted is durable, but not for ever: a shard that
    /// cannot get there (no space left) has answered nothing that would be lost.
    async fn drain(&mut self) {
        let mut draining = Vec::new();
        for shard in &self.running {
            let (done, drained) = oneshot::channel();
            if shard.tell(Drain(done)).try_send().is_ok() {
                draining.push(drained);
            }
        }
        let all = async move {
            for drained in draining {
                // A shard that stopped instead has said so in the news.
                let _ = drained.await;
            }
        };
        if timeout(DRAIN_MAX, self.while_ticking(all)).await.is_err() {
            tracing::warn!(thread = self.index, "shards did not come to rest; ending anyway");
        }
    }

    /// Waits for `work` while shards go on noticing time.
    async fn while_ticking(&mut self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                _ = ticks.tick() => self.tick(),
            }
        }
    }
}

impl<D: Disk> Drop for Worker<D> {
    /// A thread that ends without having been told to has panicked: the node must stop.
    fn drop(&mut self) {
        if !self.ended {
            let actor = format!("thread {}", self.index);
            let reason = "ended unexpectedly".into();
            self.tell(News::Failed(Error::Stopped { actor, reason }));
        }
    }
}
