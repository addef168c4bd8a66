//! What the election core is told, and what it asks for.
//!
//! An event is a fact; an effect is an order, to be carried out in the order in which it was given.
//! Every order that needs an answer names the epoch (or number) that comes back with it, so that a
//! late answer is never taken for another's.

use std::fmt;

use celeriant_schema::peer::{Message, Position, Tip};
use celeriant_schema::{BootId, ClusterId, Epoch, Lsn, StoreId};
use celeriant_storage::bucket::{Completion, Request, Token};

use super::register::{Config, Link, Member, Process, RegisterError, Set};
use crate::clock::Micros;

/// Who this node is. Its own entry of the register, once it is a member.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Of the data directory.
    pub cluster: ClusterId,
    /// Of this process.
    pub boot: BootId,
    /// Its store, name and addresses.
    pub member: Member,
}

impl Identity {
    /// This process of this store.
    pub fn process(&self) -> Process {
        Process { store: self.member.store, boot: self.boot }
    }
}

/// What the node's disk says at its start. The log is whole (I19): a node whose log is damaged, or
/// shorter than it was known to be durable, does not start.
#[derive(Clone, Debug)]
pub struct Local {
    /// Highest promised epoch.
    pub promised: Epoch,
    /// Highest epoch that was ever seen in the register.
    pub max_epoch_seen: Epoch,
    /// Every shard's end, in ascending order.
    pub tips: Vec<Tip>,
    /// What the node may do that no member asked it for.
    pub may: May,
}

/// Powers that the operator gave a node by its configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct May {
    /// Make the register where there is none, at this feature level.
    pub create: Option<u16>,
    /// Take the free place of `members`: its certificate is of the cluster's CA.
    pub join: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// An operation of the bucket ended.
    Bucket(Completion),
    /// The link to a peer is up, and its hello agrees with its certificate and with this cluster.
    PeerUp(Process),
    /// The link is gone.
    PeerDown,
    /// The peer says something about epochs or leases; others are ignored.
    Message(Message),
    /// The promise, or a higher one, is durable; and this is where the shards end.
    PromiseDurable {
        /// The order's.
        epoch: Epoch,
        /// All shards in ascending order.
        tips: Vec<Tip>,
    },
    /// Answers [`Effect::Check`].
    Checked {
        /// The order's.
        chain: Epoch,
        /// The log holds every position, with that hash, durably.
        held: bool,
    },
    /// Answers [`Effect::Recover`]: the log is what it must be, and durable.
    Recovered {
        /// The order's.
        epoch: Epoch,
        /// Per shard, where the epoch's bucket log begins: the known commit position after a pair,
        /// the end of the log after a chain.
        base: Vec<Position>,
    },
    /// It could not be recovered.
    RecoverFailed {
        /// The order's.
        epoch: Epoch,
        /// For people.
        why: String,
    },
    /// Answers [`Effect::Place`]: the whole log is in a second place. May come twice.
    Placed {
        /// The order's.
        epoch: Epoch,
        /// Where.
        place: Place,
    },
    /// It cannot be placed: the bucket log is fenced.
    PlaceFailed {
        /// The order's.
        epoch: Epoch,
        /// For people.
        why: String,
    },
    /// Every shard goes by the rule with this number, and by every order before it, also that of a
    /// lease; and what is committed.
    Ruled {
        /// The order's.
        number: u64,
        /// Per shard, where the rule began to hold.
        commit: Vec<Position>,
    },
    /// The other store durably holds this and acknowledged it in this epoch. The highest so far.
    FollowerHolds {
        /// Which store.
        store: StoreId,
        /// In which epoch it acknowledged.
        epoch: Epoch,
        /// Per shard.
        upto: Vec<Lsn>,
    },
    /// That store holds nearly everything: little would wait for it.
    FollowerCaughtUp {
        /// Which store.
        store: StoreId,
    },
    /// That store has acknowledged nothing for too long, has left, or is quarantined. Ends with the
    /// next [`Event::FollowerHolds`].
    FollowerSilent {
        /// Which store.
        store: StoreId,
    },
    /// Over a while that was long enough to judge by, no acknowledgement of that store took less.
    FollowerPace {
        /// Which store.
        store: StoreId,
        /// In µs.
        fastest: Micros,
    },
    /// Answers [`Effect::Quiesce`]: the leader's log is durable and that store holds all of it;
    /// nothing is appended and no read is answered by a lease any more.
    TipHeldByPeer {
        /// The order's.
        epoch: Epoch,
        /// Who acknowledged the end.
        store: StoreId,
        /// All shards in ascending order.
        tips: Vec<Tip>,
    },
    /// Linearizable reads wait for a proof that this node still leads (R5): it comes as a lease.
    ProofWanted,
    /// The leader's bucket log is fenced: somebody takes over.
    Fenced {
        /// Which epoch's.
        epoch: Epoch,
    },
    /// An operator's order.
    Command {
        /// Comes back with [`Effect::Answer`].
        id: u64,
        /// What.
        command: Command,
    },
    /// The log is damaged, short, quarantined or cannot be written. For ever, in this process.
    LogUnhealthy {
        /// For people.
        why: String,
    },
    /// The process is about to end: hand over if possible, claim no more.
    ShuttingDown,
    /// Nothing, but time has passed.
    Tick,
}

