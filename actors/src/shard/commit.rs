//! Commit: what is durable in every place that it needs becomes visible and is acknowledged (R1).
//!
//! ```text
//! this disk:        complete ──► uncommitted ─┐
//!                                             ├─► commit ──► directory, receipts
//! the other place:  held_elsewhere ───────────┘
//! ```
//! Both arrive in any order. A single node needs no other place.

use celeriant_schema::{Lsn, Response};
use celeriant_storage::directory::{AppliedBatch, BatchLocation};
use celeriant_storage::log::DurableFrame;

use super::core::{Applied, AppliedMember, Core, Effect, Pending, Role, Then};
use super::write::unappended;
use crate::clock::Micros;
use crate::replicator::orders::Report;
use crate::work::Answer;

/// What commit needs besides this disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Elsewhere {
    /// Nothing: a single node.
    Alone,
    /// The other place of the in-sync set, which holds everything up to here.
    Upto(Lsn),
}

impl Elsewhere {
    fn holds(self, lsn: Lsn) -> bool {
        match self {
            Self::Alone => true,
            Self::Upto(held) => lsn <= held,
        }
    }
}

impl<R> Core<R> {
    /// The other place holds everything up to `upto`. Later ones may say less: what is committed
    /// stays committed.
    pub(super) fn held_elsewhere(&mut self, now: Micros, upto: Lsn, effects: &mut Vec<Effect<R>>) {
        let Elsewhere::Upto(known) = &mut self.elsewhere else {
            unreachable!("a single node has no other place");
        };
        *known = upto;
        self.commit(effects);
        self.upkeep(effects);
        self.resume_backlog(now, effects);
        self.resume_reached_reads(now, effects);
    }

    /// Commits the frames that are in every place.
    pub(super) fn commit(&mut self, effects: &mut Vec<Effect<R>>) {
        if !matches!(self.role, Role::Leading(_)) {
            return;
        }
        let elsewhere = self.elsewhere;
        while let Some(frame) = self.tail.pop_if(|frame| elsewhere.holds(frame.last_lsn)) {
            self.commit_frame(frame, effects);
        }
    }

    /// Makes a frame's records visible and releases who waits for them.
    fn commit_frame(&mut self, frame: DurableFrame, effects: &mut Vec<Effect<R>>) {
        self.stamps.note_durable(frame.last_stamp);
        while self.pending.front().is_some_and(|pending| pending.lsn <= frame.last_lsn) {
            let Some(Pending { lsn, stamp, then }) = self.pending.pop_front() else { return };
            self.committed = self.committed.max(lsn);
            match then {
                Then::Write { route, applied } => {
                    self.apply(lsn, &applied, &frame);
                    effects.push(Effect::Reply(route, Response::Receipt(applied.into_receipt())));
                }
                Then::Leg { txn } => self.leg_committed(txn, &frame, effects),
                Then::Mark => {}
                Then::Aborted => self.leg_aborted(stamp.unwrap_or_default()),
                Then::Ready(epoch) => effects.push(Effect::Report(Report::Leading { epoch })),
                Then::Reply { route, response } => effects.push(unappended(route, response)),
                Then::Answer { coordinator, answer } => {
                    let answer = Answer { shard: self.shard, kind: answer };
                    effects.push(Effect::Answer(coordinator, answer));
                }
            }
        }
        self.committed = self.committed.max(frame.last_lsn);
        self.log.commit(frame.last_lsn);
        self.feed(&frame);
        self.cache.insert(frame.segment, frame.frame_offset, frame.bytes);
    }

    fn apply(&mut self, lsn: Lsn, applied: &Applied, frame: &DurableFrame) {
        for member in &applied.batches {
            let location = location(frame, applied.record_offset, member.batch_offset);
            self.apply_member(applied, member, location);
            self.accepted.close(&member.receipt.key, lsn);
        }
    }

    pub(super) fn apply_member(
        &mut self,
        applied: &Applied,
        member: &AppliedMember,
        location: BatchLocation,
    ) {
        // One time for the whole record, as it says itself: that of its first stamp.
        let first = applied.batches.first().map_or(member.first_stamp, |first| first.first_stamp);
        let batch = AppliedBatch {
            first_version: member.receipt.first_version,
            last_version: member.receipt.last_version,
            hash: member.receipt.hash,
            stamp: member.first_stamp,
            last_stamp: member.last_stamp,
            write_stamp: applied.stamp,
            server_time: first.unix_micros(),
            client_id: applied.client_id,
            sequence: member.sequence,
            write_hash: applied.write_hash,
            retention: member.retention,
            location,
        };
        self.directory.apply(&member.receipt.key, &batch);
        if member.receipt.key.is_system() {
            self.schemas.forget(member.receipt.key.id());
        }
    }
}

pub(super) fn location(frame: &DurableFrame, record: u32, batch: u32) -> BatchLocation {
    BatchLocation {
        segment: frame.segment,
        frame_offset: frame.frame_offset,
        frame_bytes: frame.frame_bytes,
        record_offset: record,
        batch_offset: batch,
    }
}
