//! What a shard is told about its log by whoever knows more than one shard, and what it tells back.
//!
//! ```text
//!                   follows                                  leads
//!   Promise Accept Commit Cut ─► shard ─► Promised   Held Renew Quiesce ─► shard ─► Sealed
//!                                         Durable    Resume StepDown                Committed
//!                                         Refused                                   Quiesced
//!          taking over:  Survey ─► Surveyed   Trace ─► Traced   Lead ─► Leading
//!          in any role:  Read ─► Read   Find ─► Found   Locate ─► Located   Confirm ─► Confirmed
//! ```
//! Orders are carried out in the order in which they come; those that must wait for the disk
//! (`Promise`, `Cut`, `Survey`, `StepDown`) hold back what is behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::peer::{FramePlace, Position, Tip};
use celeriant_schema::{BootId, Epoch, Lsn, ShardId, Stamp, TxnId};

use crate::settlement::Trace;

/// Mail of a shard: orders that belong together.
pub struct OrderMail(pub Vec<Order>);

/// Mail of whoever gives a shard its orders.
pub struct ReportMail(pub ShardId, pub Vec<Report>);

/// Frames on their way: whole, byte for byte as on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frames {
    /// The position before the first one.
    pub before: Position,
    /// The end of the last one.
    pub end: Position,
    /// All of them.
    pub bytes: Bytes,
}

/// What a shard is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// The other places of the set hold everything up to here. Takes the place of what was said
    /// before, also when it is less: by a stricter rule nothing more may be committed because of
    /// what a weaker one needed (R2). What is committed stays committed. Comes behind
    /// [`Order::Lead`] only.
    Held(Lsn),
    /// Read about so many bytes of sealed frames, at least one frame.
    Read {
        /// Behind this.
        after: Lsn,
        /// In bytes.
        bytes_max: u32,
    },
    /// Find the frame that contains a position, or is the last before it; for this node.
    Find {
        /// Comes back.
        request: u64,
        /// Where.
        lsn: Lsn,
    },
    /// The same, for the peer.
    Locate {
        /// Comes back.
        request: u64,
        /// Where.
        lsn: Lsn,
    },
    /// Say what is committed. Whoever hears the answer knows that every order before this one is
    /// carried out, a [`Order::Held`] by another rule among them.
    Confirm {
        /// Comes back.
        number: u64,
    },
    /// Take no more orders of lower epochs, and say where the log ends.
    Promise {
        /// Durably promised by the node.
        epoch: Epoch,
    },
    /// Append the leader's frames.
    Accept {
        /// The leader's epoch.
        epoch: Epoch,
        /// Where the log must end for them.
        before: Position,
        /// Whole frames.
        bytes: Bytes,
    },
    /// This much is committed.
    Commit {
        /// Everything up to here.
        commit: Lsn,
        /// No event with a stamp up to here will be added.
        closed: Stamp,
    },
    /// Cut the log (R10).
    Cut {
        /// Comes back.
        request: u64,
        /// The leader's.
        epoch: Epoch,
        /// What remains.
        to: Position,
    },
    /// The epoch is activated: all of the log is committed (R11). Say which legs are undecided.
    Survey {
        /// The epoch.
        epoch: Epoch,
    },
    /// Say what the log, all of which is committed, knows of a write over several shards.
    Trace {
        /// Which.
        txn: TxnId,
    },
    /// Lead.
    Lead(Lead),
    /// Lead this further epoch of the same leadership.
    Renew {
        /// The epoch.
        epoch: Epoch,
    },
    /// Append nothing new, and say when everything that was begun has ended.
    Quiesce {
        /// The epoch that is led.
        epoch: Epoch,
    },
    /// Append again.
    Resume,
    /// Linearizable reads that waited for a lease may be looked at again.
    Leased,
    /// Lead no more (R9): what was not answered has an unknown outcome, the tail stays.
    StepDown,
}

/// What a shard needs to lead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lead {
    /// Activated.
    pub epoch: Epoch,
    /// This process.
    pub boot: BootId,
    /// What becomes of every leg that some shard has undecided: `true` = commit.
    pub decisions: Arc<BTreeMap<TxnId, bool>>,
}

/// What a shard tells.
#[derive(Debug)]
pub enum Report {
    /// It leads and has sealed a frame, which is on its way to the disk.
    Sealed(Frames),
    /// It leads and has committed up to here.
    Committed {
        /// Everything up to here.
        commit: Lsn,
        /// No event with a stamp up to here will be added.
        closed: Stamp,
    },
    /// Answers [`Order::Read`].
    Read(Frames),
    /// Answers [`Order::Find`].
    Found {
        /// The question's.
        request: u64,
        /// `None`: the log is empty there.
        frame: Option<FramePlace>,
    },
    /// Answers [`Order::Locate`].
    Located {
        /// The leader's question.
        request: u64,
        /// `None`: the log is empty there.
        frame: Option<FramePlace>,
    },
    /// Answers [`Order::Confirm`].
    Confirmed {
        /// The order's.
        number: u64,
        /// The end of what is committed: of a whole frame.
        commit: Position,
    },
    /// Answers [`Order::Promise`], when everything that it took before is durable.
    Promised {
        /// The order's.
        epoch: Epoch,
        /// Where its log ends.
        tip: Tip,
    },
    /// The frames of an [`Order::Accept`] do not continue its log. None was taken.
    Refused {
        /// The order's.
        epoch: Epoch,
        /// Where its log ends.
        tip: Tip,
    },
    /// It follows and durably holds more.
    Durable {
        /// Epoch in which that was accepted.
        epoch: Epoch,
        /// Where its log ends.
        tip: Tip,
    },
    /// Answers [`Order::Cut`].
    Cut {
        /// The leader's order.
        request: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// Where its log ends now.
        tip: Tip,
    },
    /// It leads, and answers of linearizable reads wait for a proof that it still does (R5).
    Unproven,
    /// What the leader wants contradicts what this shard exposed (I12), or cannot be believed.
    Quarantined(String),
    /// Answers [`Order::Survey`].
    Surveyed {
        /// The order's.
        epoch: Epoch,
        /// Where its log ends; all of it is committed and visible.
        tip: Tip,
        /// Legs without a `Resolve`, with all participants of each.
        pending: Vec<(TxnId, Vec<ShardId>)>,
    },
    /// Answers [`Order::Trace`].
    Traced {
        /// The order's.
        txn: TxnId,
        /// What is there of it.
        trace: Trace,
    },
    /// Answers [`Order::Lead`] and [`Order::Renew`]: what it appends first is committed.
    Leading {
        /// The order's.
        epoch: Epoch,
    },
    /// Answers [`Order::Quiesce`].
    Quiesced {
        /// The order's.
        epoch: Epoch,
        /// Where its log ends: durable and committed.
        tip: Tip,
    },
}
