//! The decisions of one shard: a state machine without I/O, clock or randomness.
//!
//! ```text
//! work ──► write / leg / read ──► log (open frame) ──► Effect::Disk
//!                 │                                        │
//!                 ▼                                        ▼
//!              pending (in lsn order)  ◄──── commit ◄── complete
//!                 │
//!                 └──► directory, Effect::Reply, Effect::Answer
//! ```
//!
//! Receipts are released by lsn only: whoever waits in `pending` is answered when `commit` has
//! passed the record it depends on, never because some flush returned.
//!
//! Copies of a payload on its way to disk: socket buffer → open frame (one copy); large payloads
//! are referenced until the frame is sealed (one copy, then). The hash reads it once, the write
//! hash once more.

use std::collections::VecDeque;
use std::sync::Arc;

use celeriant_schema::record::{EncodedBatch, EpochStart};
use celeriant_schema::request::Retention;
use celeriant_schema::{
    AggregateKey, AggregateReceipt, ClientId, Epoch, Hash, Lsn, Member, Receipt, Response,
    Sequence, ShardId, Stamp, TxnId, Version,
};
use celeriant_storage::cache::FrameCache;
use celeriant_storage::compact::Compactor;
use celeriant_storage::directory::{Directory, Pins};
use celeriant_storage::disk::{Completion, Op, Token};
use celeriant_storage::log::{DurableFrame, Log};
use celeriant_storage::recovery::PendingLeg;
use celeriant_storage::{Error, Identity};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::accepted::AcceptedStates;
use super::audit::Audits;
use super::cold::Cold;
use super::commit::Elsewhere;
use super::compact::Compaction;
use super::feed::Feed;
use super::follower::Follower;
use super::joints::Joints;
use super::leg::Leg;
use super::orders::{Leadership, Reopen};
use super::read::Reads;
use super::schemas::{Orgs, Schemas};
use super::search::Searches;
use super::tail::Tail;
use crate::clock::{Micros, StampClock};
use crate::replicator::orders::{Order, Report};
use crate::standing::Standing;
use crate::work::{Answer, AnswerKind, Decision, FeedNews, Step, Work};

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Effect<R> {
    /// Start an operation of the disk.
    Disk(Token, Op),
    /// Answer a client.
    Reply(R, Response),
    /// Answer a linearizable read, if the lease still holds when that is carried out; else give it
    /// back to [`Core::hold_unproven`].
    Read(R, Response),
    /// Tell a coordinator.
    Answer(usize, Answer),
    /// Tell a watch.
    Feed(usize, FeedNews),
    /// Have the schemas of an org read, up to that version of its aggregate at least.
    Schemas {
        /// Which org.
        org: String,
        /// Up to where.
        version: Version,
    },
    /// Tell every coordinator that all parts of writes that this shard had are gone.
    StoppedLeading,
    /// Tell another shard of this node.
    Tell(ShardId, Step),
    /// Tell whoever gives the orders.
    Report(Report),
    /// Finish what is on its way to the disk, open the log anew, put another core in this one's
    /// place.
    Reopen(Reopen),
}

/// What a core is made of.
pub struct Parts {
    /// Which log this is.
    pub identity: Identity,
    /// Recovered log.
    pub log: Log,
    /// Committed state.
    pub directory: Directory,
    /// Legs that recovery found without a `Resolve`.
    pub pending: Vec<PendingLeg>,
    /// What is durable and not known to be committed, or the first of it.
    pub tail: Vec<DurableFrame>,
    /// Bounded by bytes.
    pub cache: FrameCache,
    /// The node's.
    pub stamps: StampClock,
    /// What commit needs besides this disk.
    pub elsewhere: Elsewhere,
    /// The node's.
    pub joints: Joints,
    /// The node's.
    pub standing: Arc<Standing>,
    /// The node's.
    pub orgs: Arc<Orgs>,
    /// Of the cluster.
    pub shards: u16,
}

/// What a shard is to its log.
#[derive(Debug)]
pub(super) enum Role {
    Following(Follower),
    Leading(Leadership),
}

