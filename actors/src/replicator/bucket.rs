//! What the replicator wants of the bucket's logs, and what they tell it: the boundary to whoever
//! uploads an epoch's log (R12) and reads those of a chain (R13).
//!
//! ```text
//!   core ── Upload, Sealed, Read ──► BucketLog ── Start ──► bucket
//!        ◄─ Held, Fenced, Read ─────           ◄─ Completed ─
//!   core ── Recover, Found, Taken ─► BucketLog
//!        ◄─ Find, Cut, Frames, Recovered, Failed
//! ```
//! Deliberately absent: what a slot looks like, and an implementation. [`NoBucketLog`] holds
//! nothing and reads nothing, and says so.

use celeriant_schema::peer::{FramePlace, Position};
use celeriant_schema::{Epoch, Lsn, ShardId};
use celeriant_storage::bucket::{Completion, Request, Token};

use super::orders::Frames;
use crate::bucket_log::gc::Facts;
use crate::clock::Micros;
use crate::election::register::Link;

/// What the bucket's logs are to do.
#[derive(Debug)]
pub enum LogOrder {
    /// Upload everything above the link's base into the log of its epoch, from here on. Replaces
    /// what was ordered before.
    Upload {
        /// Whose first slot nobody has written.
        link: Link,
        /// Per shard, where the own log ends: what lies between is read.
        sealed: Vec<Position>,
    },
    /// A shard has sealed this, behind everything that it has sealed before.
    Sealed(ShardId, Frames),
    /// Answers [`LogNews::Read`].
    Read(ShardId, Frames),
    /// Fence the last log of the chain and say what of the chain the own log lacks. Replaces what
    /// was ordered before.
    Recover {
        /// The claimed epoch.
        epoch: Epoch,
        /// The ruling chain: at least one link.
        chain: Vec<Link>,
        /// Per shard, the durable end of the own log.
        own: Vec<Position>,
    },
    /// Answers [`LogNews::Find`].
    Found {
        /// Whose.
        shard: ShardId,
        /// The place that was asked for.
        lsn: Lsn,
        /// `None`: the log is empty there.
        frame: Option<FramePlace>,
    },
    /// Delete rounds that nobody can need any more. The bucket's logs have nothing else to do.
    CleanUp(Facts),
    /// A shard durably holds the oldest [`LogNews::Frames`] that it did not.
    Taken(ShardId),
    /// Nothing more of it is wanted.
    Stop,
    /// An operation of the bucket ended.
    Completed(Completion),
}

/// What comes of it.
#[derive(Debug)]
pub enum LogNews {
    /// Start an operation of the bucket, without retries.
    Start(Token, Request),
    /// Read about so many bytes of a shard's frames, at least one frame.
    Read {
        /// Whose.
        shard: ShardId,
        /// Behind this, the end of a frame.
        after: Lsn,
        /// In bytes.
        bytes_max: u32,
    },
    /// The bucket holds this shard's log up to here. Never goes back.
    Held(ShardId, Position),
    /// Something else is at a slot of ours: nothing is uploaded or counted any more.
    Fenced,
    /// Find the own log's frame that contains a place, or is the last before it.
    Find {
        /// Whose.
        shard: ShardId,
        /// Where.
        lsn: Lsn,
    },
    /// Cut the own log there.
    Cut(ShardId, Position),
    /// Append these behind that.
    Frames(ShardId, Frames),
    /// The last log is fenced, and everything that was handed out is taken.
    Recovered {
        /// The claimed epoch.
        epoch: Epoch,
        /// Per shard, where the chain ends.
        ends: Vec<Position>,
    },
    /// It cannot be read.
    Failed {
        /// The claimed epoch.
        epoch: Epoch,
        /// For people.
        why: String,
    },
}

/// The bucket's logs, as a state machine without I/O, clock or randomness.
pub trait BucketLog: Send + 'static {
    /// Takes one order.
    fn handle(&mut self, now: Micros, order: LogOrder, news: &mut Vec<LogNews>);

    /// Nothing more has arrived, or the deadline is there.
    fn flush(&mut self, now: Micros, news: &mut Vec<LogNews>);

    /// When to flush if nothing arrives before.
    fn next_deadline(&self) -> Option<Micros>;
}

/// No bucket log at all: nothing is ever held by the bucket, so that a node that leads with it
/// acknowledges nothing, and a chain cannot be recovered. A pair of two live nodes needs neither.
#[derive(Debug, Default)]
pub struct NoBucketLog;

impl BucketLog for NoBucketLog {
    fn handle(&mut self, _: Micros, order: LogOrder, news: &mut Vec<LogNews>) {
        match order {
            LogOrder::Upload { link, .. } => {
                tracing::error!(
                    epoch = %link.epoch,
                    "bucket logs are not built in: nothing is acknowledged until a follower is back"
                );
            }
            LogOrder::Recover { epoch, .. } => {
                let why = "bucket logs are not built in, and the chain is needed".into();
                news.push(LogNews::Failed { epoch, why });
            }
            _ => {}
        }
    }

    fn flush(&mut self, _: Micros, _: &mut Vec<LogNews>) {}

    fn next_deadline(&self) -> Option<Micros> {
        None
    }
}
