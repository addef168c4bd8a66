//! I7: what was exposed is never rolled back, monotone per client.

use std::collections::BTreeMap;

use celeriant_schema::{AggregateKey, Hash, Page, Receipt, Version};

use super::Violations;

const RULE: &str = "I7";

/// Everything that any client has seen, by position.
#[derive(Debug, Default)]
pub struct Exposed {
    entries: BTreeMap<(AggregateKey, Version), Hash>,
    highest: BTreeMap<AggregateKey, Version>,
}

impl Exposed {
    /// A page was returned.
    pub fn page(&mut self, key: &AggregateKey, page: &Page, violations: &Violations) {
        for event in page.batches.iter().flat_map(|batch| &batch.events) {
            self.entry(key, event.version, event.hash, violations);
        }
        self.raise(key, page.version);
    }

    /// A version with its hash was told: by a receipt or a head.
    pub fn entry(
        &mut self,
        key: &AggregateKey,
        version: Version,
        hash: Hash,
        violations: &Violations,
    ) {
        if version == Version::NONE {
            return;
        }
        let before = self.entries.insert((key.clone(), version), hash);
        violations.check(RULE, before.is_none_or(|before| before == hash), || {
            format!("{key} version {version} had hash {before:?} and now {hash}")
        });
        self.raise(key, version);
    }

    /// A receipt was given.
    pub fn receipt(&mut self, receipt: &Receipt, violations: &Violations) {
        for write in &receipt.writes {
            self.entry(&write.key, write.last_version, write.hash, violations);
        }
    }

    /// Highest version of each aggregate that anyone has seen.
    pub fn highest(&self) -> &BTreeMap<AggregateKey, Version> {
        &self.highest
    }

    /// Positions and hashes that anyone has seen.
    pub fn entries(&self) -> impl Iterator<Item = (&AggregateKey, Version, Hash)> {
        self.entries.iter().map(|((key, version), hash)| (key, *version, *hash))
    }

    /// Whether anyone has seen that event.
    pub fn has(&self, key: &AggregateKey, version: Version, hash: Hash) -> bool {
        self.entries.get(&(key.clone(), version)) == Some(&hash)
    }

    fn raise(&mut self, key: &AggregateKey, version: Version) {
        match self.highest.get_mut(key) {
            Some(highest) => *highest = version.max(*highest),
            None => {
                self.highest.insert(key.clone(), version);
            }
        }
    }
}

/// Everything that was seen is there in the end.
pub fn check_final(exposed: &Exposed, history: &crate::history::History, violations: &Violations) {
    for (key, version, hash) in exposed.entries() {
        let event = history.event(key, version);
        violations.check(RULE, event.is_some_and(|event| event.hash == hash), || {
            format!("{key} version {version} was seen and is gone")
        });
    }
    for (key, version) in exposed.highest() {
        violations.check(RULE, history.version(key) >= *version, || {
            format!("{key} was seen at {version} and is at {}", history.version(key))
        });
    }
}
