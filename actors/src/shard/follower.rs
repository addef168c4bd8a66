//! The shard while another node leads, or nobody yet: takes the leader's frames in, shows what is
//! committed (R4).
//!
//! ```text
//! Accept ─► log ─► durable: tail ──commit──► directory       Write ─────► visible
//!            └─► Report::Durable                             Leg ───────► pending
//!                                                            all legs of it here: visible
//!                                                            Resolve ───► not pending any more
//! ```
//! Frames are shown whole, in log order. One with a `Resolve` waits until every leg of that write
//! is here: else a reader could see half of it. That ends, since a `Resolve` is appended only after
//! all legs are committed, so no two shards can wait for each other.
//!
//! Whoever comes to lead has shown its whole log before (`Survey`), and takes the open legs along.

use celeriant_schema::peer::Position;
use celeriant_schema::{AggregateKey, Epoch, Lsn, Refusal, ShardId, Stamp, TxnId};
use celeriant_storage::Error;
use celeriant_storage::directory::{Applier, Fault};
use celeriant_storage::error::Uncut;
use celeriant_storage::log::{DurableFrame, Refused};
use celeriant_storage::recovery::PendingLeg;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::core::{Core, Effect, Role};
use super::orders::Reopen;
use super::search::Purpose;
use crate::replicator::orders::{Order, Report};
use crate::settlement::Trace;
use crate::work::{Step, Work};

/// Bytes that one read brings of what is to be shown.
const LOAD_BYTES: usize = 1 << 20;

/// What only a shard that does not lead keeps.
#[derive(Debug)]
pub(super) struct Follower {
    applier: Applier,
    /// Aggregates of open legs, and where the leg is.
    held: HashMap<AggregateKey, Lsn, FixedState>,
    /// Promised; frames of lower epochs are not taken.
    pub(super) epoch: Epoch,
    /// Everything up to here is committed, as others say.
    commit: Lsn,
    /// What the leader said last: with everything up to there, all up to that stamp is there.
    closed: (Lsn, Stamp),
    /// The highest stamp that is complete here.
    shown: Stamp,
    /// A write that must be decided before more can be shown.
    stalled: Option<TxnId>,
    /// A leader has said what is committed.
    has_heard: bool,
}

impl Follower {
    /// Goes on from what recovery left, everything up to `commit`.
    pub(super) fn new(pending: Vec<PendingLeg>, commit: Lsn) -> Self {
        let mut held = HashMap::with_hasher(FixedState::default());
        for leg in &pending {
            held.extend(leg.keys.iter().map(|key| (key.clone(), leg.lsn)));
        }
        let applier = Applier::new(pending);
        let (closed, shown, stalled) = ((commit, Stamp::ZERO), Stamp::ZERO, None);
        let epoch = Epoch::default();
        Self { applier, held, epoch, commit, closed, shown, stalled, has_heard: false }
    }

    /// Legs that nobody decided yet.
    pub(super) fn pending(&self) -> impl Iterator<Item = &PendingLeg> {
        self.applier.pending()
    }

    pub(super) fn into_pending(self) -> Vec<PendingLeg> {
        self.applier.into_pending()
    }

    fn is_pending(&self, txn: TxnId) -> bool {
        self.pending().any(|leg| leg.txn == txn)
    }

    /// Every event with a stamp up to here that the shard will ever have is visible.
    pub(super) fn closed_stamp(&self) -> Stamp {
        let below = |stamp: Stamp| Stamp::new(stamp.value() - 1);
        self.first_undecided().map_or(self.shown, |open| self.shown.min(below(open)))
    }

    /// Lowest stamp of a leg that is committed here but not decided.
    pub(super) fn first_undecided(&self) -> Option<Stamp> {
        self.pending().find(|leg| !leg.is_shown).map(|leg| leg.stamp)
    }
}

impl<R> Core<R> {
    /// Up to which stamp it had told that everything is there, when it began to close.
    pub fn shown(&self) -> Stamp {
        self.shown
    }

    /// What an earlier core of this process has told as complete stays complete: stamps never go
    /// back for whoever reads here (I7).
    pub fn keep_shown(&mut self, shown: Stamp) {
        if let Role::Following(follower) = &mut self.role {
            follower.shown = follower.shown.max(shown);
        }
    }