/// One shard.
pub struct Core<R> {
    pub(super) shard: ShardId,
    pub(super) identity: Identity,
    pub(super) role: Role,
    /// Another core comes after this one: nothing more is done.
    pub(super) is_closing: bool,
    /// Up to which stamp it had told that everything is there, when it began to close.
    pub(super) shown: Stamp,
    /// What the core that comes after this one is to do.
    pub(super) carried: Vec<Work<R>>,
    pub(super) orders: VecDeque<Order>,
    pub(super) log: Log,
    pub(super) directory: Directory,
    pub(super) cache: FrameCache,
    pub(super) stamps: StampClock,
    pub(super) accepted: AcceptedStates<R>,
    /// What waits for a commit, in lsn order.
    pub(super) pending: VecDeque<Pending<R>>,
    /// What waits for room in the log, in order of arrival.
    pub(super) backlog: VecDeque<Work<R>>,
    /// Records of writes over several shards whose space is reserved; they go before the backlog,
    /// which may wait for the very space that they give back.
    pub(super) owed: VecDeque<Owed>,
    /// Space promised to parts that are held but not appended, in bytes.
    pub(super) promised_bytes: u64,
    /// Parts of writes over several shards that are held or appended.
    pub(super) legs: HashMap<TxnId, Leg, FixedState>,
    pub(super) reads: Reads<R>,
    /// What waits for pages of the directory.
    pub(super) cold: Cold<R>,
    /// Pages that the work at hand has waited for.
    pub(super) pins: Pins,
    pub(super) committed: Lsn,
    /// Durable here.
    pub(super) tail: Tail,
    pub(super) elsewhere: Elsewhere,
    /// Answers of linearizable reads that wait for a lease, and until when.
    pub(super) unproven: Vec<(Micros, R, Response)>,
    pub(super) searches: Searches,
    pub(super) feed: Feed,
    pub(super) audits: Audits<R>,
    pub(super) compaction: Compaction,
    /// What was met where nobody could be told.
    pub(super) failure: Option<Error>,
    pub(super) joints: Joints,
    pub(super) standing: Arc<Standing>,
    pub(super) schemas: Schemas<R>,
    pub(super) encoded: Vec<EncodedBatch>,
    pub(super) ops: Vec<(Token, Op)>,
}

/// Something that happens when commit reaches `lsn`.
#[derive(Debug)]
pub(super) struct Pending<R> {
    pub(super) lsn: Lsn,
    /// First stamp of the record at `lsn`; `None` for an answer that only waits for it.
    pub(super) stamp: Option<Stamp>,
    pub(super) then: Then<R>,
}

#[derive(Debug)]
pub(super) enum Then<R> {
    /// A record of one shard's own write becomes visible; its writer is answered.
    Write { route: R, applied: Applied },
    /// A leg is committed here: tell the coordinator.
    Leg { txn: TxnId },
    /// A record that changes nothing visible.
    Mark,
    /// What was appended when this epoch began to be led is committed.
    Ready(Epoch),
    /// An answer that rests on records up to `lsn` (R3).
    Reply { route: R, response: Response },
    /// The same for a coordinator.
    Answer { coordinator: usize, answer: AnswerKind },
}

/// What a record did, as the directory needs it.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) client_id: ClientId,
    pub(super) write_hash: Hash,
    pub(super) record_offset: u32,
    /// Largest of the record.
    pub(super) stamp: Stamp,
    pub(super) batches: Vec<AppliedMember>,
}

/// A record that has space reserved and waits for the open frame.
#[derive(Debug)]
pub(super) enum Owed {
    /// The first record of an epoch.
    Start,
    /// No record: all that was owed before is appended.
    Ready(Epoch),
    Append {
        txn: TxnId,
        participants: Arc<[ShardId]>,
        decision: Decision,
    },
    Settle {
        txn: TxnId,
    },
    Resolve {
        txn: TxnId,
        commit: bool,
        leg_lsn: Lsn,
    },
}

