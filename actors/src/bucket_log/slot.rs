//! A slot: one object `wal/<epoch>/<slot>`, a round of frames of any shards, or the fence.
//!
//! ```text
//!  0  magic "CLRSLOT\n"              8 │ then, per part, shards ascending:
//!  8  version                        2 │   shard 2 · zero 2 · bytes of frames 4
//! 10  kind: 1 data, 2 fence          1 │   before: lsn 8, hash 32 · end: lsn 8, hash 32
//! 11  zero                           5 │ then the frames of every part, in the same order,
//! 16  cluster                       16 │   byte for byte as they are on disk
//! 32  epoch                          8 │ then the seal over everything before it, 32
//! 40  slot                           8 │
//! 48  nonce                         16 │ A fence has no parts. Numbers are little-endian.
//! 64  number of parts 2 · zero       6 │
//! ```
//! The seal covers what the object is called, so that a body that was copied to another key is
//! refused, and a nonce, so that no two bodies are equal and whoever put one finds out (R15). Ends
//! come before frames and are named with their hashes: what a slot holds is known without looking
//! into the frames.
//!
//! Decoding believes nothing before the seal agrees, shares memory with the body and takes exactly
//! one form of each value. Deliberately absent: what a frame contains (`track.rs` checks that
//! frames continue each other, the log everything else).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use celeriant_schema::limits::{FRAME_BYTES_MAX, SECTOR_BYTES, SHARDS_MAX};
use celeriant_schema::peer::Position;
use celeriant_schema::{ClusterId, Epoch, Hash, Lsn, ShardId};
use celeriant_storage::bucket::{BODY_BYTES_MAX, KEY_BYTES_MAX, Key};

use super::seal::{SEAL_BYTES, Seal};
use crate::replicator::orders::Frames;

/// Version of the format. A node refuses every other.
pub const VERSION: u16 = 1;
/// What the keys of all slots begin with.
pub const PREFIX: &str = "wal/";
/// Bytes of frames with which a round is full. A larger frame travels alone.
pub const ROUND_BYTES_MAX: usize = 4 << 20;
/// Size of a fence, in bytes. Everything else is larger.
pub const FENCE_BYTES: usize = HEADER_BYTES + SEAL_BYTES;
/// Largest slot, in bytes.
pub const SLOT_BYTES_MAX: usize = FENCE_BYTES + SHARDS_MAX as usize * PART_BYTES + FRAME_BYTES_MAX;

const MAGIC: [u8; 8] = *b"CLRSLOT\n";
const DATA: u8 = 1;
const FENCE: u8 = 2;
const HEADER_BYTES: usize = 72;
/// What names a part, in bytes.
const PART_BYTES: usize = 88;
/// Digits of a number in a key: enough for any, so that names sort as their numbers do.
const DIGITS: usize = 20;

const _: () = {
    assert!(ROUND_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(SLOT_BYTES_MAX * 2 <= BODY_BYTES_MAX);
    assert!(PREFIX.len() + 2 * DIGITS < KEY_BYTES_MAX);
};

/// Which slot of whose log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name {
    /// The cluster's.
    pub cluster: ClusterId,
    /// Whose leader writes, or claimed, it.
    pub epoch: Epoch,
    /// From 0.
    pub slot: u64,
}

/// Frames of one shard in a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Which shard.
    pub shard: ShardId,
    /// Whole ones, and where they belong. They share memory with the slot.
    pub frames: Frames,
}

/// What a slot contains.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// A round: at least one part, shards in ascending order.
    Data(Vec<Part>),
    /// The log ends before it, for ever.
    Fence,
}

/// A slot that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Its writer's.
    pub nonce: u128,
    /// What it contains.
    pub content: Content,
}

/// A round that is to be written: for each shard, frames that continue each other.
pub type Round = BTreeMap<ShardId, Vec<Frames>>;

/// Why an object is no slot of this log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SlotError {
    /// Larger than any that is written.
    #[error("has {bytes} bytes, more than any slot")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Too short, or it begins like something else.
    #[error("is not a slot")]
    NotSlot,
    /// The seal does not agree.
    #[error(
        "is damaged, or sealed by something that does not know `cluster_secret_file`, or this \
         node's secret is not the cluster's"
    )]
    Forged,
    /// Of another version of this program.
    #[error("has version {found}, this program knows {VERSION}: start the newer version")]
    Version {
        /// Its version.
        found: u16,
    },
    /// Of another cluster.
    #[error("belongs to cluster {found}: wrong bucket or prefix?")]
    Foreign {
        /// Which.
        found: ClusterId,
    },
    /// Written for another key.
    #[error("was written as slot {slot} of epoch {epoch} and is a copy")]
    Elsewhere {
        /// Its epoch.
        epoch: Epoch,
        /// Its number.
        slot: u64,
    },
    /// Sealed, but not what this program writes: a bug.
    #[error("is sealed, but {0}: report this, and keep the object")]
    Invalid(&'static str),
}

