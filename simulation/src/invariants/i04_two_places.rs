//! I4: every place of the active set durably holds every acknowledged entry; I5: so does whoever is
//! activated; I6: what is acknowledged, or shown (R4), is in two places at that moment.

use std::collections::BTreeSet;

use celeriant_actors::election::register::{Config, Set};
use celeriant_schema::{AggregateKey, Hash, Receipt, StoreId, Version};

use super::Violations;
use super::i12_no_cut::Held;
use super::i15_slots::Slots;

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
            let entry = (&part.key, part.last_version, part.hash);
            let places = self.count(entry, config);
            let wanted = 2 - usize::from(!self.lost.is_empty());
            violations.check("I6", places >= wanted, || {
                format!("acknowledged and in {places} places: {part:?}")
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
        let leader = config.active.leader.store;
        for entry in acknowledged {
            violations.check("I5", self.on_disk(leader, entry), || {
                format!("{leader} leads epoch {} without {entry:?}", config.epoch)
            });
            self.check_entry("I4", entry, config, violations);
        }
    }

    /// A reader is shown an entry.
    pub fn check_shown(&self, entry: Entry<'_>, config: &Config, violations: &Violations) {
        let wanted = 2 - usize::from(!self.lost.is_empty());
        let places = self.count(entry, config);
        violations
            .check("R4", places >= wanted, || format!("shown and in {places} places: {entry:?}"));
    }

    fn check_entry(
        &self,
        rule: &'static str,
        entry: Entry<'_>,
        config: &Config,
        violations: &Violations,
    ) {
        let (key, version, hash) = entry;
        if !self.lost.is_empty() && self.lost.contains(&(key.clone(), version, hash)) {
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

    fn count(&self, entry: Entry<'_>, config: &Config) -> usize {
        let disks = self.disks.iter().filter(|(_, held)| has(held, entry)).count();
        disks + usize::from(self.slots.holds(&config.active.chain, entry))
    }

    fn on_disk(&self, store: StoreId, entry: Entry<'_>) -> bool {
        self.disks.iter().any(|(other, held)| *other == store && has(held, entry))
    }
}

fn has(held: &Held, (key, version, hash): Entry<'_>) -> bool {
    held.entries().has(key, version, hash)
}
