//! The leader's changes of the set (R1, R2, R9, R15).
//!
//! ```text
//!   {L,F} ── F silent or slow ──▶ GET ──▶ acknowledge nothing ──▶ CAS {L,S3}, base = commit
//!   {L,S3} ── F caught up ──▶ GET ──▶ acknowledge by both ──▶ F holds commit ──▶ CAS {L,F}
//! ```
//! The stricter rule is known to hold at every shard before the CAS is sent, and holds until its
//! outcome is known: that order is R2. A bucket that doesn't answer the GET therefore costs
//! nothing, one that dies between GET and CAS freezes writes until it answers.
//! Deliberately absent: which acknowledgements there are (the replicator's).

use celeriant_schema::{Epoch, Lsn, StoreId};

use super::claim::after;
use super::core::{Core, Role};
use super::register::{Link, Member, Phase, Process, Set};
use super::settings::Settings;
use super::swap::{Intent, Swap};
use super::vocabulary::{Effect, Reason, Refused};
use crate::clock::Micros;

/// A leadership: one or more epochs of one process.
#[derive(Debug)]
pub(super) struct Leading {
    /// The epoch that the register says.
    pub(super) epoch: Epoch,
    /// The first one. What was acknowledged in an earlier leadership says nothing about this log.
    pub(super) since: Epoch,
    /// When the other store was last heard. Off at most: a needless or a late reconfiguration.
    heard_at: Micros,
    /// The replicator hears too little of it.
    silent: bool,
    /// Its acknowledgements take longer than the bucket's would, and have for a while.
    slow: bool,
    /// It said that it has nearly everything.
    caught_up: bool,
    /// What which store acknowledged in this leadership.
    holds: Option<(StoreId, Vec<Lsn>)>,
    /// The change that the ack rule is strict for.
    pub(super) preparing: Option<Change>,
    pub(super) lease_until: Micros,
    pub(super) renew_at: Micros,
}

/// A change of set or leader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// On with the bucket.
    Eject,
    /// On with this pair.
    Readmit(Set),
    /// On under the other node.
    HandOver,
}

/// How long a follower must wait that is slow, or that is lost again soon after its return. One
/// that was lost once need not, nor one that has been started anew: what was wrong may be over. Off
/// at most: too many reconfigurations.
#[derive(Debug, Default)]
pub(super) struct Flapping {
    /// The last wait.
    wait: Micros,
    /// For whom, and until when.
    readmit_at: Micros,
    of: Option<Process>,
    readmitted_at: Option<Micros>,
}

impl Flapping {
    /// The follower is no place any more: the wait begins or doubles, unless it had been back for
    /// the longest wait.
    fn lost(&mut self, settings: &Settings, now: Micros, slow: bool, of: Option<Process>) {
        let (least, most) = settings.rejoin;
        let again =
            of == self.of && self.readmitted_at.is_some_and(|at| now < at.saturating_add(most));
        self.wait = match (slow || again, again) {
            (false, _) => 0,
            (true, false) => least,
            (true, true) => self.wait.saturating_mul(2).clamp(least, most),
        };
        (self.readmit_at, self.of) = (now.saturating_add(self.wait), of);
    }

    /// When that process may be a place again.
    fn over_at(&self, of: Option<Process>) -> Micros {
        if of == self.of { self.readmit_at } else { 0 }
    }
}

impl Leading {
    pub(super) fn new(epoch: Epoch, now: Micros) -> Self {
        Self {
            epoch,
            since: epoch,
            heard_at: now,
            silent: false,
            slow: false,
            caught_up: false,
            holds: None,
            preparing: None,
            lease_until: 0,
            renew_at: now,
        }
    }
}

impl Core {
    /// The store that is, or is to be, the second place.
    fn second(&self) -> Option<StoreId> {
        let (config, own) = (self.access.config()?, self.me.member.store);
        match config.active.set {
            Set::Pair(..) => config.active.set.other(own),
            Set::Bucket(_) => config.other_member(own).map(|member| member.store),
        }
    }

    /// Anything that the follower says is a sign of life.
    pub(super) fn hear_follower(&mut self, store: StoreId) {
        let (counts, now) = (self.second() == Some(store), self.now);
        if let Role::Leading(leading) = &mut self.role
            && counts
        {
            leading.heard_at = now;
        }
    }

