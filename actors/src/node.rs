//! A node: threads, and on each of them shards, a coordinator and a listener.
//!
//! ```text
//! survey   every thread recovers its shards and reports what it found
//! settle   the root decides legs that no `Resolve` decided (settlement)
//! lead     shards append the epoch's first record and the decisions; ready when committed
//! listen   each thread accepts connections of its own (SO_REUSEPORT)
//! stop     listeners first, then shards drain
//! ```
//!
//! The only place that joins [`Settings`] and [`Components`], spawns and starts threads. There is
//! no restart in place: when any actor dies the node stops, and recovery is the start path.

// Spawning is this module's job; everywhere else it is banned (.clippy.toml).
#![allow(clippy::disallowed_methods)]

mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use celeriant_schema::{BootId, ClusterId, Epoch, ShardId, Stamp, TxnId};
use celeriant_storage::disk::{Disk, DiskError};
use kameo::actor::Recipient;
use tokio::sync::{mpsc, oneshot};

use self::worker::{Lead, News, Order, Survey, Worker};
use crate::admission::Admission;
use crate::clock::{Clock, StampClock};
use crate::coordinator::{AnswerMail, BeginMail, ShardMail};
use crate::router::{Router, Shared};
use crate::settlement::{Contradiction, Trace, decide};

/// Plain numbers of a node; validated where they are read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shards of the cluster, fixed when it is created.
    pub shards: u16,
    /// Threads to deal them to.
    pub threads: usize,
    /// Bytes for requests that are not yet answered.
    pub admission_bytes: usize,
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

/// Makes a shard's disk, on the shard's thread.
pub type Disks<D> = Arc<dyn Fn(ShardId) -> Result<D, DiskError> + Send + Sync>;

/// Takes an epoch above the one given, durably.
pub type TakeEpoch =
    Box<dyn Fn(Epoch) -> Result<Epoch, celeriant_storage::store::Error> + Send + Sync>;

/// What can be swapped.
pub struct Components<D> {
    /// Whose data this is.
    pub cluster: ClusterId,
    /// Takes the epoch of this process start: above the highest in any log, which it is given, and
    /// above every earlier one; durable before it returns (R8).
    pub take_epoch: TakeEpoch,
    /// Of this process start; random.
    pub boot: BootId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Disks.
    pub disks: Disks<D>,
    /// Where the threads' work runs.
    pub placement: Placement,
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
    /// A thread or a runtime could not be made.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
}

/// A node that serves.
pub struct Node {
    routers: Vec<Router>,
    orders: Vec<mpsc::UnboundedSender<Order>>,
    news: mpsc::UnboundedReceiver<News>,
    /// Tasks of `Placement::Here`, for [`Node::kill`].
    tasks: Vec<tokio::task::JoinHandle<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    surveyed: Vec<celeriant_storage::recovery::Report>,
}

