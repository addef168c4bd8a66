//! The decisions of a node's replicator: a state machine without I/O, clock or randomness.
//!
//! ```text
//!   Following ── Place, Lead ──▶ Leading        following  what a leader sends, to the shards
//!       ▲                          │            leading    what the shards seal, to both places
//!       └──────── StepDown ────────┘            rounds     what must be heard from every shard
//! ```
//! Which places an acknowledgement needs is the election's to say ([`Rule`]); what each place holds
//! is known here. A shard is told the minimum.
//!
//! Deliberately absent: when to claim or to give up a follower, and what the register says.

mod vocabulary;

use celeriant_schema::peer::{Message, NoFrames, Tip};
use celeriant_schema::{Epoch, ShardId, StoreId};

pub use self::vocabulary::{Command, Effect, Event, Identity, Rule, Settings};
use super::activation::all;
use super::bucket::{LogNews, LogOrder};
use super::following::Following;
use super::leading::{Leading, Term};
use super::orders::{Order, Report};
use super::recovery::Recovery;
use super::rounds::Rounds;
use crate::clock::Micros;
use crate::election::register::{Config, Link};
use crate::election::vocabulary::Event as Fact;

/// A node's replicator.
#[derive(Debug)]
pub struct Core {
    me: Identity,
    settings: Settings,
    now: Micros,
    /// Highest epoch that is durably promised.
    promised: Epoch,
    /// At the other end of the session.
    peer: Option<StoreId>,
    /// Numbers questions to shards and to the peer.
    requests: u64,
    role: Role,
    rounds: Rounds,
    /// Of the log from a chain of bucket logs, when this node claims.
    recovery: Option<Recovery>,
}

#[derive(Debug)]
enum Role {
    Leading(Box<Leading>),
    Following(Following),
}

impl Core {
    /// A node that follows, until it is told otherwise. What its shards have, it hears when they
    /// promise.
    pub fn new(me: Identity, settings: Settings, promised: Epoch) -> Self {
        Self {
            me,
            settings,
            now: 0,
            promised,
            peer: None,
            requests: 0,
            role: Role::Following(Following::new(promised, me.shards)),
            rounds: Rounds::new(me.shards),
            recovery: None,
        }
    }

    /// Takes one event at `now` and says what must happen.
    pub fn handle(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        self.apply(event, effects);
        if self.peer.is_none() {
            // Answers to a peer that is gone: in the next session it asks again.
            effects.retain(|effect| !matches!(effect, Effect::Send(_)));
        }
    }

