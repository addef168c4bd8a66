//! A write whose aggregates all live in this shard: one record, atomic by itself.

use celeriant_schema::hash::write_hash;
use celeriant_schema::limits::SHARDS_MAX;
use celeriant_schema::record::{BatchDraft, WriteDraft, write_size};
use celeriant_schema::request::Retention;
use celeriant_schema::{
    AggregateReceipt, ClientId, Hash, Lsn, Member, Refusal, Request, Response, ShardId, Stamp,
    TxnId, Write,
};

use super::accepted::UsedSequence;
use super::cold::View;
use super::core::{Applied, AppliedMember, Core, Effect, Pending, Then};
use crate::clock::Micros;
use crate::verdict::{Verdict, judge};
use crate::work::{Task, Work};

/// How long a writer should wait when the disk is full: space comes back by an operator's hand.
const FULL_RETRY_MS: u32 = 1_000;

/// A record in the open frame.
pub(super) struct AppendedWrite {
    pub(super) lsn: Lsn,
    pub(super) first_stamp: Stamp,
    pub(super) applied: Applied,
}

impl<R> Core<R> {
    /// Checks the write against the newest accepted state and appends it, or says why not.
    /// None of its aggregates is held.
    pub(super) fn write(&mut self, now: Micros, task: Task<R>, effects: &mut Vec<Effect<R>>) {
        let Request::Write(write) = &task.request else { return };
        if !self.has_room(&write.members) {
            self.pump(effects);
            if !self.has_room(&write.members) {
                return self.backlog.push_back(Work::Task(task));
            }
        }
        let has_schemas = match self.know_schemas(&write.members) {
            Ok(any) => any,
            Err(lacks) => return self.wait_to_know(Work::Task(task), lacks, effects),
        };
        let hash = hash_if_sequenced(write);
        let view = View { directory: &self.directory, pins: &self.pins };
        let (client, members) = (write.client_id, &write.members);
        let inspected = self.accepted.inspect(view, self.committed, client, hash, members);
        let findings = match inspected {
            Ok(findings) => findings,
            Err(obstacle) => return self.park(Work::Task(task), obstacle, effects),
        };
        let uncommitted = findings.uncommitted;
        let keys = write.members.iter().map(|member| &member.key);
        let response = match judge(findings, keys, sequenced(members)) {
            // Last: what has landed is not checked again.
            Verdict::Accept => match has_schemas.then(|| self.schemas.check(members)) {
                None | Some(Ok(())) => {
                    let attempt = self.next_attempt();
                    let written = self.append(now, attempt, client, hash, members, None);
                    let guarding = members.iter().filter(|member| !member.changes());
                    guarding.for_each(|member| self.accepted.close(&member.key, self.committed));
                    return self.await_commit(task.route, written);
                }
                Some(Err(refusal)) => Response::Refused(refusal),
            },
            Verdict::Landed(receipt) => Response::Receipt(receipt),
            Verdict::Refuse(refusal) => Response::Refused(refusal),
        };
        self.accepted.close_all(members, self.committed);
        if uncommitted {
            // R3: it was computed from what may still vanish. The last accepted record is at or
            // after everything it rests on.
            let lsn = self.last_accepted();
            let then = Then::Reply { route: task.route, response };
            self.pending.push_back(Pending { lsn, stamp: None, then });
        } else {
            effects.push(unappended(task.route, response));
        }
    }

    /// Encodes the members that change something as one record, moves their accepted state, and
    /// says what commit will make visible. With `participants` the record is a leg.
    pub(super) fn append(
        &mut self,
        now: Micros,
        attempt: TxnId,
        client_id: ClientId,
        write_hash: Hash,
        members: &[Member],
        participants: Option<&[ShardId]>,
    ) -> AppendedWrite {
        let taken: u64 = members.iter().map(stamps).sum();
        let stamp = self.stamps.take(now, taken);
        let draft_of = |member| self.draft(member);
        let (one, many);
        let appending = members.iter().filter(|member| member.changes());
        let batches: &[BatchDraft<'_>] = match members {
            [member] if member.changes() => {
                one = [draft_of(member)];
                &one
            }
            _ => {
                many = appending.clone().map(draft_of).collect::<Vec<_>>();
                &many
            }
        };
        let draft = WriteDraft {
            client_id,
            write_id: attempt,
            write_hash,
            server_time: stamp.unix_micros(),
            stamp,
            leg: participants,
            batches,
        };
        self.encoded.clear();
        let appended = self.log.append_write(&draft, &mut self.encoded);
        let mut next = stamp.value();
        let mut applied = Applied {
            client_id,
            write_hash,
            record_offset: appended.record_offset,
            // A leg that only guards has one stamp of its own.
            stamp: Stamp::new(stamp.value() + taken.max(1) - 1),
            batches: Vec::with_capacity(self.encoded.len()),
        };
        for (member, batch) in appending.zip(&self.encoded) {
            let first_stamp = Stamp::new(next);
            next += stamps(member);
            applied.batches.push(AppliedMember {
                receipt: AggregateReceipt {
                    key: member.key.clone(),
                    first_version: batch.first_version,
                    last_version: batch.last_version,
                    hash: batch.hash,
                },
                sequence: member.sequence,
                retention: member.retention,
                batch_offset: batch.offset,
                first_stamp,
                last_stamp: Stamp::new(next - 1),
            });
        }
        AppendedWrite { lsn: appended.lsn, first_stamp: stamp, applied }
    }

