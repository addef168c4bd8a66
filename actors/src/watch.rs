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
//! [`core`] decides, this actor delivers.
//!
//! Deliberately absent: state that is keyed by watcher, pushing to whoever has not asked, timers.

pub mod core;
mod ring;
mod waiting;

use std::sync::Arc;

use celeriant_schema::{Response, ShardId};
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient};
use kameo::error::Infallible;
use kameo::message::{Context, Message};

use self::core::{Core, Effect};
use crate::clock::Clock;
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

/// The actor.
pub struct Watch {
    core: Core<Route>,
    clock: Arc<dyn Clock>,
    shards: Arc<[Recipient<ShardMail>]>,
    effects: Vec<Effect<Route>>,
    outbox: Outbox,
    /// What goes to each shard after this message, in order.
    mail: Vec<Vec<Work<Route>>>,
}

impl Watch {
    /// Watch number `index` of the node.
    pub fn new(index: usize, clock: Arc<dyn Clock>, shards: Arc<[Recipient<ShardMail>]>) -> Self {
        let mail = shards.iter().map(|_| Vec::new()).collect();
        let core = Core::new(index, shards.len() as u16);
        let (effects, outbox) = (Vec::new(), Outbox::default());
        Self { core, clock, shards, effects, outbox, mail }
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
}

impl Message<WatchMail> for Watch {
    type Reply = ();

    async fn handle(&mut self, mail: WatchMail, _: &mut Context<Self, ()>) {
        let now = self.clock.now();
        for task in mail.0 {
            self.core.take(now, task, &mut self.effects);
        }
        self.deliver();
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
        self.core.settle(now, &mut self.effects);
        self.deliver();
    }
}

impl Message<Tick> for Watch {
    type Reply = ();

    async fn handle(&mut self, _: Tick, _: &mut Context<Self, ()>) {
        self.core.tick(self.clock.now(), &mut self.effects);
        self.deliver();
    }
}

impl Message<Release> for Watch {
    type Reply = ();

    async fn handle(&mut self, _: Release, _: &mut Context<Self, ()>) {
        self.core.release(&mut self.effects);
        self.deliver();
    }
}