    /// Takes frames of the leader in, as many as it can; what it cannot take now stays in `order`.
    /// Whether that is nothing.
    pub(super) fn accept(&mut self, order: &mut Order, effects: &mut Vec<Effect<R>>) -> bool {
        let Order::Accept { epoch, before, bytes } = order else { return true };
        let Role::Following(follower) = &self.role else { return true };
        if *epoch != follower.epoch {
            return true;
        }
        if *before != self.log.sealed_end() {
            return self.refuse_frames(*epoch, effects);
        }
        let mut ops = std::mem::take(&mut self.ops);
        let taken = self.log.follow(bytes, &mut ops);
        self.start(ops, effects);
        *before = self.log.sealed_end();
        match taken {
            Ok(()) => true,
            Err(Refused::Busy | Refused::NoRoom) => false,
            Err(Refused::Apart(_)) => self.refuse_frames(*epoch, effects),
            // The device has failed, which ends this shard anyway.
            Err(Refused::Poisoned) => true,
            Err(flawed @ Refused::Flawed(_)) => {
                let why = format!("the leader sent what it cannot have made: {flawed}");
                effects.push(Effect::Report(Report::Quarantined(why)));
                true
            }
        }
    }

    /// The frames continue another log than this: says where it ends, once that is durable.
    fn refuse_frames(&mut self, epoch: Epoch, effects: &mut Vec<Effect<R>>) -> bool {
        if !self.log.is_settled() {
            return false;
        }
        effects.push(Effect::Report(Report::Refused { epoch, tip: self.log.tip() }));
        true
    }

    /// The log was opened anew, for this reason; or it was not cut.
    pub fn follow(&mut self, reopened: Reopen, uncut: Option<Uncut>, effects: &mut Vec<Effect<R>>) {
        let Role::Following(follower) = &mut self.role else { return };
        let Some((request, epoch, to)) = reopened.cut else { return };
        follower.epoch = epoch;
        effects.push(Effect::Report(match uncut {
            None => Report::Cut { request, epoch, tip: self.log.tip() },
            Some(why) => {
                Report::Quarantined(format!("the leader's log has nothing behind {to:?}: {why}"))
            }
        }));
    }

    /// The leader orders a cut; the log is at rest. `None`: it ends there already, or must not.
    pub(super) fn cut(
        &mut self,
        (request, epoch, to): (u64, Epoch, Position),
        effects: &mut Vec<Effect<R>>,
    ) -> Option<Reopen> {
        let tip = self.log.tip();
        if tip.durable == to {
            effects.push(Effect::Report(Report::Cut { request, epoch, tip }));
            return None;
        }
        if to.lsn < self.committed {
            let why = format!("the leader's log ends at {to:?}, {} is committed", self.committed);
            effects.push(Effect::Report(Report::Quarantined(why)));
            return None;
        }
        Some(Reopen { cut: Some((request, epoch, to)) })
    }