#[derive(Debug)]
pub(super) struct AppliedMember {
    pub(super) receipt: AggregateReceipt,
    pub(super) sequence: Option<Sequence>,
    pub(super) retention: Option<Retention>,
    pub(super) batch_offset: u32,
    pub(super) first_stamp: Stamp,
    pub(super) last_stamp: Stamp,
}

impl Applied {
    pub(super) fn into_receipt(self) -> Receipt {
        let writes = self.batches.into_iter().map(|member| member.receipt).collect();
        Receipt { stamp: self.stamp, already_applied: false, writes }
    }
}

impl<R> Core<R> {
    /// A recovered shard. It follows until it is told to lead.
    pub fn new(parts: Parts, effects: &mut Vec<Effect<R>>) -> Self {
        let committed = parts.log.committed();
        let accepted = AcceptedStates::new(parts.directory.memtable_bytes_max());
        let follower = Follower::new(parts.pending, committed);
        let end = parts.log.last_stamp();
        parts.stamps.avoid(end);
        let mut core = Self {
            shard: parts.identity.shard,
            identity: parts.identity,
            role: Role::Following(follower),
            is_closing: false,
            shown: Stamp::ZERO,
            carried: Vec::new(),
            orders: VecDeque::new(),
            log: parts.log,
            directory: parts.directory,
            cache: parts.cache,
            stamps: parts.stamps,
            accepted,
            pending: VecDeque::new(),
            backlog: VecDeque::new(),
            owed: VecDeque::new(),
            promised_bytes: 0,
            legs: HashMap::with_hasher(FixedState::default()),
            reads: Reads::default(),
            cold: Cold::default(),
            pins: Pins::default(),
            committed,
            tail: Tail::new(committed, parts.tail),
            elsewhere: parts.elsewhere,
            unproven: Vec::new(),
            searches: HashMap::with_hasher(FixedState::default()),
            feed: Feed::default(),
            audits: Audits::default(),
            compaction: Compaction::new(parts.identity, parts.standing.ordered_compaction(), end),
            failure: None,
            joints: parts.joints,
            standing: parts.standing,
            schemas: Schemas::new(parts.orgs, parts.shards),
            encoded: Vec::new(),
            ops: Vec::new(),
        };
        core.join_opened(Lsn::ZERO, effects);
        core
    }

