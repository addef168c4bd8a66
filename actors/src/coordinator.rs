//! The coordinator of writes and listings that span shards: one per thread.
//!
//! [`core`] decides, this actor delivers. It owns the holds: a dropped connection leaks none.

pub mod core;

use std::sync::Arc;

use celeriant_schema::{Refusal, Response};
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient};
use kameo::error::Infallible;
use kameo::message::{Context, Message};

use self::core::{Begin, Core, Effect};
use crate::clock::Clock;
use crate::route::{Outbox, Route};
use crate::standing::Standing;
use crate::work::{Answer, Work};

/// Mail of a shard: what arrived together.
pub struct ShardMail(pub Vec<Work<Route>>);

/// Mail of a coordinator from its thread's router.
pub struct BeginMail(pub Vec<Begin<Route>>);

/// Mail of a coordinator from a shard.
pub struct AnswerMail(pub Vec<Answer>);

/// The actor.
pub struct Coordinator {
    core: Core<Route>,
    clock: Arc<dyn Clock>,
    standing: Arc<Standing>,
    shards: Arc<[Recipient<ShardMail>]>,
    effects: Vec<Effect<Route>>,
    outbox: Outbox,
    /// What goes to each shard after this message, in order.
    mail: Vec<Vec<Work<Route>>>,
}

impl Coordinator {
    /// Coordinator number `index` of the node.
    pub fn new(
        index: usize,
        clock: Arc<dyn Clock>,
        standing: Arc<Standing>,
        shards: Arc<[Recipient<ShardMail>]>,
    ) -> Self {
        let mail = shards.iter().map(|_| Vec::new()).collect();
        Self {
            core: Core::new(index),
            clock,
            standing,
            shards,
            effects: Vec::new(),
            outbox: Outbox::default(),
            mail,
        }
    }

    fn deliver(&mut self) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Step(shard, step) => {
                    self.mail[usize::from(shard.value())].push(Work::Step(step));
                }
                Effect::Reply(route, response) => self.outbox.push(route, response),
                Effect::Refuse(route, refusal) => {
                    // Taken after the shards have looked, as with a read.
                    let is_proven = self.standing.holds_lease(self.clock.now());
                    let refusal = if is_proven { refusal } else { Refusal::NoLeader };
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

impl Actor for Coordinator {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(coordinator: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(coordinator)
    }
}

impl Message<BeginMail> for Coordinator {
    type Reply = ();

    async fn handle(&mut self, mail: BeginMail, _: &mut Context<Self, ()>) {
        for begin in mail.0 {
            self.core.begin(begin);
        }
    }
}

impl Message<AnswerMail> for Coordinator {
    type Reply = ();

    async fn handle(&mut self, mail: AnswerMail, _: &mut Context<Self, ()>) {
        let now = self.clock.now();
        for answer in mail.0 {
            self.core.handle(now, answer, &mut self.effects);
        }
        self.deliver();
    }
}
