//! Replication: the leader's frames to the follower and into the bucket, and what each of them
//! holds back to the leader's shards.
//!
//! ```text
//!            leader                                                follower
//! shard ── Sealed ──► stream ── Append ──────────────► following ── Accept ──► shard
//! shard ◄─── Held ─── stream ◄───────────────── Ack ── following ◄── Durable ── shard
//!                       │ compare: Locate, Cut (R10)
//!                       └ behind: reads its own log; level: sends what is sealed at once
//!
//! election ── commands ──► core ── facts ──► election        bucket logs: `bucket`
//! ```
//! One actor a node. [`core`] decides; nothing in it waits, reads a clock or touches a network. A
//! frame that cannot be sent now is dropped here and read from the log later, so memory is bounded
//! by the window however far the follower is behind. This shell takes everything that has arrived
//! before it lets the core flush, so that what belongs together travels together: one mail a shard,
//! one acknowledgement for all of them.
//!
//! Deliberately absent, so far: the bucket's logs themselves ([`bucket`] is the boundary to them).

pub mod activation;
pub mod bucket;
pub mod core;
mod following;
mod leading;
pub mod orders;
mod reconcile;
mod recovery;
mod rounds;
mod session;
mod stream;
mod watch;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};

use celeriant_net::link::{Event as LinkEvent, Link, Reason, Target};
use celeriant_schema::Epoch;
use celeriant_schema::peer::Message as PeerMessage;
use celeriant_storage::bucket::Bucket;
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient, WeakActorRef};
use kameo::error::Infallible;
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};

use self::bucket::{BucketLog, LogNews, LogOrder};
use self::core::{Command, Core, Effect, Event, Identity, Settings};
use self::orders::{Order, OrderMail, ReportMail};
use self::session::Session;
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::election::ElectionMail;
use crate::election::register::{Member, Process};
use crate::election::vocabulary::Event as Fact;
use crate::standing::Standing;

/// Events and mails that are taken before the core flushes, at most: what is to be sent waits no
/// longer than that.
const BURST_MAX: usize = 256;

/// Mail of the replicator from the election: carried out in order.
pub struct ReplicatorMail(pub Vec<Command>);

/// What the shell is made of.
pub struct Args<L, B> {
    /// Who this node is.
    pub identity: Identity,
    /// Highest epoch that is durably promised.
    pub promised: Epoch,
    /// Bounds and times.
    pub settings: Settings,
    /// All of the node, by number.
    pub shards: Arc<[Recipient<OrderMail>]>,
    /// Of the node.
    pub election: Recipient<ElectionMail>,
    /// To the peer.
    pub link: L,
    /// For the bucket logs: a handle of its own.
    pub bucket: B,
    /// The bucket logs.
    pub log: Box<dyn BucketLog>,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// The node's.
    pub standing: Arc<Standing>,
}

/// The actor.
pub struct Replicator<L: Link, B: Bucket> {
    core: Core,
    shards: Arc<[Recipient<OrderMail>]>,
    election: Recipient<ElectionMail>,
    link: L,
    session: Session,
    /// Of the last attempt to come together, so that each cause is told once.
    failure: Option<String>,
    bucket: B,
    log: Box<dyn BucketLog>,
    clock: Arc<dyn Clock>,
    standing: Arc<Standing>,
    alarm: Alarm,
    effects: Vec<Effect>,
    news: Vec<LogNews>,
    /// What goes to each shard with the next flush, in order.
    orders: Vec<Vec<Order>>,
    /// What goes to the election.
    facts: Vec<Fact>,
    /// Taken since the last flush.
    taken: usize,
}