impl Name {
    /// The object's key.
    pub fn key(&self) -> Key {
        let (epoch, slot) = (self.epoch.value(), self.slot);
        Key::new(format!("{PREFIX}{epoch:0DIGITS$}/{slot:0DIGITS$}"))
    }

    /// Epoch and number of the slot with that key; `None` when no slot is called that.
    pub fn numbers_of(key: &str) -> Option<(Epoch, u64)> {
        let (epoch, slot) = key.strip_prefix(PREFIX)?.split_once('/')?;
        let number = |text: &str| {
            let plain = text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| plain)
        };
        Some((Epoch::new(number(epoch)?), number(slot)?))
    }
}

/// The body of a round. Frames are copied once.
///
/// # Panics
/// When it is empty or too large, or frames don't continue each other: our own mistakes.
pub fn data(name: &Name, nonce: u128, round: &Round, seal: &Seal) -> Bytes {
    let frames: usize = round.values().flatten().map(|frames| frames.bytes.len()).sum();
    assert!(!round.is_empty() && round.len() <= SHARDS_MAX.into(), "{} parts", round.len());
    let bytes = FENCE_BYTES + round.len() * PART_BYTES + frames;
    let mut out = BytesMut::with_capacity(bytes);
    put_header(&mut out, name, DATA, nonce, round.len());
    for (shard, pieces) in round {
        put_part(&mut out, *shard, pieces);
    }
    pieces(round).for_each(|frames| out.put_slice(&frames.bytes));
    assert!(bytes <= SLOT_BYTES_MAX, "a round of {frames} bytes");
    finish(out, seal)
}

/// The body of a fence.
pub fn fence(name: &Name, nonce: u128, seal: &Seal) -> Bytes {
    let mut out = BytesMut::with_capacity(FENCE_BYTES);
    put_header(&mut out, name, FENCE, nonce, 0);
    finish(out, seal)
}

/// Any bytes as the body of a slot with this name, for fuzzing.
pub(crate) fn forged(name: &Name, data: &[u8], seal: &Seal) -> Bytes {
    let mut out = BytesMut::with_capacity(FENCE_BYTES + data.len());
    put_header(&mut out, name, DATA, 0, 0);
    // Kind, nonce and number of parts are as the data says, what names the slot is right.
    let (kind, nonce) = (MAGIC.len() + 2, HEADER_BYTES - 24);
    for (at, byte) in [kind].into_iter().chain(nonce..HEADER_BYTES).zip(data) {
        out[at] = *byte;
    }
    out.put_slice(data.get(25..).unwrap_or_default());
    finish(out, seal)
}

fn pieces(round: &Round) -> impl Iterator<Item = &Frames> {
    round.values().flatten()
}

fn put_header(out: &mut BytesMut, name: &Name, kind: u8, nonce: u128, parts: usize) {
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u8(kind);
    out.put_bytes(0, 5);
    out.put_u128_le(name.cluster.value());
    out.put_u64_le(name.epoch.value());
    out.put_u64_le(name.slot);
    out.put_u128_le(nonce);
    out.put_u16_le(parts as u16);
    out.put_bytes(0, 6);
}

fn put_part(out: &mut BytesMut, shard: ShardId, pieces: &[Frames]) {
    let [first, .., last] = pieces else {
        let [only] = pieces else { panic!("shard {shard}: a part without frames") };
        return put_ends(out, shard, only.bytes.len(), (only.before, only.end));
    };
    for pair in pieces.windows(2) {
        assert_eq!(pair[0].end, pair[1].before, "shard {shard}: frames with a gap between");
    }
    let bytes = pieces.iter().map(|frames| frames.bytes.len()).sum();
    put_ends(out, shard, bytes, (first.before, last.end));
}

fn put_ends(out: &mut BytesMut, shard: ShardId, bytes: usize, ends: (Position, Position)) {
    out.put_u16_le(shard.value());
    out.put_u16_le(0);
    out.put_u32_le(bytes as u32);
    for position in [ends.0, ends.1] {
        out.put_u64_le(position.lsn.value());
        out.put_slice(&position.hash.0);
    }
}

