//! One thread of a node: recovers its shards, runs them, and does what the root orders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use celeriant_net::{Door, Shutdown};
use celeriant_schema::{Epoch, ShardId, Stamp, TxnId};
use celeriant_storage::cache::FrameCache;
use celeriant_storage::disk::Disk;
use celeriant_storage::recovery::{Recovered, Report, find_outcomes, recover};
use celeriant_storage::{Error as StorageError, Identity};
use kameo::actor::{ActorRef, PreparedActor, Recipient, Spawn};
use kameo::mailbox;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Components, Error, Settings};
use crate::clock::StampClock;
use crate::coordinator::{AnswerMail, BeginMail, Coordinator, ShardMail};
use crate::router::Router;
use crate::settlement::Trace;
use crate::shard::core::Parts;
use crate::shard::{Args, Drain, Elsewhere, Shard, Tick};

/// How often shards note what is durable and look at deadlines.
const TICK: Duration = Duration::from_secs(1);

/// How long a stop waits for shards to come to rest.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// What the root tells a thread.
pub(super) enum Order {
    /// Look for what became of legs in the directories of the shards that are here.
    Lookup(Vec<(ShardId, Vec<TxnId>)>),
    /// Start the actors.
    Lead(Lead, Router),
    /// Accept connections.
    Listen { addr: SocketAddr, door: Door, reply: oneshot::Sender<std::io::Result<SocketAddr>> },
    /// Take no more requests; answer what was taken.
    Quiesce,
    /// Make everything accepted durable, and note that it is.
    Drain,
    /// End.
    End,
}

/// What all threads need to start their actors.
pub(super) struct Lead {
    pub(super) epoch: Epoch,
    pub(super) stamps: StampClock,
    pub(super) shards: Arc<[Recipient<ShardMail>]>,
    pub(super) coordinators: Arc<[Recipient<AnswerMail>]>,
    pub(super) decisions: Arc<BTreeMap<TxnId, bool>>,
}

/// What a thread tells the root.
#[derive(Debug)]
pub(super) enum News {
    Surveyed {
        index: usize,
        shards: Vec<Survey>,
        begin: Recipient<BeginMail>,
        answers: Recipient<AnswerMail>,
    },
    Found(Vec<(ShardId, TxnId, Trace)>),
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
    pub(super) pending: Vec<(TxnId, Vec<ShardId>)>,
    pub(super) outcomes: BTreeMap<TxnId, bool>,
    pub(super) max_stamp: Stamp,
    pub(super) max_epoch: Epoch,
    pub(super) report: Report,
}

impl Survey {
    /// `None`: ask the directory.
    pub(super) fn trace(&self, txn: TxnId) -> Option<Trace> {
        if self.pending.iter().any(|(pending, _)| *pending == txn) {
            return Some(Trace::Leg);
        }
        self.outcomes.get(&txn).map(|commit| Trace::Resolved(*commit))
    }
}