    /// Why these members can't be appended whatever their guards say.
    pub(super) fn cannot_take(&self, members: &[Member]) -> Option<Refusal> {
        let limit = self.log.record_bytes_max();
        let (meta, blobs) = size(members, SHARDS_MAX.into());
        if meta + blobs > limit {
            return Some(Refusal::TooLarge { what: "write".into(), limit: limit as u64 });
        }
        let full = self.log.full() || self.directory.lacks_space();
        if full && !self.has_room(members) {
            let what = "no space left in the data directory".into();
            return Some(Refusal::Overloaded { what, retry_after_ms: FULL_RETRY_MS });
        }
        None
    }

    /// Whether the open frame takes these members now.
    pub(super) fn has_room(&self, members: &[Member]) -> bool {
        let (meta, blobs) = size(members, 0);
        !self.directory.is_full() && self.log.fits_beside(meta, blobs, self.promised_bytes)
    }

    /// The newest record in the log, committed or not.
    pub(super) fn last_accepted(&self) -> Lsn {
        Lsn::new(self.log.next_lsn().value() - 1)
    }

    fn draft<'m>(&self, member: &'m Member) -> BatchDraft<'m> {
        let standing = self.accepted.opened(&member.key);
        BatchDraft {
            key: &member.key,
            guard: member.guard,
            sequence: member.sequence,
            first_version: standing.version.next(),
            prev_hash: standing.hash,
            events: &member.events,
            retention: member.retention,
        }
    }

    fn await_commit(&mut self, route: R, written: AppendedWrite) {
        let AppendedWrite { lsn, first_stamp, applied } = written;
        for member in &applied.batches {
            self.advance(lsn, &applied, member);
        }
        let then = Then::Write { route, applied };
        self.pending.push_back(Pending { lsn, stamp: Some(first_stamp), then });
    }

    /// Moves an aggregate's accepted state past an appended batch.
    pub(super) fn advance(&mut self, lsn: Lsn, applied: &Applied, member: &AppliedMember) {
        let state = self.accepted.opened_mut(&member.receipt.key);
        state.version = member.receipt.last_version;
        state.hash = member.receipt.hash;
        state.lsn = lsn;
        (state.deleted, state.is_final) = match member.retention {
            Some(Retention::Delete { recreate, forget_sequences }) => {
                if forget_sequences {
                    state.forgotten = Stamp::new(member.first_stamp.value() - 1);
                    state.sequences.clear();
                }
                (true, !recreate)
            }
            _ => (false, false),
        };
        if let Some(sequence) = member.sequence {
            state.sequences.push_back(UsedSequence {
                lsn,
                client: applied.client_id,
                sequence,
                first_version: member.receipt.first_version,
                last_version: member.receipt.last_version,
                hash: member.receipt.hash,
                write_hash: applied.write_hash,
                stamp: applied.stamp,
            });
        }
    }
}

/// What the writer is told of a write that was not appended. A refusal is a read of its aggregates:
/// a leader that was deposed and does not know it must not refuse what its successor would take
/// (R5), also when what it read has committed meanwhile. A receipt stays true.
pub(super) fn unappended<R>(route: R, response: Response) -> Effect<R> {
    match response {
        Response::Refused(_) => Effect::Read(route, response),
        landed => Effect::Reply(route, landed),
    }
}

/// Metadata and blob bytes of a record with these members.
pub(super) fn size(members: &[Member], participants: usize) -> (usize, usize) {
    let drafts = members.iter().map(|it| (&it.key, &it.events, it.retention));
    write_size(drafts, participants)
}

/// How many stamps it takes: one for each event, and one to take away.
fn stamps(member: &Member) -> u64 {
    member.events.len() as u64 + u64::from(member.retention.is_some())
}

/// How many members carry a sequence.
pub(crate) fn sequenced(members: &[Member]) -> usize {
    members.iter().filter(|member| member.sequence.is_some()).count()
}

/// Only sequences need the write's identity; without them two equal writes are two writes.
pub(crate) fn hash_if_sequenced(write: &Write) -> Hash {
    match sequenced(&write.members) {
        0 => Hash::ZERO,
        _ => write_hash(write),
    }
}
