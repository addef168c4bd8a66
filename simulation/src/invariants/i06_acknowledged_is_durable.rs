//! I6: what is acknowledged is durable at that moment (on a single node: in one place).

use std::collections::BTreeMap;

use celeriant_schema::{AggregateKey, Hash, Receipt, Version};

use super::Violations;
use crate::ledger::end_of;
use crate::walk::Walked;

const RULE: &str = "I6";

/// Every event that is known to be durable.
#[derive(Debug, Default)]
pub struct Durable {
    /// Several hashes at one position: legs of writes that were aborted.
    events: BTreeMap<(AggregateKey, Version), Vec<Hash>>,
}

impl Durable {
    /// A frame has become durable, or was found after a crash.
    pub fn note(&mut self, frame: &Walked) {
        for (key, version, hash) in frame.events() {
            let hashes = self.events.entry((key.clone(), version)).or_default();
            if !hashes.contains(&hash) {
                hashes.push(hash);
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&AggregateKey, Version, Hash)> {
        self.events.iter().flat_map(|((key, version), hashes)| {
            hashes.iter().map(move |hash| (key, *version, *hash))
        })
    }

    /// Adds what another one knows.
    pub fn merge(&mut self, other: Self) {
        for (position, hashes) in other.events {
            self.events.entry(position).or_default().extend(hashes);
        }
    }

    /// What is there at that position.
    pub fn hashes(&self, key: &AggregateKey, version: Version) -> &[Hash] {
        self.events.get(&(key.clone(), version)).map_or(&[], Vec::as_slice)
    }

    /// Whether the event is there.
    pub fn has(&self, key: &AggregateKey, version: Version, hash: Hash) -> bool {
        let hashes = self.events.get(&(key.clone(), version));
        hashes.is_some_and(|hashes| hashes.contains(&hash))
    }

    /// An event is gone.
    pub fn forget(&mut self, key: &AggregateKey, version: Version, hash: Hash) {
        if let Some(hashes) = self.events.get_mut(&(key.clone(), version)) {
            hashes.retain(|other| *other != hash);
        }
    }

    /// A node gives a receipt.
    pub fn check(&self, receipt: &Receipt, violations: &Violations) {
        for part in &receipt.writes {
            let (version, hash) = end_of(part);
            violations.check(RULE, self.has(&part.key, version, hash), || {
                format!("acknowledged and not durable: {part:?}")
            });
        }
    }
}