fn finish(mut out: BytesMut, seal: &Seal) -> Bytes {
    let hash = seal.hash(&out);
    out.put_slice(hash.as_bytes());
    out.freeze()
}

impl Slot {
    /// Reads what was found under `name`.
    ///
    /// # Errors
    /// When it is no slot, or none of that name. Nothing of it may be used then.
    pub fn decode(name: &Name, body: &Bytes, seal: &Seal) -> Result<Self, SlotError> {
        if body.len() > SLOT_BYTES_MAX {
            return Err(SlotError::TooLarge { bytes: body.len() });
        }
        if body.len() < FENCE_BYTES || !body.starts_with(&MAGIC) {
            return Err(SlotError::NotSlot);
        }
        let sealed = body.slice(..body.len() - SEAL_BYTES);
        // As hashes: they are compared in constant time.
        let found = blake3::Hash::from_slice(&body[sealed.len()..]);
        if found.ok() != Some(seal.hash(&sealed)) {
            return Err(SlotError::Forged);
        }
        let mut input = Reader(&sealed[MAGIC.len()..]);
        let version = input.u16()?;
        if version != VERSION {
            return Err(SlotError::Version { found: version });
        }
        let kind = input.array::<1>()?[0];
        input.zeroes::<5>()?;
        input.named(name)?;
        let nonce = input.u128()?;
        let parts = usize::from(input.u16()?);
        input.zeroes::<6>()?;
        let content = match kind {
            DATA => Content::Data(input.parts(parts, &sealed)?),
            FENCE if parts == 0 && input.0.is_empty() => Content::Fence,
            FENCE => return Err(SlotError::Invalid("it is a fence with content")),
            _ => return Err(SlotError::Invalid("its kind is not known")),
        };
        Ok(Self { nonce, content })
    }
}

/// Takes things off the front of sealed bytes, which may still be anything.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], SlotError> {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(SlotError::Invalid("it ends early"));
        };
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, SlotError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, SlotError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SlotError> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, SlotError> {
        self.array().map(u128::from_le_bytes)
    }

    fn zeroes<const N: usize>(&mut self) -> Result<(), SlotError> {
        match self.array::<N>()? == [0; N] {
            true => Ok(()),
            false => Err(SlotError::Invalid("reserved bytes are not zero")),
        }
    }

    fn position(&mut self) -> Result<Position, SlotError> {
        Ok(Position { lsn: Lsn::new(self.u64()?), hash: Hash(self.array()?) })
    }

    /// Cluster, epoch and number: those of `name`.
    fn named(&mut self, name: &Name) -> Result<(), SlotError> {
        let found = ClusterId::new(self.u128()?);
        let (epoch, slot) = (Epoch::new(self.u64()?), self.u64()?);
        if found != name.cluster {
            return Err(SlotError::Foreign { found });
        }
        if (epoch, slot) != (name.epoch, name.slot) {
            return Err(SlotError::Elsewhere { epoch, slot });
        }
        Ok(())
    }

    /// `count` parts, and their frames behind them. `sealed` ends where this ends.
    fn parts(mut self, count: usize, sealed: &Bytes) -> Result<Vec<Part>, SlotError> {
        let Some(left) = self.0.len().checked_sub(count * PART_BYTES) else {
            return Err(SlotError::Invalid("it ends early"));
        };
        // Where the frames of the next part begin. What is claimed makes no room, what is there
        // does.
        let mut at = sealed.len() - left;
        let mut parts: Vec<Part> = Vec::with_capacity(count);
        for _ in 0..count {
            let shard = ShardId::new(self.u16()?);
            self.zeroes::<2>()?;
            let bytes = self.u32()? as usize;
            let (before, end) = (self.position()?, self.position()?);
            if parts.last().is_some_and(|last| last.shard >= shard) || shard.value() >= SHARDS_MAX {
                return Err(SlotError::Invalid("its shards are not in ascending order"));
            }
            if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) || bytes > sealed.len() - at {
                return Err(SlotError::Invalid("its lengths contradict each other"));
            }
            if before.lsn >= end.lsn {
                return Err(SlotError::Invalid("a part ends before it begins"));
            }
            let frames = Frames { before, end, bytes: sealed.slice(at..at + bytes) };
            parts.push(Part { shard, frames });
            at += bytes;
        }
        if count == 0 || at != sealed.len() {
            return Err(SlotError::Invalid("its lengths contradict each other"));
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod slot_test;