/// One thread's work.
pub(super) struct Worker<D: Disk> {
    index: usize,
    settings: Arc<Settings>,
    components: Arc<Components<D>>,
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::UnboundedSender<News>,
    recovered: Vec<RecoveredShard<D>>,
    coordinator: Option<PreparedActor<Coordinator>>,
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

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<D: Disk> Worker<D> {
    pub(super) fn new(
        index: usize,
        settings: Arc<Settings>,
        components: Arc<Components<D>>,
        orders: mpsc::UnboundedReceiver<Order>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        Self {
            index,
            settings,
            components,
            orders,
            news,
            recovered: Vec::new(),
            coordinator: None,
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
                Some(Order::Lookup(lookups)) => match self.look_up(lookups).await {
                    Ok(found) => self.tell(News::Found(found)),
                    Err(error) => return self.fail(error),
                },
                Some(Order::Lead(lead, router)) => {
                    self.router = Some(router);
                    // A shard that dies while starting is reported by its own watcher.
                    if self.lead(&lead).await {
                        self.tell(News::Leading);
                    }
                }
                Some(Order::Listen { addr, door, reply }) => {
                    let _ = reply.send(self.listen(addr, door));
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
            let identity = Identity { cluster: self.components.cluster, shard };
            let mut disk =
                (self.components.disks)(shard).map_err(|error| fail(StorageError::Io(error)))?;
            let recovered = recover(&mut disk, identity, &self.settings.log).await.map_err(fail)?;
            let actor = Shard::<D>::prepare_with_mailbox(mailbox::unbounded());
            let pending = recovered.pending.iter();
            surveys.push(Survey {
                shard,
                mail: actor.actor_ref().clone().recipient(),
                pending: pending.map(|leg| (leg.txn, leg.participants.clone())).collect(),
                outcomes: recovered.outcomes.iter().map(|(txn, commit)| (*txn, *commit)).collect(),
                max_stamp: recovered.max_stamp,
                max_epoch: recovered.max_epoch,
                report: recovered.report.clone(),
            });
            self.recovered.push(RecoveredShard { identity, disk, recovered, actor });
        }
        let coordinator = Coordinator::prepare_with_mailbox(mailbox::unbounded());
        let begin = coordinator.actor_ref().clone().recipient();
        let answers = coordinator.actor_ref().clone().recipient();
        self.coordinator = Some(coordinator);
        self.tell(News::Surveyed { index: self.index, shards: surveys, begin, answers });
        Ok(())
    }

    async fn look_up(
        &mut self,
        lookups: Vec<(ShardId, Vec<TxnId>)>,
    ) -> Result<Vec<(ShardId, TxnId, Trace)>, Error> {
        let mut found = Vec::new();
        for RecoveredShard { identity, disk, recovered, .. } in &mut self.recovered {
            let shard = identity.shard;
            let wanted = lookups.iter().filter(|(to, _)| *to == shard);
            let txns: Vec<TxnId> = wanted.flat_map(|(_, txns)| txns.iter().copied()).collect();
            if txns.is_empty() {
                continue;
            }
            let outcomes = find_outcomes(disk, recovered, &txns)
                .await
                .map_err(|source| Error::Storage { shard, source })?;
            let trace = |outcome: Option<bool>| outcome.map_or(Trace::Nothing, Trace::Resolved);
            let traces = txns.into_iter().zip(outcomes);
            found.extend(traces.map(|(txn, outcome)| (shard, txn, trace(outcome))));
        }
        Ok(found)
    }

    /// Starts the actors and waits until every shard can serve; `false` if one died before.
    async fn lead(&mut self, lead: &Lead) -> bool {
        let clock = &self.components.clock;
        if let Some(prepared) = self.coordinator.take() {
            let shards = Arc::clone(&lead.shards);
            let actor = Coordinator::new(self.index, Arc::clone(clock), shards);
            let name = format!("coordinator {}", self.index);
            let news = self.news.clone();
            self.watch(news, name, prepared, actor);
        }
        let cache_bytes = self.settings.cache_bytes / usize::from(self.settings.shards.max(1));
        let mut waiting = Vec::new();
        for RecoveredShard { identity, disk, recovered, actor } in
            std::mem::take(&mut self.recovered)
        {
            let settlements = recovered.pending.into_iter().map(|leg| {
                let Some(commit) = lead.decisions.get(&leg.txn) else {
                    unreachable!("{} was surveyed, so it is decided", leg.txn);
                };
                (leg, *commit)
            });
            let parts = Parts {
                identity,
                epoch: lead.epoch,
                boot: self.components.boot,
                log: recovered.log,
                directory: recovered.directory,
                settlements: settlements.collect(),
                cache: FrameCache::new(cache_bytes as u64),
                stamps: lead.stamps.clone(),
                elsewhere: Elsewhere::Alone,
            };
            let (ready, readiness) = oneshot::channel();
            waiting.push(readiness);
            let (clock, coordinators) =
                (Arc::clone(&self.components.clock), Arc::clone(&lead.coordinators));
            let args = Args { parts, disk, clock, coordinators, ready };
            self.running.push(actor.actor_ref().clone());
            self.watch(self.news.clone(), format!("shard {}", identity.shard), actor, args);
        }
        for readiness in waiting {
            if readiness.await.is_err() {
                return false;
            }
        }
        true
    }

    /// Runs an actor; its end is the node's end and is reported.
    fn watch<A: kameo::Actor>(
        &mut self,
        news: mpsc::UnboundedSender<News>,
        actor: String,
        prepared: PreparedActor<A>,
        args: A::Args,
    ) {
        let task = tokio::spawn(async move {
            let reason = match prepared.run(args).await {
                Ok((_, reason)) => format!("{reason:?}"),
                Err(panic) => format!("{panic:?}"),
            };
            let _ = news.send(News::Failed(Error::Stopped { actor, reason }));
        });
        self.tasks.push(AbortOnDrop(task));
    }

    fn tick(&self) {
        for shard in &self.running {
            let _ = shard.tell(Tick).try_send();
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
            unreachable!("a node listens only after it leads");
        };
        let (net, stop) = (Arc::clone(&self.settings.net), self.shutdown.stop());
        let serving = celeriant_net::serve(listener, router, net, door, stop);
        self.listening.push(tokio::spawn(serving));
        Ok(bound)
    }

    /// Lets connections answer what they were asked. Shards of all threads still run.
    async fn quiesce(&mut self) {
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
