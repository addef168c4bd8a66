//! I4: every place of the active set durably holds every acknowledged entry; I6: what is
//! acknowledged, or shown (R4), is in two places at that moment.

use std::collections::BTreeSet;

use celeriant_actors::election::register::{Config, Set};
use celeriant_schema::{AggregateKey, Hash, Receipt, StoreId, Version};

use super::Violations;
use super::i12_no_cut::Held;
use super::i15_slots::Slots;
use crate::ledger::end_of;

/// One acknowledged event.
pub type Entry<'a> = (&'a AggregateKey, Version, Hash);

/// All places that hold entries.
pub struct Places<'a> {
    /// The stores' disks, each with its store.
    pub disks: [(StoreId, &'a Held); 2],
    /// The bucket's logs.
    pub slots: &'a Slots,
    /// Of these a place is gone.
    pub lost: &'a BTreeSet<(AggregateKey, Version, Hash)>,
}

impl Places<'_> {
    /// A receipt is given.
    pub fn check_receipt(&self, receipt: &Receipt, config: &Config, violations: &Violations) {
        for part in &receipt.writes {
            let (version, hash) = end_of(part);
            let entry = (&part.key, version, hash);
            violations.check("I6", self.is_committed(entry, config), || {
                format!("acknowledged and in {} places: {part:?}", self.count(entry, config))
            });
            self.check_entry("I4", entry, config, violations);
        }
    }

    /// A configuration has become the active one.
    pub fn check_activation<'a>(
        &self,
        acknowledged: impl Iterator<Item = Entry<'a>>,
        config: &Config,
        violations: &Violations,
    ) {
        for entry in acknowledged {
            self.check_entry("I4", entry, config, violations);
        }
    }

    /// I16: a round of a bucket log is gone, so that both disks must hold what that log held.
    pub fn check_deleted<'a>(
        &self,
        acknowledged: impl Iterator<Item = Entry<'a>>,
        key: &str,
        violations: &Violations,
    ) {
        for entry in acknowledged.filter(|entry| self.slots.held(key, *entry)) {
            let twice = self.disks.iter().all(|(_, held)| has(held, entry)) || self.is_lost(entry);
            violations
                .check("I16", twice, || format!("{key} is gone, {entry:?} not on both disks"));
        }
    }

    /// A reader is shown an entry.
    pub fn check_shown(&self, entry: Entry<'_>, config: &Config, violations: &Violations) {
        violations.check("R4", self.is_committed(entry, config), || {
            format!("shown and in {} places: {entry:?}", self.count(entry, config))
        });
    }

    /// A writer is told of a conflict with a version.
    pub fn check_conflict(
        &self,
        (key, version): (&AggregateKey, Version),
        config: &Config,
        violations: &Violations,
    ) {
        let hashes = self.disks.iter().flat_map(|(_, held)| held.entries().hashes(key, version));
        let mut entries = hashes.map(|hash| (key, version, *hash));
        let committed = entries.any(|entry| self.is_committed(entry, config));
        violations.check("R3", committed || version == Version::NONE, || {
            format!("a conflict with {key} version {version}, which is not in two places")
        });
    }

    /// Whether an entry is where one must be that somebody is told of.
    pub fn is_committed(&self, entry: Entry<'_>, config: &Config) -> bool {
        self.count(entry, config) >= 2 - usize::from(self.is_lost(entry))
    }

    fn check_entry(
        &self,
        rule: &'static str,
        entry: Entry<'_>,
        config: &Config,
        violations: &Violations,
    ) {
        if self.is_lost(entry) {
            return;
        }
        let held = match config.active.set {
            Set::Pair(one, other) => self.on_disk(one, entry) && self.on_disk(other, entry),
            // Below the chain's base it is on the other store's disk.
            Set::Bucket(store) => {
                let elsewhere =
                    |(other, held): &(StoreId, &Held)| *other != store && has(held, entry);
                self.on_disk(store, entry)
                    && (self.slots.holds(&config.active.chain, entry)
                        || self.disks.iter().any(elsewhere))
            }
        };
        violations.check(rule, held, || {
            let set = config.active.set;
            format!("{entry:?} is acknowledged and not everywhere in {set}, epoch {}", config.epoch)
        });
    }

    /// Whether a place of an entry is gone.
    fn is_lost(&self, (key, version, hash): Entry<'_>) -> bool {
        !self.lost.is_empty() && self.lost.contains(&(key.clone(), version, hash))
    }

    fn count(&self, entry: Entry<'_>, config: &Config) -> usize {
        let disks = self.disks.iter().filter(|(_, held)| has(held, entry)).count();
        disks + usize::from(self.slots.holds(&config.active.chain, entry))
    }

    /// Whether a store's disk holds an entry.
    pub(super) fn on_disk(&self, store: StoreId, entry: Entry<'_>) -> bool {
        self.disks.iter().any(|(other, held)| *other == store && has(held, entry))
    }
}

fn has(held: &Held, (key, version, hash): Entry<'_>) -> bool {
    held.entries().has(key, version, hash)
}