impl<L: Link, B: Bucket> Replicator<L, B> {
    /// Link, bucket and mailbox in turn; when none has more, or there was enough of it, what has
    /// come of it goes out.
    fn poll_signal(
        &mut self,
        cx: &mut Waking<'_>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Poll<Option<Signal<Self>>> {
        loop {
            while self.taken < BURST_MAX
                && let Poll::Ready(event) = self.link.poll_event(cx)
            {
                self.take_link_event(event);
            }
            while let Poll::Ready(completion) = self.bucket.poll_complete(cx) {
                self.order_log(LogOrder::Completed(completion));
            }
            // Also after a burst of the link, which must not keep the mail waiting.
            if let Poll::Ready(signal) = mailbox.poll_recv(cx) {
                return Poll::Ready(signal);
            }
            let deadline = self.next_deadline();
            if self.taken == 0 && !self.alarm.poll(cx, self.clock.as_ref(), deadline) {
                return Poll::Pending;
            }
            self.flush();
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        self.core.next_deadline().into_iter().chain(self.log.next_deadline()).min()
    }

    fn take(&mut self, event: Event) {
        self.taken += 1;
        self.core.handle(self.clock.now(), event, &mut self.effects);
        self.carry_out();
    }

    fn order_log(&mut self, order: LogOrder) {
        self.taken += 1;
        self.log.handle(self.clock.now(), order, &mut self.news);
        self.carry_out();
    }

    fn flush(&mut self) {
        let now = self.clock.now();
        self.taken = 0;
        self.log.flush(now, &mut self.news);
        self.carry_out();
        self.core.flush(now, &mut self.effects);
        self.carry_out();
        self.deliver();
    }

    /// Carries out what core and bucket logs want of each other and of everybody else.
    fn carry_out(&mut self) {
        while !self.effects.is_empty() || !self.news.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out_effect(effect);
            }
            for news in std::mem::take(&mut self.news) {
                match news {
                    LogNews::Start(token, request) => self.bucket.start(token, request),
                    news => {
                        self.core.handle(self.clock.now(), Event::Log(news), &mut self.effects);
                    }
                }
            }
        }
    }

    fn carry_out_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send(message) => self.send(&message),
            Effect::Shard(shard, order) => self.orders[usize::from(shard.value())].push(order),
            Effect::Election(fact) => self.facts.push(fact),
            Effect::Log(order) => {
                self.taken += 1;
                self.log.handle(self.clock.now(), order, &mut self.news);
            }
            Effect::Lease(until) => self.standing.set_lease(until),
            Effect::Leads(epoch) => self.standing.set_epoch(epoch),
            Effect::Activated(done) => {
                let (epoch, writes) = (done.epoch, done.decisions.len());
                tracing::info!(%epoch, undecided_writes = writes, "every shard leads");
            }
            Effect::Aim(member) => self.link.aim(target(member)),
            Effect::Leave => self.link.close(),
            Effect::Alarm(text) => tracing::error!("{text}"),
        }
    }

    /// One mail to everybody for whom there is something. Whoever's mailbox is closed has stopped,
    /// and the node stops with it.
    fn deliver(&mut self) {
        for (shard, orders) in self.orders.iter_mut().enumerate() {
            if !orders.is_empty() {
                let _ = self.shards[shard].tell(OrderMail(std::mem::take(orders))).try_send();
            }
        }
        if !self.facts.is_empty() {
            let mail = ElectionMail(std::mem::take(&mut self.facts));
            let _ = self.election.tell(mail).try_send();
        }
    }

    fn send(&mut self, message: &PeerMessage) {
        if let Err(why) = self.session.send(&mut self.link, message) {
            self.give_up(&why);
        }
    }

    /// The session cannot go on.
    fn give_up(&mut self, why: &str) {
        tracing::error!("the session with the peer is dropped: {why}");
        self.session.drop(&mut self.link);
        self.lose_peer(false);
    }

    fn lose_peer(&mut self, in_order: bool) {
        self.standing.chronicle().parted(self.clock.now());
        self.facts.push(Fact::PeerDown);
        self.taken += 1;
        self.core.handle(self.clock.now(), Event::Down { in_order }, &mut self.effects);
    }

    fn take_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { session, peer } => {
                let (store, boot) = (peer.store, peer.boot);
                tracing::info!(%store, %session, "the peer is there");
                self.failure = None;
                self.session.begin(session);
                let process = Process { store, boot };
                self.standing.chronicle().met(self.clock.now(), process);
                self.facts.push(Fact::PeerUp(process));
                self.take(Event::Up(store));
            }
            LinkEvent::Received { session, message, .. } if self.session.is(session) => {
                match PeerMessage::decode(&message) {
                    Ok(message) => self.take(Event::Received(message)),
                    Err(error) => self.give_up(&format!("the peer breaks the protocol: {error}")),
                }
            }
            LinkEvent::Room { session, lane } if self.session.is(session) => {
                self.session.send_waiting(&mut self.link, lane);
            }
            LinkEvent::Down { session, reason } if self.session.is(session) => {
                tracing::warn!(%session, %reason, "the session with the peer is over");
                self.session.end();
                self.lose_peer(reason == Reason::Closed);
            }
            LinkEvent::Failed { with, reason } => self.note_failure(&with, &reason),
            // Of a session that was given up.
            LinkEvent::Received { .. } | LinkEvent::Room { .. } | LinkEvent::Down { .. } => {}
        }
        self.carry_out();
    }

    fn note_failure(&mut self, with: &str, reason: &Reason) {
        let text = reason.to_string();
        if self.failure.as_ref() != Some(&text) {
            tracing::warn!(with, reason = text, "the peer cannot be reached");
            self.failure = Some(text);
        }
    }
}

/// Whom a link is for: a member where it is found, or any store of the cluster that comes.
fn target(member: Option<Member>) -> Target {
    member.map_or_else(Target::default, |member| {
        let addresses = Some(member.replication).filter(|address| !address.is_empty());
        Target { store: Some(member.store), addresses: addresses.into_iter().collect() }
    })
}

impl<L: Link, B: Bucket> Actor for Replicator<L, B> {
    type Args = Args<L, B>;
    type Error = Infallible;

    async fn on_start(args: Args<L, B>, _: ActorRef<Self>) -> Result<Self, Infallible> {
        assert_eq!(args.shards.len(), usize::from(args.identity.shards), "a mailbox for each");
        Ok(Self {
            core: Core::new(args.identity, args.settings, args.promised),
            orders: args.shards.iter().map(|_| Vec::new()).collect(),
            shards: args.shards,
            election: args.election,
            link: args.link,
            session: Session::default(),
            failure: None,
            bucket: args.bucket,
            log: args.log,
            clock: args.clock,
            standing: args.standing,
            alarm: Alarm::default(),
            effects: Vec::new(),
            news: Vec::new(),
            facts: Vec::new(),
            taken: 0,
        })
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        Ok(poll_fn(|cx| self.poll_signal(cx, mailbox)).await)
    }
}

impl<L: Link, B: Bucket> Message<ReportMail> for Replicator<L, B> {
    type Reply = ();

    async fn handle(&mut self, mail: ReportMail, _: &mut Context<Self, ()>) {
        for report in mail.1 {
            self.take(Event::Shard(mail.0, report));
        }
    }
}

impl<L: Link, B: Bucket> Message<ReplicatorMail> for Replicator<L, B> {
    type Reply = ();

    async fn handle(&mut self, mail: ReplicatorMail, _: &mut Context<Self, ()>) {
        for command in mail.0 {
            self.take(Event::Command(command));
        }
    }
}

#[cfg(test)]
mod pair_test;
