//! The decisions of one node about who leads: a state machine without I/O, clock or randomness.
//!
//! ```text
//!                claim is in the register       recovered, placed, activated
//!   Following ────────────────────────▶ TakingOver ─────────────────────────▶ Leading
//!    ▲     named leader by the register ┘     │                                 │
//!    └── lost, deposed, failed, handed over ──┴─────────────────────────────────┘
//!
//!   vocabulary  events, effects       swap     the register, one change at a time: R15, I14
//!   follow      R6, R9, R16, claims   claim    who may claim; claim … activate: R7
//!   reconfigure R1, R2, leader's sets hand_over  planned hand-over     lease  heartbeats, R16
//! ```
//! An event changes what is known; then `settle` does what is due, whatever it was that
//! made it due. So nothing has to be remembered to be done later, and a lost answer is asked for
//! again. There is one request to the bucket at a time and one change of the register.
//!
//! What a role needs of the register it reads from the register that was last read: there is no
//! second copy that could disagree.
//! Deliberately absent: logs, frames, acknowledgements (the replicator's), and reads.

#[cfg(test)]
mod claim_test;
#[cfg(test)]
mod follower_test;
#[cfg(test)]
mod hand_over_test;
#[cfg(test)]
mod lease_test;
#[cfg(test)]
mod reconfigure_test;
#[cfg(test)]
pub(super) mod rig;

use celeriant_schema::peer::{Message, Position, Tip};
use celeriant_schema::{Epoch, Lsn, StoreId};
use celeriant_storage::bucket::Completion;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::claim::TakeOver;
use super::follow::{ClaimSeen, LeaseSeen};
use super::hand_over::HandOver;
use super::lease::Pulse;
use super::reconfigure::{Change, Flapping, Leading};
use super::register::{Config, LEASE_MS_MAX, Lease, Member, Phase, Process, Seal, Set};
use super::settings::Settings;
use super::swap::{Access, Intent, News};
use super::vocabulary::{
    AckRule, Command, Effect, Event, Identity, Local, May, Reason, Refused, RoleName, Status,
};
use crate::clock::Micros;

/// Most rounds of [`Core::settle`]: following → taking over → leading, and one that finds nothing.
const ROUNDS_MAX: usize = 4;

/// What this process does.
#[derive(Debug)]
pub(super) enum Role {
    Following {
        /// Whom, and in which epoch; durably promised.
        leader: Option<(StoreId, Epoch)>,
    },
    TakingOver(TakeOver),
    Leading(Leading),
    /// Takes no further part.
    Stopped,
}

/// The rule that shards acknowledge by.
#[derive(Debug)]
pub(super) struct Rule {
    number: u64,
    rule: AckRule,
    /// Commit positions at which it began to hold everywhere.
    pub(super) in_force: Option<Vec<Position>>,
}

/// One node's part in the election. See the module's page.
pub struct Core {
    pub(super) settings: Settings,
    pub(super) me: Identity,
    pub(super) may: May,
    /// Ends of the log at the start: how many shards there are, and the epochs that it has.
    pub(super) tips_at_start: Vec<Tip>,
    /// It has entries, and never saw a register: a single node's.
    pub(super) own_history: bool,
    pub(super) random: SmallRng,
    pub(super) now: Micros,
    /// Earliest moment at which something is due without an event.
    pub(super) wake: Micros,
    pub(super) out: Vec<Effect>,
    pub(super) access: Access,
    pub(super) want_read: bool,
    pub(super) role: Role,
    /// Counts changes of role.
    roles: u64,
    /// Durably promised.
    pub(super) promised: Epoch,
    /// Highest that was ordered to be promised, and for which peer, if for one.
    pub(super) promising: (Epoch, Option<Process>),
    /// Highest epoch that this process ever tried to be named leader of. A try that was forgotten
    /// may land late, and is then no hand-over.
    pub(super) proposed: Epoch,
    pub(super) peer: Option<Process>,
    /// Who was the peer last.
    pub(super) met: Option<Process>,
    pub(super) pulse: Pulse,
    /// When a leader or claimant was last heard. Off at most: a claim too early or too late.
    pub(super) heard_at: Micros,
    /// Until then this node claims nothing: it granted, or may have granted before its start (R16).
    /// Off at most: a linearizable read that rests on the grant misses a write.
    pub(super) granted_until: Micros,
    /// No claim before. Off at most: nodes disturb each other.
    pub(super) backing_off_until: Micros,
    pub(super) lease_seen: Option<LeaseSeen>,
    pub(super) claim_seen: Option<ClaimSeen>,
    /// First epoch of the chain whose base the log is known to hold, or is asked about.
    pub(super) base_held: Option<Epoch>,
    pub(super) checking: bool,
    pub(super) rule: Rule,
    pub(super) hand_over: Option<HandOver>,
    pub(super) flapping: Flapping,
    pub(super) unhealthy: bool,
    /// The process is about to end, then at the latest. Off at most: no hand-over, a take-over.
    pub(super) stop_by: Option<Micros>,
    /// The epoch that this process, which ends, has handed over: its heir must have heard of it.
    pub(super) given: Option<Epoch>,
    saw: Epoch,
    aimed: Option<Option<Member>>,
    reason: Reason,
    announced: Option<Status>,
}