impl Node {
    /// Recovers all shards and takes the lead. On return every acknowledged write of the past is
    /// visible and new ones are accepted through [`Node::router`].
    ///
    /// # Errors
    /// When a shard's storage is damaged or fails, or the logs contradict each other.
    pub async fn start<D: Disk>(
        settings: Settings,
        components: Components<D>,
    ) -> Result<Self, Error> {
        let (news_sender, news) = mpsc::unbounded_channel();
        let mut node = Self {
            routers: Vec::new(),
            orders: Vec::new(),
            news,
            tasks: Vec::new(),
            threads: Vec::new(),
            surveyed: Vec::new(),
        };
        let threads = settings.threads.clamp(1, usize::from(settings.shards.max(1)));
        let settings = Arc::new(Settings { threads, ..settings });
        let placement = components.placement;
        let components = Arc::new(components);
        for index in 0..threads {
            let (orders, order_receiver) = mpsc::unbounded_channel();
            node.orders.push(orders);
            let (settings, components) = (Arc::clone(&settings), Arc::clone(&components));
            let worker =
                Worker::new(index, settings, components, order_receiver, news_sender.clone());
            node.launch(index, placement, worker)?;
        }
        // From here on only threads can send news: when the last of them ends, waiting for news
        // ends.
        drop(news_sender);
        match node.take_lead(&settings, &components).await {
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

    /// What recovery found, by shard.
    pub fn recovery_reports(&self) -> &[celeriant_storage::recovery::Report] {
        &self.surveyed
    }

    /// Accepts connections on every thread. Port 0 picks a free one. Returns the address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(&mut self, addr: SocketAddr) -> Result<SocketAddr, Error> {
        let mut bound = addr;
        let door = celeriant_net::Door::default();
        for orders in &self.orders {
            let (reply, answer) = oneshot::channel();
            // A closed channel or a dropped reply: the thread has stopped and says why in the news.
            let _ = orders.send(Order::Listen { addr: bound, door: door.clone(), reply });
            bound = match answer.await {
                Ok(result) => result.map_err(|source| Error::Listen { addr: bound, source })?,
                Err(_) => return Err(self.failed().await),
            };
        }
        Ok(bound)
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

    /// Stops accepting, answers what was accepted, notes what is durable, ends. Each step on all
    /// threads before the next: a connection of one thread may wait for a shard of another.
    pub async fn stop(mut self) {
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

    async fn take_lead<D: Disk>(
        &mut self,
        settings: &Settings,
        components: &Components<D>,
    ) -> Result<(), Error> {
        let survey = self.survey(settings).await?;
        let undecided = self.trace_undecided(&survey.shards, settings.threads).await?;
        let decisions = Arc::new(decide(&undecided)?);
        if !decisions.is_empty() {
            let committed = decisions.values().filter(|commit| **commit).count();
            tracing::info!(
                writes = decisions.len(),
                committed,
                "settled writes over several shards"
            );
        }
        let highest = survey.shards.iter().map(|s| s.max_epoch).max().unwrap_or_default();
        let epoch = (components.take_epoch)(highest)?;
        assert!(epoch > highest, "epoch {epoch} was in use before, up to {highest}");
        let floor = survey.shards.iter().map(|s| s.max_stamp).max().unwrap_or(Stamp::ZERO);
        let stamps = StampClock::new(components.clock.as_ref(), floor);
        let shards: Arc<[Recipient<ShardMail>]> =
            survey.shards.iter().map(|shard| shard.mail.clone()).collect();
        let (begins, answers): (Vec<Recipient<BeginMail>>, Vec<Recipient<AnswerMail>>) =
            survey.coordinators.into_values().unzip();
        let answers: Arc<[Recipient<AnswerMail>]> = answers.into();
        let lead = || Lead {
            epoch,
            stamps: stamps.clone(),
            shards: Arc::clone(&shards),
            coordinators: Arc::clone(&answers),
            decisions: Arc::clone(&decisions),
        };
        let shared = Arc::new(Shared {
            admission: Admission::new(settings.admission_bytes),
            shards: Arc::clone(&shards),
            epoch,
            boot: components.boot,
            counter: AtomicU64::new(1),
        });
        for (index, begin) in begins.into_iter().enumerate() {
            let clock = Arc::clone(&components.clock);
            let router = Router::new(Arc::clone(&shared), clock, index, begin);
            self.routers.push(router.clone());
            let _ = self.orders[index].send(Order::Lead(lead(), router));
        }
        self.surveyed = survey.shards.into_iter().map(|shard| shard.report).collect();
        for _ in 0..settings.threads {
            match self.next_news().await? {
                News::Leading => {}
                other => unreachable!("{other:?} while waiting for shards to be ready"),
            }
        }
        Ok(())
    }

    async fn survey(&mut self, settings: &Settings) -> Result<Surveys, Error> {
        let mut surveys = Surveys { shards: Vec::new(), coordinators: BTreeMap::new() };
        for _ in 0..settings.threads {
            match self.next_news().await? {
                News::Surveyed { index, shards, begin, answers } => {
                    surveys.shards.extend(shards);
                    surveys.coordinators.insert(index, (begin, answers));
                }
                other => unreachable!("{other:?} while waiting for surveys"),
            }
        }
        surveys.shards.sort_by_key(|survey| survey.shard);
        Ok(surveys)
    }

    /// What every participant's log says about every write that some shard has undecided.
    async fn trace_undecided(
        &mut self,
        surveys: &[Survey],
        threads: usize,
    ) -> Result<BTreeMap<TxnId, Vec<(ShardId, Trace)>>, Error> {
        let mut traces: BTreeMap<TxnId, Vec<(ShardId, Trace)>> = BTreeMap::new();
        let mut lookups: Vec<(ShardId, Vec<TxnId>)> = Vec::new();
        for (txn, participants) in surveys.iter().flat_map(|survey| &survey.pending) {
            if traces.contains_key(txn) {
                continue;
            }
            let found = traces.entry(*txn).or_default();
            for shard in participants {
                let survey = surveys.get(usize::from(shard.value()));
                match survey.and_then(|survey| survey.trace(*txn)) {
                    Some(trace) => found.push((*shard, trace)),
                    None => lookups.push((*shard, vec![*txn])),
                }
            }
        }
        for orders in &self.orders {
            let _ = orders.send(Order::Lookup(lookups.clone()));
        }
        for _ in 0..threads {
            match self.next_news().await? {
                News::Found(found) => {
                    for (shard, txn, trace) in found {
                        traces.entry(txn).or_default().push((shard, trace));
                    }
                }
                other => unreachable!("{other:?} while looking up legs"),
            }
        }
        for (txn, participants) in surveys.iter().flat_map(|survey| &survey.pending) {
            let found = traces.get(txn).map_or(&[][..], |found| found);
            if found.len() != participants.len() {
                return Err(Contradiction { txn: *txn, found: found.to_vec() }.into());
            }
        }
        Ok(traces)
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

struct Surveys {
    shards: Vec<Survey>,
    coordinators: BTreeMap<usize, (Recipient<BeginMail>, Recipient<AnswerMail>)>,
}

#[cfg(test)]
mod node_test;
