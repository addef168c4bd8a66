//! Watches: live subscriptions (semantics.md §6). One actor a thread, for the connections of that
//! thread.
//!
//! ```text
//! shards ── news: batches, closed stamps ──► merged by stamp ──► ring (the newest, bounded)
//!                                                                  │
//! connection ── page wanted, behind a stamp ──► in the ring? ──yes─┴──► answer, or wait
//!                                                  └──no──► ask the shards, merge, answer
//! ```
//! A watcher is a client that asks for page after page. Nothing is kept of it between two pages:
//! one that is slow, or gone, costs nothing, and falls back from the ring to the log by itself.
//! (Whoever asked for several is asked for the next by his connection.) [`core`] decides, this
//! actor delivers: at once, unless the thread is busy with other things.
//!
//! Deliberately absent: state that is keyed by watcher, pushing to whoever has not asked.

pub mod core;
mod ring;
mod share;
mod topics;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use celeriant_schema::{Response, ShardId};
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient, WeakActorRef};
use kameo::error::Infallible;
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};

use self::core::{Core, Effect};
use crate::alarm::Alarm;
use crate::clock::{Clock, Micros};
use crate::coordinator::ShardMail;
use crate::route::{Outbox, Route};
use crate::work::{FeedNews, Task, Work};

/// Mail of a watch from its thread's router: requests for pages.
pub struct WatchMail(pub Vec<Task<Route>>);

/// Mail of a watch from a shard.
pub struct NewsMail(pub ShardId, pub Vec<FeedNews>);

/// About once a second.
pub struct Tick;

/// Answers everybody who waits, and from now on at once: the node is about to stop.
pub struct Release;

/// How long this thread has worked since it began, in µs.
pub type Busy = Box<dyn Fn() -> Micros + Send>;

/// The actor.
pub struct Watch {
    core: Core<Route>,
    clock: Arc<dyn Clock>,
    busy: Busy,
    /// When it looks again whether the thread has time for what is left.
    next_look: Option<Micros>,
    alarm: Alarm,
    shards: Arc<[Recipient<ShardMail>]>,
    effects: Vec<Effect<Route>>,
    outbox: Outbox,
    /// What goes to each shard after this message, in order.
    mail: Vec<Vec<Work<Route>>>,
}

impl Watch {
    /// Watch number `index` of the node.
    pub fn new(
        index: usize,
        clock: Arc<dyn Clock>,
        busy: Busy,
        shards: Arc<[Recipient<ShardMail>]>,
    ) -> Self {
        let mail = shards.iter().map(|_| Vec::new()).collect();
        let core = Core::new(index, shards.len() as u16);
        let (effects, outbox, alarm) = (Vec::new(), Outbox::default(), Alarm::default());
        Self { core, clock, busy, next_look: None, alarm, shards, effects, outbox, mail }
    }

    /// Mail first; when there is none, what the thread had no time for.
    fn poll_signal(
        &mut self,
        cx: &mut Waking<'_>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Poll<Option<Signal<Self>>> {
        loop {
            if let Poll::Ready(signal) = mailbox.poll_recv(cx) {
                return Poll::Ready(signal);
            }
            if !self.alarm.poll(cx, self.clock.as_ref(), self.next_look) {
                return Poll::Pending;
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        let now = self.clock.now();
        self.core.settle(now, (self.busy)(), &mut self.effects);
        self.next_look = self.core.next_look(now);
        self.deliver();
    }

    fn deliver(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Step(shard, step) => {
                    self.mail[usize::from(shard.value())].push(Work::Step(step));
                }
                Effect::Reply(route, page) => self.outbox.push(route, Response::Feed(page)),
                Effect::Refuse(route, refusal) => {
                    self.outbox.push(route, Response::Refused(refusal));
                }
            }
        }
        for (shard, mail) in self.mail.iter_mut().enumerate() {
            if !mail.is_empty() {
                // A shard whose mailbox is closed has stopped, and the node stops with it.
                let _ = self.shards[shard].tell(ShardMail(std::mem::take(mail))).try_send();
            }
        }
        self.outbox.flush();
    }
}

impl Actor for Watch {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(watch: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(watch)
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        Ok(poll_fn(|cx| self.poll_signal(cx, mailbox)).await)
    }
}

impl Message<WatchMail> for Watch {
    type Reply = ();

    async fn handle(&mut self, mail: WatchMail, _: &mut Context<Self, ()>) {
        let now = self.clock.now();
        for task in mail.0 {
            self.core.take(now, task, &mut self.effects);
        }
        self.settle();
    }
}

impl Message<NewsMail> for Watch {
    type Reply = ();

    async fn handle(&mut self, mail: NewsMail, _: &mut Context<Self, ()>) {
        let NewsMail(shard, news) = mail;
        let now = self.clock.now();
        for news in news {
            self.core.hear(now, shard, news, &mut self.effects);
        }
        self.settle();
    }
}

impl Message<Tick> for Watch {
    type Reply = ();

    async fn handle(&mut self, _: Tick, _: &mut Context<Self, ()>) {
        self.core.tick(self.clock.now(), &mut self.effects);
        self.settle();
    }
}

impl Message<Release> for Watch {
    type Reply = ();

    async fn handle(&mut self, _: Release, _: &mut Context<Self, ()>) {
        self.core.release(&mut self.effects);
        self.settle();
    }
}
