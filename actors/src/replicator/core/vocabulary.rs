//! What the replicator's core is told, and what it asks for.

use celeriant_schema::peer::{Message, Position};
use celeriant_schema::{BootId, Epoch, ShardId, StoreId};

use crate::clock::Micros;
use crate::election::register::{Config, Link, Member, Set};
use crate::election::vocabulary::{AckRule, Event as Fact, Reason};
use crate::replicator::activation::Done;
use crate::replicator::bucket::{LogNews, LogOrder};
use crate::replicator::orders::{Order, Report};

/// What acknowledgements need besides the leader's own disk. Neither = nothing is acknowledged:
/// not active, or deposed, or in doubt without a second place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// The disk of that store.
    pub follower: Option<StoreId>,
    /// The epoch's bucket log.
    pub bucket: bool,
}

impl Rule {
    /// What the election's rule means for the store `own`.
    ///
    /// # Panics
    /// When it is about sets that don't contain it.
    pub fn of(rule: AckRule, own: StoreId) -> Self {
        match rule {
            AckRule::Nobody => Self::default(),
            AckRule::Set(set) => Self::default().and(set, own),
            AckRule::Both(one, other) => Self::default().and(one, own).and(other, own),
        }
    }

    fn and(mut self, set: Set, own: StoreId) -> Self {
        assert!(set.has(own), "{own} acknowledges by {set}");
        match set {
            Set::Bucket(_) => self.bucket = true,
            Set::Pair(..) => self.follower = set.other(own),
        }
        self
    }
}

/// Bounds and times.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that may be on their way to the follower; one read or frame more.
    pub window_bytes: usize,
    /// A follower that owes an answer for so long is reported as silent.
    pub suspect_after: Micros,
    /// How often the election hears what the follower holds while nothing waits for it.
    pub report_every: Micros,
    /// Over how long a follower is timed before it is judged by its fastest acknowledgement.
    pub pace_over: Micros,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_bytes: 4 << 20,
            suspect_after: 500_000,
            report_every: 100_000,
            pace_over: 10_000_000,
        }
    }
}

/// Who this node is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its data directory.
    pub store: StoreId,
    /// Its process.
    pub boot: BootId,
    /// Shards of the cluster.
    pub shards: u16,
}

/// What the election orders; carried out in the order in which it is given.
#[derive(Debug)]
pub enum Command {
    /// Tell the peer. A heartbeat is filled with what is committed.
    Send(Message),
    /// This promise is durable: let the shards promise, too, and say so.
    Promised(Epoch),
    /// Say whether the log holds these positions.
    Check {
        /// First epoch of the chain that they are the base of.
        chain: Epoch,
        /// Per shard.
        base: Vec<Position>,
    },
    /// Make the log what an activation may rest on.
    Recover {
        /// The claimed epoch.
        epoch: Epoch,
        /// The ruling chain.
        chain: Vec<Link>,
    },
    /// Bring the whole log to a second place.
    Place {
        /// The epoch's own bucket log.
        link: Link,
        /// The other member.
        peer: Option<StoreId>,
    },
    /// Lead, by what the register says.
    Lead(Box<Config>),
    /// This store leads in that epoch, which is promised.
    Follow {
        /// Which.
        leader: StoreId,
        /// Its.
        epoch: Epoch,
    },
    /// Lead or take over no more (R9).
    StepDown(Reason),
    /// Acknowledge by this rule.
    AckRule {
        /// Comes back.
        number: u64,
        /// The rule.
        rule: AckRule,
    },
    /// Linearizable reads need no proof before this moment.
    Lease {
        /// Of the node's clock; exclusive.
        until: Micros,
    },
    /// Append nothing, and see that the peer holds the end.
    Quiesce {
        /// The own epoch.
        epoch: Epoch,
    },
    /// Append again.
    Resume,
    /// Connect to this member; `None` = to any store of the cluster that comes.
    Aim(Option<Member>),
    /// End the session with the peer in good order, and begin none.
    Leave,
}

/// What a replicator learns.
#[derive(Debug)]
pub enum Event {
    /// There is a session with that store.
    Up(StoreId),
    /// It is over.
    Down {
        /// The peer has ended it in good order: it will not be back soon.
        in_order: bool,
    },
    /// The peer says something.
    Received(Message),
    /// The election orders something.
    Command(Command),
    /// One of this node's shards says something.
    Shard(ShardId, Report),
    /// The bucket's logs do.
    Log(LogNews),
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Tell the peer.
    Send(Message),
    /// Tell a shard of this node.
    Shard(ShardId, Order),
    /// Tell the election.
    Election(Fact),
    /// Tell the bucket's logs.
    Log(LogOrder),
    /// Linearizable reads need no proof before this moment of the node's clock.
    Lease(Micros),
    /// This node leads that epoch: attempts of writes are named by it.
    Leads(Epoch),
    /// Every shard leads.
    Activated(Done),
    /// Connect to this member.
    Aim(Option<Member>),
    /// End the session with the peer in good order, and begin none.
    Leave,
    /// Something that an operator must know.
    Alarm(String),
}