    /// A store that was there before says nothing about the one that counts (§1), and an earlier
    /// leadership nothing about this one.
    pub(super) fn take_holding(&mut self, store: StoreId, epoch: Epoch, upto: Vec<Lsn>) {
        let counts = self.second() == Some(store);
        self.hear_follower(store);
        let Role::Leading(leading) = &mut self.role else { return };
        if counts && (leading.since..=leading.epoch).contains(&epoch) {
            leading.silent = false;
            leading.holds = Some((store, upto));
        }
    }

    pub(super) fn take_caught_up(&mut self, store: StoreId) {
        let counts = self.second() == Some(store);
        self.hear_follower(store);
        let Role::Leading(leading) = &mut self.role else { return };
        if counts {
            (leading.caught_up, leading.silent) = (true, false);
        }
    }

    pub(super) fn take_silence(&mut self, store: StoreId) {
        let counts = self.second() == Some(store);
        let Role::Leading(leading) = &mut self.role else { return };
        if counts {
            (leading.caught_up, leading.silent) = (false, true);
        }
    }

    /// For a while no acknowledgement took less than this: slower than the bucket?
    pub(super) fn take_pace(&mut self, store: StoreId, fastest: Micros) {
        let counts = self.second() == Some(store);
        let bucket = self.access.round_trip().map(|trip| trip + self.settings.bucket_round);
        let Role::Leading(leading) = &mut self.role else { return };
        leading.slow = counts && bucket.is_some_and(|bucket| fastest > bucket);
    }

    /// What is due while it leads.
    pub(super) fn lead(&mut self) {
        if self.must_stop() {
            return self.stop();
        }
        self.send_pulse();
        let lost = self.follower_is_lost();
        self.go_on_handing_over(lost);
        if self.access.swap().is_none() {
            let wanted = self.wanted(lost);
            self.prepare(wanted);
        }
        if self.access.swap().is_none() {
            self.renew();
        }
        if self.access.swap().is_none() && self.hand_over.is_none() {
            self.keep_up();
        }
        let stale_at = self.access.stale_at(self.settings.register_every);
        self.want_read |= self.due(stale_at);
    }

    /// What the register says of this node, and what both may write.
    fn keep_up(&mut self) {
        if self.is_out_of_date() {
            return self.refresh();
        }
        let Some(config) = self.access.config() else { return };
        let both = config.members.len() == 2 && matches!(config.active.set, Set::Pair(..));
        let level = config.members.iter().map(|member| member.features.max).min();
        let higher = level.filter(|level| both && *level > config.feature_level);
        if let Some(level) = higher.filter(|_| self.fresh())
            && let Some(mut config) = self.access.config().cloned()
        {
            config.feature_level = level;
            config.ver += 1;
            self.swap(Intent::Raise, config);
        }
    }

    fn follower_is_lost(&mut self) -> bool {
        let Role::Leading(leading) = &self.role else { return false };
        let (silent, at) = (leading.silent, leading.heard_at);
        silent || self.due(at.saturating_add(self.settings.suspect_after))
    }

    /// Which change the facts call for.
    fn wanted(&mut self, lost: bool) -> Option<Change> {
        let (config, own) = (self.access.config()?, self.me.member.store);
        if matches!(config.active.set, Set::Pair(..)) {
            let held = self.hand_over_is_ready().then_some(Change::HandOver);
            let Role::Leading(leading) = &self.role else { return None };
            return if lost || leading.slow { Some(Change::Eject) } else { held };
        }
        let other = config.other_member(own).map(|member| member.store)?;
        let Role::Leading(leading) = &self.role else { return None };
        let back = leading.caught_up && !lost;
        let due = back && self.due(self.flapping.over_at(self.peer));
        due.then(|| Change::Readmit(Set::pair(own, other)))
    }

    /// Rule first, register second.
    fn prepare(&mut self, wanted: Option<Change>) {
        // A register that was not read just now, or is not believed, changes no rule (R15, I14).
        let go = wanted.is_none() || self.fresh();
        let Role::Leading(leading) = &mut self.role else { return };
        if !go {
            // What is strict already stays so: its reason is still there.
            leading.preparing = leading.preparing.filter(|change| Some(*change) == wanted);
            return;
        }
        leading.preparing = wanted;
        if matches!(wanted, Some(Change::Readmit(_))) {
            self.drop_lease();
        }
        self.apply_rule();
        match wanted {
            Some(Change::Eject) => self.eject(),
            Some(Change::Readmit(pair)) => self.readmit(pair),
            Some(Change::HandOver) => self.send_hand_over(),
            None => {}
        }
    }