impl Core {
    /// A node that has just started and knows nothing but its disk. `seed` makes nonces and
    /// back-offs: nonces must differ between processes, so it must be random.
    pub fn new(
        settings: Settings,
        seal: Seal,
        me: Identity,
        local: Local,
        seed: u64,
        now: Micros,
    ) -> Self {
        let (shards, seen) = (local.tips.len() as u16, local.max_epoch_seen);
        let has_entries = local.tips.iter().any(|tip| tip.durable.lsn > Lsn::default());
        let own_history = has_entries && seen == Epoch::default();
        let access = Access::new(settings, seal, (me.cluster, shards), seen);
        Self {
            settings,
            me,
            may: local.may,
            tips_at_start: local.tips,
            own_history,
            random: SmallRng::seed_from_u64(seed),
            now,
            wake: 0,
            out: Vec::new(),
            access,
            want_read: false,
            role: Role::Following { leader: None },
            roles: 0,
            promised: local.promised,
            promising: (local.promised, None),
            proposed: Epoch::default(),
            peer: None,
            met: None,
            pulse: Pulse::default(),
            heard_at: now,
            granted_until: now.saturating_add(super::settings::longer(settings.grant)),
            backing_off_until: 0,
            lease_seen: None,
            claim_seen: None,
            base_held: None,
            checking: false,
            rule: Rule { number: 0, rule: AckRule::Nobody, in_force: None },
            hand_over: None,
            flapping: Flapping::default(),
            unhealthy: false,
            stop_by: None,
            given: None,
            saw: seen,
            aimed: None,
            reason: Reason::Started,
            announced: None,
        }
    }

    /// Takes one event at `now` and says what must happen. The first may be [`Event::Tick`].
    pub fn handle(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        if !matches!(self.role, Role::Stopped) {
            self.take(event);
            self.settle();
        }
        effects.append(&mut self.out);
        self.assert_invariants();
    }

