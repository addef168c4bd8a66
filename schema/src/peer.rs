//! What the two nodes of a pair say to each other, in bytes.
//!
//! ```text
//! leader ── Promise ──▶ follower     epochs: R6, R9
//!        ◀─ Promised ─                or Deposed, when it knows a higher one
//!        ── Append ──▶               frames of one shard, as they are on disk
//!        ◀─ Ack ──────                what the follower durably holds: R1
//!        ── Heartbeat ▶              commit positions and closed stamps of every shard: R4
//!        ◀─ Alive, LeaseGrant         R5, R16
//!        ── Locate, Cut ▶            makes the follower's log the leader's: R10
//!        ◀─ Located, CutDone, Quarantined
//!  either ── Fetch ──▶ other          catch-up, full copy, repair; answered by Frames or NoFrames
//!        ── HandOver ▶               planned hand-over
//! ```
//! The rules R1 to R17 are those of replication.md; the tables of bytes are in `docs/peer.md`. A
//! [`Hello`] goes first and proves nothing by itself: whoever carries it checks it against the
//! certificate. Every message carries the epoch in which it was meant, so that a late one is never
//! taken for another term's.
//!
//! Frames of the log are opaque here: decoding shares memory with the message, nothing is encoded
//! again. Each message has one form; what a peer claims never decides how much is allocated.
//! Deliberately absent: order, retries, flow control (the link's), and what to do with a message.

mod body;

#[cfg(test)]
mod peer_test;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{DecodeError, Reader};
use crate::hash::Hash;
use crate::ids::{BootId, ClusterId, Epoch, Lsn, ShardId, Stamp, StoreId};
use crate::limits::{FRAME_BYTES_MAX, SHARDS_MAX};

/// Version of this vocabulary. Two nodes must speak the same: a pair is upgraded one node after
/// the other only within [`Features`].
pub const PEER_PROTOCOL: u16 = 1;
/// Frames that travel together, in bytes: enough to pay for a message, little enough that the next
/// one is not late. A larger frame travels alone.
pub const FRAMES_BYTES_TARGET: usize = 256 << 10;
/// Most bytes of frames of one message: one frame of the largest size.
pub const FRAMES_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// Largest message with frames, in bytes.
pub const BULK_BYTES_MAX: usize = FRAMES_BYTES_MAX + 128;
/// Largest message without frames, in bytes.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Longest reason for a quarantine, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 512;
/// Largest register that is told from node to node.
pub const REGISTER_BYTES_MAX: usize = 48 << 10;
/// Longest name of an object's version.
pub const ETAG_BYTES_MAX: usize = 1 << 10;

const _: () = {
    // The longest list: a tip of every shard, behind a few words.
    assert!(SHARDS_MAX as usize * TIP_BYTES + 64 <= CONTROL_BYTES_MAX);
    assert!(REGISTER_BYTES_MAX + ETAG_BYTES_MAX + 64 <= CONTROL_BYTES_MAX);
    assert!(FRAMES_BYTES_TARGET <= FRAMES_BYTES_MAX);
};

/// Size of a [`Tip`], in bytes.
const TIP_BYTES: usize = 2 + 8 + 40 + 8;

/// First bytes of a hello: tells this conversation from anything else.
const MAGIC: [u8; 8] = *b"CELPEER\n";

/// How a node introduces itself to its peer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hello {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its data directory.
    pub store: StoreId,
    /// Its process start.
    pub boot: BootId,
    /// Version of its files and frames.
    pub format: u16,
    /// Shards of its data directory; 0 = not formatted yet.
    pub shards: u16,
    /// Feature levels that it can read and write.
    pub features: Features,
    /// Where its peer finds it: host and port, at most [`ADDRESS_BYTES_MAX`] bytes; empty = as the
    /// register says.
    pub address: String,
}

/// A range of feature levels, both ends included.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Features {
    /// Lowest.
    pub min: u16,
    /// Highest.
    pub max: u16,
}

/// A place in a shard's log, and the hash of the frame that ends there: equal positions mean equal
/// logs up to there. `Lsn` 0 with a zero hash is the beginning.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Last record.
    pub lsn: Lsn,
    /// Hash of the frame that ends with it.
    pub hash: Hash,
}