    /// §3 "follower lost": frozen at C, which both have.
    fn eject(&mut self) {
        let (Some(base), Some(config)) = (self.rule.in_force.clone(), self.access.config()) else {
            return;
        };
        assert_eq!(base.len(), usize::from(config.shards), "a position for every shard");
        let (me, epoch) = (self.me.process(), after(config.epoch));
        let chain = vec![Link { epoch, base }];
        let mut sent = config.activated(epoch, me, Set::Bucket(me.store), chain);
        sent.lease = Some(self.first_lease());
        self.swap(Intent::Eject, sent);
    }

    /// §3 "follower back": it holds what was committed when it began to be asked for everything.
    fn readmit(&mut self, pair: Set) {
        let (Role::Leading(leading), Some(config)) = (&self.role, self.access.config()) else {
            return;
        };
        let me = self.me.process();
        let (Some(commit), Some((store, upto))) = (&self.rule.in_force, &leading.holds) else {
            return;
        };
        let holds = pair.other(me.store) == Some(*store)
            && upto.len() == commit.len()
            && commit.iter().zip(upto).all(|(commit, upto)| commit.lsn <= *upto);
        if holds {
            let mut sent = config.activated(after(config.epoch), me, pair, Vec::new());
            sent.lease = None;
            self.swap(Intent::Readmit, sent);
        }
    }

    /// The change is in the register: the leadership goes on in the next epoch.
    pub(super) fn reconfigured(&mut self, swap: &Swap) {
        let now = self.now;
        let Role::Leading(leading) = &mut self.role else { return };
        let Some(config) = self.access.config() else { return };
        let (epoch, ejected) = (swap.sent.epoch, swap.intent == Intent::Eject);
        leading.epoch = epoch;
        leading.preparing = None;
        let slow = std::mem::take(&mut leading.slow);
        leading.caught_up = false;
        // No answer of the pair's time is one about the bucket's, and the other way round.
        (leading.silent, leading.heard_at, leading.renew_at) = (false, now, now);
        self.out.push(Effect::Lead { config: Box::new(config.clone()) });
        // R6: remembered, so that not even this process takes the epoch for a new one later.
        // Nothing waits for it: a later process never continues an epoch (R8).
        self.promising = (epoch, None);
        self.out.push(Effect::Promise(epoch));
        if ejected {
            self.flapping.lost(&self.settings, now, slow, self.met);
            self.renew_later();
            self.hold_bucket_lease(swap.since);
        } else {
            self.flapping.readmitted_at = Some(now);
        }
        self.explain(match (ejected, slow) {
            (true, true) => Reason::FollowerSlow,
            (true, false) => Reason::FollowerLost,
            (false, _) => Reason::FollowerBack,
        });
    }

    /// §3 "node replaced": the operator's word, put into the register by whoever leads.
    pub(super) fn begin_replace(
        &mut self,
        id: u64,
        lost: StoreId,
        member: Member,
    ) -> Result<(), Refused> {
        let leads = matches!(self.role, Role::Leading(_));
        let Some(config) = self.access.config().filter(|_| leads) else {
            return Err(Refused::NotLeading);
        };
        if let Some(distrust) = self.access.distrust() {
            return Err(Refused::Distrusted(distrust.clone()));
        }
        assert_eq!(config.phase, Phase::Active, "leads what is only claimed");
        let mut sent = config.clone();
        sent.ver += 1;
        let known = config.member(member.store).is_some();
        let place = sent.members.iter_mut().find(|member| member.store == lost);
        let Some(place) = place.filter(|_| lost != self.me.member.store && !known) else {
            return Err(Refused::Impossible(
                "the lost store is no other member, or the new one is",
            ));
        };
        *place = member;
        if !place.speaks(config.feature_level) {
            return Err(Refused::Impossible(
                "the new store's node is of an older or newer version",
            ));
        }
        if sent.check().is_err() {
            return Err(Refused::Impossible(
                "the new member has no name, or an address is too long",
            ));
        }
        if self.access.swap().is_some() || self.hand_over.is_some() {
            return Err(Refused::Busy);
        }
        self.swap(Intent::Replace(id), sent);
        Ok(())
    }
}
