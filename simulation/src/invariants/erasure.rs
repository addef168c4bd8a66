//! What compaction promises (semantics.md §9): what leaves a disk was taken away or aborted, and
//! when a node says that this has left its disk, no byte of it is in any file.
//!
//! The first is looked for in the logs, by hash. The second is not: files are searched for payloads
//! as anybody would who finds the disk, whatever the store thinks that they are.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::record::Record;
use celeriant_schema::record::view::StoredEvent;
use celeriant_schema::{AggregateKey, Hash, Retention, ShardId, Stamp, Version, WriteId};
use celeriant_storage::Identity;

use super::Violations;
use crate::disk::Files;
use crate::history::{Batch, History};
use crate::mark::{Mark, marks};
use crate::originals::Originals;
use crate::packed;
use crate::walk::{Walked, anywhere, continuing};

const RULE: &str = "erasure";

/// By aggregate, up to which version everything was taken away.
pub type Taken = BTreeMap<AggregateKey, Version>;

/// Payloads, each with one event that had it.
type Due = BTreeMap<Mark, (AggregateKey, Version)>;

/// Legs that never counted.
type Aborted = BTreeSet<(ShardId, WriteId)>;

/// What compaction was asked to erase, of a node.
struct Erasable<'a> {
    history: &'a History,
    taken: &'a Taken,
    aborted: &'a Aborted,
    shards: u16,
}

impl Erasable<'_> {
    fn is_aborted(&self, key: &AggregateKey, write: WriteId) -> bool {
        self.aborted.contains(&(key.shard(self.shards), write))
    }

    fn has(
        &self,
        write: WriteId,
        (key, version, event): &(&AggregateKey, Version, StoredEvent),
    ) -> bool {
        let is_upto = || self.taken.get(key).is_some_and(|upto| version <= upto);
        let counts = || self.history.event(key, *version).is_some_and(|it| it.hash == event.hash);
        self.is_aborted(key, write) || is_upto() && counts()
    }
}

/// What was found nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Searched {
    /// For so many payloads all files were searched.
    pub payloads: usize,
    /// So many events of aborted legs are not in the logs.
    pub aborted: usize,
}

/// Events that are not in the logs any more: all of them were taken away, or never counted.
pub fn check_erased(
    erased: &[(AggregateKey, Version, Hash)],
    history: &History,
    violations: &Violations,
) {
    for (key, version, hash) in erased {
        let end = history.standing(key, history.batches(key).len());
        let counts = history.event(key, *version).is_some_and(|event| event.hash == *hash);
        violations.check(RULE, !counts || *version < end.first_available, || {
            format!("{key} version {version} was not taken away, and is erased: {end:?}")
        });
    }
}

/// A node says of each shard that what was taken away or aborted up to those stamps has left its
/// disk; and so has `taken`.
pub fn check_gone(
    images: &[(Identity, Files)],
    said: &[Stamp],
    mut taken: Taken,
    originals: &Originals,
    violations: &Violations,
) -> Searched {
    if taken.is_empty() && said.iter().all(|stamp| *stamp == Stamp::ZERO) {
        return Searched::default();
    }
    let (mut frames, mut left, mut loose) = (Vec::new(), Vec::new(), Vec::new());
    let mut aborted = Aborted::new();
    for (identity, files) in images {
        let mut continues = continuing();
        for frame in anywhere(files, identity) {
            if !continues(&frame) {
                // What lies behind a hole, and is no part of the log yet.
                loose.push(frame);
                continue;
            }
            let upto = said.get(usize::from(identity.shard.value())).copied().unwrap_or_default();
            aborted.extend(aborts(&frame, upto).map(|txn| (identity.shard, txn)));
            left.push(frame.is_compacted.then(|| frame.clone()));
            frames.push(originals.whole(identity.shard, frame, violations));
        }
    }
    let history = History::of_frames(&frames);
    let all = history.aggregates.iter().chain(&history.own);
    for (key, batch) in all.flat_map(|(key, all)| all.iter().map(move |batch| (key, batch))) {
        let shard = key.shard(said.len() as u16);
        let Some(upto) =
            upto(batch).filter(|_| batch.header.stamp <= said[usize::from(shard.value())])
        else {
            continue;
        };
        let known = taken.entry(key.clone()).or_default();
        *known = upto.max(*known);
    }
    let shards = said.len() as u16;
    let erasable = Erasable { history: &history, taken: &taken, aborted: &aborted, shards };
    let left = frames.iter().zip(&left).map(|(whole, left)| left.as_ref().unwrap_or(whole));
    let aborted = check_left(left, &erasable, violations);
    let due = due(frames.iter().chain(&loose), &erasable);
    for (identity, files) in images {
        for (name, content) in files.iter() {
            let found = search(name, content, &due);
            violations.check(RULE, found.is_none(), || {
                let what = found.and_then(|mark| due.get(&mark));
                let shard = identity.shard;
                format!("shard {shard}: {name} holds what was erased of {what:?}, {found:?}")
            });
        }
    }
    Searched { payloads: due.len(), aborted }
}

