//! The election's actor: the register in the bucket, promises on the disk, facts from the
//! replicator, commands from operators.
//!
//! ```text
//!   replicator ── facts ──────▶ core ──▶ bucket (control lane)
//!   operators ─── commands ───▶   │  ──▶ keeper: promises, durable before anything rests on them
//!   bucket, timer ────────────▶   └────▶ replicator: everything else, in order
//! ```
//! One a node. An error of the keeper stops it, and with it the node. Deliberately absent: every
//! decision ([`super::core`]).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Waking, Poll};

use celeriant_schema::Epoch;
use celeriant_storage::bucket::Bucket;
use celeriant_storage::store::Error;
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient, WeakActorRef};
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};
use tokio::sync::Notify;

use super::core::Core;
use super::vocabulary::{Command, Effect, Event, Reason, Refused, Status};
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::replicator::ReplicatorMail;
use crate::replicator::core::Command as Order;
use crate::standing::Standing;

/// Mail of the election: facts, in order.
pub struct ElectionMail(pub Vec<Event>);

/// Where the outcome of an operator's order goes.
pub type Reply = Box<dyn FnOnce(Result<(), Refused>) + Send>;

/// An operator's order, and where its outcome goes.
pub struct CommandMail {
    /// What.
    pub command: Command,
    /// Called once it has come to an end.
    pub reply: Reply,
}

/// Keeps epochs on the node's disk.
pub trait Keeper: Send {
    /// Notes epochs; neither is ever lowered. Durable on return.
    ///
    /// # Errors
    /// What the file holds is unknown. Never retried: the node stops.
    fn raise(&mut self, promised: Epoch, seen: Epoch) -> Result<(), Error>;
}

/// Where everybody can see what the node is doing. `None` until the election has begun.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    status: Mutex<Option<Status>>,
    changed: Notify,
}

impl Board {
    /// What it is doing.
    pub fn status(&self) -> Option<Status> {
        // Poisoned: whoever panicked replaced it as a whole, or did not.
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the node does what is `wanted`.
    pub async fn wait_for(&self, wanted: impl Fn(&Status) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if self.status().is_some_and(|status| wanted(&status)) {
                return;
            }
            changed.await;
        }
    }

    /// Shows another.
    fn show(&self, status: Status) {
        *self.0.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
        self.0.changed.notify_waiters();
    }
}

/// What the shell is made of.
pub struct Args<B> {
    /// The decisions.
    pub core: Core,
    /// For the register: a handle of its own.
    pub bucket: B,
    /// The node's superblock.
    pub keeper: Box<dyn Keeper>,
    /// Of the node.
    pub replicator: Recipient<ReplicatorMail>,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// The node's.
    pub standing: Arc<Standing>,
    /// Where status goes.
    pub board: Board,
}

/// The actor.
pub struct Elector<B: Bucket> {
    core: Core,
    bucket: B,
    keeper: Box<dyn Keeper>,
    replicator: Recipient<ReplicatorMail>,
    clock: Arc<dyn Clock>,
    standing: Arc<Standing>,
    board: Board,
    alarm: Alarm,
    effects: Vec<Effect>,
    /// Numbers commands.
    commands: u64,
    replies: BTreeMap<u64, Reply>,
    /// Why it cannot go on.
    failed: Option<Error>,
}

impl<B: Bucket> Elector<B> {
    fn poll_signal(
        &mut self,
        cx: &mut Waking<'_>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Poll<Result<Option<Signal<Self>>, Error>> {
        loop {
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(completion) = self.bucket.poll_complete(cx) {
                self.standing.chronicle().bucket(self.clock.now(), completion.outcome.is_ok());
                self.take([Event::Bucket(completion)]);
                continue;
            }
            if let Poll::Ready(signal) = mailbox.poll_recv(cx) {
                return Poll::Ready(Ok(signal));
            }
            if !self.alarm.poll(cx, self.clock.as_ref(), self.core.next_deadline()) {
                return Poll::Pending;
            }
            self.take([Event::Tick]);
        }
    }

    fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = self.clock.now();
        for event in events {
            self.core.handle(now, event, &mut self.effects);
        }
        if let Err(error) = self.deliver() {
            self.failed = Some(error);
        }
    }

    /// Carries out what the core wants, in order.
    fn deliver(&mut self) -> Result<(), Error> {
        let mut orders = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            orders.push(match effect {
                Effect::Bucket(token, request) => {
                    self.bucket.start(token, request);
                    continue;
                }
                Effect::Saw(epoch) => {
                    self.keeper.raise(Epoch::default(), epoch)?;
                    continue;
                }
                Effect::Answer { id, result } => {
                    if let Some(reply) = self.replies.remove(&id) {
                        reply(result);
                    }
                    continue;
                }
                Effect::Announce(status) => {
                    self.announce(status);
                    continue;
                }
                Effect::Promise(epoch) => {
                    self.keeper.raise(epoch, Epoch::default())?;
                    Order::Promised(epoch)
                }
                Effect::Send(message) => Order::Send(message),
                Effect::Check { chain, base } => Order::Check { chain, base },
                Effect::Recover { epoch, chain } => Order::Recover { epoch, chain },
                Effect::Place { link, peer } => Order::Place { link, peer },
                Effect::Lead { config } => Order::Lead(config),
                Effect::Follow { leader, epoch } => Order::Follow { leader, epoch },
                Effect::StepDown(reason) => Order::StepDown(reason),
                Effect::AckRule { number, rule } => Order::AckRule { number, rule },
                Effect::Lease { until } => Order::Lease { until },
                Effect::Quiesce { epoch } => Order::Quiesce { epoch },
                Effect::Resume => Order::Resume,
                Effect::Aim(member) => Order::Aim(member),
                Effect::Leave => Order::Leave,
            });
        }
        if !orders.is_empty() {
            // A replicator whose mailbox is closed has stopped, and the node stops with it.
            let _ = self.replicator.tell(ReplicatorMail(orders)).try_send();
        }
        Ok(())
    }

    /// Says once in the log what has become different; renewals of a lease are no news.
    fn announce(&mut self, status: Status) {
        let address = self.core.leader_elsewhere().map(|member| member.clients.clone());
        self.standing.set_leader(address.filter(|address| !address.is_empty()));
        let known = self.board.status();
        let changed = known.is_none_or(|known| Status { ver: status.ver, ..known } != status);
        if changed {
            if status.reason == Reason::HandedOver {
                self.standing.chronicle().handed_over(self.clock.now());
            }
            let Status { role, epoch, ver, set, seen: _, reason, distrust } = &status;
            let set = set.map(|set| set.to_string());
            let distrust = distrust.as_ref().map(ToString::to_string);
            tracing::info!(?role, %epoch, ver, set, distrust, "{reason}");
        }
        self.board.show(status);
    }
}

impl<B: Bucket> Actor for Elector<B> {
    type Args = Args<B>;
    type Error = Error;

    async fn on_start(args: Args<B>, _: ActorRef<Self>) -> Result<Self, Error> {
        let mut elector = Self {
            core: args.core,
            bucket: args.bucket,
            keeper: args.keeper,
            replicator: args.replicator,
            clock: args.clock,
            standing: args.standing,
            board: args.board,
            alarm: Alarm::default(),
            effects: Vec::new(),
            commands: 0,
            replies: BTreeMap::new(),
            failed: None,
        };
        elector.take([Event::Tick]);
        Ok(elector)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Error> {
        poll_fn(|cx| self.poll_signal(cx, mailbox)).await
    }
}

impl<B: Bucket> Message<ElectionMail> for Elector<B> {
    type Reply = ();

    async fn handle(&mut self, mail: ElectionMail, _: &mut Context<Self, ()>) {
        self.take(mail.0);
    }
}

impl<B: Bucket> Message<CommandMail> for Elector<B> {
    type Reply = ();

    async fn handle(&mut self, mail: CommandMail, _: &mut Context<Self, ()>) {
        self.commands += 1;
        let (id, command) = (self.commands, mail.command);
        self.replies.insert(id, mail.reply);
        self.take([Event::Command { id, command }]);
    }
}