    /// Handles what arrived together, in order.
    ///
    /// # Errors
    /// As [`Core::complete`].
    pub fn handle(
        &mut self,
        now: Micros,
        work: Vec<Work<R>>,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        for item in work {
            self.take(now, item, effects);
        }
        self.assert_invariants();
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Seals and starts what the log's depth allows. Called when nothing more has arrived.
    pub fn pump(&mut self, effects: &mut Vec<Effect<R>>) {
        let mut ops = std::mem::take(&mut self.ops);
        self.log.pump(&mut ops);
        self.start(ops, effects);
    }

    /// Takes the end of a disk operation.
    ///
    /// # Errors
    /// Every error of the log path. The shard must stop: nothing more may be acknowledged.
    pub fn complete(
        &mut self,
        now: Micros,
        completion: Completion,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        if Directory::owns(completion.token) {
            self.complete_page(now, completion, effects)?;
        } else if Log::owns(completion.token) {
            self.complete_log(completion, effects)?;
        } else if Compactor::owns(completion.token) {
            self.complete_compaction(completion, effects)?;
        } else if let Some(search) = self.searches.remove(&completion.token) {
            self.complete_search(search, completion.outcome, effects)?;
        } else {
            return self.complete_read(completion, effects);
        }
        self.carry_out(now, effects)?;
        self.resume_backlog(now, effects);
        self.resume_reached_reads(now, effects);
        self.assert_invariants();
        Ok(())
    }

    fn complete_log(
        &mut self,
        completion: Completion,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let mut ops = std::mem::take(&mut self.ops);
        let frames = self.log.complete(completion, &mut ops)?.frames;
        self.start(ops, effects);
        match &self.role {
            Role::Leading(_) => {
                frames.into_iter().for_each(|frame| self.tail.push(frame));
                self.commit(effects);
            }
            Role::Following(follower) => {
                let epoch = follower.epoch;
                if !frames.is_empty() {
                    let tip = self.log.tip();
                    effects.push(Effect::Report(Report::Durable { epoch, tip }));
                }
                frames.into_iter().for_each(|frame| self.tail.offer(frame));
                self.show(effects)?;
            }
        }
        self.upkeep(effects);
        self.go_on_compacting(effects);
        Ok(())
    }

    fn complete_page(
        &mut self,
        now: Micros,
        completion: Completion,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<(), Error> {
        let mut ops = std::mem::take(&mut self.ops);
        let pages = self.directory.complete(completion, &mut ops)?;
        self.maintain(&mut ops);
        self.start(ops, effects);
        for (page, bytes) in pages {
            self.compaction.arrived(page, &bytes);
            self.arrived(now, page, &bytes, effects);
        }
        self.go_on_compacting(effects);
        // What is to be shown may have waited for room in the directory.
        self.show(effects)
    }

    /// Lets the directory flush and merge what is due.
    pub(super) fn upkeep(&mut self, effects: &mut Vec<Effect<R>>) {
        let mut ops = std::mem::take(&mut self.ops);
        self.maintain(&mut ops);
        self.start(ops, effects);
    }

    /// Lets the directory flush and merge what is due.
    fn maintain(&mut self, ops: &mut Vec<(Token, Op)>) {
        self.directory.maintain(&self.log, ops);
    }

    /// About once a second: records how far the log is durable, retries a full disk, ends reads
    /// whose deadline has passed.
    ///
    /// # Errors
    /// As [`Core::complete`].
    pub fn tick(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) -> Result<(), Error> {
        let mut ops = std::mem::take(&mut self.ops);
        self.log.note_watermark(&mut ops);
        self.log.retry_space(&mut ops);
        self.directory.retry_space();
        self.maintain(&mut ops);
        self.start(ops, effects);
        self.resume_backlog(now, effects);
        self.resume_all_reads(now, effects);
        self.refuse_unproven(now, effects);
        self.tick_compaction(effects);
        // Frames of a leader may have waited for space.
        self.carry_out(now, effects)
    }

    /// Nothing is in flight and nothing waits: a clean stop may follow.
    pub fn is_quiet(&self) -> bool {
        let nothing_waits = self.backlog.is_empty()
            && self.owed.is_empty()
            && self.legs.is_empty()
            && self.cold.is_empty()
            && self.schemas.is_empty();
        self.log.idle() && self.pending.is_empty() && nothing_waits
    }

    /// Position up to which everything is committed.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Committed state, for tests and tools.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Hands the log's operations to the shell; keeps the buffer for the next time.
    pub(super) fn start(&mut self, mut ops: Vec<(Token, Op)>, effects: &mut Vec<Effect<R>>) {
        effects.extend(ops.drain(..).map(|(token, op)| Effect::Disk(token, op)));
        self.ops = ops;
    }

    /// The first member whose aggregate another write holds.
    pub(super) fn held<'m>(&self, members: &'m [Member]) -> Option<&'m AggregateKey> {
        let parted = || match self.legs.is_empty() {
            // Only parts of writes over several shards hold anything there.
            true => None,
            false => self.accepted.held(members),
        };
        self.cold.held(members).or_else(parted)
    }

    /// Queues `work` behind the write that holds `key`.
    pub(super) fn wait_for(&mut self, key: &AggregateKey, work: Work<R>) {
        if let Some(waiting) = self.cold.waiting_mut(key) {
            return waiting.push_back(work);
        }
        match self.accepted.find_mut(key) {
            Some(state) => state.waiting.push_back(work),
            None => unreachable!("{key} is held, so its accepted state is kept"),
        }
    }

