//! This shard's part in writes over several shards (replication.md §6): hold, append, become
//! visible with all the others, resolve.
//!
//! A held aggregate takes no other write. Its leg may be committed in this shard long before the
//! write is decided; until then readers see the state before it, and nobody is told anything that
//! rests on it.

use std::sync::Arc;

use celeriant_schema::limits::SHARDS_MAX;
use celeriant_schema::record::Resolve;
use celeriant_schema::{Lsn, Refusal, ShardId, Stamp, TxnId};
use celeriant_storage::directory::BatchLocation;
use celeriant_storage::log::{DurableFrame, Log};
use celeriant_storage::recovery::PendingLeg;

use super::cold::View;
use super::commit::location;
use super::core::{Applied, Core, Effect, Owed, Pending, Role, Then};
use super::write::size;
use crate::clock::Micros;
use crate::verdict::Findings;
use crate::work::{Answer, AnswerKind, Decision, Mode, Part, Step, Work};

/// One part of a write over several shards.
#[derive(Debug)]
pub(super) struct Leg {
    coordinator: usize,
    part: Arc<Part>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Its aggregates are held and it has space in the log; nothing is appended.
    Held { promised_bytes: u64 },
    /// The leg is in the log.
    Appended(AppendedLeg),
}

#[derive(Debug)]
struct AppendedLeg {
    lsn: Lsn,
    applied: Applied,
    decision: Decision,
    /// Where its batches are, once committed; same order as `applied.batches`.
    places: Option<Vec<BatchLocation>>,
    visible: bool,
}

impl<R> Core<R> {
    /// It has a part in that write. One that has not was told so after it stopped leading.
    pub(super) fn has_leg(&self, txn: TxnId) -> bool {
        let since = match &self.role {
            Role::Leading(leading) => leading.since,
            Role::Following(_) => return false,
        };
        let has = self.legs.contains_key(&txn);
        assert!(has || txn.epoch < since, "{txn} of this leadership is not known");
        has
    }

    /// Whoever waits for a part of a write over several shards would wait for others in vain.
    pub(super) fn refuse_reservations(&mut self, effects: &mut Vec<Effect<R>>) {
        let (shard, refusal) = (self.shard, Refusal::NoLeader);
        self.backlog.retain(|work| {
            let Work::Step(Step::Reserve { txn, coordinator, .. }) = work else { return true };
            let kind = AnswerKind::Refused { txn: *txn, refusal: refusal.clone() };
            effects.push(Effect::Answer(*coordinator, Answer { shard, kind }));
            false
        });
    }

    /// Holds the part's aggregates if nothing speaks against it; see [`Mode`].
    pub(super) fn reserve(
        &mut self,
        txn: TxnId,
        coordinator: usize,
        mode: Mode,
        part: Arc<Part>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let shard = self.shard;
        let tell = |kind| Effect::Answer(coordinator, Answer { shard, kind });
        let refusal = match &self.role {
            Role::Leading(leading) if leading.is_quiesced => Some(Refusal::NoLeader),
            Role::Leading(_) => self.cannot_take(&part.members),
            Role::Following(_) => Some(self.refusal()),
        };
        if let Some(refusal) = refusal {
            return effects.push(tell(AnswerKind::Refused { txn, refusal }));
        }
        // Space is reserved here, in the order of shards, so that an append never waits for space
        // that only another shard's progress could free.
        let (meta, blobs) = size(&part.members, SHARDS_MAX.into());
        let space = Log::leg_bytes(meta, blobs);
        let has_space = self.log.fits_beside(0, 0, self.promised_bytes + space);
        if !self.backlog.is_empty() || !has_space || self.directory.is_full() {
            if mode == Mode::Try {
                return effects.push(tell(AnswerKind::Busy { txn }));
            }
            let step = Step::Reserve { txn, coordinator, mode, part };
            return self.backlog.push_back(Work::Step(step));
        }
        if let Some(key) = self.held(&part.members).cloned() {
            if mode == Mode::Try {
                return effects.push(tell(AnswerKind::Busy { txn }));
            }
            let step = Step::Reserve { txn, coordinator, mode, part };
            return self.wait_for(&key, Work::Step(step));
        }
        if let Err(lacks) = self.know_schemas(&part.members) {
            let step = Step::Reserve { txn, coordinator, mode, part };
            return self.wait_to_know(Work::Step(step), lacks, effects);
        }
        let view = View { directory: &self.directory, pins: &self.pins };
        let (client, hash) = (part.client_id, part.write_hash);
        let inspected = self.accepted.inspect(view, self.committed, client, hash, &part.members);
        let findings = match inspected {
            Ok(findings) => findings,
            Err(obstacle) => {
                let step = Step::Reserve { txn, coordinator, mode, part };
                return self.park(Work::Step(step), obstacle, effects);
            }
        };
        self.decide_reservation(txn, coordinator, mode, part, findings, effects);
    }

