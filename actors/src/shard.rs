//! A shard: the actor that owns one log, its directory and its cache.
//!
//! [`core`] decides; this shell turns mail and disk completions into events and effects into sends.
//! Its mailbox loop takes completions and messages together: drain the mailbox, seal what has
//! gathered, wait. Group commit falls out of that: a frame is whatever arrived while the previous
//! ones were in flight.

mod accepted;
mod cold;
mod commit;
pub mod core;
mod leg;
pub(crate) mod read;
mod write;

pub use commit::Elsewhere;
pub(crate) use write::hash_if_sequenced;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use celeriant_storage::Error;
use celeriant_storage::disk::Disk;
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient, WeakActorRef};
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};
use tokio::sync::oneshot;

use self::core::{Core, Effect, Parts};
use crate::clock::Clock;
use crate::coordinator::{AnswerMail, ShardMail};
use crate::route::{Outbox, Route};
use crate::work::Answer;

/// Mail of a shard about once a second.
pub struct Tick;

/// Asks to be told once everything accepted is committed and noted as durable.
pub struct Drain(pub oneshot::Sender<()>);

/// What the shell is made of.
pub struct Args<D> {
    /// What the core is made of.
    pub parts: Parts,
    /// The shard's own.
    pub disk: D,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// All of the node, by number.
    pub coordinators: Arc<[Recipient<AnswerMail>]>,
    /// Told once the shard can serve.
    pub ready: oneshot::Sender<()>,
}

/// The actor.
pub struct Shard<D: Disk> {
    core: Core<Route>,
    disk: D,
    clock: Arc<dyn Clock>,
    coordinators: Arc<[Recipient<AnswerMail>]>,
    effects: Vec<Effect<Route>>,
    outbox: Outbox,
    /// What goes to each coordinator after this event, in order.
    answers: Vec<Vec<Answer>>,
    ready: Option<oneshot::Sender<()>>,
    drain: Option<Draining>,
}

struct Draining {
    done: oneshot::Sender<()>,
    noted: bool,
}

impl<D: Disk> Shard<D> {
    /// Completions first, so that acknowledgements never wait behind new work; then mail; and when
    /// there is none, what has gathered goes to the disk.
    fn poll_signal(
        &mut self,
        cx: &mut Waking<'_>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Poll<Result<Option<Signal<Self>>, Error>> {
        loop {
            while let Poll::Ready(completion) = self.disk.poll_complete(cx) {
                self.core.complete(self.clock.now(), completion, &mut self.effects)?;
                self.deliver();
            }
            if let Poll::Ready(signal) = mailbox.poll_recv(cx) {
                return Poll::Ready(Ok(signal));
            }
            self.core.pump(&mut self.effects);
            self.notice_quiet();
            if self.effects.is_empty() {
                return Poll::Pending;
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk(token, op) => self.disk.start(token, op),
                Effect::Reply(route, response) => self.outbox.push(route, response),
                Effect::Answer(coordinator, answer) => self.answers[coordinator].push(answer),
            }
        }
        for (coordinator, answers) in self.answers.iter_mut().enumerate() {
            if !answers.is_empty() {
                let mail = AnswerMail(std::mem::take(answers));
                // A coordinator whose mailbox is closed has stopped, and the node stops with it.
                let _ = self.coordinators[coordinator].tell(mail).try_send();
            }
        }
        self.outbox.flush();
    }

    /// Tells whoever waits for the shard to be ready or drained. Nobody may be waiting any more:
    /// fine.
    fn notice_quiet(&mut self) {
        if self.core.is_ready()
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(());
        }
        if !self.core.is_quiet() {
            return;
        }
        match self.drain.take() {
            None => {}
            Some(Draining { done, noted: true }) => {
                let _ = done.send(());
            }
            Some(Draining { done, noted: false }) => {
                self.core.tick(self.clock.now(), &mut self.effects);
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

impl<D: Disk> Actor for Shard<D> {
    type Args = Args<D>;
    type Error = Error;

    async fn on_start(args: Args<D>, _: ActorRef<Self>) -> Result<Self, Error> {
        let mut effects = Vec::new();
        let core = Core::new(args.parts, args.clock.now(), &mut effects);
        let answers = args.coordinators.iter().map(|_| Vec::new()).collect();
        let mut shard = Self {
            core,
            disk: args.disk,
            clock: args.clock,
            coordinators: args.coordinators,
            effects,
            outbox: Outbox::default(),
            answers,
            ready: Some(args.ready),
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
        self.core.handle(self.clock.now(), mail.0, &mut self.effects);
        self.deliver();
    }
}

impl<D: Disk> Message<Tick> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, _: Tick, _: &mut Context<Self, ()>) {
        self.core.tick(self.clock.now(), &mut self.effects);
        self.deliver();
    }
}

impl<D: Disk> Message<Drain> for Shard<D> {
    type Reply = ();

    async fn handle(&mut self, drain: Drain, _: &mut Context<Self, ()>) {
        self.drain = Some(Draining { done: drain.0, noted: false });
    }
}