    /// When to hand in an [`Event::Tick`] if nothing happens before.
    pub fn next_deadline(&self) -> Option<Micros> {
        let stopped = matches!(self.role, Role::Stopped);
        (!stopped && self.wake != Micros::MAX).then_some(self.wake)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Bucket(completion) => self.take_completion(completion),
            Event::PeerUp(peer) => self.meet(Some(peer)),
            Event::PeerDown => self.meet(None),
            Event::Message(message) => self.take_message(message),
            Event::PromiseDurable { epoch, tips } => self.take_promise(epoch, tips),
            Event::Checked { chain, held } => self.take_check(chain, held),
            Event::Recovered { epoch, base } => self.take_recovery(epoch, base),
            Event::RecoverFailed { epoch, why } => {
                self.fail_take_over(epoch, Reason::RecoverFailed(why));
            }
            Event::Placed { epoch, place } => self.take_placement(epoch, place),
            Event::PlaceFailed { epoch, why } => {
                self.fail_take_over(epoch, Reason::PlaceFailed(why));
            }
            Event::Ruled { number, commit } => {
                if number == self.rule.number {
                    self.rule.in_force = Some(commit);
                }
            }
            Event::FollowerHolds { store, epoch, upto } => self.take_holding(store, epoch, upto),
            Event::FollowerCaughtUp { store } => self.take_caught_up(store),
            Event::FollowerSilent { store } => self.take_silence(store),
            Event::ProofWanted => self.hurry_proof(),
            Event::FollowerPace { store, fastest } => self.take_pace(store, fastest),
            Event::TipHeldByPeer { epoch, store, tips } => self.take_tip_held(epoch, store, tips),
            Event::Fenced { epoch } => {
                if self.own_epoch() == Some(epoch) {
                    self.step_down(Reason::Deposed { epoch: self.access.max_epoch_seen() });
                }
            }
            Event::Command { id, command } => self.take_command(id, command),
            Event::LogUnhealthy { why } => {
                self.unhealthy = true;
                self.step_down(Reason::LogUnhealthy(why));
            }
            Event::ShuttingDown => {
                let by = self.now.saturating_add(self.settings.hand_over_within);
                self.stop_by.get_or_insert(by);
            }
            Event::Tick => {}
        }
    }

    fn take_message(&mut self, message: Message) {
        let Some(peer) = self.peer else { return };
        self.hear_follower(peer.store);
        match message {
            Message::Promise { epoch, .. } => self.asked_to_promise(peer, epoch),
            Message::Heartbeat { number, epoch, .. } => self.take_heartbeat(peer, number, epoch),
            Message::Promised { epoch, .. } => self.take_promised(epoch),
            Message::Alive { promised, .. } => self.take_deposed(promised),
            Message::Deposed { epoch, ver } => self.take_deposed_or_news(epoch, ver),
            Message::LeaseGrant { number, epoch, lasts_ms } => {
                self.take_grant(peer.store, number, epoch, lasts_ms);
            }
            Message::LeaseReturn { epoch } => self.take_lease_back(peer, epoch),
            Message::HandOver { epoch, register, etag } => {
                self.take_hand_over(epoch, &register, etag);
            }
            _ => {}
        }
    }

    fn take_command(&mut self, id: u64, command: Command) {
        let result = match command {
            Command::HandOver => match self.begin_hand_over(Some(id)) {
                // Answered when it has come to an end.
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
            Command::Replace { lost, member } => match self.begin_replace(id, lost, member) {
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
            Command::Recover { above } => match self.begin_recover(id, above) {
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
        };
        self.out.push(Effect::Answer { id, result });
    }

    fn take_completion(&mut self, completion: Completion) {
        match self.access.complete(self.now, completion) {
            News::Nothing => return,
            News::Absent => self.create(),
            News::Read => {}
            News::Won(swap) => match swap.intent {
                Intent::Create => self.reason = Reason::Created,
                Intent::Join | Intent::Refresh | Intent::Raise => {}
                Intent::Claim => self.claim_won(swap.sent.epoch),
                Intent::Activate => self.activated(swap.sent.epoch, swap.since),
                Intent::Eject | Intent::Readmit => self.reconfigured(&swap),
                Intent::HandOver => self.handed_over(&swap),
                Intent::Renew => self.renewed(&swap),
                Intent::Replace(id) => self.out.push(Effect::Answer { id, result: Ok(()) }),
                Intent::Recover(id) => {
                    self.reason = Reason::Recovered;
                    self.out.push(Effect::Answer { id, result: Ok(()) });
                }
            },
            News::Lost(swap) | News::Void(swap) => match swap.intent {
                Intent::Claim => self.back_off(),
                Intent::Replace(id) | Intent::Recover(id) => {
                    let result =
                        Err(Refused::CalledOff("the register changed, or is out of reach"));
                    self.out.push(Effect::Answer { id, result });
                }
                // Whatever it was for is still due, or not: `settle` sees to it.
                _ => {}
            },
        }
        self.note_register();
    }

    /// Whatever was read last says whether this node still is what it is (R9).
    pub(super) fn note_register(&mut self) {
        let Some(config) = self.access.config() else { return };
        let (epoch, leader, phase) = (config.epoch, config.leader, config.phase);
        // A single node's directory that met somebody else's register stays what it is.
        self.own_history &= config.member(self.me.member.store).is_none();
        self.note_lease();
        self.note_claim();
        if self.access.max_epoch_seen() > self.saw && !self.own_history {
            self.saw = self.access.max_epoch_seen();
            self.out.push(Effect::Saw(self.saw));
        }
        let mine = leader == self.me.process();
        let holds = match &self.role {
            // Same epoch, process and phase: an operator's change, a new member, a renewal. Adopt.
            Role::Leading(leading) => mine && epoch == leading.epoch && phase == Phase::Active,
            Role::TakingOver(take_over) => mine && epoch == take_over.epoch,
            Role::Following { .. } | Role::Stopped => true,
        };
        if !holds {
            self.step_down(Reason::Deposed { epoch });
        }
    }

    /// Does what is due, then says what has become different.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let before = self.roles;
            self.wake = Micros::MAX;
            self.want_read = self.access.config().is_none() || self.access.distrust().is_some();
            match self.role {
                Role::Following { .. } => self.follow(),
                Role::TakingOver(_) => self.go_on_taking_over(),
                Role::Leading(_) => self.lead(),
                Role::Stopped => {}
            }
            if self.roles == before {
                break;
            }
        }
        if !matches!(self.role, Role::Stopped) {
            self.ask_bucket();
        }
        self.apply_rule();
        self.aim();
        self.announce();
    }

    /// Sends the next request, when nothing is in flight.
    fn ask_bucket(&mut self) {
        let due = self.want_read || self.access.swap().is_some();
        if due && self.access.is_idle() && self.due(self.access.retry_at) {
            let (token, request) = self.access.next(self.now);
            self.out.push(Effect::Bucket(token, request));
        }
    }

    /// Whether `at` has come; if not, it is when to look again.
    pub(super) fn due(&mut self, at: Micros) -> bool {
        let due = self.now >= at;
        if !due {
            self.wake = self.wake.min(at);
        }
        due
    }

    /// The register was read and believed within the last second; else it is read (R15).
    pub(super) fn fresh(&mut self) -> bool {
        let fresh = self.access.is_fresh(self.now);
        self.want_read |= !fresh;
        fresh
    }

    /// Begins a change of the register, with a nonce of its own.
    pub(super) fn swap(&mut self, intent: Intent, mut config: Config) {
        config.nonce = self.random.random();
        if config.leader == self.me.process() {
            self.proposed = self.proposed.max(config.epoch);
        }
        self.access.begin(intent, config, self.now);
    }

    pub(super) fn change_role(&mut self, role: Role, reason: Reason) {
        self.role = role;
        self.roles += 1;
        self.reason = reason;
        self.pulse.restart();
    }

    /// Why its role is what it is.
    pub(super) fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The role stays, but the last transition was another.
    pub(super) fn explain(&mut self, reason: Reason) {
        self.reason = reason;
    }

    /// R9, and every other end of leading or taking over. What is under way is given up: a change
    /// of the register that may still happen is found by reading.
    pub(super) fn step_down(&mut self, reason: Reason) {
        if !matches!(self.role, Role::TakingOver(_) | Role::Leading(_)) {
            return;
        }
        if let Some(Intent::Replace(id)) = self.access.forget().map(|swap| swap.intent) {
            let result = Err(Refused::CalledOff("this node no longer leads; it may yet happen"));
            self.out.push(Effect::Answer { id, result });
        }
        self.call_off_hand_over("this node no longer leads");
        self.out.push(Effect::Lease { until: 0 });
        self.out.push(Effect::StepDown(reason.clone()));
        self.change_role(Role::Following { leader: None }, reason);
        self.access.doubt();
        self.heard_at = self.now;
        self.back_off();
    }

    /// Off at most: two nodes disturb each other for longer.
    pub(super) fn back_off(&mut self) {
        let (least, most) = self.settings.back_off;
        let wait = self.random.random_range(least..=most.max(least));
        self.backing_off_until = self.now.saturating_add(wait);
    }

    /// The process ends; whatever was under way is as after a crash.
    pub(super) fn stop(&mut self) {
        self.step_down(Reason::ShuttingDown);
        self.access.forget();
        self.out.push(Effect::Leave);
        self.change_role(Role::Stopped, Reason::ShuttingDown);
    }

    /// The epoch that this process leads or takes over.
    pub(super) fn own_epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::TakingOver(take_over) => Some(take_over.epoch),
            Role::Leading(leading) => Some(leading.epoch),
            Role::Following { .. } | Role::Stopped => None,
        }
    }

    /// R1, R2: by which rule is acknowledged follows from what is known, here and nowhere else.
    fn rule_now(&self) -> AckRule {
        let (Role::Leading(leading), Some(config)) = (&self.role, self.access.config()) else {
            return AckRule::Nobody;
        };
        let set = config.active.set;
        let in_bucket = matches!(set, Set::Bucket(_));
        match leading.preparing {
            // Slots of the new epoch cannot exist before it is known: both sets = nobody.
            Some(Change::Eject) => AckRule::Nobody,
            Some(Change::Readmit(pair)) => AckRule::Both(set, pair),
            // A bucket that lost its register may have lost fences, too.
            _ if in_bucket && self.access.distrust().is_some() => AckRule::Nobody,
            // Handing over: everything is acknowledged already, by the same two stores.
            Some(Change::HandOver) | None => AckRule::Set(set),
        }
    }

    /// Orders the rule that follows from what is known, if it is another.
    pub(super) fn apply_rule(&mut self) {
        let rule = self.rule_now();
        if rule != self.rule.rule {
            let number = self.rule.number + 1;
            self.rule = Rule { number, rule, in_force: None };
            self.out.push(Effect::AckRule { number, rule });
        }
    }

    /// The other member is whom this node talks to.
    fn aim(&mut self) {
        let Some(config) = self.access.config() else { return };
        let other = config.other_member(self.me.member.store);
        if self.aimed.as_ref().is_none_or(|aimed| aimed.as_ref() != other) {
            let aim = other.cloned();
            self.aimed = Some(aim.clone());
            self.out.push(Effect::Aim(aim));
        }
    }

    fn announce(&mut self) {
        let status = self.status();
        if self.announced.as_ref() != Some(&status) {
            self.announced = Some(status.clone());
            self.out.push(Effect::Announce(status));
        }
    }

    /// What this node is doing.
    pub fn status(&self) -> Status {
        let role = match self.role {
            Role::Following { .. } if self.access.intent() == Some(Intent::Claim) => {
                RoleName::Claiming
            }
            Role::Following { .. } => RoleName::Following,
            Role::TakingOver(_) => RoleName::TakingOver,
            Role::Leading(_) => RoleName::Leading,
            Role::Stopped => RoleName::Stopped,
        };
        let config = self.access.config();
        Status {
            role,
            epoch: config.map_or(Epoch::new(0), |config| config.epoch),
            ver: config.map_or(0, |config| config.ver),
            set: config.map(|config| config.active.set),
            seen: self.access.max_epoch_seen().max(self.promised),
            reason: self.reason.clone(),
            distrust: self.access.distrust().cloned(),
        }
    }

    /// The member that leads, if it is another one and leads already.
    pub(super) fn leader_elsewhere(&self) -> Option<&Member> {
        let config = self.access.config()?;
        let leads = config.phase == Phase::Active && config.leader.store != self.me.member.store;
        config.member(config.leader.store).filter(|_| leads)
    }

    /// What the next lease of a configuration with the bucket is.
    pub(super) fn first_lease(&self) -> Lease {
        let ttl_ms = (self.settings.lease / 1_000).clamp(1, LEASE_MS_MAX.into()) as u32;
        Lease { seq: 1, ttl_ms }
    }

    fn assert_invariants(&self) {
        let config = self.access.config();
        if self.rule.rule != AckRule::Nobody {
            let own = config.is_some_and(|config| {
                config.phase == Phase::Active && config.leader == self.me.process()
            });
            assert!(own, "{:?} while the register says {config:?}", self.rule.rule);
        }
        if let Role::Leading(leading) = &self.role {
            assert!(config.is_some_and(|config| config.epoch == leading.epoch), "{config:?}");
            assert!(self.promising.0 >= leading.epoch, "leads what it has not promised");
            // R2: in doubt about another set, never by the old set alone.
            let strict = match self.access.intent() {
                Some(Intent::Eject) => self.rule.rule == AckRule::Nobody,
                Some(Intent::Readmit) => matches!(self.rule.rule, AckRule::Both(..)),
                _ => true,
            };
            assert!(strict, "{:?} by {:?}", self.access.intent(), self.rule.rule);
        }
    }
}