    /// So much is committed, as the leader says.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub(super) fn learn_commit(
        &mut self,
        commit: Lsn,
        closed: Stamp,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let Role::Following(follower) = &mut self.role else { return Ok(()) };
        follower.commit = commit.max(follower.commit);
        follower.has_heard = true;
        if closed > follower.closed.1 {
            follower.closed = (commit, closed);
        }
        self.nudged();
        self.show(effects)?;
        self.upkeep(effects);
        Ok(())
    }

    /// Shows what is committed and durable here.
    ///
    /// # Errors
    /// When a frame contradicts those before it, or the device fails.
    pub(super) fn show(&mut self, effects: &mut Vec<Effect<R>>) -> Result<(), Error> {
        while self.may_show_next(effects)? {
            let Some(frame) = self.tail.pop_if(|_| true) else { break };
            self.show_frame(frame, effects)?;
        }
        let Role::Following(follower) = &mut self.role else { return Ok(()) };
        let (commit, closed) = follower.closed;
        if self.committed >= commit {
            follower.shown = follower.shown.max(closed);
        }
        if follower.has_heard && self.committed >= follower.commit {
            self.standing.settle(self.shard);
        }
        let wanted = follower.commit.min(self.log.durable());
        if self.tail.is_empty() && self.committed < wanted && !self.tail.is_loading {
            self.tail.is_loading = true;
            let step = self.log.read_after(self.tail.end(), wanted, LOAD_BYTES);
            self.found(Purpose::Tail, step, effects);
        }
        Ok(())
    }

    /// Whether the next frame of the tail is committed, and half of nothing.
    fn may_show_next(&mut self, effects: &mut Vec<Effect<R>>) -> Result<bool, Error> {
        let (Role::Following(follower), Some(next)) = (&mut self.role, self.tail.first()) else {
            return Ok(false);
        };
        if next.last_lsn > follower.commit || self.directory.is_full() {
            return Ok(false);
        }
        for (txn, commit) in follower.applier.decided_by(next)? {
            if !commit || self.joints.is_decided(txn) {
                continue;
            }
            if follower.stalled.replace(txn) != Some(txn) {
                let by = self.shard;
                let ask = |shard| Effect::Tell(shard, Step::Sought { txn, by });
                effects.extend(self.joints.unheard(txn).into_iter().map(ask));
            }
            return Ok(false);
        }
        follower.stalled = None;
        Ok(true)
    }

    fn show_frame(
        &mut self,
        frame: DurableFrame,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let Role::Following(follower) = &mut self.role else { return Ok(()) };
        let before = self.committed;
        let decided = follower.applier.decided_by(&frame)?;
        for leg in follower.applier.pending() {
            if decided.iter().any(|(txn, _)| *txn == leg.txn) {
                for key in &leg.keys {
                    follower.held.remove(key);
                }
            }
        }
        follower.applier.frame(&mut self.directory, &frame)?;
        self.stamps.note(frame.last_stamp);
        follower.shown = follower.shown.max(frame.last_stamp);
        self.committed = frame.last_lsn;
        self.log.commit(frame.last_lsn);
        for (txn, _) in decided {
            self.joints.resolved(txn, self.shard);
        }
        self.join_opened(before, effects);
        self.feed(&frame);
        self.cache.insert(frame.segment, frame.frame_offset, frame.bytes);
        Ok(())
    }

    /// Legs behind `lsn` are committed here: notes each, and tells the others of those that it
    /// decides.
    pub(super) fn join_opened(&mut self, lsn: Lsn, effects: &mut Vec<Effect<R>>) {
        let Role::Following(follower) = &mut self.role else { return };
        for leg in follower.applier.opened_behind(lsn) {
            follower.held.extend(leg.keys.iter().map(|key| (key.clone(), leg.lsn)));
            if self.joints.here(leg.txn, &leg.participants, self.shard) {
                let others = leg.participants.iter().filter(|shard| **shard != self.shard);
                let tell = |shard: &ShardId| Effect::Tell(*shard, Step::Joined { txn: leg.txn });
                effects.extend(others.map(tell));
            }
        }
    }

    /// Another shard has the last leg of a write.
    pub(super) fn joined(&mut self, txn: TxnId, effects: &mut Vec<Effect<R>>) -> Result<(), Error> {
        match &self.role {
            Role::Following(follower) if follower.stalled == Some(txn) => self.show(effects),
            _ => Ok(()),
        }
    }

    /// Another shard must know whether this one has its part of a write. A leg that is not here yet
    /// will say so itself when it comes.
    pub(super) fn sought(&mut self, txn: TxnId, by: ShardId, effects: &mut Vec<Effect<R>>) {
        match self.trace(txn) {
            Ok(Trace::Resolved(true)) => {
                self.joints.resolved(txn, self.shard);
                effects.push(Effect::Tell(by, Step::Joined { txn }));
            }
            Ok(_) => {}
            Err(fault) => {
                self.park(Work::Step(Step::Sought { txn, by }), fault.into(), effects);
            }
        }
    }

    /// What this log, as far as it is committed, knows of a write.
    pub(super) fn trace(&self, txn: TxnId) -> Result<Trace, Fault> {
        if let Role::Following(follower) = &self.role
            && follower.is_pending(txn)
        {
            return Ok(Trace::Leg);
        }
        let outcome = self.directory.outcome(txn, &self.pins)?;
        Ok(outcome.map_or(Trace::Nothing, Trace::Resolved))
    }

    /// A leg of `key` that is decided is shown now, before `key` is read.
    pub(super) fn show_if_joined(&mut self, key: &AggregateKey) {
        let Role::Following(follower) = &mut self.role else { return };
        let Some(lsn) = follower.held.get(key).copied() else { return };
        let is_decided = |leg: &PendingLeg| !leg.is_shown && self.joints.is_decided(leg.txn);
        if !follower.applier.leg(lsn).is_some_and(is_decided) {
            return;
        }
        if let Err(flaw) = follower.applier.show(&mut self.directory, lsn) {
            // The same contradiction stops the shard when it comes to the `Resolve`.
            tracing::error!(%flaw, %lsn, "a leg cannot be shown");
        }
    }

    /// What a shard that does not lead answers to whoever needs the leader.
    pub(super) fn refusal(&self) -> Refusal {
        self.standing.refusal()
    }

    /// Everything up to the end of the log is committed (R11). Whether all of it is shown.
    ///
    /// # Errors
    /// As [`Self::show`].
    pub(super) fn show_all(&mut self, effects: &mut Vec<Effect<R>>) -> Result<bool, Error> {
        let durable = self.log.durable();
        if let Role::Following(follower) = &mut self.role {
            follower.commit = durable.max(follower.commit);
        }
        self.show(effects)?;
        Ok(self.committed == durable)
    }
}