/// Where a shard's log ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tip {
    /// Which shard.
    pub shard: ShardId,
    /// Epoch of its last frame.
    pub epoch: Epoch,
    /// Its durable end.
    pub durable: Position,
    /// Everything up to here has been shown to readers or is known to be acknowledged: never cut.
    pub floor: Lsn,
}

/// A shard's durable end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Durable {
    /// Which shard.
    pub shard: ShardId,
    /// How far.
    pub position: Position,
}

/// A shard's committed end, as its leader tells it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Committed {
    /// Which shard.
    pub shard: ShardId,
    /// Everything up to here is committed.
    pub commit: Lsn,
    /// No event with a stamp up to here will be added: readers need not wait.
    pub closed: Stamp,
}

/// A frame of a log, by its ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FramePlace {
    /// Epoch that it was made in.
    pub epoch: Epoch,
    /// The position before it.
    pub before: Position,
    /// Its own end.
    pub end: Position,
}

/// Why a node does not give the frames that it was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoFrames {
    /// Its log does not have them (yet, or any more).
    NotThere,
    /// They are damaged here too.
    Damaged,
    /// It has more to do than it can: ask again later.
    Busy,
}

/// Everything that one node tells the other after the hellos.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Promise to acknowledge nothing of a lower epoch (R6).
    Promise {
        /// The epoch that the sender claims or leads.
        epoch: Epoch,
        /// Version of the register that says so.
        ver: u64,
    },
    /// It is durably promised; and this is what the sender's log is.
    Promised {
        /// The promised epoch.
        epoch: Epoch,
        /// All shards in ascending order.
        tips: Vec<Tip>,
    },
    /// The sender knows a higher epoch or version: stop acknowledging (R9). Answers anything.
    Deposed {
        /// Highest epoch that it has seen.
        epoch: Epoch,
        /// Highest version of the register that it has seen.
        ver: u64,
    },
    /// Frames of a shard's log. Bulk.
    Append {
        /// Which shard.
        shard: ShardId,
        /// Epoch of the leader that sends them, not of the frames.
        epoch: Epoch,
        /// The position before the first frame.
        before: Position,
        /// Commit position and closed stamp of the shard.
        commit: Lsn,
        /// As in [`Committed`].
        closed: Stamp,
        /// Whole frames, byte for byte as on disk.
        frames: Bytes,
    },
    /// The sender durably holds this, and has promised no higher epoch.
    Ack {
        /// Epoch of the appends that it answers.
        epoch: Epoch,
        /// Shards that have come further, in ascending order.
        durable: Vec<Durable>,
    },
    /// The leader lives, and this is committed (R4).
    Heartbeat {
        /// Counts within the session; [`Message::Alive`] repeats it.
        number: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// Version of the register that it goes by.
        ver: u64,
        /// Shards that have come further, in ascending order.
        shards: Vec<Committed>,
    },
    /// Answers a heartbeat, and a ping of R5.
    Alive {
        /// The heartbeat's.
        number: u64,
        /// Highest epoch that the sender has promised.
        promised: Epoch,
        /// Whether it takes itself for the leader.
        leading: bool,
    },
    /// The sender claims nothing for so long, counted from receiving that heartbeat (R16).
    LeaseGrant {
        /// The heartbeat's: its sender counts from before sending it.
        number: u64,
        /// The leader's epoch.
        epoch: Epoch,
        /// In ms.
        lasts_ms: u32,
    },
    /// The leader has given up every lease of the epoch.
    LeaseReturn {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Which of your frames contains, or else is the last before, this position?
    Locate {
        /// Comes back with the answer.
        request: u64,
        /// Which shard.
        shard: ShardId,
        /// Where.
        lsn: Lsn,
    },
    /// Answers [`Message::Locate`].
    Located {
        /// The question's.
        request: u64,
        /// Which shard.
        shard: ShardId,
        /// `None`: the log is empty there.
        frame: Option<FramePlace>,
    },
    /// Cut your log there: what follows is not the leader's (R10).
    Cut {
        /// Comes back with the answer.
        request: u64,
        /// Which shard.
        shard: ShardId,
        /// The leader's epoch.
        epoch: Epoch,
        /// What remains.
        to: Position,
    },
    /// Durably cut.
    CutDone {
        /// The order's.
        request: u64,
        /// What the shard's log is now.
        tip: Tip,
    },
    /// The sender's log contradicts the leader's below what it exposed or knows acknowledged: it
    /// takes no part any more.
    Quarantined {
        /// Which shard.
        shard: ShardId,
        /// For people; at most [`REASON_BYTES_MAX`] bytes.
        reason: String,
    },
    /// Send me frames: catch-up, full copy, repair.
    Fetch {
        /// Comes back with every answer.
        request: u64,
        /// Which shard.
        shard: ShardId,
        /// Starting behind this.
        after: Lsn,
        /// Up to this, included.
        upto: Lsn,
        /// About so many bytes, then stop; at least one frame.
        bytes_max: u32,
    },
    /// Answers [`Message::Fetch`]. Bulk.
    Frames {
        /// The question's.
        request: u64,
        /// Which shard.
        shard: ShardId,
        /// The position before the first frame.
        before: Position,
        /// Nothing more follows for this request.
        last: bool,
        /// Whole frames, byte for byte as on disk.
        frames: Bytes,
    },
    /// Answers [`Message::Fetch`] when there is nothing to give.
    NoFrames {
        /// The question's.
        request: u64,
        /// Why.
        why: NoFrames,
    },
    /// The register says that you lead: the sender has stopped, and you hold its whole log.
    HandOver {
        /// The new epoch.
        epoch: Epoch,
        /// The register, byte for byte as it is in the bucket, so that nobody need read it first;
        /// empty where it is larger than [`REGISTER_BYTES_MAX`].
        register: Bytes,
        /// What a conditional write names it by; at most [`ETAG_BYTES_MAX`] bytes.
        etag: String,
    },
}

