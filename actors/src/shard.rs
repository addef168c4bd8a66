//! A shard: the actor that owns one log, its directory and its cache.
//!
//! [`core`] decides; this shell turns mail and disk completions into events and effects into sends.
//! Its mailbox loop takes completions and messages together: drain the mailbox, seal what has
//! gathered, wait. Group commit falls out of that: a frame is whatever arrived while the previous
//! ones were in flight.

mod abandon;
mod accepted;
mod audit;
mod cold;
mod commit;
mod compact;
pub mod core;
mod dispatch;
pub(crate) mod feed;
mod follower;
mod joints;
mod leg;
mod orders;
pub(crate) mod read;
mod reopen;
mod schemas;
mod search;
mod skip;
mod tail;
mod write;

pub use commit::Elsewhere;
pub use joints::Joints;
pub use orders::Reopen;
pub use schemas::Orgs;
pub(crate) use write::{hash_if_sequenced, sequenced};

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context as Waking, Poll, ready};

use celeriant_schema::ShardId;
use celeriant_storage::cache::FrameCache;
use celeriant_storage::disk::{Disk, DiskError, Op, Token};
use celeriant_storage::recovery::Recovered;
use celeriant_storage::{Error, Identity};
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient, WeakActorRef};
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};
use tokio::sync::oneshot;

use self::core::{Core, Effect, Parts};
use self::reopen::{Held, Opening};
use crate::clock::{Clock, StampClock};
use crate::coordinator::{AnswerMail, ShardMail};
use crate::replicator::orders::{OrderMail, Report, ReportMail};
use crate::route::{Outbox, Route};
use crate::schemas::WantedMail;
use crate::standing::Standing;
use crate::watch::NewsMail;
use crate::work::{Answer, AnswerKind, FeedNews, Work};

/// Mail of a shard about once a second.
pub struct Tick;

/// Asks to be told once everything accepted is committed and noted as durable.
pub struct Drain(pub oneshot::Sender<()>);

/// Makes a shard's disk, on the shard's thread.
pub type Disks<D> = Arc<dyn Fn(ShardId) -> Result<D, DiskError> + Send + Sync>;

/// What every core of a shard is made of.
#[derive(Clone)]
pub struct Surroundings {
    /// Which log it is.
    pub identity: Identity,
    /// Of the log.
    pub settings: celeriant_storage::Settings,
    /// Bytes of frames kept in memory.
    pub cache_bytes: u64,
    /// The node's.
    pub stamps: StampClock,
    /// What commit needs besides this disk.
    pub elsewhere: Elsewhere,
    /// The node's.
    pub joints: Joints,
    /// The node's.
    pub standing: Arc<Standing>,
    /// The node's.
    pub orgs: Arc<Orgs>,
    /// Of the cluster.
    pub shards: u16,
}

/// What the shell is made of.
pub struct Args<D> {
    /// What its cores are made of.
    pub surroundings: Surroundings,
    /// The log.
    pub recovered: Recovered,
    /// The shard's own.
    pub disk: D,
    /// Makes another, when the log is opened anew.
    pub disks: Disks<D>,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// All of the node, by number.
    pub coordinators: Arc<[Recipient<AnswerMail>]>,
    /// All of the node, by number.
    pub watches: Arc<[Recipient<NewsMail>]>,
    /// All of the node, by number.
    pub shards: Arc<[Recipient<ShardMail>]>,
    /// Who gives the orders.
    pub orderer: Recipient<ReportMail>,
    /// Who reads schemas.
    pub registrar: Recipient<WantedMail>,
}