    /// Every aggregate of the part is at hand: holds them, or says what speaks against it.
    fn decide_reservation(
        &mut self,
        txn: TxnId,
        coordinator: usize,
        mode: Mode,
        part: Arc<Part>,
        findings: Findings,
        effects: &mut Vec<Effect<R>>,
    ) {
        let shard = self.shard;
        let tell = |kind| Effect::Answer(coordinator, Answer { shard, kind });
        // What has landed is not checked again.
        let conforms = match findings.is_clear() {
            true => self.schemas.check(&part.members),
            false => Ok(()),
        };
        if let Err(refusal) = conforms {
            self.accepted.close_all(&part.members, self.committed);
            return effects.push(tell(AnswerKind::Refused { txn, refusal }));
        }
        if findings.is_clear() && mode != Mode::Check {
            for member in &part.members {
                self.accepted.opened_mut(&member.key).hold = Some(txn);
                if member.key.is_system() {
                    self.schemas.forget(member.key.id());
                }
            }
            let (meta, blobs) = size(&part.members, SHARDS_MAX.into());
            let space = Log::leg_bytes(meta, blobs);
            self.promised_bytes += space;
            let stage = Stage::Held { promised_bytes: space };
            self.legs.insert(txn, Leg { coordinator, part, stage });
            return effects.push(tell(AnswerKind::Held { txn }));
        }
        self.accepted.close_all(&part.members, self.committed);
        let uncommitted = findings.uncommitted;
        let answer = AnswerKind::Found { txn, findings };
        if uncommitted {
            // R3, as for a write of this shard alone.
            let (lsn, then) = (self.last_accepted(), Then::Answer { coordinator, answer });
            self.pending.push_back(Pending { lsn, stamp: None, then });
        } else {
            effects.push(tell(answer));
        }
    }

    /// Whether the open frame takes what is owed. Its space in the log is reserved.
    pub(super) fn has_room_for(&self, owed: &Owed) -> bool {
        let (txn, participants) = match owed {
            Owed::Append { txn, participants, .. } => (txn, participants),
            Owed::Ready(_) => return true,
            _ => return self.log.fits_resolve(),
        };
        let Some(leg) = self.legs.get(txn) else {
            unreachable!("{txn} is appended by the coordinator that was told it is held");
        };
        let (meta, blobs) = size(&leg.part.members, participants.len());
        self.log.fits(meta, blobs)
    }

    /// Appends the leg of a held part. A part that only guards gets a leg too: its commit covers
    /// what the guard was computed from (F5).
    pub(super) fn append_leg(
        &mut self,
        now: Micros,
        txn: TxnId,
        participants: Arc<[ShardId]>,
        decision: Decision,
    ) {
        let Some(Leg { part, stage: Stage::Held { promised_bytes }, .. }) = self.legs.get(&txn)
        else {
            unreachable!("{txn} is appended once, while it is held");
        };
        self.promised_bytes -= promised_bytes;
        let part = Arc::clone(part);
        let (client, hash) = (part.client_id, part.write_hash);
        let written = self.append(now, txn, client, hash, &part.members, Some(&participants));
        self.pending.push_back(Pending {
            lsn: written.lsn,
            stamp: Some(written.first_stamp),
            then: Then::Leg { txn },
        });
        if let Some(leg) = self.legs.get_mut(&txn) {
            leg.stage = Stage::Appended(AppendedLeg {
                lsn: written.lsn,
                applied: written.applied,
                decision,
                places: None,
                visible: false,
            });
        }
    }

    /// The leg's frame is committed: remembers where its batches are and tells the coordinator.
    pub(super) fn leg_committed(
        &mut self,
        txn: TxnId,
        frame: &DurableFrame,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(Leg { coordinator, stage: Stage::Appended(leg), .. }) = self.legs.get_mut(&txn)
        else {
            unreachable!("{txn} was appended, and only settling removes it");
        };
        let place = |batch_offset| location(frame, leg.applied.record_offset, batch_offset);
        leg.places =
            Some(leg.applied.batches.iter().map(|member| place(member.batch_offset)).collect());
        let receipts = leg.applied.batches.iter().map(|member| member.receipt.clone()).collect();
        let kind = AnswerKind::Committed { txn, receipts, stamp: leg.applied.stamp };
        effects.push(Effect::Answer(*coordinator, Answer { shard: self.shard, kind }));
    }