/// A second place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The epoch's bucket log.
    Bucket,
    /// The disk of that store, acknowledged in the epoch.
    Peer(StoreId),
}

/// What operators order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Let the other node lead.
    HandOver,
    /// The member with that store is gone for good; this one takes its place.
    Replace {
        /// Which store.
        lost: StoreId,
        /// What comes instead.
        member: Member,
    },
    /// The bucket is lost for good and this node uses a new one: make the register there, from
    /// this node's log. Whoever orders it knows that no other log has more.
    Recover {
        /// Above every epoch that any node has promised or seen.
        above: Epoch,
    },
}

/// Why an order is not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Ask the leader.
    #[error("this node does not lead")]
    NotLeading,
    /// There is nobody to hand over to.
    #[error("the other node is not in sync: {0}")]
    NotInSync(&'static str),
    /// One thing after the other.
    #[error("another change of the configuration is under way, try again")]
    Busy,
    /// It doesn't fit what the register says.
    #[error("{0}")]
    Impossible(&'static str),
    /// The register can't be trusted.
    #[error("{0}")]
    Distrusted(Distrust),
    /// Somebody or something else came first; nothing has changed.
    #[error("called off: {0}")]
    CalledOff(&'static str),
}

/// What must happen.
#[derive(Debug)]
pub enum Effect {
    /// Start an operation of the bucket, without retries.
    Bucket(Token, Request),
    /// Tell the peer. Into a heartbeat the sender puts the commit positions.
    Send(Message),
    /// Make this promise durable, then say so. Repeating it is harmless.
    Promise(Epoch),
    /// Remember durably, without hurry, that this epoch was seen in the register.
    Saw(Epoch),
    /// Tell whether the log durably holds these positions, by hash.
    Check {
        /// First epoch of the chain that they are the base of.
        chain: Epoch,
        /// Per shard.
        base: Vec<Position>,
    },
    /// Make the log what an activation may rest on: without links the own log, made durable; with
    /// links fence the last one, keep the own log up to the first base, then the slots in order.
    Recover {
        /// The claimed epoch.
        epoch: Epoch,
        /// The ruling chain.
        chain: Vec<Link>,
    },
    /// Bring the whole log to a second place: to the bucket log that `link` begins, and to the
    /// other member. Both at once; each success is told. Nothing of the epoch is sent before: what
    /// a follower gets is what its log becomes.
    Place {
        /// The epoch's own log, and what lies below it.
        link: Link,
        /// Whose acknowledgements count.
        peer: Option<StoreId>,
    },
    /// Lead this epoch: commit is the end of the log (R11). Also for each further epoch of a
    /// leadership, which then goes on.
    Lead {
        /// What the register says.
        config: Box<Config>,
    },
    /// Follow: what that store sends in that epoch, which is durably promised.
    Follow {
        /// The claimant or leader.
        leader: StoreId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Stop leading or taking over. Pending writes have an unknown outcome; the tail stays (R9).
    StepDown(Reason),
    /// Acknowledge by this rule from now on, and say when every shard does.
    AckRule {
        /// Comes back.
        number: u64,
        /// The rule.
        rule: AckRule,
    },
    /// Linearizable reads need no proof before this moment of the node's clock. 0: they do.
    Lease {
        /// Exclusive.
        until: Micros,
    },
    /// Stop appending and stop answering by the lease, then see that the peer holds the end.
    Quiesce {
        /// The own epoch.
        epoch: Epoch,
    },
    /// Append again.
    Resume,
    /// Connect to this member; `None` = there is no other.
    Aim(Option<Member>),
    /// This process takes no further part: end the session with the peer in good order.
    Leave,
    /// Answers [`Event::Command`].
    Answer {
        /// The command's.
        id: u64,
        /// What came of it.
        result: Result<(), Refused>,
    },
    /// For `cluster status`, metrics and the log; given when it changed.
    Announce(Status),
}

/// Whose disks must hold a position before it is acknowledged, besides the leader's (R1, R2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AckRule {
    /// Nothing is acknowledged.
    Nobody,
    /// These two places.
    Set(Set),
    /// All places of both: a reconfiguration is in doubt.
    Both(Set, Set),
}

/// What a node is doing, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// What it does.
    pub role: RoleName,
    /// Epoch of the register, as far as it knows; 0 = it has never read one.
    pub epoch: Epoch,
    /// Version of the register, likewise.
    pub ver: u64,
    /// The set that rules.
    pub set: Option<Set>,
    /// Highest epoch that this store has promised, or seen in a register.
    pub seen: Epoch,
    /// The last transition's.
    pub reason: Reason,
    /// Why no reconfiguration is possible until an operator acts.
    pub distrust: Option<Distrust>,
}

/// What a node does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RoleName {
    /// Follows, or waits for somebody to follow.
    Following,
    /// Follows, and a claim of its own is under way.
    Claiming,
    /// Claimed or was given an epoch, doesn't lead yet.
    TakingOver,
    /// Leads.
    Leading,
    /// Takes no further part.
    Stopped,
}