/// The actor.
pub struct Shard<D: Disk> {
    core: Core<Route>,
    surroundings: Surroundings,
    /// `None`: the log is being opened anew.
    disk: Option<D>,
    disks: Disks<D>,
    /// Operations of the disk that were started and have not ended.
    in_flight: usize,
    clock: Arc<dyn Clock>,
    coordinators: Arc<[Recipient<AnswerMail>]>,
    shards: Arc<[Recipient<ShardMail>]>,
    orderer: Recipient<ReportMail>,
    registrar: Recipient<WantedMail>,
    effects: Vec<Effect<Route>>,
    outbox: Outbox,
    /// What goes to each coordinator after this event, in order.
    answers: Vec<Vec<Answer>>,
    watches: Arc<[Recipient<NewsMail>]>,
    /// What goes to each watch after this event, in order.
    news: Vec<Vec<FeedNews>>,
    reports: Vec<Report>,
    /// The core has closed.
    reopen: Option<Reopen>,
    opening: Option<Opening<D>>,
    /// Came while the log was being opened.
    held: VecDeque<Held>,
    failure: Option<Error>,
    drain: Option<Draining>,
}

struct Draining {
    done: oneshot::Sender<()>,
    noted: bool,
}

impl Surroundings {
    fn core(&self, recovered: Recovered, effects: &mut Vec<Effect<Route>>) -> Core<Route> {
        let parts = Parts {
            identity: self.identity,
            log: recovered.log,
            directory: recovered.directory,
            pending: recovered.pending,
            tail: recovered.tail,
            cache: FrameCache::new(self.cache_bytes),
            stamps: self.stamps.clone(),
            elsewhere: self.elsewhere,
            joints: self.joints.clone(),
            standing: Arc::clone(&self.standing),
            orgs: Arc::clone(&self.orgs),
            shards: self.shards,
        };
        Core::new(parts, effects)
    }
}

impl<D: Disk> Shard<D> {
    /// Completions first, so that acknowledgements never wait behind new work; then mail; and when
    /// there is none, what has gathered goes to the disk.
    fn poll_signal(
        &mut self,
        cx: &mut Waking<'_>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Poll<Result<Option<Signal<Self>>, Error>> {
        if let Some(error) = self.failure.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            while self.reopen.is_none()
                && let Some(disk) = &mut self.disk
                && let Poll::Ready(completion) = disk.poll_complete(cx)
            {
                self.in_flight -= 1;
                self.core.complete(self.clock.now(), completion, &mut self.effects)?;
                self.deliver();
            }
            if let Some(reopen) = self.reopen.take() {
                self.begin_opening(reopen);
            }
            if let Poll::Ready(signal) = mailbox.poll_recv(cx) {
                return Poll::Ready(Ok(signal));
            }
            if self.opening.is_some() {
                ready!(self.poll_opened(cx))?;
                continue;
            }
            self.core.pump(&mut self.effects);
            self.core.report(&mut self.effects);
            self.notice_quiet();
            if self.effects.is_empty() {
                return Poll::Pending;
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        self.core.report(&mut self.effects);
        // Taken after what the answers say was looked up: a lease that still holds now proves that
        // it was the newest then (R5).
        let mut now = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk(token, op) => {
                    self.in_flight += 1;
                    start(&mut self.disk, token, op);
                }
                Effect::Reply(route, response) => self.outbox.push(route, response),
                Effect::Read(route, response) => {
                    let now = *now.get_or_insert_with(|| self.clock.now());
                    let answer = match self.surroundings.standing.holds_lease(now) {
                        true => Some((route, response)),
                        false => {
                            if self.core.is_proven() {
                                self.reports.push(Report::Unproven);
                            }
                            self.core.hold_unproven(now, route, response)
                        }
                    };
                    if let Some((route, response)) = answer {
                        self.outbox.push(route, response);
                    }
                }
                Effect::Answer(coordinator, answer) => self.answers[coordinator].push(answer),
                Effect::Feed(watch, news) => self.news[watch].push(news),
                Effect::StoppedLeading => {
                    let shard = self.surroundings.identity.shard;
                    for answers in &mut self.answers {
                        answers.push(Answer { shard, kind: AnswerKind::StoppedLeading });
                    }
                }
                Effect::Tell(shard, step) => {
                    let mail = ShardMail(vec![Work::Step(step)]);
                    let _ = self.shards[usize::from(shard.value())].tell(mail).try_send();
                }
                Effect::Schemas { org, version } => {
                    let shard = self.surroundings.identity.shard;
                    let _ = self.registrar.tell(WantedMail { shard, org, version }).try_send();
                }
                Effect::Report(report) => self.reports.push(report),
                Effect::Reopen(reopen) => self.reopen = Some(reopen),
            }
        }
        for (coordinator, answers) in self.answers.iter_mut().enumerate() {
            if !answers.is_empty() {
                let mail = AnswerMail(std::mem::take(answers));
                // A coordinator whose mailbox is closed has stopped, and the node stops with it.
                let _ = self.coordinators[coordinator].tell(mail).try_send();
            }
        }
        for (watch, news) in self.news.iter_mut().enumerate() {
            if !news.is_empty() {
                let shard = self.surroundings.identity.shard;
                let mail = NewsMail(shard, std::mem::take(news));
                let _ = self.watches[watch].tell(mail).try_send();
            }
        }
        if !self.reports.is_empty() {
            let reports = std::mem::take(&mut self.reports);
            let mail = ReportMail(self.surroundings.identity.shard, reports);
            let _ = self.orderer.tell(mail).try_send();
        }
        self.outbox.flush();
    }

    /// Tells whoever waits for the shard to be drained. Nobody may be waiting any more: fine.
    fn notice_quiet(&mut self) {
        if !self.core.is_quiet() {
            return;
        }
        match self.drain.take() {
            None => {}
            Some(Draining { done, noted: true }) => {
                let _ = done.send(());
            }
            Some(Draining { done, noted: false }) => {
                self.failure = self.core.tick(self.clock.now(), &mut self.effects).err();
                if self.effects.is_empty() {
                    // Nothing to note: no completion will come back here.
                    let _ = done.send(());
                } else {
                    self.drain = Some(Draining { done, noted: true });
                }
            }
        }
    }
}

