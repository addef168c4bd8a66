//! I12: no cut at or below what was exposed or acknowledged: after every recovery it is all on
//! disk, and nothing of it is ever overwritten.

use std::collections::BTreeMap;

use celeriant_schema::{AggregateKey, Hash, ShardId, Version};
use celeriant_storage::Identity;
use celeriant_storage::frame::FrameHeader;

use super::Violations;
use super::i06_acknowledged_is_durable::Durable;
use super::i07_exposed_is_final::Exposed;
use super::i08_one_entry_per_position::Acknowledged;
use crate::disk::Files;
use crate::originals::Originals;
use crate::packed;
use crate::walk::{Walked, walk};

const RULE: &str = "I12";

/// Compares what a recovery left on the disks with what anyone has been told.
pub fn check(
    left: &Durable,
    acknowledged: &Acknowledged,
    exposed: &Exposed,
    violations: &Violations,
) {
    let told = acknowledged.entries().map(|entry| ("acknowledged", entry));
    let seen = exposed.entries().map(|entry| ("seen", entry));
    for (how, (key, version, hash)) in told.chain(seen) {
        violations.check(RULE, left.has(key, version, hash), || {
            format!("{key} version {version} was {how} and recovery lost it")
        });
    }
}

/// What the disks of one node durably hold, as its writes become durable. What lies behind a hole
/// is not held: a start would cut it.
#[derive(Debug, Default)]
pub struct Held {
    frames: BTreeMap<Spot, Frame>,
    entries: Durable,
    /// Frames that are there while one before them is not.
    behind: BTreeMap<Spot, Walked>,
}

/// Shard, segment, offset in it.
type Spot = (ShardId, u32, u64);

#[derive(Debug)]
struct Frame {
    end: u64,
    hash: Hash,
    events: Vec<(AggregateKey, Version, Hash)>,
    taken: Vec<(AggregateKey, Version, Hash)>,
}

impl Held {
    /// Every event that is there.
    pub fn entries(&self) -> &Durable {
        &self.entries
    }

    /// Whether a frame with that hash is there, which all of the log up to it follows from.
    pub fn ends_somewhere_at(&self, shard: ShardId, hash: Hash) -> bool {
        let behind = (ShardId::new(shard.value() + 1), 0, 0);
        // Most often it is the last one.
        let frames = self.frames.range((shard, 0, 0)..behind).rev();
        frames.into_iter().any(|(_, frame)| frame.hash == hash)
    }

    /// A write of a segment has become durable. Returns the events of frames that are gone by it.
    pub fn written(
        &mut self,
        shard: ShardId,
        (name, offset, len): (&str, u64, usize),
        frames: &[Walked],
    ) -> Vec<(AggregateKey, Version, Hash)> {
        let end = offset + len as u64;
        let segment = packed::segment_of(name).map_or(0, |(number, _)| number);
        let spot = |offset: u64| (shard, segment, offset);
        let mut overwritten = Vec::new();
        for (at, frame) in self.frames.range(spot(0)..spot(end)) {
            let again = frames.iter().any(|new| new.header.hash == frame.hash);
            if frame.end > offset && !again {
                overwritten.push(*at);
            }
        }
        // What follows in the log is gone with it.
        if let Some(first) = overwritten.first().copied() {
            let behind = (ShardId::new(shard.value() + 1), 0, 0);
            overwritten = self.frames.range(first..behind).map(|(at, _)| *at).collect();
        }
        self.behind.retain(|at, frame| {
            let ends = frame.offset + frame.header.frame_bytes() as u64;
            (at.0, at.1) != (shard, segment) || at.2 >= end || ends <= offset
        });
        let gone = overwritten.iter().filter_map(|at| self.frames.remove(at));
        let (events, taken): (Vec<_>, Vec<_>) =
            gone.map(|frame| (frame.events, frame.taken)).unzip();
        let (gone, mut taken) = (events.concat(), taken.concat());
        // Of two deletions of one aggregate nothing tells which is which: that one is gone says
        // only that it is nowhere any more.
        taken.retain(|entry| !self.frames.values().any(|frame| frame.taken.contains(entry)));
        let forgotten = gone.iter().chain(&taken);
        forgotten.for_each(|(key, version, hash)| self.entries.forget(key, *version, *hash));
        frames.iter().for_each(|frame| self.arrived(shard, frame));
        gone
    }

    /// A frame is there; with it, perhaps, what follows it.
    fn arrived(&mut self, shard: ShardId, frame: &Walked) {
        let spot = (shard, frame.segment(), frame.offset);
        self.behind.insert(spot, frame.clone());
        loop {
            let continues = |(at, frame): &(&Spot, &Walked)| {
                let FrameHeader { first_lsn, prev_hash, .. } = frame.header;
                at.0 == shard
                    && (first_lsn.value() == 1 || self.ends_somewhere_at(shard, prev_hash))
            };
            let Some(next) = self.behind.iter().find(continues).map(|(at, _)| *at) else {
                return;
            };
            if let Some(frame) = self.behind.remove(&next) {
                self.note(shard, &frame);
            }
        }
    }

    /// Everything that an image holds, and nothing else.
    pub fn of<'a>(
        images: impl Iterator<Item = (Identity, &'a Files)>,
        originals: &Originals,
    ) -> Self {
        let mut held = Self::default();
        for (identity, files) in images {
            for frame in walk(files, &identity) {
                held.note(identity.shard, &frame);
                originals.note(identity.shard, frame);
            }
        }
        held
    }

    fn note(&mut self, shard: ShardId, frame: &Walked) {
        let own = |(key, version, hash): (&AggregateKey, _, _)| (key.clone(), version, hash);
        let taken: Vec<_> = frame.taken().map(own).collect();
        let events = frame.events().map(own).filter(|entry| !taken.contains(entry)).collect();
        let end = frame.offset + frame.header.frame_bytes() as u64;
        let place = Frame { end, hash: frame.header.hash, events, taken };
        self.frames.insert((shard, frame.segment(), frame.offset), place);
        self.entries.note(frame);
    }
}

/// Events are gone from a node's disk: nobody may have been told of them.
pub fn check_gone(
    node: usize,
    gone: &[(AggregateKey, Version, Hash)],
    acknowledged: &Acknowledged,
    exposed: &Exposed,
    violations: &Violations,
) {
    for (key, version, hash) in gone {
        let told = acknowledged.has(key, *version, *hash) || exposed.has(key, *version, *hash);
        violations.check(RULE, !told, || {
            format!("node {node} cut {key} version {version}, which somebody was told of")
        });
    }
}
