//! What travels between router, shards and coordinators: values, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use celeriant_schema::{
    AggregateReceipt, ClientId, FeedBatch, Hash, ListPage, ListQuery, Member, Refusal, Request,
    Selector, ShardId, Stamp, TxnId,
};
use celeriant_storage::directory::Listing;

use crate::clock::Micros;
use crate::verdict::Findings;

/// One client's request on its way. `R` is how the answer gets back; it also holds the admission
/// permit.
#[derive(Debug)]
pub struct Task<R> {
    /// The way back.
    pub route: R,
    /// After this nobody waits for the answer.
    pub deadline: Option<Micros>,
    /// What is asked.
    pub request: Request,
}

/// What a shard's mailbox carries, in the order of arrival.
#[derive(Debug)]
pub enum Work<R> {
    /// A request for this shard alone.
    Task(Task<R>),
    /// A step of something that spans shards.
    Step(Step),
}

/// This shard's part of a write over several shards.
#[derive(Debug)]
pub struct Part {
    /// Whose sequences.
    pub client_id: ClientId,
    /// Over the whole write, all shards.
    pub write_hash: Hash,
    /// The members whose aggregates live here.
    pub members: Vec<Member>,
}

/// How a reservation treats aggregates that another write holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Answer `Busy` at once.
    Try,
    /// Queue for them. Free of deadlock only because coordinators ask in ascending shard order.
    Wait,
    /// Queue for them, then only look, hold nothing: so that a refusal names every conflict.
    Check,
}

/// A step of something that spans shards (replication.md §6).
#[derive(Debug)]
pub enum Step {
    /// Check guards and sequences; hold the part's aggregates if nothing speaks against it.
    Reserve {
        /// The attempt.
        txn: TxnId,
        /// Which coordinator asks.
        coordinator: usize,
        /// What to do about aggregates that are held already.
        mode: Mode,
        /// What to hold.
        part: Arc<Part>,
    },
    /// Append the leg of a part that is held.
    Append {
        /// The attempt.
        txn: TxnId,
        /// All shards of the write, ascending.
        participants: Arc<[ShardId]>,
        /// Set once, when all legs are committed.
        decision: Decision,
    },
    /// Let go of a part, or of its place in the queue; nothing was appended.
    Release {
        /// The attempt.
        txn: TxnId,
    },
    /// The write is decided: make its leg visible, append the `Resolve`, let go.
    Settle {
        /// The attempt.
        txn: TxnId,
    },
    /// Another shard of a follower has the last leg of this write: it is decided.
    Joined {
        /// Which write.
        txn: TxnId,
    },
    /// A shard of a follower cannot go on before it knows that this one has its part.
    Sought {
        /// Which write.
        txn: TxnId,
        /// Who asks.
        by: ShardId,
    },
    /// What does the log, all of which is committed, know of this write?
    Trace {
        /// Which write.
        txn: TxnId,
    },
    /// A watch wants what is behind a stamp.
    Feed {
        /// What exactly.
        ask: FeedAsk,
        /// What was read for it already.
        look: Option<FeedLook>,
    },
    /// A watch wants to be told everything from now on.
    Listen {
        /// Which one.
        watch: usize,
    },
    /// A watch needs no more.
    Unlisten {
        /// Which one.
        watch: usize,
    },
    /// A watch that is told everything cannot go on before it knows up to where it was told.
    Nudge,
    /// An org's schemas were read as far as this shard asked for, or why they cannot be.
    SchemasRead {
        /// Which org.
        org: String,
        /// Whether.
        outcome: Result<(), String>,
    },
    /// What was deleted shall leave the disk now, and what is sealed be packed.
    Compact {
        /// Number of the order: [`crate::standing::Compacted`] says when it is carried out.
        order: u64,
    },
    /// This shard's share of a listing.
    List {
        /// Which listing of that coordinator.
        gather: u64,
        /// Which coordinator asks.
        coordinator: usize,
        /// What is asked.
        query: ListQuery,
        /// What was found so far.
        listing: Listing,
    },
}

/// What a watch wants of a shard.
#[derive(Debug)]
pub struct FeedAsk {
    /// The watch's number for it.
    pub number: u64,
    /// Which watch.
    pub watch: usize,
    /// Whose events.
    pub selector: Selector,
    /// Only these types; empty = all.
    pub types: Arc<[Bytes]>,
    /// Only events with a greater stamp.
    pub after: Stamp,
    /// Bytes of log to look at, about.
    pub bytes: usize,
}

/// What a shard has read for a watch.
#[derive(Debug)]
pub struct FeedLook {
    /// Whole frames, one behind the other: the first that may have something, and some behind it.
    pub frames: Bytes,
    /// Where they end: the segment, and the sector in it.
    pub end: (u32, u32),
    /// The directory named the place of the first one.
    pub is_second: bool,
}

/// A shard's part of a page.
#[derive(Clone, Debug)]
pub struct FeedPart {
    /// In the order of their stamps.
    pub batches: Vec<FeedBatch>,
    /// Complete up to here.
    pub upto: Stamp,
    /// Up to where the shard could go on.
    pub head: Stamp,
}

/// What a shard tells a watch.
#[derive(Clone, Debug)]
pub enum FeedNews {
    /// Everything behind this stamp will be told.
    Listening {
        /// The stamp.
        upto: Stamp,
    },
    /// What is new, in the order of stamps.
    Told {
        /// All batches behind what was told before.
        batches: Arc<[FeedBatch]>,
        /// Up to here.
        upto: Stamp,
    },
    /// Not everything was told and nothing more will be: begin again.
    Lost,
    /// The answer to an ask.
    Part {
        /// Of the ask.
        number: u64,
        /// The answer.
        part: FeedPart,
    },
}

/// What a shard tells a coordinator.
#[derive(Debug)]
pub struct Answer {
    /// Who tells.
    pub shard: ShardId,
    /// What.
    pub kind: AnswerKind,
}

/// What a shard tells a coordinator.
#[derive(Debug)]
pub enum AnswerKind {
    /// The part is held.
    Held {
        /// The attempt.
        txn: TxnId,
    },
    /// Another write holds an aggregate of the part.
    Busy {
        /// The attempt.
        txn: TxnId,
    },
    /// The shard cannot take the part whatever its guards say; nothing is held.
    Refused {
        /// The attempt.
        txn: TxnId,
        /// Why.
        refusal: Refusal,
    },
    /// What was found; nothing is held. Sent for `Check` also when nothing speaks against the part.
    Found {
        /// The attempt.
        txn: TxnId,
        /// The findings, safe to tell.
        findings: Findings,
    },
    /// The leg is committed in this shard.
    Committed {
        /// The attempt.
        txn: TxnId,
        /// What it did to this shard's members.
        receipts: Vec<AggregateReceipt>,
        /// Largest stamp of the leg.
        stamp: Stamp,
    },
    /// The shard leads no more: everything it held is let go, and whether legs that it appended
    /// will count is not known.
    StoppedLeading,
    /// A share of a listing.
    Listed {
        /// Which listing.
        gather: u64,
        /// This shard's names.
        page: ListPage,
    },
}

/// One flag per write and node: makes all legs of a write visible together, whichever shard is
/// asked first.
#[derive(Clone, Debug, Default)]
pub struct Decision(Arc<AtomicBool>);

impl Decision {
    /// Makes the write visible. Release: a reader that sees the flag sees everything before it.
    pub fn decide(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the write is visible.
    pub fn is_decided(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
