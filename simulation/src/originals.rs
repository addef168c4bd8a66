//! Every frame as it was written: what compaction erases from a disk is looked up here.
//!
//! A frame keeps its hash when events of it are erased, and its hash covers every byte of them. So
//! the one that was written is found by it, and is proven to be the one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use celeriant_schema::{Hash, ShardId};

use crate::invariants::Violations;
use crate::walk::Walked;

const RULE: &str = "compaction";

/// Cheap to clone: all clones are one. Nodes of a pair share it.
#[derive(Clone, Debug, Default)]
pub struct Originals {
    frames: Arc<Mutex<BTreeMap<(ShardId, Hash), Walked>>>,
}

impl Originals {
    /// A frame is on a disk of this shard, somewhere.
    pub fn note(&self, shard: ShardId, frame: Walked) {
        if !frame.is_compacted {
            self.lock().entry((shard, frame.header.hash)).or_insert(frame);
        }
    }

    /// The frame as it was written. What is there must be what was written, and not erased.
    pub fn whole(&self, shard: ShardId, frame: Walked, violations: &Violations) -> Walked {
        if !frame.is_compacted {
            return frame;
        }
        match self.lock().get(&(shard, frame.header.hash)) {
            Some(original) => {
                let same = is_rest_of(&frame, original);
                violations.check(RULE, same, || {
                    let lsn = frame.header.first_lsn;
                    format!("shard {shard}: the frame at lsn {lsn} is not what was written")
                });
                original.clone()
            }
            None => {
                let lsn = frame.header.first_lsn;
                let what = format_args!("shard {shard}: nobody wrote the frame at lsn {lsn}");
                violations.add(RULE, what);
                frame
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ShardId, Hash), Walked>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `left` has the records of `original`, and of each event the same bytes or none.
fn is_rest_of(left: &Walked, original: &Walked) -> bool {
    let records = |frame: &Walked| {
        let hashes = frame.records.iter().map(|(lsn, _, hash)| (*lsn, *hash));
        hashes.collect::<Vec<_>>()
    };
    let pairs = || left.stored().zip(original.stored());
    records(left) == records(original)
        && left.stored().count() == original.stored().count()
        && pairs().all(|((key, version, event), (same, at, was))| {
            let is_it = key == same && version == at && event.hash == was.hash;
            is_it && (event.is_erased() || event.body() == was.body())
        })
}