    /// The write is decided and shown: appends its `Resolve` and lets the aggregates go.
    pub(super) fn settle(&mut self, now: Micros, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        let Some(Leg { stage: Stage::Appended(leg), .. }) = self.legs.get(&txn) else {
            unreachable!("{txn} is settled once, after its leg is committed");
        };
        let leg_lsn = leg.lsn;
        self.append_resolve(now, txn, true, leg_lsn);
        self.release(now, txn, effects);
    }

    /// Lets a part go and gives what waited for it its turn.
    pub(super) fn release(&mut self, now: Micros, txn: TxnId, effects: &mut Vec<Effect<R>>) {
        let Some(leg) = self.legs.remove(&txn) else { return };
        if let Stage::Held { promised_bytes } = leg.stage {
            self.promised_bytes -= promised_bytes;
        }
        let keys = || leg.part.members.iter().map(|member| &member.key);
        for key in keys() {
            if let Some(state) = self.accepted.find_mut(key) {
                state.hold = None;
            }
        }
        for key in keys() {
            self.resume_waiting(now, key, effects);
        }
    }

    /// If `key` is held by a write that is decided, shows it now: a reader that saw another leg of
    /// the same write must see this one too, whichever shard hears of the decision first (F2).
    pub(super) fn show_if_decided(&mut self, key: &celeriant_schema::AggregateKey) {
        let Some(txn) = self.accepted.find(key).and_then(|state| state.hold) else { return };
        let decided = matches!(
            self.legs.get(&txn),
            Some(Leg { stage: Stage::Appended(leg), .. }) if leg.decision.is_decided()
        );
        if decided {
            self.show_leg(txn);
        }
    }

    /// Lowest stamp of a leg that is committed here but not decided: nothing at or above it may be
    /// promised to be complete (F3).
    pub(super) fn first_undecided(&self) -> Option<Stamp> {
        let undecided = |leg: &Leg| match &leg.stage {
            Stage::Appended(leg) if !leg.visible => {
                let first = leg.applied.batches.first().map(|member| member.first_stamp);
                Some(first.unwrap_or(leg.applied.stamp))
            }
            _ => None,
        };
        self.legs.values().filter_map(undecided).min()
    }

    /// A leg that recovery found without a `Resolve`: the node decided it from the whole log
    /// (replication.md §6), this shard writes the decision down.
    pub(super) fn settle_recovered(&mut self, leg: PendingLeg, commit: bool) {
        if commit {
            for (key, batch) in &leg.batches {
                self.directory.apply(key, batch);
            }
        }
        self.directory.note_outcome(leg.txn, leg.lsn, commit);
        self.owed.push_back(Owed::Resolve { txn: leg.txn, commit, leg_lsn: leg.lsn });
        if !commit {
            self.compaction.abort(leg);
        }
    }

    pub(super) fn append_resolve(&mut self, now: Micros, txn: TxnId, commit: bool, leg_lsn: Lsn) {
        let stamp = self.stamps.take(now, 1);
        let lsn = self.log.append_resolve(&Resolve { txn, commit, leg_lsn, stamp }).lsn;
        let then = if commit { Then::Mark } else { Then::Aborted };
        self.pending.push_back(Pending { lsn, stamp: Some(stamp), then });
    }

    /// Makes a decided leg visible; does nothing the second time.
    pub(super) fn show_leg(&mut self, txn: TxnId) {
        let Some(Leg { stage: Stage::Appended(leg), .. }) = self.legs.get_mut(&txn) else {
            unreachable!("{txn} is decided, so its leg is appended");
        };
        if leg.visible {
            return;
        }
        leg.visible = true;
        let Some(places) = leg.places.take() else {
            unreachable!("{txn} is decided only when every leg is committed");
        };
        // Taken out, since applying needs the whole core.
        let applied = std::mem::take(&mut leg.applied);
        let lsn = leg.lsn;
        for (member, place) in applied.batches.iter().zip(places) {
            self.apply_member(&applied, member, place);
            self.advance(lsn, &applied, member);
        }
        self.directory.note_outcome(txn, lsn, true);
    }
}