impl Hello {
    /// Appends its bytes.
    ///
    /// # Errors
    /// When the address is too long or the range of features is empty.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), DecodeError> {
        self.check()?;
        out.put_slice(&MAGIC);
        out.put_u16_le(PEER_PROTOCOL);
        out.put_u16_le(self.format);
        out.put_u16_le(self.shards);
        out.put_u16_le(self.features.min);
        out.put_u16_le(self.features.max);
        out.put_u128_le(self.cluster.value());
        out.put_u128_le(self.store.value());
        out.put_u64_le(self.boot.value());
        out.put_u16_le(self.address.len() as u16);
        out.put_slice(self.address.as_bytes());
        Ok(())
    }

    /// Reads what [`Hello::encode`] wrote. Later versions may add to its end.
    ///
    /// # Errors
    /// When it is none, or of another protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes, "hello");
        if input.array()? != MAGIC {
            return Err(DecodeError::invalid("hello", "is none"));
        }
        if input.u16()? != PEER_PROTOCOL {
            return Err(DecodeError::invalid("protocol", "of the peer is another"));
        }
        let (format, shards) = (input.u16()?, input.u16()?);
        let features = Features { min: input.u16()?, max: input.u16()? };
        let cluster = ClusterId::new(input.u128()?);
        let store = StoreId::new(input.u128()?);
        let boot = BootId::new(input.u64()?);
        let len = input.u16()?.into();
        let Ok(address) = std::str::from_utf8(input.take(len)?) else {
            return Err(DecodeError::invalid("address", "is not UTF-8"));
        };
        let address = address.to_owned();
        let hello = Self { cluster, store, boot, format, shards, features, address };
        hello.check()?;
        Ok(hello)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.address.len() > ADDRESS_BYTES_MAX {
            return Err(DecodeError::Limit { what: "address", limit: ADDRESS_BYTES_MAX as u64 });
        }
        if self.shards > SHARDS_MAX {
            return Err(DecodeError::Limit { what: "shards", limit: SHARDS_MAX.into() });
        }
        if self.features.min > self.features.max {
            return Err(DecodeError::invalid("features", "are an empty range"));
        }
        Ok(())
    }
}

impl Message {
    /// Whether it carries frames: then it may be large, and must not delay the others.
    pub fn is_bulk(&self) -> bool {
        matches!(self, Self::Append { .. } | Self::Frames { .. })
    }

    /// Its bytes. Frames are copied once.
    ///
    /// # Errors
    /// When a list is too long or not in order, or frames are too many or no whole sectors.
    pub fn encode(&self) -> Result<Bytes, DecodeError> {
        body::encode(self)
    }

    /// Reads a message; frames share memory with `bytes`.
    ///
    /// # Errors
    /// When it is none: the peer is broken, nothing that it says can be trusted.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        body::decode(bytes)
    }
}
