//! I2: same shard, lsn and epoch ⇒ same hash; equal hash ⇒ equal prefix.

use std::collections::BTreeMap;

use celeriant_schema::{Epoch, Hash, Lsn, ShardId};

use super::Violations;
use crate::walk::Walked;

const RULE: &str = "I2";

/// Every frame and record that was ever seen on a disk.
#[derive(Debug, Default)]
pub struct Logs {
    records: BTreeMap<(ShardId, Lsn, Epoch), Hash>,
    /// Frame hash → last lsn and hash of the frame before it.
    frames: BTreeMap<(ShardId, Hash), (Lsn, Hash)>,
}

impl Logs {
    /// A frame was found on a shard's disk.
    pub fn note(&mut self, shard: ShardId, frame: &Walked, violations: &Violations) {
        let header = &frame.header;
        for (lsn, _, hash) in &frame.records {
            let before = self.records.insert((shard, *lsn, header.epoch), *hash);
            violations.check(RULE, before.is_none_or(|before| before == *hash), || {
                format!("shard {shard}: lsn {lsn} of epoch {} has two hashes", header.epoch)
            });
        }
        let place = (header.last_lsn(), header.prev_hash);
        let before = self.frames.insert((shard, header.hash), place);
        violations.check(RULE, before.is_none_or(|before| before == place), || {
            format!("shard {shard}: hash {} follows {before:?} and {place:?}", header.hash)
        });
    }

    /// The frame stands in a log, behind everything before it. (Frames in flight together may
    /// become durable in any order; in a log each continues the one before.)
    pub fn in_log(&mut self, shard: ShardId, frame: &Walked, violations: &Violations) {
        self.note(shard, frame, violations);
        let header = &frame.header;
        let previous = self.frames.get(&(shard, header.prev_hash));
        let continues = match previous {
            Some((last, _)) => last.next() == header.first_lsn,
            None => header.prev_hash == Hash::ZERO && header.first_lsn == Lsn::ZERO.next(),
        };
        violations.check(RULE, continues, || {
            format!(
                "shard {shard}: frame at lsn {} does not continue {previous:?}",
                header.first_lsn
            )
        });
    }
}
