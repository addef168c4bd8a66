//! What compaction promises (semantics.md §9): what leaves a disk was taken away, and when a node
//! says that something taken away has left its disk, no byte of it is in any file.
//!
//! The first is looked for in the logs, by hash. The second is not: files are searched for payloads
//! as anybody would who finds the disk, whatever the store thinks that they are.

use std::collections::{BTreeMap, BTreeSet};

use celeriant_schema::{AggregateKey, Hash, Retention, Stamp, Version};
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

/// A node says of each shard that what was taken away up to those stamps has left its disk; and so
/// has `taken`. Returns for how many payloads its files were searched.
pub fn check_gone(
    images: &[(Identity, Files)],
    said: &[Stamp],
    mut taken: Taken,
    originals: &Originals,
    violations: &Violations,
) -> usize {
    if taken.is_empty() && said.iter().all(|stamp| *stamp == Stamp::ZERO) {
        return 0;
    }
    let (mut frames, mut loose) = (Vec::new(), Vec::new());
    for (identity, files) in images {
        let mut continues = continuing();
        for frame in anywhere(files, identity) {
            match continues(&frame) {
                true => frames.push(originals.whole(identity.shard, frame, violations)),
                // Also what lies behind a hole, and is no part of the log yet.
                false => loose.push(frame),
            }
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
    let all = frames.iter().chain(&loose);
    let due = due(all, &history, &taken);
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
    due.len()
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

/// The payloads that must be nowhere, each with one event that had it: those of events that were
/// taken away, unless they are somewhere else, too. (A write without sequences may land twice.)
fn due<'f>(
    frames: impl Iterator<Item = &'f Walked>,
    history: &History,
    taken: &Taken,
) -> BTreeMap<Mark, (AggregateKey, Version)> {
    let is_gone = |key: &AggregateKey, version: Version, hash: Hash| {
        let is_taken = taken.get(key).is_some_and(|upto| version <= *upto);
        is_taken && history.event(key, version).is_some_and(|event| event.hash == hash)
    };
    let mut due = BTreeMap::new();
    let mut others = BTreeSet::new();
    for (key, version, event) in frames.flat_map(Walked::stored) {
        let Some(mark) = marks(&event.payload).next() else { continue };
        match is_gone(key, version, event.hash) {
            true => drop(due.insert(mark, (key.detached(), version))),
            false => drop(others.insert(mark)),
        }
    }
    due.retain(|mark, _| !others.contains(mark));
    due
}

/// A payload of `due` that is in a file, also where that is packed.
fn search(
    name: &str,
    content: &[u8],
    due: &BTreeMap<Mark, (AggregateKey, Version)>,
) -> Option<Mark> {
    let is_due = |mark: &Mark| due.contains_key(mark);
    let found = marks(content).find(is_due);
    found.or_else(|| {
        let is_packed = packed::segment_of(name).is_some_and(|(_, generation)| generation > 0);
        let pieces = is_packed.then(|| packed::pieces(content)).into_iter().flatten();
        pieces.into_iter().find_map(|piece| marks(&piece).find(is_due))
    })
}