    /// Gives what waits for a free aggregate its turn, in order, until it is held again.
    pub(super) fn resume_waiting(
        &mut self,
        now: Micros,
        key: &AggregateKey,
        effects: &mut Vec<Effect<R>>,
    ) {
        while let Some(state) = self.accepted.find_mut(key) {
            if state.hold.is_some() {
                return;
            }
            let Some(work) = state.waiting.pop_front() else { break };
            self.take(now, work, effects);
        }
        self.accepted.close(key, self.committed);
    }

    /// What found no room in the log, as far as there is room now.
    pub(super) fn resume_backlog(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        self.pay_owed(now, effects);
        let mut waiting = std::mem::take(&mut self.backlog);
        while let Some(work) = waiting.pop_front() {
            self.take(now, work, effects);
            if !self.backlog.is_empty() {
                break;
            }
        }
        // Still no room for what was put back: it stays in front of the rest.
        while let Some(work) = self.backlog.pop_back() {
            waiting.push_front(work);
        }
        self.backlog = waiting;
    }

    /// Appends what has reserved space, in order, as far as the open frame takes it.
    pub(super) fn pay_owed(&mut self, now: Micros, effects: &mut Vec<Effect<R>>) {
        while let Some(owed) = self.owed.pop_front() {
            if !self.has_room_for(&owed) {
                self.pump(effects);
            }
            if !self.has_room_for(&owed) {
                return self.owed.push_front(owed);
            }
            match owed {
                Owed::Start => self.start_epoch(now),
                Owed::Ready(epoch) => {
                    let (lsn, then) = (self.last_accepted(), Then::Ready(epoch));
                    self.pending.push_back(Pending { lsn, stamp: None, then });
                }
                Owed::Append { txn, participants, decision } => {
                    self.append_leg(now, txn, participants, decision);
                }
                Owed::Settle { txn } => self.settle(now, txn, effects),
                Owed::Resolve { txn, commit, leg_lsn } => {
                    self.append_resolve(now, txn, commit, leg_lsn);
                }
            }
        }
    }

    /// A fresh id for an attempt that stays in this shard.
    pub(super) fn next_attempt(&mut self) -> TxnId {
        let Role::Leading(leading) = &mut self.role else { unreachable!("only leaders append") };
        leading.attempts += 1;
        let counter = u64::from(self.shard.value()) << 48 | leading.attempts;
        TxnId { epoch: leading.since, boot: leading.boot, counter }
    }

    /// Appends nothing new for the time being.
    pub(super) fn is_quiesced(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.is_quiesced)
    }

    fn start_epoch(&mut self, now: Micros) {
        let Role::Leading(leading) = &self.role else { unreachable!("only leaders append") };
        let (epoch, boot) = (leading.epoch, leading.boot);
        let stamp = self.stamps.take(now, 1);
        let start = EpochStart { epoch, boot, server_time: stamp.unix_micros(), stamp };
        let lsn = self.log.append_epoch_start(&start).lsn;
        self.pending.push_back(Pending { lsn, stamp: Some(stamp), then: Then::Mark });
    }

    /// What must hold between any two events. Cheap: looks at ends, not at contents.
    pub(super) fn assert_invariants(&self) {
        assert!(
            self.committed <= self.log.durable(),
            "commit {} is beyond what is durable, {}",
            self.committed,
            self.log.durable()
        );
        if let Some(first) = self.pending.front() {
            assert!(first.lsn > self.committed, "{} should have been released", first.lsn);
        }
        if let Some(last) = self.pending.back() {
            assert!(last.lsn < self.log.next_lsn(), "{} was never appended", last.lsn);
        }
        if self.legs.is_empty() {
            assert_eq!(self.promised_bytes, 0, "space is promised to nobody");
        }
        if self.pending.is_empty() && self.legs.is_empty() && self.backlog.is_empty() {
            assert_eq!(self.accepted.busy(), 0, "nothing is in flight in an idle shard");
        }
    }
}

#[cfg(test)]
mod core_test;
#[cfg(test)]
mod feed_test;
#[cfg(test)]
mod follower_test;
#[cfg(test)]
mod retention_test;
#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod schema_test;