/// Why the register is not believed (I14): a healthy pair goes on, nothing is reconfigured.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Distrust {
    /// It was there once.
    #[error(
        "the bucket has no `config`, but this store has seen epoch {seen}: restore it, or move the \
         cluster with `celeriant cluster recover`"
    )]
    Missing {
        /// Highest epoch seen.
        seen: Epoch,
    },
    /// There is none, and this node must not make one.
    #[error("the bucket has no `config` and this node may not create a cluster")]
    NotCreated,
    /// It is another history's: joining it would mean to lose one's own.
    #[error(
        "the bucket belongs to a cluster already, and this data directory has events of a node on \
         its own: start with an empty directory to join, or with a bucket that has no `config` to \
         make a cluster of what is here"
    )]
    OwnHistory,
    /// It went back in time.
    #[error(
        "`config` is at epoch {epoch}, ver {ver}, but this node has seen epoch {seen}, ver \
         {seen_ver}: an old copy was restored; see `celeriant cluster recover`"
    )]
    Older {
        /// The register's.
        epoch: Epoch,
        /// The register's.
        ver: u64,
        /// Highest epoch seen.
        seen: Epoch,
        /// Highest version seen by this process; 0 = none.
        seen_ver: u64,
    },
    /// Same version, other content: it was not changed by conditional writes only.
    #[error("`config` ver {ver} was replaced by another of the same version")]
    Rewritten {
        /// The version.
        ver: u64,
    },
    /// It can't be read.
    #[error(transparent)]
    Unreadable(RegisterError),
}

/// Why a node's role is what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The process began.
    Started,
    /// It made the register.
    Created,
    /// It made the register anew in a new bucket, as an operator ordered.
    Recovered,
    /// The leader was silent, and it claims.
    LeaderSilent,
    /// Its claim is in the register.
    ClaimWon,
    /// Somebody else's claim is.
    ClaimLost,
    /// Its activation is in the register.
    Activated,
    /// The leader before handed over to it.
    HandedToUs,
    /// The follower was silent: on with the bucket.
    FollowerLost,
    /// The follower was slower than the bucket: on with the bucket.
    FollowerSlow,
    /// The follower is back.
    FollowerBack,
    /// It follows what somebody leads.
    Promised {
        /// In which epoch.
        epoch: Epoch,
    },
    /// The register, the bucket log or the peer knows a newer epoch.
    Deposed {
        /// Highest epoch known.
        epoch: Epoch,
    },
    /// Its own log could not be made whole.
    RecoverFailed(String),
    /// Its log could not be brought to a second place.
    PlaceFailed(String),
    /// It handed over.
    HandedOver,
    /// Its log cannot be relied on.
    LogUnhealthy(String),
    /// The process ends.
    ShuttingDown,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Created => f.write_str("created the cluster"),
            Self::Recovered => f.write_str("recovered the cluster into a new bucket"),
            Self::LeaderSilent => f.write_str("the leader is silent: claims"),
            Self::ClaimWon => f.write_str("won its claim"),
            Self::ClaimLost => f.write_str("lost its claim to another"),
            Self::Activated => f.write_str("took over"),
            Self::HandedToUs => f.write_str("was handed the lead"),
            Self::FollowerLost => f.write_str("lost the follower: goes on with the bucket"),
            Self::FollowerSlow => {
                f.write_str("the follower is slower than the bucket: goes on with the bucket")
            }
            Self::FollowerBack => f.write_str("the follower is back"),
            Self::Promised { epoch } => write!(f, "follows epoch {epoch}"),
            Self::Deposed { epoch } => write!(f, "deposed: epoch {epoch} is known"),
            Self::RecoverFailed(why) => write!(f, "could not recover its log: {why}"),
            Self::PlaceFailed(why) => write!(f, "could not bring its log to another place: {why}"),
            Self::HandedOver => f.write_str("handed over"),
            Self::LogUnhealthy(why) => write!(f, "its log is not usable: {why}"),
            Self::ShuttingDown => f.write_str("shuts down"),
        }
    }
}