/// No frame of the logs has an event that is to be gone, whether its payload is somewhere else,
/// too, or not. How many of aborted legs are.
fn check_left<'f>(
    frames: impl Iterator<Item = &'f Walked>,
    erasable: &Erasable<'_>,
    violations: &Violations,
) -> usize {
    let mut aborted = 0;
    for (frame, write) in frames.flat_map(|it| it.writes().map(move |write| (it, write))) {
        for event in frame.stored_of(write) {
            let (key, version, stored) = &event;
            aborted += usize::from(erasable.is_aborted(key, write.write_id));
            let is_right = stored.is_erased() || !erasable.has(write.write_id, &event);
            violations.check(RULE, is_right, || {
                format!("{} still has {key} version {version} at {}", frame.name, frame.offset)
            });
        }
    }
    aborted
}

/// The writes of which a frame says, up to `stamp`, that they are aborted.
fn aborts(frame: &Walked, stamp: Stamp) -> impl Iterator<Item = WriteId> {
    frame.records.iter().filter_map(move |(_, record, _)| match record {
        Record::Resolve(it) if !it.commit && it.stamp <= stamp => Some(it.txn),
        _ => None,
    })
}

/// Up to which version a batch takes away.
fn upto(batch: &Batch) -> Option<Version> {
    batch.retention.map(|retention| taken_by(retention, batch.header.last_version))
}

/// Up to which version is taken away of an aggregate that is at `version`.
pub fn taken_by(retention: Retention, version: Version) -> Version {
    match retention {
        Retention::Delete { .. } => version,
        Retention::Trim { keep_from } => {
            version.min(Version::new(keep_from.value().saturating_sub(1)))
        }
    }
}

/// The payloads that must be nowhere, each with one event that had it: those of events that are
/// to be gone, unless they are somewhere else, too. (A write without sequences may land twice, and
/// what was aborted may be sent again.)
fn due<'f>(frames: impl Iterator<Item = &'f Walked>, erasable: &Erasable<'_>) -> Due {
    let mut due = Due::new();
    let mut others = BTreeSet::new();
    for (frame, write) in frames.flat_map(|it| it.writes().map(move |write| (it, write))) {
        for event in frame.stored_of(write) {
            let (key, version, stored) = &event;
            let Some(mark) = marks(&stored.payload).next() else { continue };
            match erasable.has(write.write_id, &event) {
                true => drop(due.insert(mark, (key.detached(), *version))),
                false => drop(others.insert(mark)),
            }
        }
    }
    due.retain(|mark, _| !others.contains(mark));
    due
}

/// A payload that is due and in a file, also where that is packed.
fn search(name: &str, content: &[u8], due: &Due) -> Option<Mark> {
    let is_due = |mark: &Mark| due.contains_key(mark);
    let found = marks(content).find(is_due);
    found.or_else(|| {
        let is_packed = packed::segment_of(name).is_some_and(|(_, generation)| generation > 0);
        let pieces = is_packed.then(|| packed::pieces(content)).into_iter().flatten();
        pieces.into_iter().find_map(|piece| marks(&piece).find(is_due))
    })
}
