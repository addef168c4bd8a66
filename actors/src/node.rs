//! A node: threads, and on each of them shards, a coordinator and a listener.
//!
//! ```text
//! survey   every thread recovers its shards and reports what it found
//! run      actors start; every shard follows
//! lead     a node on its own leads at once (solo); one of a pair when the election says so (pair)
//! listen   each thread accepts connections of its own (SO_REUSEPORT)
//! http     one more thread serves HTTP, if it is wanted (gateway)
//! stop     a leader of a pair hands over; listeners first, then shards drain
//! ```
//!
//! The only place that joins [`Settings`] and [`Components`], spawns and starts threads. There is
//! no restart in place: when any actor dies the node stops, and recovery is the start path.

// Spawning is this module's job; everywhere else it is banned (.clippy.toml).
#![allow(clippy::disallowed_methods)]

mod aside;
mod gateway;
pub mod pair;
mod solo;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use celeriant_net::{Door, Elsewhere, Keyring, Rooms, http};
use celeriant_schema::peer::Tip;
use celeriant_schema::{BootId, ClusterId, Epoch, ShardId, Stamp};
use celeriant_storage::disk::Disk;
use kameo::actor::{Recipient, Spawn};
use kameo::mailbox;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::aside::{Aside, Asides};
use self::gateway::Gateway;
use self::pair::{AnyPair, Cluster};
use self::solo::Solo;
use self::worker::{AbortOnDrop, Common, News, Order, Run, Survey, Worker, watch};
use crate::admin::Admin;
use crate::admission::Admission;
use crate::clock::{Clock, StampClock};
use crate::coordinator::{AnswerMail, BeginMail, ShardMail};
use crate::insider::Insider;
use crate::keys::{Keys, Random};
use crate::quotas::{Meter, Quotas};
use crate::replicator::activation::Activation;
use crate::replicator::orders::{OrderMail, ReportMail};
use crate::router::{Router, Shared};
use crate::schemas::Registrar;
use crate::settlement::Contradiction;
pub use crate::shard::Disks;
use crate::shard::{Joints, Orgs};
use crate::standing::Standing;
use crate::trail::Trail;
use crate::watch::{NewsMail, WatchMail};

/// Plain numbers of a node; validated where they are read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shards of the cluster, fixed when it is created.
    pub shards: u16,
    /// Threads to deal them to.
    pub threads: usize,
    /// Bytes for requests that are not yet answered.
    pub admission_bytes: usize,
    /// What orgs may take.
    pub quotas: Quotas,
    /// Bytes of frames kept in memory, all shards together.
    pub cache_bytes: usize,
    /// Of every shard's log.
    pub log: celeriant_storage::Settings,
    /// Of every listener.
    pub net: Arc<celeriant_net::Settings>,
}

/// Tasks that a thread polls before it looks at its sockets again. One poll here handles all that a
/// connection or a shard has, up to a millisecond of work: with tokio's 61 a connection with
/// thousands of requests in flight would keep the others waiting for 60 ms.
const POLLS_PER_LOOK: u32 = 8;

/// How long a stop waits for the election to hand over: longer than that tries by itself.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);

/// Takes an epoch above the one given, durably. Owns the data directory: kept as long as anything
/// of the node runs.
pub type TakeEpoch =
    Arc<dyn Fn(Epoch) -> Result<Epoch, celeriant_storage::store::Error> + Send + Sync>;

/// What can be swapped.
pub struct Components<D> {
    /// Whose data this is.
    pub cluster: ClusterId,
    /// Of this process start; random.
    pub boot: BootId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Disks.
    pub disks: Disks<D>,
    /// Where the threads' work runs.
    pub placement: Placement,
    /// Who says that it leads.
    pub membership: Membership,
    /// Secrets of API keys are made of it.
    pub random: Random,
}

/// What a node is to others.
pub enum Membership {
    /// A node on its own. Takes the epoch of this process start: above the highest in any log,
    /// which it is given, and above every earlier one; durable before it returns (R8).
    Alone(TakeEpoch),
    /// One of a pair: it leads when the election says so.
    Pair(AnyPair),
}