    fn apply(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Up(store) => self.up(store, effects),
            Event::Down { in_order } => self.down(in_order, effects),
            Event::Received(message) => self.receive(message, effects),
            Event::Command(command) => self.obey(command, effects),
            Event::Shard(shard, report) => self.report(shard, report, effects),
            Event::Log(news) => self.log_news(news, effects),
        }
    }

    /// Nothing more has arrived, or the deadline is there: acknowledges, sends what there is room
    /// for, and says what has come of it. Several events are handled before, so that what belongs
    /// together travels together.
    pub fn flush(&mut self, now: Micros, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match &mut self.role {
            Role::Following(following) if self.peer.is_some() => following.acknowledge(effects),
            Role::Following(_) => {}
            Role::Leading(leading) => {
                leading.flush(self.now, &self.settings, effects);
            }
        }
        if let Role::Leading(leading) = &mut self.role {
            leading.see_quiesced(&mut self.rounds, effects);
        }
        self.assert_invariants();
    }

    /// When to flush if nothing arrives before.
    pub fn next_deadline(&self) -> Option<Micros> {
        match &self.role {
            Role::Leading(leading) => leading.next_deadline(&self.settings),
            Role::Following(_) => None,
        }
    }

    fn up(&mut self, store: StoreId, effects: &mut Vec<Effect>) {
        self.peer = Some(store);
        match &mut self.role {
            Role::Leading(leading) => leading.up(store, effects),
            Role::Following(following) => following.session_changes(),
        }
    }

    fn down(&mut self, in_order: bool, effects: &mut Vec<Effect>) {
        self.peer = None;
        match &mut self.role {
            Role::Leading(leading) => leading.down(in_order, effects),
            Role::Following(following) => following.session_changes(),
        }
    }

    fn obey(&mut self, command: Command, effects: &mut Vec<Effect>) {
        match command {
            Command::Send(message) => self.send(message, effects),
            Command::Promised(epoch) => self.promise(epoch, effects),
            Command::Check { chain, base } => {
                self.rounds.check(chain, base, &mut self.requests, effects);
            }
            Command::Recover { epoch, chain } => self.recover(epoch, chain, effects),
            Command::Place { link, .. } => self.place(link, effects),
            Command::Lead(config) => self.lead(&config, effects),
            // The promise has said it already: in that epoch nobody else speaks.
            Command::Follow { .. } => {}
            Command::StepDown(_) => self.step_down(effects),
            Command::AckRule { number, rule } => {
                let rule = Rule::of(rule, self.me.store);
                if let Role::Leading(leading) = &mut self.role {
                    leading.set_rule(rule, effects);
                }
                // Behind what was said by the new rule, so that nothing is committed by the old one
                // once this is answered (R2).
                self.rounds.confirm_rule(number, effects);
            }
            Command::Lease { until } => {
                effects.push(Effect::Lease(until));
                effects
                    .extend(all(self.me.shards).map(|shard| Effect::Shard(shard, Order::Leased)));
            }
            Command::Quiesce { epoch } => {
                self.rounds.quiesce(epoch, effects);
            }
            Command::Resume => {
                self.rounds.resume();
                effects
                    .extend(all(self.me.shards).map(|shard| Effect::Shard(shard, Order::Resume)));
            }
            Command::Aim(member) => effects.push(Effect::Aim(member)),
            Command::Leave => effects.push(Effect::Leave),
        }
    }

    /// What the election says to the peer passes through here, because some of it is about frames.
    fn send(&mut self, message: Message, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Leading(leading) => effects.extend(leading.completed(message).map(Effect::Send)),
            Role::Following(following) => {
                following.answers(&message);
                effects.push(Effect::Send(message));
            }
        }
    }

    /// A promise is durable. R6: from here on no shard acknowledges anything of a lower epoch.
    fn promise(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        self.promised = self.promised.max(epoch);
        match &mut self.role {
            Role::Following(following) => following.promise(epoch, effects),
            // Its own: a further epoch of its leadership.
            Role::Leading(leading) => {
                let tips = leading.tips();
                effects.push(Effect::Election(Fact::PromiseDurable { epoch, tips }));
            }
        }
    }

    /// Its own promise is durable and carried out by every shard.
    fn recover(&mut self, epoch: Epoch, chain: Vec<Link>, effects: &mut Vec<Effect>) {
        if chain.is_empty() {
            self.rounds.confirm_recovery(epoch, None, effects);
        } else {
            let own = self.tips().iter().map(|tip| tip.durable).collect();
            self.recovery = Some(Recovery::new(epoch));
            effects.push(Effect::Log(LogOrder::Recover { epoch, chain, own }));
        }
    }

    fn tips(&self) -> Vec<Tip> {
        match &self.role {
            Role::Following(following) => following.tips(),
            Role::Leading(leading) => leading.tips(),
        }
    }

    /// Sends the log before it is led: nothing of it is acknowledged to anybody.
    fn place(&mut self, link: Link, effects: &mut Vec<Effect>) {
        let term = Term { epoch: link.epoch, ver: 0, link: Some(link) };
        self.recovery = None;
        self.begin(term, effects);
    }

    /// Leads what it placed or was given; or goes on leading in a further epoch.
    fn lead(&mut self, config: &Config, effects: &mut Vec<Effect>) {
        let link = config.active.chain.last().cloned();
        let term = Term { epoch: config.epoch, ver: config.ver, link };
        match &mut self.role {
            Role::Leading(leading) => leading.renew(term, effects),
            Role::Following(_) => self.begin(term, effects),
        }
        effects.push(Effect::Leads(config.epoch));
        if let Role::Leading(leading) = &mut self.role {
            leading.activate(self.me, effects);
        }
    }

    fn begin(&mut self, term: Term, effects: &mut Vec<Effect>) {
        let tips = self.tips();
        self.promised = self.promised.max(term.epoch);
        let leading = Leading::new(term, tips, self.peer, effects);
        self.role = Role::Leading(Box::new(leading));
    }

    fn step_down(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(all(self.me.shards).map(|shard| Effect::Shard(shard, Order::StepDown)));
        effects.push(Effect::Log(LogOrder::Stop));
        self.recovery = None;
        self.rounds.step_down();
        if let Role::Leading(_) = &self.role {
            // What the shards have is heard with the next promise.
            self.role = Role::Following(Following::new(self.promised, self.me.shards));
        }
    }

    fn receive(&mut self, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Locate { request, shard, lsn } => {
                if shard.value() < self.me.shards {
                    effects.push(Effect::Shard(shard, Order::Locate { request, lsn }));
                }
            }
            // Full copies and repair come later; an honest no keeps the peer from waiting.
            Message::Fetch { request, .. } => {
                effects.push(Effect::Send(Message::NoFrames { request, why: NoFrames::Busy }));
            }
            message => match &mut self.role {
                Role::Leading(leading) => {
                    leading.receive(message, &mut self.requests, effects);
                }
                Role::Following(following) => following.receive(message, effects),
            },
        }
    }

    fn report(&mut self, shard: ShardId, report: Report, effects: &mut Vec<Effect>) {
        match report {
            Report::Located { request, frame } => {
                effects.push(Effect::Send(Message::Located { request, shard, frame }));
            }
            Report::Quarantined(reason) => {
                let why = format!("shard {shard}: {reason}");
                effects.push(Effect::Send(Message::Quarantined { shard, reason }));
                effects.push(Effect::Alarm(why.clone()));
                effects.push(Effect::Election(Fact::LogUnhealthy { why }));
            }
            Report::Confirmed { number, commit } => {
                self.rounds.confirmed(shard, number, commit, effects);
            }
            Report::Found { request, frame } => {
                if let Some(lsn) = self.recovery.as_mut().and_then(|r| r.take_search(request)) {
                    effects.push(Effect::Log(LogOrder::Found { shard, lsn, frame }));
                } else if !self.rounds.found(request, frame, effects)
                    && let Role::Leading(leading) = &mut self.role
                {
                    leading.found(shard, request, frame, effects);
                }
            }
            Report::Quiesced { epoch, tip } => self.rounds.quiesced(epoch, tip),
            Report::Unproven => effects.push(Effect::Election(Fact::ProofWanted)),
            report => self.role_report(shard, report, effects),
        }
    }

    /// What means something in one role only; of a role that it had before it means nothing.
    fn role_report(&mut self, shard: ShardId, report: Report, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Leading(leading) => {
                leading.report(shard, report, self.settings.window_bytes, effects);
            }
            Role::Following(following) => {
                if let Some(recovery) = &mut self.recovery {
                    recovery.report(&report, effects);
                }
                following.report(report, effects);
            }
        }
    }

    fn log_news(&mut self, news: LogNews, effects: &mut Vec<Effect>) {
        match (&mut self.role, news) {
            (Role::Leading(leading), LogNews::Held(shard, position)) => {
                leading.in_bucket(shard, position, effects);
            }
            (Role::Leading(leading), LogNews::Read { shard, after, bytes_max }) => {
                leading.read_for_log(shard, after, bytes_max, effects);
            }
            (Role::Leading(leading), LogNews::Fenced) => leading.fenced(effects),
            (Role::Following(_), news) => {
                let Some(recovery) = &mut self.recovery else { return };
                if let Some((epoch, ends)) = recovery.news(news, &mut self.requests, effects) {
                    self.recovery = None;
                    self.rounds.confirm_recovery(epoch, Some(ends), effects);
                }
            }
            // Of a role that it had before.
            (Role::Leading(_), _) => {}
        }
    }

    fn assert_invariants(&self) {
        let Role::Leading(leading) = &self.role else { return };
        let in_flight = leading.in_flight_bytes();
        assert!(
            self.peer.is_some() || in_flight == 0,
            "{in_flight} bytes are on their way without a session"
        );
    }
}

#[cfg(test)]
mod core_test;
#[cfg(test)]
mod following_test;
#[cfg(test)]
pub(super) mod rig;
#[cfg(test)]
mod rules_rig;
#[cfg(test)]
mod rules_test;