fn start<D: Disk>(disk: &mut Option<D>, token: Token, op: Op) {
    let Some(disk) = disk else { unreachable!("a core that is closed starts nothing") };
    disk.start(token, op);
}

impl<D: Disk> Actor for Shard<D> {
    type Args = Args<D>;
    type Error = Error;

    async fn on_start(args: Args<D>, _: ActorRef<Self>) -> Result<Self, Error> {
        let mut effects = Vec::new();
        let core = args.surroundings.core(args.recovered, &mut effects);
        let answers = args.coordinators.iter().map(|_| Vec::new()).collect();
        let news = args.watches.iter().map(|_| Vec::new()).collect();
        let mut shard = Self {
            core,
            surroundings: args.surroundings,
            disk: Some(args.disk),
            disks: args.disks,
            in_flight: 0,
            clock: args.clock,
            coordinators: args.coordinators,
            shards: args.shards,
            orderer: args.orderer,
            registrar: args.registrar,
            effects,
            outbox: Outbox::default(),
            answers,
            watches: args.watches,
            news,
            reports: Vec::new(),
            reopen: None,
            opening: None,
            held: VecDeque::new(),
            failure: None,
            drain: None,
        };
        shard.deliver();
        Ok(shard)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Error> {
        poll_fn(|cx| self.poll_signal(cx, mailbox)).await
    }
}

impl<D: Disk> Message<ShardMail> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, mail: ShardMail, _: &mut Context<Self, ()>) {
        if self.opening.is_some() {
            return self.hold(mail.0);
        }
        self.failure = self.core.handle(self.clock.now(), mail.0, &mut self.effects).err();
        self.deliver();
    }
}

impl<D: Disk> Message<OrderMail> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, mail: OrderMail, _: &mut Context<Self, ()>) {
        if self.opening.is_some() {
            return self.held.push_back(Held::Orders(mail.0));
        }
        self.failure = self.core.order(self.clock.now(), mail.0, &mut self.effects).err();
        self.deliver();
    }
}

impl<D: Disk> Message<Tick> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, _: Tick, _: &mut Context<Self, ()>) {
        if self.opening.is_some() {
            return;
        }
        self.failure = self.core.tick(self.clock.now(), &mut self.effects).err();
        self.deliver();
    }
}

impl<D: Disk> Message<Drain> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, drain: Drain, _: &mut Context<Self, ()>) {
        self.drain = Some(Draining { done: drain.0, noted: false });
    }
}