/// Where the work of a node's threads runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placement {
    /// On threads of their own, one runtime each.
    Threads,
    /// All on the current runtime: simulation.
    Here,
}

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shard's storage.
    #[error("shard {shard}: {source}")]
    Storage {
        /// Which shard.
        shard: ShardId,
        /// What happened.
        source: celeriant_storage::Error,
    },
    /// The superblock.
    #[error(transparent)]
    Store(#[from] celeriant_storage::store::Error),
    /// The logs disagree about a write.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// An actor stopped.
    #[error("{actor} stopped: {reason}")]
    Stopped {
        /// Which.
        actor: String,
        /// What is known.
        reason: String,
    },
    /// The listener.
    #[error("listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The link to the other node.
    #[error(transparent)]
    Link(#[from] celeriant_net::link::quic::Error),
    /// The bucket does not do what it must.
    #[error(transparent)]
    Bucket(celeriant_storage::bucket::probe::Refusal),
    /// A thread or a runtime could not be made.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
}

/// A node that serves.
pub struct Node {
    routers: Vec<Router>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    news: mpsc::UnboundedReceiver<News>,
    /// For those who come later; does not keep the news alive.
    reporter: mpsc::WeakUnboundedSender<News>,
    gateway: Option<Gateway>,
    /// Tasks of `Placement::Here`, for [`Node::kill`].
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// The node's own actors, which give the orders.
    actors: Vec<AbortOnDrop>,
    /// Registrar, trail and keys.
    aside: Vec<Aside>,
    keyring: Arc<Keyring>,
    rooms: Rooms,
    threads: Vec<std::thread::JoinHandle<()>>,
    surveyed: Vec<celeriant_storage::recovery::Report>,
    cluster: Option<Cluster>,
}

impl Node {
    /// Recovers all shards and runs them. A node on its own leads on return: every acknowledged
    /// write of the past is visible and new ones are accepted through [`Node::router`].
    ///
    /// # Errors
    /// When a shard's storage is damaged or fails, or the logs contradict each other.
    pub async fn start<D: Disk>(
        settings: Settings,
        components: Components<D>,
    ) -> Result<Self, Error> {
        let Components { cluster, boot, clock, disks, placement, membership, random } = components;
        let (news_sender, news) = mpsc::unbounded_channel();
        let of_wall = Arc::clone(&clock);
        let wall = Box::new(move || of_wall.wall());
        let mut node = Self {
            routers: Vec::new(),
            orders: Vec::new(),
            news,
            reporter: news_sender.downgrade(),
            gateway: None,
            tasks: Vec::new(),
            actors: Vec::new(),
            aside: Vec::new(),
            keyring: Arc::new(Keyring::new(wall)),
            rooms: settings.quotas.rooms(),
            threads: Vec::new(),
            surveyed: Vec::new(),
            cluster: None,
        };
        let threads = settings.threads.clamp(1, usize::from(settings.shards.max(1)));
        let settings = Arc::new(Settings { threads, ..settings });
        let owner = match &membership {
            Membership::Alone(take_epoch) => Some(Arc::clone(take_epoch)),
            Membership::Pair(_) => None,
        };
        let (same, is_member) = (Arc::clone(&clock), owner.is_none());
        let common = Common { cluster, clock: same, disks, is_member, placement, _owner: owner };
        let common = Arc::new(common);
        for index in 0..threads {
            let (orders, order_receiver) = mpsc::unbounded_channel();
            node.orders.push(orders);
            let (settings, common) = (Arc::clone(&settings), Arc::clone(&common));
            let worker = Worker::new(index, settings, common, order_receiver, news_sender.clone());
            node.launch(index, placement, worker)?;
        }
        let ground = Ground { cluster, boot, clock, random, news: news_sender };
        match node.run(&settings, ground, membership, placement).await {
            Ok(()) => Ok(node),
            Err(error) => {
                node.kill();
                Err(error)
            }
        }
    }

    /// The way into the node for connections of thread `thread`.
    pub fn router(&self, thread: usize) -> &Router {
        &self.routers[thread % self.routers.len()]
    }

    /// The election of a node that is one of a pair.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// What recovery found, by shard.
    pub fn recovery_reports(&self) -> &[celeriant_storage::recovery::Report] {
        &self.surveyed
    }

    /// Accepts connections on every thread, through `door`. Port 0 picks a free one. Returns the
    /// address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(&mut self, addr: SocketAddr, door: Door) -> Result<SocketAddr, Error> {
        let mut bound = addr;
        for orders in &self.orders {
            let (reply, answer) = oneshot::channel();
            // A closed channel or a dropped reply: the thread has stopped and says why in the news.
            let door = Box::new(self.furnish(door.clone()));
            let _ = orders.send(Order::Listen { addr: bound, door, reply });
            bound = match answer.await {
                Ok(result) => result.map_err(|source| Error::Listen { addr: bound, source })?,
                Err(_) => return Err(self.failed().await),
            };
        }
        Ok(bound)
    }

    /// Serves HTTP at `addr`, through `door`, on a thread of its own, with the router of the first
    /// thread. Port 0 picks a free one. Returns the address. `elsewhere`: asks the leader, where
    /// that may be another node.
    ///
    /// # Errors
    /// When the address cannot be bound, or a thread cannot be started.
    pub async fn serve_http(
        &mut self,
        addr: SocketAddr,
        door: Door,
        elsewhere: Option<Arc<dyn Elsewhere>>,
        settings: http::Settings,
    ) -> Result<SocketAddr, Error> {
        let Some(news) = self.reporter.upgrade() else { return Err(self.failed().await) };
        let router = self.router(0).clone();
        let door = self.furnish(door);
        let (gateway, bound) =
            Gateway::start(addr, router, elsewhere, settings, door, news).await?;
        self.gateway = Some(gateway);
        Ok(bound)
    }

    fn furnish(&self, door: Door) -> Door {
        door.with_keys(Arc::clone(&self.keyring)).with_rooms(self.rooms.clone())
    }

    /// Waits until a part of the node stops by itself, which nothing survives.
    pub async fn failed(&mut self) -> Error {
        loop {
            match self.news.recv().await {
                Some(News::Failed(error)) => return error,
                Some(_) => {}
                None => {
                    let (actor, reason) = ("node".into(), "all of its threads have ended".into());
                    return Error::Stopped { actor, reason };
                }
            }
        }
    }

    /// Hands over, if it leads a pair. Stops accepting, answers what was accepted, notes what is
    /// durable, ends. Each step on all threads before the next: a connection of one thread may
    /// wait for a shard of another.
    pub async fn stop(mut self) {
        if let Some(cluster) = self.cluster.clone() {
            tokio::select! {
                biased;
                error = self.failed() => tracing::error!(%error, "while handing over"),
                outcome = timeout(HAND_OVER_MAX, cluster.shut_down()) => if outcome.is_err() {
                    tracing::warn!("not handed over in time; ending anyway");
                },
            }
        }
        if let Some(gateway) = self.gateway.take() {
            gateway.stop().await;
        }
        self.order_all(|| Order::Quiesce).await;
        self.order_all(|| Order::Drain).await;
        for orders in &self.orders {
            let _ = orders.send(Order::End);
        }
        for thread in std::mem::take(&mut self.threads) {
            // A thread that panicked has said so in the news.
            let _ = thread.join();
        }
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }

    /// Gives all threads an order and waits until each has followed it, or one has failed.
    async fn order_all(&mut self, order: impl Fn() -> Order) {
        for orders in &self.orders {
            let _ = orders.send(order());
        }
        let mut following = self.orders.len();
        while following > 0 {
            match self.news.recv().await {
                Some(News::Quiet | News::Drained) => following -= 1,
                Some(News::Failed(error)) => {
                    tracing::error!(%error, "while stopping");
                    return;
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Ends at once, in the middle of anything: what a simulated crash does. With
    /// `Placement::Threads` the threads end when they notice.
    pub fn kill(self) {
        drop(self.actors);
        drop(self.aside);
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    fn launch<D: Disk>(
        &mut self,
        index: usize,
        placement: Placement,
        worker: Worker<D>,
    ) -> Result<(), Error> {
        if placement == Placement::Here {
            self.tasks.push(tokio::spawn(worker.run()));
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(POLLS_PER_LOOK)
            .build()
            .map_err(Error::Thread)?;
        let thread = std::thread::Builder::new()
            .name(format!("celeriant-{index}"))
            .spawn(move || runtime.block_on(worker.run()))
            .map_err(Error::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Joins what the threads have made, and lets it run.
    async fn run(
        &mut self,
        settings: &Settings,
        ground: Ground,
        membership: Membership,
        placement: Placement,
    ) -> Result<(), Error> {
        let Surveys { shards: surveys, coordinators, watches } = self.survey(settings).await?;
        let floor = surveys.iter().map(|s| s.max_stamp).max().unwrap_or(Stamp::ZERO);
        let shards: Arc<[Recipient<ShardMail>]> =
            surveys.iter().map(|shard| shard.mail.clone()).collect();
        let orders: Arc<[Recipient<OrderMail>]> =
            surveys.iter().map(|shard| shard.orders.clone()).collect();
        let tips: Vec<Tip> = surveys.iter().map(|shard| shard.tip).collect();
        let (begins, answers): (Vec<Recipient<BeginMail>>, Vec<Recipient<AnswerMail>>) =
            coordinators.into_values().unzip();
        let coordinators: Arc<[Recipient<AnswerMail>]> = answers.into();
        let (polls, news): (Vec<Recipient<WatchMail>>, Vec<Recipient<NewsMail>>) =
            watches.into_values().unzip();
        let watches: Arc<[Recipient<NewsMail>]> = news.into();
        self.surveyed = surveys.into_iter().map(|shard| shard.report).collect();
        let (orderer, standing) = match membership {
            Membership::Alone(take_epoch) => {
                self.lead_alone(&ground, &take_epoch, orders, &tips)?
            }
            Membership::Pair(pair) => {
                let joined = pair.join(&ground, orders, tips);
                self.actors.extend(joined.actors);
                self.cluster = Some(joined.cluster);
                (joined.orderer, joined.standing)
            }
        };
        let asides = Asides::prepare();
        let shared = self.shared(settings, &ground, &shards, &standing, &asides);
        let orgs = Arc::new(Orgs::new());
        let stamps = match self.cluster {
            Some(_) => StampClock::of_member(ground.clock.as_ref(), floor),
            None => StampClock::new(ground.clock.as_ref(), floor),
        };
        let (joints, clock) = (Joints::default(), Arc::clone(&ground.clock));
        for (index, (begin, poll)) in begins.into_iter().zip(polls).enumerate() {
            let router = Router::new(Arc::clone(&shared), clock.clone(), index, begin, poll);
            self.routers.push(router.clone());
            let run = Run {
                stamps: stamps.clone(),
                joints: joints.clone(),
                standing: Arc::clone(&standing),
                shards: Arc::clone(&shards),
                coordinators: Arc::clone(&coordinators),
                watches: Arc::clone(&watches),
                orderer: orderer.clone(),
                registrar: asides.registrar.actor_ref().clone().recipient(),
                orgs: Arc::clone(&orgs),
                router,
            };
            let _ = self.orders[index].send(Order::Run(Box::new(run)));
        }
        let registrar = Registrar::new(orgs, self.routers[0].clone(), shards, clock);
        self.run_asides(placement, ground, asides, registrar).await
    }

    /// Lets those run who take orders. A node on its own leads by then.
    async fn run_asides(
        &mut self,
        placement: Placement,
        ground: Ground,
        asides: Asides,
        registrar: Registrar,
    ) -> Result<(), Error> {
        let Ground { clock, random, news, .. } = ground;
        self.aside.push(Aside::run(placement, &news, "registrar", asides.registrar, registrar)?);
        if self.cluster.is_none() {
            match self.next_news().await? {
                News::Leading => {}
                other => unreachable!("{other:?} while waiting for shards to lead"),
            }
        }
        // Only now does a node on its own show all keys that there are.
        let insider = || Insider::new(self.routers[0].clone());
        let trail = Trail::new(insider(), Arc::clone(&clock));
        let keys = Keys::new(Arc::clone(&self.keyring), insider(), clock, random);
        self.aside.push(Aside::run(placement, &news, "trail", asides.trail, trail)?);
        self.aside.push(Aside::run(placement, &news, "keys", asides.keys, keys)?);
        Ok(())
    }

    /// What the routers of all threads share.
    fn shared(
        &self,
        settings: &Settings,
        ground: &Ground,
        shards: &Arc<[Recipient<ShardMail>]>,
        standing: &Arc<Standing>,
        asides: &Asides,
    ) -> Arc<Shared> {
        let meter = Arc::new(Meter::new(settings.quotas.clone()));
        let admin = Admin {
            meter: Arc::clone(&meter),
            rooms: self.rooms.clone(),
            node_id: settings.net.node_id.clone(),
            boot: ground.boot,
            standing: Arc::clone(standing),
            cluster: self.cluster.clone(),
            clock: Arc::clone(&ground.clock),
            shards: Arc::clone(shards),
            registrar: asides.registrar.actor_ref().clone().recipient(),
            keys: asides.keys.actor_ref().clone().recipient(),
            trail: asides.trail.actor_ref().clone().recipient(),
        };
        Arc::new(Shared {
            admin,
            admission: Admission::new(settings.admission_bytes),
            meter,
            shards: Arc::clone(shards),
            standing: Arc::clone(standing),
            boot: ground.boot,
            counter: AtomicU64::new(1),
        })
    }

    /// A node on its own takes an epoch and leads it.
    fn lead_alone(
        &mut self,
        ground: &Ground,
        take_epoch: &TakeEpoch,
        shards: Arc<[Recipient<OrderMail>]>,
        tips: &[Tip],
    ) -> Result<(Recipient<ReportMail>, Arc<Standing>), Error> {
        let highest = tips.iter().map(|tip| tip.epoch).max().unwrap_or_default();
        let epoch = take_epoch(highest)?;
        assert!(epoch > highest, "epoch {epoch} was in use before, up to {highest}");
        let standing = Standing::alone(shards.len() as u16);
        standing.set_epoch(epoch);
        let mut orders = Vec::new();
        let activation = Activation::new(epoch, ground.boot, shards.len() as u16, &mut orders);
        let solo = Solo { shards, activation, news: ground.news.clone() };
        let prepared = Solo::prepare_with_mailbox(mailbox::unbounded());
        let orderer = prepared.actor_ref().clone().recipient();
        let task = watch(&ground.news, "solo".into(), prepared, (solo, orders));
        self.actors.push(task);
        Ok((orderer, Arc::new(standing)))
    }

    async fn survey(&mut self, settings: &Settings) -> Result<Surveys, Error> {
        let mut surveys =
            Surveys { shards: Vec::new(), coordinators: BTreeMap::new(), watches: BTreeMap::new() };
        for _ in 0..settings.threads {
            match self.next_news().await? {
                News::Surveyed { index, shards, begin, answers, watch } => {
                    surveys.shards.extend(shards);
                    surveys.watches.insert(index, watch);
                    surveys.coordinators.insert(index, (begin, answers));
                }
                other => unreachable!("{other:?} while waiting for surveys"),
            }
        }
        surveys.shards.sort_by_key(|survey| survey.shard);
        Ok(surveys)
    }

    async fn next_news(&mut self) -> Result<News, Error> {
        match self.news.recv().await {
            Some(News::Failed(error)) => Err(error),
            Some(news) => Ok(news),
            None => Err(Error::Stopped {
                actor: "node".into(),
                reason: "a thread ended while starting".into(),
            }),
        }
    }
}

/// What the root itself needs to make actors.
struct Ground {
    cluster: ClusterId,
    boot: BootId,
    clock: Arc<dyn Clock>,
    random: Random,
    news: mpsc::UnboundedSender<News>,
}

struct Surveys {
    shards: Vec<Survey>,
    coordinators: BTreeMap<usize, (Recipient<BeginMail>, Recipient<AnswerMail>)>,
    watches: BTreeMap<usize, (Recipient<WatchMail>, Recipient<NewsMail>)>,
}

#[cfg(all(test, feature = "server"))]
mod node_test;
